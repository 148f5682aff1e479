"""The cluster's CA and the certificates of its hosts.

Theory of operation. One CA per cluster (EC P-256, ten years), made by `drover init`. Each host makes its own key, which
never leaves it, and gets a certificate for it: from its own CA on the first host, from the host it joins through on
every other. The CA's key goes to every host at join, so that any host can take in another when the first one is dead
(`docs/adr/0003-trust.md`), and so that every host can renew its own certificate without asking anybody.

    file       what                                       made by            replaced
    ca.crt     the CA's certificate                       init, join         never
    ca.key     the CA's key                               init, join         never
    host.key   this host's key                            init, join         never: a retried join must use the same
    host.crt   this host's certificate, 90 days           init, join         by `renew_if_due`, 30 days before its end

A certificate's names come from the issuer's arguments; of a request (CSR) only the public key is used. Times are
seconds since the Unix epoch, given by the caller. Certificates begin a day early, so that clocks may differ.

The daemon does not import this module but asks a process of its own (`trust.apart`): what reads and signs certificates
takes 8 MB, and is needed for a moment a month.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drover.errors import Invalid
from drover.trust.files import write_private
from drover.trust.names import check_address, check_host_name

DAY_S = 86_400.0
CA_LIFETIME_S = 3_653 * DAY_S
HOST_LIFETIME_S = 90 * DAY_S
RENEW_BEFORE_S = 30 * DAY_S
BACKDATE_S = DAY_S
FILES = ("ca.crt", "ca.key", "host.crt", "host.key")


class Authority(msgspec.Struct, frozen=True):
    """A CA as PEM texts: `certificate` is public, `key` is not."""

    certificate: bytes
    key: bytes


def new_key() -> bytes:
    """A fresh EC P-256 private key as PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def new_authority(cluster: str, now: float) -> Authority:
    """A self-signed CA for the cluster of this name."""
    key_pem = new_key()
    key = _load_key(key_pem)
    name = _common_name(f"drover cluster {cluster}"[:64])
    builder = _builder(name, name, key.public_key(), now, CA_LIFETIME_S)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(ca=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Authority(_pem(builder.sign(key, hashes.SHA256())), key_pem)


def request(key_pem: bytes, name: str) -> bytes:
    """A certificate signing request (PEM) that proves that the sender has the key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_common_name(name))
    return builder.sign(_load_key(key_pem), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def requested_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a request whose signature holds; raises `Invalid` for anything else."""
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
    except ValueError:
        raise Invalid("the certificate request is not a PEM text", hint="join with the same version of drover")
    public = csr.public_key()
    if not csr.is_signature_valid or not isinstance(public, ec.EllipticCurvePublicKey):
        raise Invalid(
            "the certificate request is not signed by its own EC key", hint="join with the same version of drover"
        )
    return public


def key_id(csr_pem: bytes) -> str:
    """A host's id: 32 hex digits that only change with the host's key."""
    return _public_id(requested_key(csr_pem))


def issue(authority: Authority, csr_pem: bytes, name: str, address: str, now: float) -> bytes:
    """A host certificate (PEM) for the key of the request, valid for the host's name, its address and loopback."""
    return _issue(authority, requested_key(csr_pem), name, address, now)


def expires_at(certificate_pem: bytes) -> float:
    return _load(certificate_pem).not_valid_after_utc.timestamp()


def load_authority(tls_dir: Path) -> Authority:
    return Authority((tls_dir / "ca.crt").read_bytes(), (tls_dir / "ca.key").read_bytes())


def host_key(tls_dir: Path) -> bytes:
    """This host's key, made at the first call: a join that is tried again must show the same key."""
    path = tls_dir / "host.key"
    if not path.exists():
        write_private(path, new_key())
    return path.read_bytes()


def install(tls_dir: Path, authority: Authority, certificate_pem: bytes) -> None:
    """Write the CA and this host's certificate beside the host's key; the certificate last, as it completes the set."""
    write_private(tls_dir / "ca.crt", authority.certificate)
    write_private(tls_dir / "ca.key", authority.key)
    write_private(tls_dir / "host.crt", certificate_pem)


def renew_if_due(tls_dir: Path, now: float) -> bool:
    """Replace this host's certificate if it ends within 30 days; True if it was replaced.

    The key and the names stay, so only one file changes. Who holds a TLS context must reload it (`tls.reload`);
    etcd reads the file at each handshake.
    """
    old_pem = (tls_dir / "host.crt").read_bytes()
    if expires_at(old_pem) - now > RENEW_BEFORE_S:
        return False
    name, address = _names(_load(old_pem))
    public = _load_key((tls_dir / "host.key").read_bytes()).public_key()
    write_private(tls_dir / "host.crt", _issue(load_authority(tls_dir), public, name, address, now))
    return True


def _issue(authority: Authority, public: ec.EllipticCurvePublicKey, name: str, address: str, now: float) -> bytes:
    ca = _load(authority.certificate)
    ca_key = _load_key(authority.key)
    # Both usages: a daemon is server and client, and etcd's JSON gateway calls its own member as a client.
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = _builder(_common_name(check_host_name(name)), ca.subject, public, now, HOST_LIFETIME_S)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(ca=False), critical=True)
    builder = builder.add_extension(usages, critical=False)
    builder = builder.add_extension(_alternative_names(name, address), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    builder = builder.add_extension(issuer_id, critical=False)
    return _pem(builder.sign(ca_key, hashes.SHA256()))


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: float, lifetime_s: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(now - BACKDATE_S))
        .not_valid_after(_utc(now + lifetime_s))
    )


def _alternative_names(name: str, address: str) -> x509.SubjectAlternativeName:
    """The host's own address comes first: `_names` reads it back."""
    loopback = ipaddress.ip_address("127.0.0.1")
    own = ipaddress.ip_address(check_address(address))
    addresses = [own] if own == loopback else [own, loopback]
    return x509.SubjectAlternativeName([*map(x509.IPAddress, addresses), x509.DNSName(name), x509.DNSName("localhost")])


def _names(certificate: x509.Certificate) -> tuple[str, str]:
    """(host name, address) a host certificate was issued for."""
    name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return str(name), str(alternatives.get_values_for_type(x509.IPAddress)[0])


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _public_id(public: ec.EllipticCurvePublicKey) -> str:
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:32]


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _utc(now: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(now, datetime.UTC)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _load(certificate_pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate_pem)


def _load_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(key_pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Invalid("the private key is not an EC key", hint="restore the file that drover wrote")
    return key
