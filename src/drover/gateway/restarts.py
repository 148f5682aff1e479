"""Restart policies of containers that the agent restarts: the client's in what it reads, `no` in what its engine does.

    call                          the engine           the record                the client
    POST /containers/create       is told `no`         keeps the client's own, if it is one
    POST /containers/X/update     is told no policy    gets the new one, if it is one
    GET /containers/X/json        says `no`                                      reads its own

Why: nothing that holds claims may start by itself on a host that has lost them (`docs/adr/0004-fencing.md`), and an
engine knows no rules like `drover.restart.delay`; the host's agent starts it again, by the client's policy. Other
containers keep their engine's restarts; their record gets a new policy that the engine has taken, too, so that it goes
along when they move.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from drover.decide.restarts import by_agent
from drover.errors import Invalid
from drover.gateway.context import decoded
from drover.model import records as r
from drover.model.cluster import Cluster
from drover.model.spec import Spec

Policy = dict[str, Any]
NO_POLICY: Policy = {"Name": "no", "MaximumRetryCount": 0}


class _Policy(msgspec.Struct, rename="pascal"):
    name: str | None = None
    maximum_retry_count: int | None = None


class _Update(msgspec.Struct, rename="pascal"):
    restart_policy: _Policy | None = None


class _Asked(msgspec.Struct, rename="pascal"):
    restart_policy: Policy | None = None


class _Body(msgspec.Struct, rename="pascal"):
    host_config: _Asked | None = None


def asked_policy(update_body: str) -> Policy | None:
    """The policy of an update call; None if it changes none (the docker command then sends an empty name). Raises
    `Invalid` for what is no policy at all."""
    policy = decoded(update_body or "{}", _Update).restart_policy
    if policy is None or not policy.name:
        return None
    return {"Name": policy.name, "MaximumRetryCount": policy.maximum_retry_count or 0}


def refuse_policy(policy: Policy, *, auto_remove: bool = False) -> None:
    """Raise the engine's `Invalid` for a policy that it would refuse if it were told, as it is not of claim holders."""
    name, most = policy["Name"], policy["MaximumRetryCount"]
    if name not in ("no", "always", "unless-stopped", "on-failure"):
        raise Invalid(f"invalid restart policy '{name}'")
    if name != "on-failure" and most:
        raise Invalid(f"maximum retry count cannot be used with restart policy '{name}'")
    if most < 0:
        raise Invalid("maximum retry count cannot be negative")
    if auto_remove and name != "no":
        raise Invalid("can't create 'AutoRemove' container with restart policy")


def refuse_untold(spec: Spec) -> None:
    """`refuse_policy` for a container to be made, if its engine may not hear of its policy."""
    pinned = any(endpoint.ipv4 for endpoint in spec.networks.values())
    untold = spec.volume_names or spec.volumes_from or pinned or spec.restart_rules
    if spec.restart_policy != "no" and untold:
        policy = {"Name": spec.restart_policy, "MaximumRetryCount": spec.restart_max}
        refuse_policy(policy, auto_remove=spec.auto_remove)


def without_policy(update_body: str) -> str:
    return json.dumps({name: value for name, value in json.loads(update_body).items() if name != "RestartPolicy"})


def with_policy(record: r.Container, policy: Policy) -> r.Container:
    """The record with another policy in its create body."""
    body = json.loads(record.body or "{}")
    body["HostConfig"] = {**(body.get("HostConfig") or {}), "RestartPolicy": policy}
    return msgspec.structs.replace(record, body=json.dumps(body))


def needs_own_policy(cluster: Cluster, record: r.Container) -> bool:
    """Whether the engine's word on the policy differs from the client's."""
    return by_agent(cluster, record) and _policy(record) != NO_POLICY


def own_policy(record: r.Container) -> Callable[[bytes], bytes]:
    """The edit of an inspect answer: only its HostConfig is decoded."""

    def edit(body: bytes) -> bytes:
        whole = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        if "HostConfig" not in whole:
            return body
        host = msgspec.json.decode(whole["HostConfig"], type=dict[str, msgspec.Raw])
        shown: dict[str, Any] = {**host, "RestartPolicy": _policy(record)}
        return msgspec.json.encode({**whole, "HostConfig": shown}) + b"\n"

    return edit


def _policy(record: r.Container) -> Policy:
    asked = msgspec.json.decode(record.body or "{}", type=_Body).host_config
    policy = (asked.restart_policy if asked else None) or NO_POLICY
    return {"Name": policy.get("Name") or "no", "MaximumRetryCount": policy.get("MaximumRetryCount") or 0}
