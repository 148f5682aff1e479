"""A corpus of public-style Compose files: what Drover makes of each equals Compose's canonical form, key by key.

`BACK` reads a container's create call back into the canonical form's words, by rules of its own (those of Docker's API,
not of Drover's mapping). A key of the canonical form is either found again with the same value, or named in a warning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from tests.corpus import NAMES, fresh, source, stored

from drover.errors import Invalid, MissingTool
from drover.manifest import keys
from drover.manifest.app import read_app
from drover.manifest.keys import KEYS, unhonoured
from drover.model.apps import Service
from drover.model.records import App

Body = dict[str, Any]
NANO = 10**9


@lru_cache
def app_of(name: str) -> App:
    canonical = stored(name)
    ids = {(table, key): f"id-{key}" for table in ("configs", "secrets") for key in canonical.get(table, {})}
    return read_app(canonical, canonical["name"], ids).app


def test_there_are_thirty_at_least_and_each_has_its_canonical_form() -> None:
    assert len(NAMES) >= 30
    for name in NAMES:
        assert stored(name)["services"]


@pytest.mark.parametrize("name", NAMES)
def test_compose_still_says_the_same(name: str) -> None:
    try:
        found = fresh(name)
    except MissingTool:
        pytest.skip("there is no Compose v2: tools/clients fetches it")
    assert found == stored(name)


def test_the_corpus_has_what_people_use() -> None:
    """Long and short forms, extends, include, profiles, anchors, interpolation, overrides, and more."""
    texts = {name: json.dumps(source(name)) for name in NAMES}
    for feature in ("include", "extends", "profiles", "x-", "${", "depends_on", "healthcheck", "secrets", "configs"):
        assert any(feature in text for text in texts.values()), feature
    used = {path for name in NAMES for path in patterns("", "", stored(name))}
    known = {row.path for row in KEYS if not row.path.endswith(RESOLVED)}
    assert len(known & used) > 0.8 * len(known), sorted(known - used)


RESOLVED = (".env_file", ".label_file", ".extends", "version", "models", ".x-drover.affinity")


def patterns(pattern: str, _path: str, value: Any) -> set[str]:
    """Every path of a canonical form, with `*` for names."""
    if isinstance(value, list):
        return {found for one in value for found in patterns(pattern, "", one)} | {pattern}
    if not isinstance(value, dict):
        return {pattern}
    found = {pattern}
    for name, inner in value.items():
        star = any(row.path.startswith(f"{pattern}.*") or row.path.startswith("*") for row in KEYS if pattern)
        found |= patterns(f"{pattern}.{'*' if star else name}".lstrip("."), "", inner)
    return found


# -- reading back --------------------------------------------------------------------------------


def seconds(nanos: int) -> str:
    """Go's way to write a duration."""
    whole, rest = divmod(nanos, NANO)
    if not whole:
        return f"{rest // 10**6}ms"
    hours, minutes, left = whole // 3600, whole // 60 % 60, whole % 60
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{left}s"


def health(body: Body) -> Any:
    check = body.get("Healthcheck", {})
    if check.get("Test") == ["NONE"]:
        return "none"
    found = {"test": check.get("Test"), "retries": check.get("Retries")}
    names = {
        "Interval": "interval",
        "Timeout": "timeout",
        "StartPeriod": "start_period",
        "StartInterval": "start_interval",
    }
    found |= {name: seconds(check[field]) for field, name in names.items() if field in check}
    return {name: value for name, value in found.items() if value is not None}


def environment(body: Body) -> dict[str, str | None]:
    pairs = [entry.partition("=") for entry in body.get("Env", [])]
    return {name: value if equals else None for name, equals, value in pairs}


def ports(body: Body) -> set[tuple[Any, ...]]:
    host = body["HostConfig"]
    return {
        (int(inner.partition("/")[0]), inner.partition("/")[2], one["HostPort"], one["HostIp"])
        for inner, many in host.get("PortBindings", {}).items()
        for one in many
    }


def asked_ports(asked: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    return {(one["target"], one["protocol"], one.get("published", ""), one.get("host_ip", "")) for one in asked}


def mounts(body: Body) -> set[tuple[Any, ...]]:
    host = body["HostConfig"]
    binds = [bind.split(":") for bind in host.get("Binds", [])]
    found = {("bind", source, target, "ro" in mode.split(",")) for source, target, mode in binds}
    return found | {(m["Type"], m.get("Source"), m["Target"], m["ReadOnly"]) for m in host.get("Mounts", [])}


def asked_mounts(asked: list[dict[str, Any]], volumes: dict[str, Any]) -> set[tuple[Any, ...]]:
    def full(one: dict[str, Any]) -> str | None:
        return volumes[one["source"]]["name"] if one["type"] == "volume" and one.get("source") else one.get("source")

    return {(one["type"], full(one), one["target"], one.get("read_only", False)) for one in asked}


def policy(body: Body) -> str:
    found = body["HostConfig"]["RestartPolicy"]
    retries = found["MaximumRetryCount"]
    return found["Name"] + (f":{retries}" if retries else "")


def field(*path: str) -> Callable[[Body], Any]:
    def read(body: Body) -> Any:
        found: Any = body
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    return read


def host(name: str) -> Callable[[Body], Any]:
    return field("HostConfig", name)


def text_of(name: str) -> Callable[[Body], Any]:
    return lambda body: str(body["HostConfig"].get(name))


BACK: dict[str, Callable[[Body], Any]] = {
    "image": field("Image"),
    "command": field("Cmd"),
    "entrypoint": field("Entrypoint"),
    "environment": environment,
    "hostname": field("Hostname"),
    "domainname": field("Domainname"),
    "user": field("User"),
    "working_dir": field("WorkingDir"),
    "tty": field("Tty"),
    "stdin_open": field("OpenStdin"),
    "stop_signal": field("StopSignal"),
    "mac_address": field("MacAddress"),
    "stop_grace_period": lambda body: seconds(body["StopTimeout"] * NANO),
    "healthcheck": health,
    "restart": policy,
    "annotations": host("Annotations"),
    "cap_add": host("CapAdd"),
    "cap_drop": host("CapDrop"),
    "cgroup_parent": host("CgroupParent"),
    "cpu_shares": host("CpuShares"),
    "cpu_period": host("CpuPeriod"),
    "cpu_quota": host("CpuQuota"),
    "cpus": lambda body: body["HostConfig"]["NanoCpus"] / NANO,
    "cpuset": host("CpusetCpus"),
    "device_cgroup_rules": host("DeviceCgroupRules"),
    "dns": host("Dns"),
    "dns_opt": host("DnsOptions"),
    "dns_search": host("DnsSearch"),
    "extra_hosts": lambda body: [re.sub(":", "=", one, count=1) for one in body["HostConfig"]["ExtraHosts"]],
    "group_add": host("GroupAdd"),
    "init": host("Init"),
    "isolation": host("Isolation"),
    "mem_limit": text_of("Memory"),
    "mem_reservation": text_of("MemoryReservation"),
    "memswap_limit": text_of("MemorySwap"),
    "mem_swappiness": text_of("MemorySwappiness"),
    "oom_kill_disable": host("OomKillDisable"),
    "oom_score_adj": host("OomScoreAdj"),
    "pids_limit": host("PidsLimit"),
    "privileged": host("Privileged"),
    "read_only": host("ReadonlyRootfs"),
    "runtime": host("Runtime"),
    "security_opt": host("SecurityOpt"),
    "shm_size": text_of("ShmSize"),
    "storage_opt": host("StorageOpt"),
    "sysctls": host("Sysctls"),
    "userns_mode": host("UsernsMode"),
    "uts": host("UTSMode"),
    "tmpfs": lambda body: [f"{path}:{how}".rstrip(":") for path, how in body["HostConfig"]["Tmpfs"].items()],
    "logging": lambda body: {
        "driver": body["HostConfig"]["LogConfig"]["Type"],
        "options": body["HostConfig"]["LogConfig"]["Config"],
    },
    "devices": lambda body: [
        {"source": one["PathOnHost"], "target": one["PathInContainer"], "permissions": one["CgroupPermissions"]}
        for one in body["HostConfig"]["Devices"]
    ],
    "ulimits": lambda body: {
        one["Name"]: one["Soft"] if one["Soft"] == one["Hard"] else {"soft": one["Soft"], "hard": one["Hard"]}
        for one in body["HostConfig"]["Ulimits"]
    },
    "expose": lambda body: sorted(body["ExposedPorts"]),
}


def same(key: str, asked: Any, found: Any) -> bool:
    if key == "expose":
        return {one if "/" in one else f"{one}/tcp" for one in asked} <= set(found)
    if key == "ulimits":
        asked = {
            name: one["soft"] if isinstance(one, dict) and one["soft"] == one["hard"] else one
            for name, one in asked.items()
        }
    if key == "healthcheck" and found == "none":
        return bool(asked == {"disable": True} or asked == {"test": ["NONE"]})
    if key == "logging":
        return bool(found["driver"] == asked.get("driver") and found["options"] == asked.get("options", {}))
    return bool(found == asked)


SERVICES = [(name, key) for name in NAMES for key in stored(name)["services"]]


@pytest.mark.parametrize(("name", "key"), SERVICES, ids=lambda value: str(value))
def test_the_create_call_says_what_the_canonical_form_says(name: str, key: str) -> None:
    canonical, app = stored(name), app_of(name)
    asked, body = canonical["services"][key], json.loads(app.services[key].body)
    for one, value in asked.items():
        if (
            one in BACK
            and value is not None
            and not (one == "restart" and asked.get("deploy", {}).get("restart_policy"))
        ):
            assert same(one, value, BACK[one](body)), (one, value, BACK[one](body))
    assert asked.get("labels", {}).items() <= body["Labels"].items()
    assert ports(body) == asked_ports(asked.get("ports", []))
    known = ("volume", "bind", "tmpfs")
    wanted = [one for one in asked.get("volumes", []) if one["type"] in known]
    assert mounts(body) == asked_mounts(wanted, canonical.get("volumes", {}))
    check_networks(canonical, key, app.services[key], body)
    check_deploy(asked, app.services[key], body)
    check_files(asked, app.services[key])
    dependencies = {one.service: (one.condition, one.required, one.restart) for one in app.services[key].depends_on}
    for other, how in asked.get("depends_on", {}).items():
        assert dependencies[other] == (how["condition"], how.get("required", True), how.get("restart", False))


def check_networks(canonical: Body, key: str, service: Service, body: Body) -> None:
    asked = canonical["services"][key].get("networks") or {}
    joined = {**body.get("NetworkingConfig", {}).get("EndpointsConfig", {})}
    joined |= {network: json.loads(text) for network, text in service.joins.items()}
    assert set(joined) == {canonical["networks"][one]["name"] for one in asked}
    for one, how in asked.items():
        name = canonical["networks"][one]["name"]
        assert set((how or {}).get("aliases", [])) | {key} == set(joined[name]["Aliases"])
        if (how or {}).get("ipv4_address"):
            assert service.addresses[name] == (how["ipv4_address"],)
        assert joined[name].get("MacAddress") == (how or {}).get("mac_address")
        assert joined[name].get("DriverOpts") == (how or {}).get("driver_opts")
    if mode := canonical["services"][key].get("network_mode"):
        shared = mode.replace("service:", f"container:{canonical['name']}-")
        assert body["HostConfig"]["NetworkMode"] == (f"{shared}-1" if shared != mode else mode)


def check_deploy(asked: Body, service: Service, body: Body) -> None:
    deploy = asked.get("deploy", {})
    host_config = body["HostConfig"]
    assert service.mode == deploy.get("mode", "replicated")
    assert service.replicas == deploy.get("replicas", asked.get("scale", 1))
    limits, reserved = (deploy.get("resources", {}).get(one, {}) for one in ("limits", "reservations"))
    if "memory" in limits:
        assert str(host_config["Memory"]) == limits["memory"]
    if "cpus" in limits:
        assert host_config["NanoCpus"] == limits["cpus"] * NANO
    if "memory" in reserved:
        assert str(host_config["MemoryReservation"]) == reserved["memory"]
    if "cpus" in reserved:
        assert float(body["Labels"]["drover.cpus"]) == reserved["cpus"]
    restart = deploy.get("restart_policy", {}).get("condition")
    if restart:
        expected = {"none": "no", "any": "unless-stopped", "on-failure": "on-failure"}[restart]
        assert host_config["RestartPolicy"]["Name"] == expected
    check_restarts(deploy.get("restart_policy", {}), body)
    assert service.labels == deploy.get("labels", {})
    for section, found in (("update_config", service.update), ("rollback_config", service.rollback)):
        update = deploy.get(section, {})
        assert found.parallelism == update.get("parallelism", 1)
        assert found.order == update.get("order", "stop-first")
        assert found.failure_action == update.get("failure_action", "pause")
        assert seconds(round(found.delay_s * NANO)) == update.get("delay", "0ms")
        assert found.max_failure_ratio == pytest.approx(update.get("max_failure_ratio", 0))


def check_restarts(policy: Body, body: Body) -> None:
    """What Docker's policy has no word for is in labels, and only that: a window needs something to count."""
    most = policy.get("max_attempts", 0)
    window = policy.get("window", "0ms") if most else "0ms"
    labels = {name: float(value) for name, value in body["Labels"].items() if name.startswith("drover.restart.")}
    assert seconds(round(labels.pop("drover.restart.delay", 0) * NANO)) == policy.get("delay", "0ms")
    assert seconds(round(labels.pop("drover.restart.window", 0) * NANO)) == window
    if policy:
        assert labels.get("drover.restart.attempts", body["HostConfig"]["RestartPolicy"]["MaximumRetryCount"]) == most
    else:
        assert not labels


def check_files(asked: Body, service: Service) -> None:
    uses = {use.file: use for use in service.files}
    for table, default in (("configs", "/"), ("secrets", "/run/secrets/")):
        for one in asked.get(table, []):
            use = uses[f"id-{one['source']}"]
            target = one.get("target", one["source"])
            assert use.target == (target if target.startswith("/") else default + target)
            assert (use.uid, use.gid) == (one.get("uid", "0"), one.get("gid", "0"))
            assert int(use.mode, 8) == int(one.get("mode", "0444"), 8)


@pytest.mark.parametrize("name", NAMES)
def test_every_resource_is_what_the_canonical_form_says(name: str) -> None:
    canonical, app = stored(name), app_of(name)
    for table, found in (("networks", app.networks), ("volumes", app.volumes)):
        bodies = {one.name: json.loads(one.body) if one.body else None for one in found}
        for key, asked in canonical.get(table, {}).items():
            body = bodies[asked["name"]]
            if asked.get("external"):
                assert body is None
                continue
            assert body["Name"] == asked["name"]
            assert asked.get("labels", {}).items() <= body["Labels"].items(), key
            options = body["Options"] if table == "networks" else body["DriverOpts"]
            assert asked.get("driver_opts", {}).items() <= options.items()
            assert bool(asked.get("internal")) == bool(body.get("Internal"))


# -- honoured or named ---------------------------------------------------------------------------

BY_OTHER_CHECKS = {
    *("labels", "ports", "volumes", "networks", "network_mode", "depends_on", "deploy", "configs", "secrets"),
    *("profiles", "container_name", "platform", "pull_policy", "pid", "ipc", "volumes_from", "links", "external_links"),
    *("scale", "blkio_config", "x-drover"),
}


@pytest.mark.parametrize(("name", "key"), SERVICES, ids=lambda value: str(value))
def test_every_key_is_honoured_or_named(name: str, key: str) -> None:
    warnings = " ".join(app_of(name).warnings)
    for one, value in stored(name)["services"][key].items():
        named = f"services.{key}.{one}" in warnings
        nothing = value in (None, False, {}, [])
        assert one in BACK or one in BY_OTHER_CHECKS or named or nothing, one


def test_what_is_not_honoured_is_named_with_its_path() -> None:
    warnings = app_of("unhonoured").warnings
    for path in (
        "services.odd.attach",
        "services.odd.credential_spec",
        "services.odd.post_start",
        "services.odd.pre_stop",
        "services.odd.deploy.resources.reservations.generic_resources",
        "services.odd.deploy.placement.constraints: node.id == abc",
        "services.odd.x-drover.colour",
        "services.odd.pull_policy: daily",
        "services.odd.networks.default.interface_name",
        "networks.default.enable_ipv6",
    ):
        assert any(text.startswith(path) for text in warnings), (path, warnings)


def test_a_key_of_a_later_compose_is_named() -> None:
    assert unhonoured({"services": {"web": {"image": "a", "teleport": {"to": "mars"}}}}) == [
        "services.web.teleport is not honoured: this version of drover does not know it"
    ]


def test_most_files_are_honoured_wholly() -> None:
    whole = [name for name in NAMES if not app_of(name).warnings]
    assert len(whole) >= 20, {name: app_of(name).warnings for name in NAMES if app_of(name).warnings}


@pytest.mark.parametrize(
    ("services", "says"),
    [
        ({}, "has no services"),
        ({"a": {"command": ["x"]}}, "neither an image nor a build"),
        ({"a": {"image": "x", "volumes": [{"type": "volume", "source": "v", "target": "/v"}]}}, "does not declare"),
        ({"a": {"image": "x", "networks": {"n": None}}}, "does not declare"),
        ({"a": {"image": "x", "configs": [{"source": "c"}]}}, "does not declare"),
        ({"a": {"image": "x", "depends_on": {"b": {"condition": "service_started"}}}}, "which is not in the manifest"),
        ({"a": {"image": "x", "depends_on": {"a": {}}}}, "depends on itself"),
        ({"a": {"image": "x", "container_name": "n", "scale": 2}}, "cannot share a name"),
        ({"a": {"image": "x", "deploy": {"mode": "swarm"}}}, "is none of replicated"),
        ({"a": {"image": "x", "deploy": {"replicas": -1}}}, "fewer than none"),
        ({"a": {"image": "x", "healthcheck": {"interval": "soon"}}}, "is no duration"),
        ({"a": {"image": "x", "mem_limit": "much"}}, "is no size"),
        ({"a": {"image": "x", "cpus": "many"}}, "is no number"),
        ({"a": {"image": "x", "deploy": {"replicas": 1.5}}}, "is no whole number"),
        ({"a": {"image": "x", "environment": ["A=1"]}}, "must be a mapping"),
        (
            {"a": {"image": "x", "x-drover": {"addresses": ["10.0.0.1"]}, "networks": {"n": {}, "m": {}}}},
            "has 2 networks",
        ),
        ({"a": {"image": "x", "x-drover": {"addresses": {"z": ["10.0.0.1"]}}}}, "that the service is not on"),
        ({"a": {"image": "x", "deploy": {"placement": {"constraints": ["??"]}}}}, "is malformed"),
    ],
)
def test_what_is_refused(services: Body, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        read_app({"services": services, "networks": {"n": {}, "m": {}} if "2 networks" in says else {}}, "shop", {})


def test_a_name_must_be_one() -> None:
    with pytest.raises(Invalid, match="is no name for an application"):
        read_app({"services": {"a": {"image": "x"}}}, "My Shop", {})


def test_the_page_shows_the_table_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs/manifests.md").read_text()
    assert keys.table() in page, "tools/manifest-keys writes it anew"
