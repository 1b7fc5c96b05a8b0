"""The CA that the endpoint makes: made once, renewed in time, private where it must be."""

import stat
from datetime import UTC, datetime, timedelta

from cryptography import x509

from fleetops.endpoint.ca import ensure_certificates

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def names(home) -> list[str]:
    certificate = x509.load_pem_x509_certificate((home / "server.pem").read_bytes())
    held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in held]


def test_the_certificate_names_loopback_and_the_host(tmp_path):
    ensure_certificates(tmp_path, "fleet.example.com", NOW)
    assert names(tmp_path) == ["localhost", "*.localhost", "127.0.0.1", "::1", "fleet.example.com"]
    for name in ("ca.key", "server.key", "server.pem"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    server = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    server.verify_directly_issued_by(x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes()))


def test_nothing_is_made_twice(tmp_path):
    ensure_certificates(tmp_path, "127.0.0.1", NOW)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ensure_certificates(tmp_path, "127.0.0.1", NOW + timedelta(days=100))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_servers_is_renewed_before_it_ends_and_for_another_host_and_the_ca_stays(tmp_path):
    ensure_certificates(tmp_path, "127.0.0.1", NOW)
    ca, server = (tmp_path / "ca.pem").read_bytes(), (tmp_path / "server.pem").read_bytes()
    ensure_certificates(tmp_path, "127.0.0.1", NOW + timedelta(days=800))
    renewed = (tmp_path / "server.pem").read_bytes()
    assert renewed != server
    ensure_certificates(tmp_path, "10.1.2.3", NOW + timedelta(days=800))
    assert "10.1.2.3" in names(tmp_path)
    assert (tmp_path / "ca.pem").read_bytes() == ca
