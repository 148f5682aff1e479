"""The API's routes about applications: a manifest in its canonical form in, how it does out.

    method and path                   body                                 answer
    GET /apps                                                              `app_view.apps_view`
    GET /apps/NAME                                                         `app_view.app_view`
    POST /apps/NAME                   ManifestBody                         {changed, warnings, notes}
    POST /apps/NAME/plan              ManifestBody                         `app_plan.plan`, warnings, notes
    POST /apps/NAME/scale             {service, replicas}                  {changed}
    POST /apps/NAME/rollback                                               {changed}
    DELETE /apps/NAME?volumes=1                                            {changed}

Contents of configs and secrets come in with the manifest and are never given out again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from drover.api.app import CONTEXT, body_of, commit, json_answer
from drover.api.membership import Decision
from drover.decide.app_changes import Contents, deploy_draft, file_ids, remove_draft, rollback_draft, scale_draft
from drover.decide.app_plan import plan
from drover.decide.app_view import app_view, apps_view
from drover.decide.services import Draft
from drover.errors import Invalid
from drover.manifest.app import Read, read_app
from drover.model.cluster import Cluster


class ManifestBody(msgspec.Struct, frozen=True, kw_only=True):
    """`compose`: the canonical form. `configs`, `secrets`: key to content, base64. `strict`: refuse what is not
    honoured."""

    compose: dict[str, Any]
    configs: dict[str, str] = {}
    secrets: dict[str, str] = {}
    strict: bool = False

    @property
    def contents(self) -> Contents:
        configs = {("configs", name): content for name, content in self.configs.items()}
        return configs | {("secrets", name): content for name, content in self.secrets.items()}


class ScaleBody(msgspec.Struct, frozen=True):
    service: str
    replicas: int


def app_routes() -> list[web.RouteDef]:
    """The routes, for `ApiServer`."""
    return [
        web.get("/apps", get_apps),
        web.get("/apps/{name}", get_app),
        web.post("/apps/{name}", post_app),
        web.post("/apps/{name}/plan", post_plan),
        web.post("/apps/{name}/scale", post_scale),
        web.post("/apps/{name}/rollback", post_rollback),
        web.delete("/apps/{name}", delete_app),
    ]


async def get_apps(request: web.Request) -> web.Response:
    return json_answer(apps_view(request.app[CONTEXT].mirror.cluster))


async def get_app(request: web.Request) -> web.Response:
    return json_answer(app_view(request.app[CONTEXT].mirror.cluster, request.match_info["name"]))


async def post_app(request: web.Request) -> web.Response:
    context, body, name = request.app[CONTEXT], await body_of(request, ManifestBody), request.match_info["name"]
    told: list[Read] = []

    def decide(cluster: Cluster) -> Draft:
        ids = file_ids(cluster, name, body.contents, lambda: secrets.token_hex(8))
        told[:] = [_read(body, name, ids)]
        return deploy_draft(cluster, told[0].app, body.contents, ids, context.clock())

    changed = await _changed(request, decide)
    return json_answer({"changed": changed, "warnings": told[0].app.warnings, "notes": told[0].notes})


async def post_plan(request: web.Request) -> web.Response:
    context, body, name = request.app[CONTEXT], await body_of(request, ManifestBody), request.match_info["name"]
    cluster = context.mirror.cluster
    ids = file_ids(cluster, name, body.contents, lambda: secrets.token_hex(8))
    found = _read(body, name, ids)
    shown = msgspec.to_builtins(plan(cluster, found.app))
    return json_answer(shown | {"warnings": found.app.warnings, "notes": found.notes})


async def post_scale(request: web.Request) -> web.Response:
    body, name = await body_of(request, ScaleBody), request.match_info["name"]
    changed = await _changed(request, lambda cluster: scale_draft(cluster, name, body.service, body.replicas))
    return json_answer({"changed": changed})


async def post_rollback(request: web.Request) -> web.Response:
    context, name = request.app[CONTEXT], request.match_info["name"]
    changed = await _changed(request, lambda cluster: rollback_draft(cluster, name, context.clock()))
    return json_answer({"changed": changed})


async def delete_app(request: web.Request) -> web.Response:
    name, volumes = request.match_info["name"], request.query.get("volumes", "") in ("1", "true")
    changed = await _changed(request, lambda cluster: remove_draft(cluster, name, volumes))
    return json_answer({"changed": changed})


async def _changed(request: web.Request, decide: Callable[[Cluster], Draft]) -> bool:
    """Commit what is decided; whether that changed anything."""

    def decision(cluster: Cluster) -> Decision:
        draft = decide(cluster)
        return Decision(draft.changes, draft.expect)

    return bool((await commit(request.app[CONTEXT], decision)).changes)


def _read(body: ManifestBody, name: str, ids: dict[tuple[str, str], str]) -> Read:
    """The manifest as an application. Raises `Invalid`: also for what is not honoured, with `strict`."""
    try:
        found = read_app(body.compose, name, ids)
    except (KeyError, TypeError, AttributeError) as error:
        raise Invalid(
            f"the manifest is not in Compose's canonical form: {error!r}", hint="`docker compose config` prints that"
        ) from error
    if body.strict and found.app.warnings:
        raise Invalid(
            "not everything in the manifest is honoured, and --strict asks for that: " + "; ".join(found.app.warnings),
            hint="leave those keys out, or deploy without --strict",
        )
    return found
