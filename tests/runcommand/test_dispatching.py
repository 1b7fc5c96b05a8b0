"""Nothing runs twice: workers that die, answers that are lost, messages that come twice."""

import json
from datetime import timedelta

import botocore.session
import pytest

from fleetops.aws import commands as aws
from fleetops.clock import now
from fleetops.inventory import hearing
from fleetops.runcommand import dispatching, services
from fleetops.runcommand.models import Dispatch
from fleetops.runcommand.states import COMMAND_MOVES, OF_AWS
from fleetops.transitions import IllegalMove, move
from tests.endpoint.jobs import until

from .conftest import ends, sent, started, states, step

pytestmark = pytest.mark.django_db(transaction=True)


class Killed(BaseException):
    """The worker is gone at this line."""


def later(command, by: timedelta) -> None:
    """As if all that has happened to its dispatches had been so much earlier."""
    for dispatch in command.dispatches.all():
        dispatch.sending_at = dispatch.sending_at and dispatch.sending_at - by
        dispatch.uncertain_at = dispatch.uncertain_at and dispatch.uncertain_at - by
        dispatch.save()


def drain(agent) -> None:
    agent.run(agent.job())


def test_a_worker_that_dies_between_commit_and_call_leaves_nothing_sent_and_it_is_sent_once(
    document, fleet, operator, endpoint, agents, monkeypatch
):
    command = started(document, fleet[:1], operator)

    def die(*args, **options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(aws, "send_command", die)
        with pytest.raises(Killed):
            step(command)
    dispatch = command.dispatches.get()
    assert (dispatch.state, dispatch.attempts, sent(endpoint, command)) == ("sending", 1, 0)
    step(command)
    assert command.dispatches.get().state == "sending"  # its worker may be alive
    later(command, dispatching.STALE)
    step(command)
    assert command.dispatches.get().state == "uncertain"
    step(command)
    assert (command.dispatches.get().state, sent(endpoint, command)) == ("uncertain", 0)  # not before 60 s
    later(command, dispatching.LOOKED_FOR)
    step(command)
    assert command.dispatches.get().state == "planned"
    step(command)
    assert (command.dispatches.get().attempts, sent(endpoint, command)) == (2, 1)
    drain(agents[0])
    ends(command, "succeeded")
    assert sent(endpoint, command) == 1


def test_a_worker_that_dies_after_the_call_is_found_and_not_sent_again(
    document, fleet, operator, endpoint, agents, monkeypatch
):
    command = started(document, fleet[:1], operator)
    real = aws.send_command

    def call_and_die(*args, **options):
        real(*args, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(aws, "send_command", call_and_die)
        with pytest.raises(Killed):
            step(command)
    assert command.dispatches.get().state == "sending" and sent(endpoint, command) == 1
    later(command, dispatching.STALE)
    step(command)
    dispatch = command.dispatches.get()
    assert dispatch.state == "sent" and dispatch.ssm_command_id and dispatch.attempts == 1
    drain(agents[0])
    ends(command, "succeeded")
    assert sent(endpoint, command) == 1 and agents[0].is_quiet(0.3)


@pytest.mark.parametrize(("when", "has_it"), [("after", True), ("before", False)])
def test_an_answer_that_is_lost_is_looked_for(document, fleet, operator, endpoint, agents, faults, when, has_it):
    command = started(document, fleet[:1], operator)
    with faults.on("drop", when=when, match={"operation": "SendCommand"}):
        step(command)
        dispatch = command.dispatches.get()
        assert (dispatch.state, dispatch.attempts) == ("uncertain", 1) and "No whole answer" in dispatch.error
    assert sent(endpoint, command) == has_it
    step(command)
    assert command.dispatches.get().state == ("sent" if has_it else "uncertain")
    if not has_it:
        later(command, dispatching.LOOKED_FOR)
        step(command)
        step(command)
    drain(agents[0])
    ends(command, "succeeded")
    assert sent(endpoint, command) == 1 and agents[0].is_quiet(0.3)


def test_while_the_lists_cannot_be_read_it_is_not_sent_again(document, fleet, operator, endpoint, agents, faults):
    command = started(document, fleet[:1], operator)
    with faults.on("drop", when="after", match={"operation": "SendCommand"}):
        step(command)
    later(command, timedelta(hours=1))
    with faults.on("error", code="AccessDeniedException", status=400, match={"operation": "ListCommands"}):
        step(command)
        assert command.dispatches.get().state == "uncertain"
    with faults.on("error", code="InternalServerError", status=500, match={"operation": "ListCommands"}):
        step(command)
        assert command.dispatches.get().state == "uncertain"
    step(command)
    drain(agents[0])
    ends(command, "succeeded")
    assert sent(endpoint, command) == 1


def test_a_message_that_comes_twice_sends_once(document, fleet, operator, endpoint, agents, monkeypatch):
    """The second worker comes while the first waits for AWS's answer, and again after it."""
    command = started(document, fleet, operator)
    real = aws.send_command

    def meanwhile(*args, **options):
        dispatching.advance(command.pk)
        answer = real(*args, **options)
        dispatching.advance(command.pk)
        return answer

    monkeypatch.setattr(aws, "send_command", meanwhile)
    step(command)
    monkeypatch.undo()
    dispatching.advance(command.pk)
    assert Dispatch.objects.count() == sent(endpoint, command) == 1
    for agent in agents:
        drain(agent)
    ends(command, "succeeded")


def test_a_throttle_sends_nothing_and_it_is_tried_again(document, fleet, operator, endpoint, agents, faults):
    command = started(document, fleet[:1], operator)
    with faults.on("error", code="ThrottlingException", status=400, match={"operation": "SendCommand"}):
        step(command)
        dispatch = command.dispatches.get()
        assert (dispatch.state, sent(endpoint, command)) == ("planned", 0) and dispatch.due_at > now()
    step(command)
    drain(agents[0])
    ends(command, "succeeded")


def test_one_that_aws_does_not_know_does_not_hold_up_the_others(document, region, fleet, operator, agents):
    from tests.factories import make_instance

    ghost = make_instance(region=region, name="ghost", instance_id="i-00000000000000bad")
    command = started(document, [fleet[0], ghost], operator)
    step(command)
    assert states(command) == {"node-1": "planned", "ghost": "failed"}
    step(command)
    drain(agents[0])
    ends(command, "failed")
    assert states(command) == {"node-1": "succeeded", "ghost": "failed"}
    assert "InvalidInstanceId" in command.invocations.get(instance_name="ghost").details


def test_what_aws_refuses_fails_with_its_words(document, fleet, operator, faults):
    command = started(document, fleet, operator)
    with faults.on("error", code="AccessDeniedException", status=400, match={"operation": "SendCommand"}):
        step(command)
    assert command.state == "failed" and set(states(command).values()) == {"failed"}
    assert "ssm:SendCommand" in command.invocations.first().details
    assert command.dispatches.get().state == "refused"


def test_a_cancel_while_nobody_knows_waits_for_the_outcome(document, fleet, operator, endpoint, agents, faults):
    command = started(document, fleet[:1], operator)
    with faults.on("drop", when="before", match={"operation": "SendCommand"}):
        step(command)
    services.cancel(command, actor=operator)
    step(command)
    assert command.state == "cancelling"
    later(command, dispatching.LOOKED_FOR)
    step(command)
    assert (command.state, sent(endpoint, command)) == ("cancelled", 0)
    assert states(command) == {"node-1": "cancelled"}


def test_a_cancel_during_a_call_that_aws_throttles_comes_to_its_end(
    document, fleet, operator, endpoint, agents, faults, monkeypatch
):
    command, send = started(document, fleet[:1], operator), aws.send_command

    def cancelled_meanwhile(*args, **named):
        services.cancel(command, actor=operator)
        return send(*args, **named)

    monkeypatch.setattr(aws, "send_command", cancelled_meanwhile)
    with faults.on("error", code="ThrottlingException", status=400, match={"operation": "SendCommand"}):
        step(command)
    assert (command.state, command.dispatches.get().state) == ("cancelling", "planned")
    step(command)
    assert (command.state, sent(endpoint, command)) == ("cancelled", 0)
    assert states(command) == {"node-1": "cancelled"}


def test_two_workers_make_one_set_of_dispatches(document, fleet, operator):
    command = started(document, fleet, operator)
    for _ in range(3):
        dispatching._plan(command, now=now())
    assert command.dispatches.count() == 1
    services.cancel(command, actor=operator)


def test_fifty_at_most_go_in_one_call(document, region, operator, faults):
    from tests.factories import make_instance

    many = [make_instance(region=region) for _ in range(120)]
    command = started(document, many, operator)
    dispatching._plan(command, now=now())
    sizes = sorted(dispatch.invocations.count() for dispatch in command.dispatches.all())
    assert sizes == [20, 50, 50]


def test_beat_takes_each_open_command_once(document, fleet, operator):
    command = started(document, fleet, operator)
    moment = now() + timedelta(seconds=6)
    assert dispatching.claim_due(now=moment) == [command.pk]
    assert dispatching.claim_due(now=moment) == []
    services.cancel(command, actor=operator)
    step(command)
    assert command.is_over and dispatching.claim_due(now=moment + timedelta(hours=1)) == []


def test_a_node_that_comes_back_gets_what_was_sent(document, fleet, operator, agents, endpoint):
    ssm = endpoint.client("ssm")
    agents[2].close()
    until(lambda: ssm.get_connection_status(Target=agents[2].instance_id)["Status"] == "notconnected")
    command = started(document, fleet[2:], operator)
    step(command)
    assert states(command) == {"node-3": "pending"}
    agents[2].connect()
    drain(agents[2])
    ends(command, "succeeded")


def test_every_status_of_aws_is_one_of_ours():
    shape = botocore.session.get_session().get_service_model("ssm").shape_for("CommandInvocationStatus")
    assert set(OF_AWS) == set(shape.enum)


def test_what_has_ended_moves_no_more(document, fleet, operator):
    command = started(document, fleet, operator)
    services.cancel(command, actor=operator)
    step(command)
    with pytest.raises(IllegalMove):
        move(command, "running", COMMAND_MOVES)
    assert not services.cancel(command, actor=operator)


def test_an_event_of_eventbridge_has_its_command_looked_at_soon(document, fleet, operator, region):
    command = started(document, fleet[:1], operator)
    step(command)
    dispatch, far = command.dispatches.get(), now() + timedelta(minutes=5)

    def after(**facts):
        command.dispatches.update(due_at=far)
        type(command).objects.filter(pk=command.pk).update(due_at=far)
        event = {
            "source": "aws.ssm",
            "detail-type": "EC2 Command Invocation Status-change Notification",
            "account": region.account.account_id,
            "region": region.name,
            "detail": {"command-id": dispatch.ssm_command_id, "status": "Success"},
        }
        hearing.hand_over(["no json", json.dumps(event | facts)], region)
        command.refresh_from_db()
        return min(command.due_at, command.dispatches.get().due_at)

    assert after() < now() + timedelta(seconds=10)
    assert after(region="us-east-1") == after(detail={"command-id": "x"}) == after(detail=None) == far
    services.cancel(command, actor=operator)
