"""Executions and their steps as the API gives them. What is empty is left out, as AWS does."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fleetops.documents import InvalidDocument
from fleetops.documents import automation as runbooks
from fleetops.documents.automation_values import as_texts
from fleetops.endpoint.models import AutomationExecution, AutomationStep
from fleetops.endpoint.states import AutomationStatus

_MOST_TARGETS = 200  # shown as resolved
_OPEN = frozenset({AutomationStatus.IN_PROGRESS, AutomationStatus.WAITING, AutomationStatus.CANCELLING})


def _common(row: AutomationExecution) -> dict[str, Any]:
    aim = row.aim
    is_open = row.state in _OPEN
    return {
        "AutomationExecutionId": str(row.execution_id),
        "DocumentName": row.document_name.rpartition("/")[2],
        "DocumentVersion": row.document_version,
        "AutomationExecutionStatus": str(row.state),
        "ExecutionStartTime": row.started_at,
        "ExecutionEndTime": row.ended_at,
        "ExecutedBy": row.executed_by,
        "Outputs": _texts(row.outputs),
        "Mode": row.mode,
        "ParentAutomationExecutionId": str(row.parent.execution_id) if row.parent is not None else None,
        "CurrentStepName": row.current_step if is_open and row.current_step else None,
        "CurrentAction": row.current_action if is_open and row.current_action else None,
        "FailureMessage": row.failure_message or None,
        "TargetParameterName": aim.get("TargetParameterName"),
        "Targets": aim.get("Targets", []),
        "TargetMaps": aim.get("TargetMaps", []),
        "ResolvedTargets": {
            "ParameterValues": [",".join(text for texts in each.values() for text in texts) for each in row.resolved][
                :_MOST_TARGETS
            ],
            "Truncated": len(row.resolved) > _MOST_TARGETS,
        },
        "MaxConcurrency": aim.get("MaxConcurrency"),
        "MaxErrors": aim.get("MaxErrors"),
        "Target": row.target or None,
        "AlarmConfiguration": row.alarm or None,
    }


def metadata_member(row: AutomationExecution) -> dict[str, Any]:
    return _common(row) | {"AutomationType": "Local"}


def execution_member(
    row: AutomationExecution, shown: Sequence[AutomationStep], steps: Sequence[AutomationStep]
) -> dict[str, Any]:
    counts = Counter(str(step.state) for step in steps)
    member = _common(row) | {
        "Parameters": _texts({name: as_texts(value) for name, value in row.parameters.items()}),
        "Variables": _texts({name: as_texts(value) for name, value in row.variables.items() if value is not None}),
        "StepExecutions": [step_member(step, row) for step in shown],
    }
    if row.aim.get("is_controlled"):
        member["ProgressCounters"] = {
            "TotalSteps": len(steps),
            "SuccessSteps": counts[AutomationStatus.SUCCESS],
            "FailedSteps": counts[AutomationStatus.FAILED],
            "CancelledSteps": counts[AutomationStatus.CANCELLED],
            "TimedOutSteps": counts[AutomationStatus.TIMED_OUT],
        }
    return member


def step_member(row: AutomationStep, execution: AutomationExecution) -> dict[str, Any]:
    declared = _declared(execution, row.name)
    member: dict[str, Any] = {
        "StepName": row.name,
        "Action": row.action,
        "StepExecutionId": str(row.step_id),
        "StepStatus": str(row.state),
        "ExecutionStartTime": row.started_at,
        "ExecutionEndTime": row.ended_at,
        "Inputs": row.inputs or None,
        "Outputs": _texts(row.outputs),
        "Response": row.response or None,
        "ResponseCode": row.response_code or None,
        "FailureMessage": row.failure_message or None,
        "FailureDetails": row.failure_details or None,
    }
    if declared is not None:
        timeout, attempts = declared.timeout_seconds, declared.max_attempts
        member |= {
            "TimeoutSeconds": timeout if isinstance(timeout, int) else None,
            "MaxAttempts": attempts if isinstance(attempts, int) else None,
            "OnFailure": declared.on_failure,
            "IsEnd": declared.is_end,
            "IsCritical": declared.is_critical,
            "NextStep": declared.next_step or None,
            "ValidNextSteps": list(declared.valid_next_steps) or None,
        }
    if row.loop is not None:
        member["ParentStepDetails"] = {
            "StepExecutionId": str(row.loop.step_id),
            "StepName": row.loop.name,
            "Action": row.loop.action,
            "Iteration": row.iteration,
            "IteratorValue": row.iterator_value or None,
        }
    return member


def _texts(held: Mapping[str, list[str]]) -> dict[str, list[str]] | None:
    """Lists of texts by name, none of which is empty; None for none."""
    return {name: [text for text in texts if text] for name, texts in held.items()} or None


def _declared(execution: AutomationExecution, name: str) -> runbooks.Step | None:
    if execution.aim.get("is_controlled"):
        return None
    try:
        return runbooks.parse(execution.document_content).step(name)
    except InvalidDocument:
        return None
