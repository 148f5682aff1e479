"""What an engine's answers mean, and how long it may take over them."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from drover.drivers.engine.api import EngineApi, message_of
from drover.drivers.engine.docker import DockerEngine, order_deadline_s, split_ref
from drover.drivers.engine.port import SeenEvent
from drover.drivers.engine.read import check_command, layer_sizes, load_report, repeated, seen_container, seen_event
from drover.errors import EngineError, Unavailable


def test_a_container_with_everything_missing_that_may_be() -> None:
    detail = {
        "Id": "e1",
        "Name": "/web",
        "Config": {"Labels": None},
        "State": {"Status": "dead", "StartedAt": "0001-01-01T00:00:00Z"},
        "NetworkSettings": {"Networks": None},
    }
    seen = seen_container(detail)
    assert (seen.id, seen.engine_id, seen.name, seen.state) == ("", "e1", "web", "dead")
    assert (seen.epoch, seen.started_at, dict(seen.networks)) == (0, "", {})


@pytest.mark.parametrize(("label", "epoch"), [("7", 7), ("", 0), ("x", 0), ("-1", 0), ("²", 0)])
def test_epochs_are_numbers(label: str, epoch: int) -> None:
    detail = {
        "Id": "e1",
        "Name": "/web",
        "Config": {"Labels": {"drover.id": "c1", "drover.epoch": label}},
        "State": {"Status": "running", "Health": {"Status": "healthy"}},
        "NetworkSettings": {"Networks": {"back": {"NetworkID": "n1"}}},
        "Image": "sha256:1",
    }
    seen = seen_container(detail)
    assert (seen.id, seen.epoch, seen.health, seen.image) == ("c1", epoch, "healthy", "sha256:1")
    assert seen.networks == {"back": "n1"}


def test_an_event() -> None:
    line = b'{"Type":"volume","Action":"create","Actor":{"ID":"v","Attributes":null},"timeNano":5}\n'
    assert seen_event(line) == SeenEvent(kind="volume", action="create", actor="v", time_ns=5)


def test_what_load_said() -> None:
    assert load_report('{"stream":"Loaded image: a:1\\n"}\r\n{"status":"x"}\r\n') == "Loaded image: a:1\n"
    with pytest.raises(EngineError, match="no space") as refused:
        load_report('{"stream":"x"}\n{"errorDetail":{},"error":"no space left"}\n')
    assert refused.value.status == 500


def test_layer_sizes_from_a_history() -> None:
    newest_first = [{"Size": 0}, {"Size": 30}, {"Size": 0}, {"Size": 10}]
    assert layer_sizes(2, newest_first) == [10, 30]
    assert layer_sizes(3, newest_first) == [10, 30, 0]
    assert layer_sizes(1, newest_first) == [10]


@pytest.mark.parametrize(
    ("ref", "parts"),
    [
        ("app", ("app", "latest")),
        ("app:1", ("app", "1")),
        ("localhost:5000/app", ("localhost:5000/app", "latest")),
        ("localhost:5000/app:1", ("localhost:5000/app", "1")),
    ],
)
def test_names_and_tags(ref: str, parts: tuple[str, str]) -> None:
    assert split_ref(ref) == parts


@pytest.mark.parametrize(
    ("verb", "query", "deadline_s"),
    [("stop", "t=5", 65.0), ("restart", "signal=INT&t=0", 60.0), ("stop", "", None), ("stop", "t=-1", None)],
)
def test_only_a_named_grace_period_bounds_a_stop(verb: str, query: str, deadline_s: float | None) -> None:
    assert order_deadline_s(verb, query) == deadline_s
    assert order_deadline_s("start", query) is None


def test_messages() -> None:
    assert message_of('{"message":"No such container: x"}\n') == "No such container: x"
    assert message_of("page not found\n") == "page not found"
    assert message_of("[]") == "[]"


async def serve(socket: Path, app: web.Application) -> web.AppRunner:
    """A stand-in for an engine at `socket`."""
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    return runner


async def test_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    async def never(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    app = web.Application()
    app.router.add_get("/info", never)
    runner = await serve(tmp_path / "sock", app)
    api = EngineApi(str(tmp_path / "sock"))
    with pytest.raises(Unavailable, match="did not answer GET /info in time"):
        await api.ask("GET", "/info", deadline_s=0.05)
    await api.close()
    await runner.cleanup()


async def test_an_event_stream_that_ends_or_breaks(tmp_path: Path) -> None:
    broken = False

    async def events(request: web.Request) -> web.StreamResponse:
        assert request.query["since"].count(".") == 1
        response = web.StreamResponse()
        await response.prepare(request)
        label = "x" * 300_000
        await response.write(b'{"Type":"image","Action":"tag","Actor":{"ID":"%s"}}\n\n' % label.encode())
        if broken and request.transport is not None:
            request.transport.abort()
        return response

    app = web.Application()
    app.router.add_get("/events", events)
    runner = await serve(tmp_path / "sock", app)
    engine = DockerEngine(str(tmp_path / "sock"))
    stream = engine.events()
    assert len((await anext(stream)).actor) == 300_000
    with pytest.raises(Unavailable, match="closed its event stream"):
        await anext(stream)
    broken = True
    with pytest.raises(Unavailable):
        assert [event async for event in engine.events()] == []
    await engine.close()
    await runner.cleanup()


def test_a_check_of_the_shells_is_repeated_until_it_passes(tmp_path: Path) -> None:
    check = f"echo x >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) -ge 3 ] || exit 7 # so it is"
    command = check_command({"Config": {"Healthcheck": {"Test": ["CMD-SHELL", check]}}})
    assert subprocess.run(repeated(command, 10), check=False).returncode == 0
    assert (tmp_path / "tries").read_text() == "x\n" * 3


@pytest.mark.parametrize("check", ["exit 7", "if", "echo ("])
def test_a_check_that_does_not_pass_ends_in_time(check: str) -> None:
    assert subprocess.run(repeated(["/bin/sh", "-c", check], 0), check=False, capture_output=True).returncode != 0


@pytest.mark.parametrize("command", [[], ["pg_isready", "-q"], ["/bin/bash", "-c", "true"]])
def test_any_other_check_is_run_as_it_is(command: list[str]) -> None:
    assert repeated(command, 10) == command


async def test_the_check_of_what_is_about_to_start_is_known_before(tmp_path: Path) -> None:
    inspected, ran = [], []

    async def inspect(request: web.Request) -> web.Response:
        inspected.append(request.path)
        healthcheck = {"Test": ["CMD", "pg_isready"]}
        detail: dict[str, object] = {"Id": "c1", "State": {"Status": "created"}, "Config": {"Healthcheck": healthcheck}}
        detail["HostConfig"] = {"LogConfig": {"Type": "json-file"}}
        return web.json_response(detail)

    async def run(request: web.Request) -> web.Response:
        ran.append((await request.json())["Cmd"])
        return web.json_response({"Id": "e1"})

    app = web.Application()
    app.router.add_get("/containers/c1/json", inspect)
    app.router.add_get("/info", _answering({"DockerRootDir": "/d"}))
    app.router.add_post("/containers/c1/exec", run)
    app.router.add_post("/exec/e1/start", _answering({}))
    app.router.add_get("/exec/e1/json", _answering({"Running": False, "ExitCode": 0}))
    runner = await serve(tmp_path / "sock", app)
    engine = DockerEngine(str(tmp_path / "sock"))
    await engine.own_files("c1")
    assert await engine.passes_its_check("c1", 10)
    assert (len(inspected), ran) == (1, [["pg_isready"]])
    assert await engine.passes_its_check("c1", 10)
    assert (len(inspected), len(ran)) == (2, 2)
    await engine.close()
    await runner.cleanup()


def _answering(answer: object) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(answer)

    return handler
