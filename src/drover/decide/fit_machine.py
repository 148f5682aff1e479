"""Can a host's machine take a container: taints, devices and disk. Parts of the table of filters in `decide.fit`.

label of the container         means
drover.tolerate=KEY[=VALUE],…  may be placed on hosts with these taints (`drover host taint`)
drover.disk=20G                asks for so much free disk where the engine keeps its data; nothing is reserved

A host whose disk is nearly full is not refused for that, but any other is better (`decide.rank`).
"""

from __future__ import annotations

from drover.decide.sentences import size
from drover.decide.views import HostView
from drover.errors import Invalid
from drover.model.devices import missing
from drover.model.sizes import parse_size
from drover.model.spec import Spec

TOLERATE_LABEL = "drover.tolerate"
DISK_LABEL = "drover.disk"
LOW_SHARE = 0.05
STEP_SHARE = 0.05
"""What is free is reported in steps of this share, so that the fact does not change all the time."""


def untolerated(view: HostView, spec: Spec) -> str | None:
    """The first taint of the host that the container does not tolerate, as a sentence."""
    tolerated = [part.strip() for part in spec.labels.get(TOLERATE_LABEL, "").split(",")]
    for key, value in sorted(view.taints.items()):
        if key not in tolerated and f"{key}={value}" not in tolerated:
            taint = f"{key}={value}" if value else key
            return f"is tainted {taint}, which the container does not tolerate (label {TOLERATE_LABEL})"
    return None


def deviceless(view: HostView, spec: Spec) -> str | None:
    """The devices it lacks. What a host has not reported is left to its engine to refuse."""
    if not spec.devices or view.facts is None or view.facts.devices is None:
        return None
    lacks = missing(spec.devices, view.facts.devices)
    return f"has no {', '.join(lacks)}" if lacks else None


def too_small(view: HostView, spec: Spec) -> str | None:
    """Why its disk will not do for what the label asks for."""
    text = spec.labels.get(DISK_LABEL, "")
    if not text or view.facts is None:
        return None
    try:
        asked = parse_size(text)
    except Invalid as error:
        return f"cannot be judged: the label {DISK_LABEL}: {error.message}"
    if not view.facts.disk_bytes:
        return f"has not reported its disk, {size(asked)} asked"
    free = view.facts.disk_free_bytes
    return f"{size(asked)} of disk asked, {size(free)} free" if asked > free else None


def rounded_free(total_bytes: int, free_bytes: int) -> int:
    """Free bytes, rounded down to a step."""
    step = max(1, int(total_bytes * STEP_SHARE))
    return free_bytes - free_bytes % step


def low(total_bytes: int, free_bytes: int, where: str) -> str:
    """The sentence about a disk that is nearly full; empty if it is not."""
    if not total_bytes or free_bytes >= total_bytes * LOW_SHARE:
        return ""
    return f"less than {LOW_SHARE:.0%} of {size(total_bytes)} is free at {where}"
