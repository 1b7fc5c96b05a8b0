"""The fleet and its instances."""

import json
import re
import uuid
from datetime import UTC, datetime
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.clock import during, now
from fleetops.errors import UserError
from fleetops.policy import services as policy
from fleetops.targets import ExpressionError
from fleetops.web.shortcuts import back_or, permission_required, require_permission

from . import listing, saved, selection, services, tasks
from .doors import shells
from .filters import FleetQuery, parse, search
from .forms import SavedFilterForm
from .models import Account, Instance, Region, SavedFilter
from .readiness import readiness_of

MAY_CONNECT = "sessions_app.open_terminalsession"
MOST_FOUND = 8  # rows of the command palette
MOST_INSTANCES = 10_000_000  # no page has counted more


@require_safe
@permission_required("inventory.view_instance")
def fleet(request: HttpRequest) -> HttpResponse:
    """A page of the list. htmx asks while somebody types, and gets the list alone, or why it stays as it is."""
    moment = now()
    filters = [] if request.htmx else list(SavedFilter.objects.usable_by(request.user))
    if not request.GET and (default := next((each for each in filters if each.is_default), None)):
        return redirect(default.get_absolute_url())
    query, sort = parse(request.GET.get("q", "")), listing.sort_of(request.GET.get("sort", ""))
    typed = parse(request.GET.get("add", ""))  # in the filter bar: its words join the filters that are chips already
    problem = listing.problem(typed) or listing.problem(query)
    if not typed.error and "add" in request.GET:
        query = query.beside(typed)
        if not request.htmx and not problem:
            return redirect(f"{request.path}?{urlencode(listing.parameters(query, sort) or {'q': ''})}")
    if request.htmx and problem:
        response = render(request, "inventory/_problem.html", {"problem": problem, "is_update": True})
        response["HX-Reswap"] = "none"
        return response
    visible = Instance.objects.visible_to(request.user).present()
    counts, in_tabs = _counts(visible, query)
    matching = query.apply(visible).order_by(*listing.order(sort)).select_related("account", "region")
    paginator = listing.Pages(matching, listing.ROWS)
    paginator.count = sum(in_tabs[status] for status in query.statuses)
    page = paginator.get_page(request.GET.get("page"))
    stamp = policy.stamp()  # before they are decided on
    rows = listing.rows(page, user=request.user, moment=moment)
    context = {
        "rows": rows,
        "page": page,
        "query": query,
        "typed": (typed if typed.error else query).typed if problem else "",
        "problem": problem,
        "sort": sort,
        "columns": listing.columns(query, sort),
        "chips": [(each, listing.url(query.without(each.condition), sort)) for each in query.chips],
        "tabs": listing.tabs(in_tabs, query, sort),
        "answer": listing.answer(counts),
        "previous_url": listing.url(query, sort, page.number - 1) if page.has_previous() else "",
        "next_url": listing.url(query, sort, page.number + 1) if page.has_next() else "",
        "clear_url": listing.url(FleetQuery(), sort),
        "may_connect": request.user.has_perm(MAY_CONNECT),
        "has_accounts": bool(rows) or Account.objects.exists(),
        "best_drop": None if rows or not query else listing.best_drop(query, sort, visible),
        "saved": filters,
        "is_update": bool(request.htmx),
        **_live([row.instance.pk for row in rows], query, sort, (counts, in_tabs), paginator.count, moment, stamp),
    }
    if not request.htmx:
        return render(request, "inventory/fleet.html", context)
    response = render(request, "inventory/_list.html", context)
    response["HX-Replace-Url"] = listing.url(query, sort)
    return response


@require_safe
@permission_required("inventory.view_instance")
def live(request: HttpRequest) -> HttpResponse:
    """What changed on an open fleet page: cells of its rows, counts, regions that cannot be read.

    The page says which rows it shows and when it was made; it gets those of them that changed since, in no other order.
    """
    try:
        shown = [uuid.UUID(hex=text) for text in request.GET.get("rows", "").split(",") if text]
        since = datetime.fromisoformat(request.GET["since"])
        changed_since = since.astimezone(UTC) - during(listing.OVERLAP)
        total = int(request.GET["total"])
        if since.tzinfo is None or len(shown) > listing.ROWS or not 0 <= total < MOST_INSTANCES:
            raise ValueError
    except (KeyError, ValueError, OverflowError):
        return HttpResponseBadRequest("This page is of another version; load it again.", content_type="text/plain")
    moment, query, sort = now(), parse(request.GET.get("q", "")), listing.sort_of(request.GET.get("sort", ""))
    visible = Instance.objects.visible_to(request.user)
    counts, in_tabs = _counts(visible.present(), query)
    matching = sum(in_tabs[status] for status in query.statuses)
    changed = visible.filter(pk__in=shown)
    stamp = policy.stamp()
    if request.GET.get("rules", stamp) == stamp:  # else every Connect may be another
        changed = changed.filter(changed_at__gt=changed_since)
    context = {
        "rows": listing.rows(changed.select_related("account", "region"), user=request.user, moment=moment),
        "tabs": listing.tabs(in_tabs, query, sort),
        "answer": listing.answer(counts),
        "may_connect": request.user.has_perm(MAY_CONNECT),
        "is_update": True,
        "news": matching - total,
        "news_fewer": total - matching,
        "news_url": listing.url(query, sort),
        **_live(shown, query, sort, (counts, in_tabs), total, moment, stamp),
    }
    context["counts_changed"] = request.GET.get("counts") != context["digest"]
    response = render(request, "inventory/_live.html", context)
    if matching and not total and not query:
        response["HX-Refresh"] = "true"  # the page waits for its first rows
    return response


def _counts(visible, query: FleetQuery) -> tuple[dict, dict]:
    """How many there are of each status: in all, and of what the filter lets through but for its statuses."""
    counts, others = visible.counts(), query.without_status()
    return counts, others.apply(visible).counts() if others else counts


def _live(
    shown: list[uuid.UUID], query: FleetQuery, sort: str, counts, total: int, moment: datetime, rules: str
) -> dict:
    """What a page shows of the regions' reading, and what it asks with when it asks for changes."""
    regions = list(Region.objects.filter(enabled=True, account__enabled=True).select_related("account"))
    read = [region.refreshed_at for region in regions if region.refreshed_at]
    failing = [region for region in regions if region.error]
    digest = listing.digest(*counts, failing)
    values = {
        "rows": ",".join(pk.hex for pk in shown),
        "since": moment.isoformat(),
        "total": total,
        "counts": digest,
        "q": query.text,
        "sort": sort,
        "rules": rules,
    }
    return {
        "failing": failing,
        "is_reading": any(region.refreshed_at is None and not region.error for region in regions),
        "oldest_read": min(read) if read and len(read) == len(regions) else None,
        "digest": digest,
        "live_values": json.dumps(values),
    }


@require_safe
@permission_required("inventory.view_instance")
def instance(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One instance; htmx gets the part that changes by itself."""
    visible = Instance.objects.visible_to(request.user).select_related("account", "region")
    found = get_object_or_404(visible, pk=pk)
    (shell,) = shells(request.user, [found])
    context = {
        "instance": found,
        "shell": shell,
        "may_read_policy": request.user.has_perm("policy.view_rule"),
        "may_review": request.user.has_perm("audit.view_auditevent"),
        "readiness": readiness_of(found, now=now()),
        "tags": sorted(found.tags.items()),
        "may_connect": request.user.has_perm(MAY_CONNECT),
        "is_update": bool(request.htmx),
    }
    return render(request, "inventory/_instance.html" if request.htmx else "inventory/instance.html", context)


@require_POST
@permission_required(MAY_CONNECT, "inventory.change_account")
def refresh(request: HttpRequest) -> HttpResponse:
    """Read all regions now; at most once in five seconds each."""
    claimed = services.claim_regions_now(now=now())
    for region_id in claimed:
        tasks.refresh_region.delay(region_id)
    if claimed:
        messages.info(request, f"Reading {len(claimed)} region{'s' if len(claimed) > 1 else ''} from AWS now.")
    elif Region.objects.filter(enabled=True, account__enabled=True).exists():
        messages.info(request, "AWS is being read, or was a few seconds ago.")
    else:
        messages.warning(request, "No region is linked yet, so there is nothing to read.")
    return redirect(back_or(request, reverse("inventory:fleet")))


@require_safe
@permission_required("inventory.view_instance")
def palette(request: HttpRequest) -> JsonResponse:
    """Instances for the command palette, as JSON; those that can be reached first."""
    moment, query = now(), search(request.GET.get("q", ""))
    visible = query.apply(Instance.objects.visible_to(request.user).present())
    rows = list(
        visible.order_by("-status_rank", "name", "instance_id").select_related("account", "region")[:MOST_FOUND]
    )
    found = []
    for row, shell in zip(rows, shells(request.user, rows), strict=True):
        ready = readiness_of(row, now=moment)
        found.append(
            {
                "id": str(row.pk),
                "pk": str(row.pk),
                "instance_id": row.instance_id,
                "name": str(row),
                "status": ready.word,
                "url": row.get_absolute_url(),
                "connect_url": reverse("sessions:open") if shell.may_try and ready.can_connect else None,
                "as_url": f"{reverse('sessions:open_as')}?instance={row.pk}" if ready.can_connect else None,
            }
        )
    return JsonResponse({"instances": found})


@require_safe
@permission_required("inventory.view_instance")
def complete(request: HttpRequest) -> JsonResponse:
    """What may come next in an expression that is being typed; as JSON."""
    text, words = request.GET.get("text", ""), request.GET.get("words") == "1"
    at = int(request.GET["at"]) if re.fullmatch(r"\d{1,6}", request.GET.get("at", "")) else len(text)
    found = selection.complete(text, at, request.user, words=words)
    options = [{"text": each.text, "note": each.note} for each in found.options]
    return JsonResponse({"start": found.start, "end": found.end, "options": options})


@require_safe
@permission_required("inventory.view_instance")
def preview(request: HttpRequest) -> JsonResponse:
    """How many instances an expression selects at this moment, or why it cannot be read; as JSON."""
    try:
        found = selection.preview(request.GET.get("text", ""), request.user, words=request.GET.get("words") == "1")
    except ExpressionError as error:
        return JsonResponse({"error": str(error), "position": error.position})
    return JsonResponse(
        {
            "text": found.text,
            "count": found.count,
            "total": found.total,
            "first": [{"name": str(each), "url": each.get_absolute_url()} for each in found.first],
            "warning": found.warning,
        }
    )


# --- saved filters ---------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required("inventory.view_instance")
def saved_filters(request: HttpRequest) -> HttpResponse:
    """One's own filters and those that others share; a POST saves one more."""
    form = SavedFilterForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        made = saved.save_filter(**form.cleaned_data, actor=request.user)
        messages.success(request, f"Saved the filter {made.name}.")
        return redirect(made)
    found = list(SavedFilter.objects.usable_by(request.user))
    own = [each for each in found if each.owner_id == request.user.pk]
    shared = [each for each in found if each.owner_id != request.user.pk]
    context = {
        "groups": [("Yours", own, True), ("Shared by others", shared, False)],
        "own": own,
        "shared": shared,
        "may_administer": request.user.has_perm("inventory.change_account"),
        "form": form,
    }
    return render(request, "inventory/filters.html", context, status=400 if request.method == "POST" else 200)


def _changeable(request: HttpRequest, pk: uuid.UUID) -> SavedFilter:
    """The filter, if the user may change it: it is theirs, or it is shared and they administer accounts."""
    found = get_object_or_404(SavedFilter.objects.visible_to(request.user), pk=pk)
    if found.owner_id != request.user.pk:
        require_permission(request.user, "inventory.change_account")
    return found


@require_POST
@permission_required("inventory.view_instance")
def change_filter(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Another name or text, shared or private."""
    found = _changeable(request, pk)
    form = SavedFilterForm(request.POST)
    if not form.is_valid():
        raise UserError(next(iter(form.errors.values()))[0])
    saved.change_filter(found, **form.cleaned_data, actor=request.user)
    messages.success(request, f"Changed the filter {found.name}.")
    return redirect("inventory:filters")


@require_POST
@permission_required("inventory.view_instance")
def delete_filter(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = _changeable(request, pk)
    saved.delete_filter(found, actor=request.user)
    messages.success(request, f"Deleted the filter {found.name}.")
    return redirect("inventory:filters")


@require_POST
@permission_required("inventory.view_instance")
def star_filter(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Begin with this filter where the fleet is opened without one; once more: with none."""
    found = get_object_or_404(SavedFilter.objects.visible_to(request.user), pk=pk)
    if saved.star_filter(found, user=request.user):
        messages.success(request, f"The fleet now opens with {found.name}.")
    else:
        messages.success(request, "The fleet now opens with all instances.")
    return redirect("inventory:filters")
