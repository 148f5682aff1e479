"""The grace period: an address stays with a container's name for a while after the container is gone.

Theory of operation. Who replaces a container removes it and makes another of the same name: by hand, or as Compose
does. Peers know its address, and firewalls may; so the address is kept for the name on that network.

    moment                                  claim (`addresses`)        kept (`kept_addresses`)
    a container is made or connected        put                        its own address's record goes
    it is removed or disconnected           goes                       put, unless its name was made up
    one of the name is made                 put, for that address      goes
    one of the name is started for the      moves to the kept address  goes
    first time (it was made under another
    name: Compose renames)
    GRACE_S later, by the leader's clock                               goes
    the pool is dry; somebody asks `--ip`   put, for that address      goes

Each row is one commit that expects both records of the address as they were, so an address is never claimed twice, nor
kept while it is claimed. The MAC follows from the address, or from the container's own `--mac-address`: it stays, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import msgspec

from drover.decide.addresses import choose_address, kept_for
from drover.decide.claims import addresses_of
from drover.decide.overlay import is_overlay, mac_of
from drover.decide.services import Draft
from drover.errors import Conflict, Invalid, NotFound
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.records import Address, Container, KeptAddress, Network, key
from drover.model.spec import parse_spec

EXPIRED_AT_ONCE = 50
"""Per commit: a store takes so many keys in one, not thousands."""
GRACE_S = 600.0
"""Longer than it takes to pull an image and build its successor; short beside the time in which a pool is used up."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a container asks of one network: an address (empty: any), a MAC (empty: that of the address)."""

    container: str
    name: str
    ip: str = ""
    mac: str = ""
    ipv6: str = ""


def claim(cluster: Cluster, network: Network, wanted: Wanted, epoch: int = 1) -> Draft:
    """The claim to an address of a network, as `choose_address` chooses. Raises its refusals."""
    if wanted.ipv6:
        raise Invalid(
            f"address {wanted.ipv6} cannot be had: network {network.name} has no IPv6, as none of the cluster has",
            hint="leave out --ip6",
        )
    ip = choose_address(cluster, network, wanted.ip or None, wanted.container, wanted.name)
    record = Address(network=network.id, ip=ip, container=wanted.container, epoch=epoch, mac=wanted.mac or mac_of(ip))
    claimed, kept = key("addresses", network.id, ip), key("kept_addresses", network.id, ip)
    changes = [put(claimed, record)]
    if f"{network.id}/{ip}" in cluster.kept_addresses:
        changes.append(delete(kept))
    return Draft(tuple(changes), {name: cluster.version(name) for name in (claimed, kept)})


def given_up(cluster: Cluster, claims: Iterable[Address], now: float) -> list[Change]:
    """The end of claims (all of one container): they go, and their addresses are kept for its name."""
    changes = []
    for one in claims:
        changes.append(delete(key("addresses", one.network, one.ip)))
        container, network = cluster.containers.get(one.container), cluster.networks.get(one.network)
        if container is not None and network is not None and not container.name_made_up and is_overlay(network):
            changes += _kept(cluster, one, container.name, now)
    return changes


def _kept(cluster: Cluster, ended: Address, name: str, now: float) -> list[Change]:
    """Keep the address of a claim that ended, and no other one for the name."""
    record = KeptAddress(
        network=ended.network,
        ip=ended.ip,
        name=name,
        container=ended.container,
        epoch=ended.epoch,
        mac=ended.mac,
        at=now,
    )
    earlier = [
        delete(key("kept_addresses", rest))
        for rest, other in cluster.kept_addresses.items()
        if (other.network, other.name) == (ended.network, name) and other.ip != ended.ip
    ]
    return [*earlier, put(key("kept_addresses", ended.network, ended.ip), record)]


def inherited(cluster: Cluster, container: Container) -> Draft:
    """What the first start of a container changes: it takes the addresses kept for its name in place of its own,
    where it asked for none by number. It was made under another name while the one it replaces was there."""
    changes: list[Change] = []
    expect: dict[str, int] = {}
    facts = cluster.facts_of(container.id)
    if facts is None or facts.state != "created":
        return Draft()
    for own in addresses_of(cluster, container.id):
        network, kept = cluster.networks.get(own.network), kept_for(cluster, own.network, container.name)
        if network is None or kept is None or asked_ip(container, network):
            continue
        given = key("addresses", own.network, own.ip)
        custom = own.mac if own.mac != mac_of(own.ip) else ""
        wanted = Wanted(container=container.id, name=container.name, mac=custom)
        draft = claim(cluster, network, wanted, own.epoch + 1)
        changes += [delete(given), *draft.changes]
        expect |= {given: cluster.version(given), **draft.expect}
    return Draft(tuple(changes), expect)


class _Ipam(msgspec.Struct):
    ipv4: str | None = msgspec.field(name="IPv4Address", default=None)


class _Endpoint(msgspec.Struct):
    ipam: _Ipam | None = msgspec.field(name="IPAMConfig", default=None)


_decode = msgspec.json.Decoder(_Endpoint | None).decode


def asked_ip(container: Container, network: Network) -> str:
    """The address that a container's create or connect call names for a network; empty if it leaves it open."""
    joined = (_decode(container.attachments.get(network.id) or "{}") or _Endpoint()).ipam or _Ipam()
    created = parse_spec(container.body).networks
    asked = [created[ref].ipv4 for ref in (network.name, network.id) if ref in created]
    return joined.ipv4 or next(filter(None, asked), "")


def expiry(cluster: Cluster, now: float) -> Draft:
    """What the leader removes: addresses kept for longer than GRACE_S, and those of networks that are gone."""
    found = (
        key("kept_addresses", rest)
        for rest, one in cluster.kept_addresses.items()
        if now - one.at > GRACE_S or one.network not in cluster.networks
    )
    over = list(islice(found, EXPIRED_AT_ONCE))
    return Draft(tuple(map(delete, over)), {name: cluster.version(name) for name in over})


def release(cluster: Cluster, ip: str, network: str = "") -> Draft:
    """Give up an address that is kept, or whose holder or network is gone; on every network, or the one named or
    given by id. Raises `NotFound`, and `Conflict` with the holder's name and host for one that is held."""
    wanted = cluster.network_names[network].id if network in cluster.network_names else network
    tables = (("kept_addresses", cluster.kept_addresses), ("addresses", cluster.addresses))
    found = [
        (key(table, rest), one)
        for table, rows in tables
        for rest, one in rows.items()
        if one.ip == ip and wanted in ("", one.network)
    ]
    if not found:
        where = f" of network {network}" if network else ""
        raise NotFound(f"address {ip}{where} is neither held nor kept", hint="`drover address ls` lists them")
    for _, one in found:
        _refuse_held(cluster, one)
    return Draft(tuple(delete(name) for name, _ in found), {name: cluster.version(name) for name, _ in found})


def _refuse_held(cluster: Cluster, one: Address | KeptAddress) -> None:
    holder = cluster.containers.get(one.container) if isinstance(one, Address) else None
    if holder is None or one.network not in cluster.networks:
        return
    network = cluster.networks[one.network].name
    raise Conflict(
        f"address {one.ip} of network {network} is held by container {holder.name} on "
        f"{cluster.host_of(holder.id) or 'no host'}: it cannot be released while the container is on the network",
        hint=f"docker network disconnect {network} {holder.name}, or remove the container",
    )
