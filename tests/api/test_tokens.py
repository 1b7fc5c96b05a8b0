"""What a token lets in, and what not: its end, scopes, owner and network; each refusal in words, and audited."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.identity import tokens
from fleetops.identity.models import ApiToken
from fleetops.identity.scopes import SCOPES
from tests.api.conftest import Bearer, make_token
from tests.factories import make_instance, make_session, make_user

pytestmark = pytest.mark.usefixtures("roles", "valkey")
ME = "/api/v1/users/me/"
FLEET = "/api/v1/instances/"


def last_event(action: str) -> AuditEvent:
    return AuditEvent.objects.filter(action=action).latest("pk")


def told(answer, status: int) -> str:
    """The detail of a problem, which has the shape of RFC 9457."""
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"].startswith("application/problem+json")
    body = answer.json()
    assert {"type", "title", "status", "detail", "request_id"} <= body.keys()
    assert body["status"] == status and body["request_id"] == answer["X-Request-Id"]
    return body["detail"]


def test_a_token_is_shown_once_and_kept_as_a_digest():
    user = make_user(role="operator")
    text = make_token(user, "fleet:read")
    token = ApiToken.objects.get()
    assert tokens.TOKEN.fullmatch(text) and text.startswith(token.prefix + "_")
    secret = text.removeprefix(token.prefix + "_")
    assert secret not in str(vars(token)) and len(secret) == 43
    event = last_event("identity.token.create")
    assert event.target_name == "pipeline" and event.details["scopes"] == ["fleet:read"]
    assert secret not in str(vars(event))


def test_who_calls_learns_who_they_are(bearer):
    answer = bearer(make_user("mei", role="operator"), "fleet:read").get(ME)
    body = answer.json()
    assert (body["username"], body["roles"], body["token"]["scopes"]) == ("mei", ["operator"], ["fleet:read"])
    assert body["permissions"] == ["inventory.view_instance"]  # of what the roles allow, what the token lets through


def test_without_a_token_nothing_is_told(client):
    answer = client.get(FLEET)
    assert "Bearer fo_" in told(answer, 401) and answer["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("text", ["", "fo_", "fo_abc_def", "fo_" + "a" * 10 + "_" + "b" * 43, "ü" * 40, "a b"])
def test_a_made_up_token_is_refused_in_words(text):
    assert told(Bearer(text).get(ME), 401)


def test_a_token_with_one_letter_changed_is_refused():
    text = make_token(make_user(role="viewer"))
    wrong = text[:-1] + ("a" if text[-1] != "a" else "b")
    assert "no token of FleetOps" in told(Bearer(wrong).get(ME), 401)


def test_an_expired_token_says_when_it_ended_and_what_to_do_and_nothing_is_changed():
    user = make_user("mei", role="operator")
    instance = make_instance()
    program = Bearer(make_token(user))
    ended = now() - timedelta(minutes=1)
    ApiToken.objects.update(expires_at=ended)
    answer = program.post("/api/v1/sessions/", {"instance": str(instance.pk)})
    assert f"expired on {ended:%Y-%m-%d %H:%M} UTC" in told(answer, 401) and "fleetops login" in told(answer, 401)
    assert instance.terminal_sessions.count() == 0
    program.get(FLEET)
    event = AuditEvent.objects.get(action="identity.token.refuse")  # once a minute, however often it is tried
    assert (event.outcome, event.reason, event.actor_name) == ("denied", "expired", "mei")
    assert ApiToken.objects.get().last_used_at is None


def test_a_token_without_the_scope_says_which_and_nothing_is_changed(bearer):
    user = make_user("mei", role="operator")
    instance = make_instance()
    answer = bearer(user, "fleet:read").post("/api/v1/sessions/", {"instance": str(instance.pk)})
    assert "lacks the scope sessions:open; it has fleet:read" in told(answer, 403)
    assert instance.terminal_sessions.count() == 0
    event = AuditEvent.objects.get(outcome="denied")
    assert (event.action, event.reason) == ("web.permission.refuse", "lacks scope sessions:open")
    assert event.source == "api" and event.details["via"].startswith("pipeline (fo_")


def test_nobody_makes_a_token_beyond_themselves():
    user = make_user(role="viewer")
    with pytest.raises(Denied, match=r"never exceeds its owner.*audit:read"):
        make_token(user, "fleet:read", "audit:read")
    assert not ApiToken.objects.exists()
    assert last_event("identity.token.create.refuse").details["scopes"] == ["audit:read"]


@pytest.mark.parametrize("scope", [name for name, scope in SCOPES.items() if scope.needs])
def test_no_scope_is_given_by_who_has_nothing_that_it_lets_through(scope):
    with pytest.raises(Denied, match=rf"do not allow {scope}\."):
        make_token(make_user(), scope)
    assert not ApiToken.objects.exists() and last_event("identity.token.create.refuse").details["scopes"] == [scope]


def test_a_scope_to_read_lets_nothing_be_changed():
    """Also below the views: the permission to change does not come through, whoever asks for it there."""
    user = make_user(role="administrator")
    user.limit_to([name for name in SCOPES if name.endswith(":read")])
    assert user.has_perm("policy.view_rule") and user.has_perm("inventory.view_account")
    changing = ("policy.change_rule", "calendars.change_calendar", "notify.change_channel", "inventory.change_account")
    assert not any(user.has_perm(name) for name in (*changing, "identity.administer"))


def test_what_the_owner_loses_the_token_loses_at_the_next_call(bearer):
    user = make_user(role="auditor")
    program = bearer(user, "audit:read")
    assert program.get("/api/v1/audit/events/").status_code == 200
    user.groups.clear()
    assert "audit.view_auditevent" in told(program.get("/api/v1/audit/events/"), 403)


def test_what_the_owner_gains_the_token_does_not_gain(bearer):
    user = make_user(role="viewer")
    program = bearer(user)
    user.groups.add(*make_user(role="administrator").groups.all())
    assert told(program.get("/api/v1/audit/events/"), 403)


def test_scopes_hold_below_the_views_too(bearer):
    """An administrator's token for reading one's sessions shows nobody else's without `recordings`' or `sessions`'."""
    user = make_user(role="administrator")
    user.limit_to(["fleet:read"])
    assert user.has_perm("inventory.view_instance") and not user.has_perm("identity.administer")
    assert user.get_all_permissions() == {"inventory.view_instance"}
    assert user.has_module_perms("inventory") and not user.has_module_perms("audit")
    session = make_session(user=make_user(role="operator"))
    assert list(type(session).objects.visible_to(user)) == []


def test_a_superusers_token_is_limited_as_well(bearer):
    user = make_user(is_superuser=True)
    assert told(bearer(user, "fleet:read").get("/api/v1/audit/events/"), 403)


def test_a_token_of_somebody_who_left_is_refused(bearer):
    user = make_user("mei", role="viewer")
    program = bearer(user)
    user.is_active = False
    user.save()
    assert "mei, who owns this token, may no longer log in" in told(program.get(ME), 401)


def test_a_token_holds_in_its_networks_alone():
    user = make_user(role="viewer")
    text = make_token(user, networks=["10.1.0.0/16", "2001:db8::/32"])
    assert Bearer(text, REMOTE_ADDR="10.1.2.3").get(ME).status_code == 200
    assert Bearer(text, REMOTE_ADDR="::ffff:10.1.2.3").get(ME).status_code == 200
    assert Bearer(text, REMOTE_ADDR="2001:db8::7").get(ME).status_code == 200
    assert "from 10.1.0.0/16, 2001:db8::/32 alone" in told(Bearer(text, REMOTE_ADDR="10.2.0.1").get(ME), 401)
    assert last_event("identity.token.refuse").reason == "from another network"
    assert told(Bearer(text, REMOTE_ADDR="").get(ME), 401)


def test_its_last_use_is_written_at_most_once_a_minute(bearer):
    program = bearer(make_user(role="viewer"))
    with CaptureQueriesContext(connection) as first:
        program.get(ME, REMOTE_ADDR="10.0.0.1")
    used = ApiToken.objects.get().last_used_at
    with CaptureQueriesContext(connection) as second:
        program.get(ME, REMOTE_ADDR="10.0.0.2")
    token = ApiToken.objects.get()
    assert used and token.last_used_at == used and token.last_used_address == "10.0.0.1"
    assert len(second) == len(first) - 1


def test_a_token_revokes_itself(bearer):
    program = bearer(make_user(role="viewer"), "fleet:read")
    assert program.delete("/api/v1/tokens/current/").status_code == 204
    assert "was revoked on" in told(program.get(ME), 401)
    assert last_event("identity.token.revoke").source == "api"


def test_ones_own_tokens_are_listed_and_revoked_and_nobody_elses(bearer):
    user, other = make_user(role="administrator"), make_user(role="viewer")
    theirs = make_token(other)
    program = bearer(user, "tokens:manage")
    rows = program.get("/api/v1/tokens/").json()["results"]
    assert [row["name"] for row in rows] == ["pipeline"] and "digest" not in rows[0]
    their_row = ApiToken.objects.get(user=other)
    assert told(program.delete(f"/api/v1/tokens/{their_row.pk}/"), 404)
    assert Bearer(theirs).get(ME).status_code == 200
    assert program.delete(f"/api/v1/tokens/{rows[0]['id']}/").status_code == 204


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": " "}, "Give the token a name"),
        ({"name": "x" * 65}, "at most 64 characters"),
        ({"scopes": []}, "at least one scope"),
        ({"scopes": ["root:all"]}, "There is no scope root:all"),
        ({"expires_at": now() - timedelta(days=1)}, "later end"),
        ({"expires_at": now() + timedelta(days=400)}, "at most 365 days"),
        ({"networks": ["10.0.0.0/99"]}, "is no network"),
        ({"networks": [f"10.0.{n}.0/24" for n in range(30)]}, "at most 20 networks"),
    ],
)
def test_a_token_that_cannot_be_is_told_in_words(fields, words):
    user = make_user(role="viewer")
    usual = {"name": "ci", "scopes": ["fleet:read"], "expires_at": now() + timedelta(days=1)}
    with pytest.raises(UserError, match=words):
        tokens.create(user, actor=user, **(usual | fields))
    assert not ApiToken.objects.exists()


def test_a_token_with_a_scope_that_is_no_longer_known_lets_nothing_through(bearer):
    program = bearer(make_user(role="viewer"), "fleet:read")
    ApiToken.objects.update(scopes=["gone:read"])
    assert told(program.get(FLEET), 403)


def test_the_pages_log_in_works_with_its_csrf_token_alone():
    user = make_user(role="operator")
    client = Client(enforce_csrf_checks=True)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get(FLEET).status_code == 200
    body = {"instance": str(make_instance().pk)}
    assert "CSRF" in told(client.post("/api/v1/sessions/", body, content_type="application/json"), 403)
    client.cookies["fleetops_csrf"] = "a" * 32
    answer = client.post("/api/v1/sessions/", body, content_type="application/json", HTTP_X_CSRFTOKEN="a" * 32)
    assert answer.status_code == 201


def test_a_token_beside_a_log_in_counts_and_not_the_log_in():
    """A browser's cookie must not widen what a bad token may do."""
    client = Client(HTTP_AUTHORIZATION="Bearer fo_nonsense")
    client.force_login(make_user(role="administrator"), backend="django.contrib.auth.backends.ModelBackend")
    assert told(client.get(FLEET), 401)


def test_calls_are_counted_for_each_token(bearer, settings):
    settings.API_CALLS_PER_MINUTE = 3
    first, second = bearer(make_user(role="viewer")), bearer(make_user(role="viewer"))
    statuses = [first.get(ME).status_code for _ in range(8)]  # eight: the minute may turn in between
    assert statuses.count(429) >= 2
    answer = next(answer for answer in (first.get(ME) for _ in range(8)) if answer.status_code == 429)
    assert "Too many calls" in answer.json()["title"] and 1 <= int(answer["Retry-After"]) <= 60
    assert second.get(ME).status_code == 200


def test_without_valkey_calls_are_let_through(bearer, settings):
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "unix:///nowhere.sock"}
    }
    settings.API_CALLS_PER_MINUTE = 1
    program = bearer(make_user(role="viewer"))
    assert [program.get(ME).status_code for _ in range(3)] == [200, 200, 200]


def test_each_scope_names_permissions_that_exist():
    from django.contrib.auth.models import Permission

    known = {f"{p.content_type.app_label}.{p.codename}" for p in Permission.objects.select_related("content_type")}
    named = {name for scope in SCOPES.values() for name in (*scope.grants, *scope.needs)}
    assert named <= known
