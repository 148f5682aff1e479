"""A service's `deploy` section and `x-drover`: how many, where, how replaced, and when.

What the scheduler decides on travels in labels of the containers, as with `docker run --label`:

    manifest                                  label
    placement.constraints, x-drover.zone      drover.constraint
    placement.preferences                     drover.spread
    placement.max_replicas_per_node           drover.max_per_host
    resources.reservations.cpus               drover.cpus
    endpoint_mode: dnsrr                      drover.endpoint_mode
    ports with mode: host                     drover.publish
    x-drover.affinity                         drover.affinity
    restart_policy.delay, window, and         drover.restart.delay, .window, .attempts
      max_attempts where Docker has none
    x-drover.reschedule, .reschedule_after    drover.reschedule, drover.reschedule_after
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from drover.errors import Invalid
from drover.manifest.endpoints import publishes_on_host
from drover.manifest.values import duration_s, mapping, number, one_of, whole
from drover.model.apps import MAX_PER_HOST_LABEL, SPREAD_LABEL, Dependency, Mode, Schedule, UpdatePolicy
from drover.model.expression import parse_expression
from drover.model.restart_rules import ATTEMPTS_LABEL, DELAY_LABEL, WINDOW_LABEL
from drover.model.spec import AFFINITY_LABEL, CONSTRAINT_LABEL, CPUS_LABEL, PUBLISH_LABEL

MODES = ("replicated", "global", "replicated-job", "global-job")
CONDITIONS = ("service_started", "service_healthy", "service_completed_successfully")
ENDPOINT_MODE_LABEL = "drover.endpoint_mode"
_CONSTRAINT = re.compile(r"\s*(?P<key>[\w.\-/]+)\s*(?P<operator>==|!=)\s*(?P<value>.+?)\s*")
_FACTS = {"node.hostname": "host", "node.platform.os": "os", "node.platform.arch": "architecture"}
_PREFIXES = ("node.labels.", "engine.labels.")


def mode_of(service: Mapping[str, Any], where: str) -> Mode:
    deploy = mapping(service.get("deploy"), f"{where}.deploy")
    mode: Mode = one_of(deploy.get("mode") or "replicated", MODES, f"{where}.deploy.mode")
    return mode


def replicas_of(service: Mapping[str, Any], where: str) -> int:
    """`deploy.replicas`, else `scale`, else 1."""
    deploy = mapping(service.get("deploy"), f"{where}.deploy")
    asked = deploy.get("replicas", service.get("scale"))
    found = 1 if asked is None else whole(asked, f"{where}.deploy.replicas")
    if found < 0:
        raise Invalid(f"{where}.deploy.replicas is {found}: a service cannot have fewer than none")
    return found


def policy_of(service: Mapping[str, Any], section: str, where: str) -> UpdatePolicy:
    """`section`: `update_config` or `rollback_config`."""
    asked = mapping(mapping(service.get("deploy"), where).get(section), f"{where}.deploy.{section}")
    here = f"{where}.deploy.{section}"
    allowed = ("pause", "continue", "rollback") if section == "update_config" else ("pause", "continue")
    return UpdatePolicy(
        parallelism=whole(asked.get("parallelism", 1), f"{here}.parallelism"),
        delay_s=duration_s(asked.get("delay") or 0, f"{here}.delay"),
        order=one_of(asked.get("order") or "stop-first", ("stop-first", "start-first"), f"{here}.order"),
        failure_action=one_of(asked.get("failure_action") or "pause", allowed, f"{here}.failure_action"),
        monitor_s=duration_s(asked.get("monitor") or 0, f"{here}.monitor") or UpdatePolicy().monitor_s,
        max_failure_ratio=number(asked.get("max_failure_ratio") or 0, f"{here}.max_failure_ratio"),
    )


def dependencies(service: Mapping[str, Any], where: str) -> tuple[Dependency, ...]:
    """`depends_on`, and what `network_mode: service:NAME`, `volumes_from` and `links` imply. As Compose reads them, who
    links to a service or shares its namespaces follows it when it is replaced."""
    asked = mapping(service.get("depends_on"), f"{where}.depends_on")
    shared, mounted, linked = _shared(service), _services(service.get("volumes_from")), _services(service.get("links"))
    found = {name: _dependency(name, mapping(one, where), where) for name, one in asked.items()}
    for name in (*shared, *mounted, *linked):
        found.setdefault(name, Dependency(name, restart=name in linked))
    return tuple(
        msgspec.structs.replace(
            one, restart=one.restart or one.service in shared, shares=one.service in (*shared, *mounted)
        )
        for one in found.values()
    )


def _dependency(name: str, asked: dict[str, Any], where: str) -> Dependency:
    condition = one_of(asked.get("condition") or CONDITIONS[0], CONDITIONS, f"{where}.depends_on.{name}.condition")
    return Dependency(name, condition, bool(asked.get("required", True)), bool(asked.get("restart")))


def _shared(service: Mapping[str, Any]) -> list[str]:
    """The services of whose containers it uses namespaces."""
    modes = [str(service.get(key) or "") for key in ("network_mode", "pid", "ipc")]
    return [mode.removeprefix("service:") for mode in modes if mode.startswith("service:")]


def _services(references: Iterable[Any] | None) -> list[str]:
    """The services among references `SERVICE[:…]` and `container:NAME[:…]`."""
    return [str(one).partition(":")[0] for one in references or () if not str(one).startswith("container:")]


def schedule_of(service: Mapping[str, Any], where: str) -> Schedule | None:
    """`x-drover: {schedule, timezone, concurrency, keep}`. Raises `Invalid` for what is no cron expression or zone."""
    asked = mapping(service.get("x-drover"), f"{where}.x-drover")
    if not asked.get("schedule"):
        return None
    found = Schedule(
        cron=str(asked["schedule"]),
        timezone=str(asked.get("timezone") or "UTC"),
        concurrency=one_of(
            asked.get("concurrency") or "forbid", ("allow", "forbid", "replace"), f"{where}.x-drover.concurrency"
        ),
        keep=whole(asked.get("keep", 5), f"{where}.x-drover.keep"),
    )
    _check_schedule(found, where)
    return found


def _check_schedule(schedule: Schedule, where: str) -> None:
    from datetime import UTC, datetime

    try:
        ZoneInfo(schedule.timezone)
        CronSim(schedule.cron, datetime(2024, 1, 1, tzinfo=UTC))
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise Invalid(f"{where}.x-drover.timezone: {schedule.timezone!r} is no time zone: {error}") from error
    except CronSimError as error:
        raise Invalid(
            f"{where}.x-drover.schedule: {schedule.cron!r} is no cron expression: {error}",
            hint='minute hour day month weekday, for instance "*/5 * * * *"',
        ) from error


def _restart_labels(policy: Mapping[str, Any], where: str) -> dict[str, str]:
    """What of `deploy.restart_policy` Docker's own policy has no word for; nothing where that says it all. A window
    without a limit has nothing to count, and only `on-failure` has a limit in Docker."""
    condition = str(policy.get("condition") or "any")
    delay_s = duration_s(policy.get("delay") or 0, f"{where}.delay")
    window_s = duration_s(policy.get("window") or 0, f"{where}.window")
    attempts = whole(policy.get("max_attempts") or 0, f"{where}.max_attempts")
    if condition == "none":
        return {}
    return {
        DELAY_LABEL: f"{delay_s:g}" if delay_s else "",
        WINDOW_LABEL: f"{window_s:g}" if window_s and attempts else "",
        ATTEMPTS_LABEL: str(attempts) if attempts and (window_s or condition != "on-failure") else "",
    }


def labels_of(service: Mapping[str, Any], where: str) -> dict[str, str]:
    """The labels by which the scheduler and the network know what is asked; the module's table."""
    deploy = mapping(service.get("deploy"), f"{where}.deploy")
    placement = mapping(deploy.get("placement"), f"{where}.deploy.placement")
    own = mapping(service.get("x-drover"), f"{where}.x-drover")
    reserved = mapping(mapping(deploy.get("resources"), where).get("reservations"), where)
    spread = [str(one["spread"]) for one in placement.get("preferences") or () if one.get("spread")]
    labels = {
        CONSTRAINT_LABEL: ";".join(_constraints(placement, own, where)),
        SPREAD_LABEL: ";".join(_host_key(one) or one for one in spread),
        MAX_PER_HOST_LABEL: str(placement.get("max_replicas_per_node") or ""),
        CPUS_LABEL: str(reserved.get("cpus") or ""),
        ENDPOINT_MODE_LABEL: "dnsrr" if deploy.get("endpoint_mode") == "dnsrr" else "",
        PUBLISH_LABEL: "host" if publishes_on_host(service) else "",
        AFFINITY_LABEL: _joined(own.get("affinity")),
        **_restart_labels(mapping(deploy.get("restart_policy"), where), f"{where}.deploy.restart_policy"),
        "drover.reschedule": _switch(own.get("reschedule")),
        "drover.reschedule_after": _patience(own, where),
    }
    return {name: value for name, value in labels.items() if value}


def _joined(value: Any) -> str:
    return ";".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _switch(value: Any) -> str:
    """YAML reads `off` as false."""
    return "off" if value is False or value == "off" else ""


def _patience(own: Mapping[str, Any], where: str) -> str:
    if "reschedule_after" not in own:
        return ""
    return f"{duration_s(own['reschedule_after'], f'{where}.x-drover.reschedule_after'):g}"


def _constraints(placement: Mapping[str, Any], own: Mapping[str, Any], where: str) -> list[str]:
    asked = [translated for one in placement.get("constraints") or () if (translated := constraint(str(one)))]
    zone = [f"zone=={own['zone']}"] if own.get("zone") else []
    for text in [*asked, *zone]:
        parse_expression(text, "constraint")
    return [*asked, *zone]


def constraint(text: str) -> str:
    """Swarm's `node.labels.zone==a` as Drover's `zone==a`; empty for one that has no meaning here (`node.role`,
    `node.id`), which is named among what is not honoured."""
    found = _CONSTRAINT.fullmatch(text)
    if found is None:
        return text
    key = _host_key(found["key"])
    return f"{key}{found['operator']}{found['value']}" if key else ""


def _host_key(key: str) -> str:
    """What a key of Swarm's is called among a host's labels and facts; empty for one that has no meaning here."""
    for prefix in _PREFIXES:
        if key.startswith(prefix):
            return key.removeprefix(prefix)
    return _FACTS.get(key, "" if key.startswith("node.") else key)
