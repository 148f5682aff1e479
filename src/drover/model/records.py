"""The records of a cluster: what the store holds, one frozen value per key.

Theory of operation. The store maps keys to records. A key is `table/name` or `table/name/name`; `TABLES` says
which type lives in which table, and `key()` builds keys. Each table has exactly one kind of writer:

    table              key                    writer     says
    hosts              host                   people     a host is a member, its labels, whether it drains
    alive              host                   its host   the host's lease is held (the key vanishes with the lease)
    lost               host                   leader     since when the host's lease is not held
    suspects           host                   leader     its daemon is not heard, and where its containers would go
    host_facts         host                   its host   engine version, cores, memory, what the host offers
    containers         container id           people     WHAT should exist, and the last order given about it
    names              container name         people     which container has the name (uniqueness = the key)
    placements         container id           leader     WHERE it runs, with an epoch that only grows, and why
    container_facts    host/container id      its host   what that host's engine last showed of it
    networks           network id             people     a cluster network
    network_names      network name           people     which network has the name
    network_facts      host/network id        its host   the network's id on that host's engine
    addresses          network id/ip          leader     which container answers for the address
    kept_addresses     network id/ip          its host   nobody has the address, and for which name it is kept
    ports              host or */proto/port   people     which container has the published port
    service_addresses  ip                     leader     which service answers for the address
    volumes            volume name            people     a cluster volume and which host may write it, with an epoch
    volume_facts       host/volume name       its host   what that host's disk has of the volume
    volume_space       host/driver            its host   what a volume driver's disk has there
    moves              container id or volume people     a container or volume is to go to another host; how far it is
    move_facts         host/key of the move   its host   how the copying goes
    tokens             token id               people     a join token (hash only)
    members            host                   leader     the host runs a member of the store
    settings           name                   people     cluster-wide settings
    adapters           current or previous    people     the hooks' configuration, and the one before it
    apps               application            people     what a manifest asks for (`model.apps`)
    deployments        application            leader     how far its rollouts are, and its jobs' last runs
    app_troubles       application            leader     what of it could not be done, and why
    files              application/file id    people     the content of a config or secret
    events             revision-number        leader     what happened, in plain words; the last 1000
    event_hooks        hook id                people     whom to tell of events, and how far that is (the leader's)

On acceptance of a call the gateway writes for people and, with `decide.schedule`, in place of the leader, in one
conditional commit. Times are seconds since the Unix epoch; they are shown, never compared to prove a death.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from drover.model.app_records import App as App
from drover.model.app_records import AppFile as AppFile
from drover.model.app_records import AppTroubles as AppTroubles
from drover.model.app_records import Deployment as Deployment
from drover.model.app_records import Event as Event
from drover.model.app_records import EventHook as EventHook
from drover.model.backup_records import Backup as Backup
from drover.model.backup_records import BackupFacts as BackupFacts
from drover.model.backup_records import Fill as Fill
from drover.model.host_records import Alive as Alive
from drover.model.host_records import Host as Host
from drover.model.host_records import HostLost as HostLost
from drover.model.host_records import Scheduling as Scheduling
from drover.model.host_records import Suspect as Suspect
from drover.model.record import Record as Record

Desired = Literal["created", "running", "stopped", "removed"]
Phase = Literal["copying", "stopping", "stopped", "handed", "done", "aborting", "aborted"]
Part = Literal["layer", "log"]
Verb = Literal["create", "start", "stop", "kill", "restart", "remove", "rename", "update", "connect", "disconnect"]


class HostFacts(Record, frozen=True):
    """What a host's daemon saw of its engine. `engine_ok` false: the engine does not answer since `at`."""

    host: str
    engine_ok: bool = True
    engine_version: str = ""
    api_version: str = ""
    min_api_version: str = ""
    os: str = ""
    arch: str = ""
    kernel: str = ""
    storage_driver: str = ""
    log_driver: str = ""
    """The engine's default."""
    cpus: int = 0
    memory_bytes: int = 0
    engine_labels: dict[str, str] = {}
    predefined_networks: dict[str, str] = {}
    """Names (bridge, host, none) to this engine's ids of them."""
    volume_drivers: tuple[str, ...] = ()
    """What the host offers for volumes, its default first."""
    devices: tuple[str, ...] | None = None
    """Which of the notable devices (`model.devices`) it has; None: not known."""
    disk_bytes: int = 0
    disk_free_bytes: int = 0
    """The file system of the engine's data; what is free is rounded down, so that it does not change all the time."""
    disk_low: str = ""
    """What is the matter with that file system, as a sentence; empty if there is room."""
    synchronous_drivers: tuple[str, ...] = ()
    """Those of them with which what is written is at once there for every host."""
    message: str = ""
    at: float = 0.0


class Order(Record, frozen=True):
    """The last lifecycle call about a container; `number` only grows. The host's answer carries the number back.

    `query` is the client's query string and `body` its JSON text, both as received, so that the engine can be
    asked exactly what the client asked.
    """

    number: int = 1
    verb: Verb = "create"
    query: str = ""
    body: str = ""


class Answer(Record, frozen=True):
    """What the engine said to the order with this number: HTTP status, its message or JSON body as text."""

    number: int = 0
    status: int = 0
    message: str = ""
    body: str = ""


class Container(Record, frozen=True):
    """WHAT should exist. `body` is the create call's JSON text, as received; `image_id` what its image meant then."""

    id: str
    name: str
    body: str
    image_id: str = ""
    platform: str = ""
    desired: Desired = "created"
    order: Order = Order()
    created_at: float = 0.0
    attachments: dict[str, str] = {}
    """Network id to the JSON text of the endpoint settings, for networks joined by `network connect`."""
    left: tuple[str, ...] = ()
    """Networks of its create call that it was disconnected from since: ids, and the names of engines' own."""
    name_made_up: bool = False
    """The client gave no name: nobody will ask for this one again."""


class Name(Record, frozen=True):
    """Which container has a name, or which network."""

    id: str


class Placement(Record, frozen=True):
    """WHERE a container runs. `reasons`: one sentence per host considered, `chosen` says why this one."""

    container: str
    host: str
    epoch: int = 1
    chosen: str = ""
    reasons: dict[str, str] = {}
    at: float = 0.0


class ContainerFacts(Record, frozen=True):
    """What one host's engine last showed of a container. `state` is Docker's, or `missing`, or `failed` (not made)."""

    container: str
    host: str
    engine_id: str = ""
    state: str = "missing"
    exit_code: int = 0
    oom: bool = False
    """Its last process was killed because it used more memory than it may."""
    health: str = ""
    unhealthy_restarts: int = 0
    """How often it was restarted because its health check failed, since it was healthy last."""
    restarts: int = 0
    """How often its agent has started it again, as far as that counts against a limit."""
    error: str = ""
    pid: int = 0
    started_at: str = ""
    finished_at: str = ""
    image: str = ""
    epoch: int = 0
    interrupted: bool = False
    """Drover stopped it (a fence, a move that goes on): its process ended, and it has not finished."""
    answer: Answer = Answer()
    progress: str = ""
    at: float = 0.0


class Network(Record, frozen=True):
    """A cluster network: `body` is the create call's JSON text; `vni` its VXLAN network identifier (0: none)."""

    id: str
    name: str
    body: str
    driver: str = "bridge"
    subnet: str = ""
    gateway: str = ""
    vni: int = 0
    created_at: float = 0.0


class NetworkFacts(Record, frozen=True):
    network: str
    host: str
    engine_id: str = ""


class Address(Record, frozen=True):
    """The claim to answer for an address: one live holder (P2)."""

    network: str
    ip: str
    container: str
    epoch: int = 1
    mac: str = ""


class KeptAddress(Record, frozen=True):
    """An address that nobody has, kept since `at` for the next container called `name`: the last one, `container`,
    is gone. Never there beside a claim to the same address. `epoch` and `mac` are those of the claim that ended."""

    network: str
    ip: str
    name: str
    container: str = ""
    epoch: int = 1
    mac: str = ""
    at: float = 0.0


class Port(Record, frozen=True):
    """The claim to a published port: of one host, or of every host (`*`).

    `container_port` is where it leads; 0: the host's engine publishes it. `host_ip`: the only address of the host that
    answers, empty for all. `service`: containers of this service (`project/name`) share the port, if not empty.
    """

    host: str
    protocol: str
    port: int
    container: str
    epoch: int = 1
    container_port: int = 0
    host_ip: str = ""
    service: str = ""


class ServiceAddress(Record, frozen=True):
    """The claim of a service (`project/name`) to a virtual address, answered on one network."""

    ip: str
    network: str
    service: str


class Volume(Record, frozen=True):
    """A cluster volume. `host` holds the claim to write it (empty: never used yet); `epoch` only grows."""

    name: str
    body: str
    driver: str = ""
    """Empty: the default of the host that uses it first, which then says so in its facts."""
    host: str = ""
    epoch: int = 1
    snapshot: str = ""
    """The live set of this epoch is made from it; empty in the first epoch: it begins empty."""
    since: str = ""
    """Snapshots up to this one are of what the volume was before it was rolled back or restored."""
    note: str = ""
    """What the last promotion after a death may have lost, as a sentence."""
    replicas: int = 1
    interval_s: float = 5.0
    size_bytes: int = 0
    """How large it may grow; 0: as far as the disk goes."""
    sync: bool = False
    read_only: bool = False
    """Engines mount it read-only."""
    filling: Fill | None = None
    """What its live set is about to become: until that is done nobody may use it."""
    backup: Backup | None = None
    created_at: float = 0.0
    removed: bool = False
    """The host removes the data, then the record."""


class VolumeFacts(Record, frozen=True):
    """What a host's disk has of a volume: the epoch of the live set (0: none) and the complete snapshots, oldest
    first. `synced_at`: when a replica was last found equal to the live set, by the holder's clock."""

    volume: str
    host: str
    driver: str = ""
    epoch: int = 0
    had: int = 0
    """The newest epoch whose live set was ever here: also if the disk is not there any more."""
    snapshots: tuple[str, ...] = ()
    size_bytes: int = 0
    limit_bytes: int = 0
    """How large the driver lets it grow (0: it sets no limit)."""
    synced_at: float = 0.0
    message: str = ""
    """What is wrong with it here, as a sentence; empty if nothing is."""
    backup: BackupFacts = BackupFacts()
    at: float = 0.0


class VolumeSpace(Record, frozen=True):
    """What a driver's disk has on a host, in bytes (rounded: a change of a hundredth is worth a write). `message`: why
    nothing is known of it."""

    host: str
    driver: str
    total_bytes: int = 0
    free_bytes: int = 0
    message: str = ""
    at: float = 0.0


class Move(Record, frozen=True):
    """A container with its volumes, or a volume alone (`container` empty), goes from `source` to `target`.

    `number` tells this move from earlier ones of the same key. `final`: each volume's last snapshot, taken when the
    container was stopped. `running`: it ran before, so it is started again, wherever. `leave`: what of its own files
    stays behind. `listening`: the TCP ports it listened on before the stop. `decide.moves` has the phases.
    """

    source: str
    target: str
    container: str = ""
    volumes: tuple[str, ...] = ()
    number: int = 1
    phase: Phase = "copying"
    why: str = ""
    final: dict[str, str] = {}
    running: bool = False
    leave: tuple[Part, ...] = ()
    listening: tuple[int, ...] = ()
    limit_bytes_s: int = 0
    compress: bool = False
    grace_s: int = -1
    """How long the container may take to stop; -1: as its own settings say."""
    because: str = ""
    """Why it is moved, if nobody asked for this very move."""
    started_at: float = 0.0
    stopping_at: float = 0.0
    stopped_at: float = 0.0
    handed_at: float = 0.0
    ended_at: float = 0.0


class MoveFacts(Record, frozen=True):
    """How the copying goes, by its target. `left_s`: the estimate of what is left of the first round (-1: unknown);
    `last_bytes`: what travelled after the stop."""

    host: str
    number: int = 0
    rounds: int = 0
    moved_bytes: int = 0
    last_bytes: int = 0
    rate_bytes_s: float = 0.0
    left_s: float = -1.0
    message: str = ""
    at: float = 0.0


class Token(Record, frozen=True):
    """A join token. Only the SHA-256 of its secret is kept. `used_by`: hosts that joined with it."""

    id: str
    secret_sha256: str
    created_at: float
    expires_at: float
    reusable: bool = False
    used_by: tuple[str, ...] = ()


class Member(Record, frozen=True):
    """A host that runs a member of the store. A `learner` has no vote yet. `host_id` is the host's when it became
    one: a host that was removed and joined again has another id, and must not take up the old member."""

    host: str
    peer_url: str
    client_url: str
    state: Literal["starting", "learner", "voter"] = "starting"
    initial_cluster: str = ""
    member_id: str = ""
    host_id: str = ""


class Setting(Record, frozen=True):
    value: str


class Adapters(Record, frozen=True):
    """The hooks' configuration: the text of an `adapters.yml`, checked before it was written."""

    text: str
    applied_at: float = 0.0


TABLES: dict[str, type[Record]] = {
    "hosts": Host,
    "alive": Alive,
    "lost": HostLost,
    "suspects": Suspect,
    "host_facts": HostFacts,
    "containers": Container,
    "names": Name,
    "placements": Placement,
    "container_facts": ContainerFacts,
    "networks": Network,
    "network_names": Name,
    "network_facts": NetworkFacts,
    "addresses": Address,
    "kept_addresses": KeptAddress,
    "ports": Port,
    "service_addresses": ServiceAddress,
    "volumes": Volume,
    "volume_facts": VolumeFacts,
    "volume_space": VolumeSpace,
    "moves": Move,
    "move_facts": MoveFacts,
    "tokens": Token,
    "members": Member,
    "settings": Setting,
    "adapters": Adapters,
    "apps": App,
    "deployments": Deployment,
    "app_troubles": AppTroubles,
    "files": AppFile,
    "events": Event,
    "event_hooks": EventHook,
}


def key(table: str, *parts: str) -> str:
    """The store key of a record: `key("container_facts", "h1", cid)` is `container_facts/h1/<cid>`."""
    if table not in TABLES:
        raise KeyError(table)
    return "/".join((table, *parts))


def table_of(record_key: str) -> str:
    return record_key.split("/", 1)[0]


_decoders = {name: msgspec.json.Decoder(kind) for name, kind in TABLES.items()}
_encode = msgspec.json.Encoder(order="deterministic").encode


def encode(record: Record) -> bytes:
    return _encode(record)


def decode(record_key: str, value: bytes) -> Record | None:
    """The record at a key, or None for a table this version does not know (a newer daemon wrote it)."""
    decoder = _decoders.get(table_of(record_key))
    return None if decoder is None else decoder.decode(value)
