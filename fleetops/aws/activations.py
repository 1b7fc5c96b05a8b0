"""Hybrid activations of Systems Manager, by which machines outside EC2 become nodes, and the end of such a node."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import unquote

from .clients import AccountAccess, client
from .errors import AwsError, aws_call
from .records import ManagedInstance, managed_instance

MOST_REGISTRATIONS: Final = 1000  # of one activation [botocore's model of ssm, RegistrationLimit]
LONGEST_DAYS: Final = 30  # from now to its end [Systems Manager user guide, "Create a hybrid activation"]
PAGE: Final = 50  # the most that DescribeActivations gives at once [model]
MOST_ROLE: Final = 64  # characters of IamRole [model]
MOST_DESCRIPTION: Final = 256  # [model]
SERVICE: Final = "ssm.amazonaws.com"


@dataclass(frozen=True, slots=True)
class MadeActivation:
    """What CreateActivation answers. The code is told this once, and makes a node of whoever has it."""

    activation_id: str
    code: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ActivationRecord:
    """One activation of DescribeActivations."""

    activation_id: str
    description: str = ""
    name: str = ""  # that its nodes get
    role: str = ""
    limit: int = 1
    count: int = 0  # registrations so far
    expires_at: datetime | None = None
    is_expired: bool = False
    created_at: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_used_up(self) -> bool:
        return self.count >= self.limit

    @property
    def is_open(self) -> bool:
        """Whether a machine can still register by it."""
        return not (self.is_expired or self.is_used_up)


def create_activation(
    access: AccountAccess,
    region: str,
    *,
    role: str,
    name: str,
    description: str,
    limit: int,
    expires_at: datetime,
    tags: Mapping[str, str],
    session_name: str,
    source_identity: str = "",
) -> MadeActivation:
    """Call CreateActivation, once: it takes no token, so a repeat would make a second one.

    Raises AccessDenied (which also names iam:PassRole), AwsError, also with code ValidationException for a role that
    is not there or that SSM may not assume, or Unavailable, whose is_outcome_unknown says that there may be an
    activation whose code nobody has: look for `description` in `activations`.
    """
    ssm = client("ssm", access, region, session_name=session_name, source_identity=source_identity, attempts=1)
    request: dict[str, Any] = {
        "IamRole": role,
        "Description": description[:MOST_DESCRIPTION],
        "RegistrationLimit": limit,
        "ExpirationDate": expires_at,
    }
    if name:
        request["DefaultInstanceName"] = name
    if tags:
        request["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
    with aws_call("ssm:CreateActivation", where=f"{access.account_id} {region}"):
        answer = ssm.create_activation(**request)
    return MadeActivation(answer["ActivationId"], answer["ActivationCode"])


def activations(
    access: AccountAccess, region: str, *, session_name: str, activation_ids: Sequence[str] = ()
) -> Iterator[ActivationRecord]:
    """The activations of a region, or those of `activation_ids` alone; page by page of at most 50."""
    ssm = client("ssm", access, region, session_name=session_name)
    request: dict[str, Any] = {"MaxResults": PAGE}
    if activation_ids:
        request["Filters"] = [{"FilterKey": "ActivationIds", "FilterValues": list(activation_ids)}]
    while True:
        with aws_call("ssm:DescribeActivations", where=f"{access.account_id} {region}"):
            answer = ssm.describe_activations(**request)
        yield from map(activation_record, answer.get("ActivationList", []))
        if not answer.get("NextToken"):
            return
        request["NextToken"] = answer["NextToken"]


def nodes_of(
    access: AccountAccess, region: str, activation_id: str, *, session_name: str, most: int
) -> list[ManagedInstance]:
    """The nodes that came by an activation and have reported, at most `most` of them."""
    ssm = client("ssm", access, region, session_name=session_name)
    request: dict[str, Any] = {"Filters": [{"Key": "ActivationIds", "Values": [activation_id]}], "MaxResults": PAGE}
    found: list[ManagedInstance] = []
    while True:
        with aws_call("ssm:DescribeInstanceInformation", where=f"{access.account_id} {region}"):
            answer = ssm.describe_instance_information(**request)
        found += map(managed_instance, answer.get("InstanceInformationList", []))
        if not answer.get("NextToken") or len(found) >= most:
            return found[:most]
        request["NextToken"] = answer["NextToken"]


def delete_activation(
    access: AccountAccess, region: str, activation_id: str, *, session_name: str, source_identity: str = ""
) -> None:
    """Call DeleteActivation. The nodes that came by it stay. Raises AwsError (InvalidActivation) if it is not there."""
    ssm = client("ssm", access, region, session_name=session_name, source_identity=source_identity)
    with aws_call("ssm:DeleteActivation", where=f"{access.account_id} {region}"):
        ssm.delete_activation(ActivationId=activation_id)


def deregister(
    access: AccountAccess, region: str, instance_id: str, *, session_name: str, source_identity: str = ""
) -> None:
    """Call DeregisterManagedInstance. Raises AwsError (InvalidInstanceId) if it is no hybrid node of the region."""
    ssm = client("ssm", access, region, session_name=session_name, source_identity=source_identity)
    with aws_call("ssm:DeregisterManagedInstance", where=f"{access.account_id} {region}"):
        ssm.deregister_managed_instance(InstanceId=instance_id)


def trusts_ssm(access: AccountAccess, region: str, role: str, *, session_name: str) -> bool | None:
    """Whether SSM may assume `role`; None where there is no such role. Raises AccessDenied if we may not look.

    A hint before the call, read from the statements that allow; what AWS says in CreateActivation stands.
    """
    iam = client("iam", access, region, session_name=session_name)
    try:
        with aws_call("iam:GetRole", where=access.account_id):
            trust = iam.get_role(RoleName=role.rpartition("/")[2])["Role"]["AssumeRolePolicyDocument"]
    except AwsError as error:
        if error.code == "NoSuchEntity":
            return None
        raise
    if isinstance(trust, str):
        trust = json.loads(unquote(trust))
    return any(_lets_in(statement) for statement in _listed(trust.get("Statement", [])))


def activation_record(answer: Mapping[str, Any]) -> ActivationRecord:
    return ActivationRecord(
        activation_id=answer["ActivationId"],
        description=answer.get("Description", ""),
        name=answer.get("DefaultInstanceName", ""),
        role=answer.get("IamRole", ""),
        limit=answer.get("RegistrationLimit", 1),
        count=answer.get("RegistrationsCount", 0),
        expires_at=answer.get("ExpirationDate"),
        is_expired=answer.get("Expired", False),
        created_at=answer.get("CreatedDate"),
        tags={tag["Key"]: tag.get("Value", "") for tag in answer.get("Tags", [])},
    )


def _lets_in(statement: Mapping[str, Any]) -> bool:
    principal = statement.get("Principal", {})
    services = ["*"] if principal == "*" else _listed(principal.get("Service", []))
    actions = {str(action).lower() for action in _listed(statement.get("Action", []))}
    return (
        statement.get("Effect") == "Allow"
        and bool({SERVICE, "*"} & set(services))
        and bool({"sts:assumerole", "sts:*", "*"} & actions)
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
