"""The pages of roles: what they show, what they do, and to whom."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.html import escape

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.roles import listing, services
from fleetops.roles.catalogue.models import Making, Profile, Reading, Role
from fleetops.roles.models import Holding, RoleAttachment, RoleChange, RoleFinding, RoleRule
from fleetops.roles.services import Wish
from tests.factories import make_account, make_instance, make_region, make_user

from .conftest import CORE, DATA, OTHER, loop

pytestmark = pytest.mark.django_db
BACKEND = "django.contrib.auth.backends.ModelBackend"
READ = '{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}}'


@pytest.fixture
def page(admin):
    client = Client()
    client.force_login(admin, BACKEND)
    return client


@pytest.fixture
def profiles(monkeypatch):
    """IAM knows each name that is asked for, without a call; the endpoint's own answer is tested in test_endpoint."""
    from fleetops.aws.profiles import Profile as Found

    def found(access, region, name, *, session_name):
        return Found(f"arn:aws:iam::111122223333:instance-profile/{name}", name, (name,), (f"arn:…:role/{name}",))

    monkeypatch.setattr("fleetops.roles.services.profiles.profile", found)


def asked(instance, **fields):
    return {"instance": str(instance.pk), "what": "role", "length": "lease", "minutes": "30", "reason": "", **fields}


def text(answer) -> str:
    return " ".join(answer.content.decode().split())


def ask(page, instance, **fields):
    return page.post(reverse("roles:new"), {"go": "ask", **asked(instance, **fields)})


# --- reading ---------------------------------------------------------------------------------------------------------


def test_empty_pages_say_what_there_is_to_do(page):
    for name in ("overview", "attachments", "leases", "history", "rules", "catalogue"):
        answer = page.get(reverse(f"roles:{name}"))
        assert answer.status_code == 200, name
    RoleRule.objects.all().delete()
    shown = text(page.get(reverse("roles:overview")))
    assert "No lease is open" in shown and "No rule yet" in shown and "AWS holds what was asked for here" in shown


def test_the_overview_shows_leases_rules_findings_and_who_has_what(page, admin, rule, aws, bare):
    services.ask(bare, Wish(CORE, 30), actor=admin)
    other = make_instance(name="other", profile_arn=DATA)
    RoleFinding.objects.create(
        instance=other, account=other.account, region=other.region, expected=DATA, found=OTHER, by="tomas"
    )
    shown = text(page.get(reverse("roles:overview")))
    assert "1 lease" in shown and "1 ends within the hour" in shown
    assert "1 change" in shown and "by tomas" in shown
    assert "1 instance</a> has no role" in shown
    assert 'title="' in shown and "30 min" in shown


def test_the_number_of_queries_hangs_on_nothing_that_grows(page, admin, rule, aws, django_assert_max_num_queries):
    for number in range(30):
        services.ask(make_instance(profile_arn=""), Wish(CORE, 10 + number), actor=admin)
    with django_assert_max_num_queries(34):
        page.get(reverse("roles:overview"))
    with django_assert_max_num_queries(26):
        page.get(reverse("roles:attachments"))
    with django_assert_max_num_queries(24):
        page.get(reverse("roles:leases"))


def test_leases_of_one_role_are_one_line_that_ends_with_the_last(admin, rule, aws, bare):
    services.ask(bare, Wish(CORE, 10), actor=admin)
    services.ask(bare, Wish(CORE, 480), actor=make_user("omar", role="administrator"))
    [row] = listing.lease_rows(listing.open_leases(admin), at=now())
    assert row.lease.asked_by_name == "omar" and row.holders == ["omar", "mei"]
    assert not row.is_soon and 99 < row.width <= 100


def test_attachments_are_filtered_by_expression_role_and_how_they_are_held(page, admin, rule, aws, bare):
    services.ask(bare, Wish(CORE, 10), actor=admin)
    make_instance(name="held-for-good", profile_arn=DATA)
    for query, yes, no in (
        ({"q": "name=bare"}, "bare", "held-for-good"),
        ({"role": "none"}, "bare", "held-for-good"),
        ({"role": "data"}, "held-for-good", ">bare<"),
        ({"held": "lease"}, "bare", "held-for-good"),
        ({"held": "other"}, "held-for-good", ">bare<"),
    ):
        shown = text(page.get(reverse("roles:attachments"), query))
        assert yes in shown and no not in shown, query
    assert page.get(reverse("roles:attachments"), {"q": "env=("}).status_code == 400


def test_ten_thousand_are_paged(page):
    region = make_region()
    first = make_instance(name="a-first", region=region)
    type(first).objects.bulk_create(
        [
            type(first)(account=region.account, region=region, instance_id=f"i-{number:08x}", name=f"node-{number:05}")
            for number in range(250)
        ]
    )
    shown = text(page.get(reverse("roles:attachments")))
    assert "1–100 of 251" in shown and "Next 100" in shown
    assert "201–251 of 251" in text(page.get(reverse("roles:attachments"), {"page": "3"}))


def test_the_calendar_shows_ends_on_their_day(page, admin, rule, aws, bare):
    services.ask(bare, Wish(CORE, 60), actor=admin)
    weeks = listing.calendar(list(listing.open_leases(admin)), at=now())
    ends = RoleAttachment.objects.get().ends_at.date()
    assert [day.date for week in weeks for day in week if day.leases] == [ends]
    assert len(weeks) == 5 and all(len(week) == 7 and week[0].date.weekday() == 0 for week in weeks)


# --- deeds -----------------------------------------------------------------------------------------------------------


def test_a_lease_is_looked_at_and_then_asked_for(page, rule, aws, bare, profiles):
    looked = page.post(reverse("roles:new"), {"go": "look", **asked(bare, profile_name="core")})
    assert looked.status_code == 200 and "at once" in text(looked) and "no role</b> is put back" in text(looked)
    assert not RoleAttachment.objects.exists()
    made = ask(page, bare, profile_name="core")
    attachment = RoleAttachment.objects.get()
    assert made.status_code == 302 and made["Location"] == attachment.get_absolute_url()
    loop(3)
    shown = text(page.get(attachment.get_absolute_url()))
    assert "In place" in shown and "Extend" in shown and "no role → <b" in shown
    assert "then no role, held by mei" in text(page.get(reverse("roles:panel", args=[bare.pk])))


def test_one_that_needs_approval_says_so_and_waits(page, rule, aws, bare, profiles):
    make_user("omar", role="administrator")
    RoleRule.objects.filter(pk=rule.pk).update(approvals=1)
    RoleRule.objects.exclude(pk=rule.pk).delete()
    looked = page.post(reverse("roles:new"), {"go": "look", **asked(bare, profile_name="core", reason="INC-1")})
    assert "1 approval</b>" in text(looked)
    ask(page, bare, profile_name="core", reason="INC-1")
    attachment = RoleAttachment.objects.get()
    assert attachment.state == "asked"
    assert "INC-1" in text(page.get(reverse("roles:leases")))
    assert page.post(reverse("roles:end", args=[attachment.pk])).status_code == 302
    attachment.refresh_from_db()
    assert attachment.state == "cancelled"


def test_a_detachment_that_cuts_the_agent_off_is_accepted_first(page, rule, aws):
    node = make_instance(name="node", profile_arn=CORE)
    refused = ask(page, node, what="none")
    assert refused.status_code == 400 and "25 to 30 minutes" in text(refused)
    assert "Privilege only instead" in text(refused)
    assert ask(page, node, what="none", cut_off_accepted="1").status_code == 302
    assert RoleAttachment.objects.get().profile_arn == ""


def test_a_privilege_is_asked_for(page, rule, aws):
    node = make_instance(name="node", profile_arn=CORE)
    wrong = ask(page, node, what="privilege", policy="{")
    assert wrong.status_code == 400 and "not JSON" in text(wrong)
    assert ask(page, node, what="privilege", policy=READ, policy_name="read").status_code == 302
    assert RoleAttachment.objects.get().policy_name == "read"


def test_no_rule_no_role_in_words_and_audited(page, aws, bare, profiles):
    RoleRule.objects.all().delete()
    refused = ask(page, bare, profile_name="core")
    assert refused.status_code == 403 and "No rule lets this instance have core" in text(refused)
    assert AuditEvent.objects.filter(action="roles.ask.refuse", actor_name="mei").exists()


def test_a_name_finds_instances_to_choose_from(page, bare):
    make_instance(name="bare-2")
    shown = text(page.get(reverse("roles:new"), {"q": "bare"}))
    assert "bare-2" in shown and f"instance={bare.pk}" in shown
    assert "No instance matches" in text(page.get(reverse("roles:new"), {"q": "nothing-like-it"}))


def test_a_lease_is_extended_and_ended(page, admin, rule, aws, bare):
    attachment = services.ask(bare, Wish(CORE, 10), actor=admin)
    loop(3)
    assert page.post(reverse("roles:extend", args=[attachment.pk]), {"minutes": "1"}).status_code == 400
    assert page.post(reverse("roles:extend", args=[attachment.pk]), {"minutes": "60"}).status_code == 302
    attachment.refresh_from_db()
    assert attachment.ends_at > now() + timedelta(minutes=59)
    confirm = text(page.get(reverse("roles:end", args=[attachment.pk])))
    assert "No role is put back" in confirm
    assert page.post(reverse("roles:end", args=[attachment.pk])).status_code == 302
    loop(3)
    attachment.refresh_from_db()
    assert attachment.state == "ended" and aws.profile(bare.instance_id) == ""
    assert RoleChange.objects.count() == 2
    assert "→ <b" in text(page.get(reverse("roles:history"), {"instance": str(bare.pk)}))


def test_an_operator_cannot_end_anothers_lease(admin, rule, aws, bare):
    attachment = services.ask(bare, Wish(CORE, 10), actor=admin)
    client = Client()
    client.force_login(make_user("omar", role="operator"), BACKEND)
    assert "not yours to end" in text(client.get(reverse("roles:end", args=[attachment.pk])))
    assert client.post(reverse("roles:end", args=[attachment.pk])).status_code == 403
    assert AuditEvent.objects.filter(action="roles.end.refuse", actor_name="omar").exists()


@pytest.mark.parametrize(("deed", "state"), [("put_back", "put_back"), ("accept", "accepted")])
def test_what_appeared_outside_is_decided_on(page, aws, deed, state):
    node = make_instance(name="node", profile_arn=OTHER)
    place = {"account": node.account, "region": node.region}
    Holding.objects.create(instance=node, base=CORE, believed=CORE, **place)
    finding = RoleFinding.objects.create(instance=node, expected=CORE, found=OTHER, **place)
    address = reverse(f"roles:{deed}", args=[finding.pk])
    assert page.get(address).status_code == 200
    assert page.post(address).status_code == 302
    finding.refresh_from_db()
    assert (finding.state, finding.decided_by_name) == (state, "mei")
    assert page.post(address).status_code == 409, "once is enough"


# --- rules -----------------------------------------------------------------------------------------------------------

RULE = {
    "name": "ledger",
    "targets": "cluster=ledger",
    "profile_name": "ledger-*",
    "mode": "may",
    "most_minutes": "60",
    "approvals": "2",
    "approvers": ["auditor"],
    "is_enabled": "1",
}


def test_a_rule_is_made_changed_and_deleted(page):
    assert page.post(reverse("roles:create_rule"), RULE).status_code == 302
    rule = RoleRule.objects.get(name="ledger")
    assert (rule.most_minutes, rule.approvals, rule.version) == (60, 2, 1)
    make_instance(tags={"cluster": "ledger"}, profile_arn="arn:aws:iam::111122223333:instance-profile/ledger-db")
    make_instance(tags={"cluster": "ledger"}, profile_arn=CORE)
    shown = text(page.get(reverse("roles:rule", args=[rule.pk])))
    assert "<b>2</b> instances match, 1 of them has" in shown
    changed = {**RULE, "most_minutes": "30", "version": "1"}
    assert page.post(reverse("roles:rule", args=[rule.pk]), changed).status_code == 302
    late = page.post(reverse("roles:rule", args=[rule.pk]), changed)
    assert late.status_code == 400 and "since you opened it" in text(late)
    assert page.post(reverse("roles:delete_rule", args=[rule.pk]), {"version": "1"}).status_code == 409
    assert page.post(reverse("roles:delete_rule", args=[rule.pk]), {"version": "2"}).status_code == 302
    events = AuditEvent.objects.filter(action__startswith="roles.rule.").order_by("id")
    assert [each.action.rpartition(".")[2] for each in events] == ["create", "change", "delete"]
    assert events[1].details["rule"] == {"most_minutes": [60, 30]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"targets": "env=("}, "id_targets-error"),
        ({"profile_name": "a b"}, "instance profile"),
        ({"mode": "must"}, "without *"),
        ({"name": " "}, "id_name-error"),
        ({"approvals": "11"}, "id_approvals-error"),
    ],
)
def test_a_rule_that_cannot_be_says_why(page, changed, said):
    answer = page.post(reverse("roles:create_rule"), RULE | changed)
    assert answer.status_code == 400 and said in text(answer)
    assert not RoleRule.objects.filter(name="ledger").exists()


def test_a_rule_is_seen_by_many_and_changed_by_few(rule, roles):
    client = Client()
    client.force_login(make_user("vera", role="viewer"), BACKEND)
    shown = text(client.get(reverse("roles:rule", args=[rule.pk])))
    assert "disabled" in shown and "Delete" not in shown
    assert client.post(reverse("roles:rule", args=[rule.pk]), RULE).status_code == 403
    assert AuditEvent.objects.filter(action="roles.rule.refuse", actor_name="vera").exists()


# --- the catalogue ---------------------------------------------------------------------------------------------------


@pytest.fixture
def standard(db):
    account = make_account()
    Reading.objects.create(account=account, read_at=now())
    role = Role.objects.create(
        account=account,
        arn="arn:aws:iam::111122223333:role/fleetops-ssm-core",
        name="fleetops-ssm-core",
        trust='{"Statement": []}',
        policies=[{"name": "extra", "arn": "", "text": READ}],
        digest="1",
        read_at=now(),
    )
    arn = "arn:aws:iam::111122223333:instance-profile/fleetops-ssm-core"
    Profile.objects.create(account=account, arn=arn, name="fleetops-ssm-core", role=role, read_at=now())
    return role


def test_the_catalogue_shows_roles_with_who_uses_them(page, standard):
    make_instance(profile_arn="arn:aws:iam::111122223333:instance-profile/fleetops-ssm-core")
    shown = text(page.get(reverse("roles:catalogue")))
    assert "Differs" in shown and ">1</a>" in shown and "Put right" in shown
    shown = text(page.get(standard.get_absolute_url()))
    assert "does not let EC2 assume it" in shown and "inline policy extra besides" in shown


def test_the_standard_role_is_put_right_by_what_was_shown(page, standard):
    address = reverse("roles:put_right", args=[standard.pk])
    repairs = [each.repair for each in listing_differences(standard)]
    assert all(escape(each) in text(page.get(address)) for each in repairs)
    assert page.post(address, {"change": repairs[:1]}).status_code == 409
    assert page.post(address, {"change": repairs}).status_code == 302
    assert [each["repair"] for each in Making.objects.get().changes] == repairs


def listing_differences(role):
    from fleetops.roles.catalogue import services as catalogue

    return catalogue.differences(role)


def test_the_standard_role_is_made_in_one_account_or_wherever_it_is_missing(page):
    first, second = make_account(), make_account("444455556666")
    assert page.post(reverse("roles:make"), {"account": str(first.pk)}).status_code == 302
    assert [each.account for each in Making.objects.all()] == [first]
    assert page.post(reverse("roles:make"), {}).status_code == 409
    assert page.post(reverse("roles:make"), {"account": "nonsense"}).status_code == 409
    Making.objects.all().delete()
    assert page.post(reverse("roles:make"), {"all": "1"}).status_code == 302
    assert {each.account for each in Making.objects.all()} == {first, second}


def test_a_reading_that_failed_is_told(page):
    Reading.objects.create(account=make_account(), error="AccessDenied: not for you")
    assert "not for you" in text(page.get(reverse("roles:catalogue")))
    assert page.post(reverse("roles:read_again")).status_code == 302
    assert Reading.objects.get().asked_at is not None


# --- many at once ----------------------------------------------------------------------------------------------------


def test_attaching_to_many_is_for_good_unless_minutes_are_given(page, rule):
    make_instance(name="one", profile_arn="")
    shown = text(page.get(reverse("roles:new_run")))
    assert 'name="lease_minutes"' in shown and 'name="lease_minutes" value="2"' not in shown
    form = {"step": "targets", "targets": "name=one", "deed": "attach", "profile_name": "core", "lease_minutes": "x"}
    refused = page.post(reverse("roles:new_run"), form)
    assert "The minutes are a number" in text(refused)
    assert "Waves" in text(page.post(reverse("roles:new_run"), {**form, "lease_minutes": "30"}))
