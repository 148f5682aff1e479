"""When a volume's backup is due.

a backup is due                because
at once                        somebody asked for one since the last was made
`every_s` after the last one   it is scheduled; whichever host made the last
RETRY_S after a failure        a scheduled one failed (or sooner, if the schedule is shorter)
"""

from __future__ import annotations

from drover.model import records as r
from drover.model.cluster import Cluster

RETRY_S = 600.0


def backup_due(cluster: Cluster, volume: r.Volume) -> float | None:
    """When, in seconds since the Unix epoch; None: never, as things are."""
    plan = volume.backup
    if plan is None:
        return None
    facts = [one.backup for one in cluster.volume_facts.values() if one.volume == volume.name]
    if plan.asked > max((one.asked for one in facts), default=0):
        return 0.0
    if not plan.every_s:
        return None
    last_at = max((one.at for one in facts), default=0.0)
    failed_at = max((one.tried_at for one in facts if one.failure), default=0.0)
    due_at = (last_at or volume.created_at) + plan.every_s
    return max(due_at, failed_at + min(RETRY_S, plan.every_s)) if failed_at > last_at else due_at


def last_backup(cluster: Cluster, volume: r.Volume) -> r.BackupFacts:
    """The newest word on a volume's backups, from whichever host made it."""
    facts = [one.backup for one in cluster.volume_facts.values() if one.volume == volume.name]
    return max(facts, key=lambda one: max(one.tried_at, one.at), default=r.BackupFacts())
