"""What AWS tells of instances and sessions, as typed values: what is missing is empty, what is added is left out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

_Record = TypeVar("_Record")


class Page(list[_Record]):
    """Records of one answer; `token` asks for the next, and is empty in the last."""

    def __init__(self, records: Iterable[_Record], token: str = "") -> None:
        super().__init__(records)
        self.token = token


@dataclass(frozen=True, slots=True)
class Ec2Instance:
    """One instance of DescribeInstances."""

    instance_id: str
    state: str = ""  # pending, running, shutting-down, terminated, stopping, stopped
    instance_type: str = ""
    zone: str = ""
    image_id: str = ""
    private_ip: str = ""
    profile_arn: str = ""
    platform: str = ""  # PlatformDetails: "Linux/UNIX", "Windows"
    launched_at: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ManagedInstance:
    """One node of DescribeInstanceInformation. Values keep AWS's spelling."""

    instance_id: str
    resource_type: str = ""  # EC2Instance, ManagedInstance
    ping_status: str = ""  # Online, ConnectionLost, Inactive
    last_ping_at: datetime | None = None
    agent_version: str = ""
    platform_type: str = ""  # Linux, Windows, MacOS
    platform_name: str = ""
    platform_version: str = ""
    computer_name: str = ""
    ip_address: str = ""
    name: str = ""  # of a hybrid node, as its activation gave it


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One session of DescribeSessions."""

    session_id: str
    target: str
    status: str  # Connected, Connecting, Disconnected, Terminated, Terminating, Failed
    owner: str = ""
    reason: str = ""
    document_name: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class QueueMessage:
    """One message of an SQS queue."""

    receipt: str  # deletes it
    body: str


@dataclass(frozen=True, slots=True)
class CallerIdentity:
    """Who the credentials are."""

    account_id: str
    arn: str


def ec2_instance(answer: Mapping[str, Any]) -> Ec2Instance:
    return Ec2Instance(
        instance_id=answer["InstanceId"],
        state=answer.get("State", {}).get("Name", ""),
        instance_type=answer.get("InstanceType", ""),
        zone=answer.get("Placement", {}).get("AvailabilityZone", ""),
        image_id=answer.get("ImageId", ""),
        private_ip=answer.get("PrivateIpAddress", ""),
        profile_arn=(answer.get("IamInstanceProfile") or {}).get("Arn", ""),
        platform=answer.get("PlatformDetails", ""),
        launched_at=answer.get("LaunchTime"),
        tags={tag["Key"]: tag.get("Value", "") for tag in answer.get("Tags", [])},
    )


def managed_instance(answer: Mapping[str, Any]) -> ManagedInstance:
    return ManagedInstance(
        instance_id=answer["InstanceId"],
        resource_type=answer.get("ResourceType", ""),
        ping_status=answer.get("PingStatus", ""),
        last_ping_at=answer.get("LastPingDateTime"),
        agent_version=answer.get("AgentVersion", ""),
        platform_type=answer.get("PlatformType", ""),
        platform_name=answer.get("PlatformName", ""),
        platform_version=answer.get("PlatformVersion", ""),
        computer_name=answer.get("ComputerName", ""),
        ip_address=answer.get("IPAddress", ""),
        name=answer.get("Name", ""),
    )


def session_record(answer: Mapping[str, Any]) -> SessionRecord:
    return SessionRecord(
        session_id=answer["SessionId"],
        target=answer.get("Target", ""),
        status=answer.get("Status", ""),
        owner=answer.get("Owner", ""),
        reason=answer.get("Reason", ""),
        document_name=answer.get("DocumentName", ""),
        started_at=answer.get("StartDate"),
        ended_at=answer.get("EndDate"),
    )
