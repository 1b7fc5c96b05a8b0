"""IAM: the roles of an account with their policies, its instance profiles, and the standard role's parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from .clients import AccountAccess, client
from .errors import AwsError, aws_call

PAGE: Final = 300  # roles of one answer


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A policy on a role. `arn` is empty for an inline one; `text` for one whose text is not in the answer."""

    name: str
    arn: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class RoleRecord:
    """A role as IAM tells it; policies in the order of their names, texts as JSON with sorted keys."""

    arn: str
    name: str
    trust: str
    policies: tuple[PolicyRecord, ...]
    boundary_arn: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """An instance profile, with the ARN of the role in it; empty if it holds none."""

    arn: str
    name: str
    role_arn: str


def roles(access: AccountAccess, region: str, *, session_name: str) -> list[RoleRecord]:
    """All roles of the account with their inline policies and the texts of its own managed ones. Raises AwsError."""
    iam = client("iam", access, region, session_name=session_name)
    request: dict[str, Any] = {"Filter": ["Role", "LocalManagedPolicy"], "MaxItems": PAGE}
    found: list[dict[str, Any]] = []
    texts: dict[str, str] = {}
    while True:
        with aws_call("iam:GetAccountAuthorizationDetails", where=access.account_id):
            answer = iam.get_account_authorization_details(**request)
        found += answer.get("RoleDetailList", [])
        for each in answer.get("Policies", []):
            for version in each.get("PolicyVersionList", []):
                if version.get("IsDefaultVersion") and "Document" in version:
                    texts[each["Arn"]] = _json(version["Document"])
        if not answer.get("IsTruncated"):
            return [_role(each, texts) for each in found]
        request["Marker"] = answer["Marker"]


def profiles(access: AccountAccess, region: str, *, session_name: str) -> list[ProfileRecord]:
    """All instance profiles of the account. Raises AwsError."""
    iam = client("iam", access, region, session_name=session_name)
    request: dict[str, Any] = {"MaxItems": PAGE}
    found = []
    while True:
        with aws_call("iam:ListInstanceProfiles", where=access.account_id):
            answer = iam.list_instance_profiles(**request)
        for each in answer.get("InstanceProfiles", []):
            held = each.get("Roles") or [{"Arn": ""}]
            found.append(ProfileRecord(each["Arn"], each["InstanceProfileName"], held[0]["Arn"]))
        if not answer.get("IsTruncated"):
            return found
        request["Marker"] = answer["Marker"]


def policy_text(access: AccountAccess, region: str, arn: str, *, session_name: str) -> str:
    """The default version of a managed policy, as JSON. Raises AwsError."""
    iam = client("iam", access, region, session_name=session_name)
    with aws_call("iam:GetPolicy", where=arn):
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    with aws_call("iam:GetPolicyVersion", where=arn):
        return _json(iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"])


def role(access: AccountAccess, region: str, name: str, *, session_name: str) -> RoleRecord | None:
    """One role by its name, as it is now; None if there is none. Managed policies without text. Raises AwsError."""
    iam = client("iam", access, region, session_name=session_name)
    try:
        with aws_call("iam:GetRole", where=name):
            found = iam.get_role(RoleName=name)["Role"]
    except AwsError as error:
        if error.code == "NoSuchEntity":
            return None
        raise
    with aws_call("iam:ListAttachedRolePolicies", where=name):
        attached = iam.list_attached_role_policies(RoleName=name).get("AttachedPolicies", [])  # at most 20 a role
    with aws_call("iam:ListRolePolicies", where=name):
        inline = iam.list_role_policies(RoleName=name, MaxItems=1000).get("PolicyNames", [])
    texts = {}
    for policy in inline:
        with aws_call("iam:GetRolePolicy", where=name):
            texts[policy] = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
    return _role(
        {
            **found,
            "AttachedManagedPolicies": attached,
            "RolePolicyList": [{"PolicyName": each, "PolicyDocument": text} for each, text in texts.items()],
        },
        {},
    )


def create_role(
    access: AccountAccess, region: str, name: str, *, trust: str, tags: Mapping[str, str], about: str, session_name: str
) -> None:
    """Raises AwsError, of the code EntityAlreadyExists if the name is taken."""
    iam = client("iam", access, region, session_name=session_name)
    with aws_call("iam:CreateRole", where=name):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust, Description=about, Tags=_tags(tags))


def tag_role(access: AccountAccess, region: str, name: str, *, tags: Mapping[str, str], session_name: str) -> None:
    iam = client("iam", access, region, session_name=session_name)
    with aws_call("iam:TagRole", where=name):
        iam.tag_role(RoleName=name, Tags=_tags(tags))


def set_trust(access: AccountAccess, region: str, name: str, *, trust: str, session_name: str) -> None:
    iam = client("iam", access, region, session_name=session_name)
    with aws_call("iam:UpdateAssumeRolePolicy", where=name):
        iam.update_assume_role_policy(RoleName=name, PolicyDocument=trust)


def attach(access: AccountAccess, region: str, name: str, *, policy_arn: str, session_name: str) -> None:
    """Put a managed policy on a role; once more changes nothing."""
    iam = client("iam", access, region, session_name=session_name)
    with aws_call("iam:AttachRolePolicy", where=name):
        iam.attach_role_policy(RoleName=name, PolicyArn=policy_arn)


def detach(access: AccountAccess, region: str, name: str, *, policy_arn: str, session_name: str) -> None:
    iam = client("iam", access, region, session_name=session_name)
    with aws_call("iam:DetachRolePolicy", where=name):
        iam.detach_role_policy(RoleName=name, PolicyArn=policy_arn)


def create_profile(access: AccountAccess, region: str, name: str, *, session_name: str) -> None:
    """Make an instance profile, without a role yet. Raises AwsError."""
    iam = client("iam", access, region, session_name=session_name)
    with aws_call("iam:CreateInstanceProfile", where=name):
        iam.create_instance_profile(InstanceProfileName=name)


def fill_profile(access: AccountAccess, region: str, name: str, *, role_name: str, session_name: str) -> None:
    """Put the role into the instance profile, which holds one at most. Raises AwsError."""
    iam = client("iam", access, region, session_name=session_name)
    with aws_call("iam:AddRoleToInstanceProfile", where=name):
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=role_name)


def _role(found: Mapping[str, Any], texts: Mapping[str, str]) -> RoleRecord:
    managed = [
        PolicyRecord(each["PolicyName"], each["PolicyArn"], texts.get(each["PolicyArn"], ""))
        for each in found.get("AttachedManagedPolicies", [])
    ]
    inline = [
        PolicyRecord(each["PolicyName"], "", _json(each["PolicyDocument"])) for each in found.get("RolePolicyList", [])
    ]
    return RoleRecord(
        arn=found["Arn"],
        name=found["RoleName"],
        trust=_json(found.get("AssumeRolePolicyDocument", {})),
        policies=tuple(sorted([*managed, *inline], key=lambda each: (each.name, each.arn))),
        boundary_arn=(found.get("PermissionsBoundary") or {}).get("PermissionsBoundaryArn", ""),
        tags={each["Key"]: each["Value"] for each in found.get("Tags", [])},
    )


def _json(document: Any) -> str:
    """botocore reads policies into objects where its model says so, and leaves them as text, quoted, elsewhere."""
    if isinstance(document, str):
        document = json.loads(unquote(document))
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]
