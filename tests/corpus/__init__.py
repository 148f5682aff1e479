"""Compose files as people write them, each with its canonical form as Compose itself prints it.

`python -m tests.corpus` writes the canonical forms anew, with the Compose that is found; the tests compare them, if
there is one. Paths of this machine are replaced by PLACE, so that the forms are the same everywhere.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from drover.cli.compose import Asked, canonical_form

HERE = Path(__file__).parent
NAMES = sorted(path.parent.name for path in HERE.glob("*/compose.yaml"))
PLACE = "/corpus"
CLEAN = {"HOME": "/home/somebody", "COMPOSE_PROFILES": "*"}


def stored(name: str) -> dict[str, Any]:
    """The canonical form that was written down."""
    found: dict[str, Any] = json.loads((HERE / name / "canonical.json").read_text())
    return found


def fresh(name: str) -> dict[str, Any]:
    """The canonical form as the Compose of this machine prints it. Changes the process's directory and environment
    for the time of the call."""
    kept, directory = dict(os.environ), Path.cwd()
    try:
        os.environ.clear()
        os.environ.update({**CLEAN, "PATH": kept.get("PATH", ""), "DROVER_COMPOSE": kept.get("DROVER_COMPOSE", "")})
        os.chdir(HERE / name)
        found = canonical_form(Asked())
    finally:
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(kept)
    text = json.dumps(found, indent=1, sort_keys=True).replace(str(HERE), PLACE)
    again: dict[str, Any] = json.loads(text)
    return again


def source(name: str) -> dict[str, Any]:
    """The file as it was written."""
    found: dict[str, Any] = yaml.safe_load((HERE / name / "compose.yaml").read_text().replace("!reset", ""))
    return found
