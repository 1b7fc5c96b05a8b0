"""Requests for approval: what waits for me, what I asked for, and one request with its answers.

A link in a mail leads to the page of a request and does nothing: answering takes a log-in and a form that is posted.
"""

import uuid
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from fleetops.clock import now
from fleetops.errors import UserError

from . import services
from .models import VIEW_PERMISSION, VOTE_PERMISSION, ApprovalRequest

PAGE_ROWS = 50
TABS = ("waiting", "mine", "all")


@require_safe
def requests(request: HttpRequest) -> HttpResponse:
    """What waits for this person, what they asked for, or everything that they may read."""
    moment = now()
    visible = ApprovalRequest.objects.visible_to(request.user)
    waiting = ApprovalRequest.objects.waiting_for(request.user, moment)
    answers = request.user.has_perm(VOTE_PERMISSION)
    reads_all = answers or request.user.has_perm(VIEW_PERMISSION)
    tab = request.GET.get("show", "")
    if tab not in TABS or (tab == "waiting" and not answers) or (tab == "all" and not reads_all):
        tab = "waiting" if answers else "mine"
    rows = {"waiting": waiting, "mine": visible.filter(requested_by=request.user), "all": visible}[tab]
    if tab != "waiting":
        rows = rows.order_by("-pk")
        if before := _id(request.GET.get("before", "")):
            rows = rows.filter(pk__lt=before)
    page = list(rows.prefetch_related("votes")[: PAGE_ROWS + 1])
    for row in page:
        row.yes = sum(vote.approves for vote in row.votes.all())
        row.is_over = row.state in {"pending", "approved"} and not row.is_open(moment)
    more = page[PAGE_ROWS:] and tab != "waiting"
    context = {
        "tab": tab,
        "rows": page[:PAGE_ROWS],
        "next": urlencode({"show": tab, "before": page[PAGE_ROWS - 1].pk}) if more else "",
        "waiting": waiting.count() if answers else 0,
        "answers": answers,
        "reads_all": reads_all,
        "is_first": "before" not in request.GET,
    }
    return render(request, "approvals/list.html", context)


def _id(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


@require_safe
def request_page(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One request: what will be done, who has answered, and the form to answer it."""
    found = get_object_or_404(ApprovalRequest.objects.visible_to(request.user), pk=pk)
    return _page(request, found)


def _page(request: HttpRequest, found: ApprovalRequest, *, error: str = "", reason: str = "") -> HttpResponse:
    votes = list(found.votes.all())
    yes = sum(vote.approves for vote in votes)
    open_now = found.is_open(now())
    context = {
        "request_row": found,
        "votes": votes,
        "yes": yes,
        "missing": max(found.quorum - yes, 0),
        "facts": [(key.replace("_", " ").capitalize(), value) for key, value in found.details.items()],
        "roles": list(found.approvers.values_list("name", flat=True)),
        "is_open": open_now,
        "is_mine": found.requested_by_id == request.user.pk,
        "has_voted": any(vote.user_id == request.user.pk for vote in votes),
        "may_vote": open_now and found.state == "pending" and services.may_vote(found, request.user),
        "error": error,
        "reason": reason,
    }
    return render(request, "approvals/request.html", context, status=400 if error else 200)


@require_POST
def vote(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(ApprovalRequest.objects.visible_to(request.user), pk=pk)
    answer, reason = request.POST.get("answer", ""), request.POST.get("reason", "")
    if answer not in {"approve", "deny"}:
        return _page(request, found, error="Choose Approve or Deny.", reason=reason)
    try:
        answered = services.vote(pk, actor=request.user, approve=answer == "approve", reason=reason)
    except services.ReasonMissing as missing:
        return _page(request, found, error=str(missing), reason=reason)
    missing = answered.quorum - answered.votes.filter(approves=True).count()
    if answer == "deny":
        messages.success(request, "Denied. Nothing will be done.")
    elif missing > 0:
        messages.success(request, f"Your approval is noted; {missing} more {'is' if missing == 1 else 'are'} needed.")
    else:
        messages.success(request, f"Approved. {answered.requested_by_name} may go on.")
    return redirect(answered)


@require_POST
def withdraw(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(ApprovalRequest.objects.visible_to(request.user), pk=pk)
    try:
        services.withdraw(pk, actor=request.user)
    except UserError as error:
        if found.requested_by_id != request.user.pk:
            raise
        return _page(request, found, error=str(error))
    messages.success(request, "The request is taken back.")
    return redirect(found)
