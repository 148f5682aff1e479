"""Can a host take a container? An ordered table of filters; the first refusal is the reason.

Theory of operation. `Question` holds what is the same for all hosts and is worked out once per placement; each filter
then looks at one `HostView` only. A filter returns None or why not, as the rest of a sentence that begins with the
host's name: `h2: is down since …`. What a host has not reported is never assumed. `FILTERS`, in order:

    filter       refuses a host that
    member       is down, not completely joined, or has not reported its engine
    drain        is draining, paused or shutting down
    taint        is tainted, and the container does not tolerate it (`decide.fit_machine`)
    constraint   does not satisfy a constraint (soft ones only rank)
    platform     has another processor architecture than the one asked for
    near         is not the host of a container or volume that it depends on (host paths bind it to no host)
    volume       cannot be given a volume that is elsewhere and unused (where volumes may be moved for a container)
    port         has a published host port taken (of a range: all of them)
    device       lacks a device that the container is given
    disk         has less disk free than the label `drover.disk` asks for
    memory       has less memory left than reserved by the container
    cpu          has fewer processors left than reserved by the container
    affinity     runs, or does not run, what an affinity asks for (soft ones only rank)
    crowd        runs as many containers of the service as the label `drover.max_per_host` allows
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from drover.decide.fit_machine import DISK_LABEL, deviceless, too_small, untolerated
from drover.decide.health import NOTHING_NEW
from drover.decide.moves import unmovable, users_at
from drover.decide.sentences import container_name, cores, size
from drover.decide.views import HostView, HostViews, PortKey, nano_cpus
from drover.decide.wanted import Near, Wanted
from drover.model import records as r
from drover.model.apps import MAX_PER_HOST_LABEL, SPREAD_LABEL
from drover.model.cluster import Cluster
from drover.model.expression import Expression
from drover.model.spec import PublishedPort, Spec, parse_spec

ENGINE_FACTS = {
    "operatingsystem": "os",
    "kernelversion": "kernel",
    "architecture": "arch",
    "storagedriver": "storage_driver",
    "engineversion": "engine_version",
}
"""Keys of constraints to the fields of `HostFacts` they mean."""
_HOST_KEYS = ("host", "node")
ZONE = "zone"
STRATEGY_LABEL = "drover.strategy"
CROWD = 100_000
"""More containers of one family than any zone has."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386", "i386": "386"}
_SYSTEMS = ("linux", "windows", "darwin", "freebsd")
_LABEL_PREFIX = "label."


class Pin(msgspec.Struct, frozen=True):
    """Only `host` will do (empty: none will); `why` refuses any other."""

    host: str
    why: str


class Pull(msgspec.Struct, frozen=True):
    """An affinity and the hosts that have what it names."""

    expression: Expression
    hosts: frozenset[str]

    def holds(self, host: str) -> bool:
        return (host in self.hosts) == self.expression.equal


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of every host. `brought` are volumes that nobody uses now: they go where the container goes.
    `image_hosts` have the image; `replaced` is the host of the container of the
    same Compose slot (empty: none)."""

    cluster: Cluster
    views: HostViews
    wanted: Wanted
    family: str
    pins: tuple[Pin, ...] = ()
    brought: tuple[r.Volume, ...] = ()
    pulls: tuple[Pull, ...] = ()
    image_hosts: frozenset[str] = frozenset()
    replaced: str = ""
    packed: bool = False
    """Whether hosts are to be filled one after the other, by the label `drover.strategy` or the setting `strategy`."""
    spread: str = ""
    """The host labels to spread over, `;` between them: of `drover.spread`, else `zone` where hosts have it."""
    crowds: Mapping[str, int] = {}
    """How crowded with its family each host's zone is, where the label `drover.spread` names labels to spread over."""
    tainted: bool = True
    """Whether any host has a taint."""


Filter = Callable[[HostView, Question], str | None]


def question(
    cluster: Cluster, views: HostViews, wanted: Wanted, image_hosts: frozenset[str], bring_volumes: bool = False
) -> Question:
    """Work out once what the filters and the ranking need."""
    asked = bare_question(cluster, views, wanted, image_hosts, bring_volumes)
    hosts = asked.views.hosts.values()
    return msgspec.structs.replace(
        asked,
        spread=spread_over(wanted, any(ZONE in view.labels for view in hosts)),
        crowds=crowds(asked.views, wanted),
        tainted=any(view.taints for view in hosts),
    )


def bare_question(
    cluster: Cluster, views: HostViews, wanted: Wanted, image_hosts: frozenset[str], bring_volumes: bool
) -> Question:
    """All but what takes a look at every host. The container itself, where it is placed already, and the one it
    replaces count as gone."""
    brought = tuple(_unused(cluster, wanted)) if bring_volumes else ()
    replaced = views.slots.get(wanted.slot) if wanted.slot else None
    for gone in filter(None, {wanted.id, replaced}):
        views = views.without(cluster, gone)
    return Question(
        cluster=cluster,
        views=views,
        wanted=wanted,
        family=wanted.family,
        pins=tuple(_pins(cluster, wanted, {volume.name for volume in brought})),
        brought=brought,
        pulls=tuple(_pull(cluster, wanted, expression, image_hosts) for expression in wanted.spec.affinities),
        image_hosts=image_hosts,
        replaced=(cluster.host_of(replaced) if replaced and replaced != wanted.id else None) or "",
        packed=_packed(cluster, wanted),
    )


def _packed(cluster: Cluster, wanted: Wanted) -> bool:
    setting = cluster.rows("settings", r.Setting).get("strategy")
    return wanted.spec.labels.get(STRATEGY_LABEL, setting.value if setting else "spread") == "binpack"


def live_filters(asked: Question) -> list[Filter]:
    """The filters that may refuse any host at all, for this container."""
    return [check for name, check in FILTERS if name not in IDLE or not IDLE[name](asked)]


def refusal(view: HostView, asked: Question, filters: Sequence[Filter] | None = None) -> str | None:
    """Why the host cannot take the container, by the first filter that refuses; None if it can. `filters`: those that
    may refuse, if they were worked out already."""
    for check in live_filters(asked) if filters is None else filters:
        why = check(view, asked)
        if why is not None:
            return why
    return None


def fact(view: HostView, key: str) -> str | None:
    """What a constraint's key means on a host: `host` (or `node`) is its name, then its own labels, the labels of
    its engine, and the engine's facts; None if it has no such thing."""
    if key in _HOST_KEYS:
        return view.name
    own = view.labels.get(key)
    if own is not None or view.facts is None:
        return own
    engine_label = view.facts.engine_labels.get(key)
    if engine_label is not None:
        return engine_label
    if key == "os":
        return "linux"  # what every host runs
    field = ENGINE_FACTS.get(key.lower())
    return str(getattr(view.facts, field)) if field else None


def _member(view: HostView, asked: Question) -> str | None:
    return view.health.says if view.health.state in ("down", "unknown") else None


def _drain(view: HostView, asked: Question) -> str | None:
    return view.health.says if view.health.state in NOTHING_NEW else None


def _constraint(view: HostView, asked: Question) -> str | None:
    for expression in asked.wanted.spec.constraints:
        if not expression.soft and not expression.holds(fact(view, expression.key)):
            return _breaks(view, expression)
    return None


def _breaks(view: HostView, expression: Expression) -> str:
    asks = f"constraint {'asks' if expression.equal else 'excludes'} {expression.value}"
    if expression.key in _HOST_KEYS:
        return f"is not the host asked for: {asks}" if expression.equal else f"is ruled out: {asks}"
    what = expression.key if expression.key.lower() in ENGINE_FACTS else f"label {expression.key}"
    value = fact(view, expression.key)
    return f"{what} is {'not set' if value is None else value}, {asks}"


def _platform(view: HostView, asked: Question) -> str | None:
    platform = asked.wanted.platform
    system, wanted = _split_platform(platform)
    if system != "linux":
        return f"runs linux, platform {platform} asked"
    has = architecture(view.facts.arch) if view.facts is not None else ""
    return None if wanted in ("", has) else f"is {has or 'of unknown architecture'}, platform {platform} asked"


def _split_platform(platform: str) -> tuple[str, str]:
    """`linux/arm64/v8` as (linux, arm64); `arm64` is of linux; `linux` leaves the architecture open."""
    first, *rest = platform.lower().split("/")
    if first in _SYSTEMS:
        return first, architecture(rest[0]) if rest else ""
    return "linux", architecture(first)


def architecture(name: str) -> str:
    """Docker's name of an architecture: `x86_64` is `amd64`."""
    return _ARCHITECTURES.get(name.lower(), name.lower())


def _near(view: HostView, asked: Question) -> str | None:
    return next((pin.why for pin in asked.pins if pin.host != view.name), None)


def _unused(cluster: Cluster, wanted: Wanted) -> Iterable[r.Volume]:
    """Its volumes that have data somewhere and are used by nobody else there."""
    volumes = (cluster.volumes.get(name) for name in wanted.spec.volume_names)
    return (volume for volume in volumes if volume and volume.host and not _others_use(cluster, wanted, volume))


def _others_use(cluster: Cluster, wanted: Wanted, volume: r.Volume) -> bool:
    return any(user.id != wanted.id for user in users_at(cluster, volume.name, volume.host))


def _volume(view: HostView, asked: Question) -> str | None:
    elsewhere = [volume for volume in asked.brought if volume.host != view.name]
    whys = {volume.name: unmovable(asked.cluster, volume, view.name, asked.wanted.id) for volume in elsewhere}
    return next((f"cannot be given volume {name}: {why}" for name, why in whys.items() if why), None)


def _pins(cluster: Cluster, wanted: Wanted, free: Collection[str] = ()) -> Iterable[Pin]:
    """Volumes in `free` bind it to no host."""
    for near in wanted.near:
        yield _pin_to(cluster, near)
    for use in wanted.spec.volumes:
        volume = cluster.volumes.get(use.name)
        if volume is not None and volume.host and volume.name not in free:
            yield Pin(volume.host, f"volume {use.name} is on {volume.host}")


def _pin_to(cluster: Cluster, near: Near) -> Pin:
    host = cluster.host_of(near.container) or ""
    return Pin(host, f"{near.why}, which is {f'on {host}' if host else 'not placed on any host'}")


def _port(view: HostView, asked: Question) -> str | None:
    """Ports that Drover publishes are the same on every host, and claimed when the container starts."""
    spec = asked.wanted.spec
    for port in spec.ports if spec.publishes_on_host else ():
        why = _taken(view, asked, port)
        if why is not None:
            return why
    return None


def _taken(view: HostView, asked: Question, port: PublishedPort) -> str | None:
    """Why none of the host ports of one published port is free; None if one is, or any free port will do."""
    if port.any:
        return None
    holder: str | None = None
    for number in range(port.first, port.last + 1):
        holder = _holder(view, asked, (port.protocol, number))
        if holder is None:
            return None
    name = container_name(asked.cluster, holder or "")
    if port.first == port.last:
        return f"port {port.first}/{port.protocol} is taken by {name}"
    return f"ports {port.first}-{port.last}/{port.protocol} are all taken, the last by {name}"


def _holder(view: HostView, asked: Question, port: PortKey) -> str | None:
    return view.ports.get(port) or asked.views.shared_ports.get(port)


def _memory(view: HostView, asked: Question) -> str | None:
    wanted, free = asked.wanted.spec.memory_bytes, view.free_memory_bytes
    return f"{size(wanted)} of memory asked, {size(max(free, 0))} free" if wanted > max(free, 0) else None


def _cpu(view: HostView, asked: Question) -> str | None:
    wanted, free = nano_cpus(asked.wanted.spec), view.free_nano_cpus
    return f"{cores(wanted)} asked, {cores(max(free, 0))} free" if wanted > max(free, 0) else None


def _affinity(view: HostView, asked: Question) -> str | None:
    for pull in asked.pulls:
        if not pull.expression.soft and not pull.holds(view.name):
            return _repels(pull.expression)
    return None


def _repels(expression: Expression) -> str:
    kind = expression.key.removeprefix(_LABEL_PREFIX)
    what = (
        f"{kind} {expression.value}"
        if kind in ("container", "image")
        else f"a container labelled {kind}={expression.value}"
    )
    return f"does not have {what}, affinity asks for it" if expression.equal else f"has {what}, affinity excludes it"


def _pull(cluster: Cluster, wanted: Wanted, expression: Expression, image_hosts: frozenset[str]) -> Pull:
    hosts = {cluster.host_of(container) for container in _matching(cluster, expression) if container != wanted.id}
    own_image = expression.key == "image" and any(expression.finds(name) for name in _image_names(wanted.spec))
    return Pull(expression, frozenset(host for host in hosts if host) | (image_hosts if own_image else frozenset()))


def _matching(cluster: Cluster, expression: Expression) -> Iterable[str]:
    """Ids of the containers an affinity names: `container` by name or id, `image`, else a label."""
    if expression.key == "container" and expression.exact:
        named = cluster.names.get(expression.value.removeprefix("/"))
        return [named.id] if named else [expression.value]
    return [one.id for one in cluster.containers.values() if any(map(expression.finds, _texts(one, expression.key)))]


def _texts(container: r.Container, key: str) -> tuple[str, ...]:
    """What an affinity's value is compared with on one container."""
    if key == "container":
        return container.name, container.id
    spec = parse_spec(container.body)
    if key == "image":
        return (*_image_names(spec), container.image_id)
    label = spec.labels.get(key.removeprefix(_LABEL_PREFIX))
    return () if label is None else (label,)


def _image_names(spec: Spec) -> tuple[str, ...]:
    """An image as written, and without the tag `latest` that nobody writes."""
    return spec.image, spec.image.removesuffix(":latest")


def _crowd(view: HostView, asked: Question) -> str | None:
    text = asked.wanted.spec.labels.get(MAX_PER_HOST_LABEL, "")
    if not text:
        return None
    if not text.isdigit():
        return f"cannot be judged: the label {MAX_PER_HOST_LABEL}={text} is no number"
    have = view.families.get(asked.family, 0)
    return f"runs {have} of {asked.family}, and may run {text}" if have >= int(text) else None


def spread_over(wanted: Wanted, zoned: bool) -> str:
    """The host labels to spread over. `zoned`: whether any host has the label `zone`."""
    return wanted.spec.labels.get(SPREAD_LABEL, ZONE if zoned else "")


def spread_keys(spread: str) -> tuple[str, ...]:
    return tuple(key for key in spread.split(";") if key)


def zone_of(view: HostView, key: str) -> str | None:
    """What a host has for a label to spread over."""
    return view.labels.get(key) or fact(view, key)


def crowds(views: HostViews, wanted: Wanted) -> dict[str, int]:
    """Host to how many containers of the family run on hosts with the same value of the label to spread over. With
    several labels (`zone;rack`) the first counts most. Empty where none is asked for."""
    keys = spread_keys(spread_over(wanted, any(ZONE in view.labels for view in views.hosts.values())))
    found = dict.fromkeys(views.hosts, 0) if keys else {}
    family = wanted.family
    for key in keys:
        where = {name: zone_of(view, key) for name, view in views.hosts.items()}
        sums = dict.fromkeys(where.values(), 0)
        for name, view in views.hosts.items():
            sums[where[name]] += view.families.get(family, 0)
        found = {name: total * CROWD + sums[where[name]] for name, total in found.items()}
    return found


FILTERS: tuple[tuple[str, Filter], ...] = (
    ("member", _member),
    ("drain", _drain),
    ("taint", lambda view, asked: untolerated(view, asked.wanted.spec)),
    ("constraint", _constraint),
    ("platform", _platform),
    ("near", _near),
    ("volume", _volume),
    ("port", _port),
    ("device", lambda view, asked: deviceless(view, asked.wanted.spec)),
    ("disk", lambda view, asked: too_small(view, asked.wanted.spec)),
    ("memory", _memory),
    ("cpu", _cpu),
    ("affinity", _affinity),
    ("crowd", _crowd),
)

IDLE: Mapping[str, Callable[[Question], bool]] = {
    "taint": lambda asked: not asked.tainted,
    "constraint": lambda asked: not asked.wanted.spec.constraints,
    "platform": lambda asked: not asked.wanted.platform,
    "near": lambda asked: not asked.pins,
    "volume": lambda asked: not asked.brought,
    "port": lambda asked: not asked.wanted.spec.ports,
    "device": lambda asked: not asked.wanted.spec.devices,
    "disk": lambda asked: DISK_LABEL not in asked.wanted.spec.labels,
    "memory": lambda asked: not asked.wanted.spec.memory_bytes,
    "cpu": lambda asked: not asked.wanted.spec.cpus,
    "affinity": lambda asked: not asked.pulls,
    "crowd": lambda asked: MAX_PER_HOST_LABEL not in asked.wanted.spec.labels,
}
"""Filters that refuse no host where this is true of what is asked: on a large cluster they need not be tried."""
BY_HOST = ("member", "drain", "taint", "constraint", "platform", "device", "disk", "memory", "cpu")
"""Filters whose answer depends on the host and on the container's `decide.field.Shape` only."""
