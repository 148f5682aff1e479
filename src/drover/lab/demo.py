"""`drover lab demo`: a lab of three hosts and what a person does with it, told as it happens.

Theory of operation. `play` makes a lab, plays the acts of `demo_acts` and `demo_faults` in order, and removes the lab
whatever happened: a promise that did not hold, an error, Ctrl-C, SIGTERM. While it lasts it holds its name, which
tells a lab that another demo uses (refused) from one that a killed demo left (nobody holds the name: it is removed).
"""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from drover.errors import Conflict, NotFound
from drover.lab import demo_acts, demo_faults, demo_shop
from drover.lab.lab import Lab
from drover.lab.stage import Stage, evidence
from drover.lab.story import ActOver, Row, Story, Voice
from drover.lab.topology import DEFAULT_BASE

NAME = "demo"
HOSTS = 3

ACTS: tuple[tuple[str, Callable[[Stage], None]], ...] = (
    ("Six containers by stock `docker run`", demo_acts.spread),
    ("Their output, their insides, their files", demo_acts.work_with_them),
    ("Build on one host, run on another, without a registry", demo_acts.build_and_run_elsewhere),
    ("Where a container may run, and why it is where it is", demo_acts.constraints),
    ("A Compose project across hosts", demo_acts.compose_project),
    ("A shop: a web server and PostgreSQL, under load from now on", demo_shop.open_shop),
    ("The database moves to h2, under load", demo_shop.move_database),
    ("A power cut at h2, under load", demo_shop.database_host_dies),
    ("h2 comes back", demo_shop.dead_host_returns),
    ("The shop closes, and is counted", demo_shop.shut_shop),
    ("A power cut at h3, while clients keep calling", demo_faults.power_cut),
    ("h3 comes back", demo_faults.come_back),
    ("A power cut at h1, where it all began", demo_faults.first_host_dies),
)


def play(
    voice: Voice, *, name: str = NAME, base: Path = DEFAULT_BASE, keep: bool = False, picture: Path | None = None
) -> list[Row]:
    """The whole demo; the account of its promises. Conflict if a demo of that name is running. `picture`: where to
    draw the shop's run."""
    story = Story(voice, lambda: _evidence(name, base))
    with _only_one(name), _terminated_as_interrupt(), tempfile.TemporaryDirectory(prefix="drover-demo-") as scratch:
        _remove_left_over(name, base, voice)
        try:
            story.act("Three Docker hosts, one cluster", lambda: _build(story, name, base))
            if story.held:
                _perform(story, Stage(Lab.open(name, base=base), story, Path(scratch), picture))
        finally:
            _end(story, name, base, keep)
    return story.rows


def _build(story: Story, name: str, base: Path) -> None:
    with story.promise("three Docker hosts are one cluster") as row:
        begin = story.now_s()
        lab = Lab.create(name, HOSTS, base=base, images=("busybox", "postgres"), say=story.tell)
        row.figure = f"ready in {story.now_s() - begin:.1f} s"
    story.show(
        "\n".join(f"{host.name}  {host.address}  docker -H unix://{host.gateway_socket} ps" for host in lab.hosts)
    )


def _perform(story: Story, stage: Stage) -> None:
    for title, act in ACTS:
        story.act(title, lambda act=act: act(stage))  # type: ignore[misc]


def _end(story: Story, name: str, base: Path, keep: bool) -> None:
    """Remove the lab, or (with `keep`) make it whole and say how to use and remove it."""
    with _uninterrupted(), contextlib.suppress(NotFound, ActOver):
        lab = Lab.open(name, base=base)
        if keep:
            _make_whole(lab)
            story.tell(f'kept: eval "$(drover lab env --name {name})"; remove it: drover lab down --name {name}')
            return
        with story.promise("the lab is gone, and all that it made"):
            lab.destroy()


def _make_whole(lab: Lab) -> None:
    for host in lab.hosts:
        if not host.is_on:
            host.revive()


def _evidence(name: str, base: Path) -> str:
    with contextlib.suppress(NotFound):
        return evidence(Lab.open(name, base=base))
    return ""


def _remove_left_over(name: str, base: Path, voice: Voice) -> None:
    """Remove the lab of an earlier demo that was killed, or asked to keep it."""
    with contextlib.suppress(NotFound):
        lab = Lab.open(name, base=base)
        voice.say(f"removing the lab {name} that an earlier demo left")
        lab.destroy()


@contextlib.contextmanager
def _only_one(name: str) -> Iterator[None]:
    """Hold the demo's name on this machine. Conflict if another process does.

    The name is that of a socket without a file: the kernel frees it with the process, however that ends.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        try:
            holder.bind(f"\0drover-demo-{name}")
        except OSError as error:
            hint = "wait for its end, or give this one another --name"
            raise Conflict(f"a demo in the lab {name} is running", hint=hint) from error
        yield


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _handled(numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _terminated_as_interrupt() -> contextlib.AbstractContextManager[None]:
    """A demo that is terminated, or whose terminal goes, cleans up as after Ctrl-C."""
    return _handled((signal.SIGTERM, signal.SIGHUP), _interrupt)


def _uninterrupted() -> contextlib.AbstractContextManager[None]:
    """Cleaning up is quick, and half of it helps nobody: a second Ctrl-C waits for its end."""
    return _handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), lambda _number, _frame: None)
