"""EC2's DescribeInstances, ours: moto's takes seconds for a thousand instances, and has not all filters.

A page counts instances, not reservations. Filters are AND between names and OR between values, with wildcards * and ?.
Source of names and members: botocore's model of DescribeInstances and its documentation.
"""

import base64
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from fleetops.awsapi import globs, query
from fleetops.awsapi.errors import ApiError, render
from fleetops.awsapi.models import service
from fleetops.endpoint.answers import hold_result

loads = orjson.loads
_INSTANCE_ID = re.compile(r"i-([0-9a-f]{8}|[0-9a-f]{17})")
_LARGEST_PAGE = 1000
Fact = dict[str, Any]


def answer(facts: list[Fact], region: str, form: dict[str, str], request_id: str) -> tuple[int, bytes]:
    """Answer one DescribeInstances request over `facts`, which are instances as moto_adapter gives them."""
    operation = service("ec2").operation("DescribeInstances")
    try:
        result = describe(facts, query.parse(operation, form, ec2=True))
        hold_result(operation, result)
        return 200, query.write(operation, result, request_id, ec2=True)
    except ApiError as error:
        status, _, content = render(error, "ec2", request_id)
        return status, content


def describe(facts: list[Fact], parameters: dict[str, Any]) -> dict[str, Any]:
    """The result for the parameters. Raises ApiError in EC2's codes."""
    wanted = parameters.get("InstanceIds", [])
    size, token = parameters.get("MaxResults"), parameters.get("NextToken")
    if parameters.get("DryRun"):
        raise ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
    if wanted and size is not None:
        raise ApiError(
            "InvalidParameterCombination", "The parameter instancesSet cannot be used with the parameter maxResults"
        )
    if size is not None and not 5 <= size <= _LARGEST_PAGE:
        raise ApiError(
            "InvalidParameterValue",
            f"Value ( {size} ) for parameter maxResults is invalid. Expecting a value "
            "greater than 5 and less than 1000.",
        )
    if wanted:
        facts = _by_id(facts, wanted)
    for condition in parameters.get("Filters", []):
        matches = _filter(condition.get("Name", ""), condition.get("Values", []))
        facts = [fact for fact in facts if matches(fact)]
    start = _start(token)
    page = facts[start : start + size] if size is not None else facts[start:]
    reservations: dict[str, dict[str, Any]] = {}
    for fact in page:
        reservation = reservations.setdefault(
            fact["_reservation"],
            {"ReservationId": fact["_reservation"], "OwnerId": fact["_owner"], "Groups": [], "Instances": []},
        )
        reservation["Instances"].append(_member(fact))
    following = start + len(page)
    more = size is not None and following < len(facts)
    return {
        "Reservations": list(reservations.values()),
        "NextToken": base64.urlsafe_b64encode(b"%d" % following).decode() if more else None,
    }


def platform_details(fact: Fact) -> str:
    if fact["_platform"] == "windows":
        return "Windows"
    return "Red Hat Enterprise Linux" if fact["_image_name"].startswith("RHEL") else "Linux/UNIX"


def _by_id(facts: list[Fact], wanted: list[str]) -> list[Fact]:
    malformed = [instance_id for instance_id in wanted if not _INSTANCE_ID.fullmatch(instance_id)]
    if malformed:
        raise ApiError("InvalidInstanceID.Malformed", f'Invalid id: "{malformed[0]}"')
    known = {fact["InstanceId"]: fact for fact in facts}
    missing = [instance_id for instance_id in wanted if instance_id not in known]
    if len(missing) == 1:
        raise ApiError("InvalidInstanceID.NotFound", f"The instance ID '{missing[0]}' does not exist")
    if missing:
        raise ApiError("InvalidInstanceID.NotFound", f"The instance IDs '{', '.join(missing)}' do not exist")
    return [known[instance_id] for instance_id in dict.fromkeys(wanted)]


def _start(token: str | None) -> int:
    if not token:
        return 0
    try:
        return max(0, int(base64.b64decode(token, altchars=b"-_", validate=True)))
    except ValueError:
        raise ApiError("InvalidParameterValue", "Unable to parse pagination token") from None


def _member(fact: Fact) -> dict[str, Any]:
    member = {key: value for key, value in fact.items() if not key.startswith("_")}
    member["LaunchTime"] = datetime.fromtimestamp(fact["LaunchTime"], UTC)
    member["Platform"] = "windows" if fact["_platform"] == "windows" else None
    member["PlatformDetails"] = platform_details(fact)
    member["UsageOperation"] = {"Windows": "RunInstances:0002", "Red Hat Enterprise Linux": "RunInstances:0010"}.get(
        member["PlatformDetails"], "RunInstances"
    )
    member["UsageOperationUpdateTime"] = member["LaunchTime"]
    member["CurrentInstanceBootMode"] = "legacy-bios"
    member["EnaSupport"] = True
    return member


def _tags(fact: Fact) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in fact["Tags"]}


def _moment(fact: Fact) -> str:
    return f"{datetime.fromtimestamp(fact['LaunchTime'], UTC):%Y-%m-%dT%H:%M:%S}.000Z"


# What a filter looks at: the values of an instance that it may match.
_VALUES: dict[str, Callable[[Fact], Iterable[Any]]] = {
    "architecture": lambda fact: [fact["Architecture"]],
    "availability-zone": lambda fact: [fact["Placement"]["AvailabilityZone"]],
    "block-device-mapping.volume-id": lambda fact: [item["Ebs"]["VolumeId"] for item in fact["BlockDeviceMappings"]],
    "client-token": lambda fact: [fact["ClientToken"]],
    "dns-name": lambda fact: [fact["PublicDnsName"]],
    "hypervisor": lambda fact: [fact["Hypervisor"]],
    "iam-instance-profile.arn": lambda fact: [(fact["IamInstanceProfile"] or {}).get("Arn")],
    "iam-instance-profile.id": lambda fact: [(fact["IamInstanceProfile"] or {}).get("Id")],
    "iam-instance-profile.name": lambda fact: [(fact["IamInstanceProfile"] or {}).get("Arn", "").rpartition("/")[2]],
    "image-id": lambda fact: [fact["ImageId"]],
    "instance-id": lambda fact: [fact["InstanceId"]],
    "instance-state-code": lambda fact: [fact["State"]["Code"]],
    "instance-state-name": lambda fact: [fact["State"]["Name"]],
    "instance-type": lambda fact: [fact["InstanceType"]],
    "instance.group-id": lambda fact: [group["GroupId"] for group in fact["SecurityGroups"]],
    "instance.group-name": lambda fact: [group["GroupName"] for group in fact["SecurityGroups"]],
    "ip-address": lambda fact: [fact["PublicIpAddress"]],
    "key-name": lambda fact: [fact["KeyName"]],
    "launch-time": lambda fact: [_moment(fact)],
    "metadata-options.http-tokens": lambda fact: [fact["MetadataOptions"]["HttpTokens"]],
    "metadata-options.http-endpoint": lambda fact: [fact["MetadataOptions"]["HttpEndpoint"]],
    "metadata-options.instance-metadata-tags": lambda fact: [fact["MetadataOptions"]["InstanceMetadataTags"]],
    "monitoring-state": lambda fact: [fact["Monitoring"]["State"]],
    "network-interface.network-interface-id": lambda fact: [
        nic["NetworkInterfaceId"] for nic in fact["NetworkInterfaces"]
    ],
    "network-interface.subnet-id": lambda fact: [nic["SubnetId"] for nic in fact["NetworkInterfaces"]],
    "network-interface.vpc-id": lambda fact: [nic["VpcId"] for nic in fact["NetworkInterfaces"]],
    "owner-id": lambda fact: [fact["_owner"]],
    "platform": lambda fact: [fact["_platform"]],
    "platform-details": lambda fact: [platform_details(fact)],
    "private-dns-name": lambda fact: [fact["PrivateDnsName"]],
    "private-ip-address": lambda fact: [fact["PrivateIpAddress"]],
    "reservation-id": lambda fact: [fact["_reservation"]],
    "root-device-name": lambda fact: [fact["RootDeviceName"]],
    "root-device-type": lambda fact: [fact["RootDeviceType"]],
    "source-dest-check": lambda fact: ["true" if fact["SourceDestCheck"] else "false"],
    "state-reason-code": lambda fact: [(fact["StateReason"] or {}).get("Code")],
    "subnet-id": lambda fact: [fact["SubnetId"]],
    "tag-key": lambda fact: list(_tags(fact)),
    "tag-value": lambda fact: list(_tags(fact).values()),
    "tenancy": lambda fact: [fact["Placement"]["Tenancy"]],
    "virtualization-type": lambda fact: [fact["VirtualizationType"]],
    "vpc-id": lambda fact: [fact["VpcId"]],
}
for _alias, _name in {"group-id": "instance.group-id", "group-name": "instance.group-name"}.items():
    _VALUES[f"{_alias}"] = _VALUES[_name]


def _filter(name: str, values: list[str]) -> Callable[[Fact], bool]:
    if name.startswith("tag:"):
        key = name.removeprefix("tag:")
        look: Callable[[Fact], Iterable[Any]] = lambda fact: [_tags(fact).get(key)]  # noqa: E731
    elif name in _VALUES:
        look = _VALUES[name]
    else:
        raise ApiError("InvalidParameterValue", f"The filter '{name}' is invalid")
    patterns = [_pattern(value) for value in values]
    return lambda fact: any(
        pattern.fullmatch(str(value)) for value in look(fact) if value is not None for pattern in patterns
    )


@lru_cache(maxsize=1024)
def _pattern(value: str) -> re.Pattern[str]:
    # EC2 knows * and ? and a backslash before either; fnmatch's brackets are plain characters to it.
    wild = {"*": None, "?": "."}
    parts = re.findall(r"\\[*?\\]|.", value, re.DOTALL)
    return globs.compile_parts([wild[part] if part in wild else re.escape(part[-1]) for part in parts])
