"""What goes into the logs, and in which form: lines for people, or JSON for programs.

Code logs a past fact and its facts as key=value: `logger.info("wave started run=%s wave=%s", run, wave)`. As a line it
stays so. As JSON the pairs are fields of their own, beside time, level, logger, and what is known of the request.
"""

from __future__ import annotations

import logging
import math
import re
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from fleetops.web.context import current

# A conversion of %-formatting, behind key= if it is a pair: (1) key, (2) conversion. "%%" is none.
_CONVERSION = re.compile(r"(?:\b([A-Za-z_]\w*)=)?(%[-#0+ ]*\d*(?:\.\d+)?[hlL]?[diouxXeEfFgGcrsa])|%%")
# Pairs that stand in the text itself, with no conversion.
_WRITTEN = re.compile(r"\b([A-Za-z_]\w*)=([^\s,;:%]+)")
_OWN = frozenset({"time", "level", "logger", "event", "exception", "request_id", "source", "user", "session"})


class WithoutTicks(logging.Filter):
    """Leave out beat's line for each task that it hands out: several a second, and none of them is news."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Scheduler: Sending due task")


def parted(template: str, args: Any) -> tuple[str, dict[str, Any]]:
    """A message as its words and its pairs. Where the template is not of our kind, all of it is words."""
    if not isinstance(args, tuple):
        return (template % args if args else template), {}
    values = list(args)
    pairs: dict[str, Any] = {}

    def take(found: re.Match[str]) -> str:
        key, conversion = found.groups()
        if conversion is None:
            return "%"
        value = values.pop(0)
        if not key:
            return conversion % (value,)
        pairs[key] = _value(value, conversion)
        return ""

    if args:
        try:
            words = _CONVERSION.sub(take, template)
        except (IndexError, TypeError, ValueError):
            return template % args, {}
        if values:  # a conversion that we do not read, as in "%*d"
            return template % args, {}
    else:
        words = template
        for key, value in _WRITTEN.findall(template):
            pairs[key] = value
        words = _WRITTEN.sub("", words)
    words = re.sub(r"\s+([:;,.])", r"\1", " ".join(words.split())).strip(" :;,")
    return (words, pairs) if words else (template % args if args else template, {})


def _value(value: Any, conversion: str) -> Any:
    """A number stays one, as exact as the line shows it; all else is text."""
    if value is None or isinstance(value, bool):
        return value
    text = conversion % (value,)
    if isinstance(value, int | float) and math.isfinite(value):
        try:
            return int(text) if conversion[-1] in "diu" or isinstance(value, int) else float(text)
        except ValueError:  # as in %x
            return text
    return text


def _facts(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
    """The record as a dictionary, in the order in which it is read."""
    record: logging.LogRecord = event["_record"]
    args = event.pop("positional_args", ())
    try:
        words, pairs = parted(str(record.msg), args)
    except (TypeError, ValueError):
        words, pairs = event["event"], {}
    context = current.get()
    known = {
        "request_id": context.request_id,
        "source": context.source,
        "session": context.session,
        "user": context.user,
    }
    facts: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": words,
        **{key: value for key, value in known.items() if value},
    }
    for key, value in pairs.items():
        is_same = key in facts and str(facts[key]) == str(value)
        # A line speaks of its own session; what the context says of another one stands beside it.
        name = f"{key}_" if key in _OWN - {"session"} and key in facts and not is_same else key
        facts[name] = value
    return facts | {key: value for key, value in event.items() if key not in facts and key != "event"}


def json_formatter() -> logging.Formatter:
    """The formatter of FLEETOPS_LOG_FORMAT=json: one object a line, whoever logs it."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[_facts, structlog.processors.format_exc_info],
        pass_foreign_args=True,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
    )


def _dumps(facts: dict[str, Any], **_: Any) -> str:
    return orjson.dumps(facts, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
