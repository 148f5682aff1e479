"""What the daemon needs done with certificates, in a process of its own that ends.

Theory of operation. `python -m drover.trust.apart CALL` reads the call's arguments as JSON from its standard input,
so that no key is ever an argument of a program, and prints the result, or the refusal, as JSON:

    call     arguments                          result                    when
    key_id   request                            the host's id             a host joins
    issue    CA, request, name, address, now    its certificate           a host joins
    renew    directory, now                     whether it was replaced   once an hour
    ends_at  certificate                        its last second           the certificate on disk is another
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec

from drover.errors import DroverError, Invalid

_ends: dict[bytes, float] = {}
"""The end of the certificate that was asked about last."""


class _Answer(msgspec.Struct):
    """`refused` is a message and its hint."""

    value: Any = None
    refused: tuple[str, str] | None = None


async def key_id(csr_pem: bytes) -> str:
    """As `certificates.key_id`. Raises `Invalid`."""
    return str(await _asked("key_id", csr_pem.decode()))


async def issue(tls_dir: Path, csr_pem: bytes, name: str, address: str, now: float) -> str:
    """As `certificates.issue`, by the CA in this directory: a PEM text. Raises `Invalid`."""
    return str(await _asked("issue", str(tls_dir), csr_pem.decode(), name, address, now))


async def renew_if_due(tls_dir: Path, now: float) -> bool:
    """As `certificates.renew_if_due`."""
    return bool(await _asked("renew", str(tls_dir), now))


async def ends_at(certificate_pem: bytes) -> float:
    """As `certificates.expires_at`; the answer about the same certificate is remembered."""
    if certificate_pem not in _ends:
        end = float(await _asked("ends_at", certificate_pem.decode()))
        _ends.clear()
        _ends[certificate_pem] = end
    return _ends[certificate_pem]


async def _asked(call: str, *arguments: Any) -> Any:
    argv = (sys.executable, "-m", __name__, call)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        said, trouble = await process.communicate(msgspec.json.encode(arguments))
    except BaseException:
        process.kill()
        raise
    if process.returncode != 0:
        raise DroverError(f"a certificate could not be handled: {_last_line(trouble)}")
    answer = msgspec.json.decode(said, type=_Answer)
    if answer.refused is not None:
        raise Invalid(answer.refused[0], hint=answer.refused[1])
    return answer.value


def _last_line(trouble: bytes) -> str:
    """A traceback's last line says what was wrong."""
    return (trouble.decode(errors="replace").strip().splitlines() or ["it ended without a word"])[-1]


def _carried_out(call: str, arguments: list[Any]) -> Any:
    from drover.trust import certificates as c  # in the process apart only

    match call, arguments:
        case "key_id", [csr]:
            return c.key_id(csr.encode())
        case "issue", [tls_dir, csr, name, address, now]:
            return c.issue(c.load_authority(Path(tls_dir)), csr.encode(), name, address, now).decode()
        case "renew", [tls_dir, now]:
            return c.renew_if_due(Path(tls_dir), now)
        case "ends_at", [certificate]:
            return c.expires_at(certificate.encode())
    raise Invalid(f"there is no call {call} with {len(arguments)} arguments")


def main() -> None:
    try:
        answer = _Answer(_carried_out(sys.argv[1], msgspec.json.decode(sys.stdin.buffer.read(), type=list[Any])))
    except Invalid as error:
        answer = _Answer(refused=(error.message, error.hint))
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
