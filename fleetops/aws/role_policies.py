"""IAM: a policy that is put on a role for a while, inline or as a managed policy of its own."""

from typing import Final

from .clients import AccountAccess, client
from .errors import AwsError, aws_call

# Characters without white space [IAM user guide, "IAM and AWS STS quotas"]: all inline policies of a role together, and
# one managed policy.
MOST_INLINE: Final = 10_240
MOST_MANAGED: Final = 6_144
PATH: Final = "/fleetops/"


def managed_arn(account_id: str, name: str, *, partition: str = "aws") -> str:
    return f"arn:{partition}:iam::{account_id}:policy{PATH}{name}"


def put_managed(
    access: AccountAccess, region: str, *, role: str, name: str, arn: str, text: str, session_name: str
) -> None:
    """Have a managed policy of our own with that text on the role. May be called again. Raises AwsError."""
    iam = client("iam", access, region, session_name=session_name)
    try:
        with aws_call("iam:CreatePolicy", where=name):
            iam.create_policy(
                PolicyName=name, Path=PATH, PolicyDocument=text, Description="A lease of FleetOps; it ends by itself."
            )
    except AwsError as error:
        if error.code != "EntityAlreadyExists":
            raise
        _new_text(access, region, arn=arn, text=text, session_name=session_name)
    with aws_call("iam:AttachRolePolicy", where=role):
        iam.attach_role_policy(RoleName=role, PolicyArn=arn)


def _new_text(access: AccountAccess, region: str, *, arn: str, text: str, session_name: str) -> None:
    """Another version of the policy, which holds at once; the older ones go, since IAM keeps five at most."""
    iam = client("iam", access, region, session_name=session_name)
    with aws_call("iam:ListPolicyVersions", where=arn):
        versions = iam.list_policy_versions(PolicyArn=arn)["Versions"]
    for each in versions:
        if not each["IsDefaultVersion"]:
            with aws_call("iam:DeletePolicyVersion", where=arn):
                iam.delete_policy_version(PolicyArn=arn, VersionId=each["VersionId"])
    with aws_call("iam:CreatePolicyVersion", where=arn):
        iam.create_policy_version(PolicyArn=arn, PolicyDocument=text, SetAsDefault=True)


def drop_managed(access: AccountAccess, region: str, *, role: str, arn: str, session_name: str) -> None:
    """Take it from the role and delete it; what is not there is no error. Raises AwsError."""
    iam = client("iam", access, region, session_name=session_name)
    try:
        with aws_call("iam:DetachRolePolicy", where=role):
            iam.detach_role_policy(RoleName=role, PolicyArn=arn)
    except AwsError as error:
        _if_missing(error)
    try:
        with aws_call("iam:ListPolicyVersions", where=arn):
            versions = iam.list_policy_versions(PolicyArn=arn)["Versions"]
        for each in versions:
            if not each["IsDefaultVersion"]:
                with aws_call("iam:DeletePolicyVersion", where=arn):
                    iam.delete_policy_version(PolicyArn=arn, VersionId=each["VersionId"])
        with aws_call("iam:DeletePolicy", where=arn):
            iam.delete_policy(PolicyArn=arn)
    except AwsError as error:
        _if_missing(error)


def _if_missing(error: AwsError) -> None:
    if error.code != "NoSuchEntity":
        raise error
