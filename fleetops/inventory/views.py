"""The fleet and its instances."""

import json
import uuid
from datetime import UTC, datetime
from urllib.parse import urlencode

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST, require_safe

from fleetops.clock import now
from fleetops.web.shortcuts import permission_required

from . import listing, services, tasks
from .filters import FleetQuery, parse
from .models import Account, Instance, Region
from .readiness import readiness_of

MAY_CONNECT = "sessions_app.open_terminalsession"
MOST_FOUND = 8  # rows of the command palette
MOST_INSTANCES = 10_000_000  # no page has counted more


@require_safe
@permission_required("inventory.view_instance")
def fleet(request: HttpRequest) -> HttpResponse:
    moment = now()
    query, sort = parse(request.GET.get("q", "")), listing.sort_of(request.GET.get("sort", ""))
    if "add" in request.GET:  # the filter bar's input: its words join the filters that are chips already
        joined = parse(f"{query.text} {request.GET['add']}")
        if not joined.problems:
            return redirect(f"{request.path}?{urlencode(listing.parameters(joined, sort))}")
        query = joined
    visible = Instance.objects.visible_to(request.user).present()
    counts, in_tabs = _counts(visible, query)
    matching = query.apply(visible).order_by(*listing.order(sort)).select_related("account", "region")
    paginator = Paginator(matching, listing.ROWS)
    paginator.count = sum(in_tabs[status] for status in query.statuses)
    page = paginator.get_page(request.GET.get("page"))
    rows = [listing.Row(instance, moment) for instance in page]
    context = {
        "rows": rows,
        "page": page,
        "query": query,
        "sort": sort,
        "columns": listing.columns(query, sort),
        "chips": [(each, listing.url(query.without(each), sort)) for each in query.filters],
        "tabs": listing.tabs(in_tabs, query, sort),
        "answer": listing.answer(counts),
        "previous_url": listing.url(query, sort, page.number - 1) if page.has_previous() else "",
        "next_url": listing.url(query, sort, page.number + 1) if page.has_next() else "",
        "may_connect": request.user.has_perm(MAY_CONNECT),
        "has_accounts": bool(rows) or Account.objects.exists(),
        "best_drop": None if rows or not query else listing.best_drop(query, sort, visible),
        **_live([row.instance.pk for row in rows], query, sort, (counts, in_tabs), paginator.count, moment),
    }
    return render(request, "inventory/fleet.html", context)


@require_safe
@permission_required("inventory.view_instance")
def live(request: HttpRequest) -> HttpResponse:
    """What changed on an open fleet page: cells of its rows, counts, regions that cannot be read.

    The page says which rows it shows and when it was made; it gets those of them that changed since, in no other order.
    """
    try:
        shown = [uuid.UUID(hex=text) for text in request.GET.get("rows", "").split(",") if text]
        since = datetime.fromisoformat(request.GET["since"])
        changed_since = since.astimezone(UTC) - listing.OVERLAP
        total = int(request.GET["total"])
        if since.tzinfo is None or len(shown) > listing.ROWS or not 0 <= total < MOST_INSTANCES:
            raise ValueError
    except (KeyError, ValueError, OverflowError):
        return HttpResponseBadRequest("This page is of another version; load it again.", content_type="text/plain")
    moment, query, sort = now(), parse(request.GET.get("q", "")), listing.sort_of(request.GET.get("sort", ""))
    visible = Instance.objects.visible_to(request.user)
    counts, in_tabs = _counts(visible.present(), query)
    matching = sum(in_tabs[status] for status in query.statuses)
    changed = visible.filter(pk__in=shown, changed_at__gt=changed_since)
    context = {
        "rows": [listing.Row(instance, moment) for instance in changed.select_related("account", "region")],
        "tabs": listing.tabs(in_tabs, query, sort),
        "answer": listing.answer(counts),
        "may_connect": request.user.has_perm(MAY_CONNECT),
        "is_update": True,
        "news": matching - total,
        "news_fewer": total - matching,
        "news_url": listing.url(query, sort),
        **_live(shown, query, sort, (counts, in_tabs), total, moment),
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


def _live(shown: list[uuid.UUID], query: FleetQuery, sort: str, counts, total: int, moment: datetime) -> dict:
    """What a page shows of the regions' reading, and what it asks with when it asks for changes."""
    regions = list(Region.objects.filter(enabled=True).select_related("account"))
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
    context = {
        "instance": found,
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
    elif Region.objects.filter(enabled=True).exists():
        messages.info(request, "AWS is being read, or was a few seconds ago.")
    else:
        messages.warning(request, "No region is linked yet, so there is nothing to read.")
    back = request.POST.get("next", "")
    if not back.startswith("/") or not url_has_allowed_host_and_scheme(back, allowed_hosts=None):
        back = reverse("inventory:fleet")
    return redirect(back)


@require_safe
@permission_required("inventory.view_instance")
def palette(request: HttpRequest) -> JsonResponse:
    """Instances for the command palette, as JSON; those that can be reached first."""
    moment, query = now(), parse(request.GET.get("q", ""))
    visible = query.apply(Instance.objects.visible_to(request.user).present())
    may_connect = request.user.has_perm(MAY_CONNECT)
    found = []
    for row in visible.order_by("-status_rank", "name", "instance_id")[:MOST_FOUND]:
        ready = readiness_of(row, now=moment)
        found.append(
            {
                "id": str(row.pk),
                "pk": str(row.pk),
                "instance_id": row.instance_id,
                "name": str(row),
                "status": ready.word,
                "url": row.get_absolute_url(),
                "connect_url": reverse("sessions:open") if may_connect and ready.can_connect else None,
            }
        )
    return JsonResponse({"instances": found})
