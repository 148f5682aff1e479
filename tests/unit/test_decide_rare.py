"""What decisions say where a record that others lead to is gone, or something is asked at an odd moment."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from cluster_factory import (
    MIB,
    address,
    cid,
    container,
    host,
    host_config,
    network,
    three,
    volume,
    wanted,
    without,
    world,
)

from drover.decide import claims, doctor, fills, moves, overlay, ports, rebalance, replicas, volume_health
from drover.decide import steps as s
from drover.decide.app_actions import Action
from drover.decide.attached import networks_used
from drover.decide.backups import backup_due
from drover.decide.converge import Seen, SeenHere, converge
from drover.decide.fence import holds_claims
from drover.decide.fit import fact, question, refusal
from drover.decide.fit_machine import low, rounded_free, too_small
from drover.decide.happenings import happenings
from drover.decide.removal import container_removal
from drover.decide.services import backends
from drover.decide.views import HostViews
from drover.errors import Conflict, DroverError, NotFound, Unavailable
from drover.model import records as r
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.spec import parse_spec

NET = "b" * 64
NOW = 1_700_000_100.0
FIRST, LAST = "0000000001-001700000000000", "0000000001-001700000050000"


def placed(number: int, on: str) -> Change:
    return put(r.key("placements", cid(number)), r.Placement(container=cid(number), host=on))


def held(name: str, on: str, **fields: Any) -> Change:
    return put(r.key("volumes", name), r.Volume(**{"name": name, "body": "{}", "host": on, **fields}))


def facts_of(name: str, on: str, **fields: Any) -> Change:
    return put(r.key("volume_facts", on, name), r.VolumeFacts(volume=name, host=on, **fields))


# -- converge ----------------------------------------------------------------------------------------------------------


def test_a_placement_without_its_container_asks_for_nothing() -> None:
    assert converge(three([placed(1, "h1")]), "h1", Seen(containers={}), NOW).steps == ()


def test_a_refused_create_is_kept_for_who_asked_and_then_forgotten() -> None:
    answer = r.Answer(number=1, status=409, message="no")
    made = container(1, "web", "h1", answer=answer, at=NOW)
    record = r.Container(id=cid(1), name="web", body="{}", order=r.Order(number=1, verb="create"))
    cluster = three(made, [put(r.key("containers", cid(1)), record)])
    early = converge(cluster, "h1", Seen(containers={}), NOW + 1)
    assert early.steps == ()
    assert [wait.sentence for wait in early.waits] == ["the engine refused to create it"]
    assert converge(cluster, "h1", Seen(containers={}), NOW + 61).steps == (s.Forget(cid(1)),)


@pytest.mark.parametrize("kind", ["rollback", "import"])
def test_a_volume_that_is_being_filled_is_filled_first(kind: Any) -> None:
    fill = r.Fill(kind=kind, snapshot=FIRST)
    body = host_config(Binds=["data:/data"])
    cluster = three(container(1, "db", "h1", body), [held("data", "h1", filling=fill)])
    plan = converge(cluster, "h1", Seen(containers={}), NOW)
    assert s.FillVolume("data") in plan.steps
    assert not any(isinstance(step, s.CreateContainer) for step in plan.steps)
    alone = without(cluster, r.key("containers", cid(1)), r.key("placements", cid(1)))
    assert (s.FillVolume("data") in converge(alone, "h1", Seen(containers={}), NOW).steps) == (kind != "import")


def test_a_container_waits_for_a_volume_that_is_elsewhere() -> None:
    cluster = three(container(1, "db", "h1", host_config(Binds=["data:/data"])), volume("data", "h2"))
    plan = converge(cluster, "h1", Seen(containers={}), NOW)
    assert plan.steps == ()
    assert [wait.sentence for wait in plan.waits] == ["volume data is on h2: it has to come here first"]


def test_a_live_volume_is_limited_to_its_size() -> None:
    cluster = three([held("data", "h1", size_bytes=MIB)])
    seen = Seen(containers={}, volumes={"data": 1}, live={"data": 1})
    assert converge(cluster, "h1", seen, NOW).steps == (s.LimitVolume("data"),)
    limited = msgspec.structs.replace(seen, limits={"data": MIB})
    assert converge(cluster, "h1", limited, NOW).steps == ()


def test_steps_and_actions_say_what_they_are_about() -> None:
    assert s.Step().object == ""
    with pytest.raises(TypeError, match="an action has an object"):
        _ = Action().object


def test_a_container_here_without_a_record_holds_no_network() -> None:
    cluster = three(network(NET, "app"), [placed(7, "h1")])
    assert NET not in networks_used(cluster, "h1")
    seen = Seen(containers={cid(7): SeenHere("e7", "running")}, networks={NET: "n1"})
    assert s.RemoveNetwork(NET, "n1") in converge(cluster, "h1", seen, NOW).steps


# -- claims ------------------------------------------------------------------------------------------------------------


def test_who_shares_the_volumes_of_a_claim_holder_is_one() -> None:
    shares = host_config(VolumesFrom=["db:ro", "nobody"])
    cluster = three(
        container(1, "db", "h1", host_config(Binds=["data:/data"])),
        container(2, "log", "h1", shares),
        volume("data", "h1"),
    )
    assert holds_claims(cluster, cluster.containers[cid(2)])
    assert not holds_claims(without(cluster, r.key("volumes", "data")), cluster.containers[cid(2)])
    alone = three(container(2, "log", "h1", host_config(VolumesFrom=["nobody"])))
    assert not holds_claims(alone, alone.containers[cid(2)])


def test_many_claims_are_grouped_once() -> None:
    many = [address(NET, f"10.0.{n // 250}.{n % 250 + 1}", n) for n in range(100)]
    cluster = three(*many)
    first = claims.claims_by_network(cluster)
    assert len(first[NET]) == 100
    assert claims.claims_by_network(cluster.apply(2, host("h4"))) is first
    assert len(claims.claims_by_network(cluster.apply(3, address(NET, "10.9.9.9", 1)))[NET]) == 101


def test_the_doctor_names_each_claim_that_leads_nowhere() -> None:
    virtual = r.ServiceAddress(ip="10.96.0.1", service="shop/web", network="c" * 64)
    published = r.Port(host="*", protocol="tcp", port=80, container=cid(1), container_port=8080)
    good = r.ServiceAddress(ip="10.96.0.2", service="shop/db", network=NET)
    kept = [
        put(r.key("kept_addresses", NET, ip), r.KeptAddress(network=NET, ip=ip, name="db"))
        for ip in ("10.44.0.2", "10.44.0.9")
    ]
    cluster = three(
        network(NET, "app"),
        container(1, "web", "h1"),
        container(2, "db", "h1"),
        address("d" * 64, "10.1.1.1", 2),
        address(NET, "10.44.0.2", 2),
        address(NET, "10.44.0.3", 2),
        kept,
        [put(r.key("ports", "*", "tcp", "80"), published)],
        [put(r.key("service_addresses", one.ip), one) for one in (virtual, good)],
    )
    assert doctor.record_doubts(cluster) == [
        "address 10.1.1.1 is claimed on network dddddddddddd, which is gone",
        "db claims 2 addresses on network bbbbbbbbbbbb",
        "address 10.44.0.2 is kept for the name db, and db claims it",
        "port 80/tcp leads to web, which has no address",
        "service address 10.96.0.1 of shop/web is for network cccccccccccc, which is gone",
    ]


def test_ports_pass_only_to_who_shares_them() -> None:
    own = r.Port(host="h1", protocol="tcp", port=80, container=cid(1))
    other_port = r.Port(host="h1", protocol="tcp", port=81, container=cid(2))
    cluster = three(
        container(1, "web", "h1"),
        [put(r.key("ports", "h1", "tcp", "80"), own), put(r.key("ports", "h1", "tcp", "81"), other_port)],
    )
    assert ports.published(cluster, cluster.containers[cid(1)]) == []
    assert ports.heir(cluster, own) is None
    draft = ports.released(cluster, cid(1))
    assert draft.changes == (delete(r.key("ports", "h1", "tcp", "80")),)
    assert draft.expect == {r.key("ports", "h1", "tcp", "80"): cluster.version(r.key("ports", "h1", "tcp", "80"))}
    labels = {"com.docker.compose.project": "p", "com.docker.compose.service": "web"}
    bindings = {"90/tcp": [{"HostPort": "90"}]}
    shared = r.Port(host="*", protocol="tcp", port=80, container=cid(1), service="p/web", container_port=80)
    without_it = three(container(1, "a", "h1", {"Labels": labels}), container(2, "b", "h1", {"Labels": labels}))
    with_other = three(
        container(1, "a", "h1", {"Labels": labels}),
        container(2, "b", "h1", {"Labels": labels, **host_config(PortBindings=bindings)}),
    )
    assert ports.heir(without_it, shared) is None
    assert ports.heir(with_other, shared) is None


def test_a_container_without_name_or_place_is_removed_all_the_same() -> None:
    cluster = three(container(1, "web", None), [put(r.key("names", "web"), r.Name(id=cid(2)))])
    changes, expect = container_removal(cluster, cid(1), NOW)
    assert changes == [delete(r.key("containers", cid(1)))]
    assert expect == {r.key("containers", cid(1)): 1}
    gone, _ = container_removal(cluster, cid(9), NOW)
    assert gone == [delete(r.key("containers", cid(9)))]


# -- moves and volumes -------------------------------------------------------------------------------------------------


def moving(phase: r.Phase, **fields: Any) -> r.Move:
    known = {"container": cid(1), "source": "h1", "target": "h2", "volumes": ("data",)}
    return r.Move(phase=phase, **{**known, **fields})


def test_a_move_whose_ground_is_gone_is_given_up() -> None:
    there = [container(1, "db", "h3"), [held("data", "h1")]]
    elsewhere = three(*there, [put(r.key("moves", cid(1)), moving("copying"))])
    step = moves.next_step(elsewhere, "h1", cid(1), elsewhere.moves[cid(1)])
    assert isinstance(step, s.AbortMove)
    assert step.why == "the container is not on h1 any more"
    record = moving("handed")
    assert moves.is_over(three(), "h2", cid(1), record, "")
    assert moves.is_over(elsewhere, "h2", cid(1), record, "running")
    assert not moves.is_over(elsewhere, "h1", cid(1), record, "running")


def test_a_hand_over_without_a_placement_passes_the_volumes() -> None:
    record = moving("stopped", container="", final={"data": LAST})
    key = moves.volume_key("data")
    cluster = three([held("data", "h1"), put(r.key("moves", key), record)])
    handed = moves.hand_over(cluster, key, NOW)
    assert handed is not None
    assert {change.key for change in handed.changes} == {r.key("moves", key), r.key("volumes", "data")}


def test_a_hand_over_leaves_the_ports_of_others() -> None:
    mine = r.Port(host="h1", protocol="tcp", port=80, container=cid(1))
    others = r.Port(host="h1", protocol="tcp", port=81, container=cid(2))
    cluster = three(
        container(1, "db", "h1"),
        [held("data", "h1"), put(r.key("moves", cid(1)), moving("stopped"))],
        [put(r.key("ports", "h1", "tcp", "80"), mine), put(r.key("ports", "h1", "tcp", "81"), others)],
    )
    handed = moves.hand_over(cluster, cid(1), NOW)
    assert handed is not None
    keys = [change.key for change in handed.changes if change.record is None]
    assert keys == [r.key("ports", "h1", "tcp", "80")]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"host": "h3"}, "volume data is on h3, not on h1"),
        ({"filling": r.Fill(kind="restore")}, "volume data is not ready: its restore is not done"),
    ],
)
def test_a_move_says_why_it_cannot_begin(fields: dict[str, Any], says: str) -> None:
    body = host_config(Binds=["data:/data"])
    cluster = three(
        container(1, "db", "h1", body), [held("data", **{"on": "h1", **fields} | {"on": fields.get("host", "h1")})]
    )
    with pytest.raises(Conflict) as refused:
        moves.begin_container(cluster, cluster.containers[cid(1)], moves.Asked(target="h2"), NOW)
    assert refused.value.message == says


def test_what_is_nowhere_or_on_its_way_is_not_moved() -> None:
    nowhere = three(container(1, "db", None))
    with pytest.raises(Unavailable, match="container db is not placed on any host"):
        moves.begin_container(nowhere, nowhere.containers[cid(1)], moves.Asked(target="h2"), NOW)
    moving_now = three(container(1, "db", "h1"), [put(r.key("moves", cid(1)), moving("copying", volumes=()))])
    with pytest.raises(Conflict, match="it is being moved from h1 to h2 already"):
        moves.begin_container(moving_now, moving_now.containers[cid(1)], moves.Asked(target="h3"), NOW)


def test_a_volume_is_not_made_anew_at_an_odd_moment() -> None:
    fill = r.Fill(kind="rollback", snapshot=FIRST)
    cluster = three([held("data", "h1"), held("new", "")])
    assert fills.filled(cluster, "data", fill) is None
    assert fills.filled(cluster, "gone", fill) is None
    with pytest.raises(Conflict, match="volume new has never been used: it has no data yet"):
        fills.existing(cluster, "new")
    with pytest.raises(NotFound):
        fills.existing(cluster, "gone")
    there = facts_of("data", "h1", driver="fake", snapshots=(FIRST,))
    key = moves.volume_key("data")
    going = cluster.apply(2, [there, put(r.key("moves", key), moving("copying", container=""))])
    with pytest.raises(Conflict, match="volume data is being moved"):
        fills.rollback(going, "data", FIRST, NOW)
    seen_everywhere = cluster.apply(2, [there, *host("h1", facts={"synchronous_drivers": ("fake",)})])
    with pytest.raises(Conflict, match="its driver fake could not keep what it holds now"):
        fills.rollback(seen_everywhere, "data", FIRST, NOW)


def test_no_copies_are_kept_of_what_every_host_sees() -> None:
    cluster = three([held("data", "h1", driver="shared"), held("odd", "h1", body='{"DriverOpts":{"type":"nfs"}}')])
    assert replicas.keepers(cluster, cluster.volumes["data"]) == []
    said = replicas.successor(cluster, cluster.volumes["odd"])
    assert said == "volume odd is made of the engine's own options: Drover cannot tell what another host sees"
    assert volume_health.volume_doubts(cluster, cluster.volumes["data"], NOW) == []
    assert volume_health.volume_doubts(cluster, cluster.volumes["odd"], NOW) == []


def test_a_volume_says_what_its_host_said_of_it() -> None:
    plan = r.Backup(repository="/backups", every_s=3600.0)
    fields = {"driver": "fake", "created_at": NOW - 10, "backup": plan}
    trouble = facts_of("data", "h1", driver="fake", message="input/output error")
    cluster = world(
        *[host(name, facts={"volume_drivers": ("fake",)}) for name in ("h1", "h2")],
        [held("data", "h1", **fields), trouble],
        [put(r.key("volume_space", "h9", "fake"), r.VolumeSpace(host="h9", driver="fake", message="gone"))],
    )
    young = volume_health.volume_doubts(cluster, cluster.volumes["data"], NOW)
    assert young == ["input/output error"]
    old = volume_health.volume_doubts(cluster, cluster.volumes["data"], NOW + 120)
    assert old == ["input/output error", "has no copy on h2 yet"]
    assert volume_health.pool_doubts(cluster) == {"h1": [], "h2": []}
    assert backup_due(cluster, msgspec.structs.replace(cluster.volumes["data"], backup=None)) is None


# -- hosts -------------------------------------------------------------------------------------------------------------


def test_a_disk_is_judged_by_what_was_reported() -> None:
    spec = parse_spec('{"Labels": {"drover.disk": "10m"}}')
    views = HostViews.of(three())
    silent = HostViews.of(world(host("h1", state="mute"))).hosts["h1"]
    assert too_small(silent, spec) is None
    assert too_small(views.hosts["h1"], spec) == "has not reported its disk, 10 MiB asked"
    assert rounded_free(1000 * MIB, 333 * MIB + 7) <= 333 * MIB
    assert rounded_free(0, 5) == 5
    assert low(100 * MIB, 1, "/var/lib/docker").endswith("of 100 MiB is free at /var/lib/docker")
    assert low(0, 0, "/") == low(100 * MIB, 100 * MIB, "/") == ""


def test_every_host_runs_linux_and_an_empty_limit_is_none() -> None:
    views = HostViews.of(three())
    assert fact(views.hosts["h1"], "os") == "linux"
    without_limit = wanted(three(), body={"Labels": {"drover.max_per_host": ""}})
    asked = question(three(), views, without_limit, frozenset())
    assert [refusal(view, asked) for view in views.hosts.values()] == [None, None, None]


def test_only_what_takes_room_is_moved_to_balance() -> None:
    ended = container(1, "job", "h1", state="exited", answer=r.Answer(number=9))
    record = r.Container(id=cid(1), name="job", body="{}", desired="running")
    cluster = three(ended, [put(r.key("containers", cid(1)), record)])
    assert rebalance._by_host(cluster) == {}


def test_the_hosts_own_address_is_kept_out_only_where_it_has_one() -> None:
    record = r.Network(id=NET, name="app", body="{}", subnet="10.44.0.0/16", gateway="10.44.0.1", vni=4096)
    this = r.Host(name="h1", id="i", index=1, address="10.0.0.1")
    real = overlay.real_network(record, this, [this], (), mtu_bytes=1450)
    bare = msgspec.structs.replace(real, host_ip="")
    assert overlay._ipam_config({}, bare) == {"Subnet": "10.44.0.0/16", "Gateway": "10.44.0.1"}


# -- events ------------------------------------------------------------------------------------------------------------


def told(cluster: Cluster, *changes: Change) -> list[str]:
    after = cluster.apply(cluster.revision + 1, changes)
    return [event.says for event in happenings(cluster, after, changes, NOW).values()]


def test_what_is_no_news_is_no_event() -> None:
    lost = r.HostLost(host="h1", at=NOW)
    move = moving("copying")
    cluster = three(
        container(1, "db", "h1"),
        [put(r.key("lost", "h1"), lost), held("data", "h1"), put(r.key("moves", cid(1)), move)],
        [put(r.key("members", "h1"), r.Member(host="h1", peer_url="p", client_url="c", state="voter"))],
    )
    renamed = msgspec.structs.replace(cluster.hosts["h1"], labels={"zone": "a"})
    assert told(cluster, put(r.key("hosts", "h1"), renamed)) == []
    assert told(cluster, put(r.key("lost", "h1"), r.HostLost(host="h1", at=NOW + 1))) == []
    assert told(cluster, put(r.key("host_facts", "h9"), r.HostFacts(host="h9"))) == []
    assert told(cluster, placed(1, "h1")) == []
    assert told(cluster, delete(r.key("members", "h1"))) == ["host h1 runs no member of the store any more"]
    assert told(cluster, delete(r.key("container_facts", "h1", cid(1)))) == []
    assert told(cluster, put(r.key("moves", cid(1)), moving("stopping"))) == []
    assert told(cluster, held("data", "h1", note="as it was")) == []
    assert (
        told(cluster, put(r.key("members", "h1"), r.Member(host="h1", peer_url="p", client_url="c", state="voter")))
        == []
    )


def test_health_is_told_when_it_turns() -> None:
    cluster = three(container(1, "web", "h1", state="running", health="unhealthy"))
    key = r.key("container_facts", "h1", cid(1))
    before = cluster.container_facts[f"h1/{cid(1)}"]
    restarted = msgspec.structs.replace(before, unhealthy_restarts=1)
    healthy = msgspec.structs.replace(before, health="healthy")
    clean = msgspec.structs.replace(before, state="exited", exit_code=0)
    assert told(cluster, put(key, restarted)) == ["web on h1 was restarted: its health check fails"]
    assert told(cluster, put(key, healthy)) == ["web on h1 is healthy again"]
    assert told(cluster, put(key, clean)) == []


def test_a_service_leaves_out_who_is_going() -> None:
    labels = {"com.docker.compose.project": "p", "com.docker.compose.service": "web"}
    going = r.Container(id=cid(1), name="web", body="{}", desired="removed")
    cluster = three(
        container(1, "web", "h1", {"Labels": labels}, state="running"), [put(r.key("containers", cid(1)), going)]
    )
    claim = r.Address(network=NET, ip="10.44.0.2", container=cid(1))
    assert backends(cluster, [claim]) == []
    stays = cluster.apply(9, container(1, "web", "h1", {"Labels": labels}, state="running"))
    assert backends(stays, [claim]) == [claim]
    with pytest.raises(DroverError):
        moves.begin_volume(cluster, "gone", moves.Asked(target="h2"), NOW)
