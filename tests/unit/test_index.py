"""What is kept of the pictures before gives what the picture alone gives, whichever pictures those were."""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec
import pytest
from cluster_factory import cid
from test_remembered import HOSTS, lived

from drover.decide import index
from drover.decide.converge import Seen, SeenHere, converge
from drover.decide.health import host_state
from drover.decide.spare_images import COPIES, Spare, image_hosts, spares
from drover.model import records as r
from drover.model.cluster import Cluster, delete, put
from drover.model.spec import parse_spec


def pictures(seed: int) -> Iterable[Cluster]:
    """Those of a life, some of them again later, and some in which everything was read anew."""
    chance, had = random.Random(seed), list[Cluster]()
    for cluster in lived(seed):
        had.append(_with_images(cluster, chance))
        yield had[-1]
        if chance.random() < 0.2:
            yield chance.choice(had)
        if chance.random() < 0.2:
            yield reborn(had[-1])


def _with_images(cluster: Cluster, chance: random.Random) -> Cluster:
    number, name = chance.randint(1, 6), chance.choice(("data", "logs"))
    if name in cluster.volumes and chance.random() < 0.3:
        volume = msgspec.structs.replace(cluster.volumes[name], removed=not cluster.volumes[name].removed)
        cluster = cluster.apply(cluster.revision, [put(r.key("volumes", name), volume)])
    old = cluster.containers.get(cid(number))
    if old is None or chance.random() < 0.5:
        return cluster
    if chance.random() < 0.3:
        cluster = cluster.apply(
            cluster.revision, [delete(r.key("container_facts", name, cid(number))) for name in HOSTS]
        )
    other = msgspec.structs.replace(
        old, image_id=chance.choice(("i1", "i2", "i3", "")), desired=chance.choice(("running", "running", "stopped"))
    )
    return cluster.apply(cluster.revision, [put(r.key("containers", cid(number)), other)])


def reborn(cluster: Cluster) -> Cluster:
    """The same records, in other tables, in another order."""
    return Cluster(
        cluster.revision,
        {name: dict(reversed(list(rows.items()))) for name, rows in cluster.tables.items()},
        cluster.versions,
    )


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_what_a_look_at_all_rows_finds(seed: int) -> None:
    for cluster in pictures(seed):
        volumes, placements = cluster.volumes.values(), cluster.placements.values()
        for host in HOSTS:
            here = sorted((one for one in placements if one.host == host), key=lambda one: one.container)
            assert list(index.placed_on(cluster, host)) == here
            there = [one.container for one in here if one.container in cluster.containers]
            assert [one.id for one in index.containers_on(cluster, host)] == there
            held = sorted((one for one in volumes if one.host == host), key=lambda one: one.name)
            assert list(index.held_by(cluster, host)) == held
        assert list(index.removed_volumes(cluster)) == [
            one for _, one in sorted(cluster.volumes.items()) if one.removed
        ]
        several = {one.id for one in cluster.containers.values() if len(parse_spec(one.body).volume_names) > 1}
        assert {one.id for one in index.with_several(cluster)} == several


@pytest.mark.parametrize("seed", range(5))
def test_spares_are_what_the_records_alone_say(seed: int) -> None:
    for cluster in pictures(seed):
        for host in HOSTS:
            assert spares(cluster, host) == expected_spares(cluster, host)


def expected_spares(cluster: Cluster, host: str) -> tuple[Spare, ...]:
    """By asking about each image by itself which hosts should have it, as recovery does."""
    running = [one for one in cluster.containers.values() if one.image_id and one.desired == "running"]
    able = {name for name in cluster.hosts if host_state(cluster, name).state == "ready"}
    alone = {"containers": {one.id: one for one in running}}
    scene = Cluster(cluster.revision, {**cluster.tables, **alone, "hosts": {n: cluster.hosts[n] for n in sorted(able)}})
    found = []
    for image in sorted({one.image_id for one in running}):
        users = sorted(one.id for one in running if one.image_id == image)
        facts = [cluster.facts_of(one) for one in users]
        havers = {one.host for one in facts if one is not None and one.engine_id} & able
        should = image_hosts(scene, {image})[image] - havers
        if len(havers) < COPIES and host in should:
            found.append(Spare(image, parse_spec(cluster.containers[users[0]].body).image, users[0]))
    return tuple(found)


@pytest.mark.parametrize("seed", range(5))
def test_a_host_does_the_same_whatever_it_saw_before(seed: int) -> None:
    here = {cid(number): SeenHere(engine_id=f"e{number}", state="running", epoch=1) for number in range(1, 5)}
    seen = Seen(containers=here, networks={"a" * 64: "n"}, volumes={"data": 1}, live={"data": 1, "logs": 0})
    for cluster in lived(seed):
        for host in HOSTS:
            plan = converge(cluster, host, seen, 10.0)
            again = converge(reborn(cluster), host, seen, 10.0)
            assert sorted(map(repr, plan.steps)) == sorted(map(repr, again.steps))
            assert sorted(map(repr, plan.waits)) == sorted(map(repr, again.waits))
            assert plan.again_at == again.again_at
