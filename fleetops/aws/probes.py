"""Harmless reads that show whether a permission is there: each asks for as little as AWS lets one ask for."""

from collections.abc import Callable, Mapping
from typing import Final

from . import ec2, ssm
from .clients import AccountAccess, client
from .errors import aws_call

# Access, region, session name, and the id of a hybrid node of that region where one is known.
Probe = Callable[[AccountAccess, str, str, str], None]


def _instances(access: AccountAccess, region: str, session_name: str, hybrid_id: str) -> None:
    service = client("ec2", access, region, session_name=session_name)
    with aws_call("ec2:DescribeInstances", where=f"{access.account_id} {region}"):
        service.describe_instances(MaxResults=5)


def _regions(access: AccountAccess, region: str, session_name: str, hybrid_id: str) -> None:
    ec2.region_states(access, region, session_name=session_name)


def _managed_instances(access: AccountAccess, region: str, session_name: str, hybrid_id: str) -> None:
    service = client("ssm", access, region, session_name=session_name)
    with aws_call("ssm:DescribeInstanceInformation", where=f"{access.account_id} {region}"):
        service.describe_instance_information(MaxResults=5)


def _sessions(access: AccountAccess, region: str, session_name: str, hybrid_id: str) -> None:
    service = client("ssm", access, region, session_name=session_name)
    with aws_call("ssm:DescribeSessions", where=f"{access.account_id} {region}"):
        service.describe_sessions(State="Active", MaxResults=1)


def _hybrid_tags(access: AccountAccess, region: str, session_name: str, hybrid_id: str) -> None:
    ssm.managed_instance_tags(access, region, instance_id=hybrid_id, session_name=session_name)


READS: Final[Mapping[str, Probe]] = {
    "ec2:DescribeInstances": _instances,
    "ec2:DescribeRegions": _regions,
    "ssm:DescribeInstanceInformation": _managed_instances,
    "ssm:DescribeSessions": _sessions,
}
# And with a hybrid node at hand, whose tags may be read.
HYBRID_READS: Final[Mapping[str, Probe]] = {"ssm:ListTagsForResource": _hybrid_tags}
