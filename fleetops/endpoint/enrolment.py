"""Machines outside EC2: activations, registration, and a node's own key, with which it fetches its credentials.

Source: real-agent behaviour of RegisterManagedInstance, RequestManagedInstanceRoleToken and
UpdateManagedInstancePublicKey (amazon-ssm-agent, agent/ssm/anonauth and agent/ssm/rsaauth); limits: SSM's model.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import string
from base64 import b64decode
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.db.models import F

from fleetops import clock
from fleetops.awsapi import iampolicy, sigv4
from fleetops.awsapi.errors import ApiError, identity_error
from fleetops.endpoint.auth import Identities, moment_of
from fleetops.endpoint.calls import Call, Principal
from fleetops.endpoint.credentials import TokenVault
from fleetops.endpoint.database import in_database
from fleetops.endpoint.models import Activation
from fleetops.endpoint.nodes import Managed, Nodes

logger = logging.getLogger(__name__)

DEFAULT_HOURS = 24
LONGEST = timedelta(days=30)
TOKEN_LIFETIME = timedelta(hours=1)  # the agent fetches the next one at half of it
# After so long a node is told to make itself a new key. AWS does not say when it asks; a year is what it recommends for
# keys that people hold.
KEY_LIFETIME = timedelta(days=365)
SERVICE = "ssm.amazonaws.com"
NODE_PREFIX = "mi-"
REGISTER = "RegisterManagedInstance"
WITH_NODE_KEY = frozenset({"RequestManagedInstanceRoleToken", "UpdateManagedInstancePublicKey"})

_CODE_LENGTH = 20  # the fewest that a code has [SSM, ActivationCode]
_CODE_LETTERS = string.ascii_letters + string.digits  # with a dash in front, a command line takes it for an option
_SMALLEST_KEY, _LARGEST_KEY = 2048, 4096
_LONGEST_FINGERPRINT = 128
_PLAIN = re.compile(r"[\x20-\x7e]*")


class Enrolment:
    """Activations, and the nodes that come by them."""

    def __init__(
        self, writer: Executor, reader: Executor, nodes: Nodes, identities: Identities, vault: TokenVault
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._nodes = nodes
        self._identities = identities
        self._vault = vault
        self._registering = asyncio.Lock()

    # Activations

    async def create(
        self,
        call: Call,
        *,
        role: str,
        description: str,
        instance_name: str,
        limit: int,
        expires_at: datetime | None,
        tags: Mapping[str, str],
    ) -> tuple[Activation, str]:
        """(the activation, its code, which is not kept). Raises ApiError."""
        await self.check_role(call.account_id, role)
        ends = expires_at or call.now + timedelta(hours=DEFAULT_HOURS)
        if not call.now < ends <= call.now + LONGEST + timedelta(minutes=5):
            raise ApiError("ValidationException", "The expiration date must be in the future, within 30 days.")
        code = new_code()
        row = Activation(
            activation_id=uuid4(),
            account_id=call.account_id,
            region=call.region,
            code_digest=_digest(code),
            description=description,
            instance_name=instance_name,
            iam_role=role,
            limit=limit,
            tags=dict(tags),
            created_at=call.now,
            expires_at=ends,
        )
        await self._write(row.save)
        return row, code

    async def delete(self, account_id: str, region: str, activation_id: str) -> None:
        """Take an activation away; the nodes that came by it stay. Raises ApiError (InvalidActivation)."""
        rows = Activation.objects.filter(account_id=account_id, region=region, activation_id=UUID(activation_id))
        deleted, _ = await self._write(rows.delete)
        if not deleted:
            raise ApiError("InvalidActivation", f"The activation {activation_id} does not exist.")

    async def activations(self, account_id: str, region: str) -> list[Activation]:
        """An account's activations in a region, the oldest first."""
        rows = Activation.objects.filter(account_id=account_id, region=region).order_by("pk")
        return await in_database(self._reader, lambda: list(rows))

    async def check_role(self, account_id: str, name: str) -> str:
        """The ARN of a role that SSM may assume. Raises ApiError (ValidationException), in AWS's words."""
        role = await self._identities.identity(account_id, "role", name.rpartition("/")[2])
        if role is None or not _trusts_ssm(role["trust"]):
            raise ApiError(
                "ValidationException", f"Nonexistent role or missing ssm service principal in trust policy: {name}"
            )
        return str(role["arn"])

    # What an agent calls

    async def register(self, call: Call, parameters: Mapping[str, Any]) -> dict[str, str]:
        """RegisterManagedInstance: nobody has signed it, its code alone proves it. Raises ApiError."""
        code = _text(parameters, "ActivationCode", 250)
        fingerprint = _text(parameters, "Fingerprint", _LONGEST_FINGERPRINT)
        public_key = _checked_key(parameters, "PublicKey", "PublicKeyType")
        activation = await self._find(_text(parameters, "ActivationId", 36))
        if activation is None or not hmac.compare_digest(activation.code_digest, _digest(code)):
            raise ApiError("InvalidActivation", "The activation id or code is not valid.")
        if call.now >= activation.expires_at:
            raise ApiError("InvalidActivation", "The activation has expired.")
        async with self._registering:
            # Counted in one statement: of two machines the last place goes to one.
            rows = Activation.objects.filter(pk=activation.pk, count__lt=F("limit"))
            if not await self._write(lambda: rows.update(count=F("count") + 1)):
                raise ApiError(
                    "InvalidActivation", f"The activation's limit of {activation.limit} registrations is reached."
                )
            taken = self._nodes.taken_ids()
            instance_id = _new_id()
            while instance_id in taken:
                instance_id = _new_id()
            node = Managed(
                key=(activation.account_id, activation.region, instance_id),
                registered_at=call.now,
                tags=activation.tags,
                iam_role=activation.iam_role,
                name=activation.instance_name,
                activation_id=str(activation.activation_id),
                fingerprint=fingerprint,
                public_key=public_key,
                key_made_at=call.now,
            )
            await self._nodes.enrol(node)
        call.principal = self._principal(node, "")
        call.resources = [instance_id]
        logger.info("node registered instance=%s activation=%s", instance_id, activation.activation_id)
        return {"InstanceId": instance_id}

    def authenticate(self, call: Call) -> Managed:
        """The node that signed a request with its own key. Raises ApiError."""
        assert call.claim is not None
        node = self._nodes.registered(call.claim.access_key_id, call.claim.region)
        if node is None:
            # 25 to 30 minutes pass before an agent that gets this tries again; one that is no longer managed may.
            raise ApiError("AccessDeniedException", f"{call.claim.access_key_id} is not a registered node.", 400)
        try:
            sigv4.check_time(call.claim, moment_of(call, call.claim))
            sigv4.check_rsa_signature(call.request, call.claim, node.public_key)
        except sigv4.SignatureError as error:
            raise identity_error(error.kind, call.protocol, error.message) from None
        call.principal = self._principal(node, "")
        call.resources = [node.instance_id]
        return node

    async def role_token(self, node: Managed, call: Call, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """RequestManagedInstanceRoleToken: all five members, without one of which the agent breaks down."""
        if _text(parameters, "Fingerprint", _LONGEST_FINGERPRINT) != node.fingerprint:
            raise ApiError(
                "MachineFingerprintDoesNotMatch",
                f"The fingerprint is not that of the machine which registered as {node.instance_id}; register again.",
            )
        role = await self._identities.identity(node.key[0], "role", node.iam_role)
        if role is None or not _trusts_ssm(role["trust"]):
            raise ApiError("AccessDeniedException", f"SSM may not assume the role {node.iam_role}.", 400)
        made = self._vault.issue(self._principal(node, role["id"], role["arn"]), TOKEN_LIFETIME, call.now)
        is_old = node.key_made_at is not None and call.now - node.key_made_at > KEY_LIFETIME
        return {
            "AccessKeyId": made.access_key_id,
            "SecretAccessKey": made.secret_access_key,
            "SessionToken": made.session_token,
            "UpdateKeyPair": is_old,
            "TokenExpirationDate": made.expires_at.timestamp(),
        }

    async def new_key(self, node: Managed, call: Call, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """UpdateManagedInstancePublicKey: from now on the new key alone signs."""
        public_key = _checked_key(parameters, "NewPublicKey", "NewPublicKeyType")
        before = node.public_key, node.key_made_at
        node.public_key, node.key_made_at = public_key, call.now
        try:
            await self._nodes.keep(node)
        except BaseException:  # the agent keeps its old key, and so do we
            node.public_key, node.key_made_at = before
            raise
        logger.info("node changed its key instance=%s", node.instance_id)
        return {}

    # Small things

    def _principal(self, node: Managed, role_id: str, role_arn: str = "") -> Principal:
        account, _, instance_id = node.key
        return Principal(
            kind="node",
            account_id=account,
            arn=f"arn:aws:sts::{account}:assumed-role/{node.iam_role}/{instance_id}",
            user_id=f"{role_id}:{instance_id}",
            name=node.iam_role,
            access_key_id="",
            session_name=instance_id,
            role_arn=role_arn,
            node=node.key,
        )

    async def _find(self, activation_id: str) -> Activation | None:
        try:
            key = UUID(activation_id)
        except ValueError:
            return None
        return await in_database(self._reader, Activation.objects.filter(activation_id=key).first)

    async def _write(self, work: Callable[[], Any]) -> Any:
        return await in_database(self._writer, work)


def is_node_claim(call: Call) -> bool:
    """Whether a request says that a node's own key signed it."""
    return call.claim is not None and call.claim.access_key_id.startswith(NODE_PREFIX)


def has_expired(row: Activation, now: datetime | None = None) -> bool:
    return (now or clock.now()) >= row.expires_at


def _new_id() -> str:
    return f"{NODE_PREFIX}{secrets.token_hex(9)[:17]}"


def new_code() -> str:
    """An activation's code: 119 random bits, good on a command line as it stands."""
    return "".join(secrets.choice(_CODE_LETTERS) for _ in range(_CODE_LENGTH))


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


def _trusts_ssm(trust: str) -> bool:
    """Whether a trust policy lets SSM assume the role."""
    return iampolicy.trusts(iampolicy.parse(trust), SERVICE, "sts:AssumeRole")


def _text(parameters: Mapping[str, Any], name: str, longest: int) -> str:
    value = parameters.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= longest or not _PLAIN.fullmatch(value):
        raise ApiError("ValidationException", f"{name} must be 1 to {longest} characters.")
    return value


def _checked_key(parameters: Mapping[str, Any], name: str, type_name: str) -> str:
    """A public key in the one form that we take. Raises ApiError."""
    text = _text(parameters, name, 4096)
    if str(parameters.get(type_name, "Rsa")).lower() != "rsa":
        raise ApiError("ValidationException", f"{type_name} must be Rsa.")
    try:
        key = serialization.load_der_public_key(b64decode(text, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPublicKey) or not _SMALLEST_KEY <= key.key_size <= _LARGEST_KEY:
        raise ApiError(
            "ValidationException",
            f"{name} must be an RSA key of {_SMALLEST_KEY} to {_LARGEST_KEY} bits, DER in base64.",
        )
    return text
