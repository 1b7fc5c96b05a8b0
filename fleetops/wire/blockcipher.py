"""How a session under a KMS key seals its payloads: which key for which way, where the nonce lies, how it counts.

The cipher itself, AES-256 in GCM with a tag of 16 bytes and no associated data, is the caller's: the standard library
has none. Source: amazon-ssm-agent, agent/session/crypto/blockcipher.go and nonce.go; session-manager-plugin,
src/encryption/encrypter.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from .errors import LocalProtocolError, RemoteProtocolError

DATA_KEY_BYTES: Final = 64  # KMS's plaintext: two keys of 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
OVERHEAD: Final = NONCE_BYTES + TAG_BYTES  # what a sealed payload is longer


class Aead(Protocol):
    """AES-256-GCM under one key; `cryptography`'s AESGCM has this shape. `decrypt` raises on a tag that is wrong."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


class CountingNonce:
    """The agent's nonces: a 96 bit number, little-endian, one more for each message; it wraps.

    `start`: 12 bytes at random. Never two under one key: the counter makes that certain, chance would not.
    """

    def __init__(self, start: bytes) -> None:
        if len(start) != NONCE_BYTES:
            raise LocalProtocolError(f"a nonce has {NONCE_BYTES} bytes, not {len(start)}")
        self._next = int.from_bytes(start, "little")

    def __call__(self) -> bytes:
        nonce = self._next.to_bytes(NONCE_BYTES, "little")
        self._next = (self._next + 1) % (1 << (8 * NONCE_BYTES))
        return nonce


class BlockCipher:
    """Seals what one end sends and opens what the other sent. `is_agent`: which end this is.

    The first half of the data key is for the way from agent to client, the second for the way back. `cipher` makes the
    AEAD of a key of 32 bytes; `next_nonce` gives one of 12 bytes that was never used before.

    Raises LocalProtocolError for a data key that has not 64 bytes.
    """

    def __init__(
        self, data_key: bytes, *, is_agent: bool, cipher: Callable[[bytes], Aead], next_nonce: Callable[[], bytes]
    ) -> None:
        if len(data_key) != DATA_KEY_BYTES:
            raise LocalProtocolError(f"a data key has {DATA_KEY_BYTES} bytes, not {len(data_key)}")
        to_client, to_agent = cipher(data_key[:32]), cipher(data_key[32:])
        self._ours, self._theirs = (to_client, to_agent) if is_agent else (to_agent, to_client)
        self._next_nonce = next_nonce

    def seal(self, plain: bytes) -> bytes:
        """Nonce, ciphertext and tag in one: OVERHEAD bytes longer than `plain`."""
        nonce = self._next_nonce()
        return nonce + self._ours.encrypt(nonce, plain, None)

    def open(self, sealed: bytes, *, refusals: tuple[type[Exception], ...]) -> bytes:
        """What the other end sealed. `refusals`: what the cipher raises for a wrong tag.

        Raises RemoteProtocolError if it is cut short (the real programs panic on less than a nonce) or was changed.
        """
        if len(sealed) < OVERHEAD:
            raise RemoteProtocolError(f"a sealed payload of {len(sealed)} bytes is cut short: {OVERHEAD} are the least")
        try:
            return self._theirs.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        except refusals:
            raise RemoteProtocolError("a sealed payload was changed, or sealed under another key") from None
