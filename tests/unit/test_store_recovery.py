"""When a store may be founded anew from one member's data, and when that would make a second one."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from drover.daemon import store_recovery
from drover.daemon.config import HostConfig
from drover.daemon.store_recovery import remember_generation, remembered_generation
from drover.decide.store_recovery import Seen, verdict

VOTERS = ("h1", "h2", "h3")
H1 = Seen("h1", reached=True, index=100)


def heard(*others: Seen) -> dict[str, Seen]:
    return {one.host: one for one in (H1, *others)}


def gone(host: str) -> Seen:
    return Seen(host, reached=False)


@pytest.mark.parametrize(
    ("here", "seen", "lost", "refusal"),
    [
        ("h4", heard(), (), "host h4 has no voting member"),
        ("h1", heard(Seen("h2", True, 100, leads=True), gone("h3")), (), "the store works: the member on h2"),
        ("h1", heard(Seen("h2", True, 101), gone("h3")), (), "host h2 has newer records"),
        ("h1", heard(gone("h2"), gone("h3")), (), "h2, h3 cannot be reached, and may go on without h1"),
        ("h1", heard(gone("h2"), gone("h3")), ("h2",), ""),
        ("h1", heard(gone("h2"), gone("h3")), ("h2", "h3"), ""),
        ("h1", heard(Seen("h2", True, 99), gone("h3")), (), ""),
    ],
)
def test_the_store_is_founded_anew_only_where_no_other_can_go_on(
    here: str, seen: dict[str, Seen], lost: tuple[str, ...], refusal: str
) -> None:
    decided = verdict(here, VOTERS, seen, lost)
    assert decided.refusal.startswith(refusal)
    assert bool(decided.refusal) == bool(refusal) == bool(decided.hint)


def test_of_five_members_three_must_be_answered_for_or_seen() -> None:
    voters = ("h1", "h2", "h3", "h4", "h5")
    seen = heard(*(gone(one) for one in voters[1:]))
    assert "h2, h3, h4, h5" in verdict("h1", voters, seen, ()).refusal
    assert "h3, h4, h5" in verdict("h1", voters, seen, ("h2",)).refusal
    assert verdict("h1", voters, seen, ("h2", "h3")).refusal == ""


def test_the_generation_never_goes_back(tmp_path: Path) -> None:
    assert remembered_generation(tmp_path) == 0
    remember_generation(tmp_path, 2)
    remember_generation(tmp_path, 1)
    assert remembered_generation(tmp_path) == 2


@pytest.mark.parametrize(("theirs", "ours", "goes"), [(1, 0, True), (1, 1, False), (0, 0, False), (None, 0, False)])
async def test_a_copy_of_the_store_before_goes_before_its_member_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: int | None, ours: int, goes: bool
) -> None:
    async def said(address: str, port: int, client_tls: object) -> int:
        assert (address, port) == ("10.0.0.2", 4740)
        return theirs or 0

    monkeypatch.setattr(store_recovery, "_generation_at", said)
    config = HostConfig(name="h1", id="x", index=1, address="10.0.0.1", cluster_name="c", state_dir=str(tmp_path))
    config.etcd_dir.mkdir()
    remember_generation(tmp_path, ours)
    endpoints = ["https://10.0.0.1:4742", "https://10.0.0.2:4742"]
    assert await store_recovery.forget_an_old_store(config, endpoints, None) is goes  # type: ignore[arg-type]
    assert config.etcd_dir.exists() is not goes


async def test_a_host_that_does_not_answer_says_nothing_about_generations() -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    await runner.cleanup()
    assert await store_recovery._generation_at("127.0.0.1", port, False) == 0  # type: ignore[arg-type]
