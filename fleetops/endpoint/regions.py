"""AWS's regions, and which of them are off here.

A region that AWS opened after 20 March 2019 is off in each account until somebody turns it on. Until then it knows none
of the account's credentials, and says no more than that: InvalidClientTokenId (STS), UnrecognizedClientException (SSM),
AuthFailure (EC2). Here they stay off: Account Management, which turns them on, is not offered.
"""

from functools import cache
from typing import Any

import botocore.session

from fleetops.awsapi import query
from fleetops.awsapi.errors import ApiError
from fleetops.awsapi.models import service

# Source: AWS Account Management reference guide, "Enable or disable AWS Regions in your account".
OPT_IN = frozenset(
    {
        "af-south-1",
        "ap-east-1",
        "ap-east-2",
        "ap-south-2",
        "ap-southeast-3",
        "ap-southeast-4",
        "ap-southeast-5",
        "ap-southeast-6",
        "ap-southeast-7",
        "ca-west-1",
        "eu-central-2",
        "eu-south-1",
        "eu-south-2",
        "il-central-1",
        "me-central-1",
        "me-south-1",
        "mx-central-1",
    }
)


@cache
def known() -> tuple[str, ...]:
    """All regions of AWS's public partition."""
    return tuple(botocore.session.Session().get_available_regions("ec2"))


def is_off(region: str) -> bool:
    return region in OPT_IN


def describe_regions(form: dict[str, str], request_id: str) -> bytes:
    """EC2's DescribeRegions: those that are on, or with AllRegions or by name the others too. Raises ApiError."""
    operation = service("ec2").operation("DescribeRegions")
    parameters = query.parse(operation, form, ec2=True)
    if parameters.get("DryRun"):
        raise ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
    named = parameters.get("RegionNames", [])
    for name in named:
        if name not in known():
            raise ApiError("InvalidParameterValue", f"Invalid region provided: {name}")
    wanted = named or [name for name in known() if parameters.get("AllRegions") or not is_off(name)]
    found: list[dict[str, Any]] = [
        {
            "RegionName": name,
            "Endpoint": f"ec2.{name}.amazonaws.com",
            "OptInStatus": "not-opted-in" if is_off(name) else "opt-in-not-required",
        }
        for name in wanted
    ]
    for condition in parameters.get("Filters", []):
        key = {"region-name": "RegionName", "endpoint": "Endpoint", "opt-in-status": "OptInStatus"}.get(
            condition.get("Name", "")
        )
        if key is None:
            raise ApiError("InvalidParameterValue", f"The filter '{condition.get('Name', '')}' is invalid")
        found = [region for region in found if region[key] in condition.get("Values", [])]
    return query.write(operation, {"Regions": found}, request_id, ec2=True)
