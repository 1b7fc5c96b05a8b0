"""A data channel under a KMS key: its handshake and challenge, what is sealed and what is not, and who is refused."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fleetops.wire import (
    ChallengeMet,
    ChallengeReceived,
    DataChannel,
    ExitCodeReceived,
    FlagReceived,
    HandshakeCompleted,
    HandshakeRequested,
    HandshakeResponded,
    InputReceived,
    LocalProtocolError,
    OutputReceived,
    PayloadType,
    RemoteProtocolError,
    Role,
    SizeReceived,
    State,
    parse,
    payloads,
)
from fleetops.wire.blockcipher import OVERHEAD, BlockCipher, CountingNonce

from .helpers import NOW, channel, output, stream, typed

KEY_ID = "arn:aws:kms:eu-west-1:111122223333:key/k"
DATA_KEY = bytes(range(64))
CHALLENGE = bytes(reversed(range(64)))


def cipher(role: Role, data_key: bytes = DATA_KEY) -> BlockCipher:
    is_agent = role is Role.AGENT
    return BlockCipher(data_key, is_agent=is_agent, cipher=AESGCM, next_nonce=CountingNonce(bytes([is_agent] * 12)))


def happened(end: DataChannel) -> list:
    """What an end has learned but for acknowledges."""
    return [event for event in end.events() if type(event).__name__ != "Acknowledged"]


def pass_on(source: DataChannel, target: DataChannel) -> list[bytes]:
    frames = source.data_to_send()
    for frame in frames:
        target.receive(frame, now=NOW)
    return frames


def answered(client_key: bytes = DATA_KEY) -> tuple[DataChannel, DataChannel]:
    """Both ends once the client has answered the handshake and each has its key."""
    agent, client = channel(Role.AGENT), channel(Role.CLIENT)
    request = payloads.HandshakeRequest.for_session(
        "3.3.987.0", "Standard_Stream", kms_key_id=KEY_ID, challenge=bytes(16)
    )
    agent.request_handshake(request, now=NOW)
    pass_on(agent, client)
    (asked,) = happened(client)
    assert isinstance(asked, HandshakeRequested)
    assert asked.request.kms_key_id == KEY_ID
    key = payloads.DataKey(b"blob", has_challenge=True)
    client.encrypt(cipher(Role.CLIENT, client_key), refusals=(InvalidTag,))
    client.respond_handshake(
        payloads.answer_handshake(asked.request, client_version="1.2.999.0", data_key=key), now=NOW
    )
    pass_on(client, agent)
    (response,) = happened(agent)
    assert isinstance(response, HandshakeResponded)
    assert (response.response.refusal, response.response.data_key) == ("", key)
    agent.encrypt(cipher(Role.AGENT), refusals=(InvalidTag,))
    return agent, client


def opened() -> tuple[DataChannel, DataChannel]:
    """Both ends of an open channel under one key."""
    agent, client = answered()
    agent.send_challenge(CHALLENGE, now=NOW)
    pass_on(agent, client)
    (challenge,) = happened(client)
    assert challenge == ChallengeReceived(CHALLENGE)
    client.answer_challenge(challenge.challenge, now=NOW)
    pass_on(client, agent)
    assert happened(agent) == [ChallengeMet()]
    agent.complete_handshake("This session is encrypted using AWS KMS.", now=NOW)
    pass_on(agent, client)
    assert isinstance(happened(client)[0], HandshakeCompleted)
    assert agent.state is client.state is State.OPEN
    pass_on(client, agent)
    return agent, client


def test_the_challenge_goes_to_and_fro_sealed_each_way_by_its_own_half_of_the_key():
    agent, client = answered()
    agent.send_challenge(CHALLENGE, now=NOW)
    ((_, asked),) = stream(pass_on(agent, client))
    sealed = payloads.EncryptionChallenge.parse(asked).challenge
    assert AESGCM(DATA_KEY[:32]).decrypt(sealed[:12], sealed[12:], None) == CHALLENGE
    client.answer_challenge(happened(client)[0].challenge, now=NOW)
    ((_, answer),) = stream(pass_on(client, agent))
    sealed = payloads.EncryptionChallenge.parse(answer).challenge
    assert AESGCM(DATA_KEY[32:]).decrypt(sealed[:12], sealed[12:], None) == CHALLENGE


def test_all_output_and_typed_input_are_sealed_sizes_and_flags_stay_clear():
    agent, client = opened()
    agent.send_output(b"x" * 3000, now=NOW)
    agent.send_output(b"err", payload_type=PayloadType.STDERR, now=NOW)
    agent.send_output(payloads.exit_code(3), payload_type=PayloadType.EXIT_CODE, now=NOW)
    agent.send_flag(3, now=NOW)
    frames = [parse(frame) for frame in pass_on(agent, client)]
    assert [len(message.payload) for message in frames] == [1024 + 28, 1024 + 28, 952 + 28, 3 + 28, 12 + 28, 4]
    assert all(b"xxxx" not in message.payload for message in frames)
    *pieces, error, code, flag = happened(client)
    assert b"".join(piece.data for piece in pieces) == b"x" * 3000
    assert (error.data, error.payload_type) == (b"err", PayloadType.STDERR)
    assert (code, flag) == (ExitCodeReceived(3), FlagReceived(3))

    client.send_input(b"ls\r", now=NOW)
    client.send_size(80, 24, now=NOW)
    messages = [parse(frame) for frame in pass_on(client, agent)][-2:]
    assert len(messages[0].payload) == 3 + OVERHEAD
    assert messages[1].payload == b'{"cols":80,"rows":24}'
    assert [type(event) for event in happened(agent)] == [InputReceived, SizeReceived]


def test_no_nonce_is_used_twice():
    agent, _ = opened()
    for _ in range(50):
        agent.send_output(b"x", now=NOW)
    payloads_sent = [payload for _, payload in stream(agent.data_to_send())]
    assert len({payload[:12] for payload in payloads_sent}) == 50


def test_a_repeat_is_the_same_bytes():
    agent, _ = opened()
    agent.send_output(b"x", now=NOW)
    (frame,) = agent.data_to_send()
    agent.handle_timeout(now=NOW + 5)
    assert agent.data_to_send() == [frame]


@pytest.mark.parametrize("payload", [b"plain", b"", b"x" * 11, b"x" * 27, b"x" * 28, bytes(100)])
def test_what_is_not_sealed_under_the_key_is_neither_taken_in_nor_acknowledged(payload):
    agent, client = opened()
    for end, make in ((agent, typed), (client, output)):
        end.data_to_send()
        number = end.expected_sequence
        for sequence in (number, number + 1):  # in its turn, and before
            with pytest.raises(RemoteProtocolError):
                end.receive(make(sequence, payload or b"x"), now=NOW)
        assert (end.expected_sequence, happened(end), end.data_to_send()) == (number, [], [])


def test_a_sealed_message_that_was_changed_on_the_way_comes_again():
    agent, client = opened()
    agent.send_output(b"good", now=NOW)
    (frame,) = agent.data_to_send()
    sealed = parse(frame)
    changed = output(sealed.sequence, sealed.payload[:-1] + bytes([sealed.payload[-1] ^ 1]))
    with pytest.raises(RemoteProtocolError, match="changed"):
        client.receive(changed, now=NOW)
    client.receive(frame, now=NOW)
    assert [event.data for event in happened(client)] == [b"good"]


def test_sealed_messages_out_of_order_are_taken_in_order():
    agent, client = opened()
    for letter in b"abc":
        agent.send_output(bytes([letter]), now=NOW)
    for frame in reversed(agent.data_to_send()):
        client.receive(frame, now=NOW)
    assert [event.data for event in happened(client) if isinstance(event, OutputReceived)] == [b"a", b"b", b"c"]


def test_a_wrong_answer_to_the_challenge_is_not_acknowledged_and_a_right_one_may_follow():
    agent, client = answered()
    agent.send_challenge(CHALLENGE, now=NOW)
    pass_on(agent, client)
    agent.data_to_send()
    number = agent.expected_sequence
    for wrong in (bytes(64), CHALLENGE[:-1]):
        sealed = payloads.EncryptionChallenge(cipher(Role.CLIENT).seal(wrong)).serialize()
        with pytest.raises(RemoteProtocolError, match="wrong"):
            agent.receive(typed(number, sealed, PayloadType.ENC_CHALLENGE_RESPONSE), now=NOW)
    assert (agent.state, happened(agent), agent.data_to_send()) == (State.CHALLENGED, [], [])
    client.answer_challenge(CHALLENGE, now=NOW)
    pass_on(client, agent)
    assert happened(agent) == [ChallengeMet()]


def test_a_client_with_another_key_cannot_read_the_challenge():
    agent, client = answered(client_key=bytes(64))
    agent.send_challenge(CHALLENGE, now=NOW)
    with pytest.raises(RemoteProtocolError, match="changed"):
        pass_on(agent, client)
    assert client.state is State.ANSWERED


def test_what_came_before_the_key_and_waited_is_forgotten():
    """Else somebody on the way could type in clear, under a number that has yet to come."""
    agent = channel(Role.AGENT)
    request = payloads.HandshakeRequest.for_session("3.3.987.0", "Standard_Stream", kms_key_id=KEY_ID)
    agent.request_handshake(request, now=NOW)
    agent.receive(typed(2, b"rm -rf /\r"), now=NOW)
    response = payloads.answer_handshake(request, client_version="1.2.999.0", data_key=payloads.DataKey(b"blob"))
    agent.receive(typed(0, response.serialize(), PayloadType.HANDSHAKE_RESPONSE), now=NOW)
    agent.encrypt(cipher(Role.AGENT), refusals=(InvalidTag,))
    agent.send_challenge(CHALLENGE, now=NOW)
    proof = payloads.EncryptionChallenge(cipher(Role.CLIENT).seal(CHALLENGE)).serialize()
    agent.receive(typed(1, proof, PayloadType.ENC_CHALLENGE_RESPONSE), now=NOW)
    agent.complete_handshake(now=NOW)
    assert not any(isinstance(event, InputReceived) for event in agent.events())
    assert agent.expected_sequence == 2


def test_without_a_key_nobody_challenges_and_nobody_answers():
    agent, client = channel(Role.AGENT, state=State.ANSWERED), channel(Role.CLIENT, state=State.CHALLENGED)
    with pytest.raises(LocalProtocolError, match="no key"):
        agent.send_challenge(CHALLENGE, now=NOW)
    with pytest.raises(LocalProtocolError, match="no key"):
        client.answer_challenge(CHALLENGE, now=NOW)


def test_an_answer_to_a_challenge_that_nobody_made_is_the_peers_error():
    agent, _ = answered()
    agent.data_to_send()
    proof = payloads.EncryptionChallenge(cipher(Role.CLIENT).seal(CHALLENGE)).serialize()
    with pytest.raises(RemoteProtocolError, match="nobody made"):
        agent.receive(typed(1, proof, PayloadType.ENC_CHALLENGE_RESPONSE), now=NOW)


def test_a_client_that_got_no_key_says_why_and_the_agent_reads_it():
    request = payloads.HandshakeRequest.for_session("3.3.987.0", "Standard_Stream", kms_key_id=KEY_ID)
    response = payloads.answer_handshake(request, client_version="1.2.999.0", kms_error="AccessDeniedException: no")
    assert response.errors == ("AccessDeniedException: no",)
    assert response.data_key is None
    assert response.refusal == (
        "KMSEncryption failed on client with status 2 error: "
        "Failed to process action KMSEncryption: AccessDeniedException: no"
    )


@pytest.mark.parametrize("result", [None, [], "x", {"KMSCipherTextKey": 5}, {"KMSCipherTextKey": "*"}])
def test_a_data_key_that_cannot_be_read_is_the_peers_error(result):
    response = payloads.HandshakeResponse("1.2.999.0", (payloads.ProcessedAction("KMSEncryption", 1, result),))
    with pytest.raises(RemoteProtocolError):
        _ = response.data_key


def test_the_encryption_context_is_the_real_agents():
    assert payloads.encryption_context("s-1", "mi-1") == {"aws:ssm:SessionId": "s-1", "aws:ssm:TargetId": "mi-1"}
    request = payloads.HandshakeRequest.for_session("3.3.987.0", "Port", kms_key_id=KEY_ID, challenge=bytes(range(16)))
    context = payloads.encryption_context("s-1", "mi-1", challenge=request.kms_challenge)
    assert context["aws:ssm:RandomChallenge"] == "AAECAwQFBgcICQoLDA0ODw=="
