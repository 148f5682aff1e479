"""What `docker volume create --opt NAME=VALUE` asks of Drover; other names are the engine's own.

    driver=btrfs|directory|shared|…   how the data is kept (default: the host's own, see `drover host inspect`)
    replicas=N                        copies on other hosts (default 1)
    interval=SECONDS[s]               how often they are refreshed (default 5)
    size=10G                          how large it may grow (default 0: as far as the disk goes)
    sync=yes|no                       yes: what a program is told is written, every host that may take over has. Only
                                      drivers on storage that all hosts share can do that; others are refused

Options of the `local` driver (`type`, `o`, `device`) make a volume the engine's own affair: Drover neither copies nor
moves it. The two kinds do not mix.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from drover.errors import Invalid
from drover.model.sizes import parse_size

OWN = ("driver", "replicas", "interval", "size", "sync")
ALSO_THE_ENGINES = {"size"}
"""Options that the engine's `local` driver has too: beside options of the engine's they are the engine's."""
MIN_SIZE_BYTES = 1024 * 1024
MIN_INTERVAL_S = 0.2
MAX_REPLICAS = 16


class VolumeOptions(msgspec.Struct, frozen=True):
    """`engines`: the options are for the engine, none for Drover."""

    driver: str = ""
    replicas: int = 1
    interval_s: float = 5.0
    engines: bool = False
    size_bytes: int = 0
    sync: bool = False


DEFAULTS = VolumeOptions()


class _Body(msgspec.Struct, rename="pascal"):
    driver_opts: dict[str, str] | None = None


def options_of(body: str) -> VolumeOptions:
    """The options in a volume's create body. Raises `Invalid`."""
    return parse_options(msgspec.json.decode(body or "{}", type=_Body).driver_opts or {})


def parse_options(asked: Mapping[str, str], base: VolumeOptions = DEFAULTS) -> VolumeOptions:
    """`base` with what is asked. Raises `Invalid` for a value that is none, or for a mixture of both kinds."""
    foreign = [name for name in asked if name not in OWN]
    own = next((name for name in asked if name in OWN and name not in ALSO_THE_ENGINES), "")
    if foreign and own:
        raise Invalid(f"volume option {own} is Drover's, {foreign[0]} is the engine's: they do not mix")
    if foreign:
        return VolumeOptions(engines=True)
    return VolumeOptions(
        driver=asked.get("driver", base.driver),
        replicas=_replicas(asked["replicas"]) if "replicas" in asked else base.replicas,
        interval_s=_interval_s(asked["interval"]) if "interval" in asked else base.interval_s,
        size_bytes=_size_bytes(asked["size"]) if "size" in asked else base.size_bytes,
        sync=_yes(asked["sync"]) if "sync" in asked else base.sync,
    )


def _replicas(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > MAX_REPLICAS:
        raise Invalid(f"replicas={text}: give a number from 0 to {MAX_REPLICAS}")
    return int(text)


def _interval_s(text: str) -> float:
    number, factor = (text[:-1], 60.0) if text.endswith("m") else (text.removesuffix("s"), 1.0)
    try:
        interval_s = float(number) * factor
    except ValueError:
        interval_s = 0.0
    if not interval_s >= MIN_INTERVAL_S:
        raise Invalid(f"interval={text}: give seconds, at least {MIN_INTERVAL_S}", hint="for instance 5s, or 1m")
    return interval_s


def _size_bytes(text: str) -> int:
    size_bytes = parse_size(text)
    if 0 < size_bytes < MIN_SIZE_BYTES:
        raise Invalid(f"size={text}: at least 1M, or 0 for no limit")
    return size_bytes


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise Invalid(f"sync={text}: give yes or no", hint="see docs/volumes.md for what it means")
    return text == "yes"
