"""What the API's routes need of the daemon that serves them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from drover.store.mirror import Mirror
from drover.store.port import Store


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """`host`: this host's name. `leader`: the name of the host that leads, empty if none is known. `cut_off`: what
    of this host is stopped because it cannot renew its lease, as a sentence; empty while it takes part.

    `store_endpoints`: client URLs of a store that Drover does not run (`store_managed` false); where it does, the
    `members` records say them. `clock`: seconds since the Unix epoch.
    """

    host: str
    cluster_name: str
    store: Store
    mirror: Mirror
    tls_dir: Path
    leader: Callable[[], str] = str
    cut_off: Callable[[], str] = str
    clock: Callable[[], float] = time.time
    store_managed: bool = True
    store_endpoints: tuple[str, ...] = ()
