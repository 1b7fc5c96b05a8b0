"""This machine as a managed node: it registers with an activation's code, and fetches its credentials with its own key.

Source: amazon-ssm-agent, agent/ssm/anonauth, agent/ssm/rsaauth, agent/managedInstances and
core/app/credentialrefresher.
"""

import asyncio
import base64
import contextlib
import json
import logging
import os
import platform
import pwd
import random
import shutil
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as SigningKey
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from fleetops import clock

from .agent import Node
from .calls import CallFailed, CallRefused, Endpoint, Retry
from .sandbox import Launcher
from .spec import Credentials, NodeSpec, Options

logger = logging.getLogger(__name__)

KEY_BITS: Final = 2048  # as the real agent's; the smallest that SSM takes
SALT_BYTES: Final = 32  # of the signature. rsaauth
REFUSED_SECONDS: Final = (1500.0, 1800.0)  # before the next try after AccessDenied or another fingerprint
SHORTEST_RENEWAL: Final = 1.0  # seconds
_REFUSALS: Final = ("AccessDeniedException", "MachineFingerprintDoesNotMatch")


class NotRegistered(Exception):
    """There is nothing to run; the text says what to do."""


def default_home() -> Path:
    """Where a registration lies: for root /var/lib, else the person's own data."""
    if os.getuid() == 0:
        return Path("/var/lib/fleetops-node")
    data = os.environ.get("XDG_DATA_HOME") or f"{pwd.getpwuid(os.getuid()).pw_dir}/.local/share"
    return Path(data) / "fleetops-node"


class Registration:
    """The files of one registration: which node this is, and the key that proves it (0600)."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._file = home / "registration.json"
        self._key = home / "key.pem"
        self._next_key = home / "key.next.pem"  # one that the endpoint may know already
        self.ca = home / "ca.pem"

    def read(self) -> dict[str, str]:
        """Raises NotRegistered."""
        try:
            values = json.loads(self._file.read_text())
            return {name: str(values[name]) for name in ("instance_id", "region", "endpoint")}
        except (OSError, ValueError, KeyError, TypeError):
            raise NotRegistered(
                f"{self.home} holds no registration. Run fleetops node register with the id and the code of an "
                "activation first."
            ) from None

    def write(self, key: rsa.RSAPrivateKey, ca_file: str, **values: str) -> None:
        """Keep a new registration in the place of any other."""
        self._next_key.unlink(missing_ok=True)
        _write_secret(self._key, _pem(key))
        self.ca.unlink(missing_ok=True)
        if ca_file:
            shutil.copyfile(ca_file, self.ca)
        _write_secret(self._file, json.dumps(values).encode())

    def fingerprint(self) -> str:
        """A UUID that stays while the machine is the same; a copy of its disk on another gets one of its own."""
        path = self.home / "fingerprint.json"
        machine = _machine_id()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            values = json.loads(path.read_text())
            if values["machine"] == machine:
                return str(values["fingerprint"])
        fingerprint = str(uuid4())
        _write_secret(path, json.dumps({"machine": machine, "fingerprint": fingerprint}).encode())
        return fingerprint

    def key(self) -> rsa.RSAPrivateKey:
        """Raises NotRegistered."""
        return _load_key(self._key)

    def next_key(self) -> rsa.RSAPrivateKey | None:
        return _load_key(self._next_key) if self._next_key.exists() else None

    def begin_rotation(self) -> rsa.RSAPrivateKey:
        """Make the next key, on the disk before anybody learns of it."""
        key = rsa.generate_private_key(public_exponent=65_537, key_size=KEY_BITS)
        _write_secret(self._next_key, _pem(key))
        return key

    def end_rotation(self) -> None:
        """The endpoint knows the next key: it is the key now."""
        self._next_key.replace(self._key)


async def register(home: Path, *, endpoint: str, ca_file: str, region: str, activation_id: str, code: str) -> str:
    """Register this machine, again if it is registered already; its instance id. Raises CallFailed or OSError."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    registration = Registration(home)
    key = rsa.generate_private_key(public_exponent=65_537, key_size=KEY_BITS)
    calls = Endpoint(_spec(home, "", region, endpoint), Options(endpoint, ca_file), _context(ca_file))
    answer = await calls.call_anonymously(
        "AmazonSSM.RegisterManagedInstance",
        {
            "ActivationCode": code,
            "ActivationId": activation_id,
            "Fingerprint": registration.fingerprint(),
            "PublicKey": public_key(key),
            "PublicKeyType": "Rsa",
        },
    )
    instance_id = str(answer.get("InstanceId") or "")
    if not instance_id:
        raise CallFailed("the endpoint gave no instance id")
    registration.write(key, ca_file, instance_id=instance_id, region=region, endpoint=endpoint)
    return instance_id


class Machine:
    """The running node of a registration."""

    def __init__(self, home: Path, *, options: Callable[[Options], Options] = lambda options: options) -> None:
        """`options` may change what the node is run with. Raises NotRegistered."""
        self._registration = Registration(home)
        values = self._registration.read()
        self._registration.key()
        ca_file = str(self._registration.ca) if self._registration.ca.exists() else ""
        self._options = options(Options(values["endpoint"], ca_file))
        self.spec = _spec(home, values["instance_id"], values["region"], values["endpoint"])
        context = _context(ca_file)
        self._endpoint = Endpoint(self.spec, self._options, context)
        self.node = Node(self.spec, self._options, context, Launcher("machine"))

    async def run(self) -> None:
        """Live until cancelled."""
        living = asyncio.create_task(self.node.run())
        renewing = asyncio.create_task(self._renew())
        try:
            await asyncio.wait([living, renewing], return_when=asyncio.FIRST_COMPLETED)
            for task in (living, renewing):
                if task.done():
                    task.result()
        finally:
            for task in (living, renewing):
                task.cancel()
            await asyncio.gather(living, renewing, return_exceptions=True)

    async def _renew(self) -> None:
        """Fetch credentials, and again at half of their life."""
        scale = self._options.retry_scale
        retry = Retry((5.0, 10.0), 2_400.0, jitter=0.5, scale=scale)
        while True:
            try:
                answer = await self._token()
                credentials = Credentials(
                    str(answer["AccessKeyId"]), str(answer["SecretAccessKey"]), str(answer["SessionToken"])
                )
                ends_at = _moment(answer["TokenExpirationDate"])
            except (CallFailed, KeyError, ValueError) as error:
                is_refused = isinstance(error, CallRefused) and any(word in error.body for word in _REFUSALS)
                wait = random.uniform(*REFUSED_SECONDS) * scale if is_refused else retry.next()
                words = error.body if isinstance(error, CallRefused) else repr(error)
                logger.warning(
                    "no credentials instance=%s retry_seconds=%.0f reason=%s", self.spec.instance_id, wait, words[:300]
                )
                await asyncio.sleep(wait)
                continue
            retry.reset()
            self.node.set_credentials(credentials)
            logger.info("credentials fetched instance=%s until=%s", self.spec.instance_id, ends_at.isoformat())
            if answer.get("UpdateKeyPair"):
                await self._rotate()
            left = (ends_at - clock.now()).total_seconds()
            await clock.sleep(max(SHORTEST_RENEWAL, left / 2))

    async def _token(self) -> dict[str, Any]:
        """RequestManagedInstanceRoleToken. Raises CallFailed.

        A process that was killed while it changed its key does not know which one holds: then the next is tried too.
        """
        body = {"Fingerprint": self._registration.fingerprint()}
        target = "AmazonSSM.RequestManagedInstanceRoleToken"
        try:
            return await self._endpoint.call_with_key(target, body, self._signer(self._registration.key()))
        except CallRefused:
            following = self._registration.next_key()
            if following is None:
                raise
            answer = await self._endpoint.call_with_key(target, body, self._signer(following))
            self._registration.end_rotation()
            return answer

    async def _rotate(self) -> None:
        """Make a new key; the old one signs for it."""
        old, new = self._registration.key(), self._registration.begin_rotation()
        body = {"NewPublicKey": public_key(new), "NewPublicKeyType": "Rsa"}
        try:
            await self._endpoint.call_with_key("AmazonSSM.UpdateManagedInstancePublicKey", body, self._signer(old))
        except CallFailed as error:
            logger.warning("key not changed instance=%s reason=%s", self.spec.instance_id, error)
            return
        self._registration.end_rotation()
        logger.info("key changed instance=%s", self.spec.instance_id)

    def _signer(self, key: rsa.RSAPrivateKey) -> "RsaAuth":
        return RsaAuth(self.spec.instance_id, key, self.spec.region)


class RsaAuth(SigV4Auth):
    """Signature V4, but signed with RSA: RSA-PSS, SHA-256, over the ordinary string to sign, in base64. rsaauth."""

    def __init__(self, instance_id: str, key: rsa.RSAPrivateKey, region: str) -> None:
        super().__init__(SigningKey(instance_id, "none"), "ssm", region)
        self._key = key

    def signature(self, string_to_sign: str, request: AWSRequest) -> str:
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=SALT_BYTES)
        return base64.b64encode(self._key.sign(string_to_sign.encode(), pss, hashes.SHA256())).decode()


def _spec(home: Path, instance_id: str, region: str, endpoint: str) -> NodeSpec:
    """What this machine is: its real platform and addresses."""
    name, version = _platform()
    hostname = socket.gethostname()
    return NodeSpec(
        account_id="",
        region=region,
        instance_id=instance_id,
        hostname=hostname,
        name=hostname,
        home=str(home / "node"),
        platform_name=name,
        platform_version=version,
        ip=_own_address(endpoint),
    )


def _platform() -> tuple[str, str]:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return release.get("NAME", platform.system()), release.get("VERSION_ID", platform.release())


def _own_address(endpoint: str) -> str:
    """The address of this machine from which the endpoint is reached; "" if there is none."""
    parts = urlsplit(endpoint)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # of UDP: nothing is sent
            return str(probe.getsockname()[0])
    except (OSError, IndexError):
        return ""


def _machine_id() -> str:
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""


def _moment(value: Any) -> datetime:
    """TokenExpirationDate, a number of seconds or a text as of ISO 8601. Raises ValueError."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    moment = datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _context(ca_file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file or None)


def public_key(key: rsa.RSAPrivateKey) -> str:
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(key.public_key().public_bytes(serialization.Encoding.DER, spki)).decode()


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_key(path: Path) -> rsa.RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise NotRegistered(f"{path} holds no key ({error}). Register again.") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise NotRegistered(f"{path} holds no RSA key. Register again.")
    return key


def _write_secret(path: Path, data: bytes) -> None:
    """Replace a file whole; nobody else may read it, at no moment."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
