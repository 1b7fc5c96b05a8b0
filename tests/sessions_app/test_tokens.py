"""Older AWS credentials of a role are denied on demand: what the endpoint's IAM then says to old ones and new ones."""

import json
import uuid
from datetime import timedelta

import pytest
from botocore.exceptions import ClientError
from django.test import Client
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Account
from sessions_app import grants, streams, tokens
from sessions_app.models import Grant, TokenDenial
from tests.factories import make_grant, make_session, make_user
from tests.support.endpoint import RunningEndpoint

from .conftest import ended, opened, until
from .test_own_role import document, give

pytestmark = pytest.mark.django_db(transaction=True)
PEOPLE = ("sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession")


@pytest.fixture
def aws(demo_endpoint, home) -> RunningEndpoint:
    return RunningEndpoint(home / "endpoint", None, demo_endpoint, home / "endpoint.log")


@pytest.fixture
def role(aws) -> str:
    """A role of people's sessions; its ARN."""
    iam, name = aws.client("iam"), f"oncall-{uuid.uuid4().hex[:8]}"
    caller = aws.client("sts", user="fleetops").get_caller_identity()["Arn"]
    trust = {"Effect": "Allow", "Principal": {"AWS": caller}, "Action": list(PEOPLE)}
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(trust))["Role"]["Arn"]
    sessions = {"Effect": "Allow", "Action": "ssm:*", "Resource": "*"}
    iam.put_role_policy(RoleName=name, PolicyName="sessions", PolicyDocument=document(sessions))
    assume = {"Effect": "Allow", "Action": list(PEOPLE), "Resource": arn}
    iam.put_user_policy(UserName="fleetops", PolicyName=name, PolicyDocument=document(assume))
    return arn


@pytest.fixture
def grant(operator, demo_instance, role) -> Grant:
    """One of Mei's, by which a session was opened under that role."""
    made_by = make_user("rhea", role="administrator")
    made = make_grant(user=operator, instance=demo_instance, ends_at=now() + timedelta(hours=1))
    make_session(user=operator, instance=demo_instance, grant=made, role_arn=role)
    assert made_by.has_perm(tokens.END_PERMISSION)
    return made


@pytest.fixture
def chief(grant):
    return User.objects.get(username="rhea")


def issue(aws, role: str, name: str):
    """SSM as that person under that role, with credentials issued now."""
    given = aws.client("sts", user="fleetops").assume_role(RoleArn=role, RoleSessionName=name)["Credentials"]
    return aws.client(
        "ssm",
        user=uuid.uuid4().hex,
        aws_access_key_id=given["AccessKeyId"],
        aws_secret_access_key=given["SecretAccessKey"],
        aws_session_token=given["SessionToken"],
    )


def works(client) -> bool:
    try:
        client.describe_sessions(State="Active")
    except ClientError as error:
        assert error.response["Error"]["Code"] == "AccessDeniedException"
        return False
    return True


def test_older_tokens_of_one_person_are_denied_and_newer_ones_and_those_of_others_are_not(aws, role, grant, chief):
    mei, tomas = issue(aws, role, "mei.tanaka"), issue(aws, role, "tomas")
    assert works(mei) and works(tomas)
    (outcome,) = tokens.deny_older(grant, actor=chief)
    assert outcome.is_done and "AWS denies tokens of mei.tanaka" in outcome.text
    assert not works(mei) and works(tomas)
    until(lambda: works(issue(aws, role, "mei.tanaka")), what="new credentials are not denied")
    event = AuditEvent.objects.get(action="sessions.tokens.deny")
    assert (event.actor_name, event.target_id, event.details["user"]) == ("rhea", role, "mei.tanaka")
    (again,) = tokens.allow_again(grant, actor=chief)
    assert again.is_done and works(mei)
    assert AuditEvent.objects.filter(action="sessions.tokens.allow").exists()
    assert not TokenDenial.objects.filter(removed_at=None).exists()


def test_where_fleetops_may_not_it_says_so_and_that_is_audited(aws, role, grant, chief):
    name = aws.account["role_arn"].rpartition("/")[2]
    forbid = {"Effect": "Deny", "Action": "iam:PutRolePolicy", "Resource": "*"}
    aws.client("iam").put_role_policy(RoleName=name, PolicyName="no", PolicyDocument=document(forbid))
    try:
        (outcome,) = tokens.deny_older(grant, actor=chief)
    finally:
        aws.client("iam").delete_role_policy(RoleName=name, PolicyName="no")
    assert not outcome.is_done and "iam:PutRolePolicy" in outcome.text
    event = AuditEvent.objects.get(action="sessions.tokens.deny")
    assert event.outcome == "failed" and not TokenDenial.objects.exists()


def test_fleetops_itself_goes_on_with_new_tokens_and_ends_what_is_open(aws, role, terminal, demo_instance, operator):
    chief = make_user("rhea", role="administrator")
    give(operator, role)
    session = opened(demo_instance, operator)
    browser = terminal.browser(session, operator)
    browser.until(r"[$#] ", seconds=20)
    account = Account.objects.get()
    outcome = tokens.deny_role(account, role, user=operator, actor=chief)
    assert outcome.is_done
    session.refresh_from_db()
    way = streams.under_its_role(account.access(), session)
    assert way.issued_after == TokenDenial.objects.get().denied_before.isoformat()
    browser.type("exit\r")
    browser.told("ended")
    ended(session)
    until(lambda: works(issue(aws, role, "mei.tanaka")), what="new credentials are not denied")
    again = opened(demo_instance, operator)
    other = terminal.browser(again, operator)
    other.until(r"[$#] ", seconds=20)
    other.type("exit\r")
    other.told("ended")
    ended(again)


def test_who_may_and_whose(role, grant, chief, operator):
    with pytest.raises(Denied):
        tokens.deny_older(grant, actor=operator)
    assert AuditEvent.objects.get(action="sessions.tokens.deny.refuse").actor_name == "mei.tanaka"
    account = Account.objects.get()
    with pytest.raises(UserError, match="FleetOps itself works under the account's own role"):
        tokens.deny_role(account, account.role_arn, user=None, actor=chief)
    unused = make_grant(user=operator, ends_at=now() + timedelta(hours=1))
    assert "no token to deny" in tokens.deny_older(unused, actor=chief)[0].text


def test_the_page_tells_how_long_they_live_and_denies_them_for_everybody(aws, role, grant, chief, operator):
    give(operator, role)
    client = Client()
    client.force_login(chief, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get(reverse("sessions:tokens")).content.decode()
    assert "up to <b>60 minutes</b>" in page and role in page and "given by On call" in page
    old = issue(aws, role, "tomas")
    form = {"account": Account.objects.get().account_id, "role_arn": role, "do": "deny", "person": ""}
    assert client.post(reverse("sessions:tokens"), form).status_code == 302
    assert not works(old)
    assert "everybody, issued before" in client.get(reverse("sessions:tokens")).content.decode()
    assert client.post(reverse("sessions:tokens"), form | {"do": "allow"}).status_code == 302
    assert works(old)
    assert client.post(reverse("sessions:tokens"), form | {"person": "nobody"}).status_code == 409
    assert client.post(reverse("sessions:tokens"), form | {"role_arn": "x"}).status_code == 400


def test_a_revocation_takes_them_along_if_that_was_ticked(aws, role, grant, chief):
    old = issue(aws, role, "mei.tanaka")
    client = Client()
    client.force_login(chief, backend="django.contrib.auth.backends.ModelBackend")
    form = {"reason": "It is fixed", "deny_tokens": "on"}
    assert client.post(reverse("sessions:grant_revoke", args=[grant.pk]), form).status_code == 302
    assert not works(old)
    page = client.get(grant.get_absolute_url()).content.decode()
    assert "those issued before" in page
    client.post(reverse("sessions:grant_allow_tokens", args=[grant.pk]))
    assert works(old) and grants.may_revoke(grant, chief)


def test_the_policy_is_the_one_that_the_iam_console_makes():
    moment = now().replace(microsecond=0)
    assert json.loads(json.dumps(tokens.policy_document(moment))) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Deny",
                "Action": ["*"],
                "Resource": ["*"],
                "Condition": {"DateLessThan": {"aws:TokenIssueTime": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}},
            }
        ],
    }
    assert tokens.policy_name() == "AWSRevokeOlderSessions"
