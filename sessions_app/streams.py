"""The calls to SSM that open, resume and end a session. Each blocks; the token stays with who called."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from fleetops.aws import ssm
from fleetops.aws.errors import AwsError, Unavailable

from .models import TerminalSession
from .services import account_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stream:
    """A data channel that may be opened now. It is never written down."""

    session_id: str
    url: str = field(repr=False)
    token: str = field(repr=False)
    ca_pem: str = field(repr=False)
    is_embedded: bool = False  # at an endpoint of ours, whose shells begin without a handshake


def marker(session: TerminalSession) -> str:
    """By this word in its reason a session is found again whose StartSession was never answered."""
    return f"fleetops:{session.pk}"


def start(session: TerminalSession) -> Stream:
    """Call StartSession, once, in the name of the session's user.

    If it is not known whether AWS opened the session, what it may have opened is ended. Raises UserError: the
    account is gone; AwsError as ssm.start_session does.
    """
    access = account_of(session).access()
    try:
        answer = ssm.start_session(
            access,
            session.region,
            target=session.instance_id,
            reason=f"{marker(session)} {session.reason}".strip(),
            session_name=session.user_name,
            source_identity=session.user_name,
        )
    except Unavailable as error:
        if error.is_outcome_unknown:
            terminate_unknown(session)
        raise
    return Stream(
        answer.session_id, answer.stream_url, answer.token, access.ca_pem, is_embedded=bool(access.endpoint_url)
    )


def resume(session: TerminalSession) -> Stream:
    """Call ResumeSession; the token of before is worth nothing from then on. Raises UserError, AwsError."""
    access = account_of(session).access()
    answer = ssm.resume_session(
        access,
        session.region,
        session_id=session.ssm_session_id,
        session_name=session.user_name,
        source_identity=session.user_name,
    )
    return Stream(session.ssm_session_id, answer.stream_url, answer.token, access.ca_pem)


def terminate(session: TerminalSession) -> None:
    """Call TerminateSession. Raises UserError, AwsError."""
    ssm.terminate_session(
        account_of(session).access(),
        session.region,
        session_id=session.ssm_session_id,
        session_name=session.user_name,
        source_identity=session.user_name,
    )


def terminate_unknown(session: TerminalSession) -> None:
    """End whatever session AWS may have opened for a StartSession that was not answered. Never raises AwsError."""
    access = account_of(session).access()
    try:
        for found in ssm.describe_sessions(
            access,
            session.region,
            session_name=session.user_name,
            source_identity=session.user_name,
            target=session.instance_id,
        ):
            if found.reason.split(" ")[0] == marker(session):
                ssm.terminate_session(
                    access,
                    session.region,
                    session_id=found.session_id,
                    session_name=session.user_name,
                    source_identity=session.user_name,
                )
                logger.warning("an unanswered session was ended session=%s", session.pk)
    except AwsError as error:
        logger.warning("an unanswered session may still be open at AWS session=%s: %s", session.pk, error)
