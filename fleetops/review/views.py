"""The auditor's pages: the log, one event and its proof."""

import json
import uuid

from django.contrib import messages
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from fleetops.audit import chain, tasks
from fleetops.audit.models import AuditEvent, AuditSeal, Outcome
from fleetops.audit.record import digest
from fleetops.audit.services import verify_and_record
from fleetops.clock import now
from fleetops.inventory.models import Instance
from fleetops.web.shortcuts import permission_required
from sessions_app.models import TerminalSession

from . import listing, search, session_chain, words
from .proof import chain_state

# Links that are recomputed while the person waits, some 5 s; more are left to a worker.
LINKS_AT_ONCE = 50_000
SESSIONS_OF_A_PANEL, EVENTS_OF_A_PANEL = 50, 12  # the latest; the rest is a search of the log


@require_safe
@permission_required("audit.view_auditevent")
def audit(request: HttpRequest) -> HttpResponse:
    """The log: what was searched, with facets, histogram, and the event that is open beside it."""
    moment = now()
    asked = search.parse(request.GET.get("q", search.DEFAULT), now=moment)
    if "add" in request.GET:  # the filter bar's input: its words join those that are chips already
        joined = search.parse(f"{asked.text} {request.GET['add']}", now=moment)
        if not joined.problems:
            return redirect(f"{request.path}{joined.url}")
        asked = joined
    opened = _event(request.GET.get("open", ""))
    drawer = _event_context(opened, request.user) if opened else {}
    if opened and request.htmx and request.htmx.target == "drawer":
        return render(request, "review/_drawer.html", drawer | {"close_url": _back(request, asked)})
    everything = AuditEvent.objects.all()
    found = asked.apply(everything)
    page = listing.page(found, before=_id(request.GET.get("before", "")), after=_id(request.GET.get("after", "")))
    today = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    context = {
        "search": asked,
        "chips": [(term, asked.without(term)) for term in asked.terms],
        "groups": [
            (title, [_Row(event) for event in events]) for title, events in listing.grouped(page.rows, now=moment)
        ],
        "page": page,
        "is_first": not (request.GET.get("before") or request.GET.get("after")),
        "facets": listing.facets(everything, asked),
        "histogram": listing.histogram(found, asked, now=moment),
        "chain": chain_state(),
        "denials_today": AuditEvent.objects.filter(outcome=Outcome.DENIED, at__gte=today).count(),
        "may_replay": request.user.has_perm("sessions_app.review_terminalsession"),
        "close_url": _back(request, asked),
    }
    return render(request, "review/audit.html", context | drawer)


class _Row:
    """An event as the list shows it."""

    def __init__(self, event: AuditEvent) -> None:
        self.event = event
        self.verb = words.verb(event)
        self.kind, self.icon = words.glyph(event)


@require_safe
@permission_required("audit.view_auditevent")
def instance_panel(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """What was done to an instance, and in its latest sessions; for the instance's page."""
    instance = get_object_or_404(Instance.objects.visible_to(request.user), pk=pk)
    sessions = instance.terminal_sessions.order_by("-pk").values_list("pk", flat=True)[:SESSIONS_OF_A_PANEL]
    about = Q(target_id=str(instance.pk)) | Q(session_id__in=[str(session) for session in sessions])
    events = AuditEvent.objects.filter(about).order_by("-pk")[:EVENTS_OF_A_PANEL]
    context = {"instance": instance, "rows": [_Row(event) for event in events]}
    return render(request, "review/_instance.html", context)


@require_safe
@permission_required("audit.view_auditevent")
def session_page(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One session, step by step: who asked, who approved, what AWS was told, what was done, how it ended."""
    visible = TerminalSession.objects.visible_to(request.user).select_related("grant")
    found = get_object_or_404(visible, pk=pk)
    may_replay = request.user.has_perm("sessions_app.review_terminalsession")
    context = {"session": found, "chain": session_chain.of(found), "may_replay": may_replay}
    return render(request, "review/session.html", context)


@require_safe
@permission_required("audit.view_auditevent")
def event(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One event: facts, proof, record."""
    found = get_object_or_404(AuditEvent.objects.select_related("seal"), pk=pk)
    context = _event_context(found, request.user)
    context["older"] = AuditEvent.objects.filter(pk__lt=pk).order_by("-pk").values_list("pk", flat=True).first()
    context["newer"] = AuditEvent.objects.filter(pk__gt=pk).order_by("pk").values_list("pk", flat=True).first()
    return render(request, "review/event.html", context)


@require_POST
@permission_required("audit.view_auditevent")
def prove(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Recompute the event's digest and the links around it, now."""
    found = get_object_or_404(AuditEvent.objects.select_related("seal"), pk=pk)
    if request.htmx:
        return render(request, "review/_proof.html", _event_context(found, request.user))
    return redirect("review:event", pk)


@require_POST
@permission_required("audit.view_auditevent")
def verify(request: HttpRequest) -> HttpResponse:
    """Recompute the whole chain; the page then says what came of it."""
    last = AuditSeal.objects.order_by("-number").first()
    if last is not None and last.number > LINKS_AT_ONCE:
        tasks.verify.delay()
        messages.info(request, f"A worker recomputes {last.number:,} links; the result will be here as audit.verify.")
        return redirect("review:audit")
    result = verify_and_record(actor=request.user)
    if result.ok:
        messages.success(
            request, f"All {result.sealed:,} links recomputed in {result.seconds:.1f} s; the chain is whole."
        )
    else:
        messages.error(request, f"The chain is not whole: {result.first_bad}.")
    return redirect("review:audit")


def _event(text: str) -> AuditEvent | None:
    pk = _id(text)
    return AuditEvent.objects.select_related("seal").filter(pk=pk).first() if pk else None


def _event_context(found: AuditEvent, user) -> dict:
    seal = getattr(found, "seal", None)
    whole = found.digest == digest(found)
    session = None
    if found.session_id and (session_pk := _id(found.session_id)):
        session = TerminalSession.objects.visible_to(user).filter(pk=session_pk).first()
    instance_pk = found.target_id if found.target_kind == "inventory.instance" else ""
    if not instance_pk and session is not None and session.instance_row_id:
        instance_pk = str(session.instance_row_id)
    kind, icon = words.glyph(found)
    return {
        "event": found,
        "verb": words.verb(found),
        "event_kind": kind,
        "event_icon": icon,
        "source": words.SOURCES.get(found.source, found.source),
        "details": [(key.replace("_", " "), _shown(value)) for key, value in found.details.items()],
        "record": json.dumps(_record(found), indent=2, ensure_ascii=False),
        "session": session,
        "instance_pk": instance_pk,
        "seal": seal,
        "is_whole": whole,
        "neighbours": chain.neighbourhood(seal) if seal else {},
        "proven_at": now(),
    }


def _record(found: AuditEvent) -> dict:
    fields = {each.attname: getattr(found, each.attname) for each in AuditEvent._meta.concrete_fields}
    fields |= {"id": str(found.id), "at": found.at.isoformat()}
    return {name: value for name, value in fields.items() if value not in ("", {})}


def _shown(value) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _back(request: HttpRequest, asked: search.Search) -> str:
    return asked.url + "".join(f"&{key}={pk}" for key in ("before", "after") if (pk := _id(request.GET.get(key, ""))))


def _id(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
