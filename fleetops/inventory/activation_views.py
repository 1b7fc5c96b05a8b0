"""Pages on which machines outside EC2 are added, watched as they come, and taken off."""

import contextlib
import uuid
from dataclasses import dataclass

from django.contrib import messages
from django.core.cache import cache
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from redis.exceptions import RedisError

from fleetops.aws.governor import Priority, acting_for
from fleetops.aws.records import ManagedInstance
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.web.shortcuts import permission_required

from . import activations as services
from .activation_commands import CA_FILE, HINTS, LOGS, NO_CODE, Site, guides, without_the_system_store
from .activation_forms import ActivationForm
from .activation_rules import asks_again_in, is_late
from .doors import shells
from .models import Account, Instance, Region

SEE, CHANGE = "inventory.view_account", "inventory.change_account"
MAY_CONNECT = "sessions_app.open_terminalsession"
# So long a form that is sent again is known as that.
KNOWN_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Came:
    """A machine that has come, as a row: as AWS tells it, and as the fleet has it, where it has."""

    node: ManagedInstance
    instance: Instance | None
    may_connect: bool

    @property
    def state(self) -> tuple[str, str]:
        """Kind of glyph, and a word."""
        return {
            "Online": ("ok", "Online"),
            "ConnectionLost": ("bad", "Connection lost"),
        }.get(self.node.ping_status, ("wait", "Registered"))


@require_safe
@permission_required(SEE)
def activations(request: HttpRequest) -> HttpResponse:
    """The activations of one account, or of all, as AWS has them now."""
    account = _account(request, request.GET["account"]) if request.GET.get("account") else None
    regions = services.regions_of(account)
    listing = services.listing(regions)
    context = {
        "listing": listing,
        "account": account,
        "accounts": Account.objects.visible_to(request.user),
        "regions": regions,
        "open": sum(row.record.is_open for row in listing.rows),
        "may_change": request.user.has_perm(CHANGE),
    }
    return render(request, "inventory/activations.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(CHANGE)
@sensitive_variables("made")
def add(request: HttpRequest) -> HttpResponse:
    """The form; and in the answer to it the code and the commands, this once."""
    regions = services.regions_of()
    account = request.GET.get("account", "")
    chosen = next((region for region in regions if str(region.account_id) == account), None)
    form = ActivationForm(request.POST if request.method == "POST" else None, regions=regions, chosen=chosen)
    if request.method == "POST" and form.is_valid():
        key = f"activation:{request.user.pk}:{form.cleaned_data['key']}"
        if (before := _take(key)) is not None:
            if not before:
                raise UserError("FleetOps is making this activation already; the list of activations shows it.")
            messages.warning(request, "This form had made its activation already. The code was shown then, once.")
            return redirect(before)
        try:
            made = services.make(form.region(), form.wanted(), actor=request.user)
        except Denied:
            _forget(key)
            raise
        except UserError as error:
            _forget(key)
            form.add_error(None, str(error))
        else:
            region = form.region()
            _keep(key, _url("activation", region, made.activation_id))
            context = _page(request, region, made.activation_id, code=made.code)
            return render(request, "inventory/activation.html", context)
    context = {"form": form, "regions": regions, "has_place": bool(regions)}
    return render(request, "inventory/activation_form.html", context, status=400 if form.errors else 200)


@require_safe
@permission_required(SEE)
def activation(request: HttpRequest, pk: uuid.UUID, region: str, activation_id: uuid.UUID) -> HttpResponse:
    """One activation, without its code, and who has come by it."""
    found = _region(request, pk, region)
    return render(request, "inventory/activation.html", _page(request, found, str(activation_id)))


@require_safe
@permission_required(SEE)
@acting_for(Priority.POLL)
def live(request: HttpRequest, pk: uuid.UUID, region: str, activation_id: uuid.UUID) -> HttpResponse:
    """Who has come by it, for a page that waits."""
    found = _region(request, pk, region)
    return render(request, "inventory/_arrivals.html", _arrivals(request, found, str(activation_id)))


@require_POST
@permission_required(CHANGE)
def delete(request: HttpRequest, pk: uuid.UUID, region: str, activation_id: uuid.UUID) -> HttpResponse:
    found = _region(request, pk, region)
    services.delete(found, str(activation_id), actor=request.user)
    messages.success(request, "The activation is deleted. The machines that came by it stay.")
    return redirect(f"{reverse('machines:list')}?account={found.account_id}")


@require_safe
@permission_required(SEE)
def ca(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The CA of an account's endpoint, as a file."""
    text = Site("", ca_pem=_account(request, pk).ca_pem).ca_text
    if not text:
        raise Http404
    response = HttpResponse(text, content_type="application/x-pem-file")
    response["Content-Disposition"] = f'attachment; filename="{CA_FILE}"'
    return response


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(CHANGE)
def deregister(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """What it means that a hybrid node ends, and the end of it."""
    visible = Instance.objects.visible_to(request.user).select_related("account", "region")
    instance = get_object_or_404(visible, pk=pk)
    services.check_deregistrable(instance)
    problem = ""
    if request.method == "POST":
        if request.POST.get("confirm", "").strip() == instance.instance_id:
            services.deregister(instance, actor=request.user)
            messages.success(request, f"{instance} is deregistered: {instance.instance_id} is good for nothing now.")
            return redirect(instance)
        problem = f"To deregister {instance}, type its id, {instance.instance_id}."
    context = {"instance": instance, "problem": problem, "site": _site(instance.region)}
    return render(request, "inventory/deregister.html", context, status=400 if problem else 200)


@sensitive_variables("code")
def _page(request: HttpRequest, region: Region, activation_id: str, *, code: str = "") -> dict:
    site = _site(region)
    return {
        **_arrivals(request, region, activation_id),
        "code": code,
        "no_code": NO_CODE,
        "site": site,
        "guides": guides(site, activation_id, code),
        "without_store": without_the_system_store(site) if site.ca_text else "",
        "made_by": services.maker_of(region, activation_id),
        "may_change": request.user.has_perm(CHANGE),
        "page_url": _url("activation", region, activation_id),
    }


def _arrivals(request: HttpRequest, region: Region, activation_id: str) -> dict:
    moment = now()
    found = services.arrivals(region, activation_id, now=moment)
    instances = [found.instances[node.instance_id] for node in found.nodes if node.instance_id in found.instances]
    doors = {
        instance.pk: door.may_try for instance, door in zip(instances, shells(request.user, instances), strict=True)
    }
    came = []
    for node in found.nodes:
        instance = found.instances.get(node.instance_id)
        can = instance is not None and node.ping_status == "Online" and doors[instance.pk]
        came.append(Came(node, instance, can))
    record = found.record
    return {
        "region": region,
        "account": region.account,
        "activation_id": activation_id,
        "record": record,
        "error": found.error,
        "came": came,
        "online": sum(each.node.ping_status == "Online" for each in came),
        "is_late": record is not None and is_late(record, found.nodes, now=moment),
        # What cannot be read now may be read soon; what is not there never will.
        "every": asks_again_in(record, found.nodes, now=moment) if record else 15 if found.error else 0,
        "hints": HINTS,
        "logs": LOGS,
        "live_url": _url("live", region, activation_id),
    }


def _site(region: Region) -> Site:
    return Site(region.name, region.account.endpoint_url, region.account.ca_pem)


def _url(name: str, region: Region, activation_id: str) -> str:
    return reverse(f"machines:{name}", args=[region.account_id, region.name, activation_id])


def _account(request: HttpRequest, pk: uuid.UUID | str) -> Account:
    try:
        return get_object_or_404(Account.objects.visible_to(request.user), pk=uuid.UUID(str(pk)))
    except ValueError:
        raise Http404 from None


def _region(request: HttpRequest, pk: uuid.UUID, name: str) -> Region:
    regions = Region.objects.filter(account__in=Account.objects.visible_to(request.user), enabled=True)
    return get_object_or_404(regions.select_related("account"), account=pk, name=name)


# --- a form that is sent again ---------------------------------------------------------------------------------------


def _take(key: str) -> str | None:
    """None for a form that comes for the first time; else where what it made is, "" while that is being made."""
    try:
        return None if cache.add(key, "", timeout=KNOWN_SECONDS) else cache.get(key, "")
    except RedisError:  # without Valkey nobody knows; a second activation does no harm, and can be deleted
        return None


def _keep(key: str, url: str) -> None:
    with contextlib.suppress(RedisError):
        cache.set(key, url, timeout=KNOWN_SECONDS)


def _forget(key: str) -> None:
    with contextlib.suppress(RedisError):
        cache.delete(key)
