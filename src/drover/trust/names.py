"""What a host may be called, where it may be reached, and what a CA is known by."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import ssl

from drover.errors import Invalid

_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check_host_name(name: str) -> str:
    """The name itself, if it can be a host's: it becomes a certificate's name and a part of store keys."""
    if not _HOST_NAME.fullmatch(name):
        raise Invalid(
            f"{name!r} cannot be a host's name",
            hint="use 1 to 63 lower-case letters, digits and hyphens, with a letter or digit at both ends",
        )
    return name


def check_address(address: str) -> str:
    """The address in its canonical form; raises `Invalid` if other hosts could not reach it or it is no address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise Invalid(f"{address!r} is not an IP address", hint="give the address other hosts reach this one by")
    if parsed.is_unspecified or parsed.is_multicast:
        raise Invalid(f"{address} cannot be a host's address", hint="give the address other hosts reach this one by")
    return str(parsed)


def fingerprint(certificate_pem: bytes) -> str:
    """SHA-256 of the certificate's DER form, 64 hex digits. Raises `ValueError` for what is no PEM text."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate_pem.decode("ascii"))).hexdigest()
