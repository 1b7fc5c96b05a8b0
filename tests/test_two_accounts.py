"""One and the same node id in two accounts, and in two regions of one: no page, door, rule or audit row mixes them.

Each address of the product that names a node or something that hangs on one is walked for each of the three machines,
and must show that machine's marks and nobody else's. A new address fails here until it is decided on.
"""

import json
import uuid
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from asgiref.sync import async_to_sync
from django.test import Client
from django.urls import get_resolver, reverse

from fleetops.audit.models import AuditEvent
from fleetops.audit.record import record
from fleetops.aws.records import Page
from fleetops.clock import now
from fleetops.inventory import services
from fleetops.inventory.models import Account, Instance, Region
from fleetops.policy import services as policy
from fleetops.policy.models import Rule
from fleetops.roles.models import RoleAttachment
from fleetops.rollouts.models import Run, RunTarget
from fleetops.runcommand.models import Command, Invocation
from sessions_app.models import Grant, TerminalSession
from sessions_app.states import SessionState
from sessions_app.transfers.models import Transfer
from tests.api.conftest import Bearer, make_token
from tests.factories import (
    make_account,
    make_command,
    make_document,
    make_grant,
    make_instance,
    make_lease,
    make_region,
    make_run,
    make_session,
    make_transfer,
    make_user,
)
from tests.web.test_every_door import names

pytestmark = pytest.mark.django_db
SHARED = "mi-e1ed0650a3bc935bb"
BACKEND = "django.contrib.auth.backends.ModelBackend"


@dataclass(frozen=True)
class Machine:
    """One of the machines that bear SHARED, and what belongs to it alone."""

    name: str
    account_id: str
    region: str
    env: str
    owner: str  # who has sessions on it

    @property
    def marks(self) -> set[str]:
        """What only a page about this machine says."""
        return {self.name, self.owner}

    @property
    def row(self) -> Instance:
        return Instance.objects.get(account__account_id=self.account_id, region__name=self.region)

    @property
    def live(self) -> TerminalSession:
        return TerminalSession.objects.get(instance_name=self.name, state=SessionState.OPEN)

    @property
    def past(self) -> TerminalSession:
        ended = TerminalSession.objects.exclude(kind="transfer")
        return ended.get(instance_name=self.name, state=SessionState.ENDED)

    @property
    def transfer(self) -> Transfer:
        return Transfer.objects.get(session__instance_name=self.name)

    @property
    def command(self) -> Command:
        return Command.objects.get(actor_name=self.owner)

    @property
    def invocation(self) -> Invocation:
        return self.command.invocations.get()

    @property
    def run(self) -> Run:
        return Run.objects.get(actor_name=self.owner)

    @property
    def target(self) -> RunTarget:
        return self.run.targets.get()

    @property
    def grant(self) -> Grant:
        return Grant.objects.get(user_name=self.owner)

    @property
    def attachment(self) -> RoleAttachment:
        return RoleAttachment.objects.get(instance_name=self.name)

    @property
    def event(self) -> AuditEvent:
        return AuditEvent.objects.get(action="sessions.open", target_name=self.name, actor_name=self.owner)


LAGOS = Machine("lagos-pos-gw-012", "111122223333", "eu-west-1", "prod", "adaeze")
VIRGINIA = Machine("virginia-pos-gw-3", "111122223333", "us-east-1", "dev", "brandon")
LAB = Machine("lab-pos-gw-01", "444455556666", "eu-west-1", "staging", "chiara")
MACHINES = (LAGOS, VIRGINIA, LAB)


@pytest.fixture
def machines(roles, valkey):
    make_user("approver", role="administrator")
    for each in MACHINES:
        region = make_region(each.region, account=make_account(each.account_id))
        node = make_instance(
            region=region,
            instance_id=SHARED,
            name=each.name,
            tags={"Name": each.name, "env": each.env},
            tags_read_at=now(),
        )
        user = make_user(each.owner, role="operator")
        make_session(user=user, instance=node, reason=f"INC of {each.owner}")
        make_transfer(parent=make_session(user=user, instance=node, state=SessionState.ENDED))
        make_command(user=user, instances=[node])
        make_run(user=user, instances=[node], name=each.name)
        make_lease(node, user=user)
        make_grant(user=user, instance=node, ends_at=now() + timedelta(hours=1))
        record("sessions.open", actor=user, target=node)
    return MACHINES


@pytest.fixture
def chief(machines):
    client = Client()
    client.force_login(make_user("chief", role="administrator"), backend=BACKEND)
    return client


@pytest.fixture
def program(machines):
    return Bearer(make_token(make_user("program-owner", role="administrator")))


def names_in(text: str) -> set[Machine]:
    """The machines of whose marks there is any in a page."""
    return {machine for machine in MACHINES if any(mark in text for mark in machine.marks)}


def text_of(response) -> str:
    assert response.status_code in {200, 302}, (response.status_code, response.content[:400])
    if response.streaming:

        async def whole() -> bytes:
            return b"".join([piece async for piece in response])

        return async_to_sync(whole)().decode()
    return response.content.decode()


# --- addresses of one thing ---

# Name of an address → whose key it takes: each is asked for each machine, and shows that one alone.
OF_ONE = {
    "inventory:instance": "row",
    "roles:panel": "row",
    "roles:attachment": "attachment",
    "api:role_attachment": "attachment",
    "review:instance": "row",
    "machines:deregister": "row",
    "runcommand:panel": "row",
    "runcommand:command": "command",
    "runcommand:live": "command",
    "runcommand:invocation": "invocation",
    **dict.fromkeys(("rollouts:run", "rollouts:live", "rollouts:targets", "api:run_targets"), "run"),
    "rollouts:target": "target",
    "sessions:panel": "row",
    "sessions:files": "row",
    "api:transfer": "transfer",
    "sessions:terminal": "live",
    "sessions:pane": "live",
    "sessions:message": "live",
    "api:grant": "grant",
    "sessions:replay": "past",
    "sessions:cast": "past",
    "sessions:events": "past",
    "sessions:search": "past",
    "review:event": "event",
    "review:session": "past",
    "api:instance": "row",
    "api:command": "command",
    "api:invocations": "command",
    "api:invocation": "invocation",
    "api:session": "past",
    "api:recording": "past",
    "api:replay": "past",
    "api:search_recording": "past",
    "api:event": "event",
}
# Deeds on one thing; below it stands what each does, and to whom.
DEEDS = {"runcommand:start", "runcommand:cancel", "runcommand:again"}
DEEDS |= {"api:command_start", "api:command_cancel", "api:command_again", "api:commands", "runcommand:create"}
DEEDS |= {"sessions:grant"}  # it names who else may, whatever they own
DEEDS |= {"sessions:grant_ask", "sessions:grant_of", "sessions:grant_vote", "sessions:grant_withdraw"}
DEEDS |= {"sessions:grant_revoke", "sessions:grant_deny_tokens", "sessions:grant_allow_tokens"}
DEEDS |= {"api:grant_vote", "api:grant_withdraw", "api:grant_revoke"}
DEEDS |= {f"attached:{name}" for name in ("new", "order", "open", "cancel")}  # by its own key, for its person alone
DEEDS |= {"sessions:open_as"}  # as sessions:open
DEEDS |= {
    "sessions:open",
    "sessions:transfer",  # as sessions:open
    "sessions:end",
    "sessions:reason",
    "api:end_session",
    "api:session_stream",
    "api:session_messages",
}
DEEDS |= {"api:deregister", "review:prove"}
# On an attachment or a finding by its own key: tests/roles holds that.
DEEDS |= {f"roles:{name}" for name in ("new", "new_run", "extend", "end", "put_back", "accept")}
DEEDS |= {f"api:role_{name}" for name in ("look", "extend", "end", "put_back", "accept")}
# Deeds on a run go to the targets that are written down in it, by their keys: tests/rollouts holds that.
DEEDS |= {
    f"rollouts:{name}"
    for name in (
        *("new", "again", "discard", "start", "pause", "resume", "abort", "retry", "forward", "override"),
        *("skip_wave", "skip_target", "retry_target", "waive", "overrule"),
    )
}
DEEDS |= {
    f"api:run_{name}"
    for name in (
        *("drift", "release", "again", "pause", "resume", "abort", "retry", "forward", "override"),
        *("skip_target", "skip_wave", "retry_target", "waive", "overrule"),
    )
}
# Lists of many, which are filtered; likewise.
LISTS = {
    "inventory:fleet",
    "inventory:live",
    "inventory:palette",
    "inventory:preview",
    "inventory:complete",
    "sessions:list",
    # Commands bear the account of their session: tests/sessions_app/test_command_search.py.
    *("sessions:commands", "sessions:commands_csv", "sessions:commands_json"),
    *("api:session_commands", "api:session_commands_export"),
    "sessions:grants",
    "api:grants",
    "runcommand:list",
    "rollouts:runs",
    # A report is of a row of the inventory, and so of its account: tests/compliance/test_pages.py has two.
    *("compliance:overview", "compliance:instances", "compliance:instance", "compliance:cves", "compliance:cve"),
    *("compliance:patches", "compliance:report", "compliance:export", "compliance:hub"),
    *("api:compliance", "api:compliance_instances", "api:compliance_instance", "api:compliance_reports"),
    *("api:compliance_instance_patches", "api:compliance_cves", "api:compliance_cve", "api:compliance_cve_instances"),
    *("api:compliance_patches", "api:compliance_trend", "api:compliance_heat", "api:compliance_export"),
    *("api:compliance_findings", "api:compliance_aws_findings"),
    # A group is of a region, and has only instances of it: tests/exposure/test_doors.py.
    *("exposure:groups", "exposure:close", "exposure:closings", "exposure:reopen", "exposure:read_again"),
    *("api:exposure_groups", "api:exposure_closings", "api:exposure_closing", "api:exposure_reopen"),
    # Nodes of two accounts: tests/emergency/test_pages.py.
    *("emergency:choose", "emergency:nodes", "emergency:page", "emergency:start", "emergency:discard"),
    *("api:emergencies", "api:emergency", "api:emergency_offers", "api:emergency_affected", "api:emergency_release"),
    "api:runs",
    *("roles:overview", "roles:attachments", "roles:leases", "roles:history"),
    *("api:role_attachments", "api:role_findings", "api:role_history"),
    "review:audit",
    "api:instances",
    "api:sessions",
    "api:transfers",
    "api:events",
    "api:accounts",
    "api:regions",
    "policy:simulate",
    "api:simulate",
    "policy:review",
    # What AWS has, account by account: tests/inventory/test_activations.py has two real ones.
    "machines:list",
    "machines:activation",
    "machines:live",
    "api:activations",
    "accounts:list",
    "accounts:account",
    "api:account",
    "accounts:live",
    "accounts:identity",
    "accounts:identity_live",
    "accounts:edit",
}
# These speak of no instance.
NO_NODE_PREFIXES = (
    *("library:", "api:document"),
    "automation:",  # a runbook lies in one account and region, and so do its executions
    *("identity:", "web:", "approvals:", "calendars:", "notify:", "api:tokens", "api:token", "api:access_key"),
    *("patching:", "api:patch_"),  # of places; tests/patching/test_groups.py holds nodes of two accounts apart
    *("roles:rule", "roles:create_rule", "roles:delete_rule"),  # of target expressions
    *("roles:catalogue", "roles:make", "roles:read_again", "roles:role", "roles:put_right"),  # of accounts
    *("schedules:", "api:schedule"),  # of target expressions; their runs are told apart
    "api:me",
    *("budget:", "api:budget", "deliveries:"),  # of accounts: tests/inventory/test_budget.py holds two of them apart
)
NO_NODE = {
    *("compliance:deadlines", "compliance:switch_hub"),
    *("api:compliance_deadlines", "api:compliance_hubs", "api:compliance_hub"),
    "sessions:tokens",  # roles of accounts
    "sessions:restricted_shells",
    "api:restricted_shells",
    "api:restricted_shell",
    "sessions:restricted_shell",
    "sessions:restricted_shell_add",
    "sessions:restricted_shell_enabled",
    *("api:role_rules", "api:role_rule"),  # of target expressions
    *("api:roles", "api:role", "api:role_right", "api:role_standard"),  # of accounts
    "home",
    "api:index",
    "api:schema",
    "api:login",
    "api:current_token",
    "api:nothing",
    "review:verify",
    "inventory:refresh",
    "inventory:filters",
    "inventory:change_filter",
    "inventory:delete_filter",
    "inventory:star_filter",
    "policy:rules",
    "policy:pick",
    "policy:people",
    "policy:create",
    "policy:history",
    "policy:rule",
    "policy:set_enabled",
    "policy:delete",
    "api:approvals",
    "api:approval",
    "api:vote",
    "api:withdraw",
    "api:calendars",
    "api:calendar",
    "api:calendar_check",
    "api:fetch_calendar",
    "api:calendar_file",
    "api:entries",
    "api:entry",
    "api:check_account",
    "api:account_identity",
    "api:enable_account",
    # Of one account or session by its id, and of no node: tests/sessions_app/delivery/test_pages.py.
    "api:session_delivery",
    "api:account_delivery",
    "api:check_delivery",
    "api:notices",
    "api:notice",
    "api:channels",
    "api:channel",
    "api:test_channel",
    "api:send_again",
    "api:silences",
    "api:end_silence",
    "api:rules",
    "api:rule",
    "api:enable_rule",
    "api:rule_history",
    "accounts:add",
    "accounts:template",
    "accounts:check",
    "accounts:check_identity",
    "accounts:set_enabled",
    "accounts:remove",
    "accounts:document",
    # Of a run by its id: letters, names and words of its own targets, its failures, events and plan.
    *("rollouts:cells", "rollouts:names", "rollouts:cell", "rollouts:failures", "rollouts:events", "rollouts:plan"),
    *("api:run", "api:run_events"),
    # Clusters are told apart by account: tests/rollouts/test_views.py.
    *("rollouts:clusters", "rollouts:create_cluster", "rollouts:cluster", "rollouts:delete_cluster"),
    *("api:cluster_rules", "api:cluster_rule"),
    "machines:add",
    "machines:delete",
    "machines:ca",
    "api:activation",
}


def test_every_address_has_been_decided_on():
    known = OF_ONE.keys() | DEEDS | LISTS | NO_NODE
    there = {name for name in names(get_resolver().url_patterns) if not name.startswith(NO_NODE_PREFIXES)}
    assert there - known == set(), "does it show or act on an instance? Say so here"
    assert {name for name in known if not name.startswith(NO_NODE_PREFIXES)} - there == set(), "gone"


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
@pytest.mark.parametrize("name", OF_ONE)
def test_an_address_of_one_thing_shows_that_one_alone(chief, program, name, machine):
    client = program if name.startswith("api:") else chief
    row = getattr(machine, OF_ONE[name])
    above = row.command_id if isinstance(row, Invocation) else row.run_id if isinstance(row, RunTarget) else None
    path = reverse(name, args=[above, row.pk] if above else [row.pk])
    answer = client.get(path, {"q": "x"} if "search" in name else {})
    others = set(MACHINES) - {machine}
    assert not names_in(text_of(answer)) & others
    nameless = {"sessions:events", "sessions:search", "sessions:cast"}
    if name not in nameless | {"api:recording", "api:replay", "api:search_recording"}:
        assert names_in(text_of(answer)) == {machine}


def test_the_live_part_of_an_instance_and_of_the_fleet_is_of_the_one(chief):
    for machine in MACHINES:
        part = chief.get(reverse("inventory:instance", args=[machine.row.pk]), headers={"HX-Request": "true"})
        assert f"arn:aws:iam::{machine.account_id}" in text_of(part) or machine.account_id in text_of(part)
        asked = {"rows": machine.row.pk.hex, "since": "2026-01-01T00:00:00+00:00", "total": "3"}
        Instance.objects.update(changed_at="2026-06-01T00:00:00Z")
        assert names_in(text_of(chief.get(reverse("inventory:live"), asked))) == {machine}


# --- lists ---


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_a_filter_by_account_and_region_finds_the_one(chief, program, machine):
    where = f"id={SHARED} and account={machine.account_id} and region={machine.region}"
    assert names_in(text_of(chief.get(reverse("inventory:fleet"), {"q": where}))) == {machine}
    found = chief.get(reverse("inventory:palette"), {"q": where}).json()["instances"]
    assert [each["url"] for each in found] == [machine.row.get_absolute_url()]
    told = chief.get(reverse("inventory:preview"), {"text": where}).json()
    assert (told["count"], told["first"][0]["name"]) == (1, machine.name)
    listed = program.get(reverse("api:instances"), {"q": where}).json()["results"]
    assert [each["id"] for each in listed] == [str(machine.row.pk)]
    of_grants = program.get(reverse("api:grants"), {"instance": str(machine.row.pk)}).json()["results"]
    assert [each["user"] for each in of_grants] == [machine.owner]
    of_roles = program.get(reverse("api:role_attachments"), {"q": where}).json()["results"]
    assert [(each["instance_name"], each["asked_by"]) for each in of_roles] == [(machine.name, machine.owner)]
    by_instance = program.get(reverse("api:sessions"), {"instance": str(machine.row.pk)}).json()["results"]
    assert {each["user"] for each in by_instance} == {machine.owner} and len(by_instance) == 3
    of_files = program.get(reverse("api:transfers"), {"instance": str(machine.row.pk)}).json()["results"]
    assert [each["user"] for each in of_files] == [machine.owner]
    within = f"account:{machine.account_id} region:{machine.region}"
    assert names_in(text_of(chief.get(reverse("review:audit"), {"q": within}))) == {machine}
    given = {"account": machine.account_id, "region": machine.region, "action": "sessions.open"}
    assert names_in(text_of(program.get(reverse("api:events"), given))) == {machine}


def test_by_the_id_alone_all_are_found_each_as_itself(chief, program):
    assert names_in(text_of(chief.get(reverse("inventory:fleet"), {"q": SHARED}))) == set(MACHINES)
    found = {each["name"]: each for each in chief.get(reverse("inventory:palette"), {"q": SHARED}).json()["instances"]}
    assert {name: each["url"] for name, each in found.items()} == {
        machine.name: machine.row.get_absolute_url() for machine in MACHINES
    }
    listed = program.get(reverse("api:instances"), {"q": f"id={SHARED}"}).json()["results"]
    assert {(each["account_id"], each["region"], each["name"]) for each in listed} == {
        (machine.account_id, machine.region, machine.name) for machine in MACHINES
    }
    assert names_in(text_of(chief.get(reverse("sessions:list"), {"q": SHARED}))) == set(MACHINES)
    offered = chief.get(reverse("inventory:complete"), {"text": "account=", "at": "8"}).json()["options"]
    assert {"111122223333", "444455556666"} <= {
        word for each in offered for word in f"{each['text']} {each['note']}".split()
    }


def test_the_sessions_of_an_account_are_its_own(chief):
    assert names_in(text_of(chief.get(reverse("sessions:list"), {"account": LAB.account_id}))) == {LAB}
    assert names_in(text_of(chief.get(reverse("sessions:list"), {"account": LAGOS.account_id}))) == {LAGOS, VIRGINIA}


def test_the_accounts_count_their_own(chief, program):
    told = {each["account_id"]: each["regions"] for each in program.get(reverse("api:accounts")).json()["results"]}
    assert told == {"111122223333": ["eu-west-1", "us-east-1"], "444455556666": ["eu-west-1"]}
    regions = program.get(reverse("api:regions")).json()["results"]
    assert {(each["account_id"], each["name"]) for each in regions} == {
        (machine.account_id, machine.region) for machine in MACHINES
    }
    page = chief.get(reverse("accounts:list"))
    assert {row.account.account_id: row.instances for row in page.context["rows"]} == {
        "111122223333": 2,
        "444455556666": 1,
    }
    for account in Account.objects.all():
        for name in (*("accounts:account", "accounts:live", "accounts:identity", "accounts:edit"), "api:account"):
            client = program if name.startswith("api:") else chief
            text = text_of(client.get(reverse(name, args=[account.pk])))
            other = ({"111122223333", "444455556666"} - {account.account_id}).pop()
            assert other not in text and not names_in(text), name


# --- deeds ---


def last(action: str) -> AuditEvent:
    return AuditEvent.objects.filter(action=action).latest("at")


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_a_shell_opens_on_the_one_and_the_audit_row_says_where(chief, program, machine):
    Transfer.objects.all().delete()
    TerminalSession.objects.all().delete()
    chief.post(reverse("sessions:open"), {"instance": str(machine.row.pk)})
    opened = TerminalSession.objects.get()
    assert (opened.instance_row, opened.account_id, opened.region) == (machine.row, machine.account_id, machine.region)
    event = last("sessions.open")
    assert (event.account_id, event.region, event.target_name) == (machine.account_id, machine.region, machine.name)
    by_program = program.post(reverse("api:sessions"), json.dumps({"instance": str(machine.row.pk)}))
    assert (by_program.json()["account_id"], by_program.json()["region"]) == (machine.account_id, machine.region)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_to_end_a_shell_ends_the_one(chief, program, machine):
    session = machine.live
    chief.post(reverse("sessions:end", args=[session.pk]))
    asked = TerminalSession.objects.exclude(end_requested_at=None)
    assert [each.instance_name for each in asked] == [machine.name]
    assert (last("sessions.end.request").account_id, last("sessions.end.request").region) == session_place(session)
    other = next(each for each in MACHINES if each != machine)
    assert program.post(reverse("api:end_session", args=[other.live.pk])).status_code == 202
    assert {each.instance_name for each in asked.all()} == {machine.name, other.name}


def session_place(session) -> tuple[str, str]:
    return session.account_id, session.region


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_a_document_runs_on_the_one_and_its_cancel_ends_the_one(chief, program, machine):
    documents = {each.name: make_document(region=each.row.region) for each in MACHINES}
    policy.make_defaults()
    where = f"id={SHARED} and account={machine.account_id} and region={machine.region}"
    asked = {"document": documents[machine.name].pk, "targets": where, "timeout_seconds": 600}
    planned = Command.objects.get(pk=chief.post(reverse("runcommand:create"), asked)["Location"].split("/")[-2])
    assert [(each.instance_row, each.state) for each in planned.invocations.all()] == [(machine.row, "planned")]
    chief.post(reverse("runcommand:start", args=[planned.pk]))
    chief.post(reverse("runcommand:cancel", args=[planned.pk]))
    assert {each.actor_name for each in Command.objects.filter(state="cancelling")} == {"chief"}
    chief.post(reverse("runcommand:cancel", args=[machine.command.pk]))
    assert machine.command.state == "cancelling"
    assert all(other.command.state == "running" for other in MACHINES if other is not machine)
    whole = program.post(
        reverse("api:commands"),
        json.dumps({"document": str(documents[machine.name].pk), "targets": f"id={SHARED}", "start": False}),
    ).json()
    found = Command.objects.get(pk=whole["id"]).invocations.all()
    assert {(each.instance_name, each.account.account_id, each.region.name) for each in found} == {
        (each.name, each.account_id, each.region) for each in MACHINES
    }


@pytest.mark.parametrize(
    ("targets", "allowed"),
    [
        ("account=444455556666", LAB),
        ("env=prod", LAGOS),
        ("region=us-east-1", VIRGINIA),
        (f"id={SHARED} and account=111122223333 and not region=us-east-1", LAGOS),
        ("name=lab-pos-gw-01", LAB),
    ],
)
def test_a_rule_for_one_lets_nobody_onto_the_others_and_a_refusal_says_where(chief, targets, allowed):
    Rule.objects.filter(name__icontains="shell").delete()
    Rule.objects.all().delete()
    policy.create_rule(
        actor="tests", name="one", effect="allow", everybody=True, deeds=["shell"], targets=targets, confirmed=True
    )
    client = Client()
    client.force_login(make_user("on-call", role="operator"), backend=BACKEND)
    for machine in MACHINES:
        answer = client.post(reverse("sessions:open"), {"instance": str(machine.row.pk)})
        opened = TerminalSession.objects.filter(user_name="on-call", instance_row=machine.row)
        if machine is allowed:
            assert answer.status_code == 302 and opened.count() == 1
        else:
            assert answer.status_code == 403 and not opened.exists()
            refused = last("sessions.open.refuse")
            assert (refused.account_id, refused.region) == (machine.account_id, machine.region)
            assert refused.target_id == str(machine.row.pk)


def test_the_simulator_of_the_policy_asks_which_of_them_is_meant(chief, program):
    path = reverse("policy:simulate")
    asked = {"person": "adaeze", "deed": "shell", "instance": SHARED}
    text = program.get(reverse("api:simulate"), asked).json()["detail"]
    assert all(str(machine.row.pk) in text for machine in MACHINES)
    for machine in MACHINES:
        answer = program.get(reverse("api:simulate"), asked | {"instance": str(machine.row.pk)}).json()
        assert (answer["target"]["account_id"], answer["target"]["region"]) == (machine.account_id, machine.region)
    several = chief.get(path, {"person": "adaeze", "deed": "shell", "instance": SHARED, "owner": "other"})
    assert {machine.name for machine in MACHINES if machine.name in text_of(several)} == {
        each.name for each in MACHINES
    }
    for machine in MACHINES:
        one = {"person": "chief", "deed": "shell", "instance": str(machine.row.pk), "owner": "other"}
        assert {each for each in MACHINES if each.name in text_of(chief.get(f"{path}?{urlencode(one)}"))} == {machine}


def test_a_row_of_the_audit_log_is_of_the_place_of_its_instance(machines):
    for machine in MACHINES:
        assert (machine.event.account_id, machine.event.region) == (machine.account_id, machine.region)
        assert machine.event.target_id == str(machine.row.pk)


# --- reading AWS ---


def test_what_one_account_says_changes_no_row_of_another(machines, monkeypatch):
    """The second account's reading knows nothing of the node any more: only that account's row is gone."""
    for module in (services.ssm, services.ec2):
        monkeypatch.setattr(module, "instance_pages", lambda *access, **options: iter([Page([])]))
    target = Region.objects.get(account__account_id=LAB.account_id)
    moment = now()
    Region.objects.filter(pk=target.pk).update(claimed_until=moment + services.CLAIM, started_at=moment)
    services.refresh_region(target.pk, now=moment)
    assert {machine.name for machine in MACHINES if machine.row.gone_at is not None} == {LAB.name}


def test_a_node_is_unique_in_its_account_and_region_and_nowhere_else(machines):
    fields = [
        constraint.fields
        for constraint in Instance._meta.constraints
        if "instance_id" in getattr(constraint, "fields", ())
    ]
    assert fields == [("account", "region", "instance_id")]
    assert len({machine.row.pk for machine in MACHINES}) == 3 and isinstance(LAGOS.row.pk, uuid.UUID)
