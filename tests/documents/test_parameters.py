"""Parameters of a document, held against what it says of them."""

import pytest

from fleetops.documents import InvalidDocument, InvalidParameters
from fleetops.documents.parameters import check_parameters, foreign_to_agents, read_parameters


def declared(pattern: str, **more):
    return read_parameters({"word": {"type": "String", "allowedPattern": pattern} | more})


def test_a_pattern_is_looked_for_anywhere_in_a_value():
    assert check_parameters(declared("b+"), {"word": ["abc"]}) == {"word": "abc"}
    with pytest.raises(InvalidParameters, match="word must match"):
        check_parameters(declared("^b+$"), {"word": ["abc"]})


def test_a_pattern_that_does_not_end_is_given_up():
    """A test that waits for ever would be the fault that it is to show."""
    with pytest.raises(InvalidParameters, match="word takes too long to be held against"):
        check_parameters(declared("^(a|a)*$"), {"word": ["a" * 64 + "b"]})


def test_what_is_no_pattern_is_told():
    with pytest.raises(InvalidDocument, match="not a regular expression"):
        declared("(")


def test_a_bound_of_a_thousand_digits_is_a_bound():
    texts = check_parameters(declared("", maxChars="9" * 5000), {"word": ["abc"]})
    assert texts == {"word": "abc"}


@pytest.mark.parametrize(
    ("pattern", "foreign"),
    [
        ("^[a-z]{1,1000}(?:b|c)+?$", ""),
        (r"^\\{1,2000\}(?i)[(?=x)]\(?=$", ""),
        ("^[a-z]{1,1001}$", "a repetition of more than 1000 times"),
        ("^x{5500}$", "a repetition of more than 1000 times"),
        ("^(?!-)[a-z]+$", "a look ahead or behind"),
        ("^(?<=x)y$", "a look ahead or behind"),
        (r"^(a)\1$", "a reference back to a group"),
        ("^(?P<x>a)(?P=x)$", "a reference back to a group"),
        ("^(?>a+)b$", "a conditional, atomic or like group"),
        ("^a++b$", "a possessive repetition"),
        ("^a{1,2}+b$", "a possessive repetition"),
    ],
)
def test_what_an_agents_regexp_does_not_take_is_known(pattern, foreign):
    declared(pattern)
    assert foreign_to_agents(pattern) == foreign
