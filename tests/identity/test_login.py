"""Coming in, being turned away, going out."""

import pytest

from fleetops.audit.models import AuditEvent
from tests.factories import make_user

PASSWORD = "correct horse battery"


@pytest.fixture
def user(roles):
    return make_user("mei.tanaka", role="viewer", password=PASSWORD)


def log_in(client, password=PASSWORD, username="mei.tanaka", **fields):
    return client.post("/login/", {"username": username, "password": password, **fields})


def events():
    return list(AuditEvent.objects.filter(action__startswith="identity.lo").order_by("pk"))


def test_a_person_logs_in_and_it_is_recorded(client, user):
    answer = log_in(client)
    assert (answer.status_code, answer["Location"]) == (302, "/fleet/")
    (event,) = events()
    assert (event.action, event.actor_name, event.source_address) == ("identity.login", "mei.tanaka", "127.0.0.1")


def test_the_page_has_labels_and_a_button(client, db):
    page = client.get("/login/").content.decode()
    assert 'for="id_username">Username' in page and 'for="id_password">Password' in page and ">Log in</button>" in page


def test_the_browser_session_has_a_new_key_after_the_log_in(client, user):
    client.get("/login/")
    session = client.session
    session["x"] = 1
    session.save()
    before = session.session_key
    log_in(client)
    assert client.session.session_key not in (None, before)


def test_a_wrong_password_and_an_unknown_name_read_the_same_and_are_told_apart_in_the_log(client, user):
    wrong, unknown = log_in(client, "nope"), log_in(client, "nope", username="hunter2-is-my-password")
    assert wrong.status_code == unknown.status_code == 400
    for answer in (wrong, unknown):
        assert "Username and password do not match." in answer.content.decode()
    first, second = events()
    assert (first.action, first.outcome, first.actor_name) == ("identity.login.refuse", "denied", "anonymous")
    assert (first.target_name, first.reason) == ("mei.tanaka", "wrong password")
    # What was typed may be a password in the wrong field.
    assert (second.target_name, second.reason) == ("an unknown name", "unknown name")
    assert "hunter2" not in str(vars(second))


def test_an_empty_form_is_told_and_not_recorded(client, user):
    answer = client.post("/login/", {"username": "mei.tanaka", "password": ""})
    assert answer.status_code == 400 and "Enter both" in answer.content.decode()
    assert events() == []


def test_who_is_deactivated_cannot_come_in(client, user):
    user.is_active = False
    user.save()
    assert log_in(client).status_code == 400


def test_too_many_wrong_passwords_lock_the_name_for_the_address_and_say_how_long(client, user, settings):
    settings.AXES_FAILURE_LIMIT = 4
    answers = [log_in(client, "nope") for _ in range(4)]
    assert "3 tries are left before a 15 minute pause" in answers[0].content.decode()
    assert "1 try is left before a 15 minute pause" in answers[2].content.decode()
    assert answers[3].status_code == 429 and "for 15 minutes" in answers[3].content.decode()
    right = log_in(client)
    assert right.status_code == 429 and "Too many wrong passwords" in right.content.decode()
    assert events()[-1].reason == "too many wrong passwords"
    other = client.post("/login/", {"username": "mei.tanaka", "password": PASSWORD}, REMOTE_ADDR="10.1.1.1")
    assert other.status_code == 302


@pytest.mark.parametrize(
    ("wanted", "gone_to"),
    [
        ("/audit/?q=x", "/audit/?q=x"),
        ("https://evil.example/", "/fleet/"),
        ("//evil.example/", "/fleet/"),
        ("/\\evil.example/", "/fleet/"),
        ("javascript:alert(1)", "/fleet/"),
        ("fleet", "/fleet/"),  # neither a path of ours nor the name of a page
        ("inventory:fleet", "/fleet/"),
        ("", "/fleet/"),
    ],
)
def test_the_way_on_leads_to_our_own_pages_alone(client, user, wanted, gone_to):
    assert log_in(client, next=wanted)["Location"] == gone_to
    assert client.get("/login/", {"next": wanted})["Location"] == gone_to  # who is in already goes on at once


def test_the_way_on_is_kept_through_a_wrong_password(client, user):
    page = log_in(client, "nope", next="/audit/?q=x").content.decode()
    assert '<input type="hidden" name="next" value="/audit/?q=x">' in page


def test_logging_out_is_a_post_and_recorded(client, user):
    client.force_login(user)
    assert client.get("/logout/").status_code == 405
    answer = client.post("/logout/")
    assert (answer.status_code, answer["Location"]) == (302, "/login/")
    assert [event.action for event in events()] == ["identity.logout"]
    assert client.get("/fleet/")["Location"].startswith("/login/")


def test_every_page_asks_for_a_log_in_but_these(client, db):
    from django.urls import get_resolver

    open_to_all = {"login/", "login/code/"}

    def views(patterns, prefix=""):
        for pattern in patterns:
            where = prefix + str(pattern.pattern)
            if hasattr(pattern, "url_patterns"):
                yield from views(pattern.url_patterns, where)
            else:
                yield where, pattern.callback

    found = {where for where, view in views(get_resolver().url_patterns) if not getattr(view, "login_required", True)}
    # The API asks by itself, and answers in its own way: tests/api/test_every_door.py.
    assert {where for where in found if not where.startswith("api/v1/")} == open_to_all
