"""Stand-ins for the six public adapters of Powerstrip's days, behaving as the real ones do, through chains.

Each stand-in keeps its original's needs (which fields it reads, what it cannot survive), replies and content types.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from gateway_wire_tools import ok, until
from hooks_tools import CREATE, HookWorld, ScriptedAdapter, hook_world

BODY = b'{"Image":"acme/app","Env":["LOGS=/var/log"],"HostConfig":{"Binds":null}}'


def html(value: Any, status: int = 200) -> web.Response:
    """JSON under the type that Twisted and Flask gave to everything."""
    return web.Response(status=status, text=json.dumps(value), content_type="text/html")


async def slowreq(told: dict[str, Any]) -> web.Response:
    """Echoes after a while; the type is text/html; an unknown Type is a 500."""
    await asyncio.sleep(0.02)
    if told["Type"] == "pre-hook":
        return html({"PowerstripProtocolVersion": 1, "ModifiedClientRequest": told["ClientRequest"]})
    if told["Type"] == "post-hook":
        return html({"PowerstripProtocolVersion": 1, "ModifiedServerResponse": told["ServerResponse"]})
    return web.Response(status=500, text="unsupported hook type", content_type="text/html")


def debug(adapter: Callable[[], ScriptedAdapter]) -> Callable[[dict[str, Any]], web.Response]:
    """Echoes pretty-printed; a Body that is a non-empty text and no JSON ends the process."""

    def behave(told: dict[str, Any]) -> web.Response:
        if not told.get("Type"):
            return web.Response(status=500, text="no Type")
        shown = [told["ClientRequest"], told.get("ServerResponse") or {}]
        try:
            for part in shown:
                json.loads(part.get("Body") or "null")
        except ValueError:
            adapter().gone += 1
            raise asyncio.CancelledError from None
        name, value = (
            ("ModifiedClientRequest", shown[0]) if told["Type"] == "pre-hook" else ("ModifiedServerResponse", shown[1])
        )
        text = json.dumps({"PowerstripProtocolVersion": 1, name: value}, indent=4)
        return web.Response(text=text, content_type="application/json")

    return behave


def logfiles(told: dict[str, Any]) -> web.Response:
    """Adds a token and a bind per path in LOGS; on an error it answers without ModifiedClientRequest."""
    answer: dict[str, Any] = {"PowerstripProtocolVersion": 1}
    if told["Type"] == "post-hook":
        assert told["ServerResponse"]["Code"] == 201
        assert json.loads(told["ServerResponse"]["Body"])["Id"]
        return web.json_response(answer | {"ModifiedServerResponse": told["ServerResponse"]})
    try:
        body = json.loads(told["ClientRequest"]["Body"])
        paths = next(text[5:] for text in body["Env"] if text.startswith("LOGS=")).split(",")
        body["Env"].append("POWERSTRIP_TOKEN__=t1")
        body["HostConfig"]["Binds"] = [*(body["HostConfig"]["Binds"] or []), *(f"/srv/t1{p}:{p}" for p in paths)]
    except (KeyError, TypeError, StopIteration) as error:
        return web.json_response(answer | {"error": str(error)})
    changed = told["ClientRequest"] | {"Body": json.dumps(body)}
    return web.json_response(answer | {"ModifiedClientRequest": changed})


def restrict_image_user(told: dict[str, Any]) -> web.Response:
    """403 with an empty text/html body unless the image's user is `acme`; without a JSON body, 500."""
    body = told["ClientRequest"]["Body"]
    if body is None:
        return web.Response(status=500, text="<title>500 Internal Server Error</title>", content_type="text/html")
    image = json.loads(body)["Image"]
    user = image.split("/")[0] if "/" in image else "_"
    if user != "acme":
        return web.Response(status=403, text="", content_type="text/html")
    return web.json_response({"PowerstripProtocolVersion": 1, "ModifiedClientRequest": told["ClientRequest"]})


async def flocker(told: dict[str, Any]) -> web.Response:
    """Answers with its own path as Request and with its own binds only, once the volume is there."""
    if told["Type"] != "pre-hook":
        return web.Response(status=500, text="exceptions.Exception: unsupported", content_type="text/html")
    body = json.loads(told["ClientRequest"]["Body"])
    binds = body["HostConfig"]["Binds"] or []
    body["HostConfig"]["Binds"] = [f"/flocker/u1:{one.split(':')[1]}" for one in binds if one.startswith("/flocker/")]
    changed = {"Method": "POST", "Request": "/flocker-adapter", "Body": json.dumps(body)}
    return html({"PowerstripProtocolVersion": 1, "ModifiedClientRequest": changed})


def weave(told: dict[str, Any]) -> web.Response:
    """Wraps the entry point on create when WEAVE_CIDR is set; echoes everything else; an error is a 500."""
    request, response = told["ClientRequest"], told.get("ServerResponse")
    if told["Type"] == "post-hook":
        return web.json_response({"PowerstripProtocolVersion": 1, "ModifiedServerResponse": response})
    changed = dict(request)
    if request["Request"].partition("?")[0].endswith("/containers/create"):
        if not request["Body"]:
            return web.Response(status=500, text="TypeError: Cannot read properties of null", content_type="text/html")
        body = json.loads(request["Body"])
        if any(text.startswith("WEAVE_CIDR=") for text in body.get("Env") or []):
            body |= {"Entrypoint": ["/home/weavetools/wait-for-weave"], "Cmd": body.get("Cmd") or []}
            body.setdefault("HostConfig", {})["VolumesFrom"] = ["weavetools"]
            changed["Body"] = json.dumps(body)
    return web.json_response({"PowerstripProtocolVersion": 1, "ModifiedClientRequest": changed})


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[HookWorld]:
    async with hook_world(tmp_path) as built:
        await built.adapter("slowreq", slowreq)
        await built.adapter("debug", debug(lambda: built.adapters["debug"]))
        await built.adapter("logfiles", logfiles)
        await built.adapter("restrict", restrict_image_user)
        await built.adapter("flocker", flocker)
        await built.adapter("weave", weave)
        yield built


async def test_slowreq_debug_and_logfiles_in_one_chain(world: HookWorld):
    await world.configure(
        {"POST /*/containers/create": {"pre": ["slowreq", "debug", "logfiles"], "post": ["debug", "logfiles"]}}
    )
    got = await world.ask("POST", CREATE, BODY)
    assert (got.status, got.json["Id"]) == (201, "e1")
    sent = json.loads(world.engine_bodies[0])
    assert sent["Env"] == ["LOGS=/var/log", "POWERSTRIP_TOKEN__=t1"]
    assert sent["HostConfig"]["Binds"] == ["/srv/t1/var/log:/var/log"]
    hooks = ["slowreq pre-hook", "debug pre-hook", "logfiles pre-hook", "engine", "debug post-hook"]
    assert world.lines == [*hooks, "logfiles post-hook"]


async def test_slowreq_before_and_after_everything(world: HookWorld):
    await world.configure({"* *": {"pre": ["slowreq"], "post": ["slowreq"]}})
    world.engine_answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    got = await world.ask("POST", "/v1.41/containers/a/start", None)
    assert (got.status, got.header("content-type")) == (204, None)


@pytest.mark.parametrize("body", [b"OK", b"", b"\xff", b'{"half":'])
async def test_debug_survives_whatever_passes(world: HookWorld, body: bytes):
    await world.configure({"* *": {"pre": ["debug"], "post": ["debug"]}})
    world.engine_answer = ok(body, b"Content-Type: text/plain")
    got = await world.ask("POST", "/v1.41/containers/create", body or None)
    assert (got.status, got.body) == (200, body)
    assert world.adapters["debug"].gone == 0


async def test_logfiles_error_is_a_message_and_not_a_hang(world: HookWorld):
    await world.configure({"POST /*/containers/create": {"pre": ["logfiles"]}})
    got = await world.ask("POST", CREATE, b'{"Image":"a"}')
    assert (got.status, got.message) == (502, "adapter logfiles answered without ModifiedClientRequest")
    assert "engine" not in world.lines


async def test_restrict_image_user_refuses_with_an_empty_html_403(world: HookWorld):
    await world.configure({"POST /*/containers/create": {"pre": ["restrict"]}})
    assert (await world.ask("POST", CREATE, b'{"Image":"acme/app"}')).status == 201
    got = await world.ask("POST", CREATE, b'{"Image":"nginx"}')
    assert (got.status, got.message) == (403, "adapter restrict refused this call with status 403")
    registry = await world.ask("POST", CREATE, b'{"Image":"host.example:5000/acme/app"}')
    assert registry.status == 403


async def test_restrict_image_users_500_without_body_is_the_clients(world: HookWorld):
    await world.configure({"POST /*/containers/*/start": {"post": ["restrict"]}})
    got = await world.ask("POST", "/v1.41/containers/a/start", None)
    assert (got.status, got.message) == (500, "adapter restrict refused this call with status 500")


async def test_flockers_own_path_misroutes_nothing(world: HookWorld):
    await world.configure({"POST /*/containers/create": {"pre": ["flocker"]}})
    body = b'{"Image":"a","HostConfig":{"Binds":["/flocker/data:/data","/x:/y"]}}'
    assert (await world.ask("POST", f"{CREATE}?name=db", body)).status == 201
    assert world.engine.heads[0].startswith(b"POST " + CREATE.encode() + b"?name=db HTTP/1.1\r\n")
    assert json.loads(world.engine_bodies[0])["HostConfig"]["Binds"] == ["/flocker/u1:/data"]


async def test_flocker_waits_for_its_volume_within_its_deadline(world: HookWorld):
    arrived = asyncio.Event()

    async def waiting(told: dict[str, Any]) -> web.Response:
        await arrived.wait()
        return await flocker(told)

    world.adapters["flocker"].behave = waiting
    await world.configure({"POST /*/containers/create": {"pre": ["flocker"]}}, flocker={"deadline_s": 300})
    call = asyncio.create_task(world.ask("POST", CREATE, BODY))
    await until(lambda: len(world.adapters["flocker"].asked) == 1)
    arrived.set()
    assert (await call).status == 201


async def test_weave_wraps_the_entry_point(world: HookWorld):
    await world.configure(
        {"POST /*/containers/create": {"pre": ["weave"]}, "POST /*/containers/*/start": {"post": ["weave"]}}
    )
    body = b'{"Image":"a","Env":["WEAVE_CIDR=10.2.1.1/24"],"Cmd":["run"]}'
    for target in (f"{CREATE}?name=a", "/containers/create"):
        assert (await world.ask("POST", target, body)).status == 201
    sent = [json.loads(each) for each in world.engine_bodies]
    assert [one["Entrypoint"] for one in sent] == [["/home/weavetools/wait-for-weave"]] * 2
    assert sent[0]["HostConfig"] == {"VolumesFrom": ["weavetools"]}
    world.engine_answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    assert (await world.ask("POST", "/v1.41/containers/a/start", None)).status == 204


async def test_weaves_500_is_the_clients(world: HookWorld):
    await world.configure({"POST /*/containers/create": {"pre": ["weave"]}})
    got = await world.ask("POST", CREATE, b"not json")
    message = "adapter weave refused this call with status 500: TypeError: Cannot read properties of null"
    assert (got.status, got.message) == (500, message)
    assert "engine" not in world.lines


async def test_flockers_500_as_a_post_hook_is_the_clients(world: HookWorld):
    await world.configure({"POST /*/containers/create": {"pre": ["flocker"], "post": ["flocker"]}})
    got = await world.ask("POST", CREATE, BODY)
    assert (got.status, "unsupported" in got.message) == (500, True)


@pytest.mark.parametrize("name", ["slowreq", "debug"])
async def test_an_unwind_message_to_one_that_knows_none_is_no_trouble(world: HookWorld, name: str):
    """A Type that they do not know is a 500 from slowreq; the client has its answer by then."""
    world.engine_answer = ok(b'{"message":"taken"}', b"Content-Type: application/json", status=b"409 Conflict")
    await world.configure({"POST /*/containers/create": {"pre": [name]}}, **{name: {"unwind": True}})
    got = await world.ask("POST", CREATE, BODY)
    assert (got.status, got.message) == (409, "taken")
    await world.quiet()
    assert [told["Type"] for told in world.adapters[name].asked] == ["pre-hook", "unwind-hook"]


async def test_all_six_in_one_chain(world: HookWorld):
    pre = ["slowreq", "debug", "restrict", "flocker", "logfiles", "weave"]
    await world.configure(
        {"POST /*/containers/create": {"pre": pre, "post": ["slowreq", "debug", "logfiles", "weave"]}}
    )
    got = await world.ask("POST", CREATE, BODY)
    assert got.status == 201
    assert json.loads(world.engine_bodies[0])["HostConfig"]["Binds"] == ["/srv/t1/var/log:/var/log"]
    assert [line.split()[0] for line in world.lines[:6]] == pre
