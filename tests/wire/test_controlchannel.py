from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.wire import (
    MAX_PAYLOAD,
    ControlChannel,
    ControlRole,
    JobAcknowledged,
    JobReceived,
    JobReplied,
    JobReplyAcknowledged,
    LocalProtocolError,
    MessageIgnored,
    MessageType,
    SessionRequested,
    TaskAcknowledged,
    TaskCompleted,
    TaskGaveUp,
    TerminationRequested,
    parse,
    payloads,
)
from fleetops.wire.controlchannel import MAX_CONTROL_EVENTS, MAX_TASKS

from .helpers import NOW, SESSION, frame, ids, vectors

TASK = payloads.SessionTask(SESSION, "SSM-SessionManagerRunShell", {"schemaVersion": "1.0"}, task_id=SESSION)
DONE = payloads.AgentTaskComplete(SESSION, "Success", "mi-0123456789abcdef0")
JOB = payloads.AgentJob("aws.ssm.c.mi-0123456789abcdef0", '{"CommandId":"c"}')
REPLY = payloads.AgentJobReply(JOB.job_id, "{}")
GOLDEN = {v["name"]: bytes.fromhex(v["hex"]) for v in vectors("agent-message.json")["messages"]}


def ends() -> tuple[ControlChannel, ControlChannel]:
    return (
        ControlChannel(ControlRole.GATEWAY, new_id=ids()),
        ControlChannel(ControlRole.AGENT, new_id=ids(1000)),
    )


def hand_over(sender: ControlChannel, receiver: ControlChannel) -> list[bytes]:
    frames = sender.data_to_send()
    for item in frames:
        receiver.receive(item, now=NOW)
    return frames


def test_a_session_is_asked_for_and_nothing_answers():
    gateway, agent = ends()
    gateway.start_session(TASK, now=NOW)
    hand_over(gateway, agent)
    assert agent.events() == [SessionRequested(TASK)]
    assert agent.data_to_send() == []


def test_the_start_of_a_session_in_a_golden_frame_is_understood():
    _, agent = ends()
    agent.receive(GOLDEN["interactive-shell-start"], now=NOW)
    (event,) = agent.events()
    assert event.task.session_id == SESSION
    assert event.task.document_content["sessionType"] == "Standard_Stream"


def test_a_session_is_ended_from_the_gateway():
    gateway, agent = ends()
    gateway.terminate_session(SESSION, instance_id="mi-0123456789abcdef0", now=NOW)
    (item,) = hand_over(gateway, agent)
    assert agent.events() == [TerminationRequested(SESSION)]
    assert payloads.ChannelClosed.parse(parse(item).payload).created_date == "2023-11-14T22:13:20.000Z"


def test_the_end_of_a_session_is_acknowledged_at_once():
    gateway, agent = ends()
    message_id = agent.complete_task(DONE, now=NOW)
    hand_over(agent, gateway)
    assert gateway.events() == [TaskCompleted(DONE, message_id)]
    hand_over(gateway, agent)
    assert agent.events() == [TaskAcknowledged(SESSION)]
    assert agent.next_timeout() is None


def test_the_end_of_a_session_is_told_three_times_a_second_apart_with_one_id_and_then_no_more():
    _, agent = ends()
    message_id = agent.complete_task(DONE, now=NOW)
    told = []
    while True:
        told += [parse(item) for item in agent.data_to_send()]
        if (due := agent.next_timeout()) is None:
            break
        agent.handle_timeout(now=due - 0.01)
        assert agent.data_to_send() == []
        agent.handle_timeout(now=due)
        last = due
    assert last == NOW + 3
    assert {message.message_id for message in told} == {message_id}
    assert [payloads.AgentTaskComplete.parse(message.payload).retry_number for message in told] == [1, 2, 3]
    assert agent.events() == [TaskGaveUp(SESSION)]


def test_each_telling_of_an_end_is_acknowledged_and_handed_out():
    gateway, agent = ends()
    agent.complete_task(DONE, now=NOW)
    agent.handle_timeout(now=NOW + 1)
    hand_over(agent, gateway)
    assert [event.task.retry_number for event in gateway.events()] == [1, 2]
    hand_over(gateway, agent)
    assert agent.events() == [TaskAcknowledged(SESSION)]


def test_an_acknowledge_of_an_end_that_nobody_told_means_nothing():
    _, agent = ends()
    known = payloads.AgentTaskAcknowledge(UUID(int=99), SESSION)
    agent.receive(frame("agent_task_acknowledge", known.serialize()), now=NOW)
    assert agent.events() == []


def test_ends_that_nobody_acknowledges_are_bounded():
    _, agent = ends()
    for _ in range(MAX_TASKS):
        agent.complete_task(DONE, now=NOW)
    with pytest.raises(LocalProtocolError):
        agent.complete_task(DONE, now=NOW)


def test_a_job_is_taken_and_its_replies_are_acknowledged_at_once():
    gateway, agent = ends()
    job_id = gateway.send_job(JOB, now=NOW)
    hand_over(gateway, agent)
    (received,) = agent.events()
    assert received == JobReceived(JOB, job_id, int(NOW * 1000))
    agent.acknowledge_job(received, now=NOW)
    reply_id = agent.reply_job(REPLY, now=NOW)
    assert agent.reply_job(REPLY, now=NOW, message_id=reply_id) == reply_id
    hand_over(agent, gateway)
    ack = payloads.AgentJobAck(JOB.job_id, job_id, "2023-11-14T22:13:20.000Z")
    assert gateway.events() == [JobAcknowledged(ack), JobReplied(REPLY, reply_id), JobReplied(REPLY, reply_id)]
    hand_over(gateway, agent)
    assert agent.events() == [JobReplyAcknowledged(JOB.job_id, reply_id)] * 2


def test_a_job_is_refused_by_a_code():
    gateway, agent = ends()
    agent.receive(GOLDEN["agent-job-cancel"], now=NOW)
    (received,) = agent.events()
    assert received.job.is_cancel
    agent.acknowledge_job(received, status_code="51405", error_message="DuplicateCommand", now=NOW)
    hand_over(agent, gateway)
    (event,) = gateway.events()
    assert (event.ack.status_code, event.ack.message_id) == ("51405", received.message_id)


def test_telemetry_is_taken_in_silence():
    gateway, _ = ends()
    gateway.receive(frame("agent_telemetry", b"{}"), now=NOW)
    gateway.receive(frame("agent_update_result", b"{}"), now=NOW)
    assert gateway.events() == []
    assert gateway.data_to_send() == []


@pytest.mark.parametrize("role", ControlRole)
@pytest.mark.parametrize(
    "item",
    [
        b"",
        b"text",
        frame("a type of tomorrow"),
        frame("output_stream_data"),
        frame("interactive_shell", b"{"),
        frame("interactive_shell", b'{"Content":"{}"}'),
        frame("channel_closed", b"{}"),
        frame("agent_job", b'{"Topic":"aws.ssm.sendCommand"}'),
        frame("agent_task_complete", b"{}"),
        frame("agent_task_acknowledge", b"{}"),
        frame("agent_job_ack", b"[]"),
        frame("agent_job_reply", b"{}"),
        frame("agent_job_reply_ack", b"{}"),
    ],
)
def test_garbage_is_told_and_costs_nothing(role, item):
    end = ControlChannel(role, new_id=ids())
    end.receive(item, now=NOW)
    (event,) = end.events()
    assert isinstance(event, MessageIgnored)
    assert event.reason
    assert end.data_to_send() == []


@settings(max_examples=100)
@given(st.sampled_from(ControlRole), st.lists(st.sampled_from(sorted(GOLDEN)) | st.binary(max_size=200), max_size=5))
def test_nothing_that_arrives_raises(role, items):
    end = ControlChannel(role, new_id=ids())
    for item in items:
        end.receive(GOLDEN[item] if isinstance(item, str) else item, now=NOW)
    assert len(end.events()) <= len(items)


def test_what_the_owner_does_not_fetch_is_bounded():
    gateway, _ = ends()
    item = frame("agent_job_reply", REPLY.serialize())
    for _ in range(MAX_CONTROL_EVENTS + 100):
        gateway.receive(item, now=NOW)
    assert len(gateway.events()) == len(gateway.data_to_send()) == MAX_CONTROL_EVENTS


@pytest.mark.parametrize(
    "deed",
    [
        lambda gateway, agent: agent.start_session(TASK, now=NOW),
        lambda gateway, agent: agent.terminate_session(SESSION, now=NOW),
        lambda gateway, agent: agent.send_job(JOB, now=NOW),
        lambda gateway, agent: gateway.complete_task(DONE, now=NOW),
        lambda gateway, agent: gateway.reply_job(REPLY, now=NOW),
        lambda gateway, agent: gateway.acknowledge_job(JobReceived(JOB, UUID(int=1), 1), now=NOW),
    ],
)
def test_each_end_has_deeds_of_its_own(deed):
    with pytest.raises(LocalProtocolError, match="only the"):
        deed(*ends())


def test_a_job_too_large_for_a_frame_is_our_own_error():
    gateway, _ = ends()
    with pytest.raises(LocalProtocolError, match="limit"):
        gateway.send_job(payloads.AgentJob(JOB.job_id, "x" * MAX_PAYLOAD), now=NOW)


def test_control_messages_bear_number_0_and_no_flags():
    gateway, _ = ends()
    gateway.start_session(TASK, now=NOW)
    message = parse(gateway.data_to_send()[0])
    assert (message.message_type, message.sequence, message.flags) == (MessageType.INTERACTIVE_SHELL, 0, 0)
