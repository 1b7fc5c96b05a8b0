"""Sealed payloads, against the bytes of the real programs."""

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fleetops.wire.blockcipher import OVERHEAD, BlockCipher, CountingNonce
from fleetops.wire.errors import LocalProtocolError, RemoteProtocolError

from .helpers import vectors

VECTORS = vectors("blockcipher.json")
WRONG_TAG = (InvalidTag,)


def cipher(data_key: str, *, is_agent: bool, next_nonce=lambda: bytes(12)) -> BlockCipher:
    return BlockCipher(bytes.fromhex(data_key), is_agent=is_agent, cipher=AESGCM, next_nonce=next_nonce)


@pytest.mark.parametrize("vector", VECTORS["agent_to_client"], ids=lambda vector: vector["name"])
def test_an_agent_seals_byte_for_byte_as_the_real_one_with_a_nonce_that_counts(vector):
    nonce = CountingNonce(bytes.fromhex(vector["initial_nonce_hex"]))
    agent = cipher(vector["data_key_hex"], is_agent=True, next_nonce=nonce)
    client = cipher(vector["data_key_hex"], is_agent=False)
    for message in vector["agent_to_client"]:
        plain, sealed = bytes.fromhex(message["plaintext_hex"]), bytes.fromhex(message["ciphertext_hex"])
        assert agent.seal(plain) == sealed
        assert client.open(sealed, refusals=WRONG_TAG) == plain
        assert len(sealed) == len(plain) + OVERHEAD


@pytest.mark.parametrize("vector", VECTORS["client_to_agent"])
def test_a_client_seals_byte_for_byte_as_the_plugin(vector):
    plain, sealed = bytes.fromhex(vector["plaintext_hex"]), bytes.fromhex(vector["ciphertext_hex"])
    client = cipher(vector["data_key_hex"], is_agent=False, next_nonce=lambda: bytes.fromhex(vector["nonce_hex"]))
    assert client.seal(plain) == sealed
    assert cipher(vector["data_key_hex"], is_agent=True).open(sealed, refusals=WRONG_TAG) == plain


@pytest.mark.parametrize("vector", VECTORS["agent_decrypt_failures"], ids=lambda vector: vector["name"])
def test_what_was_changed_or_cut_short_is_refused_where_the_real_programs_fail_or_panic(vector):
    agent = cipher(vector["data_key_hex"], is_agent=True)
    with pytest.raises(RemoteProtocolError):
        agent.open(bytes.fromhex(vector["ciphertext_hex"]), refusals=WRONG_TAG)


def test_one_way_is_not_opened_with_the_other_ways_key():
    agent = cipher(VECTORS["client_to_agent"][0]["data_key_hex"], is_agent=True)
    with pytest.raises(RemoteProtocolError, match="another key"):
        agent.open(agent.seal(b"ls"), refusals=WRONG_TAG)


def test_keys_and_nonces_of_another_length_are_our_own_bug():
    with pytest.raises(LocalProtocolError, match="64 bytes"):
        cipher("00" * 32, is_agent=True)
    with pytest.raises(LocalProtocolError, match="12 bytes"):
        CountingNonce(bytes(11))
