"""What an account's facts must be before they are kept: decided from the facts alone, and told field by field."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from fleetops.aws.regions import partition_of

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
LONGEST_EXTERNAL_ID = 128
MOST_STREAM_HOSTS = 16
_ROLE = re.compile(r"arn:(?P<partition>aws[a-z-]*):iam::(?P<account>\d{12}):role/[\w+=,.@/-]{1,512}", re.ASCII)
_EXTERNAL_ID = re.compile(r"[\w+=,.@:/-]{2,}", re.ASCII)  # botocore's model of AssumeRole
_PROFILE = re.compile(r"[\w.@+=-]{1,64}", re.ASCII)
_HOST = re.compile(
    r"(?:\[[0-9a-f:]{2,39}\]|[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*)", re.I
)
REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What a person, or the endpoint's hand-over, says of an account."""

    account_id: str
    name: str
    regions: tuple[str, ...] = ()
    role_arn: str = ""
    external_id: str = ""
    profile: str = ""
    endpoint_url: str = ""
    ca_pem: str = ""
    stream_hosts: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """The columns of Account, but for its id."""
        return {name: getattr(self, name) for name in COLUMNS} | {"stream_hosts": list(self.stream_hosts)}


# These decide to whom FleetOps proves itself, and as whom it acts there.
SENSITIVE = ("role_arn", "external_id", "profile", "endpoint_url", "ca_pem", "stream_hosts")
COLUMNS = ("name", *SENSITIVE)
assert {field.name for field in fields(AccountFacts)} == {"account_id", "regions", *COLUMNS}


def problems(facts: AccountFacts, *, now: datetime) -> dict[str, str]:
    """By field, in words, what is wrong; empty if all is well. Nothing is asked of anybody."""
    found: dict[str, str] = {}
    checks = {
        "account_id": _account_id,
        "name": _name,
        "regions": _regions,
        "role_arn": _role_arn,
        "external_id": _external_id,
        "profile": _profile,
        "endpoint_url": _endpoint_url,
        "stream_hosts": _stream_hosts,
    }
    for name, check in checks.items():
        if text := check(facts):
            found[name] = text
    if text := _ca_pem(facts, now):
        found["ca_pem"] = text
    return found


def with_own_stream_host(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The stream hosts of an endpoint that names none: its own host and port, over which most send their streams."""
    hosts = tuple(facts.get("stream_hosts") or ())
    parts = urlsplit(str(facts.get("endpoint_url") or ""))
    if hosts or not parts.hostname:
        return hosts
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    try:
        return (f"{host}:{parts.port or 443}",)
    except ValueError:
        return hosts


def plain_pem(text: str) -> str:
    """PEM as files have it: a form sends other line ends."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return "\n".join([*lines, ""]) if lines else ""


def ca_fingerprint(ca_pem: str) -> str:
    """What the audit log shows of a CA: whose it is and until when; its words where it is none."""
    try:
        certificates = x509.load_pem_x509_certificates(ca_pem.encode())
    except ValueError:
        return "unreadable" if ca_pem else ""
    return "; ".join(
        f"{each.subject.rfc4514_string()} until {each.not_valid_after_utc:%Y-%m-%d}" for each in certificates
    )


def _account_id(facts: AccountFacts) -> str:
    if re.fullmatch(r"\d{12}", facts.account_id, re.ASCII):
        return ""
    return "Give AWS's twelve digits, without dashes: 222233334444."


def _name(facts: AccountFacts) -> str:
    if not facts.name.strip():
        return "Give it a name that people know it by."
    return "" if len(facts.name) <= 64 and facts.name.isprintable() else "Use at most 64 letters, digits and signs."


def _regions(facts: AccountFacts) -> str:
    if not facts.regions:
        return "Choose at least one region; FleetOps reads no other."
    wrong = [name for name in facts.regions if not REGION.fullmatch(name)]
    if wrong:
        return f"{wrong[0]} is no region; choose one such as eu-west-1."
    partitions = {partition_of(name) for name in facts.regions}
    if len(partitions) > 1:
        return "An account lies in one partition: the public regions, China's, or GovCloud's."
    return ""


def _role_arn(facts: AccountFacts) -> str:
    if not facts.role_arn:
        return ""
    found = _ROLE.fullmatch(facts.role_arn)
    if found is None:
        return f"This is no role's ARN; give arn:aws:iam::{facts.account_id or '222233334444'}:role/NAME."
    if found["account"] != facts.account_id:
        return f"This role is of account {found['account']}, and not of {facts.account_id}."
    if facts.regions and all(REGION.fullmatch(name) for name in facts.regions):
        partition = partition_of(facts.regions[0])
        if found["partition"] != partition:
            return f"The regions are of the partition {partition}; give arn:{partition}:iam::{facts.account_id}:role/…"
    return ""


def _external_id(facts: AccountFacts) -> str:
    if not facts.external_id:
        return ""
    if not facts.role_arn:
        return "An external id belongs to a role; give the role, or leave this empty."
    if len(facts.external_id) > LONGEST_EXTERNAL_ID or not _EXTERNAL_ID.fullmatch(facts.external_id):
        return "AWS takes 2 to 128 letters, digits and + = , . @ : / _ - here, and no blanks."
    return ""


def _profile(facts: AccountFacts) -> str:
    if not facts.profile or _PROFILE.fullmatch(facts.profile):
        return ""
    return "Give the name of a profile of the AWS configuration files, such as fleetops; keys are not kept here."


def _endpoint_url(facts: AccountFacts) -> str:
    if not facts.endpoint_url:
        return ""
    try:
        parts = urlsplit(facts.endpoint_url)
        port = parts.port
    except ValueError:
        return "This is no address; give https://HOST or https://HOST:PORT."
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    plain = f"{parts.scheme}://{shown}{f':{port}' if port else ''}"
    if not host or not _HOST.fullmatch(shown) or facts.endpoint_url.rstrip("/").lower() != plain.lower():
        return "Give https://HOST or https://HOST:PORT, and nothing after it."
    if parts.scheme != "https" and not (parts.scheme == "http" and host in LOOPBACK):
        return "Use https: over http anybody on the way could read and change what is said (this machine's own aside)."
    return ""


def _stream_hosts(facts: AccountFacts) -> str:
    if len(facts.stream_hosts) > MOST_STREAM_HOSTS:
        return f"Give at most {MOST_STREAM_HOSTS} of them."
    for each in facts.stream_hosts:
        host, _, port = each.rpartition(":")
        if not _HOST.fullmatch(host) or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
            return f"{each} is not HOST:PORT, such as ssm.example.net:443."
    return ""


def _ca_pem(facts: AccountFacts, now: datetime) -> str:
    text = facts.ca_pem
    if not text:
        return ""
    if "PRIVATE KEY" in text:
        return "There is a private key in it, which must stay where it was made. Give the CA's certificate alone."
    if not facts.endpoint_url:
        return "A CA belongs to an endpoint address; AWS itself is held against the system's CAs."
    try:
        certificates = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        return "This is no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----."
    for certificate in certificates:
        name = certificate.subject.rfc4514_string()
        try:
            is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            is_ca = False
        if not is_ca:
            return f"{name} is no CA's certificate; give the one that signed the endpoint's."
        if certificate.not_valid_after_utc <= now.astimezone(UTC):
            return f"The certificate of {name} ended on {certificate.not_valid_after_utc:%d %b %Y}."
    return ""
