"""Automation: executions of runbooks, their steps and signals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from .clients import AccountAccess, client
from .errors import aws_call

PAGE: Final = 50  # executions of a page [SSM, DescribeAutomationExecutions: MaxResults]
MOST_STEPS: Final = 500  # of one execution that are read


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an execution, as AWS tells it. Texts keep AWS's spelling."""

    name: str
    action: str
    status: str
    step_id: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    failure: str = ""
    response: str = ""


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution. `steps` are those that GetAutomationExecution tells; a list has none."""

    execution_id: str
    document_name: str
    document_version: str = ""
    status: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    executed_by: str = ""  # ARN
    mode: str = ""
    parent_id: str = ""
    current_step: str = ""
    failure: str = ""
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parameters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    target: str = ""
    targets: Sequence[Mapping[str, Any]] = ()
    target_parameter: str = ""
    max_concurrency: str = ""
    max_errors: str = ""
    progress: Mapping[str, int] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    steps_cut: bool = False


def start(
    access: AccountAccess,
    region: str,
    *,
    document: str,
    version: str = "",
    parameters: Mapping[str, Sequence[str]],
    client_token: str,
    target_parameter: str = "",
    targets: Sequence[Mapping[str, Any]] = (),
    max_concurrency: str = "",
    max_errors: str = "",
    session_name: str,
    source_identity: str = "",
) -> str:
    """Start an execution; its id. The same `client_token` (a UUID) starts none twice, so a lost answer is asked again.

    Raises AwsError.
    """
    ssm = client("ssm", access, region, session_name=session_name, source_identity=source_identity)
    request: dict[str, Any] = {"DocumentName": document, "ClientToken": client_token}
    if parameters:  # AWS takes no empty ones
        request["Parameters"] = {name: list(texts) for name, texts in parameters.items()}
    if version:
        request["DocumentVersion"] = version
    if targets:
        request |= {"TargetParameterName": target_parameter, "Targets": list(targets)}
        request |= {"MaxConcurrency": max_concurrency or "1", "MaxErrors": max_errors or "0"}
    with aws_call("ssm:StartAutomationExecution", where=f"{document} {access.account_id} {region}"):
        return str(ssm.start_automation_execution(**request)["AutomationExecutionId"])


def get(access: AccountAccess, region: str, execution_id: str, *, session_name: str) -> Execution:
    """One execution with its steps. Raises AwsError, of the code AutomationExecutionNotFoundException if it is gone."""
    ssm = client("ssm", access, region, session_name=session_name)
    with aws_call("ssm:GetAutomationExecution", where=f"{access.account_id} {region}"):
        answer = ssm.get_automation_execution(AutomationExecutionId=execution_id)["AutomationExecution"]
    steps = [_step(each) for each in answer.get("StepExecutions", [])]
    is_cut = bool(answer.get("StepExecutionsTruncated"))
    if is_cut:
        request: dict[str, Any] = {"AutomationExecutionId": execution_id, "MaxResults": PAGE}
        steps = []
        while len(steps) < MOST_STEPS:
            with aws_call("ssm:DescribeAutomationStepExecutions", where=f"{access.account_id} {region}"):
                page = ssm.describe_automation_step_executions(**request)
            steps += [_step(each) for each in page.get("StepExecutions", [])]
            if not page.get("NextToken"):
                is_cut = False
                break
            request["NextToken"] = page["NextToken"]
    return _execution(answer, tuple(steps), is_cut)


def pages(
    access: AccountAccess, region: str, *, since: datetime, parent: str = "", session_name: str
) -> Iterator[list[Execution]]:
    """Executions that began after a moment, the newest first, page by page; with `parent` its own. Raises AwsError."""
    ssm = client("ssm", access, region, session_name=session_name)
    filters = [{"Key": "StartTimeAfter", "Values": [since.strftime("%Y-%m-%dT%H:%M:%SZ")]}]
    if parent:
        filters.append({"Key": "ParentExecutionId", "Values": [parent]})
    request: dict[str, Any] = {"Filters": filters, "MaxResults": PAGE}
    while True:
        with aws_call("ssm:DescribeAutomationExecutions", where=f"{access.account_id} {region}"):
            answer = ssm.describe_automation_executions(**request)
        yield [_execution(each) for each in answer.get("AutomationExecutionMetadataList", [])]
        if not answer.get("NextToken"):
            return
        request["NextToken"] = answer["NextToken"]


def signal(
    access: AccountAccess,
    region: str,
    execution_id: str,
    kind: str,
    *,
    payload: Mapping[str, Sequence[str]] | None = None,
    session_name: str,
    source_identity: str = "",
) -> None:
    """Approve, Reject, StartStep, StopStep or Resume. Raises AwsError."""
    ssm = client("ssm", access, region, session_name=session_name, source_identity=source_identity)
    given = {name: list(texts) for name, texts in (payload or {}).items()}
    with aws_call("ssm:SendAutomationSignal", where=execution_id):
        ssm.send_automation_signal(AutomationExecutionId=execution_id, SignalType=kind, Payload=given)


def stop(
    access: AccountAccess, region: str, execution_id: str, *, kind: str, session_name: str, source_identity: str = ""
) -> None:
    """`kind` Cancel stops it where it is, Complete after the step that runs. Raises AwsError."""
    ssm = client("ssm", access, region, session_name=session_name, source_identity=source_identity)
    with aws_call("ssm:StopAutomationExecution", where=execution_id):
        ssm.stop_automation_execution(AutomationExecutionId=execution_id, Type=kind)


def _execution(answer: Mapping[str, Any], steps: tuple[Step, ...] = (), is_cut: bool = False) -> Execution:
    counters = answer.get("ProgressCounters") or {}
    return Execution(
        answer["AutomationExecutionId"],
        answer.get("DocumentName", ""),
        answer.get("DocumentVersion", ""),
        answer.get("AutomationExecutionStatus", ""),
        answer.get("ExecutionStartTime"),
        answer.get("ExecutionEndTime"),
        answer.get("ExecutedBy", ""),
        answer.get("Mode", ""),
        answer.get("ParentAutomationExecutionId", ""),
        answer.get("CurrentStepName", ""),
        answer.get("FailureMessage", ""),
        answer.get("Outputs") or {},
        answer.get("Parameters") or {},
        answer.get("Target", ""),
        tuple(answer.get("Targets") or ()),
        answer.get("TargetParameterName", ""),
        answer.get("MaxConcurrency", ""),
        answer.get("MaxErrors", ""),
        {name: int(count) for name, count in counters.items()},
        steps,
        is_cut,
    )


def _step(answer: Mapping[str, Any]) -> Step:
    return Step(
        answer.get("StepName", ""),
        answer.get("Action", ""),
        answer.get("StepStatus", ""),
        answer.get("StepExecutionId", ""),
        answer.get("ExecutionStartTime"),
        answer.get("ExecutionEndTime"),
        answer.get("Inputs") or {},
        answer.get("Outputs") or {},
        answer.get("FailureMessage", ""),
        answer.get("Response", ""),
    )
