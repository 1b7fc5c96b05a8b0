"""The pages of the policy: each works, turns away who may not, hides what is not there, and tells of bad input."""

import uuid
from datetime import time, timedelta

import pytest
from django.contrib.auth.models import Group, Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.identity.models import User
from fleetops.policy import overview, picks, services
from fleetops.policy.models import Rule, RuleRevision
from tests.factories import make_instance, make_user

pytestmark = pytest.mark.django_db
RULES = "/settings/policy/"


def client_of(role: str, username: str = "") -> Client:
    client = Client()
    client.force_login(make_user(username, role=role), backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def chief(roles) -> Client:
    return client_of("administrator", "chief")


@pytest.fixture
def auditor(roles) -> Client:
    return client_of("auditor")


def make(name="Prod", **fields) -> Rule:
    given = {"everybody": True, "deeds": ["shell"], "targets": "env=prod"} | fields
    return services.create_rule(actor="test", name=name, **given)


def form(**fields) -> dict:
    given = {"name": "Ledger", "effect": "allow", "everybody": "on", "deeds": ["shell"], "whose": "any"}
    return given | {"targets": "cluster=ledger", "zone": "UTC", "approvals": "0"} | fields


# The list


def test_the_list_shows_who_may_what_where_on_which_condition(auditor):
    make(needs_reason=True, approvals=2)
    make("Gone", enabled=False, effect="deny")
    text = auditor.get(RULES).content.decode()
    for words in ("Prod", "env=prod", "reason, approved by 2", "Switched off", "may not", "Operator, Administrator"):
        assert words in text, words
    assert "Add rule" not in text and "Switch off" not in text


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=prod", {"Prod"}),
        ("q=operator+shells", {"Operators and administrators open shells"}),
        ("effect=deny", {"Freeze"}),
        ("deed=end_session", {"Administrators end sessions", "Everybody has their own sessions and recordings"}),
        ("state=off", {"Old"}),
        ("q=nothing", set()),
        ("q=%00", None),
        ("page=99", None),
    ],
)
def test_the_list_is_filtered(auditor, query, found):
    make()
    make("Freeze", effect="deny", targets="cluster=db")
    make("Old", targets="env=old", valid_until=now() - timedelta(days=1))
    answer = auditor.get(f"{RULES}?{query}")
    assert answer.status_code == 200
    if found is not None:
        assert {row.rule.name for row in answer.context["rows"]} == found


def test_the_list_takes_the_same_few_queries_however_many_rules(auditor):
    counts = []
    for number in range(2):
        for each in range(30 * number):
            make(f"r{each}", groups=[Group.objects.get(name="viewer")], everybody=False)
        with CaptureQueriesContext(connection) as queries:
            auditor.get(RULES)
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 13


def test_without_any_rule_the_list_says_what_that_means(auditor):
    Rule.objects.all().delete()
    assert "nobody may do anything" in auditor.get(RULES).content.decode()


# One rule


def test_a_rule_is_made_by_the_form_and_holds(chief):
    answer = chief.post(
        f"{RULES}new/",
        form(
            everybody="",
            groups=[str(Group.objects.get(name="viewer").pk)],
            deeds=["shell", "run_as"],
            run_as="app, deploy-* root",
            days=["0", "4"],
            starts_at="08:00",
            ends_at="18:30",
            zone="Europe/Berlin",
            networks="10.0.0.0/8 2001:db8::/32",
            needs_mfa="on",
            needs_reason="on",
            approvals="2",
            role_arn="arn:aws:iam::111122223333:role/oncall",
            valid_until="2030-01-01T12:00",
            note="For the ledger",
        ),
    )
    assert answer.url == RULES
    rule = Rule.objects.get(name="Ledger")
    assert (rule.run_as, rule.networks) == (["app", "deploy-*", "root"], ["10.0.0.0/8", "2001:db8::/32"])
    assert str(rule.hours) == "Mon, Fri 08:00–18:30 Europe/Berlin"
    assert (rule.approvals, rule.needs_mfa, rule.needs_reason, rule.changed_by) == (2, True, True, "chief")
    assert rule.valid_until.isoformat() == "2030-01-01T12:00:00+00:00"
    assert [group.name for group in rule.groups.all()] == ["viewer"]
    assert AuditEvent.objects.filter(action="policy.rule.create", actor_name="chief").exists()


def test_what_the_form_shows_is_what_it_saves(chief):
    made = chief.post(
        f"{RULES}new/", form(days=["6"], starts_at="22:00", ends_at="06:00", valid_from="2026-01-01T00:00")
    )
    assert made.status_code == 302
    rule = Rule.objects.get(name="Ledger")
    page = chief.get(rule.get_absolute_url())
    shown = page.context["form"]
    data = {name: shown[name].value() for name in shown.fields}
    data = {name: value for name, value in data.items() if value not in (None, False, "", [])}
    data |= {name: "on" for name, value in data.items() if value is True}
    before = services.snapshot(rule)
    assert chief.post(rule.get_absolute_url(), data).status_code == 302
    rule.refresh_from_db()
    assert services.snapshot(rule) == before and rule.version == 1 + (rule.version > 1)
    assert 'value="22:00"' in page.content.decode() and 'value="2026-01-01T00:00"' in page.content.decode()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": ""}, "This field is required"),
        ({"targets": "env=prod or a=1 and b=2"}, "parentheses"),
        ({"targets": "all"}, "Confirm that below"),
        ({"deeds": []}, "Choose at least one deed"),
        ({"everybody": ""}, "Choose a group or a person"),
        ({"networks": "here"}, "here is no network"),
        ({"name": "Prod"}, "There is a rule “Prod” already"),
        ({"deeds": ["forward"]}, "Name where ports may be forwarded to"),
        ({"deeds": ["forward"], "destinations": "db.internal"}, "db.internal is no host and port"),
        ({"shell_user": "two users"}, "Name one OS user"),
        ({"deeds": ["patch"], "shell_user": "app"}, "Name one OS user"),
        ({"deeds": ["patch"], "session_documents": "Acme-*"}, "where shells are opened alone"),
        ({"deeds": ["patch"], "needs_moderator": "on"}, "Somebody can watch a shell alone"),
        ({"mfa_minutes": "10"}, "Ask for a second factor too"),
        ({"grant_minutes": "30"}, "Say how many have to approve"),
        ({"effect": "deny", "needs_moderator": "on"}, "A deny denies"),
        ({"effect": "deny", "shell_user": "app"}, "A deny denies"),
        ({"groups": ["999999"]}, "field"),
        ({"starts_at": "late"}, "field"),
    ],
)
def test_bad_input_is_told_and_nothing_is_saved(chief, fields, words):
    make()
    before = Rule.objects.count()
    answer = chief.post(f"{RULES}new/", form(**fields))
    assert answer.status_code == 400 and words in answer.content.decode()
    assert Rule.objects.count() == before


def test_all_that_a_rule_says_of_sessions_is_saved_and_shown_again(chief):
    administrators = Group.objects.get(name="administrator")
    said = {
        "deeds": ["shell", "forward"],
        "session_documents": "SSM-SessionManagerRunShell, FleetOps-*",
        "shell_user": "deploy",
        "destinations": "DB.internal:5432 localhost:*",
        "needs_mfa": "on",
        "mfa_minutes": "15",
        "needs_moderator": "on",
        "approvals": "2",
        "approvers": [str(administrators.pk)],
        "grant_minutes": "90",
    }
    assert chief.post(f"{RULES}new/", form(**said)).status_code == 302
    rule = Rule.objects.get(name="Ledger")
    assert rule.session_documents == ["FleetOps-*", "SSM-SessionManagerRunShell"]
    assert rule.destinations == ["db.internal:5432", "localhost:*"]
    assert (rule.shell_user, rule.mfa_minutes, rule.needs_moderator, rule.grant_minutes) == ("deploy", 15, True, 90)
    facts = services.facts_of(rule)
    assert facts.approvers == ("administrator",) and facts.shell_user == "deploy" and facts.mfa_minutes == 15
    page = chief.get(rule.get_absolute_url()).content.decode()
    for shown in ("db.internal:5432, localhost:*", 'value="deploy"', 'value="15"', 'value="90"'):
        assert shown in page, shown
    listed = chief.get(RULES).content.decode()
    for words in ("second factor of 15 min", "moderator present", "shells as deploy", "to db.internal:5432"):
        assert words in listed, words
    revision = RuleRevision.objects.get(rule_id=rule.pk)
    assert revision.after["approvers"] == ["administrator"] and revision.after["mfa_minutes"] == 15


def test_a_simulation_is_of_a_shell_as_a_user_and_of_a_forwarded_port(auditor, db):
    make("Shells", targets="all", confirmed=True, needs_moderator=True)
    make("Ports", deeds=["forward"], destinations=["*:443"], targets="all", confirmed=True)
    make_user("mei")
    asked = {"person": "mei", "deed": "shell", "run_as": "root"}
    assert not auditor.get(f"{RULES}simulate/", asked).context["decision"].allowed
    plain = auditor.get(f"{RULES}simulate/", asked | {"run_as": ""})
    assert plain.context["decision"].allowed and "Input waits until a moderator watches" in plain.content.decode()
    port = {"person": "mei", "deed": "forward", "destination": "db.internal:443"}
    assert auditor.get(f"{RULES}simulate/", port).context["decision"].allowed
    assert not auditor.get(f"{RULES}simulate/", port | {"destination": "db.internal:22"}).context["decision"].allowed
    assert auditor.get(f"{RULES}simulate/", port | {"destination": "x"}).status_code == 400
    make("Asked", deeds=["run_as"], run_as=["root"], targets="all", confirmed=True, approvals=1)
    assert "They may ask for it" in auditor.get(f"{RULES}simulate/", asked).content.decode()


def test_a_rule_for_every_instance_is_confirmed(chief):
    assert chief.post(f"{RULES}new/", form(targets="all", confirm_all="on")).status_code == 302
    assert Rule.objects.get(name="Ledger").targets == "all"


def test_a_form_that_is_late_is_told_so(chief):
    rule = make()
    services.set_enabled(rule, False, actor=make_user("eve"))
    answer = chief.post(rule.get_absolute_url(), form(name="Prod", version="1"))
    assert answer.status_code == 409 and "eve changed rule “Prod” meanwhile" in answer.content.decode()


def test_a_rule_shows_its_history_and_can_be_copied_switched_and_deleted(chief):
    rule = make()
    assert "made it" in chief.get(rule.get_absolute_url()).content.decode()
    copy = chief.get(f"{RULES}new/?from={rule.pk}").content.decode()
    assert "Prod (copy)" in copy and 'value="env=prod"' in copy
    chief.post(reverse("policy:set_enabled", args=[rule.pk]), {"enabled": "0"})
    rule.refresh_from_db()
    assert not rule.enabled
    assert "switched off" in chief.get(rule.get_absolute_url()).content.decode()
    assert f'name="version" value="{rule.version}"' in chief.get(rule.get_absolute_url()).content.decode()
    chief.post(reverse("policy:delete", args=[rule.pk]), {"version": rule.version})
    assert chief.get(rule.get_absolute_url()).status_code == 404
    history = chief.get(f"{RULES}history/?rule={rule.pk}").content.decode()
    assert "deleted" in history and "targets: env=prod" not in history and "instances: env=prod" in history


@pytest.mark.parametrize("version", ["1", "", "x", "9" * 5000])
def test_who_deletes_what_another_has_just_changed_gets_the_page_of_a_conflict(chief, version):
    rule = make()
    services.set_enabled(rule, False, actor=make_user("eve"))
    answer = chief.post(reverse("policy:delete", args=[rule.pk]), {"version": version})
    assert answer.status_code == 409 and "eve changed rule “Prod” meanwhile" in answer.content.decode()
    assert Rule.objects.filter(pk=rule.pk).exists()
    assert not AuditEvent.objects.filter(action="policy.rule.delete").exists()


def test_who_may_only_read_gets_a_form_that_is_off_and_no_way_to_send_it(auditor):
    rule = make()
    page = auditor.get(rule.get_absolute_url()).content.decode()
    assert "<fieldset" in page and " disabled>" in page and "Delete rule" not in page and "Save" not in page
    assert auditor.post(rule.get_absolute_url(), form(version="1")).status_code == 403
    assert auditor.get(f"{RULES}new/").status_code == 403
    rule.refresh_from_db()
    assert rule.name == "Prod"


@pytest.mark.parametrize("role", ["viewer", "operator", "patch_owner"])
def test_who_has_no_business_here_is_turned_away_and_it_is_audited(roles, role):
    client = client_of(role)
    for name in ("", "new/", "simulate/", "review/", "history/", f"{make().pk}/"):
        assert client.get(RULES + name).status_code == 403, name
    assert AuditEvent.objects.filter(action="web.permission.refuse", outcome="denied").count() == 6
    assert "Policy" not in client.get("/fleet/").content.decode()


def test_what_is_not_there_is_a_404(chief):
    for name in ("", "enabled/", "delete/"):
        method = chief.post if name else chief.get
        assert method(f"{RULES}{uuid.uuid4()}/{name}").status_code == 404


# Simulate


def simulate(client, **asked):
    return client.get(f"{RULES}simulate/", {"person": "mei", "deed": "shell"} | asked)


@pytest.fixture
def mei(roles):
    return make_user("mei", role="operator")


def test_a_simulation_answers_with_each_rules_share_in_words(auditor, mei):
    instance = make_instance(name="db-1", tags={"env": "prod"})
    make("No prod", effect="deny", note="Freeze")
    make("Soft", targets="name=db*", needs_reason=True)
    make("Elsewhere", targets="env=dev")
    page = simulate(auditor, instance="db-1")
    text = page.content.decode()
    assert not page.context["decision"].allowed
    for words in (
        "Denies it: Freeze.",
        "Would allow it, but needs a reason.",
        "Allows it: all its conditions are met.",
        "Its instances, env=dev, do not include db-1.",
        "nobody else may",
    ):
        assert words in text, words
    Rule.objects.get(name="No prod").delete()
    services.set_enabled(Rule.objects.get(name="Elsewhere"), False, actor=mei)
    assert simulate(auditor, instance=instance.instance_id).context["decision"].allowed


def test_time_address_factor_reason_and_approval_can_be_supposed(auditor, mei):
    services.delete_rule(Rule.objects.get(deeds=["shell"]), actor=mei, version=1)
    make(
        needs_mfa=True,
        needs_reason=True,
        approvals=1,
        networks=["10.0.0.0/8"],
        days=[0],
        starts_at=time(8),
        ends_at=time(18),
        zone="UTC",
    )
    make_instance(name="web", tags={"env": "prod"})
    bare = simulate(auditor, instance="web", at="2026-11-24T12:00").context["decision"]
    assert bare.unmet == ("hours", "network", "mfa", "approval", "reason")
    brought = {"at": "2026-11-23T12:00", "address": "10.1.1.1", "has_mfa": "on", "has_reason": "on", "approvals": "1"}
    assert simulate(auditor, instance="web", **brought).context["decision"].allowed


def test_a_name_that_fits_several_instances_is_asked_back_and_one_that_fits_none_told(auditor, mei):
    for name in ("web-1", "web-2"):
        make_instance(name=name)
    page = simulate(auditor, instance="web")
    assert "Which of these?" in page.content.decode() and "decision" not in page.context
    assert "No such instance" in simulate(auditor, instance="nil").content.decode()
    assert simulate(auditor).context["decision"].allowed  # on no instance in particular


def test_the_simulation_says_that_the_pages_would_not_get_them_there(auditor, roles):
    make_user("nobody")
    make(targets="name=web*")
    make_instance(name="web-1")
    text = simulate(auditor, person="nobody", instance="web-1").content.decode()
    assert "no role of theirs shows them instances" in text and "not</span>" in text
    text = simulate(auditor, person="nobody", deed="read_recording", owner="other").content.decode()
    assert "no role of theirs shows them the sessions of others" in text
    assert simulate(auditor, person="nobody", deed="read_recording", owner="own").context["decision"].allowed


def test_the_simulation_tells_of_who_may_end_but_not_see_the_sessions_of_others(auditor, roles):
    ender, nobody = make_user("ender"), make_user("nobody")
    ender.user_permissions.add(Permission.objects.get(codename="end_terminalsession"))
    make("Enders", users=[ender, nobody], everybody=False, deeds=["end_session"], targets="all", confirmed=True)
    page = simulate(auditor, person="ender", deed="end_session", owner="other")
    text = page.content.decode()
    assert "none shows them these" in text and "<b>ender</b> may <b>end a session</b>" in text
    assert page.context["cannot_see"] == ""
    text = simulate(auditor, person="nobody", deed="end_session", owner="other").content.decode()
    assert "or lets them end what they do not see" in text and "none shows them these" not in text
    text = simulate(auditor, person="ender", deed="watch_session", owner="other").content.decode()
    assert "no role of theirs shows them the sessions of others" in text


@pytest.mark.parametrize("asked", [{"person": "who"}, {"deed": "fly"}, {"at": "soon"}, {"address": "here"}])
def test_a_question_that_makes_no_sense_is_told(auditor, mei, asked):
    assert simulate(auditor, **asked).status_code == 400


def test_nothing_is_written_by_a_simulation(auditor, mei):
    simulate(auditor)
    before = (AuditEvent.objects.count(), list(Rule.objects.values_list("last_used_at", flat=True)))
    simulate(auditor)
    assert (AuditEvent.objects.count(), list(Rule.objects.values_list("last_used_at", flat=True))) == before


# Review and history


def test_the_matrix_says_who_may_what_where(auditor):
    make(needs_reason=True)
    make("Mei", everybody=False, users=[make_user("mei")], targets="env=dev")
    page = auditor.get(f"{RULES}review/")
    lines = {line.title: line for line in page.context["lines"]}
    shell = {title: [(part.where, part.conditions) for part in line.cells[0]] for title, line in lines.items()}
    assert shell["Everybody"] == [("env=prod", "reason")]
    assert shell["Operator"] == [("everywhere", "")] and shell["Viewer"] == []
    assert shell["mei"] == [("env=dev", "")]
    sessions = auditor.get(f"{RULES}review/", {"deeds": "Sessions and recordings"})
    own = {line.title: line for line in sessions.context["lines"]}["Everybody"].cells[0]
    assert [part.where for part in own] == ["own, everywhere"]


def test_rules_that_deserve_a_look_are_flagged(db):
    long_ago = now() - timedelta(days=200)
    anything = {"targets": "all", "confirmed": True}
    make("Wide", **anything)
    make("Peep", deeds=["read_recording"])
    make("World", networks=["0.0.0.0/0"])
    make("Root", deeds=["run_as"], run_as=["root"])
    make("Grant", approvals=1)
    make("Patch", approvals=1, deeds=["patch"])
    make("Past", valid_from=long_ago, valid_until=long_ago + timedelta(days=1))
    make("Fine", needs_mfa=True)
    make("Off", enabled=False, **anything)
    lonely = make("Lonely", everybody=False, users=[make_user("gone")])
    lonely.users.all().delete()
    make("Odd")
    Rule.objects.filter(name="Odd").update(targets="??")
    make("Dusty", effect="deny")
    Rule.objects.filter(name="Dusty").update(created_at=long_ago)
    found = overview.flags(list(Rule.objects.all()), at=now())
    assert {(flag.rule.name, flag.word) for flag in found} == {
        ("Wide", "Too wide"),
        ("Peep", "Too wide"),
        ("World", "Too wide"),
        ("Root", "Root"),
        ("Patch", "Cannot be met"),
        ("Past", "Expired"),
        ("Lonely", "Names nobody"),
        ("Odd", "Cannot be read"),
        ("Dusty", "Never used"),
    }


def test_the_review_counts_instances_and_takes_few_queries(auditor):
    make_instance(tags={"env": "prod"})
    make_instance(tags={"env": "dev"})
    make()
    with CaptureQueriesContext(connection) as queries:
        page = auditor.get(f"{RULES}review/")
    assert ("env=prod", 1, 1) in page.context["counts"] and ("all", 7, 2) in page.context["counts"]
    assert len(queries) <= 16
    assert "Nothing in 8 rules is too wide" in page.content.decode()


def test_history_comes_in_pages_and_shows_what_changed(chief):
    rule = make()
    services.change_rule(
        rule, actor=make_user("eve"), version=1, name="Prod", everybody=True, deeds=["shell"], targets="env=dev"
    )
    for number in range(60):
        services.set_enabled(rule, bool(number % 2), actor="robot")
    first = chief.get(f"{RULES}history/")
    assert len(first.context["revisions"]) == 50
    older = chief.get(f"{RULES}history/", {"before": first.context["older"]})
    text = older.content.decode()
    assert '<div class="del">instances: env=prod</div><div class="add">instances: env=dev</div>' in text
    assert chief.get(f"{RULES}history/", {"before": "x"}).status_code == 400
    assert chief.get(f"{RULES}history/", {"rule": "x"}).status_code == 400


# Choosing people and groups


def pick(client, what="users", **asked):
    return client.get(f"{RULES}pick/", {"what": what} | asked).context["pick"]


def test_among_ten_thousand_people_one_is_found_by_a_few_letters_and_the_form_shows_the_chosen_alone(chief):
    User.objects.bulk_create(User(username=f"u{n:05}", first_name="Uma", last_name=f"No{n}") for n in range(10_000))
    mei = make_user("mei", first_name="Mei", last_name="Tanaka", email="m.tanaka@example.com", is_active=False)
    rule = make(everybody=False, users=[mei, User.objects.get(username="u09999")])
    page = chief.get(rule.get_absolute_url())
    text = page.content.decode()
    assert text.count('name="users"') == 2 + picks.MOST_FOUND and "There are more" in text
    assert f'value="{mei.pk}" checked' in text and "Mei Tanaka, may not log in" in text
    assert len(text) < 100_000
    for words in ("tanaka mei", "m.tanaka@", "MEI"):
        assert [each.name for each in pick(chief, find_users=words).found] == ["mei"]
    many = pick(chief, find_users="uma no12")
    assert len(many.found) == picks.MOST_FOUND and many.has_more
    with CaptureQueriesContext(connection) as queries:
        chief.get(rule.get_absolute_url())
    assert len(queries) <= 19


def test_whoever_is_asked_about_is_found_among_all_people(auditor):
    User.objects.bulk_create(User(username=f"u{n:04}", last_name=f"No{n}") for n in range(1500))
    page = auditor.get(f"{RULES}simulate/").content.decode()
    assert page.count('<option value="u') == picks.MOST_FOUND
    part = auditor.get(f"{RULES}people/", {"person": "no1499"}).content.decode()
    assert part.count("<option") == 1 and 'value="u1499"' in part
    assert "u1499" in auditor.get(f"{RULES}simulate/", {"person": "u1499", "deed": "shell"}).content.decode()


def test_groups_are_found_by_their_names_and_titles(chief):
    Group.objects.bulk_create(Group(name=f"team-{n}") for n in range(300))
    assert [each.name for each in pick(chief, "groups", find_groups="Patch owner").found] == ["Patch owner"]
    assert [each.name for each in pick(chief, "groups", find_groups="team-299").found] == ["team-299"]
    assert pick(chief, "groups", find_groups="nothing\x00").found == []


def test_without_javascript_the_button_searches_and_keeps_what_was_filled_in(chief):
    mei, ana = make_user("mei"), make_user("ana")
    sent = form(name="", everybody="", users=[str(mei.pk)], note="Kept", find_users="ana", find="users")
    for path in (f"{RULES}new/", make().get_absolute_url()):
        before = Rule.objects.count()
        page = chief.post(path, sent)
        text = page.content.decode()
        assert page.status_code == 200 and "Not saved" not in text and 'value="Kept"' in text
        assert f'value="{mei.pk}" checked' in text and f'value="{ana.pk}">' in text
        assert Rule.objects.count() == before
    saved = chief.post(
        f"{RULES}new/",
        form(everybody="", users=[str(mei.pk), str(ana.pk)], find_users="ana", found_users="ana"),
    )
    assert saved.status_code == 302
    assert {user.username for user in Rule.objects.get(name="Ledger").users.all()} == {"mei", "ana"}


def test_words_that_nobody_has_looked_for_yet_are_looked_for_and_nothing_is_saved(chief):
    """Enter in the search field presses Save: somebody who thinks that they look for a person saves nothing."""
    page = chief.post(f"{RULES}new/", form(find_users="chi"))
    assert page.status_code == 200 and not Rule.objects.filter(name="Ledger").exists()
    assert [each.name for each in page.context["picks"][1].found] == ["chief"]


def test_who_may_only_read_sees_the_chosen_and_cannot_search(auditor):
    rule = make(everybody=False, users=[make_user("mei")])
    text = auditor.get(rule.get_absolute_url()).content.decode()
    assert "mei" in text and "find_users" not in text
    assert auditor.get(f"{RULES}pick/").status_code == 403
