"""Beginning a transfer from a page, and where transfers are listed."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.policy import services as policy
from fleetops.policy.models import Rule
from sessions_app.models import Command, TerminalSession
from sessions_app.transfers.models import Transfer
from tests.factories import make_instance, make_session, make_transfer, make_user

pytestmark = pytest.mark.django_db


def client_of(user) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def user(roles):
    return make_user("mei", role="operator")


def rule(**fields) -> Rule:
    about = {"name": "Files", "everybody": True, "deeds": ["transfer"], "targets": "all", "confirmed": True}
    return policy.create_rule(actor="test", **(about | fields))


def begin(user, **form):
    about = {"direction": "download", "path": "/etc/hosts"} | form
    return client_of(user).post(reverse("sessions:transfer"), about, headers={"Accept": "application/json"})


def test_a_transfer_is_begun_for_its_reason(user):
    rule(needs_reason=True)
    instance = make_instance()
    answer = begin(user, instance=instance.pk)
    assert answer.status_code == 400 and answer.json()["needs_reason"]
    assert not TerminalSession.objects.exists()
    answer = begin(user, instance=instance.pk, reason="INC-7")
    assert answer.status_code == 200
    transfer = Transfer.objects.get(session_id=answer.json()["session"])
    assert (transfer.path, transfer.name, transfer.session.reason) == ("/etc/hosts", "hosts", "INC-7")
    assert transfer.session.what == "Download of /etc/hosts"
    event = AuditEvent.objects.get(action="sessions.open")
    assert (event.details["direction"], event.details["path"]) == ("download", "/etc/hosts")


def test_who_may_not_is_told_why_and_it_is_audited(user):
    instance = make_instance()
    answer = begin(user, instance=instance.pk)
    assert answer.status_code == 403 and "transfer files" in answer.json()["problem"]
    event = AuditEvent.objects.get(action="sessions.open.refuse")
    assert (event.outcome, event.details["path"]) == ("denied", "/etc/hosts")
    page = client_of(user).get(reverse("sessions:files", args=[instance.pk])).content.decode()
    assert "lets you transfer no files here" in page and "Choose files" not in page


def test_a_path_is_taken_from_where_the_shell_was_last(user):
    rule()
    shell = make_session(user=user, owner="me", owner_epoch=1)
    about = {"user": user, "user_name": "mei", "instance_id": shell.instance_id, "instance_name": "x"}
    about |= {"account_id": shell.account_id, "source": "marks", "started_at": now(), "time_us": 0, "output_offset": 0}
    assert begin(user, parent=shell.pk, path="notes.txt").json()["path"] == "~/notes.txt"
    Command.objects.create(session=shell, number=1, text="ls", cwd="/srv/app", **about)
    assert begin(user, parent=shell.pk, path="notes.txt").json()["path"] == "/srv/app/notes.txt"
    assert begin(user, parent=shell.pk, path="./").json()["path"] == "/srv/app/"
    assert begin(user, parent=shell.pk, path="~/x").json()["path"] == "~/x"
    assert {each.session.run_as for each in shell.transfers.all()} == {""}


def test_a_file_goes_as_the_user_of_its_shell_if_that_may_be(user):
    rule()
    shell = make_session(user=user, owner="me", owner_epoch=1, run_as="deploy")
    answer = begin(user, parent=shell.pk)
    assert answer.status_code == 403 and "deploy" in answer.json()["problem"]
    rule(name="As deploy", deeds=["run_as"], run_as=["deploy"])
    answer = begin(user, parent=shell.pk)
    assert Transfer.objects.get(session_id=answer.json()["session"]).session.run_as == "deploy"


def test_a_rule_gives_its_files_an_os_user(user):
    rule(shell_user="app")
    answer = begin(user, instance=make_instance().pk)
    assert Transfer.objects.get(session_id=answer.json()["session"]).session.run_as == "app"
    shell = make_session(user=user, owner="me", owner_epoch=1, run_as="root")
    assert begin(user, parent=shell.pk).status_code == 403


def test_no_file_goes_unseen_where_a_moderator_is_wanted(user):
    rule(deeds=["shell", "transfer"], needs_moderator=True)
    answer = begin(user, instance=make_instance().pk)
    assert answer.status_code == 409 and "moderator" in answer.json()["problem"]


def test_what_is_too_large_is_told_before_it_is_sent(user, settings):
    rule()
    settings.TRANSFER_MAX_BYTES = 2**20
    answer = begin(user, instance=make_instance().pk, direction="upload", name="x", size=2**20 + 1)
    assert "at most 1 MiB go" in answer.json()["problem"]


def test_a_shell_shows_the_files_that_went_along(user):
    shell = make_session(user=user)
    make_transfer(parent=shell, path="/srv/a\nb", sha256="ab" * 32)
    make_transfer(parent=shell, direction="download", state="failed", error="There is no such file.")
    page = client_of(user).get(reverse("sessions:replay", args=[shell.pk])).content.decode()
    assert "/srv/a�b" in page and "abababababab" in page and "There is no such file." in page
    own = client_of(user).get(reverse("sessions:replay", args=[shell.transfers.last().session_id])).content.decode()
    assert "What is in a file is not recorded" in own and "ab" * 32 in own


def test_transfers_are_found_by_what_they_are(user):
    shell, other = make_session(user=user), make_session(user=make_user("brandon", role="operator"))
    mine = make_transfer(parent=shell, sha256="ab" * 32)
    make_transfer(parent=shell, direction="download")
    make_transfer(parent=other, sha256="ab" * 32)
    client = client_of(user)

    def found(**asked) -> list[str]:
        answer = client.get(reverse("api:transfers"), asked)
        assert answer.status_code == 200, answer.content
        return [each["id"] for each in answer.json()["results"]]

    assert found(sha256="AB" * 32) == [str(mine.pk)] == found(direction="upload")
    assert len(found(session=shell.pk)) == len(found(user="mei", state="done")) == 2
    assert found(user="brandon") == [] == found(state="running")
    assert client.get(reverse("api:transfers"), {"state": "lost"}).status_code == 400
    assert client.get(reverse("api:transfers"), {"session": "x"}).status_code == 400
