"""STS, ours: moto lets anybody assume any role, and keeps neither SourceIdentity nor session tags."""

import re
from datetime import timedelta
from typing import Any

from fleetops.awsapi import checks, iampolicy
from fleetops.awsapi.errors import ApiError, not_implemented
from fleetops.endpoint.auth import request_context
from fleetops.endpoint.calls import Call, Principal
from fleetops.endpoint.core import Endpoint

Result = dict[str, Any]
_ROLE_ARN = re.compile(r"arn:aws:iam::(?P<account>\d{12}):role/(?:[^:]*/)?(?P<name>[\w+=,.@-]{1,64})")
_DEFAULT_SECONDS = 3600
_CHAINED_SECONDS = 3600  # a role assumed by a role lives an hour at most
_SESSION_TOKEN_SECONDS = 12 * 3600


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
        if "PolicyArns" in parameters:
            raise not_implemented("sts:AssumeRole with PolicyArns")
        tags = {tag["Key"]: tag["Value"] for tag in parameters.get("Tags", [])}
        source = parameters.get("SourceIdentity", "")
        if caller.source_identity and source and source != caller.source_identity:
            raise _denied(call, "sts:SetSourceIdentity", arn)
        role = await self._endpoint.identities.identity(match["account"], "role", match["name"])
        if role is None or role["arn"] != arn:
            raise _denied(call, "sts:AssumeRole", arn)
        context = request_context(call) | {
            "sts:rolesessionname": [name],
            **({"sts:externalid": [parameters["ExternalId"]]} if "ExternalId" in parameters else {}),
            **({"sts:sourceidentity": [source]} if source else {}),
            **{f"aws:requesttag/{key.lower()}": [value] for key, value in tags.items()},
            **({"aws:tagkeys": list(tags)} if tags else {}),
        }
        actions = ["sts:AssumeRole"]
        actions += ["sts:TagSession"] if tags else []
        actions += ["sts:SetSourceIdentity"] if source else []
        for action in actions:
            await self._check_trust(call, caller, role, match["account"], action, context)
        seconds = self._seconds(caller, role, parameters.get("DurationSeconds", _DEFAULT_SECONDS))
        principal = Principal(
            kind="role",
            account_id=match["account"],
            arn=f"arn:aws:sts::{match['account']}:assumed-role/{match['name']}/{name}",
            user_id=f"{role['id']}:{name}",
            name=match["name"],
            access_key_id="",
            session_name=name,
            role_arn=arn,
            source_identity=source or caller.source_identity,
            tags=role["tags"] | tags,
            session_policies=(parameters["Policy"],) if "Policy" in parameters else None,
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
            "PackedPolicySize": 1 if tags or "Policy" in parameters else None,
            "SourceIdentity": principal.source_identity or None,
        }
        call.response_elements = result
        call.resources.append(principal.arn)
        return result

    async def _check_trust(
        self, call: Call, caller: Principal, role: Result, account: str, action: str, context: dict[str, list[str]]
    ) -> None:
        """The role's trust policy must name the caller, or its account and the caller's own policies must allow it."""
        trust = iampolicy.parse(role["trust"])
        names = [caller.arn, caller.role_arn or caller.arn]
        root = [f"arn:aws:iam::{caller.account_id}:root", caller.account_id]
        named = iampolicy.trusts(trust, names, action, context)
        delegated = iampolicy.trusts(trust, root, action, context)
        layers = await self._endpoint.authorizer.layers(caller)
        own = iampolicy.decide(layers, iampolicy.Question(action, role["arn"], context))
        enough_by_itself = named and caller.account_id == account and own != "explicitDeny"
        if not (enough_by_itself or ((named or delegated) and own == "allowed")):
            raise _denied(call, action, role["arn"])

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


def _denied(call: Call, action: str, resource: str) -> ApiError:
    assert call.principal is not None
    on = "" if resource == "*" else f" on resource: {resource}"
    return ApiError("AccessDenied", f"User: {call.principal.arn} is not authorized to perform: {action}{on}", 403)
