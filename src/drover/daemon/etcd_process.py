"""The store's member of this host: an etcd process that is a child of the daemon.

Theory of operation. One task runs etcd, waits for its end and runs it again, for as long as it is wanted. Nothing is
adopted: etcd is killed with the daemon (the kernel does it: parent-death signal), and a daemon that starts again
starts its etcd again from the same data directory, which makes it the same member as before.

    event                          what happens
    etcd ends by itself            started again after a pause that doubles from 0.2 s up to 5 s
    it ran for `STEADY_S`          the pause begins at 0.2 s again
    `stop`                         SIGTERM; after the deadline SIGKILL
    the daemon dies                SIGKILL by the kernel
    the log outgrows its limit     copied to `.1` and cut: etcd holds it open for appending

etcd takes `initial_cluster` and `state` into account only while its data directory is new.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal

import msgspec
import structlog

from drover.errors import MissingTool

CLIENT_PORT = 4742
PEER_PORT = 4743

FIRST_PAUSE_S, MAX_PAUSE_S, STEADY_S = 0.2, 5.0, 30.0
LOG_LIMIT_BYTES = 4 * 1024 * 1024
LOG_LOOK_S = 10.0

log = structlog.get_logger("drover.daemon.etcd")


class MemberTls(msgspec.Struct, frozen=True):
    """Files for both ports. The certificate needs serverAuth and clientAuth: etcd's JSON gateway is a client of etcd
    itself and presents the same certificate."""

    ca: Path
    certificate: Path
    key: Path


class EtcdConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One member. `initial_cluster` maps members' names to peer URLs, this one included."""

    name: str
    address: str
    data_dir: Path
    log_file: Path
    tls: MemberTls | None
    initial_cluster: Mapping[str, str] = {}
    state: Literal["new", "existing"] = "new"
    client_port: int = CLIENT_PORT
    peer_port: int = PEER_PORT
    cluster_token: str = "drover"
    force_new: bool = False
    """Be the only member from now on, with the data as it is: once, after most members are gone for good."""

    @property
    def client_url(self) -> str:
        return url(self.address, self.client_port, secure=self.tls is not None)

    @property
    def peer_url(self) -> str:
        return url(self.address, self.peer_port, secure=self.tls is not None)


def url(address: str, port: int, *, secure: bool = True) -> str:
    """`https://10.0.0.1:4742`; IPv6 addresses in brackets."""
    host = f"[{address}]" if ":" in address else address
    return f"{'https' if secure else 'http'}://{host}:{port}"


TUNING = {
    # A leader that is silent for 0.7 to 1.4 s is replaced: hosts must not fence themselves (2.5 s) for an election.
    "heartbeat-interval": "100",
    "election-timeout": "700",
    # A candidate that cannot win does not disturb a leader that works (a host that was cut off and returns).
    "pre-vote": "true",
    # Watchers that were away for less than this many writes go on without a new snapshot.
    "auto-compaction-mode": "revision",
    "auto-compaction-retention": "10000",
    # Small, because the raft log up to it is kept in memory.
    "snapshot-count": "5000",
    "quota-backend-bytes": str(2 * 1024**3),
    # One commit may place a whole project: more than etcd's default of 128 operations.
    "max-txn-ops": "10000",
    "max-request-bytes": str(8 * 1024 * 1024),
    # Watchers count on a word each second to notice a member that hangs.
    "experimental-watch-progress-notify-interval": "1s",
    "logger": "zap",
    "log-level": "warn",
    "log-outputs": "stderr",
}

ENVIRONMENT = {
    # The heap may grow by half, not to its double, before it is collected: etcd shares the host with containers.
    "GOGC": "50",
}


def arguments(config: EtcdConfig) -> list[str]:
    """etcd's command line, without the program."""
    members = config.initial_cluster or {config.name: config.peer_url}
    options = {
        "name": config.name,
        "data-dir": str(config.data_dir),
        "listen-client-urls": config.client_url,
        "advertise-client-urls": config.client_url,
        "listen-peer-urls": config.peer_url,
        "initial-advertise-peer-urls": config.peer_url,
        "initial-cluster": ",".join(f"{name}={peer}" for name, peer in sorted(members.items())),
        "initial-cluster-state": config.state,
        "initial-cluster-token": config.cluster_token,
    }
    once = {"force-new-cluster": "true"} if config.force_new else {}
    return [f"--{name}={value}" for name, value in (options | TUNING | once | _tls_options(config.tls)).items()]


def _tls_options(tls: MemberTls | None) -> dict[str, str]:
    if tls is None:
        return {}
    files = {"trusted-ca-file": str(tls.ca), "cert-file": str(tls.certificate), "key-file": str(tls.key)}
    return {
        **files,
        "client-cert-auth": "true",
        **{f"peer-{name}": value for name, value in files.items()},
        "peer-client-cert-auth": "true",
        # A peer is known by the cluster's CA; its packets may come from another of its addresses.
        "experimental-peer-skip-client-san-verification": "true",
    }


def find_program(name: str, package: str) -> str:
    """The path of a program, or `MissingTool` naming the package that has it."""
    found = shutil.which(name)
    if found is None:
        raise MissingTool(f"this host has no {name}, which runs the store", hint=f"install it: apt install {package}")
    return found


class EtcdProcess:
    """Runs one member. `start` and `stop` may be called again and again."""

    def __init__(self, config: EtcdConfig) -> None:
        self.config = config
        self.starts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._spawning = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The running process, if one runs now."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def start(self) -> None:
        """Begin to run etcd; returns when it was started once, which does not mean that it answers already."""
        if self._task is None:
            command = self._command()
            process = await self._spawn(command)
            self._task = asyncio.create_task(self._keep(command, process), name="etcd")

    async def stop(self, deadline_s: float = 5.0) -> None:
        """End it; after `deadline_s` without mercy."""
        if self._task is not None:
            # Not in the middle of a start: the new process would be nobody's.
            async with self._spawning:
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._process is not None:
            await _end(self._process, deadline_s)

    async def wipe(self) -> None:
        """Stop and remove the data: this host is a member no longer, and must not come back as the old one."""
        await self.stop()
        await asyncio.to_thread(shutil.rmtree, self.config.data_dir, ignore_errors=True)

    def _command(self) -> list[str]:
        etcd = find_program("etcd", "etcd-server")
        setpriv = find_program("setpriv", "util-linux")
        return [setpriv, "--pdeathsig", "KILL", etcd, *arguments(self.config)]

    async def _keep(self, command: list[str], process: asyncio.subprocess.Process) -> None:
        pause_s = FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while True:
            started_s = loop.time()
            code = await self._ended(process)
            pause_s = FIRST_PAUSE_S if loop.time() - started_s > STEADY_S else min(pause_s * 2, MAX_PAUSE_S)
            log.warning("etcd ended; starting it again", exit_code=code, pause_s=pause_s, log=str(self.config.log_file))
            await asyncio.sleep(pause_s)
            process = await self._spawn(command)

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        """Wait for its end, looking after the size of its log meanwhile."""
        while True:
            try:
                async with asyncio.timeout(LOG_LOOK_S):
                    return await process.wait()
            except TimeoutError:
                await asyncio.to_thread(bound_log, self.config.log_file, LOG_LIMIT_BYTES)

    async def _spawn(self, command: list[str]) -> asyncio.subprocess.Process:
        async with self._spawning:
            output = await asyncio.to_thread(_prepare, self.config)
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**_without_etcd_settings(os.environ), **ENVIRONMENT},
                # A terminal's Ctrl-C is for the daemon, which stops etcd in its own order.
                start_new_session=True,
            )
            output.close()
            self.starts += 1
        return self._process


def _prepare(config: EtcdConfig) -> IO[bytes]:
    """The directories, and the log opened for appending (so that cutting it does not leave a hole)."""
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.log_file.parent.mkdir(parents=True, exist_ok=True)
    return config.log_file.open("ab")


def _without_etcd_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """etcd reads `ETCD_*` as options; those are meant for somebody else's etcd."""
    return {name: value for name, value in environment.items() if not name.startswith("ETCD_")}


def bound_log(path: Path, limit_bytes: int) -> None:
    """Copy a log that outgrew `limit_bytes` to `.1`, and empty it."""
    if path.stat().st_size > limit_bytes:
        shutil.copyfile(path, path.with_name(path.name + ".1"))
        os.truncate(path, 0)


async def _end(process: asyncio.subprocess.Process, deadline_s: float) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(deadline_s):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
