"""Who runs what under `make test`: tests/support/workers.py."""

import re
from pathlib import Path

from tests.support.workers import LONGEST, ONE_PRODUCT, WHOLE

ROOT = Path(__file__).resolve().parents[1]
STARTS_WHOLE = re.compile(r"\brunning_stack\(|\bProduction\(")


def test_what_starts_a_whole_product_is_left_to_the_first_worker():
    files = [path for path in (ROOT / "tests").rglob("*.py") if path.parent.name != "support"]
    starts = {str(path.relative_to(ROOT)) for path in files if STARTS_WHOLE.search(path.read_text())}
    assert {file for file in starts if not file.startswith(WHOLE)} == set()
    # And none of the list is a place that was moved away.
    assert {path for path in WHOLE if not any(file.startswith(path) for file in starts)} == set()
    assert set(ONE_PRODUCT) <= set(WHOLE)
    assert [path for path in LONGEST if not (ROOT / path).exists()] == []
