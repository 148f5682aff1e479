"""From one service of the canonical form to the create body of its containers.

Theory of operation. `CONFIG` and `HOST` are tables: a key of the service, the field of the create call, and how its
value is turned. What needs more than one key (limits, restarts, health, namespaces, mounts, endpoints) has a function
of its own. What differs between the containers of a service is not here: labels of the slot, fixed addresses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from drover.manifest.mounts import binds_and_mounts
from drover.manifest.values import mapping, nanoseconds, number, size_bytes, whole

Service = Mapping[str, Any]
Convert = Callable[[Any, str], Any]


def _as_is(value: Any, where: str) -> Any:
    return value


def _text(value: Any, where: str) -> str:
    return str(value)


def _seconds(value: Any, where: str) -> int:
    return -(-nanoseconds(value, where) // 1_000_000_000)


def _port_keys(value: Any, where: str) -> dict[str, Any]:
    return {_with_protocol(str(port)): {} for port in value}


def _words(value: Any, where: str) -> list[str]:
    """An empty list says that the image's own is not to be used; Docker writes that as one empty word."""
    return [str(word) for word in value] or [""]


def _texts(value: Any, where: str) -> dict[str, str]:
    return {name: "" if inner is None else _scalar(inner) for name, inner in mapping(value, where).items()}


def _environment(value: Any, where: str) -> list[str]:
    return [name if inner is None else f"{name}={_scalar(inner)}" for name, inner in mapping(value, where).items()]


def _scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _hosts(value: Any, where: str) -> list[str]:
    """`name=ip` and `name:ip`, or a mapping of names to addresses."""
    if isinstance(value, dict):
        pairs = [(name, ip) for name, ips in value.items() for ip in (ips if isinstance(ips, list) else [ips])]
        return [f"{name}:{ip}" for name, ip in pairs]
    return [re.sub(r"[=:]", ":", str(entry), count=1) for entry in value]


def _ulimits(value: Any, where: str) -> list[dict[str, Any]]:
    return [_ulimit(name, limit, f"{where}.{name}") for name, limit in mapping(value, where).items()]


def _ulimit(name: str, limit: Any, where: str) -> dict[str, Any]:
    both = limit if isinstance(limit, dict) else {"soft": limit, "hard": limit}
    return {"Name": name, "Soft": whole(both.get("soft"), where), "Hard": whole(both.get("hard"), where)}


def _devices(value: Any, where: str) -> list[dict[str, str]]:
    return [_device(one) for one in value]


def _device(one: Any) -> dict[str, str]:
    """`{source, target, permissions}`, or `SOURCE[:TARGET[:PERMISSIONS]]`."""
    if isinstance(one, dict):
        source, target, permissions = one.get("source"), one.get("target"), one.get("permissions")
    else:
        source, target, permissions = [*str(one).split(":"), None, None][:3]
    return {
        "PathOnHost": str(source),
        "PathInContainer": str(target or source),
        "CgroupPermissions": str(permissions or "rwm"),
    }


def _tmpfs(value: Any, where: str) -> dict[str, str]:
    entries = [value] if isinstance(value, str) else value
    return {path: options for path, _, options in (str(entry).partition(":") for entry in entries)}


def _logging(value: Any, where: str) -> dict[str, Any]:
    asked = mapping(value, where)
    return {"Type": asked.get("driver", ""), "Config": _texts(asked.get("options"), where)}


def _cpu_nanos(value: Any, where: str) -> int:
    return round(number(value, where) * 1e9)


def _with_protocol(port: str) -> str:
    return port if "/" in port else f"{port}/tcp"


CONFIG: dict[str, tuple[str, Convert]] = {
    "command": ("Cmd", _as_is),
    "domainname": ("Domainname", _text),
    "entrypoint": ("Entrypoint", _words),
    "environment": ("Env", _environment),
    "expose": ("ExposedPorts", _port_keys),
    "hostname": ("Hostname", _text),
    "image": ("Image", _text),
    "labels": ("Labels", _texts),
    "mac_address": ("MacAddress", _text),
    "stdin_open": ("OpenStdin", _as_is),
    "stop_grace_period": ("StopTimeout", _seconds),
    "stop_signal": ("StopSignal", _text),
    "tty": ("Tty", _as_is),
    "user": ("User", _text),
    "working_dir": ("WorkingDir", _text),
}
HOST: dict[str, tuple[str, Convert]] = {
    "annotations": ("Annotations", _texts),
    "cap_add": ("CapAdd", _as_is),
    "cap_drop": ("CapDrop", _as_is),
    "cgroup": ("CgroupnsMode", _text),
    "cgroup_parent": ("CgroupParent", _text),
    "cpu_count": ("CpuCount", whole),
    "cpu_percent": ("CpuPercent", whole),
    "cpu_period": ("CpuPeriod", whole),
    "cpu_quota": ("CpuQuota", whole),
    "cpu_rt_period": ("CpuRealtimePeriod", whole),
    "cpu_rt_runtime": ("CpuRealtimeRuntime", whole),
    "cpu_shares": ("CpuShares", whole),
    "cpus": ("NanoCpus", _cpu_nanos),
    "cpuset": ("CpusetCpus", _text),
    "device_cgroup_rules": ("DeviceCgroupRules", _as_is),
    "devices": ("Devices", _devices),
    "dns": ("Dns", _as_is),
    "dns_opt": ("DnsOptions", _as_is),
    "dns_search": ("DnsSearch", _as_is),
    "extra_hosts": ("ExtraHosts", _hosts),
    "group_add": ("GroupAdd", lambda value, where: [str(group) for group in value]),
    "init": ("Init", _as_is),
    "isolation": ("Isolation", _text),
    "logging": ("LogConfig", _logging),
    "mem_limit": ("Memory", size_bytes),
    "mem_reservation": ("MemoryReservation", size_bytes),
    "mem_swappiness": ("MemorySwappiness", whole),
    "memswap_limit": ("MemorySwap", size_bytes),
    "oom_kill_disable": ("OomKillDisable", _as_is),
    "oom_score_adj": ("OomScoreAdj", whole),
    "pids_limit": ("PidsLimit", whole),
    "privileged": ("Privileged", _as_is),
    "read_only": ("ReadonlyRootfs", _as_is),
    "runtime": ("Runtime", _text),
    "security_opt": ("SecurityOpt", _as_is),
    "shm_size": ("ShmSize", size_bytes),
    "storage_opt": ("StorageOpt", _texts),
    "sysctls": ("Sysctls", _texts),
    "tmpfs": ("Tmpfs", _tmpfs),
    "ulimits": ("Ulimits", _ulimits),
    "userns_mode": ("UsernsMode", _text),
    "uts": ("UTSMode", _text),
}
BLKIO = {
    "device_read_bps": "BlkioDeviceReadBps",
    "device_read_iops": "BlkioDeviceReadIOps",
    "device_write_bps": "BlkioDeviceWriteBps",
    "device_write_iops": "BlkioDeviceWriteIOps",
}


def create_body(app: str, service: Service, volumes: Mapping[str, str], where: str) -> dict[str, Any]:
    """The create call's body, without what `endpoints` adds. `volumes`: key to full name."""
    body = _fields(service, CONFIG, where)
    host = _fields(service, HOST, where)
    host.update(_limits(service, where))
    host.update(_restart(service, where))
    host.update(_blkio(service, where))
    host.update(_namespaces(app, service))
    host.update(binds_and_mounts(service, volumes, where))
    if requests := _device_requests(service, where):
        host["DeviceRequests"] = requests
    if health := _health(mapping(service.get("healthcheck"), where), f"{where}.healthcheck"):
        body["Healthcheck"] = health
    if service.get("stdin_open"):
        body["AttachStdin"] = False
    body["HostConfig"] = host
    return body


def _fields(service: Service, table: Mapping[str, tuple[str, Convert]], where: str) -> dict[str, Any]:
    """The fields whose keys the service has; null is the same as absent."""
    return {
        field: convert(service[key], f"{where}.{key}")
        for key, (field, convert) in table.items()
        if service.get(key) is not None
    }


def _limits(service: Service, where: str) -> dict[str, Any]:
    """`deploy.resources`: limits are the engine's, a reservation of memory too."""
    resources = mapping(mapping(service.get("deploy"), where).get("resources"), where)
    limits, reserved = mapping(resources.get("limits"), where), mapping(resources.get("reservations"), where)
    found: dict[str, Any] = {}
    if limits.get("cpus"):
        found["NanoCpus"] = _cpu_nanos(limits["cpus"], f"{where}.deploy.resources.limits.cpus")
    if limits.get("memory"):
        found["Memory"] = size_bytes(limits["memory"], f"{where}.deploy.resources.limits.memory")
    if limits.get("pids"):
        found["PidsLimit"] = whole(limits["pids"], f"{where}.deploy.resources.limits.pids")
    if reserved.get("memory"):
        found["MemoryReservation"] = size_bytes(reserved["memory"], f"{where}.deploy.resources.reservations.memory")
    return found


def _restart(service: Service, where: str) -> dict[str, Any]:
    """`deploy.restart_policy`, else `restart`: `no`, `always`, `unless-stopped`, `on-failure[:N]`."""
    policy = mapping(mapping(service.get("deploy"), where).get("restart_policy"), where)
    if policy:
        names = {"none": "no", "on-failure": "on-failure", "any": "unless-stopped"}
        name = names.get(str(policy.get("condition", "any")), "unless-stopped")
        attempts = whole(policy.get("max_attempts") or 0, f"{where}.deploy.restart_policy.max_attempts")
    else:
        name, _, count = str(service.get("restart") or "no").partition(":")
        attempts = whole(count or 0, f"{where}.restart")
    retries = attempts if name == "on-failure" else 0
    return {"RestartPolicy": {"Name": name, "MaximumRetryCount": retries}}


def _blkio(service: Service, where: str) -> dict[str, Any]:
    asked = mapping(service.get("blkio_config"), f"{where}.blkio_config")
    found: dict[str, Any] = {"BlkioWeight": whole(asked["weight"], where)} if "weight" in asked else {}
    if "weight_device" in asked:
        devices = asked["weight_device"]
        found["BlkioWeightDevice"] = [{"Path": one["path"], "Weight": whole(one["weight"], where)} for one in devices]
    for key, field in BLKIO.items():
        if key in asked:
            found[field] = [{"Path": one["path"], "Rate": size_bytes(one["rate"], where)} for one in asked[key]]
    return found


def _namespaces(app: str, service: Service) -> dict[str, Any]:
    """Modes that name another service name its first container."""
    found: dict[str, Any] = {}
    for key, field in (("network_mode", "NetworkMode"), ("pid", "PidMode"), ("ipc", "IpcMode")):
        if mode := service.get(key):
            found[field] = shared_mode(app, str(mode))
    if sources := service.get("volumes_from"):
        found["VolumesFrom"] = [_volumes_from(app, str(source)) for source in sources]
    return found


def shared_mode(app: str, mode: str) -> str:
    kind, _, name = mode.partition(":")
    return f"container:{container_name(app, name, '1')}" if kind == "service" and name else mode


def container_name(app: str, service: str, slot: str) -> str:
    """The name of a service's container, as Compose gives it."""
    return f"{app}-{service}-{slot}"


def _volumes_from(app: str, source: str) -> str:
    """`SERVICE[:ro]` or `container:NAME[:ro]`."""
    if source.startswith("container:"):
        return source.removeprefix("container:")
    name, colon, mode = source.partition(":")
    return container_name(app, name, "1") + colon + mode


def _device_requests(service: Service, where: str) -> list[dict[str, Any]]:
    resources = mapping(mapping(service.get("deploy"), where).get("resources"), where)
    reserved = mapping(resources.get("reservations"), where)
    gpus = [{"capabilities": ["gpu"], **one} for one in service.get("gpus") or () if isinstance(one, dict)]
    return [_device_request(one, where) for one in [*gpus, *(reserved.get("devices") or ())]]


def _device_request(one: dict[str, Any], where: str) -> dict[str, Any]:
    ids = one.get("device_ids")
    count = one.get("count", 0 if ids else -1)
    return {
        "Driver": one.get("driver", ""),
        "Count": -1 if count == "all" else whole(count, f"{where}: count of devices"),
        "DeviceIDs": ids,
        "Capabilities": [one.get("capabilities") or []],
        "Options": _texts(one.get("options"), where),
    }


def _health(check: dict[str, Any], where: str) -> dict[str, Any]:
    if check.get("disable"):
        return {"Test": ["NONE"]}
    found: dict[str, Any] = {}
    if test := check.get("test"):
        found["Test"] = ["CMD-SHELL", test] if isinstance(test, str) else test
    for key, field in (("interval", "Interval"), ("timeout", "Timeout"), ("start_period", "StartPeriod")):
        if key in check:
            found[field] = nanoseconds(check[key], f"{where}.{key}")
    if "start_interval" in check:
        found["StartInterval"] = nanoseconds(check["start_interval"], f"{where}.start_interval")
    if "retries" in check:
        found["Retries"] = whole(check["retries"], f"{where}.retries")
    return found
