"""Hooks as people meet them: `drover adapter …` against a real API, a real gateway and scripted adapters."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from api_world import World as ApiWorld
from click.testing import CliRunner, Result
from gateway_wire_tools import until
from hooks_tools import HookWorld, answer, append_to_body, echo, hook_world
from structlog.testing import capture_logs

from drover.api.adapters import adapter_routes
from drover.api.server import ApiServer
from drover.cli import main as cli
from drover.cli.adapters import change_text, trace_text


class Both:
    """A gateway with hooks and an API, on one store."""

    def __init__(self, hooks: HookWorld, api: ApiWorld) -> None:
        self.hooks, self.api = hooks, api

    async def drover(self, *arguments: str, text: str = "") -> Result:
        whole = ("--host", f"unix://{self.api.socket}", "adapter", *arguments)
        return await asyncio.to_thread(CliRunner().invoke, cli.main, whole, text)

    async def done(self, *arguments: str, text: str = "") -> str:
        result = await self.drover(*arguments, text=text)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    def text(self, endpoints: dict[str, dict[str, list[str]]]) -> str:
        adapters = {name: one.url for name, one in self.hooks.adapters.items()}
        return json.dumps({"version": 1, "endpoints": endpoints, "adapters": adapters})


@asynccontextmanager
async def built(tmp: Path) -> AsyncIterator[Both]:
    (tmp / "api").mkdir()
    async with hook_world(tmp) as hooks:
        api = ApiWorld(tmp / "api")
        api.store, api.mirror = hooks.store, hooks.mirror
        api.server = ApiServer(api.context(), adapter_routes(hooks.layer))
        api.found()
        await api.server.start(api.socket, "", "127.0.0.1", 0)
        try:
            yield Both(hooks, api)
        finally:
            await api.server.stop()


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    with capture_logs():  # what commands print is compared, and click captures the whole process's output
        async with built(tmp_path) as made:
            yield made


async def test_apply_counts_at_once_and_rollback_takes_it_back(both: Both):
    await both.hooks.adapter("one", answer(403))
    assert (await both.hooks.ask()).status == 201
    text = both.text({"* *": {"pre": ["one"]}})
    assert "applied" in await both.done("apply", "-f", "-", text=text)
    assert (await both.hooks.ask()).status == 403
    assert await both.done("show") == text + "\n"
    assert "rolled back" in await both.done("rollback")
    assert (await both.hooks.ask()).status == 201
    assert await both.done("show", "--previous") == text + "\n"
    await both.done("rollback")
    assert (await both.hooks.ask()).status == 403


async def test_a_file_with_an_error_changes_nothing(both: Both):
    await both.hooks.adapter("one", answer(403))
    await both.done("apply", "-f", "-", text=both.text({"* *": {"pre": ["one"]}}))
    result = await both.drover("apply", "-f", "-", text="endpoints: {}\nadapters: {}\nextra: 1\n")
    assert result.exit_code == 2
    assert "line 3 of the adapters file: the file has the unknown key 'extra'" in result.stderr
    assert (await both.hooks.ask()).status == 403


async def test_apply_warns_of_what_is_probably_not_meant(both: Both):
    await both.hooks.adapter("one")
    result = await both.drover("apply", "-f", "-", text=both.text({"POST /containers/create": {"pre": ["one"]}}))
    assert result.exit_code == 0
    assert "names no version" in result.stderr


async def test_rollback_needs_something_to_go_back_to(both: Both):
    result = await both.drover("rollback")
    assert (result.exit_code, "no other configuration" in result.stderr) == (4, True)
    assert (await both.drover("show", "--previous")).exit_code == 4
    assert "endpoints: {}" in await both.done("show")


async def test_ls_shows_what_adapters_did(both: Both):
    await both.hooks.adapter("good")
    await both.hooks.adapter("strict", answer(403, '{"message":"no"}'))
    await both.hooks.adapter("broken", answer(200, "junk"))
    await both.done(
        "apply",
        "-f",
        "-",
        text=both.text({"GET /*": {"pre": ["good"]}, "PUT /*": {"pre": ["strict"]}, "DELETE /*": {"post": ["broken"]}}),
    )
    for method in ("GET", "GET", "PUT", "DELETE"):
        await both.hooks.ask(method, "/v1.41/x", None)
    found = json.loads(await both.done("ls", "--json"))
    numbers = {one["name"]: (one["calls"], one["refusals"], one["errors"]) for one in found["adapters"]}
    assert numbers == {"good": (2, 0, 0), "strict": (1, 1, 0), "broken": (1, 0, 1)}
    assert all(0 < one["p50_s"] <= one["p99_s"] < 10 for one in found["adapters"])
    table = await both.done("ls")
    assert table.splitlines()[0].split()[:5] == ["NAME", "ADDRESS", "CALLS", "REFUSALS", "ERRORS"]
    assert "adapter broken answered with what is not a hook's answer" in table


async def test_trace_tells_who_changed_which_field(both: Both):
    await both.hooks.adapter("one", append_to_body("x"))
    await both.done("apply", "-f", "-", text=both.text({"POST /*": {"pre": ["one"]}}))
    events = both.hooks.layer.trace()
    waiting = asyncio.create_task(anext(events))
    await until(lambda: both.hooks.layer.feed.heard)
    await both.hooks.ask()
    event = await waiting
    assert (event["adapter"], event["hook"], event["outcome"]) == ("one", "pre-hook", "changed")
    assert event["changes"] == [{"field": "Body.Marks", "after": ["x"]}]
    assert trace_text(event).splitlines()[1] == '  +Body.Marks: ["x"]'


async def test_trace_comes_over_the_api_line_by_line(both: Both):
    await both.hooks.adapter("one", echo)
    await both.done("apply", "-f", "-", text=both.text({"POST /*": {"pre": ["one"]}}))
    reader, writer = await asyncio.open_unix_connection(str(both.api.socket))
    writer.write(b"GET /adapters/trace HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"x-ndjson" in await reader.readuntil(b"\r\n\r\n")
    await until(lambda: both.hooks.layer.feed.heard)
    await both.hooks.ask()
    await reader.readline()
    assert json.loads(await reader.readline())["outcome"] == "unchanged"
    writer.close()
    await until(lambda: not both.hooks.layer.feed.heard)


async def test_the_command_shows_hooks_as_they_run(both: Both):
    await both.hooks.adapter("one", append_to_body("x"))
    await both.done("apply", "-f", "-", text=both.text({"POST /*": {"pre": ["one"]}}))
    program = "from drover.cli import main; main.main()"
    arguments = ("-c", program, "--host", f"unix://{both.api.socket}", "adapter", "trace")
    process = await asyncio.create_subprocess_exec(sys.executable, "-u", *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        await until(lambda: both.hooks.layer.feed.heard)
        await both.hooks.ask()
        assert process.stdout is not None
        assert b" one pre-hook POST " in await process.stdout.readline()
        assert await process.stdout.readline() == b'  +Body.Marks: ["x"]\n'
    finally:
        process.terminate()
        await process.wait()


def test_a_change_is_shown_with_its_sides():
    assert change_text({"field": "Code", "before": 404, "after": 200}) == "  Code: 404 -> 200"
    assert change_text({"field": "Body.A", "before": "x"}) == '  -Body.A: "x"'
    assert "lost" in trace_text({"lost": 3})


async def test_a_dry_run_asks_the_adapter_and_no_engine(both: Both):
    one = await both.hooks.adapter("one", append_to_body("x"))
    await both.done("apply", "-f", "-", text=both.text({"* *": {"pre": ["one"]}}))
    wish = json.dumps({"Method": "POST", "Request": "/v1.41/containers/create", "Body": '{"Image":"a"}'})
    assert await both.done("test", "one", "-f", "-", text=wish) == 'one: changed\n  +Body.Marks: ["x"]\n'
    assert [told["Type"] for told in one.asked] == ["pre-hook"]
    after = json.dumps({"Request": "/x", "ServerResponse": {"Code": 404, "Body": '{"message":"no"}'}})
    shown = json.loads(await both.done("test", "one", "-f", "-", "--json", text=after))
    assert shown["sent"]["ServerResponse"] == {
        "ContentType": "application/json",
        "Body": '{"message":"no"}',
        "Code": 404,
    }
    assert "engine" not in both.hooks.lines
    assert both.hooks.layer.views()[0]["calls"] == 0


async def test_a_dry_run_says_what_would_refuse_or_fail(both: Both):
    one = await both.hooks.adapter("one", answer(403, '{"message":"no"}'))
    await both.done("apply", "-f", "-", text=both.text({"* *": {"pre": ["one"]}}))
    wish = '{"Request": "/v1.41/info", "Method": "GET"}'
    assert await both.done("test", "one", "-f", "-", text=wish) == 'one: refused: {"message":"no"}\n'
    one.behave = lambda told: web.Response(text="junk")
    assert (await both.done("test", "one", "-f", "-", text=wish)).startswith("one: failed: adapter one answered")
    assert (await both.drover("test", "ghost", "-f", "-", text=wish)).exit_code == 4
    assert (await both.drover("test", "one", "-f", "-", text="{}")).exit_code == 2
    assert (await both.drover("test", "one", "-f", "-", text="no json")).exit_code == 2


async def test_hooks_are_no_strangers_business(both: Both):
    both.api.port = both.api.server.port
    with pytest.raises(Exception, match="certificate"):
        await both.api.call_tls("GET", "/adapters")
