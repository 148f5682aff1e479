"""Before a container ends on order: whom to wait for, and for how long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from cluster_factory import cid, container, host
from structlog.testing import capture_logs

from drover.agent.networks import NetworkKeeper
from drover.agent.view import View
from drover.agent.withdrawal import Withdrawer
from drover.decide.withdrawal import DEADLINE_S, LINGER_S, Withdrawal, withdrawal
from drover.drivers.engine.port import SeenContainer
from drover.drivers.insides.fake import FakeInsides
from drover.drivers.network.fake import FakeNetwork
from drover.errors import DroverError, Unavailable
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put
from drover.sim.clock import run
from drover.store.memory import MemoryCluster
from drover.store.mirror import Mirror

NETWORK = "a" * 64
STOP = r.Order(number=2, verb="stop")


def member(number: int, on: str, network: str = NETWORK, service: str = "web", state: str = "running") -> list[Change]:
    body = {"Labels": {"drover.service": service} if service else {}}
    ip = f"10.44.0.{number}"
    claim = r.Address(network=network, ip=ip, container=cid(number))
    return [
        *container(number, f"web-{number}", on, body, state=state, answer=r.Answer(number=1)),
        put(r.key("addresses", network, ip), claim),
    ]


def ordered(number: int, order: r.Order, service: str = "web") -> Change:
    body = json.dumps({"Labels": {"drover.service": service} if service else {}})
    record = r.Container(id=cid(number), name=f"web-{number}", body=body, desired="stopped", order=order)
    return put(r.key("containers", cid(number)), record)


def world(*changes: Change, order: r.Order = STOP, service: str = "web") -> Cluster:
    """Three hosts, web-1 on h1 and web-2 on h2; at revision 7 web-1 gets an order."""
    hosts = [change for name in ("h1", "h2", "h3") for change in host(name)]
    net = r.Network(id=NETWORK, name="app", body="{}", subnet="10.44.0.0/16", gateway="10.44.0.1", vni=4096)
    base = [*hosts, put(r.key("networks", NETWORK), net)]
    both = [*member(1, "h1", service=service), *member(2, "h2", service=service)]
    return Cluster().apply(5, [*base, *both, *changes]).apply(7, [ordered(1, order, service)]).apply(9, [])


PORT = put(r.key("ports", "*", "tcp", "80"), r.Port("*", "tcp", 80, cid(2), container_port=80, service="/web"))


def asked(cluster: Cluster, order: r.Order = STOP) -> Withdrawal | None:
    return withdrawal(cluster, "h1", cid(1), order)


def test_the_hosts_of_its_networks_must_be_at_the_orders_revision() -> None:
    assert asked(world()) == Withdrawal(7, frozenset({"h2"}), DEADLINE_S, LINGER_S)


def test_every_host_answers_a_published_port() -> None:
    wanted = asked(world(PORT))
    assert wanted is not None
    assert wanted.senders == {"h2", "h3"}


def test_a_host_without_a_lease_is_not_waited_for() -> None:
    wanted = asked(world(PORT, delete(r.key("alive", "h3"))))
    assert wanted is not None
    assert wanted.senders == {"h2"}


def test_who_kills_waits_little_and_lets_no_connection_end() -> None:
    order = r.Order(number=2, verb="kill")
    wanted = asked(world(order=order), order)
    assert wanted is not None
    assert wanted.deadline_s < DEADLINE_S
    assert wanted.linger_s == 0


@pytest.mark.parametrize("verb", ["create", "start", "rename", "update", "connect", "disconnect"])
def test_an_order_that_ends_nothing_waits_for_nobody(verb: r.Verb) -> None:
    order = r.Order(number=2, verb=verb)
    assert asked(world(order=order), order) is None


@pytest.mark.parametrize(
    "changes",
    [
        member(2, "h2", state="exited"),
        member(2, "h2", service="other"),
        [*member(2, "h2", network="b" * 64), delete(r.key("addresses", NETWORK, "10.44.0.2"))],
        [ordered(2, STOP)],
        member(1, "h1", state="exited"),
    ],
    ids=["the other ended", "of another service", "on another network", "the other leaves too", "ended already"],
)
def test_where_nobody_takes_over_nobody_waits(changes: list[Change]) -> None:
    assert asked(world(*changes)) is None


def test_a_container_of_no_service_ends_at_once() -> None:
    assert asked(world(service="")) is None


# -- the waiting -------------------------------------------------------------------------------------------------------


class Tables:
    """`late_s`: host to how long its tables take (inf: for ever); `away`: hosts that cannot be asked."""

    def __init__(self) -> None:
        self.late_s: dict[str, float] = {}
        self.away: set[str] = set()
        self.asked: list[tuple[str, int]] = []

    async def reached(self, host: str, revision: int) -> None:
        self.asked.append((host, revision))
        if host in self.away:
            raise Unavailable(f"host {host} cannot be reached")
        await asyncio.sleep(self.late_s.get(host, 0.0))


class World:
    def __init__(self, cluster: Cluster, tables: Tables | None) -> None:
        self.mirror = Mirror(MemoryCluster().client())
        self.mirror.cluster = cluster
        self.insides = FakeInsides()
        view = View(lambda: 0.0)
        view.learn(SeenContainer(id=cid(1), engine_id="e1", name="web-1", epoch=1, state="running", pid=7))
        self.withdrawer = Withdrawer("h1", self.mirror, view, self.insides, tables)

    async def took_s(self, order: r.Order = STOP) -> float:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await self.withdrawer.withdraw(cid(1), order)
        return loop.time() - begun


def on_virtual_time(test: Callable[[], Awaitable[None]]) -> None:
    run(test())


@pytest.fixture
def tables() -> Tables:
    return Tables()


def test_all_are_so_far_and_nothing_is_open(tables: Tables) -> None:
    async def test() -> None:
        assert await World(world(PORT), tables).took_s() == 0
        assert sorted(tables.asked) == [("h1", 7), ("h2", 7), ("h3", 7)]

    on_virtual_time(test)


def test_a_slow_host_is_waited_for(tables: Tables) -> None:
    async def test() -> None:
        tables.late_s["h2"] = 1.5
        assert await World(world(), tables).took_s() == pytest.approx(1.5, abs=0.1)

    on_virtual_time(test)


def test_a_host_that_never_is_so_far_holds_nothing_up_for_ever_and_is_named(tables: Tables) -> None:
    async def test() -> None:
        tables.late_s["h2"] = 1e9
        with capture_logs() as logs:
            assert await World(world(), tables).took_s() == pytest.approx(DEADLINE_S, abs=0.1)
        assert [entry["hosts"] for entry in logs] == [["h2"]]

    on_virtual_time(test)


def test_a_host_that_cannot_be_asked_is_waited_for_until_its_lease_is_lost(tables: Tables) -> None:
    async def test() -> None:
        tables.away.add("h2")
        there = World(world(), tables)

        def lost() -> None:
            there.mirror.cluster = there.mirror.cluster.apply(10, [delete(r.key("alive", "h2"))])

        asyncio.get_running_loop().call_later(2.0, lost)
        with capture_logs() as logs:
            assert await there.took_s() == pytest.approx(2.0, abs=0.2)
        assert logs == []

    on_virtual_time(test)


def test_open_connections_have_a_moment(tables: Tables) -> None:
    async def test() -> None:
        there = World(world(), tables)
        there.insides.connections = 3
        assert await there.took_s() == pytest.approx(LINGER_S, abs=0.1)
        assert await there.took_s(r.Order(number=2, verb="kill")) == 0

    on_virtual_time(test)


def test_without_others_to_ask_nothing_is_waited_for() -> None:
    async def test() -> None:
        there = World(world(), None)
        there.insides.connections = 3
        assert await there.took_s() == 0

    on_virtual_time(test)


# -- what a host answers -----------------------------------------------------------------------------------------------


class Broken(FakeNetwork):
    """A kernel that takes no tables for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = True

    async def set_services(self, *args: object, **kwargs: object) -> None:
        if self.broken:
            raise DroverError("the kernel refused")
        await super().set_services(*args, **kwargs)  # type: ignore[arg-type]


class Names:
    async def serve(self, *_: object) -> None: ...

    async def stop(self, _: str) -> None: ...


def test_a_host_says_how_far_it_is_only_when_its_kernel_has_it() -> None:
    async def test() -> None:
        shared = MemoryCluster()
        store = shared.client()
        mirror = Mirror(store)
        await mirror.start()
        revision = await store.commit(host("h1"))
        await mirror.reached(revision, 1.0)
        network = Broken()
        keeper = NetworkKeeper("h1", mirror, network, Names(), dict)
        task = asyncio.create_task(keeper.run())
        answer = asyncio.create_task(keeper.reached(revision))
        await asyncio.sleep(5)
        assert not answer.done()
        network.broken = False
        await asyncio.wait_for(answer, 5)
        later = asyncio.create_task(keeper.reached(revision + 1))
        await asyncio.sleep(1)
        assert not later.done()
        await store.commit(member(1, "h1"))
        await asyncio.wait_for(later, 5)
        task.cancel()
        await mirror.stop()

    on_virtual_time(test)
