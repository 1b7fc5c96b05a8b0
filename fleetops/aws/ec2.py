"""EC2: instances, their state, profile and tags."""

from collections.abc import Iterator
from typing import Any, Final

from .clients import AccountAccess, client
from .errors import aws_call
from .records import Ec2Instance, ec2_instance

# AWS allows 1,000; botocore needs about 1 ms an instance to parse, so this is half a second between two breaths.
PAGE: Final = 500


def instance_pages(access: AccountAccess, region: str, *, session_name: str) -> Iterator[list[Ec2Instance]]:
    """All instances of a region, page by page of at most 500; terminated ones stay listed for about an hour."""
    ec2 = client("ec2", access, region, session_name=session_name)
    request: dict[str, Any] = {"MaxResults": PAGE}
    while True:
        with aws_call("ec2:DescribeInstances", where=f"{access.account_id} {region}"):
            page = ec2.describe_instances(**request)
        yield [
            ec2_instance(each)
            for reservation in page.get("Reservations", [])
            for each in reservation.get("Instances", [])
        ]
        if not page.get("NextToken"):
            return
        request["NextToken"] = page["NextToken"]


def region_states(access: AccountAccess, region: str, *, session_name: str) -> dict[str, bool]:
    """Each region that AWS offers, and whether it is on in the account."""
    ec2 = client("ec2", access, region, session_name=session_name)
    with aws_call("ec2:DescribeRegions", where=f"{access.account_id} {region}"):
        answer = ec2.describe_regions(AllRegions=True)
    return {each["RegionName"]: each.get("OptInStatus") != "not-opted-in" for each in answer.get("Regions", [])}
