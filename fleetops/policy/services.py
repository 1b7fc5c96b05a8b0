"""Asking the policy, and changing it. Every door asks here, each with one query more while no rule changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from uuid import UUID

from django.contrib.auth.models import Group
from django.db import IntegrityError, transaction
from django.db.models import F, Q

from fleetops.audit.record import record
from fleetops.clock import monotonic, now, uuid7
from fleetops.errors import Denied, UserError
from fleetops.identity.models import User
from fleetops.targets import ExpressionError, TargetFacts, parse
from fleetops.web.context import current

from . import standing
from .decide import (
    ActorFacts,
    Context,
    Contribution,
    Decision,
    Deed,
    DeedRequest,
    Network,
    RuleFacts,
    decide,
    decide_session,
    deed_on,
    explain,
)
from .models import PolicyState, Rule, RuleRevision, Whose
from .rule_fields import FIELDS, problems

logger = logging.getLogger(__name__)

VIEW_PERMISSION = "policy.view_rule"
CHANGE_PERMISSION = "policy.change_rule"
# A door writes down that a rule decided at most so often; the review asks for months.
USE_NOTED_SECONDS = 60


class PolicyDenied(Denied):
    """The policy says no; the text has its reasons, `decision` has all of them."""

    def __init__(self, request: DeedRequest, answer: Decision) -> None:
        if answer.reasons[0].kind == "none":
            text = f"No rule of the access policy allows you to {deed_on(request)}."
        else:
            text = f"You may not {deed_on(request)}. {answer.text}"
        super().__init__(text if answer.unmet else f"{text} Who administers the policy can change that.")
        self.decision = answer


class ReasonNeeded(PolicyDenied):
    """It would be allowed to whoever says why: ask for it. Not yet a refusal, so nothing is audited."""

    def __init__(self, request: DeedRequest, answer: Decision) -> None:
        super().__init__(request, answer)
        self.fields = {"reason": str(self)}


# --- asking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    stamp: UUID | None
    rules: tuple[RuleFacts, ...]


_kept = _Read(None, ())
_lock = threading.Lock()
_used: dict[str, float] = {}  # rule → when this process last wrote down that it decided


def rules() -> tuple[RuleFacts, ...]:
    """All rules, as they decide. One query; six after a change."""
    global _kept
    read = PolicyState.objects.filter(pk=1).values_list("stamp", flat=True).first()
    kept = _kept
    if read is not None and kept.stamp == read:
        return kept.rules
    while True:
        found = tuple(facts_of(rule) for rule in Rule.objects.prefetch_related("users", "groups", "approvers"))
        # Rules and whom they name are read one after the other: between two changes they might not belong together.
        later = PolicyState.objects.filter(pk=1).values_list("stamp", flat=True).first()
        if later == read:
            break
        read = later
    with _lock:
        _kept = _Read(read, found)
    return found


def stamp() -> str:
    """Another after each change of a rule. One query."""
    return str(PolicyState.objects.filter(pk=1).values_list("stamp", flat=True).first() or "")


def facts_of(rule: Rule) -> RuleFacts:
    """A row, read into what decides."""
    try:
        targets, networks = parse(rule.targets), tuple(ip_network(each) for each in rule.networks)
    except (ExpressionError, ValueError):  # written by another version
        logger.warning("a rule cannot be read any more rule=%s", rule.pk)
        targets, networks = None, ()
    return RuleFacts(
        id=str(rule.pk),
        name=rule.name,
        effect=rule.effect,
        deeds=frozenset(rule.deeds),
        targets=targets,
        everybody=rule.everybody,
        users=frozenset(str(user.pk) for user in rule.users.all()),
        groups=frozenset(str(group.pk) for group in rule.groups.all()),
        whose=rule.whose,
        documents=tuple(rule.documents),
        run_as=tuple(rule.run_as),
        shell_user=rule.shell_user,
        session_documents=tuple(rule.session_documents),
        destinations=tuple(rule.destinations),
        hours=rule.hours,
        networks=networks,
        needs_mfa=rule.needs_mfa,
        mfa_minutes=rule.mfa_minutes,
        needs_reason=rule.needs_reason,
        needs_moderator=rule.needs_moderator,
        approvals=rule.approvals,
        approvers=tuple(sorted(group.name for group in rule.approvers.all())),
        grant_minutes=rule.grant_minutes,
        role_arn=rule.role_arn,
        enabled=rule.enabled,
        valid_from=rule.valid_from,
        valid_until=rule.valid_until,
        note=rule.note,
    )


def actor_facts(user: User) -> ActorFacts:
    """Who asks. One query, none if their groups were prefetched."""
    groups = frozenset(str(group.pk) for group in user.groups.all())
    return ActorFacts(str(user.pk), user.username, groups, user.is_active)


def context(actor: User, *, reason: str = "", approvals: int = 0) -> Context:
    """The circumstances of a deed that `actor` does in this request, now."""
    request = current.get()
    return Context(now(), request.source_address, request.second_factor(str(actor.pk)), reason, approvals)


def decision(
    actor: User,
    deed: str,
    *,
    target: TargetFacts | None = None,
    document: str = "",
    run_as: str = "",
    owner: UUID | str = "",
    context: Context,
) -> Decision:
    """May `actor` do `deed`, and why? `owner` is the user whose session it is. Two queries."""
    return decide(_request(actor, deed, target, document, run_as, owner, context), rules())


def decisions(
    actor: User, deed: str, targets: Sequence[TargetFacts], *, context: Context, owner: UUID | str = ""
) -> list[Decision]:
    """The same of many instances, for a list; two queries, however many.

    Where a shell lacks approvals, those that `actor` holds are counted in: a third query.
    """
    found, who = rules(), actor_facts(actor)
    mine = [rule for rule in found if deed in rule.deeds]
    asked = [DeedRequest(who, deed, context, target, owner=str(owner)) for target in targets]
    answers = [decide(each, mine) for each in asked]
    lacking = [target for target, answer in zip(targets, answers, strict=True) if "approval" in answer.unmet]
    if deed == Deed.SHELL and lacking and (there := standing.held(actor, lacking)):
        for number, (request, target) in enumerate(zip(asked, targets, strict=True)):
            if holds := there.get(standing.place_of(target)):
                here = replace(context, approvals=holds[0], reason=context.reason or holds[1])
                answers[number] = decide(replace(request, context=here), mine)
    return answers


def require(
    actor: User,
    deed: str,
    *,
    target: TargetFacts | None = None,
    document: str = "",
    run_as: str = "",
    owner: UUID | str = "",
    context: Context,
) -> Decision:
    """Let `actor` through a door, or raise PolicyDenied, which the caller audits by its own `….refuse`.

    Raises ReasonNeeded if saying why would do. Two queries, and now and then an update of when a rule last decided; so
    call it outside of transactions that might be rolled back.
    """
    return require_request(_request(actor, deed, target, document, run_as, owner, context))


def require_request(request: DeedRequest) -> Decision:
    """The same of a question that stands already: a session's, with its OS user, destination and role."""
    answer = decide_session(request, rules())
    if answer.wants_only_a_reason:
        raise ReasonNeeded(request, answer)
    note_use(answer.rule_ids)
    if not answer.allowed:
        raise PolicyDenied(request, answer)
    return answer


def simulate(
    actor: User,
    deed: str,
    *,
    target: TargetFacts | None = None,
    document: str = "",
    run_as: str = "",
    owner: UUID | str = "",
    destination: str = "",
    context: Context,
) -> tuple[Decision, list[Contribution]]:
    """The decision, and what each rule says to it."""
    request, found = _request(actor, deed, target, document, run_as, owner, context, destination), rules()
    return decide_session(request, found), explain(request, found)


def who_may(
    deed: str, *, target: TargetFacts | None, context: Context, owner: UUID | str = ""
) -> list[tuple[User, Decision]]:
    """Every user who may log in, with the decision on them; those who may come first. Three queries."""
    found = rules()
    people = User.objects.filter(is_active=True).prefetch_related("groups").order_by("username")
    answers = [
        (user, decide(DeedRequest(actor_facts(user), deed, context, target, owner=str(owner)), found))
        for user in people
    ]
    return sorted(answers, key=lambda pair: not pair[1].allowed)


def _request(
    actor: User,
    deed: str,
    target: TargetFacts | None,
    document: str,
    run_as: str,
    owner: UUID | str,
    context: Context,
    destination: str = "",
) -> DeedRequest:
    who = actor_facts(actor)
    return DeedRequest(who, deed, context, target, document, run_as, str(owner), destination=destination)


def note_use(rule_ids: Iterable[str]) -> None:
    """Write down that these rules decided at a door, once a minute each."""
    moment = monotonic()
    due = [each for each in rule_ids if moment - _used.get(each, -1e9) > USE_NOTED_SECONDS]
    if not due:
        return
    _used.update(dict.fromkeys(due, moment))
    at = now()
    stale = Q(last_used_at=None) | Q(last_used_at__lt=at - timedelta(seconds=USE_NOTED_SECONDS))
    Rule.objects.filter(stale, pk__in=due).update(last_used_at=at)


# --- changing --------------------------------------------------------------------------------------------------------

_PEOPLE = ("users", "groups", "approvers")


class RuleProblems(UserError):
    """The rule cannot be saved; `fields` says for each field why not."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(" ".join(fields.values()))
        self.fields = fields


def create_rule(*, actor: User | str, enabled: bool = True, confirmed: bool = False, **fields: Any) -> Rule:
    """Make a rule; it holds within a second, everywhere. `confirmed`: it may be for every instance.

    Raises RuleProblems, UserError if the name is taken.
    """
    given = _checked(fields, confirmed)
    with _name_once(given["name"]), transaction.atomic():
        rule = Rule(enabled=enabled)
        after = _write(rule, given, actor)
        _changed(rule, "create", actor, {}, after)
    logger.info("rule created rule=%s", rule.pk)
    return rule


def change_rule(rule: Rule, *, actor: User, version: int, confirmed: bool = False, **fields: Any) -> None:
    """Give the rule all of `fields`, if it still is the `version` that the person saw.

    Raises RuleProblems; UserError if it was changed or deleted meanwhile.
    """
    given = _checked(fields, confirmed)
    with _name_once(given["name"]), transaction.atomic():
        held = _held(rule, version)
        before = snapshot(held)
        after = _write(held, given, actor)
        if before == after:
            return
        _changed(held, "update", actor, before, after)
    logger.info("rule changed rule=%s", rule.pk)


def set_enabled(rule: Rule, enabled: bool, *, actor: User) -> None:
    """Switch the rule on or off. Doing it again does nothing."""
    with transaction.atomic():
        held = _held(rule)
        if held.enabled == enabled:
            return
        before = snapshot(held)
        held.enabled = enabled
        _stamped(held, actor)
        held.save(update_fields=["enabled", "version", "changed_at", "changed_by"])
        _changed(held, "enable" if enabled else "disable", actor, before, snapshot(held))
    logger.info("rule %s rule=%s", "enabled" if enabled else "disabled", rule.pk)


def delete_rule(rule: Rule, *, actor: User, version: int) -> None:
    """Delete the rule, if it still is the `version` that the person saw; its history stays.

    Raises UserError if it was changed or deleted meanwhile.
    """
    with transaction.atomic():
        held = _held(rule, version)
        before, pk = snapshot(held), held.pk
        held.delete()
        held.pk = pk  # the audit event and the revision name it
        _changed(held, "delete", actor, before, {})
    logger.info("rule deleted rule=%s", pk)


def snapshot(rule: Rule) -> dict[str, Any]:
    """All of the rule, in JSON and as a person reads it."""
    return {
        "name": rule.name,
        "effect": rule.effect,
        "enabled": rule.enabled,
        "note": rule.note,
        "everybody": rule.everybody,
        "users": sorted(user.username for user in rule.users.all()),
        "groups": sorted(group.name for group in rule.groups.all()),
        "deeds": sorted(rule.deeds),
        "whose": rule.whose,
        "targets": rule.targets,
        "documents": list(rule.documents),
        "run_as": list(rule.run_as),
        "shell_user": rule.shell_user,
        "session_documents": list(rule.session_documents),
        "destinations": list(rule.destinations),
        "hours": str(rule.hours or ""),
        "networks": list(rule.networks),
        "needs_mfa": rule.needs_mfa,
        "mfa_minutes": rule.mfa_minutes,
        "needs_reason": rule.needs_reason,
        "needs_moderator": rule.needs_moderator,
        "approvals": rule.approvals,
        "approvers": sorted(group.name for group in rule.approvers.all()),
        "grant_minutes": rule.grant_minutes,
        "role_arn": rule.role_arn,
        "valid_from": rule.valid_from.isoformat() if rule.valid_from else "",
        "valid_until": rule.valid_until.isoformat() if rule.valid_until else "",
    }


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The fields that differ: name, before, after."""
    return [
        (name, before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


def _checked(fields: Mapping[str, Any], confirmed: bool) -> dict[str, Any]:
    if unknown := fields.keys() - FIELDS.keys():
        raise LookupError(f"a rule has no {', '.join(sorted(unknown))}")
    if found := problems(fields, confirmed=confirmed):
        raise RuleProblems(found)
    given = {**FIELDS, **fields}
    given["targets"] = str(parse(given["targets"]))
    given["networks"] = [str(_plain(ip_network(each))) for each in given["networks"]]
    if not given["days"]:
        given |= {"starts_at": None, "ends_at": None, "zone": ""}
    given["destinations"] = [each.lower() for each in given["destinations"]]
    for name in ("deeds", "documents", "run_as", "session_documents", "destinations", "days"):
        given[name] = sorted(set(given[name]))
    given["name"], given["note"] = " ".join(given["name"].split()), given["note"].strip()
    return given


@contextmanager
def _name_once(name: str) -> Iterator[None]:
    """The database has each name once, whoever saves at the same time; tell the second one."""
    try:
        yield
    except IntegrityError:
        if not Rule.objects.filter(name=name).exists():
            raise
        raise RuleProblems({"name": f"There is a rule “{name}” already. Choose another name."}) from None


def _plain(network: Network) -> Network:
    """IPv4 written as IPv6 as what it is: so addresses are compared."""
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def _held(rule: Rule, version: int | None = None) -> Rule:
    """The row, locked. Raises UserError if it is gone or another than was seen."""
    held = Rule.objects.select_for_update().filter(pk=rule.pk).first()
    if held is None:
        raise UserError(f"Rule “{rule.name}” was deleted meanwhile. Its history is on the page of changes.")
    if version is not None and held.version != version:
        raise UserError(
            f"{held.changed_by or 'Somebody'} changed rule “{held.name}” meanwhile. Open it again, and decide anew."
        )
    return held


def _write(rule: Rule, given: Mapping[str, Any], actor: User | str) -> dict[str, Any]:
    for name, value in given.items():
        if name not in _PEOPLE:
            setattr(rule, name, value)
    _stamped(rule, actor)
    rule.save()
    rule.users.set(given["users"])
    rule.groups.set(given["groups"])
    rule.approvers.set(given["approvers"])
    return snapshot(rule)


def _stamped(rule: Rule, actor: User | str) -> None:
    if not rule._state.adding:
        rule.version += 1
    rule.changed_at, rule.changed_by = now(), str(actor)


def _changed(rule: Rule, change: str, actor: User | str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Keep the revision, write the audit event, and let every process know."""
    RuleRevision.objects.create(
        rule_id=rule.pk, rule_name=rule.name, change=change, by=str(actor), before=before, after=after
    )
    differing = difference(before, after)
    record(
        f"policy.rule.{change}",
        actor=actor,
        target=rule,
        before={name: old for name, old, _ in differing if before},
        after={name: new for name, _, new in differing if after},
    )
    _state()
    PolicyState.objects.filter(pk=1).update(stamp=uuid7(), version=F("version") + 1)


def _state() -> PolicyState:
    return PolicyState.objects.get_or_create(pk=1)[0]


# --- what there is from the start ------------------------------------------------------------------------------------

# Key → the rule, with the names of roles for its groups. A key that was made once is never made again.
DEFAULTS: Mapping[str, dict[str, Any]] = {
    "shells": {
        "name": "Operators and administrators open shells",
        "groups": ("operator", "administrator"),
        "deeds": [Deed.SHELL.value],
    },
    "recordings": {
        "name": "Auditors and administrators read recordings and watch",
        "groups": ("auditor", "administrator"),
        "deeds": [Deed.READ_RECORDING.value, Deed.WATCH_SESSION.value],
    },
    "own_sessions": {
        "name": "Everybody has their own sessions and recordings",
        "everybody": True,
        "whose": Whose.OWN.value,
        "deeds": [Deed.READ_RECORDING.value, Deed.WATCH_SESSION.value, Deed.END_SESSION.value],
    },
    "documents": {
        "name": "Operators and administrators run documents",
        "groups": ("operator", "administrator"),
        "deeds": [Deed.RUN_DOCUMENT.value],
        "documents": ["*"],
    },
    "patching": {
        "name": "Patch owners and administrators patch",
        "groups": ("patch_owner", "administrator"),
        "deeds": [Deed.PATCH.value],
    },
    "attach_roles": {
        "name": "Operators and administrators attach roles",
        "groups": ("operator", "administrator"),
        "deeds": [Deed.ATTACH_ROLE.value],
    },
    "end_sessions": {
        "name": "Administrators end sessions",
        "groups": ("administrator",),
        "deeds": [Deed.END_SESSION.value],
    },
}


def make_defaults() -> list[str]:
    """Make the rules of DEFAULTS that never were made; returns their names. One that was deleted stays so."""
    made, handled = [], set()
    with transaction.atomic():
        _state()
        state = PolicyState.objects.select_for_update().get(pk=1)
        groups = {group.name: group for group in Group.objects.all()}
        for key, fields in DEFAULTS.items():
            if key in state.defaults_made:
                continue
            handled.add(key)
            if Rule.objects.filter(name=fields["name"]).exists():
                continue
            named = [groups[name] for name in fields.get("groups", ()) if name in groups]
            create_rule(
                actor="fleetops", confirmed=True, **{**fields, "groups": named, "targets": "all", "note": _DEFAULT_NOTE}
            )
            made.append(fields["name"])
        if handled:
            PolicyState.objects.filter(pk=1).update(defaults_made=sorted({*state.defaults_made, *handled}))
    return made


_DEFAULT_NOTE = "As FleetOps comes: change or delete it as you like."
