"""`IPRoute` without the rest of pyroute2, whose package brings a database, DHCP and more: 6 MB in each daemon.

Theory of operation. A module that has the package's path, but has not run the package's own code, stands in for it:
submodules are imported as ever. Whoever asks it for anything else has the whole package run, and finds it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any


def put_off(name: str) -> None:
    """Let submodules of the package be imported without its own code, which runs when it is asked for a name."""
    spec = importlib.util.find_spec(name)
    if name in sys.modules or spec is None or spec.loader is None:
        return
    package = importlib.util.module_from_spec(spec)
    load = spec.loader.exec_module

    def part_or_whole(wanted: str) -> Any:
        if importlib.util.find_spec(f"{name}.{wanted}") is not None:
            return importlib.import_module(f"{name}.{wanted}")
        del package.__dict__["__getattr__"]
        load(package)
        return getattr(package, wanted)

    package.__dict__["__getattr__"] = part_or_whole
    sys.modules[name] = package


put_off("pyroute2")

from pyroute2.iproute.linux import IPRoute  # noqa: E402 - the package must be put off before
from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402

__all__ = ["IPRoute", "NetlinkError"]
