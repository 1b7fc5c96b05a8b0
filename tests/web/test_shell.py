"""What base.html and its tags show."""

from datetime import UTC, datetime, timedelta

import pytest
from django.template import engines
from django.test import RequestFactory

from fleetops.clock import now
from fleetops.web.context import current, within
from fleetops.web.context_processors import shell
from fleetops.web.templatetags.fleetops import age, clock_time, duration, short_id, when
from tests.factories import make_command, make_instance, make_session, make_user

CHANGE = ("Runs", "Patching", "Compliance", "IAM roles", "Port 22", "Calendars")
# Of whoever may run documents, or review commands.
WITH_RUNBOOKS = ("Runs", "Runbooks", *CHANGE[1:])
# Of whoever may start runs.
PATCH = ("Runs", "Patching", "Emergency", "Compliance", "IAM roles", "Port 22", "Calendars")


def labels(user) -> list[str]:
    request = RequestFactory().get("/")
    request.user, request.resolver_match = user, None
    return [item["label"] for group in shell(request)["nav"] for item in group["items"]]


@pytest.mark.parametrize(
    ("role", "seen"),
    [
        ("viewer", ["Fleet", "Sessions", "Documents", *CHANGE]),
        ("operator", ["Fleet", "Sessions", "Commands", "Documents", "Approvals", *WITH_RUNBOOKS]),
        ("patch_owner", ["Fleet", "Sessions", "Documents", "Approvals", *PATCH]),
        (
            "auditor",
            [
                *("Fleet", "Sessions", "Commands", "Documents", "Approvals", *WITH_RUNBOOKS),
                *("Audit", "Notices", "Policy"),
            ],
        ),
        (
            "administrator",
            [
                *("Fleet", "Sessions", "Commands", "Documents", "Approvals", "Runs", "Runbooks", *PATCH[1:], "Audit"),
                *("Accounts", "API budget", "Notices", "Policy", "Restricted shells", "Users", "API tokens"),
            ],
        ),
        ("", []),
    ],
)
def test_the_sidebar_shows_what_a_role_may_open(roles, role, seen):
    assert labels(make_user(role=role)) == seen


def test_the_sidebar_counts_what_one_may_see_and_open_pages_ask_again(client, roles):
    operator, other = make_user(role="operator"), make_user(role="operator")
    instance = make_instance()
    make_instance(gone_at=now())
    make_session(user=operator, instance=instance)
    make_session(user=other, instance=instance)
    for each in (operator, other):
        make_command(user=each, instances=[instance])

    client.force_login(operator)
    assert client.get("/counts/").json() == {
        "/fleet/": "1",
        "/sessions/": "1 live",
        "/commands/": "1 running",
        "/approvals/": "",
        "/runs/": "",
        "/roles/": "",
    }
    page = client.get("/sessions/").content.decode()
    assert 'Sessions<span class="nav-count">1 live</span>' in page and 'Fleet<span class="nav-count">1</span>' in page

    client.force_login(make_user(role="auditor"))
    assert client.get("/counts/").json() == {
        "/fleet/": "1",
        "/sessions/": "2 live",
        "/commands/": "2 running",
        "/approvals/": "",
        "/runs/": "",
        "/roles/": "",
    }
    client.force_login(make_user(role="viewer"))
    assert client.get("/counts/").json() == {"/fleet/": "1", "/sessions/": "", "/runs/": "", "/roles/": ""}


def test_the_room_that_is_open_is_marked(client, roles):
    client.force_login(make_user(role="administrator"))
    page = client.get("/settings/identity/").content.decode()
    assert page.count('aria-current="page">') == 2  # the sidebar's item and the last crumb


def test_a_context_ends_with_its_block():
    assert current.get().source == ""
    with within("worker", request_id="r") as context:
        assert current.get() is context
        with within("command"):
            assert current.get().source == "command"
        assert current.get().request_id == "r"
    assert current.get().source == ""


def test_times_read_as_people_say_them():
    this_year, moment = now().year, now()
    assert clock_time(moment) == f"{moment:%H:%M:%S}"
    assert clock_time(datetime(this_year - 1, 11, 19, 16, 31, tzinfo=UTC)) == f"19 Nov {this_year - 1}, 16:31"
    assert clock_time(datetime(2020, 1, 2, 1, 30, tzinfo=UTC).astimezone()) == "2 Jan 2020, 01:30"
    assert "12 s ago" in age(now() - timedelta(seconds=12))
    assert "4 min ago" in age(now() - timedelta(minutes=4, seconds=30))
    assert "ago" not in age(now() - timedelta(hours=2))
    assert 'title="2026-11-25T14:24:02.000Z"' in when(datetime(2026, 11, 25, 14, 24, 2, tzinfo=UTC))
    assert (when(None), age(None), clock_time(None), duration(None)) == ("", "", "", "")
    assert (duration(3), duration(252), duration(timedelta(minutes=125))) == ("3 s", "4 min 12 s", "2 h 5 min")


def test_long_ids_are_shortened_and_whole_in_the_title():
    assert short_id("i-0c41d88e5f7a2b309") == '<span class="fo-id" title="i-0c41d88e5f7a2b309">i-0c41…b309</span>'
    assert short_id("mi-1") == '<span class="fo-id">mi-1</span>'


def test_tags_escape_what_they_are_given():
    page = engines["django"].from_string('{% status "ok" word %}{% badge "bad" word %}{{ word|short_id }}')
    text = page.render({"word": "<b>&<i>"})
    assert "<b>" not in text and text.count("&lt;b&gt;&amp;&lt;i&gt;") == 3
