"""From manifest files to Compose's canonical form, by Compose itself.

Theory of operation. Interpolation, `extends`, `include`, merging, profiles and short forms are Compose's own; nobody
else gets them right for ever. So `docker compose config` is run, and what it prints is what Drover reads. As YAML: the
JSON it prints lacks the keys that begin with `x-` inside services. What it needs of this machine is read here too: the
files and variables that configs and secrets name.

    looked for, in this order          because
    $DROVER_COMPOSE                    somebody wants this one
    `docker compose`, its plugin       what people have
    `docker-compose` of version 2      the same program by itself
    .venv/clients/docker-compose       what `tools/clients` fetches for a checkout
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from drover.errors import Invalid, MissingTool
from drover.manifest.bare import as_compose, is_bare
from drover.manifest.values import unescaped

NAMES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
PLUGINS = (
    "~/.docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
DEADLINE_S = 60
_HINT = (
    "install Docker's package docker-compose-plugin, or put the program docker-compose of version 2 "
    "(github.com/docker/compose/releases) on the PATH, or name it in DROVER_COMPOSE"
)


class Asked:
    """What `drover deploy` was asked to read. `files`: none leaves it to Compose, which looks for its usual names here
    and above, with overrides beside them."""

    def __init__(
        self,
        files: Sequence[str] = (),
        name: str = "",
        profiles: Sequence[str] = (),
        env_files: Sequence[str] = (),
    ) -> None:
        self.files = [Path(file) for file in files]
        self.name = name
        self.profiles = profiles
        self.env_files = env_files

    @property
    def bare_file(self) -> Path | None:
        """The one file that may be of the bare form."""
        usual = [Path(name) for name in NAMES if Path(name).is_file()]
        found = self.files or usual
        return found[0] if len(found) == 1 else None


def request_of(asked: Asked, strict: bool = False) -> tuple[str, dict[str, Any]]:
    """The application's name and the body of the API's call. Raises `Invalid` with Compose's own words."""
    canonical = canonical_form(asked)
    body: dict[str, Any] = {"compose": canonical, "strict": strict}
    environment = _environment(asked, canonical)
    for table in ("configs", "secrets"):
        found = _contents(canonical, table, environment)
        body[table] = {key: base64.b64encode(content).decode() for key, content in found}
    return str(asked.name or canonical.get("name") or ""), body


def canonical_form(asked: Asked) -> dict[str, Any]:
    """What Compose makes of the files."""
    printed = _config(asked)
    found = unescaped(yaml.safe_load(printed))
    if not isinstance(found, dict):
        raise Invalid("Compose found nothing in the manifest")
    return found


def _config(asked: Asked, *more: str) -> str:
    """What `docker compose config` prints. Raises `Invalid` with its own words."""
    files = _files_arguments(asked)  # a file that is missing is said before a program that is
    arguments = [*_program(), *files, *_options(asked), "config", *more]
    done = subprocess.run(
        arguments, input=_standard_input(asked), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    if done.returncode:
        raise Invalid(_said(done.stderr), hint="it is Compose that says so: `docker compose config` shows the same")
    return done.stdout


def _environment(asked: Asked, canonical: Mapping[str, Any]) -> Mapping[str, str]:
    """The variables that configs and secrets may name: this process's, and those of Compose's own files."""
    tables = [canonical.get(table) or {} for table in ("configs", "secrets")]
    named = {one["environment"] for table in tables for one in table.values() if one and one.get("environment")}
    if named <= os.environ.keys():
        return os.environ
    lines = [line.partition("=") for line in _config(asked, "--environment").splitlines()]
    return {**{name: value for name, _, value in lines}, **os.environ}


def _said(stderr: str) -> str:
    """Compose's own sentence: its last line, without the log lines before it."""
    lines = [line for line in stderr.strip().splitlines() if not line.startswith("time=")]
    return f"the manifest cannot be read: {lines[-1] if lines else stderr.strip()}"


def _bare_document(file: Path) -> dict[str, Any] | None:
    """The document, if the file is of the bare form; None leaves it to Compose, errors and all."""
    try:
        document = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return document if is_bare(document) else None


def _standard_input(asked: Asked) -> str | None:
    """A manifest of the bare form, as Compose reads it."""
    bare = _bare_document(asked.bare_file) if asked.bare_file is not None else None
    return None if bare is None else yaml.safe_dump(as_compose(bare), sort_keys=False)


def _files_arguments(asked: Asked) -> list[str]:
    if asked.bare_file is not None and _standard_input(asked) is not None:
        return ["--file", "-", "--project-directory", str(asked.bare_file.resolve().parent)]
    for file in asked.files:
        if not file.is_file():
            raise Invalid(f"there is no file {file}")
    return [word for file in asked.files for word in ("--file", str(file))]


def _options(asked: Asked) -> list[str]:
    names = ["--project-name", asked.name] if asked.name else []
    profiles = [word for profile in asked.profiles for word in ("--profile", profile)]
    return [*names, *profiles, *(word for file in asked.env_files for word in ("--env-file", file))]


@cache
def _program() -> list[str]:
    """The command that is Compose of version 2. Raises `MissingTool` that names what to install."""
    for candidate in _candidates():
        if _is_version_2(candidate):
            return [candidate]
    raise MissingTool("manifests are read by Docker Compose (version 2), and there is none here", hint=_HINT)


def _candidates() -> Iterator[str]:
    if named := os.environ.get("DROVER_COMPOSE"):
        yield named
        return
    for directory in PLUGINS:
        plugin = Path(directory).expanduser() / "docker-compose"
        if plugin.is_file():
            yield str(plugin)
    if found := shutil.which("docker-compose"):
        yield found
    beside = Path(sys.prefix) / "clients" / "docker-compose"
    if beside.is_file():
        yield str(beside)


def _is_version_2(program: str) -> bool:
    """Version 1 prints other forms, and knows neither `include` nor profiles as they are now."""
    try:
        done = subprocess.run([program, "version", "--short"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    first = done.stdout.strip().lstrip("v").partition(".")[0]
    return done.returncode == 0 and first.isdigit() and int(first) >= 2


def _contents(canonical: Mapping[str, Any], table: str, environment: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    for key, one in (canonical.get(table) or {}).items():
        yield str(key), _content(table[:-1], str(key), one or {}, environment)


def _content(kind: str, key: str, one: Mapping[str, Any], environment: Mapping[str, str]) -> bytes:
    """The content of a config or secret: inline, of a variable, or of a file. Raises `Invalid`."""
    if one.get("content") is not None:
        return str(one["content"]).encode()
    if variable := one.get("environment"):
        if variable not in environment:
            raise Invalid(f"{kind} {key} is the variable {variable}, which is not set here")
        return environment[variable].encode()
    if not one.get("file"):
        raise Invalid(
            f"{kind} {key} is external: drover keeps {kind}s per application, and has no others",
            hint="give it a file, a content or an environment variable",
        )
    try:
        return Path(str(one["file"])).read_bytes()
    except OSError as error:
        raise Invalid(f"{kind} {key} cannot be read from {one['file']}: {error.strerror}") from error
