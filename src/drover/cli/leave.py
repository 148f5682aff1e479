"""`drover leave`: this machine stops being a host.

    the daemon    the cluster            what happens first
    never ran     was never made         nothing: there is no record to remove
    runs          has other hosts        DELETE /hosts/THIS?leaving=1, which waits for the store to let go too
    runs          has no other host      --purge is asked for: leaving ends the cluster
    is silent     -                      refused without --force: the cluster would keep the host's record

Then the daemon is stopped and its keys, configuration and store member's files are removed; with --purge everything in
the state and run directories, the volumes' data included, all that carried networks in the engine and the kernel, and
the docker context that leads here.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import click

from drover.cli import contexts, output
from drover.cli.client import Client, segment
from drover.daemon import deputy, service
from drover.daemon.config import DEFAULT_STATE_DIR, HostConfig, bootstrap_path, config_path, load_config
from drover.daemon.purge import purge_networks
from drover.errors import Conflict, Unavailable

DEADLINE_S = 60.0
MOUNTS = Path("/proc/self/mounts")


@click.command()
@click.option("--purge", is_flag=True, help="Remove everything Drover wrote here, the volumes' data included.")
@click.option("--force", is_flag=True, help="Also if containers are on it, or the cluster cannot be told.")
@click.option("--state-dir", default=DEFAULT_STATE_DIR, show_default=True, help="Where init or join wrote config.json.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; sentences go to stderr.")
def leave(purge: bool, force: bool, state_dir: str, as_json: bool) -> None:
    """Take this machine out of its cluster.

    Refused while containers or volumes are on it: drain it first. On the only host, --purge ends the cluster.

    \b
    Example:
      drover host drain web1 && drover leave
      drover leave --purge        # undo `drover init`
    """
    config, say = load_config(state_dir), output.note if as_json else output.say
    if purge:
        _check_mounts(config.state, ours=config.pool_mount)
    if not bootstrap_path(state_dir).exists():
        _tell_cluster(config, purge, force)
    if service.remove_service() or service.stop_daemon(config):
        say("The daemon is stopped.")
    if purge:
        purge_networks(config.engine_socket)
        if contexts.remove(config):
            say(f"The docker context {contexts.NAME} is removed.")
        _unmount(config.pool_mount)
    remove_files(config, purge)
    say(f"{config.name} is no longer a host of cluster {config.cluster_name}.")
    if not purge and config.state.exists():
        say(f"Left on this machine:    {config.state_dir} (volumes' data); containers its engine still has")
    if as_json:
        left = config.state_dir if config.state.exists() else None
        output.show_json({"cluster": config.cluster_name, "host": config.name, "left_on_disk": left})


def _tell_cluster(config: HostConfig, purge: bool, force: bool) -> None:
    daemon = Client(f"unix://{config.api_socket}", DEADLINE_S)
    try:
        seen = daemon.get("/status")
        if sum(seen["hosts"].values()) > 1:
            daemon.delete(f"/hosts/{segment(config.name)}?leaving=1" + ("&force=1" if force else ""))
        else:
            _check_end(seen, purge, force)
    except Unavailable as error:
        if not force:
            raise Unavailable(
                f"the cluster cannot be told that {config.name} leaves: {error.message}",
                hint="start the daemon and repeat; or use --force here, then `drover host rm` on another host",
            )
        output.note(f"note: the cluster was not told; on another host: drover host rm {config.name}")


def _check_end(seen: dict[str, Any], purge: bool, force: bool) -> None:
    """The last host may go only if that is meant."""
    if not purge:
        raise Conflict(
            f"{seen['host']} is the only host: if it leaves, the cluster ends and its records are lost",
            hint="if that is meant: drover leave --purge",
        )
    containers = sum(seen["containers"].values())
    if containers and not force:
        raise Conflict(
            f"the cluster still has {containers} containers",
            hint="remove them with docker rm, or give them up: --force",
        )


def remove_files(config: HostConfig, purge: bool) -> None:
    """Remove the host's files; configuration last, so that a `leave` that broke off can be repeated."""
    for path in (config.etcd_dir, config.tls_dir):
        shutil.rmtree(path, ignore_errors=True)
    bootstrap_path(config.state_dir).unlink(missing_ok=True)
    (config.run / deputy.NAMES).unlink(missing_ok=True)
    if purge:
        _empty(config.run)
        _empty(config.state, but=config_path(config.state_dir))
    config_path(config.state_dir).unlink(missing_ok=True)
    for directory in (config.state, config.run):
        _remove_if_empty(directory)


def _check_mounts(directory: Path, ours: Path) -> None:
    """What is mounted there may be somebody else's data (a shared volume): it is not Drover's to delete. `ours`: where
    Drover mounted its own pool."""
    lines = MOUNTS.read_text().splitlines()
    below = [where for where in (line.split()[1] for line in lines) if where.startswith(f"{directory}/")]
    below = [where for where in below if where != str(ours)]
    if below:
        raise Conflict(
            f"{below[0]} is mounted, and --purge would delete what is in it", hint=f"umount {below[0]}, then repeat"
        )


def _unmount(point: Path) -> None:
    """Take the pool off, if it is mounted; it is a file in the state directory."""
    if any(line.split()[1] == str(point) for line in MOUNTS.read_text().splitlines()):
        done = subprocess.run(["umount", str(point)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Conflict(f"{point} cannot be unmounted: {done.stderr.strip()}", hint="stop what uses it, then repeat")


def _empty(directory: Path, but: Path | None = None) -> None:
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != but:
            path.unlink(missing_ok=True)


def _remove_if_empty(directory: Path) -> None:
    """What still has something in it, or is mounted, stays."""
    try:
        directory.rmdir()
    except OSError:
        return
