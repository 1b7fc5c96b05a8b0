"""How far the chain is proven, for the audit page's first sentence."""

from dataclasses import dataclass, field
from datetime import datetime

from fleetops.audit.chain import GENESIS, Head, verify
from fleetops.audit.models import AuditEvent, AuditSeal, Outcome
from fleetops.audit.record import digest

# Links that one page view recomputes behind those that an audit.verify has proven: some 100 ms.
LINKS_A_VIEW = 1000


@dataclass
class ChainState:
    """The chain as this page can answer for it."""

    broken: str = ""  # the first problem, in words
    broken_at: AuditEvent | None = None  # the audit.verify that found it, unless this view did
    links: int = 0  # proven, by the last whole look and this view together
    proven_to: datetime | None = None  # moment of the last proven event
    unproven: int = 0  # sealed, and not recomputed yet
    unsealed: int = 0
    whole_look: AuditEvent | None = field(default=None)  # the last audit.verify


def chain_state() -> ChainState:
    """What the last audit.verify has shown, and at most LINKS_A_VIEW further links recomputed now."""
    last = AuditEvent.objects.filter(action="audit.verify").order_by("-pk").first()
    state = ChainState(whole_look=last)
    start = Head(0, GENESIS)
    if last is not None:
        if last.digest != digest(last):
            state.broken = f"event {last.pk}, which tells of the last verification, was changed"
            return state
        if last.outcome != Outcome.DONE:
            state.broken, state.broken_at = last.reason, last
            return state
        start = Head(last.details["number"], last.details["hash"])
    result = verify(after=start, at_most=LINKS_A_VIEW)
    if not result.ok:
        state.broken = result.first_bad
        return state
    state.links, state.unsealed = result.head.number, result.unsealed
    end = AuditSeal.objects.order_by("-number").first()
    if end is not None and end.number > result.head.number:
        state.unproven = end.number - result.head.number
    reached = AuditSeal.objects.filter(number=result.head.number).select_related("event").first()
    state.proven_to = reached.event.at if reached else None
    return state
