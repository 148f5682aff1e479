"""A host among many: 1,000 services of 5 containers each, on one network, in a kernel of its own (a network namespace).

Theory of operation. The rows come from a process of their own (`unshare -n python -m bench.many ROUNDS`): a
`NetworkKeeper` with the real driver and name server, and a mirror whose picture is put there by hand. A third of the
5,000 containers are on this host; each service has a virtual address and a published port. Measured is `follow`: to
decide, to compare, and to write the kernel's tables and the names, until the kernel has answered.

Beside the time is the processor time of this process and of those that it ran (nft, conntrack): what the time would
be on a machine with nothing else to do.

    row               from                              to
    full              nothing in the kernel             everything
    one backend       a container runs, or has ended    names, virtual address, port; connections forgotten
    one address       a container is placed elsewhere   its entries; the backends here; names stay
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bench.bed import Bed
from bench.frame import Budget, Row, alone
from drover.agent.networks import NetworkKeeper
from drover.daemon.deputy_link import DeputyLink
from drover.drivers.network.dns import DNS_PORT, Responder
from drover.drivers.network.linux import LinuxNetwork
from drover.model import records as r
from drover.model.cluster import Change, Cluster, put
from drover.store.memory import MemoryCluster
from drover.store.mirror import Mirror

SERVICES, EACH, HOSTS = 1000, 5, 3
FULL, ONE = Budget(5000.0), Budget(50.0)
NETWORK = "f" * 64
_UNDERLAY = (
    "ip link set lo up",
    "ip link add under0 type veth peer name under1",
    "ip addr add 10.94.0.1/24 dev under0",
    "ip link set under0 up",
    "ip link set under1 up",
)


class Figures(msgspec.Struct):
    """Milliseconds, each with those of processor time."""

    full: list[tuple[float, float]]
    backend: list[tuple[float, float]]
    address: list[tuple[float, float]]


def rows(bed: Bed) -> Iterator[Row]:
    rounds = max(5, bed.effort.run_rounds)
    argv = ["unshare", "--net", sys.executable, "-m", "bench.many", str(rounds)]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found = msgspec.json.decode(told, type=Figures)
    size = f"{SERVICES} services x {EACH}"
    yield from _two(f"a host programmed from nothing, {size}", found.full, FULL)
    yield from _two(f"one backend ends or comes, {size}", found.backend, ONE)
    yield from _two(f"one address moves, {size}", found.address, ONE)


def _two(what: str, figures: list[tuple[float, float]], budget: Budget) -> Iterator[Row]:
    yield alone(what, "ms", [taken for taken, _ in figures], budget)
    yield alone(f"{what}: processor time", "ms", [spent for _, spent in figures])


# -- the records -------------------------------------------------------------------------------------------------------


def picture() -> Cluster:
    changes = [change for number in range(1, HOSTS + 1) for change in _host(number)]
    net = r.Network(id=NETWORK, name="app", body="{}", subnet="10.44.0.0/16", gateway="10.44.0.1", vni=4096)
    changes.append(put(r.key("networks", NETWORK), net))
    for service, number in itertools.product(range(SERVICES), range(EACH)):
        changes += _container(service, number)
    return Cluster().apply(1, [*changes, *(change for service in range(SERVICES) for change in _service(service))])


def _host(number: int) -> list[Change]:
    name = f"h{number}"
    host = r.Host(name=name, id=name, index=number, address=f"10.94.0.{number}")
    return [put(r.key("hosts", name), host), put(r.key("alive", name), r.Alive(host=name, session="s"))]


def _id(service: int, number: int) -> str:
    return f"{service * EACH + number:064x}"[::-1]


def _container(service: int, number: int) -> list[Change]:
    one, place = _id(service, number), service * EACH + number
    host, ip, name = f"h{place % HOSTS + 1}", f"10.44.{1 + (place >> 8)}.{place & 255}", f"web{service}-{number}"
    body = {
        "Image": "busybox",
        "Labels": {"drover.service": f"web{service}"},
        "HostConfig": {"NetworkMode": "app", "PortBindings": {"80/tcp": [{"HostPort": str(10_000 + service)}]}},
        "NetworkingConfig": {"EndpointsConfig": {"app": {"Aliases": [f"web{service}"]}}},
    }
    facts = r.ContainerFacts(container=one, host=host, state="running", answer=r.Answer(number=1, status=204))
    return [
        put(r.key("containers", one), r.Container(id=one, name=name, body=json.dumps(body), desired="running")),
        put(r.key("names", name), r.Name(id=one)),
        put(r.key("placements", one), r.Placement(container=one, host=host)),
        put(r.key("addresses", NETWORK, ip), r.Address(network=NETWORK, ip=ip, container=one)),
        put(r.key("container_facts", host, one), facts),
    ]


def _service(service: int) -> list[Change]:
    name, port, ip = f"/web{service}", 10_000 + service, f"10.127.{service >> 8}.{service & 255}"
    holder = _id(service, 0)
    claim = r.Port(host="*", protocol="tcp", port=port, container=holder, container_port=80, service=name)
    virtual = r.ServiceAddress(ip=ip, network=NETWORK, service=name)
    return [put(r.key("ports", "*", "tcp", str(port)), claim), put(r.key("service_addresses", ip), virtual)]


def _ended_or_back(cluster: Cluster, round_number: int) -> Change:
    one = _id(17, 1)
    facts = cluster.facts_of(one) or r.ContainerFacts(container=one, host="h1")
    state = "running" if round_number % 2 else "exited"
    return put(r.key("container_facts", facts.host, one), msgspec.structs.replace(facts, state=state))


def _placed_elsewhere(cluster: Cluster, round_number: int) -> Change:
    one = _id(23, 2)
    host = f"h{(round_number + 1) % HOSTS + 1}"
    epoch = cluster.placements[one].epoch + 1
    return put(r.key("placements", one), r.Placement(container=one, host=host, epoch=epoch))


# -- in a namespace of its own -----------------------------------------------------------------------------------------


async def measure(rounds: int) -> Figures:
    mirror = Mirror(MemoryCluster().client())
    mirror.cluster = picture()
    driver, responder = LinuxNetwork(), Responder(upstreams=list)
    link = DeputyLink(Path(tempfile.gettempdir()), responder, DNS_PORT)
    keeper = NetworkKeeper("h1", mirror, driver, link, lambda: {NETWORK: "engine"})

    async def taken() -> tuple[float, float]:
        begun, spent = time.perf_counter(), _processor_s()
        await keeper.follow(verify=False)
        return (time.perf_counter() - begun) * 1000, (_processor_s() - spent) * 1000

    async def changed(change: Callable[[Cluster, int], Change], number: int) -> tuple[float, float]:
        mirror.cluster = mirror.cluster.apply(mirror.cluster.revision + 1, [change(mirror.cluster, number)])
        return await taken()

    full = [await taken()]
    gc.collect()
    gc.freeze()
    backend = [await changed(_ended_or_back, number) for number in range(rounds)]
    address = [await changed(_placed_elsewhere, number) for number in range(rounds)]
    await responder.close()
    await driver.close()
    return Figures(full, backend, address)


def _processor_s() -> float:
    """The processor time of this process and of those it ran, so far."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    for line in _UNDERLAY:
        subprocess.run(line.split(), check=True)
    print(msgspec.json.encode(asyncio.run(measure(int(sys.argv[1])))).decode())
