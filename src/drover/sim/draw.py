"""`draw(seed)`: a cluster, a workload and a schedule of faults, all from one number.

Every choice is made by one generator in one order, so a seed means the same history on every machine. Faults come in
bursts: what breaks a cluster is seldom one fault alone. There are two paces:

    pace     a history's faults last   people ask   a burst of faults   volumes
    dense    40 to 400 s               2 to 10 s    6 to 40 s           are written all the time
    `slow`   1 to 6 hours              40 to 240 s  90 to 400 s         are written now and then, and some faults last
                                                                        minutes

Dense histories have faults meet; slow ones have what a cluster gathers in hours: snapshots, history, epochs, leases.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec

from drover.sim.history import Event, History, Shape

NAMES = ("web", "db", "api", "job", "cache", "mail")
VOLUMES = ("data", "logs", "blobs")
NETWORKS = ("app", "app", "back")
SCALES = (1.0, 1.0, 1.0, 1.0, 2.0, 5.0)
SHORTEST_S, LONGEST_S = 40.0, 400.0
LASTS = (0.3, 1.0, 2.0, 3.0, 4.5, 8.0, 15.0, 40.0)
"""How long a fault lasts, about, in seconds."""


class Pace(msgspec.Struct, frozen=True):
    """Ranges in seconds: how long phase one is, how far apart calls and bursts are on average, how long faults last."""

    phase: tuple[float, float] = (SHORTEST_S, LONGEST_S)
    calls: tuple[float, float] = (2.0, 10.0)
    bursts: tuple[float, float] = (6.0, 40.0)
    lasts: tuple[float, ...] = LASTS
    rests: bool = False
    """Volumes are not written all the time."""


DENSE = Pace()
SLOW = Pace((3600.0, 21_600.0), (40.0, 240.0), (90.0, 400.0), (*LASTS, 200.0, 600.0), True)
FIXED = ("10.44.7.7", "10.44.7.8")
POLICIES = ("", "", "always", "unless-stopped", "on-failure")

FAULTS: dict[str, int] = {
    "cut": 6,
    "mute": 3,
    "one-way": 3,
    "partition": 5,
    "freeze": 6,
    "kill": 6,
    "end": 3,
    "power": 6,
    "gone": 1,
    "engine-silent": 4,
    "engine-restart": 3,
    "slow-engine": 4,
    "slow-disk": 3,
    "slow-store": 3,
    "slow-watch": 3,
    "deaf": 3,
    "full-disk": 3,
    "unmounted": 2,
    "clock": 3,
    "drift": 2,
    "election": 3,
    "compact": 2,
    "crash": 4,
}
"""Kinds of faults, each with its weight."""

CALLS: dict[str, int] = {
    "create": 8,
    "start": 4,
    "stop": 4,
    "restart": 2,
    "remove": 5,
    "rename": 2,
    "move": 9,
    "move-volume": 2,
    "cancel": 2,
    "network-create": 2,
    "network-remove": 1,
    "connect": 2,
    "disconnect": 2,
    "volume-remove": 3,
    "volume-create": 1,
    "drain": 1,
    "undrain": 2,
    "idle": 2,
    "busy": 2,
}
"""What people do, each with its weight."""


def draw(seed: int, hosts: int = 0, slow: bool = False) -> History:
    """`hosts` 0: the seed says how many."""
    random, pace = Random(seed), SLOW if slow else DENSE
    count = hosts or random.choice((2, 3, 3, 3, 4, 5))
    members = random.choice([0, *(n for n in (1, 3, 5) if n <= count)])
    shape = Shape(hosts=count, members=members, scale=random.choice(SCALES))
    heal_at = round(random.uniform(*pace.phase) * shape.scale**0.5, 2)
    drawer = _Drawer(random, shape, heal_at, pace)
    return History(seed=seed, shape=shape, heal_at=heal_at, events=tuple(drawer.events()))


class _Drawer:
    def __init__(self, random: Random, shape: Shape, heal_at: float, pace: Pace) -> None:
        self._pace = pace
        self._random = random
        self._shape = shape
        self._heal_at = heal_at
        self._hosts = [f"h{i}" for i in range(1, shape.hosts + 1)]
        self._names = NAMES[: random.randint(2, len(NAMES))]
        self._volumes = VOLUMES[: random.randint(1, len(VOLUMES))]

    def events(self) -> list[Event]:
        random, pace = self._random, self._pace
        busy_s, calm_s = random.uniform(*pace.calls), random.uniform(*pace.bursts) * self._shape.scale
        first = [self._create(round(0.1 + 0.3 * n, 2), name) for n, name in enumerate(self._names)]
        calls = self._times(5.0, busy_s, self._call)
        faults = self._times(10.0, calm_s, self._burst)
        written = self._times(5.0, pace.calls[1], self._writes) if pace.rests else []
        return sorted([*first, *calls, *faults, *written], key=lambda event: event.at)

    def _writes(self, at: float) -> list[Event]:
        """Somebody writes a volume for a while, or stops to: at first all are written."""
        random = self._random
        volume, for_s = random.choice(self._volumes), random.choice((5.0, 20.0, 60.0))
        others = [Event(at=at, kind="idle", host="h1", what=one) for one in self._volumes]
        return [
            *others,
            Event(at=round(at + 0.1, 3), kind="busy", host="h1", what=volume),
            Event(at=round(at + for_s, 3), kind="idle", host="h1", what=volume),
        ]

    def _times(self, begin_s: float, mean_s: float, draw: Callable[[float], list[Event]]) -> list[Event]:
        """Events at random instants, `mean_s` apart."""
        found: list[Event] = []
        at = begin_s + self._random.expovariate(1 / mean_s)
        while at < self._heal_at:
            found += draw(round(at, 3))
            at += self._random.expovariate(1 / mean_s)
        return found

    def _weighted(self, weights: dict[str, int]) -> str:
        return self._random.choices(list(weights), list(weights.values()))[0]

    # -- people ----------------------------------------------------------------------------------------------------

    def _call(self, at: float) -> list[Event]:
        random, kind = self._random, self._weighted(CALLS)
        host, name = random.choice(self._hosts), random.choice(self._names)
        volume, target = random.choice(self._volumes), random.choice(self._hosts)
        match kind:
            case "create":
                return [self._create(at, name)]
            case "rename":
                other = random.choice(self._names)
                return [Event(at=at, kind=kind, host=host, what=name, other=other)]
            case "move":
                return [Event(at=at, kind=kind, host=host, what=name, other=target)]
            case "move-volume":
                return [Event(at=at, kind=kind, host=host, what=volume, other=target)]
            case "connect" | "disconnect":
                ip = random.choice(("", "", FIXED[1])) if kind == "connect" else ""
                return [Event(at=at, kind=kind, host=host, what=name, other=random.choice(NETWORKS), body={"ip": ip})]
            case "network-create" | "network-remove":
                return [Event(at=at, kind=kind, host=host, what="back")]
            case "volume-remove" | "volume-create" | "idle" | "busy":
                return [Event(at=at, kind=kind, host=host, what=volume)]
            case "drain" | "undrain":
                return [Event(at=at, kind=kind, host=host, what=target)]
        return [Event(at=at, kind=kind, host=host, what=name)]

    def _create(self, at: float, name: str) -> Event:
        random = self._random
        body: dict[str, object] = {
            "volumes": [v for v in self._volumes if random.random() < 0.35],
            "read_only": random.random() < 0.1,
            "network": random.choice(NETWORKS),
            "ip": random.choice(("", "", "", *FIXED)),
            "restart": random.choice(POLICIES),
            "run_s": random.choice((0, 0, 0, 0, 7)),
            "start": random.random() < 0.9,
        }
        return Event(at=at, kind="create", host=random.choice(self._hosts), what=name, body=body)

    # -- faults ----------------------------------------------------------------------------------------------------

    def _burst(self, at: float) -> list[Event]:
        """One fault, or several about each other's time."""
        random = self._random
        count = random.choice((1, 1, 1, 2, 3))
        return [self._fault(round(at + n * random.expovariate(1.0), 3)) for n in range(count)]

    def _fault(self, at: float) -> Event:
        random, kind = self._random, self._weighted(FAULTS)
        host = random.choice(self._hosts)
        for_s = round(random.choice(self._pace.lasts) * random.uniform(0.6, 1.6), 3)
        match kind:
            case "partition":
                return Event(at=at, kind=kind, what=self._sides(), for_s=for_s)
            case "one-way":
                return Event(at=at, kind=kind, host=host, other=random.choice(self._hosts), for_s=for_s)
            case "slow-engine" | "slow-disk" | "slow-store" | "slow-watch":
                how_s = random.choice((0.02, 0.1, 0.3, 1.0, 3.0))
                return Event(at=at, kind=kind, host=host, what=str(how_s), for_s=for_s)
            case "clock":
                return Event(
                    at=at, kind=kind, host=host, what=str(random.choice((-600, -20, -2, 2, 20, 600))), for_s=for_s
                )
            case "drift":
                return Event(at=at, kind=kind, host=host, what=str(random.choice((-0.02, 0.01, 0.05))), for_s=for_s)
            case "election":
                return Event(at=at, kind=kind, for_s=round(random.uniform(0.2, 4.0), 2))
            case "compact":
                return Event(at=at, kind=kind)
            case "crash":
                return Event(at=at, kind=kind, what=random.choice(self._names))
        return Event(at=at, kind=kind, host=host, for_s=for_s)

    def _sides(self) -> str:
        """One half of a random partition, e.g. `h1 h3`; the other hosts are the other half."""
        size = self._random.randint(1, max(1, self._shape.hosts - 1))
        return " ".join(sorted(self._random.sample(self._hosts, size)))
