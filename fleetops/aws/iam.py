"""IAM: what a role's policies would say, asked without doing anything."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from .clients import AccountAccess, client
from .errors import AwsError, aws_call


@dataclass(frozen=True, slots=True)
class Verdict:
    """IAM's answer for one action on one resource."""

    action: str
    resource: str
    decision: str  # allowed, explicitDeny, implicitDeny

    @property
    def is_allowed(self) -> bool:
        return self.decision == "allowed"


def simulate(
    access: AccountAccess,
    region: str,
    *,
    principal_arn: str,
    actions: Sequence[str],
    resources: Sequence[str],
    session_name: str,
) -> list[Verdict]:
    """Ask whether the policies of the user or role `principal_arn` allow each of `actions` on each of `resources`.

    Policies of other kinds (the organisation's, a resource's own) are only partly in the answer [IAM user guide,
    "Testing IAM policies with the IAM policy simulator"]. Raises AccessDenied where the caller may not ask.
    """
    iam = client("iam", access, region, session_name=session_name)
    with aws_call("iam:SimulatePrincipalPolicy", where=access.account_id):
        answer = iam.simulate_principal_policy(
            PolicySourceArn=principal_arn, ActionNames=list(actions), ResourceArns=list(resources)
        )
    verdicts = []
    for each in answer.get("EvaluationResults", []):
        # An action has one result; where several resources were named, each has its own within it.
        of_resources = each.get("ResourceSpecificResults") or []
        verdicts += [
            Verdict(each["EvalActionName"], one["EvalResourceName"], one["EvalResourceDecision"])
            for one in of_resources
        ] or [Verdict(each["EvalActionName"], each.get("EvalResourceName", "*"), each["EvalDecision"])]
    return verdicts


def trust_policy(access: AccountAccess, region: str, *, role_arn: str, session_name: str) -> dict[str, Any]:
    """Whom a role trusts, as it stands in IAM. Raises AwsError."""
    roles = client("iam", access, region, session_name=session_name)
    with aws_call("iam:GetRole", where=role_arn):
        found = roles.get_role(RoleName=role_name(role_arn))["Role"]["AssumeRolePolicyDocument"]
    return found if isinstance(found, dict) else dict(json.loads(unquote(found)))


def put_role_policy(
    access: AccountAccess, region: str, *, role_arn: str, policy_name: str, document: str, session_name: str
) -> None:
    """Give the role an inline policy, or another text of it. Raises AwsError."""
    role = client("iam", access, region, session_name=session_name)
    with aws_call("iam:PutRolePolicy", where=role_arn):
        role.put_role_policy(RoleName=role_name(role_arn), PolicyName=policy_name, PolicyDocument=document)


def delete_role_policy(
    access: AccountAccess, region: str, *, role_arn: str, policy_name: str, session_name: str
) -> None:
    """Take an inline policy away; one that is not there is no error. Raises AwsError."""
    role = client("iam", access, region, session_name=session_name)
    try:
        with aws_call("iam:DeleteRolePolicy", where=role_arn):
            role.delete_role_policy(RoleName=role_name(role_arn), PolicyName=policy_name)
    except AwsError as error:
        if error.code != "NoSuchEntity":
            raise


def role_name(role_arn: str) -> str:
    """The name in a role's ARN; a path before it is not part of it."""
    return role_arn.rpartition("/")[2]


def principal_of(caller_arn: str) -> str:
    """The user or role behind what GetCallerIdentity calls the caller; a role's path is not in it, and is left out."""
    prefix, _, rest = caller_arn.partition(":assumed-role/")
    if not rest:
        return caller_arn
    return f"{prefix.replace(':sts:', ':iam:')}:role/{rest.partition('/')[0]}"
