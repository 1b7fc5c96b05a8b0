"""What EventBridge is told of automations and their steps. It is told what happens while this process runs: what a kill
leaves unsaid is not said later, and a listener reads the executions to be sure, as AWS advises for all its events.

Source: Systems Manager user guide, "Amazon EventBridge event examples for Systems Manager".
"""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from fleetops import clock
from fleetops.endpoint.models import AutomationExecution, AutomationStep


def event(row: AutomationExecution | AutomationStep, execution: AutomationExecution) -> dict[str, Any]:
    """The event of a row whose state has just changed."""
    now = clock.now()
    place = f"{execution.region}:{execution.account_id}"
    name = execution.document_name.rpartition("/")[2]
    started, ended = row.started_at, row.ended_at
    detail: dict[str, Any] = {
        "ExecutionId": str(execution.execution_id),
        "Definition": name,
        "DefinitionVersion": float(execution.document_version),
        "Status": str(row.state),
        "StartTime": _moment(started),
        "EndTime": _moment(ended),
        "Time": (((ended or now) - started).total_seconds() * 1000) // 1 if started is not None else 0.0,
    }
    if isinstance(row, AutomationStep):
        kind = "Step"
        detail |= {"StepName": row.name, "Action": row.action}
    else:
        kind = "Execution"
        detail |= {"ExecutedBy": execution.executed_by}
    return {
        "version": "0",
        "id": str(uuid4()),
        "detail-type": f"EC2 Automation {kind} Status-change Notification",
        "source": "aws.ssm",
        "account": execution.account_id,
        "time": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "region": execution.region,
        "resources": [
            f"arn:aws:ssm:{place}:automation-execution/{execution.execution_id}",
            f"arn:aws:ssm:{place}:automation-definition/{name}:{execution.document_version}",
        ],
        "detail": detail,
    }


def _moment(moment: datetime | None) -> str:
    """As Java writes it by default: Nov 29, 2024 7:43:25 PM."""
    if moment is None:
        return ""
    moment = moment.astimezone(UTC)
    return f"{moment:%b} {moment.day}, {moment.year} {moment.hour % 12 or 12}:{moment:%M:%S %p}"
