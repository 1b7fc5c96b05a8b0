"""Who sent a request, and whether they may do what it asks."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
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

    async def document(self, account: str, arn: str) -> str | None:
        """The text of a managed policy, of the account or AWS's own; None if there is none."""
        return await self._ask(("document", account, arn), ask="managed_policy", account=account, arn=arn)

    async def profile(self, account: str, profile: str) -> dict[str, Any] | None:
        """An instance profile, by ARN or name: its ARN and its role's, "" without one; None if there is none."""
        return await self._ask(("profile", account, profile), ask="profile", account=account, profile=profile)

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
            tags=key["tags"],
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
    """Asks the policies: the principal's, and a resource's own."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        # The tags of a resource, by its ARN; see resources.py.
        self.tags_of: Callable[[Call, str], Awaitable[Mapping[str, str]]] = _no_tags

    async def allow(
        self,
        call: Call,
        action: str,
        resources: list[str],
        context: dict[str, list[str]] | None = None,
        owned: Mapping[str, iampolicy.Owned] | None = None,
    ) -> None:
        """Return if the caller may do `action` on every one of `resources`. Raises ApiError (access denied) if not.

        `owned`: the policies that some of the resources have themselves.
        """
        principal = call.principal
        assert principal is not None
        layers, asks_tags = await self._layers(principal)
        held = request_context(call) | (context or {})
        for resource in resources or ["*"]:
            own = (owned or {}).get(resource)
            seen = held
            if resource != "*":
                seen = held | {"aws:resourceaccount": [_account_of(call, resource, own)]}
                if asks_tags or own is not None:
                    # Each resource has its own tags: with those of an instance nobody gets at a document.
                    seen |= tag_context(action, await self.tags_of(call, resource))
            question = iampolicy.Question(action, resource, seen, _other_names(resource))
            verdict = iampolicy.evaluate(layers, question, own)
            if verdict.decision != iampolicy.ALLOWED:
                raise denied(call, action, resource, _why(verdict, layers, action))

    async def allow_node(self, call: Call, instance_id: str, action: str) -> None:
        """Return if the caller may speak for a node: the node itself, or an identity whose policies allow the action.

        Raises ApiError (access denied).
        """
        principal = call.principal
        assert principal is not None
        call.resources = [instance_id]
        if principal.kind == "node" and principal.node != (call.account_id, call.region, instance_id):
            raise denied(call, action, node_arn(call, instance_id), f"because {principal.node[2]} may speak for itself")
        await self.allow(call, action, [node_arn(call, instance_id)] if action.startswith("ssm:") else ["*"])

    async def layers(self, principal: Principal) -> iampolicy.Layers:
        """The policies that bear on a principal now: a role's as it stands today, not as it was when assumed."""
        return (await self._layers(principal))[0]

    async def _layers(self, principal: Principal) -> tuple[iampolicy.Layers, bool]:
        """The layers, and whether any of them asks for a resource's tags."""
        kind = "user" if principal.kind in {"user", "federated"} else "role"
        identity = await self._identities.identity(principal.account_id, kind, principal.name)
        # One of the same name that was made anew is another: what was given out for the old one is good for nothing.
        if identity is None or identity["id"] != principal.user_id.partition(":")[0]:
            return iampolicy.Layers([]), False
        boundary, session = identity["boundary"], principal.session_policies
        texts = [*identity["policies"], *(session or ()), *([boundary] if boundary is not None else ())]
        layers = iampolicy.Layers(
            [iampolicy.parse(text) for text in identity["policies"]],
            iampolicy.parse(boundary) if boundary is not None else None,
            [iampolicy.parse(text) for text in session] if session is not None else None,
        )
        return layers, any(_asks_tags(text) for text in texts)


async def _no_tags(call: Call, arn: str) -> Mapping[str, str]:
    return {}


@lru_cache(maxsize=4096)
def _asks_tags(text: str) -> bool:
    return "resourcetag/" in text.lower()


def node_arn(call: Call, instance_id: str) -> str:
    """The ARN of a managed instance, as SSM's policies name it."""
    if instance_id.startswith("mi-"):
        return f"arn:aws:ssm:{call.region}:{call.account_id}:managed-instance/{instance_id}"
    return f"arn:aws:ec2:{call.region}:{call.account_id}:instance/{instance_id}"


def _other_names(arn: str) -> tuple[str, ...]:
    """Policies name a log group with ":*" behind it too, for AWS asks about the streams in it."""
    return (f"{arn}:log-stream:",) if ":log-group:" in arn and ":log-stream:" not in arn else ()


def tag_context(action: str, tags: Mapping[str, str]) -> dict[str, list[str]]:
    """A resource's tags as condition keys: AWS's common one, and the service's own."""
    service = action.partition(":")[0]
    prefixes = ("aws", service) if service in {"ssm", "ec2", "iam"} else ("aws",)
    return {f"{prefix}:resourcetag/{key.lower()}": [value] for prefix in prefixes for key, value in tags.items()}


def caller_of(principal: Principal) -> iampolicy.Caller:
    """A principal as trust policies and resources' own policies name it."""
    return iampolicy.Caller(principal.arn, principal.account_id, principal.role_arn)


_LAYERS = {
    "identity": "identity-based policy",
    "boundary": "permissions boundary",
    "session": "session policy",
    "resource": "resource-based policy",
}


def _why(verdict: iampolicy.Verdict, layers: iampolicy.Layers, action: str) -> str:
    """AWS's words for what denies, or what would have had to allow."""
    denying = [hit.layer for hit in verdict.hits if hit.effect == "Deny"]
    if denying:
        article = "an" if denying[0] == "identity" else "a"
        return f"with an explicit deny in {article} {_LAYERS[denying[0]]}"
    there = ["identity", *(["boundary"] if layers.boundary is not None else [])]
    there += ["session"] if layers.session is not None else []
    allowing = {hit.layer for hit in verdict.hits}
    missing = next((layer for layer in there if layer not in allowing), "resource")
    return f"because no {_LAYERS[missing]} allows the {action} action"


def _account_of(call: Call, arn: str, own: iampolicy.Owned | None) -> str:
    """The account whose resource it is: of a bucket its ARN does not say."""
    if own is not None and not own.is_same_account:
        return call.owner_id
    parts = arn.split(":", 5)
    return parts[4] if len(parts) == 6 and parts[4].isdigit() else call.account_id


def denied(call: Call, action: str, resource: str, why: str) -> ApiError:
    """AWS's sentence for a request that no policy allows, or one denies."""
    arn = call.principal.arn if call.principal is not None else "anonymous"
    on = "" if resource == "*" else f" on resource: {resource}"
    if call.protocol == "ec2":
        return ApiError(
            "UnauthorizedOperation",
            f"You are not authorized to perform this operation. User: {arn} is not authorized to perform: "
            f"{action}{on} {why}",
            403,
        )
    if call.service is not None and call.service.signing_name == "sns":  # its own word, as its model has it
        return ApiError("AuthorizationError", f"User: {arn} is not authorized to perform: {action}{on} {why}", 403)
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
        "aws:viaawsservice": ["true" if call.behalf is not None and call.behalf.is_forwarded else "false"],
        "aws:principalisawsservice": ["false"],
    }
    if call.behalf is not None:
        del context["aws:sourceip"]  # it is a service that calls
        if call.behalf.is_forwarded:
            context["aws:calledvia"] = context["aws:calledviafirst"] = context["aws:calledvialast"] = [
                call.behalf.service
            ]
    if principal.kind == "user":
        context["aws:username"] = [principal.name]
    if principal.source_identity:
        context["aws:sourceidentity"] = [principal.source_identity]
    if principal.issued_at is not None:
        context["aws:tokenissuetime"] = [principal.issued_at.isoformat()]
        # A key of temporary credentials alone: a long-lived key says nothing of MFA.
        context["aws:multifactorauthpresent"] = ["false"]
    if principal.node is not None:
        account, region, instance_id = principal.node
        if instance_id.startswith("mi-"):
            context["ssm:sourceinstancearn"] = [f"arn:aws:ssm:{region}:{account}:managed-instance/{instance_id}"]
        else:
            arn = f"arn:aws:ec2:{region}:{account}:instance/{instance_id}"
            context["ec2:sourceinstancearn"] = context["ssm:sourceinstancearn"] = [arn]
    for key, value in principal.tags.items():
        context[f"aws:principaltag/{key.lower()}"] = [value]
    return context | request_tags(call.members if call.members is not None else call.parameters)


# Where a request holds tags, or their keys alone: a list of pairs, a mapping (logs, SQS), or names.
_TAGS = ("Tags", "tags", "TagSpecifications")
_TAG_KEYS = ("TagKeys", "tagKeys")


def request_tags(members: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """aws:RequestTag/... and aws:TagKeys of a request's parameters."""
    tags: dict[str, str] = {}
    keys: list[str] = []
    for name in _TAGS if members else ():
        held = (members or {}).get(name)
        if isinstance(held, dict):
            tags |= {str(key): str(value) for key, value in held.items()}
        for item in held if isinstance(held, list) else ():
            for pair in item.get("Tags", []) if name == "TagSpecifications" and isinstance(item, dict) else [item]:
                if isinstance(pair, dict):
                    key = pair.get("Key", pair.get("TagKey"))
                    if isinstance(key, str):
                        tags[key] = str(pair.get("Value", pair.get("TagValue", "")))
    for name in _TAG_KEYS if members else ():
        held = (members or {}).get(name)
        keys += [str(key) for key in held] if isinstance(held, list) else []
    keys += list(tags)
    return {f"aws:requesttag/{key.lower()}": [value] for key, value in tags.items()} | (
        {"aws:tagkeys": keys} if keys else {}
    )
