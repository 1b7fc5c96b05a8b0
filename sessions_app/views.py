"""Pages of terminal sessions: open and work in one, see them all, replay one, take its recording away."""

from __future__ import annotations

from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import Q
from django.http import HttpResponse, HttpResponseBadRequest, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.errors import UserError
from fleetops.inventory.models import Account, Instance
from fleetops.policy.services import PolicyDenied, ReasonNeeded

from . import command_views, downloads, grant_views, recording, services
from .addresses import terminal_address
from .delivery import services as deliveries
from .live_views import terminal_context
from .models import RecordingChunk, TerminalSession
from .states import SessionKind, SessionState
from .transfers import rows as transfers

PAGE_SIZE = 100
MOST_WORDS = 12  # of a search; each is looked for in four columns
PANEL_SIZE = 10
PURPOSES = ("replay", "terminal", "join", "message", "end")  # for which the policy may want a reason
LIVE = "live"
PAST = "past"


@require_safe
def session_list(request):
    """Sessions, the newest first: those that are live, then past ones in pages of 100.

    Query: `q` (words in person, instance, reason), `state` ("live", "past"), `account`, `user`, `before` (id of the
    last row of the page before). Context: `live` (TerminalSessions, on the first page only), `sessions` (past ones),
    `next` (the query string of the next page, or ""), `filters` ({"q", "state", "account", "user"}), `accounts`
    ([{"account_id", "name"}]), `sees_all` (may review everybody's), `can_end_all`. An htmx request gets
    `sessions/_list.html`, with the same context; each session has `lag`, None if it goes to no log. Three queries of
    its own, however many rows.
    """
    asked = {name: request.GET.get(name, "") for name in ("q", "state", "account", "user")}
    filters = {name: text.replace("\x00", "").strip()[:200] for name, text in asked.items()}
    found = deliveries.with_lag(TerminalSession.objects.visible_to(request.user))
    for word in filters["q"].split()[:MOST_WORDS]:
        found = found.filter(
            Q(instance_name__icontains=word)
            | Q(instance_id__icontains=word)
            | Q(user_name__icontains=word)
            | Q(reason__icontains=word)
        )
    if filters["account"]:
        found = found.filter(account_id=filters["account"])
    if filters["user"]:
        found = found.filter(user_name=filters["user"])
    before = request.GET.get("before", "")
    live = [] if before or filters["state"] == PAST else list(found.live()[: 2 * PAGE_SIZE])
    past = found.exclude(state__in=[SessionState.OPENING, SessionState.OPEN])
    if before:
        try:
            past = past.filter(pk__lt=UUID(before))
        except ValueError:
            return HttpResponseBadRequest("“before” is no session's id.")
    rows = [] if filters["state"] == LIVE else list(past[: PAGE_SIZE + 1])
    following = ""
    if len(rows) > PAGE_SIZE:
        rows = rows[:PAGE_SIZE]
        query = request.GET.copy()
        query["before"] = str(rows[-1].pk)
        following = query.urlencode()
    deliveries.show_lag([*live, *rows])
    context = {
        "live": live,
        "sessions": rows,
        "next": following,
        "filters": filters,
        "accounts": list(Account.objects.values("account_id", "name")),
        "sees_all": request.user.has_perm(services.REVIEW_PERMISSION),
        "can_end_all": request.user.has_perm(services.END_PERMISSION),
    }
    is_part = getattr(request, "htmx", False) and not request.htmx.boosted
    return render(request, "sessions/_list.html" if is_part else "sessions/list.html", context)


@require_safe
def panel(request, pk):
    """The latest ten sessions on one instance that this user may see, as a part of its page.

    Context: `instance`, `sessions`. Template `sessions/_panel.html`. Two queries of its own.
    """
    instance = get_object_or_404(Instance.objects.visible_to(request.user), pk=pk)
    found = TerminalSession.objects.visible_to(request.user).filter(
        account_id=instance.account.account_id, region=instance.region.name, instance_id=instance.instance_id
    )
    return render(request, "sessions/_panel.html", {"instance": instance, "sessions": list(found[:PANEL_SIZE])})


@require_POST
def open_session(request):
    """Open a session on the instance whose id is in the form's `instance`, and go to its terminal.

    An optional `reason` says why, `run_as` names an OS user; where the policy wants a reason, the answer is a page that
    asks for it (`sessions/reason.html`). Who may not is told so, and it is audited; where a second factor or an
    approval is missing, the page offers it (`sessions/denied.html`). With `Accept: application/json` the answer is
    {"id"}, or {"problem", "needs_reason"}.
    """
    try:
        instance = get_object_or_404(
            Instance.objects.visible_to(request.user).select_related("account", "region"),
            pk=request.POST.get("instance", ""),
        )
    except ValidationError:
        return HttpResponseBadRequest("“instance” is no instance's id.")
    is_json = request.headers.get("Accept") == "application/json"
    run_as = request.POST.get("run_as", "").strip()[:64]
    try:
        session = services.open_session(
            instance, actor=request.user, reason=request.POST.get("reason", ""), run_as=run_as
        )
    except ReasonNeeded as needed:
        if is_json:
            return JsonResponse({"problem": str(needed), "needs_reason": True}, status=400)
        context = {"instance": instance, "needed": needed, "purpose": "open", "is_missing": "reason" in request.POST}
        context["run_as"] = run_as
        return render(request, "sessions/reason.html", context, status=400 if context["is_missing"] else 200)
    except UserError as error:
        if not is_json:
            if isinstance(error, PolicyDenied) and error.decision.unmet:
                return grant_views.denied(request, instance, error, run_as=run_as)
            raise
        return JsonResponse({"problem": str(error), "needs_reason": False}, status=409)
    return JsonResponse({"id": str(session.pk)}) if is_json else redirect("sessions:terminal", pk=session.pk)


@require_http_methods(["GET", "HEAD", "POST"])
def reason(request, pk):
    """Ask why somebody wants to see or end a session, where the policy wants to know, and go on there.

    `for` says what, one of PURPOSES. Template `sessions/reason.html`.
    """
    purpose = (request.POST if request.method == "POST" else request.GET).get("for", "replay")
    if purpose not in PURPOSES:
        return HttpResponseBadRequest(f"“for” is none of {', '.join(PURPOSES)}.")
    is_end = purpose == "end"
    visible = services.endable_by(request.user) if is_end else TerminalSession.objects.visible_to(request.user)
    session = get_object_or_404(visible, pk=pk)
    text = services.one_line(request.POST.get("reason", ""))
    if request.method != "POST" or not text:
        context = {"session": session, "purpose": purpose, "is_missing": request.method == "POST"}
        return render(request, "sessions/reason.html", context, status=400 if context["is_missing"] else 200)
    if purpose == "end":
        services.request_end(session, actor=request.user, reason=text)
        return redirect("sessions:replay", pk=session.pk)
    services.give_reason(request.session, session.pk, text)
    if purpose == "join":
        return redirect(f"{reverse('sessions:terminal', args=[session.pk])}?join=1")
    return redirect(f"sessions:{purpose}", pk=session.pk)


def _ask_why(request, session: TerminalSession, purpose: str):
    url = f"{reverse('sessions:reason', args=[session.pk])}?for={purpose}"
    if not getattr(request, "htmx", False):
        return redirect(url)
    response = HttpResponse(status=204)
    response["HX-Redirect"] = url
    return response


def _reason(request, session: TerminalSession) -> str:
    return services.reason_given(request.session, session.pk)


@require_safe
def terminal(request, pk):
    """The terminal of a session: of one's own to work in, of anybody's to watch, or with `?join=1` to type in as well.

    Context: see live_views.terminal_context. Template `sessions/terminal.html`. A session that is over leads to its
    replay.
    """
    session = get_object_or_404(
        TerminalSession.objects.visible_to(request.user).select_related("instance_row", "grant"), pk=pk
    )
    if not session.is_live or session.kind in (SessionKind.FORWARD, SessionKind.TRANSFER):
        return redirect("sessions:replay", pk=session.pk)
    try:
        context = terminal_context(request, session)
    except ReasonNeeded:
        return _ask_why(request, session, "join" if request.GET.get("join") == "1" else "terminal")
    response = render(request, "sessions/terminal.html", context)
    # The one page that opens a websocket, and the one place that it may open it to.
    response._csp_update = {"connect-src": [terminal_address(request)]}  # django-csp's own attribute
    return response


@require_POST
def end(request, pk):
    """Ask for the end of a session, then show its replay page. Own sessions, or all with the permission."""
    session = get_object_or_404(services.endable_by(request.user), pk=pk)
    try:
        services.request_end(session, actor=request.user)
    except ReasonNeeded:
        return _ask_why(request, session, "end")
    if getattr(request, "htmx", False):
        return HttpResponse(status=204)
    if "sessions/" in request.headers.get("Referer", "") and request.POST.get("next") == "list":
        return redirect("sessions:list")
    return redirect("sessions:replay", pk=session.pk)


@require_safe
def replay(request, pk):
    """The recording of a session, also of a live one: what is sealed of it.

    Context: `session`, `account_name`, `duration` (seconds), `chunk_count`, `stored_bytes`, `output_bytes`, `is_whole`
    (ended and sealed to its end), `is_live`, `faults` (in words, why it is not what was sealed), `copy` (RecordingCopy,
    or None), `console` (address of its log stream in AWS's console, or ""), `transfers` (files that went along with
    it), `carried` (the Transfer that it was for, or None). Template `sessions/replay.html`. That
    somebody looked is audited.
    """
    visible = deliveries.with_lag(TerminalSession.objects.visible_to(request.user).select_related("instance_row"))
    session = get_object_or_404(visible, pk=pk)
    deliveries.show_lag([session])
    try:
        services.record_view(session, actor=request.user, reason=_reason(request, session))
    except ReasonNeeded:
        return _ask_why(request, session, "replay")
    chunks = list(session.chunks.order_by("number").only("size", "last_time_us", "output_bytes", "session_id"))
    context = {
        "session": session,
        "account_name": _account_name(session),
        "duration": chunks[-1].last_time_us / 1e6 if chunks else 0.0,
        "chunk_count": len(chunks),
        "stored_bytes": sum(chunk.size for chunk in chunks),
        "output_bytes": sum(chunk.output_bytes for chunk in chunks),
        "is_whole": session.sealed_at is not None,
        "is_live": session.is_live,
        "faults": recording.verify(session).faults,
        "copy": getattr(session, "recording_copy", None),
        "console": deliveries.console_of(session),
        "transfers": list(session.transfers.select_related("session")),
        "carried": transfers.of(session),
    }
    context |= command_views.beside(session)
    return render(request, "sessions/replay.html", context)


@require_safe
def cast(request, pk):
    """The recording as an asciicast, streamed; `?version=3` for the newer format. Audited as a download.

    With `?play=1` it is for the page's own player: part of the look that the page was, and not saved as a file.
    """
    version = 3 if request.GET.get("version") == "3" else 2
    session, chunks = _recorded(request, pk)
    why = _reason(request, session)
    if request.GET.get("play") == "1":
        services.record_look(session, actor=request.user, reason=why)
        return downloads.stream(session, chunks, actor=request.user, version=version, reason=why)
    return downloads.download(session, chunks, actor=request.user, version=version, reason=why)


@require_safe
def events(request, pk):
    """What a player has to know of a recording before it plays, as JSON: see recording.index."""
    session, chunks = _recorded(request, pk)
    services.require_reading(session, actor=request.user, reason=_reason(request, session))
    return _json(recording.index(session, chunks))


@require_safe
def search(request, pk):
    """Where `q` was shown, as JSON: {"q", "hits": [{"time": seconds, "text": line}], "has_more"}; at most 200."""
    session, chunks = _recorded(request, pk)
    services.record_look(session, actor=request.user, reason=_reason(request, session))
    wanted = request.GET.get("q", "")[:200]
    hits, has_more = recording.search(chunks, wanted)
    return _json({"q": wanted, "hits": hits, "has_more": has_more})


def _recorded(request, pk) -> tuple[TerminalSession, list[RecordingChunk]]:
    """A session that this user may replay, and its chunks."""
    session = get_object_or_404(TerminalSession.objects.visible_to(request.user), pk=pk)
    return session, list(session.chunks.order_by("number"))


def _account_name(session: TerminalSession) -> str:
    name = Account.objects.filter(account_id=session.account_id).values_list("name", flat=True).first()
    return name or session.account_id


def _json(content: dict) -> JsonResponse:
    response = JsonResponse(content)
    response["Cache-Control"] = "no-store"
    return response
