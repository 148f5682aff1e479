"""The network of containers that name none: one for the cluster, shown to clients as `bridge`.

Theory of operation. A container whose create call says nothing of networks (mode `default` or empty, no endpoints)
joins the cluster's default network. Its record has an id that is the same in every cluster (`overlay.DEFAULT_NETWORK`),
so nobody has to look for it; the leader makes it once. Without the record (an older store, a test) such
containers are on their engine's own `bridge`, as those that ask for `--network bridge` always are.
"""

from __future__ import annotations

from hashlib import sha256

from drover.decide.addresses import FIRST_VNI, choose_subnet
from drover.decide.claims import addresses_of
from drover.decide.overlay import DEFAULT_NETWORK, DEFAULT_NETWORK_NAME
from drover.decide.services import Draft
from drover.model.cluster import Cluster, put
from drover.model.records import Name, Network, Setting, key
from drover.model.spec import Spec

PREDEFINED = ("bridge", "host", "none")
"""The networks that every engine has."""
PREDEFINED_IDS = {name: sha256(f"drover predefined network {name}".encode()).hexdigest() for name in PREDEFINED}
"""Their ids as clients see them: the same on every host, while each engine has its own."""
DEFAULT_MODE = "default"
SHOWN_AS = "bridge"
VNI = FIRST_VNI - 1
ALLOCATION = key("settings", "network-allocation")
"""Written with every new network, so that no two choose one subnet or VNI."""


def default_network_draft(cluster: Cluster, now: float) -> Draft:
    """What makes the default network; nothing if it is there. Raises `Conflict` if no subnet is left."""
    if DEFAULT_NETWORK in cluster.networks or DEFAULT_NETWORK_NAME in cluster.network_names:
        return Draft()
    subnet, gateway = choose_subnet(cluster, DEFAULT_NETWORK_NAME)
    record = Network(
        id=DEFAULT_NETWORK,
        name=DEFAULT_NETWORK_NAME,
        body='{"Name":"drover"}',
        subnet=subnet,
        gateway=gateway,
        vni=VNI,
        created_at=now,
    )
    changes = (
        put(key("networks", DEFAULT_NETWORK), record),
        put(key("network_names", DEFAULT_NETWORK_NAME), Name(id=DEFAULT_NETWORK)),
        put(ALLOCATION, Setting(value=DEFAULT_NETWORK)),
    )
    return Draft(changes, {change.key: cluster.version(change.key) for change in changes})


def predefined_ids(cluster: Cluster) -> dict[str, str]:
    """Id to name of the predefined networks: as clients see them, and as each engine does."""
    shown = {identity: name for name, identity in PREDEFINED_IDS.items()}
    engines = (facts.predefined_networks for facts in cluster.host_facts.values())
    return {own: name for ids in engines for name, own in ids.items()} | shown


def asks_default(spec: Spec) -> bool:
    """Whether a create call leaves its network to the cluster."""
    return spec.network_refs == (DEFAULT_MODE,)


def is_on_default(cluster: Cluster, container: str) -> bool:
    """Whether a container has an address on the default network."""
    claims = addresses_of(cluster, container)
    return any(claim.network == DEFAULT_NETWORK for claim in claims)
