"""The certificate authority that the endpoint makes for itself, and the server certificate under it."""

import ipaddress
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleetops.endpoint.keys import write_private

_CA_LIFE = timedelta(days=3650)
# Clients that follow the browsers' rule refuse a server certificate that lives longer than 825 days.
_SERVER_LIFE = timedelta(days=820)
_RENEW_BEFORE = timedelta(days=30)


def ensure_certificates(home: Path, host: str, now: datetime) -> None:
    """Make ca.pem, ca.key, server.pem and server.key in `home`; renew the server's when it ends or names another host.

    The CA is made once: whoever trusts it goes on trusting every later server certificate.
    """
    ca_file, ca_key_file = home / "ca.pem", home / "ca.key"
    if not ca_file.exists() or not ca_key_file.exists():
        _make_ca(ca_file, ca_key_file, now)
    ca = x509.load_pem_x509_certificate(ca_file.read_bytes())
    names = _names(host)
    if not _is_good(home / "server.pem", home / "server.key", names, now):
        ca_key = serialization.load_pem_private_key(ca_key_file.read_bytes(), password=None)
        _make_server(home, ca, ca_key, names, now)


def _names(host: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.DNSName("*.localhost"),  # S3 with the bucket in the host's name: the agent's only way for one without dots
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    try:
        own: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        own = x509.DNSName(host)
    return names if own in names else [*names, own]


def _is_good(certificate_file: Path, key_file: Path, names: list[x509.GeneralName], now: datetime) -> bool:
    if not certificate_file.exists() or not key_file.exists():
        return False
    certificate = x509.load_pem_x509_certificates(certificate_file.read_bytes())[0]
    held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return certificate.not_valid_after_utc - now > _RENEW_BEFORE and all(name in list(held) for name in names)


def _make_ca(certificate_file: Path, key_file: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FleetOps endpoint CA")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(key_file, _pem(key))
    write_private(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def _make_server(home: Path, ca: x509.Certificate, ca_key, names: list[x509.GeneralName], now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FleetOps endpoint")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(min(now + _SERVER_LIFE, ca.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    write_private(home / "server.key", _pem(key))
    write_private(home / "server.pem", certificate.public_bytes(serialization.Encoding.PEM))


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
