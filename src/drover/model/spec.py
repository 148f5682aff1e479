"""`Spec`: what a Docker create body asks of the cluster, as one frozen value.

Theory of operation. A body (`POST /containers/create`) is kept verbatim in the container's record; whatever the
cluster has to decide on is read from it here, once per text. As in Go's decoder `null` is the same as absent and
unknown fields are ignored; a field of a wrong type is `Invalid`.

    field of Spec       read from
    image               Image
    memory_bytes        HostConfig.MemoryReservation, else HostConfig.Memory
    cpus                the label `drover.cpus`, else HostConfig.NanoCpus / 1e9
    ports, exposed      HostConfig.PortBindings; ExposedPorts
    volumes             HostConfig.Binds `name:/path[:options]`; HostConfig.Mounts of type volume with a Source
    anonymous           Volumes; HostConfig.Mounts of type volume without a Source
    binds               HostConfig.Binds `/path:/path[:options]`; HostConfig.Mounts of type bind
    volumes_from, links HostConfig.VolumesFrom, HostConfig.Links: references to containers
    network_mode        HostConfig.NetworkMode (empty is `default`)
    networks            NetworkingConfig.EndpointsConfig
    dns                 HostConfig.Dns
    devices             HostConfig.Devices: their paths on the host
    pid, ipc            HostConfig.PidMode, HostConfig.IpcMode, when `container:REF`: the reference
    restart_rules       the labels `drover.restart.…` (`model.restart_rules`)
    stop_timeout_s      StopTimeout (negative: as long as it takes; none: the engine's 10 s)
    log_driver          HostConfig.LogConfig.Type (empty: the engine's default)
    constraints         Env `constraint:KEY==VALUE`; the label `drover.constraint`
    affinities          Env `affinity:KEY==VALUE`; the label `drover.affinity`
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from drover.errors import Invalid
from drover.model.expression import Expression, parse_expression, parse_list
from drover.model.restart_rules import RestartRules, restart_rules
from drover.wire.nesting import MALFORMED

CONSTRAINT_ENV = "constraint:"
AFFINITY_ENV = "affinity:"
CONSTRAINT_LABEL = "drover.constraint"
AFFINITY_LABEL = "drover.affinity"
PUBLISH_LABEL = "drover.publish"
CPUS_LABEL = "drover.cpus"
PROTOCOLS = ("tcp", "udp", "sctp")
STOP_TIMEOUT_S = 10
"""How long an engine waits for a container to stop before it kills it, where nothing else is said."""
ENGINE_NETWORKS = frozenset({"bridge", "host", "none"})


class PublishedPort(msgspec.Struct, frozen=True):
    """A published port. `first`..`last` are the host ports that will do: equal for one port, 0 for any free one."""

    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""
    first: int = 0
    last: int = 0

    @property
    def any(self) -> bool:
        return self.first == 0


class VolumeUse(msgspec.Struct, frozen=True):
    """A named volume mounted at `target`; `driver` as asked in Mounts (empty: the default)."""

    name: str
    target: str
    read_only: bool = False
    driver: str = ""


class Endpoint(msgspec.Struct, frozen=True):
    """What is asked of one network: a fixed address (empty: any) and names beside the container's own."""

    ipv4: str = ""
    aliases: tuple[str, ...] = ()
    mac: str = ""
    links: tuple[str, ...] = ()
    """`REF` or `REF:ALIAS`: names that only this container uses for others."""
    ipv6: str = ""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What one create body asks for; the module's table says where each field comes from."""

    image: str = ""
    hostname: str = ""
    mac: str = ""
    labels: Mapping[str, str] = {}
    memory_bytes: int = 0
    cpus: float = 0.0
    ports: tuple[PublishedPort, ...] = ()
    exposed: tuple[tuple[int, str], ...] = ()
    publish_all: bool = False
    volumes: tuple[VolumeUse, ...] = ()
    anonymous: tuple[str, ...] = ()
    binds: tuple[str, ...] = ()
    volumes_from: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    network_mode: str = "default"
    networks: Mapping[str, Endpoint] = {}
    dns: tuple[str, ...] = ()
    pid: str = ""
    ipc: str = ""
    constraints: tuple[Expression, ...] = ()
    affinities: tuple[Expression, ...] = ()
    auto_remove: bool = False
    log_driver: str = ""
    devices: tuple[str, ...] = ()
    restart_policy: str = "no"
    restart_max: int = 0
    restart_rules: RestartRules = RestartRules()
    stop_timeout_s: int = STOP_TIMEOUT_S

    @property
    def network_container(self) -> str:
        """The container whose network is shared (`container:REF`), or empty."""
        return _container_ref(self.network_mode)

    @property
    def network_refs(self) -> tuple[str, ...]:
        """The networks it joins when created, by name or id. As in the engine, endpoints given count instead of
        the mode; a container that shares another's network joins none."""
        if self.network_container:
            return ()
        return tuple(self.networks) or (self.network_mode,)

    @property
    def publishes_on_host(self) -> bool:
        """Whether its host's engine publishes its ports, on that host only: where the label `drover.publish` says
        `host`, and for containers on no network but an engine's own."""
        own = all(ref in ENGINE_NETWORKS for ref in self.network_refs)
        return own or self.labels.get(PUBLISH_LABEL) == "host"

    @property
    def volume_names(self) -> tuple[str, ...]:
        """The names of its named volumes, each once."""
        return tuple(dict.fromkeys(use.name for use in self.volumes))


class _Binding(msgspec.Struct, rename="pascal"):
    host_ip: str | None = None
    host_port: str | None = None


class _DriverConfig(msgspec.Struct, rename="pascal"):
    name: str | None = None


class _VolumeOptions(msgspec.Struct, rename="pascal"):
    driver_config: _DriverConfig | None = None


class _Mount(msgspec.Struct, rename="pascal"):
    type: str | None = None
    source: str | None = None
    target: str | None = None
    read_only: bool | None = None
    volume_options: _VolumeOptions | None = None


class _Restart(msgspec.Struct, rename="pascal"):
    name: str | None = None
    maximum_retry_count: int | None = None


class _LogConfig(msgspec.Struct, rename="pascal"):
    type: str | None = None


class _Device(msgspec.Struct, rename="pascal"):
    path_on_host: str | None = None


class _HostConfig(msgspec.Struct, rename="pascal"):
    memory: int | None = None
    memory_reservation: int | None = None
    nano_cpus: int | None = None
    port_bindings: dict[str, list[_Binding | None] | None] | None = None
    publish_all_ports: bool | None = None
    binds: list[str] | None = None
    mounts: list[_Mount] | None = None
    volumes_from: list[str] | None = None
    links: list[str] | None = None
    network_mode: str | None = None
    dns: list[str] | None = None
    pid_mode: str | None = None
    ipc_mode: str | None = None
    auto_remove: bool | None = None
    log_config: _LogConfig | None = None
    devices: list[_Device | None] | None = None
    restart_policy: _Restart | None = None


class _Ipam(msgspec.Struct):
    ipv4: str | None = msgspec.field(name="IPv4Address", default=None)
    ipv6: str | None = msgspec.field(name="IPv6Address", default=None)


class _Endpoint(msgspec.Struct, rename="pascal"):
    ipam: _Ipam | None = msgspec.field(name="IPAMConfig", default=None)
    aliases: list[str] | None = None
    mac_address: str | None = None
    links: list[str] | None = None


class _Networking(msgspec.Struct, rename="pascal"):
    endpoints_config: dict[str, _Endpoint | None] | None = None


class _Body(msgspec.Struct, rename="pascal"):
    image: str | None = None
    stop_timeout: int | None = None
    hostname: str | None = None
    mac_address: str | None = None
    env: list[str] | None = None
    labels: dict[str, str] | None = None
    volumes: dict[str, Any] | None = None
    exposed_ports: dict[str, Any] | None = None
    host_config: _HostConfig | None = None
    networking_config: _Networking | None = None


_decoder = msgspec.json.Decoder(_Body | None)


def spec_of(body: Mapping[str, Any]) -> Spec:
    """The `Spec` of a decoded body. Raises `Invalid` with a sentence that names the field."""
    try:
        return _spec(msgspec.convert(body, _Body))
    except msgspec.ValidationError as error:
        raise _wrong_type(error) from error


@lru_cache(maxsize=131_072)
def parse_spec(body_text: str) -> Spec:
    """The `Spec` of a body's JSON text (empty: an empty body), parsed once per text. Raises `Invalid`."""
    try:
        return _spec(_decoder.decode(body_text or "{}") or _Body())
    except msgspec.ValidationError as error:
        raise _wrong_type(error) from error
    except MALFORMED as error:
        raise Invalid(f"the container's configuration is not JSON: {error}") from error


def strip_scheduling_env(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body as an engine gets it: `Env` without `constraint:` and `affinity:` entries, order kept."""
    env = body.get("Env")
    if not isinstance(env, list):
        return dict(body)
    return {**body, "Env": [entry for entry in env if not _is_scheduling(entry)]}


def _is_scheduling(entry: object) -> bool:
    return isinstance(entry, str) and entry.startswith((CONSTRAINT_ENV, AFFINITY_ENV))


def _wrong_type(error: msgspec.ValidationError) -> Invalid:
    what = str(error).replace("`$.", "`").replace("$[...]", "a value").replace(" - at ", " at ")
    return Invalid(
        f"the container's configuration has a field of a wrong type: {what}",
        hint="see the Docker Engine API, POST /containers/create",
    )


def _spec(body: _Body) -> Spec:
    host = body.host_config or _HostConfig()
    restart = host.restart_policy or _Restart()
    env = body.env or []
    labels = body.labels or {}
    return Spec(
        image=body.image or "",
        hostname=body.hostname or "",
        mac=body.mac_address or "",
        labels=labels,
        memory_bytes=max(0, host.memory_reservation or host.memory or 0),
        cpus=_cpus(labels, host),
        ports=_ports(host.port_bindings or {}),
        exposed=tuple(container_port(port) for port in body.exposed_ports or {}),
        publish_all=host.publish_all_ports or False,
        volumes=_named_volumes(host),
        anonymous=_anonymous_volumes(body, host),
        binds=_host_paths(host),
        volumes_from=tuple(ref.partition(":")[0] for ref in host.volumes_from or ()),
        links=tuple(link.partition(":")[0] for link in host.links or ()),
        network_mode=host.network_mode or "default",
        dns=tuple(host.dns or ()),
        networks=_networks(body.networking_config or _Networking()),
        pid=_container_ref(host.pid_mode or ""),
        ipc=_container_ref(host.ipc_mode or ""),
        constraints=_expressions(env, labels, CONSTRAINT_ENV, CONSTRAINT_LABEL),
        affinities=_expressions(env, labels, AFFINITY_ENV, AFFINITY_LABEL),
        auto_remove=host.auto_remove or False,
        log_driver=(host.log_config and host.log_config.type) or "",
        devices=tuple(one.path_on_host for one in host.devices or () if one and one.path_on_host),
        restart_policy=restart.name or "no",
        restart_max=restart.maximum_retry_count or 0,
        restart_rules=restart_rules(labels),
        stop_timeout_s=STOP_TIMEOUT_S if body.stop_timeout is None else body.stop_timeout,
    )


def _cpus(labels: Mapping[str, str], host: _HostConfig) -> float:
    """What is reserved where that is said, else the limit. Raises `Invalid` for a label that is no number."""
    text = labels.get(CPUS_LABEL)
    if not text:
        return max(0, host.nano_cpus or 0) / 1e9
    try:
        return max(0.0, float(text))
    except ValueError as error:
        raise Invalid(f"the label {CPUS_LABEL}={text} is no number of processors") from error


def _container_ref(mode: str) -> str:
    """`container:REF` gives REF; any other mode gives an empty text."""
    return mode[len("container:") :] if mode.startswith("container:") else ""


def _expressions(env: Iterable[str], labels: Mapping[str, str], prefix: str, label: str) -> tuple[Expression, ...]:
    kind = prefix.rstrip(":")
    from_env = tuple(parse_expression(entry[len(prefix) :], kind) for entry in env if entry.startswith(prefix))
    return from_env + parse_list(labels.get(label, ""), kind)


def _networks(networking: _Networking) -> dict[str, Endpoint]:
    return {name: _endpoint(wish or _Endpoint()) for name, wish in (networking.endpoints_config or {}).items()}


def _endpoint(wish: _Endpoint) -> Endpoint:
    ipam = wish.ipam or _Ipam()
    return Endpoint(
        ipv4=ipam.ipv4 or "",
        ipv6=ipam.ipv6 or "",
        aliases=tuple(wish.aliases or ()),
        mac=wish.mac_address or "",
        links=tuple(wish.links or ()),
    )


def _ports(bindings: Mapping[str, list[_Binding | None] | None]) -> tuple[PublishedPort, ...]:
    return tuple(_published(port, one or _Binding()) for port, many in bindings.items() for one in many or ())


def _published(port: str, binding: _Binding) -> PublishedPort:
    number, protocol = container_port(port)
    first, last = _host_ports(binding.host_port or "")
    return PublishedPort(number, protocol, binding.host_ip or "", first, last)


def container_port(text: str) -> tuple[int, str]:
    """`80/tcp` or `80` (tcp) as (number, protocol)."""
    number, _, protocol = text.partition("/")
    protocol = (protocol or "tcp").lower()
    if protocol not in PROTOCOLS:
        raise Invalid(f'invalid port "{text}": the protocol must be one of {", ".join(PROTOCOLS)}')
    return _port_number(number, number), protocol


def _host_ports(text: str) -> tuple[int, int]:
    """`8080`, `8000-8010`, or empty or `0` (any free port: 0, 0)."""
    if text in ("", "0"):
        return 0, 0
    first, _, last = text.partition("-")
    low, high = _port_number(first, text), _port_number(last or first, text)
    if low > high:
        raise Invalid(f'invalid port range "{text}": it ends before it starts')
    return low, high


def _port_number(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise Invalid(f'invalid port specification: "{whole}"')  # the engine's words
    return int(text)


def _named_volumes(host: _HostConfig) -> tuple[VolumeUse, ...]:
    from_binds = tuple(_volume_of_bind(bind) for bind in host.binds or () if _is_named(bind))
    return from_binds + tuple(_volume_of_mount(mount) for mount in _mounts(host, "volume") if mount.source)


def _is_named(bind: str) -> bool:
    source, _, target = bind.partition(":")
    return bool(source and target) and not source.startswith(("/", ".", "~"))


def _volume_of_bind(bind: str) -> VolumeUse:
    name, target, *options = bind.split(":")
    return VolumeUse(name, target, read_only="ro" in ",".join(options).split(","))


def _volume_of_mount(mount: _Mount) -> VolumeUse:
    options = mount.volume_options or _VolumeOptions()
    driver = options.driver_config.name if options.driver_config else None
    return VolumeUse(mount.source or "", mount.target or "", mount.read_only or False, driver or "")


def _mounts(host: _HostConfig, kind: str) -> list[_Mount]:
    return [mount for mount in host.mounts or () if mount.type == kind]


def _anonymous_volumes(body: _Body, host: _HostConfig) -> tuple[str, ...]:
    from_mounts = tuple(mount.target or "" for mount in _mounts(host, "volume") if not mount.source)
    return tuple(body.volumes or ()) + from_mounts


def _host_paths(host: _HostConfig) -> tuple[str, ...]:
    from_binds = tuple(bind.partition(":")[0] for bind in host.binds or () if bind.startswith("/"))
    return from_binds + tuple(mount.source or "" for mount in _mounts(host, "bind"))
