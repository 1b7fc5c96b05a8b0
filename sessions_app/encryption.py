"""Sessions under a KMS key: the agent asks for it in a handshake, and from then on what is typed and shown is sealed.

KMS makes a data key for this one session on this one target, under the role that the session was opened with. The key
is in memory alone. In the session's row is what KMS made of it, with which the next owner has it decrypted: the agent
keeps its end of the channel, with its numbers and its key, and asks for no second handshake.

Source: amazon-ssm-agent, agent/session/datachannel/datachannel.go and agent/session/crypto/blockcipher.go;
session-manager-plugin, src/datachannel/streaming.go and src/encryption/.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import logging
import os
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.db import DatabaseError

from fleetops.aws import kms
from fleetops.aws.errors import Unavailable
from fleetops.clock import steady
from fleetops.errors import UserError
from fleetops.wire import State, payloads
from fleetops.wire.blockcipher import DATA_KEY_BYTES, NONCE_BYTES, BlockCipher

from .models import TerminalSession
from .services import LateOwner, account_of
from .streams import under_its_role

if TYPE_CHECKING:
    from .journal import Journal
    from .proxy import Proxy

logger = logging.getLogger(__name__)

WAITING = "The key of this encrypted session is fetched again; what you type waits."
UNFINISHED = "FleetOps was stopped while the encryption of the session was being agreed on. Connect again."
REGAIN_DELAYS = (0.0, 0.5, 1.0, 2.0, 5.0)  # seconds before each try; the last is repeated
REGAIN_SECONDS = 60.0  # then the session ends in words
# The agent's stream begins with its request, its challenge and the end of the handshake: numbers 0 to 2.
_HANDSHAKE_ENDS = 2


class Encryption:
    """Of one session, in the process that owns it."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        if proxy.session.encryption:
            proxy.hold_input(True, WAITING)  # nothing may leave before it can be sealed

    async def agree(self, request: payloads.HandshakeRequest, *, client_version: str) -> None:
        """Answer a handshake that names a key. Without a data key the session ends, in words."""
        proxy = self._proxy
        try:
            data_key = await proxy.threads.aws(_obtain, proxy.session, request)
        except LateOwner:
            proxy.let_go()
            return
        except DatabaseError:
            logger.exception("a data key could not be kept session=%s", proxy.session.pk)
            proxy.end("FleetOps's database does not answer, so the session was not begun. Connect again.")
            return
        except UserError as error:
            proxy.end(f"Sessions of this account are encrypted with a KMS key. {error}")
            return
        if proxy.channel.state is State.HANDSHAKING:
            self._seal_with(data_key.plain)
            kept = payloads.DataKey(data_key.ciphertext, has_challenge=bool(request.kms_challenge))
            proxy.respond(payloads.answer_handshake(request, client_version=client_version, data_key=kept))

    async def regain(self) -> None:
        """Go on under the key of the owner before us, if there is one. Raises UserError, in words."""
        proxy = self._proxy
        if is_unfinished(proxy.session, proxy.journal, is_open=proxy.channel.state is State.OPEN):
            raise UserError(UNFINISHED)
        if not proxy.session.encryption:
            return
        began = steady()
        for delay in itertools.chain(REGAIN_DELAYS, itertools.repeat(REGAIN_DELAYS[-1])):
            await asyncio.sleep(delay)
            try:
                self._seal_with(await proxy.threads.aws(_regain, proxy.session))
                break
            except (Unavailable, DatabaseError) as error:
                logger.warning("a data key could not be fetched session=%s: %s", proxy.session.pk, error)
                if steady() - began > REGAIN_SECONDS:
                    raise UserError(f"The key of this encrypted session could not be had again: {error}") from None
        proxy.hold_input(False, WAITING)

    def _seal_with(self, key: bytes) -> None:
        cipher = BlockCipher(key, is_agent=False, cipher=AESGCM, next_nonce=lambda: os.urandom(NONCE_BYTES))
        self._proxy.channel.encrypt(cipher, refusals=(InvalidTag,))


def is_unfinished(session: TerminalSession, journal: Journal, *, is_open: bool) -> bool:
    """Whether the owner before died in the handshake of an encrypted session, of which the rest cannot be made up.

    A shell has a handshake only if it is encrypted, so a stream that has begun without output is one. `is_open`: the
    channel of another kind, which knows of its handshake.
    """
    if session.encryption and not is_open:
        return True
    return not journal.output_end and 0 <= journal.state.output_sequence < _HANDSHAKE_ENDS and is_open


def _obtain(session: TerminalSession, request: payloads.HandshakeRequest) -> kms.DataKey:
    """Have KMS make the data key, and keep what the next owner needs. Raises AwsError, UserError, LateOwner."""
    account = under_its_role(account_of(session).access(), session)
    data_key = kms.generate_data_key(
        account,
        session.region,
        key_id=request.kms_key_id,
        size=DATA_KEY_BYTES,
        context=payloads.encryption_context(
            session.ssm_session_id, session.instance_id, challenge=request.kms_challenge
        ),
        session_name=session.user_name,
        source_identity=session.user_name,
        run_as=session.run_as,
    )
    session.encryption = {
        "key_id": request.kms_key_id,
        "challenge": request.kms_challenge,
        "ciphertext": base64.b64encode(data_key.ciphertext).decode(),
    }
    mine = TerminalSession.objects.filter(pk=session.pk, owner_epoch=session.owner_epoch)
    if not mine.update(encryption=session.encryption):
        raise LateOwner(str(session.pk))
    logger.info("session is encrypted session=%s", session.pk)
    return data_key


def _regain(session: TerminalSession) -> bytes:
    """Have KMS decrypt the data key. Raises AwsError, UserError."""
    kept = session.encryption
    return kms.decrypt(
        under_its_role(account_of(session).access(), session),
        session.region,
        key_id=kept["key_id"],
        ciphertext=base64.b64decode(kept["ciphertext"]),
        context=payloads.encryption_context(session.ssm_session_id, session.instance_id, challenge=kept["challenge"]),
        session_name=session.user_name,
        source_identity=session.user_name,
        run_as=session.run_as,
    )
