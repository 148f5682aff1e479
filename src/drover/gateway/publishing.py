"""Published ports at the gateway: what a start claims, and what its refusal gives back.

step                          does
before `start` and `restart`  the ports that image and container expose are asked for, if `-P` needs them;
                              fixed ports on which a program of this host listens are refused
with the order                the claims, in the same commit (`decide.ports`)
after a refusal               the claims go again, unless the container runs all the same
"""

from __future__ import annotations

import errno
import socket

import msgspec

from drover.decide.grace import inherited
from drover.decide.ports import is_published_by_cluster, port_claims, released, wanted_ports
from drover.decide.services import is_answering
from drover.errors import EngineError
from drover.gateway.commits import Draft, commit_decided
from drover.gateway.context import Context
from drover.gateway.orders import Amendment
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import PublishedPort, container_port, parse_spec

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class _Config(msgspec.Struct, rename="pascal"):
    exposed_ports: dict[str, object] | None = None


class _Inspected(msgspec.Struct, rename="pascal"):
    config: _Config


async def exposed_ports(ctx: Context, record: r.Container) -> tuple[tuple[int, str], ...]:
    """The (number, protocol) that a container and its image expose; asked only where all are to be published."""
    if not parse_spec(record.body).publish_all:
        return ()
    host, engine_id = ctx.engine_of(record)
    answer = await ctx.links.request(host, "GET", f"/containers/{engine_id}/json")
    if answer.status >= 400:
        return ()
    inspected = msgspec.json.decode(answer.body, type=_Inspected)
    return tuple(container_port(text) for text in sorted(inspected.config.exposed_ports or {}))


def publishing(exposed: tuple[tuple[int, str], ...]) -> Amendment:
    """The amendment of an order that starts a container: its claims to ports, and to the addresses kept for its
    name."""

    def amend(cluster: Cluster, record: r.Container) -> tuple[r.Container, Draft]:
        ports, addresses = port_claims(cluster, record, exposed), inherited(cluster, record)
        return record, Draft([*ports.changes, *addresses.changes], {**ports.expect, **addresses.expect})

    return amend


def refuse_busy(ctx: Context, record: r.Container) -> None:
    """Raise Docker's refusal for a port on which a program of this host listens: clients would lose it."""
    if not is_published_by_cluster(ctx.cluster, record):
        return
    for port in wanted_ports(parse_spec(record.body), ()):
        if port.first and port.first == port.last and not port.host_ip and _is_busy(port):
            raise EngineError(
                500,
                f"driver failed programming external connectivity on endpoint {record.name} ({record.id}): "
                f"listen {port.protocol}4 0.0.0.0:{port.first}: bind: address already in use",
            )


def _is_busy(port: PublishedPort) -> bool:
    kind = KINDS.get(port.protocol)
    if kind is None:
        return False
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port.first))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


async def give_up(ctx: Context, container: str) -> None:
    """After a start that was refused: the claims go, unless it runs (a second start of what runs)."""

    def decide(cluster: Cluster) -> Draft:
        if container not in cluster.containers or is_answering(cluster, container):
            return Draft([], {})
        gone = released(cluster, container)
        return Draft(list(gone.changes), dict(gone.expect))

    await commit_decided(ctx, decide)
