"""`Wiring`: all that one host must have of the cluster's networks, followed from picture to picture.

Theory of operation. What a host needs is a pure function of the records (`overlay`, `names`, `tables`), but of 5,000
containers it takes half a second, and each change of one of them asks for it anew. It is local in the sense of
`parts`, so `follow` looks only at the containers whose records changed, in two stages:

    stage    kind         key                 value or mark           feeds
    places   at           address elsewhere   its entry               which networks are realised here, with
             uses         host                mark                    which entries
             on           network             mark
             led          network             mark                    (a published port leads there)
             moving       network             mark                    (of what is to come here, or has just left)
             service      service             mark
    answers  names        name                addresses               names, tables and starts of those networks
             own          name                mark                    (the first of an address)
             shared       address             other networks
             servers      address             name servers of its own
             linking      container           mark                    (has links: those are made anew as a whole)
             starts       container, start    mark
             mesh, bound, virtual             as in `tables.Tables`
             local, alive address             mark

What a changed record touches:

    containers, placements, facts,   the container
    moves, suspects
    addresses, ports                 the container that has, and had, the claim; all of the port's service
    service_addresses                the containers of the service
    names                            who has such a name
    networks, or one that is realised here now, or no more     the containers on it
    hosts                            everything
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from itertools import compress, zip_longest
from operator import is_not
from typing import Any, TypeVar

import msgspec

from drover.decide import names, overlay, tables
from drover.decide.claims import claims_by_network
from drover.decide.overlay import DEFAULT_NETWORK, RealNetwork
from drover.decide.parts import NOBODY, Key, Pieces, Table, Values, part, updated
from drover.decide.services import service_of_container
from drover.decide.tables import Tables
from drover.model.cluster import Cluster
from drover.model.records import Network, Record

MARKS = frozenset({"uses", "on", "led", "moving", "service", "own", "linking", "starts", "local", "alive"})
Names = Mapping[str, tuple[str, ...]]
Starts = frozenset[tuple[str, str]]
R = TypeVar("R", bound=Record)


class Zone(msgspec.Struct, frozen=True):
    """What the name server of a network must know: the module `names` has all four."""

    names: Names = {}
    shared: Names = {}
    links: Mapping[str, Names] = {}
    servers: Names = {}


class Wiring(msgspec.Struct, frozen=True, kw_only=True):
    """What `host` must have at the picture `cluster`; everything is by network id. What did not change is the same
    object as in the wiring before."""

    host: str
    mtu_bytes: int
    cluster: Cluster = Cluster()
    networks: Mapping[str, RealNetwork] = {}
    zones: Mapping[str, Zone] = {}
    starts: Mapping[str, Starts] = {}
    tables: Tables = Tables()
    places: Pieces = Pieces()
    answers: Pieces = Pieces()


def follow(before: Wiring, cluster: Cluster) -> Wiring:
    """The wiring at another picture. The first one follows `Wiring(host=…, mtu_bytes=…)`, which has nothing."""
    if before.cluster is cluster:
        return before
    if before.cluster.hosts is not cluster.hosts and _hosts(before.cluster) != _hosts(cluster):
        before = Wiring(host=before.host, mtu_bytes=before.mtu_bytes)
    touched = _touched(before, cluster)
    places = updated(
        before.places,
        touched,
        lambda some: _places(part(cluster, some), before.host),
        MARKS,
    )
    networks = _networks(before, cluster, places)
    touched |= _concerned(before, networks, places)
    answers = updated(
        before.answers,
        touched,
        lambda some: _answers(part(cluster, some), before.host, networks),
        MARKS,
    )
    after = msgspec.structs.replace(before, cluster=cluster, networks=networks, places=places, answers=answers)
    return msgspec.structs.replace(
        after,
        zones={network: _zone(before, after, network) for network in networks},
        starts={network: _starts(before, after, network) for network in networks},
        tables=_tables(before, after),
    )


# -- what changed ------------------------------------------------------------------------------------------------------


def _hosts(cluster: Cluster) -> dict[str, tuple[int, str, str]]:
    """All that matters here of the hosts: their numbers, underlay addresses, and whether they encrypt."""
    return {name: (host.index, host.address, host.wireguard_key) for name, host in cluster.hosts.items()}


def _touched(before: Wiring, cluster: Cluster) -> set[str]:
    """The containers that the changed records are about: the module's second table."""
    old = before.cluster
    found = {container for container, _ in _changed(old.containers, cluster.containers)}
    found.update(container for container, _ in _changed(old.placements, cluster.placements))
    found.update(move.container for _, move in _changed(old.moves, cluster.moves))
    found.update(record.container for _, record in _changed(old.container_facts, cluster.container_facts))
    for _, suspect in _changed(old.suspects, cluster.suspects):
        found.update(suspect.targets)
    found.update(record.container for _, record in _changed(old.addresses, cluster.addresses))
    found.update(record.container for _, record in _changed(old.ports, cluster.ports))
    of_service, on = before.places.who("service"), before.places.who("on")
    services = {record.service for _, record in _changed(old.ports, cluster.ports)}
    services.update(record.service for _, record in _changed(old.service_addresses, cluster.service_addresses))
    for service in services - {""}:
        found |= of_service.get(service, NOBODY)
    for network, _ in _changed(old.networks, cluster.networks):
        found |= on.get(network, NOBODY)
    for name, _ in _changed(old.names, cluster.names):
        for network in before.networks:
            found |= before.answers.who("names", network).get(name.lower(), NOBODY)
    return found


def _changed(old: Mapping[str, R], new: Mapping[str, R]) -> Iterator[tuple[str, R]]:
    """The rows that are not what they were: each with its old record, and with its new one, where there is one."""
    if old is new:
        return
    others = list(compress(new, map(is_not, new.values(), map(old.get, new))))
    for rest in others:
        earlier = old.get(rest)
        if earlier != new[rest]:
            yield rest, new[rest]
            if earlier is not None:
                yield rest, earlier
    if len(new) != len(old) or any(rest not in old for rest in others):
        for rest in old.keys() - new.keys():
            yield rest, old[rest]


def _concerned(before: Wiring, networks: Mapping[str, RealNetwork], places: Pieces) -> set[str]:
    """The containers on networks that are realised here now, or no more."""
    on = places.who("on")
    return {one for network in before.networks.keys() ^ networks.keys() for one in on.get(network, NOBODY)}


# -- places: which networks are here, with which entries ---------------------------------------------------------------


def _places(cluster: Cluster, host: str) -> Values:
    this = cluster.hosts.get(host)
    found: dict[Table, dict[Key, Any]] = {
        ("service", ""): dict.fromkeys(map(service_of_container, cluster.containers.values())),
        ("led", ""): dict.fromkeys(tables.led_to(cluster)),
        ("moving", ""): dict.fromkeys(tables.networks_moving(cluster, host)),
        ("on", ""): dict.fromkeys(claims_by_network(cluster)),
    }
    for network, claims in claims_by_network(cluster).items():
        record = cluster.networks.get(network)
        if record is not None and overlay.is_overlay(record):
            placed = list(overlay.placed(cluster, claims))
            found["uses", network] = dict.fromkeys(home.name for _, home in placed)
            found["at", network] = {c.ip: overlay.remote(c, home) for c, home in placed if home is not this}
    return found


def _networks(before: Wiring, cluster: Cluster, places: Pieces) -> dict[str, RealNetwork]:
    """Networks with a container here, or on its way, and those that every host has."""
    if before.host not in cluster.hosts:
        return {}
    used = [network for kind, network in places.givers if kind == "uses"]
    found = {}
    moving = places.who("moving")
    for network in sorted({DEFAULT_NETWORK, *places.who("led"), *moving, *used}):
        homes = _homes(cluster, places, network)
        record = cluster.networks.get(network)
        if (before.host in homes or network in moving) and record and overlay.is_overlay(record):
            found[network] = _network(before, cluster, places, record, homes)
    return found


def _homes(cluster: Cluster, places: Pieces, network: str) -> Set[str]:
    """The hosts that have a network."""
    everywhere = network == DEFAULT_NETWORK or network in places.who("led")
    return cluster.hosts.keys() if everywhere else places.who("uses", network).keys()


def _network(before: Wiring, cluster: Cluster, places: Pieces, record: Network, homes: Set[str]) -> RealNetwork:
    """A network as this host must have it; the same object as before if nothing about it changed."""
    known, entries = before.networks.get(record.id), places.rows("at", record.id)
    if known is not None and before.cluster.networks.get(record.id) is record:
        same_entries = before.places.rows("at", record.id) is entries
        if same_entries and _homes(before.cluster, before.places, record.id) == homes:
            return known
    hosts = [cluster.hosts[name] for name in homes]
    this = cluster.hosts[before.host]
    return overlay.real_network(record, this, hosts, entries.values(), mtu_bytes=before.mtu_bytes)


# -- answers: names, tables, starts ------------------------------------------------------------------------------------


def _answers(cluster: Cluster, host: str, networks: Mapping[str, RealNetwork]) -> Values:
    here = {network: networks[network] for network in claims_by_network(cluster) if network in networks}
    made = tables.tables(cluster, host, here)
    found: dict[Table, Mapping[Key, Any]] = {
        ("mesh", ""): made.mesh,
        ("bound", ""): made.bound,
        ("virtual", ""): made.virtual,
        ("local", ""): dict.fromkeys(made.local),
        ("alive", ""): dict.fromkeys(made.alive),
    }
    for network in here:
        record = cluster.networks[network]
        names_here = names.names(cluster, network)
        own = (names.own_name(container, record) for container in cluster.containers.values())
        linking = (one.id for one in cluster.containers.values() if names.asked_links(one, record))
        found["names", network] = names_here
        found["own", network] = dict.fromkeys(name for name in own if name in names_here)
        found["shared", network] = names.shared(cluster, network)
        found["servers", network] = names.servers(cluster, network)
        found["linking", network] = dict.fromkeys(linking)
        found["starts", network] = dict.fromkeys(tables.starts(cluster, host, network))
    return found


def _zone(before: Wiring, after: Wiring, network: str) -> Zone:
    """A network's zone; a container's own name comes before the others, whichever came to be first."""
    known, found, was = before.zones.get(network, Zone()), after.answers, before.answers
    rows, own = found.rows("names", network), found.who("own", network)
    same = was.rows("names", network) is rows and was.who("own", network) is own
    links = names.links(after.cluster, network) if found.who("linking", network) else {}
    made = Zone(
        names=known.names if same else {**dict.fromkeys(own, ()), **rows},
        shared=found.rows("shared", network),
        links=known.links if known.links == links else links,
        servers=found.rows("servers", network),
    )
    unchanged = made.names is known.names and made.shared is known.shared and made.links is known.links
    unchanged = unchanged and made.servers is known.servers
    return known if unchanged else made


def _starts(before: Wiring, after: Wiring, network: str) -> Starts:
    rows = after.answers.who("starts", network)
    same = before.answers.who("starts", network) is rows and network in before.starts
    return before.starts[network] if same else frozenset(rows)


def _tables(before: Wiring, after: Wiring) -> Tables:
    was, now, networks = before.answers, after.answers, tuple(after.networks.values())
    same = all(was.rows(kind) is now.rows(kind) for kind in ("mesh", "bound", "virtual"))
    same = same and all(was.who(kind) is now.who(kind) for kind in ("local", "alive"))
    if same and all(one is other for one, other in zip_longest(networks, before.tables.networks)):
        return before.tables
    return Tables(
        networks=networks,
        mesh=now.rows("mesh"),
        bound=now.rows("bound"),
        virtual=now.rows("virtual"),
        local=frozenset(now.who("local")),
        alive=frozenset(now.who("alive")),
    )
