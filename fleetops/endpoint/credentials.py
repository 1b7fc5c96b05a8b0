"""Temporary credentials: everything about a session is in its token, sealed, so that none is lost by a restart."""

import base64
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fleetops.endpoint.calls import Principal

_NONCE_BYTES = 12
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_PREFIX = "IQoJb3JpZ2luX2Vj"  # what AWS's own tokens begin with


class BadToken(Exception):
    """The token is not one of ours."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What AssumeRole and the instance metadata give out."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    expires_at: datetime


class TokenVault:
    """Makes temporary credentials and reads them back."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def issue(self, principal: Principal, lifetime: timedelta, now: datetime) -> Credentials:
        """New credentials for `principal`; its own access_key_id is replaced by a new one."""
        access_key_id = "ASIA" + "".join(secrets.choice(_ALPHABET) for _ in range(16))
        secret = base64.b64encode(os.urandom(30)).decode()
        expires_at = (now + lifetime).replace(microsecond=0)
        content = {
            "secret": secret,
            "key": access_key_id,
            "expires": expires_at.timestamp(),
            "issued": now.timestamp(),
            "kind": principal.kind,
            "account": principal.account_id,
            "arn": principal.arn,
            "id": principal.user_id,
            "name": principal.name,
            "session": principal.session_name,
            "role": principal.role_arn,
            "source": principal.source_identity,
            "tags": principal.tags,
            "transitive": principal.transitive_keys,
            "policies": principal.session_policies,
            "node": principal.node,
        }
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, orjson.dumps(content), None)
        token = _PREFIX + base64.b64encode(sealed).decode()
        return Credentials(access_key_id, secret, token, expires_at)

    def open(self, token: str) -> tuple[Principal, str, datetime]:
        """The principal of a token, its secret and its end. Raises BadToken."""
        if not token.startswith(_PREFIX):
            raise BadToken
        try:
            sealed = base64.b64decode(token.removeprefix(_PREFIX), validate=True)
            content: dict[str, Any] = orjson.loads(
                self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
            )
        except (ValueError, InvalidTag):
            raise BadToken from None
        policies, node = content["policies"], content["node"]
        principal = Principal(
            kind=content["kind"],
            account_id=content["account"],
            arn=content["arn"],
            user_id=content["id"],
            name=content["name"],
            access_key_id=content["key"],
            session_name=content["session"],
            role_arn=content["role"],
            source_identity=content["source"],
            tags=content["tags"],
            transitive_keys=tuple(content.get("transitive", ())),  # a token from before there were any has none
            session_policies=tuple(policies) if policies is not None else None,
            issued_at=datetime.fromtimestamp(content["issued"], UTC),
            node=(node[0], node[1], node[2]) if node is not None else None,
        )
        return principal, content["secret"], datetime.fromtimestamp(content["expires"], UTC)
