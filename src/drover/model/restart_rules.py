"""`RestartRules`: what a container's labels say about its restarts that Docker's own policy has no word for.

    label                    says                                              without it
    drover.restart.delay     seconds from a process's end to its next start    Docker's own growing delay
    drover.restart.attempts  so many restarts, then it is left alone: for any  the policy's MaximumRetryCount
                             policy, and not for `on-failure` only
    drover.restart.window    seconds for which a restart counts against that   until the next `docker start`

A container that has one of them is started again by its host's agent, never by its engine (`decide.restarts`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from drover.errors import Invalid

DELAY_LABEL = "drover.restart.delay"
ATTEMPTS_LABEL = "drover.restart.attempts"
WINDOW_LABEL = "drover.restart.window"
MOST_ATTEMPTS = 1000
"""With a window the starts within it are remembered one by one: a limit of the limit."""


class RestartRules(msgspec.Struct, frozen=True):
    """0: not said."""

    delay_s: float = 0.0
    attempts: int = 0
    window_s: float = 0.0

    def __bool__(self) -> bool:
        return self != RestartRules()


def restart_rules(labels: Mapping[str, str]) -> RestartRules:
    """Raises `Invalid` for a label that is no number."""
    attempts, window_s = _number(labels, ATTEMPTS_LABEL), _number(labels, WINDOW_LABEL)
    if attempts != int(attempts) or (window_s and attempts > MOST_ATTEMPTS):
        raise Invalid(
            f"the label {ATTEMPTS_LABEL}={labels[ATTEMPTS_LABEL]} is no number of restarts",
            hint=f"whole numbers, with a window up to {MOST_ATTEMPTS}; without the label there is no limit",
        )
    return RestartRules(_number(labels, DELAY_LABEL), int(attempts), window_s)


def _number(labels: Mapping[str, str], label: str) -> float:
    text = labels.get(label) or "0"
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise Invalid(f"the label {label}={text} is no number", hint="seconds, or for attempts how many")
    return found
