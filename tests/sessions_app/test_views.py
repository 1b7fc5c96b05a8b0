"""The pages of sessions: each works, turns away who may not, hides what is not theirs, and tells of bad input."""

import json

import pytest
from django.test import AsyncClient
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from sessions_app import services
from sessions_app import spool as spools
from sessions_app.journal import Journal
from sessions_app.models import TerminalSession
from sessions_app.proxy import in_words
from sessions_app.recording import Sealer
from sessions_app.states import SessionState
from tests.factories import make_instance, make_session, make_user

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def people(roles):
    return {role: make_user(role, role=role) for role in ("viewer", "operator", "auditor", "administrator")}


def login(client, user):
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def replayable(people, spool):
    """A session of the operator with a sealed recording."""
    session = make_session(user=people["operator"], owner_host=spools.host_name(), owner_epoch=1)
    journal = Journal(spools.session_directory(session.pk))
    journal.append_output([(b"find me here\r\n", 0)])
    Sealer(session, journal).seal(journal.end)
    journal.close()
    services.ended(session, reason="The shell has ended.", sealed=True)
    return session


def test_connect_makes_a_session_and_leads_to_its_terminal(client, people):
    instance = make_instance()
    answer = login(client, people["operator"]).post(
        reverse("sessions:open"), {"instance": instance.pk, "reason": "disk is full"}
    )
    session = TerminalSession.objects.get()
    assert answer.url == reverse("sessions:terminal", args=[session.pk])
    assert (session.user_name, session.reason, session.state) == ("operator", "disk is full", SessionState.OPENING)
    page = client.get(answer.url)
    assert page.status_code == 200
    assert str(session.pk) in page.content.decode()
    assert AuditEvent.objects.get(action="sessions.open").reason == "disk is full"


def test_who_may_not_open_a_shell_is_told_so_and_it_is_audited(client, people):
    instance = make_instance()
    answer = login(client, people["viewer"]).post(reverse("sessions:open"), {"instance": instance.pk})
    assert answer.status_code == 403
    assert not TerminalSession.objects.exists()
    assert AuditEvent.objects.get(outcome="denied").action == "sessions.open.refuse"
    with pytest.raises(Denied):
        services.open_session(instance, actor=people["viewer"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ping_status": "ConnectionLost"}, "answers no more"),
        ({"ec2_state": "stopped"}, "stopped"),
        ({"gone_at": now()}, "lists this instance no more"),
        ({"ping_status": "", "last_ping_at": None, "profile_arn": ""}, "instance profile"),
    ],
)
def test_an_instance_that_cannot_be_reached_says_why(client, people, fields, words):
    instance = make_instance(**fields)
    answer = login(client, people["operator"]).post(reverse("sessions:open"), {"instance": instance.pk})
    assert answer.status_code == 409
    assert words in answer.content.decode()
    with pytest.raises(UserError):
        services.open_session(instance, actor=people["operator"])


def test_bad_input_is_told(client, people):
    login(client, people["operator"])
    assert client.post(reverse("sessions:open"), {"instance": "no id"}).status_code == 400
    assert client.post(reverse("sessions:open")).status_code == 400
    assert client.get(reverse("sessions:list"), {"before": "no id"}).status_code == 400
    assert client.get(reverse("sessions:open")).status_code == 405
    assert client.get(reverse("sessions:list"), {"q": "\x00 " + "w " * 90, "user": "\x00"}).status_code == 200


def test_a_reason_is_one_line_of_words(client, people):
    login(client, people["operator"])
    client.post(
        reverse("sessions:open"), {"instance": make_instance().pk, "reason": " look\r\n\x00\x1b[2J at\u202e it "}
    )
    assert TerminalSession.objects.get().reason == "look [2J at it"


def test_the_list_shows_ones_own_and_a_reviewer_everybodys_in_few_queries(
    client, people, django_assert_max_num_queries
):
    mine = make_session(user=people["operator"])
    other = make_session(user=people["administrator"], state=SessionState.ENDED, ended_at=now())
    login(client, people["operator"])
    context = client.get(reverse("sessions:list")).context
    assert (context["live"], context["sessions"]) == ([mine], [])
    login(client, people["auditor"])
    for _ in range(20):
        make_session(user=people["administrator"], instance=mine.instance_row)
    with django_assert_max_num_queries(12):  # three of the view's, the rest log-in and permissions
        context = client.get(reverse("sessions:list")).context
    assert len(context["live"]) == 21
    assert context["sessions"] == [other]
    assert client.get(reverse("sessions:list"), {"q": "operator"}).context["live"] == [mine]
    assert client.get(reverse("sessions:list"), {"state": "past"}).context["live"] == []
    assert b"<html" not in client.get(reverse("sessions:list"), headers={"HX-Request": "true"}).content


def test_past_sessions_come_in_pages_of_a_hundred(client, people):
    instance = make_instance()
    for _ in range(101):
        make_session(user=people["operator"], instance=instance, state=SessionState.ENDED, ended_at=now())
    login(client, people["operator"])
    first = client.get(reverse("sessions:list"), {"state": "past"}).context
    assert len(first["sessions"]) == 100
    second = client.get(reverse("sessions:list") + "?" + first["next"]).context
    assert len(second["sessions"]) == 1
    assert second["next"] == ""
    assert not set(first["sessions"]) & set(second["sessions"])


def test_the_panel_shows_an_instances_sessions(client, people):
    session = make_session(user=people["operator"])
    answer = login(client, people["operator"]).get(reverse("sessions:panel", args=[session.instance_row_id]))
    assert answer.context["sessions"] == [session]


def test_what_is_not_ones_own_is_not_there(client, people, replayable):
    stranger = make_user("eve", role="operator")
    login(client, stranger)
    for name in ("terminal", "replay", "cast", "events", "search"):
        assert client.get(reverse(f"sessions:{name}", args=[replayable.pk])).status_code == 404, name
    assert client.post(reverse("sessions:end", args=[replayable.pk])).status_code == 404


def test_ending_is_asked_for_once_and_by_whom_it_may(client, people):
    session = make_session(user=people["operator"])
    answer = login(client, people["operator"]).post(reverse("sessions:end", args=[session.pk]))
    assert answer.url == reverse("sessions:replay", args=[session.pk])
    client.post(reverse("sessions:end", args=[session.pk]))
    session.refresh_from_db()
    assert session.end_requested_by == "operator"
    assert AuditEvent.objects.filter(action="sessions.end.request").count() == 1

    other = make_session(user=people["operator"])
    assert login(client, people["auditor"]).post(reverse("sessions:end", args=[other.pk])).status_code == 403
    assert AuditEvent.objects.get(outcome="denied").actor_name == "auditor"
    login(client, people["administrator"]).post(reverse("sessions:end", args=[other.pk]))
    other.refresh_from_db()
    assert other.end_requested_by == "administrator"


def test_a_replay_is_shown_and_audited(client, people, replayable):
    page = login(client, people["operator"]).get(reverse("sessions:replay", args=[replayable.pk]))
    assert page.status_code == 200
    assert page.context["is_whole"]
    assert page.context["chunk_count"] == 1
    assert page.context["output_bytes"] == 14
    client.get(reverse("sessions:cast", args=[replayable.pk]), {"play": "1"})
    assert AuditEvent.objects.get(action="sessions.recording.view").actor_name == "operator"
    assert client.get(reverse("sessions:terminal", args=[replayable.pk])).url == page.request["PATH_INFO"]


def test_a_replay_says_why_its_commands_were_not_told_by_the_shell(client, people, replayable):
    address = reverse("sessions:replay", args=[replayable.pk])
    login(client, people["operator"])
    assert "screen alone" not in client.get(address).content.decode()
    TerminalSession.objects.filter(pk=replayable.pk).update(no_marks="the role may not create documents")
    page = client.get(address).content.decode()
    assert "Commands are read from the screen alone: the role may not create documents" in page


def test_a_recording_that_was_changed_says_so_wherever_it_is_shown(client, people, replayable):
    chunk = replayable.chunks.get()
    spools.chunk_path(replayable.pk, 1, chunk.sha256).write_bytes(b"")
    page = login(client, people["operator"]).get(reverse("sessions:replay", args=[replayable.pk]))
    assert page.context["faults"] == ["the bytes of chunk 1 were changed"]
    assert "This recording is not what was sealed." in page.content.decode()
    for name in ("events", "search"):
        answer = client.get(reverse(f"sessions:{name}", args=[replayable.pk]), {"q": "find"})
        assert answer.status_code == 409 and "not those that were sealed" in answer.content.decode()


async def read(answer) -> bytes:
    return b"".join([piece async for piece in answer.streaming_content])


async def test_a_recording_is_taken_away_as_an_asciicast_and_that_is_audited(people, replayable):
    client = AsyncClient()
    await client.aforce_login(people["auditor"], backend="django.contrib.auth.backends.ModelBackend")
    answer = await client.get(reverse("sessions:cast", args=[replayable.pk]))
    assert answer["Content-Disposition"].endswith('.cast"')
    header, line = (await read(answer)).splitlines()
    assert json.loads(header)["version"] == 2
    assert json.loads(line)[1:] == ["o", "find me here\r\n"]
    answer = await client.get(reverse("sessions:cast", args=[replayable.pk]), {"version": "3", "play": "1"})
    assert json.loads((await read(answer)).splitlines()[0])["version"] == 3
    assert await AuditEvent.objects.filter(action="sessions.recording.download").acount() == 1
    # Nobody showed the page first: what its player fetches is audited all the same, and once.
    await client.get(reverse("sessions:cast", args=[replayable.pk]), {"play": "1"})
    await client.get(reverse("sessions:search", args=[replayable.pk]), {"q": "find"})
    assert await AuditEvent.objects.filter(action="sessions.recording.view", actor_name="auditor").acount() == 1


def test_a_recording_can_be_searched_and_tells_its_index(client, people, replayable):
    login(client, people["operator"])
    found = client.get(reverse("sessions:search", args=[replayable.pk]), {"q": "FIND ME"}).json()
    assert [hit["text"] for hit in found["hits"]] == ["find me here"]
    index = client.get(reverse("sessions:events", args=[replayable.pk])).json()
    assert (index["output_bytes"], index["is_complete"]) == (14, True)


def test_without_a_log_in_every_page_leads_to_it(client, people, replayable):
    for name in ("terminal", "replay", "cast", "events", "search"):
        assert "/login/" in client.get(reverse(f"sessions:{name}", args=[replayable.pk])).url


def test_limits_of_a_session_are_said_in_words():
    assert [in_words(seconds) for seconds in (60, 1200, 3600, 43200)] == [
        "1 minute",
        "20 minutes",
        "1 hour",
        "12 hours",
    ]
    assert [in_words(seconds) for seconds in (1, 1.2, 3.0, 90)] == [
        "1 second",
        "1.2 seconds",
        "3 seconds",
        "90 seconds",
    ]


def test_ending_a_session_that_nobody_opened_ends_it_at_once(client, people):
    session = make_session(user=people["operator"], state=SessionState.OPENING, ssm_session_id="", started_at=None)
    login(client, people["operator"]).post(reverse("sessions:end", args=[session.pk]))
    session.refresh_from_db()
    assert session.state == SessionState.FAILED
    assert session.end_reason == "Ended by operator before it began."


def test_only_the_terminals_page_may_open_a_websocket_and_only_to_its_terminal_process(client, people, settings):
    settings.TERMINAL_PORT = 8081
    session = make_session(user=people["operator"])
    client.force_login(people["operator"])

    page = client.get(reverse("sessions:terminal", args=[session.pk]), headers={"Host": "localhost:8080"})
    assert "connect-src 'self' ws://localhost:8081;" in page.headers["Content-Security-Policy"] + ";"

    other = client.get(reverse("sessions:list"), headers={"Host": "localhost:8080"})
    assert "connect-src 'self';" in other.headers["Content-Security-Policy"] + ";"
