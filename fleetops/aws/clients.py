"""The one factory of boto3 clients: whose credentials, which endpoint and CA, how long to wait, how often to try."""

import hashlib
import os
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import botocore.auth
import botocore.session
from botocore.config import Config
from botocore.loaders import create_loader
from botocore.utils import parse_timestamp as botocore_parse_timestamp

from fleetops import clock

from . import calls, governor, renewal
from .errors import aws_call

# A role assumed from a role is good for one hour at most, whatever the role's own maximum [AWS STS, role chaining].
ROLE_SECONDS: Final = 3600
DEFAULT_ATTEMPTS: Final = 3
# Clients kept: one holds about 1 MB and a small pool of connections, and each person has one of their own for SSM.
MOST_CLIENTS: Final = 96
_ISO_TIMESTAMP: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?Z")
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

try:
    _VERSION = version("fleetops")
except PackageNotFoundError:  # run from a checkout that is not installed
    _VERSION = "source"

Tags = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class AccountAccess:
    """Where an account is reached, and as whom. A value: equal ones share their clients."""

    account_id: str
    role_arn: str = ""  # empty: the base credentials act themselves
    external_id: str = ""
    profile: str = ""  # of the AWS config files; empty: what botocore finds by itself
    endpoint_url: str = ""  # empty: AWS itself
    ca_pem: str = field(default="", repr=False)  # empty: the system's
    stream_hosts: tuple[str, ...] = ()  # host:port that may appear in a StreamUrl, beside AWS's own
    connect_timeout_seconds: int = 5
    read_timeout_seconds: int = 20
    cache_dir: str = ""  # where the CA is written for botocore; empty: the temporary directory
    issued_after: str = ""  # AWS denies what was issued before: credentials that were kept until then are not used


_lock = threading.Lock()
_loader = create_loader()  # reads each service's model once for all sessions
_sessions: OrderedDict[Hashable, Any] = OrderedDict()
_clients: OrderedDict[Hashable, Any] = OrderedDict()


def client(
    service: str,
    access: AccountAccess,
    region: str,
    *,
    session_name: str,
    source_identity: str = "",
    tags: Tags = (),
    attempts: int = DEFAULT_ATTEMPTS,
) -> Any:
    """A client of `service`, kept and shared by threads.

    It acts under the account's role, assumed at the first call with `session_name` (and, if given, SourceIdentity and
    session tags, which CloudTrail keeps); without a role it acts as the base credentials. `attempts` counts the first.

    Raises AccessDenied if there are no base credentials. What a call on it raises, `errors.aws_call` translates.
    """
    session_name = role_session_name(session_name)
    source_identity = role_session_name(source_identity) if source_identity else ""
    # The files' age is part of the key: credentials that were replaced on disk are read again without a restart.
    identity = (access, session_name, source_identity, tags, _credential_files_stamp())
    key = (service, region, attempts, identity)
    clock.sign_by_this(botocore.auth)
    with _lock:
        if key in _clients:
            _clients.move_to_end(key)
            return _clients[key]
        with aws_call("sts:AssumeRole" if access.role_arn else f"{service}:*", where=access.account_id):
            session = _session(access, region, session_name, source_identity, tags, identity)
            made = session.create_client(
                service,
                region_name=region,
                endpoint_url=access.endpoint_url or None,
                verify=_ca_file(access),
                config=_config(service, access, attempts),
            )
        calls.watch(made, account=access.account_id, region=region)
        governor.watch(made, account=access.account_id, region=region)
        _clients[key] = made
        if len(_clients) > MOST_CLIENTS:
            _clients.popitem(last=False)
        return made


def role_session_name(name: str) -> str:
    r"""`name` as RoleSessionName and SourceIdentity take it: 2 to 64 of [\w+=,.@-] [STS, AssumeRole].

    A name that has to be changed gets a piece of its digest, so that two people never share one in CloudTrail.
    """
    cleaned = re.sub(r"[^\w+=,.@-]", "-", name, flags=re.ASCII)
    if cleaned == name and 2 <= len(name) <= 64:
        return name
    return f"{cleaned[:55] or 'user'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def forget_clients() -> None:
    """Drop all kept clients and credentials."""
    with _lock:
        _clients.clear()
        _sessions.clear()


def _session(
    access: AccountAccess, region: str, session_name: str, source_identity: str, tags: Tags, identity: Hashable
) -> Any:
    if identity in _sessions:
        _sessions.move_to_end(identity)
        return _sessions[identity]
    base = _new_session(access.profile)
    session = base
    if access.role_arn:
        request: dict[str, Any] = {
            "RoleArn": access.role_arn,
            "RoleSessionName": session_name,
            "DurationSeconds": ROLE_SECONDS,
        }
        if access.external_id:
            request["ExternalId"] = access.external_id
        if source_identity:
            request["SourceIdentity"] = source_identity
        if tags:
            request["Tags"] = [{"Key": key, "Value": value} for key, value in tags]
        sts = base.create_client(
            "sts",
            region_name=region,
            endpoint_url=access.endpoint_url or None,
            verify=_ca_file(access),
            config=_config("sts", access, DEFAULT_ATTEMPTS),
        )
        calls.watch(sts, account=access.account_id, region=region)
        governor.watch(sts, account=access.account_id, region=region)
        session = _new_session("")
        credentials = renewal.RoleCredentials(lambda: _assume(sts, request), access.role_arn, session_name)
        renewal.keep(credentials)
        session._credentials = credentials
    _sessions[identity] = session
    if len(_sessions) > MOST_CLIENTS:
        _sessions.popitem(last=False)
    return session


def _new_session(profile: str) -> Any:
    session = botocore.session.Session(profile=profile or None)
    session.register_component("data_loader", _loader)
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_timestamp)
    return session


def parse_timestamp(value: Any) -> datetime:
    """What botocore's own parser tells of a timestamp in an answer, of the forms that AWS sends ten times sooner.

    Of a page of instances that was a third of the time.
    """
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, tz=UTC)
        if isinstance(value, str) and _ISO_TIMESTAMP.fullmatch(value):
            return datetime.fromisoformat(value)
    except (ValueError, OverflowError, OSError):
        pass
    parsed: datetime = botocore_parse_timestamp(value)
    return parsed


def _assume(sts: Any, request: dict[str, Any]) -> dict[str, str]:
    with aws_call("sts:AssumeRole", where=request["RoleArn"]):
        issued = sts.assume_role(**request)["Credentials"]
    return {
        "access_key": issued["AccessKeyId"],
        "secret_key": issued["SecretAccessKey"],
        "token": issued["SessionToken"],
        "expiry_time": issued["Expiration"].isoformat(),
    }


def _config(service: str, access: AccountAccess, attempts: int) -> Config:
    options: dict[str, Any] = {
        "connect_timeout": access.connect_timeout_seconds,
        "read_timeout": access.read_timeout_seconds,
        "retries": {"mode": "standard", "total_max_attempts": attempts},
        "user_agent_extra": f"fleetops/{_VERSION}",
        "tcp_keepalive": True,
        # The account's row says where it is reached; AWS_ENDPOINT_URL of some shell does not.
        "ignore_configured_endpoint_urls": True,
    }
    if access.endpoint_url:
        options["inject_host_prefix"] = False  # else botocore calls stream-127.0.0.1 for StartLiveTail
        if urlsplit(access.endpoint_url).hostname in _LOOPBACK:
            options["proxies"] = {}
    if service == "s3":
        options["signature_version"] = "s3v4"
        options["s3"] = {"addressing_style": "path"}
    return Config(**options)


def _credential_files_stamp() -> tuple[int, ...]:
    """When the AWS credentials and config files were last written, in nanoseconds; 0 for one that is not there."""
    stamps = []
    for variable, default in (
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        ("AWS_CONFIG_FILE", "~/.aws/config"),
    ):
        try:
            stamps.append(os.stat(os.path.expanduser(os.environ.get(variable) or default)).st_mtime_ns)
        except OSError:
            stamps.append(0)
    return tuple(stamps)


def _ca_file(access: AccountAccess) -> str | None:
    """The file with the account's CA, named by its content, so that it is written once and a new CA gets a new one."""
    if not access.ca_pem:
        return None
    directory = Path(access.cache_dir or Path(tempfile.gettempdir()) / f"fleetops-ca-{os.getuid()}")
    path = directory / f"{hashlib.sha256(access.ca_pem.encode()).hexdigest()}.pem"
    try:
        if path.read_text() == access.ca_pem and path.stat().st_uid == os.getuid():
            return str(path)
    except FileNotFoundError:
        pass
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(dir=directory)
    with os.fdopen(descriptor, "w") as file:
        file.write(access.ca_pem)
    os.replace(fresh, path)
    return str(path)
