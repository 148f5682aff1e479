"""Making the hosts of a lab a Drover cluster: exactly what a person types, on each host.

    step                                       on           until
    drover init, drover daemon                 h1           its gateway answers /_ping
    drover token create --reusable --quiet     h1
    drover join, drover daemon                 the others   each gateway answers /_ping
    drover status --json                       h1           the store has as many voters as so many hosts give it

The daemons' output is in HOST/drover.log.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from drover.decide.quorum import wanted_voters
from drover.lab.processes import wait_until

if TYPE_CHECKING:
    from drover.lab.host import LabHost

GATEWAY_DEADLINE_S = 60.0
STORE_DEADLINE_S = 60.0
_COMMAND_TIMEOUT_S = 90.0
Say = Callable[[str], None]


def drover() -> str:
    """The `drover` command beside the Python that runs this."""
    return str(Path(sys.executable).parent / "drover")


def _place_argv(host: LabHost) -> list[str]:
    """The options that `init` and `join` share: who the host is and where its files are."""
    return [
        *("--name", host.name),
        *("--address", host.address),
        *("--engine", f"unix://{host.docker_socket}"),
        *("--state-dir", str(host.state_dir)),
        *("--run-dir", str(host.run_dir)),
        *(("--volume-pool", host.lab.pool) if host.lab.pool else ()),
        *("--shared-volumes", str(host.lab.shared_volumes)),
        "--no-service",
    ]


def init_argv(host: LabHost) -> list[str]:
    return [drover(), "init", *_place_argv(host)]


def join_argv(host: LabHost, first: LabHost, token: str) -> list[str]:
    return [drover(), "join", first.address, "--token", token, *_place_argv(host)]


def daemon_argv(host: LabHost) -> list[str]:
    return [drover(), "daemon", "--state-dir", str(host.state_dir)]


def start_daemon(host: LabHost) -> None:
    host.spawn("drover", daemon_argv(host))


def wait_for_gateway(host: LabHost, deadline_s: float = GATEWAY_DEADLINE_S) -> None:
    """Until the host's gateway answers. Unavailable quotes the daemon's last lines."""
    host.wait_for("drover", host.gateway_socket, deadline_s)


def _join(host: LabHost, first: LabHost, token: str, say: Say) -> None:
    host.exec(join_argv(host, first, token), timeout_s=_COMMAND_TIMEOUT_S)
    start_daemon(host)
    wait_for_gateway(host)
    say(f"{host.name} has joined: its gateway answers")


def form(hosts: Sequence[LabHost], say: Say) -> None:
    """Make a cluster of hosts whose engines answer: the first founds it, the others join at the same time."""
    first, others = hosts[0], hosts[1:]
    first.exec(init_argv(first), timeout_s=_COMMAND_TIMEOUT_S)
    start_daemon(first)
    wait_for_gateway(first)
    say(f"{first.name} has founded the cluster: its gateway answers")
    if not others:
        return
    token = first.exec([drover(), "token", "create", "--reusable", "--quiet"]).stdout.strip()
    with ThreadPoolExecutor(len(others)) as pool:
        list(pool.map(lambda host: _join(host, first, token, say), others))
    wait_for_store(first, wanted_voters(len(hosts)))
    say("the store has its members: any one host may go" if len(hosts) > 2 else "the store has its member")


def voters(host: LabHost) -> int:
    """How many voting members the store has, as the host sees it; 0 if it does not say."""
    shown = host.exec([drover(), "status", "--json"], check=False)
    members = json.loads(shown.stdout)["members"] if shown.returncode == 0 else []
    return sum(member["state"] == "voter" for member in members)


def wait_for_store(host: LabHost, wanted: int, deadline_s: float = STORE_DEADLINE_S) -> None:
    """Until the store has that many voters, so that the cluster survives what so many hosts should."""
    wait_until(
        lambda: voters(host) >= wanted, f"a store with {wanted} voting members", deadline_s=deadline_s, poll_s=0.2
    )
