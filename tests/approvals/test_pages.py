"""The pages of approvals: who sees what, who may answer, and what bad input gets."""

import pytest
from django.urls import reverse

from fleetops.approvals import services
from fleetops.approvals.states import ApprovalState
from fleetops.audit.models import AuditEvent
from tests.approvals.test_services import asked, end, people
from tests.factories import make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("roles")]


def texts(page):
    return page.content.decode()


def test_what_waits_stands_in_the_list_and_beside_the_name_in_the_sidebar(client):
    asker, approver = people(2)
    request = asked(asker)
    client.force_login(approver)
    page = texts(client.get(reverse("approvals:list")))
    assert request.get_absolute_url() in page
    assert "<b>1</b> request waits for you" in page
    assert 'class="count">1<' in page


def test_who_asked_sees_their_own_and_is_not_asked(client):
    asker, _ = people(2)
    request = asked(asker)
    client.force_login(asker)
    assert "Nothing waits for you" in texts(client.get(reverse("approvals:list")))
    assert request.summary.split("“")[0] in texts(client.get(reverse("approvals:list") + "?show=mine"))
    page = texts(client.get(request.get_absolute_url()))
    assert "Take back" in page
    assert 'value="approve"' not in page


def test_a_request_says_what_will_be_done_and_why(client):
    asker, approver = people(2)
    request = asked(asker)
    client.force_login(approver)
    page = texts(client.get(request.get_absolute_url()))
    for words in ("demo.freeze.override", "INC-4821", "2026-12-31", asker.username, "1 more approval is needed"):
        assert words in page


def test_approving_by_the_page(client):
    asker, approver = people(2)
    request = asked(asker)
    client.force_login(approver)
    page = client.post(reverse("approvals:vote", args=[request.pk]), {"answer": "approve"}, follow=True)
    assert f"{asker.username} may go on" in texts(page)
    request.refresh_from_db()
    assert request.state == ApprovalState.APPROVED


def test_a_link_does_nothing(client):
    asker, approver = people(2)
    request = asked(asker)
    client.force_login(approver)
    assert client.get(reverse("approvals:vote", args=[request.pk]), {"answer": "approve"}).status_code == 405
    assert client.get(request.get_absolute_url() + "?answer=approve").status_code == 200
    request.refresh_from_db()
    assert request.state == ApprovalState.PENDING


@pytest.mark.parametrize(
    ("form", "words"),
    [({}, "Choose Approve or Deny"), ({"answer": "maybe"}, "Choose"), ({"answer": "deny", "reason": " "}, "Say why")],
)
def test_a_bad_answer_is_told_and_changes_nothing(client, form, words):
    asker, approver = people(2)
    request = asked(asker)
    client.force_login(approver)
    page = client.post(reverse("approvals:vote", args=[request.pk]), form)
    assert page.status_code == 400
    assert words in texts(page)
    assert not request.votes.exists()


def test_what_one_may_not_see_is_not_there(client):
    asker, _ = people(2)
    request = asked(asker)
    client.force_login(make_user(role="operator"))
    assert client.get(request.get_absolute_url()).status_code == 404
    assert client.post(reverse("approvals:vote", args=[request.pk]), {"answer": "approve"}).status_code == 404
    assert "?show=all" in texts(client.get(reverse("approvals:list")))


def test_who_may_read_but_is_not_asked_is_refused_and_the_refusal_is_recorded(client):
    asker, _ = people(2)
    request = asked(asker)
    client.force_login(make_user(role="auditor"))
    assert client.get(request.get_absolute_url()).status_code == 200
    assert client.post(reverse("approvals:vote", args=[request.pk]), {"answer": "approve"}).status_code == 403
    assert AuditEvent.objects.filter(action="approvals.vote.refuse").count() == 1


def test_an_answer_that_comes_too_late_is_told(client):
    asker, approver = people(2)
    request = asked(asker)
    end(request)
    client.force_login(approver)
    page = client.get(request.get_absolute_url())
    assert "Expired" in texts(page)
    late = client.post(reverse("approvals:vote", args=[request.pk]), {"answer": "approve"})
    assert late.status_code == 409
    assert "has to be asked anew" in texts(late)


def test_taking_back(client):
    asker, _ = people(2)
    request = asked(asker)
    client.force_login(asker)
    client.post(reverse("approvals:withdraw", args=[request.pk]))
    request.refresh_from_db()
    assert request.state == ApprovalState.WITHDRAWN
    again = client.post(reverse("approvals:withdraw", args=[request.pk]))
    assert again.status_code == 400
    assert "over already" in texts(again)


def test_the_list_is_paged_and_asks_the_same_few_questions_however_long_it_is(client, django_assert_max_num_queries):
    asker, approver = people(2)
    requests = [asked(asker) for _ in range(60)]
    for request in requests[:5]:
        services.vote(request.pk, actor=approver, approve=True)
    client.force_login(approver)
    with django_assert_max_num_queries(14):
        page = texts(client.get(reverse("approvals:list") + "?show=all"))
    assert page.count('data-m="a"') == 50
    older = page.partition('class="pagination"')[2].partition('href="')[2].partition('"')[0].replace("&amp;", "&")
    assert texts(client.get(reverse("approvals:list") + older)).count('data-m="a"') == 10
