"""Every move that a table holds, and every one that it does not."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fleetops.wire import (
    AGENT_MOVES,
    CLIENT_MOVES,
    DataChannel,
    LocalProtocolError,
    Move,
    PayloadType,
    RemoteProtocolError,
    Role,
    State,
    payloads,
)
from fleetops.wire.blockcipher import BlockCipher

from .helpers import NOW, channel, frame, output, typed

TABLES = {Role.CLIENT: CLIENT_MOVES, Role.AGENT: AGENT_MOVES}
REQUEST = payloads.HandshakeRequest.for_session("3.3.987.0", "Port")
RESPONSE = payloads.answer_handshake(REQUEST, client_version="1.2.650.0")
COMPLETE = payloads.HandshakeComplete(1)
CHALLENGE = bytes(range(64))
# Moves that only a channel with a data key makes.
SEALED = {Move.SEND_CHALLENGE, Move.RECEIVE_CHALLENGE, Move.SEND_PROOF, Move.RECEIVE_PROOF}


def cipher(role: Role) -> BlockCipher:
    return BlockCipher(bytes(range(64)), is_agent=role is Role.AGENT, cipher=AESGCM, next_nonce=lambda: bytes(12))


def sealed(role: Role) -> bytes:
    return payloads.EncryptionChallenge(cipher(role).seal(CHALLENGE)).serialize()


SENDING = {
    (Role.AGENT, Move.SEND_REQUEST): lambda end: end.request_handshake(REQUEST, now=NOW),
    (Role.CLIENT, Move.SEND_RESPONSE): lambda end: end.respond_handshake(RESPONSE, now=NOW),
    (Role.AGENT, Move.SEND_CHALLENGE): lambda end: end.send_challenge(CHALLENGE, now=NOW),
    (Role.CLIENT, Move.SEND_PROOF): lambda end: end.answer_challenge(CHALLENGE, now=NOW),
    (Role.AGENT, Move.SEND_COMPLETE): lambda end: end.complete_handshake(now=NOW),
    (Role.CLIENT, Move.SEND_STREAM): lambda end: end.send_input(b"x", now=NOW),
    (Role.AGENT, Move.SEND_STREAM): lambda end: end.send_output(b"x", now=NOW),
}
RECEIVING = {
    (Role.CLIENT, Move.RECEIVE_REQUEST): output(0, REQUEST.serialize(), PayloadType.HANDSHAKE_REQUEST),
    (Role.AGENT, Move.RECEIVE_RESPONSE): typed(0, RESPONSE.serialize(), PayloadType.HANDSHAKE_RESPONSE),
    (Role.CLIENT, Move.RECEIVE_CHALLENGE): output(0, sealed(Role.AGENT), PayloadType.ENC_CHALLENGE_REQUEST),
    (Role.AGENT, Move.RECEIVE_PROOF): typed(0, sealed(Role.CLIENT), PayloadType.ENC_CHALLENGE_RESPONSE),
    (Role.CLIENT, Move.RECEIVE_COMPLETE): output(0, COMPLETE.serialize(), PayloadType.HANDSHAKE_COMPLETE),
    (Role.CLIENT, Move.RECEIVE_STREAM): output(0, b"x"),
    (Role.AGENT, Move.RECEIVE_STREAM): typed(0, b"x"),
}


def in_state(role: Role, state: State, move: Move | None = None) -> DataChannel:
    if move is Move.RECEIVE_PROOF:  # of a challenge that was made
        end = channel(role, state=State.ANSWERED)
        end.encrypt(cipher(role), refusals=(InvalidTag,))
        end.send_challenge(CHALLENGE, now=NOW)
        end.data_to_send()
        end._enter(state)
        return end
    end = channel(role, state=state)
    if move in SEALED:
        end.encrypt(cipher(role), refusals=(InvalidTag,))
    return end


def cases(moves):
    return [
        pytest.param(role, state, move, id=f"{role.value}-{state.value}-{move.value}")
        for role, move in moves
        for state in State
    ]


@pytest.mark.parametrize(("role", "state", "move"), cases(SENDING))
def test_what_we_send_follows_the_table_or_is_our_own_error(role, state, move):
    end = in_state(role, state, move)
    target = TABLES[role][state].get(move)
    if target is None:
        with pytest.raises(LocalProtocolError):
            SENDING[role, move](end)
        assert (end.state, end.next_sequence, end.data_to_send()) == (state, 0, [])
    else:
        SENDING[role, move](end)
        assert (end.state, end.next_sequence, len(end.data_to_send())) == (target, 1, 1)


@pytest.mark.parametrize(("role", "state", "move"), cases(RECEIVING))
def test_what_we_receive_follows_the_table_or_is_the_peers_error(role, state, move):
    end = in_state(role, state, move)
    target = TABLES[role][state].get(move)
    if target is not None:
        end.receive(RECEIVING[role, move], now=NOW)
        assert (end.state, end.expected_sequence, len(end.data_to_send())) == (target, 1, 1)
        return
    if state is State.CLOSED:
        end.receive(RECEIVING[role, move], now=NOW)
    else:
        with pytest.raises(RemoteProtocolError):
            end.receive(RECEIVING[role, move], now=NOW)
    assert (end.state, end.expected_sequence, end.events(), end.data_to_send()) == (state, 0, [], [])


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", State)
def test_every_state_but_the_last_can_be_closed_from_either_side(role, state):
    ours = in_state(role, state)
    ours.close(now=NOW)
    theirs = in_state(role, state)
    theirs.receive(frame("channel_closed"), now=NOW)
    assert ours.state is theirs.state is State.CLOSED
    assert len(ours.data_to_send()) == len(theirs.events()) == (state is not State.CLOSED)


@pytest.mark.parametrize("role", Role)
def test_a_table_names_every_state_and_only_moves_of_its_role(role):
    possible = {move for owner, move in [*SENDING, *RECEIVING] if owner is role} | {Move.CLOSE}
    assert TABLES[role].keys() == set(State)
    assert {move for row in TABLES[role].values() for move in row} == possible


CLIENTS_ONLY = {
    "send_input": lambda end: end.send_input(b"x", now=NOW),
    "send_size": lambda end: end.send_size(80, 24, now=NOW),
    "respond_handshake": lambda end: end.respond_handshake(RESPONSE, now=NOW),
    "answer_challenge": lambda end: end.answer_challenge(CHALLENGE, now=NOW),
    "fill": lambda end: end.fill([0], 80, 24, now=NOW),
}
AGENTS_ONLY = {
    "send_output": lambda end: end.send_output(b"x", now=NOW),
    "send_state": lambda end: end.send_state("Connected", now=NOW),
    "request_handshake": lambda end: end.request_handshake(REQUEST, now=NOW),
    "send_challenge": lambda end: end.send_challenge(CHALLENGE, now=NOW),
    "complete_handshake": lambda end: end.complete_handshake(now=NOW),
}


@pytest.mark.parametrize("deed", CLIENTS_ONLY)
def test_what_only_a_client_does_is_our_own_error_in_an_agent(deed):
    with pytest.raises(LocalProtocolError, match="only the client"):
        CLIENTS_ONLY[deed](in_state(Role.AGENT, State.OPEN))


@pytest.mark.parametrize("deed", AGENTS_ONLY)
def test_what_only_an_agent_does_is_our_own_error_in_a_client(deed):
    with pytest.raises(LocalProtocolError, match="only the agent"):
        AGENTS_ONLY[deed](in_state(Role.CLIENT, State.OPEN))


def test_sizes_are_no_output():
    with pytest.raises(LocalProtocolError):
        in_state(Role.AGENT, State.OPEN).send_output(b"{}", payload_type=PayloadType.SIZE, now=NOW)


def test_a_closed_channel_sends_nothing_more():
    agent = in_state(Role.AGENT, State.CLOSED)
    client = channel(Role.CLIENT, next_sequence=2, state=State.CLOSED)
    for deed in (
        lambda: agent.send_state("Terminating", now=NOW),
        lambda: agent.send_flag(1, now=NOW),
        lambda: client.fill([0], 80, 24, now=NOW),
        lambda: client.send_size(80, 24, now=NOW),
    ):
        with pytest.raises(LocalProtocolError):
            deed()
