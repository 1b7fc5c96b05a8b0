"""Command documents, schema 1.2, 2.0 and 2.2: their steps, and which of them a node runs.

Source: Systems Manager user guide, "Document schemas and features", "Command document plugin reference" and
"Writing conditional logic"; amazon-ssm-agent, agent/framework/docparser/docparser.go and
agent/framework/runpluginutil/runpluginutil.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from .errors import InvalidDocument
from .parameters import STORE_REFERENCE, Parameter, read_parameters, substitute

LONGEST: Final = 65_536  # bytes of a document [SSM quotas: MaxDocumentSizeExceeded, 64 KB]
MOST_STEPS: Final = 100
SCHEMAS: Final = frozenset({"1.2", "2.0", "2.2"})

_STEP_NAME: Final = re.compile(r"[A-Za-z0-9_\-]{1,128}")
_ACTION: Final = re.compile(r"aws:[A-Za-z]{1,64}")
_STEP_KEYS: Final = frozenset(
    {
        "action",
        "name",
        "inputs",
        "precondition",
        "maxAttempts",
        "timeoutSeconds",
        "onFailure",
        "settings",
        "description",
    }
)
_KEYS_2: Final = frozenset({"schemaVersion", "description", "parameters", "mainSteps", "variables", "files", "outputs"})
_KEYS_1: Final = frozenset({"schemaVersion", "description", "parameters", "runtimeConfig"})

EXIT_DOCUMENT_WELL: Final = 168  # a step that ends with it succeeds, and no other follows. runpluginutil.go
EXIT_DOCUMENT_BADLY: Final = 169
DEFAULT_TIMEOUT_SECONDS: Final = 3600  # of a step's execution [user guide, plugin reference]

# The plugins of the real agent, and on which systems it has them (agent/framework/runpluginutil, knownPlugins).
PLUGINS: Final[Mapping[str, frozenset[str]]] = {
    "aws:applications": frozenset({"Windows"}),
    "aws:cloudWatch": frozenset({"Windows"}),
    "aws:configureDocker": frozenset({"Linux", "Windows"}),
    "aws:configurePackage": frozenset({"Linux", "Windows", "MacOS"}),
    "aws:domainJoin": frozenset({"Linux", "Windows"}),
    "aws:downloadContent": frozenset({"Linux", "Windows", "MacOS"}),
    "aws:psModule": frozenset({"Windows"}),
    "aws:refreshAssociation": frozenset({"Linux", "Windows", "MacOS"}),
    "aws:runDockerAction": frozenset({"Linux", "Windows"}),
    "aws:runDocument": frozenset({"Linux", "Windows", "MacOS"}),
    "aws:runPowerShellScript": frozenset({"Linux", "Windows", "MacOS"}),
    "aws:runShellScript": frozenset({"Linux", "MacOS"}),
    "aws:softwareInventory": frozenset({"Linux", "Windows", "MacOS"}),
    "aws:updateAgent": frozenset({"Windows"}),
    "aws:updateSsmAgent": frozenset({"Linux", "Windows", "MacOS"}),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One plugin to run. In schema 1.2 its name is the plugin's, and `properties` may be a list of inputs."""

    name: str
    action: str
    inputs: Any
    precondition: Mapping[str, Sequence[str]] | None = None

    @property
    def on_failure(self) -> str:
        return _word(self.inputs, "onFailure")

    @property
    def on_success(self) -> str:
        return _word(self.inputs, "onSuccess")

    @property
    def is_finally(self) -> bool:
        """Runs whatever has happened before, if it is the last."""
        return _word(self.inputs, "finallyStep") == "true"


@dataclass(frozen=True, slots=True)
class Document:
    """A command document that has been read and found sound."""

    schema_version: str
    description: str
    parameters: Mapping[str, Parameter]
    steps: tuple[Step, ...]

    @property
    def has_preconditions(self) -> bool:
        return self.schema_version == "2.2"

    @property
    def platform_types(self) -> tuple[str, ...]:
        """The systems that at least one step may run on, in AWS's order."""
        found: set[str] = set()
        for step in self.steps:
            wanted = platform_of(step)
            supported = PLUGINS.get(step.action, frozenset({"Linux", "Windows", "MacOS"}))
            found |= supported & {wanted} if wanted else supported
        return tuple(name for name in ("Windows", "Linux", "MacOS") if name in found)


class Verdict(Enum):
    """What a node does with a step."""

    RUN = "run"
    SKIP = "skip"
    FAIL = "fail"


def parse(content: Any) -> Document:
    """Read a command document's content, already parsed from JSON or YAML. Raises InvalidDocument."""
    if not isinstance(content, Mapping):
        raise InvalidDocument("the document is not an object")
    version = content.get("schemaVersion")
    if version not in SCHEMAS:
        raise InvalidDocument(f"must be one of {', '.join(sorted(SCHEMAS))} for a Command document", "schemaVersion")
    allowed = _KEYS_1 if version == "1.2" else _KEYS_2
    if unknown := sorted(set(map(str, content)) - allowed):
        raise InvalidDocument(f"is not part of schema {version}", unknown[0])
    description = content.get("description", "")
    if not isinstance(description, str):
        raise InvalidDocument("is not a string", "description")
    parameters = read_parameters(content.get("parameters"))
    steps = _runtime_config(content) if version == "1.2" else _main_steps(content, str(version))
    return Document(str(version), description, parameters, steps)


def _runtime_config(content: Mapping[str, Any]) -> tuple[Step, ...]:
    config = content.get("runtimeConfig")
    if not isinstance(config, Mapping) or not config:
        raise InvalidDocument("is missing or empty", "runtimeConfig")
    steps = []
    for action, rule in config.items():
        path = f"runtimeConfig.{action}"
        _check_action(action, path)
        if not isinstance(rule, Mapping) or "properties" not in rule:
            raise InvalidDocument("has no properties", path)
        steps.append(Step(action, action, rule["properties"]))
    return tuple(steps)


def _main_steps(content: Mapping[str, Any], version: str) -> tuple[Step, ...]:
    given = content.get("mainSteps")
    if not isinstance(given, list) or not given:
        raise InvalidDocument("is missing or empty", "mainSteps")
    if len(given) > MOST_STEPS:
        raise InvalidDocument(f"has more than {MOST_STEPS} steps", "mainSteps")
    steps: list[Step] = []
    names: set[str] = set()
    for number, rule in enumerate(given):
        path = f"mainSteps[{number}]"
        if not isinstance(rule, Mapping):
            raise InvalidDocument("is not an object", path)
        if unknown := sorted(set(map(str, rule)) - _STEP_KEYS):
            raise InvalidDocument("is not part of a step", f"{path}.{unknown[0]}")
        name = rule.get("name")
        if not isinstance(name, str) or not _STEP_NAME.fullmatch(name):
            raise InvalidDocument("is missing, or not 1 to 128 of letters, digits, _ and -", f"{path}.name")
        if name in names:
            raise InvalidDocument(f"two steps are named {name}", f"{path}.name")
        names.add(name)
        _check_action(rule.get("action"), f"{path}.action")
        inputs = rule.get("inputs", {})
        if not isinstance(inputs, Mapping):
            raise InvalidDocument("is not an object", f"{path}.inputs")
        precondition = rule.get("precondition")
        if precondition is not None:
            _check_precondition(precondition, version, f"{path}.precondition")
        steps.append(Step(name, str(rule["action"]), inputs, precondition))
    return tuple(steps)


def _check_action(action: Any, path: str) -> None:
    if not isinstance(action, str) or not _ACTION.fullmatch(action):
        raise InvalidDocument("is not the name of a plugin", path)
    if action not in PLUGINS:
        raise InvalidDocument(f"{action} is not a plugin of a Command document", path)


def _check_precondition(precondition: Any, version: str, path: str) -> None:
    if version != "2.2":
        raise InvalidDocument("needs schema 2.2", path)
    if not isinstance(precondition, Mapping):
        raise InvalidDocument("is not an object", path)
    for operator, operands in precondition.items():
        if operator != "StringEquals":
            raise InvalidDocument("StringEquals is the only operator", f"{path}.{operator}")
        if (
            not isinstance(operands, list)
            or len(operands) != 2
            or not all(isinstance(operand, str) for operand in operands)
        ):
            raise InvalidDocument("takes two strings", f"{path}.{operator}")


def platform_of(step: Step) -> str:
    """The platform type that a step's precondition names, "" if it names none."""
    operands = (step.precondition or {}).get("StringEquals", ())
    if len(operands) == 2 and "platformType" in operands:
        return operands[1] if operands[0] == "platformType" else operands[0]
    return ""


def with_defaults(document: Document, given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as they came to a node, and the defaults of those that did not."""
    values = {name: rule.default for name, rule in document.parameters.items() if not rule.is_required}
    return values | dict(given)


def prepared(step: Step, parameters: Mapping[str, Any]) -> Step:
    """The step with its parameters put in; the precondition stays, since `judge` needs both forms of it."""
    return Step(step.name, step.action, substitute(step.inputs, parameters), step.precondition)


def judge(
    step: Step, document: Document, *, parameters: Mapping[str, Any], platform_type: str, known: frozenset[str]
) -> tuple[Verdict, str]:
    """Whether a node of `platform_type` ("Linux"), which has the plugins `known`, runs a step; and the reason if not.

    The words are the real agent's, which people look up.
    """
    is_supported = platform_type in PLUGINS.get(step.action, frozenset()) and step.action in known
    named = f"Step name: {step.name}"
    unsupported = f"Step execution skipped due to unsupported plugin: {step.action}. {named}"
    if not document.has_preconditions:
        if step.action not in PLUGINS:
            return Verdict.FAIL, (
                f"Plugin with name {step.action} is not supported by this version of ssm agent, "
                f"please update to latest version. {named}"
            )
        if not is_supported:
            return Verdict.FAIL, f"Plugin with name {step.action} not found. {named}"
        return Verdict.RUN, ""
    holds, troubles = _holds(step.precondition or {}, parameters, platform_type)
    if holds and step.action not in PLUGINS:
        return Verdict.FAIL, (
            f"Plugin with name {step.action} is not supported by this version of ssm agent, "
            f"please update to latest version. {named}"
        )
    if not is_supported:
        return Verdict.SKIP, unsupported
    listed = ", ".join(troubles)
    if not holds:
        return Verdict.SKIP, f"Step execution skipped due to unsatisfied preconditions: '{listed}'. {named}"
    if troubles:
        return Verdict.FAIL, (
            f"Unrecognized precondition(s): '{listed}', please update agent to latest version. {named}"
        )
    return Verdict.RUN, ""


def _holds(
    precondition: Mapping[str, Sequence[str]], parameters: Mapping[str, Any], platform_type: str
) -> tuple[bool, list[str]]:
    """(does it hold, what is wrong with it or does not hold)."""
    holds, troubles = True, []
    for operator, operands in precondition.items():
        if operator != "StringEquals":
            troubles.append(f'unrecognized operator: "{operator}"')
            continue
        if len(operands) != 2:
            troubles.append(f'"{operator}": operator accepts exactly 2 arguments')
            continue
        first, second = operands
        shown = f'"{operator}": [{first}, {second}]'
        resolved = [_as_text(substitute(operand, parameters)) for operand in operands]
        if first == second:
            troubles.append(
                shown if first == "platformType" else f"\"{operator}\": operator's arguments can't be identical"
            )
        elif any(STORE_REFERENCE.search(operand) for operand in operands):
            troubles.append(f"\"{operator}\": operator's arguments can't contain SSM parameters")
        elif "platformType" in operands:
            wanted = second if first == "platformType" else first
            if _as_text(substitute(wanted, parameters)).lower() != wanted.lower():
                troubles.append(
                    f'"{operator}": the second argument for the platformType variable '
                    "can't contain document parameters"
                )
            elif wanted.lower() != platform_type.lower():
                holds = False
                troubles.append(shown)
        elif resolved == [first, second]:
            troubles.append(
                f'"{operator}": at least one of operator\'s arguments must contain a valid document parameter'
            )
        elif resolved[0] != resolved[1]:
            holds = False
            troubles.append(shown)
    return holds, troubles


def is_passed_over(steps: Sequence[Step], number: int, ended: Sequence[tuple[str, int]]) -> bool:
    """Whether the step at `number` is skipped for what those before it did; `ended` has their (status, exit code)."""
    if steps[number].is_finally and number == len(steps) - 1:
        return False
    for step, (status, code) in zip(steps[:number], ended, strict=False):
        if code in (EXIT_DOCUMENT_WELL, EXIT_DOCUMENT_BADLY):
            return True
        if status == "Failed" and step.on_failure == "exit":
            return True
        if status == "Success" and step.on_success == "exit":
            return True
    return False


def _word(inputs: Any, name: str) -> str:
    """An input as text; true and false too, which the agent takes for their words."""
    value = inputs.get(name) if isinstance(inputs, Mapping) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else ""


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
