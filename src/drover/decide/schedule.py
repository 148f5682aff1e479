"""`place(cluster, wanted)`: a host for one container, or why none can take it.

Theory of operation. Three steps, each a table in its own module: what is asked (`wanted`), which hosts fit
(`fit.FILTERS`, first refusal is the reason), which of those is best (`rank.CRITERIA`). Every host is asked; on a large
cluster, `decide.board` finds the same answer at few of them. Placing many containers in a row is a board's, or passes
`views` on, kept up to date with `HostViews.with_container`, instead of adding everything up again.
"""

from __future__ import annotations

from drover.decide.board import board
from drover.decide.choice import Chosen, choice, nowhere
from drover.decide.fit import live_filters, question, refusal
from drover.decide.kept_views import kept
from drover.decide.rank import live_criteria, score
from drover.decide.views import HostViews
from drover.decide.wanted import Wanted
from drover.model.cluster import Cluster

LARGE = 64
"""From so many hosts on, a board is quicker than asking all of them."""


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
    if views is None and len(cluster.hosts) >= LARGE:
        return board(kept(cluster)).place(cluster, wanted, image_hosts=image_hosts, bring_volumes=bring_volumes)
    asked = question(cluster, views or kept(cluster), wanted, image_hosts, bring_volumes)
    filters, criteria = live_filters(asked), live_criteria(asked)
    refusals = {name: refusal(view, asked, filters) for name, view in asked.views.hosts.items()}
    fits = [score(asked.views.hosts[name], asked, criteria) for name, why in refusals.items() if why is None]
    if not fits:
        raise nowhere(wanted, {name: why for name, why in refusals.items() if why is not None})
    return choice(fits, sorted(refusals), asked, filters, criteria)
