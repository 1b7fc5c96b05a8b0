"""A new run of any kind, step by step: targets, waves, gates, its plan. A kind brings its part of the first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from fleetops.errors import UserError
from fleetops.identity.models import User
from fleetops.identity.roles import ROLES
from fleetops.targets import ExpressionError, parse

from . import assess, forms, kinds, limits, plan, rules


@dataclass(frozen=True, slots=True)
class Wizard:
    """What differs from kind to kind."""

    kind: str
    heading: str
    action: str  # the address of the pages
    part: str  # template of what the kind asks in the first step, beside the targets
    back: tuple[str, str]  # label and address: out of it
    subject: Callable[[forms.Asked], Mapping[str, Any]]  # what the kind is told. Raises UserError
    context: Callable[[forms.Asked], Mapping[str, Any]]  # what `part` shows
    names: frozenset[str] = field(default_factory=frozenset)  # inputs of `part`
    hidden: tuple[tuple[str, str], ...] = ()  # inputs that each step of the kind carries besides


def begin(
    request: HttpRequest, wizard: Wizard, preset: str = "careful", values: Mapping[str, str] | None = None
) -> HttpResponse:
    """The first step, with the targets of `?q=`; `values` of other inputs, where they are not the usual ones."""
    posted = request.GET.copy()
    for name, value in (values or {}).items():
        posted[name] = value
    posted["targets"] = request.GET.get("q", "")[:4000]
    asked = forms.Asked(posted, wizard.names)
    asked.preset(preset)
    return page(request, wizard, asked, "targets")


def go_on(request: HttpRequest, wizard: Wizard) -> HttpResponse:
    """Take what was posted: the next step or the one before, the same with what is wrong, or the plan."""
    asked = forms.Asked(request.POST, wizard.names)
    step, go = request.POST.get("step", ""), request.POST.get("go", "next")
    step = step if step in {"waves", "gates"} else "targets"
    if step == "waves" and asked.change_waves(go):
        return page(request, wizard, asked, step)
    try:
        if go == "back":
            return page(request, wizard, asked, "waves" if step == "gates" else "targets")
        if step == "targets":
            kinds.find(wizard.kind).check(wizard.subject(asked))
            _check_targets(request.user, asked)
            return page(request, wizard, asked, "waves")
        if step == "waves":
            _check_waves(asked)
            return page(request, wizard, asked, "gates")
        if go == "more":
            return page(request, wizard, asked, step)
        return redirect(plan.make(asked.wanted(wizard.kind, wizard.subject(asked)), actor=request.user))
    except UserError as error:
        return page(request, wizard, asked, step, error)


def _check_targets(user: User, asked: forms.Asked) -> None:
    """What the first step can tell. Raises UserError."""
    text = asked.text("targets").strip()
    if not text:
        raise _at("targets", "Say on which instances: env=prod, or all.")
    try:
        parse(text, words=True)
    except ExpressionError as error:
        raise _at("targets", str(error)) from None
    _, found = assess.found_by(text, user)
    if not found:
        raise _at("targets", "No instance matches. Write an expression that selects at least one.")


def _check_waves(asked: forms.Asked) -> None:
    rules.cleaned([{**each, "gates": ()} for each in asked.rules()])
    for name, what in (("concurrency", "The concurrency"), ("budget", "The error budget")):
        try:
            limits.parse(asked.text(name), what=what)
        except UserError as error:
            raise _at(name, str(error)) from None


def _at(field: str, text: str) -> UserError:
    error = UserError(text)
    error.fields = {field: text}
    return error


def page(
    request: HttpRequest,
    wizard: Wizard,
    asked: forms.Asked,
    step: str,
    error: UserError | None = None,
) -> HttpResponse:
    """One step, with what is wrong with it."""
    fields = dict(error.fields) if error else {}
    if isinstance(error, assess.ReasonMissing):
        fields, step = {"reason": str(error)}, "targets"
    elif "targets" in fields:
        step = "targets"
    where = [key for key, _ in forms.STEPS]
    at = where.index(step)
    shown = {
        **wizard.context(asked),
        "wizard": wizard,
        "step": step,
        "steps": [(label, number < at, number == at) for number, (_, label) in enumerate(forms.STEPS)],
        "values": asked.values(),
        "waves": asked.waves,
        "wave_count": len(asked.waves),
        "is_strict": "is_strict" in asked.posted,
        "before": asked.extras("before"),
        "after": asked.extras("after"),
        "probes": asked.extras("probe"),
        "carried": [*asked.carried(step), *(wizard.hidden if step == "targets" else ())],
        "errors": fields,
        "error": str(error) if error and not fields else "",
        "by": forms.BY,
        "presets": [(key, label) for key, (label, _) in forms.PRESETS.items()],
        "roles": list(ROLES),
        "most": limits.MOST,
    }
    return render(request, "rollouts/new.html", shown, status=400 if error else 200)
