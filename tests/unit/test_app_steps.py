"""What the leader does about an application: first containers, dependencies, scale, what is no more, jobs, removal."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from app_world import LeaderDied, World, web
from cluster_factory import container, host

from drover.decide.app_changes import remove_draft, scale_draft, start_draft
from drover.decide.app_plan import plan
from drover.decide.app_steps import files_of, steps
from drover.decide.app_view import apps_view, named_app
from drover.decide.apps import instances, verdict
from drover.decide.recover import relocations
from drover.decide.why import explain
from drover.errors import Conflict, Invalid, NotFound
from drover.manifest.app import read_app
from drover.model import records as r
from drover.model.apps import Trouble
from drover.model.cluster import Cluster, delete, put


def after(condition: str, image: str = "good") -> dict[str, Any]:
    return web(image, 1) | {"depends_on": {"db": {"condition": condition}}}


@pytest.mark.parametrize(
    ("condition", "db", "begins"),
    [
        ("service_started", "good", True),
        ("service_started", "sick", True),
        ("service_healthy", "checked", True),
        ("service_healthy", "sick", False),
        ("service_healthy", "good", False),
        ("service_completed_successfully", "task", True),
        ("service_completed_successfully", "broken", False),
        ("service_completed_successfully", "good", False),
    ],
)
def test_a_service_waits_for_what_it_depends_on(condition: str, db: str, begins: bool) -> None:
    world = World()
    world.deploy({"db": web(db, 1), "web": after(condition)})
    for _ in range(5):
        world.look()
        world.pass_time()
    assert ("shop-web-1" in world.names()) == begins
    if not begins:
        assert any(text.startswith("shop-web-1 waits for db") for text in world.view()["missing"])


def test_what_ran_before_waits_for_nothing() -> None:
    world = World()
    world.deploy({"db": web("checked", 1), "web": after("service_healthy")})
    world.run()
    world.remove(world.cluster.names["shop-db-1"].id)
    world.deploy({"db": web("sick", 1), "web": after("service_healthy", "checked")})
    for _ in range(20):
        world.look()
        world.pass_time()
    assert "checked" in world.images()


def test_a_dependency_that_may_be_missing_holds_up_nothing() -> None:
    world = World()
    world.deploy({"web": web(replicas=1) | {"depends_on": {"db": {"condition": "service_healthy", "required": False}}}})
    world.run()
    assert world.names() == ["shop-web-1"]


def test_a_container_removed_by_hand_comes_back() -> None:
    world = World()
    world.deploy({"web": web()})
    world.run()
    world.remove(world.cluster.names["shop-web-2"].id)
    world.run()
    assert world.names() == ["shop-web-1", "shop-web-2", "shop-web-3"]


def test_a_container_stopped_by_hand_is_left_alone_and_named() -> None:
    world = World()
    world.deploy({"web": web(replicas=1)})
    world.run()
    identity = world.cluster.names["shop-web-1"].id
    record = world.cluster.containers[identity]
    world.write(put(r.key("containers", identity), msgspec.structs.replace(record, desired="stopped")))
    world.facts(identity, state="exited", exit_code=137)
    assert not world.look()
    assert "was stopped" in world.view()["failures"][0]


def test_scale_up_and_down_keeps_the_lowest() -> None:
    world = World()
    world.deploy({"web": web()})
    world.run()
    for number in (5, 2):
        world.write(*scale_draft(world.cluster, "shop", "web", number).changes)
        world.run()
        assert world.names() == [f"shop-web-{n}" for n in range(1, number + 1)]
    assert scale_draft(world.cluster, "shop", "web", 2).changes == ()


@pytest.mark.parametrize(
    ("service", "number", "error", "says"),
    [
        ("wob", 1, NotFound, "has no service wob"),
        ("web", -1, Invalid, "no number of containers"),
        ("one", 2, Invalid, "there can be only one"),
        ("all", 2, Invalid, "is global"),
    ],
)
def test_what_cannot_be_scaled(service: str, number: int, error: type[Exception], says: str) -> None:
    world = World()
    world.deploy(
        {"web": web(), "one": web(replicas=1) | {"container_name": "solo"}, "all": web(mode="global", replicas=None)}
    )
    with pytest.raises(error, match=says):
        scale_draft(world.cluster, "shop", service, number)


def test_services_that_are_no_more_go_and_volumes_stay() -> None:
    world = World()
    world.deploy({"web": web(), "old": web(replicas=1)}, volumes={"data": {}})
    world.run()
    world.deploy({"web": web()}, volumes={"data": {}})
    world.run()
    assert world.names() == ["shop-web-1", "shop-web-2", "shop-web-3"]
    assert "shop_data" in world.cluster.volumes


@pytest.mark.parametrize("volumes", [True, False])
def test_removing_takes_all_but_volumes(volumes: bool) -> None:
    world = World()
    configs = {"c": {"content": "eA=="}}
    world.deploy({"web": web() | {"configs": [{"source": "c"}]}}, volumes={"data": {}}, configs=configs)
    world.run()
    world.write(*remove_draft(world.cluster, "shop", volumes).changes)
    assert world.view()["state"] == "removing"
    with pytest.raises(Conflict, match="is being removed"):
        world.deploy({"web": web()})
    while "shop" in world.cluster.apps:
        assert world.look()
    assert not world.cluster.containers
    assert not world.cluster.files
    assert not world.cluster.network_names
    assert ("shop_data" in world.cluster.volumes) == (not volumes)


def test_a_global_service_has_one_container_on_each_host_that_its_constraints_allow() -> None:
    world = World()
    placement = {"constraints": ["node.hostname!=h2"]}
    world.deploy({"agent": web(mode="global", replicas=None, placement=placement)})
    world.run()
    assert world.names() == ["shop-agent-h1", "shop-agent-h3"]
    world.write(*host("h4"))
    world.run()
    assert world.names() == ["shop-agent-h1", "shop-agent-h3", "shop-agent-h4"]


def test_a_host_that_is_down_keeps_its_global_container() -> None:
    world = World()
    world.deploy({"agent": web(mode="global", replicas=None)})
    world.run()
    world.write(delete(r.key("alive", "h2")))
    assert not world.look()
    assert "shop-agent-h2" in world.names()
    assert any("cannot be asked: host h2" in text for text in world.view()["missing"])


def test_a_job_runs_to_its_end_once_and_keeps_its_exit_code() -> None:
    world = World()
    world.deploy({"migrate": web("task", 2, mode="replicated-job")})
    world.run()
    assert world.view()["state"] == "converged"
    assert [one["exit_code"] for one in world.service("migrate")["containers"]] == [0, 0]
    assert not world.look()
    world.deploy({"migrate": web("broken", 2, mode="replicated-job")})
    world.run()
    assert world.view()["failures"] == [
        f"shop-migrate-{n} ended on h{host} with exit code 1" for n, host in ((1, 1), (2, 2))
    ]


def test_contents_that_nobody_uses_any_more_go() -> None:
    world = World()

    def deploy(content: str) -> None:
        world.deploy({"web": web() | {"configs": [{"source": "c"}]}}, configs={"c": {"content": content}})
        world.run()

    deploy("MQ==")
    deploy("Mg==")
    assert sorted(one.content for one in world.cluster.files.values()) == ["MQ==", "Mg=="], "one to go back to"
    deploy("Mw==")
    assert sorted(one.content for one in world.cluster.files.values()) == ["Mg==", "Mw=="]


def test_the_same_content_keeps_its_id() -> None:
    world = World()
    manifest = {"web": web() | {"secrets": [{"source": "s"}]}}
    assert world.deploy(manifest, secrets={"s": {}}, configs={}) is True
    before = world.ids
    assert world.deploy(manifest, secrets={"s": {}}, configs={}) is False
    assert world.ids == before


@pytest.mark.parametrize("label", ["", "[1]", "{"])
def test_a_label_that_is_not_ours_names_no_files(label: str) -> None:
    assert files_of({"drover.app.files": label}) == []


def test_external_networks_must_be_there() -> None:
    with pytest.raises(NotFound, match="network front is external"):
        World().deploy({"web": web()}, networks={"front": {"name": "front", "external": True}})


def test_the_plan_says_what_where_and_why() -> None:
    world = World()
    app = read_app({"services": {"web": web(replicas=2)}, "volumes": {"data": {}}}, "shop", {}).app
    found = plan(world.cluster, app)
    assert [(one.change, one.kind, one.name) for one in found.entries] == [
        ("create", "network", "shop_default"),
        ("create", "volume", "shop_data"),
        ("create", "container", "shop-web-1"),
        ("create", "container", "shop-web-2"),
    ]
    hosts = [one.host for one in found.entries if one.kind == "container"]
    assert len(set(hosts)) == 2
    assert not found.unchanged
    world.deploy({"web": web(replicas=2)}, volumes={"data": {}})
    world.run()
    assert plan(world.cluster, app).unchanged


def test_the_plan_says_what_cannot_be() -> None:
    service = web(placement={"constraints": ["node.labels.disk==ssd"]})
    found = plan(World().cluster, read_app({"services": {"web": service}}, "shop", {}).app)
    assert all(one.impossible for one in found.entries if one.kind == "container")
    assert "no host can take shop-web-3" in found.entries[-1].why


def test_a_plan_names_updates_and_removals() -> None:
    world = World()
    world.deploy({"web": web(), "old": web(replicas=1)})
    world.run()
    found = plan(world.cluster, read_app({"services": {"web": web("checked", 2)}}, "shop", {}).app)
    assert [(one.change, one.name) for one in found.entries if one.change != "keep"] == [
        ("remove", "shop-old-1"),
        ("update", "shop-web-1"),
        ("update", "shop-web-2"),
        ("remove", "shop-web-3"),
    ]


def test_a_plan_says_what_of_an_update_is_new() -> None:
    world = World()
    world.deploy({"web": web()})
    world.run()
    changed = {**web("checked"), "environment": {"A": "1"}}
    found = plan(world.cluster, read_app({"services": {"web": changed}}, "shop", {}).app)
    why = next(one.why for one in found.entries if one.change == "update")
    assert why.startswith("changed: Env, Image good -> checked; stop-first; ")


def test_why_nowhere_has_a_reason_per_host_for_a_container_that_was_never_made() -> None:
    world = World()
    world.deploy({"web": web("refused", placement={"constraints": ["node.labels.disk==ssd"]})})
    told = explain(world.cluster, "shop-web-2")
    assert (told["id"], told["host"], set(told["reasons"])) == ("", "", {"h1", "h2", "h3"})
    assert told["chosen"] == "shop-web-2 of shop is not made: no host can take shop-web-2"
    with pytest.raises(NotFound):
        explain(world.cluster, "shop-web-9")


def test_why_a_job_is_not_there_is_not_asked_of_its_schedule() -> None:
    world = World()
    world.deploy({"web": web(), "backup": {**web("task", 1), "x-drover": {"schedule": "0 3 * * *"}}})
    with pytest.raises(NotFound):
        explain(world.cluster, "shop-backup-1")


def test_why_nowhere_says_what_its_body_is_refused_for() -> None:
    world = World()
    world.deploy({"web": {**web(), "volumes_from": ["container:gone"]}})
    said = explain(world.cluster, "shop-web-1")["chosen"]
    assert said == "shop-web-1 of shop is not made: No such container: gone"


def test_networks_and_volumes_go_when_the_last_container_has_gone() -> None:
    world = World()
    world.deploy({"web": web("good", 1)})
    world.run()
    world.write(*remove_draft(world.cluster, "shop", True).changes)
    [record] = world.cluster.containers.values()
    world.write(put(r.key("containers", record.id), msgspec.structs.replace(record, desired="removed")))
    found = steps(world.cluster, world.cluster.apps["shop"], world.now)
    assert (found.actions, found.changes) == ((), ())
    world.write(delete(r.key("containers", record.id)))
    assert steps(world.cluster, world.cluster.apps["shop"], world.now).actions


def test_an_application_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFound, match="no application is called nope"):
        named_app(World().cluster, "nope")


def test_why_not_yet_says_what_is_waited_for_or_what_failed() -> None:
    world = World()
    world.deploy({"db": web("refused", 1), "web": {**web(), "depends_on": {"db": {"condition": "service_started"}}}})
    for _ in range(3):
        world.look()
        world.pass_time()
    assert "the last attempt failed: no host has the image" in explain(world.cluster, "shop-db-1")["chosen"]
    assert "db" in explain(world.cluster, "shop-web-1")["chosen"]


def test_the_list_says_the_first_thing_that_is_missing() -> None:
    world = World()
    world.deploy({"web": web("refused")})
    for _ in range(6):
        world.look()
        world.pass_time()
    row = apps_view(world.cluster)[0]
    assert (row["state"], row["good"], row["wanted"]) == ("failed", 0, 3)
    assert row["says"] == "shop-web-1 cannot be made: no host has the image"


def test_nothing_is_done_twice_for_a_lost_host() -> None:
    world = World()
    world.deploy({"web": web()})
    world.run()
    world.write(delete(r.key("alive", "h2")))
    assert steps(world.cluster, world.cluster.apps["shop"], world.now).actions == ()


def test_what_a_leader_left_unstarted_on_a_lost_host_is_recovered() -> None:
    """The leader dies between create and start, and the container's host with it."""
    world = World()
    world.deploy({"web": web(replicas=1)})
    world.look()
    world.budget = 1
    with pytest.raises(LeaderDied):
        world.look()
    world.budget = -1
    identity = world.cluster.names["shop-web-1"].id
    assert world.cluster.containers[identity].desired == "created"
    assert relocations(without_host(world), world.now).relocations == ()
    world.cluster = without_host(world)
    world.look()
    assert world.cluster.containers[identity].desired == "running"
    assert [one.name for one in relocations(world.cluster, world.now).relocations] == ["shop-web-1"]
    assert not world.look()


def without_host(world: World) -> Cluster:
    """The world once the host of the only container is lost."""
    host = next(iter(world.cluster.placements.values())).host
    return world.cluster.apply(world.cluster.revision + 1, [delete(r.key("alive", host))])


def test_a_network_left_by_hand_is_joined_again() -> None:
    world = World()
    world.deploy({"web": web(replicas=1) | {"networks": {"a": None, "b": None}}}, networks={"a": {}, "b": {}})
    world.run()
    record = next(iter(world.cluster.containers.values()))
    world.write(put(r.key("containers", record.id), msgspec.structs.replace(record, attachments={})))
    world.run()
    assert list(world.cluster.containers[record.id].attachments) == ["shop_b"]


# -- what is rare ------------------------------------------------------------------------------------------------------


def test_external_volumes_must_be_there() -> None:
    with pytest.raises(NotFound, match="volume data is external, and is not there"):
        World().deploy({"web": web()}, volumes={"data": {"name": "data", "external": True}})


def test_a_file_that_is_there_is_not_written_again() -> None:
    world = World()
    config = {"configs": {"motd": {"content": "hello"}}}
    world.deploy({"web": web()}, **config)
    files = dict(world.cluster.files)
    assert len(files) == 1
    written = {key: world.cluster.version(f"files/{key}") for key in files}
    world.deploy({"web": web(replicas=2)}, **config)
    assert dict(world.cluster.files) == files
    assert {key: world.cluster.version(f"files/{key}") for key in files} == written


def test_only_what_was_never_started_is_started_without_being_asked() -> None:
    world = World()
    world.deploy({"web": web(replicas=1)})
    world.run()
    identity = instances(world.cluster, "shop")[0].container.id
    assert world.cluster.containers[identity].desired == "running"
    assert start_draft(world.cluster, identity).changes == ()
    assert start_draft(world.cluster, "gone").changes == ()


def test_the_plan_says_what_stays_as_it_is_and_what_is_not_there() -> None:
    world = World()
    body = json.dumps({"Name": "shop_data", "DriverOpts": {"interval": "9s"}})
    world.write(put(r.key("volumes", "shop_data"), r.Volume(name="shop_data", body=body)))
    top = {"volumes": {"data": {}}, "networks": {"front": {"name": "front", "external": True}}}
    found = plan(world.cluster, read_app({"services": {"web": web(replicas=1)}, **top}, "shop", {}).app)
    said = {one.name: one for one in found.entries}
    assert said["front"].impossible
    assert said["front"].why == "external, and not there"
    assert said["shop_data"].change == "keep"
    assert "with other settings, and stays as it is" in said["shop_data"].why


def test_the_plan_says_when_a_job_runs() -> None:
    job = {"tick": web("task", 1) | {"x-drover": {"schedule": "5 4 * * *", "timezone": "Europe/Berlin"}}}
    found = plan(World().cluster, read_app({"services": job}, "shop", {}).app)
    assert [(one.kind, one.name, one.why) for one in found.entries if one.kind == "job"] == [
        ("job", "shop-tick", "runs at 5 4 * * * (Europe/Berlin)")
    ]


def test_a_network_that_could_not_be_made_says_why() -> None:
    world = World()
    world.deploy({"web": web(replicas=1)})
    trouble = Trouble("no subnet is free", 1, world.now, "")
    troubles = r.AppTroubles(app="shop", troubles={"network/shop_default": trouble})
    world.write(put(r.key("app_troubles", "shop"), troubles))
    assert "network shop_default: no subnet is free" in str(world.view())


def test_what_a_container_does_in_words() -> None:
    world = World()
    world.deploy({"web": web(replicas=1), "always": web(replicas=1) | {"restart": "always"}})
    world.run()
    other = container(77, "bystander", "h1")
    world.write(*other)
    one = next(one for one in instances(world.cluster, "shop") if one.service == "web")
    again = next(one for one in instances(world.cluster, "shop") if one.service == "always")
    assert {found.container.name for found in instances(world.cluster, "shop")} == {"shop-web-1", "shop-always-1"}

    def says(identity: str, **facts: Any) -> str:
        world.facts(identity, **facts)
        return next(v.why for i in instances(world.cluster, "shop") if i.container.id == identity for v in [judged(i)])

    def judged(found: Any) -> Any:
        return verdict(world.cluster, found)

    on = world.cluster.placements[one.container.id].host
    assert says(one.container.id, state="restarting", exit_code=7) == f"keeps ending on {on}, last with exit code 7"
    on = world.cluster.placements[again.container.id].host
    ended = f"ended on {on} with exit code 2, and is started again"
    assert says(again.container.id, state="exited", exit_code=2) == ended
    ordered = r.Order(number=again.container.order.number + 1, verb="restart")
    world.write(put(r.key("containers", again.container.id), msgspec.structs.replace(again.container, order=ordered)))
    assert says(again.container.id, state="exited", exit_code=137) == f"is being restarted on {on}"
    done = r.Answer(number=ordered.number, status=204)
    assert says(again.container.id, state="exited", exit_code=2, answer=done) == ended
    world.write(put(r.key("containers", again.container.id), again.container))
    refused = r.Answer(number=again.container.order.number, status=409, message="its port is taken")
    assert says(again.container.id, answer=refused) == f"could not be started on {on}: its port is taken"


def test_a_surplus_container_that_was_stopped_is_being_removed() -> None:
    world = World()
    world.deploy({"web": web(replicas=2)})
    world.run()
    last = next(one for one in instances(world.cluster, "shop") if one.container.name == "shop-web-2")
    stopped = msgspec.structs.replace(last.container, desired="stopped")
    world.write(put(r.key("containers", last.container.id), stopped))
    world.facts(last.container.id, state="exited", exit_code=137)
    assert "by somebody" in str(world.view())
    world.deploy({"web": web(replicas=1)})
    said = {one["name"]: one["says"] for one in world.service("web")["containers"]}
    assert said["shop-web-2"] == f"is being removed from {last.host}"
    assert said["shop-web-1"].startswith("runs on ")
