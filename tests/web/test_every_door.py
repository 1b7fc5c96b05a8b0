"""Every address of the product, every role, and what each gets. A new address fails here until it is decided on."""

import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import get_resolver, reverse

from fleetops.approvals import services as approvals
from fleetops.audit.record import record
from fleetops.calendars import services as calendars
from fleetops.clock import now
from fleetops.identity import access_keys, tokens
from fleetops.identity.roles import ROLES
from fleetops.inventory import ceilings
from fleetops.inventory.saved import save_filter
from fleetops.notify import services as notify
from fleetops.policy.models import Rule as PolicyRule
from patching.compliance.models import Hub
from tests.factories import (
    make_baseline,
    make_closing,
    make_cluster_rule,
    make_command,
    make_connect_order,
    make_document,
    make_emergency,
    make_execution,
    make_exposing_group,
    make_grant,
    make_iam_role,
    make_instance,
    make_lease,
    make_pinned_set,
    make_restricted_shell,
    make_role_finding,
    make_role_rule,
    make_run,
    make_schedule,
    make_session,
    make_user,
    make_write,
)
from tests.support.cases import Cases

OUT = "nobody is logged in"
NO_ROLE = "no role"
PEOPLE = (NO_ROLE, *ROLES)
LOGGED_IN: dict[str, str] = {}  # person → what their browser holds; each test finds it as it was
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

ALL = frozenset(PEOPLE)
SEE_FLEET = frozenset(ROLES)
OPEN_SHELLS = frozenset({"operator", "administrator"})
REVIEW = frozenset({"auditor", "administrator"})
ADMINISTER = frozenset({"administrator"})
CHANGE_CALENDARS = frozenset({"patch_owner", "administrator"})
PATCH = frozenset({"patch_owner", "administrator"})
RUN_DOCUMENTS = frozenset({"operator", "administrator"})
SEE_COMMANDS = RUN_DOCUMENTS | REVIEW
NOBODY: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Rule:
    """What a method of an address answers: `yes` to the people in `to`, else `no`."""

    to: frozenset[str]
    yes: int
    no: int = 403
    besides: dict[str, int] = field(default_factory=dict)  # people who get another answer

    def status(self, person: str) -> int:
        return self.besides.get(person, self.yes if person in self.to else self.no)


def page(to: frozenset[str], yes: int = 200, no: int = 403, **besides: int) -> dict[str, Rule]:
    """To be read, and nothing else."""
    return {"GET": Rule(to, yes, no, besides)}


def deed(to: frozenset[str], yes: int = 302, no: int = 403, **besides: int) -> dict[str, Rule]:
    """To be posted to, and nothing else."""
    return {"POST": Rule(to, yes, no, besides)}


# Objects are somebody else's: the instance's is nobody's, the user is another, the session another operator's. Its own
# user has all of a session: test_a_session_is_its_users. Forms are posted empty but for FORMS.
DOORS: dict[str, dict[str, Rule]] = {
    "home": page(ALL, 302),
    "web:counts": page(ALL),  # of what one may see
    "identity:login": page(ALL, 302) | deed(ALL, 302),  # who is in already goes on
    "identity:logout": deed(ALL),
    "identity:code": page(ALL, 302) | deed(ALL, 302),  # who is in already goes on
    "identity:confirm": page(ALL) | deed(ALL, 400),
    "identity:own": page(ALL),
    "identity:set_up": page(ALL, 302) | deed(ALL, 302),  # to prove first who one is
    "identity:finish": deed(ALL),
    "identity:codes": deed(ALL),
    "identity:remove": deed(ALL, 400),
    "identity:tokens": page(ALL),
    "identity:all_tokens": page(ADMINISTER),
    "identity:create_token": page(ALL, 302) | deed(ALL, 302),
    "identity:revoke_token": deed(ADMINISTER, 302, 404),
    "identity:keys": page(ALL),
    "identity:all_keys": page(ADMINISTER),
    "identity:create_key": page(ALL, 302) | deed(ALL, 302),
    "identity:revoke_key": deed(ADMINISTER, 302, 404),
    "identity:set_roles": deed(ADMINISTER),
    "identity:reset_second_factor": deed(ADMINISTER),
    "api:index": page(ALL),
    "identity:users": page(ADMINISTER),
    "identity:create_user": page(ADMINISTER) | deed(ADMINISTER, 400),
    "identity:user": page(ADMINISTER) | deed(ADMINISTER),
    "identity:set_active": deed(ADMINISTER),
    "identity:set_password": deed(ADMINISTER, 400),
    "notify:list": page(REVIEW),
    "notify:create_channel": page(ADMINISTER) | deed(ADMINISTER, 400),
    "notify:channel": page(REVIEW) | deed(ADMINISTER, 409),
    "notify:test_channel": deed(ADMINISTER),
    "notify:delete_channel": deed(ADMINISTER),
    "notify:add_silence": deed(ADMINISTER, 400),
    "notify:end_silence": deed(ADMINISTER),
    "notify:send_again": deed(ADMINISTER, 409),  # it waits
    "calendars:list": page(SEE_FLEET),
    "calendars:create": page(CHANGE_CALENDARS) | deed(CHANGE_CALENDARS, 400),
    "calendars:check": page(SEE_FLEET),
    "calendars:calendar": page(SEE_FLEET),
    "calendars:change": page(CHANGE_CALENDARS) | deed(CHANGE_CALENDARS, 400),
    "calendars:delete": deed(CHANGE_CALENDARS),
    "calendars:fetch": deed(CHANGE_CALENDARS, 409),  # it is kept here
    "calendars:ics": page(SEE_FLEET),
    "calendars:add_entry": deed(CHANGE_CALENDARS, 400),
    "calendars:remove_entry": deed(CHANGE_CALENDARS, 409),
    "approvals:list": page(ALL),  # of one's own, where one may not answer
    "approvals:request": page(REVIEW, 200, 404),
    "approvals:vote": deed(ADMINISTER, 302, 404, auditor=403),
    "approvals:withdraw": deed(NOBODY, 302, 404, auditor=403, administrator=403),
    "accounts:list": page(ADMINISTER),
    "accounts:add": page(ADMINISTER) | deed(ADMINISTER, 400),
    "accounts:template": page(ADMINISTER),
    "accounts:account": page(ADMINISTER),
    "accounts:edit": page(ADMINISTER) | deed(ADMINISTER, 400),
    "accounts:check": deed(ADMINISTER),
    "accounts:live": page(ADMINISTER),
    "accounts:identity": page(ADMINISTER),
    "accounts:check_identity": deed(ADMINISTER),
    "accounts:identity_live": page(ADMINISTER),
    "accounts:set_enabled": deed(ADMINISTER),
    "accounts:remove": deed(ADMINISTER, 409),  # without its number
    "accounts:document": page(ADMINISTER),
    "deliveries:account": page(ADMINISTER) | deed(ADMINISTER, 400),  # without a log group
    "deliveries:check": deed(ADMINISTER),
    "deliveries:live": page(ADMINISTER),
    "budget:page": page(ADMINISTER),
    "budget:live": page(ADMINISTER),
    "budget:limits": page(ADMINISTER) | deed(ADMINISTER, 400),
    "budget:remove": deed(ADMINISTER),
    "inventory:fleet": page(SEE_FLEET),
    "inventory:live": page(SEE_FLEET, 400),  # without what an open page asks with
    "inventory:refresh": deed(OPEN_SHELLS),
    "inventory:palette": page(SEE_FLEET),
    "inventory:instance": page(SEE_FLEET),
    "inventory:complete": page(SEE_FLEET),
    "inventory:preview": page(SEE_FLEET),
    "inventory:filters": page(SEE_FLEET) | deed(SEE_FLEET, 400),
    "inventory:change_filter": deed(ADMINISTER, 409),  # another's, which is shared; the form is empty
    "inventory:delete_filter": deed(ADMINISTER),
    "inventory:star_filter": deed(SEE_FLEET),
    "machines:list": page(ADMINISTER),
    "machines:add": page(ADMINISTER) | deed(ADMINISTER, 400),
    "machines:activation": page(ADMINISTER),
    "machines:live": page(ADMINISTER),
    "machines:delete": deed(ADMINISTER, 409),  # AWS is not there
    "machines:ca": page(ADMINISTER, 404),  # AWS itself has none
    "machines:deregister": page(ADMINISTER, 409) | deed(ADMINISTER, 409),  # an instance of EC2
    "policy:rules": page(REVIEW),
    "policy:create": page(ADMINISTER) | deed(ADMINISTER, 400),
    "policy:pick": page(ADMINISTER),
    "policy:people": page(REVIEW),
    "policy:simulate": page(REVIEW),
    "policy:review": page(REVIEW),
    "policy:history": page(REVIEW),
    "policy:rule": page(REVIEW) | deed(ADMINISTER, 400),
    "policy:set_enabled": deed(ADMINISTER),
    "policy:delete": deed(ADMINISTER),
    **dict.fromkeys(
        (f"roles:{name}" for name in ("overview", "attachments", "leases", "history", "rules", "catalogue")),
        page(SEE_FLEET),
    ),
    **dict.fromkeys(("roles:panel", "roles:attachment", "roles:role"), page(SEE_FLEET)),
    "roles:new": page(OPEN_SHELLS) | deed(OPEN_SHELLS, 200),  # on which instance?
    "roles:new_run": page(PATCH) | deed(PATCH, 400),  # on what?
    "roles:extend": page(OPEN_SHELLS) | deed(OPEN_SHELLS, 400),  # for how long?
    "roles:end": page(OPEN_SHELLS) | deed(ADMINISTER),
    **dict.fromkeys(("roles:put_back", "roles:accept"), page(ADMINISTER) | deed(ADMINISTER)),
    "roles:create_rule": page(ADMINISTER) | deed(ADMINISTER, 400),
    "roles:rule": page(SEE_FLEET) | deed(ADMINISTER, 400),
    "roles:delete_rule": page(ADMINISTER) | deed(ADMINISTER, 409),  # as it was when?
    "roles:make": deed(ADMINISTER, 409),  # where?
    "roles:read_again": deed(SEE_FLEET),
    "roles:put_right": page(ADMINISTER) | deed(ADMINISTER, 409),  # by what that was shown?
    "patching:new_run": page(PATCH) | deed(PATCH, 400),  # on what?
    "exposure:groups": page(SEE_FLEET),
    "exposure:close": page(ADMINISTER, 409) | deed(ADMINISTER, 409),  # of which groups?
    "exposure:closings": page(SEE_FLEET),
    "exposure:reopen": deed(ADMINISTER, 409),  # it is being closed
    "exposure:read_again": deed(ADMINISTER),
    "emergency:choose": page(PATCH),
    "emergency:nodes": page(PATCH, 400) | deed(PATCH, 400),  # of what?
    "emergency:page": page(SEE_FLEET),
    "emergency:start": deed(PATCH, 404),  # another's
    "emergency:discard": deed(PATCH, 404),
    "compliance:overview": page(SEE_FLEET),
    "compliance:instances": page(SEE_FLEET),
    "compliance:instance": page(SEE_FLEET),
    "compliance:cves": page(SEE_FLEET),
    "compliance:cve": page(SEE_FLEET),
    "compliance:patches": page(SEE_FLEET),
    "compliance:report": page(SEE_FLEET),
    "compliance:export": page(SEE_FLEET),
    "compliance:hub": page(SEE_FLEET),
    "compliance:switch_hub": deed(PATCH),
    "compliance:deadlines": page(SEE_FLEET) | deed(PATCH),
    "patching:baselines": page(SEE_FLEET),
    "patching:baseline": page(SEE_FLEET),
    "patching:create": page(PATCH) | deed(PATCH, 200),  # for which operating system?
    "patching:edit": page(PATCH) | deed(PATCH, 400),
    "patching:preview": deed(PATCH, 200),
    "patching:preview_new": deed(PATCH, 409),  # of what?
    "patching:writes": page(SEE_FLEET),
    "patching:resume_write": deed(PATCH, 404),  # there is none that stands half way
    "patching:roll_back_write": deed(PATCH, 404),
    "patching:compare": page(SEE_FLEET, 409),  # without two versions
    "patching:copy": page(PATCH) | deed(PATCH, 400),
    "patching:make_default": deed(PATCH, 409),  # AWS is not there
    "patching:accept": deed(PATCH),
    "patching:delete": page(PATCH) | deed(PATCH, 400),  # without its name
    "patching:groups": page(SEE_FLEET),
    "patching:group": page(SEE_FLEET, 404),  # without its region
    "patching:register": deed(PATCH, 404),  # without a baseline
    "patching:deregister": deed(PATCH, 404),
    "patching:sets": page(SEE_FLEET),
    "patching:lists": page(SEE_FLEET) | deed(PATCH, 404),  # of no account
    "patching:freeze": page(PATCH) | deed(PATCH, 400),
    "patching:pinned_set": page(SEE_FLEET),
    "patching:override_list": page(SEE_FLEET),
    "library:list": page(SEE_FLEET),
    "library:create": page(ADMINISTER) | deed(ADMINISTER, 400),
    "library:document": page(SEE_FLEET),
    "library:compare": page(SEE_FLEET, 409),  # without two versions
    "library:edit": page(ADMINISTER) | deed(ADMINISTER, 400),
    "library:set_default": deed(ADMINISTER, 404),  # without a version
    "library:delete": page(ADMINISTER) | deed(ADMINISTER, 400),  # without its name
    "runcommand:list": page(SEE_COMMANDS),
    "runcommand:create": page(RUN_DOCUMENTS) | deed(RUN_DOCUMENTS, 409),  # without a document
    "runcommand:panel": page(SEE_FLEET),
    "runcommand:command": page(REVIEW, 200, 403, operator=404),
    "runcommand:live": page(REVIEW, 200, 403, operator=404),
    "runcommand:start": deed(NOBODY, 302, 403, operator=404, administrator=404),
    "runcommand:cancel": deed(ADMINISTER, 302, 403, operator=404),
    "runcommand:again": deed(ADMINISTER, 409, 403, operator=404),  # it runs
    "runcommand:invocation": page(REVIEW, 200, 403, operator=404),
    "rollouts:runs": page(SEE_FLEET),
    "rollouts:new": page(PATCH) | deed(PATCH, 409),  # without a document
    "rollouts:clusters": page(SEE_FLEET),
    "rollouts:create_cluster": page(PATCH) | deed(PATCH, 400),
    "rollouts:cluster": page(PATCH) | deed(PATCH, 400),
    "rollouts:delete_cluster": deed(PATCH),
    "schedules:list": page(SEE_FLEET),
    "schedules:new": page(PATCH) | deed(PATCH, 200),  # of what?
    "schedules:when": page(PATCH),
    "schedules:schedule": page(SEE_FLEET),
    "schedules:change": page(NOBODY) | deed(NOBODY),  # its owner's
    "schedules:pause": deed(PATCH),
    "schedules:resume": deed(NOBODY),  # likewise
    "schedules:run": deed(NOBODY),
    "schedules:take": deed(PATCH),
    "schedules:delete": deed(PATCH),
    "schedules:answer": deed(PATCH),
    "rollouts:run": page(SEE_FLEET),
    "rollouts:live": page(SEE_FLEET),
    "rollouts:cells": page(SEE_FLEET),
    "rollouts:names": page(SEE_FLEET),
    "rollouts:cell": page(SEE_FLEET),
    "rollouts:targets": page(SEE_FLEET),
    "rollouts:target": page(SEE_FLEET),
    "rollouts:failures": page(SEE_FLEET),
    "rollouts:events": page(SEE_FLEET),
    "rollouts:plan": page(SEE_FLEET),
    "rollouts:again": deed(PATCH, 409),  # it selects nothing any more
    "rollouts:discard": deed(PATCH, 409),  # it runs
    "rollouts:start": deed(PATCH, 404),
    "rollouts:pause": deed(PATCH),
    "rollouts:resume": deed(ADMINISTER, 409),  # it runs; the policy lets no patch owner run documents
    "rollouts:abort": deed(PATCH),
    "rollouts:retry": deed(ADMINISTER, 409),  # nothing has failed; likewise
    "rollouts:forward": deed(PATCH, 409),  # likewise
    "rollouts:override": deed(PATCH, 409),  # without a reason
    "rollouts:skip_wave": deed(PATCH, 409),
    "rollouts:skip_target": deed(PATCH, 409),
    "rollouts:retry_target": deed(ADMINISTER, 409),  # it has not failed
    "rollouts:waive": deed(PATCH, 409),
    "rollouts:overrule": deed(PATCH, 409),
    "automation:list": page(SEE_COMMANDS),
    "automation:new": page(RUN_DOCUMENTS) | deed(RUN_DOCUMENTS, 200),  # names no runbook: those to choose from
    "automation:blueprints": page(SEE_COMMANDS),
    "automation:put_blueprint": deed(ADMINISTER, 409),  # names no region
    "automation:execution": page(REVIEW, 200, 403, operator=404),  # somebody else's
    "automation:signal": deed(ADMINISTER, 409, 404, auditor=403),  # AWS has not started it
    "automation:stop": deed(ADMINISTER, 409, 404, auditor=403),
    "attached:new": page(RUN_DOCUMENTS, 409) | deed(RUN_DOCUMENTS, 400),  # names no instance; it can be reached
    "attached:order": page(NOBODY, 200, 404),  # somebody else's
    "attached:open": deed(NOBODY, 302, 404),
    "attached:cancel": deed(NOBODY, 302, 404),
    "sessions:list": page(ALL),  # of one's own, where one may not review
    "sessions:open": deed(OPEN_SHELLS, 302, 403, **{NO_ROLE: 404}),
    "sessions:files": page(SEE_FLEET, 200, 404),
    "sessions:transfer": deed(NOBODY, 200, 403, **{NO_ROLE: 404}),  # the rules of the start let no file go
    "sessions:open_as": page(ALL, 400) | deed(SEE_FLEET, 409, 404),  # names no instance; no restricted shell
    "sessions:restricted_shells": page(ADMINISTER),
    "sessions:restricted_shell_add": page(ADMINISTER) | deed(ADMINISTER, 400),  # without a name
    "sessions:restricted_shell": page(ADMINISTER) | deed(ADMINISTER, 400),  # without a command
    "sessions:restricted_shell_enabled": deed(ADMINISTER),
    "sessions:commands": page(ALL),  # likewise
    "sessions:commands_csv": page(ALL),
    "sessions:commands_json": page(ALL),
    "sessions:panel": page(SEE_FLEET, 200, 404),
    "sessions:terminal": page(REVIEW, 200, 404),
    "sessions:grants": page(ALL),  # one's own, where one may not review or answer
    "sessions:grant_ask": page(ALL) | deed(ALL, 400),  # of instances that one may see
    "sessions:grant": page(REVIEW, 200, 404),
    "sessions:grant_of": page(REVIEW, 302, 404),
    "sessions:grant_vote": deed(ADMINISTER, 302, 404, auditor=403),
    "sessions:grant_withdraw": deed(NOBODY, 302, 404, auditor=403, administrator=403),
    "sessions:grant_revoke": deed(NOBODY, 302, 404, auditor=403, administrator=400),  # without a reason
    "sessions:grant_deny_tokens": deed(ADMINISTER, 302, 404, auditor=403),
    "sessions:grant_allow_tokens": deed(ADMINISTER, 302, 404, auditor=403),
    "sessions:tokens": page(ADMINISTER) | deed(ADMINISTER, 400),  # names no role
    "sessions:pane": page(REVIEW, 200, 404),
    "sessions:message": page(REVIEW, 200, 404) | deed(REVIEW, 400, 404),  # says nothing
    "sessions:reason": page(REVIEW, 200, 404) | deed(REVIEW, 400, 404),  # without one
    "sessions:end": deed(ADMINISTER, 302, 404, auditor=403),
    "sessions:replay": page(REVIEW, 200, 404),
    "sessions:cast": page(REVIEW, 200, 404),
    "sessions:events": page(REVIEW, 200, 404),
    "sessions:search": page(REVIEW, 200, 404),
    "review:audit": page(REVIEW),
    "review:verify": deed(REVIEW),
    "review:event": page(REVIEW),
    "review:session": page(REVIEW),
    "review:instance": page(REVIEW),
    "review:prove": deed(REVIEW),
}
OPEN_TO_ALL = {"identity:login": ("GET", "POST"), "identity:code": ()}
# What Django's own redirect takes besides; it tells nobody anything.
ANY_METHOD = {"home"}


def names(patterns, namespace: str = "") -> Iterator[str]:
    for pattern in patterns:
        if hasattr(pattern, "url_patterns"):
            yield from names(pattern.url_patterns, f"{pattern.namespace}:" if pattern.namespace else namespace)
        else:
            assert pattern.name, f"{pattern.pattern} has no name, so nobody has decided on it"
            yield f"{namespace}{pattern.name}"


NOBODYS = {"kind": "document", "subject": {"document": "say-it"}, "targets": "name=nobody"}


@pytest.fixture(scope="module")
def things(module_roles, valkey):
    """Somebody else's things, and the address and form of each door."""
    instance = make_instance()
    someone = make_user("someone")
    session = make_session(user=make_user("other", role="operator"), instance=instance)
    event = record("identity.login", actor=someone)
    make_user("chief", role="administrator")  # could approve
    approval = approvals.ask(
        deed="demo", summary="Demo", requested_by=session.user, expires_at=now() + timedelta(hours=1)
    )
    command = make_command(user=session.user, instances=[instance])
    topic = f"arn:aws:sns:eu-west-1:{instance.account.account_id}:alerts"
    channel, _ = notify.create_channel(actor=someone, name="Alerts", kind="sns", address=topic)
    delivery = notify.send_test(channel, actor=someone).deliveries.get()
    silence = notify.add_silence(actor=someone, topic="*", match="", reason="demo", until=now() + timedelta(hours=1))
    rows = {
        "identity": someone.pk,
        "policy": PolicyRule.objects.get(name="Administrators end sessions").pk,
        "notify": channel.pk,
        "approvals": approval.pk,
        "calendars": calendars.create_calendar(actor=someone, name="Year's end", source="own").pk,
        "accounts": instance.account.pk,
        "deliveries": instance.account.pk,
        "budget": ceilings.set_ceiling(
            instance.account, instance.region.name, "ssm:StartSession", 5, actor=someone, now=now()
        ).pk,
        "inventory": instance.pk,
        "machines": instance.account.pk,
        "library": make_document(region=instance.region).pk,
        "patching": (baseline := make_baseline(region=instance.region)).pk,
        "runcommand": command.pk,
        "sessions": session.pk,
        "review": event.pk,
        "compliance": instance.pk,
        "emergency": make_emergency(instance).pk,
        "exposure": make_closing(make_exposing_group(instance)).pk,
        "roles": make_lease(instance, user=session.user).pk,
        "automation": make_execution(user=session.user, region=instance.region).pk,
        "attached": make_connect_order(user=session.user, instance=instance).pk,
    }

    shared = save_filter(name="Production", text="env=prod", is_shared=True, actor=someone).pk
    others = dict.fromkeys(("inventory:change_filter", "inventory:delete_filter", "inventory:star_filter"), shared)
    others |= {"notify:send_again": delivery.pk, "notify:end_silence": silence.pk}
    others |= {
        "sessions:panel": instance.pk,
        "sessions:files": instance.pk,
        "review:instance": instance.pk,
        "review:session": session.pk,
        "runcommand:panel": instance.pk,
    }
    token, _ = tokens.create(
        someone, actor=someone, name="demo", scopes=["tokens:manage"], expires_at=now() + timedelta(days=1)
    )
    others["identity:revoke_token"] = token.pk
    key, _ = access_keys.create(someone, actor=someone, name="demo", expires_at=now() + timedelta(days=1))
    others["identity:revoke_key"] = key.pk
    grant = make_grant(user=session.user, instance=instance)
    grants = ("", "_vote", "_withdraw", "_revoke", "_deny_tokens", "_allow_tokens")
    others |= {f"sessions:grant{each}": grant.pk for each in grants} | {"sessions:grant_of": grant.request_id}
    others["machines:deregister"] = instance.pk
    others["roles:panel"] = instance.pk
    others |= dict.fromkeys(("roles:rule", "roles:delete_rule"), make_role_rule().pk)
    others |= dict.fromkeys(("roles:put_back", "roles:accept"), make_role_finding(instance).pk)
    others |= dict.fromkeys(("roles:role", "roles:put_right"), make_iam_role(instance.account).pk)
    pinned = make_pinned_set()
    others |= dict.fromkeys(("patching:pinned_set", "patching:override_list"), pinned.pk)
    others["patching:writes"] = make_write(baseline).batch
    others |= dict.fromkeys(
        ("sessions:restricted_shell", "sessions:restricted_shell_enabled"), make_restricted_shell().pk
    )
    more = {"accounts:document": ("policy",), "runcommand:invocation": (command.invocations.get().pk,)}
    whole = {"compliance:cve": ("CVE-2026-1111",), "compliance:export": ("instances", "csv")}
    others["compliance:switch_hub"] = Hub.objects.create(region=instance.region).pk
    activation = (instance.region.name, uuid.uuid4())
    run = make_run(user=session.user, instances=[instance], targets_text="name=nobody")
    rows["rollouts"] = run.pk
    schedule = make_schedule(owner=session.user, wanted=NOBODYS)
    rows["schedules"] = schedule.pk
    more["schedules:answer"] = (schedule.occurrences.get().pk,)
    others |= dict.fromkeys(("rollouts:cluster", "rollouts:delete_cluster"), make_cluster_rule().pk)
    more |= dict.fromkeys(("rollouts:cell", "rollouts:skip_wave"), (1,))
    more |= dict.fromkeys(("rollouts:target", "rollouts:skip_target", "rollouts:retry_target"), (run.targets.get().pk,))
    more["rollouts:overrule"] = (run.waves.get().gates.get().pk,)
    more |= dict.fromkeys(("machines:activation", "machines:live", "machines:delete"), activation)

    def address(name: str) -> str:
        if name in whole:
            return reverse(name, args=whole[name])
        pk = others.get(name) or rows.get(name.partition(":")[0])
        takes_pk = any({"pk", "batch"} & set(parameters) for _, parameters in _possibilities(name))
        return reverse(name, args=[pk, *more.get(name, ())] if takes_pk else [])

    forms = {name: {"instance": str(instance.pk)} for name in ("sessions:open", "sessions:open_as")}
    forms["automation:stop"] = {"kind": "Sideways"}
    forms["attached:new"] = forms["sessions:open"] | {"minutes": "30"}
    forms["sessions:transfer"] = forms["sessions:open"] | {"direction": "download", "path": "/etc/hosts"}
    forms |= {"identity:set_active": {"active": "1"}}
    forms["approvals:vote"] = forms["sessions:grant_vote"] = {"answer": "approve"}
    forms["policy:delete"] = {"version": "1"}
    forms["identity:user"] = {"first_name": "Sam"}
    log_everybody_in()
    return address, forms


@pytest.fixture
def house(things, db):
    return things


def _possibilities(name: str):
    resolver = get_resolver()
    *namespaces, last = name.split(":")
    for each in namespaces:
        resolver = resolver.namespace_dict[each][1]
    return [possibility for found in resolver.reverse_dict.getlist(last) for possibility in found[0]]


def log_in(person: str) -> Client:
    client = Client()
    role = "" if person == NO_ROLE else person
    user = make_user(f"{person.replace(' ', '-')}-{uuid.uuid4().hex[:6]}", role=role)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def log_everybody_in() -> None:
    """Once for a module: `client_of` is then somebody who is."""
    LOGGED_IN.update((person, log_in(person).cookies["fleetops_session"].value) for person in PEOPLE)


def client_of(person: str, *, strict: bool = False) -> Client:
    client = Client(enforce_csrf_checks=strict)
    if person != OUT:
        client.cookies["fleetops_session"] = LOGGED_IN[person]
    return client


def ask(client: Client, method: str, path: str, form: dict[str, str]):
    return client.post(path, form) if method == "POST" else client.generic(method, path)


def test_every_address_has_been_decided_on():
    # The API's doors: tests/api/test_every_door.py.
    pages = (name for name in names(get_resolver().url_patterns) if not name.startswith("api:") or name == "api:index")
    assert sorted(pages) == sorted(DOORS)


ROOMS = sorted({name.partition(":")[0] for name in DOORS})


def doors_of(room: str) -> list[str]:
    return [name for name in DOORS if name.partition(":")[0] == room]


@pytest.mark.parametrize("room", ROOMS)
def test_a_door_opens_to_whom_it_should(house, room):
    address, forms = house
    cases = Cases()
    for name, person in itertools.product(doors_of(room), PEOPLE):
        with cases.one(person, name):
            for method, rule in DOORS[name].items():
                answer = ask(client_of(person), method, address(name), forms.get(name, {}))
                assert answer.status_code == rule.status(person), method
                assert (
                    answer["X-Frame-Options"] == "DENY"
                    and "frame-ancestors 'none'" in answer["Content-Security-Policy"]
                )
                assert answer["X-Content-Type-Options"] == "nosniff" and "no-store" in answer["Cache-Control"]
    cases.done()


@pytest.mark.parametrize("room", ROOMS)
def test_a_method_that_a_door_does_not_know_is_refused(house, room):
    address, forms = house
    cases = Cases()
    for name in doors_of(room):
        known = set(DOORS[name]) | ({"HEAD"} if "GET" in DOORS[name] else set())
        for method in METHODS:
            if method != "HEAD" and (method in known or name in ANY_METHOD):
                continue  # what is known: test_a_door_opens_to_whom_it_should
            with cases.one(method, name):
                answer = ask(client_of("administrator"), method, address(name), forms.get(name, {}))
                if method in known:
                    assert answer.status_code == DOORS[name]["GET"].status("administrator")
                elif name not in ANY_METHOD:
                    assert answer.status_code == 405
    cases.done()


@pytest.mark.parametrize("room", ROOMS)
def test_who_is_not_logged_in_gets_nothing_but_the_log_in(house, room):
    address, forms = house
    cases = Cases()
    for name, method in itertools.product(doors_of(room), METHODS):
        with cases.one(method, name):
            answer = ask(client_of(OUT), method, address(name), forms.get(name, {}))
            if name in OPEN_TO_ALL:
                assert method not in OPEN_TO_ALL[name] or answer.status_code == (400 if method == "POST" else 200)
            else:
                assert answer.status_code == 302 and answer["Location"].startswith("/login/?next=")
    cases.done()


def test_no_other_site_can_post_to_a_door(house):
    address, forms = house
    cases = Cases()
    for name, person in itertools.product(
        (name for name, rules in DOORS.items() if "POST" in rules), (OUT, "administrator")
    ):
        with cases.one(person, name):
            answer = ask(client_of(person, strict=True), "POST", address(name), forms.get(name, {}))
            assert answer.status_code == 403 and b"This page was too old" in answer.content
    cases.done()


@pytest.mark.parametrize("role", ROLES)
def test_a_session_is_its_users(roles, valkey, role):
    """Also when its user has lost the role by which it was opened: what they did they may look at."""
    user = make_user("owner", role=role)
    session = make_session(user=user)
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    for name in ("terminal", "replay", "cast", "events", "search"):
        answer = ask(client, "GET", reverse(f"sessions:{name}", args=[session.pk]), {})
        assert answer.status_code == 200, name
    assert client.post(reverse("sessions:end", args=[session.pk])).status_code == 302
