"""Pure decisions about who is a host: each takes a `Cluster` and gives the changes of one conditional commit.

Theory of operation. `decide_join` goes down this table; the first line that applies refuses, and says so. What does
not depend on the token comes after it, so that strangers learn nothing about the cluster.

    checked                                                    refusal
    the host's name, address, ports and key are well-formed    Invalid
    the token (`trust.token.judge`)                            Forbidden: unknown, forged, used, expired
    the clocks of both hosts differ by less than 5 minutes     Forbidden: clock skew
    the name is free, and nothing is left of a former holder   Conflict
    no other host has the address and port                     Conflict
    the host can encrypt, if the cluster does                  Forbidden: with what it lacks
    the cluster encrypts, if the host insists                  Conflict

The same host may repeat its own join, because the answer may have been lost: same token, same name, same key. It gets
a certificate again, and nothing is written. Everything else that changes is ONE commit: host record, token use, next
index; so one token lets in one host, however many ask at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from drover.api.founding import NEXT_INDEX_KEY, setting
from drover.decide.encryption import MAX_INDEX, is_encrypted
from drover.decide.sentences import count
from drover.errors import Conflict, DroverError, Forbidden, Invalid, NotFound
from drover.model.cluster import Change, Cluster, delete, put
from drover.model.records import Host, Scheduling, Setting, key
from drover.trust import token
from drover.trust.names import check_address, check_host_name
from drover.trust.wireguard import check_public_key

MAX_SKEW_S = 300.0
SHOWN = 5
LACKS_SHOWN = 200
USERSPACE = "wireguard-go"


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a joining host says. `csr`: PEM. `now`: its clock, in seconds since the Unix epoch."""

    token_id: str
    secret: str
    name: str
    address: str
    csr: str
    now: float
    labels: dict[str, str] = {}
    api_port: int = 4740
    tunnel_port: int = 4741
    wireguard_key: str = ""
    """Its public key, if it can encrypt."""
    lacks: str = ""
    """Why it cannot, if it cannot: a clause."""
    insists: bool = False
    """Whoever joins it wants it in no cluster that does not encrypt."""


class JoinAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a host needs to be one: its record, its certificate, the CA's key (PEM texts), and where the store answers.
    The CA's certificate it has already: it compared it with its token."""

    host: Host
    cluster_name: str
    certificate: str
    ca_key: str
    store_managed: bool
    store_endpoints: tuple[str, ...]
    encrypted: bool = False


class Decision(msgspec.Struct, frozen=True):
    """The changes of one commit, and the versions they rest on. No changes: nothing is to be done."""

    changes: tuple[Change, ...] = ()
    expect: Mapping[str, int] = {}
    host: Host | None = None


def decide_join(cluster: Cluster, request: JoinRequest, identity: str, now: float) -> Decision:
    """Take the host in, or raise the refusal of the module's table. `identity`: the key id of the request."""
    host = _wanted(cluster, request, identity, now)
    record = cluster.tokens.get(request.token_id)
    present = cluster.hosts.get(host.name)
    again = present is not None and present.id == host.id and record is not None and host.name in record.used_by
    refusal = token.judge(record, request.token_id, request.secret, now, again=host.name if again else "")
    if refusal or record is None:
        raise Forbidden(refusal, hint="create a new one on a host of the cluster: drover token create")
    _check_clock(request, now)
    if again:
        return Decision(host=present)
    _check_free(cluster, host)
    _check_encryption(cluster, request, host)
    return _decision(
        cluster,
        put(key("hosts", host.name), host),
        put(key("tokens", record.id), token.used(record, host.name)),
        put(NEXT_INDEX_KEY, Setting(value=str(host.index + 1))),
        host=host,
    )


def decide_removal(cluster: Cluster, name: str, *, force: bool, leaving: bool) -> Decision:
    """Forget a host. `leaving`: the host itself asks, so that it is alive is no objection. `force` overrides all but
    that a cluster has at least one host. Its store member is removed by the leader once the host's record is gone;
    until then the removal may be repeated."""
    if name not in cluster.hosts and name in cluster.members:
        return Decision()
    host = named(cluster, name)
    if len(cluster.hosts) == 1:
        raise Conflict(
            f"{name} is the only host of the cluster", hint="to end the cluster: drover leave --purge, on that host"
        )
    if not force:
        _check_removable(cluster, name, leaving)
    gone = [delete(key(table, name)) for table in ("host_facts", "lost") if name in cluster.tables.get(table, {})]
    return Decision(
        (delete(key("hosts", name)), *gone), {key("hosts", name): cluster.version(key("hosts", name))}, host
    )


def leftovers(cluster: Cluster, name: str) -> tuple[Change, ...]:
    """Removals of what a host that is gone had reported of containers and networks."""
    return tuple(
        delete(key(table, *rest.split("/")))
        for table in ("container_facts", "network_facts")
        for rest in cluster.tables.get(table, {})
        if rest.split("/", 1)[0] == name
    )


def decide_labels(cluster: Cluster, name: str, changed: Mapping[str, str], removed: Sequence[str]) -> Decision:
    """Set and remove labels; a label that is to be removed and is not there is no error."""
    check_labels(changed)
    host = named(cluster, name)
    kept = {label: value for label, value in host.labels.items() if label not in removed}
    return _decision_on_host(cluster, host, msgspec.structs.replace(host, labels={**kept, **changed}))


def decide_scheduling(cluster: Cluster, name: str, scheduling: Scheduling) -> Decision:
    """What a host is for from now on."""
    host = named(cluster, name)
    return _decision_on_host(cluster, host, msgspec.structs.replace(host, scheduling=scheduling))


def decide_taints(cluster: Cluster, name: str, changed: Mapping[str, str], removed: Sequence[str]) -> Decision:
    """Set and remove taints, as `decide_labels` does labels."""
    check_labels(changed)
    host = named(cluster, name)
    kept = {taint: value for taint, value in host.taints.items() if taint not in removed}
    return _decision_on_host(cluster, host, msgspec.structs.replace(host, taints={**kept, **changed}))


def named(cluster: Cluster, name: str) -> Host:
    host = cluster.hosts.get(name)
    if host is None:
        raise NotFound(f"no host is called {name}", hint="see `drover host ls`")
    return host


def check_labels(labels: Mapping[str, str]) -> None:
    for label in labels:
        if not label or any(letter.isspace() or letter == "=" for letter in label):
            raise Invalid(f"{label!r} cannot be a label's name", hint="use a name without spaces and equals signs")


def contents(cluster: Cluster, name: str) -> str:
    """What is on a host, as `2 containers (db, web) and 1 volume (data)`; empty if nothing is."""
    placed = [cid for cid, placement in cluster.placements.items() if placement.host == name]
    records = [cluster.containers.get(cid) for cid in placed]
    names = sorted(record.name if record else cid[:12] for cid, record in zip(placed, records, strict=True))
    volumes = sorted(volume.name for volume in cluster.volumes.values() if volume.host == name)
    return " and ".join(filter(None, (_things(names, "container"), _things(volumes, "volume"))))


def _things(names: Sequence[str], noun: str) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > SHOWN else ""
    return f"{count(len(names), noun)} ({', '.join(names[:SHOWN])}{more})"


def _wanted(cluster: Cluster, request: JoinRequest, identity: str, now: float) -> Host:
    """The record the joining host would get."""
    check_labels(request.labels)
    for port in (request.api_port, request.tunnel_port):
        if not 0 < port < 65_536:
            raise Invalid(f"{port} is no port", hint="use 1 to 65535")
    return Host(
        name=check_host_name(request.name),
        id=identity,
        index=_next_index(cluster),
        address=check_address(request.address),
        labels=request.labels,
        joined_at=now,
        api_port=request.api_port,
        tunnel_port=request.tunnel_port,
        wireguard_key=_key(cluster, request),
    )


def _key(cluster: Cluster, request: JoinRequest) -> str:
    """The host's public key, in a cluster that encrypts."""
    offered = request.wireguard_key if is_encrypted(cluster) else ""
    return check_public_key(offered) if offered else ""


def _next_index(cluster: Cluster) -> int:
    """Never one that was used before: the setting only grows, also when the host with the highest index is removed."""
    used = max((host.index for host in cluster.hosts.values()), default=0)
    return max(used + 1, int(setting(cluster, "next_index", "1")))


def _check_clock(request: JoinRequest, now: float) -> None:
    skew_s = abs(request.now - now)
    if skew_s > MAX_SKEW_S:
        raise Forbidden(
            f"the clock of {request.name} differs from the cluster's by {token.duration(skew_s)}",
            hint="set both clocks by a time service (chrony, systemd-timesyncd), then join again",
        )


def _check_encryption(cluster: Cluster, request: JoinRequest, host: Host) -> None:
    """What is decided once for a cluster holds for every host: never a part of it in clear."""
    if not is_encrypted(cluster):
        if request.insists:
            raise Conflict(
                "this cluster does not encrypt what containers say between hosts: it was made without --encrypt",
                hint="join without --encrypt, or make a new cluster: drover init --encrypt",
            )
        return
    if not host.wireguard_key:
        raise Forbidden(
            f"this cluster encrypts what containers say between hosts, and {host.name} cannot: "
            f"{request.lacks[:LACKS_SHOWN] or 'it did not offer a key'}",
            hint=f"give it a kernel with WireGuard (modprobe wireguard), or join it with --encrypt {USERSPACE}",
        )
    if host.index > MAX_INDEX:
        raise Conflict(f"a cluster that encrypts has addresses for {MAX_INDEX} hosts in its life, and all were used")


def _check_free(cluster: Cluster, host: Host) -> None:
    for other in cluster.hosts.values():
        if other.name == host.name:
            raise _taken(other)
        if (other.address, other.api_port) == (host.address, host.api_port):
            raise Conflict(
                f"address {host.address} port {host.api_port} is that of host {other.name}",
                hint=f"give another --address; if {other.name} is lost: drover host rm {other.name}",
            )
    left = "its store member" if host.name in cluster.members else contents(cluster, host.name)
    if left:
        raise Conflict(
            f"a former host called {host.name} is not gone completely: {left} still counts as there",
            hint="join under another --name, or wait until the cluster has moved it",
        )


def _taken(other: Host) -> DroverError:
    return Conflict(
        f"the name {other.name} is taken by the host at {other.address}",
        hint=f"join under another --name; if that host is lost: drover host rm {other.name}, then join again",
    )


def _check_removable(cluster: Cluster, name: str, leaving: bool) -> None:
    if name in cluster.alive and not leaving:
        raise Conflict(
            f"host {name} is alive", hint=f"run `drover leave` on {name}, or remove it with --force if you cannot"
        )
    on_it = contents(cluster, name)
    if on_it:
        raise Conflict(
            f"host {name} still has {on_it}",
            hint=f"run `drover host drain {name}` and wait until they have moved; --force gives up what is only there",
        )


def _decision_on_host(cluster: Cluster, old: Host, new: Host) -> Decision:
    return Decision(host=old) if new == old else _decision(cluster, put(key("hosts", new.name), new), host=new)


def _decision(cluster: Cluster, *changes: Change, host: Host) -> Decision:
    """Changes that rest on exactly the versions they replace."""
    return Decision(changes, {change.key: cluster.version(change.key) for change in changes}, host)
