"""Calls that change whether a container runs or exists: start, stop, restart, kill, remove, rename, update, prune.

call                                    order      waits at most
POST /containers/X/start                start      60 s
POST /containers/X/stop, /restart?t=T   the same   T + 30 s (T: else the container's own, else 10)
POST /containers/X/kill?signal=S        kill       60 s; a signal that stops nothing is relayed
DELETE /containers/X                    remove     60 s; with ?link=1 none: that removes a link only
POST /containers/X/rename?name=N        rename     60 s; the name N is claimed in the same commit
POST /containers/X/update               update     60 s
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from drover.decide.default_network import is_on_default
from drover.decide.restarts import by_agent
from drover.drivers.engine.linking import split_link
from drover.errors import Conflict, Invalid, NotFound
from drover.gateway.call import Call, Outcome, Relay, Reply
from drover.gateway.commits import Draft, commit_decided
from drover.gateway.containers import target_at_engine
from drover.gateway.context import Context, decoded, json_text, target_of
from drover.gateway.orders import Ask, reply_to, submit
from drover.gateway.publishing import exposed_ports, give_up, publishing, refuse_busy
from drover.gateway.restarts import Policy, asked_policy, refuse_policy, with_policy, without_policy
from drover.model import records as r
from drover.model.cluster import Cluster, delete, put
from drover.model.spec import parse_spec

STOP_EXTRA_S = 30.0
ENDLESS_STOP_S = 86_400.0
"""A negative time asks the engine to wait for ever; the gateway waits a day and then says so."""
NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")
HARMLESS_SIGNALS = frozenset(
    {"HUP", "USR1", "USR2", "WINCH", "CONT", "CHLD", "URG", "STOP", "TSTP", "TTIN", "TTOU", "IO"}
    | {"1", "10", "12", "28", "18", "17", "23", "19", "20", "21", "22", "29"}
)
"""Signals that do not stop a program which does not ask for it by itself; Linux's numbers on amd64 and arm64."""


async def start(ctx: Context, call: Call) -> Outcome:
    return await _starting(ctx, call, Ask(verb="start", query=call.query_string))


async def stop(ctx: Context, call: Call) -> Outcome:
    return await _simple(ctx, call, Ask(verb="stop", query=call.query_string, deadline_s=_stop_deadline_s(ctx, call)))


async def restart(ctx: Context, call: Call) -> Outcome:
    deadline_s = _stop_deadline_s(ctx, call)
    return await _starting(ctx, call, Ask(verb="restart", query=call.query_string, deadline_s=deadline_s))


async def _starting(ctx: Context, call: Call, ask: Ask) -> Reply:
    """An order after which the container runs: it claims its published ports."""
    record = ctx.container(call.params["name"])
    ctx.host_of(record)
    refuse_busy(ctx, record)
    exposed = await exposed_ports(ctx, record)
    answer = await submit(ctx, record.id, ask, publishing(exposed))
    if answer.status >= 400:
        await give_up(ctx, record.id)
    return reply_to(ctx, answer)


async def kill(ctx: Context, call: Call) -> Outcome:
    _refuse_to_kill_nothing(ctx, call.params["name"])
    if is_harmless(call.query("signal")):
        host, target = target_at_engine(ctx, call)
        return Relay(host=host, target=target, edit=ctx.ids.to_cluster)
    return await _simple(ctx, call, Ask(verb="kill", query=call.query_string))


def _refuse_to_kill_nothing(ctx: Context, name: str) -> None:
    """Raise the engine's own `NotFound`, which is longer than that of other calls."""
    try:
        ctx.container(name)
    except NotFound as error:
        raise NotFound(f"Cannot kill container: {name}: {error.message}") from error


async def update(ctx: Context, call: Call) -> Outcome:
    """A new restart policy is kept in the record once the engine has taken the update; the engine hears of the policy
    unless the agent restarts the container."""
    body = await json_text(call)
    record = ctx.container(call.params["name"])
    ctx.host_of(record)
    policy = asked_policy(body)
    told = body
    if policy is not None and by_agent(ctx.cluster, record):
        refuse_policy(policy)
        told = without_policy(body)
    answer = await submit(ctx, record.id, Ask(verb="update", body=told))
    if policy is not None and answer.status < 400:
        await commit_decided(ctx, lambda cluster: _with_policy(cluster, record.id, policy))
    return reply_to(ctx, answer)


def _with_policy(cluster: Cluster, container: str, policy: Policy) -> Draft:
    record, key = cluster.containers.get(container), r.key("containers", container)
    return (
        Draft([], {}) if record is None else Draft([put(key, with_policy(record, policy))], {key: cluster.version(key)})
    )


async def remove(ctx: Context, call: Call) -> Outcome:
    if call.flag("link"):
        return await _remove_link(ctx, call)
    record = ctx.container(call.params["name"])
    return reply_to(ctx, await remove_container(ctx, record, call.query_string, call.flag("force")))


async def _remove_link(ctx: Context, call: Call) -> Outcome:
    """`docker rm --link NAME/ALIAS` removes a link and no container: the engine's affair on its own bridge, the
    record's on the default network."""
    ref, _, alias = call.params["name"].removeprefix("/").partition("/")
    record = ctx.container(ref)
    if is_on_default(ctx.cluster, record.id):
        await commit_decided(ctx, lambda cluster: _without_link(cluster, record, alias))
        return Reply(status=204)
    host, _ = ctx.engine_of(record)
    return Relay(host=host, target=target_of(call, f"/containers/{record.name}/{alias}"), edit=ctx.ids.to_cluster)


def _without_link(cluster: Cluster, record: r.Container, alias: str) -> Draft:
    """The record's create call without a link. Raises `NotFound` if there is none of that alias."""
    current = cluster.containers.get(record.id, record)
    body = decoded(current.body or "{}", dict[str, Any])
    host_config = body.get("HostConfig") or {}
    links = host_config.get("Links") or []
    kept = [link for link in links if split_link(link)[1] != alias]
    if kept == links:
        raise NotFound(f"Cannot remove link /{record.name}/{alias}: no such link")
    text = msgspec.json.encode({**body, "HostConfig": {**host_config, "Links": kept}}).decode()
    key = r.key("containers", record.id)
    return Draft([put(key, msgspec.structs.replace(current, body=text))], {key: cluster.version(key)})


async def remove_container(ctx: Context, record: r.Container, query: str, force: bool) -> r.Answer:
    """Remove one container, if its host can be asked."""
    ctx.host_of(record)
    return await submit(ctx, record.id, Ask(verb="remove", query=query, force=force))


async def rename(ctx: Context, call: Call) -> Outcome:
    record = ctx.container(call.params["name"])
    name = valid_new_name(record, call.query("name"))
    ctx.host_of(record)

    def amend(cluster: Cluster, current: r.Container) -> tuple[r.Container, Draft]:
        return move_name(cluster, current, name)

    answer = await submit(ctx, record.id, Ask(verb="rename", query=call.query_string), amend)
    if answer.status >= 400:
        await _name_back(ctx, record, name)
    return reply_to(ctx, answer)


async def _name_back(ctx: Context, record: r.Container, refused: str) -> None:
    """The engine refused the new name: the records take the old one again, in one commit."""

    def decide(cluster: Cluster) -> Draft:
        current = cluster.containers.get(record.id)
        if current is None or current.name != refused:
            return Draft([], {})
        renamed, draft = move_name(cluster, current, record.name)
        key = r.key("containers", record.id)
        return Draft([put(key, renamed), *draft.changes], {**draft.expect, key: cluster.version(key)})

    await commit_decided(ctx, decide)


def move_name(cluster: Cluster, record: r.Container, name: str) -> tuple[r.Container, Draft]:
    """The record with its new name, and the claim that moves. Raises `Conflict` in Docker's words if it is taken."""
    refuse_taken(cluster, name)
    new, old = r.key("names", name), r.key("names", record.name)
    changes = [put(new, r.Name(id=record.id)), delete(old)]
    return msgspec.structs.replace(record, name=name, name_made_up=False), Draft(
        changes, {new: 0, old: cluster.version(old)}
    )


def valid_new_name(record: r.Container, name: str) -> str:
    """The new name without its slash. Raises `Invalid` as the engine does."""
    if not name:
        raise Invalid("Neither old nor new names may be empty")
    if not NAME.fullmatch(name):
        raise Invalid(f"Error when allocating new name: {bad_name('/' + name.removeprefix('/'))}")
    if name.removeprefix("/") == record.name:
        raise Invalid("Renaming a container with the same name as its current name")
    return name.removeprefix("/")


def bad_name(name: str) -> str:
    return f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"


def refuse_taken(cluster: Cluster, name: str) -> None:
    """Raise Docker's `Conflict` if a container has the name."""
    holder = cluster.names.get(name)
    if holder is not None:
        raise Conflict(
            f'Conflict. The container name "/{name}" is already in use by container "{holder.id}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )


def is_harmless(signal: str) -> bool:
    """Whether a `kill` with this signal leaves what should run as it is; no signal is KILL."""
    return signal.upper().removeprefix("SIG") in HARMLESS_SIGNALS


async def _simple(ctx: Context, call: Call, ask: Ask) -> Reply:
    record = ctx.container(call.params["name"])
    ctx.host_of(record)
    return reply_to(ctx, await submit(ctx, record.id, ask))


def _stop_deadline_s(ctx: Context, call: Call) -> float:
    """How long to wait for a stop: the client's `t`, else the container's own time, else Docker's 10 s; and 30 s."""
    text = call.query("t") or str(parse_spec(ctx.container(call.params["name"]).body).stop_timeout_s)
    try:
        seconds = int(text)
    except ValueError:
        raise Invalid(f'strconv.Atoi: parsing "{text}": invalid syntax') from None
    return seconds + STOP_EXTRA_S if seconds >= 0 else ENDLESS_STOP_S
