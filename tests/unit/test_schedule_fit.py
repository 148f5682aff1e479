"""Each filter's refusals, on three like hosts h1, h2, h3."""

from __future__ import annotations

import re
from typing import Any

import pytest
from cluster_factory import (
    GIB,
    LOST_TEXT,
    MIB,
    cid,
    composed,
    container,
    env,
    host,
    host_config,
    port_claim,
    publishing,
    three,
    volume,
    wanted,
    world,
)

from drover.decide.fit import FILTERS, architecture
from drover.decide.schedule import place
from drover.errors import NoPlacement
from drover.model import records as r
from drover.model.cluster import Change, put


def reasons(
    *parts: list[Change], body: dict[str, Any] | None = None, platform: str = "", **known: Any
) -> dict[str, str]:
    """Why each host that does not get the container does not: {} where all went to one host."""
    cluster = world(*parts)
    asked = wanted(cluster, body=body, platform=platform)
    try:
        chosen = place(cluster, asked, **known)
    except NoPlacement as nowhere:
        return nowhere.reasons
    return {name: why for name, why in chosen.reasons.items() if not why.startswith("fits")}


REFUSES: list[tuple[str, list[Change], str]] = [
    ("lost", host("h2", state="lost"), f"is down since {LOST_TEXT}"),
    ("lost, not noted", host("h2", state="noteless"), "is down"),
    ("never came", host("h2", state="new"), "has not joined completely: its daemon never reported"),
    ("no facts", host("h2", state="mute"), "has not reported its engine yet"),
    ("engine silent", host("h2", state="silent"), f"is up, but its engine does not answer since {LOST_TEXT}"),
    ("paused", host("h2", scheduling="pause"), "is paused: it takes no new containers"),
    ("draining", host("h2", scheduling="drain"), "is draining: it takes no new containers"),
]


@pytest.mark.parametrize(("_name", "h2", "says"), REFUSES)
def test_hosts_that_take_nothing(_name: str, h2: list[Change], says: str) -> None:
    assert reasons(host("h1"), h2) == {"h2": says}


CONSTRAINTS: list[tuple[str, str | None]] = [
    ("storage==ssd", "label storage is hdd, constraint asks ssd"),
    ("storage!=hdd", "label storage is hdd, constraint excludes hdd"),
    ("zone==a", "label zone is not set, constraint asks a"),
    ("zone!=a", None),
    ("storage==h*", None),
    ("storage==~ssd", None),
    ("host==h1", "is not the host asked for: constraint asks h1"),
    ("node==h2", None),
    ("node!=h2", "is ruled out: constraint excludes h2"),
    ("disk==nvme", None),
    ("storagedriver==overlay2", "storagedriver is btrfs, constraint asks overlay2"),
    ("KernelVersion==/^6/", None),
    ("operatingsystem==*Debian*", None),
    ("architecture==x86_64", None),
    ("engineversion==20.10.24", None),
]


@pytest.mark.parametrize(("constraint", "says"), CONSTRAINTS)
def test_constraints(constraint: str, says: str | None) -> None:
    facts = {
        "storage_driver": "btrfs",
        "kernel": "6.1.0",
        "engine_version": "20.10.24",
        "engine_labels": {"disk": "nvme"},
    }
    h2 = host("h2", labels={"storage": "hdd"}, facts=facts)
    assert reasons(h2, body=env(f"constraint:{constraint}")) == ({"h2": says} if says else {})


def test_a_hosts_own_label_hides_its_engines_label() -> None:
    h2 = host("h2", labels={"disk": "slow"}, facts={"engine_labels": {"disk": "fast"}})
    assert reasons(h2, body=env("constraint:disk==fast")) == {"h2": "label disk is slow, constraint asks fast"}


PLATFORMS: list[tuple[str, str | None]] = [
    ("linux", None),
    ("linux/amd64", None),
    ("linux/arm64/v8", "is amd64, platform linux/arm64/v8 asked"),
    ("arm64", "is amd64, platform arm64 asked"),
    ("x86_64", None),
    ("windows/amd64", "runs linux, platform windows/amd64 asked"),
]


@pytest.mark.parametrize(("platform", "says"), PLATFORMS)
def test_platforms(platform: str, says: str | None) -> None:
    assert reasons(host("h2"), platform=platform) == ({"h2": says} if says else {})


def test_an_unreported_architecture_is_not_assumed() -> None:
    told = reasons(host("h2", facts={"arch": ""}), platform="linux/amd64")
    assert told == {"h2": "is of unknown architecture, platform linux/amd64 asked"}


@pytest.mark.parametrize(("name", "docker"), [("aarch64", "arm64"), ("X86_64", "amd64"), ("riscv64", "riscv64")])
def test_architecture_in_dockers_words(name: str, docker: str) -> None:
    assert architecture(name) == docker


NEAR: list[tuple[dict[str, Any], str]] = [
    (host_config(NetworkMode="container:db"), "shares the network of db, which is on h2"),
    (host_config(PidMode="container:db"), "shares the process ids of db, which is on h2"),
    (host_config(IpcMode="container:db"), "shares the shared memory of db, which is on h2"),
    (host_config(VolumesFrom=["db:ro"]), "uses the volumes of db, which is on h2"),
    (host_config(Links=["db:database"]), "is linked to db, which is on h2"),
    (host_config(Binds=["data:/d"]), "volume data is on h2"),
]


@pytest.mark.parametrize(("body", "says"), NEAR)
def test_what_binds_to_a_host(body: dict[str, Any], says: str) -> None:
    hosts = [host("h1"), host("h2"), host("h3")]
    told = reasons(*hosts, container(1, "db", "h2"), volume("data", "h2"), body=body)
    assert told == {"h1": says, "h3": says}


def test_what_binds_to_no_host() -> None:
    body = host_config(
        Binds=["/src:/d", "fresh:/e", "unused:/f"], NetworkMode="container:nobody", PidMode="container:nobody"
    )
    assert reasons(host("h1"), host("h2"), volume("unused", ""), body=body) == {}


def test_a_container_near_one_that_is_not_placed() -> None:
    told = reasons(host("h1"), container(1, "db", None), body=host_config(NetworkMode="container:db"))
    assert told == {"h1": "shares the network of db, which is not placed on any host"}


def test_ports() -> None:
    on_h1 = container(1, "web", "h1", publishing("80"))
    hosts = [host("h1"), host("h2")]
    assert reasons(*hosts, on_h1, body=publishing("80")) == {"h1": "port 80/tcp is taken by web"}
    assert reasons(*hosts, on_h1, body=publishing("80", container_port="80/udp")) == {}
    assert reasons(*hosts, on_h1, body=publishing("", "0", "81")) == {}
    assert reasons(*hosts, on_h1, body=publishing("79-80")) == {}


def test_port_claims_on_one_host_and_on_all() -> None:
    parts = [
        host("h1"),
        host("h2"),
        container(1, "web", "h1"),
        port_claim("h1", "tcp", 80, 1),
        port_claim("*", "tcp", 90, 1),
    ]
    assert reasons(*parts, body=publishing("80")) == {"h1": "port 80/tcp is taken by web"}
    assert set(reasons(*parts, body=publishing("90"))) == {"h1", "h2"}
    assert reasons(*parts, port_claim("h1", "tcp", 81, 1), body=publishing("80-81")) == {
        "h1": "ports 80-81/tcp are all taken, the last by web"
    }


def test_a_claim_whose_holder_is_gone_counts() -> None:
    told = reasons(host("h1"), port_claim("h1", "tcp", 80, 7), body=publishing("80"))
    assert told == {"h1": f"port 80/tcp is taken by {cid(7)[:12]}"}


FINISHED = {"state": "exited", "answer": r.Answer(number=1)}


def test_a_finished_container_holds_nothing() -> None:
    body = {"HostConfig": {**publishing("80")["HostConfig"], "Memory": 8 * GIB, "NanoCpus": 4_000_000_000}}
    running = container(1, "web", "h1", body, state="running", answer=r.Answer(number=1))
    unanswered = container(1, "web", "h1", body, state="exited")
    assert (
        reasons(host("h1"), container(1, "web", "h1", body, **FINISHED), port_claim("h1", "tcp", 80, 1), body=body)
        == {}
    )
    assert reasons(host("h1"), running, body=body) == {"h1": "port 80/tcp is taken by web"}
    assert reasons(host("h1"), unanswered, body=body) == {"h1": "port 80/tcp is taken by web"}


def test_memory() -> None:
    h1 = host("h1", facts={"memory_bytes": 600 * MIB})
    reserved = container(1, "db", "h1", host_config(Memory=500 * MIB))
    assert reasons(h1, reserved, body=host_config(Memory=512 * MIB)) == {"h1": "512 MiB of memory asked, 100 MiB free"}
    assert reasons(h1, reserved, body=host_config(Memory=100 * MIB)) == {}


def test_an_overcommitted_host_has_nothing_free_and_still_takes_who_asks_nothing() -> None:
    h1 = host("h1", facts={"memory_bytes": 1 * MIB, "cpus": 1})
    reserved = container(1, "db", "h1", host_config(Memory=500 * MIB, NanoCpus=2_000_000_000))
    assert reasons(h1, reserved, body=host_config(Memory=1)) == {"h1": "1 B of memory asked, 0 B free"}
    assert reasons(h1, reserved) == {}


def test_cpu() -> None:
    h1 = host("h1", facts={"cpus": 2})
    reserved = container(1, "db", "h1", host_config(NanoCpus=1_500_000_000))
    assert reasons(h1, reserved, body=host_config(NanoCpus=1_000_000_000)) == {"h1": "1 CPU asked, 0.5 CPUs free"}
    assert reasons(h1, reserved, body=host_config(NanoCpus=500_000_000)) == {}


AFFINITIES: list[tuple[str, dict[str, str]]] = [
    ("container==db", {"h1": "does not have container db, affinity asks for it"}),
    (f"container=={cid(1)}", {"h1": f"does not have container {cid(1)}, affinity asks for it"}),
    ("container!=db", {"h2": "has container db, affinity excludes it"}),
    ("container!=d*", {"h2": "has container d*, affinity excludes it"}),
    ("container==nobody", dict.fromkeys(("h1", "h2"), "does not have container nobody, affinity asks for it")),
    ("container!=nobody", {}),
    ("container==~nobody", {}),
    ("image==redis", {"h1": "does not have image redis, affinity asks for it"}),
    ("image!=redis:latest", {"h2": "has image redis:latest, affinity excludes it"}),
    ("label.tier==data", {"h1": "does not have a container labelled tier=data, affinity asks for it"}),
    ("tier!=data", {"h2": "has a container labelled tier=data, affinity excludes it"}),
    ("tier!=/./", {"h2": "has a container labelled tier=/./, affinity excludes it"}),
]


@pytest.mark.parametrize(("affinity", "expected"), AFFINITIES)
def test_affinities(affinity: str, expected: dict[str, str]) -> None:
    db = container(1, "db", "h2", {"Image": "redis:latest", "Labels": {"tier": "data"}})
    assert reasons(host("h1"), host("h2"), db, body=env(f"affinity:{affinity}")) == expected


def test_affinity_to_its_own_image_means_hosts_that_have_it() -> None:
    body = {"Image": "nginx", **env("affinity:image==nginx")}
    told = reasons(host("h1"), host("h2"), body=body, image_hosts=frozenset({"h2"}))
    assert told == {"h1": "does not have image nginx, affinity asks for it"}


def test_the_first_refusal_is_the_reason() -> None:
    body = {**env("constraint:zone==a", "affinity:container==x"), **host_config(Memory=99 * GIB)}
    assert reasons(host("h1"), body=body) == {"h1": "label zone is not set, constraint asks a"}
    assert [name for name, _ in FILTERS] == [
        "member", "drain", "taint", "constraint", "platform", "near", "volume", "port", "device", "disk", "memory",
        "cpu", "affinity", "crowd",
    ]  # fmt: skip


def test_a_compose_replacement_counts_the_old_container_as_gone() -> None:
    body = composed("app", "web", 1, **publishing("80"))
    body["HostConfig"]["Memory"] = 6 * GIB
    cluster = three(container(1, "app_web_1", "h2", body), port_claim("*", "tcp", 80, 1))
    chosen = place(cluster, wanted(cluster, "tmp_app_web_1", body))
    assert chosen.host == "h2"
    assert chosen.why.startswith("h2 has the container that this one replaces")
    with pytest.raises(NoPlacement, match="port 80/tcp is taken by app_web_1"):
        place(cluster, wanted(cluster, "app_web_2", composed("app", "web", 2, **publishing("80"))))


def test_a_container_does_not_compete_with_itself() -> None:
    body = host_config(Memory=6 * GIB)
    cluster = world(host("h1"), container(1, "db", "h1", body))
    assert place(cluster, wanted(cluster, "db", body, number=1)).host == "h1"
    finished = world(host("h1"), container(1, "db", "h1", body, **FINISHED))
    assert place(finished, wanted(finished, "db", body, number=1)).host == "h1"


def test_affinity_never_means_the_container_itself() -> None:
    body = env("affinity:container!=w*")
    cluster = world(host("h1"), container(1, "web", "h1", body))
    assert place(cluster, wanted(cluster, "web", body, number=1)).host == "h1"


def test_placements_that_lead_nowhere_do_no_harm() -> None:
    ghost = put(r.key("placements", cid(9)), r.Placement(container=cid(9), host="h1"))
    cluster = world(host("h1"), container(1, "old", "removed"), [ghost])
    assert place(cluster, wanted(cluster)).why == "h1 is the only host that can take it"


TOLERANT = {"Labels": {"drover.tolerate": "gpu, spot=yes"}}


@pytest.mark.parametrize(
    ("fields", "body", "why"),
    [
        (
            {"taints": {"gpu": "a"}},
            {},
            "is tainted gpu=a, which the container does not tolerate (label drover.tolerate)",
        ),
        ({"taints": {"gpu": "a"}}, TOLERANT, None),
        ({"taints": {"spot": "yes"}}, TOLERANT, None),
        ({"taints": {"spot": "no"}}, TOLERANT, "is tainted spot=no"),
        ({"facts": {"devices": ()}}, host_config(Devices=[{"PathOnHost": "/dev/kvm"}]), "has no /dev/kvm"),
        ({"facts": {"devices": ("/dev/kvm",)}}, host_config(Devices=[{"PathOnHost": "/dev/kvm"}]), None),
        ({"facts": {"devices": ()}}, host_config(Devices=[{"PathOnHost": "/dev/zero"}]), None),
        ({}, host_config(Devices=[{"PathOnHost": "/dev/kvm"}]), None),
        (
            {"facts": {"disk_bytes": 9 * GIB, "disk_free_bytes": GIB}},
            {"Labels": {"drover.disk": "2G"}},
            "2 GiB of disk",
        ),
        ({"facts": {"disk_bytes": 9 * GIB, "disk_free_bytes": 3 * GIB}}, {"Labels": {"drover.disk": "2G"}}, None),
        ({}, {"Labels": {"drover.disk": "2G"}}, "has not reported its disk"),
        ({}, {"Labels": {"drover.disk": "much"}}, "cannot be judged"),
    ],
)
def test_machines_are_refused_for_taints_devices_and_disk(
    fields: dict[str, Any], body: dict[str, Any], why: str | None
) -> None:
    cluster = world(host("h1", **fields))
    if why is None:
        assert place(cluster, wanted(cluster, body=body)).host == "h1"
    else:
        with pytest.raises(NoPlacement, match=re.escape(why)):
            place(cluster, wanted(cluster, body=body))


def test_a_host_whose_disk_is_nearly_full_is_the_second_choice() -> None:
    cluster = world(host("h1", facts={"disk_low": "less than 5% is free"}), host("h2"), container(1, "other", "h2"))
    chosen = place(cluster, wanted(cluster))
    assert chosen.host == "h2"
    assert "nearly full" in chosen.reasons["h1"]
