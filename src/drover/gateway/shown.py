"""What clients read of a container whose network and ports Drover carries: as their engine would have told it.

Theory of operation. The engine was told less than the client asked (`drivers.engine.translate`): no bindings, another
network's name. On the way back the fields of this table are put right; only those objects are decoded, everything
else stays byte for byte what the engine sent.

    field                                        shows
    HostConfig.PortBindings, PublishAllPorts     what the client asked
    HostConfig.Dns                               what the client asked
    HostConfig.NetworkMode                       what the client asked, on the default network
    HostConfig.Links, ExtraHosts                 the same, with links as the engine shows them
    NetworkSettings.Ports; a list's Ports        the ports that every host answers, while it runs
    NetworkSettings.Networks                     the default network as `bridge`; aliases as asked
    NetworkSettings.IPAddress and its like       those of the default network, as on `bridge`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from drover.decide.default_network import SHOWN_AS, asks_default, is_on_default
from drover.decide.overlay import DEFAULT_NETWORK_NAME
from drover.decide.ports import is_published_by_cluster, published
from drover.decide.resolve import resolve_container
from drover.errors import DroverError
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import parse_spec

Edit = Callable[[bytes], bytes]
TOP_FIELDS = ("EndpointID", "Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen", "IPAddress", "IPPrefixLen")
"""What the engine says of `bridge` beside its networks, too; with IPv6Gateway and MacAddress."""
ASKED_FIELDS = ("Dns", "ExtraHosts", "PortBindings", "PublishAllPorts")
Object = dict[str, msgspec.Raw]

_encode = msgspec.json.encode


def needs_showing(cluster: Cluster, record: r.Container) -> bool:
    """Whether the engine's own words differ from what the client should read."""
    return is_published_by_cluster(cluster, record) or is_on_default(cluster, record.id)


def inspected(cluster: Cluster, record: r.Container, bridge: str) -> Edit:
    """The edit of an inspect answer. `bridge`: the id under which the engines' `bridge` is shown."""

    def edit(body: bytes) -> bytes:
        whole = _object(body)
        if "HostConfig" not in whole or "NetworkSettings" not in whole:
            return body
        runs = bool(msgspec.json.decode(whole["State"], type=dict[str, Any]).get("Running"))
        host = _host_config(cluster, record, _object(whole["HostConfig"]))
        settings = _settings(cluster, record, _object(whole["NetworkSettings"]), bridge, runs)
        return _encode({**whole, "HostConfig": host, "NetworkSettings": settings}) + b"\n"

    return edit


def listed(cluster: Cluster, record: r.Container, bridge: str, element: bytes) -> bytes:
    """One element of a list."""
    whole = _object(element)
    host, settings = _decoded(whole["HostConfig"]), _object(whole["NetworkSettings"])
    if is_on_default(cluster, record.id) and asks_default(parse_spec(record.body)):
        host = {**host, "NetworkMode": parse_spec(record.body).network_mode}
    networks = _networks(cluster, record, _decoded(settings["Networks"]), bridge)
    ports = _listed_ports(
        cluster, record, msgspec.json.decode(whole["Ports"]) or [], bytes(whole["State"]) == b'"running"'
    )
    shown = {"HostConfig": host, "NetworkSettings": {**settings, "Networks": networks}, "Ports": ports}
    return _encode({**whole, **shown})


def _object(text: bytes | msgspec.Raw) -> Object:
    return msgspec.json.decode(text, type=dict[str, msgspec.Raw])


def _decoded(text: bytes | msgspec.Raw) -> dict[str, Any]:
    return msgspec.json.decode(text, type=dict[str, Any] | None) or {}


class _Asked(msgspec.Struct, rename="pascal"):
    host_config: dict[str, Any] | None = None


def _host_config(cluster: Cluster, record: r.Container, host: Object) -> dict[str, Any]:
    asked = msgspec.json.decode(record.body or "{}", type=_Asked).host_config or {}
    shown: dict[str, Any] = {name: asked.get(name) for name in ASKED_FIELDS}
    if not asked.get("PortBindings"):
        shown["PortBindings"] = {}
    shown["PublishAllPorts"] = bool(asked.get("PublishAllPorts"))
    if is_on_default(cluster, record.id) and asks_default(parse_spec(record.body)):
        shown["NetworkMode"] = asked.get("NetworkMode") or "default"
        shown["Links"] = [_link(cluster, record, link) for link in asked.get("Links") or ()] or None
    return {**host, **shown}


def _link(cluster: Cluster, record: r.Container, link: str) -> str:
    """`db:alias` as an engine shows it: `/db:/web/alias`."""
    ref, _, alias = link.partition(":")
    try:
        name = resolve_container(cluster, ref).name
    except DroverError:
        name = ref
    return f"/{name}:/{record.name}/{alias or ref}"


def _settings(cluster: Cluster, record: r.Container, settings: Object, bridge: str, runs: bool) -> dict[str, Any]:
    networks = _networks(cluster, record, _decoded(settings["Networks"]), bridge)
    shown: dict[str, Any] = {"Networks": networks}
    if runs:
        shown["Ports"] = {**_decoded(settings["Ports"]), **_ports(cluster, record)}
    own = networks.get(SHOWN_AS)
    if own is not None and is_on_default(cluster, record.id):
        shown |= {name: own[name] for name in (*TOP_FIELDS, "IPv6Gateway", "MacAddress") if name in own}
    return {**settings, **shown}


def _networks(
    cluster: Cluster, record: r.Container, networks: Mapping[str, Any], bridge: str
) -> dict[str, dict[str, Any]]:
    """The endpoints by network name, in the order in which a map is written."""
    shown = {}
    for name, endpoint in networks.items():
        if name == DEFAULT_NETWORK_NAME and is_on_default(cluster, record.id):
            shown[SHOWN_AS] = {**endpoint, **_as_bridge(endpoint, bridge)}
        else:
            shown[name] = {**endpoint, **_aliases(cluster, record, name, endpoint)}
    return dict(sorted(shown.items()))


def _as_bridge(endpoint: Mapping[str, Any], bridge: str) -> dict[str, Any]:
    """What an engine does not say of an endpoint on `bridge`."""
    bare = {name: None for name in ("IPAMConfig", "Links", "Aliases") if name in endpoint}
    return {**bare, "NetworkID": bridge or endpoint.get("NetworkID", "")}


def _aliases(cluster: Cluster, record: r.Container, network: str, endpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The aliases asked for, which the engine may not have been told all, before its own."""
    asked = parse_spec(record.body).networks
    wish = asked.get(network) or asked.get(cluster.network_names.get(network, r.Name(id="")).id)
    has = endpoint.get("Aliases") or []
    if wish is None or set(wish.aliases) <= set(has):
        return {}
    return {"Aliases": [*wish.aliases, *(alias for alias in has if alias not in wish.aliases)]}


def _ports(cluster: Cluster, record: r.Container) -> dict[str, list[dict[str, str]]]:
    """`80/tcp` to its bindings, as the engine shows them."""
    shown: dict[str, list[dict[str, str]]] = {}
    for claim in published(cluster, record):
        binding = {"HostIp": claim.host_ip or "0.0.0.0", "HostPort": str(claim.port)}
        shown.setdefault(f"{claim.container_port}/{claim.protocol}", []).append(binding)
    return shown


def _listed_ports(
    cluster: Cluster, record: r.Container, ports: list[dict[str, Any]], runs: bool
) -> list[dict[str, Any]]:
    """The ports of a list's element: those published, and the engine's other ones, in the engine's order."""
    claims = published(cluster, record) if runs else []
    bound = {(claim.container_port, claim.protocol) for claim in claims}
    kept = [port for port in ports if (port.get("PrivatePort"), port.get("Type")) not in bound]
    return kept + [
        {
            "IP": claim.host_ip or "0.0.0.0",
            "PrivatePort": claim.container_port,
            "PublicPort": claim.port,
            "Type": claim.protocol,
        }
        for claim in claims
    ]
