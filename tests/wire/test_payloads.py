from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.wire import LocalProtocolError, RemoteProtocolError, payloads
from fleetops.wire.frames import to_wire_id
from fleetops.wire.payloads import (
    AgentOpener,
    ClientOpener,
    ControlOpener,
    HandshakeRequest,
    HandshakeResponse,
    ProcessedAction,
    StepResult,
)

from .helpers import SESSION, vectors

GOLDEN = {vector["name"]: vector["json"] for vector in vectors("payload-json.json")["payloads"]}
FRAMES = {vector["name"]: vector["payload_text"] for vector in vectors("agent-message.json")["messages"]}
SEALED = vectors("blockcipher.json")

ID = UUID("dd01e56b-ff48-483e-a508-b5f073f31b16")
DATE = "2023-11-14T22:13:20.000Z"
KEY = "arn:aws:kms:us-east-1:123456789012:key/2b196342-d7d4-436e-8f09-3883a1116ac3"
JOB = "aws.ssm.2b196342-d7d4-436e-8f09-3883a1116ac3.mi-0123456789abcdef0"
OTHER_JOB = "aws.ssm.9f1d6cb2-3a56-4b7e-9d4b-7e1b8a3f4c11.mi-0123456789abcdef0"
AGENT = "3.3.987.0"
PLUGIN = "1.2.650.0"
WELL = ProcessedAction("SessionType", 1)
REPLIER = payloads.AgentInfo(version=AGENT)

IN_PROGRESS = payloads.ReplyContent("InProgress", DATE, REPLIER)
FINAL = payloads.ReplyContent(
    "Success",
    DATE,
    REPLIER,
    {"Success": 1},
    {
        "runShell": StepResult(
            "Success",
            0,
            "aws:runShellScript",
            "a<b>&c\n",
            "2023-11-14T22:13:19.000Z",
            DATE,
            standard_output="a<b>&c\n",
        )
    },
)

# What each golden text means: it is written from the value, and the value is read from it.
MEANINGS: dict[str, Any] = {
    "acknowledge": payloads.Acknowledge("input_stream_data", ID, 7),
    "plugin-acknowledge": payloads.Acknowledge("output_stream_data", ID, 7),
    "session-state-connected": payloads.AgentSessionState("Connected", SESSION),
    "session-state-terminating": payloads.AgentSessionState("Terminating", SESSION),
    "channel-closed-agent-struct": payloads.ChannelClosed(str(ID), DATE, SESSION, "i-0123456789abcdef0"),
    "plugin-channel-closed": payloads.ChannelClosed(
        str(ID), DATE, SESSION, "i-0123456789abcdef0", "Session timed out."
    ),
    "handshake-request-standard-stream": HandshakeRequest.for_session(AGENT, "Standard_Stream"),
    "handshake-request-port": HandshakeRequest.for_session(
        AGENT, "Port", {"type": "LocalPortForwarding", "portNumber": "80", "localPortNumber": "8080"}
    ),
    "handshake-request-kms": HandshakeRequest.for_session(
        AGENT, "Standard_Stream", kms_key_id=KEY, challenge=bytes([*range(13), 13, 14, 15])
    ),
    "handshake-complete": payloads.HandshakeComplete(123456789),
    "handshake-complete-kms": payloads.HandshakeComplete(2000000000, "This session is encrypted using AWS KMS."),
    "enc-challenge-request": payloads.EncryptionChallenge(bytes.fromhex("000102fafbfcfdfeff")),
    "plugin-enc-challenge-response": payloads.EncryptionChallenge(bytes.fromhex("fffe00")),
    "agent-job-ack": payloads.AgentJobAck(JOB, ID, DATE),
    "agent-job-reply-final": payloads.AgentJobReply(JOB, FINAL.serialize()),
    "send-reply-payload-final": FINAL,
    "send-reply-payload-in-progress": IN_PROGRESS,
    "send-reply-payload-mds": payloads.ReplyContent("InProgress", DATE, REPLIER, can_open_mgs=True),
    "agent-job-reply-ack": payloads.AgentJobReplyAck(JOB, ID),
    "agent-task-complete": payloads.AgentTaskComplete(SESSION, "Success", "mi-0123456789abcdef0"),
    "agent-task-acknowledge": payloads.AgentTaskAcknowledge(ID, SESSION),
    "agent-telemetry": payloads.AgentTelemetry(AGENT, 1, 1, 0),
    "agent-update-result": payloads.AgentUpdateResult("UpdateSucceeded", "3.2.0.0", AGENT),
    "agent-job-cancel": payloads.AgentJob.cancel(OTHER_JOB, JOB, "aws.ssm.cancelCommand.us.east.1.1"),
    "create-control-channel": payloads.CreateChannel(str(ID)),
    "create-data-channel": payloads.CreateChannel(str(ID), ""),
    "plugin-size": payloads.Size(120, 40),
    "plugin-handshake-response": HandshakeResponse(PLUGIN, (WELL,)),
    "plugin-handshake-response-no-actions": HandshakeResponse(PLUGIN, ()),
    "plugin-handshake-response-kms": HandshakeResponse(
        PLUGIN,
        (
            WELL,
            ProcessedAction(
                "KMSEncryption", 1, {"KMSCipherTextKey": "Y2lwaGVydGV4dGJsb2I=", "KMSCipherTextHash": None}
            ),
        ),
    ),
    "plugin-handshake-response-failed": HandshakeResponse(
        PLUGIN,
        (ProcessedAction("SessionType", 2, None, "Failed to process action SessionType: Unknown session type Foo"),),
        ("Unknown session type Foo",),
    ),
    "plugin-handshake-response-unsupported": HandshakeResponse(
        PLUGIN,
        (ProcessedAction("Other", 0, 3, "Unsupported action Other"),),
        ("Unsupported action Other",),
    ),
}
OPENERS: dict[str, tuple[str, Any]] = {
    "open-control-channel": (
        payloads.open_control_channel(ID, "TOKEN", agent_version=AGENT),
        ControlOpener(str(ID), "TOKEN", AGENT, "linux"),
    ),
    "open-data-channel-agent": (
        payloads.open_data_channel_agent(ID, "TOKEN", instance_id="mi-0123456789abcdef0"),
        AgentOpener(str(ID), "TOKEN", "mi-0123456789abcdef0"),
    ),
    "open-data-channel-plugin": (
        payloads.open_data_channel_client(
            ID, "TOKEN", client_id="6f1f2c1e-5b9d-4f0b-9a52-3d1a6f2c9e10", client_version=PLUGIN
        ),
        ClientOpener(str(ID), "TOKEN", "6f1f2c1e-5b9d-4f0b-9a52-3d1a6f2c9e10", PLUGIN),
    ),
}


def written(value: Any) -> str:
    text = value.serialize()
    return text if isinstance(text, str) else text.decode()


def test_no_golden_text_is_left_out():
    assert MEANINGS.keys() | OPENERS.keys() == GOLDEN.keys()


@pytest.mark.parametrize("name", MEANINGS)
def test_a_payload_is_written_exactly_as_go_writes_it(name):
    assert written(MEANINGS[name]) == GOLDEN[name]


@pytest.mark.parametrize("name", MEANINGS)
def test_a_payload_of_the_real_programs_is_read(name):
    text = GOLDEN[name]
    meaning = MEANINGS[name]
    read = type(meaning).parse(text if isinstance(meaning, payloads.ReplyContent) else text.encode())
    assert read == meaning


@pytest.mark.parametrize("name", OPENERS)
def test_an_opener_is_written_exactly_as_go_writes_it(name):
    assert OPENERS[name][0] == GOLDEN[name]


@pytest.mark.parametrize("name", OPENERS)
def test_an_opener_tells_who_opens(name):
    assert payloads.parse_opener(GOLDEN[name]) == OPENERS[name][1]


def test_a_session_task_is_written_as_in_the_golden_frame():
    document = {
        "schemaVersion": "1.0",
        "description": "",
        "sessionType": "Standard_Stream",
        "inputs": {},
        "parameters": {},
        "properties": {},
    }
    task = payloads.SessionTask(
        SESSION,
        "SSM-SessionManagerRunShell",
        document,
        session_owner="arn:aws:iam::123456789012:user/u",
        task_id=SESSION,
    )
    assert written(task) == FRAMES["interactive-shell-start"]
    assert payloads.SessionTask.parse(FRAMES["interactive-shell-start"].encode()) == task


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("channel-closed", payloads.ChannelClosed),
        ("channel-closed-with-output", payloads.ChannelClosed),
        ("handshake-request-shell", HandshakeRequest),
        ("handshake-response-shell", HandshakeResponse),
        ("handshake-complete", payloads.HandshakeComplete),
        ("agent-job-cancel", payloads.AgentJob),
        ("agent-job-ack", payloads.AgentJobAck),
        ("input-size", payloads.Size),
        ("ack-of-input", payloads.Acknowledge),
    ],
)
def test_the_payload_of_a_golden_frame_comes_out_as_it_went_in(name, kind):
    assert written(kind.parse(FRAMES[name].encode())) == FRAMES[name]


def test_flags_and_exit_codes_are_the_bytes_of_the_golden_frames():
    assert payloads.flag(2) == bytes.fromhex("00000002")
    assert payloads.parse_flag(bytes.fromhex("00000003")) == 3
    assert payloads.exit_code(2).decode() == FRAMES["exit-code"]
    assert payloads.parse_exit_code(b"EXIT_CODE: -1\n") == -1


@pytest.mark.parametrize("sealed", [one for group in SEALED["agent_to_client"] for one in group["agent_to_client"]])
def test_a_sealed_challenge_is_28_bytes_longer_than_its_text_and_travels_as_base64(sealed):
    cipher = bytes.fromhex(sealed["ciphertext_hex"])
    assert len(cipher) == len(bytes.fromhex(sealed["plaintext_hex"])) + 28
    challenge = payloads.EncryptionChallenge(cipher)
    assert payloads.EncryptionChallenge.parse(challenge.serialize()) == challenge


@given(st.sampled_from(["input_stream_data", "output_stream_data"]), st.uuids(), st.integers(0, 2**63 - 1))
def test_an_acknowledge_written_in_one_stroke_is_what_json_would_write(message_type, message_id, sequence):
    payload = payloads.acknowledge_wire_id(message_type, to_wire_id(message_id), sequence)
    as_json = {
        "AcknowledgedMessageType": message_type,
        "AcknowledgedMessageId": str(message_id),
        "AcknowledgedMessageSequenceNumber": sequence,
        "IsSequentialMessage": True,
    }
    assert payload.decode() == json.dumps(as_json, separators=(",", ":"))
    assert payloads.acknowledged_sequence(payload) == sequence
    assert payloads.Acknowledge.parse(payload) == payloads.Acknowledge(message_type, message_id, sequence)


def test_an_acknowledge_in_other_words_is_read_too():
    text = (
        f'{{ "isSequentialMessage": false, "acknowledgedmessagesequencenumber": 12, "AcknowledgedMessageId": "{ID}" }}'
    )
    assert payloads.acknowledged_sequence(text.encode()) == 12


def test_names_are_read_without_regard_to_case_and_unknown_ones_skipped():
    assert payloads.Size.parse(b'{"COLS":80,"Rows":24,"pixels":[1]}') == payloads.Size(80, 24)


def test_an_absent_or_null_field_is_the_empty_value_as_in_go():
    assert payloads.Size.parse(b'{"cols":null}') == payloads.Size(0, 0)


def test_go_escapes_what_html_would_take_for_markup_and_keeps_other_letters():
    complete = payloads.HandshakeComplete(1, "é<b>&\u2028\u2029\n\ud800")
    text = written(complete)
    assert text == '{"HandshakeTimeToComplete":1,"CustomerMessage":"é\\u003cb\\u003e\\u0026\\u2028\\u2029\\n\ufffd"}'


def test_maps_are_sorted_and_structs_are_not():
    request = HandshakeRequest.for_session(AGENT, "Port", {"b": [{"y": 1, "x": 2}], "a": 1})
    assert '"Properties":{"a":1,"b":[{"x":2,"y":1}]}' in written(request)


def test_what_is_no_json_is_our_own_error_when_we_write_it():
    with pytest.raises(LocalProtocolError):
        HandshakeResponse(PLUGIN, (ProcessedAction("x", 1, float("nan")),)).serialize()
    with pytest.raises(LocalProtocolError):
        HandshakeResponse(PLUGIN, (ProcessedAction("x", 1, object()),)).serialize()


def test_a_size_or_flag_that_no_field_holds_is_our_own_error():
    with pytest.raises(LocalProtocolError):
        payloads.Size(-1, 24).serialize()
    with pytest.raises(LocalProtocolError):
        payloads.flag(2**32)
    with pytest.raises(LocalProtocolError):
        payloads.flag(-1)


PARSERS: dict[str, Callable[[bytes], Any]] = {
    kind.__name__: kind.parse
    for kind in (
        payloads.Acknowledge,
        payloads.Size,
        HandshakeRequest,
        HandshakeResponse,
        payloads.HandshakeComplete,
        payloads.EncryptionChallenge,
        payloads.AgentSessionState,
        payloads.ChannelClosed,
        payloads.SessionTask,
        payloads.AgentTaskComplete,
        payloads.AgentTaskAcknowledge,
        payloads.AgentJob,
        payloads.AgentJobAck,
        payloads.AgentJobReply,
        payloads.AgentJobReplyAck,
        payloads.AgentTelemetry,
        payloads.AgentUpdateResult,
        payloads.CreateChannel,
    )
} | {
    "acknowledged_sequence": payloads.acknowledged_sequence,
    "exit code": payloads.parse_exit_code,
    "flag": payloads.parse_flag,
    "opener": lambda octets: payloads.parse_opener(octets.decode(errors="surrogateescape")),
    "reply content": lambda octets: payloads.ReplyContent.parse(octets.decode(errors="replace")),
    "token answer": lambda octets: payloads.parse_token_answer(octets.decode(errors="replace")),
}

NOT_AN_OBJECT = [
    b"",
    b" null",
    b"[]",
    b'"text"',
    b"{",
    b"\xff\xfe",
    b'{"a":NaN}',
    b"[" * 100_000,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b"9" * 5_000,
]


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("garbage", NOT_AN_OBJECT, ids=lambda octets: repr(octets[:8]))
def test_garbage_is_the_peers_error(name, garbage):
    with pytest.raises(RemoteProtocolError):
        PARSERS[name](garbage)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("aé<", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aB", max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(PARSERS)), st.sampled_from(sorted(GOLDEN)), st.data())
def test_a_field_of_another_type_is_read_or_is_the_peers_error(name, golden, data):
    value = json.loads(GOLDEN[golden])
    for key in data.draw(st.lists(st.sampled_from(sorted(value)), max_size=3)):
        value[key] = data.draw(json_values)
    with suppress(RemoteProtocolError):
        PARSERS[name](json.dumps(value).encode())


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("Size", b'{"cols":"80"}'),
        ("Size", b'{"cols":80.5}'),
        ("Size", b'{"cols":true}'),
        ("Size", b'{"cols":-1}'),
        ("Size", b'{"cols":4294967296}'),
        ("Acknowledge", b'{"AcknowledgedMessageId":"dd01e56bff48483ea508b5f073f31b16"}'),
        ("AgentSessionState", b'{"SessionState":1}'),
        ("EncryptionChallenge", b'{"Challenge":"not base64!"}'),
        ("EncryptionChallenge", '{"Challenge":"é"}'.encode()),
        ("HandshakeRequest", b'{"RequestedClientActions":{}}'),
        ("HandshakeRequest", b'{"RequestedClientActions":[1]}'),
        ("HandshakeRequest", b'{"RequestedClientActions":[{"ActionParameters":[]}]}'),
        ("HandshakeResponse", b'{"Errors":[1]}'),
        ("AgentTaskComplete", b'{"TaskId":"","IsRoutingFailure":false}'),
        ("AgentTaskComplete", b'{"TaskId":"s","IsRoutingFailure":"no"}'),
        ("AgentJob", b'{"JobId":"aws.ssm.c.i","Topic":"aws.ssm.other","Content":"{}"}'),
        ("AgentJob", b'{"JobId":"c.i","Topic":"aws.ssm.sendCommand","Content":"{}"}'),
        (
            "SessionTask",
            b'{"Content":"{\\"SessionId\\":\\"s\\",\\"DocumentContent\\":{\\"schemaVersion\\":\\"2.2\\"}}"}',
        ),
        ("SessionTask", b'{"Content":"{\\"DocumentContent\\":{\\"schemaVersion\\":\\"1.0\\"}}"}'),
        ("reply content", b'{"additionalInfo":{"runtimeStatusCounts":{"Failed":"1"}}}'),
        ("reply content", b'{"runtimeStatus":{"step":1}}'),
        ("flag", b"\0\0\0"),
        ("exit code", b"EXIT_CODE: "),
    ],
)
def test_a_field_that_go_could_not_read_is_the_peers_error(name, payload):
    with pytest.raises(RemoteProtocolError):
        PARSERS[name](payload)


def test_a_job_knows_its_command_and_whether_it_cancels():
    job = payloads.AgentJob(JOB, '{"CommandId":"x"}', "aws.ssm.sendCommand.us.east.1.1")
    assert job.command_id == "2b196342-d7d4-436e-8f09-3883a1116ac3"
    assert not job.is_cancel
    assert job.load_content() == {"CommandId": "x"}
    cancel = payloads.AgentJob.cancel(OTHER_JOB, JOB)
    assert cancel.is_cancel
    assert cancel.load_content() == {"CancelMessageId": JOB}


def test_the_content_of_a_job_may_be_unreadable_on_its_own():
    for content in ("", "[]", "{"):
        with pytest.raises(RemoteProtocolError):
            payloads.AgentJob(JOB, content).load_content()


def test_the_content_of_a_command_has_the_fields_that_the_agent_reads():
    content = payloads.send_command_content(
        command_id="c",
        document_name="AWS-RunShellScript",
        document_content={"schemaVersion": "2.2", "mainSteps": []},
        parameters={"commands": ["echo hi"]},
    )
    assert content == (
        '{"Parameters":{"commands":["echo hi"]},"DocumentContent":{"schemaVersion":"2.2","mainSteps":[]},'
        '"CommandId":"c","DocumentName":"AWS-RunShellScript","OutputS3KeyPrefix":"","OutputS3BucketName":"",'
        '"CloudWatchLogGroupName":"","CloudWatchOutputEnabled":"false"}'
    )


@pytest.mark.parametrize("session_type", ["Standard_Stream", "InteractiveCommands", "NonInteractiveCommands", "Port"])
def test_a_client_takes_the_four_session_types(session_type):
    request = HandshakeRequest.for_session(AGENT, session_type)
    assert request.session_type == session_type
    assert payloads.answer_handshake(request, client_version=PLUGIN) == HandshakeResponse(PLUGIN, (WELL,))


def test_a_client_says_what_it_cannot_do():
    request = HandshakeRequest.for_session(AGENT, "Foo", kms_key_id=KEY, challenge=b"c")
    response = payloads.answer_handshake(request, client_version=PLUGIN)
    assert [action.status for action in response.actions] == [2, 3]
    assert response.errors == ("Unknown session type Foo", "Unsupported action KMSEncryption")
    assert response.actions[0].error == "Failed to process action SessionType: Unknown session type Foo"


def test_a_request_without_a_session_type_has_an_empty_one():
    assert HandshakeRequest(AGENT, ()).session_type == ""
    assert HandshakeRequest(AGENT, ()).properties is None


def test_an_old_plugin_that_names_no_version_is_a_client():
    opener = payloads.parse_opener('{"TokenValue":"T","ClientId":"c"}')
    assert opener == ClientOpener("", "T", "c", "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"ClientId":"c","ClientVersion":"1.2.650.0"}',
        '{"TokenValue":"","ClientId":"c"}',
        '{"TokenValue":"T"}',
        '{"TokenValue":"T","ClientId":"c","ClientVersion":"1","ClientInstanceId":"i-1"}',
        '{"TokenValue":7,"ClientId":"c"}',
        '{"TokenValue":"T","ClientId":"' + "c" * payloads.MAX_OPENER + '"}',
    ],
    ids=["empty", "a list", "no token", "an empty token", "nobody", "both ends", "a number for a token", "too long"],
)
def test_a_bad_opener_is_the_peers_error(text):
    with pytest.raises(RemoteProtocolError):
        payloads.parse_opener(text)


@pytest.mark.parametrize("vector", vectors("payload-json.json")["xml"], ids=lambda vector: vector["xml"][:12])
def test_a_token_is_read_where_the_real_agent_reads_it(vector):
    if vector["token_value"] is None:
        with pytest.raises(RemoteProtocolError):
            payloads.parse_token_answer(vector["xml"])
    else:
        assert payloads.parse_token_answer(vector["xml"]) == vector["token_value"]


def test_a_token_answer_is_written_as_the_service_writes_it():
    expected = vectors("payload-json.json")["xml"][0]["xml"]
    assert payloads.token_answer("CreateControlChannel", "AAEAAQ==") == expected


@given(st.text("aé日<&>\"' =+/", min_size=1))
def test_any_token_comes_out_of_the_answer_as_it_went_in(token):
    assert payloads.parse_token_answer(payloads.token_answer("CreateDataChannel", token)) == token


@pytest.mark.parametrize(
    "body",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaa">]><x><TokenValue>&a;</TokenValue></x>',
        "<x><TokenValue></TokenValue></x>",
        "<x>",
        "<x>" + " " * payloads.MAX_TOKEN_ANSWER + "</x>",
    ],
    ids=["a document type", "an empty token", "half a tag", "too long"],
)
def test_a_bad_token_answer_is_the_peers_error(body):
    with pytest.raises(RemoteProtocolError):
        payloads.parse_token_answer(body)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(1_700_000_000_000, DATE), (0, "1970-01-01T00:00:00.000Z"), (1_700_000_000_007, "2023-11-14T22:13:20.007Z")],
)
def test_a_date_is_written_in_utc_with_milliseconds(milliseconds, text):
    assert payloads.iso_time(milliseconds) == text
