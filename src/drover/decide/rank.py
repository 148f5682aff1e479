"""Which of the hosts that fit is best, and why: an ordered list of criteria, each compared only among equals so far.

criterion    better is
replace      the host of the container of the same Compose slot: its images and anonymous volumes are there
wish         more soft constraints and affinities met
family       fewer containers of the same Compose service, or of the same name but for a trailing number
containers   fewer containers that hold resources
image        a host that has the image (so an image never makes a spread uneven)
memory       more free memory
tie          the smaller hash of container id and host name: arbitrary, but the same for everybody
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import msgspec

from drover.decide.fit import Question, fact
from drover.decide.sentences import count, size
from drover.decide.views import HostView

Measure = Callable[[HostView, Question], int]
"""Smaller is better."""


class Criterion(msgspec.Struct, frozen=True):
    """`says(view, question)` describes a host under this criterion: `runs 3 containers`."""

    name: str
    measure: Measure
    says: Callable[[HostView, Question], str]


def best(fits: list[HostView], asked: Question) -> HostView:
    """The best of the hosts that fit; `fits` is not empty, and its order does not matter."""
    for criterion in CRITERIA:
        measures = [criterion.measure(view, asked) for view in fits]
        least = min(measures)
        fits = [view for view, measure in zip(fits, measures, strict=True) if measure == least]
        if len(fits) == 1:
            break
    return min(fits, key=lambda view: view.name)


def deciding(winner: HostView, other: HostView, asked: Question) -> Criterion:
    """The first criterion by which `winner` is better than `other`."""
    better = (c for c in CRITERIA if c.measure(winner, asked) < c.measure(other, asked))
    return next(better, TIE)


def rejected(winner: HostView, other: HostView, asked: Question) -> str:
    """Why `other` fits and was not taken, as what follows its name."""
    criterion = deciding(winner, other, asked)
    if criterion is TIE:
        return f"fits as well as {winner.name}; a hash of the container's id decided"
    return f"fits, but {criterion.says(other, asked)}; {winner.name} {criterion.says(winner, asked)}"


def chosen(winner: HostView, others: list[HostView], asked: Question) -> str:
    """Why `winner` was taken, by what told it from the best of the others that fit; a whole sentence."""
    if not others:
        return f"{winner.name} is the only host that can take it"
    rival = best(others, asked)
    criterion = deciding(winner, rival, asked)
    if criterion is TIE:
        return f"{winner.name} is as good as {rival.name}; a hash of the container's id decided"
    return f"{winner.name} {criterion.says(winner, asked)}; the next best, {rival.name}, {criterion.says(rival, asked)}"


def _replace(view: HostView, asked: Question) -> int:
    return 0 if view.name == asked.replaced else 1


def _says_replace(view: HostView, asked: Question) -> str:
    has = "has" if view.name == asked.replaced else "does not have"
    return f"{has} the container that this one replaces"


def _unmet(view: HostView, asked: Question) -> int:
    wishes = [e for e in asked.wanted.spec.constraints if e.soft and not e.holds(fact(view, e.key))]
    pulls = [p for p in asked.pulls if p.expression.soft and not p.holds(view.name)]
    return len(wishes) + len(pulls)


def _says_unmet(view: HostView, asked: Question) -> str:
    unmet = _unmet(view, asked)
    return f"leaves {count(unmet, 'soft constraint')} unmet" if unmet else "meets every soft constraint"


def _family(view: HostView, asked: Question) -> int:
    return view.families.get(asked.wanted.family, 0)


def _says_family(view: HostView, asked: Question) -> str:
    return f"runs {count(_family(view, asked), 'container')} of {asked.wanted.family}"


def _containers(view: HostView, asked: Question) -> int:
    return view.containers


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


def _tie(view: HostView, asked: Question) -> int:
    digest = blake2b(f"{asked.wanted.id} {view.name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest)


def _says_tie(view: HostView, asked: Question) -> str:
    return "is as good"


TIE = Criterion("tie", _tie, _says_tie)
CRITERIA: tuple[Criterion, ...] = (
    Criterion("replace", _replace, _says_replace),
    Criterion("wish", _unmet, _says_unmet),
    Criterion("family", _family, _says_family),
    Criterion("containers", _containers, _says_containers),
    Criterion("image", _image, _says_image),
    Criterion("memory", _memory, _says_memory),
    TIE,
)
