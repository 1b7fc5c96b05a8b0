"""Compliance as files: CSV for spreadsheets, JSON for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.http import Http404, HttpRequest, StreamingHttpResponse

from fleetops.audit.record import Target, record
from fleetops.clock import now

from .asking import Scope
from .models import Report
from .verdict import NON_COMPLIANT

MOST_PRINTED: Final = 2000
BLOCK: Final = 500  # lines
INSTANCES: Final = (
    *("instance_id", "name", "account", "region", "platform", "compliant", "operation", "reported_at", "baseline"),
    *("patch_group", "installed", "installed_other", "pending_reboot", "rejected", "missing", "failed"),
    *("not_applicable", "critical", "security", "other"),
)
PATCHES: Final = (
    *("instance_id", "name", "account", "region", "patch", "title", "classification", "severity", "state", "since"),
    *("lacking_since", "installed_at", "cves"),
)


def answer(request: HttpRequest, scope: Scope, *, what: str, form: str) -> StreamingHttpResponse:
    """The rows of a scope, as they are read. Raises Http404 for what there is not."""
    if what not in {"instances", "patches"} or form not in {"csv", "json"}:
        raise Http404
    columns, rows = (INSTANCES, _instances(scope)) if what == "instances" else (PATCHES, _patches(scope))
    record(
        "compliance.export",
        actor=request.user,
        target=Target("compliance", "", f"patch compliance, {what}"),
        form=form,
        targets=scope.text,
        state=scope.state,
        at=scope.moment.isoformat() if scope.moment else "",
    )
    lines = _csv(columns, rows) if form == "csv" else _json(columns, rows)
    kind = "text/csv; charset=utf-8" if form == "csv" else "application/json"
    found = StreamingHttpResponse(_in_blocks(lines), content_type=kind)
    found["Content-Disposition"] = f'attachment; filename="compliance-{what}-{now():%Y%m%dT%H%M%SZ}.{form}"'
    return found


async def _in_blocks(lines: Iterator[str]) -> AsyncIterator[str]:
    """Some lines at a time, made in the request's own thread: never the whole file in memory."""
    take = sync_to_async(lambda: "".join(islice(lines, BLOCK)))
    while block := await take():
        yield block


def _instances(scope: Scope) -> Iterator[tuple[Any, ...]]:
    found = scope.reports().select_related("instance__account", "instance__region").order_by("instance__name", "pk")
    for each in found.iterator(chunk_size=1000):
        yield _instance(each)
    if scope.state in {"", "never"}:
        for row in scope.never().select_related("account", "region").iterator(chunk_size=1000):
            facts = (row.instance_id, row.name, row.account.account_id, row.region.name, row.platform)
            yield (*facts, None, *[""] * (len(INSTANCES) - len(facts) - 1))


def _instance(each: Report) -> tuple[Any, ...]:
    row = each.instance
    return (
        *(row.instance_id, row.name, row.account.account_id, row.region.name, row.platform, each.is_compliant),
        *(each.operation, each.ended_at.isoformat(), each.baseline_id, each.patch_group, each.installed),
        *(each.installed_other, each.pending_reboot, each.rejected, each.missing, each.failed),
        *(each.not_applicable, each.critical, each.security, each.other),
    )


def _patches(scope: Scope) -> Iterator[tuple[Any, ...]]:
    found = scope.spans().filter(state__in=NON_COMPLIANT, instance__in=scope.reports().values("instance"))
    found = found.select_related("instance__account", "instance__region").prefetch_related("cves")
    for each in found.order_by("instance__name", "instance", "kb_id").iterator(chunk_size=1000):
        row = each.instance
        yield (
            *(row.instance_id, row.name, row.account.account_id, row.region.name, each.kb_id, each.title),
            *(each.classification, each.severity, each.state, each.from_at.isoformat()),
            each.lacks_since.isoformat() if each.lacks_since else "",
            each.installed_at.isoformat() if each.installed_at else "",
            " ".join(sorted(one.cve for one in each.cves.all())),
        )


def _csv(columns: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(each) for each in row])
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    if text.tell():
        yield text.getvalue()


def _cell(value: Any) -> str:
    """A spreadsheet takes what begins so for a formula; a name of an instance is anybody's."""
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def _json(columns: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> Iterator[str]:
    yield "["
    for number, row in enumerate(rows):
        entry = dict(zip(columns, row, strict=True))
        if "cves" in entry:
            entry["cves"] = entry["cves"].split()
        yield ("," if number else "") + "\n" + json.dumps(entry)
    yield "\n]\n"
