"""Legacy links (`--link db:alias`) on the default network: what an engine does for them on its own bridge.

Theory of operation. An engine links only containers of its own default bridge. On the default network of the cluster
addresses last as long as their containers, so all that a link means can be said when the container is made:

    of the linked container       becomes
    its address                   a line in /etc/hosts for the alias, the name and the short id
    its name                      ALIAS_NAME=/web/alias
    Env of its create call        ALIAS_ENV_X=… for each; PATH and HOME are left out (the image's own are not known)
    ExposedPorts of its call      ALIAS_PORT_80_TCP=tcp://IP:80, with …_ADDR, …_PORT, …_PROTO; the lowest: ALIAS_PORT
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

HIDDEN = frozenset({"HOME", "PATH"})


class Linked(msgspec.Struct, frozen=True, kw_only=True):
    """A container that others link to. `exposed`: (number, protocol)."""

    id: str
    name: str
    ip: str
    env: Sequence[str] = ()
    exposed: Sequence[tuple[int, str]] = ()


def split_link(link: str) -> tuple[str, str]:
    """`db:alias`, or `db` for itself: the reference and the alias."""
    ref, _, alias = link.partition(":")
    return ref, alias or ref


def host_lines(links: Sequence[str], linked: Mapping[str, Linked]) -> list[str]:
    """`alias:ip` for /etc/hosts, each name once."""
    found: dict[str, str] = {}
    for ref, alias in map(split_link, links):
        other = linked[ref]
        for name in (alias, other.name, other.id[:12]):
            found.setdefault(name, other.ip)
    return [f"{name}:{ip}" for name, ip in found.items()]


def variables(name: str, links: Sequence[str], linked: Mapping[str, Linked]) -> list[str]:
    """The environment that the links of container `name` give it."""
    return [line for ref, alias in map(split_link, links) for line in _of_one(name, alias, linked[ref])]


def _of_one(name: str, alias: str, other: Linked) -> list[str]:
    prefix = alias.upper().replace("-", "_").rpartition("/")[2]
    ports = sorted(other.exposed, key=lambda port: (port[0], port[1]))
    first = [f"{prefix}_PORT={ports[0][1]}://{other.ip}:{ports[0][0]}"] if ports else []
    each = [line for number, protocol in ports for line in _of_port(prefix, other.ip, number, protocol)]
    own = [entry for entry in other.env if "=" in entry and entry.partition("=")[0] not in HIDDEN]
    return [*first, *each, f"{prefix}_NAME=/{name}/{alias}", *(f"{prefix}_ENV_{entry}" for entry in own)]


def _of_port(prefix: str, ip: str, number: int, protocol: str) -> list[str]:
    one = f"{prefix}_PORT_{number}_{protocol.upper()}"
    return [f"{one}={protocol}://{ip}:{number}", f"{one}_ADDR={ip}", f"{one}_PORT={number}", f"{one}_PROTO={protocol}"]
