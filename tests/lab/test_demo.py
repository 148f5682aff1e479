"""`drover lab demo` on real engines: to its end, and interrupted in the middle; nothing of it stays either way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drover.lab import DEFAULT_BASE, net
from drover.lab.processes import Cgroup

pytestmark = [
    pytest.mark.lab,
    pytest.mark.alone,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

NAME = f"demo{os.getpid()}"
DROVER = str(Path(sys.executable).with_name("drover"))


def start() -> subprocess.Popen[str]:
    """A demo in a process group of its own, as a terminal would run it."""
    return subprocess.Popen(
        [DROVER, "lab", "demo", "--name", NAME],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # Where the tests run in a shell's background, SIGINT is ignored, and the demo would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def nothing_is_left() -> bool:
    kept = (DEFAULT_BASE / NAME).exists() or Cgroup(f"/drover-lab/{NAME}").exists()
    return not kept and not list(net.NETNS_DIRECTORY.glob(f"dl-{NAME}-*"))


def test_every_promise_of_the_demo_holds() -> None:
    demo = start()
    told, _ = demo.communicate(timeout=380)
    assert demo.returncode == 0, told
    assert "FAIL" not in told
    assert told.count("\nPASS ") >= 20
    assert nothing_is_left()


def test_a_demo_that_is_interrupted_cleans_up() -> None:
    demo = start()
    assert demo.stdout is not None
    told = ""
    while "2. Six containers" not in told:
        line = demo.stdout.readline()
        assert line, told
        told += line
    os.killpg(demo.pid, signal.SIGINT)
    rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, told + rest
    assert "the lab is gone" in rest
    assert nothing_is_left()
