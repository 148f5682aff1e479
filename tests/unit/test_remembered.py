"""What is remembered is what would be decided anew: each such function reads only the tables that it names."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from inspect import signature
from itertools import chain
from typing import Any

import pytest
from cluster_factory import cid, container, host, network, volume, world

from drover.decide import attached, replicas, spare_images  # noqa: F401  (they remember)
from drover.decide.remembered import ALL, MANY, remembered
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put

HOSTS = ("h1", "h2", "h3")
NETWORK = "a" * 64
PHASES: tuple[r.Phase, ...] = ("copying", "done", "done")


class Telling(Mapping[str, Any]):
    """Tables that remember which of them were asked for."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self._tables = tables
        self.read: set[str] = set()

    def __getitem__(self, table: str) -> Any:
        self.read.add(table)
        return self._tables[table]

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("it goes through all tables")

    def __len__(self) -> int:
        raise AssertionError("it counts all tables")


def lived(seed: int) -> Iterator[Cluster]:
    """Pictures of a cluster as it changes at random, each with much in it."""
    chance = random.Random(seed)
    cluster = world(*[host(name, facts={"volume_drivers": ("fake",)}) for name in HOSTS], network(NETWORK, "app"))
    for revision in range(2, 80):
        cluster = cluster.apply(revision, step(chance))
        yield cluster


def step(chance: random.Random) -> list[Change]:
    number, name, kept = chance.randint(1, 6), chance.choice(HOSTS), chance.choice(("data", "logs"))
    binds = chance.choice(([], ["data:/data"], ["data:/data", "logs:/logs"]))
    body = {"Image": "app:1", "HostConfig": {"Binds": binds, "NetworkMode": chance.choice(("app", "default"))}}
    record = r.Container(id=cid(number), name=f"c{number}", body=json.dumps(body), image_id="i1", desired="running")
    held = r.Volume(name=kept, body="{}", host=name, driver="fake", replicas=1)
    move = r.Move(container=cid(number), source="h1", target=name, phase=chance.choice(PHASES), volumes=(kept,))
    facts = r.VolumeFacts(host=name, volume=kept, driver="fake", snapshots=("0001-00000001",))
    space = r.VolumeSpace(host=name, driver="fake", total_bytes=10**9, free_bytes=chance.choice((0, 10**9)))
    possible = [
        [
            *container(number, "", name, engine_id="e", state="running")[2:],
            put(r.key("containers", cid(number)), record),
        ],
        [delete(r.key("containers", cid(number)))],
        [delete(r.key("alive", name))],
        host(name, state=chance.choice(("up", "silent")), facts={"volume_drivers": ("fake",)}),
        [put(r.key("volumes", kept), held)],
        [put(r.key("volume_facts", name, kept), facts)],
        [put(r.key("volume_space", name, "fake"), space)],
        [put(r.key("moves", cid(number)), move)],
        [delete(r.key("moves", cid(number)))],
        [put(r.key("lost", name), r.HostLost(host=name, at=9.0))],
    ]
    return chance.choice(possible)


def asked(function: Any, cluster: Cluster) -> list[Any]:
    """What it says, for each host if it is about one."""
    about = [(name,) for name in HOSTS] if len(signature(function).parameters) == 2 else [()]
    return [function(cluster, *one) for one in about]


def test_some_are_remembered() -> None:
    assert {function.__name__ for function, _ in ALL} >= {"networks_used", "groups", "kept_here", "spares"}


@pytest.mark.parametrize("seed", range(5))
def test_each_reads_only_the_tables_that_it_names(seed: int) -> None:
    read_at_all: set[str] = set()
    for cluster in lived(seed):
        for function, tables in ALL:
            telling = Telling(cluster.tables)
            asked(function, Cluster(cluster.revision, telling, cluster.versions))
            assert telling.read <= tables, function.__name__
            read_at_all |= telling.read
    assert read_at_all >= {"volumes", "containers", "moves", "alive"}


def test_it_is_what_would_be_decided_anew() -> None:
    said: dict[str, set[str]] = {function.__name__: set() for function, _ in ALL}
    again = [(function, remembered(*tables)(function)) for function, tables in list(ALL)]
    del ALL[len(again) :]
    for cluster in chain.from_iterable(map(lived, range(5))):
        for function, kept in again:
            answer = asked(kept, cluster)
            assert answer == asked(function, cluster), function.__name__
            said[function.__name__].add(str(answer))
    assert [name for name, answers in said.items() if len(answers) == 1] == []


def test_it_is_asked_once_for_each_argument_and_forgets_in_the_end() -> None:
    calls: list[str] = []

    @remembered("hosts")
    def named(cluster: Cluster, name: str) -> bool:
        calls.append(name)
        return name in cluster.hosts

    ALL.pop()
    cluster = world(host("h1"))
    assert [named(cluster, "h1"), named(cluster, "h2"), named(cluster, "h1")] == [True, False, True]
    assert named(cluster, name="h1")
    assert calls == ["h1", "h2"]
    other_table = cluster.apply(2, volume("data", "h1"))
    assert named(other_table, "h1")
    assert calls == ["h1", "h2"]
    assert not named(other_table.apply(3, [delete(r.key("hosts", "h1"))]), "h1")
    assert calls == ["h1", "h2", "h1"]
    for number in range(MANY):
        named(cluster, f"x{number}")
    calls.clear()
    assert named(cluster, "h1")
    assert calls == ["h1"]
