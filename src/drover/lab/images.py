"""Images without a registry: what demos and tests need, from this machine's and Debian's packages.

Theory of operation. A `Recipe` is data: layers, and the image's configuration. `archive` turns it into a file
as `docker save` writes it, which any engine loads. Archives are cached under the hash of all that went in, so a
recipe is cooked once, and a change of the recipe or of the busybox binary makes a new one.

    image       from                              runs
    busybox     the static binary of this machine sh; links to all applets, users root, postgres, nobody
    postgres    Debian's postgresql-15            server, as the user postgres; POSTGRES_{USER,PASSWORD,DB}, PGDATA
    redis       Debian's redis-server             server, data in /data
    nginx       Debian's nginx-light              server in the foreground, pages in /usr/share/nginx/html

A Debian image has two layers: the packages (mmdebstrap writes the tar), and the files that Drover adds.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from drover.errors import DroverError, Invalid, NotFound
from drover.lab import engine, tools

if TYPE_CHECKING:
    from drover.lab.host import LabHost

Say = Callable[[str], None]
CACHE = Path("/var/cache/drover-lab")
_SUITE = "bookworm"
_CREATED = "2023-06-10T00:00:00Z"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FORMAT = 1
_EXCLUDED = (
    *(f"/usr/share/{part}/*" for part in ("doc", "man", "locale", "info")),
    *("/usr/lib/*/libLLVM*", "/usr/lib/postgresql/*/lib/llvmjit*", "/usr/lib/postgresql/*/lib/bitcode/*"),
)
_COOK_TIMEOUT_S = 900
_BLOCK_BYTES = 1 << 20

_PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
postgres:x:70:70:postgres:/var/lib/postgresql:/bin/sh
nobody:x:65534:65534:nobody:/home:/bin/false
"""
_GROUP = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\npostgres:x:70:\nnogroup:x:65534:\n"
_POSTGRES = """#!/bin/sh
# Makes the database if $PGDATA has none, then becomes the server; a command other than `postgres` just runs.
set -e
[ "$1" = postgres ] || exec "$@"
if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA"
  chown -R postgres: "$PGDATA"
  chmod 700 "$PGDATA"
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  if [ -z "$POSTGRES_PASSWORD" ] && [ "$POSTGRES_HOST_AUTH_METHOD" != trust ]; then
    echo "set POSTGRES_PASSWORD, or POSTGRES_HOST_AUTH_METHOD=trust" >&2
    exit 1
  fi
  initdb --username="$user" --auth-local=trust --encoding=UTF8 --locale=C.UTF-8 >/dev/null
  echo "host all all all ${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >>"$PGDATA/pg_hba.conf"
  pg_ctl -w start -o "-c listen_addresses=''" >/dev/null
  [ "$database" = postgres ] || createdb --username="$user" --maintenance-db=postgres "$database"
  [ -z "$POSTGRES_PASSWORD" ] || psql -q -v ON_ERROR_STOP=1 -U "$user" -d postgres \\
    -v user="$user" -v password="$POSTGRES_PASSWORD" <<'END'
ALTER USER :"user" PASSWORD :'password';
END
  pg_ctl -w -m fast stop >/dev/null
fi
exec "$@" -c listen_addresses='*'
"""


class File(msgspec.Struct, frozen=True):
    """One entry of a layer: a directory if `text` and `link` are None. `mode` is octal permission bits."""

    path: str
    text: str | None = None
    link: str | None = None
    mode: int = 0o755


class Recipe(msgspec.Struct, frozen=True):
    """How an image is made. `busybox`: this machine's binary is the base; else `packages` from Debian are."""

    tags: tuple[str, ...]
    files: tuple[File, ...]
    config: Mapping[str, Any]
    packages: tuple[str, ...] = ()
    busybox: bool = False


def _text(path: str, text: str, mode: int = 0o644) -> File:
    return File(path, text=text, mode=mode)


RECIPES: Mapping[str, Recipe] = {
    "busybox": Recipe(
        tags=("busybox:latest",),
        busybox=True,
        files=(
            *(File(path) for path in ("dev", "etc", "home", "proc", "root", "sys", "usr", "var", "var/opt", "var/www")),
            *(File(path, mode=0o1777) for path in ("tmp", "var/tmp")),
            _text("etc/passwd", _PASSWD),
            _text("etc/group", _GROUP),
            _text("etc/nsswitch.conf", "hosts: files dns\n"),
        ),
        config={"Cmd": ["sh"], "Env": [_PATH]},
    ),
    "postgres": Recipe(
        tags=("postgres:15", "postgres:latest"),
        packages=("postgresql-15",),
        files=(
            # The server's socket and lock: on a Debian system the service manager makes this directory at each boot.
            File("run/postgresql", mode=0o1777),
            _text("usr/local/bin/docker-entrypoint.sh", _POSTGRES, 0o755),
        ),
        config={
            "Entrypoint": ["docker-entrypoint.sh"],
            "Cmd": ["postgres"],
            "Env": [_PATH + ":/usr/lib/postgresql/15/bin", "PGDATA=/var/lib/postgresql/data", "LANG=C.UTF-8"],
            "ExposedPorts": {"5432/tcp": {}},
            "Volumes": {"/var/lib/postgresql/data": {}},
            "StopSignal": "SIGINT",
        },
    ),
    "redis": Recipe(
        tags=("redis:latest", "redis:7"),
        packages=("redis-server",),
        files=(File("data", mode=0o777),),
        config={
            "Cmd": ["redis-server", "--dir", "/data", "--protected-mode", "no"],
            "Env": [_PATH],
            "ExposedPorts": {"6379/tcp": {}},
            "Volumes": {"/data": {}},
            "WorkingDir": "/data",
        },
    ),
    "nginx": Recipe(
        tags=("nginx:latest",),
        packages=("nginx-light",),
        files=(
            _text(
                "etc/nginx/sites-enabled/default",
                "server { listen 80 default_server; root /usr/share/nginx/html; index index.html; }\n",
            ),
            File("var/log/nginx/access.log", link="/dev/stdout"),
            File("var/log/nginx/error.log", link="/dev/stderr"),
        ),
        config={
            "Cmd": ["nginx", "-g", "daemon off;"],
            "Env": [_PATH],
            "ExposedPorts": {"80/tcp": {}},
            "StopSignal": "SIGQUIT",
        },
    ),
}


def recipe(name: str) -> Recipe:
    """The recipe of `name`, a key of RECIPES or one of its tags. NotFound lists the names."""
    for key, found in RECIPES.items():
        if name == key or name in found.tags:
            return found
    raise NotFound(f"there is no recipe for the image {name}", hint=f"there are {', '.join(RECIPES)}")


def archive(name: str, say: Say, cache: Path = CACHE) -> Path:
    """The image's archive, cooked now if the cache does not have it."""
    wanted = recipe(name)
    base = _busybox_binary() if wanted.busybox else None
    file = cache / f"{wanted.tags[0].replace(':', '-')}-{fingerprint(wanted, base)}.tar"
    if not file.exists():
        say(f"cooking {wanted.tags[0]}" + ("" if base else " from Debian's packages: a minute or two"))
        cache.mkdir(parents=True, exist_ok=True)
        _cook(wanted, base, file)
    return file


def load(file: Path, hosts: Sequence[LabHost]) -> None:
    """Load an archive into the engines of hosts, at the same time."""
    if not hosts:
        raise Invalid("no host to load an image into")
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(lambda host: engine.load(host.docker_socket, file), hosts))


def fingerprint(wanted: Recipe, base: bytes | None) -> str:
    """What the cache calls a recipe: a hash of all that goes in."""
    told = json.dumps([_FORMAT, _SUITE, msgspec.to_builtins(wanted)], sort_keys=True).encode()
    return hashlib.sha256(told + (base or b"")).hexdigest()[:12]


def _busybox_binary() -> bytes:
    return Path(tools.find("busybox")).read_bytes()


def _cook(wanted: Recipe, base: bytes | None, file: Path) -> None:
    """Make the archive beside its place and move it there whole, so that nobody sees half of one."""
    work = file.with_suffix(f".{os.getpid()}")
    work.mkdir()
    try:
        below = [] if base else [_packages_layer(wanted.packages, work / "packages.tar")]
        own = work / "files.tar"
        own.write_bytes(layer(wanted.files, busybox_entries(base, _applets()) if base else []))
        whole = work / "image.tar"
        write_archive(whole, [*below, own], wanted)
        whole.rename(file)
    finally:
        for left in work.iterdir():
            left.unlink()
        work.rmdir()


def _applets() -> list[str]:
    """Paths of busybox's applets, as `bin/ls`."""
    return tools.run(["busybox", "--list-full"]).stdout.split()


def _packages_layer(packages: Sequence[str], file: Path) -> Path:
    """A tar of a small Debian system with the packages."""
    tools.require(["mmdebstrap"])
    done = tools.run(_mmdebstrap_argv(packages, file), check=False, timeout_s=_COOK_TIMEOUT_S)
    if done.returncode != 0:
        raise DroverError(f"mmdebstrap failed: {done.stderr.strip()[-600:]}", hint="is a Debian mirror reachable?")
    return file


def _mmdebstrap_argv(packages: Sequence[str], file: Path) -> list[str]:
    """The smallest system with the packages; without documentation, PostgreSQL's compiler, a database made already."""
    no_cluster = (
        "mkdir -p $1/etc/postgresql-common; echo create_main_cluster=false >$1/etc/postgresql-common/createcluster.conf"
    )
    return [
        *("mmdebstrap", "--quiet", "--variant=essential", f"--include={','.join(packages)}"),
        *(f"--dpkgopt=path-exclude={path}" for path in _EXCLUDED),
        *("--aptopt=APT::Install-Recommends false", f"--essential-hook={no_cluster}"),
        *(_SUITE, str(file)),
    ]


def busybox_entries(binary: bytes, applets: Sequence[str]) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The binary, and a link to it for each applet."""
    entries = [(_info("bin/busybox", 0o755, len(binary)), binary)]
    for path in applets:
        if path != "bin/busybox":
            entries.append((_link(path, "/bin/busybox"), b""))
    return entries


def _info(path: str, mode: int, size_bytes: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.mode, info.size = mode, size_bytes
    return info


def _link(path: str, target: str) -> tarfile.TarInfo:
    info = _info(path, 0o777)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def _entry(file: File) -> tuple[tarfile.TarInfo, bytes]:
    if file.link is not None:
        return _link(file.path, file.link), b""
    if file.text is not None:
        data = file.text.encode()
        return _info(file.path, file.mode, len(data)), data
    info = _info(file.path, file.mode)
    info.type = tarfile.DIRTYPE
    return info, b""


def layer(files: Sequence[File], more: Sequence[tuple[tarfile.TarInfo, bytes]] = ()) -> bytes:
    """A layer's tar. Same entries, same bytes: owners are root and times are zero."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in [*map(_entry, files), *more]:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def image_config(config: Mapping[str, Any], diff_ids: Sequence[str]) -> dict[str, Any]:
    """The image's configuration as the image specification has it."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    return {
        "architecture": machine,
        "os": "linux",
        "created": _CREATED,
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in diff_ids]},
        "history": [{"created": _CREATED, "created_by": "drover lab images"} for _ in diff_ids],
    }


def write_archive(whole: Path, layers: Sequence[Path], wanted: Recipe) -> None:
    """An archive as `docker save` writes it: the layers, the configuration, manifest.json."""
    digests = [_sha256(file) for file in layers]
    config = json.dumps(image_config(wanted.config, digests)).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    names = [f"{digest}/layer.tar" for digest in digests]
    manifest = json.dumps([{"Config": config_name, "RepoTags": list(wanted.tags), "Layers": names}]).encode()
    with tarfile.open(whole, mode="w") as tar:
        for name, file in zip(names, layers, strict=True):
            with file.open("rb") as stream:
                tar.addfile(_info(name, 0o644, file.stat().st_size), stream)
        for name, data in ((config_name, config), ("manifest.json", manifest)):
            tar.addfile(_info(name, 0o644, len(data)), io.BytesIO(data))
