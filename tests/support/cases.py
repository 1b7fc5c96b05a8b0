"""Hundreds of cases in one test, over a table: each finds the rows as they were, and all that fail are told.

As tests of their own, thousands of them took longer to collect and to set up than to run.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from django.db import transaction


class Cases:
    """`with cases.one("POST", name, person): ...`, once for each; `done()` at the end."""

    def __init__(self) -> None:
        self.count = 0
        self.wrong: list[str] = []

    @contextlib.contextmanager
    def one(self, *what: Any) -> Iterator[None]:
        self.count += 1
        around = transaction.atomic()
        around._from_testcase = True  # as the test's own: a durable block may stand in it
        with around:
            try:
                yield
            except Exception as error:  # an assertion's, or of what was asked: either way the next is asked too
                self.wrong.append(f"{' '.join(map(str, what))}: {type(error).__name__}: {error}")
            transaction.set_rollback(True)

    def done(self) -> None:
        assert self.count, "there was no case"
        assert not self.wrong, "\n".join([f"{len(self.wrong)} of {self.count} are wrong:", *self.wrong])
