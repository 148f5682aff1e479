"""The CA and host certificates, judged by the cryptography library and by real TLS connections (test_trust_tls)."""

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

from drover.errors import Invalid
from drover.trust import certificates, names
from drover.trust.certificates import DAY_S
from drover.trust.files import write_private

NOW = 1_800_000_000.0


def enrolled(tls_dir: Path, now: float = NOW) -> certificates.Authority:
    """A CA and the files of host `web1` at 192.0.2.7."""
    authority = certificates.new_authority("prod", now)
    csr = certificates.request(certificates.host_key(tls_dir), "web1")
    certificates.install(tls_dir, authority, certificates.issue(authority, csr, "web1", "192.0.2.7", now))
    return authority


def test_a_host_certificate_is_signed_by_the_ca_and_names_the_host(tmp_path: Path) -> None:
    authority = enrolled(tmp_path)
    leaf = x509.load_pem_x509_certificate((tmp_path / "host.crt").read_bytes())
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7", "127.0.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["web1", "localhost"]
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {Usage.SERVER_AUTH, Usage.CLIENT_AUTH} == set(usages)


def test_the_request_s_names_are_not_taken_over() -> None:
    authority = certificates.new_authority("prod", NOW)
    csr = certificates.request(certificates.new_key(), "h1")
    leaf = x509.load_pem_x509_certificate(certificates.issue(authority, csr, "web2", "192.0.2.8", NOW))
    assert leaf.subject.rfc4514_string() == "CN=web2"


def test_a_host_certificate_can_sign_nothing(tmp_path: Path) -> None:
    enrolled(tmp_path)
    leaf = x509.load_pem_x509_certificate((tmp_path / "host.crt").read_bytes())
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_certificates_begin_a_day_early_and_the_ca_lasts_ten_years() -> None:
    ca = x509.load_pem_x509_certificate(certificates.new_authority("prod", NOW).certificate)
    assert ca.not_valid_before_utc.timestamp() == NOW - DAY_S
    assert ca.not_valid_after_utc.timestamp() >= NOW + 3650 * DAY_S


def test_all_files_are_private(tmp_path: Path) -> None:
    enrolled(tmp_path / "tls")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tls").iterdir()}
    assert modes == dict.fromkeys(certificates.FILES, 0o600)


def test_the_host_key_stays_the_same(tmp_path: Path) -> None:
    assert certificates.host_key(tmp_path) == certificates.host_key(tmp_path)


def test_a_key_id_follows_the_key_and_not_the_name() -> None:
    key, other = certificates.new_key(), certificates.new_key()
    first, second = certificates.request(key, "a"), certificates.request(key, "b")
    assert certificates.key_id(first) == certificates.key_id(second)
    assert certificates.key_id(first) != certificates.key_id(certificates.request(other, "a"))


@pytest.mark.parametrize("csr", [b"", b"nonsense", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n"])
def test_a_broken_request_is_refused_with_a_sentence(csr: bytes) -> None:
    with pytest.raises(Invalid, match="certificate request"):
        certificates.requested_key(csr)


def test_renewal_is_left_alone_until_it_is_due(tmp_path: Path) -> None:
    enrolled(tmp_path)
    before = (tmp_path / "host.crt").read_bytes()
    assert not certificates.renew_if_due(tmp_path, NOW + 59 * DAY_S)
    assert (tmp_path / "host.crt").read_bytes() == before


def test_renewal_keeps_key_and_names(tmp_path: Path) -> None:
    enrolled(tmp_path)
    before = x509.load_pem_x509_certificate((tmp_path / "host.crt").read_bytes())
    later = NOW + 61 * DAY_S
    assert certificates.renew_if_due(tmp_path, later)
    after = x509.load_pem_x509_certificate((tmp_path / "host.crt").read_bytes())
    names = x509.SubjectAlternativeName
    assert after.public_key() == before.public_key()
    assert after.subject == before.subject
    assert after.extensions.get_extension_for_class(names) == before.extensions.get_extension_for_class(names)
    assert certificates.expires_at((tmp_path / "host.crt").read_bytes()) == later + 90 * DAY_S
    assert not certificates.renew_if_due(tmp_path, later)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a/b", "a" * 64, "ä", "a\n"])
def test_bad_host_names_are_refused(name: str) -> None:
    with pytest.raises(Invalid, match="cannot be a host's name"):
        names.check_host_name(name)


@pytest.mark.parametrize("name", ["a", "web-1", "0", "a" * 63])
def test_good_host_names_pass(name: str) -> None:
    assert names.check_host_name(name) == name


@pytest.mark.parametrize("address", ["", "web1", "0.0.0.0", "::", "224.0.0.1", "1.2.3"])
def test_bad_addresses_are_refused(address: str) -> None:
    with pytest.raises(Invalid):
        names.check_address(address)


def test_addresses_become_canonical() -> None:
    assert names.check_address("2001:DB8:0::1") == "2001:db8::1"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "key"
    write_private(target, b"old")

    def broken(_from: str, _to: Path) -> None:
        raise OSError("power cut")

    monkeypatch.setattr("drover.trust.files.os.replace", broken)
    with pytest.raises(OSError, match="power cut"):
        write_private(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
