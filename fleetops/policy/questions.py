"""May this person do that there, and why: one answer for the page and for the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from fleetops.clock import now
from fleetops.identity.models import User
from fleetops.targets import TargetFacts

from . import fleet, services
from .decide import OF_SESSIONS, WITH_DOCUMENT, WITH_USER, Context, Contribution, Decision, Deed

REVIEW_SESSIONS = "sessions_app.review_terminalsession"
END_SESSIONS = "sessions_app.end_terminalsession"
SEE_INSTANCES = "inventory.view_instance"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the rules say, each of them, and whether the pages would get the person there at all."""

    person: User
    deed: Deed
    target: TargetFacts | None
    moment: datetime
    decision: Decision
    said: list[Contribution]  # of rules that apply
    silent: list[Contribution]
    cannot_see: str  # why the pages do not get them there; empty if they do
    hidden: str  # how the pages get them there, if not as usual
    others: int | None  # who may besides, under the same circumstances; None where that was not counted

    @property
    def allowed(self) -> bool:
        return self.decision.allowed and not self.cannot_see


def ask(asked: Mapping[str, Any], *, by: User) -> Answer | list[fleet.Found]:
    """Answer what a SimulateForm asks (its cleaned data); the instances that fit, where it is not one alone."""
    person, deed = asked["person"], Deed(asked["deed"])
    target: TargetFacts | None = None
    if asked["instance"].strip():
        found = fleet.find(asked["instance"], by)
        if len(found) != 1:
            return found
        target = found[0].facts
    moment = asked["at"] or now()
    context = Context(
        at=moment,
        source_address=asked["address"] or "",
        mfa_at=moment.timestamp() if asked["has_mfa"] else None,
        reason="given" if asked["has_reason"] else "",
        approvals=asked["approvals"] or 0,
    )
    owner = (person.pk if asked["owner"] == "own" else "somebody else") if deed in OF_SESSIONS else ""
    decision, said = services.simulate(
        person,
        deed,
        target=target,
        document=asked["document"] if deed in WITH_DOCUMENT | {Deed.SHELL} else "",
        run_as=asked["run_as"] if deed in WITH_USER | {Deed.SHELL, Deed.TRANSFER} else "",
        owner=owner,
        destination=asked["destination"] if deed == Deed.FORWARD else "",
        context=context,
    )
    others = None
    is_plain = not asked["document"] and not asked["run_as"]
    if is_plain and deed not in OF_SESSIONS | WITH_DOCUMENT | WITH_USER | {Deed.FORWARD}:
        everybody = services.who_may(deed, target=target, context=context)
        others = sum(other.allowed for user, other in everybody if user.pk != person.pk)
    return Answer(
        person=person,
        deed=deed,
        target=target,
        moment=moment,
        decision=decision,
        said=[each for each in said if each.verdict != "silent"],
        silent=[each for each in said if each.verdict == "silent"],
        cannot_see=_cannot_see(person, deed, owner),
        hidden=_hidden(person, deed, owner),
        others=others,
    )


def _cannot_see(person: User, deed: Deed, owner: UUID | str) -> str:
    """The policy decides on deeds; what somebody cannot find in the pages they cannot do either."""
    if deed not in OF_SESSIONS:
        return "" if person.has_perm(SEE_INSTANCES) else "no role of theirs shows them instances"
    if owner == person.pk or person.has_perm(REVIEW_SESSIONS):
        return ""
    if deed == Deed.END_SESSION and person.has_perm(END_SESSIONS):
        return ""  # see _hidden
    if deed == Deed.END_SESSION:
        return "no role of theirs shows them the sessions of others, or lets them end what they do not see"
    return "no role of theirs shows them the sessions of others"


def _hidden(person: User, deed: Deed, owner: UUID | str) -> str:
    """Who may end but not review ends what they were told of: it stands in no list of theirs."""
    is_others = deed == Deed.END_SESSION and owner != person.pk
    if is_others and person.has_perm(END_SESSIONS) and not person.has_perm(REVIEW_SESSIONS):
        return (
            "A role of theirs lets them end the sessions of others, and none shows them these: they end one whose "
            "address or id somebody gives them, and see neither its terminal nor its recording."
        )
    return ""
