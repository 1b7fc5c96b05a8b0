"""STS, ours: moto lets anybody assume any role, and keeps neither SourceIdentity nor session tags.

Source: STS API reference, AssumeRole; IAM user guide, "Pass session tags in AWS STS", "Monitor and control actions
taken with assumed roles".
"""

import re
import zlib
from datetime import timedelta
from typing import Any

import orjson

from fleetops.awsapi import checks, iampolicy
from fleetops.awsapi.errors import ApiError, not_implemented
from fleetops.endpoint.auth import caller_of, request_context, tag_context
from fleetops.endpoint.calls import Call, Principal
from fleetops.endpoint.core import Endpoint

Result = dict[str, Any]
_ROLE_ARN = re.compile(r"arn:aws:iam::(?P<account>\d{12}):role/(?:[^:]*/)?(?P<name>[\w+=,.@-]{1,64})")
_DEFAULT_SECONDS = 3600
_CHAINED_SECONDS = 3600  # a role assumed by a role lives an hour at most
_SESSION_TOKEN_SECONDS = 12 * 3600
_MOST_POLICIES = 10  # managed ones for a session [AssumeRole, PolicyArns]
_LONGEST_POLICY = 2048  # characters of a session's policy and the ARNs of managed ones [AssumeRole, Policy]
# How AWS packs policies and tags it does not tell; ours are compressed, and may be as long as this.
_PACKED_BYTES = 2048
_EVERYTHING = iampolicy.parse('{"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}')


class Sts:
    """The operations of STS by name."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def handle(self, call: Call, parameters: Result) -> Result:
        """Answer one call. Raises ApiError."""
        assert call.service is not None and call.principal is not None
        parameters = checks.check("sts", "query", call.service.operation(call.operation), parameters)
        if call.operation == "GetCallerIdentity":
            principal = call.principal
            return {"UserId": principal.user_id, "Account": principal.account_id, "Arn": principal.arn}
        if call.operation == "AssumeRole":
            return await self._assume_role(call, parameters)
        if call.operation == "GetSessionToken":
            return self._session_token(call, parameters)
        if call.operation == "GetAccessKeyInfo":
            return await self._access_key_info(parameters)
        raise not_implemented(f"sts:{call.operation}")

    async def _assume_role(self, call: Call, parameters: Result) -> Result:
        caller = call.principal
        assert caller is not None
        arn, name = parameters["RoleArn"], parameters["RoleSessionName"]
        call.resources = [arn]
        match = _ROLE_ARN.fullmatch(arn)
        if match is None:
            raise ApiError("ValidationError", f"{arn} is invalid", 400)
        tags, transitive = _session_tags(caller, parameters)
        source = parameters.get("SourceIdentity", "")
        if caller.source_identity and source and source != caller.source_identity:
            raise _denied(call, "sts:SetSourceIdentity", arn)
        source = source or caller.source_identity
        role = await self._endpoint.identities.identity(match["account"], "role", match["name"])
        if role is None or role["arn"] != arn:
            raise _denied(call, "sts:AssumeRole", arn)
        context = request_context(call) | {
            "sts:rolesessionname": [name],
            **({"sts:externalid": [parameters["ExternalId"]]} if "ExternalId" in parameters else {}),
            **({"sts:sourceidentity": [source]} if source else {}),
            **({"sts:transitivetagkeys": list(transitive)} if transitive else {}),
            **tag_context("iam:", role["tags"]),
        }
        # What goes along in a chain is set anew for each of its roles, and each must let it be set.
        actions = ["sts:AssumeRole"]
        actions += ["sts:TagSession"] if tags else []
        actions += ["sts:SetSourceIdentity"] if source else []
        for action in actions:
            await self._check_trust(call, caller, role, match["account"], action, context)
        seconds = self._seconds(caller, role, parameters.get("DurationSeconds", _DEFAULT_SECONDS))
        policies = await self._session_policies(match["account"], parameters)
        packed = _packed(policies or (), tags, transitive)
        principal = Principal(
            kind="role",
            account_id=match["account"],
            arn=f"arn:aws:sts::{match['account']}:assumed-role/{match['name']}/{name}",
            user_id=f"{role['id']}:{name}",
            name=match["name"],
            access_key_id="",
            session_name=name,
            role_arn=arn,
            source_identity=source,
            tags=_over(role["tags"], tags),
            transitive_keys=transitive,
            session_policies=policies,
        )
        credentials = self._endpoint.vault.issue(principal, timedelta(seconds=seconds), call.now)
        result = {
            "Credentials": {
                "AccessKeyId": credentials.access_key_id,
                "SecretAccessKey": credentials.secret_access_key,
                "SessionToken": credentials.session_token,
                "Expiration": credentials.expires_at,
            },
            "AssumedRoleUser": {"AssumedRoleId": principal.user_id, "Arn": principal.arn},
            "PackedPolicySize": packed or None,
            "SourceIdentity": principal.source_identity or None,
        }
        call.response_elements = result
        call.resources.append(principal.arn)
        call.owner_id = match["account"]  # whose trail tells of it too
        return result

    async def _check_trust(
        self, call: Call, caller: Principal, role: Result, account: str, action: str, context: dict[str, list[str]]
    ) -> None:
        """The role's trust policy must name the caller, or its account and the caller's own policies must allow it."""
        granted = iampolicy.grant(iampolicy.parse(role["trust"]), caller_of(caller), action, context)
        layers = await self._endpoint.authorizer.layers(caller)
        own = iampolicy.decide(layers, iampolicy.Question(action, role["arn"], context))
        enough_by_itself = granted in {"direct", "limited"} and caller.account_id == account
        if granted == "limited" and enough_by_itself:
            # It names the role behind the session, or everybody: the boundary and the session's policies still bound.
            limits = iampolicy.Layers([_EVERYTHING], layers.boundary, layers.session)
            question = iampolicy.Question(action, role["arn"], context)
            enough_by_itself = iampolicy.decide(limits, question) == iampolicy.ALLOWED
        if own == iampolicy.EXPLICIT_DENY or granted in {"", "denied"}:
            raise _denied(call, action, role["arn"])
        if not enough_by_itself and own != iampolicy.ALLOWED:
            raise _denied(call, action, role["arn"])

    async def _session_policies(self, account: str, parameters: Result) -> tuple[str, ...] | None:
        """The policies that bound the session, each as text; None without any. Raises ApiError."""
        given = parameters.get("Policy")
        arns = [item.get("arn", "") for item in parameters.get("PolicyArns", [])]
        if given is None and not arns:
            return None
        if len(arns) > _MOST_POLICIES:
            raise ApiError("ValidationError", f"At most {_MOST_POLICIES} managed policies may be given.", 400)
        if len(given or "") + sum(map(len, arns)) > _LONGEST_POLICY:
            raise ApiError(
                "ValidationError", f"Policy and PolicyArns together are longer than {_LONGEST_POLICY} characters.", 400
            )
        texts = []
        for arn in arns:
            text = await self._endpoint.identities.document(account, arn)
            if text is None:
                raise ApiError("MalformedPolicyDocument", f"The managed policy {arn} does not exist.", 400)
            texts.append(text)
        if given is not None:
            if not iampolicy.statements(iampolicy.parse(given)):
                raise ApiError("MalformedPolicyDocument", "The session policy is no policy document.", 400)
            texts.append(given)
        return tuple(texts)

    def _seconds(self, caller: Principal, role: Result, wanted: int) -> int:
        longest = role["longest_seconds"]
        if caller.kind != "user":
            longest = min(longest, _CHAINED_SECONDS)
        if wanted > longest:
            raise ApiError(
                "ValidationError",
                "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
                400,
            )
        return wanted

    def _session_token(self, call: Call, parameters: Result) -> Result:
        assert call.principal is not None
        if call.principal.kind != "user":
            raise _denied(call, "sts:GetSessionToken", "*")
        seconds = parameters.get("DurationSeconds", _SESSION_TOKEN_SECONDS)
        credentials = self._endpoint.vault.issue(call.principal, timedelta(seconds=seconds), call.now)
        return {
            "Credentials": {
                "AccessKeyId": credentials.access_key_id,
                "SecretAccessKey": credentials.secret_access_key,
                "SessionToken": credentials.session_token,
                "Expiration": credentials.expires_at,
            }
        }

    async def _access_key_info(self, parameters: Result) -> Result:
        key = await self._endpoint.identities.access_key(parameters["AccessKeyId"])
        if key is None:
            raise ApiError("InvalidClientTokenId", "The access key ID is not valid.", 403)
        return {"Account": key["account"]}


def _session_tags(caller: Principal, parameters: Result) -> tuple[dict[str, str], tuple[str, ...]]:
    """The tags of a new session, with those that come along from the caller's, and the keys of those that go on.

    Raises ApiError. Keys that differ in case alone are the same.
    """
    given = {tag["Key"]: tag["Value"] for tag in parameters.get("Tags", [])}
    lower = [tag["Key"].lower() for tag in parameters.get("Tags", [])]
    if len(set(lower)) < len(lower):
        raise ApiError("InvalidParameterValue", "Duplicate tag keys found. Tag keys are case insensitive.", 400)
    if any(key.startswith("aws:") for key in lower):
        raise ApiError("InvalidParameterValue", "Tag keys must not begin with aws:.", 400)
    wanted = parameters.get("TransitiveTagKeys", [])
    if not {key.lower() for key in wanted} <= set(lower):
        raise ApiError(
            "InvalidParameterValue", "The specified transitive tag key must be included in the requested tags.", 400
        )
    held = {key.lower() for key in caller.transitive_keys}
    if held & set(lower):
        raise ApiError(
            "InvalidParameterValue",
            "One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key "
            "from the calling session.",
            400,
        )
    inherited = {key: value for key, value in caller.tags.items() if key.lower() in held}
    return given | inherited, (*caller.transitive_keys, *wanted)


def _over(tags: dict[str, str], session_tags: dict[str, str]) -> dict[str, str]:
    """A role's tags under those of the session."""
    taken = {key.lower() for key in session_tags}
    return {key: value for key, value in tags.items() if key.lower() not in taken} | session_tags


def _packed(policies: tuple[str, ...], tags: dict[str, str], transitive: tuple[str, ...]) -> int:
    """How much of the space for policies and tags a session takes, in percent. Raises ApiError if more than all."""
    if not policies and not tags:
        return 0
    used = len(zlib.compress(orjson.dumps([policies, tags, transitive])))
    percent = -(-100 * used // _PACKED_BYTES)
    if percent > 100:
        raise ApiError(
            "PackedPolicyTooLarge",
            f"The session's policies and tags take {percent}% of the space that there is for them.",
            400,
        )
    return percent


def _denied(call: Call, action: str, resource: str) -> ApiError:
    assert call.principal is not None
    on = "" if resource == "*" else f" on resource: {resource}"
    return ApiError("AccessDenied", f"User: {call.principal.arn} is not authorized to perform: {action}{on}", 403)
