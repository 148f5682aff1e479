"""Certificates are handled in a process of their own, with the same results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drover.errors import DroverError, Invalid
from drover.trust import apart, certificates

NOW = 1_800_000_000.0


@pytest.fixture
def tls_dir(tmp_path: Path) -> Path:
    """A first host's: its certificate is new at NOW."""
    authority = certificates.new_authority("test", NOW)
    csr = certificates.request(certificates.host_key(tmp_path), "h1")
    certificates.install(tmp_path, authority, certificates.issue(authority, csr, "h1", "192.0.2.1", NOW))
    return tmp_path


async def test_a_host_is_taken_in(tls_dir: Path) -> None:
    csr = certificates.request(certificates.new_key(), "h2")
    assert await apart.key_id(csr) == certificates.key_id(csr)
    issued = (await apart.issue(tls_dir, csr, "h2", "192.0.2.2", NOW)).encode()
    assert await apart.ends_at(issued) == certificates.expires_at(issued) == NOW + certificates.HOST_LIFETIME_S


async def test_a_certificate_is_renewed_when_it_is_due(tls_dir: Path) -> None:
    before = (tls_dir / "host.crt").read_bytes()
    assert not await apart.renew_if_due(tls_dir, NOW)
    assert await apart.renew_if_due(tls_dir, NOW + 80 * certificates.DAY_S)
    after = (tls_dir / "host.crt").read_bytes()
    assert await apart.ends_at(before) < await apart.ends_at(after)


async def test_a_refusal_keeps_its_words() -> None:
    with pytest.raises(Invalid, match="is not a PEM text") as refused:
        await apart.key_id(b"no request")
    assert refused.value.hint == "join with the same version of drover"


async def test_what_fails_otherwise_says_so(tmp_path: Path) -> None:
    with pytest.raises(DroverError, match=r"could not be handled: FileNotFoundError.*host\.crt"):
        await apart.renew_if_due(tmp_path, NOW)


def test_the_daemon_does_without_what_signs() -> None:
    """It takes 8 MB, and every host would keep them for a moment a month."""
    look = "import sys, drover.daemon.daemon; print('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout == "False\n"
