"""TLS contexts between hosts, and the name of the host at the other end.

TLS 1.3 only, the cluster's CA only. A client checks that the certificate belongs to the address it connects to; a
server takes the peer's name from the certificate it presented.

    context            used for                              peer's certificate
    server_context     ports 4740 (optional), 4741           of this CA; required, or optional if a route is open
    client_context     every connection to another host      of this CA, and for the address connected to
    joining_context    the connection that carries a token   of this CA (known by fingerprint), for any name
    blind_context      fetching the CA's certificate         not checked: what it fetches is checked by its fingerprint
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any, Literal

import msgspec


class Peer(msgspec.Struct, frozen=True):
    """Who is connected. `local`: over a Unix socket. `host`: the name in the certificate, empty if none was shown."""

    local: bool = False
    host: str = ""


def server_context(tls_dir: Path, client_cert: Literal["required", "optional"] = "required") -> ssl.SSLContext:
    """A server's context with this host's certificate. A certificate of another CA fails the handshake either way."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, tls_dir)
    context.verify_mode = ssl.CERT_REQUIRED if client_cert == "required" else ssl.CERT_OPTIONAL
    return context


def client_context(tls_dir: Path) -> ssl.SSLContext:
    """A client's context with this host's certificate; connect with the peer's IP address as `server_hostname`."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, tls_dir)


def reload(context: ssl.SSLContext, tls_dir: Path) -> None:
    """Make new connections of a living context use a renewed certificate."""
    context.load_cert_chain(tls_dir / "host.crt", tls_dir / "host.key")


def joining_context(ca_certificate_pem: bytes) -> ssl.SSLContext:
    """Trusts the given CA and no name: whichever host of the cluster answers may take a new host in, and it may be
    reached by an address (a translated one, a DNS name) that its certificate does not know."""
    context = modern(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.check_hostname = False
    context.load_verify_locations(cadata=ca_certificate_pem.decode())
    return context


def blind_context() -> ssl.SSLContext:
    """Checks nothing. Only for fetching the CA's certificate, which is public and checked by its fingerprint."""
    context = modern(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def peer_name(transport: asyncio.BaseTransport | None) -> str:
    """The host name in the peer's verified certificate; empty if it showed none or the connection is not TLS."""
    certificate: Any = transport and transport.get_extra_info("peercert")
    names = [value for part in (certificate or {}).get("subject", ()) for kind, value in part if kind == "commonName"]
    return names[0] if names else ""


def peer_of(transport: asyncio.BaseTransport | None) -> Peer:
    """Who is at the other end of a server's connection: a Unix socket's file mode vouches for local peers."""
    tls = transport is not None and transport.get_extra_info("ssl_object") is not None
    sock = transport.get_extra_info("socket") if transport is not None else None
    unix = sock is not None and not tls and sock.family == socket.AF_UNIX
    return Peer(local=unix, host=peer_name(transport) if tls else "")


def _context(protocol: int, tls_dir: Path) -> ssl.SSLContext:
    context = modern(ssl.SSLContext(protocol))
    context.load_verify_locations(tls_dir / "ca.crt")
    reload(context, tls_dir)
    return context


def modern(context: ssl.SSLContext) -> ssl.SSLContext:
    """The context, with what every one of Drover's has."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Debian's Python takes a connection that was cut for one that was ended, unless told otherwise: half an answer
    # would look whole.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context
