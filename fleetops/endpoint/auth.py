"""Who sent a request, and whether they may do what it asks."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fleetops import clock
from fleetops.awsapi import iampolicy, sigv4
from fleetops.awsapi.errors import ApiError, identity_error
from fleetops.endpoint import regions
from fleetops.endpoint.calls import Call, NodeKey, Principal
from fleetops.endpoint.credentials import BadToken, TokenVault
from fleetops.endpoint.moto_client import MotoClient

_INVALID_TOKEN = "The security token included in the request is invalid."
_MOST_CACHED = 10_000


class Identities:
    """IAM's users, keys and roles, which moto keeps; remembered until something in IAM changes."""

    def __init__(self, moto: MotoClient) -> None:
        self._moto = moto
        self._known: dict[tuple[str, ...], Any] = {}

    def forget(self) -> None:
        """IAM has changed."""
        self._known = {}

    async def access_key(self, access_key_id: str) -> dict[str, Any] | None:
        """See `Moto.access_key`."""
        return await self._ask(("key", access_key_id), ask="access_key", access_key=access_key_id)

    async def identity(self, account: str, kind: str, name: str) -> dict[str, Any] | None:
        """See `Moto.identity`."""
        return await self._ask((account, kind, name), ask="identity", account=account, kind=kind, name=name)

    async def _ask(self, key: tuple[str, ...], **question: Any) -> Any:
        if key in self._known:
            return self._known[key]
        known = self._known
        answer = await self._moto.result(**question)
        # What is not there is not remembered: anybody can ask for any name. Nor is an answer from before a change.
        if answer is not None and known is self._known and len(known) < _MOST_CACHED:
            known[key] = answer
        return answer


class Authenticator:
    """Finds the principal behind a request's signature."""

    def __init__(self, identities: Identities, vault: TokenVault) -> None:
        self._identities = identities
        self._vault = vault
        # Whether a hybrid node is no longer managed: its credentials live on, and are good for nothing.
        self.is_gone: Callable[[NodeKey], bool] = lambda key: False

    async def check_known(self, call: Call) -> None:
        """Return if the key that a request names exists: before much is read of somebody. Raises ApiError."""
        if call.claim is not None:
            await self._holder(call, call.claim)

    async def authenticate(self, call: Call) -> Principal:
        """The principal of a signed request. Raises ApiError in the words of the call's protocol."""
        claim = call.claim
        if claim is None:
            raise identity_error("missing", call.protocol, "Missing Authentication Token")
        if claim.region not in regions.known():
            words = f"Credential should be scoped to a valid region, not '{claim.region}'."
            raise identity_error("signature", call.protocol, words)
        if regions.is_off(claim.region):
            raise identity_error("unknown_key", call.protocol, _INVALID_TOKEN)
        try:
            principal, secret = await self._holder(call, claim)
            sigv4.check_time(claim, moment_of(call, claim))
            sigv4.check_signature(call.request, claim, secret)
        except sigv4.SignatureError as error:
            raise identity_error(error.kind, call.protocol, error.message) from None
        return principal

    async def _holder(self, call: Call, claim: sigv4.Claim) -> tuple[Principal, str]:
        if claim.token is not None:
            try:
                principal, secret, expires_at = self._vault.open(claim.token)
            except BadToken:
                raise identity_error("unknown_key", call.protocol, _INVALID_TOKEN) from None
            if principal.access_key_id != claim.access_key_id:
                raise identity_error("unknown_key", call.protocol, _INVALID_TOKEN)
            if principal.node is not None and self.is_gone(principal.node):
                raise identity_error("unknown_key", call.protocol, _INVALID_TOKEN)
            if moment_of(call, claim) >= expires_at:
                raise identity_error("expired", call.protocol, "The security token included in the request is expired")
            return principal, secret
        key = await self._identities.access_key(claim.access_key_id)
        if key is None or not key["active"]:
            raise identity_error("unknown_key", call.protocol, _INVALID_TOKEN)
        principal = Principal(
            kind="user",
            account_id=key["account"],
            arn=key["arn"],
            user_id=key["id"],
            name=key["user"],
            access_key_id=claim.access_key_id,
        )
        return principal, key["secret"]


def moment_of(call: Call, claim: sigv4.Claim) -> datetime:
    """The moment by which a request is judged: now; under a shifted clock that of its signature, see clock.lately."""
    if not clock.is_shifted():
        return call.now
    try:
        return clock.lately(datetime.strptime(claim.sent, sigv4.SENT_FORMAT).replace(tzinfo=UTC))
    except ValueError:  # check_time says so
        return call.now


class Authorizer:
    """Asks the principal's policies."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    async def allow(
        self, call: Call, action: str, resources: list[str], context: dict[str, list[str]] | None = None
    ) -> None:
        """Return if the caller may do `action` on every one of `resources`. Raises ApiError (access denied) if not."""
        principal = call.principal
        assert principal is not None
        layers = await self.layers(principal)
        held = request_context(call) | (context or {})
        for resource in resources or ["*"]:
            answer = iampolicy.decide(layers, iampolicy.Question(action, resource, held))
            if answer != "allowed":
                raise denied(call, action, resource, answer)

    async def allow_node(self, call: Call, instance_id: str, action: str) -> None:
        """Return if the caller may speak for a node: the node itself, or an identity whose policies allow the action.

        Raises ApiError (access denied).
        """
        principal = call.principal
        assert principal is not None
        call.resources = [instance_id]
        if principal.kind == "node" and principal.node != (call.account_id, call.region, instance_id):
            raise denied(call, action, f"arn:aws:ssm:{call.region}:{call.account_id}:*/{instance_id}", "implicitDeny")
        await self.allow(call, action, ["*"])

    async def layers(self, principal: Principal) -> iampolicy.Layers:
        """The policies that bear on a principal now: a role's as it stands today, not as it was when assumed."""
        kind = "user" if principal.kind in {"user", "federated"} else "role"
        identity = await self._identities.identity(principal.account_id, kind, principal.name)
        # One of the same name that was made anew is another: what was given out for the old one is good for nothing.
        if identity is None or (kind == "role" and identity["id"] != principal.user_id.partition(":")[0]):
            return iampolicy.Layers([])
        boundary, session = identity["boundary"], principal.session_policies
        return iampolicy.Layers(
            [iampolicy.parse(text) for text in identity["policies"]],
            iampolicy.parse(boundary) if boundary else None,
            [iampolicy.parse(text) for text in session] if session is not None else None,
        )


def denied(call: Call, action: str, resource: str, answer: str) -> ApiError:
    """AWS's sentence for a request that no policy allows, or one denies."""
    arn = call.principal.arn if call.principal is not None else "anonymous"
    why = (
        "with an explicit deny in an identity-based policy"
        if answer == "explicitDeny"
        else f"because no identity-based policy allows the {action} action"
    )
    on = "" if resource == "*" else f" on resource: {resource}"
    if call.protocol == "ec2":
        return ApiError(
            "UnauthorizedOperation",
            f"You are not authorized to perform this operation. User: {arn} is not authorized to perform: "
            f"{action}{on} {why}",
            403,
        )
    return identity_error("denied", call.protocol, f"User: {arn} is not authorized to perform: {action}{on} {why}")


def request_context(call: Call) -> dict[str, list[str]]:
    """The global condition keys of a request, in lower case."""
    principal = call.principal
    assert principal is not None
    context = {
        "aws:principalarn": [principal.role_arn or principal.arn],
        "aws:principalaccount": [principal.account_id],
        "aws:principaltype": ["User" if principal.kind == "user" else "AssumedRole"],
        "aws:userid": [principal.user_id],
        "aws:sourceip": [call.source_address],
        "aws:currenttime": [call.now.astimezone(UTC).isoformat()],
        "aws:epochtime": [str(int(call.now.timestamp()))],
        "aws:securetransport": ["true"],
        "aws:requestedregion": [call.region],
        "aws:useragent": [call.user_agent],
    }
    if principal.kind == "user":
        context["aws:username"] = [principal.name]
    if principal.source_identity:
        context["aws:sourceidentity"] = [principal.source_identity]
    if principal.issued_at is not None:
        context["aws:tokenissuetime"] = [principal.issued_at.isoformat()]
    for key, value in principal.tags.items():
        context[f"aws:principaltag/{key.lower()}"] = [value]
    return context
