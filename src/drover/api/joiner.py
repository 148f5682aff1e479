"""The joining host's side of `POST /join`, with the standard library's HTTP client.

Theory of operation. The token's secret must not reach anybody but a host of the token's cluster:

    1  connect, checking nothing; GET /ca               whoever answers may be an impostor; nothing secret was said
    2  SHA-256 of that CA certificate = the token's?    no: refuse, and stop here
    3  connect anew, trusting that CA only              an impostor has the CA's certificate, but no key it signed
    4  POST /join with the secret and the request       the first byte of it follows a verified handshake
"""

from __future__ import annotations

import http.client
import ssl
from typing import Any

import msgspec

from drover.api.answers import exchange
from drover.api.membership import JoinAnswer, JoinRequest
from drover.errors import Forbidden, Invalid, Unavailable
from drover.trust import tls
from drover.trust.names import fingerprint

DEFAULT_PORT = 4740
DEADLINE_S = 30.0


def parse_endpoint(text: str) -> tuple[str, int]:
    """`ADDRESS`, `ADDRESS:PORT`, `[IPv6]:PORT` or a bare IPv6 address as (address, port)."""
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    else:
        address, port = text, ""
    if not address or (port and not (port.isdigit() and 0 < int(port) < 65_536)):
        raise Invalid(f"{text!r} is no address of a host", hint="use ADDRESS or ADDRESS:PORT")
    return address, int(port or DEFAULT_PORT)


def trusted_ca(address: str, port: int, expected_fingerprint: str) -> bytes:
    """The CA certificate (PEM) of the cluster at this address; raises `Forbidden` if it is not the token's."""
    answer = _call(address, port, tls.blind_context(), "GET", "/ca")
    certificate = str(answer.get("certificate", "")).encode() if isinstance(answer, dict) else b""
    try:
        found = fingerprint(certificate)
    except ValueError:
        raise Unavailable(f"what answers at {address} port {port} showed no CA", hint="check the address and port")
    if found != expected_fingerprint:
        raise Forbidden(
            f"the host at {address} port {port} is not of this token's cluster: its CA's fingerprint is "
            f"{found[:16]}…, the token says {expected_fingerprint[:16]}…; the token was not sent",
            hint="check the address; is it a host of the cluster where the token was created?",
        )
    return certificate


def ask_to_join(address: str, port: int, ca_certificate: bytes, request: JoinRequest) -> JoinAnswer:
    """The cluster's answer; raises its refusal. May be repeated with the same key if no answer came."""
    context = tls.joining_context(ca_certificate)
    answer = _call(address, port, context, "POST", "/join", msgspec.to_builtins(request))
    return msgspec.convert(answer, JoinAnswer)


def _call(address: str, port: int, context: ssl.SSLContext, method: str, path: str, body: Any = None) -> Any:
    connection = http.client.HTTPSConnection(address, port, timeout=DEADLINE_S, context=context)
    try:
        return exchange(connection, method, path, body)
    except ssl.SSLCertVerificationError as error:
        raise Forbidden(
            f"the host at {address} port {port} could not prove that it is of this token's cluster: "
            f"{error.verify_message}; the token was not sent",
            hint="check the address, and the clocks of both hosts",
        )
    except TimeoutError:
        raise Unavailable(
            f"{address} port {port} did not answer within {DEADLINE_S:g} s",
            hint="check the address, and that no firewall drops the port; then join again with the same token",
        )
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"cannot talk to {address} port {port}: {error}",
            hint="is a drover daemon running there, and the port right? the same token may be tried again",
        )
