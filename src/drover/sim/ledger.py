"""What processes wrote into volumes and were told is written; and what a host may still lack of it later (P3).

Theory of operation. A process in a container with a volume that is being written is taken to write all the time: each
time somebody copies the live set, and when the process ends, it has just written the next number. So a planned move
that loses anything loses the last number. When a live set is made, its number is compared with the last one:

    the claim                               the number must be
    has its first epoch                     none
    was passed on by a move, or put back    the last one
    was taken over after a death            such that what is missing is no more than the volume's note says

A note counts in the clocks of two hosts: what these are apart is allowed for.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable

from drover.decide.moves import BEFORE_HAND_OVER
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.snapshots import epoch_of, label_of
from drover.model.spec import parse_spec
from drover.sim.parts import SimVolumes

FILE = "count"
REMEMBERED = 20_000
ROUNDED_S = 1.0
AT_MOST = re.compile(r"at most (\d+) seconds? of writes")
Written = deque[tuple[int, float]]


class Ledger:
    def __init__(self, disk: Callable[[str], SimVolumes], skew_s: Callable[[], float]) -> None:
        """`skew_s()`: how far two hosts' clocks may be apart."""
        self._disk = disk
        self._skew_s = skew_s
        self._numbers: dict[str, int] = {}
        self._written: dict[str, Written] = {}
        self._taken: dict[str, tuple[int, r.Volume]] = {}
        self.idle: set[str] = set()
        """Volumes whose processes write nothing now."""

    def write(self, host: str, volume: str, epoch: int) -> None:
        """A process on `host` writes what it has mounted: it fails, and is not told that it is written, if the live set
        is gone."""
        disk = self._disk(host)
        if volume in self.idle or disk.live_epoch(volume) != epoch:
            return
        number = self._numbers[volume] = self._numbers.get(volume, 0) + 1
        disk.write(volume, FILE, str(number))
        self._written.setdefault(volume, deque(maxlen=REMEMBERED)).append((number, _now()))

    def passed(self, before: Cluster, after: Cluster) -> list[str]:
        """A commit: remember which claims were taken over after a death; says if not from the newest copy."""
        found = []
        for name, new in after.volumes.items():
            old = before.volumes.get(name)
            if old is not None and new.epoch > old.epoch and not _moved(before, name):
                self._taken[name] = new.epoch, new
                found += _not_newest(before, old, new)
        for name in before.volumes.keys() - after.volumes.keys():
            self._forget(name)
        return found

    def _forget(self, volume: str) -> None:
        for table in (self._numbers, self._written, self._taken):
            table.pop(volume, None)

    def made(self, host: str, volume: str, epoch: int) -> list[str]:
        """A live set was made: what is wrong with it, as sentences."""
        has = int(self._disk(host).read(volume).get(FILE, "0"))
        written = self._written.get(volume, deque())
        lost = [(number, at) for number, at in written if number > has]
        if not lost:
            return []
        taken = self._taken.get(volume)
        why = f"P3: volume {volume} on {host}, epoch {epoch}, has write {has} of {written[-1][0]}"
        if taken is None or taken[0] != epoch:
            return [f"{why}, and no host was lost"]
        self._written[volume] = deque((one for one in written if one[0] <= has), maxlen=REMEMBERED)
        return self._beyond_note(taken[1].note, lost[-1][1] - lost[0][1], why)

    def _beyond_note(self, note: str, lost_s: float, why: str) -> list[str]:
        if "lost" not in note:
            return [f"{why}, and its note says nothing of a loss"]
        said = AT_MOST.search(note)
        if said and lost_s > float(said[1]) + ROUNDED_S + self._skew_s():
            return [f"{why}: {lost_s:.1f} s of writes, and its note says: {note}"]
        return []


def _moved(before: Cluster, volume: str) -> bool:
    return any(volume in move.volumes and move.phase in BEFORE_HAND_OVER[-1:] for move in before.moves.values())


def _not_newest(before: Cluster, old: r.Volume, new: r.Volume) -> list[str]:
    """Volumes that one container uses together are taken over as of one instant: they are not judged here. What was set
    aside is what a claim before had: it is not what the volume is now."""
    used = [parse_spec(one.body).volume_names for one in before.containers.values()]
    if any(len(names) > 1 and old.name in names for names in used):
        return []
    facts = [one for one in before.volume_facts.values() if one.volume == old.name and one.host != old.host]
    known = [one for two in facts if two.host in before.alive for one in two.snapshots if _is_current(old, one)]
    newest = max(known, default="")
    if new.snapshot < newest:
        return [f"P3: volume {old.name} is taken over from {new.snapshot}, and {newest} is newer and complete"]
    return []


def _is_current(volume: r.Volume, snapshot: str) -> bool:
    return epoch_of(snapshot) == volume.epoch and not label_of(snapshot)


def _now() -> float:
    return asyncio.get_running_loop().time()
