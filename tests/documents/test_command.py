"""Command documents: what is refused, what parameters become, which steps a node runs."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.documents import InvalidDocument, InvalidParameters, command
from fleetops.documents.command import Verdict
from fleetops.documents.parameters import check_parameters, references, substitute

KNOWN = frozenset({"aws:runShellScript", "aws:configurePackage"})
SOUND: dict[str, Any] = {
    "schemaVersion": "2.2",
    "description": "Two steps",
    "parameters": {
        "commands": {"type": "StringList", "minItems": 1},
        "mode": {"type": "String", "default": "check", "allowedValues": ["check", "apply"]},
        "size": {"type": "Integer", "default": 3},
        "tags": {"type": "StringMap", "default": {}},
    },
    "mainSteps": [
        {
            "action": "aws:runShellScript",
            "name": "first",
            "precondition": {"StringEquals": ["platformType", "Linux"]},
            "inputs": {"runCommand": "{{ commands }}", "timeoutSeconds": "{{size}}"},
        },
        {
            "action": "aws:runPowerShellScript",
            "name": "second",
            "precondition": {"StringEquals": ["platformType", "Windows"]},
            "inputs": {"runCommand": ["echo {{ mode }}"]},
        },
    ],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """SOUND with the value at a dotted path set, or taken away if it is None."""
    document = copy.deepcopy(SOUND)
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    at: Any = document
    for part in way:
        at = at[part]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return document


def test_a_sound_document_is_read():
    document = command.parse(SOUND)
    assert [step.name for step in document.steps] == ["first", "second"]
    assert document.platform_types == ("Windows", "Linux")
    assert document.parameters["mode"].default_text == "check"
    assert document.parameters["commands"].is_required
    assert document.parameters["tags"].default_text == "{}"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("schemaVersion", "9.9", "schemaVersion"),
        ("schemaVersion", None, "schemaVersion"),
        ("mainSteps", [], "mainSteps"),
        ("mainSteps", None, "mainSteps"),
        ("mainSteps.0.name", "has blanks", "mainSteps[0].name"),
        ("mainSteps.1.name", "first", "two steps are named first"),
        ("mainSteps.0.action", "aws:reformatEverything", "not a plugin"),
        ("mainSteps.0.action", "rm -rf", "not the name of a plugin"),
        ("mainSteps.0.inputs", ["a list"], "mainSteps[0].inputs"),
        ("mainSteps.0.precondition", {"StringLike": ["platformType", "Linux"]}, "StringEquals"),
        ("mainSteps.0.precondition", {"StringEquals": ["platformType"]}, "two strings"),
        ("mainSteps.0.surprise", "x", "mainSteps[0].surprise"),
        ("surprise", "x", "surprise"),
        ("parameters.mode.type", "Text", "parameters.mode"),
        ("parameters.mode.default", 7, "the default is no String"),
        ("parameters.mode.allowedPattern", "(", "not a regular expression"),
        ("parameters.commands.minItems", "many", "minItems"),
        ("parameters.with-dash", {"type": "String"}, "letters and digits"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(path: str, value: Any, said: str):
    with pytest.raises(InvalidDocument) as refused:
        command.parse(changed(path, value))
    assert said in str(refused.value)


def test_schema_1_2_has_one_step_a_plugin():
    document = command.parse(
        {
            "schemaVersion": "1.2",
            "runtimeConfig": {"aws:runShellScript": {"properties": [{"id": "0", "runCommand": ["true"]}]}},
        }
    )
    assert [(step.name, step.action) for step in document.steps] == [("aws:runShellScript", "aws:runShellScript")]
    with pytest.raises(InvalidDocument, match="runtimeConfig"):
        command.parse({"schemaVersion": "1.2", "runtimeConfig": {}})
    with pytest.raises(InvalidDocument, match=r"needs schema 2\.2"):
        command.parse(SOUND | {"schemaVersion": "2.0"})


def test_parameters_take_the_form_that_a_node_takes():
    document = command.parse(SOUND)
    values = check_parameters(document.parameters, {"commands": ["a", "b"], "size": ["12"], "tags": ['{"k": 1}']})
    assert values == {"commands": ["a", "b"], "mode": "check", "size": "12", "tags": {"k": 1}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "commands is required"),
        ({"commands": []}, "at least 1 items"),
        ({"commands": ["x"], "mode": ["destroy"]}, "mode must be one of: check, apply"),
        ({"commands": ["x"], "mode": ["check", "apply"]}, "mode takes one value"),
        ({"commands": ["x"], "size": ["many"]}, "size is no Integer"),
        ({"commands": ["x"], "tags": ["[]"]}, "tags is not a JSON object"),
        ({"commands": ["x"], "other": ["y"]}, "other is not a parameter of this document"),
        ({"other": ["y"]}, "other is not a parameter of this document; commands is required"),
    ],
)
def test_parameters_that_do_not_fit_are_all_named(given: dict[str, list[str]], said: str):
    with pytest.raises(InvalidParameters) as refused:
        check_parameters(command.parse(SOUND).parameters, given)
    assert said in str(refused.value)


def test_a_whole_reference_becomes_the_value_and_one_within_a_text_becomes_text():
    values = {"list": ["a", "b"], "word": "x", "map": {"k": [1]}, "money": "5$$"}
    assert substitute("{{ list }}", values) == ["a", "b"]
    assert substitute("{{list}} {{ word }} {{ map }}", values) == '["a","b"] x {"k":[1]}'
    assert substitute({"deep": ["{{ word }}", 3, None, "{{ unknown }}"]}, values) == {
        "deep": ["x", 3, None, "{{ unknown }}"]
    }
    assert substitute("it is {{ money }}", values) == "it is 5$"
    assert substitute("{{ money }}", values) == "5$$"


@given(st.text(), st.text())
def test_what_is_put_in_is_not_looked_through_again(value: str, around: str):
    shown = substitute(around + "{{ a }}{{ b }}", {"a": "{{ b }}", "b": value})
    assert shown.endswith("{{ b }}" + value.replace("$$", "$"))
    assert references(around + "{{ a }}") >= {"a"}


def verdict(step: dict[str, Any], *, platform: str = "Linux", schema: str = "2.2", **given: Any) -> tuple[Verdict, str]:
    document = command.parse(
        {
            "schemaVersion": schema,
            "parameters": {"mode": {"type": "String", "default": "check"}},
            "mainSteps": [{"name": "s", "action": "aws:runShellScript", **step}],
        }
    )
    values = command.with_defaults(document, given)
    return command.judge(document.steps[0], document, parameters=values, platform_type=platform, known=KNOWN)


@pytest.mark.parametrize(
    ("step", "expected", "said"),
    [
        ({}, Verdict.RUN, ""),
        ({"precondition": {"StringEquals": ["platformType", "Linux"]}}, Verdict.RUN, ""),
        ({"precondition": {"StringEquals": ["Linux", "platformType"]}}, Verdict.RUN, ""),
        ({"precondition": {"StringEquals": ["platformType", "Windows"]}}, Verdict.SKIP, "unsatisfied preconditions"),
        ({"precondition": {"StringEquals": ["{{ mode }}", "check"]}}, Verdict.RUN, ""),
        ({"precondition": {"StringEquals": ["{{ mode }}", "apply"]}}, Verdict.SKIP, "[{{ mode }}, apply]"),
        ({"precondition": {"StringEquals": ["a", "b"]}}, Verdict.FAIL, "must contain a valid document parameter"),
        ({"precondition": {"StringEquals": ["a", "a"]}}, Verdict.FAIL, "can't be identical"),
        ({"precondition": {"StringEquals": ["platformType", "{{ mode }}"]}}, Verdict.FAIL, "can't contain document"),
        ({"precondition": {"StringEquals": ["{{ ssm:x }}", "b"]}}, Verdict.FAIL, "can't contain SSM parameters"),
        ({"action": "aws:psModule"}, Verdict.SKIP, "unsupported plugin: aws:psModule"),
    ],
)
def test_whether_a_step_runs(step: dict[str, Any], expected: Verdict, said: str):
    decided, reason = verdict(step)
    assert decided is expected
    assert said in reason


def test_an_older_schema_fails_where_a_newer_one_skips():
    assert verdict({"action": "aws:psModule"}, schema="2.0")[0] is Verdict.FAIL
    assert verdict({}, schema="2.0")[0] is Verdict.RUN


def test_steps_after_an_exit_are_passed_over_but_for_a_last_finally():
    def steps(**first: str) -> tuple[command.Step, ...]:
        return command.parse(
            {
                "schemaVersion": "2.2",
                "mainSteps": [
                    {"action": "aws:runShellScript", "name": "a", "inputs": first},
                    {"action": "aws:runShellScript", "name": "b", "inputs": {}},
                    {"action": "aws:runShellScript", "name": "c", "inputs": {"finallyStep": True}},
                ],
            }
        ).steps

    plain = steps()
    assert not command.is_passed_over(plain, 1, [("Failed", 1)])
    assert command.is_passed_over(plain, 1, [("Success", 168)])
    assert command.is_passed_over(plain, 1, [("Failed", 169)])
    assert not command.is_passed_over(plain, 2, [("Failed", 169), ("Skipped", 0)])
    assert command.is_passed_over(steps(onFailure="exit"), 1, [("Failed", 1)])
    assert not command.is_passed_over(steps(onFailure="exit"), 1, [("Success", 0)])
    assert command.is_passed_over(steps(onSuccess="exit"), 1, [("Success", 0)])
