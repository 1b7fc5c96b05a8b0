"""What a role's policies come to, in words; and how one differs from the standard role. No database, no AWS."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

STANDARD: Final = "fleetops-ssm-core"
CORE_POLICY: Final = "AmazonSSMManagedInstanceCore"
TAG: Final = {"fleetops:managed": "standard-role"}
LEASE_PREFIX: Final = "fleetops-lease-"  # policies of privilege-only leases: they come and go
# The actions of AWS's policy AmazonSSMManagedInstanceCore, version 2 [AWS managed policy reference].
CORE_ACTIONS: Final = (
    *(
        f"ssm:{name}"
        for name in (
            *("DescribeAssociation", "GetDeployablePatchSnapshotForInstance", "GetDocument", "DescribeDocument"),
            *("GetManifest", "GetParameter", "GetParameters", "ListAssociations", "ListInstanceAssociations"),
            *("PutInventory", "PutComplianceItems", "PutConfigurePackageResult", "UpdateAssociationStatus"),
            *("UpdateInstanceAssociationStatus", "UpdateInstanceInformation"),
        )
    ),
    *(
        f"ssmmessages:{name}"
        for name in ("CreateControlChannel", "CreateDataChannel", "OpenControlChannel", "OpenDataChannel")
    ),
    *(
        f"ec2messages:{name}"
        for name in ("AcknowledgeMessage", "DeleteMessage", "FailMessage", "GetEndpoint", "GetMessages", "SendReply")
    ),
)
# Without these no agent is there at all; the others are what it does once it is.
CONNECTING: Final = frozenset(
    {"ssm:UpdateInstanceInformation"} | {each for each in CORE_ACTIONS if each.startswith("ssmmessages:")}
)
_READING: Final = ("Get", "List", "Describe", "BatchGet", "Query", "Scan", "Head", "Search", "Lookup", "View")
_NAMES: Final = {"s3": "S3", "kms": "KMS", "ec2": "EC2", "sqs": "SQS", "sns": "SNS", "iam": "IAM", "sts": "STS"}
_NAMES_MORE: Final = {
    "logs": "CloudWatch Logs",
    "cloudwatch": "CloudWatch",
    "dynamodb": "DynamoDB",
    "secretsmanager": "Secrets Manager",
    "ssm": "Systems Manager",
    "rds": "RDS",
    "ecr": "ECR",
    "autoscaling": "Auto Scaling",
    "elasticloadbalancing": "load balancers",
}
_MOST_NAMED: Final = 4


def trust(partition: str) -> dict[str, Any]:
    """That EC2 may assume the role."""
    service = "ec2.amazonaws.com.cn" if partition == "aws-cn" else "ec2.amazonaws.com"
    return {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}],
    }


def core_arn(partition: str) -> str:
    return f"arn:{partition}:iam::aws:policy/{CORE_POLICY}"


def trusts_ec2(text: str) -> bool:
    """Whether a trust policy lets EC2 assume its role, whatever else it says."""
    for statement in statements(text):
        principal = statement.get("Principal")
        services = _listed(principal.get("Service")) if isinstance(principal, dict) else []
        may = any(each in {"sts:AssumeRole", "sts:*", "*"} for each in _listed(statement.get("Action")))
        is_ec2 = any(str(each) in {"ec2.amazonaws.com", "ec2.amazonaws.com.cn"} for each in services)
        if statement.get("Effect") == "Allow" and may and is_ec2:
            return True
    return False


def is_standard_trust(text: str, partition: str) -> bool:
    """Whether it says no more and no less, whatever it looks like."""
    found = [
        {name: sorted(map(str, _listed(value))) if name == "Action" else value for name, value in each.items()}
        for each in statements(text)
    ]
    for each in found:
        each.pop("Sid", None)
        if isinstance(principal := each.get("Principal"), dict):
            each["Principal"] = {kind: sorted(map(str, _listed(who))) for kind, who in principal.items()}
    service = trust(partition)["Statement"][0]["Principal"]["Service"]
    return found == [{"Effect": "Allow", "Principal": {"Service": [service]}, "Action": ["sts:AssumeRole"]}]


def statements(text: str) -> Iterator[Mapping[str, Any]]:
    """Of a policy; nothing for a text that is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return
    listed = found.get("Statement", []) if isinstance(found, dict) else []
    yield from (each for each in _listed(listed) if isinstance(each, dict))


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


# --- what it allows --------------------------------------------------------------------------------------------------


def agent_words(lacks: Collection[str] | None) -> str:
    """Of the actions that SSM needs; None: nobody has asked IAM yet."""
    if lacks is None:
        return "not asked yet"
    if not lacks:
        return "the agent"
    if len(lacks) == len(CORE_ACTIONS):
        return "no agent"
    if CONNECTING & set(lacks):
        return "the agent only in part: it cannot connect"
    return f"the agent without {len(lacks)} of {len(CORE_ACTIONS)} actions"


def allows(policies: Sequence[Mapping[str, str]], lacks: Collection[str] | None) -> str:
    """In words: "the agent, nothing else", "the agent, S3 read", "everything"."""
    others: dict[str, bool] = {}  # service → whether it is only read
    for policy in policies:
        if policy["name"] == CORE_POLICY and policy["arn"].split(":")[4:5] == ["aws"]:
            continue
        if not policy["text"]:
            others[policy["name"]] = False  # AWS did not tell what is in it
        for statement in statements(policy["text"]):
            if statement.get("Effect") != "Allow":
                continue
            if "NotAction" in statement:
                return "nearly everything"
            for action in _listed(statement.get("Action")):
                if str(action) == "*":
                    return "everything"
                if action in CORE_ACTIONS:
                    continue
                service, _, name = str(action).partition(":")
                named = _NAMES.get(service) or _NAMES_MORE.get(service) or service
                others[named] = others.get(named, True) and name.startswith(_READING)
    named = [f"{name} read" if is_read else name for name, is_read in sorted(others.items())]
    if len(named) > _MOST_NAMED:
        named = [*named[:_MOST_NAMED], f"{len(named) - _MOST_NAMED} more services"]
    agent = agent_words(lacks)
    return ", ".join([agent, *(named or ["nothing else"])])


# --- the standard role -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as the standard role has it, and what puts it right."""

    what: str  # trust, missing, extra, boundary
    words: str
    repair: str  # in words; empty: only a person can do it
    policy: str = ""  # name, of one that is extra
    arn: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def differences(
    trust_text: str, policies: Sequence[Mapping[str, str]], boundary: str, partition: str
) -> list[Difference]:
    """How a role of the standard's name differs from it. Privilege-only leases are no difference."""
    found = []
    if not is_standard_trust(trust_text, partition):
        says = "also trusts others" if trusts_ec2(trust_text) else "does not let EC2 assume it"
        found.append(Difference("trust", f"Its trust policy {says}.", "The trust policy becomes EC2's alone."))
    core = core_arn(partition)
    if not any(each["arn"] == core for each in policies):
        found.append(Difference("missing", f"{CORE_POLICY} is not attached.", f"{CORE_POLICY} is attached."))
    for each in policies:
        if each["arn"] == core or each["name"].startswith(LEASE_PREFIX):
            continue
        kind = "policy" if each["arn"] else "inline policy"
        repair = f"The {kind} {each['name']} is {'detached' if each['arn'] else 'deleted'}."
        found.append(
            Difference("extra", f"It has the {kind} {each['name']} besides.", repair, each["name"], each["arn"])
        )
    if boundary:
        found.append(
            Difference(
                "boundary", f"It has the permissions boundary {boundary.rpartition('/')[2]}, which may cut it.", ""
            )
        )
    return found
