"""Access keys: made once, sealed, shown once, revoked; and never more than their owner."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse

from fleetops import vault
from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.identity import access_keys
from fleetops.identity.models import AccessKey
from tests.factories import make_user

pytestmark = pytest.mark.usefixtures("roles", "valkey")


def client_of(user) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    session = client.session
    session["proved_at"] = session["mfa_at"] = now().timestamp()
    session.save()
    return client


def make(user, **fields) -> tuple[AccessKey, str]:
    given = {"name": "laptop", "expires_at": now() + timedelta(days=1)} | fields
    return access_keys.create(user, actor=user, **given)


def test_a_key_is_shown_once_with_the_lines_for_a_shell_and_its_secret_is_kept_sealed(settings):
    settings.TERMINAL_URL = "wss://fleet.example.com"
    user = make_user("mei", role="operator")
    client = client_of(user)
    confirmed = client.post(reverse("identity:confirm"), {"password": "correct horse battery"})
    assert confirmed.status_code == 302
    answer = client.post(reverse("identity:create_key"), {"name": "laptop", "days": "30", "networks": ""})
    assert answer.status_code == 200
    key = AccessKey.objects.get()
    secret = access_keys.find(key.key_id)[1]
    page = answer.content.decode()
    assert access_keys.KEY_ID.fullmatch(key.key_id) and len(key.key_id) == 20 and len(secret) == 40
    assert f"AWS_ACCESS_KEY_ID=&#x27;{key.key_id}&#x27;" in page and page.count(secret) > 3
    assert "https://fleet.example.com/aws/" in page
    assert secret not in key.sealed_secret and vault.key_id_of(key.sealed_secret)
    assert secret not in client.get(reverse("identity:keys")).content.decode()
    event = AuditEvent.objects.get(action="identity.access_key.create")
    assert event.details["key_id"] == key.key_id and secret not in str(vars(event))


def test_a_bad_name_and_a_far_end_are_told(settings):
    user = make_user(role="operator")
    with pytest.raises(UserError, match="Give the key a name"):
        make(user, name=" ")
    with pytest.raises(UserError, match="at most"):
        make(user, expires_at=now() + timedelta(days=settings.TOKEN_LONGEST_DAYS + 2))
    with pytest.raises(UserError, match="is no network"):
        make(user, networks=["nowhere"])


def test_a_key_lets_no_more_through_than_sessions_need_and_never_more_than_its_owner_may():
    key, _ = make(make_user(role="administrator"))
    access_keys.let_in(key, address="192.0.2.1")
    assert key.user.has_perm("sessions_app.open_terminalsession")
    assert not key.user.has_perm("identity.administer") and not key.user.has_perm("policy.change_rule")
    key, _ = make(make_user(role="viewer"))
    access_keys.let_in(key, address="192.0.2.1")
    assert not key.user.has_perm("sessions_app.open_terminalsession")


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"revoked_at": now}, "unknown_key", "was revoked"),
        ({"expires_at": now}, "expired", "expired on"),
        ({"networks": lambda: ["198.51.100.0/24"]}, "denied", "198.51.100.0/24 alone"),
    ],
)
def test_a_key_that_does_not_hold_says_why(change, kind, words):
    key, _ = make(make_user(role="operator"))
    AccessKey.objects.update(**{name: value() for name, value in change.items()})
    key, _ = access_keys.find(key.key_id)
    with pytest.raises(access_keys.KeyRefused, match=words) as refused:
        access_keys.let_in(key, address="192.0.2.1")
    assert refused.value.kind == kind
    assert AuditEvent.objects.filter(action="identity.access_key.refuse").count() == 1


def test_the_key_of_who_may_no_longer_log_in_opens_nothing_and_no_longer_stands():
    user = make_user(role="operator")
    key, _ = make(user)
    name = access_keys.bearer_name(key)
    assert access_keys.standing({name}) == {name}
    user.is_active = False
    user.save()
    key, _ = access_keys.find(key.key_id)
    with pytest.raises(access_keys.KeyRefused, match="may no longer log in"):
        access_keys.let_in(key, address="192.0.2.1")
    assert access_keys.standing({name}) == set()


def test_ones_own_are_revoked_by_oneself_and_anybodys_by_an_administrator():
    owner, other, chief = (make_user(role=role) for role in ("operator", "operator", "administrator"))
    key, _ = make(owner)
    address = reverse("identity:revoke_key", args=[key.pk])
    assert client_of(other).post(address).status_code == 404
    assert client_of(other).get(reverse("identity:all_keys")).status_code == 403
    page = client_of(chief).get(reverse("identity:all_keys")).content.decode()
    assert key.key_id in page and address in page
    assert client_of(chief).post(address, {"next": reverse("identity:all_keys")}).status_code == 302
    key.refresh_from_db()
    assert key.state == "revoked" and key.revoked_by == chief.username
    assert AuditEvent.objects.get(action="identity.access_key.revoke").actor_name == chief.username
