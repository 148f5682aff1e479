"""A service's networks and published ports, as its containers' create call and the networks joined after it.

Engines before API 1.44 take one network at creation. So a container is made on the first (by priority, then by name)
and joins the others before it starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drover.errors import Invalid
from drover.manifest.body import container_name
from drover.manifest.values import mapping, whole

Endpoints = dict[str, dict[str, Any]]


def endpoints(app: str, name: str, service: Mapping[str, Any], networks: Mapping[str, str]) -> Endpoints:
    """Full network name to endpoint settings, the container's first network first. Empty where `network_mode` says
    otherwise. Raises `Invalid` for a network that is not declared."""
    if service.get("network_mode"):
        return {}
    asked = mapping(service.get("networks") or {"default": None}, f"services.{name}.networks")
    for network in asked:
        if network not in networks:
            raise Invalid(f"services.{name} uses the network {network}, which the manifest does not declare")
    links = _links(app, service)
    return {
        networks[network]: _endpoint(name, mapping(asked[network], name), links) for network in _in_order(name, asked)
    }


def _in_order(name: str, asked: Mapping[str, Any]) -> list[str]:
    def rank(network: str) -> tuple[int, str]:
        priority = mapping(asked[network], name).get("priority") or 0
        return -whole(priority, f"services.{name}.networks.{network}.priority"), network

    return sorted(asked, key=rank)


def _endpoint(name: str, asked: dict[str, Any], links: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"Aliases": list(dict.fromkeys([name, *(asked.get("aliases") or ())]))}
    if asked.get("mac_address"):
        found["MacAddress"] = str(asked["mac_address"])
    if asked.get("driver_opts"):
        found["DriverOpts"] = {key: str(value) for key, value in asked["driver_opts"].items()}
    if links:
        found["Links"] = links
    return found


def _links(app: str, service: Mapping[str, Any]) -> list[str]:
    """`SERVICE[:ALIAS]` and `CONTAINER[:ALIAS]` as `CONTAINER:ALIAS`."""
    own = [_split(str(link)) for link in service.get("links") or ()]
    others = [_split(str(link)) for link in service.get("external_links") or ()]
    first = [f"{container_name(app, target, '1')}:{alias}" for target, alias in own]
    return [*first, *(f"{target}:{alias}" for target, alias in others)]


def _split(link: str) -> tuple[str, str]:
    target, _, alias = link.partition(":")
    return target, alias or target


def fixed_addresses(name: str, service: Mapping[str, Any], networks: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Full network name to the addresses of the service's containers, in their order: `ipv4_address`, or those of
    `x-drover.addresses`: a list where there is one network, else a mapping of networks to lists."""
    asked = mapping(service.get("networks") or {"default": None}, f"services.{name}.networks")
    found: dict[str, tuple[str, ...]] = {
        networks[network]: (str(one["ipv4_address"]),)
        for network, one in asked.items()
        if isinstance(one, dict) and one.get("ipv4_address")
    }
    given = mapping(service.get("x-drover"), f"services.{name}.x-drover").get("addresses")
    if isinstance(given, list):
        given = {next(iter(asked)): given} if len(asked) == 1 else {}
        if not given:
            raise Invalid(
                f"services.{name}.x-drover.addresses is a list, and the service has {len(asked)} networks",
                hint="write a mapping: {NETWORK: [ADDRESS, …]}",
            )
    for network, addresses in mapping(given, f"services.{name}.x-drover.addresses").items():
        if network not in asked:
            raise Invalid(f"services.{name}.x-drover.addresses names {network}, a network that the service is not on")
        found[networks[network]] = tuple(map(str, addresses if isinstance(addresses, list) else [addresses]))
    return found


def port_bindings(service: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """`{80/tcp: [{HostIp, HostPort}]}`; a port without a published one gets any."""
    found: dict[str, list[dict[str, str]]] = {}
    for port in service.get("ports") or ():
        inner = f"{port['target']}/{port.get('protocol') or 'tcp'}"
        binding = {"HostIp": str(port.get("host_ip") or ""), "HostPort": str(port.get("published") or "")}
        found.setdefault(inner, []).append(binding)
    return found


def publishes_on_host(service: Mapping[str, Any]) -> bool:
    return any(port.get("mode") == "host" for port in service.get("ports") or ())
