"""Looking through commands: who may read which, filters, paging, files, the API, and the list beside a replay."""

from __future__ import annotations

import copy
import csv
import io
import json
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.clock import now, uuid7
from sessions_app import command_search
from sessions_app.models import Command
from tests.factories import make_account, make_instance, make_region, make_session, make_user

from .test_policy import deny

# The log-in, its user, their permissions, navigation's count and the bar; and of its own: the policy's stamp, groups,
# commands, whether the look is in the trail, accounts.
QUERIES = 15

pytestmark = pytest.mark.django_db


@pytest.fixture(name="people")
def _people(roles):
    return {
        "mei": make_user("mei", role="operator"),
        "bob": make_user("bob", role="operator"),
        "ida": make_user("ida", role="auditor"),
    }


def make_typed(session, number: int, text: str = "ls", **fields) -> Command:
    row = {
        "session": session,
        "number": number,
        "user_id": session.user_id,
        "user_name": session.user_name,
        "instance_id": session.instance_id,
        "instance_name": session.instance_name,
        "account_id": session.account_id,
        "source": "screen",
        "text": text,
        "started_at": now() - timedelta(minutes=100 - number),
        "time_us": number * 1_000_000,
        "output_offset": number * 100,
    }
    return Command.objects.create(**(row | fields))


@pytest.fixture(name="sessions")
def _sessions(people):
    web, db = make_instance(name="web-1"), make_instance(name="db-1")
    mine, other = make_session(user=people["mei"], instance=web), make_session(user=people["bob"], instance=db)
    make_typed(mine, 1, "uname -a", source="marks", exit_code=0, cwd="/root", os_user="root")
    make_typed(mine, 2, "false", source="marks", exit_code=1)
    make_typed(
        other,
        3,
        "SELECT Secret_Table",
        is_disputed=True,
        dispute="The screen showed another line.",
        shown_text="drop it",
    )
    make_typed(other, 4, "", source="forged", is_disputed=True, dispute="Forged mark at byte 7: it has no number.")
    return {"mine": mine, "other": other}


def shown(client, **query) -> list[str]:
    answer = client.get(reverse("sessions:commands"), query)
    assert answer.status_code == 200
    return [row.text for row in answer.context["commands"]]


def test_one_sees_ones_own_and_a_reviewer_everybodys(client, people, sessions):
    client.force_login(people["mei"])
    assert shown(client) == ["false", "uname -a"]
    assert not AuditEvent.objects.filter(action="sessions.commands.view").exists()
    client.force_login(people["ida"])
    assert shown(client) == ["", "SELECT Secret_Table", "false", "uname -a"]
    shown(client)
    assert AuditEvent.objects.filter(action="sessions.commands.view").count() == 1  # once an hour


def test_what_the_policy_does_not_let_one_replay_is_left_out(client, people, sessions):
    deny(deeds=["read_recording"], targets="name=db-1", everybody=True)
    client.force_login(people["ida"])
    answer = client.get(reverse("sessions:commands"))
    assert [row.text for row in answer.context["commands"]] == ["false", "uname -a"]
    assert "does not let you see are left out" in answer.content.decode()
    assert "Secret_Table" not in answer.content.decode()
    for form in ("csv", "json"):
        assert b"Secret_Table" not in client.get(reverse(f"sessions:commands_{form}")).content


def test_no_filter_tells_what_stands_in_commands_that_one_may_not_read(client, people, sessions):
    """Page and API answer the same to a word that is in them and to one that is not."""
    for number in range(5, 9):
        make_typed(sessions["other"], number, f"echo hunter{number}")
    deny(deeds=["read_recording"], targets="name=db-1", everybody=True)
    client.force_login(people["ida"])
    for right, wrong in (({"q": "hunter"}, {"q": "hunted"}), ({"disputed": "1"}, {"failed": "1", "user": "bob"})):
        answers = []
        for asked in (right, wrong):
            context = client.get(reverse("sessions:commands"), asked).context
            api = client.get(reverse("api:session_commands"), asked | {"page_size": "1"}).json()
            answers.append((context["commands"], context["next"], context["has_left_out"], api))
        assert answers[0] == answers[1]
    first = client.get(reverse("api:session_commands"), {"page_size": "1"}).json()
    assert [row["text"] for row in first["results"]] == ["false"]
    second = client.get(first["next"]).json()
    assert [row["text"] for row in second["results"]] == ["uname -a"] and second["next"] is None


def test_however_many_rows_one_may_not_read_nothing_tells_of_them(client, people, sessions):
    """They are newer than those that one may, and behind the last of these there are more."""
    like = Command.objects.get(text="SELECT Secret_Table")
    for first, moment in ((100, now()), (2000, now() - timedelta(days=1))):
        rows = [copy.copy(like) for _ in range(1500)]
        for number, row in enumerate(rows, first):
            row.pk, row.number, row.started_at, row._state.adding = uuid7(), number, moment, True
        Command.objects.bulk_create(rows)
    deny(deeds=["read_recording"], targets="name=db-1", everybody=True)
    client.force_login(people["ida"])
    context = client.get(reverse("sessions:commands")).context
    assert ([row.text for row in context["commands"]], context["next"]) == (["false", "uname -a"], "")
    answer = client.get(reverse("api:session_commands"), {"page_size": "2"}).json()
    assert ([row["text"] for row in answer["results"]], answer["next"]) == (["false", "uname -a"], None)


def test_a_command_that_had_no_end_ended_with_its_session(client, people):
    """As `exit` does."""
    client.force_login(people["mei"])
    session = make_session(user=people["mei"], instance=make_instance(), state="open")
    make_typed(session, 1, "exit", source="marks")
    list_url, replay = reverse("sessions:commands"), reverse("sessions:replay", args=[session.pk])
    assert "Runs</span>" in client.get(list_url).content.decode()
    assert ">runs<" in client.get(replay).content.decode()
    type(session).objects.update(state="ended", ended_at=now())
    shown_now = client.get(list_url).content.decode()
    assert "Runs</span>" not in shown_now and "Ended with the session" in shown_now
    assert "ended with the session" in client.get(replay).content.decode()
    row = client.get(reverse("api:session_commands")).json()["results"][0]
    assert (row["ended_at"], row["exit_code"]) == (None, None)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"q": "secret_t"}, ["SELECT Secret_Table"]),
        ({"q": "DROP"}, ["SELECT Secret_Table"]),  # what the screen showed
        ({"q": "nothing"}, []),
        ({"user": "mei"}, ["false", "uname -a"]),
        ({"instance": "web"}, ["false", "uname -a"]),
        ({"source": "marks"}, ["false", "uname -a"]),
        ({"source": "forged"}, [""]),
        ({"failed": "1"}, ["false"]),
        ({"disputed": "1"}, ["", "SELECT Secret_Table"]),
        ({"since": "1h"}, []),
        ({"since": "24h", "q": "uname"}, ["uname -a"]),
        ({"account": "999999999999"}, []),
    ],
)
def test_a_filter_narrows(client, people, sessions, query, wanted):
    client.force_login(people["ida"])
    assert shown(client, **query) == wanted


def test_a_node_of_the_same_id_in_another_account_is_another(client, people):
    account = make_account("444455556666")
    here, there = (
        make_instance(instance_id="mi-01"),
        make_instance(instance_id="mi-01", region=make_region(account=account)),
    )
    for number, node in enumerate((here, there), 1):
        session = make_session(user=people["mei"], instance=node)
        make_typed(session, number, f"on {node.account.account_id}")
    client.force_login(people["ida"])
    assert shown(client, instance="mi-01", account="444455556666") == ["on 444455556666"]
    assert len(shown(client, instance="mi-01")) == 2


@pytest.mark.parametrize(
    "query", [{"source": "x"}, {"since": "1y"}, {"session": "x"}, {"before": "x"}, {"before": "2026-01-01_x"}]
)
def test_a_value_that_is_not_known_is_told(client, people, query):
    client.force_login(people["ida"])
    assert client.get(reverse("sessions:commands"), query).status_code == 400
    assert client.get(reverse("sessions:commands_csv"), query).status_code == (200 if "before" in query else 400)


def test_pages_follow_each_other_and_cost_the_same_however_many_rows(
    client, people, sessions, django_assert_num_queries
):
    at = now() - timedelta(days=1)
    for number in range(10, 260):
        make_typed(sessions["other"], number, f"echo {number}", started_at=at)  # all at one moment
    client.force_login(people["ida"])
    shown(client, q="nothing")  # which audits no look
    shown(client)  # which does, for an hour
    seen: list[str] = []
    query: dict = {}
    for _ in range(3):
        with CaptureQueriesContext(connection) as queries:
            answer = client.get(reverse("sessions:commands"), query)
        assert len(queries) <= QUERIES, [each["sql"][:100] for each in queries]
        seen += [row.text for row in answer.context["commands"]]
        query = dict(
            pair.split("=")
            for pair in answer.context["next"].replace("%3A", ":").replace("%2B", "+").split("&")
            if pair
        )
    assert len(seen) == len(set(seen)) == 254
    assert answer.context["next"] == ""


def test_the_files_hold_the_rows_and_are_audited(client, people, sessions):
    make_typed(sessions["mine"], 5, "=cmd|' /C calc'!A0", source="marks")
    client.force_login(people["mei"])
    answer = client.get(reverse("sessions:commands_csv"), {"user": "mei"})
    assert answer["Content-Disposition"] == 'attachment; filename="commands.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [row["text"] for row in rows] == ["'=cmd|' /C calc'!A0", "false", "uname -a"]
    assert (rows[2]["exit_code"], rows[2]["cwd"], rows[2]["session"]) == ("0", "/root", str(sessions["mine"].pk))
    answer = client.get(reverse("sessions:commands_json"), {"failed": "1"})
    assert [json.loads(line)["text"] for line in answer.content.splitlines()] == ["false"]
    events = AuditEvent.objects.filter(action="sessions.commands.export").order_by("at")
    assert [(event.details["format"], event.details["rows"], event.details["looked_for"]) for event in events] == [
        ("csv", 3, {"user": "mei"}),
        ("json", 1, {"failed": "1"}),
    ]


def test_a_file_has_a_length_that_a_server_bears(client, people, sessions, monkeypatch):
    """Commands may be long, and there may be many."""
    for number in range(5, 10):
        make_typed(sessions["mine"], number, "x" * 1000)
    client.force_login(people["mei"])

    def taken() -> tuple[int, str]:
        answer = client.get(reverse("sessions:commands_json"))
        return len(answer.content.splitlines()), answer["Content-Disposition"].partition("filename=")[2]

    assert taken() == (7, '"commands.json"')
    monkeypatch.setattr(command_search, "MOST_EXPORTED_TEXT", 3500)
    assert taken() == (3, '"commands-newest-3.json"')
    monkeypatch.setattr(command_search, "MOST_EXPORTED", 2)
    assert taken() == (2, '"commands-newest-2.json"')


def test_the_replay_lists_its_commands_with_their_instants(client, people, sessions):
    client.force_login(people["ida"])
    page = client.get(reverse("sessions:replay", args=[sessions["other"].pk])).content.decode()
    assert 'href="?t=3.000"' in page and "SELECT Secret_Table" in page and "Shown: drop it" in page
    assert "2 commands" in page and "2 disputed" in page


def test_a_row_that_is_not_certain_says_so_and_is_not_disputed(client, people, sessions):
    row = make_typed(sessions["mine"], 5, "true", dispute="Unsure: it may have been given up by Ctrl-C.")
    client.force_login(people["mei"])
    for page in (reverse("sessions:commands"), reverse("sessions:replay", args=[sessions["mine"].pk])):
        assert row.dispute in client.get(page).content.decode()
    assert shown(client, disputed="1") == []


def test_the_api_gives_the_same(client, people, sessions):
    client.force_login(people["ida"])
    answer = client.get(reverse("api:session_commands"), {"q": "uname"}).json()
    row = answer["results"][0]
    assert (row["text"], row["source"], row["exit_code"], row["seconds"]) == ("uname -a", "marks", 0, 1.0)
    assert row["url"].endswith(f"/sessions/{sessions['mine'].pk}/replay/?t=1.000")
    assert client.get(reverse("api:session_commands"), {"source": "x"}).status_code == 400
    deny(deeds=["read_recording"], targets="name=db-1", everybody=True)
    texts = [each["text"] for each in client.get(reverse("api:session_commands")).json()["results"]]
    assert texts == ["false", "uname -a"]
    lines = client.get(reverse("api:session_commands_export"), {"format": "json"}).content.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["false", "uname -a"]
