"""What `init` and `join` share: the options that describe this machine, and the last steps on it."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from drover.api.membership import check_labels
from drover.cli import contexts, output
from drover.cli.client import Client
from drover.cli.common import pairs
from drover.daemon import service
from drover.daemon.config import (
    DEFAULT_ENGINE,
    DEFAULT_RUN_DIR,
    DEFAULT_STATE_DIR,
    HostConfig,
    config_path,
    save_config,
)
from drover.drivers.network.wireguard import KERNEL, MEANS, PRICE, USERSPACE, can_encrypt
from drover.drivers.volumes.pool import make_pool
from drover.errors import Conflict, DeadlineExceeded, Invalid, MissingTool, Unavailable
from drover.model.records import Host
from drover.model.sizes import parse_size
from drover.trust.names import check_address, check_host_name

START_DEADLINE_S = 60.0

_OPTIONS = (
    click.option("--name", default="", help="The host's name in the cluster (default: its hostname)."),
    click.option("--address", default="", help="The IP address other hosts reach it by (default: found out)."),
    click.option("--engine", default=DEFAULT_ENGINE, show_default=True, help="The Docker Engine's socket."),
    click.option("--state-dir", default=DEFAULT_STATE_DIR, show_default=True, help="Keys, store, volumes."),
    click.option("--run-dir", default=DEFAULT_RUN_DIR, show_default=True, help="Sockets and pid file."),
    click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label of the host; repeatable."),
    click.option("--volume-pool", default="", metavar="SIZE", help="Keep volumes in a btrfs file of this size (20G)."),
    click.option("--shared-volumes", default="", metavar="PATH", help="Storage that every host sees, for volumes."),
    click.option(
        "--encrypt",
        is_flag=False,
        flag_value=KERNEL,
        default="",
        type=click.Choice(["", *MEANS]),
        metavar="[kernel|wireguard-go]",
        help="Encrypt what containers say between hosts, by WireGuard: the kernel's, or, where it has none, that of "
        f"wireguard-go ({PRICE}).",
    ),
    click.option("--no-service", is_flag=True, help="Do not install and start the systemd unit."),
    click.option("--docker-context", is_flag=True, help="Make the docker context `drover` on this machine."),
    click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON; sentences go to stderr."),
)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """This machine as the options say it; checked and completed by `machine`."""

    name: str
    address: str
    engine: str
    state_dir: str
    run_dir: str
    labels: dict[str, str]
    no_service: bool
    docker_context: bool
    pool_bytes: int = 0
    shared_volumes: str = ""
    encrypt: str = ""
    """`kernel` or `wireguard-go`, if encryption was asked for."""
    as_json: bool = False

    def say(self, text: str) -> None:
        """A sentence: the result, unless that is JSON."""
        (output.note if self.as_json else output.say)(text)


def machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def machine(options: dict[str, Any], toward: str = "") -> Machine:
    """The machine that the options describe, with what they leave out found out. `toward`: an address of the
    cluster, if there is one yet: the way to it tells which of this machine's addresses to use."""
    if not options["engine"].startswith("unix://"):
        raise Invalid(f"the engine {options['engine']!r} is no Unix socket", hint=f"for instance {DEFAULT_ENGINE}")
    labels = pairs(options["labels"])
    check_labels(labels)
    return Machine(
        name=check_host_name(options["name"] or socket.gethostname().split(".")[0].lower()),
        address=check_address(options["address"] or own_address(toward)),
        engine=options["engine"],
        state_dir=os.path.abspath(options["state_dir"]),
        run_dir=os.path.abspath(options["run_dir"]),
        labels=labels,
        no_service=options["no_service"],
        docker_context=options["docker_context"],
        pool_bytes=parse_size(options["volume_pool"]) if options["volume_pool"] else 0,
        shared_volumes=os.path.abspath(options["shared_volumes"]) if options["shared_volumes"] else "",
        encrypt=options["encrypt"],
        as_json=options["as_json"],
    )


def own_address(toward: str = "") -> str:
    """The address this machine would use toward another one. Connecting a datagram socket sends nothing; without a
    target, an address of the documentation range stands for "elsewhere"."""
    try:
        kind, _, _, _, target = socket.getaddrinfo(toward or "192.0.2.1", 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        raise Invalid("cannot find out which address other hosts reach this machine by", hint="give it with --address")


def check_fresh(this: Machine) -> None:
    """A machine is in one cluster at most."""
    path = config_path(this.state_dir)
    if path.exists():
        raise Conflict(
            f"this machine is a host already: {path} exists", hint="see `drover status`; to undo: drover leave --purge"
        )


def check_tools(store_managed: bool) -> None:
    if store_managed and shutil.which("etcd") is None:
        raise MissingTool(
            "the program etcd is missing, which keeps the cluster's records",
            hint="apt-get install etcd-server, or give the URLs of an etcd of yours with `drover init --store`",
        )


def write_config(
    this: Machine,
    host: Host,
    cluster_name: str,
    store_endpoints: tuple[str, ...],
    *,
    store_managed: bool,
    encryption: str = "",
) -> HostConfig:
    """Write the host's configuration: the last file, as it is the one that makes the machine a host."""
    config = HostConfig(
        name=host.name,
        id=host.id,
        index=host.index,
        address=host.address,
        cluster_name=cluster_name,
        state_dir=this.state_dir,
        run_dir=this.run_dir,
        engine=this.engine,
        api_port=host.api_port,
        tunnel_port=host.tunnel_port,
        store_managed=store_managed,
        store_endpoints=store_endpoints,
        encryption=encryption,
        volume_pool=_pool(this),
        shared_volumes=this.shared_volumes,
    )
    save_config(config)
    return config


def _pool(this: Machine) -> str:
    """The pool's file, made if one is asked for; empty if not."""
    if not this.pool_bytes:
        return ""
    file = Path(this.state_dir) / "volumes" / "pool.img"
    make_pool(file, this.pool_bytes)
    return str(file)


def encryption_of(this: Machine) -> str:
    """How this machine can encrypt; says what wireguard-go costs. Raises `MissingTool` if it cannot."""
    means = can_encrypt(this.encrypt)
    if means == USERSPACE:
        output.note(f"note: this host encrypts with wireguard-go: {PRICE}")
    return means


def finish(this: Machine, config: HostConfig) -> None:
    """Start the daemon or say how, offer the docker context, and say how to undo it all."""
    if not config.engine_socket.exists():
        output.note(f"note: there is no Docker Engine at {config.engine_socket} yet; the daemon waits for it")
    if not this.no_service and service.systemd_runs():
        _start_service(this, config)
    else:
        this.say(f"Start its daemon:        {service.daemon_command(config)}")
    _docker_context(this, config)
    state = "" if config.state_dir == DEFAULT_STATE_DIR else f" --state-dir {config.state_dir}"
    undo = f"drover leave --purge{state}"
    this.say(f"Undo all of this:        {undo}")
    if this.as_json:
        output.show_json(_made(config, undo))


def _made(config: HostConfig, undo: str) -> dict[str, str]:
    return {
        "cluster": config.cluster_name,
        "host": config.name,
        "address": config.address,
        "state_dir": config.state_dir,
        "docker_host": contexts.endpoint(config),
        "drover_host": f"unix://{config.api_socket}",
        "daemon": service.daemon_command(config),
        "undo": undo,
    }


def _start_service(this: Machine, config: HostConfig) -> None:
    service.install_service(config)
    this.say(f"Installed and started:   {service.UNIT_PATH}")
    end = time.monotonic() + START_DEADLINE_S
    while not _answers(config):
        if time.monotonic() > end:
            raise DeadlineExceeded(
                f"the daemon was started but does not serve {config.api_socket} after {START_DEADLINE_S:g} s",
                hint=f"see `journalctl -u {service.UNIT}`",
            )
        time.sleep(0.2)


def _answers(config: HostConfig) -> bool:
    try:
        return bool(Client(f"unix://{config.api_socket}", deadline_s=2.0).get("/healthz")["healthy"])
    except Unavailable:
        return False


def _docker_context(this: Machine, config: HostConfig) -> None:
    if not this.docker_context:
        this.say(f"Use docker with it:      {' '.join(contexts.making(config))} && docker context use {contexts.NAME}")
    elif failure := contexts.make(config):
        output.note(f"note: the docker context was not made: {failure}")
    else:
        this.say(f"Use docker with it:      docker context use {contexts.NAME}")
