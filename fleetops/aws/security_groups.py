"""EC2's security groups: their inbound rules, who has them, and taking a rule away or putting it there again.

Source: botocore's models of ec2:DescribeSecurityGroupRules, RevokeSecurityGroupIngress, AuthorizeSecurityGroupIngress.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from .clients import AccountAccess, client
from .errors import aws_call

PAGE: Final = 1000  # the most that AWS allows
MOST_VALUES: Final = 200  # of one filter


@dataclass(frozen=True, slots=True)
class InboundRule:
    """One inbound rule: one protocol, one range of ports, one source. Ports are -1 where the protocol has none."""

    group_id: str
    rule_id: str
    protocol: str  # "tcp", "udp", "-1" for all, or a number
    from_port: int = -1
    to_port: int = -1
    cidr: str = ""  # IPv4
    cidr6: str = ""
    prefix_list_id: str = ""
    source_group_id: str = ""
    source_owner_id: str = ""  # the account of `source_group_id`
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes it this rule and no other: a group has no two with the same."""
        ports = () if self.protocol == "-1" else (self.from_port, self.to_port)
        return (self.protocol, *ports, self.cidr, self.cidr6, self.prefix_list_id, self.source_group_id)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> InboundRule:
        return cls(**kept)


@dataclass(frozen=True, slots=True)
class GroupRecord:
    group_id: str
    name: str
    vpc_id: str
    description: str


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface; `instance_id` is empty where it is not an instance's, `kind` is AWS's interface type."""

    interface_id: str
    group_ids: tuple[str, ...]
    instance_id: str
    kind: str
    description: str


def rules(access: AccountAccess, region: str, group_ids: Sequence[str] = (), *, session_name: str) -> list[InboundRule]:
    """The inbound rules of at most 200 groups; of all groups of the region if none is named. Raises AwsError."""
    ec2 = client("ec2", access, region, session_name=session_name)
    request: dict[str, Any] = {"MaxResults": PAGE}
    if group_ids:  # as a filter: a group that is there no more has no rules, and is no error
        request["Filters"] = [{"Name": "group-id", "Values": list(group_ids)}]
    found = []
    while True:
        with aws_call("ec2:DescribeSecurityGroupRules", where=f"{access.account_id} {region}"):
            answer = ec2.describe_security_group_rules(**request)
        found += [_rule(each) for each in answer.get("SecurityGroupRules", []) if not each.get("IsEgress")]
        if not answer.get("NextToken"):
            return found
        request["NextToken"] = answer["NextToken"]


def groups(access: AccountAccess, region: str, group_ids: Sequence[str], *, session_name: str) -> list[GroupRecord]:
    """Those of these groups that there are. Raises AwsError."""
    ec2 = client("ec2", access, region, session_name=session_name)
    found = []
    for some in _batches(group_ids):
        with aws_call("ec2:DescribeSecurityGroups", where=f"{access.account_id} {region}"):
            answer = ec2.describe_security_groups(Filters=[{"Name": "group-id", "Values": some}])
        found += [
            GroupRecord(each["GroupId"], each.get("GroupName", ""), each.get("VpcId", ""), each.get("Description", ""))
            for each in answer.get("SecurityGroups", [])
        ]
    return found


def interfaces(access: AccountAccess, region: str, group_ids: Sequence[str], *, session_name: str) -> list[Interface]:
    """Everything that has one of these groups, each interface once. Raises AwsError."""
    ec2 = client("ec2", access, region, session_name=session_name)
    found: dict[str, Interface] = {}
    for some in _batches(group_ids):
        request: dict[str, Any] = {"MaxResults": PAGE, "Filters": [{"Name": "group-id", "Values": some}]}
        while True:
            with aws_call("ec2:DescribeNetworkInterfaces", where=f"{access.account_id} {region}"):
                answer = ec2.describe_network_interfaces(**request)
            for each in answer.get("NetworkInterfaces", []):
                found[each["NetworkInterfaceId"]] = Interface(
                    each["NetworkInterfaceId"],
                    tuple(group["GroupId"] for group in each.get("Groups", [])),
                    (each.get("Attachment") or {}).get("InstanceId", ""),
                    each.get("InterfaceType", ""),
                    each.get("Description", ""),
                )
            if not answer.get("NextToken"):
                break
            request["NextToken"] = answer["NextToken"]
    return list(found.values())


def revoke(access: AccountAccess, region: str, group_id: str, rule_ids: Sequence[str], *, session_name: str) -> None:
    """Take rules away by their ids: all of them or, if one is not there, none. Raises AwsError."""
    ec2 = client("ec2", access, region, session_name=session_name)
    with aws_call("ec2:RevokeSecurityGroupIngress", where=group_id):
        ec2.revoke_security_group_ingress(GroupId=group_id, SecurityGroupRuleIds=list(rule_ids))


def authorize(access: AccountAccess, region: str, rule: InboundRule, *, session_name: str) -> str:
    """Put a rule there as it was, with its description and tags; the id that it has now. Raises AwsError."""
    ec2 = client("ec2", access, region, session_name=session_name)
    request: dict[str, Any] = {"GroupId": rule.group_id, "IpPermissions": [_permission(rule)]}
    own = {key: value for key, value in rule.tags.items() if not key.startswith("aws:")}
    if own:
        tags = [{"Key": key, "Value": value} for key, value in own.items()]
        request["TagSpecifications"] = [{"ResourceType": "security-group-rule", "Tags": tags}]
    with aws_call("ec2:AuthorizeSecurityGroupIngress", where=rule.group_id):
        answer = ec2.authorize_security_group_ingress(**request)
    made = answer.get("SecurityGroupRules") or [{}]
    return str(made[0].get("SecurityGroupRuleId", ""))


def _batches(group_ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(group_ids), MOST_VALUES):
        yield list(group_ids[start : start + MOST_VALUES])


def _rule(answer: dict[str, Any]) -> InboundRule:
    source = answer.get("ReferencedGroupInfo") or {}
    return InboundRule(
        group_id=answer["GroupId"],
        rule_id=answer["SecurityGroupRuleId"],
        protocol=answer.get("IpProtocol", "-1"),
        from_port=answer.get("FromPort", -1),
        to_port=answer.get("ToPort", -1),
        cidr=answer.get("CidrIpv4", ""),
        cidr6=answer.get("CidrIpv6", ""),
        prefix_list_id=answer.get("PrefixListId", ""),
        source_group_id=source.get("GroupId", ""),
        source_owner_id=source.get("UserId", ""),
        description=answer.get("Description", ""),
        tags={tag["Key"]: tag.get("Value", "") for tag in answer.get("Tags", [])},
    )


def _permission(rule: InboundRule) -> dict[str, Any]:
    permission: dict[str, Any] = {"IpProtocol": rule.protocol}
    if rule.protocol != "-1":
        permission |= {"FromPort": rule.from_port, "ToPort": rule.to_port}
    about = {"Description": rule.description} if rule.description else {}
    if rule.cidr:
        permission["IpRanges"] = [{"CidrIp": rule.cidr, **about}]
    elif rule.cidr6:
        permission["Ipv6Ranges"] = [{"CidrIpv6": rule.cidr6, **about}]
    elif rule.prefix_list_id:
        permission["PrefixListIds"] = [{"PrefixListId": rule.prefix_list_id, **about}]
    else:
        pair = {"GroupId": rule.source_group_id, **about}
        permission["UserIdGroupPairs"] = [pair | ({"UserId": rule.source_owner_id} if rule.source_owner_id else {})]
    return permission
