"""How a daemon learns that another host's tables are at a revision: over TLS, from the real API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_world import World, world

from drover.daemon import withdrawal
from drover.daemon.withdrawal import PATH, PeerTables, tables_routes
from drover.errors import Forbidden, Invalid, Unavailable
from drover.model.cluster import put
from drover.model.records import Host, key
from drover.trust import tls


class Tables:
    """A host's tables: `at` is the revision they have."""

    def __init__(self) -> None:
        self.at = 0
        self.changed = asyncio.Event()

    async def reached(self, revision: int) -> None:
        while self.at < revision:
            self.changed.clear()
            await self.changed.wait()

    def advance(self, revision: int) -> None:
        self.at = revision
        self.changed.set()


@pytest.fixture
def there() -> Tables:
    """Those of h2, which answers over the API."""
    return Tables()


@pytest.fixture
async def made(tmp_path: Path, there: Tables) -> AsyncIterator[World]:
    async with world(tmp_path, tables_routes(there.reached)) as one:
        other = Host(name="h2", id="i2", index=2, address="127.0.0.1", api_port=one.port)
        await one.commit(put(key("hosts", "h2"), other))
        yield one


@pytest.fixture
async def peers(made: World) -> AsyncIterator[PeerTables]:
    one = PeerTables("h1", made.mirror, Tables().reached, tls.client_context(made.tls_dir))
    yield one
    await one.close()


async def test_the_answer_comes_when_the_tables_are_so_far(peers: PeerTables, there: Tables) -> None:
    answer = asyncio.create_task(peers.reached("h2", 7))
    there.advance(6)
    done, _ = await asyncio.wait([answer], timeout=0.3)
    assert not done
    there.advance(8)
    await asyncio.wait_for(answer, 10)
    await peers.reached("h2", 8)


async def test_whoever_is_late_says_so_and_can_be_asked_again(
    peers: PeerTables, there: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawal, "WAIT_S", 0.05)
    with pytest.raises(Unavailable, match="tables of host h2 are not at revision 7 yet"):
        await peers.reached("h2", 7)
    there.advance(7)
    await peers.reached("h2", 7)


async def test_a_host_that_cannot_be_asked(made: World, peers: PeerTables) -> None:
    await made.commit(put(key("hosts", "h3"), Host(name="h3", id="i3", index=3, address="127.0.0.1", api_port=9)))
    with pytest.raises(Unavailable, match="host h3 does not say"):
        await peers.reached("h3", 7)


async def test_an_older_daemon_which_does_not_know_the_question_holds_nothing_up(tmp_path: Path) -> None:
    async with world(tmp_path) as old:
        await old.commit(
            put(key("hosts", "h2"), Host(name="h2", id="i2", index=2, address="127.0.0.1", api_port=old.port))
        )
        peers = PeerTables("h1", old.mirror, Tables().reached, tls.client_context(old.tls_dir))
        await peers.reached("h2", 7)
        await peers.close()


async def test_a_host_that_was_removed_meanwhile_is_not_waited_for(peers: PeerTables) -> None:
    await peers.reached("gone", 7)


@pytest.mark.parametrize("revision", ["", "x", "-1", "1.5", "%D9%A7"])
async def test_a_revision_is_a_number(made: World, revision: str) -> None:
    with pytest.raises(Invalid, match="must be a number"):
        await made.call("GET", f"{PATH}?revision={revision}")


async def test_strangers_are_not_answered(made: World) -> None:
    with pytest.raises(Forbidden):
        await made.call_tls("GET", f"{PATH}?revision=0")
