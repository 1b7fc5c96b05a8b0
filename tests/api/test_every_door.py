"""Every address of the API: for each method the scope that it needs, and which roles it lets in with that scope.

A new address fails here until it is decided on. Objects are somebody else's, as in tests/web/test_every_door.py.
"""

import functools
import itertools
import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from django.test import Client
from django.urls import get_resolver, reverse

from fleetops.approvals import services as approvals
from fleetops.audit.record import record
from fleetops.calendars import services as calendars
from fleetops.clock import now
from fleetops.identity import access_keys
from fleetops.identity.models import ApiToken
from fleetops.identity.rest import ANY_SCOPE
from fleetops.identity.roles import ROLES
from fleetops.identity.scopes import SCOPES, may_have
from fleetops.inventory import ceilings
from fleetops.notify import services as notify
from fleetops.policy.models import Rule as PolicyRule
from patching.compliance.models import Hub
from tests.api.conftest import Bearer, make_token
from tests.factories import (
    make_baseline,
    make_closing,
    make_cluster_rule,
    make_command,
    make_document,
    make_emergency,
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
    make_transfer,
    make_user,
    make_write,
)
from tests.support.cases import Cases
from tests.web.test_every_door import (
    ADMINISTER,
    ALL,
    CHANGE_CALENDARS,
    METHODS,
    NO_ROLE,
    NOBODY,
    NOBODYS,
    OPEN_SHELLS,
    PATCH,
    PEOPLE,
    REVIEW,
    RUN_DOCUMENTS,
    SEE_COMMANDS,
    SEE_FLEET,
    client_of,
    log_everybody_in,
    names,
)


@dataclass(frozen=True)
class Rule:
    """`yes` to the people in `to` who come with `scope`, else `no`."""

    scope: str
    to: frozenset[str]
    yes: int = 200
    no: int = 403


DOORS: dict[str, dict[str, Rule]] = {
    "api:schema": {"GET": Rule(ANY_SCOPE, ALL)},
    "api:login": {"POST": Rule(ANY_SCOPE, ALL, 400)},  # an empty form
    "api:me": {"GET": Rule(ANY_SCOPE, ALL)},
    "api:tokens": {"GET": Rule("tokens:manage", ALL)},
    "api:current_token": {"GET": Rule(ANY_SCOPE, ALL), "DELETE": Rule(ANY_SCOPE, ALL, 204)},
    "api:token": {"GET": Rule("tokens:manage", ALL, 404), "DELETE": Rule("tokens:manage", ALL, 404)},
    "api:access_keys": {"GET": Rule("tokens:manage", ALL)},
    "api:access_key": {"GET": Rule("tokens:manage", ALL, 404), "DELETE": Rule("tokens:manage", ALL, 404)},
    "api:accounts": {"GET": Rule("fleet:read", SEE_FLEET), "POST": Rule("accounts:write", ADMINISTER, 400)},
    "api:account": {
        "GET": Rule("accounts:read", ADMINISTER),
        "PATCH": Rule("accounts:write", ADMINISTER, 200),  # nothing
        "DELETE": Rule("accounts:write", ADMINISTER, 400),  # without its number
    },
    "api:check_account": {
        "GET": Rule("accounts:read", ADMINISTER, 404),
        "POST": Rule("accounts:write", ADMINISTER, 202),
    },
    "api:account_identity": {
        "GET": Rule("accounts:read", ADMINISTER, 404),  # nobody has looked
        "POST": Rule("accounts:write", ADMINISTER, 202),
    },
    "api:enable_account": {"POST": Rule("accounts:write", ADMINISTER, 400)},
    "api:account_delivery": {
        "GET": Rule("accounts:read", ADMINISTER),
        "PATCH": Rule("accounts:write", ADMINISTER, 200),  # nothing
    },
    "api:check_delivery": {"POST": Rule("accounts:write", ADMINISTER, 202)},
    "api:session_delivery": {"GET": Rule("sessions:read", REVIEW, 200, 404)},
    "api:regions": {"GET": Rule("fleet:read", SEE_FLEET)},
    "api:instances": {"GET": Rule("fleet:read", SEE_FLEET)},
    "api:instance": {"GET": Rule("fleet:read", SEE_FLEET)},
    "api:budget": {"GET": Rule("budget:read", ADMINISTER)},
    "api:budget_ceiling": {
        "PUT": Rule("budget:write", ADMINISTER),
        "DELETE": Rule("budget:write", ADMINISTER, 204),
    },
    "api:activations": {
        "GET": Rule("machines:read", ADMINISTER),
        "POST": Rule("machines:write", ADMINISTER, 400),
    },
    "api:activation": {"DELETE": Rule("machines:write", ADMINISTER, 409)},  # AWS is not there
    "api:deregister": {"POST": Rule("machines:write", ADMINISTER, 409)},  # an instance of EC2
    "api:sessions": {"GET": Rule("sessions:read", ALL), "POST": Rule("sessions:open", OPEN_SHELLS, 201)},
    "api:restricted_shells": {
        "GET": Rule("restricted_shells:read", OPEN_SHELLS),
        "POST": Rule("restricted_shells:write", ADMINISTER, 400),  # says nothing
    },
    "api:restricted_shell": {
        "GET": Rule("restricted_shells:read", OPEN_SHELLS),
        "PUT": Rule("restricted_shells:write", ADMINISTER, 400),  # without a command
    },
    "api:session": {"GET": Rule("sessions:read", REVIEW, 200, 404)},
    "api:session_stream": {"POST": Rule("sessions:open", OPEN_SHELLS, 404, 403)},  # another's
    "api:transfers": {"GET": Rule("sessions:read", ALL)},  # of one's own, where one may not review
    "api:transfer": {"GET": Rule("sessions:read", REVIEW, 200, 404)},
    "api:session_messages": {"POST": Rule("sessions:message", REVIEW, 400, 404)},  # says nothing
    "api:end_session": {"POST": Rule("sessions:end", ADMINISTER, 202, 404)},
    "api:session_commands": {"GET": Rule("recordings:read", ALL)},  # of one's own, where one may not review
    "api:session_commands_export": {"GET": Rule("recordings:read", ALL, 400)},  # without a format
    "api:replay": {"GET": Rule("recordings:read", REVIEW, 200, 404)},
    "api:search_recording": {"GET": Rule("recordings:read", ALL, 400)},  # without what is looked for
    "api:recording": {"GET": Rule("recordings:read", REVIEW, 200, 404)},
    "api:grants": {"GET": Rule("sessions:read", ALL), "POST": Rule("access:ask", ALL, 400)},  # says nothing
    "api:grant": {"GET": Rule("sessions:read", REVIEW, 200, 404)},
    "api:grant_vote": {"POST": Rule("approvals:write", ADMINISTER, 200, 404)},
    "api:grant_withdraw": {"POST": Rule("access:ask", NOBODY, 200, 404)},
    "api:grant_revoke": {"POST": Rule("sessions:end", NOBODY, 200, 404)},
    "api:approvals": {"GET": Rule("approvals:read", ALL)},  # of one's own, where one may not answer
    "api:approval": {"GET": Rule("approvals:read", REVIEW, 200, 404)},
    "api:vote": {"POST": Rule("approvals:write", ADMINISTER, 200, 404)},
    "api:withdraw": {"POST": Rule("approvals:write", NOBODY, 200, 404)},
    "api:calendars": {
        "GET": Rule("calendars:read", SEE_FLEET),
        "POST": Rule("calendars:write", CHANGE_CALENDARS, 400),
    },
    "api:calendar_check": {"GET": Rule("calendars:read", SEE_FLEET, 400)},
    "api:calendar": {
        "GET": Rule("calendars:read", SEE_FLEET),
        "PATCH": Rule("calendars:write", CHANGE_CALENDARS),  # nothing
        "DELETE": Rule("calendars:write", CHANGE_CALENDARS, 204),
    },
    "api:fetch_calendar": {"POST": Rule("calendars:write", CHANGE_CALENDARS, 409)},  # it is kept here
    "api:calendar_file": {"GET": Rule("calendars:read", SEE_FLEET)},
    "api:entries": {
        "GET": Rule("calendars:read", SEE_FLEET),
        "POST": Rule("calendars:write", CHANGE_CALENDARS, 400),
    },
    "api:entry": {"DELETE": Rule("calendars:write", CHANGE_CALENDARS, 204)},
    "api:notices": {"GET": Rule("notices:read", REVIEW)},
    "api:notice": {"GET": Rule("notices:read", REVIEW)},
    "api:channels": {"GET": Rule("notices:read", REVIEW), "POST": Rule("notices:write", ADMINISTER, 400)},
    "api:channel": {
        "GET": Rule("notices:read", REVIEW),
        "PATCH": Rule("notices:write", ADMINISTER),  # nothing
        "DELETE": Rule("notices:write", ADMINISTER, 204),
    },
    "api:test_channel": {"POST": Rule("notices:write", ADMINISTER, 202)},
    "api:send_again": {"POST": Rule("notices:write", ADMINISTER, 409)},  # it waits
    "api:silences": {"GET": Rule("notices:read", REVIEW), "POST": Rule("notices:write", ADMINISTER, 400)},
    "api:end_silence": {"POST": Rule("notices:write", ADMINISTER)},
    "api:rules": {"GET": Rule("policy:read", REVIEW), "POST": Rule("policy:write", ADMINISTER, 400)},
    "api:rule": {
        "GET": Rule("policy:read", REVIEW),
        "PATCH": Rule("policy:write", ADMINISTER, 400),
        "DELETE": Rule("policy:write", ADMINISTER, 400),  # without the version
    },
    "api:enable_rule": {"POST": Rule("policy:write", ADMINISTER, 400)},
    "api:rule_history": {"GET": Rule("policy:read", REVIEW)},
    "api:simulate": {"GET": Rule("policy:read", REVIEW, 400)},
    "api:role_attachments": {"GET": Rule("roles:read", SEE_FLEET), "POST": Rule("roles:write", OPEN_SHELLS, 400)},
    "api:role_look": {"POST": Rule("roles:write", OPEN_SHELLS, 400)},  # what at?
    "api:role_attachment": {"GET": Rule("roles:read", SEE_FLEET)},
    "api:role_extend": {"POST": Rule("roles:write", OPEN_SHELLS, 400)},  # for how long?
    "api:role_end": {"POST": Rule("roles:write", ADMINISTER, 202)},  # somebody else's
    "api:role_findings": {"GET": Rule("roles:read", SEE_FLEET)},
    "api:role_put_back": {"POST": Rule("roles:write", ADMINISTER, 202)},
    "api:role_accept": {"POST": Rule("roles:write", ADMINISTER, 202)},
    "api:role_history": {"GET": Rule("roles:read", SEE_FLEET)},
    "api:role_rules": {"GET": Rule("roles:read", SEE_FLEET), "POST": Rule("role_rules:write", ADMINISTER, 400)},
    "api:role_rule": {
        "GET": Rule("roles:read", SEE_FLEET),
        "PATCH": Rule("role_rules:write", ADMINISTER, 400),  # without the version
        "DELETE": Rule("role_rules:write", ADMINISTER, 400),
    },
    "api:roles": {"GET": Rule("roles:read", SEE_FLEET)},
    "api:role": {"GET": Rule("roles:read", SEE_FLEET)},
    "api:role_right": {"POST": Rule("role_rules:write", ADMINISTER, 400)},  # by what that was shown?
    "api:role_standard": {
        "GET": Rule("roles:read", SEE_FLEET),
        "POST": Rule("role_rules:write", ADMINISTER, 202),  # wherever it is not there
    },
    "api:patch_baselines": {"GET": Rule("baselines:read", SEE_FLEET), "POST": Rule("baselines:write", PATCH, 400)},
    "api:patch_baseline": {
        "GET": Rule("baselines:read", SEE_FLEET),
        "PUT": Rule("baselines:write", PATCH, 400),
        "DELETE": Rule("baselines:write", PATCH, 409),  # AWS is not there
    },
    "api:patch_versions": {"GET": Rule("baselines:read", SEE_FLEET)},
    "api:patch_preview": {"POST": Rule("baselines:write", PATCH, 400)},
    "api:patch_default": {"POST": Rule("baselines:write", PATCH, 409)},  # AWS is not there
    "api:patch_accept": {"POST": Rule("baselines:write", PATCH, 400)},
    "api:patch_copy": {"POST": Rule("baselines:write", PATCH, 400)},
    "api:patch_register": {"POST": Rule("baselines:write", PATCH, 400)},
    "api:patch_deregister": {"DELETE": Rule("baselines:write", PATCH, 409)},  # it has no such group
    "api:patch_writes": {"GET": Rule("baselines:read", SEE_FLEET)},
    "api:patch_write_resume": {"POST": Rule("baselines:write", PATCH, 409)},  # it stands not half way
    "api:patch_write_roll_back": {"POST": Rule("baselines:write", PATCH, 409)},
    "api:patch_groups": {"GET": Rule("baselines:read", SEE_FLEET)},
    "api:patch_sets": {"GET": Rule("baselines:read", SEE_FLEET), "POST": Rule("baselines:write", PATCH, 400)},
    "api:patch_set": {"GET": Rule("baselines:read", SEE_FLEET)},
    "api:patch_lists": {"GET": Rule("baselines:read", SEE_FLEET)},
    "api:patch_list": {"PUT": Rule("baselines:write", PATCH, 400)},
    "api:patch_set_list": {"GET": Rule("baselines:read", SEE_FLEET)},
    "api:exposure_groups": {"GET": Rule("exposure:read", SEE_FLEET)},
    "api:exposure_closings": {
        "GET": Rule("exposure:read", SEE_FLEET),
        "POST": Rule("exposure:write", ADMINISTER, 400),
    },
    "api:exposure_closing": {"GET": Rule("exposure:read", SEE_FLEET)},
    "api:exposure_reopen": {"POST": Rule("exposure:write", ADMINISTER, 409)},  # it is being closed
    "api:emergencies": {"GET": Rule("runs:read", SEE_FLEET), "POST": Rule("runs:write", PATCH, 400)},
    "api:emergency_offers": {"GET": Rule("runs:read", PATCH)},
    "api:emergency_affected": {"GET": Rule("runs:read", PATCH, 400)},  # of what?
    "api:emergency": {"GET": Rule("runs:read", SEE_FLEET), "DELETE": Rule("runs:write", PATCH, 404)},  # another's
    "api:emergency_release": {"POST": Rule("runs:write", PATCH, 404)},
    "api:compliance": {"GET": Rule("compliance:read", SEE_FLEET)},
    "api:compliance_instances": {"GET": Rule("compliance:read", SEE_FLEET)},
    "api:compliance_instance": {"GET": Rule("compliance:read", SEE_FLEET)},
    "api:compliance_reports": {"GET": Rule("compliance:read", SEE_FLEET)},
    "api:compliance_instance_patches": {"GET": Rule("compliance:read", SEE_FLEET)},
    "api:compliance_cves": {"GET": Rule("compliance:read", SEE_FLEET)},
    "api:compliance_cve": {"GET": Rule("compliance:read", SEE_FLEET)},
    "api:compliance_cve_instances": {"GET": Rule("compliance:read", SEE_FLEET)},
    "api:compliance_patches": {"GET": Rule("compliance:read", SEE_FLEET)},
    "api:compliance_trend": {"GET": Rule("compliance:read", SEE_FLEET)},
    "api:compliance_heat": {"GET": Rule("compliance:read", SEE_FLEET, 400)},  # by what?
    "api:compliance_export": {"GET": Rule("compliance:read", SEE_FLEET)},
    "api:compliance_deadlines": {
        "GET": Rule("compliance:read", SEE_FLEET),
        "PUT": Rule("compliance:write", PATCH, 400),
    },
    "api:compliance_hubs": {"GET": Rule("compliance:read", SEE_FLEET)},
    "api:compliance_hub": {"PUT": Rule("compliance:write", PATCH, 400)},
    "api:compliance_findings": {"GET": Rule("compliance:read", SEE_FLEET)},
    "api:compliance_aws_findings": {"GET": Rule("compliance:read", SEE_FLEET)},
    "api:documents": {"GET": Rule("documents:read", SEE_FLEET), "POST": Rule("documents:write", ADMINISTER, 400)},
    "api:document": {
        "GET": Rule("documents:read", SEE_FLEET),
        "DELETE": Rule("documents:write", ADMINISTER, 409),  # AWS is not there
    },
    "api:document_versions": {"POST": Rule("documents:write", ADMINISTER, 400)},
    "api:document_version": {"GET": Rule("documents:read", SEE_FLEET)},
    "api:document_default": {"POST": Rule("documents:write", ADMINISTER, 400)},
    "api:commands": {"GET": Rule("commands:read", SEE_COMMANDS), "POST": Rule("commands:run", RUN_DOCUMENTS, 400)},
    "api:command": {"GET": Rule("commands:read", REVIEW)},
    "api:command_start": {"POST": Rule("commands:run", NOBODY)},
    "api:command_cancel": {"POST": Rule("commands:run", ADMINISTER, 202)},
    "api:command_again": {"POST": Rule("commands:run", ADMINISTER, 409)},  # it runs
    "api:invocations": {"GET": Rule("commands:read", REVIEW)},
    "api:invocation": {"GET": Rule("commands:read", REVIEW)},
    "api:events": {"GET": Rule("audit:read", REVIEW)},
    "api:event": {"GET": Rule("audit:read", REVIEW)},
}
OPEN_TO_ALL = {"api:login"}
DOORS |= {
    "api:runs": {"GET": Rule("runs:read", SEE_FLEET), "POST": Rule("runs:write", PATCH, 400)},
    "api:run": {"GET": Rule("runs:read", SEE_FLEET), "DELETE": Rule("runs:write", PATCH, 404)},  # another's
    "api:run_drift": {"GET": Rule("runs:read", PATCH, 404)},
    "api:run_release": {"POST": Rule("runs:write", PATCH, 404)},
    "api:run_again": {"POST": Rule("runs:write", PATCH, 409)},  # it selects nothing any more
    "api:run_pause": {"POST": Rule("runs:write", PATCH)},
    # The policy lets no patch owner run documents.
    "api:run_resume": {"POST": Rule("runs:write", ADMINISTER, 409)},  # it runs
    "api:run_abort": {"POST": Rule("runs:write", PATCH)},
    "api:run_retry": {"POST": Rule("runs:write", ADMINISTER, 409)},  # nothing has failed
    "api:run_forward": {"POST": Rule("runs:write", PATCH, 400)},  # without a reason
    "api:run_override": {"POST": Rule("runs:write", PATCH, 400)},
    "api:run_skip_target": {"POST": Rule("runs:write", PATCH, 400)},
    "api:run_retry_target": {"POST": Rule("runs:write", ADMINISTER, 409)},  # it has not failed
    "api:run_waive": {"POST": Rule("runs:write", PATCH, 400)},
    "api:run_skip_wave": {"POST": Rule("runs:write", PATCH, 400)},
    "api:run_overrule": {"POST": Rule("runs:write", PATCH, 400)},
    "api:run_targets": {"GET": Rule("runs:read", SEE_FLEET)},
    "api:schedules": {"GET": Rule("runs:read", SEE_FLEET), "POST": Rule("runs:write", PATCH, 400)},
    "api:schedule": {
        "GET": Rule("runs:read", SEE_FLEET),
        "PUT": Rule("runs:write", NOBODY),  # its owner's
        "DELETE": Rule("runs:write", PATCH, 204),
    },
    "api:schedule_pause": {"POST": Rule("runs:write", PATCH)},
    "api:schedule_resume": {"POST": Rule("runs:write", NOBODY)},  # likewise
    "api:schedule_take": {"POST": Rule("runs:write", PATCH)},
    "api:schedule_run": {"POST": Rule("runs:write", NOBODY)},
    "api:schedule_moments": {"GET": Rule("runs:read", SEE_FLEET)},
    "api:schedule_run_moment": {"POST": Rule("runs:write", NOBODY)},
    "api:schedule_skip_moment": {"POST": Rule("runs:write", PATCH)},
    "api:run_events": {"GET": Rule("runs:read", SEE_FLEET)},
    "api:cluster_rules": {
        "GET": Rule("runs:read", SEE_FLEET),
        "POST": Rule("cluster_rules:write", PATCH, 400),
    },
    "api:cluster_rule": {
        "PUT": Rule("cluster_rules:write", PATCH, 400),
        "DELETE": Rule("cluster_rules:write", PATCH, 204),
    },
}
CASES = [(name, method) for name, rules in DOORS.items() for method in rules]
# Who may ask to end a session that they may see is told so with another answer; another's command is not there.
BESIDES = {
    ("api:end_session", "auditor"): 403,
    ("api:vote", "auditor"): 403,
    ("api:grant_vote", "auditor"): 403,
    ("api:grant_withdraw", "auditor"): 403,
    ("api:grant_withdraw", "administrator"): 403,
    ("api:grant_revoke", "auditor"): 403,
    ("api:grant_revoke", "administrator"): 400,  # without a reason
    ("api:withdraw", "auditor"): 403,
    ("api:withdraw", "administrator"): 403,
    ("api:command_start", "administrator"): 404,
    **{
        (f"api:{name}", "operator"): 404
        for name in ("command", "command_start", "command_cancel", "command_again", "invocations", "invocation")
    },
}


@pytest.fixture(scope="module")
def things(module_roles, valkey):
    instance = make_instance()
    someone = make_user("someone", role="viewer")
    make_token(someone, "fleet:read")
    session = make_session(user=make_user("other", role="operator"), instance=instance)
    document = make_document(region=instance.region)
    baseline, pinned = make_baseline(region=instance.region), make_pinned_set()
    command = make_command(user=session.user, instances=[instance])
    run = make_run(user=session.user, instances=[instance], targets_text="name=nobody")
    schedule = make_schedule(owner=session.user, wanted=NOBODYS)
    missed = schedule.occurrences.get().pk
    event = record("identity.login", actor=someone)
    make_user("chief", role="administrator")  # could approve
    approval = approvals.ask(
        deed="demo", summary="Demo", requested_by=session.user, expires_at=now() + timedelta(hours=1)
    )
    grant = make_grant(user=session.user, instance=instance)
    calendar = calendars.create_calendar(actor=someone, name="Year's end", source="own")
    start = datetime(2030, 12, 20)
    entry = calendars.add_entry(calendar, actor=someone, title="Closing", start=start, end=start + timedelta(days=3))
    place = (instance.account.account_id, instance.region.name, "ssm:StartSession")
    ceilings.set_ceiling(instance.account, *place[1:], 5, actor=someone, now=now())
    topic = f"arn:aws:sns:eu-west-1:{instance.account.account_id}:alerts"
    channel, _ = notify.create_channel(actor=someone, name="Alerts", kind="sns", address=topic)
    delivery = notify.send_test(channel, actor=someone).deliveries.get()
    silence = notify.add_silence(actor=someone, topic="*", match="", reason="demo", until=now() + timedelta(hours=1))
    key, _ = access_keys.create(someone, actor=someone, name="demo", expires_at=now() + timedelta(days=1))
    policy_rule = PolicyRule.objects.get(name="Administrators end sessions").pk
    rows = {
        "api:instance": instance.pk,
        "api:activation": (instance.account.pk, instance.region.name, uuid.uuid4()),
        "api:deregister": instance.pk,
        "api:restricted_shell": make_restricted_shell().pk,
        "api:session": session.pk,
        "api:end_session": session.pk,
        "api:session_messages": session.pk,
        "api:session_stream": session.pk,
        "api:transfer": make_transfer(parent=session).pk,
        **dict.fromkeys(("api:recording", "api:replay", "api:search_recording"), session.pk),
        "api:event": event.pk,
        **dict.fromkeys(("api:calendar", "api:fetch_calendar", "api:calendar_file", "api:entries"), calendar.pk),
        **dict.fromkeys(("api:account", "api:check_account", "api:enable_account"), instance.account.pk),
        "api:account_identity": instance.account.pk,
        **dict.fromkeys(("api:account_delivery", "api:check_delivery"), instance.account.pk),
        "api:session_delivery": session.pk,
        "api:entry": (calendar.pk, entry.pk),
        "api:notice": delivery.notice_id,
        "api:channel": channel.pk,
        "api:test_channel": channel.pk,
        "api:send_again": delivery.pk,
        "api:end_silence": silence.pk,
        **dict.fromkeys(("api:grant", "api:grant_vote", "api:grant_withdraw", "api:grant_revoke"), grant.pk),
        "api:approval": approval.pk,
        "api:vote": approval.pk,
        "api:withdraw": approval.pk,
        "api:rule": policy_rule,
        "api:enable_rule": policy_rule,
        **dict.fromkeys(
            (
                f"api:patch_{name}"
                for name in ("baseline", "versions", "preview", "default", "accept", "copy", "register")
            ),
            baseline.pk,
        ),
        "api:patch_deregister": (baseline.pk, "web"),
        "api:patch_writes": make_write(baseline).batch,
        **dict.fromkeys(("api:patch_write_resume", "api:patch_write_roll_back"), make_write(baseline).pk),
        **dict.fromkeys(("api:patch_set", "api:patch_set_list"), pinned.pk),
        "api:patch_list": instance.account.account_id,
        **dict.fromkeys(
            (f"api:compliance_{name}" for name in ("instance", "reports", "instance_patches")), instance.pk
        ),
        **dict.fromkeys(("api:compliance_cve", "api:compliance_cve_instances"), "CVE-2026-1111"),
        "api:compliance_export": ("instances", "csv"),
        **dict.fromkeys(("api:emergency", "api:emergency_release"), make_emergency(instance).pk),
        **dict.fromkeys(
            ("api:exposure_closing", "api:exposure_reopen"), make_closing(make_exposing_group(instance)).pk
        ),
        "api:compliance_hub": Hub.objects.create(region=instance.region).pk,
        "api:document": document.pk,
        "api:document_versions": document.pk,
        "api:document_version": (document.pk, 1),
        "api:document_default": document.pk,
        **dict.fromkeys(
            (f"api:{name}" for name in ("command", "command_start", "command_cancel", "command_again", "invocations")),
            command.pk,
        ),
        "api:invocation": (command.pk, command.invocations.get().pk),
        **dict.fromkeys(
            (
                f"api:run{name}"
                for name in (
                    *("", "_drift", "_release", "_again", "_pause", "_resume", "_abort", "_retry", "_forward"),
                    *("_waive", "_override", "_targets", "_events"),
                )
            ),
            run.pk,
        ),
        "api:run_skip_target": (run.pk, run.targets.get().pk),
        "api:run_retry_target": (run.pk, run.targets.get().pk),
        "api:run_skip_wave": (run.pk, 1),
        "api:run_overrule": (run.pk, run.waves.get().gates.get().pk),
        **dict.fromkeys(
            (f"api:schedule{name}" for name in ("", "_pause", "_resume", "_take", "_run", "_moments")), schedule.pk
        ),
        **dict.fromkeys(("api:schedule_run_moment", "api:schedule_skip_moment"), (schedule.pk, missed)),
        **dict.fromkeys(
            (f"api:role_{name}" for name in ("attachment", "extend", "end")), make_lease(instance, user=someone).pk
        ),
        "api:role_put_back": make_role_finding(instance).pk,
        "api:role_accept": make_role_finding(make_instance()).pk,
        "api:role_rule": make_role_rule().pk,
        **dict.fromkeys(("api:role", "api:role_right"), make_iam_role(instance.account).pk),
        "api:cluster_rule": make_cluster_rule().pk,
        "api:token": ApiToken.objects.get(user=someone).pk,
        "api:access_key": key.pk,
        "api:budget_ceiling": place,
    }
    bodies = {
        ("api:budget_ceiling", "PUT"): {"per_second": 4},
        ("api:sessions", "POST"): {"instance": str(instance.pk)},
        ("api:vote", "POST"): {"answer": "approve"},
        ("api:grant_vote", "POST"): {"answer": "approve"},
    }

    def address(name: str) -> str:
        key = rows.get(name, ())
        return reverse(name, args=key if isinstance(key, tuple) else [key])

    log_everybody_in()
    return address, bodies


@pytest.fixture
def house(things, db, settings):
    settings.API_LOGINS_PER_MINUTE = 1000
    return things


def ask(client: Client, method: str, path: str, body: dict | None):
    return client.generic(method, path, json.dumps(body or {}), content_type="application/json")


def decided(name: str, method: str, person: str) -> int:
    rule = DOORS[name][method]
    return BESIDES.get((name, person), rule.yes if person in rule.to else rule.no)


def test_every_address_has_been_decided_on():
    there = {name for name in names(get_resolver().url_patterns) if name.startswith("api:")}
    assert sorted(there - {"api:index", "api:nothing"}) == sorted(DOORS)


def test_every_view_asks_for_the_scope_that_was_decided_on(house):
    address, _ = house
    for name, rules in DOORS.items():
        view = get_resolver().resolve(address(name)).func.view_class
        assert dict(view.scopes) == {method: rule.scope for method, rule in rules.items()}, name


def subject_of(name: str) -> str:
    return next(iter(DOORS[name].values())).scope.partition(":")[0]


SUBJECTS = sorted({subject_of(name) for name in DOORS})


def cases_of(subject: str) -> list[tuple[str, str]]:
    return [case for case in CASES if subject_of(case[0]) == subject]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_log_in_of_the_pages_may_what_its_roles_may(house, subject):
    address, bodies = house
    cases = Cases()
    for (name, method), person in itertools.product(cases_of(subject), PEOPLE):
        expected = 404 if name == "api:current_token" else decided(name, method, person)
        if (name, method, person) == ("api:sessions", "POST", NO_ROLE):
            expected = 404
        elif (name, method) == ("api:sessions", "POST") and person not in OPEN_SHELLS:
            expected = 403
        with cases.one(person, method, name):
            answer = ask(client_of(person), method, address(name), bodies.get((name, method)))
            assert answer.status_code == expected, answer.content
    cases.done()


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_token_may_what_its_owner_may_and_its_scopes_say(house, subject):
    address, bodies = house
    cases = Cases()
    for person in PEOPLE:
        user = make_user(f"caller {person}", role="" if person == NO_ROLE else person)
        token_for = functools.cache(functools.partial(make_token, user))
        for name, method in cases_of(subject):
            if name in OPEN_TO_ALL:
                continue
            scope = DOORS[name][method].scope
            body = bodies.get((name, method))
            others = tuple(each for each in SCOPES if each != scope and may_have(each, user.has_perm))
            if scope != ANY_SCOPE and others:
                token = token_for(*others)
                with cases.one(person, method, name, "without its scope"):
                    answer = ask(Bearer(token), method, address(name), body)
                    assert answer.status_code == 403 and f"lacks the scope {scope}" in answer.json()["detail"]
            if scope == ANY_SCOPE or may_have(scope, user.has_perm):
                token = token_for(scope if scope != ANY_SCOPE else "tokens:manage")
                with cases.one(person, method, name):
                    answer = ask(Bearer(token), method, address(name), body)
                    assert answer.status_code == decided(name, method, person), answer.content
            else:
                with cases.one(person, method, name):
                    assert person not in DOORS[name][method].to, "the roles let them, and no token could"
    cases.done()


@pytest.mark.parametrize("subject", SUBJECTS)
def test_who_is_not_known_gets_nothing(house, subject):
    address, bodies = house
    cases = Cases()
    for name, method in itertools.product((name for name in DOORS if subject_of(name) == subject), METHODS):
        with cases.one(method, name):
            answer = ask(Client(), method, address(name), bodies.get((name, method)))
            if name in OPEN_TO_ALL:
                assert answer.status_code == (400 if method == "POST" else 405)
            else:
                assert answer.status_code == 401 and answer["WWW-Authenticate"].startswith("Bearer")
                assert method == "HEAD" or answer.json()["status"] == 401
    cases.done()


def test_a_method_that_a_door_does_not_know_is_refused(house):
    address, _ = house
    cases = Cases()
    for name in DOORS:
        # Another one for each door: a program may ask so often a minute, and no oftener.
        program = Bearer(make_token(make_user(f"chief of {name}", role="administrator")))
        for method in METHODS:
            if method not in DOORS[name] and (method != "HEAD" or "GET" not in DOORS[name]):
                with cases.one(method, name):
                    assert ask(program, method, address(name), None).status_code == 405
    cases.done()


def test_no_other_site_can_use_the_pages_log_in(house):
    address, bodies = house
    cases = Cases()
    for name, method in CASES:
        if method != "GET" and name not in OPEN_TO_ALL:
            with cases.one(method, name):
                client = client_of("administrator", strict=True)
                answer = ask(client, method, address(name), bodies.get((name, method)))
                assert answer.status_code == 403 and "CSRF" in answer.json()["detail"]
    cases.done()


def test_every_role_may_give_its_tokens_what_it_may_itself(roles):
    """A scope for everything that the API does: nobody needs a cookie for want of one."""
    given = {role: {s for s in SCOPES if may_have(s, make_user(role=role).has_perm)} for role in ROLES}
    assert given["administrator"] == set(SCOPES)
    assert given["viewer"] <= given["operator"] and "audit:read" in given["auditor"] - given["operator"]
