"""Leave is given by enough others, in time, once, and for exactly what was asked."""

import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from fleetops.approvals import services
from fleetops.approvals.models import ApprovalRequest, Vote
from fleetops.approvals.states import APPROVAL_MOVES, ApprovalState
from fleetops.audit.models import AuditEvent, Outcome
from fleetops.audit.record import Target
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from tests.factories import make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("roles")]

WHAT = {"calendar": "Year's end", "until": "2026-12-31"}


def asked(by, *, quorum=1, **changes):
    """A request to do a demo deed."""
    wanted = {
        "deed": "demo.freeze.override",
        "summary": "Override the freeze “Year's end”",
        "requested_by": by,
        "expires_at": now() + timedelta(hours=1),
        "details": WHAT,
        "quorum": quorum,
        "subject": Target("demo", "1", "Year's end"),
        "reason": "INC-4821",
    }
    return services.ask(**wanted | changes)


def people(number, role="administrator"):
    return [make_user(role=role) for _ in range(number)]


def actions():
    return list(
        AuditEvent.objects.filter(action__startswith="approvals.").order_by("at", "pk").values_list("action", "outcome")
    )


def end(request):
    ApprovalRequest.objects.filter(pk=request.pk).update(expires_at=now() - timedelta(seconds=1))


def test_the_last_approval_of_the_quorum_approves():
    asker, first, second = people(3)
    request = asked(asker, quorum=2)
    assert services.vote(request.pk, actor=first, approve=True).state == ApprovalState.PENDING
    assert services.vote(request.pk, actor=second, approve=True).state == ApprovalState.APPROVED
    assert actions() == [
        ("approvals.request", Outcome.DONE),
        ("approvals.approve", Outcome.DONE),
        ("approvals.approve", Outcome.DONE),
    ]


def test_one_denial_ends_it():
    asker, first, second = people(3)
    request = asked(asker, quorum=2)
    services.vote(request.pk, actor=first, approve=True)
    assert services.vote(request.pk, actor=second, approve=False, reason="not today").state == ApprovalState.DENIED
    with pytest.raises(UserError, match="denied already"):
        services.vote(request.pk, actor=people(1)[0], approve=True)


def test_nobody_approves_their_own():
    asker, _ = people(2)
    request = asked(asker)
    with pytest.raises(Denied, match="Nobody approves what they ask"):
        services.vote(request.pk, actor=asker, approve=True)
    assert actions()[-1] == ("approvals.vote.refuse", Outcome.DENIED)
    request.refresh_from_db()
    assert request.state == ApprovalState.PENDING


def test_nobody_approves_their_own_not_even_a_superuser():
    people(1)
    asker = make_user(is_superuser=True)
    request = asked(asker)
    with pytest.raises(Denied, match="Nobody approves what they ask"):
        services.vote(request.pk, actor=asker, approve=True)


def test_nobody_answers_twice():
    asker, first, _ = people(3)
    request = asked(asker, quorum=2)
    services.vote(request.pk, actor=first, approve=True)
    with pytest.raises(UserError, match="answered this request already"):
        services.vote(request.pk, actor=first, approve=False, reason="no")
    assert Vote.objects.count() == 1


def test_an_approval_counts_no_more_once_its_giver_has_lost_the_role():
    asker, first, second, third = people(4)
    request = asked(asker, quorum=2)
    services.vote(request.pk, actor=first, approve=True)
    first.groups.clear()
    assert services.vote(request.pk, actor=second, approve=True).state == ApprovalState.PENDING
    assert services.vote(request.pk, actor=third, approve=True).state == ApprovalState.APPROVED
    second.is_active = False
    second.save()
    with pytest.raises(UserError, match="may no longer approve: 1 of 2 approvals stand"):
        services.take(request.pk, deed=request.deed, details=WHAT, actor=asker)
    assert ApprovalRequest.objects.get(pk=request.pk).state == ApprovalState.APPROVED


def test_only_members_of_the_roles_that_are_asked_answer():
    asker, _ = people(2)
    request = asked(asker)
    operator, viewer = make_user(role="operator"), make_user(role="viewer")
    with pytest.raises(Denied, match=r"Only members of these roles.*administrator"):
        services.vote(request.pk, actor=operator, approve=True)
    with pytest.raises(Denied, match="needs the permission"):
        services.vote(request.pk, actor=viewer, approve=True)


def test_an_approval_is_used_once_and_for_what_was_asked():
    asker, other = people(2)
    request = asked(asker)
    services.vote(request.pk, actor=other, approve=True)
    with pytest.raises(UserError, match="not what was approved"):
        services.take(request.pk, deed=request.deed, details=WHAT | {"until": "2027-12-31"}, actor=asker)
    with pytest.raises(UserError, match="not what was approved"):
        services.take(request.pk, deed="demo.other", details=WHAT, actor=asker)
    with pytest.raises(UserError, match="no such approval of yours"):
        services.take(request.pk, deed=request.deed, details=WHAT, actor=other)
    assert services.take(request.pk, deed=request.deed, details=WHAT, actor=asker).state == ApprovalState.USED
    with pytest.raises(UserError, match="is used, not approved and unused"):
        services.take(request.pk, deed=request.deed, details=WHAT, actor=asker)
    assert [name for name, _ in actions()].count("approvals.use") == 1


def test_a_deed_that_fails_gives_its_approval_back():
    asker, other = people(2)
    request = asked(asker)
    services.vote(request.pk, actor=other, approve=True)
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        services.take(request.pk, deed=request.deed, details=WHAT, actor=asker)
        raise ZeroDivisionError
    request.refresh_from_db()
    assert request.state == ApprovalState.APPROVED


def test_what_waits_cannot_be_used():
    asker, _ = people(2)
    request = asked(asker)
    with pytest.raises(UserError, match="is waiting, not approved"):
        services.take(request.pk, deed=request.deed, details=WHAT, actor=asker)


@pytest.mark.parametrize("was_approved", [False, True])
def test_time_ends_a_request_before_any_worker_has_seen_it(was_approved):
    asker, other = people(2)
    request = asked(asker)
    if was_approved:
        services.vote(request.pk, actor=other, approve=True)
    end(request)
    with pytest.raises(UserError, match=r"time to answer|ended unused|approved already"):
        services.vote(request.pk, actor=people(1)[0], approve=True)
    with pytest.raises(UserError, match=r"ended unused|is waiting"):
        services.take(request.pk, deed=request.deed, details=WHAT, actor=asker)
    assert services.expire_due() == 1
    assert services.expire_due() == 0
    request.refresh_from_db()
    assert request.state == ApprovalState.EXPIRED
    assert actions()[-1][0] == "approvals.expire"


def test_who_asks_takes_it_back_and_nobody_else():
    asker, other = people(2)
    request = asked(asker)
    with pytest.raises(Denied):
        services.withdraw(request.pk, actor=other)
    assert services.withdraw(request.pk, actor=asker).state == ApprovalState.WITHDRAWN
    with pytest.raises(UserError, match="over already"):
        services.withdraw(request.pk, actor=asker)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quorum": 0}, "1 to 10 approvals"),
        ({"quorum": 11}, "1 to 10 approvals"),
        ({"expires_at": now() - timedelta(hours=1)}, "ends after now"),
        ({"expires_at": now() + timedelta(days=31)}, "within 30 days"),
        ({"approvers": ("nobody",)}, "no role nobody"),
        ({"quorum": 3}, "3 other people would have to approve, and 2 could"),
    ],
)
def test_a_request_that_could_never_pass_is_refused(changes, words):
    asker, *_ = people(3)
    with pytest.raises(UserError, match=words):
        asked(asker, **changes)
    assert not ApprovalRequest.objects.exists()


def test_what_a_person_sees():
    asker, approver = people(2)
    mine = asked(asker)
    operator, auditor = make_user(role="operator"), make_user(role="auditor")
    visible = ApprovalRequest.objects.visible_to
    assert list(visible(approver)) == list(visible(asker)) == list(visible(auditor)) == [mine]
    assert not visible(operator).exists()
    waiting = ApprovalRequest.objects.waiting_for
    assert list(waiting(approver, now())) == [mine]
    assert not waiting(asker, now()).exists()
    assert not waiting(auditor, now()).exists()
    services.vote(mine.pk, actor=approver, approve=True)
    assert not waiting(approver, now()).exists()


def test_every_state_is_final_or_leads_on():
    assert set(APPROVAL_MOVES) | {to for moves in APPROVAL_MOVES.values() for to in moves} == set(ApprovalState)


class TestAnyVotes(TestCase):
    def setUp(self):
        from django.core.management import call_command

        call_command("sync_roles", verbosity=0)
        self.people = people(6)

    @given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12))
    @settings(max_examples=40, deadline=None)
    def test_whatever_is_answered_it_passes_by_a_quorum_of_others_and_no_denial(self, quorum, answers):
        asker = self.people[0]
        request = asked(asker, quorum=quorum)
        for who, approve in answers:
            try:
                services.vote(request.pk, actor=self.people[who], approve=approve, reason="because")
            except UserError:
                continue
        request.refresh_from_db()
        votes = dict(request.votes.values_list("user_name", "approves"))
        assert asker.username not in votes
        yes = sum(votes.values())
        assert (request.state == ApprovalState.APPROVED) == (yes >= quorum and all(votes.values()))
        assert (request.state == ApprovalState.DENIED) == (not all(votes.values()))
        assert yes <= quorum


@pytest.mark.django_db(transaction=True)
def test_two_who_answer_at_once_are_both_counted():
    asker, *others = people(3)
    request = asked(asker, quorum=2)
    together, failures = threading.Barrier(2), []

    def answer(person):
        try:
            together.wait(10)
            services.vote(request.pk, actor=person, approve=True)
        except Exception as error:  # whatever it is, the test shows it
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=answer, args=[person]) for person in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    request.refresh_from_db()
    assert (failures, request.state) == ([], ApprovalState.APPROVED)


@pytest.mark.django_db(transaction=True)
def test_of_two_who_use_an_approval_at_once_one_does():
    asker, other = people(2)
    request = asked(asker)
    services.vote(request.pk, actor=other, approve=True)
    together, used = threading.Barrier(2), []

    def use():
        try:
            together.wait(10)
            services.take(request.pk, deed=request.deed, details=WHAT, actor=asker)
            used.append(True)
        except UserError:
            used.append(False)
        finally:
            connection.close()

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(used) == [False, True]
