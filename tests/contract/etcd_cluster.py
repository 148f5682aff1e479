"""Real etcd members on loopback for tests: certificates, free ports, processes."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drover.daemon.etcd_process import EtcdConfig, MemberTls, arguments
from drover.errors import Unavailable
from drover.store.etcd import EtcdStore

LOOPBACKS = [f"127.0.0.{number}" for number in range(1, 6)]
LOOPBACK = LOOPBACKS[0]
DAY = datetime.timedelta(days=1)
BOTH_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


class Tls(msgspec.Struct, frozen=True):
    """The files of members, and the context of a client."""

    files: MemberTls
    client: ssl.SSLContext


def make_tls(directory: Path, usages: tuple[x509.ObjectIdentifier, ...] = BOTH_USAGES) -> Tls:
    """A CA, and one certificate with `usages` for all members on loopback; the client's always has both."""
    directory.mkdir(parents=True, exist_ok=True)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("ca", ca_key.public_key(), "ca", ca_key, ())
    paths = MemberTls(ca=directory / "ca.crt", certificate=directory / "member.crt", key=directory / "member.key")
    paths.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    _issue(paths.certificate, paths.key, ca_key, usages)
    _issue(directory / "client.crt", directory / "client.key", ca_key, BOTH_USAGES)
    context = ssl.create_default_context(cafile=str(paths.ca))
    context.load_cert_chain(directory / "client.crt", directory / "client.key")
    return Tls(paths, context)


def _issue(
    certificate: Path, key_file: Path, ca_key: ec.EllipticCurvePrivateKey, usages: tuple[x509.ObjectIdentifier, ...]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    made = _certificate("member", key.public_key(), "ca", ca_key, usages)
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _certificate(
    name: str,
    public: ec.EllipticCurvePublicKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    usages: tuple[x509.ObjectIdentifier, ...],
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(ca=not usages, path_length=None), critical=True)
    )
    if usages:
        addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in LOOPBACKS]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    return builder.sign(signer, hashes.SHA256())


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def member_configs(directory: Path, names: list[str], files: MemberTls | None) -> list[EtcdConfig]:
    """New members that know each other."""
    alone = [member_config(directory, name, files) for name in names]
    together = {config.name: config.peer_url for config in alone}
    return [msgspec.structs.replace(config, initial_cluster=together) for config in alone]


def member_config(directory: Path, name: str, files: MemberTls | None) -> EtcdConfig:
    client_port, peer_port = free_ports(2)
    return EtcdConfig(
        name=name,
        address=LOOPBACK,
        data_dir=directory / name / "etcd",
        log_file=directory / name / "etcd.log",
        tls=files,
        client_port=client_port,
        peer_port=peer_port,
    )


async def ready(store: EtcdStore, patience_s: float = 20.0) -> None:
    """Until the store answers."""
    async with asyncio.timeout(patience_s):
        while True:
            with suppress(Unavailable):
                await store.snapshot()
                return


def start_plainly(config: EtcdConfig) -> subprocess.Popen[bytes]:
    """A member for many tests, outside any event loop."""
    config.data_dir.mkdir(mode=0o700, parents=True)
    with config.log_file.open("ab") as output:
        return subprocess.Popen(["etcd", *arguments(config)], stdout=output, stderr=output)
