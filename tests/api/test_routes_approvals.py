"""Requests for approval over the API: the quorum, who may answer and the end are the page's."""

import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleetops.approvals import services
from fleetops.approvals.models import ApprovalRequest, Vote
from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from tests.api.test_routes import follow
from tests.api.test_tokens import told
from tests.factories import make_user

pytestmark = pytest.mark.usefixtures("roles", "valkey")
LIST = "/api/v1/approvals/"


def asked(by, **changes) -> ApprovalRequest:
    wanted = {"deed": "demo.override", "summary": "Override the freeze", "reason": "INC-7", "details": {"until": "7"}}
    return services.ask(requested_by=by, expires_at=now() + timedelta(hours=1), **(wanted | changes))


@pytest.fixture
def people():
    return [make_user(name, role="administrator") for name in ("asker", "first", "second")]


def vote(program, request, **body):
    return program.post(f"{LIST}{request.pk}/vote/", body)


def test_the_last_approval_of_the_quorum_approves_and_each_is_audited_with_its_token(bearer, people):
    asker, first, second = people
    request = asked(asker, quorum=2)
    body = vote(bearer(first), request, answer="approve").json()
    assert (body["state"], body["approvals"], body["quorum"], body["may_answer"]) == ("pending", 1, 2, False)
    body = vote(bearer(second), request, answer="approve", reason="fine").json()
    assert (body["state"], body["approvals"]) == ("approved", 2) and body["decided_at"]
    assert [(each["user"], each["approves"], each["reason"]) for each in body["votes"]] == [
        ("first", True, ""),
        ("second", True, "fine"),
    ]
    events = AuditEvent.objects.filter(action="approvals.approve").order_by("pk")
    assert [(each.actor_name, each.source) for each in events] == [("first", "api"), ("second", "api")]
    assert all(each.details["via"].startswith("pipeline (fo_") for each in events)


def test_a_request_says_exactly_what_is_approved_and_by_whom(bearer, people):
    request = asked(people[0])
    body = bearer(people[1], "approvals:read").get(f"{LIST}{request.pk}/").json()
    assert body["details"] == {"until": "7"} and body["approvers"] == ["administrator"] and body["may_answer"] is True
    assert (body["requested_by"], body["reason"]) == ("asker", "INC-7")
    assert body["url"].endswith(request.get_absolute_url())
    assert bearer(people[0], "approvals:read").get(f"{LIST}{request.pk}/").json()["may_answer"] is False


def test_nobody_approves_what_they_ask_for_and_that_is_audited(bearer, people):
    request = asked(people[0])
    assert "Nobody approves what they ask for" in told(vote(bearer(people[0]), request, answer="approve"), 403)
    event = AuditEvent.objects.get(outcome="denied")
    assert (event.action, event.actor_name) == ("approvals.vote.refuse", "asker") and event.details["via"]
    assert not Vote.objects.exists()


def test_a_denial_says_why_and_ends_it(bearer, people):
    request = asked(people[0], quorum=2)
    program = bearer(people[1])
    for reason in ("", " \n", "\u200b"):
        answer = vote(program, request, answer="deny", reason=reason)
        assert "who asked will read it" in told(answer, 400) and list(answer.json()["errors"]) == ["reason"]
    assert vote(program, request, answer="deny", reason="not today").json()["state"] == "denied"
    assert "nothing is left to answer" in told(vote(bearer(people[2]), request, answer="approve"), 409)


@pytest.mark.parametrize("body", [{}, {"answer": "perhaps"}, {"answer": "approve", "reason": "x" * 513}, {"vote": 1}])
def test_what_is_no_answer_is_told(bearer, people, body):
    assert told(vote(bearer(people[1]), asked(people[0]), **body), 400)
    assert not Vote.objects.exists()


def test_an_answer_is_given_once(bearer, people):
    request = asked(people[0], quorum=2)
    program = bearer(people[1])
    vote(program, request, answer="approve")
    assert "answered this request already" in told(vote(program, request, answer="deny", reason="no"), 409)
    assert Vote.objects.get().approves


def test_after_its_end_nothing_is_answered(bearer, people):
    request = asked(people[0])
    ApprovalRequest.objects.update(expires_at=now() - timedelta(seconds=1))
    program = bearer(people[1])
    assert "has to be asked anew" in told(vote(program, request, answer="approve"), 409)
    assert program.get(f"{LIST}{request.pk}/").json()["state"] == "expired"
    assert [row["id"] for row in program.get(LIST, {"state": "expired"}).json()["results"]] == [str(request.pk)]
    assert program.get(LIST, {"state": "pending"}).json()["results"] == []


def test_ones_own_request_is_taken_back_and_nobody_elses(bearer, people):
    request = asked(people[0])
    path = f"{LIST}{request.pk}/withdraw/"
    assert "Only who asked" in told(bearer(people[1]).post(path), 403)
    assert AuditEvent.objects.filter(action="approvals.withdraw.refuse", outcome="denied").count() == 1
    own = bearer(people[0], "approvals:write")
    assert own.post(path).json()["state"] == "withdrawn"
    assert "over already" in told(own.post(path), 409)


def test_each_sees_what_they_may(bearer, people):
    viewer = make_user("viewer", role="viewer")
    mine, other = asked(viewer), asked(people[0])

    def ids(user, **query):
        return {row["id"] for row in bearer(user, "approvals:read").get(LIST, query).json()["results"]}

    both = {str(mine.pk), str(other.pk)}
    assert ids(viewer) == {str(mine.pk)} and ids(make_user(role="auditor")) == both
    assert ids(people[1], show="waiting") == both and ids(people[0], show="waiting") == {str(mine.pk)}
    assert ids(people[0], show="mine") == {str(other.pk)} and ids(viewer, show="waiting") == set()
    program = bearer(viewer)
    assert told(program.get(f"{LIST}{other.pk}/"), 404) and told(vote(program, other, answer="approve"), 404)
    assert told(program.post(f"{LIST}{uuid.uuid4()}/withdraw/"), 404)
    for query in ("show=all_of_it", "state=lost", "page_size=x"):
        assert told(program.get(f"{LIST}?{query}"), 400)


def test_a_token_for_reading_answers_nothing(bearer, people):
    request = asked(people[0])
    program = bearer(people[1], "approvals:read", "fleet:read")
    assert "lacks the scope approvals:write" in told(vote(program, request, answer="approve"), 403)
    assert "lacks the scope approvals:write" in told(program.post(f"{LIST}{request.pk}/withdraw/"), 403)
    assert not Vote.objects.exists()


def test_the_list_is_paged_and_asks_the_database_as_often_however_long_it_is(bearer, people):
    program = bearer(people[1])
    asked(people[0])
    program.get(LIST)
    counts = []
    for number in (0, 12):
        for _ in range(number):
            services.vote(asked(people[0]).pk, actor=people[2], approve=True)
        with CaptureQueriesContext(connection) as queries:
            program.get(LIST)
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 6
    rows = follow(program, f"{LIST}?page_size=5")
    assert len({row["id"] for row in rows}) == 13
    assert [row["approvals"] for row in rows].count(1) == 12
