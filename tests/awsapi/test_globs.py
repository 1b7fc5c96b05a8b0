"""Wildcards: the same answers as the plain reading, and no pattern that takes for ever."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.awsapi import iampolicy
from fleetops.endpoint import ec2_instances


def plainly(pattern: str, text: str) -> bool:
    return bool(re.fullmatch("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), text, re.DOTALL))


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_a_pattern_means_what_it_says(pattern, text):
    assert iampolicy._like(pattern, text) is plainly(pattern, text)
    assert bool(ec2_instances._pattern(pattern).fullmatch(text)) is plainly(pattern, text)


@pytest.mark.parametrize("pattern", ["*a" * 500 + "*b", "*" * 2000 + "b", "a*?" * 600 + "b"])
def test_no_pattern_takes_for_ever(pattern):
    began = time.process_time()  # of this process alone, however busy the machine is
    assert not iampolicy._like(pattern, "a" * 2000)
    assert not ec2_instances._pattern(pattern).fullmatch("a" * 2000)
    assert time.process_time() - began < 2
