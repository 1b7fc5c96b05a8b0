"""A line of the log as an object: words, pairs, and what is known of the request."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.logs import json_formatter, parted
from fleetops.web.context import within


def written(message: str, *args, **more) -> dict:
    record = logging.LogRecord("room.part", logging.INFO, "f.py", 1, message, args, more.get("exc_info"))
    return json.loads(json_formatter().format(record))


@pytest.mark.parametrize(
    ("template", "args", "words", "pairs"),
    [
        ("wave started run=%s wave=%d", ("r1", 3), "wave started", {"run": "r1", "wave": 3}),
        ("not taken session=%s: %s", ("s1", "late"), "not taken: late", {"session": "s1"}),
        ("took seconds=%.3f ms=%d", (1.23456, 7.9), "took", {"seconds": 1.235, "ms": 7}),
        ("spool is 100%% full path=%s", ("/x",), "spool is 100% full", {"path": "/x"}),
        ("ended code=7", (), "ended", {"code": "7"}),
        ("%s ready.", ("celery@host",), "celery@host ready.", {}),
        ("nothing=%r", (None,), "nothing=None", {}),  # an event has words
        ("too few %s %s", ("one",), None, None),
        ("width %*d", (5, 3), "width     3", {}),
    ],
)
def test_a_message_parts_into_words_and_pairs(template, args, words, pairs):
    if words is None:
        with pytest.raises(TypeError):
            parted(template, args)
    else:
        assert parted(template, args) == (words, pairs)


@given(st.text(st.characters(codec="utf-8")), st.lists(st.one_of(st.text(), st.integers(), st.none(), st.floats())))
def test_whatever_is_logged_comes_out_as_one_line_of_json(message, args):
    record = logging.LogRecord("room.part", logging.INFO, "f.py", 1, message, tuple(args), None)
    try:
        record.getMessage()
    except (TypeError, ValueError, KeyError, OverflowError):
        return  # logging itself refuses it, before any formatter
    line = json_formatter().format(record)
    assert "\n" not in line and json.loads(line)["level"] == "info"


def test_a_line_knows_its_request_source_user_and_session():
    with within("browser", source_address="10.0.0.1") as context:
        context.user, context.session = "u1", "s1"
        facts = written("door opened instance=%s request_id=%s", "i-1", "theirs")
    assert facts["request_id"] == context.request_id and facts["request_id_"] == "theirs"
    assert (facts["source"], facts["user"], facts["session"]) == ("browser", "u1", "s1")
    assert (facts["event"], facts["instance"], facts["logger"]) == ("door opened", "i-1", "room.part")
    assert "request_id" not in written("nobody asks")


def test_a_failure_brings_its_traceback_in_the_same_line():
    try:
        raise ValueError("odd")
    except ValueError as error:
        facts = written("it failed task=%s", "t", exc_info=(ValueError, error, error.__traceback__))
    assert "ValueError: odd" in facts["exception"] and facts["task"] == "t"


def test_a_block_within_one_of_the_same_source_is_part_of_it():
    with within("worker", request_id="from-a-page") as outer:
        with within("worker") as inner:
            assert inner is outer
        with within("command") as other:
            assert other.request_id != "from-a-page"
