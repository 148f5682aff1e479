"""Adapters' answers: whatever an adapter says, the chain goes on, is refused, or names the adapter; nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hooks_tools import HookWorld, hook_world
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.hostile import bodies, damaged, fuzzed, names, with_strange_fields

from drover.errors import DroverError
from drover.gateway.hooks.config import parse_config
from drover.gateway.hooks.protocol import AdapterError, HookAnswer, Refused, Request, Response, read_post, read_pre

PRE: dict[str, Any] = {
    "PowerstripProtocolVersion": 1,
    "ModifiedClientRequest": {"Method": "POST", "Request": "/v1.41/containers/create?name=a", "Body": '{"Image":"b"}'},
}
POST: dict[str, Any] = {
    "PowerstripProtocolVersion": 1,
    "ModifiedServerResponse": {"ContentType": "application/json", "Body": '{"Id":"x"}', "Code": 201},
}
SECOND: dict[str, Any] = {"PowerstripProtocolVersion": 2, "Continue": True, "Refuse": {"Code": 403, "Message": "no"}}
SENT = Request(method="POST", request="/v1.41/containers/create?name=a", body=b'{"Image":"a"}')
GOT = Response(status=201, content_type="application/json", body=b'{"Id":"e1"}\n')
CONFIG = """version: 1
endpoints:
  "POST /*/containers/create": {pre: [a], post: [a]}
  "* /*": {pre: [a]}
adapters:
  a: {url: "http://127.0.0.1:1/", deadline_s: 2, on_error: skip, protocol: 2}
"""

statuses = st.sampled_from((200,) * 6 + (100, 204, 301, 304, 400, 403, 404, 500, 599, 600, 999, -1))
types = st.sampled_from(("application/json", "text/html", "", "a\r\nX: y", "text/plain; charset=x"))
contents = bodies(with_strange_fields(PRE) | with_strange_fields(POST) | with_strange_fields(SECOND))
answers = st.builds(HookAnswer, statuses, types, contents)


@fuzzed(4)
@given(answers, st.sampled_from((1, 2)))
def test_a_pre_hooks_answer_changes_body_and_query_only(answer: HookAnswer, protocol: int) -> None:
    try:
        found = read_pre("a", protocol, answer, SENT)
    except (Refused, AdapterError):
        return
    assert found.method == SENT.method
    assert found.request.partition("?")[0] == SENT.request.partition("?")[0]
    assert all(" " < character <= "~" for character in found.request)
    assert found.body is None or isinstance(found.body, bytes)


@fuzzed(4)
@given(answers, st.sampled_from((1, 2)))
def test_a_post_hooks_answer_can_be_sent_to_a_client(answer: HookAnswer, protocol: int) -> None:
    try:
        found = read_post("a", protocol, answer, GOT)
    except (Refused, AdapterError):
        return
    assert 200 <= found.status <= 599
    assert found.content_type is None or not set(found.content_type) & set("\r\n\0")


@fuzzed(4)
@given(damaged(st.just(CONFIG.encode())) | names.map(lambda text: text.encode("utf-8", "replace")))
def test_a_configuration_is_read_or_refused_in_words(text: bytes) -> None:
    refusal: DroverError | None = None
    try:
        parse_config(text.decode("utf-8", "replace"))
    except DroverError as error:
        refusal = error
    assert refusal is None or (refusal.status == 400 and refusal.message.strip())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[HookWorld]:
    async with hook_world(tmp_path) as made:
        yield made


@pytest.mark.timeout(600)
async def test_a_client_is_answered_whatever_its_adapters_say(world: HookWorld) -> None:
    """Through sockets: one call for each answer, at a pre-hook and at a post-hook; the gateway stays what it was."""
    drawn: list[HookAnswer] = []

    @fuzzed(2)
    @given(st.builds(HookAnswer, st.sampled_from((200, 200, 204, 301, 400, 500)), types, contents))
    def draw(answer: HookAnswer) -> None:
        drawn.append(answer)

    draw()
    said: list[HookAnswer] = []

    def behave(told: dict[str, Any]) -> web.Response:
        answer = said[-1]
        kind = {"Content-Type": answer.content_type.partition("\r")[0] or "application/json"}
        return web.Response(status=answer.status, body=answer.body, headers=kind)

    await world.adapter("a", behave)
    for place in ("pre", "post"):
        await world.configure({"POST /*/containers/create": {place: ["a"]}})
        for answer in drawn:
            said.append(answer)
            found = await world.ask()
            assert 200 <= found.status <= 599
            if found.status >= 400:
                json.loads(found.body)
    await world.configure({})
    assert (await world.ask()).status == 201
