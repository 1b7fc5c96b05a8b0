"""The calls to SSM that open, resume and end a session. Each blocks; the token stays with who called."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from fleetops.aws import ssm
from fleetops.aws.clients import AccountAccess
from fleetops.aws.errors import AccessDenied, AwsError
from fleetops.clock import now

from . import session_documents, tokens
from .models import TerminalSession
from .services import account_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stream:
    """A data channel that may be opened now. It is never written down."""

    session_id: str
    url: str = field(repr=False)
    token: str = field(repr=False)
    access: AccountAccess = field(repr=False)  # so that the session can be ended without asking the database

    @property
    def is_embedded(self) -> bool:
        """At an endpoint of ours, whose shells begin without a handshake."""
        return bool(self.access.endpoint_url)


def marker(session: TerminalSession) -> str:
    """By this word in its reason a session is found again whose StartSession was never answered."""
    return f"fleetops:{session.pk}"


def start(session: TerminalSession) -> Stream:
    """Call StartSession, once, in the name of the session's user.

    Raises UserError: the account is gone; AwsError as ssm.start_session does. If that leaves open whether AWS opened
    the session, `terminate` ends what it may have opened.
    """
    account = account_of(session).access()
    access = under_its_role(account, session)
    document, parameters = session_documents.for_session(session, account, under=access)
    try:
        answer = _start(access, session, document, parameters)
    except AccessDenied as error:
        # A role of before our documents may start plain shells alone.
        if not document or not session_documents.refused(session, access, str(error)):
            raise
        answer = _start(access, session, "", {})
    except AwsError as error:
        if error.code != "InvalidDocument" or not document:
            raise
        session_documents.forget(session)  # somebody has deleted it there
        answer = _start(access, session, *session_documents.for_session(session, account, under=access))
    return Stream(answer.session_id, answer.stream_url, answer.token, account)


def _start(
    access: AccountAccess, session: TerminalSession, document: str, parameters: dict[str, list[str]]
) -> ssm.StartedSession:
    return ssm.start_session(
        access,
        session.region,
        target=session.instance_id,
        reason=f"{marker(session)} {session.reason}".strip(),
        session_name=session.user_name,
        source_identity=session.user_name,
        document_name=document,
        parameters=parameters,
        run_as=session.run_as,
    )


def under_its_role(account: AccountAccess, session: TerminalSession) -> AccountAccess:
    """The account, reached under the IAM role that the policy named for this session, if it did.

    It is assumed by the account's base credentials. TerminateSession goes under the account's own role all the same: a
    session has to end, whatever its role may do.
    """
    role_arn = session.role_arn or account.role_arn
    return replace(account, role_arn=role_arn, issued_after=tokens.issued_after(session, role_arn))


def resume(session: TerminalSession) -> Stream:
    """Call ResumeSession; the token of before is worth nothing from then on. Raises UserError, AwsError."""
    account = account_of(session).access()
    answer = ssm.resume_session(
        under_its_role(account, session),
        session.region,
        session_id=session.ssm_session_id,
        session_name=session.user_name,
        source_identity=session.user_name,
        run_as=session.run_as,
    )
    return Stream(session.ssm_session_id, answer.stream_url, answer.token, account)


def terminate(session: TerminalSession, access: AccountAccess | None = None) -> bool:
    """Call TerminateSession; returns whether AWS has confirmed that the session is over. Raises UserError, AwsError.

    Where StartSession was not answered, AWS's id is not known: then its list is searched, and nothing in it confirms
    nothing yet. With `access`, of before, no database is needed.
    """
    access = access or account_of(session).access()
    if session.ssm_session_id:
        _terminate(access, session, session.ssm_session_id)
        return True
    found = ssm.describe_sessions(
        access,
        session.region,
        session_name=session.user_name,
        source_identity=session.user_name,
        target=session.instance_id,
    )
    unanswered = [each.session_id for each in found if each.reason.split(" ")[0] == marker(session)]
    for session_id in unanswered:
        _terminate(access, session, session_id)
        logger.warning("an unanswered session was ended session=%s", session.pk)
    return bool(unanswered)


def _terminate(access: AccountAccess, session: TerminalSession, session_id: str) -> None:
    def terminate_as(way: AccountAccess) -> None:
        ssm.terminate_session(
            way,
            session.region,
            session_id=session_id,
            session_name=session.user_name,
            source_identity=session.user_name,
        )

    try:
        terminate_as(access)
    except AccessDenied:
        if not access.role_arn:
            raise
        # Older tokens of this person may be denied by now, see tokens.py, and the kept ones are; new ones are not.
        terminate_as(replace(access, issued_after=now().isoformat()))
