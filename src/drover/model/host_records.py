"""The records of hosts; `records.TABLES` says where each is kept and who writes it."""

from __future__ import annotations

from typing import Literal

from drover.model.record import Record

Scheduling = Literal["active", "pause", "drain", "shutdown"]
"""What a host is for: everything; nothing new; nothing at all; nothing, because the machine goes down."""


class Host(Record, frozen=True):
    """A member of the cluster. `index` (1..) is unique and never used again; it derives host addresses."""

    name: str
    id: str
    index: int
    address: str
    labels: dict[str, str] = {}
    scheduling: Scheduling = "active"
    taints: dict[str, str] = {}
    """Only containers that tolerate all of them are placed here."""
    joined_at: float = 0.0
    api_port: int = 4740
    tunnel_port: int = 4741
    wireguard_key: str = ""
    """Its public key (base64), in a cluster that encrypts."""


class Alive(Record, frozen=True):
    """Present exactly while the host's lease is held. `session` changes at each start of its daemon."""

    host: str
    session: str
    since: float = 0.0
    resting: bool = False
    """Its daemon has ended in order, and another one is to follow."""


class HostLost(Record, frozen=True):
    """Noted by the leader when a host's `Alive` key is gone; `at` is when the leader saw that. Removed when the host
    is back. It is shown to people and proves nothing: only the lease does."""

    host: str
    at: float = 0.0


class Suspect(Record, frozen=True):
    """The leader does not hear the daemon of a host whose lease is still held in `session`. It proves nothing: what
    holds claims waits for the end of the lease; but its successors are made ready meanwhile.

    `closed`: its daemon has ended (the connection was closed, and nobody listens); else nothing is heard at all.
    `targets`: container id to the host where it would go on.
    """

    host: str
    session: str
    closed: bool = False
    at: float = 0.0
    targets: dict[str, str] = {}
