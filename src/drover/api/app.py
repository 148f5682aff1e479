"""The daemon's JSON API: routes, and who may use them.

Theory of operation. One app serves both doors; who is there is read off the connection, in this order:

    connection                          may use
    Unix socket (mode 0660)             everything
    TLS, certificate of a member        everything: a host is root on every other host anyway
    TLS, certificate of a removed host  /healthz, /ca, /join
    TLS, no certificate                 /healthz, /ca, /join
    anything else                       /healthz, /ca, /join

Reads come from the mirror (any host answers, also while the store does not). Writes decide on a fresh snapshot, commit
conditionally, decide again on conflict (`TRIES` times), and wait until the mirror has what was written, so that the
next read sees it; a host that passed a call on waits for the same (`Drover-Revision`, in every answer), and one that
gets such a call first sees what its client was shown (`Drover-Revision` in the call). Every error is JSON
(`api.answers`).

    method and path                       body                         answer
    GET /healthz                                                       {host, healthy, store_generation}
    GET /ca                                                            {certificate}: PEM, public
    POST /join                            JoinRequest                  JoinAnswer
    GET /status                                                        see `views.status_view`, plus store and leader
    GET /hosts, GET /hosts/NAME                                        `views.host_view`
    POST /hosts/NAME/labels               {set: {}, remove: []}        the host
    POST /hosts/NAME/taints               {set: {}, remove: []}        the host
    POST /hosts/NAME/drain, …/undrain, …/pause                         the host
    GET /hosts/NAME/evacuation                                         `views.evacuation_view`
    DELETE /hosts/NAME?force=1&leaving=1                               {removed}
    POST /tokens                          {ttl_s, reusable}            the token, its only showing
    GET /tokens, DELETE /tokens/ID                                     `views.token_view`, {removed}
    GET /why/CONTAINER                                                 `decide.why.explain`
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from drover.api import membership, views
from drover.api.answers import error_body
from drover.api.context import Context
from drover.api.membership import Decision, JoinAnswer, JoinRequest
from drover.decide.encryption import is_encrypted
from drover.decide.sentences import instant
from drover.decide.why import explain
from drover.errors import Conflict, DeadlineExceeded, DroverError, Forbidden, Invalid, NotFound
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.records import Host, Scheduling, Setting, key
from drover.store.port import CommitConflict
from drover.trust import apart, names, tls, token
from drover.wire.nesting import MALFORMED, refuse_deep

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CONTEXT = web.AppKey("context", Context)
SCHEDULING: dict[str, Scheduling] = {"drain": "drain", "undrain": "active", "pause": "pause"}
OPEN_PATHS = frozenset({"/healthz", "/ca", "/join"})
BODY_LIMIT_BYTES = 1024 * 1024
TRIES = 10
"""One of the writers that meet succeeds each time; this lets ten hosts join at once."""
WAY_OUT = "bring its members back, and all goes on; if most are gone for good: drover cluster recover"
MIRROR_DEADLINE_S = 10.0
REVISION_HEADER = "Drover-Revision"
MEMBER_DEADLINE_S = 30.0
COMMIT_LIMIT = 100
"""Changes per commit where the number depends on what is in the cluster: etcd takes 128 by default."""

log = structlog.get_logger("drover.api")


class LabelsBody(msgspec.Struct, frozen=True):
    set: dict[str, str] = {}
    remove: list[str] = []


class TokenBody(msgspec.Struct, frozen=True):
    ttl_s: float = token.DEFAULT_TTL_S
    reusable: bool = False


def build_api(context: Context) -> web.Application:
    """The app; see the module's table for its routes."""
    app = web.Application(middlewares=[errors_as_json, _guard, _caught_up], client_max_size=BODY_LIMIT_BYTES)
    app[CONTEXT] = context
    app.on_response_prepare.append(_dated)
    app.add_routes(
        [
            web.get("/healthz", get_healthz),
            web.get("/ca", get_ca),
            web.post("/join", post_join),
            web.get("/status", get_status),
            web.get("/hosts", get_hosts),
            web.get("/hosts/{name}", get_host),
            web.post("/hosts/{name}/labels", post_labels),
            web.post("/hosts/{name}/taints", post_taints),
            web.post("/hosts/{name}/{verb:drain|undrain|pause}", post_scheduling),
            web.get("/hosts/{name}/evacuation", get_evacuation),
            web.delete("/hosts/{name}", delete_host),
            web.post("/tokens", post_token),
            web.get("/tokens", get_tokens),
            web.delete("/tokens/{id}", delete_token),
            web.get("/why/{ref:.+}", get_why),
        ]
    )
    return app


async def _dated(request: web.Request, response: web.StreamResponse) -> None:
    """Every answer says how far its host has seen the store: who passed a call on sees at least as much before it
    answers its own client, whose next call finds what this one made."""
    response.headers[REVISION_HEADER] = str(request.app[CONTEXT].mirror.cluster.revision)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as JSON; one outside Drover's tree is a fault of Drover's own and gets a traceback in the log."""
    try:
        return await handler(request)
    except DroverError as error:
        return json_answer(error_body(error), error.status)
    except web.HTTPException as error:
        return json_answer(error_body(_from_http(request, error)), error.status)
    except Exception as error:
        if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            raise  # who asked has left in the middle of the answer: aiohttp knows, and there is nobody to tell
        log.exception("a call of the API failed", method=request.method, path=request.path)
        fault = DroverError("this call failed by a fault of drover itself", hint="see the daemon's log for details")
        return json_answer(error_body(fault), fault.status)


def _from_http(request: web.Request, error: web.HTTPException) -> DroverError:
    if error.status in (404, 405):
        return NotFound(f"there is no {request.method} {request.path}", hint="is this the same version of drover?")
    return Invalid(f"the request cannot be served: {error.reason}")


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse who may not use the path; see the module's table."""
    if request.path not in OPEN_PATHS:
        check_peer(tls.peer_of(request.transport), request.app[CONTEXT])
    return await handler(request)


@web.middleware
async def _caught_up(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A call that another host passed on is answered on a picture at least as new as that host's: its client may have
    made there, a moment ago, what it speaks of. A picture that stays behind answers as well as it can."""
    seen = "0" if request.path in OPEN_PATHS else request.headers.get(REVISION_HEADER, "0")
    if not seen.isdecimal():
        raise Invalid(f"{REVISION_HEADER} is a number, not {seen!r}")
    with suppress(DeadlineExceeded):
        await request.app[CONTEXT].mirror.reached(int(seen), MIRROR_DEADLINE_S)
    return await handler(request)


def check_peer(peer: tls.Peer, context: Context) -> None:
    """Raises `Forbidden` for strangers and for removed hosts. While the picture of the cluster is missing or old, the
    certificate alone counts: not knowing a host is no proof that it was removed."""
    if peer.local:
        return
    if not peer.host:
        raise Forbidden(
            f"this call needs a certificate of a host of cluster {context.cluster_name}",
            hint="call from a host of the cluster, through its Unix socket",
        )
    if context.mirror.healthy and peer.host not in context.mirror.cluster.hosts:
        raise Forbidden(f"host {peer.host} is not a member of this cluster any more", hint="join it again")


async def get_healthz(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    setting = context.mirror.cluster.rows("settings", Setting).get("store_generation")
    number = int(setting.value) if setting else 0
    return json_answer({"host": context.host, "healthy": context.mirror.healthy, "store_generation": number})


async def get_ca(request: web.Request) -> web.Response:
    """The CA's certificate, for a joining host to compare with its token's fingerprint."""
    return json_answer({"certificate": (request.app[CONTEXT].tls_dir / "ca.crt").read_text()})


async def post_join(request: web.Request) -> web.Response:
    context, wish = request.app[CONTEXT], await body_of(request, JoinRequest)
    csr_pem = wish.csr.encode()
    identity = await apart.key_id(csr_pem)
    decision = await commit(context, lambda cluster: membership.decide_join(cluster, wish, identity, context.clock()))
    host = decision.host
    if host is None:
        raise NotFound(f"host {wish.name} vanished while it joined", hint="join again")
    log.info("a host joined", name=host.name, address=host.address, token=wish.token_id)
    return json_answer(await _join_answer(context, csr_pem, host))


async def _join_answer(context: Context, csr_pem: bytes, host: Host) -> JoinAnswer:
    issued = await apart.issue(context.tls_dir, csr_pem, host.name, host.address, context.clock())
    members = context.mirror.cluster.members
    urls = tuple(member.client_url for _, member in sorted(members.items()))
    return JoinAnswer(
        host=host,
        cluster_name=context.cluster_name,
        certificate=issued,
        ca_key=(context.tls_dir / "ca.key").read_text(),
        store_managed=context.store_managed,
        store_endpoints=urls if context.store_managed else context.store_endpoints,
        encrypted=is_encrypted(context.mirror.cluster),
    )


async def get_status(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    answer = views.status_view(context.mirror.cluster, context.host)
    expiry = await apart.ends_at((context.tls_dir / "host.crt").read_bytes())
    return json_answer(
        answer
        | {
            "cluster": context.cluster_name,
            "leader": context.leader(),
            "cut_off": context.cut_off(),
            "encrypted": is_encrypted(context.mirror.cluster),
            "store": store_health(context),
            "certificate_expires_at": expiry,
        }
    )


def store_health(context: Context) -> dict[str, Any]:
    """Whether the picture is fresh; if not, since when (seconds since the epoch) and why."""
    mirror = context.mirror
    stale_since = mirror.stale_since
    since = 0.0 if stale_since is None else context.clock() - (asyncio.get_running_loop().time() - stale_since)
    message = "" if mirror.healthy else f"the store cannot be read since {instant(since)}: {mirror.trouble}; {WAY_OUT}"
    return {"ok": mirror.healthy, "stale_since": since, "message": message, "revision": mirror.cluster.revision}


async def get_hosts(request: web.Request) -> web.Response:
    return json_answer(views.hosts_view(request.app[CONTEXT].mirror.cluster))


async def get_host(request: web.Request) -> web.Response:
    return _host_answer(request.app[CONTEXT], request.match_info["name"])


async def post_labels(request: web.Request) -> web.Response:
    context, name, body = request.app[CONTEXT], request.match_info["name"], await body_of(request, LabelsBody)
    await commit(context, lambda cluster: membership.decide_labels(cluster, name, body.set, body.remove))
    return _host_answer(context, name)


async def post_taints(request: web.Request) -> web.Response:
    context, name, body = request.app[CONTEXT], request.match_info["name"], await body_of(request, LabelsBody)
    await commit(context, lambda cluster: membership.decide_taints(cluster, name, body.set, body.remove))
    return _host_answer(context, name)


async def post_scheduling(request: web.Request) -> web.Response:
    context, name = request.app[CONTEXT], request.match_info["name"]
    scheduling = SCHEDULING[request.match_info["verb"]]
    await commit(context, lambda cluster: membership.decide_scheduling(cluster, name, scheduling))
    return _host_answer(context, name)


async def get_evacuation(request: web.Request) -> web.Response:
    context, name = request.app[CONTEXT], request.match_info["name"]
    membership.named(context.mirror.cluster, name)
    return json_answer(views.evacuation_view(context.mirror.cluster, name, context.clock()))


async def delete_host(request: web.Request) -> web.Response:
    """Forget a host; returns when its store member is gone too, so that a leaving host may stop its daemon then."""
    context, name = request.app[CONTEXT], request.match_info["name"]
    leaving = _flag(request, "leaving") and name == context.host
    force = _flag(request, "force")
    await commit(context, lambda cluster: membership.decide_removal(cluster, name, force=force, leaving=leaving))
    await _sweep(context, membership.leftovers(context.mirror.cluster, name))
    await context.mirror.until(
        lambda cluster: name not in cluster.members,
        MEMBER_DEADLINE_S,
        f"the leader to remove {name}'s member of the store",
        (key("members", name),),
    )
    log.info("a host was removed", name=name, force=force)
    return json_answer({"removed": name})


async def post_token(request: web.Request) -> web.Response:
    context, body = request.app[CONTEXT], await body_of(request, TokenBody)
    ca_fingerprint = names.fingerprint((context.tls_dir / "ca.crt").read_bytes())
    text, record = token.mint(secrets.token_hex, ca_fingerprint, context.clock(), body.ttl_s, body.reusable)
    record_key = key("tokens", record.id)
    await commit(context, lambda _: Decision((put(record_key, record),), {record_key: 0}))
    address = context.mirror.cluster.hosts.get(context.host)
    shown = views.token_view(record, context.clock())
    return json_answer(shown | {"token": text, "join_address": _join_address(address)})


async def get_tokens(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    return json_answer(views.tokens_view(context.mirror.cluster, context.clock()))


async def delete_token(request: web.Request) -> web.Response:
    context, ident = request.app[CONTEXT], request.match_info["id"]
    await commit(context, lambda cluster: _without_token(cluster, ident))
    return json_answer({"removed": ident})


async def get_why(request: web.Request) -> web.Response:
    return json_answer(explain(request.app[CONTEXT].mirror.cluster, request.match_info["ref"], time.time()))


def _without_token(cluster: Cluster, ident: str) -> Decision:
    if ident not in cluster.tokens:
        raise NotFound(f"no token has the id {ident}", hint="see `drover token ls`")
    return Decision((delete(key("tokens", ident)),), {key("tokens", ident): cluster.version(key("tokens", ident))})


def _join_address(host: Host | None) -> str:
    """What the next host gives to `drover join`: the port only where it is not the usual one."""
    if host is None:
        return ""
    return host.address if host.api_port == 4740 else f"{host.address}:{host.api_port}"


async def commit(context: Context, decide: Callable[[Cluster], Decision]) -> Decision:
    """Decide on a fresh snapshot and commit; on conflict again, `TRIES` times. Returns when the mirror shows it."""
    for _ in range(TRIES):
        decision = decide(await context.store.snapshot())
        if not decision.changes:
            return decision
        try:
            revision = await context.store.commit(decision.changes, decision.expect)
        except CommitConflict:
            continue
        await context.mirror.reached(revision, MIRROR_DEADLINE_S)
        return decision
    raise Conflict(f"others changed the same records {TRIES} times meanwhile", hint="repeat the command")


async def _sweep(context: Context, changes: Sequence[Change]) -> None:
    """Unconditional removals, in as many commits as it takes: each may be repeated or lost without harm."""
    for start in range(0, len(changes), COMMIT_LIMIT):
        revision = await context.store.commit(changes[start : start + COMMIT_LIMIT])
        await context.mirror.reached(revision, MIRROR_DEADLINE_S)


async def body_of(request: web.Request, kind: type[T]) -> T:
    raw = await request.read()
    refuse_deep(raw)
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except MALFORMED as error:
        raise Invalid(f"the request's body is not what {request.path} takes: {error}", hint="see the API's description")


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "") in ("1", "true")


def _host_answer(context: Context, name: str) -> web.Response:
    cluster = context.mirror.cluster
    return json_answer(views.host_view(cluster, membership.named(cluster, name)))


def json_answer(data: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(data), status=status, content_type="application/json")
