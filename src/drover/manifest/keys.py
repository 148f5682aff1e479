"""Every key of Compose's canonical form: honoured, and how; or not, and why.

Theory of operation. `KEYS` is the one table. `unhonoured` walks a canonical manifest along it: what the table calls
`no` or `part`, and what it does not know, is named. `docs/manifests.md` shows the same table. In a path `*` is any name
of a mapping, items of a list have no step of their own, and a key whose inner keys are not listed is taken as a whole.

    verdict   means
    yes       does what Compose's reference says
    part      does so in some cases; named whenever it is used
    no        has no effect; named whenever it is used
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

Verdict = Literal["yes", "part", "no"]
ENGINE = "as the engine does"
BODY = "the create call"


class Key(msgspec.Struct, frozen=True):
    path: str
    verdict: Verdict
    how: str


def _rows(prefix: str, verdict: Verdict, how: str, names: str) -> tuple[Key, ...]:
    return tuple(Key(prefix + name, verdict, how) for name in names.split())


_S = "services.*."
_D = "services.*.deploy."
KEYS: tuple[Key, ...] = (
    Key("name", "yes", "the application's name, unless --name gives another"),
    Key("version", "yes", "obsolete; no meaning in Compose either"),
    Key("models", "no", "models are run by Docker Desktop only"),
    Key("services.*.image", "yes", "from any host that has it, else pulled"),
    Key("services.*.build", "no", "images are not built by a deployment: `docker compose build` at any host first"),
    Key("services.*.develop", "no", "`docker compose watch` is for development"),
    Key("services.*.attach", "no", "nothing is attached to"),
    Key("services.*.command", "yes", BODY),
    Key("services.*.entrypoint", "yes", BODY),
    Key("services.*.environment", "yes", BODY),
    Key("services.*.env_file", "yes", "read by Compose"),
    Key("services.*.label_file", "yes", "read by Compose"),
    Key("services.*.extends", "yes", "resolved by Compose"),
    Key("services.*.profiles", "yes", "--profile, resolved by Compose"),
    Key("services.*.labels", "yes", "of each container"),
    Key("services.*.annotations", "part", "only engines of API 1.43 and later"),
    Key("services.*.container_name", "yes", "of a service of one container"),
    *_rows(_S, "yes", BODY, "hostname domainname user working_dir tty stdin_open stop_signal stop_grace_period"),
    *_rows(_S, "yes", BODY, "cap_add cap_drop cgroup cgroup_parent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime"),
    *_rows(_S, "yes", BODY, "cpu_shares cpuset cpu_count cpu_percent device_cgroup_rules devices dns dns_opt"),
    *_rows(_S, "yes", BODY, "dns_search extra_hosts group_add init ipc isolation mac_address mem_swappiness"),
    *_rows(_S, "yes", BODY, "memswap_limit oom_kill_disable oom_score_adj pid privileged read_only runtime"),
    *_rows(_S, "yes", BODY, "security_opt shm_size storage_opt sysctls tmpfs ulimits userns_mode uts blkio_config"),
    *_rows(_S, "yes", "a limit of the container; placing counts it", "cpus mem_limit mem_reservation"),
    Key("services.*.pids_limit", "yes", BODY),
    Key("services.*.network_mode", "yes", "`service:NAME` binds to the host of that service's first container"),
    Key("services.*.volumes_from", "yes", "binds to the host of that container"),
    Key("services.*.links", "yes", "names for the linked service's first container"),
    Key("services.*.external_links", "yes", "names for containers of other applications"),
    Key("services.*.expose", "yes", BODY),
    Key("services.*.platform", "yes", "placed on hosts of that architecture"),
    Key("services.*.pull_policy", "yes", "always, missing, if_not_present and never; others as missing, and named"),
    Key("services.*.restart", "yes", "the engine's policy; the agent's for what holds claims"),
    Key("services.*.scale", "yes", "as deploy.replicas"),
    Key("services.*.gpus", "part", "passed to the engine; placing does not count devices"),
    Key("services.*.logging.driver", "yes", BODY),
    Key("services.*.logging.options", "yes", BODY),
    *_rows("services.*.healthcheck.", "yes", ENGINE, "test interval timeout retries start_period disable"),
    Key("services.*.healthcheck.start_interval", "part", "only engines of API 1.44 and later"),
    Key("services.*.depends_on.*.condition", "yes", "before a service's first containers are made"),
    Key("services.*.depends_on.*.required", "yes", "false: a service that is not there holds up nothing"),
    Key("services.*.depends_on.*.restart", "yes", "once a deployment has replaced the dependency's containers"),
    *_rows("services.*.ports.", "yes", "answered by every host", "target published protocol host_ip"),
    Key("services.*.ports.mode", "yes", "ingress: every host answers; host: the container's own host only"),
    *_rows("services.*.ports.", "yes", "for people; no effect in Docker either", "name app_protocol"),
    *_rows("services.*.networks.*.", "yes", "of its endpoint", "aliases ipv4_address mac_address driver_opts"),
    *_rows("services.*.networks.*.", "no", "cluster networks have no IPv6", "ipv6_address link_local_ips"),
    Key("services.*.networks.*.priority", "yes", "the network of the highest one is the container's first"),
    Key("services.*.networks.*.gw_priority", "no", "the engine's choice of a default route is by network name"),
    Key("services.*.networks.*.interface_name", "no", "interfaces are named by the engine"),
    *_rows("services.*.volumes.", "yes", "the container's mount", "type source target read_only"),
    Key("services.*.volumes.consistency", "yes", "no meaning on Linux"),
    Key("services.*.volumes.bind.create_host_path", "yes", "on the host where the container runs"),
    *_rows("services.*.volumes.bind.", "yes", ENGINE, "propagation selinux"),
    Key("services.*.volumes.bind.recursive", "part", "only engines of API 1.44 and later"),
    *_rows("services.*.volumes.volume.", "yes", ENGINE, "nocopy labels"),
    Key("services.*.volumes.volume.subpath", "part", "only engines of API 1.45 and later"),
    *_rows("services.*.volumes.tmpfs.", "yes", ENGINE, "size mode"),
    Key("services.*.volumes.image", "no", "mounts of images"),
    *_rows("services.*.configs.", "yes", "a file, read-only, from the cluster's store", "source target uid gid mode"),
    *_rows("services.*.secrets.", "yes", "a file in memory, read-only, from the store", "source target uid gid mode"),
    Key(_D + "mode", "yes", "replicated, global, replicated-job, global-job"),
    Key(_D + "replicas", "yes", "containers of the service"),
    Key(_D + "labels", "yes", "of the service: `drover app inspect`"),
    Key(_D + "endpoint_mode", "yes", "vip: one address per service; dnsrr: all addresses under its name"),
    Key(_D + "placement.constraints", "yes", "node.labels, node.hostname, node.platform, engine.labels"),
    Key(_D + "placement.preferences.spread", "yes", "over the values of a host label, containers evenly"),
    Key(_D + "placement.max_replicas_per_node", "yes", "a host that has as many takes no more"),
    *_rows(_D + "resources.limits.", "yes", "a limit of the container", "cpus memory pids"),
    *_rows(_D + "resources.reservations.", "yes", "placing counts it", "cpus memory"),
    Key(_D + "resources.reservations.devices", "part", "passed to the engine; placing does not count devices"),
    Key(_D + "resources.reservations.generic_resources", "no", "hosts have no generic resources"),
    Key(_D + "restart_policy.condition", "yes", "none, on-failure, any"),
    Key(_D + "restart_policy.max_attempts", "yes", "restarts before a container is left alone"),
    Key(_D + "restart_policy.delay", "yes", "before each restart; 0: Docker's own growing delay"),
    Key(_D + "restart_policy.window", "yes", "how long a restart counts against max_attempts; 0: until the next start"),
    *(
        Key(f"{_D}{section}.{name}", "yes", how)
        for section in ("update_config", "rollback_config")
        for name, how in (
            ("parallelism", "how many at a time; 0: all"),
            ("delay", "between one group and the next"),
            ("order", "stop-first or start-first"),
            ("failure_action", "pause, continue, rollback"),
            ("monitor", "how long a new container must be good before the next one (default 5s)"),
            ("max_failure_ratio", "of the service's containers"),
        )
    ),
    Key("services.*.credential_spec", "no", "for Windows"),
    Key("services.*.models", "no", "models are run by Docker Desktop only"),
    Key("services.*.provider", "no", "providers are run by Compose only"),
    Key("services.*.post_start", "no", "no commands are run in containers by a deployment"),
    Key("services.*.pre_stop", "no", "no commands are run in containers by a deployment"),
    Key("services.*.use_api_socket", "no", "mount /run/drover/docker.sock, where that is wanted"),
    Key("services.*.volume_driver", "no", "give the volume a driver"),
    Key("services.*.x-drover.addresses", "yes", "fixed addresses of the service's containers, in order"),
    Key("services.*.x-drover.reschedule_after", "yes", "how long a lost host is waited for"),
    Key("services.*.x-drover.reschedule", "yes", "off: stays with its host"),
    Key("services.*.x-drover.zone", "yes", "only hosts with that label `zone`"),
    Key("services.*.x-drover.affinity", "yes", "as the label `drover.affinity`"),
    Key("services.*.x-drover.schedule", "yes", "a cron expression: a container for each time"),
    Key("services.*.x-drover.timezone", "yes", "of the schedule (default UTC)"),
    Key("services.*.x-drover.concurrency", "yes", "while one still runs: forbid (default), allow, replace"),
    Key("services.*.x-drover.keep", "yes", "ended runs to keep (default 5)"),
    *_rows("networks.*.", "yes", "the network's create call", "name driver driver_opts internal attachable labels"),
    Key("networks.*.external", "yes", "must be there"),
    *_rows("networks.*.ipam.", "yes", "the network's create call", "driver config options"),
    Key("networks.*.enable_ipv4", "yes", "cluster networks have IPv4 always"),
    Key("networks.*.enable_ipv6", "no", "cluster networks have no IPv6"),
    *_rows("volumes.*.", "yes", "the volume's create call", "name driver driver_opts labels"),
    Key("volumes.*.external", "yes", "must be there"),
    *_rows("volumes.*.x-drover.", "yes", "as the volume's option", "driver replicas interval"),
    *_rows("configs.*.", "yes", "kept in the cluster's store", "name file content environment"),
    *_rows("secrets.*.", "yes", "kept in the cluster's store", "name file environment"),
    *_rows("configs.*.", "no", "kept per application", "external template_driver labels driver driver_opts"),
    *_rows("secrets.*.", "no", "kept per application", "external template_driver labels driver driver_opts"),
)
_BY_PATH = {row.path: row for row in KEYS}
_INNER = frozenset(".".join(row.path.split(".")[:depth]) for row in KEYS for depth in range(1, row.path.count(".") + 1))


def table() -> str:
    """The table as Markdown, rows with the same verdict and words together."""
    grouped: dict[tuple[str, Verdict, str], list[str]] = {}
    for row in KEYS:
        head, _, name = row.path.rpartition(".")
        grouped.setdefault((head, row.verdict, row.how), []).append(name)
    lines = [f"| {_shown(head, names)} | {verdict} | {how} |" for (head, verdict, how), names in grouped.items()]
    return "\n".join(["| key | honoured | how |", "|---|---|---|", *lines, ""])


def _shown(head: str, names: list[str]) -> str:
    """`services.web.deploy.` is said as `services.*.deploy.`; the names after it."""
    prefix = f"{head}." if head else ""
    return ", ".join(f"`{prefix}{name}`" if index == 0 else f"`{name}`" for index, name in enumerate(names))


def unhonoured(canonical: dict[str, Any]) -> list[str]:
    """One sentence per key that is not honoured, or not known; in the manifest's order."""
    return list(dict.fromkeys(_walk("", "", canonical)))


def _walk(pattern: str, path: str, value: Any) -> Iterator[str]:
    """`pattern` is the path with `*` for names."""
    if isinstance(value, list):
        for item in value:
            yield from _walk(pattern, path, item)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _entry(pattern, path, str(name), inner)


def _entry(pattern: str, path: str, name: str, value: Any) -> Iterator[str]:
    known = f"{pattern}.*" if f"{pattern}.*" in _INNER else f"{pattern}.{name}".lstrip(".")
    here = f"{path}.{name}".lstrip(".")
    row = _BY_PATH.get(known)
    if row is not None:
        if row.verdict != "yes" and not _is_nothing(value):
            yield f"{here} is not honoured{' everywhere' if row.verdict == 'part' else ''}: {row.how}"
    elif known in _INNER:
        yield from _walk(known, here, value)
    elif (not name.startswith("x-") or name == "x-drover") and not _is_nothing(value):
        yield f"{here} is not honoured: this version of drover does not know it"


def _is_nothing(value: Any) -> bool:
    """What Compose writes for a key that nobody gave; `false` for a switch that is off anyway."""
    return value is None or value is False or value == {} or value == []
