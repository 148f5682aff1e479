"""What one host knows about itself before it reads any record: `<state>/config.json`, written by init and join.

file                     holds                                              written by        removed by
<state>/config.json      `HostConfig`                                       init, join        leave
<state>/bootstrap.json   the first host's record, not yet in the store      init              the first daemon start
<state>/tls/             see `trust.certificates` and `trust.wireguard`     init, join        leave
<run>/                   sockets and the pid file, gone after a reboot      the daemon        the daemon
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from drover.api.founding import founding_changes
from drover.errors import Invalid, NotFound
from drover.model.records import Host
from drover.store.port import CommitConflict, Store
from drover.trust.files import write_private

DEFAULT_STATE_DIR = "/var/lib/drover"
DEFAULT_RUN_DIR = "/run/drover"
DEFAULT_ENGINE = "unix:///var/run/docker.sock"


class HostConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """One host's configuration. `store_endpoints`: client URLs of the store's members to begin with; with
    `store_managed` the daemon runs a member itself when asked to, and follows the `members` records. `lease_ttl_s`:
    how long the others wait for this host, of which it uses `self_fence_s` itself; `restart_pause_s`: how long they
    wait for the next daemon when this one ends in order."""

    name: str
    id: str
    index: int
    address: str
    cluster_name: str
    state_dir: str = DEFAULT_STATE_DIR
    run_dir: str = DEFAULT_RUN_DIR
    engine: str = DEFAULT_ENGINE
    api_port: int = 4740
    tunnel_port: int = 4741
    store_client_port: int = 4742
    store_peer_port: int = 4743
    store_managed: bool = True
    store_endpoints: tuple[str, ...] = ()
    lease_ttl_s: float = 4.0
    self_fence_s: float = 2.5
    restart_pause_s: float = 20.0
    socket_group: str = "docker"
    encryption: str = ""
    """How this host encrypts what containers say to other hosts: `kernel` or `wireguard-go` (empty: not at all)."""
    volume_pool: str = ""
    """A file with a btrfs filesystem in which volumes are kept (empty: none)."""
    shared_volumes: str = ""
    """A directory of storage that every host sees, for volumes of the driver `shared` (empty: none)."""

    @property
    def state(self) -> Path:
        return Path(self.state_dir)

    @property
    def tls_dir(self) -> Path:
        return self.state / "tls"

    @property
    def etcd_dir(self) -> Path:
        return self.state / "etcd"

    @property
    def volumes_dir(self) -> Path:
        return self.state / "volumes"

    @property
    def pool_mount(self) -> Path:
        """Where the pool is mounted."""
        return self.volumes_dir / "pool"

    @property
    def run(self) -> Path:
        return Path(self.run_dir)

    @property
    def api_socket(self) -> Path:
        return self.run / "drover.sock"

    @property
    def docker_socket(self) -> Path:
        return self.run / "docker.sock"

    @property
    def pid_file(self) -> Path:
        return self.run / "daemon.pid"

    @property
    def engine_socket(self) -> Path:
        """The path of the engine's Unix socket."""
        return Path(self.engine.removeprefix("unix://"))


def config_path(state_dir: str | Path) -> Path:
    return Path(state_dir) / "config.json"


def bootstrap_path(state_dir: str | Path) -> Path:
    return Path(state_dir) / "bootstrap.json"


def load_config(state_dir: str | Path) -> HostConfig:
    """Raises `NotFound` if the host belongs to no cluster, `Invalid` if the file is damaged."""
    path = config_path(state_dir)
    try:
        return msgspec.json.decode(path.read_bytes(), type=HostConfig)
    except FileNotFoundError:
        raise NotFound(
            f"this host belongs to no cluster: there is no {path}", hint="run `drover init`, or `drover join ADDRESS`"
        )
    except msgspec.DecodeError as error:
        raise Invalid(
            f"{path} is damaged: {error}",
            hint="restore it, or remove the state directory and join anew under another name",
        )


def save_config(config: HostConfig) -> None:
    write_private(config_path(config.state_dir), _pretty(config))


def save_bootstrap(state_dir: str | Path, host: Host) -> None:
    """Keep the first host's record until the daemon has made the store that will hold it."""
    write_private(bootstrap_path(state_dir), _pretty(host))


def load_bootstrap(state_dir: str | Path) -> Host | None:
    """The first host's record, if it has not been committed yet."""
    try:
        return msgspec.json.decode(bootstrap_path(state_dir).read_bytes(), type=Host)
    except FileNotFoundError:
        return None


async def commit_bootstrap(store: Store, config: HostConfig) -> bool:
    """Commit the first host's record, once; False if there is nothing to do.

    A crash between the commit and the removal of the file is harmless: the records exist then, the second commit
    writes nothing, and the file goes.
    """
    host = load_bootstrap(config.state_dir)
    if host is None:
        return False
    changes = founding_changes(host, config.cluster_name, encrypted=bool(config.encryption))
    try:
        await store.commit(changes, expect={change.key: 0 for change in changes})
    except CommitConflict:
        present = (await store.snapshot()).hosts.get(host.name)
        if present is None or present.id != host.id:
            raise
    bootstrap_path(config.state_dir).unlink(missing_ok=True)
    return True


def _pretty(record: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
