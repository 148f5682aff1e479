"""Which of the hosts that fit is best, and why: an ordered list of criteria, each compared only among equals so far.

criterion    better is
replace      the host of the container of the same Compose slot: its images and anonymous volumes are there
data         fewer volumes to be brought from elsewhere, where volumes may be moved for a container
wish         more soft constraints and affinities met
zone         fewer containers of the same family in its zone (host label `zone`, or those that `drover.spread` names)
family       fewer containers of the same Compose service, or of the same name but for a trailing number
disk         a disk that is not nearly full
containers   fewer containers that hold resources (`drover.strategy=binpack`: more, and no spreading before that)
image        a host that has the image (so an image never makes a spread uneven)
memory       more free memory
tie          hosts sit on a circle by the hashes of their names: the first one from the hash of the container's id on;
             arbitrary, but the same for everybody, and found among sorted hosts without looking at all of them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from heapq import nsmallest

import msgspec

from drover.decide.fit import CROWD, Question, fact
from drover.decide.sentences import count, size
from drover.decide.views import HostView

Measure = Callable[[HostView, Question], int]
"""Smaller is better."""
Says = Callable[[HostView, Question], str]
CIRCLE = 2**64


class Criterion(msgspec.Struct, frozen=True):
    """`says(view, question)` describes a host under this criterion: `runs 3 containers`."""

    name: str
    measure: Measure
    says: Says
    live: Callable[[Question], bool] = lambda asked: True
    """Whether it can tell hosts apart, for this container."""


class Scored(msgspec.Struct, frozen=True):
    """A host that fits and its measures, in the order of the live `CRITERIA`: the smaller is better, the first counts
    most."""

    view: HostView
    measures: tuple[int, ...]


def live_criteria(asked: Question) -> list[Criterion]:
    return [criterion for criterion in CRITERIA if criterion.live(asked)]


def score(view: HostView, asked: Question, criteria: Sequence[Criterion]) -> Scored:
    """`criteria`: those that can tell hosts apart."""
    return Scored(view, tuple([criterion.measure(view, asked) for criterion in criteria]))


def first_two(scored: Sequence[Scored], asked: Question) -> list[Scored]:
    """The best host and its nearest rival (one host alone has none); the order of `scored` does not matter."""
    least = min(one.measures for one in scored)
    equals = [one for one in scored if one.measures == least]
    if len(equals) == 1 and len(scored) > 1:
        return equals + first_two([one for one in scored if one is not equals[0]], asked)[:1]
    return nsmallest(2, equals, key=lambda one: _draw(asked.wanted.id, one.view.name))


def rejected(winner: Scored, other: Scored, asked: Question, criteria: Sequence[Criterion]) -> str:
    """Why `other` fits and was not taken, as what follows its name. `criteria`: those that both were measured by."""
    says = _deciding(winner, other, criteria)
    if says is None:
        return f"fits as well as {winner.view.name}; a hash of the container's id decided"
    return f"fits, but {says(other.view, asked)}; {winner.view.name} {says(winner.view, asked)}"


def chosen(winner: Scored, rival: Scored | None, asked: Question, criteria: Sequence[Criterion]) -> str:
    """Why `winner` was taken, by what told it from its nearest rival; a whole sentence."""
    name = winner.view.name
    if rival is None:
        return f"{name} is the only host that can take it"
    says = _deciding(winner, rival, criteria)
    if says is None:
        return f"{name} is as good as {rival.view.name}; a hash of the container's id decided"
    return f"{name} {says(winner.view, asked)}; the next best, {rival.view.name}, {says(rival.view, asked)}"


def _deciding(winner: Scored, other: Scored, criteria: Sequence[Criterion]) -> Says | None:
    """What the first criterion says by which `winner` is better than `other`; None if they are equals."""
    rows = zip(criteria, winner.measures, other.measures, strict=True)
    return next((criterion.says for criterion, mine, its in rows if mine < its), None)


@lru_cache(maxsize=16_384)
def point(name: str) -> int:
    """Where a host's name or a container's id is on the circle."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def _draw(container: str, host: str) -> tuple[int, str]:
    return (point(host) - point(container)) % CIRCLE, host


def _replace(view: HostView, asked: Question) -> int:
    return 0 if view.name == asked.replaced else 1


def _says_replace(view: HostView, asked: Question) -> str:
    has = "has" if view.name == asked.replaced else "does not have"
    return f"{has} the container that this one replaces"


def _data(view: HostView, asked: Question) -> int:
    return sum(volume.host != view.name for volume in asked.brought)


def _says_data(view: HostView, asked: Question) -> str:
    away = _data(view, asked)
    return f"needs {count(away, 'volume')} brought" if away else "has its volumes"


def unmet(view: HostView, asked: Question) -> int:
    wishes = [e for e in asked.wanted.spec.constraints if e.soft and not e.holds(fact(view, e.key))]
    pulls = [p for p in asked.pulls if p.expression.soft and not p.holds(view.name)]
    return len(wishes) + len(pulls)


def _says_unmet(view: HostView, asked: Question) -> str:
    left = unmet(view, asked)
    return f"leaves {count(left, 'soft constraint')} unmet" if left else "meets every soft constraint"


def _zone(view: HostView, asked: Question) -> int:
    return 0 if asked.packed else asked.crowds.get(view.name, 0)


def _says_zone(view: HostView, asked: Question) -> str:
    told = ", ".join(f"{key} {fact(view, key) or '(none)'}" for key in asked.spread.split(";"))
    return f"is in {told}, which has {_zone(view, asked) % CROWD} of {asked.family}"


def _family(view: HostView, asked: Question) -> int:
    return 0 if asked.packed else view.families.get(asked.family, 0)


def _says_family(view: HostView, asked: Question) -> str:
    return f"runs {count(_family(view, asked), 'container')} of {asked.family}"


def _disk(view: HostView, asked: Question) -> int:
    return 1 if view.facts is not None and view.facts.disk_low else 0


def _says_disk(view: HostView, asked: Question) -> str:
    return f"has a disk that is nearly full: {view.facts.disk_low}" if _disk(view, asked) and view.facts else "has disk"


def _containers(view: HostView, asked: Question) -> int:
    return -view.containers if asked.packed else view.containers


def _says_containers(view: HostView, asked: Question) -> str:
    return f"runs {count(view.containers, 'container')}"


def _image(view: HostView, asked: Question) -> int:
    return 0 if view.name in asked.image_hosts else 1


def _says_image(view: HostView, asked: Question) -> str:
    return "has the image" if view.name in asked.image_hosts else "lacks the image"


def _memory(view: HostView, asked: Question) -> int:
    return -view.free_memory_bytes


def _says_memory(view: HostView, asked: Question) -> str:
    return f"has {size(view.free_memory_bytes)} of memory free"


CRITERIA: tuple[Criterion, ...] = (
    Criterion("replace", _replace, _says_replace, lambda asked: bool(asked.replaced)),
    Criterion("data", _data, _says_data, lambda asked: bool(asked.brought)),
    Criterion("wish", unmet, _says_unmet, lambda asked: bool(asked.wanted.spec.constraints or asked.pulls)),
    Criterion("zone", _zone, _says_zone, lambda asked: bool(asked.crowds) and not asked.packed),
    Criterion("family", _family, _says_family, lambda asked: not asked.packed),
    Criterion("disk", _disk, _says_disk),
    Criterion("containers", _containers, _says_containers),
    Criterion("image", _image, _says_image, lambda asked: bool(asked.image_hosts)),
    Criterion("memory", _memory, _says_memory),
)
AFTER_FAMILY: tuple[Criterion, ...] = CRITERIA[[one.name for one in CRITERIA].index("family") + 1 :]
"""Those that are the same for containers of every family (`decide.field`)."""
