"""Whether a node may read an object of S3 by its own role: a list of patches is read for it, and never beyond that."""

import os
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from fleetops import clock
from fleetops.awsapi import models
from fleetops.awsapi.errors import ApiError
from fleetops.awsapi.sigv4 import Claim, Request
from fleetops.endpoint import resources
from fleetops.endpoint.calls import Call, NodeKey, Principal
from fleetops.endpoint.core import Endpoint

_FRESH_SECONDS: Final = 5.0  # for which the roles of a region's instances are not asked for again


class NodeReading:
    """Asks the policies as S3 would if the node itself asked for the object."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._roles: dict[tuple[str, str], tuple[float, Mapping[str, str]]] = {}

    async def allow(self, key: NodeKey, bucket: str, name: str) -> str:
        """Return the account whose bucket it is, if the node may read the object. Raises ApiError in AWS's words."""
        account, region, instance_id = key
        role = await self._role(key)
        identity = await self._endpoint.identities.identity(account, "role", role) if role else None
        if identity is None:
            raise ApiError("AccessDenied", f"Unable to locate credentials: {instance_id} has no role.", 403)
        principal = Principal(
            kind="node",
            account_id=account,
            arn=f"arn:aws:sts::{account}:assumed-role/{role}/{instance_id}",
            user_id=f"{identity['id']}:{instance_id}",
            name=role,
            access_key_id="",
            session_name=instance_id,
            role_arn=identity["arn"],
            issued_at=clock.now(),
            node=key,
        )
        path = f"/{quote(bucket)}/{quote(name)}"
        call = Call(Request("GET", path, "", ()), os.urandom(16).hex(), clock.now(), "127.0.0.1")
        call.principal, call.service, call.protocol = principal, models.service("s3"), "rest-xml"
        call.claim = Claim("", "", region, "s3", (), "", "", None)
        call.operation, call.resource_path, call.members = "GetObject", path, {"Bucket": bucket, "Key": name}
        await resources.allow(self._endpoint, call)
        return call.owner_id or account

    async def _role(self, key: NodeKey) -> str:
        """The name of a node's role: of a hybrid node its activation's, of an instance its profile's; "" if none."""
        node = self._endpoint.nodes.find(key)
        if node is None or node.is_hybrid:
            return node.iam_role.rpartition("/")[2] if node is not None else ""
        at, roles = self._roles.get(key[:2], (0.0, {}))
        if not roles or clock.monotonic() - at > _FRESH_SECONDS:
            facts: list[dict[str, Any]] = await self._endpoint.moto.result(
                ask="instance_facts", account=key[0], region=key[1]
            )
            roles = {fact["instance_id"]: fact["role"] or "" for fact in facts}
            self._roles[key[:2]] = (clock.monotonic(), roles)
        return roles.get(key[2], "")
