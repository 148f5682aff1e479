"""A lab as data: addresses, names, refusals, the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from drover.errors import Conflict, Invalid, NotFound
from drover.lab import engine, topology

BASE = Path("/var/tmp/labs")


def test_plan_gives_each_host_its_name_and_address() -> None:
    lab = topology.plan("demo", 3, base=BASE)
    assert [(host.name, host.address) for host in lab.hosts] == [
        ("h1", "198.18.0.1"),
        ("h2", "198.18.0.2"),
        ("h3", "198.18.0.3"),
    ]
    assert lab.gateway == "198.18.0.254"


def test_a_second_lab_takes_the_lowest_free_slot() -> None:
    lab = topology.plan("two", 1, base=BASE, used_slots={0, 2})
    assert lab.slot == 1
    assert lab.hosts[0].address == "198.18.1.1"


def test_no_slot_is_left_when_all_are_used() -> None:
    with pytest.raises(Conflict, match="subnets are taken"):
        topology.free_slot(range(topology.MAX_SLOTS))


def test_every_name_follows_from_the_record() -> None:
    lab = topology.plan("demo", 2, base=BASE)
    assert lab.netns("h2") == "dl-demo-h2"
    assert lab.switch == "dl-demo-sw"
    assert lab.host_cgroup("h2") == "/drover-lab/demo/h2"
    assert lab.host_directory("h2") == BASE / "demo" / "h2"
    assert lab.file == BASE / "demo" / "lab.json"


def test_names_of_two_labs_never_meet() -> None:
    labs = [topology.plan(name, 12, base=BASE) for name in ("a", "a-h1", "a-sw", "ab")]
    names = [name for lab in labs for name in (lab.switch, *(lab.netns(host.name) for host in lab.hosts))]
    assert len(names) == len(set(names))


def test_a_host_keeps_its_link_address() -> None:
    assert topology.mac("198.18.1.10") == "02:00:c6:12:01:0a"


def test_port_names_fit_the_kernel() -> None:
    lab = topology.plan("a" * 20, topology.MAX_HOSTS, base=BASE)
    assert max(len(host.name) for host in lab.hosts) <= 15


@pytest.mark.parametrize("name", ["", "Lab", "1lab", "a/b", "a b", "a" * 21, "lab\n", "../x", "ä"])
def test_names_that_could_not_be_part_of_a_path_are_refused(name: str) -> None:
    with pytest.raises(Invalid, match="cannot be a lab's name"):
        topology.plan(name, 1, base=BASE)


@pytest.mark.parametrize("hosts", [0, -1, topology.MAX_HOSTS + 1])
def test_counts_of_hosts_out_of_range_are_refused(hosts: int) -> None:
    with pytest.raises(Invalid, match="cannot have"):
        topology.plan("lab", hosts, base=BASE)


def test_a_base_too_deep_for_unix_sockets_is_refused() -> None:
    with pytest.raises(Invalid, match="too long") as caught:
        topology.plan("lab", 1, base=Path("/" + "d" * 90))
    assert "--dir" in caught.value.hint


def test_an_unknown_host_is_answered_with_the_known_ones() -> None:
    with pytest.raises(NotFound) as caught:
        topology.plan("lab", 2, base=BASE).host("h3")
    assert caught.value.hint == "its hosts are h1, h2"


@pytest.mark.parametrize("cluster", [True, False])
def test_the_file_reads_back_as_written(cluster: bool) -> None:
    lab = topology.plan("demo", 5, base=BASE, used_slots={0}, cluster=cluster)
    assert topology.decode(topology.encode(lab)) == lab


def test_hosts_take_the_engine_roots_in_turn() -> None:
    lab = topology.plan("lab", 3, base=Path("/b"), engine_roots=["", "/trixie"])
    assert [host.engine_root for host in lab.hosts] == ["", "/trixie", ""]
    assert topology.decode(topology.encode(lab)) == lab


def test_an_engine_of_another_system_is_entered_with_the_labs_directory() -> None:
    argv = engine.entered_argv("/trixie", Path("/b/lab"), ["dockerd", "--host", "x"])
    assert argv[0] == "unshare"
    assert argv[-5:] == ["/trixie", "/b/lab", "dockerd", "--host", "x"]
    assert engine.entered_argv("", Path("/b/lab"), ["dockerd"]) == ["dockerd"]


def test_a_system_without_an_engine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "with/usr/bin").mkdir(parents=True)
    (tmp_path / "with/usr/bin/dockerd").touch()
    asked = {engine.ROOTS_VARIABLE: f"-:{tmp_path}/with"}
    assert engine.roots_asked(asked) == ["", f"{tmp_path}/with"]
    assert engine.roots_asked({}) == []
    with pytest.raises(NotFound, match="no Docker Engine"):
        engine.roots_asked({engine.ROOTS_VARIABLE: f"{tmp_path}/none"})
