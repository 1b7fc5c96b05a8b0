"""The demo account: a small, believable fleet, and the identities that use it.

Every call has a fixed request id, so a seed that was killed half way goes on where it was: moto's child answers what is
in its journal already, and does the rest.
"""

import hashlib
import hmac
import json
import logging
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fleetops.endpoint.keys import key, write_private
from fleetops.endpoint.moto_client import MotoClient

logger = logging.getLogger(__name__)

ACCOUNT_ID = "111122223333"
ACCOUNT_NAME = "northwind-prod"
REGION = "eu-west-1"
PRODUCT_ROLE = "FleetOpsControlPlane"
NODE_ROLE = "ssm-core"
HYBRID_ROLE = "ssm-hybrid"
_CORE_POLICY = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
_ADMIN_POLICY = "arn:aws:iam::aws:policy/AdministratorAccess"

_PLATFORMS = {  # platform: (PlatformName and PlatformVersion as the agent reports them, image)
    "al2023": ("Amazon Linux", "2023", "al2023-ami-2023"),
    "jammy": ("Ubuntu", "22.04", "ubuntu/images/hvm-ssd/ubuntu-jammy"),
    "noble": ("Ubuntu", "24.04", "ubuntu/images/hvm-ssd-gp3/ubuntu-noble"),
    "bookworm": ("Debian GNU/Linux", "12", "debian-12"),
    "rhel9": ("Red Hat Enterprise Linux", "9.6", "RHEL-9.6"),
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
    extra_tags: dict[str, str] = field(default_factory=dict)

    @property
    def instance_id(self) -> str:
        digits = hashlib.sha256(f"{ACCOUNT_ID}/{REGION}/{self.name}".encode()).hexdigest()[:17]
        return f"{'i' if self.zone else 'mi'}-{digits}"

    @property
    def tags(self) -> dict[str, str]:
        return {
            "Name": self.name,
            "env": self.env,
            "cluster": self.cluster,
            "service": self.service,
            "team": self.team,
            **self.extra_tags,
        }


MACHINES = (
    Machine("pay-api-eu1a-01", "al2023", "a", "prod", "pay-api", "payments", "payments", "c6i.large", 41),
    Machine("pay-api-eu1b-02", "al2023", "b", "prod", "pay-api", "payments", "payments", "c6i.large", 41),
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

# What each platform's demo node starts out with; some of it old on purpose.
_PACKAGES = {
    "al2023": {
        "openssl": "3.2.2-1.amzn2023.0.2",
        "kernel": "6.1.148-173.267.amzn2023",
        "amazon-ssm-agent": "3.3.2299.0",
    },
    "jammy": {
        "openssl": "3.0.2-0ubuntu1.18",
        "linux-image-generic": "5.15.0.151.151",
        "amazon-ssm-agent": "3.3.2299.0",
    },
    "noble": {"openssl": "3.0.13-0ubuntu3.5", "linux-image-generic": "6.8.0-79.79", "amazon-ssm-agent": "3.3.2299.0"},
    "bookworm": {"openssl": "3.0.16-1~deb12u1", "linux-image-amd64": "6.1.140-1", "amazon-ssm-agent": "3.3.1957.0"},
    "rhel9": {"openssl": "1:3.2.2-6.el9_5", "kernel": "5.14.0-570.12.1.el9_6", "amazon-ssm-agent": "3.3.2299.0"},
}


def platform_of(machine: Machine) -> tuple[str, str]:
    """PlatformName and PlatformVersion, as the agent reports them."""
    name, version, _ = _PLATFORMS[machine.platform]
    return name, version


def packages_of(machine: Machine) -> dict[str, str]:
    return dict(_PACKAGES[machine.platform])


def _trust(principal: dict[str, str], actions: list[str]) -> str:
    statement = {"Effect": "Allow", "Principal": principal, "Action": actions}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _product_policy() -> str:
    """What FleetOps does under its role: SSM, the instances and their roles, and where its records go."""
    services = ("ssm", "ec2", "iam", "sts", "logs", "kms", "s3", "cloudtrail", "securityhub", "sns", "sqs", "events")
    actions = [f"{name}:*" for name in services] + ["tag:*", "resource-groups:*"]
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]})


def _user_policy() -> str:
    role = f"arn:aws:iam::{ACCOUNT_ID}:role/{PRODUCT_ROLE}"
    actions = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
    return json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": role}]}
    )


class Seeder:
    """Makes the demo account by calls to moto, each done once however often the seeder runs."""

    def __init__(self, moto: MotoClient, home: Path, now: datetime) -> None:
        self._moto = moto
        self._home = home
        self._now = now
        self._key = key(home / "keys", "seed.key")

    async def seed(self) -> dict[str, Any]:
        """Make what is not there yet; the account's part of the hand-over."""
        path = self._home / "account.json"
        if path.exists():
            return json.loads(path.read_text())
        logger.info("the demo account is being made account=%s", ACCOUNT_ID)
        await self._identities()
        product = await self._access_key("fleetops")
        admin = await self._access_key("admin")
        await self._instances()
        account = {
            "account_id": ACCOUNT_ID,
            "name": ACCOUNT_NAME,
            "regions": [REGION],
            "role_arn": f"arn:aws:iam::{ACCOUNT_ID}:role/{PRODUCT_ROLE}",
            "external_id": "",
            "product_credentials": product,
            "try_credentials": {"user": "admin", **admin},
            "instance_ids": [machine.instance_id for machine in MACHINES],
        }
        write_private(path, json.dumps(account, indent=1).encode())
        return account

    async def _identities(self) -> None:
        for user in ("admin", "fleetops"):
            await self._iam("CreateUser", UserName=user)
        await self._iam("AttachUserPolicy", UserName="admin", PolicyArn=_ADMIN_POLICY)
        await self._iam(
            "PutUserPolicy", UserName="fleetops", PolicyName="assume-control-plane", PolicyDocument=_user_policy()
        )
        trust = _trust(
            {"AWS": f"arn:aws:iam::{ACCOUNT_ID}:user/fleetops"},
            ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"],
        )
        await self._iam("CreateRole", RoleName=PRODUCT_ROLE, AssumeRolePolicyDocument=trust, MaxSessionDuration="43200")
        await self._iam(
            "PutRolePolicy", RoleName=PRODUCT_ROLE, PolicyName="control-plane", PolicyDocument=_product_policy()
        )
        for role, service in ((NODE_ROLE, "ec2.amazonaws.com"), (HYBRID_ROLE, "ssm.amazonaws.com")):
            await self._iam(
                "CreateRole", RoleName=role, AssumeRolePolicyDocument=_trust({"Service": service}, ["sts:AssumeRole"])
            )
            await self._iam("AttachRolePolicy", RoleName=role, PolicyArn=_CORE_POLICY)
        await self._iam("CreateInstanceProfile", InstanceProfileName=NODE_ROLE)
        await self._iam("AddRoleToInstanceProfile", InstanceProfileName=NODE_ROLE, RoleName=NODE_ROLE)

    async def _access_key(self, user: str) -> dict[str, str]:
        body = await self._iam("CreateAccessKey", UserName=user)
        return {"access_key_id": _first("AccessKeyId", body), "secret_access_key": _first("SecretAccessKey", body)}

    async def _instances(self) -> None:
        images = json.loads(Path(__file__).with_name("amis.json").read_text())
        subnets = await self._subnets()
        stopped = []
        for machine in MACHINES:
            if not machine.zone:
                continue
            image = next(item for item in images if item["name"].startswith(_PLATFORMS[machine.platform][2]))
            form = {
                "ImageId": image["ami_id"],
                "InstanceType": machine.instance_type,
                "MinCount": "1",
                "MaxCount": "1",
                "SubnetId": subnets[f"{REGION}{machine.zone}"],
                "MetadataOptions.HttpTokens": "required",
                "TagSpecification.1.ResourceType": "instance",
            }
            for number, (name, value) in enumerate(machine.tags.items(), 1):
                form[f"TagSpecification.1.Tag.{number}.Key"] = name
                form[f"TagSpecification.1.Tag.{number}.Value"] = value
            if machine.has_profile:
                form["IamInstanceProfile.Name"] = NODE_ROLE
            launched = self._now - timedelta(days=machine.age_days, minutes=7 * len(machine.name))
            await self._call("ec2", "ec2", "RunInstances", form, now=launched, instance_ids=[machine.instance_id])
            if machine.is_stopped:
                stopped.append(machine.instance_id)
        for instance_id in stopped:
            await self._call("ec2", "ec2", "StopInstances", {"InstanceId.1": instance_id})

    async def _subnets(self) -> dict[str, str]:
        body = await self._call("ec2", "ec2", "DescribeSubnets", {})
        found = {}
        for item in body.split("<item>")[1:]:
            if "<subnetId>" in item and "<availabilityZone>" in item:
                found[_first("availabilityZone", item)] = _first("subnetId", item)
        return found

    async def _iam(self, operation: str, **form: str) -> str:
        return await self._call("iam", "query", operation, form)

    async def _call(
        self,
        service: str,
        protocol: str,
        operation: str,
        form: dict[str, str],
        *,
        now: datetime | None = None,
        instance_ids: list[str] | None = None,
    ) -> str:
        version = {"iam": "2010-05-08", "ec2": "2016-11-15"}[service]
        body = urlencode({"Action": operation, "Version": version, **form}).encode()
        request_id = "seed-" + hashlib.sha256(body).hexdigest()[:32]
        call = {
            "request_id": request_id,
            "now": (now or self._now).timestamp(),
            "seed": hmac.digest(self._key, request_id.encode(), "sha256").hex(),
            "account": ACCOUNT_ID,
            "service": service,
            "region": REGION if service == "ec2" else "us-east-1",
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
