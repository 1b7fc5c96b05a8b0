"""Pages and parts of live sessions: one terminal in a window of several, and a message to who is there."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from fleetops.errors import UserError
from fleetops.inventory.models import Account
from fleetops.policy.services import PolicyDenied, ReasonNeeded

from . import live, services
from .models import TerminalSession
from .transfers.views import files_context

GONE = 410


def terminal_context(request, session: TerminalSession) -> dict:
    """What `sessions/_session.html` shows to one who may see it. Raises PolicyDenied, audited; ReasonNeeded.

    `session`, `account_name`, `is_own`, `watch` (may only look), `join` (types into another's), `may_join`, `motd` (the
    message of the day, or ""), `files` (see transfers.views.files_context; None where none may go).
    """
    is_own = session.user_id == request.user.pk
    join = not is_own and request.GET.get("join") == "1"
    reason = services.reason_given(request.session, session.pk)
    if join:
        live.require_joining(session, actor=request.user, reason=reason)
    elif not is_own:
        services.require_watching(session, actor=request.user, reason=reason)
    return {
        "session": session,
        "is_own": is_own,
        "join": join,
        "watch": not is_own and not join,
        "may_join": not is_own and not join and live.may_join(session, request.user, reason=reason),
        "account_name": _account_name(session),
        "motd": settings.MESSAGE_OF_THE_DAY if is_own else "",
        "files": files_context(request, session.instance_row, session) if is_own else None,
    }


def _account_name(session: TerminalSession) -> str:
    name = Account.objects.filter(account_id=session.account_id).values_list("name", flat=True).first()
    return name or session.account_id


@require_safe
def pane(request, pk):
    """One session as a part, for a window that shows several: `sessions/_session.html`. Over: 410, with the reason."""
    session = get_object_or_404(
        TerminalSession.objects.visible_to(request.user).select_related("instance_row", "grant"), pk=pk
    )
    if not session.is_live:
        return HttpResponse(session.end_reason, status=GONE, content_type="text/plain; charset=utf-8")
    try:
        context = terminal_context(request, session)
    except ReasonNeeded:
        where = f"{reverse('sessions:reason', args=[pk])}?for=terminal"
        return HttpResponse(status=204, headers={"HX-Redirect": where})
    except PolicyDenied as denied:
        return HttpResponse(str(denied), status=403, content_type="text/plain; charset=utf-8")
    return render(request, "sessions/_session.html", context | {"motd": ""})  # the window has shown it


@require_http_methods(["GET", "HEAD", "POST"])
def message(request, pk):
    """Say something to who is at a live session. Template `sessions/message.html`: `session`, `text`, `problem`.

    With `Accept: text/plain` the answer is a word in words: 204, or 409 with why not.
    """
    session = get_object_or_404(TerminalSession.objects.visible_to(request.user), pk=pk)
    reason = services.reason_given(request.session, session.pk)
    if not session.is_live:
        return redirect("sessions:replay", pk=session.pk)
    try:
        services.require_watching(session, actor=request.user, reason=reason)
    except ReasonNeeded:
        return redirect(f"{reverse('sessions:reason', args=[session.pk])}?for=message")
    text, problem = request.POST.get("text", ""), ""
    is_plain = request.headers.get("Accept") == "text/plain"
    if request.method == "POST":
        try:
            live.send_message(session, actor=request.user, text=text, reason=reason)
        except UserError as error:
            problem = str(error)
        else:
            return HttpResponse(status=204) if is_plain else redirect("sessions:terminal", pk=session.pk)
        if is_plain:
            return HttpResponse(problem, status=409, content_type="text/plain; charset=utf-8")
    context = {"session": session, "text": text, "problem": problem}
    return render(request, "sessions/message.html", context, status=400 if problem else 200)
