"""`Reporter`: facts and commits beside each other, and in order where they have a key in common."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from drover.agent.report import Reporter
from drover.model import records as r
from drover.model.cluster import Change, delete, put

FACT = r.key("container_facts", "h1", "c1")
OTHER = r.key("container_facts", "h1", "c2")
MOVE = r.key("moves", "c1")


class SlowStore:
    """A store whose commits are answered when the test says so; `log` has the keys of each, in order."""

    def __init__(self) -> None:
        self.log: list[list[str]] = []
        self.gates: list[asyncio.Event] = []

    async def commit(self, changes: Sequence[Change], expect: Mapping[str, int] | None = None) -> int:
        self.log.append([("-" if one.record is None else "") + one.key for one in changes])
        self.gates.append(asyncio.Event())
        await self.gates[-1].wait()
        return len(self.log)


def fact(state: str, container: str = "c1") -> r.ContainerFacts:
    return r.ContainerFacts(container=container, host="h1", state=state)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def scene() -> tuple[SlowStore, Reporter, asyncio.Task[None]]:
    store = SlowStore()
    reporter = Reporter(store, lambda: 1.0)  # type: ignore[arg-type]
    return store, reporter, asyncio.create_task(reporter.run())


async def test_a_commit_does_not_wait_for_facts_of_other_keys() -> None:
    store, reporter, running = await scene()
    reporter.report(FACT, fact("exited"))
    await settle()
    commit = asyncio.create_task(reporter.commit([put(MOVE, r.Move(source="h1", target="h2"))], {}))
    await settle()
    assert store.log == [[FACT], [MOVE]]
    store.gates[1].set()
    assert await commit == 2
    running.cancel()


async def test_a_fact_on_its_way_is_written_before_it_is_removed_and_not_after() -> None:
    store, reporter, running = await scene()
    reporter.report(FACT, fact("exited"))
    await settle()
    commit = asyncio.create_task(reporter.commit([delete(FACT)], {}))
    await settle()
    assert store.log == [[FACT]]
    store.gates[0].set()
    await settle()
    assert store.log == [[FACT], ["-" + FACT]]
    store.gates[1].set()
    await commit
    await settle()
    assert store.log == [[FACT], ["-" + FACT]]
    running.cancel()


async def test_no_fact_of_a_key_is_chosen_while_it_is_committed() -> None:
    store, reporter, running = await scene()
    commit = asyncio.create_task(reporter.commit([put(FACT, fact("created"))], {}))
    await settle()
    reporter.report(FACT, fact("running"))
    await settle()
    assert store.log == [[FACT]]
    store.gates[0].set()
    await commit
    await settle()
    assert store.log == [[FACT], [FACT]]
    running.cancel()


async def test_facts_of_other_keys_go_on_while_one_is_committed() -> None:
    store, reporter, running = await scene()
    reporter.report(OTHER, fact("running", "c2"))
    commit = asyncio.create_task(reporter.commit([put(FACT, fact("created"))], {}))
    await settle()
    assert store.log == [[FACT], [OTHER]] or store.log == [[OTHER], [FACT]]
    for gate in store.gates:
        gate.set()
    await commit
    running.cancel()
