"""`drover daemon`: this host's daemon, in the foreground."""

from __future__ import annotations

import importlib

import click

from drover.daemon import heap
from drover.daemon.config import DEFAULT_STATE_DIR, load_config


@click.command()
@click.option("--state-dir", default=DEFAULT_STATE_DIR, show_default=True, help="Where init or join wrote config.json.")
def daemon(state_dir: str) -> None:
    """Run this host's daemon in the foreground.

    systemd runs this command where systemd runs. It ends on SIGTERM; containers go on without it.

    \b
    Example:
      drover daemon --state-dir /var/lib/drover
    """
    config = load_config(state_dir)
    heap.keep_small()
    importlib.import_module("drover.daemon.daemon").run(config)
