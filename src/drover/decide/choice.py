"""The answer to a container that asks for a host: the best of those that fit, or why there is none; and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from drover.decide.fit import Filter, Question, refusal
from drover.decide.rank import Criterion, Scored, chosen, first_two, rejected, score
from drover.decide.sentences import listed
from drover.decide.wanted import Wanted
from drover.errors import NoPlacement

NAMED_HOSTS = 16
"""How many hosts a refusal's message names; `NoPlacement.reasons` has them all."""
REASONED_HOSTS = 64
"""How many hosts' reasons are worth keeping with a placement."""
_HINT = "`drover host ls` shows each host's state, labels and what is free"


class Chosen(msgspec.Struct, frozen=True):
    """`why` is a sentence that says why this host; `reasons` has one for each other host (on a large cluster for
    the first `REASONED_HOSTS` by name, as it is kept in the placement record)."""

    host: str
    why: str
    reasons: Mapping[str, str]


class Reasons(Mapping[str, str]):
    """Why each of some hosts was not taken: worked out when somebody reads it, for most answers are not read. `asked`
    is of the moment of the answer, and stays as it is."""

    def __init__(
        self,
        winner: Scored,
        names: Sequence[str],
        asked: Question,
        filters: Sequence[Filter],
        criteria: Sequence[Criterion],
    ) -> None:
        self._winner = winner
        self._views = {name: asked.views.hosts[name] for name in names}
        self._asked = asked
        self._filters = filters
        self._criteria = criteria

    def __getitem__(self, name: str) -> str:
        view = self._views[name]
        why = refusal(view, self._asked, self._filters)
        if why is not None:
            return why
        return rejected(self._winner, score(view, self._asked, self._criteria), self._asked, self._criteria)

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def reasoned(names: Sequence[str], winner: str) -> list[str]:
    """The hosts that get a reason, of all by name."""
    return [name for name in names[: REASONED_HOSTS + 1] if name != winner][:REASONED_HOSTS]


def choice(
    fits: Sequence[Scored],
    names: Sequence[str],
    asked: Question,
    filters: Sequence[Filter],
    criteria: Sequence[Criterion],
) -> Chosen:
    """The best of `fits`, at least the two best hosts. `names`: all hosts, sorted; the first get a reason."""
    winner, *rival = first_two(fits, asked)
    reasons = Reasons(winner, reasoned(names, winner.view.name), asked, filters, criteria)
    return Chosen(winner.view.name, chosen(winner, rival[0] if rival else None, asked, criteria), reasons)


def nowhere(wanted: Wanted, reasons: Mapping[str, str]) -> NoPlacement:
    if not reasons:
        return NoPlacement(f"no host can take {wanted.name}: the cluster has no hosts", {}, hint=_HINT)
    told = listed(sorted(reasons.items()), NAMED_HOSTS)
    return NoPlacement(f"no host can take {wanted.name}: {told}", reasons, hint=_HINT)
