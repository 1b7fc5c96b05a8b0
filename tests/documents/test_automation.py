"""Automation documents, schema 0.3: what is read out of one, and what is told of one that is not sound."""

from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.documents import InvalidDocument, InvalidParameters, automation


def sleep(name, **more):
    return {"name": name, "action": "aws:sleep", "inputs": {"Duration": "PT1S"}, **more}


def api(name, **more):
    return {
        "name": name,
        "action": "aws:executeAwsApi",
        "inputs": {"Service": "ec2", "Api": "DescribeInstances"},
        **more,
    }


def runbook(*steps, **more):
    return {"schemaVersion": "0.3", "mainSteps": list(steps) or [sleep("nap")], **more}


def branch(name, *choices, **inputs):
    return {"name": name, "action": "aws:branch", "inputs": {"Choices": list(choices), **inputs}}


WHOLE = runbook(
    api("look", outputs=[{"Name": "State", "Selector": "$.Reservations[0].Instances[0].State.Name"}]),
    branch("choose", {"NextStep": "nap", "Variable": "{{ look.State }}", "StringEquals": "running"}, Default="end"),
    sleep("nap", onFailure="step:end", maxAttempts="3", timeoutSeconds=60, isCritical="false"),
    sleep("skipped", onFailure="Continue"),
    sleep("end", isEnd=True, onCancel="Abort"),
    description="all of it",
    assumeRole="{{ AutomationAssumeRole }}",
    parameters={
        "AutomationAssumeRole": {"type": "AWS::IAM::Role::Arn", "default": ""},
        "Instance_Ids": {"type": "List<AWS::EC2::Instance::Id>", "maxItems": 2},
        "Replace": {"type": "Boolean", "default": False},
        "Count": {"type": "Integer", "default": 3},
        "Map": {"type": "StringMap", "default": {}},
    },
    variables={"seen": {"type": "Integer", "default": 0}},
    outputs=["look.State", "look.OutputPayload"],
    files={"x.zip": {"checksums": {"sha256": "0"}}},
)


def test_a_whole_runbook_is_read():
    found = automation.parse(WHOLE)
    assert [step.name for step in found.steps] == ["look", "choose", "nap", "skipped", "end"]
    assert found.aws_types == {
        "AutomationAssumeRole": "AWS::IAM::Role::Arn",
        "Instance_Ids": "List<AWS::EC2::Instance::Id>",
    }
    assert (found.parameters["Instance_Ids"].type, found.parameters["Instance_Ids"].is_required) == ("StringList", True)
    nap = found.step("nap")
    assert (nap.max_attempts, nap.timeout_seconds, nap.after_failure, nap.is_critical) == (3, 60, "end", False)
    assert (found.step("look").is_critical, found.step("skipped").is_critical) == (True, False)
    assert found.step("choose").valid_next_steps == ("nap", "end")
    assert (found.after("nap"), found.after("end")) == ("skipped", "")
    assert found.step("look").output("State") == automation.Output(
        "State", "$.Reservations[0].Instances[0].State.Name", "String"
    )


def test_parameters_come_out_in_their_types():
    found = automation.parse(WHOLE)
    given = {"Instance_Ids": ["i-1", "i-2"], "Replace": ["True"], "Count": ["-7"], "Map": [""]}
    assert automation.check_parameters(found, given) == {
        "AutomationAssumeRole": "",
        "Instance_Ids": ["i-1", "i-2"],
        "Replace": True,
        "Count": -7,
        "Map": {},
    }
    with pytest.raises(InvalidParameters) as refused:
        automation.check_parameters(found, {"Instance_Ids": ["1", "2", "3"], "Other": ["x"], "Count": ["many"]})
    assert "Other is not a parameter" in str(refused.value)
    assert "Instance_Ids takes at most 2 items" in str(refused.value)
    assert "Count is no Integer" in str(refused.value)


def with_(path, value):
    """WHOLE with one thing changed; a value of ... takes it away."""
    changed = deepcopy(WHOLE)
    *way, last = path
    held = changed
    for key in way:
        held = held[key]
    if value is ...:
        del held[last]
    else:
        held[last] = value
    return changed


WRONG = [
    (("schemaVersion",), "2.2", "schemaVersion: must be 0.3"),
    (("runtimeConfig",), {}, "runtimeConfig: is not part of schema 0.3"),
    (("assumeRole",), "admin", "neither the ARN of a role nor a parameter"),
    (("assumeRole",), "{{ Role }}", "{{ Role }} is no parameter"),
    (("parameters", "Count", "type"), "AWS::", "type must be one of"),
    (("parameters", "1st"), {"type": "String"}, "parameters.1st: a parameter's name"),
    (("mainSteps",), [], "mainSteps: is missing or empty"),
    (("mainSteps", 0, "action"), "aws:teleport", "aws:teleport is not an action of an Automation document"),
    (("mainSteps", 0, "action"), "aws:runShellScript", "aws:runShellScript is not an action"),
    (("mainSteps", 0, "name"), "nap", "two steps are named nap"),
    (("mainSteps", 0, "precondition"), {}, "precondition: is not part of a step"),
    (("mainSteps", 0, "inputs", "Api"), ..., "inputs.Api: aws:executeAwsApi needs it"),
    (("mainSteps", 0, "nextStep"), "nowhere", "look leads to nowhere, and there is no such step"),
    (("mainSteps", 2, "onFailure"), "step:nowhere", "nap leads to nowhere"),
    (("mainSteps", 2, "onFailure"), "Retry", "must be Abort, Continue or step:NAME"),
    (("mainSteps", 0, "onCancel"), "step:end", "aws:executeAwsApi has no onCancel"),
    (("mainSteps", 2, "maxAttempts"), 0, "maxAttempts: is not a whole number from 1"),
    (("mainSteps", 2, "inputs"), {"Duration": "10 minutes"}, "is not a length in ISO 8601"),
    (("mainSteps", 2, "inputs"), {}, "takes either Duration or Timestamp"),
    (("mainSteps", 2, "inputs"), {"Duration": "PT1S", "Until": 1}, "inputs.Until: is no input of aws:sleep"),
    (("mainSteps", 4, "nextStep"), "nap", "stands in a step that is the end"),
    (("mainSteps", 3, "nextStep"), "nap", "the steps lead in a circle: nap → skipped → nap"),
    (("mainSteps", 1, "inputs", "Default"), "look", "the steps lead in a circle: look → choose → look"),
    (("mainSteps", 1, "inputs", "Choices", 0, "StringEquals"), ..., "takes exactly one operator"),
    (("mainSteps", 1, "inputs", "Choices", 0, "Equals"), "x", "Equals: is no operator"),
    (("mainSteps", 1, "inputs", "Choices", 0, "NextStep"), ..., "has no NextStep"),
    (("mainSteps", 1, "inputs", "Choices", 0, "Variable"), "{{ look.Colour }}", "names no output of look"),
    (("mainSteps", 1, "inputs", "Choices", 0, "Variable"), "{{ seek.State }}", "there is no seek"),
    (("mainSteps", 1, "inputs", "Choices", 0, "Variable"), "{{ Colour }}", "{{ Colour }} is no parameter"),
    (("mainSteps", 0, "inputs", "Filters"), ["{{ global:TIME }}"], "{{ global:TIME }} is unknown; there are"),
    (("mainSteps", 0, "inputs", "Filters"), ["{{ ssm:/a/b }}"], "cannot be used in a step"),
    (("mainSteps", 0, "inputs", "Filters"), ["{{ variable:lost }}"], "is no variable of this document"),
    (("mainSteps", 0, "outputs", 0, "Selector"), "$.a b", "is not a JSONPath:  b is not understood"),
    (("mainSteps", 0, "outputs", 0, "Type"), "Number", "must be one of String, Integer"),
    (("outputs",), ["Count"], "Count is not STEP.OUTPUT"),
    (("outputs",), ["look.Colour"], "look.Colour names no output of look"),
]


@pytest.mark.parametrize(("path", "value", "words"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_what_is_wrong_is_told_in_words(path, value, words):
    with pytest.raises(InvalidDocument) as refused:
        automation.parse(with_(path, value))
    assert words in str(refused.value)


def test_the_last_step_of_a_branch_without_a_default_goes_on_to_the_next():
    choice = {"NextStep": "nap", "Variable": "x", "StringEquals": "y"}
    with pytest.raises(InvalidDocument, match="in a circle: choose → nap → choose"):
        automation.parse(runbook(branch("choose", choice), sleep("nap", nextStep="choose")))


def loop(**inputs):
    return {"name": "again", "action": "aws:loop", "inputs": inputs}


def test_a_loop_has_steps_of_its_own():
    inner = [sleep("first"), sleep("second")]
    found = automation.parse(runbook(loop(Iterators=["a", "b"], Steps=inner), sleep("after")))
    assert [step.name for step in found.step("again").steps] == ["first", "second"]
    assert (found.after("first"), found.after("second"), found.after("again")) == ("second", "", "after")
    assert automation.parse(
        runbook(
            loop(
                LoopCondition={"Not": {"Variable": "{{ again.CurrentIteration }}", "NumericGreaterOrEquals": 3}},
                MaxIterations=5,
                Steps=inner,
            )
        )
    )


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"Steps": [sleep("first")]}, "either Iterators or a LoopCondition"),
        ({"Iterators": ["a"], "Steps": []}, "Steps: aws:loop needs it"),
        ({"Iterators": ["a"], "Steps": [sleep("again")]}, "two steps are named again"),
        ({"Iterators": ["a"], "Steps": [sleep("first", nextStep="after")]}, "first leads to after"),
        ({"Iterators": ["a"], "Steps": [sleep("x", nextStep="y"), sleep("y", nextStep="x")]}, "in a circle: x → y → x"),
        ({"LoopCondition": {"Variable": "x", "StringEquals": "y"}, "Steps": [sleep("first")]}, "MaxIterations"),
        (
            {"LoopCondition": {"Variable": "x", "StringEquals": "y"}, "MaxIterations": 101, "Steps": [sleep("first")]},
            "from 1 to 100",
        ),
        (
            {"Iterators": ["a"], "Steps": [{**loop(Iterators=["b"], Steps=[sleep("deep")]), "name": "inner"}]},
            "within a loop",
        ),
    ],
)
def test_what_is_wrong_with_a_loop_is_told(inputs, words):
    with pytest.raises(InvalidDocument) as refused:
        automation.parse(runbook(loop(**inputs), sleep("after")))
    assert words in str(refused.value)


def test_what_cannot_be_run_here_is_a_runbook_all_the_same():
    script = {
        "name": "compute",
        "action": "aws:executeScript",
        "inputs": {
            "Runtime": "python3.11",
            "Handler": "main",
            "Script": "def main(events, context):\n  '{{ braces }}'",
        },
        "outputs": [{"Name": "Sum", "Selector": "$.Payload.sum", "Type": "Integer"}],
    }
    assert automation.parse(runbook(script, sleep("nap"), outputs=["compute.Sum", "compute.Payload"]))


_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 200)
    | st.sampled_from(["", "x", "step:nap", "{{ x }}", "{{", "$.a", "0.3"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "Not", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def _places(value, way=()):
    """The way to everything in a document."""
    yield way
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield from _places(item, (*way, key))


@given(st.sampled_from([way for way in _places(WHOLE) if way]), _ANYTHING)
@settings(max_examples=150, deadline=None)
def test_whatever_stands_in_a_runbook_it_is_read_or_refused(way, value):
    try:
        automation.parse(with_(way, value))
    except InvalidDocument as refused:
        assert str(refused)


def test_a_runbook_that_is_too_deep_is_refused():
    deep = value = {}
    for _ in range(5000):
        value["a"] = value = {}
    with pytest.raises(InvalidDocument, match="too deep"):
        automation.parse(runbook(step_with(deep)))


def step_with(inputs):
    return {"name": "deep", "action": "aws:executeAwsApi", "inputs": {"Service": "ec2", "Api": "X", "Deep": inputs}}
