"""One request on its way through the endpoint, and who sent it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from fleetops.awsapi.models import Service
from fleetops.awsapi.sigv4 import Claim, Request
from fleetops.endpoint.bodies import Reader

NodeKey = tuple[str, str, str]  # (account id, region, instance id)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a request, as IAM names them."""

    kind: str  # "user", "role", "node" (a role's session made for one managed instance) or "federated"
    account_id: str
    arn: str  # as GetCallerIdentity gives it
    user_id: str
    name: str  # of the user or role
    access_key_id: str
    session_name: str = ""
    role_arn: str = ""
    source_identity: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    transitive_keys: tuple[str, ...] = ()  # of the tags that go along when the session assumes another role
    session_policies: tuple[str, ...] | None = None
    issued_at: datetime | None = None
    node: NodeKey | None = None  # the only one that it may speak for

    @property
    def username(self) -> str:
        """What CloudTrail shows as the user."""
        return self.session_name or self.name


@dataclass(frozen=True, slots=True)
class Behalf:
    """What a service of the endpoint's own calls for: a step of an automation."""

    service: str  # "ssm.amazonaws.com", as CloudTrail and the policies name it
    is_forwarded: bool  # as the one who started it, and not as a role that the service has assumed
    execution_id: UUID
    made_id: UUID  # the id of what the call makes, a command or an execution: it is found again after a kill


@dataclass(slots=True)
class Call:
    """One request, filled in step by step: read, authenticated, routed, answered."""

    request: Request
    request_id: str
    now: datetime
    source_address: str
    claim: Claim | None = None
    service: Service | None = None
    protocol: str = "json"
    operation: str = ""
    principal: Principal | None = None
    form: dict[str, str] = field(default_factory=dict)  # of the query and ec2 protocols
    resource_path: str = ""  # of the REST protocols, as sent; for S3 with the bucket that the host may name
    parameters: dict[str, Any] | None = None  # for the trail, as the caller gave them
    members: dict[str, Any] | None = None  # the parameters as the model names them, of a call that moto answers
    owner_id: str = ""  # the account whose resource the call is about, where it is not the caller's
    response_elements: dict[str, Any] | None = None  # for the trail
    resources: list[str] = field(default_factory=list)  # names and ARNs, for the trail
    read_only: bool = True
    is_dropped: bool = False  # faults.py: carried out, and nobody is told
    behalf: Behalf | None = None  # None: the caller itself sent it
    is_heartbeat: bool = False  # it changes something, and its event need not be written before the answer

    @property
    def account_id(self) -> str:
        return self.principal.account_id if self.principal is not None else ""

    @property
    def region(self) -> str:
        return self.claim.region if self.claim is not None else ""

    @property
    def user_agent(self) -> str:
        return self.request.header("user-agent") or ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back."""

    status: int
    body: bytes
    content_type: str = "application/x-amz-json-1.1"
    headers: tuple[tuple[str, str], ...] = ()
    error_code: str = ""
    error_message: str = ""
    reader: Reader | None = None  # the body, where it is read from files
    is_held: bool = False  # its result fitted the model before it was written
