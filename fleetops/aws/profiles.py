"""EC2's instance profiles: which instance has which, and changing it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from .clients import AccountAccess, client
from .errors import aws_call

MOST_VALUES: Final = 200  # of one filter [EC2 API reference, "Filtering"]
# An association that is over stays listed for a while.
_OVER: Final = frozenset({"disassociating", "disassociated"})


@dataclass(frozen=True, slots=True)
class Association:
    """An instance profile on an instance. It gets another id each time that it is replaced."""

    association_id: str
    instance_id: str
    profile_arn: str
    state: str  # associating, associated, disassociating, disassociated


@dataclass(frozen=True, slots=True)
class Profile:
    """An instance profile. IAM holds it to one role at most, and it may have none."""

    arn: str
    name: str
    role_names: tuple[str, ...]
    role_arns: tuple[str, ...]


def associations(
    access: AccountAccess, region: str, instance_ids: Sequence[str], *, session_name: str
) -> dict[str, Association]:
    """The standing associations of at most 200 instances, by instance id. Raises AwsError."""
    if len(instance_ids) > MOST_VALUES:
        raise ValueError(f"{len(instance_ids)} instances asked for at once, and a filter takes {MOST_VALUES}")
    ec2 = client("ec2", access, region, session_name=session_name)
    request: dict[str, Any] = {"Filters": [{"Name": "instance-id", "Values": list(instance_ids)}], "MaxResults": 1000}
    found: dict[str, Association] = {}
    while True:
        with aws_call("ec2:DescribeIamInstanceProfileAssociations", where=f"{access.account_id} {region}"):
            answer = ec2.describe_iam_instance_profile_associations(**request)
        for each in answer.get("IamInstanceProfileAssociations", []):
            association = _association(each)
            if association.state not in _OVER:
                found[association.instance_id] = association
        if not answer.get("NextToken"):
            return found
        request["NextToken"] = answer["NextToken"]


def associate(
    access: AccountAccess, region: str, *, instance_id: str, profile_arn: str, session_name: str
) -> Association:
    """Put a profile on an instance that has none. AWS refuses with IncorrectState if it has one. Raises AwsError."""
    ec2 = client("ec2", access, region, session_name=session_name)
    with aws_call("ec2:AssociateIamInstanceProfile", where=instance_id):
        answer = ec2.associate_iam_instance_profile(InstanceId=instance_id, IamInstanceProfile={"Arn": profile_arn})
    return _association(answer["IamInstanceProfileAssociation"])


def replace(
    access: AccountAccess, region: str, *, association_id: str, profile_arn: str, session_name: str
) -> Association:
    """Put another profile in the place of exactly this association's, without a gap.

    AWS refuses if the association is no more: whoever changed it meanwhile is not overruled. Raises AwsError.
    """
    ec2 = client("ec2", access, region, session_name=session_name)
    with aws_call("ec2:ReplaceIamInstanceProfileAssociation", where=association_id):
        answer = ec2.replace_iam_instance_profile_association(
            AssociationId=association_id, IamInstanceProfile={"Arn": profile_arn}
        )
    return _association(answer["IamInstanceProfileAssociation"])


def disassociate(access: AccountAccess, region: str, *, association_id: str, session_name: str) -> None:
    """Take exactly this association's profile away. Raises AwsError."""
    ec2 = client("ec2", access, region, session_name=session_name)
    with aws_call("ec2:DisassociateIamInstanceProfile", where=association_id):
        ec2.disassociate_iam_instance_profile(AssociationId=association_id)


def profile(access: AccountAccess, region: str, name: str, *, session_name: str) -> Profile:
    """An instance profile by its name. Raises AwsError, of the code NoSuchEntity if there is none."""
    iam = client("iam", access, region, session_name=session_name)
    with aws_call("iam:GetInstanceProfile", where=name):
        found = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    roles = found.get("Roles", [])
    return Profile(
        found["Arn"],
        found["InstanceProfileName"],
        tuple(each["RoleName"] for each in roles),
        tuple(each["Arn"] for each in roles),
    )


def _association(answer: dict[str, Any]) -> Association:
    return Association(
        answer["AssociationId"],
        answer["InstanceId"],
        (answer.get("IamInstanceProfile") or {}).get("Arn", ""),
        answer.get("State", ""),
    )
