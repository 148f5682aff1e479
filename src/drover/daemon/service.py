"""The systemd units of the daemon and of the host's shutdown: written and started where systemd runs; elsewhere the
command to run is named."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from drover.daemon.config import DEFAULT_RUN_DIR, HostConfig
from drover.errors import DeadlineExceeded, DroverError

UNIT = "drover.service"
SHUTDOWN_UNIT = "drover-shutdown.service"
UNIT_PATH = Path("/etc/systemd/system") / UNIT
SYSTEMD_RUNS = Path("/run/systemd/system")
STOP_DEADLINE_S = 20.0

# KillMode=process leaves the watchdog alone, which fences if the next daemon does not come, and the deputy, which
# answers for names until it does. The store's member ends with the daemon by itself (parent-death signal); containers
# are not in this unit and go on (P6).
_UNIT_TEXT = """\
[Unit]
Description=Drover: several Docker hosts behave as one Docker
Documentation=https://docs.docker.com/engine/api/
After=network-online.target docker.service
Wants=network-online.target

[Service]
ExecStart={command}
Restart=always
RestartSec=1
KillMode=process
LimitNOFILE=65536
OOMScoreAdjust=-900
{runtime}
[Install]
WantedBy=multi-user.target
"""


# Only the machine's own end stops it: `systemctl stop drover` is a restart or an upgrade, and stops no container. Units
# stop in the reverse order of their start: this one goes first, while daemon, engine and network still work.
_SHUTDOWN_TEXT = """\
[Unit]
Description=Drover: hand this host's containers over before it goes down
After=drover.service docker.service network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=-{command}
TimeoutStopSec=60

[Install]
WantedBy=multi-user.target
"""


def systemd_runs() -> bool:
    return SYSTEMD_RUNS.exists()


def daemon_command(config: HostConfig) -> str:
    """The shell command that runs this host's daemon in the foreground."""
    return shlex.join([_program(), "daemon", "--state-dir", config.state_dir])


def unit_text(config: HostConfig) -> str:
    """The unit; systemd makes the run directory where it is the default one."""
    runtime = "RuntimeDirectory=drover\nRuntimeDirectoryPreserve=yes\n" if config.run_dir == DEFAULT_RUN_DIR else ""
    return _UNIT_TEXT.format(command=daemon_command(config), runtime=runtime)


def shutdown_text(config: HostConfig) -> str:
    """The unit that hands over when the machine goes down."""
    return _SHUTDOWN_TEXT.format(
        command=shlex.join([_program(), "-H", f"unix://{config.api_socket}", "host", "shutdown"])
    )


def install_service(config: HostConfig) -> None:
    """Write the units, start them, and start them at every boot."""
    UNIT_PATH.write_text(unit_text(config))
    UNIT_PATH.with_name(SHUTDOWN_UNIT).write_text(shutdown_text(config))
    _systemctl("daemon-reload")
    _systemctl("enable", "--now", UNIT, SHUTDOWN_UNIT)


def remove_service() -> bool:
    """Stop the units and remove them; False if there are none. The daemon goes first: a host that leaves for good has
    nothing to hand over."""
    if not UNIT_PATH.exists():
        return False
    _systemctl("disable", "--now", UNIT)
    if UNIT_PATH.with_name(SHUTDOWN_UNIT).exists():
        _systemctl("disable", "--now", SHUTDOWN_UNIT)
        UNIT_PATH.with_name(SHUTDOWN_UNIT).unlink()
    UNIT_PATH.unlink()
    _systemctl("daemon-reload")
    return True


def stop_daemon(config: HostConfig, deadline_s: float = STOP_DEADLINE_S) -> bool:
    """End a daemon that systemd does not run, by its pid file; False if none runs. Raises `DeadlineExceeded`."""
    pid = running_daemon(config)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + deadline_s
    while running_daemon(config) == pid:
        if time.monotonic() > end:
            raise DeadlineExceeded(
                f"the daemon (pid {pid}) did not end within {deadline_s:g} s of SIGTERM",
                hint="see its log, then repeat",
            )
        time.sleep(0.05)
    return True


def running_daemon(config: HostConfig) -> int | None:
    """The pid in the pid file, if that process lives and is a drover daemon: pids are used again."""
    try:
        pid = int(config.pid_file.read_text())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if b"daemon" in arguments and any(b"drover" in part for part in arguments) else None


def _systemctl(*arguments: str) -> None:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DroverError(
            f"`systemctl {shlex.join(arguments)}` failed: {done.stderr.strip()}", hint=f"see `journalctl -u {UNIT}`"
        )


def _program() -> str:
    """The installed `drover` beside this Python, so that the unit works whatever the PATH."""
    beside = Path(sys.executable).with_name("drover")
    return str(beside) if beside.exists() else shutil.which("drover") or "drover"
