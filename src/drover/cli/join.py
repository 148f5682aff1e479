"""`drover join`: this machine becomes a host of an existing cluster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from drover.api.joiner import ask_to_join, parse_endpoint, trusted_ca
from drover.api.membership import JoinRequest
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
from drover.daemon.config import HostConfig
from drover.errors import Forbidden, MissingTool
from drover.trust import certificates
from drover.trust.token import Parsed, parse
from drover.trust.wireguard import private_key, public_key


@click.command()
@click.argument("address_of_a_host", metavar="ADDRESS[:PORT]")
@click.option("--token", "token_text", required=True, help="What `drover token create` printed.")
@machine_options
def join(address_of_a_host: str, token_text: str, **options: Any) -> None:
    """Make this machine a host of an existing cluster.

    ADDRESS is that of any host of the cluster. The token's secret is sent only after that host has proved that
    it is of the token's cluster. A join that broke off may be repeated with the same token.

    In a cluster that encrypts, a host that cannot is refused. One without WireGuard in its kernel may say
    `--encrypt wireguard-go`.

    \b
    Example:
      drover join 192.0.2.1 --token DROVER1-...
    """
    address, port = parse_endpoint(address_of_a_host)
    parsed = parse(token_text)
    this = machine(options, toward=address)
    check_fresh(this)
    check_tools(store_managed=True)
    config = enter(this, address, port, parsed)
    this.say(f"{config.name} at {config.address} is a host of cluster {config.cluster_name}.")
    this.say(f"Keys and configuration:  {config.state_dir}")
    finish(this, config)


def enter(this: Machine, address: str, port: int, parsed: Parsed) -> HostConfig:
    """Ask to be let in, and write what the cluster answers. The host's key is written before asking: a repeated
    join must show the same one."""
    ca_certificate = trusted_ca(address, port, parsed.ca_fingerprint)
    tls_dir = Path(this.state_dir) / "tls"
    encryption, lacks = _encryption(this)
    request = JoinRequest(
        token_id=parsed.id,
        secret=parsed.secret,
        name=this.name,
        address=this.address,
        csr=certificates.request(certificates.host_key(tls_dir), this.name).decode(),
        now=time.time(),
        labels=this.labels,
        wireguard_key=public_key(private_key(tls_dir)) if encryption else "",
        lacks=lacks,
        insists=bool(this.encrypt),
    )
    answer = ask_to_join(address, port, ca_certificate, request)
    authority = certificates.Authority(ca_certificate, answer.ca_key.encode())
    certificates.install(tls_dir, authority, answer.certificate.encode())
    return write_config(
        this,
        answer.host,
        answer.cluster_name,
        answer.store_endpoints,
        store_managed=answer.store_managed,
        encryption=encryption if answer.encrypted else "",
    )


def _encryption(this: Machine) -> tuple[str, str]:
    """How this machine can encrypt, or what it lacks. What was asked for and cannot be is an error here already."""
    try:
        return encryption_of(this), ""
    except (MissingTool, Forbidden) as error:
        if this.encrypt:
            raise
        return "", error.message
