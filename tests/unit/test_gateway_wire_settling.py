"""The first bytes of a tunnel come apart from its head, also when the engine sent them together."""

import asyncio

import pytest

from drover.errors import DroverError
from drover.gateway.engine_side import SETTLE_S, EngineConnection
from drover.sim import clock
from drover.wire.heads import RequestHead, RequestReader, ResponseHead

REQUEST = b"POST /containers/x/attach HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
HEAD = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


class Wire(asyncio.Transport):
    def write(self, data: bytes) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def is_closing(self) -> bool:
        return False


class Told:
    """A receiver that notes what it is told."""

    def __init__(self) -> None:
        self.notes: list[bytes | str] = []

    def response_head(self, head: ResponseHead, tunnel: bool) -> None:
        self.notes.append("tunnel" if tunnel else "head")

    def response_data(self, data: bytes) -> None:
        self.notes.append(data)

    def response_flush(self) -> None: ...

    def response_end(self) -> None:
        self.notes.append("end")

    def response_failed(self, error: DroverError) -> None:
        self.notes.append("failed")

    def engine_full(self, full: bool) -> None: ...


def request() -> RequestHead:
    read = RequestReader().feed(REQUEST)
    assert read is not None
    return read[0]


def opened() -> tuple[EngineConnection, Told]:
    connection, told = EngineConnection("h1", lambda _: None), Told()
    connection.connection_made(Wire())
    connection.begin(told, request(), REQUEST)
    return connection, told


def test_bytes_that_came_with_the_head_wait_a_moment() -> None:
    async def main() -> None:
        connection, told = opened()
        connection.data_received(HEAD + b"hello")
        connection.data_received(b" world")
        assert told.notes == ["tunnel"]
        await asyncio.sleep(SETTLE_S * 1.5)
        assert told.notes == ["tunnel", b"hello world"]
        connection.data_received(b"!")
        assert told.notes[-1] == b"!"

    clock.run(main())


@pytest.mark.parametrize("ending", ["eof", "lost"])
def test_an_end_that_came_with_the_head_comes_last(ending: str) -> None:
    async def main() -> None:
        connection, told = opened()
        connection.data_received(HEAD + b"hello")
        if ending == "eof":
            connection.eof_received()
            await asyncio.sleep(SETTLE_S * 1.5)
            assert told.notes == ["tunnel", b"hello", "end"]
        else:
            connection.connection_lost(None)
            assert told.notes[:2] == ["tunnel", b"hello"]

    clock.run(main())
