"""Systems Manager: managed instances, and the sessions opened on them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from .clients import AccountAccess, Tags, client
from .errors import AwsError, aws_call
from .records import ManagedInstance, Page, SessionRecord, managed_instance, session_record

PAGE: Final = 50  # the most that DescribeInstanceInformation gives at once [botocore's model of ssm]
SESSION_PAGE: Final = 200  # DescribeSessions, likewise
MOST_REASON: Final = 256  # characters of StartSession's Reason, likewise
# The session tag under which CloudTrail and policies (aws:PrincipalTag/FleetOpsUser) find the person.
USER_TAG: Final = "FleetOpsUser"
# AWS takes the OS user of a session from this tag of who starts it, where run-as is on
# [Systems Manager user guide, "Turn on Run As support for Linux and macOS managed nodes"].
RUN_AS_TAG: Final = "SSMSessionRunAs"

# ssmmessages.<region>.<suffix>, with FIPS; the suffixes of all partitions [botocore 1.44, endpoints.json].
_AWS_STREAM_HOST: Final = re.compile(
    r"ssmmessages(?:-fips)?\.(?P<region>[a-z0-9-]+)\."
    r"(?:amazonaws\.com|amazonaws\.com\.cn|amazonaws\.eu|c2s\.ic\.gov|sc2s\.sgov\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
)


@dataclass(frozen=True, slots=True)
class StartedSession:
    """What StartSession and ResumeSession answer. The token opens the session: it stays in memory, and out of sight."""

    session_id: str
    stream_url: str = field(repr=False)
    token: str = field(repr=False)


def start_session(
    access: AccountAccess,
    region: str,
    *,
    target: str,
    reason: str,
    session_name: str,
    source_identity: str,
    document_name: str = "",
    parameters: Mapping[str, Sequence[str]] | None = None,
    run_as: str = "",
) -> StartedSession:
    """Call StartSession on `target`, once: a repeat would open a second session. `parameters` are the document's.

    `run_as`: the OS user, told in a session tag of the role, as AWS reads it where the document or the account's
    preferences have run-as on. Without a role there is nobody to tag.
    `reason` is cut to 256 characters. Raises TargetNotConnected, AccessDenied, Unavailable (whose is_outcome_unknown
    says that a session may be open all the same: look for the reason in describe_sessions) or AwsError, also where the
    StreamUrl is neither AWS's nor one of the account's.
    """
    ssm = _as_person(access, region, session_name, source_identity, run_as=run_as, attempts=1)
    request: dict[str, Any] = {"Target": target}
    if reason:
        request["Reason"] = reason[:MOST_REASON]
    if document_name:
        request["DocumentName"] = document_name
    if parameters:
        request["Parameters"] = {name: list(values) for name, values in parameters.items()}
    with aws_call("ssm:StartSession", where=f"{access.account_id} {region}"):
        answer = ssm.start_session(**request)
    return _started(answer, access, region, "ssm:StartSession")


def resume_session(
    access: AccountAccess, region: str, *, session_id: str, session_name: str, source_identity: str, run_as: str = ""
) -> StartedSession:
    """Call ResumeSession: a new token for an open session; the one before is worth nothing from then on.

    Raises as start_session does; AwsError with code DoesNotExistException if the session has ended.
    """
    ssm = _as_person(access, region, session_name, source_identity, run_as=run_as)
    with aws_call("ssm:ResumeSession", where=f"{access.account_id} {region}"):
        answer = ssm.resume_session(SessionId=session_id)
    return _started(answer, access, region, "ssm:ResumeSession")


def terminate_session(
    access: AccountAccess, region: str, *, session_id: str, session_name: str, source_identity: str
) -> None:
    """Call TerminateSession; a session that AWS knows no more has been terminated."""
    ssm = _as_person(access, region, session_name, source_identity)
    try:
        with aws_call("ssm:TerminateSession", where=f"{access.account_id} {region}"):
            ssm.terminate_session(SessionId=session_id)
    except AwsError as error:
        if error.code != "DoesNotExistException":
            raise


def describe_sessions(
    access: AccountAccess,
    region: str,
    *,
    session_name: str,
    source_identity: str = "",
    state: str = "Active",
    target: str = "",
    session_id: str = "",
) -> Iterator[SessionRecord]:
    """Sessions of `state` ("Active" or "History", 30 days of it), page by page of at most 200."""
    ssm = _as_person(access, region, session_name, source_identity)
    filters = [{"key": key, "value": value} for key, value in (("Target", target), ("SessionId", session_id)) if value]
    request: dict[str, Any] = {"State": state, "MaxResults": SESSION_PAGE}
    if filters:
        request["Filters"] = filters
    while True:
        with aws_call("ssm:DescribeSessions", where=f"{access.account_id} {region}"):
            page = ssm.describe_sessions(**request)
        yield from map(session_record, page.get("Sessions", []))
        if not page.get("NextToken"):
            return
        request["NextToken"] = page["NextToken"]


def instance_pages(
    access: AccountAccess, region: str, *, session_name: str, token: str = ""
) -> Iterator[Page[ManagedInstance]]:
    """All managed instances of a region, page by page of at most 50. Stopped and terminated ones are not in it.

    With `token`, which a page has told, from the one after it.
    """
    ssm = client("ssm", access, region, session_name=session_name)
    request: dict[str, Any] = {"MaxResults": PAGE} | ({"NextToken": token} if token else {})
    while True:
        with aws_call("ssm:DescribeInstanceInformation", where=f"{access.account_id} {region}"):
            answer = ssm.describe_instance_information(**request)
        page = Page(map(managed_instance, answer.get("InstanceInformationList", [])), answer.get("NextToken", ""))
        yield page
        if not page.token:
            return
        request["NextToken"] = page.token


def instances(
    access: AccountAccess, region: str, instance_ids: Sequence[str], *, session_name: str
) -> list[ManagedInstance]:
    """Those of at most 50 instances that SSM manages."""
    ssm = client("ssm", access, region, session_name=session_name)
    named = [{"Key": "InstanceIds", "Values": list(instance_ids)}]
    try:
        with aws_call("ssm:DescribeInstanceInformation", where=f"{access.account_id} {region}"):
            answer = ssm.describe_instance_information(Filters=named, MaxResults=PAGE)
    except AwsError as error:
        if error.code != "InvalidInstanceId":
            raise
        # One that SSM does not know fails them all: the others are asked for alone.
        if len(instance_ids) == 1:
            return []
        alone = (instances(access, region, [each], session_name=session_name) for each in instance_ids)
        return [node for found in alone for node in found]
    return [managed_instance(each) for each in answer.get("InstanceInformationList", [])]


def managed_instance_tags(access: AccountAccess, region: str, *, instance_id: str, session_name: str) -> dict[str, str]:
    """Tags of one hybrid node: EC2 does not know it, and DescribeInstanceInformation does not tell them."""
    ssm = client("ssm", access, region, session_name=session_name)
    with aws_call("ssm:ListTagsForResource", where=f"{access.account_id} {region}"):
        answer = ssm.list_tags_for_resource(ResourceType="ManagedInstance", ResourceId=instance_id)
    return {tag["Key"]: tag["Value"] for tag in answer.get("TagList", [])}


def check_stream_url(url: str, access: AccountAccess, region: str) -> None:
    """Raise AwsError unless `url` is wss, and its host AWS's own for the region or one of the account's stream_hosts.

    Whoever answers StartSession would else choose where our terminal process connects to, inside our network too.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError:
        parts, port = urlsplit(""), 0
    host = (parts.hostname or "").lower()
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    has_user = parts.username is not None or parts.password is not None
    if parts.scheme == "wss" and host and not has_user:
        allowed = {each.lower() for each in access.stream_hosts}
        if shown in allowed or (port == 443 and shown.removesuffix(":443") in allowed):
            return
        aws = _AWS_STREAM_HOST.fullmatch(host)
        if aws and aws["region"] == region and port == 443:
            return
    raise AwsError(
        "StreamUrlRefused",
        "",
        operation="ssm:StartSession",
        text=f"The session's stream leads to {parts.scheme or 'nothing'}://{shown}, which is neither AWS's own nor one "
        f"of the stream hosts of account {access.account_id}. Add it there if it is right.",
    )


def _as_person(
    access: AccountAccess, region: str, session_name: str, source_identity: str, *, run_as: str = "", **options: Any
) -> Any:
    tags = person_tags(access, session_name, source_identity, run_as)
    return client(
        "ssm", access, region, session_name=session_name, source_identity=source_identity, tags=tags, **options
    )


def person_tags(access: AccountAccess, session_name: str, source_identity: str, run_as: str = "") -> Tags:
    """The session tags of a role that is assumed for a person, and for work as the OS user `run_as`."""
    if not (source_identity and access.role_arn):
        return ()
    return ((USER_TAG, session_name[:256]), *(((RUN_AS_TAG, run_as),) if run_as else ()))


def _started(answer: dict[str, Any], access: AccountAccess, region: str, operation: str) -> StartedSession:
    started = StartedSession(answer.get("SessionId", ""), answer.get("StreamUrl", ""), answer.get("TokenValue", ""))
    if not (started.token and started.stream_url):
        # ResumeSession answers so for a session that has ended.
        raise AwsError("DoesNotExistException", "the answer bears no token", operation=operation)
    check_stream_url(started.stream_url, access, region)
    return started
