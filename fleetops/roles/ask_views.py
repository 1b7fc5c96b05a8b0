"""Deeds on one instance: asking for a role, extending, ending, and what becomes of changes from outside."""

from __future__ import annotations

import uuid
from typing import Any, Final

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods

from fleetops.aws.errors import AwsError
from fleetops.errors import Denied, UserError
from fleetops.inventory.models import Instance
from fleetops.inventory.selection import select
from fleetops.targets import ExpressionError, parse
from fleetops.web.shortcuts import permission_required

from . import listing, rules, services
from .catalogue.models import Profile
from .forms import NONE, PRIVILEGE, WHATS, AskForm, ExtendForm
from .models import ATTACH_PERMISSION, END_PERMISSION, RoleFinding
from .services import CutOff, Plan, Wish
from .states import FindingState
from .views import attachment_context, find_attachment

MOST_OFFERED: Final = 50  # instances to choose from
LENGTHS: Final = (15, 30, 60, 120, 480)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(ATTACH_PERMISSION)
def create(request: HttpRequest) -> HttpResponse:
    """Ask for a role on one instance. Query: `instance` (its id) or `q`; POST with `go`: look, or ask."""
    instance = _instance(request)
    if instance is None:
        return _choose(request)
    if request.method != "POST":
        what = request.GET.get("what", "")
        return _page(request, instance, AskForm(initial=_initial(instance, what)))
    form = AskForm(request.POST)
    if not form.is_valid():
        return _page(request, instance, form)
    given = form.cleaned_data
    try:
        wish = _wish(instance, given)
        if request.POST.get("go") != "ask":
            found = services.plan(instance, wish, actor=request.user, reason=given["reason"])
            return _page(request, instance, form, plan=found)
        made = services.ask(
            instance,
            wish,
            actor=request.user,
            reason=given["reason"],
            cut_off_accepted=given["cut_off_accepted"],
        )
    except CutOff as cut:
        return _page(request, instance, form, cut_off=str(cut))
    except (UserError, AwsError) as error:
        return _page(request, instance, form, error=error)
    if made.approval is not None:
        messages.info(request, f"Asked for: {wish.words}. It begins once it is approved.")
    else:
        messages.success(request, f"Under way: {wish.words} on {instance}. It takes a few seconds.")
    return redirect(made)


def _instance(request: HttpRequest) -> Instance | None:
    pk = request.POST.get("instance") or request.GET.get("instance", "")
    if not pk:
        return None
    visible = Instance.objects.visible_to(request.user).select_related("account", "region")
    try:
        return get_object_or_404(visible, pk=uuid.UUID(pk))
    except ValueError:
        raise UserError("There is no such instance. Choose one of the list.") from None


def _choose(request: HttpRequest) -> HttpResponse:
    """Which instance? By name or expression; one that is alone is taken at once."""
    text = request.GET.get("q", "").replace("\x00", "")[:4000]
    found, error = [], ""
    if text.strip():
        try:
            chosen = select(parse(text, words=True), listing.instances(request.user))
            found = list(chosen.select_related("account", "region").order_by("name", "pk")[: MOST_OFFERED + 1])
        except ExpressionError as wrong:
            error = str(wrong)
    context = {
        "text": text,
        "error": error,
        "rows": listing.rows(found[:MOST_OFFERED]),
        "is_more": len(found) > MOST_OFFERED,
    }
    return render(request, "roles/choose.html", context, status=400 if error else 200)


def _initial(instance: Instance, what: str) -> dict[str, Any]:
    names = {value for value, _, _ in WHATS}
    return {
        "what": what if what in names else WHATS[0][0],
        "length": "lease",
        "minutes": 60,
        "profile_name": "" if instance.profile_arn else services.STANDARD_PROFILE,
    }


def _wish(instance: Instance, given: dict[str, Any]) -> Wish:
    """Raises FieldError; AwsError if IAM does not tell of the profile."""
    minutes = given["minutes"] if given["is_lease"] else None
    if given["what"] == NONE:
        return Wish()
    if given["what"] == PRIVILEGE:
        name = given["policy_name"].strip()
        return Wish(instance.profile_arn, minutes, policy=given["policy"].strip(), policy_name=name)
    return Wish(services.find_profile(instance, given["profile_name"].strip()).arn, minutes)


def _page(
    request: HttpRequest,
    instance: Instance,
    form: AskForm,
    *,
    plan: Plan | None = None,
    cut_off: str = "",
    error: Exception | None = None,
) -> HttpResponse:
    fields = dict(getattr(error, "fields", {}))
    for name, text in fields.items():
        if name in form.fields:
            form.add_error(name, text)
    found = rules.of(instance, rules.enabled())
    [row] = listing.rows([instance])
    context = {
        "instance": instance,
        "form": form,
        "whats": WHATS,
        "lengths": LENGTHS,
        "plan": plan,
        "cut_off": cut_off or (plan.cut_off if plan else ""),
        "must_accept": bool(cut_off) or bool(plan and plan.cut_off),
        "error": "" if error is None or (fields and set(fields) <= set(form.fields)) else str(error),
        "is_denied": isinstance(error, Denied),
        "rules": found,
        "row": row,
        "profiles": Profile.objects.filter(account=instance.account).exclude(role=None)[:200],
    }
    is_wrong = bool(form.is_bound and form.errors) or error is not None or bool(cut_off)
    status = 403 if isinstance(error, Denied) else (400 if is_wrong else 200)
    return render(request, "roles/new.html", context, status=status)


# --- extending and ending --------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(ATTACH_PERMISSION)
def extend(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """A later end: how long from now? POST does it."""
    found = find_attachment(request, pk)
    form = ExtendForm(request.POST if request.method == "POST" else None, initial={"minutes": found.minutes or 60})
    error = ""
    if request.method == "POST" and form.is_valid():
        try:
            services.extend(found, minutes=form.cleaned_data["minutes"], actor=request.user)
        except Denied:
            raise
        except UserError as wrong:
            error = str(wrong)
        else:
            messages.success(request, f"It ends at {found.ends_at:%H:%M} UTC on {found.ends_at:%-d %b}.")
            return redirect(found)
    context = {**attachment_context(request, pk), "form": form, "error": error, "lengths": LENGTHS}
    is_wrong = bool(error) or (request.method == "POST" and bool(form.errors))
    return render(request, "roles/extend.html", context, status=400 if is_wrong else 200)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(ATTACH_PERMISSION, END_PERMISSION)
def end(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Is it meant? POST ends it now."""
    found = find_attachment(request, pk)
    if request.method == "POST":
        services.end(found, actor=request.user, reason=request.POST.get("reason", "")[:512])
        messages.success(request, "It is being ended; what was there before is put back.")
        return redirect(found)
    context = attachment_context(request, pk)
    is_last = not (
        found.instance.role_attachments.open()
        .filter(kind=found.kind, minutes__isnull=False, profile_arn=found.profile_arn)
        .exclude(pk=found.pk)
        .exclude(state=services.S.ASKED)
        .exists()
    )
    context |= {"back": context["base"], "is_last": is_last}
    if found.kind == "profile" and is_last and not context["base"] and found.state != services.S.ASKED:
        context["cut_off"] = services.cut_off(found.instance, Wish())
    return render(request, "roles/end.html", context)


# --- what appeared outside -------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(END_PERMISSION)
def decide(request: HttpRequest, pk: uuid.UUID, deed: str) -> HttpResponse:
    """Is it meant? `deed`: put-back or accept. POST does it."""
    visible = RoleFinding.objects.visible_to(request.user)
    related = ("instance__account", "instance__region", "account", "region", "rule")
    finding = get_object_or_404(visible.select_related(*related), pk=pk)
    if request.method == "POST":
        do = services.put_back if deed == "put-back" else services.accept
        do(finding, actor=request.user)
        said = "is being put back" if deed == "put-back" else "is accepted"
        messages.success(request, f"{finding.instance}: it {said}.")
        return redirect("roles:overview")
    leases = finding.instance.role_attachments.open().filter(kind="profile", minutes__isnull=False)
    context = {
        "finding": finding,
        "deed": deed,
        "is_open": finding.state == FindingState.OPEN,
        "ends": [each for each in leases if deed == "accept" and each.profile_arn != finding.found],
    }
    return render(request, "roles/finding.html", context)
