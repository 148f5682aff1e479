"""Which endpoint is asked next, and what may be sent twice: the table of `etcd_http`, row by row, on plain servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from drover.errors import Invalid, Unavailable
from drover.store.etcd_http import EtcdHttp, MaybeTaken, NotTaken, Refused
from drover.store.port import AnswerLost

Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]
PATH = "/v3/kv/txn"
GOOD = {"header": {"revision": "7"}}
NOBODY = "http://127.0.0.1:1"
SHORT_S = 0.3


def refusal(status: int, code: int, message: str) -> Respond:
    async def respond(request: web.Request) -> web.Response:
        return web.json_response({"error": message, "message": message, "code": code}, status=status)

    return respond


async def good(request: web.Request) -> web.Response:
    return web.json_response(GOOD)


async def reset(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def silent(request: web.Request) -> web.Response:
    await asyncio.sleep(30)
    return web.Response()


no_leader = refusal(503, 14, "etcdserver: no leader")
learner = refusal(503, 14, "etcdserver: rpc not supported for learner")
overloaded = refusal(429, 8, "etcdserver: too many requests")
timed_out = refusal(503, 14, "etcdserver: request timed out, possibly due to previous leader failure")
leader_changed = refusal(500, 2, "etcdserver: leader changed")
bad_request = refusal(400, 3, "etcdserver: duplicate key given in txn request")


class Endpoints:
    """Plain servers that respond as told, and count what they were asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._runners: list[web.AppRunner] = []
        self._clients: list[EtcdHttp] = []

    async def serve(self, name: str, respond: Respond) -> str:
        async def handle(request: web.Request) -> web.StreamResponse:
            assert request.headers["Grpc-Metadata-hasleader"] == "true"
            self.asked.append(name)
            return await respond(request)

        app = web.Application()
        app.router.add_post("/{path:.*}", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.01)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self._runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def client(self, *responds: Respond, deadline_s: float = 5.0) -> EtcdHttp:
        urls = [await self.serve("abc"[at], respond) for at, respond in enumerate(responds)]
        return self.over(urls, deadline_s)

    def over(self, urls: list[str], deadline_s: float = 5.0) -> EtcdHttp:
        self._clients.append(EtcdHttp(urls, None, deadline_s))
        return self._clients[-1]

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        for runner in self._runners:
            await runner.cleanup()


@pytest.fixture
async def servers() -> AsyncIterator[Endpoints]:
    servers = Endpoints()
    yield servers
    await servers.close()


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("respond", [no_leader, learner, overloaded])
async def test_what_was_not_taken_is_asked_of_the_next(servers: Endpoints, respond: Respond, repeatable: bool) -> None:
    client = await servers.client(respond, good)
    assert (await client.call(PATH, {}, repeatable=repeatable)).body == GOOD
    assert servers.asked == ["a", "b"]


@pytest.mark.parametrize("repeatable", [True, False])
async def test_an_endpoint_that_is_down_is_passed_over(servers: Endpoints, repeatable: bool) -> None:
    client = servers.over([NOBODY, await servers.serve("b", good)])
    assert (await client.call(PATH, {}, repeatable=repeatable)).body == GOOD


@pytest.mark.parametrize("respond", [timed_out, leader_changed, reset])
async def test_a_read_that_may_have_been_taken_is_repeated(servers: Endpoints, respond: Respond) -> None:
    client = await servers.client(respond, good)
    assert (await client.call(PATH, {})).body == GOOD
    assert servers.asked == ["a", "b"]


@pytest.mark.parametrize("respond", [timed_out, leader_changed, reset, silent])
async def test_a_write_that_may_have_been_taken_is_never_repeated(servers: Endpoints, respond: Respond) -> None:
    client = await servers.client(respond, good, deadline_s=SHORT_S)
    with pytest.raises(AnswerLost, match="may or may not have been made"):
        await client.call(PATH, {}, repeatable=False)
    assert servers.asked == ["a"]


async def test_a_refusal_is_final(servers: Endpoints) -> None:
    client = await servers.client(bad_request, good)
    with pytest.raises(Refused, match="duplicate key") as refused:
        await client.call(PATH, {})
    assert refused.value.code == 3
    assert servers.asked == ["a"]


async def test_when_nobody_takes_it_the_deadline_ends_it(servers: Endpoints) -> None:
    client = await servers.client(no_leader, no_leader, deadline_s=SHORT_S)
    for repeatable in (True, False):
        with pytest.raises(Unavailable, match=r"did not answer within 0\.3 s") as error:
            await client.call(PATH, {}, repeatable=repeatable)
        assert not isinstance(error.value, AnswerLost)


async def test_the_one_that_answered_stays_preferred(servers: Endpoints) -> None:
    client = await servers.client(no_leader, good)
    await client.call(PATH, {})
    await client.call(PATH, {})
    assert servers.asked == ["a", "b", "b"]


async def test_new_endpoints_keep_the_preferred_one(servers: Endpoints) -> None:
    client = servers.over(["http://a", "http://b"])
    client.endpoints = ["http://c", "http://a"]
    assert client.endpoints == ("http://a", "http://c")
    client.endpoints = ["http://d"]
    assert client.endpoints == ("http://d",)
    with pytest.raises(Invalid):
        client.endpoints = []


async def test_the_time_is_that_of_the_request_that_succeeded(servers: Endpoints) -> None:
    loop = asyncio.get_running_loop()
    failed_at: list[float] = []

    async def slow_no(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        failed_at.append(loop.time())
        return await no_leader(request)

    client = await servers.client(slow_no, good)
    assert (await client.call(PATH, {})).sent_s >= failed_at[0]


async def streamed(request: web.Request) -> web.StreamResponse:
    """Three messages: one cut in two, one longer than the library's own reader takes, and an error."""
    response = web.StreamResponse()
    await response.prepare(request)
    for part in (b'{"result":', b'{"n":1}}\n{"result":{"n":"' + b"x" * 500_000, b'"}}\n'):
        await response.write(part)
    await response.write(b'{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}\n')
    return response


async def test_a_stream_gives_whole_messages_until_its_error(servers: Endpoints) -> None:
    client = await servers.client(streamed, good)
    messages = client.stream("/v3/watch", {}, 5.0)
    assert [await anext(messages), await anext(messages)] == [{"n": 1}, {"n": "x" * 500_000}]
    with pytest.raises(NotTaken, match="no leader"):
        await anext(messages)
    await client.call(PATH, {})
    assert servers.asked == ["a", "b"]


async def test_a_stream_that_falls_silent_ends(servers: Endpoints) -> None:
    client = await servers.client(silent, good)
    with pytest.raises(MaybeTaken):
        await anext(client.stream("/v3/watch", {}, 0.05))


async def test_an_answer_that_is_not_json_is_no_answer(servers: Endpoints) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>", status=502)

    client = await servers.client(page, good)
    assert (await client.call(PATH, {})).body == GOOD
