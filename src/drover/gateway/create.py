"""`POST /containers/create`: from a body to records, and from the host's answer to the client's.

Theory of operation.

    1  read      the name and the body are checked in Docker's words; `parse_spec` says what is asked of the cluster
    2  locate    all hosts are asked for the image; none has it: 404, which makes `docker run` pull
    3  draft     pure, on one picture: host (`place`), name, addresses, ports and volume claims
    4  commit    one conditional commit; a conflict goes back to 3, three times
    5  wait      for the host's answer; longer while its progress changes (an image on its way)
    6  answer    201 with the cluster id and the engine's warnings; or its refusal, and the records go again
       lost      the host died before it answered: the records go, and 3 chooses another host, twice

A name whose holder removes itself and has already exited is waited for, up to 3 s, before it is a conflict.
"""

from __future__ import annotations

import msgspec

from drover.decide.attached import network_id
from drover.decide.default_network import predefined_ids
from drover.decide.grace import Wanted, claim
from drover.decide.moves import Asked, begin_volume, move_of_volume, settled, volume_key, volume_record
from drover.decide.overlay import is_overlay
from drover.decide.removal import container_removal
from drover.decide.resolve import resolve_network
from drover.decide.schedule import place
from drover.decide.services import Draft as Claims
from drover.decide.views import fixed_ports
from drover.decide.wanted import wanted_of
from drover.errors import Conflict, DeadlineExceeded, DroverError, EngineError, Invalid
from drover.gateway.call import Call, Outcome, Reply
from drover.gateway.commits import Draft, commit_decided
from drover.gateway.context import Context, decoded, json_reply, json_text, log, message_of
from drover.gateway.imagehosts import FoundImage, locate_image
from drover.gateway.lifecycle import NAME, bad_name, refuse_taken
from drover.gateway.names import random_name
from drover.gateway.orders import HostLost, raise_if_lost, watched
from drover.gateway.restarts import refuse_untold
from drover.gateway.volumes import refuse_name
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put
from drover.model.spec import Endpoint, Spec, parse_spec

CREATE_DEADLINE_S = 60.0
NAME_FREED_S = 3.0
OTHER_HOSTS = 2
"""How many more hosts are tried when the chosen one is lost before it answered."""
PREDEFINED = frozenset({"default", "bridge", "host", "none"})
_NOT_CONFIG = frozenset({"HostConfig", "NetworkingConfig"})


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """One create call, read and checked: all that a draft needs beside the picture."""

    id: str
    name: str
    name_made_up: bool
    body: str
    spec: Spec
    platform: str
    image: FoundImage
    now: float


class Created(msgspec.Struct, rename="pascal"):
    """The engine's answer to a create call."""

    warnings: list[str] | None = None


async def create(ctx: Context, call: Call) -> Outcome:
    body = await json_text(call)
    _refuse_empty(body)
    spec = parse_spec(body)
    refuse_untold(spec)
    _refuse_volumes(spec)
    image = await locate_image(ctx, spec.image)
    cluster_id = ctx.new_id()
    name = _valid_name(call.query("name"))
    wish = Wish(
        id=cluster_id,
        name=name or random_name(ctx.cluster, cluster_id),
        name_made_up=not name,
        body=body,
        spec=spec,
        platform=call.query("platform"),
        image=image,
        now=ctx.clock(),
    )
    for _ in range(OTHER_HOSTS):
        try:
            return await _make(ctx, wish)
        except HostLost as lost:
            log.warning("a host was lost while it created a container; trying another", why=lost.message)
    return await _make(ctx, wish)


async def _make(ctx: Context, wish: Wish) -> Reply:
    await _name_freed(ctx, wish.name)
    async with ctx.choosing:
        await commit_decided(ctx, lambda cluster: draft(cluster, wish))
    return await _finish(ctx, wish)


def _refuse_empty(body: str) -> None:
    if not decoded(body, dict[str, msgspec.Raw]).keys() - _NOT_CONFIG:
        raise Invalid("Config cannot be empty in order to create a container")


def _refuse_volumes(spec: Spec) -> None:
    """In the engine's words, before anything is written."""
    for use in spec.volumes:
        if not use.target:
            raise Invalid('invalid mount config for type "volume": field Target must not be empty')
    for use in spec.volumes:
        if use.driver in ("", "local"):
            refuse_name(use.name)


def _valid_name(name: str) -> str:
    if name and not NAME.fullmatch(name):
        raise Invalid(bad_name(name))
    return name.removeprefix("/")


async def _name_freed(ctx: Context, name: str) -> None:
    """Wait for a holder that is about to remove itself; anything else is decided by the draft."""
    if not _frees_itself(ctx.cluster, name):
        return
    try:
        await ctx.mirror.until(lambda now: not _frees_itself(now, name), NAME_FREED_S, f"the name {name}")
    except DeadlineExceeded:
        return


def _frees_itself(cluster: Cluster, name: str) -> bool:
    holder = cluster.containers.get(cluster.names.get(name, r.Name(id="")).id)
    if holder is None:
        return False
    facts = cluster.facts_of(holder.id)
    over = facts is not None and facts.state in ("exited", "dead", "removing", "missing") and bool(facts.engine_id)
    return holder.desired == "removed" or (over and parse_spec(holder.body).auto_remove)


def draft(cluster: Cluster, wish: Wish) -> Draft:
    """All records of a new container, on one picture. Raises what refuses it: the name, a network, an address, every
    host (`NoPlacement`)."""
    refuse_taken(cluster, wish.name)
    wanted = wanted_of(cluster, wish.id, wish.name, wish.spec, wish.platform)
    chosen = place(cluster, wanted, image_hosts=wish.image.hosts, bring_volumes=True)
    record = r.Container(
        id=wish.id,
        name=wish.name,
        body=wish.body,
        image_id=wish.image.id,
        platform=wish.platform,
        created_at=wish.now,
        name_made_up=wish.name_made_up,
    )
    placement = r.Placement(
        container=wish.id, host=chosen.host, chosen=chosen.why, reasons=dict(chosen.reasons), at=wish.now
    )
    addresses = _addresses(cluster, wish)
    made: list[Change] = [
        put(r.key("containers", wish.id), record),
        put(r.key("names", wish.name), r.Name(id=wish.id)),
        put(r.key("placements", wish.id), placement),
        *(change for one in addresses for change in one.changes),
        *_ports(wish, chosen.host),
        *_volumes(cluster, wish, chosen.host),
    ]
    expect = {change.key: cluster.version(change.key) for change in made} | _rests_on(cluster, wish)
    return Draft(made, expect | {name: version for one in addresses for name, version in one.expect.items()})


def _rests_on(cluster: Cluster, wish: Wish) -> dict[str, int]:
    """Records that are not written and must not change meanwhile: the networks it joins."""
    keys = [r.key("networks", network) for network in _joined(cluster, wish.spec)]
    return {key: cluster.version(key) for key in keys}


def _joined(cluster: Cluster, spec: Spec) -> dict[str, Endpoint]:
    """The ids of the cluster networks it joins, each with what is asked there. Raises `NotFound` for a network that
    does not exist."""
    refs = [ref for ref in spec.network_refs if _is_joined(cluster, ref)]
    return {_joined_id(cluster, ref): spec.networks.get(ref, Endpoint()) for ref in refs}


def _is_joined(cluster: Cluster, ref: str) -> bool:
    return network_id(cluster, ref) is not None or not is_predefined(cluster, ref)


def _joined_id(cluster: Cluster, ref: str) -> str:
    return network_id(cluster, ref) or resolve_network(cluster, ref).id


def is_predefined(cluster: Cluster, ref: str) -> bool:
    """Whether a network is an engine's own: `default`, `bridge`, `host`, `none`, or such a one by its id."""
    return ref in PREDEFINED or ref in predefined_ids(cluster)


def _addresses(cluster: Cluster, wish: Wish) -> list[Claims]:
    joined = [(cluster.networks[network], endpoint) for network, endpoint in _joined(cluster, wish.spec).items()]
    return [
        claim(cluster, network, _address_wanted(wish, endpoint)) for network, endpoint in joined if is_overlay(network)
    ]


def _address_wanted(wish: Wish, endpoint: Endpoint) -> Wanted:
    name = "" if wish.name_made_up else wish.name
    return Wanted(container=wish.id, name=name, ip=endpoint.ipv4, mac=endpoint.mac or wish.spec.mac, ipv6=endpoint.ipv6)


def _ports(wish: Wish, host: str) -> list[Change]:
    return [
        put(
            r.key("ports", host, protocol, str(port)),
            r.Port(host=host, protocol=protocol, port=port, container=wish.id),
        )
        for protocol, port in dict.fromkeys(fixed_ports(wish.spec))
    ]


def _volumes(cluster: Cluster, wish: Wish, host: str) -> list[Change]:
    """Claims to write its named volumes: made where absent, taken where nobody has them, moved where they are on
    another host and unused. Volumes of other drivers than `local` are the engine's own affair."""
    changes = []
    for name in wish.spec.volume_names:
        volume = cluster.volumes.get(name)
        driver = next(use.driver for use in wish.spec.volumes if use.name == name)
        if volume is None and driver in ("", "local"):
            body = _volume_body(wish.body, name)
            made = settled(cluster, volume_record(name, body, wish.now), host)
            changes.append(put(r.key("volumes", name), made))
        elif volume is not None and volume.removed:
            raise Conflict(f"volume {name} is being removed", hint="try again in a moment")
        elif volume is not None:
            # Written even if nothing changes: a removal at the same time must lose, or win and be seen.
            changes.append(put(r.key("volumes", name), settled(cluster, volume, host)))
            if volume.host not in ("", host):
                changes += begin_volume(cluster, name, Asked(target=host), wish.now).changes
    return changes


class _Driver(msgspec.Struct, rename="pascal"):
    options: dict[str, str] | None = None


class _VolumeOptions(msgspec.Struct, rename="pascal"):
    labels: dict[str, str] | None = None
    driver_config: _Driver | None = None


class _Mount(msgspec.Struct, rename="pascal"):
    source: str | None = None
    volume_options: _VolumeOptions | None = None


class _HostConfig(msgspec.Struct, rename="pascal"):
    mounts: list[_Mount] | None = None


class _Body(msgspec.Struct, rename="pascal"):
    host_config: _HostConfig | None = None


def _volume_body(body: str, name: str) -> str:
    """A volume's create body, with the labels and driver options that the container's mount asks for."""
    host_config = decoded(body, _Body).host_config or _HostConfig()
    mount = next((one for one in host_config.mounts or () if one.source == name), _Mount())
    options = mount.volume_options or _VolumeOptions()
    driver = options.driver_config or _Driver()
    asked = {"Name": name, "Driver": "local", "Labels": options.labels, "DriverOpts": driver.options}
    return msgspec.json.encode(asked).decode()


async def _finish(ctx: Context, wish: Wish) -> Reply:
    """Wait for the host, and answer; what cannot be made leaves no records."""
    try:
        answer = await _answer(ctx, wish.id)
    except DroverError:
        await _undo(ctx, wish.id)
        raise
    if answer.status >= 400:
        await _undo(ctx, wish.id)
        text = answer.message or message_of(answer.body.encode())
        raise EngineError(answer.status, ctx.ids.to_cluster(text.encode()).decode())
    warnings = decoded(answer.body or "{}", Created).warnings or []
    return json_reply({"Id": wish.id, "Warnings": warnings}, 201)


async def _answer(ctx: Context, container: str) -> r.Answer:
    """The host's answer to the create order. The deadline starts anew whenever the host reports progress."""
    while True:
        progress = _progress(ctx.cluster, container)

        def look(cluster: Cluster, before: str = progress) -> r.Answer | str | None:
            return _made(cluster, container) or (_progress(cluster, container) != before and "progress") or None

        missing = f"host {ctx.cluster.host_of(container)} to create the container" + (progress and f" ({progress})")
        keys = [*watched(ctx.cluster, container), "move_facts", "moves"]
        found = await ctx.mirror.until(look, CREATE_DEADLINE_S, missing, keys=keys)
        if isinstance(found, r.Answer):
            return found


def _progress(cluster: Cluster, container: str) -> str:
    """What its host last said of its making, or of a volume that is brought for it."""
    facts, record = cluster.facts_of(container), cluster.containers.get(container)
    if (facts is not None and facts.progress) or record is None:
        return facts.progress if facts is not None else ""
    moving = [found for name in parse_spec(record.body).volume_names if (found := move_of_volume(cluster, name))]
    told = [cluster.move_facts.get(f"{move.target}/{key}") for key, move in moving]
    return ", ".join(f"{one.message} ({one.moved_bytes} bytes)" for one in told if one is not None)


def _made(cluster: Cluster, container: str) -> r.Answer | None:
    """The answer to order 1. Raises `Conflict` if the container was removed meanwhile or a volume cannot be brought to
    it, `Unavailable` if its host is lost."""
    if container not in cluster.containers:
        raise Conflict(f"container {container[:12]} was removed while it was being created")
    facts = cluster.facts_of(container)
    if facts is not None and facts.answer.number == 1:
        return facts.answer
    if facts is not None and facts.answer.number > 1:
        return r.Answer(number=1, status=201)
    raise_if_lost(cluster, container, "create")
    _raise_if_not_brought(cluster, container)
    return None


def _raise_if_not_brought(cluster: Cluster, container: str) -> None:
    """The host would wait for the volume for ever: its move, which this create began, has failed."""
    host = cluster.host_of(container)
    for name in parse_spec(cluster.containers[container].body).volume_names:
        move, volume = cluster.moves.get(volume_key(name)), cluster.volumes.get(name)
        elsewhere = volume is not None and volume.host not in ("", host)
        if elsewhere and move is not None and move.target == host and move.phase in ("aborting", "aborted"):
            raise Conflict(
                f"volume {name} could not be brought from {move.source} to {host}: {move.why}",
                hint=f"put that right and try again, or run it on {move.source}",
            )


async def _undo(ctx: Context, container: str) -> None:
    """Remove all records of a container that could not be made. Its named volumes stay, as one engine leaves them."""

    def decide(cluster: Cluster) -> Draft:
        if container not in cluster.containers:
            return Draft([], {})
        return Draft(*container_removal(cluster, container, ctx.clock()))

    await commit_decided(ctx, decide)
