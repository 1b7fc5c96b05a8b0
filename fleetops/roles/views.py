"""What is, for who may see roles: the overview, what instances have, leases and their ends, history, one attachment."""

from __future__ import annotations

import uuid
from typing import Any, Final
from urllib.parse import urlencode

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from fleetops.clock import now
from fleetops.inventory.models import Instance
from fleetops.targets import ExpressionError
from fleetops.web.shortcuts import permission_required

from . import listing, rules, services
from .models import VIEW_PERMISSION, Holding, RoleAttachment, RoleChange, RoleFinding, RoleRule
from .states import FindingState

ROWS: Final = 100
MOST_LEASES: Final = 10  # on the overview
MOST_RULES: Final = 8
MOST_FINDINGS: Final = 5
MOST_NAMES: Final = 8
MOST_IN_CALENDAR: Final = 2000
MOST_CHANGES: Final = 5  # on an instance's card


def tabs(request: HttpRequest) -> dict[str, Any]:
    """What stands above each page of roles."""
    found = listing.counts(request.user)
    named = (
        ("Overview", "roles:overview", None),
        ("Attachments", "roles:attachments", found["attachments"]),
        ("Leases", "roles:leases", found["leases"]),
        ("Rules", "roles:rules", found["rules"]),
        ("Roles", "roles:catalogue", found["roles"]),
        ("History", "roles:history", None),
    )
    return {"tabs": named, "tab_counts": found}


@require_safe
@permission_required(VIEW_PERMISSION)
def overview(request: HttpRequest) -> HttpResponse:
    """Leases by their end, rules, what appeared outside, and who has what."""
    moment = now()
    leases = listing.lease_rows(listing.open_leases(request.user)[:200], at=moment)
    found = listing.findings(request.user)
    rows = RoleRule.objects.prefetch_related("approvers")[:MOST_RULES]
    names = listing.who_has_what(request.user)
    shown = [has for has in names if has.name][:MOST_NAMES]
    context = {
        **tabs(request),
        "leases": leases[:MOST_LEASES],
        "soon": sum(row.is_soon for row in leases),
        "hours": listing.hours(moment),
        "rules": listing.rule_rows(rows, request.user),
        "findings": found[:MOST_FINDINGS],
        "who": shown,
        "names": len([has for has in names if has.name]),
        "without": next((has.instances for has in names if not has.name), 0),
    }
    return render(request, "roles/overview.html", context)


@require_safe
@permission_required(VIEW_PERMISSION)
def attachments(request: HttpRequest) -> HttpResponse:
    """Instances and what each has, in pages of 100. Query: `q`, `role`, `held`, `page`."""
    text = request.GET.get("q", "").replace("\x00", "")[:4000]
    role, held = request.GET.get("role", "").replace("\x00", "")[:128], request.GET.get("held", "")
    error = ""
    try:
        found = listing.filtered(request.user, text=text, role=role, held=held)
    except ExpressionError as wrong:
        error, found = str(wrong), Instance.objects.none()
    ordered = found.select_related("account", "region").order_by("name", "instance_id")
    page = Paginator(ordered, ROWS).get_page(request.GET.get("page"))
    context = {
        **tabs(request),
        "page": page,
        "rows": listing.rows(list(page)),
        "text": text,
        "role": role,
        "held": held,
        "error": error,
        "roles": [has.name for has in listing.who_has_what(request.user) if has.name],
        "ways": listing.HELD.items(),
        "query": urlencode({name: value for name, value in (("q", text), ("role", role), ("held", held)) if value}),
    }
    return render(request, "roles/attachments.html", context, status=400 if error else 200)


@require_safe
@permission_required(VIEW_PERMISSION)
def leases(request: HttpRequest) -> HttpResponse:
    """Leases in order of their end, those that wait for approval, and the calendar of ends. Query: `page`."""
    moment = now()
    standing = listing.open_leases(request.user)
    page = Paginator(standing, ROWS).get_page(request.GET.get("page"))
    ending = [each for each in standing[:MOST_IN_CALENDAR] if each.ends_at >= moment]
    context = {
        **tabs(request),
        "page": page,
        "query": "",
        "leases": listing.lease_rows(page, at=moment),
        "hours": listing.hours(moment),
        "pending": listing.pending(request.user)[:ROWS],
        "weeks": listing.calendar(ending, at=moment),
    }
    return render(request, "roles/leases.html", context)


@require_safe
@permission_required(VIEW_PERMISSION)
def history(request: HttpRequest) -> HttpResponse:
    """Each change of what instances have, the newest first. Query: `instance`, `page`."""
    found = RoleChange.objects.visible_to(request.user).select_related("instance", "attachment")
    one = None
    if asked := request.GET.get("instance", ""):
        try:
            one = get_object_or_404(Instance.objects.visible_to(request.user), pk=uuid.UUID(asked))
        except ValueError:
            one = None
        found = found.filter(instance=one) if one is not None else found.none()
    page = Paginator(found, ROWS).get_page(request.GET.get("page"))
    query = urlencode({"instance": one.pk}) if one is not None else ""
    return render(request, "roles/history.html", {**tabs(request), "page": page, "query": query, "instance": one})


@require_safe
@permission_required(VIEW_PERMISSION)
def attachment(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One attachment: what was asked for, by whom and why, and what became of it."""
    return render(request, "roles/attachment.html", attachment_context(request, pk))


def attachment_context(request: HttpRequest, pk: uuid.UUID) -> dict[str, Any]:
    found = find_attachment(request, pk)
    held = Holding.objects.filter(instance=found.instance_id).first()
    kind, word = listing.STATE_WORDS[services.AttachmentState(found.state)]
    return {
        "attachment": found,
        "kind": kind,
        "word": word,
        "changes": found.changes.all()[:20],
        "held": held,
        "base": ((held.base if held else "") or "").rpartition("/")[2],
        "may_extend": found.is_lease
        and found.state in {services.S.PENDING, services.S.ACTIVE}
        and request.user.has_perm(services.ATTACH_PERMISSION),
        "may_end": may_end(request.user, found),
    }


def find_attachment(request: HttpRequest, pk: uuid.UUID) -> RoleAttachment:
    visible = RoleAttachment.objects.visible_to(request.user)
    related = ("instance__account", "instance__region", "account", "region", "approval", "run", "asked_by")
    return get_object_or_404(visible.select_related(*related), pk=pk)


def may_end(user: Any, attachment: RoleAttachment) -> bool:
    """As services.end: one's own, or anybody's with the permission; a permanent one has no end."""
    can = attachment.state in services.HOLDS if attachment.is_lease else False
    is_own = attachment.asked_by_id == user.pk and user.has_perm(services.ATTACH_PERMISSION)
    return (can or attachment.state == services.S.ASKED) and (is_own or user.has_perm(services.END_PERMISSION))


@require_safe
@permission_required(VIEW_PERMISSION)
def panel(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The card on an instance's page."""
    visible = Instance.objects.visible_to(request.user).select_related("account", "region")
    instance = get_object_or_404(visible, pk=pk)
    moment = now()
    [row] = listing.rows([instance])
    standing = [each for each in row.open if each.is_lease and each.ends_at is not None]
    context = {
        "instance": instance,
        "row": row,
        "leases": listing.lease_rows(standing, at=moment),
        "waiting": [each for each in row.open if each.state == services.S.ASKED],
        "allowed": [] if instance.is_hybrid else rules.of(instance, rules.enabled()),
        "changes": RoleChange.objects.filter(instance=instance)[:MOST_CHANGES],
        "finding": RoleFinding.objects.filter(instance=instance, state=FindingState.OPEN).first(),
        "may_attach": request.user.has_perm(services.ATTACH_PERMISSION) and instance.gone_at is None,
    }
    return render(request, "roles/_panel.html", context)
