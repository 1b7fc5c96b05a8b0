"""Automation documents (runbooks), schema 0.3: what they declare, their steps, and what is wrong with them.

Nothing is run here. Source: Systems Manager user guide, "Data elements and parameters", "Properties shared by all
actions" and "Automation actions reference".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from .automation_actions import CANCELLABLE, OUTPUTS, check_inputs, chosen, whole_number
from .automation_values import OUTPUT_TYPES, SYSTEM, path_error, references
from .errors import InvalidDocument
from .parameters import MOST_PARAMETERS, Parameter, read_parameter
from .parameters import check_parameters as check_texts

SCHEMA: Final = "0.3"
MOST_STEPS: Final = 100
MOST_ATTEMPTS: Final = 1_000

_KEYS: Final = frozenset(
    {"schemaVersion", "description", "assumeRole", "parameters", "variables", "mainSteps", "outputs", "files"}
)
_STEP_KEYS: Final = frozenset(
    {"name", "action", "description", "inputs", "outputs", "onFailure", "onCancel", "maxAttempts", "timeoutSeconds"}
    | {"isEnd", "isCritical", "nextStep"}
)
_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,128}")
_PARAMETER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,49}")
_OUTPUT: Final = re.compile(r"[A-Za-z0-9_\-]{1,50}")
_AWS_TYPE: Final = re.compile(r"(?P<list>List<)?AWS::[A-Za-z0-9]+(?:::[A-Za-z0-9]+)+(?(list)>)")
_ROLE: Final = re.compile(r"arn:aws[a-z\-]*:iam::\d{12}:role/.{1,512}")


@dataclass(frozen=True, slots=True)
class Output:
    """What a step keeps of its answer."""

    name: str
    selector: str
    type: str = "String"


@dataclass(frozen=True, slots=True)
class Step:
    """One step as it is declared. `timeout_seconds` and `max_attempts` may be a reference still."""

    name: str
    action: str
    inputs: Mapping[str, Any]
    description: str = ""
    outputs: tuple[Output, ...] = ()
    on_failure: str = "Abort"
    on_cancel: str = "Abort"
    max_attempts: int | str = 1
    timeout_seconds: int | str | None = None
    is_end: bool = False
    next_step: str = ""
    critical: bool | None = None  # None: not said
    steps: tuple[Step, ...] = ()  # of a loop

    @property
    def is_critical(self) -> bool:
        """Whether its failure is the automation's; by default unless onFailure is Continue."""
        return self.on_failure != "Continue" if self.critical is None else self.critical

    @property
    def after_failure(self) -> str:
        """The step that onFailure names, or ""."""
        return _named(self.on_failure)

    @property
    def after_cancel(self) -> str:
        return _named(self.on_cancel)

    @property
    def valid_next_steps(self) -> tuple[str, ...]:
        """The steps that this one names itself."""
        found = [self.next_step, *chosen(self.inputs)] if self.action == "aws:branch" else [self.next_step]
        return tuple(dict.fromkeys(name for name in found if name))

    def output(self, name: str) -> Output | None:
        return next((output for output in self.outputs if output.name == name), None)


@dataclass(frozen=True, slots=True)
class Runbook:
    """An Automation document that has been read and found sound."""

    description: str
    assume_role: str
    parameters: Mapping[str, Parameter]  # of AWS's own types they are Strings, or StringLists of them
    aws_types: Mapping[str, str]  # of those that have one, as they are written: AWS::EC2::Instance::Id
    variables: Mapping[str, tuple[str, Any]]  # type and default
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]

    def step(self, name: str) -> Step | None:
        """A step by its name, of a loop too."""
        return next((step for step in _all(self.steps) if step.name == name), None)

    def after(self, name: str) -> str:
        """The step that stands behind one, in the document or in its loop; "" behind the last."""
        for steps in _lists(self.steps):
            names = [step.name for step in steps]
            if name in names:
                return names[names.index(name) + 1] if name != names[-1] else ""
        return ""


def parse(content: Any) -> Runbook:
    """Read an Automation document's content, already parsed from JSON or YAML. Raises InvalidDocument."""
    try:
        return _parse(content)
    except RecursionError:
        raise InvalidDocument("the document is too deep") from None


def _parse(content: Any) -> Runbook:
    if not isinstance(content, Mapping):
        raise InvalidDocument("the document is not an object")
    if content.get("schemaVersion") != SCHEMA:
        raise InvalidDocument(f"must be {SCHEMA} for an Automation document", "schemaVersion")
    if unknown := sorted(set(map(str, content)) - _KEYS):
        raise InvalidDocument(f"is not part of schema {SCHEMA}", unknown[0])
    description = content.get("description", "")
    if not isinstance(description, str):
        raise InvalidDocument("is not a string", "description")
    assume_role = content.get("assumeRole", "")
    if not isinstance(assume_role, str):
        raise InvalidDocument("is not a string", "assumeRole")
    assume_role = assume_role.strip()
    if assume_role and not _ROLE.fullmatch(assume_role) and not any(references(assume_role)):
        raise InvalidDocument("is neither the ARN of a role nor a parameter", "assumeRole")
    parameters, aws_types = _parameters(content.get("parameters"))
    variables = _variables(content.get("variables"))
    names: set[str] = set()
    steps = _steps(content.get("mainSteps"), "mainSteps", names)
    outputs = content.get("outputs", [])
    if not isinstance(outputs, list) or not all(isinstance(name, str) for name in outputs):
        raise InvalidDocument("is not a list of strings", "outputs")
    runbook = Runbook(description, assume_role, parameters, aws_types, variables, steps, tuple(outputs))
    _check_ways(runbook)
    _check_references(runbook)
    return runbook


def check_parameters(runbook: Runbook, given: Mapping[str, list[str]]) -> dict[str, Any]:
    """The parameters of an execution, each of its type: `given` as the API has them, defaults filled in.

    Raises InvalidParameters, which names every one that is wrong.
    """
    values = check_texts(runbook.parameters, _maps(runbook, given))
    return {name: _of_type(runbook.parameters[name].type, value) for name, value in values.items()}


def _maps(runbook: Runbook, given: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """An empty text stands for an empty StringMap, as the console sends it."""
    return {
        name: ["{}"]
        if texts in ([], [""]) and name in runbook.parameters and runbook.parameters[name].type == "StringMap"
        else list(texts)
        for name, texts in given.items()
    }


def _of_type(kind: str, value: Any) -> Any:
    if kind == "Boolean" and isinstance(value, str):
        return value.lower() == "true"
    if kind == "Integer" and isinstance(value, str):
        return int(value)
    return value


# --- Parameters and variables ---


def _parameters(declared: Any) -> tuple[dict[str, Parameter], dict[str, str]]:
    if declared is None:
        return {}, {}
    if not isinstance(declared, Mapping):
        raise InvalidDocument("is not an object", "parameters")
    if len(declared) > MOST_PARAMETERS:
        raise InvalidDocument(f"declares more than {MOST_PARAMETERS} parameters", "parameters")
    parameters: dict[str, Parameter] = {}
    aws_types: dict[str, str] = {}
    for name, rule in declared.items():
        path = f"parameters.{name}"
        if not _PARAMETER.fullmatch(name):
            raise InvalidDocument("a parameter's name is a letter, and letters, digits and _", path)
        kind = rule.get("type") if isinstance(rule, Mapping) else None
        if isinstance(kind, str) and (match := _AWS_TYPE.fullmatch(kind)):
            aws_types[name] = kind
            rule = {**rule, "type": "StringList" if match["list"] else "String"}
        parameters[name] = read_parameter(name, rule, path)
    return parameters, aws_types


def _variables(declared: Any) -> dict[str, tuple[str, Any]]:
    if declared is None:
        return {}
    if not isinstance(declared, Mapping):
        raise InvalidDocument("is not an object", "variables")
    found = {}
    for name, rule in declared.items():
        path = f"variables.{name}"
        if not _PARAMETER.fullmatch(name):
            raise InvalidDocument("a variable's name is a letter, and letters, digits and _", path)
        if not isinstance(rule, Mapping) or rule.get("type") not in OUTPUT_TYPES:
            raise InvalidDocument(f"type must be one of {', '.join(OUTPUT_TYPES)}", path)
        found[name] = (str(rule["type"]), rule.get("default"))
    return found


# --- Steps ---


def _steps(given: Any, path: str, names: set[str]) -> tuple[Step, ...]:
    if not isinstance(given, list) or not given:
        raise InvalidDocument("is missing or empty", path)
    steps = [_step(rule, f"{path}[{number}]", names) for number, rule in enumerate(given)]
    if len(names) > MOST_STEPS:
        raise InvalidDocument(f"has more than {MOST_STEPS} steps", path)
    return tuple(steps)


def _step(rule: Any, path: str, names: set[str]) -> Step:
    if not isinstance(rule, Mapping):
        raise InvalidDocument("is not an object", path)
    if unknown := sorted(set(map(str, rule)) - _STEP_KEYS):
        raise InvalidDocument("is not part of a step", f"{path}.{unknown[0]}")
    name, action = rule.get("name"), rule.get("action")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidDocument("is missing, or not 1 to 128 of letters, digits and _", f"{path}.name")
    if name in names:
        raise InvalidDocument(f"two steps are named {name}", f"{path}.name")
    names.add(name)
    if not isinstance(action, str) or action not in OUTPUTS:
        raise InvalidDocument(f"{action} is not an action of an Automation document", f"{path}.action")
    inputs = rule.get("inputs", {})
    if inputs is None:
        inputs = {}
    if not isinstance(inputs, Mapping):
        raise InvalidDocument("is not an object", f"{path}.inputs")
    step = Step(
        name=name,
        action=action,
        inputs=inputs,
        description=str(rule.get("description", "")),
        outputs=_outputs(rule.get("outputs", []), f"{path}.outputs"),
        on_failure=_way(rule.get("onFailure", "Abort"), f"{path}.onFailure", {"Abort", "Continue"}),
        on_cancel=_way(rule.get("onCancel", "Abort"), f"{path}.onCancel", {"Abort"}),
        max_attempts=whole_number(rule.get("maxAttempts", 1), f"{path}.maxAttempts", MOST_ATTEMPTS),
        timeout_seconds=_timeout(rule.get("timeoutSeconds"), f"{path}.timeoutSeconds"),
        is_end=bool(_switch(rule.get("isEnd", False), f"{path}.isEnd")),
        next_step=_text(rule.get("nextStep", ""), f"{path}.nextStep"),
        critical=_switch(rule.get("isCritical"), f"{path}.isCritical"),
    )
    if step.on_cancel != "Abort" and action not in CANCELLABLE:
        raise InvalidDocument(f"{action} has no onCancel", f"{path}.onCancel")
    if step.is_end and step.next_step:
        raise InvalidDocument("stands in a step that is the end", f"{path}.nextStep")
    check_inputs(action, inputs, f"{path}.inputs")
    if action == "aws:loop":
        step = replace(step, steps=_steps(inputs.get("Steps"), f"{path}.inputs.Steps", names))
        if any(inner.action == "aws:loop" for inner in step.steps):
            raise InvalidDocument("a loop stands within a loop", f"{path}.inputs.Steps")
    return step


def _outputs(given: Any, path: str) -> tuple[Output, ...]:
    if not isinstance(given, list):
        raise InvalidDocument("is not a list", path)
    found = []
    for number, rule in enumerate(given):
        at = f"{path}[{number}]"
        if not isinstance(rule, Mapping) or set(rule) - {"Name", "Selector", "Type"}:
            raise InvalidDocument("has Name, Selector and Type", at)
        name, kind = rule.get("Name"), rule.get("Type", "String")
        if not isinstance(name, str) or not _OUTPUT.fullmatch(name):
            raise InvalidDocument("is missing, or not 1 to 50 of letters, digits, _ and -", f"{at}.Name")
        if kind not in OUTPUT_TYPES:
            raise InvalidDocument(f"must be one of {', '.join(OUTPUT_TYPES)}", f"{at}.Type")
        if wrong := path_error(rule.get("Selector")):
            raise InvalidDocument(f"is not a JSONPath: {wrong}", f"{at}.Selector")
        found.append(Output(name, str(rule["Selector"]), str(kind)))
    return tuple(found)


def _way(given: Any, path: str, words: set[str]) -> str:
    if not isinstance(given, str) or not (given in words or _named(given)):
        raise InvalidDocument(f"must be {', '.join(sorted(words))} or step:NAME", path)
    return given


def _named(way: str) -> str:
    return way.removeprefix("step:").strip() if way.startswith("step:") else ""


def _timeout(given: Any, path: str) -> int | str | None:
    return None if given is None else whole_number(given, path, 10**9)


def _switch(given: Any, path: str) -> bool | None:
    if given is None or isinstance(given, bool):
        return given
    if given in ("true", "false"):
        return bool(given == "true")
    raise InvalidDocument("is neither true nor false", path)


def _text(given: Any, path: str) -> str:
    if not isinstance(given, str):
        raise InvalidDocument("is not a string", path)
    return given


# --- What holds between the steps ---


def _ways(steps: Sequence[Step]) -> dict[str, list[str]]:
    """Where each step may lead."""
    ways: dict[str, list[str]] = {}
    for number, step in enumerate(steps):
        onward = [step.after_failure, step.after_cancel]
        following = steps[number + 1].name if number + 1 < len(steps) else ""
        if step.action == "aws:branch":
            onward += chosen(step.inputs)
            if not step.inputs.get("Default") and not step.is_end:
                onward.append(step.next_step or following)
        elif not step.is_end:
            onward.append(step.next_step or following)
        ways[step.name] = [name for name in onward if name]
    return ways


def _check_ways(runbook: Runbook) -> None:
    """Every step that another names is there, and none comes back to itself. Raises InvalidDocument."""
    for steps in _lists(runbook.steps):
        ways = _ways(steps)
        for name, onward in ways.items():
            if missing := [each for each in onward if each not in ways]:
                raise InvalidDocument(f"{name} leads to {missing[0]}, and there is no such step", f"step {name}")
        if circle := _circle(ways):
            raise InvalidDocument(f"the steps lead in a circle: {' → '.join(circle)}", f"step {circle[0]}")


def _circle(ways: Mapping[str, list[str]]) -> list[str]:
    """A way from a step back to itself, or []. At most a hundred steps, so it may call itself."""
    done: set[str] = set()
    on_the_way: list[str] = []

    def walk(name: str) -> list[str]:
        if name in on_the_way:
            return [*on_the_way[on_the_way.index(name) :], name]
        if name in done:
            return []
        on_the_way.append(name)
        for each in ways[name]:
            if found := walk(each):
                return found
        on_the_way.pop()
        done.add(name)
        return []

    return next((found for name in ways if (found := walk(name))), [])


def _check_references(runbook: Runbook) -> None:
    for name in references(runbook.assume_role):
        if name not in runbook.parameters:
            raise InvalidDocument(f"{{{{ {name} }}}} is no parameter of this document", "assumeRole")
    for step in _all(runbook.steps):
        held = {key: value for key, value in step.inputs.items() if key not in {"Steps", "Script"}}
        for name in references([held, step.max_attempts, step.timeout_seconds]):
            if wrong := _reference_error(runbook, name):
                raise InvalidDocument(f"{{{{ {name} }}}} {wrong}", f"step {step.name}")
        if step.action == "aws:updateVariable":
            name = str(step.inputs["Name"])
            if wrong := _reference_error(runbook, name):
                raise InvalidDocument(f"{name} {wrong}", f"step {step.name}")
    for name in runbook.outputs:
        if wrong := _reference_error(runbook, name, needs_dot=True):
            raise InvalidDocument(f"{name} {wrong}", "outputs")


def _reference_error(runbook: Runbook, name: str, *, needs_dot: bool = False) -> str:
    """Why nothing answers a reference, or ""."""
    family, colon, rest = name.partition(":")
    if colon:
        if family == "variable":
            return "" if rest in runbook.variables else "is no variable of this document"
        if family in {"ssm", "ssm-secure"}:
            return "cannot be used in a step: give it as a parameter's value"
        return "" if name in SYSTEM else f"is unknown; there are {', '.join(sorted(SYSTEM))}"
    first, dot, rest = name.partition(".")
    if not dot:
        if needs_dot:
            return "is not STEP.OUTPUT"
        return "" if name in runbook.parameters else "is no parameter of this document"
    step = runbook.step(first)
    if step is None:
        return f"names no step: there is no {first}"
    own = OUTPUTS[step.action]
    output = rest.partition(".")[0]
    if own is not None and output not in own.split() and step.output(output) is None:
        return f"names no output of {first}"
    return ""


def _lists(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    yield steps
    for step in steps:
        if step.steps:
            yield step.steps


def _all(steps: Iterable[Step]) -> Iterator[Step]:
    for step in steps:
        yield step
        yield from _all(step.steps)
