"""A container's own files on their way to another host: what a layer holds beside contents, and logs that rotate."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from drover.drivers.engine.port import OwnFiles
from drover.drivers.insides import log
from drover.drivers.insides.linux import LinuxInsides, listening_ports, served_connections
from drover.errors import NotFound, Unavailable
from drover.model.records import Part

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="devices and trusted attributes are root's")
T0 = 1_700_000_000_000


def own_files(root: Path, name: str) -> OwnFiles:
    """Where an engine would keep a container's files; the directories are there, as after a create."""
    upper, directory = root / name / "overlay2" / "1" / "diff", root / name / "containers" / "1"
    upper.mkdir(parents=True)
    directory.mkdir(parents=True)
    return OwnFiles(
        storage_driver="overlay2",
        layer=str(upper),
        log_driver="json-file",
        log_directory=str(directory),
        log_stem=f"{name}-json.log",
    )


def contents(directory: Path, stem: str) -> dict[str, str]:
    return {path.name.removeprefix(stem): path.read_text() for path in directory.iterdir() if path.is_file()}


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


class Pair:
    """Two hosts' files of one container. `move` pulls a part from here to there; its bytes."""

    def __init__(self, root: Path) -> None:
        self.here, self.there = own_files(root, "here"), own_files(root, "there")
        self.insides = LinuxInsides()
        self.rounds = 0

    @property
    def upper(self) -> Path:
        return Path(self.here.layer)

    @property
    def installed(self) -> Path:
        return Path(self.there.layer)

    async def pull(self, part: Part, running: bool = True, cut_after: int = -1) -> int:
        have = await self.insides.have(self.there, part)
        sent: list[int] = []

        async def stream() -> AsyncIterator[bytes]:
            async for piece in self.insides.send(self.here, part, have, running):
                if 0 <= cut_after < sum(sent) + len(piece):
                    yield piece[: cut_after - sum(sent)]
                    raise Unavailable("cut")
                sent.append(len(piece))
                yield piece

        self.rounds += 1
        await self.insides.receive(self.there, part, f"0000000001-{T0 + self.rounds:015}", stream())
        return sum(sent)

    def log(self, suffix: str = "") -> Path:
        return Path(self.here.log_directory) / (self.here.log_stem + suffix)

    async def logs_there(self) -> dict[str, str]:
        await self.insides.install(self.there, "log")
        directory = Path(self.there.log_directory)
        return contents(directory, self.there.log_stem)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@needs_root
async def test_a_layer_arrives_with_deletions_attributes_owners_links_and_holes(pair: Pair) -> None:
    upper = pair.upper
    os.mknod(upper / "deleted", 0o600 | stat.S_IFCHR, os.makedev(0, 0))
    (upper / "replaced").mkdir()
    os.setxattr(upper / "replaced", "trusted.overlay.opaque", b"y")
    (upper / "file").write_text("text")
    os.setxattr(upper / "file", "user.mine", b"\0\xff")
    os.setxattr(upper / "file", "trusted.overlay.origin", b"a handle of this host")
    os.chown(upper / "file", 33, 44)
    os.chmod(upper / "file", 0o4711)
    os.link(upper / "file", upper / "file2")
    append(upper / "sparse", "")
    os.truncate(upper / "sparse", 1 << 24)
    await pair.pull("layer")
    await pair.pull("layer", running=False)
    await pair.insides.install(pair.there, "layer")
    await pair.insides.clean(pair.there)
    there = pair.installed
    deleted, found = os.lstat(there / "deleted"), os.stat(there / "file")
    assert (stat.S_ISCHR(deleted.st_mode), deleted.st_rdev) == (True, 0)
    assert os.getxattr(there / "replaced", "trusted.overlay.opaque") == b"y"
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), found.st_nlink) == (33, 44, 0o4711, 2)
    assert os.listxattr(there / "file") == ["user.mine"]
    assert os.stat(there / "sparse").st_blocks == 0
    assert [path.name for path in there.parent.iterdir()] == ["diff"]


async def test_only_files_that_changed_travel_again(pair: Pair) -> None:
    for number in range(20):
        path = pair.upper / f"f{number}"
        path.write_bytes(os.urandom(10_000))
        os.utime(path, (1_600_000_000, 1_600_000_000))
    first = await pair.pull("layer")
    (pair.upper / "f0").unlink()
    (pair.upper / "f1").write_text("new")
    assert await pair.pull("layer", running=False) < first / 4
    await pair.insides.install(pair.there, "layer")
    assert sorted(p.name for p in pair.installed.iterdir()) == sorted(p.name for p in pair.upper.iterdir())
    assert (pair.installed / "f1").read_text() == "new"


async def test_a_layer_that_is_cut_leaves_the_round_before(pair: Pair) -> None:
    (pair.upper / "f").write_text("one")
    await pair.pull("layer")
    (pair.upper / "f").write_text("two")
    with pytest.raises(Unavailable, match="cut"):
        await pair.pull("layer", cut_after=600)
    assert (pair.installed.parent / "diff").is_dir()
    await pair.pull("layer", running=False)
    for _ in range(2):  # once more after a crash changes nothing
        await pair.insides.install(pair.there, "layer")
    assert (pair.installed / "f").read_text() == "two"


async def test_a_directory_that_cannot_be_seen_is_named(pair: Pair) -> None:
    away = OwnFiles(storage_driver="overlay2", layer="/nowhere/diff", log_directory="/nowhere/x", log_stem="l")
    for part in ("layer", "log"):
        with pytest.raises(NotFound, match="/nowhere"):
            [piece async for piece in pair.insides.send(away, part, b"", True)]  # type: ignore[arg-type]


async def test_a_log_travels_by_what_was_appended(pair: Pair) -> None:
    pair.log().write_text("line\n" * 20_000)
    await pair.pull("log")
    append(pair.log(), "last\n")
    assert await pair.pull("log", running=False) < 1000
    assert await pair.logs_there() == {"": "line\n" * 20_000 + "last\n"}


async def test_a_log_that_rotates_between_rounds_is_known_again(pair: Pair) -> None:
    pair.log().write_text("a\n" * 10_000)
    pair.log(".1").write_text("b\n" * 10_000)
    pair.log(".2.gz").write_text("c\n" * 10_000)
    await pair.pull("log")
    pair.log(".2.gz").unlink()
    pair.log(".1").rename(pair.log(".2.gz"))
    append(pair.log(), "end\n")
    pair.log().rename(pair.log(".1"))
    pair.log().write_text("new\n")
    assert await pair.pull("log", running=False) < 1000
    assert await pair.logs_there() == {"": "new\n", ".1": "a\n" * 10_000 + "end\n", ".2.gz": "b\n" * 10_000}


@pytest.mark.parametrize("cut_after", [5, 200, 5_000, 19_000])
async def test_a_log_that_is_cut_goes_on(pair: Pair, cut_after: int) -> None:
    pair.log().write_text("".join(f"line {number}\n" for number in range(2000)))
    pair.log(".1").write_text("older\n")
    with pytest.raises(Unavailable):
        await pair.pull("log", cut_after=cut_after)
    await pair.pull("log")
    assert await pair.logs_there() == {"": pair.log().read_text(), ".1": "older\n"}


async def test_a_container_without_a_log_yet_has_none_there(pair: Pair) -> None:
    await pair.pull("log")
    assert await pair.logs_there() == {}
    await pair.insides.clean(pair.there)
    assert not (Path(pair.there.log_directory) / log.STAGE).exists()


def test_listening_ports_are_those_that_others_reach() -> None:
    lines = [
        "   0: 00000000:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000   999        0 1 1 0 100 0 0 10 0",
        "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0",
        "   2: 0B00007F:9C40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0",
        "   3: 0200580A:1538 0300580A:9C40 01 00000000:00000000 00:00000000 00000000   999        0 3 1 0 100 0 0 10 0",
        "   4: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4",
        "   5: 00000000000000000000000001000000:0051 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4",
    ]
    assert listening_ports(lines) == {5432, 80}
    assert served_connections(lines) == 1
    finished = lines[3].replace(" 01 ", " 06 ")
    outgoing = lines[3].replace(":1538 ", ":1539 ")
    assert served_connections([*lines, finished, outgoing, lines[3].replace(" 01 ", " 03 ")]) == 2


@pytest.fixture
def first_process() -> Iterator[int]:
    """The first process of a PID namespace of its own, with a child that would outlive it."""
    argv = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "sleep 60 & sleep 60; true"]
    outer = subprocess.Popen(argv)
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    while not children.read_text().split():
        time.sleep(0.01)
    yield int(children.read_text().split()[0])
    outer.kill()
    outer.wait()


@needs_root
async def test_the_end_of_a_container_is_told_when_all_of_it_has_ended(first_process: int) -> None:
    async with LinuxInsides().ending(first_process, engine_id="") as ended:
        await asyncio.sleep(0)
        assert not ended.is_set()
        os.kill(first_process, signal.SIGKILL)
        async with asyncio.timeout(10):
            await ended.wait()


@needs_root
async def test_the_end_is_not_told_of_what_is_not_surely_that_container(first_process: int) -> None:
    insides = LinuxInsides()
    async with (
        insides.ending(first_process, engine_id="f" * 64) as another,
        insides.ending(os.getpid(), engine_id="") as not_the_first,
        insides.ending(2**22 + 1, engine_id="") as gone,
    ):
        pidfd = os.pidfd_open(first_process)
        os.kill(first_process, signal.SIGKILL)
        await asyncio.to_thread(select.select, [pidfd], [], [], 10)
        os.close(pidfd)
        await asyncio.sleep(0)
        assert [another.is_set(), not_the_first.is_set(), gone.is_set()] == [False, False, False]
