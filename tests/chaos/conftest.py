"""One running product for all kills of this folder: what one test breaks has to work for the next."""

import pytest

from tests.support.stack import Person, Stack, running_stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Stack:
    with running_stack(tmp_path_factory.mktemp("fo")) as running:
        yield running


@pytest.fixture(scope="module")
def person(stack: Stack) -> Person:
    return stack.log_in()
