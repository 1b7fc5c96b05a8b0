"""The API budget's pages: how much AWS is asked, what waits for it, and the ceilings that people set."""

import json
import uuid
from collections.abc import Sequence
from urllib.parse import urlencode

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.clock import now, real_now
from fleetops.web.shortcuts import permission_required, require_permission

from . import budget as shaping
from . import ceilings as services
from .budget import Filter
from .budget_facts import facts_for
from .ceiling_forms import CeilingForm
from .models import Account, CallCeiling

VIEW, CHANGE = "inventory.view_account", "inventory.change_account"


@require_safe
@permission_required(VIEW)
def budget(request: HttpRequest) -> HttpResponse:
    """How the calls of AWS stand, fullest bucket first."""
    asked = Filter.of(f"{request.GET.get('q', '')} {request.GET.get('add', '')}"[: shaping.MOST_CHARACTERS])
    return render(request, "inventory/budget.html", _context(request, asked))


@require_safe
@permission_required(VIEW)
def live(request: HttpRequest) -> HttpResponse:
    """What an open page shows of it now: its rows keep the places that they have there."""
    asked = Filter.of(request.GET.get("q", "")[: shaping.MOST_CHARACTERS])
    keys = request.GET.get("rows", "").split(",")[: shaping.ROWS]
    return render(request, "inventory/_budget.html", _context(request, asked, keys) | {"is_update": True})


def _context(request: HttpRequest, asked: Filter, keys: Sequence[str] = ()) -> dict:
    facts, moment = facts_for(request.user), real_now()
    found = [each for each in facts.buckets if asked.holds(each)]
    page = Paginator(found, shaping.ROWS).get_page(request.GET.get("page"))
    rows = shaping.in_order(found, keys) or list(page)
    number = page.number
    return {
        "asked": asked,
        "chips": [(term, _query(Filter.of(asked.without(term)))) for term in asked.terms],
        "away": facts.away,
        "has_accounts": bool(facts.names),
        "answer": shaping.answer(facts.buckets),
        "figures": shaping.figures(found, now=moment),
        "mean_wait": shaping.mean_wait(found),
        "chart": shaping.chart(found, now=moment),
        "parts": shaping.parts(found),
        "entries": shaping.timeline(facts.lessons, facts.limits, names=facts.names, asked=asked),
        "rows": rows,
        "page": page,
        "is_out_of_order": bool(keys) and shaping.out_of_order(rows, list(page)),
        "here_url": f"{reverse('budget:page')}{_query(asked, number)}",
        "previous_url": _query(asked, page.previous_page_number()) if page.has_previous() else "",
        "next_url": _query(asked, page.next_page_number()) if page.has_next() else "",
        "live_values": json.dumps({"q": asked.text, "page": number, "rows": ",".join(each.key for each in rows)}),
        "may_change": request.user.has_perm(CHANGE),
    }


def _query(asked: Filter, page: int = 1) -> str:
    given = {"q": asked.text, "page": str(page) if page > 1 else ""}
    return f"?{urlencode({key: value for key, value in given.items() if value})}"


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(VIEW)
def limits(request: HttpRequest) -> HttpResponse:
    """The ceilings that are in force, and a form for another; posted to, it sets one."""
    visible = Account.objects.visible_to(request.user).order_by("name")
    posted = request.POST if request.method == "POST" else None
    form = CeilingForm(posted, accounts=visible, initial=request.GET.dict())
    if request.method == "POST":
        require_permission(request.user, CHANGE)
        if form.is_valid():
            ceiling = services.set_ceiling(**form.facts(), actor=request.user, now=now())
            messages.success(request, f"{ceiling} is held to {ceiling.per_second:g} calls a second.{_untold(ceiling)}")
            return redirect("budget:limits")
    facts = facts_for(request.user)
    held = {(each.account_id, each.region, each.operation) for each in facts.buckets if each.limit and each.is_told}
    rows = CallCeiling.objects.visible_to(request.user).in_force().select_related("account")
    context = {
        "form": form,
        "away": facts.away,
        "ceilings": [
            (
                row,
                shaping.number(row.per_second),
                shaping.place_query(*row.place, row.operation),
                (*row.place, row.operation) in held,
            )
            for row in rows
        ],
        "held": len(held),
        "untold": CallCeiling.objects.visible_to(request.user).filter(per_second=None).count(),
        "may_change": request.user.has_perm(CHANGE),
    }
    return render(request, "inventory/ceilings.html", context, status=400 if form.errors else 200)


def _untold(ceiling: CallCeiling) -> str:
    if CallCeiling.objects.filter(pk=ceiling.pk, told_at=None).exists():
        return " The governor cannot be told now: this comes into force as soon as it can."
    return ""


@require_POST
@permission_required(CHANGE)
def remove(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Take a ceiling away."""
    ceiling = get_object_or_404(CallCeiling.objects.visible_to(request.user).select_related("account"), pk=pk)
    services.take_away(ceiling, actor=request.user, now=now())
    messages.success(request, f"{ceiling} has no ceiling any more.{_untold(ceiling)}")
    return redirect("budget:limits")
