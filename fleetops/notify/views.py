"""Notices: what was told, by which channels, and what is silent."""

import uuid
from datetime import timedelta
from urllib.parse import urlencode

from django.contrib import messages
from django.db.models import Count, Max, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.web.shortcuts import permission_required

from . import services
from .forms import ChangeChannelForm, ChannelForm, SilenceForm
from .models import (
    SEVERITY_CHOICES,
    TOPIC_CHOICES,
    VIEW,
    Channel,
    ChannelKind,
    Delivery,
    DeliveryState,
    Notice,
    Silence,
)

CHANGE = "notify.change_channel"
PAGE_ROWS = 50


@require_safe
@permission_required(VIEW)
def notices(request: HttpRequest) -> HttpResponse:
    """Channels, silences, and the notices with what came of each delivery."""
    return _list(request)


def _list(request: HttpRequest, silence_form: SilenceForm | None = None, error: str = "") -> HttpResponse:
    moment = now()
    rows = Notice.objects.visible_to(request.user).order_by("-pk")
    try:
        rows = rows.filter(pk__lt=uuid.UUID(request.GET.get("before", "")))
        is_first = False
    except ValueError:
        is_first = True
    page = list(rows.prefetch_related("deliveries__channel")[: PAGE_ROWS + 1])
    channels = Channel.objects.visible_to(request.user).annotate(
        failed=Count("deliveries", filter=Q(deliveries__state=DeliveryState.FAILED)),
        waiting=Count("deliveries", filter=Q(deliveries__state=DeliveryState.PENDING)),
        last_sent_at=Max("deliveries__sent_at"),
    )
    context = {
        "channels": list(channels),
        "silences": list(Silence.objects.filter(until__gt=moment)),
        "notices": page[:PAGE_ROWS],
        "next": urlencode({"before": page[PAGE_ROWS - 1].pk}) if page[PAGE_ROWS:] else "",
        "is_first": is_first,
        "open_count": Notice.objects.visible_to(request.user).filter(closed_at=None).count(),
        "form": silence_form or SilenceForm(initial={"hours": 4, "topic": "*"}),
        "topics": TOPIC_CHOICES,
        "error": error,
        "may_change": request.user.has_perm(CHANGE),
    }
    return render(request, "notify/list.html", context, status=400 if silence_form else 200)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(CHANGE)
def create_channel(request: HttpRequest) -> HttpResponse:
    posted = (request.POST,) if request.method == "POST" else ()
    form = ChannelForm(*posted, initial={"kind": "email", "topic": "*", "severity": "info"})
    if request.method == "POST" and form.is_valid():
        try:
            made, key = services.create_channel(actor=request.user, **form.cleaned_data)
        except UserError as error:
            form.add_error("name" if "name" in error.fields else "address", str(error))
        else:
            if not key:
                messages.success(request, f"“{made}” is there; send a test to see whether it arrives.")
                return redirect(made)
            return _channel(request, made, key=key)
    context = {"form": form, "kinds": ChannelKind.choices, "topics": TOPIC_CHOICES, "severities": SEVERITY_CHOICES}
    return render(request, "notify/create.html", context, status=400 if form.errors else 200)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(VIEW)
def channel(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One channel: what it carries, and its last deliveries."""
    found = get_object_or_404(Channel.objects.visible_to(request.user), pk=pk)
    if request.method == "POST":
        return _change(request, found)
    return _channel(request, found)


@permission_required(CHANGE)
def _change(request: HttpRequest, found: Channel) -> HttpResponse:
    form = ChangeChannelForm(request.POST)
    if not form.is_valid():
        raise UserError("Choose a topic and a severity of the lists.")
    services.change_channel(found, actor=request.user, **form.cleaned_data)
    messages.success(request, f"“{found}” is changed.")
    return redirect(found)


def _channel(request: HttpRequest, found: Channel, *, key: str = "") -> HttpResponse:
    deliveries = found.deliveries.select_related("notice").order_by("-pk")[:PAGE_ROWS]
    context = {
        "channel": found,
        "deliveries": deliveries,
        "key": key,
        "topics": TOPIC_CHOICES,
        "severities": SEVERITY_CHOICES,
        "may_change": request.user.has_perm(CHANGE),
    }
    return render(request, "notify/channel.html", context)


@require_POST
@permission_required(CHANGE)
def test_channel(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(Channel.objects.visible_to(request.user), pk=pk)
    services.send_test(found, actor=request.user)
    messages.info(request, "A worker sends it within seconds; the list below says what came of it.")
    return redirect(found)


@require_POST
@permission_required(CHANGE)
def delete_channel(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(Channel.objects.visible_to(request.user), pk=pk)
    name = str(found)
    services.delete_channel(found, actor=request.user)
    messages.success(request, f"“{name}” is deleted.")
    return redirect("notify:list")


@require_POST
@permission_required(CHANGE)
def add_silence(request: HttpRequest) -> HttpResponse:
    form = SilenceForm(request.POST)
    if not form.is_valid():
        return _list(request, form)
    given = dict(form.cleaned_data)
    until = now() + timedelta(hours=given.pop("hours"))
    services.add_silence(actor=request.user, until=until, **given)
    messages.success(request, "Silent; notices that fit are kept here and not sent.")
    return redirect("notify:list")


@require_POST
@permission_required(CHANGE)
def end_silence(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    services.end_silence(get_object_or_404(Silence.objects.visible_to(request.user), pk=pk), actor=request.user)
    messages.success(request, "The silence is over. What fell into it stays unsent.")
    return redirect("notify:list")


@require_POST
@permission_required(CHANGE)
def send_again(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(Delivery.objects.visible_to(request.user).select_related("channel", "notice"), pk=pk)
    services.send_again(found, actor=request.user)
    messages.info(request, "It is in the outbox again.")
    return redirect(found.channel)
