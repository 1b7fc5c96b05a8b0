"""The emergency page, in four clicks: Emergency, a CVE or package, Continue, Start. Then how far it has come."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.aws.errors import AwsError
from fleetops.clock import now as clock_now
from fleetops.errors import Denied, FieldError, UserError
from fleetops.rollouts import listing
from fleetops.rollouts import tasks as rollout_tasks
from fleetops.rollouts.models import SEE_PERMISSION, START_PERMISSION, Run
from fleetops.rollouts.states import RunState
from fleetops.targets import all_of, comparison, parse
from fleetops.web.shortcuts import permission_required
from patching import lists
from patching.compliance.asking import OLD
from patching.run_views import REBOOTS
from patching.verdict import IF_NEEDED

from . import choose, coverage, found, marks, progress, services
from .marks import Mark
from .models import Emergency
from .services import Asked, Choice, Picture

SEE = (SEE_PERMISSION, START_PERMISSION)
MOST_ROWS: Final = 500  # nodes that can be left out one by one; the expression cuts down any number
ROWS: Final = 100
MOST_SHOWN: Final = 20  # emergencies on the first page
MOST_COUNTED: Final = 5  # of which it says how far they have come, which takes a look at all of their nodes
MOST_FACETS: Final = 8
MOST_LIVELY: Final = 1000  # nodes of which an open page asks every 5 s, else every 30
SPREADS = [(key, label) for key, (label, _) in choose.SPREADS.items()]
SOAKS = ("0", "5", "15", "30")


@require_safe
@permission_required(START_PERMISSION)
def choose_what(request: HttpRequest) -> HttpResponse:
    """Find a CVE or package; offers come while one types. Query: `find`, words."""
    words = request.GET.get("find", "")
    offers = found.offers(request.user, words)
    context = {"find": words.strip()[:200], "offers": offers, "most": max((each.nodes for each in offers), default=0)}
    context["scanned"] = bool(offers) or found.is_anything_scanned(request.user)
    context["is_cve"] = words.strip().upper().startswith("CVE-")
    if _is_part(request):
        return render(request, "patching/emergency_offers.html", context)
    rows = list(Emergency.objects.visible_to(request.user)[:MOST_SHOWN])
    shown = [_short(each, request) if number < MOST_COUNTED else None for number, each in enumerate(rows)]
    context["rows"] = list(zip(rows, shown, strict=True))
    context["never"] = found.never_scanned(request.user).count()
    return render(request, "patching/emergency.html", context)


def _short(emergency: Emergency, request: HttpRequest) -> Any:
    return None if emergency.began_at is None else progress.progress(emergency, request.user).coverage


def _is_part(request: HttpRequest) -> bool:
    return bool(getattr(request, "htmx", False)) and not request.htmx.boosted


# --- who is affected -------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(START_PERMISSION)
def nodes(request: HttpRequest) -> HttpResponse:
    """Whom it affects, and how to go about it. Query: `what` (cve or package), `name`, `q`, `data`. POST plans it."""
    given = request.POST if request.method == "POST" else request.GET
    error: UserError | None = None
    try:
        asked = asked_in(given)
        if request.method == "POST":
            return redirect(services.make(request.user, asked))
    except Denied:
        raise
    except (UserError, AwsError) as refused:
        error = refused if isinstance(refused, UserError) else UserError(str(refused))
        if request.method != "POST" or not given.get("name"):
            return render(request, "patching/emergency_nodes.html", {"error": str(error), "given": given}, status=400)
        asked = asked_in(given, is_lenient=True)
    try:
        picture = services.look(request.user, asked)
    except UserError as refused:
        context = {"error": str(refused), "given": given}
        return render(request, "patching/emergency_nodes.html", context, status=400)
    context = _nodes_context(request, asked, picture)
    if error is not None:
        context["errors"], context["error"] = dict(error.fields), "" if error.fields else str(error)
    return render(request, "patching/emergency_nodes.html", context, status=400 if error else 200)


def asked_in(given: QueryDict, *, is_lenient: bool = False) -> Asked:
    """What a form or query asks for. Raises FieldError; `is_lenient`: what cannot be is as if it were not said."""
    what, name = found.checked(given.get("what", ""), given.get("name", "").replace("\x00", ""))
    soak = given.get("soak_minutes", "5").strip()
    if not (soak.isascii() and soak.isdigit() and len(soak) < 6):
        if not is_lenient:
            raise FieldError("soak_minutes", "Write a whole number of minutes.")
        soak = "5"
    shown, kept = set(given.getlist("shown")), set(given.getlist("node"))
    return Asked(
        what,
        name,
        scope=given.get("q", "").replace("\x00", "")[:4000],
        data=given["data"].replace("\x00", "")[:4000] if "data" in given else None,
        left_out=shown - kept,
        without_replaceable="without_replaceable" in given,
        spread=given.get("spread", "once"),
        budget=given.get("budget", "10%").strip(),
        soak_minutes=int(soak),
        reboot_option=given.get("reboot_option", IF_NEEDED),
        reason=given.get("reason", ""),
    )


def _nodes_context(request: HttpRequest, asked: Asked, picture: Picture) -> dict[str, Any]:
    affected = picture.affected
    counts = picture.counts()
    made = choose.fixes(need for each in picture.fit for need in each.node.needs)
    never = list(found.never_scanned(request.user, asked.scope)[:150])
    scan = str(comparison("id", *(each.instance_id for each in never))) if never else ""
    return {
        "asked": asked,
        "affected": affected,
        "nobody": "" if affected.nodes else services.nobody(affected),
        "rows": picture.choices[:MOST_ROWS],
        "more": max(0, len(picture.choices) - MOST_ROWS),
        "fit": len(picture.fit),
        "counts": ", ".join(each.counted(counts[each]) for each in Mark if counts[each]),
        "replaceable": counts[Mark.REPLACEABLE],
        "groups": _groups(picture.choices),
        "facets": _facets(request, asked, picture.choices),
        "lists": [(fix, services.label_of(fix)) for fix in made],
        "old": clock_now() - OLD,
        "never_query": scan if len(scan) <= 4000 else "all",
        "being_read": found.ask_lists(request.user),
        "spreads": SPREADS,
        "soaks": SOAKS,
        "reboots": REBOOTS,
        "data": asked.data_expression,
        "data_default": settings.EMERGENCY_DATA,
        "wants_reason": picture.wants_reason,
        "node_roles": lists.NODES_READ,
        "errors": {},
    }


def _groups(choices: Iterable[Choice]) -> list[dict[str, Any]]:
    """Auto Scaling groups that could be replaced, each with the command that does it."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for each in choices:
        if each.node.marked.mark is Mark.REPLACEABLE:
            facts = each.node.facts
            counted[each.node.marked.group, facts.account_name or facts.account_id, facts.region] += 1
    return [
        {
            "name": name,
            "account": account,
            "region": region,
            "nodes": count,
            "command": marks.refresh_command(name, region),
            "console": marks.console_words(name),
        }
        for (name, account, region), count in sorted(counted.items())
    ]


def _facets(request: HttpRequest, asked: Asked, choices: list[Choice]) -> list[tuple[str, list[tuple[str, int, str]]]]:
    """By account, region, operating system, cluster and environment how many, each with where it leads."""
    by = (
        ("Account", "account", "", lambda facts: facts.account_name or facts.account_id),
        ("Region", "region", "", lambda facts: facts.region),
        ("System", "platform", "", lambda facts: facts.platform),
        ("Cluster", "tag", "cluster", lambda facts: facts.tags.get("cluster", "")),
        ("Environment", "tag", "env", lambda facts: facts.tags.get("env", "")),
    )
    told = []
    for label, key, tag, value in by:
        counted = Counter(value(each.node.facts) for each in choices)
        counted.pop("", None)
        if len(counted) < 2:
            continue
        values = []
        for name, count in counted.most_common(MOST_FACETS):
            one = comparison(key, name, tag=tag)
            scope = all_of(parse(asked.scope, words=True), one) if asked.scope.strip() else one
            query = request.GET.copy()
            query["what"], query["name"], query["q"] = asked.what, asked.name, str(scope)
            values.append((name, count, f"{reverse('emergency:nodes')}?{query.urlencode()}"))
        told.append((label, values))
    return told


# --- its plan, and how far it has come -------------------------------------------------------------------------------


@require_safe
@permission_required(*SEE)
def page(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The plan until it is started; then how far it has come. Query: `page`."""
    emergency = get_object_or_404(Emergency.objects.visible_to(request.user), pk=pk)
    if emergency.began_at is None:
        return render(request, "patching/emergency_plan.html", plan_context(request, emergency))
    context = progress_context(request, emergency)
    part = "patching/emergency_progress.html" if _is_part(request) else "patching/emergency_page.html"
    return render(request, part, context)


def plan_context(request: HttpRequest, emergency: Emergency) -> dict[str, Any]:
    runs = list(emergency.runs().filter(state=RunState.DRAFT))
    fixes = {fix["key"]: fix for fix in emergency.fixes}
    rows, frozen = [], False
    for run in runs:
        fix = fixes.get(run.subject.get("fix", ""))
        if fix is None:
            continue
        holds = [each for each in run.plan.get("calendars", []) if not each["is_open"]]
        frozen = frozen or any(each["is_freeze"] for each in holds)
        rows.append(
            {
                "run": run,
                "fix": fix,
                "plan": run.plan,
                "waves": [
                    {**each, "start": _moment(each["starts_at"]), "end": _moment(each["ends_at"])}
                    for each in run.plan["waves"]
                ],
                "ends_at": _moment(run.plan.get("ends_at")),
                "holds": [{**each, "opens": _moment(each["opens_at"])} for each in holds],
            }
        )
    targets = emergency.targets.visible_to(request.user)
    out = Counter(targets.filter(is_chosen=False).values_list("reason", flat=True))
    total = sum(each["plan"]["targets"] for each in rows)
    ends = [each["ends_at"] for each in rows]
    return {
        "emergency": emergency,
        "rows": rows,
        "total": total,
        "affected": targets.count(),
        "out": out.most_common(),
        "ends_at": max(ends) if ends and None not in ends else None,
        "reboots": sum(each["plan"]["reboots"] for each in rows),
        "is_frozen": frozen,
        "must_type": total > listing.SURE_FROM,
        "is_mine": emergency.actor_id == request.user.pk and request.user.has_perm(START_PERMISSION),
        "node_roles": lists.NODES_READ,
        "spread": choose.SPREADS[emergency.asked["spread"]][0],
    }


def progress_context(request: HttpRequest, emergency: Emergency) -> dict[str, Any]:
    made = progress.progress(emergency, request.user)
    runs = list(emergency.runs().visible_to(request.user).exclude(state=RunState.DRAFT))
    for run in runs:
        run.kind_of_state, run.word = listing.RUN_WORDS[RunState(run.state)]
    fixes = {fix["key"]: fix for fix in emergency.fixes}
    again = 5 if made.coverage.total <= MOST_LIVELY else 30
    mine = emergency.actor_id == request.user.pk
    left = Paginator(made.left, ROWS).get_page(request.GET.get("page"))
    done = sorted(
        (each for each in made.standings if each.fixed_at is not None), key=lambda each: each.fixed_at, reverse=True
    )
    return {
        "emergency": emergency,
        "coverage": made.coverage,
        "chart": coverage.draw(made.coverage, until=clock_now()),
        "runs": [(run, fixes.get(run.subject.get("fix", ""))) for run in runs],
        "page": left,
        "query": "",
        "left": [(each, Mark(each.target.mark)) for each in left],
        "done": done[:ROWS],
        "done_count": len(done),
        "drafts": emergency.runs().filter(state=RunState.DRAFT, actor=request.user).count() if mine else 0,
        "draft_context": plan_context(request, emergency) if mine else None,
        "is_open": any(run.is_open for run in runs) or made.coverage.left > 0,
        "again": again if any(run.is_open for run in runs) else max(again, 60),
    }


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@require_POST
@permission_required(START_PERMISSION)
def start(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Let all of its plans go, exactly those that were on the page; asked for, the override of a freeze with them."""
    emergency = get_object_or_404(Emergency.objects.filter(actor=request.user), pk=pk)
    drafts = list(emergency.runs().filter(state=RunState.DRAFT))
    total = sum(run.plan.get("targets", 0) for run in drafts)
    typed = request.POST.get("count", "").replace(",", "").strip()
    if total > listing.SURE_FROM and typed != str(total):
        messages.warning(request, f"Type {total} to start it: it is for {total:,} nodes.")
        return redirect(emergency)
    hashes = dict(zip(request.POST.getlist("run"), request.POST.getlist("plan_hash"), strict=False))
    gone: list[Run] = []
    try:
        services.release(emergency, actor=request.user, plan_hashes=hashes, gone=gone)
    except UserError as error:
        if not gone:
            raise
        messages.error(request, str(error))
    for run in gone:
        rollout_tasks.advance_run.delay_on_commit(str(run.pk))
    if "override" in request.POST:
        reason = request.POST.get("override_reason", "").strip() or emergency.reason
        try:
            asked = services.ask_overrides(gone, actor=request.user, reason=reason)
        except UserError as error:
            messages.error(request, f"It is started, and no override was asked for: {error}")
        else:
            messages.success(request, f"Asked to let {asked} run{'' if asked == 1 else 's'} through the freeze.")
    return redirect(emergency)


@require_POST
@permission_required(START_PERMISSION)
def discard(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Delete a plan that was not started."""
    emergency = get_object_or_404(Emergency.objects.filter(actor=request.user), pk=pk)
    services.discard(emergency, actor=request.user)
    messages.success(request, f"The plan for {emergency} is discarded.")
    return redirect("emergency:choose")
