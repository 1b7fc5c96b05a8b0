"""Port 22: which security groups open SSH or RDP on instances, closing them and opening them again."""

from __future__ import annotations

import uuid

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.inventory.models import Region
from fleetops.web.shortcuts import permission_required

from . import listing, reading, services, tasks
from .grades import Grade
from .models import CLOSE_PERMISSION, SEE_PERMISSION, Reading

PAGE = 100


@require_safe
@permission_required(SEE_PERMISSION)
def groups(request: HttpRequest) -> HttpResponse:
    """The groups, the worst first. `?grade=` and `?account=` narrow them."""
    asked = {"grade": request.GET.get("grade", ""), "account": request.GET.get("account", "")}
    found = listing.groups(request.user, **asked)
    page = Paginator(found, PAGE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "rows": listing.rows(page.object_list),
        "query": "&".join(f"{name}={value}" for name, value in asked.items() if value.replace(" ", "").isalnum()),
        "asked": asked,
        "grades": [(grade.value, listing.GRADE_WORDS[grade][1]) for grade in Grade],
        "failing": Reading.objects.visible_to(request.user).exclude(error="").select_related("region__account"),
        "is_read": Reading.objects.visible_to(request.user).exclude(read_at=None).exists(),
        "may_close": request.user.has_perm(CLOSE_PERMISSION),
    }
    return render(request, "exposure/groups.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(CLOSE_PERMISSION)
def close(request: HttpRequest) -> HttpResponse:
    """What would be closed and lost, for each `?group=`; and the deed, for the rules that were shown."""
    given = request.POST if request.method == "POST" else request.GET
    wanted = []
    for text in given.getlist("group")[: services.MOST_GROUPS + 1]:
        try:
            wanted.append(uuid.UUID(text))
        except ValueError:
            raise UserError("That is no security group of this list.") from None
    chosen = list(listing.groups(request.user).filter(pk__in=wanted))
    if request.method == "POST":
        if not chosen or len(chosen) != len(set(wanted)):
            raise UserError("Choose security groups first. One that was chosen may be closed already.")
        shown = {str(group.pk): given.getlist(f"rule-{group.pk}") for group in chosen}
        made = services.close(chosen, actor=request.user, rule_ids=shown, reason=given.get("reason", "").strip())
        for closing in made:
            tasks.start(closing)
        return redirect("exposure:closings")
    if not chosen:
        raise UserError("Choose security groups first.")
    return render(request, "exposure/close.html", {"rows": listing.rows(chosen)})


@require_safe
@permission_required(SEE_PERMISSION)
def closings(request: HttpRequest) -> HttpResponse:
    """What was closed and opened, the newest first; the part alone for htmx, while something is under way."""
    page = Paginator(listing.closings(request.user), PAGE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "rows": [listing.closing_row(each) for each in page.object_list],
        "query": "",
        "is_under_way": any(each.is_under_way for each in page.object_list),
        "may_close": request.user.has_perm(CLOSE_PERMISSION),
    }
    is_part = bool(getattr(request, "htmx", False)) and not request.htmx.boosted
    return render(request, "exposure/_closings.html" if is_part else "exposure/closings.html", context)


@require_POST
@permission_required(CLOSE_PERMISSION)
def reopen(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    closing = get_object_or_404(listing.closings(request.user), pk=pk)
    services.reopen(closing, actor=request.user)
    tasks.start(closing)
    return redirect("exposure:closings")


@require_POST
@permission_required(CLOSE_PERMISSION)
def read_again(request: HttpRequest) -> HttpResponse:
    reading.ask_again(list(Region.objects.filter(enabled=True)), at=now())
    return redirect("exposure:groups")
