"""EC2: instances, their state, profile and tags."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from .clients import AccountAccess, client
from .errors import aws_call
from .records import Ec2Instance, Page, ec2_instance

# AWS allows 1,000; botocore needs about 1 ms an instance to parse, so this is half a second between two breaths.
PAGE: Final = 500


def instance_pages(
    access: AccountAccess, region: str, *, session_name: str, token: str = ""
) -> Iterator[Page[Ec2Instance]]:
    """All instances of a region, page by page of at most 500; terminated ones stay listed for about an hour.

    With `token`, which a page has told, from the one after it; AWS refuses one that is hours old.
    """
    ec2 = client("ec2", access, region, session_name=session_name)
    request: dict[str, Any] = {"MaxResults": PAGE} | ({"NextToken": token} if token else {})
    while True:
        with aws_call("ec2:DescribeInstances", where=f"{access.account_id} {region}"):
            answer = ec2.describe_instances(**request)
        page = Page(map(ec2_instance, _instances(answer)), answer.get("NextToken", ""))
        yield page
        if not page.token:
            return
        request["NextToken"] = page.token


def instances(
    access: AccountAccess, region: str, instance_ids: Sequence[str], *, session_name: str
) -> list[Ec2Instance]:
    """Those of at most 100 instances that there are."""
    ec2 = client("ec2", access, region, session_name=session_name)
    # As a filter: named as InstanceIds, one that is not there fails the whole call.
    named = [{"Name": "instance-id", "Values": list(instance_ids)}]
    with aws_call("ec2:DescribeInstances", where=f"{access.account_id} {region}"):
        return [ec2_instance(each) for each in _instances(ec2.describe_instances(Filters=named))]


def _instances(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for reservation in answer.get("Reservations", []):
        yield from reservation.get("Instances", [])


def region_states(access: AccountAccess, region: str, *, session_name: str) -> dict[str, bool]:
    """Each region that AWS offers, and whether it is on in the account."""
    ec2 = client("ec2", access, region, session_name=session_name)
    with aws_call("ec2:DescribeRegions", where=f"{access.account_id} {region}"):
        answer = ec2.describe_regions(AllRegions=True)
    return {each["RegionName"]: each.get("OptInStatus") != "not-opted-in" for each in answer.get("Regions", [])}
