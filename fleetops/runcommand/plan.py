"""Who gets a document, and who does not and why. Asked for a plan, at its start, and again at each dispatch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from fleetops.calendars import services as calendars
from fleetops.calendars.models import Calendar
from fleetops.documents import InvalidParameters
from fleetops.documents.parameters import check_parameters
from fleetops.errors import UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.inventory.readiness import Status, status_of, status_words
from fleetops.inventory.selection import facts_of
from fleetops.library import services as library
from fleetops.library.content import ContentError, Read
from fleetops.library.models import AMAZON, Document
from fleetops.policy import services as policy
from fleetops.policy.decide import Context, Decision, Deed, DeedRequest, decide

from .models import HELD, Bound, Command

MOST_INSTANCES: Final = 20_000  # of one command


@dataclass(frozen=True, slots=True)
class Place:
    """A document where it is to run: which version, and what it says."""

    document: Document
    version: str  # a number
    text: str
    read: Read


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one instance: the version that it gets, or why it gets none."""

    instance: Instance
    version: str = ""
    skipped: str = ""
    is_denied: bool = False
    rules: tuple[str, ...] = ()


def place_of(document: Document, version: str, *, actor: User | str) -> Place:
    """The version of a document in its region, read. Raises UserError if it cannot be run, AwsError."""
    if not document.is_runnable:
        kind = document.document_type or "unknown"
        raise UserError(f"{document} is of the type {kind}; Run Command runs documents of the type Command.")
    found = library.version(document, version, actor=actor)
    try:
        read = library.read(found)
    except ContentError as error:
        raise UserError(f"{document} cannot be run: FleetOps cannot read it. {error}") from None
    return Place(document, str(found.number), found.content, read)


def check(place: Place, parameters: Mapping[str, Sequence[str]]) -> str:
    """Why the document does not take these parameters; empty if it does."""
    try:
        check_parameters(place.read.parameters, {name: list(texts) for name, texts in parameters.items()})
    except InvalidParameters as error:
        return str(error)
    return ""


def judge(
    chosen: Document,
    version: str,
    parameters: Mapping[str, Sequence[str]],
    instances: Sequence[Instance],
    *,
    actor: User,
    context: Context,
    now: datetime,
) -> list[Verdict]:
    """The verdict on each instance, whose account and region should have been loaded with it.

    Raises UserError if the document that was chosen cannot be run at all, or does not take the parameters.
    """
    first = place_of(chosen, version, actor=actor)
    if wrong := check(first, parameters):
        raise UserError(f"{chosen} does not take these parameters: {wrong}.")
    keys = {(each.account_id, each.region_id) for each in instances}
    documents = _elsewhere(chosen, keys)
    places: dict[tuple[object, int], Place | str] = {}
    for key in keys:
        places[key] = _place(first, documents.get(key), version, parameters, actor=actor)
    answers = decisions(actor, instances, chosen.name, context=context)
    standing = calendars.standing()
    return [
        _verdict(instance, places[instance.account_id, instance.region_id], answer, held(instance, standing, now), now)
        for instance, answer in zip(instances, answers, strict=True)
    ]


def held(instance: Instance, standing: Collection[Calendar], now: datetime, deed: str = Deed.RUN_DOCUMENT.value) -> str:
    """Why a calendar holds it now, of those that are in force; or ""."""
    gate = calendars.ask(deed, facts_of(instance), now, standing) if standing else None
    return "" if gate is None or gate.is_open else f"{HELD}{gate.holds[0]}."


def binding(bound_by: str) -> list[Calendar]:
    """The calendars in force that may hold back a command so bound."""
    if bound_by == Bound.NOTHING:
        return []
    return [each for each in calendars.standing() if bound_by == Bound.CALENDARS or not each.is_freeze]


def decisions(
    actor: User,
    instances: Sequence[Instance],
    document_name: str,
    *,
    context: Context,
    deed: str = Deed.RUN_DOCUMENT.value,
) -> list[Decision]:
    """The policy's answers, in two queries."""
    rules, who = policy.rules(), policy.actor_facts(actor)
    mine = [rule for rule in rules if deed in rule.deeds]
    return [decide(DeedRequest(who, deed, context, facts_of(each), document=document_name), mine) for each in instances]


def context_of(command: Command, *, now: datetime) -> Context:
    """The circumstances in which a command was asked for, at this moment."""
    mfa_at = command.mfa_at.astimezone(UTC).timestamp() if command.mfa_at else None
    return Context(now, command.source_address, mfa_at, command.reason)


def by_place(instances: Iterable[Instance]) -> dict[tuple[str, str], int]:
    """How many there are in each account and region."""
    counts: dict[tuple[str, str], int] = {}
    for each in instances:
        key = (each.account.name, each.region.name)
        counts[key] = counts.get(key, 0) + 1
    return counts


def _elsewhere(chosen: Document, keys: set[tuple[object, int]]) -> dict[tuple[object, int], Document]:
    """The documents of that name, by the keys of account and region."""
    found = Document.objects.runnable().filter(name=chosen.name, region__in=[region for _, region in keys])
    return {(each.account_id, each.region_id): each for each in found.select_related("account", "region")}


def _place(
    first: Place,
    document: Document | None,
    version: str,
    parameters: Mapping[str, Sequence[str]],
    *,
    actor: User,
) -> Place | str:
    """The document in one account and region, or why it is not run there."""
    if document is None:
        return "There is no such document in its account and region."
    if document.pk == first.document.pk:
        return first
    try:
        found = place_of(document, version, actor=actor)
    except UserError as error:
        return str(error)
    if found.text != first.text and AMAZON not in {document.owner, first.document.owner}:
        return f"The document of this name says something else in {document.account} {document.region.name}."
    if wrong := check(found, parameters):
        return f"The document does not take these parameters there: {wrong}."
    return found


def _verdict(instance: Instance, place: Place | str, answer: Decision, hold: str, now: datetime) -> Verdict:
    status = status_of(instance)
    if status is not Status.ONLINE:
        return Verdict(instance, skipped=f"It cannot be reached: {status_words(instance, now=now)[1].lower()}.")
    if not instance.account.enabled or not instance.region.enabled:
        return Verdict(instance, skipped="Its account or region is turned off in FleetOps.")
    if isinstance(place, str):
        return Verdict(instance, skipped=place)
    platforms = place.document.platform_types or list(place.read.platform_types)
    if platforms and instance.platform_type and instance.platform_type not in platforms:
        return Verdict(
            instance, skipped=f"It runs {instance.platform_type}; the document is for {' and '.join(platforms)}."
        )
    if not answer.allowed:
        return Verdict(instance, skipped=answer.text, is_denied=True, rules=answer.rules)
    if hold:
        return Verdict(instance, skipped=hold)
    return Verdict(instance, version=place.version, rules=answer.rules)
