"""Make the files of `secrets/` that docker-compose.yml hands to its services; whatever is there already stays.

    python -m fleetops.secretfiles DIRECTORY HOST

Passwords and keys are made up here and shown nowhere. The certificate is one that this command signs itself, for HOST,
until somebody puts a better one in its place: browsers warn of it. aws_credentials is empty: without an instance role,
put a profile there.

Compose hands a file over as it lies on the disk, so each belongs to the one user that reads it, mode 0400. That takes
root: docker-compose.yml has a service `secrets` for it. Run by anybody else, the files stay that user's.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleetops.clock import now
from fleetops.vault import add_key

# The users of the images: ours (Dockerfile), postgres and valkey (Debian's variants), nginx.
APP, STORES, PROXY = 10001, 999, 101
CERTIFICATE_LIFE = timedelta(days=365)

READERS = {
    "secret_key": APP,
    "audit_key": APP,
    "master_key": APP,
    "admin_password": APP,
    "metrics_token": APP,
    "aws_credentials": APP,
    "database_url": APP,
    "valkey_url": APP,
    "database_init": STORES,
    "postgres_password": STORES,
    "valkey_users": STORES,
    "tls_certificate": PROXY,
    "tls_key": PROXY,
}


def make(directory: Path, host: str) -> list[str]:
    """Make what is missing, and give each file to its reader; returns the names of those made."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    before = {path.name for path in directory.iterdir()}

    def once(name: str, text: Callable[[], str]) -> str:
        path = directory / name
        if not path.exists():
            _write(path, text())
        return path.read_text().strip()

    for name in ("secret_key", "audit_key", "metrics_token", "postgres_password"):
        once(name, lambda: secrets.token_urlsafe(50))
    once("admin_password", lambda: secrets.token_urlsafe(15))
    once("aws_credentials", lambda: "")
    if not (directory / "master_key").exists():
        add_key(directory / "master_key")
    # Two files each, for the two ends. No sign of a password that is made here has to be escaped, in a URL or in SQL.
    url = once("database_url", lambda: f"postgresql://fleetops:{secrets.token_urlsafe(30)}@postgres:5432/fleetops")
    role = f"CREATE ROLE fleetops LOGIN PASSWORD '{urlsplit(url).password}';"
    once("database_init", lambda: f"{role}\nCREATE DATABASE fleetops OWNER fleetops;")
    url = once("valkey_url", lambda: f"redis://:{secrets.token_urlsafe(30)}@valkey:6379")
    digest = hashlib.sha256((urlsplit(url).password or "").encode()).hexdigest()
    # `health` may ask whether the server lives, and nothing else.
    users = f"user default on #{digest} ~* &* +@all\nuser health on nopass resetkeys resetchannels -@all +ping"
    once("valkey_users", lambda: users)
    if "tls_certificate" in before and "tls_key" not in before:
        raise ValueError("tls_certificate has no tls_key beside it; put it there")
    key = once("tls_key", new_key)
    once("tls_certificate", lambda: self_signed(host, key))
    for name, uid in READERS.items():
        path = directory / name
        if os.geteuid() == 0:
            os.chown(path, uid, uid)
        path.chmod(0o400)
    return sorted(READERS.keys() - before)


def new_key() -> str:
    """A private key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, form, serialization.NoEncryption()).decode()


def self_signed(host: str, key_pem: str) -> str:
    """A certificate for `host` under its own key, in PEM."""
    key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - timedelta(hours=1))
        .not_valid_after(now() + CERTIFICATE_LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _write(path: Path, text: str) -> None:
    """Write `path` whole or not at all, never readable by others."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text.rstrip("\n") + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0].startswith("-"):
        print("usage: python -m fleetops.secretfiles DIRECTORY HOST", file=sys.stderr)
        return 2
    directory, host = Path(arguments[0]), arguments[1]
    try:
        made = make(directory, host)
    except (OSError, ValueError) as error:
        print(f"The secrets cannot be made in {directory}: {error}", file=sys.stderr)
        return 1
    print(f"made: {', '.join(made)}" if made else "all secrets are there already; nothing was changed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
