"""Freezes and windows: what is in force, what comes, and the calendars themselves."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.text import slugify
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.web.shortcuts import permission_required

from . import services, tasks
from .deeds import DEEDS, EVERYTHING
from .forms import CalendarForm, CheckForm, EntryForm
from .models import Calendar, CalendarKind, CalendarSource, Repeat
from .periods import Period, between

VIEW = "calendars.view_calendar"
CHANGE = "calendars.change_calendar"
WEEKS_SHOWN = 6
PAGE_ROWS = 50
MOST_NAMED = 5  # freezes in force, in the line above the list
MOST_LISTED = 40  # periods on a calendar's page


@dataclass(frozen=True)
class Bar:
    """A period as it is drawn: percent of the stretch shown."""

    left: float
    width: float
    period: Period
    is_now: bool


@dataclass(frozen=True)
class Row:
    calendar: Calendar
    bars: list[Bar]
    current: Period | None
    coming: Period | None
    is_stale: bool


@require_safe
@permission_required(VIEW)
def calendars(request: HttpRequest) -> HttpResponse:
    """All calendars with their next six weeks as bars."""
    moment = now()
    start = moment.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=moment.weekday())
    end = start + timedelta(weeks=WEEKS_SHOWN)
    visible = Calendar.objects.visible_to(request.user)
    page = Paginator(visible, PAGE_ROWS).get_page(request.GET.get("page"))
    freezes = visible.enabled().filter(kind=CalendarKind.FREEZE).exclude(text="")
    frozen = [(each, period) for each in freezes if (period := _current(each, moment))]
    context = {
        "page": page,
        "rows": [_row(each, moment, start, end) for each in page],
        "frozen": frozen[:MOST_NAMED],
        "frozen_count": len(frozen),
        "more_frozen": max(len(frozen) - MOST_NAMED, 0),
        "failing": visible.exclude(error="").count(),
        "weeks": [start + timedelta(weeks=number) for number in range(WEEKS_SHOWN)],
        "now_at": _percent(moment, start, end),
        "may_change": request.user.has_perm(CHANGE),
    }
    return render(request, "calendars/list.html", context)


def _current(each: Calendar, moment: datetime) -> Period | None:
    return next(iter(between(each.text, each.zone, moment, moment + timedelta(microseconds=1))), None)


def _row(each: Calendar, moment: datetime, start: datetime, end: datetime) -> Row:
    found = between(each.text, each.zone, start, end) if each.text else []
    bars = [
        Bar(
            left := _percent(max(period.start, start), start, end),
            max(_percent(min(period.end, end), start, end) - left, 0.4),
            period,
            period.holds(moment),
        )
        for period in found[:200]
    ]
    current = next((period for period in found if period.holds(moment)), None)
    coming = next((period for period in found if period.start > moment), None)
    return Row(each, bars, current, coming, each.is_stale(moment))


def _percent(moment: datetime, start: datetime, end: datetime) -> float:
    return round(100 * (moment - start) / (end - start), 2)


@require_safe
@permission_required(VIEW)
def calendar(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One calendar: what it binds, what comes, and its entries."""
    return _calendar_page(request, get_object_or_404(Calendar.objects.visible_to(request.user), pk=pk))


def _calendar_page(
    request: HttpRequest, found: Calendar, form: EntryForm | None = None, error: str = ""
) -> HttpResponse:
    moment = now()
    coming = between(found.text, found.zone, moment, moment + timedelta(days=400)) if found.text else []
    context = {
        "calendar": found,
        "coming": coming[:MOST_LISTED],
        "more": max(len(coming) - MOST_LISTED, 0),
        "moment": moment,
        "current": next((period for period in coming if period.holds(moment)), None),
        "is_stale": found.is_stale(moment),
        "entries": list(found.entries.all()) if found.source == CalendarSource.OWN else [],
        "form": form or EntryForm(),
        "repeats": Repeat.choices,
        "error": error,
        "may_change": request.user.has_perm(CHANGE),
    }
    return render(request, "calendars/calendar.html", context, status=400 if error or (form and form.errors) else 200)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(CHANGE)
def create(request: HttpRequest) -> HttpResponse:
    initial = {
        "kind": "freeze",
        "source": "own",
        "zone": "UTC",
        "targets": "all",
        "enabled": True,
        "deeds": [EVERYTHING],
    }
    posted = (request.POST, request.FILES) if request.method == "POST" else ()
    form = CalendarForm(*posted, initial=initial)
    if request.method == "POST" and form.is_valid():
        try:
            made = services.create_calendar(actor=request.user, **form.fields_to_keep())
        except UserError as error:
            form.add_error(None, str(error))
        else:
            if made.source == CalendarSource.OWN:
                messages.success(request, f"“{made}” is there; give it its first entry.")
            else:
                messages.success(request, f"“{made}” is read and in force.")
            return redirect(made)
    return _form_page(request, form)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(CHANGE)
def change(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(Calendar.objects.visible_to(request.user), pk=pk)
    names = ("name", "kind", "source", "deeds", "targets", "zone", "note", "enabled")
    initial = {name: getattr(found, name) for name in names}
    posted = (request.POST, request.FILES) if request.method == "POST" else ()
    form = CalendarForm(*posted, initial=initial, calendar=found)
    if request.method == "POST" and form.is_valid():
        try:
            services.change_calendar(found, actor=request.user, **form.fields_to_keep())
        except UserError as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, f"“{found}” is changed.")
            return redirect(found)
    return _form_page(request, form, found)


def _form_page(request: HttpRequest, form: CalendarForm, found: Calendar | None = None) -> HttpResponse:
    chosen = form["deeds"].value() or []
    context = {
        "form": form,
        "calendar": found,
        "kinds": CalendarKind.choices,
        "sources": CalendarSource.choices,
        "deeds": [(key, title, key in chosen) for key, title in ((EVERYTHING, "Everything"), *DEEDS.items())],
    }
    return render(request, "calendars/form.html", context, status=400 if form.errors else 200)


@require_POST
@permission_required(CHANGE)
def delete(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(Calendar.objects.visible_to(request.user), pk=pk)
    name = str(found)
    services.delete_calendar(found, actor=request.user)
    messages.success(request, f"“{name}” is deleted; it binds nothing any more.")
    return redirect("calendars:list")


@require_POST
@permission_required(CHANGE)
def fetch_now(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Have a worker fetch the calendar now."""
    found = get_object_or_404(Calendar.objects.visible_to(request.user), pk=pk)
    services.require_address(found)
    tasks.refetch.delay(str(pk))
    messages.info(request, "A worker fetches it; this page shows the result when it is opened again.")
    return redirect(found)


@require_safe
@permission_required(VIEW)
def ics(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The calendar as a file, for other programs."""
    found = get_object_or_404(Calendar.objects.visible_to(request.user), pk=pk)
    answer = HttpResponse(services.file_of(found), content_type="text/calendar; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="{slugify(found.name) or "calendar"}.ics"'
    return answer


@require_POST
@permission_required(CHANGE)
def add_entry(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(Calendar.objects.visible_to(request.user), pk=pk)
    form = EntryForm(request.POST)
    if not form.is_valid():
        return _calendar_page(request, found, form)
    try:
        services.add_entry(found, actor=request.user, **form.cleaned_data)
    except UserError as error:
        return _calendar_page(request, found, form, error=str(error))
    messages.success(request, f"“{form.cleaned_data['title']}” is in the calendar.")
    return redirect(found)


@require_POST
@permission_required(CHANGE)
def remove_entry(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(Calendar.objects.visible_to(request.user), pk=pk)
    try:
        entry = found.entries.filter(pk=uuid.UUID(request.POST.get("entry", ""))).first()
    except ValueError:
        entry = None
    if entry is None:
        raise UserError("There is no such entry any more; somebody has removed it.")
    services.remove_entry(entry, actor=request.user)
    messages.success(request, f"“{entry}” is removed.")
    return redirect(found)


@require_safe
@permission_required(VIEW)
def check(request: HttpRequest) -> HttpResponse:
    """Would a deed be held on such an instance then? Answered from the calendars in force."""
    form = CheckForm(request.GET) if request.GET else CheckForm(initial={"at": now().strftime("%Y-%m-%dT%H:%M")})
    answer = None
    if form.is_bound and form.is_valid():
        at = form.cleaned_data["at"].replace(tzinfo=UTC)
        answer = services.ask(form.cleaned_data["deed"], form.cleaned_data["facts"], at)
    context = {"form": form, "answer": answer, "deeds": DEEDS.items()}
    return render(request, "calendars/check.html", context, status=400 if form.errors else 200)
