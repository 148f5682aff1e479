"""`place(cluster, wanted)`: a host for one container, or why none can take it.

Theory of operation. Three steps, each a table in its own module: what is asked (`wanted`), which hosts fit
(`fit.FILTERS`, first refusal is the reason), which of those is best (`rank.CRITERIA`). Placing many containers in
a row passes `views` on, kept up to date with `HostViews.with_container`, instead of adding everything up again.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from drover.decide.fit import live_filters, question, refusal
from drover.decide.kept_views import kept
from drover.decide.rank import chosen, first_two, live_criteria, rejected, score
from drover.decide.sentences import listed
from drover.decide.views import HostViews
from drover.decide.wanted import Wanted
from drover.errors import NoPlacement
from drover.model.cluster import Cluster

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


def place(
    cluster: Cluster,
    wanted: Wanted,
    *,
    image_hosts: frozenset[str] = frozenset(),
    views: HostViews | None = None,
    bring_volumes: bool = False,
) -> Chosen:
    """The host for a container. `image_hosts` have its image (a preference only). `views`, if given, are used in
    place of adding up `cluster`'s. With `bring_volumes` a volume that nobody uses does not bind the container to its
    host, but makes that one the best: the caller moves it if need be. Raises `NoPlacement`, one reason per host."""
    asked = question(cluster, views or kept(cluster), wanted, image_hosts, bring_volumes)
    filters, criteria = live_filters(asked), live_criteria(asked)
    refusals = {name: refusal(view, asked, filters) for name, view in asked.views.hosts.items()}
    fits = {name: score(asked.views.hosts[name], asked, criteria) for name, why in refusals.items() if why is None}
    if not fits:
        raise _nowhere(wanted, {name: why for name, why in refusals.items() if why is not None})
    winner, *rival = first_two(list(fits.values()), asked)
    names = [name for name in sorted(refusals) if name != winner.view.name][:REASONED_HOSTS]
    reasons = {name: refusals[name] or rejected(winner, fits[name], asked) for name in names}
    return Chosen(winner.view.name, chosen(winner, rival[0] if rival else None, asked), reasons)


def _nowhere(wanted: Wanted, reasons: Mapping[str, str]) -> NoPlacement:
    if not reasons:
        return NoPlacement(f"no host can take {wanted.name}: the cluster has no hosts", {}, hint=_HINT)
    told = listed(sorted(reasons.items()), NAMED_HOSTS)
    return NoPlacement(f"no host can take {wanted.name}: {told}", reasons, hint=_HINT)
