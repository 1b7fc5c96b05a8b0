"""Values in runbooks: references, JSONPath, types, conditions, lengths."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.documents import InvalidDocument
from fleetops.documents.automation_choice import OPERATORS, NotComparable, check, holds
from fleetops.documents.automation_values import NoValue, duration, path_error, references, resolve, select, typed

ANSWER = {
    "Reservations": [
        {
            "Instances": [
                {"Id": "i-1", "State": {"Name": "running", "Code": 16}, "Tags": [{"Key": "Name", "Value": "web"}]},
                {"Id": "i-2", "State": {"Name": "stopped", "Code": 80}, "Tags": []},
            ]
        },
        {"Instances": [{"Id": "i-3", "State": {"Name": "running", "Code": 16}}]},
    ],
    "with.dot": {"a-b": True},
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", ANSWER),
        ("$.Reservations[0].Instances[1].State.Name", "stopped"),
        ("$.Reservations[-1].Instances[0].Id", "i-3"),
        ("$['with.dot']['a-b']", True),
        ('$["with.dot"].a-b', True),
        ("$.Reservations[*].Instances[*].Id", ["i-1", "i-2", "i-3"]),
        ("$..Id", ["i-1", "i-2", "i-3"]),
        ("Reservations[1].Instances[0].Id", "i-3"),
        ("$.Reservations[0].Instances[0:1]..Code", [16]),
        ("$.Reservations[0].Instances[1:].Id", ["i-2"]),
        ("$.Reservations..Instances[0].Id", ["i-1", "i-3"]),
        ("$.Reservations[0].Instances[0].Tags[?(@.Key == 'Name')].Value", ["web"]),
        ("$.Reservations[*].Instances[?(@.State.Code != 16)].Id", ["i-2"]),
        ("$.Reservations[*].Nothing", []),
        ("$.Reservations[0].Instances[0].State.*", ["running", 16]),
    ],
)
def test_what_a_path_selects(path, found):
    assert select(path, ANSWER) == found


@pytest.mark.parametrize("path", ["$.Nothing", "$.Reservations[7]", "$.Reservations.Instances", "$.with.dot"])
def test_a_path_to_one_value_that_is_not_there_has_none(path):
    with pytest.raises(NoValue, match="No results for path"):
        select(path, ANSWER)


@pytest.mark.parametrize("path", ["", "$.", "$.a[", "a b", "$.a[x]", "$.a b", "$[?(@.a > 1)]", None, 3])
def test_what_is_no_path_is_told(path):
    assert path_error(path)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3), lambda c: st.lists(c) | st.dictionaries(st.text(max_size=3), c)
    )
)
@settings(max_examples=30)
def test_a_path_that_may_select_several_never_fails(value):
    assert isinstance(select("$..a", value), list)
    assert isinstance(select("$[*]", value), list)


def test_a_reference_alone_is_the_value_itself_and_within_a_text_its_text():
    known = {"ids": ["i-1", "i-2"], "yes": True, "step.Out": 3, "global:DATE": "2026-12-01"}
    value = {"a": "{{ ids }}", "b": ["{{yes}}"], "c": "{{ step.Out }} on {{global:DATE}}: {{ ids }}", "d": 5}
    assert resolve(value, known.__getitem__) == {
        "a": ["i-1", "i-2"],
        "b": [True],
        "c": '3 on 2026-12-01: ["i-1","i-2"]',
        "d": 5,
    }
    assert set(references(value)) == set(known)


def test_what_is_put_in_is_not_looked_through_again():
    assert resolve("{{ a }} {{ b }}", {"a": "{{ b }}", "b": "x"}.__getitem__) == "{{ b }} x"


@pytest.mark.parametrize(
    ("value", "kind", "held"),
    [
        (True, "String", "true"),
        (16, "String", "16"),
        ("16", "Integer", 16),
        ("True", "Boolean", True),
        ([1, "a"], "StringList", ["1", "a"]),
        ({"a": 1}, "StringMap", {"a": 1}),
        ([{"a": 1}], "MapList", [{"a": 1}]),
    ],
)
def test_a_value_in_its_type(value, kind, held):
    assert typed(value, kind) == held


@pytest.mark.parametrize(
    ("value", "kind"),
    [(["a"], "String"), (None, "String"), ("a", "Integer"), (True, "Integer"), (1, "Boolean"), ("a", "StringList")],
)
def test_a_value_of_another_type_is_none(value, kind):
    with pytest.raises(NoValue, match=f"is no {kind}"):
        typed(value, kind)


@pytest.mark.parametrize(
    ("operator", "true", "false"),
    [
        ("StringEquals", ("a", "a"), ("a", "A")),
        ("EqualsIgnoreCase", ("a", "A"), ("a", "b")),
        ("StartsWith", ("abc", "ab"), ("abc", "bc")),
        ("EndsWith", ("abc", "bc"), ("abc", "ab")),
        ("Contains", ("abc", "b"), (["abc"], "b")),
        ("NumericEquals", ("3", 3), (3, 4)),
        ("NumericGreater", (4, "3"), (3, 3)),
        ("NumericLesser", (2, 3), (3, 3)),
        ("NumericGreaterOrEquals", (3, 3), (2, 3)),
        ("NumericLesserOrEquals", (3, 3), (4, 3)),
        ("BooleanEquals", (True, "true"), ("False", True)),
    ],
)
def test_every_operator_holds_and_does_not(operator, true, false):
    for (held, wanted), expected in ((true, True), (false, False)):
        condition = {"Variable": held, operator: wanted}
        check(condition, "")
        assert holds(condition) is expected
        assert holds({"Not": condition}) is not expected


def test_no_operator_is_left_out_above():
    shown = test_every_operator_holds_and_does_not.pytestmark[0].args[1]
    assert {operator for operator, _, _ in shown} == set(OPERATORS)


def test_conditions_are_joined():
    yes, no = ({"Variable": "a", "StringEquals": value} for value in "ab")
    assert holds({"And": [yes, {"Or": [no, yes]}]})
    assert not holds({"And": [yes, no]})
    assert holds({"Not": [yes, no]})


@pytest.mark.parametrize(
    "condition", [{"And": []}, {"And": [1]}, {"Or": {}}, {}, {"Variable": 1}, {"And": [], "Not": {}}]
)
def test_what_is_no_condition_is_told(condition):
    with pytest.raises(InvalidDocument):
        check(condition, "here")


def test_sides_that_cannot_be_compared_are_told():
    with pytest.raises(NotComparable, match="many is no number"):
        holds({"Variable": "many", "NumericGreater": 3})
    with pytest.raises(NotComparable, match="neither true nor false"):
        holds({"Variable": "perhaps", "BooleanEquals": True})


def test_lengths_in_iso_8601():
    assert duration("P1DT2H3M4S") == timedelta(days=1, hours=2, minutes=3, seconds=4)
    assert duration("P2W") == timedelta(weeks=2)
    for wrong in ("", "P", "PT", "10M", "PT1.5S", "-PT1S", None, 5):
        assert duration(wrong) is None
