"""What goes along with a moved container beside its volumes, and moves that are cut."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from drover.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]
DEADLINE_S = 60.0
WRITE = """
rm /etc/passwd; rm -rf /var; mkdir /var; echo new > /var/file; echo changed > /etc/group
echo text > /file; chown 33:44 /file; chmod 4711 /file; ln /file /file2
printf x | dd of=/sparse bs=1 seek=10000000 2>/dev/null
"""
LINES = "trap 'exit 0' TERM; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05 & wait $!; done"
GELF = ("--log-driver", "gelf", "--log-opt", "gelf-address=udp://127.0.0.1:12201")
FOUND = """
ls -n /file /file2 /var /etc/group; cat /etc/group /var/file
[ $(du -k /sparse | cut -f1) -lt 1000 ] && echo sparse
"""


@pytest.fixture
def lab(cluster: Lab) -> Lab:
    return cluster


def on(lab: Lab, host: str, *argv: str, check: bool = True) -> str:
    done = lab.host(host).exec(list(argv), check=check, timeout_s=120.0)
    return (done.stdout if check else done.stdout + done.stderr).strip()


def run(lab: Lab, name: str, host: str, *argv: str, options: tuple[str, ...] = ()) -> None:
    where = ("-e", f"constraint:host=={host}")
    on(lab, "h1", "docker", "run", "-d", "--name", name, *where, *options, "busybox", *argv)


def until(condition: Callable[[], object], missing: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"after {DEADLINE_S} s still missing: {missing}"
        time.sleep(0.1)


def logs(lab: Lab, name: str, *options: str) -> list[str]:
    return on(lab, "h2", "docker", "logs", *options, name).splitlines()


def test_layer_and_log_go_along(lab: Lab) -> None:
    run(lab, "diary", "h1", "sh", "-c", LINES)
    on(lab, "h2", "docker", "exec", "diary", "sh", "-c", WRITE, check=False)
    until(lambda: len(logs(lab, "diary")) > 10, "the first lines")
    changed, found = _changes(lab), on(lab, "h2", "docker", "exec", "diary", "sh", "-c", FOUND)
    for target in ("h2", "h3", "h1"):
        before = logs(lab, "diary", "--timestamps")
        on(lab, "h3", "drover", "move", "diary", "--to", target)
        assert _changes(lab) == changed
        assert on(lab, "h2", "docker", "exec", "diary", "sh", "-c", FOUND) == found
        until(lambda before=before: len(logs(lab, "diary")) > len(before) + 3, "lines after the move")  # type: ignore[misc]
        assert logs(lab, "diary", "--timestamps")[: len(before)] == before
        last = before[-1].split()[0]
        assert len(logs(lab, "diary", "--since", last)) < len(logs(lab, "diary"))
        assert len(logs(lab, "diary", "--tail", "2")) == 2
    on(lab, "h2", "docker", "rm", "-f", "diary")


def _changes(lab: Lab) -> set[str]:
    return set(on(lab, "h2", "docker", "diff", "diary").splitlines())


def test_what_cannot_go_along_is_refused_or_left_behind(lab: Lab) -> None:
    run(lab, "mute", "h1", "sleep", "infinity", options=(*GELF, "--stop-signal", "KILL"))
    refused = lab.host("h2").exec(["drover", "move", "mute", "--to", "h2"], check=False)
    assert refused.returncode == 5
    assert "its log cannot be moved: it is kept by gelf on h1" in refused.stderr
    on(lab, "h2", "docker", "exec", "mute", "touch", "/left")
    on(lab, "h2", "drover", "move", "mute", "--to", "h2", "--without-log", "--without-layer")
    assert "No such file" in on(lab, "h1", "docker", "exec", "mute", "ls", "/left", check=False)
    on(lab, "h2", "docker", "rm", "-f", "mute")


def _began(lab: Lab, name: str) -> None:
    """A container with 200 MB in a volume on h1, and on its slow way to h2."""
    run(lab, name, "h1", "sh", "-c", LINES, options=("-v", f"{name}:/data"))
    on(lab, "h3", "docker", "exec", name, "dd", "if=/dev/urandom", "of=/data/big", "bs=1M", "count=200")
    on(lab, "h3", "drover", "move", name, "--to", "h2", "--detach", "--limit", "40")
    until(lambda: _move(lab, name)["moved_bytes"] > 0, "the first bytes")


def _move(lab: Lab, name: str) -> Any:
    socket = str(lab.host("h3").drover_socket)
    listed = json.loads(on(lab, "h3", "curl", "-s", "--unix-socket", socket, "http://drover/moves"))
    return next(one for one in listed if one["name"] == name)


def _goes_on(lab: Lab, name: str) -> None:
    """It was not moved: it runs on h1, as it did."""
    until(lambda: _move(lab, name)["phase"] == "aborted", "the end of the move")
    count = len(logs(lab, name))
    until(lambda: len(logs(lab, name)) > count, "more lines")
    assert on(lab, "h3", "docker", "inspect", "-f", '{{index .Config.Labels "drover.host"}}', name) == "h1"


def test_a_network_cut_leaves_it_where_it_was(lab: Lab) -> None:
    _began(lab, "cutoff")
    lab.host("h2").cut()
    try:
        until(lambda: _move(lab, "cutoff")["phase"] == "aborted", "the end of the move")
    finally:
        lab.host("h2").heal()
    _goes_on(lab, "cutoff")
    on(lab, "h3", "docker", "rm", "-f", "cutoff")


def test_a_full_disk_leaves_it_where_it_was_and_says_so(lab: Lab) -> None:
    run(lab, "heavy", "h1", "sh", "-c", LINES, options=("-v", "heavy:/data"))
    on(lab, "h3", "docker", "exec", "heavy", "dd", "if=/dev/urandom", "of=/data/big", "bs=1M", "count=100")
    pool = lab.host("h2").state_dir / "volumes" / "pool"
    fill = f"fallocate -l $(($(df -k --output=avail {pool} | tail -1) - 50000))K {pool}/ballast; sync -f {pool}"
    on(lab, "h2", "sh", "-c", fill)
    try:
        refused = lab.host("h3").exec(["drover", "move", "heavy", "--to", "h2"], check=False, timeout_s=120.0)
    finally:
        on(lab, "h2", "rm", f"{pool}/ballast")
    assert (refused.returncode, "No space left" in refused.stderr) == (5, True)
    _goes_on(lab, "heavy")
    until(lambda: _volume_fits(lab, "heavy", "h2"), "h2's word that it has space again")
    on(lab, "h3", "docker", "rm", "-f", "heavy")


def _volume_fits(lab: Lab, name: str, host: str) -> bool:
    """It moves there now; a refusal may still tell of the full disk, which a host looks at every few seconds."""
    tried = lab.host("h3").exec(["drover", "move", name, "--to", host], check=False, timeout_s=120.0)
    assert tried.returncode == 0 or "0 B left" in tried.stderr, tried.stderr
    return tried.returncode == 0
