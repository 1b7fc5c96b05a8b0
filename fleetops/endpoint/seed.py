"""The demo accounts: two small, believable fleets in two regions, and the identities that use them.

Every call has a fixed request id, so a seed that was killed half way goes on where it was: moto's child answers what is
in its journal already, and does the rest.
"""

import functools
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fleetops.endpoint.calls import NodeKey
from fleetops.endpoint.keys import key, write_private
from fleetops.endpoint.moto_client import MotoClient
from fleetops.endpoint.patch import catalogue, windows

logger = logging.getLogger(__name__)

ACCOUNT_ID = "111122223333"
REGION = "eu-west-1"
_STAGING = "444455556666"
PRODUCT_ROLE = "FleetOpsControlPlane"
NODE_ROLE = "ssm-core"
HYBRID_ROLE = "ssm-hybrid"
_CORE_POLICY = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
_ADMIN_POLICY = "arn:aws:iam::aws:policy/AdministratorAccess"

Place = tuple[str, str]  # account id, region

_PLATFORMS = {  # platform: (PlatformName and PlatformVersion as the agent reports them, image)
    "al2023": ("Amazon Linux", "2023", "al2023-ami-2023"),
    "jammy": ("Ubuntu", "22.04", "ubuntu/images/hvm-ssd/ubuntu-jammy"),
    "noble": ("Ubuntu", "24.04", "ubuntu/images/hvm-ssd-gp3/ubuntu-noble"),
    "bookworm": ("Debian GNU/Linux", "12", "debian-12"),
    "rhel9": ("Red Hat Enterprise Linux", "9.6", "RHEL-9.6"),
    "sles15": ("SLES", "15.6", "suse-sles-15-sp6"),
    "windows2022": ("Microsoft Windows Server 2022 Datacenter", "10.0.20348", "Windows_Server-2022-English-Full"),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of the demo fleet."""

    name: str
    platform: str
    zone: str  # "" for one outside EC2
    env: str
    cluster: str
    service: str
    team: str
    instance_type: str = "t3.small"
    age_days: int = 30
    is_stopped: bool = False
    has_profile: bool = True
    account_id: str = ACCOUNT_ID
    region: str = REGION
    own_id: str = ""  # instead of the one that follows from the name
    asg: str = ""  # the Auto Scaling group that it is a member of, by the tag that EC2 gives it

    @property
    def instance_id(self) -> str:
        digits = hashlib.sha256(f"{self.account_id}/{self.region}/{self.name}".encode()).hexdigest()[:17]
        return self.own_id or f"{'i' if self.zone else 'mi'}-{digits}"

    @property
    def key(self) -> NodeKey:
        return self.account_id, self.region, self.instance_id

    @property
    def tags(self) -> dict[str, str]:
        return {
            "Name": self.name,
            "env": self.env,
            "cluster": self.cluster,
            "service": self.service,
            "team": self.team,
        } | ({"aws:autoscaling:groupName": self.asg} if self.asg else {})


# Two of them could be replaced instead of patched.
_GROUP = "pay-api-prod"
MACHINES = (
    Machine("pay-api-eu1a-01", "al2023", "a", "prod", "pay-api", "payments", "payments", "c6i.large", 41, asg=_GROUP),
    Machine("pay-api-eu1b-02", "al2023", "b", "prod", "pay-api", "payments", "payments", "c6i.large", 41, asg=_GROUP),
    Machine("pay-worker-eu1a-01", "noble", "a", "prod", "pay-worker", "payments", "payments", "c6i.large", 23),
    Machine("web-checkout-eu1a-07", "jammy", "a", "prod", "web-checkout", "checkout", "storefront", "t3.medium", 12),
    Machine("web-checkout-eu1b-08", "jammy", "b", "prod", "web-checkout", "checkout", "storefront", "t3.medium", 12),
    Machine("pg-ledger-eu1a-1", "bookworm", "a", "prod", "pg-ledger", "ledger", "data", "r6i.large", 88),
    Machine("pg-ledger-eu1b-2", "bookworm", "b", "prod", "pg-ledger", "ledger", "data", "r6i.large", 88),
    Machine("pg-ledger-eu1c-3", "rhel9", "c", "prod", "pg-ledger", "ledger", "data", "r6i.large", 60),
    Machine("web-checkout-stg-01", "noble", "a", "staging", "web-checkout-stg", "checkout", "storefront", age_days=9),
    Machine("pay-api-dev-01", "al2023", "c", "dev", "pay-api-dev", "payments", "payments", "t3.micro", 4),
    Machine("pg-report-eu1a-1", "bookworm", "a", "staging", "pg-report", "reporting", "data", is_stopped=True),
    Machine("kafka-events-eu1c-3", "rhel9", "c", "prod", "kafka-events", "events", "platform", has_profile=False),
    Machine("lagos-pos-gw-011", "bookworm", "", "prod", "lagos-pos", "point-of-sale", "retail", age_days=200),
    Machine("lagos-pos-gw-012", "jammy", "", "prod", "lagos-pos", "point-of-sale", "retail", age_days=200),
)  # fmt: skip

# The same account in another region.
_MACHINES_US = (
    Machine("pay-api-ue1a-01", "al2023", "a", "prod", "pay-api", "payments", "payments", "c6i.large", 19),
    Machine("edge-cache-ue1b-01", "noble", "b", "prod", "edge-cache", "edge", "platform", "t3.medium", 52),
    Machine("sap-erp-ue1a-01", "sles15", "a", "prod", "sap-erp", "erp", "finance", "r6i.large", 77),
    Machine("win-reports-ue1b-01", "windows2022", "b", "prod", "win-reports", "reporting", "finance", "m6i.large", 64),
)  # fmt: skip
# A hybrid node's id is given out by each account and region on its own, so that one id may stand for two machines.
# That never happens to most people; here it does, for whoever takes the id alone for a name to trip over it at once.
SHARED_ID = MACHINES[-1].instance_id
_MACHINES_STAGING = (
    Machine("pay-api-stg-01", "al2023", "a", "staging", "pay-api-stg", "payments", "payments", "t3.medium", 6),
    Machine("pg-ledger-stg-1", "bookworm", "b", "staging", "pg-ledger-stg", "ledger", "data", age_days=33),
    Machine("lab-pos-gw-01", "bookworm", "", "staging", "lab-pos", "point-of-sale", "qa", "", 75, own_id=SHARED_ID),
)  # fmt: skip

# A security group that opens SSH to the world, and who has it.
SSH_GROUP = "legacy-ssh"
SSH_MACHINES = {"web-checkout-eu1a-07", "kafka-events-eu1c-3"}


@dataclass(frozen=True, slots=True)
class DemoAccount:
    """One account of the demo: who may assume its role, and the machines in its regions."""

    account_id: str
    name: str
    external_id: str  # that its role's trust policy asks for; "" for one that asks for none
    machines: tuple[Machine, ...]

    @property
    def regions(self) -> list[str]:
        return list(dict.fromkeys(machine.region for machine in self.machines))

    @property
    def role_arn(self) -> str:
        return f"arn:aws:iam::{self.account_id}:role/{PRODUCT_ROLE}"


ACCOUNTS = (
    DemoAccount(
        ACCOUNT_ID,
        "northwind-prod",
        "",
        MACHINES + tuple(replace(machine, region="us-east-1") for machine in _MACHINES_US),
    ),
    DemoAccount(
        _STAGING,
        "northwind-staging",
        "northwind-fleetops-7d41",
        tuple(replace(machine, account_id=_STAGING) for machine in _MACHINES_STAGING),
    ),
)
ALL_MACHINES = tuple(machine for account in ACCOUNTS for machine in account.machines)

_AGENTS = {"bookworm": "3.3.1957.0"}  # one is old on purpose
_AGENT = "3.3.2299.0"
FLAKY = "web-checkout-eu1b-08"  # its first patch of each month fails once


# Demo nodes that simulate Windows: the product that patches of the system are for, and the applications on all of them.
_WINDOWS = {"windows2022": "WindowsServer2022"}
_WINDOWS_APPLICATIONS = {"Microsoft SQL Server 2019": "15.0.4430.1", "MicrosoftDefenderAntivirus": "4.18.26070.5"}


def platform_type_of(machine: Machine) -> str:
    return "Windows" if machine.platform in _WINDOWS else "Linux"


def platform_of(machine: Machine) -> tuple[str, str]:
    """PlatformName and PlatformVersion, as the agent reports them."""
    name, version, _ = _PLATFORMS[machine.platform]
    return name, version


def agent_version_of(machine: Machine) -> str:
    return _AGENTS.get(machine.platform, _AGENT)


def packages_of(machine: Machine, now: datetime) -> dict[str, str]:
    """What a machine's node starts out with: as old as its last patching, some weeks ago."""
    if machine.platform in _WINDOWS:
        found = windows.installed(_WINDOWS[machine.platform], machine.name, now) | _WINDOWS_APPLICATIONS
        return found | {"Amazon SSM Agent": agent_version_of(machine)}
    found = catalogue.installed(catalogue.PLATFORMS[machine.platform], machine.name, now)
    return found | {"amazon-ssm-agent": agent_version_of(machine)}


def _trust(principal: dict[str, str], actions: list[str], external_id: str = "") -> str:
    statement: dict[str, Any] = {"Effect": "Allow", "Principal": principal, "Action": actions}
    if external_id:
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": external_id}}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _product_policy() -> str:
    """What FleetOps does under its role: SSM, the instances and their roles, and where its records go."""
    services = ("ssm", "ec2", "iam", "sts", "logs", "kms", "s3", "cloudtrail", "securityhub", "sns", "sqs", "events")
    actions = [f"{name}:*" for name in (*services, "cloudwatch", "tag", "resource-groups")]
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]})


def _user_policy(role_arn: str) -> str:
    actions = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
    return json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": role_arn}]}
    )


class Seeder:
    """Makes the demo accounts by calls to moto, each done once however often the seeder runs.

    What a home was given stays as its users left it: an instance is made once, and not again when it is gone. A home
    from before a machine was added to the demo gains it at its next start.
    """

    def __init__(self, moto: MotoClient, home: Path, now: datetime) -> None:
        self._moto = moto
        self._home = home
        self._now = now
        self._key = key(home / "keys", "seed.key")

    async def seed(self) -> list[dict[str, Any]]:
        """Make what is not there yet; the accounts' part of the hand-over."""
        return [await self._seed_account(account) for account in ACCOUNTS]

    async def _seed_account(self, account: DemoAccount) -> dict[str, Any]:
        # The first account's file has the name that it had when it was the only one.
        path = self._home / ("account.json" if account is ACCOUNTS[0] else f"account-{account.account_id}.json")
        told: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        missing = [machine for machine in account.machines if machine.instance_id not in told.get("instance_ids", ())]
        if told and not missing and "lists_bucket" in told:
            return told
        logger.info("a demo account is being made account=%s machines=%s", account.account_id, len(missing))
        is_new = not told
        if is_new:
            await self._identities(account)
            told = {
                "account_id": account.account_id,
                "name": account.name,
                "regions": [],
                "role_arn": account.role_arn,
                "external_id": account.external_id,
                "product_credentials": await self._access_key(account, "fleetops"),
                "try_credentials": {"user": "admin", **await self._access_key(account, "admin")},
                "instance_ids": [],
            }
        for region in account.regions:
            await self._instances(account, region, [machine for machine in missing if machine.region == region])
        if is_new and account is ACCOUNTS[0]:
            told["ssh_group"] = await self._ssh_group((account.account_id, REGION))
        told["lists_bucket"] = await self._bucket(account)
        told |= {"regions": account.regions, "instance_ids": [machine.instance_id for machine in account.machines]}
        write_private(path, json.dumps(told, indent=1).encode())
        return told

    async def _identities(self, account: DemoAccount) -> None:
        async def iam(operation: str, **form: str) -> None:
            await self._iam(account, operation, **form)

        for user in ("admin", "fleetops"):
            await iam("CreateUser", UserName=user)
        await iam("AttachUserPolicy", UserName="admin", PolicyArn=_ADMIN_POLICY)
        await iam(
            "PutUserPolicy",
            UserName="fleetops",
            PolicyName="assume-control-plane",
            PolicyDocument=_user_policy(account.role_arn),
        )
        trust = _trust(
            {"AWS": f"arn:aws:iam::{account.account_id}:user/fleetops"},
            ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"],
            account.external_id,
        )
        await iam("CreateRole", RoleName=PRODUCT_ROLE, AssumeRolePolicyDocument=trust, MaxSessionDuration="43200")
        await iam("PutRolePolicy", RoleName=PRODUCT_ROLE, PolicyName="control-plane", PolicyDocument=_product_policy())
        for role, service in ((NODE_ROLE, "ec2.amazonaws.com"), (HYBRID_ROLE, "ssm.amazonaws.com")):
            await iam(
                "CreateRole", RoleName=role, AssumeRolePolicyDocument=_trust({"Service": service}, ["sts:AssumeRole"])
            )
            await iam("AttachRolePolicy", RoleName=role, PolicyArn=_CORE_POLICY)
        await iam("CreateInstanceProfile", InstanceProfileName=NODE_ROLE)
        await iam("AddRoleToInstanceProfile", InstanceProfileName=NODE_ROLE, RoleName=NODE_ROLE)

    async def _bucket(self, account: DemoAccount) -> str:
        """Make the bucket for lists of patches, which nodes of the demo read: see patching/lists.py."""
        name, region = f"fleetops-patch-lists-{account.account_id}", account.regions[0]
        wanted = "" if region == "us-east-1" else f"<LocationConstraint>{region}</LocationConstraint>"
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        body = f'<CreateBucketConfiguration xmlns="{space}">{wanted}</CreateBucketConfiguration>' if wanted else ""
        request_id = "seed-" + hashlib.sha256(f"bucket {name}".encode()).hexdigest()[:32]
        call = {
            "request_id": request_id,
            "now": self._now.timestamp(),
            "seed": hmac.digest(self._key, request_id.encode(), "sha256").hex(),
            "account": account.account_id,
            "service": "s3",
            "region": region,
            "access_key": "AKIASEED",
            "method": "PUT",
            "path": f"/{name}",
            "query": "",
            "headers": [("host", "127.0.0.1")],
            "protocol": "rest-xml",
            "operation": "CreateBucket",
            "changes": True,
        }
        header, content = await self._moto.ask({"ask": "call", "call": call}, body.encode())
        if header["status"] >= 400:
            raise RuntimeError(f"the demo account cannot be made: CreateBucket: {content.decode()}")
        statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{name}/*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        for role in (NODE_ROLE, HYBRID_ROLE):  # a node reads a list as itself, or not at all
            await self._iam(account, "PutRolePolicy", RoleName=role, PolicyName="patch-lists", PolicyDocument=policy)
        return name

    async def _access_key(self, account: DemoAccount, user: str) -> dict[str, str]:
        body = await self._iam(account, "CreateAccessKey", UserName=user)
        return {"access_key_id": _first("AccessKeyId", body), "secret_access_key": _first("SecretAccessKey", body)}

    async def _instances(self, account: DemoAccount, region: str, machines: Sequence[Machine]) -> None:
        machines = [machine for machine in machines if machine.zone]
        if not machines:
            return
        place = (account.account_id, region)
        images = json.loads(Path(__file__).with_name("amis.json").read_text())
        subnets = await self._subnets(place)
        stopped = []
        for machine in machines:
            image = next(item for item in images if item["name"].startswith(_PLATFORMS[machine.platform][2]))
            form = {
                "ImageId": image["ami_id"],
                "InstanceType": machine.instance_type,
                "MinCount": "1",
                "MaxCount": "1",
                "SubnetId": subnets[f"{region}{machine.zone}"],
                "MetadataOptions.HttpTokens": "required",
                "TagSpecification.1.ResourceType": "instance",
            }
            for number, (name, value) in enumerate(machine.tags.items(), 1):
                form[f"TagSpecification.1.Tag.{number}.Key"] = name
                form[f"TagSpecification.1.Tag.{number}.Value"] = value
            if machine.has_profile:
                form["IamInstanceProfile.Name"] = NODE_ROLE
            launched = self._now - timedelta(days=machine.age_days, minutes=7 * len(machine.name))
            await self._call(place, "ec2", "RunInstances", form, now=launched, instance_ids=[machine.instance_id])
            if machine.is_stopped:
                stopped.append(machine.instance_id)
        for instance_id in stopped:
            await self._call(place, "ec2", "StopInstances", {"InstanceId.1": instance_id})

    async def _ssh_group(self, place: Place) -> str:
        """A group from before Session Manager, open to the world, on two machines; its id."""
        ec2 = functools.partial(self._call, place, "ec2")
        default = await ec2("DescribeSecurityGroups", {"Filter.1.Name": "group-name", "Filter.1.Value.1": "default"})
        form = {"GroupName": SSH_GROUP, "GroupDescription": "SSH for everybody, from before Session Manager"}
        made = _first("groupId", await ec2("CreateSecurityGroup", form | {"VpcId": _first("vpcId", default)}))
        rule = {"IpProtocol": "tcp", "FromPort": "22", "ToPort": "22"}
        world = {"IpRanges.1.CidrIp": "0.0.0.0/0", "IpRanges.1.Description": "office, later everybody"}
        permission = {f"IpPermissions.1.{name}": value for name, value in (rule | world).items()}
        tags = {"TagSpecification.1.ResourceType": "security-group-rule", "TagSpecification.1.Tag.1.Key": "ticket"}
        tags |= {"TagSpecification.1.Tag.1.Value": "NET-118"}
        await ec2("AuthorizeSecurityGroupIngress", {"GroupId": made} | permission | tags)
        for machine in MACHINES:
            if machine.name in SSH_MACHINES:
                groups = {"GroupId.1": _first("groupId", default), "GroupId.2": made}
                await ec2("ModifyInstanceAttribute", {"InstanceId": machine.instance_id} | groups)
        return made

    async def _subnets(self, place: Place) -> dict[str, str]:
        body = await self._call(place, "ec2", "DescribeSubnets", {})
        found = {}
        for item in body.split("<item>")[1:]:
            if "<subnetId>" in item and "<availabilityZone>" in item:
                found[_first("availabilityZone", item)] = _first("subnetId", item)
        return found

    async def _iam(self, account: DemoAccount, operation: str, **form: str) -> str:
        return await self._call((account.account_id, "us-east-1"), "iam", operation, form)

    async def _call(
        self,
        place: Place,
        service: str,
        operation: str,
        form: dict[str, str],
        *,
        now: datetime | None = None,
        instance_ids: list[str] | None = None,
    ) -> str:
        account_id, region = place
        version, protocol = {"iam": ("2010-05-08", "query"), "ec2": ("2016-11-15", "ec2")}[service]
        body = urlencode({"Action": operation, "Version": version, **form}).encode()
        # The first place's ids are as they were when there was no other, and moto knows the answers to its calls.
        is_first = account_id == ACCOUNT_ID and (service == "iam" or region == REGION)
        named = body if is_first else f"{account_id}/{region}/".encode() + body
        request_id = "seed-" + hashlib.sha256(named).hexdigest()[:32]
        call = {
            "request_id": request_id,
            "now": (now or self._now).timestamp(),
            "seed": hmac.digest(self._key, request_id.encode(), "sha256").hex(),
            "account": account_id,
            "service": service,
            "region": region,
            "access_key": "AKIASEED",
            "method": "POST",
            "path": "/",
            "query": "",
            "headers": [("host", "127.0.0.1"), ("content-type", "application/x-www-form-urlencoded; charset=utf-8")],
            "protocol": protocol,
            "operation": operation,
            "changes": not operation.startswith("Describe"),
            "instance_ids": instance_ids or [],
        }
        header, content = await self._moto.ask({"ask": "call", "call": call}, body)
        text = content.decode()
        if header["status"] >= 400:
            raise RuntimeError(f"the demo account cannot be made: {operation}: {text}")
        return text


def _first(name: str, xml: str) -> str:
    match = re.search(f"<{name}>([^<]+)</{name}>", xml)
    if match is None:
        raise RuntimeError(f"the demo account cannot be made: no {name} in the answer")
    return match[1]
