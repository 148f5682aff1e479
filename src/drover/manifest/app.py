"""`read_app`: a canonical manifest as an application's record, with what of it is not honoured.

Theory of operation. The canonical form is what `docker compose config` prints: short forms long, names resolved,
profiles applied. It is judged as it stands: what is not a mapping where it must be, or names what is not declared, is
`Invalid`. Nothing here knows the cluster; the contents of configs and secrets come in beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from drover.errors import Invalid
from drover.manifest.body import container_name, create_body
from drover.manifest.doubts import doubts, notes
from drover.manifest.endpoints import endpoints, fixed_addresses, port_bindings
from drover.manifest.keys import unhonoured
from drover.manifest.mounts import file_uses
from drover.manifest.rollouts import dependencies, labels_of, mode_of, policy_of, replicas_of, schedule_of
from drover.manifest.values import mapping
from drover.model.apps import (
    FILES_LABEL,
    NETWORK_LABEL,
    PROJECT_LABEL,
    SERVICE_LABEL,
    VOLUME_LABEL,
    FileUse,
    Resource,
    Service,
)
from drover.model.records import App

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
FileIds = Mapping[tuple[str, str], str]
"""(`configs` or `secrets`, its key in the manifest) to the id of its content."""
_encode = msgspec.json.Encoder(order="deterministic").encode


class Read(msgspec.Struct, frozen=True):
    """The record, without number and times, and what a person should know beside `app.warnings`."""

    app: App
    notes: tuple[str, ...] = ()


def read_app(canonical: Mapping[str, Any], name: str, files: FileIds) -> Read:
    """Raises `Invalid` with a sentence that names the key."""
    if not NAME.fullmatch(name):
        raise Invalid(
            f"{name!r} is no name for an application: small letters, digits, - and _ only",
            hint="give one with --name, or `name:` in the manifest",
        )
    services = mapping(canonical.get("services"), "services")
    if not services:
        raise Invalid("the manifest has no services", hint="is a profile missing? see `drover deploy --help`")
    networks = _names(canonical, "networks", name)
    volumes = _names(canonical, "volumes", name)
    made: dict[str, Service] = {}
    said = unhonoured(dict(canonical))
    told: list[str] = []
    for key, one in services.items():
        with _of_compose(f"services.{key}"):
            asked = mapping(one, f"services.{key}")
            made[key] = _service(name, key, asked, networks, volumes, files)
            said += doubts(key, asked, bool(made[key].addresses))
            told += notes(key, asked)
    _check_dependencies(made)
    with _of_compose("networks or volumes"):
        app = App(
            name=name,
            services=made,
            networks=tuple(_networks(canonical, networks, name)),
            volumes=tuple(_volumes(canonical, volumes, name)),
            warnings=tuple(dict.fromkeys(said)),
        )
    return Read(app, tuple(dict.fromkeys(told)))


@contextlib.contextmanager
def _of_compose(where: str) -> Iterator[None]:
    """What Compose prints has the shape that the code below relies on; what came from elsewhere may not. Raises
    `Invalid` for it, with what was met."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise Invalid(
            f"{where} is not in Compose's canonical form: {type(error).__name__}: {error}",
            hint="see what `docker compose config --format json` makes of the file",
        ) from error


def _names(canonical: Mapping[str, Any], table: str, app: str) -> dict[str, str]:
    """Key to full name; the network `default` is there unasked."""
    declared = mapping(canonical.get(table), table)
    if table == "networks":
        declared = {"default": None, **declared}
    return {key: str(mapping(one, f"{table}.{key}").get("name") or f"{app}_{key}") for key, one in declared.items()}


def _service(
    app: str,
    name: str,
    asked: dict[str, Any],
    networks: Mapping[str, str],
    volumes: Mapping[str, str],
    files: FileIds,
) -> Service:
    where = f"services.{name}"
    asked = {**asked, "image": asked.get("image") or (f"{app}-{name}" if asked.get("build") else None)}
    if not asked["image"]:
        raise Invalid(f"{where} has neither an image nor a build")
    uses = file_uses(asked, files, where)
    body = create_body(app, asked, volumes, where)
    joined = endpoints(app, name, asked, networks)
    body["Labels"] = {**(body.get("Labels") or {}), **labels_of(asked, where), **_own_labels(app, name, uses)}
    _add_ports(body, asked)
    first, *others = joined or [""]
    if first:
        body["HostConfig"]["NetworkMode"] = first
        body["NetworkingConfig"] = {"EndpointsConfig": {first: joined[first]}}
    found = Service(
        body=_encode(body).decode(),
        hash="",
        mode=mode_of(asked, where),
        replicas=replicas_of(asked, where),
        name=str(asked.get("container_name") or ""),
        platform=str(asked.get("platform") or ""),
        pull=str(asked.get("pull_policy") or "missing"),
        depends_on=dependencies(asked, where),
        update=policy_of(asked, "update_config", where),
        rollback=policy_of(asked, "rollback_config", where),
        addresses=fixed_addresses(name, asked, networks),
        joins={network: _encode(joined[network]).decode() for network in others},
        schedule=schedule_of(asked, where),
        files=uses,
        labels=_labels(asked, where),
    )
    _check_name(name, found)
    return msgspec.structs.replace(found, hash=digest(found))


def digest(service: Service) -> str:
    """What a container of the service is made of, in short: what differs here makes a new container."""
    made_of = [service.body, service.name, service.platform, sorted(service.joins.items())]
    fixed = sorted((network, list(ips)) for network, ips in service.addresses.items())
    return hashlib.sha256(_encode([*made_of, fixed, service.is_job])).hexdigest()[:16]


def _own_labels(app: str, name: str, uses: tuple[FileUse, ...]) -> dict[str, str]:
    labels = {PROJECT_LABEL: app, SERVICE_LABEL: name, "com.docker.compose.oneoff": "False"}
    return {**labels, **({FILES_LABEL: _encode(uses).decode()} if uses else {})}


def _add_ports(body: dict[str, Any], asked: Mapping[str, Any]) -> None:
    bindings = port_bindings(asked)
    if bindings:
        body["HostConfig"]["PortBindings"] = bindings
        body["ExposedPorts"] = {**(body.get("ExposedPorts") or {}), **{port: {} for port in bindings}}


def _labels(asked: Mapping[str, Any], where: str) -> dict[str, str]:
    """`deploy.labels`: of the service, not of its containers."""
    given = mapping(asked.get("deploy"), where).get("labels")
    return {name: str(value or "") for name, value in mapping(given, f"{where}.deploy.labels").items()}


def _check_name(name: str, service: Service) -> None:
    if service.name and service.mode == "replicated" and service.replicas > 1:
        raise Invalid(
            f"services.{name} has a container_name and {service.replicas} replicas: two containers cannot share a name",
            hint="leave container_name out",
        )


def _check_dependencies(services: Mapping[str, Service]) -> None:
    for name, service in services.items():
        for wanted in service.depends_on:
            if wanted.required and wanted.service not in services:
                raise Invalid(
                    f"services.{name} depends on {wanted.service}, which is not in the manifest",
                    hint=f"is it in a profile? --profile NAME, or depends_on.{wanted.service}.required: false",
                )
            if wanted.service == name:
                raise Invalid(f"services.{name} depends on itself")


def slot_name(app: str, key: str, service: Service, slot: str) -> str:
    """The name of the container of a slot."""
    return service.name or container_name(app, key, slot)


def _networks(canonical: Mapping[str, Any], names: Mapping[str, str], app: str) -> list[Resource]:
    """The declared networks, and `default` where a service is on it."""
    declared = mapping(canonical.get("networks"), "networks")
    services = mapping(canonical.get("services"), "services").values()
    unnamed = any(
        "default" in (one.get("networks") or {"default": None}) and not one.get("network_mode") for one in services
    )
    keys = [*declared, *(["default"] if unnamed and "default" not in declared else [])]
    return [
        _resource(names[key], mapping(declared.get(key), f"networks.{key}"), _network_body(app, key, declared.get(key)))
        for key in keys
    ]


def _resource(name: str, asked: Mapping[str, Any], body: dict[str, Any]) -> Resource:
    """An external one has no body: it is not made, nor removed."""
    return Resource(name) if asked.get("external") else Resource(name, _encode({"Name": name, **body}).decode())


def _network_body(app: str, key: str, declared: Any) -> dict[str, Any]:
    asked = mapping(declared, f"networks.{key}")
    ipam = mapping(asked.get("ipam"), f"networks.{key}.ipam")
    body: dict[str, Any] = {
        "CheckDuplicate": True,
        "Driver": asked.get("driver") or "bridge",
        "Options": {name: str(value) for name, value in mapping(asked.get("driver_opts"), key).items()},
        "Internal": bool(asked.get("internal")),
        "Attachable": bool(asked.get("attachable")),
        "Labels": {**_plain(asked.get("labels"), key), PROJECT_LABEL: app, NETWORK_LABEL: key},
    }
    if ipam:
        config = [_pool(mapping(one, key)) for one in ipam.get("config") or ()]
        body["IPAM"] = {"Driver": ipam.get("driver") or "default", "Config": config, "Options": ipam.get("options")}
    return body


def _pool(asked: Mapping[str, Any]) -> dict[str, Any]:
    fields = {"subnet": "Subnet", "gateway": "Gateway", "ip_range": "IPRange", "aux_addresses": "AuxiliaryAddresses"}
    return {field: asked[key] for key, field in fields.items() if asked.get(key)}


def _volumes(canonical: Mapping[str, Any], names: Mapping[str, str], app: str) -> list[Resource]:
    declared = mapping(canonical.get("volumes"), "volumes")
    return [
        _resource(names[key], mapping(one, key), _volume_body(app, key, mapping(one, f"volumes.{key}")))
        for key, one in declared.items()
    ]


def _volume_body(app: str, key: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    own = mapping(asked.get("x-drover"), f"volumes.{key}.x-drover")
    options = {**_plain(asked.get("driver_opts"), key), **_plain(own, key)}
    labels = {**_plain(asked.get("labels"), key), PROJECT_LABEL: app, VOLUME_LABEL: key}
    return {"Driver": asked.get("driver") or "local", "DriverOpts": options, "Labels": labels}


def _plain(value: Any, where: str) -> dict[str, str]:
    return {name: str(inner) for name, inner in mapping(value, where).items()}
