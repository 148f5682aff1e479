"""A host's WireGuard key pair (X25519): the private half never leaves `<state>/tls/wireguard.key`."""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error
from pathlib import Path

from drover.errors import Invalid
from drover.trust.files import write_private

KEY_BYTES = 32


def key_path(tls_dir: Path) -> Path:
    return tls_dir / "wireguard.key"


def private_key(tls_dir: Path) -> str:
    """This host's private key (base64, as `wg` takes it), made at the first call."""
    path = key_path(tls_dir)
    if not path.exists():
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # see `trust.certificates`

        write_private(path, b64encode(X25519PrivateKey.generate().private_bytes_raw()) + b"\n")
    return path.read_text().strip()


def public_key(private: str) -> str:
    """The public half (base64) of a private key."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    made = X25519PrivateKey.from_private_bytes(b64decode(private))
    return b64encode(made.public_key().public_bytes_raw()).decode()


def check_public_key(text: str) -> str:
    """The key, if it is one. Raises `Invalid`."""
    try:
        length = len(b64decode(text, validate=True))
    except (Error, ValueError):
        length = 0
    if length != KEY_BYTES:
        raise Invalid(f"{text[:60]!r} is no WireGuard key", hint="is this the same version of drover?")
    return text
