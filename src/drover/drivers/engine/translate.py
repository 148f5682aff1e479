"""From the body a client sent to the body this host's engine gets: pure, and as little changed as possible.

Theory of operation. The client's create body speaks of the cluster (cluster ids, cluster networks, scheduling wishes);
an engine knows only itself. `engine_body` looks up in the cluster what `translated` then writes into the body. Fields
not in this table, known or unknown, keep their JSON values:

    field                                        becomes
    Labels                                       plus `drover.id` and `drover.epoch`
    HostConfig.RestartPolicy                     `no` where the container holds claims: its host's agent starts it again
    Hostname                                     the short cluster id, if empty and the container has a name of its own
    Image                                        the image's id if named by digest: a moved image keeps no digest
    Env                                          without `constraint:` and `affinity:` entries
    HostConfig.NetworkMode, PidMode, IpcMode     `container:REF` with the engine's id
    HostConfig.VolumesFrom, Links                the engine's id in place of a cluster id
    HostConfig.NetworkMode, EndpointsConfig      the network's name in place of its cluster id
    EndpointsConfig.NET                          the claimed IPv4 address, and its MAC address
    HostConfig.Dns                               the gateways of its cluster networks: the engine's own 127.0.0.11 asks
                                                 them for names on other hosts, and they ask the client's own servers
                                                 for what is no name of the cluster (`decide.names.servers`)
    HostConfig.NetworkMode `default` or none     the cluster's default network
    HostConfig.NetworkMode, EndpointsConfig      without networks that the container has left since; `bridge` if none
                                                 is left, which the agent has it leave (`agent.endpoints`)
    HostConfig.Links there                       environment and ExtraHosts (`linking`)
    HostConfig.PortBindings, PublishAllPorts     nothing where Drover publishes them (`decide.ports`)
    EndpointsConfig.NET.Aliases                  without the service's name: the engine knows its own containers only,
                                                 and would answer with those alone

A container named by name keeps its name in all of them: the engine's container has the same one, and `inspect` then
shows what the client wrote. A reference to a container that this engine does not have stays too: its engine's answer
("No such container") is the right one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from drover.decide.attached import network_id, own_network
from drover.decide.claims import addresses_of
from drover.decide.default_network import DEFAULT_MODE, SHOWN_AS, is_on_default, predefined_ids
from drover.decide.names import resolvers
from drover.decide.overlay import DEFAULT_NETWORK, DEFAULT_NETWORK_NAME, is_overlay, mac_of
from drover.decide.ports import is_published_by_cluster
from drover.decide.resolve import resolve_container
from drover.decide.restarts import by_agent
from drover.decide.services import service_name, service_of
from drover.drivers.engine.linking import Linked, host_lines, variables
from drover.drivers.engine.port import EPOCH_LABEL, ID_LABEL
from drover.errors import DroverError
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import parse_spec, strip_scheduling_env

SHORT_ID = 12
SHARED = "container:"
MODES = ("NetworkMode", "PidMode", "IpcMode")
PUBLISHING = ("PortBindings", "PublishAllPorts")
NO_RESTART = {"Name": "no", "MaximumRetryCount": 0}


class FixedAddress(msgspec.Struct, frozen=True):
    """What a container's endpoint on one network must be; an empty `mac` leaves it to the engine."""

    ipv4: str
    mac: str = ""


class Translation(msgspec.Struct, frozen=True, kw_only=True):
    """What to write into a body. `containers`: cluster ids and names to what the engine shall read; `networks`:
    cluster ids and names to engine names; `addresses`: engine network name to the fixed address."""

    id: str
    epoch: int
    image_id: str = ""
    containers: Mapping[str, str] = {}
    networks: Mapping[str, str] = {}
    addresses: Mapping[str, FixedAddress] = {}
    name_servers: tuple[str, ...] = ()
    default_network: str = ""
    """The engine's name for the network of a container that names none; empty: its own."""
    publishes: bool = True
    """Whether the engine publishes the ports."""
    service: str = ""
    """The name that only Drover answers for."""
    restarts: bool = True
    """Whether the engine may start the container again by itself."""
    name: str = ""
    linked: Mapping[str, Linked] = {}
    """What the container's links name, where all of it is on the default network."""


def engine_body(record: r.Container, *, epoch: int, containers: Mapping[str, str], cluster: Cluster) -> dict[str, Any]:
    """The body for this host's engine. `containers`: cluster id to engine id of the containers it has."""
    names = {name: name for name in cluster.names}
    networks = predefined_ids(cluster) | {id_: network.name for id_, network in cluster.networks.items()}
    translation = Translation(
        id=record.id,
        epoch=epoch,
        image_id=record.image_id,
        containers={**containers, **names},
        networks=networks,
        addresses=_addresses(record, cluster),
        name_servers=resolvers(cluster, record.id),
        default_network=DEFAULT_NETWORK_NAME if is_on_default(cluster, record.id) else "",
        publishes=not is_published_by_cluster(cluster, record),
        service=service_name(service_of(parse_spec(record.body).labels)),
        restarts=not by_agent(cluster, record),
        name=record.name,
        linked=_linked(record, cluster),
    )
    return translated(_without_left(json.loads(record.body or "{}"), record, cluster), translation)


def _without_left(body: dict[str, Any], record: r.Container, cluster: Cluster) -> dict[str, Any]:
    """The body without the networks that its container has left."""
    if not record.left:
        return body
    networking, host = body.get("NetworkingConfig") or {}, body.get("HostConfig") or {}
    given = networking.get("EndpointsConfig") or {}
    kept = {ref: endpoint for ref, endpoint in given.items() if not _has_left(record, cluster, ref)}
    mode = host.get("NetworkMode") or DEFAULT_MODE
    if _has_left(record, cluster, mode):
        mode = next(iter(kept), SHOWN_AS)
    return {
        **body,
        "HostConfig": {**host, "NetworkMode": mode},
        "NetworkingConfig": {**networking, "EndpointsConfig": kept},
    }


def _has_left(record: r.Container, cluster: Cluster, ref: str) -> bool:
    return (network_id(cluster, ref) or own_network(ref)) in record.left


def _addresses(record: r.Container, cluster: Cluster) -> dict[str, FixedAddress]:
    """Network name to address, for the networks of the create call; those joined later are connected later."""
    spec = parse_spec(record.body)
    found = {}
    for claim in cluster.addresses.values():
        network = cluster.networks.get(claim.network)
        if claim.container != record.id or network is None or network.id in record.left:
            continue
        refs = (network.name, network.id, *([DEFAULT_MODE] if network.id == DEFAULT_NETWORK else []))
        if any(ref in spec.network_refs for ref in refs):
            derived = mac_of(claim.ip) if is_overlay(network) and not spec.mac else ""
            found[network.name] = FixedAddress(claim.ip, claim.mac or derived)
    return found


def _linked(record: r.Container, cluster: Cluster) -> dict[str, Linked]:
    """Reference to container, of all links; empty unless all are on the default network, as the container is."""
    refs = parse_spec(record.body).links if is_on_default(cluster, record.id) else ()
    found = {ref: linked for ref in refs if (linked := _linked_one(ref, cluster))}
    return found if len(found) == len(set(refs)) else {}


def _linked_one(ref: str, cluster: Cluster) -> Linked | None:
    try:
        other = resolve_container(cluster, ref)
    except DroverError:
        return None
    ips = [claim.ip for claim in addresses_of(cluster, other.id) if claim.network == DEFAULT_NETWORK]
    if not ips:
        return None
    env = msgspec.json.decode(other.body or "{}", type=_Body).env or []
    return Linked(id=other.id, name=other.name, ip=ips[0], env=env, exposed=parse_spec(other.body).exposed)


class _Body(msgspec.Struct, rename="pascal"):
    env: list[str] | None = None


def translated(body: Mapping[str, Any], translation: Translation) -> dict[str, Any]:
    """The body with `translation` written into it; `body` itself is left alone."""
    result = strip_scheduling_env(body)
    host = _host_config(result.get("HostConfig") or {}, translation)
    if translation.name_servers:
        host["Dns"] = list(translation.name_servers)
    if translation.linked:
        links = host.pop("Links")
        host["ExtraHosts"] = [*(host.get("ExtraHosts") or ()), *host_lines(links, translation.linked)]
        result["Env"] = [*variables(translation.name, links, translation.linked), *(result.get("Env") or ())]
    if not translation.publishes:
        host = {name: value for name, value in host.items() if name not in PUBLISHING}
    if host.get("RestartPolicy") and not translation.restarts:
        host["RestartPolicy"] = NO_RESTART
    labels = {ID_LABEL: translation.id, EPOCH_LABEL: str(translation.epoch)}
    result["Labels"] = {**(result.get("Labels") or {}), **labels}
    if not result.get("Hostname") and _has_own_name(host):
        result["Hostname"] = translation.id[:SHORT_ID]
    if "@" in (result.get("Image") or "") and translation.image_id:
        result["Image"] = translation.image_id
    if host:
        result["HostConfig"] = host
    if result.get("NetworkingConfig") or translation.addresses:
        result["NetworkingConfig"] = _networking(result.get("NetworkingConfig") or {}, translation)
    return result


def _has_own_name(host: Mapping[str, Any]) -> bool:
    """Whether the engine lets the container have a hostname: not where it shares that of a host or container."""
    mode = host.get("NetworkMode") or ""
    return mode != "host" and not mode.startswith(SHARED) and host.get("UTSMode") != "host"


def _host_config(host: Mapping[str, Any], translation: Translation) -> dict[str, Any]:
    result = dict(host)
    for field in MODES:
        if isinstance(result.get(field), str):
            result[field] = _mode(result[field], translation)
    if translation.default_network and (result.get("NetworkMode") or DEFAULT_MODE) == DEFAULT_MODE:
        result["NetworkMode"] = translation.default_network
    if result.get("VolumesFrom"):
        result["VolumesFrom"] = [_volumes_from(entry, translation) for entry in result["VolumesFrom"]]
    if result.get("Links") and not translation.linked:
        result["Links"] = _links(result["Links"], translation)
    return result


def _mode(mode: str, translation: Translation) -> str:
    if mode.startswith(SHARED):
        return SHARED + engine_ref(mode.removeprefix(SHARED), translation.containers)
    return translation.networks.get(mode, mode)


def _volumes_from(entry: str, translation: Translation) -> str:
    """`REF` or `REF:ro`."""
    ref, colon, mode = entry.partition(":")
    return engine_ref(ref, translation.containers) + colon + mode


def _links(links: list[str], translation: Translation) -> list[str]:
    return [_link(link, translation) for link in links]


def _link(link: str, translation: Translation) -> str:
    """`REF` or `REF:ALIAS`. Without an alias the reference is the alias: it must not change with the reference."""
    ref, colon, alias = link.partition(":")
    found = engine_ref(ref, translation.containers)
    return link if found == ref else f"{found}:{alias if colon else ref}"


def engine_ref(ref: str, containers: Mapping[str, str]) -> str:
    """What the engine calls a container that the client named by name, id, or an id's unique beginning."""
    if ref in containers or not ref:
        return containers.get(ref, ref)
    matching = {engine_id for cluster_id, engine_id in containers.items() if _begins(cluster_id, ref)}
    return matching.pop() if len(matching) == 1 else ref


def _begins(cluster_id: str, ref: str) -> bool:
    return len(cluster_id) == 64 and cluster_id.startswith(ref)


def _networking(networking: Mapping[str, Any], translation: Translation) -> dict[str, Any]:
    given = networking.get("EndpointsConfig") or {}
    known = {**translation.networks, DEFAULT_MODE: translation.default_network or DEFAULT_MODE}
    endpoints = {known.get(network, network): endpoint for network, endpoint in given.items()}
    for network, endpoint in endpoints.items():
        if endpoint and endpoint.get("Links"):
            endpoints[network] = {**endpoint, "Links": _links(endpoint["Links"], translation)}
    for network, address in translation.addresses.items():
        endpoints[network] = _without_alias(endpoints.get(network) or {}, translation.service)
        endpoints[network] = fixed_endpoint(endpoints.get(network) or {}, address)
    return {**networking, "EndpointsConfig": endpoints}


def _without_alias(endpoint: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    aliases = endpoint.get("Aliases") or []
    return {**endpoint, "Aliases": [one for one in aliases if one != name]} if name in aliases else endpoint


def fixed_endpoint(endpoint: Mapping[str, Any], address: FixedAddress) -> dict[str, Any]:
    """An endpoint's settings with a fixed address; for `connect` too."""
    ipam = {**(endpoint.get("IPAMConfig") or {}), "IPv4Address": address.ipv4}
    result = {**endpoint, "IPAMConfig": ipam}
    return {**result, "MacAddress": address.mac} if address.mac else result
