"""The actions of runbooks: which inputs each takes, and which outputs it has by itself.

Source: Systems Manager user guide, "Automation actions reference".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from . import automation_choice as choice
from .automation_values import duration, path_error, references
from .errors import InvalidDocument

MOST_ITERATIONS: Final = 100  # of aws:loop [user guide, aws:loop]

# Which inputs each action must have, which it may, and which outputs it has by itself (None: any).
_ACTIONS: Final[Mapping[str, tuple[str, str | None, str | None]]] = {
    "aws:approve": ("Approvers", "NotificationArn Message MinRequiredApprovals", "ApprovalStatus ApproverDecisions"),
    "aws:assertAwsResourceProperty": ("Service Api PropertySelector DesiredValues", None, ""),
    "aws:branch": ("Choices", "Default", ""),
    "aws:changeInstanceState": (
        "InstanceIds DesiredState",
        "CheckStateOnly Force AdditionalInfo",
        "InstanceIds InstanceStates",
    ),
    "aws:copyImage": ("SourceImageId SourceRegion ImageName", None, "ImageId ImageState"),
    "aws:createImage": ("InstanceId ImageName", None, "ImageId ImageState"),
    "aws:createStack": ("StackName", None, None),
    "aws:createTags": ("ResourceIds Tags", "ResourceType", ""),
    "aws:deleteImage": ("ImageId", "", ""),
    "aws:deleteStack": ("StackName", None, ""),
    "aws:executeAutomation": (
        "DocumentName",
        "DocumentVersion RuntimeParameters MaxConcurrency MaxErrors TargetLocations TargetMaps TargetParameterName "
        "Targets Tags",
        "Output ExecutionId Status",
    ),
    "aws:executeAwsApi": ("Service Api", None, "OutputPayload"),
    "aws:executeScript": ("Runtime", "Handler Script Attachment InputPayload", None),
    "aws:executeStateMachine": ("stateMachineArn", None, None),
    "aws:invokeLambdaFunction": ("FunctionName", None, None),
    "aws:invokeWebhook": ("IntegrationName", "Body", None),
    "aws:loop": (
        "Steps",
        "Iterators IteratorDataType LoopCondition MaxIterations",
        "CurrentIteration CurrentIteratorValue",
    ),
    "aws:pause": ("", "", ""),
    "aws:runCommand": (
        "DocumentName",
        "InstanceIds Targets DocumentVersion DocumentHash DocumentHashType Parameters Comment MaxConcurrency MaxErrors "
        "NotificationConfig OutputS3BucketName OutputS3KeyPrefix OutputS3Region ServiceRoleArn TimeoutSeconds "
        "CloudWatchOutputConfig PreviousCommandId",
        "CommandId Status ResponseCode Output",
    ),
    "aws:runInstances": ("ImageId", None, "InstanceIds InstanceStates"),
    "aws:sleep": ("", "Duration Timestamp", ""),
    "aws:updateVariable": ("Name Value", "", ""),
    "aws:waitForAwsResourceProperty": ("Service Api PropertySelector DesiredValues", None, ""),
}
# Actions after which onCancel may go elsewhere [user guide, properties shared by all actions].
CANCELLABLE: Final = frozenset(
    {"aws:approve", "aws:copyImage", "aws:createImage", "aws:createStack", "aws:createTags", "aws:loop", "aws:pause"}
    | {"aws:runCommand", "aws:sleep", "aws:executeAutomation", "aws:waitForAwsResourceProperty"}
)
OUTPUTS: Final[Mapping[str, str | None]] = {action: own for action, (_, _, own) in _ACTIONS.items()}


def whole_number(given: Any, path: str, most: int) -> int | str:
    """A number as it is declared, or the reference that will give it. Raises InvalidDocument."""
    if isinstance(given, str):
        if any(references(given)):
            return given
        given = int(given[:9]) if given.isascii() and given.isdigit() else given
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= most:
        raise InvalidDocument(f"is not a whole number from 1 to {most}", path)
    return given


def check_inputs(action: str, inputs: Mapping[str, Any], path: str) -> None:
    """Return if these are inputs of the action; a loop's steps are read elsewhere. Raises InvalidDocument."""
    required, more, _ = _ACTIONS[action]
    for name in required.split():
        if inputs.get(name) in (None, "", []):
            raise InvalidDocument(f"{action} needs it", f"{path}.{name}")
    if more is not None:
        unknown = sorted(set(map(str, inputs)) - {*required.split(), *more.split()})
        if unknown:
            raise InvalidDocument(f"is no input of {action}", f"{path}.{unknown[0]}")
    match action:
        case "aws:branch":
            _check_choices(inputs, path)
        case "aws:loop":
            _check_loop(inputs, path)
        case "aws:sleep":
            given = [name for name in ("Duration", "Timestamp") if name in inputs]
            if len(given) != 1:
                raise InvalidDocument("takes either Duration or Timestamp", path)
            text = inputs[given[0]]
            if given == ["Duration"] and not any(references(text)) and duration(text) is None:
                raise InvalidDocument("is not a length in ISO 8601, such as PT10M", f"{path}.Duration")
        case "aws:waitForAwsResourceProperty" | "aws:assertAwsResourceProperty":
            selector = inputs["PropertySelector"]
            if not any(references(selector)) and (wrong := path_error(selector)):
                raise InvalidDocument(f"is not a JSONPath: {wrong}", f"{path}.PropertySelector")
            if not isinstance(inputs["DesiredValues"], list) and not any(references(inputs["DesiredValues"])):
                raise InvalidDocument("is not a list", f"{path}.DesiredValues")
        case "aws:updateVariable":
            if not str(inputs["Name"]).startswith("variable:"):
                raise InvalidDocument("is not variable:NAME", f"{path}.Name")
        case _:
            return


def _check_choices(inputs: Mapping[str, Any], path: str) -> None:
    choices = inputs["Choices"]
    if not isinstance(choices, list):
        raise InvalidDocument("is not a list", f"{path}.Choices")
    for number, rule in enumerate(choices):
        at = f"{path}.Choices[{number}]"
        if not isinstance(rule, Mapping) or not isinstance(rule.get("NextStep"), str) or not rule["NextStep"]:
            raise InvalidDocument("has no NextStep", at)
        choice.check(rule, at, beside=frozenset({"NextStep"}))
    if not isinstance(inputs.get("Default", ""), str):
        raise InvalidDocument("is not a string", f"{path}.Default")


def _check_loop(inputs: Mapping[str, Any], path: str) -> None:
    if ("Iterators" in inputs) == ("LoopCondition" in inputs):
        raise InvalidDocument("a loop has either Iterators or a LoopCondition", path)
    if "LoopCondition" in inputs:
        choice.check(inputs["LoopCondition"], f"{path}.LoopCondition")
        if "MaxIterations" not in inputs:
            raise InvalidDocument("a loop with a condition needs it", f"{path}.MaxIterations")
        whole_number(inputs["MaxIterations"], f"{path}.MaxIterations", MOST_ITERATIONS)
    elif inputs.get("IteratorDataType", "String") not in ("Boolean", "Integer", "String", "StringMap"):
        raise InvalidDocument("must be Boolean, Integer, String or StringMap", f"{path}.IteratorDataType")


def chosen(inputs: Mapping[str, Any]) -> list[str]:
    """The steps that a branch may go to."""
    choices = inputs.get("Choices")
    names = [str(rule["NextStep"]) for rule in choices] if isinstance(choices, list) else []
    return [*names, *([str(inputs["Default"])] if inputs.get("Default") else [])]
