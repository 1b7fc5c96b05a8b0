"""Runbooks of the tests, and how their executions are awaited."""

import itertools
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.endpoint.jobs import until

OPEN = {"Pending", "InProgress", "Waiting", "Cancelling"}
_numbers = itertools.count()


def step(name: str, action: str, inputs: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "action": f"aws:{action}", "inputs": inputs or {}, **more}


def api(name: str, service: str, operation: str, outputs: dict[str, tuple[str, str]] | None = None, **parameters: Any):
    """A step that calls an API; `more` members of the step itself are given in `step_`."""
    more = parameters.pop("step_", {})
    kept = [{"Name": key, "Selector": path, "Type": kind} for key, (path, kind) in (outputs or {}).items()]
    return step(name, "executeAwsApi", {"Service": service, "Api": operation, **parameters}, outputs=kept, **more)


def sleep(name: str, duration: str = "PT0S", **more: Any) -> dict[str, Any]:
    return step(name, "sleep", {"Duration": duration}, **more)


def make(ssm: Any, *steps: dict[str, Any], **more: Any) -> str:
    """A document with these steps; its name."""
    name = f"Runbook-{next(_numbers)}"
    content = {"schemaVersion": "0.3", "mainSteps": list(steps), **more}
    ssm.create_document(Name=name, Content=json.dumps(content), DocumentType="Automation")
    return name


def start(ssm: Any, name: str, **more: Any) -> str:
    return ssm.start_automation_execution(DocumentName=name, **more)["AutomationExecutionId"]


def run(ssm: Any, *steps: dict[str, Any], **more: Any) -> str:
    return start(ssm, make(ssm, *steps, **more))


def get(ssm: Any, execution: str) -> dict[str, Any]:
    return ssm.get_automation_execution(AutomationExecutionId=execution)["AutomationExecution"]


def ended(ssm: Any, execution: str) -> dict[str, Any]:
    return until(lambda: (found := get(ssm, execution))["AutomationExecutionStatus"] not in OPEN and found, seconds=30)


def becomes(ssm: Any, execution: str, status: str) -> dict[str, Any]:
    return until(lambda: (found := get(ssm, execution))["AutomationExecutionStatus"] == status and found, seconds=30)


def statuses(found: dict[str, Any]) -> dict[str, str]:
    return {each["StepName"]: each["StepStatus"] for each in found["StepExecutions"]}


def of_step(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in found["StepExecutions"] if each["StepName"] == name)


def refusal(call: Any, **parameters: Any) -> tuple[str, str]:
    """The code and words with which a call is refused."""
    with pytest.raises(ClientError) as refused:
        call(**parameters)
    error = refused.value.response["Error"]
    return error["Code"], error.get("Message", "")
