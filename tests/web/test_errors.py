"""What a person sees when something is not right, and what is written down of it."""

import logging
import re

import pytest

from fleetops.audit.models import AuditEvent
from tests.factories import make_user

pytestmark = [pytest.mark.urls("tests.web.pages"), pytest.mark.django_db]
HTMX = {"HX-Request": "true"}


@pytest.fixture
def viewer(client, roles):
    user = make_user("viewer", role="viewer")
    client.force_login(user)
    return user


@pytest.fixture
def quiet_client(client):
    client.raise_request_exception = False
    return client


def denials():
    return list(AuditEvent.objects.filter(outcome="denied").values_list("action", "actor_name", "reason"))


def test_what_the_user_can_mend_is_shown_as_it_stands(client, viewer):
    answer = client.get("/t/mendable/")
    assert answer.status_code == 409
    assert "i-0ab1 is not online; check its &lt;instance profile&gt;" in answer.content.decode()
    assert denials() == []


def test_htmx_gets_the_text_as_a_part_of_the_page(client, viewer):
    answer = client.get("/t/mendable/", headers=HTMX)
    assert (answer.status_code, answer["HX-Retarget"], answer["HX-Reswap"]) == (409, "#toasts", "beforeend")
    assert "i-0ab1 is not online" in answer.content.decode() and "<html" not in answer.content.decode()


def test_a_missing_permission_is_named_and_the_attempt_recorded(client, viewer):
    answer = client.get("/t/guarded/")
    assert answer.status_code == 403
    assert "identity.administer" in answer.content.decode()
    event = AuditEvent.objects.get(action="web.permission.refuse")
    assert (event.outcome, event.actor_name, event.source) == ("denied", "viewer", "browser")
    assert (event.target_name, event.reason) == ("/t/guarded/", "lacks identity.administer")
    assert event.details == {"permission": "identity.administer", "method": "GET"}
    assert event.request_id == answer["X-Request-Id"]


def test_one_of_several_permissions_is_enough(client, roles):
    client.force_login(make_user(role="auditor"))
    answer = client.get("/t/guarded/")
    assert answer.status_code == 200
    assert answer.content.decode() == answer["X-Request-Id"]


@pytest.mark.parametrize("path", ["/t/refused/", "/t/refused-by-django/"])
def test_every_refusal_is_recorded_once(client, viewer, path):
    assert client.get(path).status_code == 403
    assert [row[:2] for row in denials()] == [("web.permission.refuse", "viewer")]


def test_a_refusal_that_a_service_has_recorded_is_not_recorded_again(client, viewer):
    answer = client.get("/t/refused-and-recorded/")
    assert answer.status_code == 403 and "another user&#x27;s session" in answer.content.decode()
    assert denials() == [("sessions.attach.refuse", "viewer", "another user's session")]


def test_the_refusals_of_two_requests_are_both_recorded(client, viewer):
    client.get("/t/refused-and-recorded/")
    client.get("/t/refused/")
    assert len(denials()) == 2


@pytest.mark.parametrize("path", ["/t/gone/", "/nothing/here/"])
def test_nothing_there_is_a_404_that_says_so(client, viewer, path):
    answer = client.get(path)
    assert answer.status_code == 404 and "Nothing is here" in answer.content.decode()


def test_who_is_not_logged_in_gets_a_404_without_the_shell(client):
    answer = client.get("/nothing/here/")
    assert answer.status_code == 404
    assert "Log in" in answer.content.decode() and "navbar-vertical" not in answer.content.decode()


def test_a_request_that_cannot_be_read_is_a_400(client, viewer):
    answer = client.get("/t/suspicious/")
    assert answer.status_code == 400 and "could not be read" in answer.content.decode()


def test_a_bug_gives_an_id_that_the_log_knows_and_says_what_is_not_lost(quiet_client, viewer, caplog):
    with caplog.at_level(logging.ERROR, logger="fleetops.web.views"):
        answer = quiet_client.get("/t/bug/?x=1")
    text = answer.content.decode()
    error_id = re.search(r"E-[0-9A-Z]{5}", text)[0]
    assert answer.status_code == 500 and "Nothing you started is lost" in text and "the secret of the bug" not in text
    record = next(each for each in caplog.records if each.name == "fleetops.web.views")
    assert error_id in record.getMessage() and record.exc_info[0] is ZeroDivisionError


def test_the_page_of_a_bug_needs_no_database(quiet_client, viewer, django_db_blocker):
    from fleetops.web.views import server_error

    request = quiet_client.get("/t/guarded/").wsgi_request
    with django_db_blocker.block():
        assert server_error(request).status_code == 500


def test_htmx_gets_a_bug_as_a_part_of_the_page(quiet_client, viewer):
    answer = quiet_client.get("/t/bug/", headers=HTMX)
    assert (answer.status_code, answer["HX-Retarget"]) == (500, "#toasts")
    assert "FleetOps made a mistake" in answer.content.decode() and "<html" not in answer.content.decode()


def test_who_is_not_logged_in_is_sent_to_the_log_in_and_back(client):
    answer = client.get("/t/guarded/?a=1")
    assert (answer.status_code, answer["Location"]) == (302, "/login/?next=/t/guarded/%3Fa%3D1")


def test_a_part_of_a_page_asked_for_after_the_log_in_has_ended_moves_the_whole_page(client):
    answer = client.get("/t/guarded/", headers=HTMX | {"HX-Current-URL": "http://testserver/fleet/?q=x"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer["HX-Redirect"] == "/login/?next=/fleet/%3Fq%3Dx"


def test_an_old_page_cannot_act(roles):
    from django.test import Client

    strict = Client(enforce_csrf_checks=True)
    strict.force_login(make_user(role="viewer"))
    answer = strict.post("/logout/")
    assert answer.status_code == 403 and "This page was too old" in answer.content.decode()


def test_nothing_inline_is_in_a_page(client, viewer):
    for path in ("/t/mendable/", "/nothing/here/", "/t/refused/"):
        page = client.get(path).content.decode()
        assert not re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|\son[a-z]+=", page), path
