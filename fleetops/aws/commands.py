"""Run Command: send a document to instances, find what was sent, follow it on each instance, and cancel it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from .clients import AccountAccess, Tags, client
from .errors import AwsError, aws_call
from .records import Page
from .ssm import USER_TAG

MOST_TARGETS: Final = 50  # InstanceIds of one SendCommand [botocore's model of ssm]
PAGE: Final = 50  # ListCommands and ListCommandInvocations, likewise
MOST_COMMENT: Final = 100  # characters, likewise
SHORTEST_DELIVERY, LONGEST_DELIVERY = 30, 2_592_000  # seconds of TimeoutSeconds, likewise


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """One command of ListCommands."""

    command_id: str
    comment: str
    document_name: str
    status: str
    status_details: str
    requested_at: datetime | None
    target_count: int
    completed_count: int


@dataclass(frozen=True, slots=True)
class InvocationRecord:
    """One command on one instance, of ListCommandInvocations. Statuses keep AWS's spelling."""

    instance_id: str
    status: str  # Pending, InProgress, Delayed, Success, Cancelled, TimedOut, Failed, Cancelling
    status_details: str
    exit_code: int | None  # of the step that failed, else of the last that has ended
    output: str  # the first 2,500 characters of each step that told something
    started_at: datetime | None
    ended_at: datetime | None
    trace: str  # why AWS itself could not go on


@dataclass(frozen=True, slots=True)
class Output:
    """What GetCommandInvocation tells of one step: 24,000 characters of the one, 8,000 of the other."""

    status: str
    status_details: str
    exit_code: int | None
    stdout: str
    stderr: str
    stdout_url: str  # where the whole of it lies, if it was sent to a bucket
    stderr_url: str


def send_command(
    access: AccountAccess,
    region: str,
    *,
    document_name: str,
    document_version: str,
    parameters: Mapping[str, Sequence[str]],
    instance_ids: Sequence[str],
    comment: str,
    timeout_seconds: int,
    session_name: str,
    source_identity: str = "",
) -> str:
    """Call SendCommand on at most 50 instances, once, and return the CommandId: a repeat would run it twice.

    All of them at once, however many fail: what may go now has been decided before (decision 13). `timeout_seconds`
    until a command that no agent has taken is given up. Raises AccessDenied, Unavailable (whose is_outcome_unknown says
    that it may run all the same: look for the comment in `recent`) or AwsError.
    """
    ssm = _client(access, region, session_name, source_identity, attempts=1)
    with aws_call("ssm:SendCommand", where=f"{access.account_id} {region}"):
        answer = ssm.send_command(
            DocumentName=document_name,
            DocumentVersion=document_version,
            Parameters={name: list(texts) for name, texts in parameters.items()},
            InstanceIds=list(instance_ids),
            Comment=comment[:MOST_COMMENT],
            TimeoutSeconds=timeout_seconds,
            MaxConcurrency="100%",
            MaxErrors="100%",
        )
    command_id = str(answer.get("Command", {}).get("CommandId", ""))
    if not command_id:
        raise AwsError("NoCommandId", "the answer bears no CommandId", operation="ssm:SendCommand")
    return command_id


def recent(access: AccountAccess, region: str, *, since: datetime, session_name: str) -> Iterator[CommandRecord]:
    """The commands that were asked for after `since`, the newest first, page by page of at most 50."""
    ssm = _client(access, region, session_name)
    after = {"key": "InvokedAfter", "value": f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}
    request: dict[str, Any] = {"Filters": [after], "MaxResults": PAGE}
    while True:
        with aws_call("ssm:ListCommands", where=f"{access.account_id} {region}"):
            answer = ssm.list_commands(**request)
        yield from map(_command, answer.get("Commands", []))
        if not answer.get("NextToken"):
            return
        request["NextToken"] = answer["NextToken"]


def details_of(access: AccountAccess, region: str, *, command_id: str, session_name: str) -> str:
    """A command's StatusDetails, which say more of it than those of its invocations; empty if AWS does not know it."""
    ssm = _client(access, region, session_name)
    with aws_call("ssm:ListCommands", where=f"{access.account_id} {region}"):
        found = ssm.list_commands(CommandId=command_id).get("Commands", [])
    return _command(found[0]).status_details if found else ""


def invocations(
    access: AccountAccess, region: str, *, command_id: str, session_name: str
) -> Iterator[Page[InvocationRecord]]:
    """How a command fares on each instance, with its steps, page by page of at most 50.

    AWS may not know all of it yet, shortly after the command was sent.
    """
    ssm = _client(access, region, session_name)
    request: dict[str, Any] = {"CommandId": command_id, "Details": True, "MaxResults": PAGE}
    while True:
        with aws_call("ssm:ListCommandInvocations", where=f"{access.account_id} {region}"):
            answer = ssm.list_command_invocations(**request)
        page = Page(map(_invocation, answer.get("CommandInvocations", [])), answer.get("NextToken", ""))
        yield page
        if not page.token:
            return
        request["NextToken"] = page.token


def output_of(
    access: AccountAccess, region: str, *, command_id: str, instance_id: str, step: str, session_name: str
) -> Output | None:
    """What one step of a command has told on one instance; None if AWS does not know of it, or not yet.

    `step` is the plugin's name; it may be left out where the document has one step alone.
    """
    ssm = _client(access, region, session_name)
    request = {"CommandId": command_id, "InstanceId": instance_id} | ({"PluginName": step} if step else {})
    try:
        with aws_call("ssm:GetCommandInvocation", where=f"{access.account_id} {region}"):
            answer = ssm.get_command_invocation(**request)
    except AwsError as error:
        if error.code == "InvocationDoesNotExist":
            return None
        raise
    return Output(
        status=answer.get("Status", ""),
        status_details=answer.get("StatusDetails", ""),
        exit_code=_code(answer.get("ResponseCode")),
        stdout=answer.get("StandardOutputContent") or "",
        stderr=answer.get("StandardErrorContent") or "",
        stdout_url=answer.get("StandardOutputUrl") or "",
        stderr_url=answer.get("StandardErrorUrl") or "",
    )


def cancel_command(
    access: AccountAccess, region: str, *, command_id: str, session_name: str, source_identity: str = ""
) -> None:
    """Call CancelCommand; one that has ended stays as it is. What runs already may go on [SSM, CancelCommand]."""
    ssm = _client(access, region, session_name, source_identity)
    with aws_call("ssm:CancelCommand", where=f"{access.account_id} {region}"):
        ssm.cancel_command(CommandId=command_id)


def _client(access: AccountAccess, region: str, session_name: str, source_identity: str = "", **options: Any) -> Any:
    tags: Tags = ((USER_TAG, session_name[:256]),) if source_identity and access.role_arn else ()
    return client(
        "ssm", access, region, session_name=session_name, source_identity=source_identity, tags=tags, **options
    )


def _command(answer: Mapping[str, Any]) -> CommandRecord:
    return CommandRecord(
        command_id=answer["CommandId"],
        comment=answer.get("Comment", ""),
        document_name=answer.get("DocumentName", ""),
        status=answer.get("Status", ""),
        status_details=answer.get("StatusDetails", ""),
        requested_at=answer.get("RequestedDateTime"),
        target_count=answer.get("TargetCount", 0),
        completed_count=answer.get("CompletedCount", 0),
    )


def _invocation(answer: Mapping[str, Any]) -> InvocationRecord:
    steps = answer.get("CommandPlugins", [])
    ended = [step for step in steps if _code(step.get("ResponseCode")) is not None]
    telling = next((step for step in ended if step.get("Status") in {"Failed", "TimedOut"}), ended[-1] if ended else {})
    starts = [step["ResponseStartDateTime"] for step in steps if step.get("ResponseStartDateTime")]
    ends = [step["ResponseFinishDateTime"] for step in steps if step.get("ResponseFinishDateTime")]
    return InvocationRecord(
        instance_id=answer["InstanceId"],
        status=answer.get("Status", ""),
        status_details=answer.get("StatusDetails", ""),
        exit_code=_code(telling.get("ResponseCode")),
        output="\n".join(text for step in steps if (text := (step.get("Output") or "").rstrip("\n"))),
        started_at=min(starts, default=None),
        ended_at=max(ends, default=None),
        trace=answer.get("TraceOutput") or "",
    )


def _code(value: Any) -> int | None:
    """An exit code; AWS says -1 where there is none yet."""
    return value if isinstance(value, int) and value >= 0 else None
