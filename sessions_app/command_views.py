"""Pages of the command log: look through all commands that one may read, take them away."""

from __future__ import annotations

from django.http import HttpResponseBadRequest
from django.shortcuts import render
from django.views.decorators.http import require_safe

from fleetops.inventory.models import Account

from . import command_search, services
from .models import TerminalSession
from .states import CommandSource

MOST_SHOWN = 1000  # beside a replay


@require_safe
def command_list(request):
    """Commands of all sessions that this user may read, the newest first, in pages of 100.

    Query: the fields of command_search.FIELDS, and `before` (the place of the page before). Context: `commands`,
    `next` (the query string of the next page, or ""), `filters`, `accounts` ([{"account_id", "name"}]), `sources`,
    `spans`, `sees_all`, `has_left_out` (the policy may not let this user read some of them), `query` (of the export).
    An htmx request gets `sessions/_commands.html`, with the same context. At most six queries of its own, however many
    rows.
    """
    filters = command_search.filters_of(request.GET)
    reader = command_search.Reader(request.user, reason_for=lambda pk: services.reason_given(request.session, pk))
    try:
        rows = command_search.found(request.user, filters)
        page = command_search.page(rows, reader, before=request.GET.get("before", ""))
    except ValueError:
        return HttpResponseBadRequest("One of the filters has a value that is not known.")
    command_search.note_look(request.user, page.rows, filters)
    for row in page.rows:
        row.ended_with_session = row.ended_at is None and row.session_id in reader.over
    sees_all = request.user.has_perm(services.REVIEW_PERMISSION)
    # Whether something with just these words was left out is not told: that would be an answer about it.
    is_about_content = any(filters[name] for name in command_search.ABOUT_CONTENT)
    query = request.GET.copy()
    query.pop("before", None)
    export = query.urlencode()
    query["before"] = page.next
    context = {
        "commands": page.rows,
        "next": query.urlencode() if page.next else "",
        "filters": filters,
        "is_filtered": any(filters.values()),
        "accounts": list(Account.objects.values("account_id", "name")),
        "sources": CommandSource.choices,
        "spans": [("1h", "Last hour"), ("24h", "Last 24 hours"), ("7d", "Last 7 days"), ("30d", "Last 30 days")],
        "sees_all": sees_all,
        "has_left_out": sees_all if is_about_content else reader.has_left_out,
        "query": export,
    }
    is_part = getattr(request, "htmx", False) and not request.htmx.boosted
    return render(request, "sessions/_commands.html" if is_part else "sessions/commands.html", context)


@require_safe
def command_export(request, form: str):
    """The same rows, all of them up to 50,000, as a file: CSV, or JSON line by line. Audited."""
    filters = command_search.filters_of(request.GET)
    reader = command_search.Reader(request.user, reason_for=lambda pk: services.reason_given(request.session, pk))
    try:
        rows = command_search.found(request.user, filters)
    except ValueError:
        return HttpResponseBadRequest("One of the filters has a value that is not known.")
    return command_search.export(rows, reader, form=form, filters=filters)


def beside(session: TerminalSession) -> dict[str, object]:
    """For the replay page of a session that may be read: its commands, and what there is to say of them."""
    rows = list(session.commands.order_by("number")[: MOST_SHOWN + 1])
    return {
        "commands": rows[:MOST_SHOWN],
        "has_more_commands": len(rows) > MOST_SHOWN,
        "failed_commands": sum(1 for row in rows if row.exit_code),
        "disputed_commands": sum(1 for row in rows if row.is_disputed),
        "is_reading_commands": session.commands_done_at is None,
    }
