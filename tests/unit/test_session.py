"""The lease and leadership of hosts on virtual time, with the memory store."""

import asyncio
from collections.abc import Awaitable, Callable

from drover.agent.session import AT_ONCE, Session
from drover.daemon.leader import Leadership
from drover.model import records as r
from drover.sim import clock
from drover.store.memory import MemoryCluster
from drover.store.mirror import Mirror

TTL_S = 4.0


class LeadingHost:
    """One host with a session and a claim to lead; counts how often it did its duty."""

    def __init__(self, shared: MemoryCluster, name: str) -> None:
        self.name = name
        self.store = shared.client(deadline_s=1.0)
        self.mirror = Mirror(self.store)
        self.session = Session(name, f"{name}-1", self.store, TTL_S, clock.wall_now)
        self.duties = 0
        self.leadership = Leadership(name, self.store, self.mirror, self.session, [self._duty])
        self.tasks: list[asyncio.Task[None]] = []

    async def _duty(self) -> None:
        self.duties += 1

    async def start(self) -> None:
        await self.mirror.start()
        self.tasks = [asyncio.create_task(self.session.run()), asyncio.create_task(self.leadership.run())]
        await self.session.held.wait()

    async def die(self) -> None:
        """Without a word: nothing is given back."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def run(scene: Callable[[list[LeadingHost]], Awaitable[None]], hosts: int = 3) -> None:
    async def main() -> None:
        shared = MemoryCluster()
        made = [LeadingHost(shared, f"h{i}") for i in range(1, hosts + 1)]
        for host in made:
            await host.start()
        await scene(made)

    clock.run(main())


async def leader_of(host: LeadingHost, not_this: str = "") -> str:
    await host.mirror.until(lambda _: host.leadership.leader not in ("", not_this), 30, "a leader")
    return host.leadership.leader


def test_a_host_is_alive_while_its_lease_is_renewed() -> None:
    async def scene(hosts: list[LeadingHost]) -> None:
        await asyncio.sleep(100 * TTL_S)
        assert set(hosts[0].mirror.cluster.alive) == {"h1", "h2", "h3"}
        assert hosts[0].session.last_good is not None
        assert asyncio.get_running_loop().time() - hosts[0].session.last_good <= TTL_S / 2

    run(scene)


def test_a_dead_host_is_seen_when_its_lease_is_over_and_not_before() -> None:
    async def scene(hosts: list[LeadingHost]) -> None:
        await asyncio.sleep(10)
        last_good = hosts[2].session.last_good
        assert last_good is not None
        await hosts[2].die()
        await hosts[0].mirror.until(lambda cluster: "h3" not in cluster.alive, 60, "the loss of h3")
        assert TTL_S <= asyncio.get_running_loop().time() - last_good <= TTL_S + 0.5

    run(scene)


def test_a_host_that_leaves_in_order_is_gone_at_once() -> None:
    async def scene(hosts: list[LeadingHost]) -> None:
        before = asyncio.get_running_loop().time()
        await hosts[2].die()
        await hosts[2].session.end()
        await hosts[0].mirror.until(lambda cluster: "h3" not in cluster.alive, 60, "the end of h3")
        assert asyncio.get_running_loop().time() - before < 0.5

    run(scene)


def test_a_host_cut_off_loses_its_lease_and_takes_a_new_one_when_it_is_back() -> None:
    async def scene(hosts: list[LeadingHost]) -> None:
        hosts[2].store.cut = True
        await hosts[0].mirror.until(lambda cluster: "h3" not in cluster.alive, 60, "the loss of h3")
        await asyncio.sleep(30)
        hosts[2].store.cut = False
        await hosts[0].mirror.until(lambda cluster: "h3" in cluster.alive, 60, "the return of h3")
        assert hosts[2].session.held.is_set()

    run(scene)


def test_exactly_one_host_leads_and_another_takes_over() -> None:
    async def scene(hosts: list[LeadingHost]) -> None:
        first = await leader_of(hosts[0])
        await asyncio.sleep(20)
        assert {host.name for host in hosts if host.duties} == {first}
        dead = next(host for host in hosts if host.name == first)
        await dead.die()
        survivor = next(host for host in hosts if host.name != first)
        second = await leader_of(survivor, not_this=first)
        assert second != first
        await asyncio.sleep(5)
        assert next(host for host in hosts if host.name == second).duties > 0

    run(scene)


def test_the_leader_record_goes_with_the_leaders_lease() -> None:
    async def scene(hosts: list[LeadingHost]) -> None:
        await leader_of(hosts[0])
        settings = hosts[0].mirror.cluster.rows("settings", r.Setting)
        assert settings["leader"].value == "h1"
        await hosts[0].die()
        await asyncio.sleep(TTL_S + 1)
        assert "leader" not in hosts[0].mirror.cluster.rows("settings", r.Setting)

    run(scene, hosts=1)


def test_a_lease_that_the_store_ended_early_fences_before_another_one_is_taken() -> None:
    """Others may hold by now what this host held: what it has until it takes part anew is nothing, not the rest of the
    time that its last renewal was good for."""

    async def scene(hosts: list[LeadingHost]) -> None:
        session, loop = hosts[0].session, asyncio.get_running_loop()
        told: list[tuple[float, float]] = []
        session.on_change = lambda: told.append((loop.time(), session.fence_at))
        first = session.lease
        assert first is not None
        await first.revoke()
        ended = loop.time()
        await hosts[0].mirror.until(lambda cluster: "h1" in cluster.alive and session.lease is not first, 30, "a lease")
        assert next(fence_at for at, fence_at in told if at >= ended) == AT_ONCE
        assert session.fence_at > loop.time()

    run(scene, hosts=1)
