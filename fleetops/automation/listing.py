"""What pages show of executions: rows of steps, texts of inputs and outputs, a form's values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fleetops.documents.parameters import Parameter

from .models import WORDS, Execution

_PLAIN: Final = ("target_parameter", "targets", "max_concurrency", "max_errors", "reason")


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step as the page shows it."""

    name: str
    action: str
    kind: str
    word: str
    status: str
    step_id: str
    started_at: datetime | None
    ended_at: datetime | None
    inputs: list[tuple[str, str]]
    outputs: list[tuple[str, str]]
    failure: str
    child: Execution | None

    @property
    def wants_answer(self) -> bool:
        return self.action == "aws:approve" and self.status == "Waiting"

    @property
    def is_paused(self) -> bool:
        return self.action == "aws:pause" and self.status in {"Waiting", "InProgress"}


def steps(execution: Execution, children: Sequence[Execution]) -> list[StepRow]:
    by_id = {child.execution_id: child for child in children}
    found = []
    for each in execution.steps:
        kind, word = WORDS.get(each["status"], ("wait", each["status"] or "Pending"))
        outputs = each.get("outputs") or {}
        started = [value for values in outputs.values() for value in values if value in by_id]
        found.append(
            StepRow(
                each["name"],
                each["action"],
                kind,
                word,
                each["status"],
                each.get("step_id", ""),
                _moment(each.get("started_at")),
                _moment(each.get("ended_at")),
                texts(each.get("inputs") or {}),
                texts(outputs),
                each.get("failure", ""),
                by_id[started[0]] if started else None,
            )
        )
    return found


def texts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and what they hold, as text."""
    return [(name, _text(value)) for name, value in values.items()]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n".join(value)
    return json.dumps(value, indent=2)


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def progress(execution: Execution) -> dict[str, int] | None:
    """Of a run over targets: how many, done, failed."""
    counters = execution.progress
    if not execution.targets or not counters:
        return None
    done = counters.get("SuccessSteps", 0)
    failed = counters.get("FailedSteps", 0) + counters.get("TimedOutSteps", 0)
    total = counters.get("TotalSteps", 0) or sum(len(each.get("Values", ())) for each in execution.targets)
    return {
        "total": total,
        "done": done,
        "failed": failed,
        "percent": round(100 * (done + failed) / total) if total else 0,
    }


def form_values(
    given: Mapping[str, Any], again: Execution | None, parameters: Mapping[str, Parameter]
) -> dict[str, str]:
    """What the form shows: what was sent, else what an earlier execution had."""
    values = {name: str(given.get(name, "")).replace("\x00", "") for name in _PLAIN}
    for name in parameters:
        if f"p_{name}" in given:
            values[f"p_{name}"] = str(given[f"p_{name}"]).replace("\x00", "")
        elif again is not None and name in again.parameters:
            values[f"p_{name}"] = "\n".join(map(str, again.parameters[name]))
    if again is not None and again.targets and not given.get("targets"):
        values["target_parameter"] = again.target_parameter
        values["targets"] = "\n".join(again.targets[0].get("Values", ()))
        values["max_concurrency"], values["max_errors"] = again.max_concurrency, again.max_errors
    return values
