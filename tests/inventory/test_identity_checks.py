"""The roles under which FleetOps acts, against the real endpoint: what works, and in words what is missing."""

import json
import uuid

import pytest
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.aws import permissions
from fleetops.awsapi import iampolicy
from fleetops.errors import UserError
from fleetops.inventory import features, identity_checks, tasks
from fleetops.inventory.identity_checks import TRIED, caller_of, verdict, why_not_trusted
from fleetops.inventory.models import IdentityCheck
from fleetops.policy import services as policy
from tests.factories import make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def user(linked) -> str:
    """FleetOps's own user in the endpoint's account."""
    return f"arn:aws:iam::{linked.account_id}:user/fleetops"


@pytest.fixture
def make_role(endpoint, linked, user):
    """`make_role(trust, policy)` makes a role that FleetOps's user may assume, for all that user's policy says."""
    iam = endpoint.client("iam")

    def make(trust=None, allowed=None, *, may_assume: bool = True) -> str:
        name = f"oncall-{uuid.uuid4().hex[:8]}"
        arn = f"arn:aws:iam::{linked.account_id}:role/{name}"
        iam.create_role(
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps(trust or permissions.trust_policy(user, linked.external_id)),
        )
        least = allowed or permissions.session_policy(linked.account_id)
        iam.put_role_policy(RoleName=name, PolicyName="sessions", PolicyDocument=json.dumps(least))
        if may_assume:
            caller = json.dumps(permissions.caller_policy([arn]))
            iam.put_user_policy(UserName="fleetops", PolicyName=name, PolicyDocument=caller)
        return arn

    return make


COMMANDS_AND_PORTS = "runs single commands and forwards ports, by AWS's documents for that"


def rule_with(arn: str, name: str = "On call", **more) -> None:
    fields = {"users": [make_user()], "deeds": ["shell"], "targets": "all", "role_arn": arn, "confirmed": True}
    policy.create_rule(actor="tests", name=name, **fields | more)


def looked(account) -> IdentityCheck:
    check = identity_checks.ask(account, actor="tests")
    identity_checks.carry_out(check.pk)
    check.refresh_from_db()
    assert check.state == "done", check.error
    return check


def answers(role: dict) -> dict[str, dict]:
    """By what was asked; of what may be left out of a permission, by what it is for."""
    extra = {each.extra_purpose for each in permissions.PERMISSIONS if each.extra}
    return {
        row["purpose"] if row["purpose"] in extra else f"{row['part']} {row['action']}": row for row in role["rows"]
    }


def refused(role: dict) -> dict[str, str]:
    return {about: row["text"] for about, row in answers(role).items() if row["result"] != "ok"}


# --- what works ---


def test_the_accounts_role_and_one_with_the_printed_policies_work_and_nothing_else_is_asked(linked, make_role):
    arn = make_role()
    rule_with(arn)
    rule_with(arn, "Nights")
    rule_with(make_role(), "Off", enabled=False)
    rule_with("arn:aws:iam::999999999999:role/elsewhere", "Of another account")
    check = looked(linked)
    own, oncall = check.roles
    assert (own["arn"], own["rules"], oncall["arn"], oncall["rules"]) == (
        linked.role_arn,
        [],
        arn,
        ["Nights", "On call"],
    )
    assert refused(own) == {} and refused(oncall) == {}
    assert set(answers(oncall)) == {
        *(f"trust {action}" for action in permissions.ASSUME_ACTIONS),
        f"use {TRIED}",
        *(f"permissions {action}" for action in permissions.OF_SESSIONS),
        COMMANDS_AND_PORTS,
    }
    assert "/fleetops-check-" in answers(oncall)[f"use {TRIED}"]["text"]
    asked = {row["action"] for row in own["rows"] if row["part"] == "permissions"}
    assert asked == set(features.actions_of(features.used(linked)))
    found = verdict(check)
    assert (found.kind, found.word, found.missing) == ("ok", "Works", ())
    assert AuditEvent.objects.get(action="inventory.account.identity").account_id == linked.account_id


def test_what_a_feature_needs_is_asked_for_where_it_is_used(linked, monkeypatch):
    monkeypatch.setitem(features._told, "Session logs", [f"{__name__}.never"])
    monkeypatch.setitem(features._told, "Copies of recordings", [f"{__name__}.never", f"{__name__}.always"])
    (own,) = looked(linked).roles
    asked = {row["action"] for row in own["rows"]}
    assert "logs:PutLogEvents" not in asked and "s3:PutObject" in asked


def never(account) -> bool:
    return False


def always(account) -> bool:
    return True


# --- what does not, in words ---


def test_a_trust_policy_without_the_persons_name_is_told_by_action(linked, make_role, user):
    trust = permissions.trust_policy(user)
    trust["Statement"][0]["Action"] = "sts:AssumeRole"
    arn = make_role(trust)
    rule_with(arn)
    check = looked(linked)
    said = refused(check.roles[1])
    for action in ("sts:SetSourceIdentity", "sts:TagSession"):
        assert said[f"trust {action}"] == (
            f"The trust policy names {user}, and not {action}: add it to the actions of that statement."
        )
    assert said.keys() == {"trust sts:SetSourceIdentity", "trust sts:TagSession", f"use {TRIED}"}
    assert (verdict(check).kind, verdict(check).word) == ("bad", "Role refused")
    assert f"{arn.rpartition('/')[2]}: sts:TagSession" in verdict(check).missing


def test_a_role_that_trusts_while_the_base_credentials_may_not_assume_it_is_told(linked, make_role):
    rule_with(make_role(may_assume=False, trust=delegating(linked)))
    said = refused(looked(linked).roles[1])
    assert set(said) == {f"use {TRIED}"}
    assert "what is missing is on that side: let its own policy" in said[f"use {TRIED}"]
    assert "sts:SetSourceIdentity" in said[f"use {TRIED}"]


def delegating(account) -> dict:
    """Trusts the account, whose own policies then decide."""
    return permissions.trust_policy(f"arn:aws:iam::{account.account_id}:root")


def test_a_permission_that_is_missing_is_told_with_what_does_not_work_without_it(linked, make_role):
    only = permissions.session_policy(linked.account_id)
    only["Statement"] = [each for each in only["Statement"] if "ssm:StartSession" in each["Action"]]
    only["Statement"][0]["Resource"] = only["Statement"][0]["Resource"][:2]  # no document
    rule_with(make_role(allowed=only))
    check = looked(linked)
    said = refused(check.roles[1])
    assert set(said) >= {"permissions ssm:StartSession", "permissions ssm:ResumeSession"}
    assert "document/SSM-SessionManagerRunShell" in said["permissions ssm:StartSession"]
    assert "instance/" not in said["permissions ssm:StartSession"]
    assert "the network between FleetOps and AWS is lost" in said["permissions ssm:ResumeSession"]
    assert (verdict(check).kind, verdict(check).word) == ("warn", "Permission missing")


def test_a_role_for_shells_alone_works(linked, make_role):
    shells = permissions.session_policy(linked.account_id)
    for statement in shells["Statement"]:
        if isinstance(statement["Resource"], list):
            statement["Resource"] = [each for each in statement["Resource"] if "AWS-Start" not in each]
    rule_with(make_role(allowed=shells))
    check = looked(linked)
    assert refused(check.roles[1]).keys() == {COMMANDS_AND_PORTS}
    assert "document/AWS-StartPortForwardingSession" in refused(check.roles[1])[COMMANDS_AND_PORTS]
    assert verdict(check).word == "Works"


def test_an_account_whose_role_is_refused_says_why_and_asks_no_further(linked, make_role):
    linked.role_arn = make_role(permissions.trust_policy(f"arn:aws:iam::{linked.account_id}:user/somebody"))
    linked.save()
    check = looked(linked)
    (own,) = check.roles
    assert {row["part"] for row in own["rows"]} == {"trust", "use"}
    assert answers(own)["trust iam:GetRole"]["result"] == "unknown"
    assert "sts:AssumeRole" in answers(own)[f"use {TRIED}"]["text"]
    assert verdict(check).word == "Role refused"


def test_credentials_that_are_not_there_end_the_check_in_words(linked):
    linked.profile = "nobody"
    linked.save()
    check = identity_checks.ask(linked, actor="tests")
    tasks.check_identity(str(check.pk))
    check.refresh_from_db()
    assert check.state == "failed" and "profile 'nobody'" in check.error
    assert verdict(check).word == "Check failed"


def test_one_check_is_made_at_a_time_and_one_without_a_region_is_none(linked):
    first = identity_checks.ask(linked, actor="tests")
    assert identity_checks.ask(linked, actor="tests") == first
    assert verdict(first).kind == "run"
    linked.regions.update(enabled=False)
    with pytest.raises(UserError, match="Turn one on first"):
        identity_checks.ask(linked, actor="tests")


# --- trust policies, read here ---

ROLE = "arn:aws:sts::111122223333:assumed-role/fleetops/i-1"
NAMED = permissions.trust_policy("arn:aws:iam::111122223333:role/fleetops", "ours")
OURS = {"sts:externalid": ["ours"]}


@pytest.mark.parametrize(
    ("change", "context", "words"),
    [
        ({}, OURS, ""),
        ({}, {}, "under conditions that are not met: on sts:ExternalId. The external id given here may be another"),
        ({"Action": ["sts:AssumeRole", "sts:TagSession"]}, OURS, "and not sts:SetSourceIdentity: add it"),
        (
            {"Principal": {"AWS": "arn:aws:iam::111122223333:role/other"}},
            OURS,
            "does not name arn:aws:iam::111122223333",
        ),
        ({"Principal": {"AWS": "arn:aws:iam::111122223333:root"}}, OURS, ""),
        ({"Effect": "Deny"}, OURS, "A statement of the trust policy denies sts:SetSourceIdentity"),
    ],
)
def test_why_a_trust_policy_lets_nobody_in(change, context, words):
    trust = {**NAMED, "Statement": [{**NAMED["Statement"][0], **change}]}
    said = why_not_trusted(trust, caller_of(ROLE), "sts:SetSourceIdentity", context)
    assert (words in said) if words else said == ""


def test_a_caller_is_known_by_its_role_and_a_user_by_name():
    assert caller_of(ROLE) == iampolicy.Caller(ROLE, "111122223333", "arn:aws:iam::111122223333:role/fleetops")
    user = "arn:aws:iam::111122223333:user/fleetops"
    assert caller_of(user) == iampolicy.Caller(user, "111122223333")


# --- the page ---


def test_the_page_shows_each_role_and_the_least_to_copy(client_as, linked, make_role):
    client = client_as("administrator")
    url = reverse("accounts:identity", args=[linked.pk])
    assert "Nobody has looked at the roles yet." in client.get(url).content.decode()
    arn = make_role()
    rule_with(arn)
    looked(linked)
    page = client.get(url)
    text = page.content.decode()
    assert "sessions by “On call”" in text and arn in text and "as for a person" in text
    shown = {kind: json.loads(content) for kind, _, _, content in page.context["documents"]}
    assert shown["sessions"] == permissions.session_policy(linked.account_id)
    assert shown["caller"]["Statement"][0]["Resource"] == sorted([linked.role_arn, arn])
    assert shown["trust"]["Statement"][0]["Principal"] == {"AWS": f"arn:aws:iam::{linked.account_id}:user/fleetops"}
    check = [each for each in shown["policy"]["Statement"] if each["Sid"].startswith("ConnectionCheck")]
    assert all({linked.role_arn, arn} <= set(each["Resource"]) for each in check if each["Resource"] != "*")
    few = client.get(url, {"chosen": "1", "feature": ["Fleet", "Shells"]})
    policy_shown = json.loads(few.context["documents"][0][3])
    assert {each["Sid"].rstrip("0123456789") for each in policy_shown["Statement"]} == {"Fleet", "Shells"}


def test_a_check_is_asked_for_by_who_administers_and_read_over_the_api(client_as, linked, monkeypatch):
    asked = []
    monkeypatch.setattr(tasks.check_identity, "delay", asked.append)
    client = client_as("administrator")
    assert client.post(reverse("accounts:check_identity", args=[linked.pk])).status_code == 302
    (check,) = IdentityCheck.objects.all()
    assert asked == [str(check.pk)]
    assert "AWS is being asked" in client.get(reverse("accounts:identity_live", args=[linked.pk])).content.decode()
    identity_checks.carry_out(check.pk)
    text = client.get(reverse("accounts:identity_live", args=[linked.pk])).content.decode()
    assert "hx-trigger" not in text and "is assumed, now, with" in text
