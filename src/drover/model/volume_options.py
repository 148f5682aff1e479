"""What `docker volume create --opt NAME=VALUE` asks of Drover; other names are the engine's own.

    driver=btrfs|directory|shared|…   how the data is kept (default: the host's own, see `drover host inspect`)
    replicas=N                        copies on other hosts (default 1)
    interval=SECONDS[s]               how often they are refreshed (default 5)

Options of the `local` driver (`type`, `o`, `device`) make a volume the engine's own affair: Drover neither copies nor
moves it. The two kinds do not mix.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from drover.errors import Invalid

OWN = ("driver", "replicas", "interval")
MIN_INTERVAL_S = 0.2
MAX_REPLICAS = 16


class VolumeOptions(msgspec.Struct, frozen=True):
    """`engines`: the options are for the engine, none for Drover."""

    driver: str = ""
    replicas: int = 1
    interval_s: float = 5.0
    engines: bool = False


DEFAULTS = VolumeOptions()


class _Body(msgspec.Struct, rename="pascal"):
    driver_opts: dict[str, str] | None = None


def options_of(body: str) -> VolumeOptions:
    """The options in a volume's create body. Raises `Invalid`."""
    return parse_options(msgspec.json.decode(body or "{}", type=_Body).driver_opts or {})


def parse_options(asked: Mapping[str, str], base: VolumeOptions = DEFAULTS) -> VolumeOptions:
    """`base` with what is asked. Raises `Invalid` for a value that is none, or for a mixture of both kinds."""
    foreign = [name for name in asked if name not in OWN]
    if foreign and len(foreign) < len(asked):
        own = next(name for name in asked if name in OWN)
        raise Invalid(f"volume option {own} is Drover's, {foreign[0]} is the engine's: they do not mix")
    if foreign:
        return VolumeOptions(engines=True)
    return VolumeOptions(
        driver=asked.get("driver", base.driver),
        replicas=_replicas(asked["replicas"]) if "replicas" in asked else base.replicas,
        interval_s=_interval_s(asked["interval"]) if "interval" in asked else base.interval_s,
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
