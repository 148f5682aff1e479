"""`drover init`: this machine becomes the first host of a new cluster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from drover.cli.enrol import (
    Machine,
    check_fresh,
    check_tools,
    encryption_of,
    finish,
    machine,
    machine_options,
    write_config,
)
from drover.daemon.config import HostConfig, save_bootstrap
from drover.errors import Invalid
from drover.model.records import Host
from drover.trust import certificates
from drover.trust.wireguard import private_key, public_key

FIRST_INDEX = 1


@click.command()
@machine_options
@click.option("--cluster-name", default="drover", show_default=True, help="The cluster's name.")
@click.option("--store", default="", metavar="URL[,URL]", help="An etcd of yours, instead of one that Drover runs.")
def init(cluster_name: str, store: str, **options: Any) -> None:
    """Make this machine the first host of a new cluster.

    One host alone is a complete cluster. Writes a CA, this host's certificate and its configuration below the
    state directory, and starts the daemon where systemd runs.

    \b
    Example:
      drover init
      drover init --name web1 --address 192.0.2.1 --label storage=ssd
      drover init --encrypt
    """
    this = machine(options)
    check_fresh(this)
    check_tools(store_managed=not store)
    encryption = encryption_of(this) if this.encrypt else ""
    config = found(this, cluster_name, _endpoints(store), time.time(), encryption)
    this.say(f"Cluster {cluster_name} has its first host, {config.name} at {config.address}.")
    this.say(f"Keys and configuration:  {config.state_dir}")
    this.say("Let another host in:     drover token create")
    finish(this, config)


def found(this: Machine, cluster_name: str, endpoints: tuple[str, ...], now: float, encryption: str = "") -> HostConfig:
    """Write the CA, the host's certificate and its configuration; the configuration last, as it completes the set."""
    if not 0 < len(cluster_name) <= 63 or not cluster_name.isprintable():
        raise Invalid(f"{cluster_name!r} cannot be a cluster's name", hint="use 1 to 63 printable characters")
    tls_dir = Path(this.state_dir) / "tls"
    authority = certificates.new_authority(cluster_name, now)
    csr = certificates.request(certificates.host_key(tls_dir), this.name)
    issued = certificates.issue(authority, csr, this.name, this.address, now)
    certificates.install(tls_dir, authority, issued)
    host = Host(
        name=this.name,
        id=certificates.key_id(csr),
        index=FIRST_INDEX,
        address=this.address,
        labels=this.labels,
        joined_at=now,
        wireguard_key=public_key(private_key(tls_dir)) if encryption else "",
    )
    save_bootstrap(this.state_dir, host)
    return write_config(this, host, cluster_name, endpoints, store_managed=not endpoints, encryption=encryption)


def _endpoints(store: str) -> tuple[str, ...]:
    urls = tuple(filter(None, store.split(",")))
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise Invalid(f"{url!r} is no URL of an etcd", hint="for instance https://192.0.2.9:2379")
    return urls
