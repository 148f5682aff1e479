"""What has to go with a container: every record that exists only because of it."""

from __future__ import annotations

from drover.decide.claims import addresses_of
from drover.decide.grace import given_up
from drover.decide.ports import heir
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put


def container_removal(cluster: Cluster, container: str, now: float) -> tuple[list[Change], dict[str, int]]:
    """The changes that remove all records of a container, and the versions to expect. `now`: since when its
    addresses are kept for its name (`decide.grace`), in seconds since the Unix epoch.

    Expecting the container's own version makes the removal lose against a newer order. A published port that its
    service shares passes to another container of the service.
    """
    record = cluster.containers.get(container)
    container_key = r.key("containers", container)
    changes = [delete(container_key)]
    if record is not None and cluster.names.get(record.name, r.Name(id="")).id == container:
        changes.append(delete(r.key("names", record.name)))
    if container in cluster.placements:
        changes.append(delete(r.key("placements", container)))
    changes += [
        delete(r.key("container_facts", k)) for k, f in cluster.container_facts.items() if f.container == container
    ]
    changes += given_up(cluster, addresses_of(cluster, container), now)
    changes += [_given_up(cluster, k, p) for k, p in cluster.ports.items() if p.container == container]
    changes += [delete(r.key("moves", container))] if container in cluster.moves else []
    changes += [delete(r.key("move_facts", k)) for k in cluster.move_facts if k.endswith(f"/{container}")]
    return changes, {container_key: cluster.version(container_key)}


def _given_up(cluster: Cluster, rest: str, claim: r.Port) -> Change:
    passed = heir(cluster, claim)
    return put(r.key("ports", rest), passed) if passed else delete(r.key("ports", rest))
