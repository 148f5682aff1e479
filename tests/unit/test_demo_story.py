"""The demo's frame: what is told when a promise breaks, and that the lab goes whatever happened."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from drover.errors import Conflict, DroverError, MissingTool, NotFound
from drover.lab import demo
from drover.lab.clients import TIMED_OUT, Docker
from drover.lab.stage import Stage
from drover.lab.story import Row, Story, Voice, expect, unmet


class Told:
    """A voice that remembers, and a clock that advances a second per look."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 0.0

    @property
    def voice(self) -> Voice:
        return Voice(self.lines.append, self.lines.append)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def clock(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_promise_that_holds_is_a_row_with_its_figure(told: Told) -> None:
    story = Story(told.voice, clock=told.clock)

    def play() -> None:
        with story.promise("it counts") as row:
            row.figure = "to three"

    story.act("Counting", play)
    assert story.rows == [Row("it counts", "to three", True)]
    assert story.held
    assert told.lines == ["\n[   1.0 s] 1. Counting", "[   2.0 s] PASS it counts: to three"]


def test_a_broken_promise_tells_expectation_and_evidence_and_ends_its_act_only(told: Told) -> None:
    story = Story(told.voice, lambda: "h1: last words", told.clock)

    def broken() -> None:
        with story.promise("two"):
            expect(1 == 2, "two", "one")
        told.lines.append("never told")

    def fine() -> None:
        with story.promise("one"):
            expect(True, "one", "none")

    story.act("Broken", broken)
    story.act("Fine", fine)
    assert [(row.promise, row.held) for row in story.rows] == [("two", False), ("one", True)]
    assert not story.held
    assert "expected two; found one" in told.text
    assert "h1: last words" in told.text
    assert "never told" not in told.text


def test_what_to_do_about_a_failure_is_told_with_it(told: Told) -> None:
    story = Story(told.voice, clock=told.clock)

    def broken() -> None:
        with story.promise("three hosts"):
            raise MissingTool("this machine has no nft", hint="install the package nftables")

    story.act("Broken", broken)
    assert "this machine has no nft" in told.text
    assert "install the package nftables" in told.text


def test_a_promise_inside_another_is_told_once_and_breaks_both(told: Told) -> None:
    story = Story(told.voice, clock=told.clock)

    def play() -> None:
        with story.promise("outer"), story.promise("inner"):
            raise unmet("a", "b")

    story.act("Nested", play)
    assert [row.held for row in story.rows] == [False, False]
    assert told.text.count("FAIL") == 1
    assert story.rows[0].figure == "a promise it needed did not hold"


def test_any_error_breaks_a_promise_but_an_interruption_ends_the_story(told: Told) -> None:
    story = Story(told.voice, clock=told.clock)

    def play(error: BaseException) -> None:
        with story.promise("it works"):
            raise error

    story.act("Bug", lambda: play(KeyError("x" * 100)))
    assert story.rows[0].figure.endswith("…")
    assert len(story.rows[0].figure) == 70
    with pytest.raises(KeyboardInterrupt):
        story.act("Interrupted", lambda: play(KeyboardInterrupt()))
    assert [row.held for row in story.rows] == [False, False]


class FakeLab:
    """Stands in for a lab: there after `create`, gone after `destroy`."""

    exists = False
    events: list[str]

    hosts: tuple[()] = ()

    @classmethod
    def create(cls, name: str, *_args: object, **_kwargs: object) -> FakeLab:
        cls.exists = True
        cls.events.append(f"create {name}")
        return cls()

    @classmethod
    def open(cls, name: str, **_kwargs: object) -> FakeLab:
        if not cls.exists:
            raise NotFound(f"there is no lab {name}")
        return cls()

    def destroy(self) -> None:
        type(self).exists = False
        self.events.append("destroy")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeLab]:
    FakeLab.exists, FakeLab.events = False, []
    monkeypatch.setattr(demo, "Lab", FakeLab)
    return FakeLab


Play = Callable[[Callable[[Stage], None]], list[Row]]


@pytest.fixture
def play(fake: type[FakeLab], told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Play a demo of one act."""

    def run(act: Callable[[Stage], None]) -> list[Row]:
        monkeypatch.setattr(demo, "ACTS", (("Act", act),))
        return demo.play(told.voice, name="unit", base=tmp_path)

    return run


def test_the_lab_goes_after_the_last_act(play: Play, fake: type[FakeLab]) -> None:
    rows = play(lambda stage: stage.story.tell("playing"))
    assert [row.held for row in rows] == [True, True]
    assert fake.events == ["create unit", "destroy"]


def test_the_lab_goes_after_an_unforeseen_error(play: Play, fake: type[FakeLab]) -> None:
    def act(_stage: Stage) -> None:
        raise RuntimeError("outside any promise")

    rows = play(act)
    assert [(row.held, row.figure) for row in rows] == [
        (True, rows[0].figure),
        (False, "outside any promise"),
        (True, ""),
    ]
    assert fake.events == ["create unit", "destroy"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_lab_goes_after_an_interruption(play: Play, fake: type[FakeLab], number: signal.Signals) -> None:
    # A shell starts background jobs with SIGINT ignored; a terminal's foreground is what this is about.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            play(lambda _stage: signal.raise_signal(number))
    finally:
        signal.signal(signal.SIGINT, before)
    assert fake.events == ["create unit", "destroy"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_lab_that_cannot_be_made_is_the_only_broken_promise(
    play: Play, fake: type[FakeLab], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(*_args: object, **_kwargs: object) -> FakeLab:
        fake.exists = True
        raise DroverError("h2 does not boot")

    monkeypatch.setattr(fake, "create", create)
    rows = play(lambda stage: stage.story.tell("never told"))
    assert [(row.held, row.figure) for row in rows] == [(False, "h2 does not boot"), (True, "")]
    assert "never told" not in told.text
    assert fake.events == ["destroy"]


def test_what_a_killed_demo_left_is_removed_first(play: Play, fake: type[FakeLab], told: Told) -> None:
    fake.exists = True
    assert all(row.held for row in play(lambda _stage: None))
    assert fake.events == ["destroy", "create unit", "destroy"]
    assert "that an earlier demo left" in told.text


def test_a_demo_leaves_another_ones_lab_alone(play: Play, fake: type[FakeLab], told: Told, tmp_path: Path) -> None:
    def second(_stage: Stage) -> None:
        with pytest.raises(Conflict, match="is running"):
            demo.play(told.voice, name="unit", base=tmp_path)
        assert fake.events == ["create unit"]

    play(second)
    assert fake.events == ["create unit", "destroy"]


def test_a_kept_lab_is_made_whole_and_stays(fake: type[FakeLab], told: Told, tmp_path: Path) -> None:
    revived: list[str] = []

    class Host:
        is_on = False
        name = "h1"

        def revive(self) -> None:
            revived.append(self.name)

    fake.hosts = (Host(),)  # type: ignore[assignment]
    demo._end(Story(told.voice, clock=told.clock), "unit", tmp_path, keep=True)
    fake.exists = True
    demo._end(Story(told.voice, clock=told.clock), "unit", tmp_path, keep=True)
    fake.hosts = ()
    assert revived == ["h1"]
    assert fake.events == []
    assert "drover lab down --name unit" in told.text


def test_a_client_is_pointed_at_its_socket_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    shell = Docker(tmp_path / "docker.sock", "/bin/sh")
    assert shell("-c", "echo $DOCKER_HOST $DOCKER_CONTEXT") == f"unix://{tmp_path}/docker.sock"
    assert shell("-c", "cat", stdin="given") == "given"
    ran = shell.run("-c", "echo out; echo bad >&2; exit 3")
    assert (ran.status, ran.out, ran.words) == (3, "out\n", "bad\nout")
    assert ran.line == "sh -c 'echo out; echo bad >&2; exit 3'"
    with pytest.raises(DroverError, match="ended with 3: bad"):
        shell("-c", "echo bad >&2; exit 3")
    assert shell.run("-c", "exec sleep 60", timeout_s=0.05).status == TIMED_OUT
