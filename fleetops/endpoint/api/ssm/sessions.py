"""Sessions: start, resume, terminate, describe."""

import asyncio
import copy
import re
import secrets

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint import session_documents
from fleetops.endpoint.calls import Call, NodeKey
from fleetops.endpoint.documents import AMAZON
from fleetops.endpoint.hub import NotConnected, SessionGone, SessionTask, TooManySessions
from fleetops.endpoint.models import Session

from .shared import INSTANCE_ID, Part, Result, document_arn, read_number, target_arn, token

_LONGEST_SESSION_NAME = 78  # with "-" and 17 digits a session id stays within 96 characters
_SESSION_DIGITS = 17
_DEFAULT_SESSIONS_PAGE = 200


class Sessions(Part):
    """The sessions of a region."""

    names = ("start_session", "resume_session", "terminate_session", "describe_sessions")

    async def start_session(self, call: Call, parameters: Result) -> Result:
        """Start a session: its row first, then the agent is told; without an agent the row goes again."""
        target = parameters["Target"]
        name = parameters.get("DocumentName") or session_documents.DEFAULT_DOCUMENT
        call.resources = [target]
        key: NodeKey = (call.account_id, call.region, target)
        await self._allow_start(call, target, name if "DocumentName" in parameters else "")
        document, arn = await self._document(call, name)
        if "DocumentName" in parameters and arn != document_arn(call, name):  # named in another way
            await self._allow(call, [arn], is_checked=True)
        if "inputs" not in document:
            preferences, _ = await self._document(call, session_documents.DEFAULT_DOCUMENT)
            document = session_documents.under_preferences(document, preferences)
        # A pattern may take up to its time limit for each value: not on the loop that carries the terminals.
        given = parameters.get("Parameters", {})
        values = await asyncio.to_thread(session_documents.check_parameters, document, given)
        if not INSTANCE_ID.fullmatch(target) or not self.endpoint.hub.is_connected(key):
            raise ApiError("TargetNotConnected", f"{target} is not connected.")
        assert call.principal is not None
        idle, longest = session_documents.limits(document)
        document = session_documents.for_agent(document, values)
        session = Session(
            session_id=_session_id(call),
            account_id=call.account_id,
            region=call.region,
            target=target,
            owner_arn=call.principal.arn,
            document_name=name,
            document_content=document,
            parameters=values,
            run_as_user=call.principal.tags.get("SSMSessionRunAs", ""),
            reason=parameters.get("Reason", ""),
            idle_seconds=idle,
            longest_seconds=longest,
            started_at=call.now,
        )
        await self.endpoint.sessions.add(session)
        try:
            token = await self.endpoint.hub.start_session(
                SessionTask(
                    session_id=session.session_id,
                    key=key,
                    document_name=name,
                    document_content=document,
                    parameters=values,
                    run_as_user=session.run_as_user,
                    owner_arn=session.owner_arn,
                    idle_seconds=idle,
                    longest_seconds=longest,
                    client_is_ours="fleetops/" in call.user_agent,
                )
            )
        except (NotConnected, TooManySessions) as error:
            await self.endpoint.sessions.remove(session)
            raise ApiError("TargetNotConnected", f"{error}.") from None
        call.resources.append(session.session_id)
        return self._opened(call, session.session_id, token)

    async def _allow_start(self, call: Call, target: str, document: str) -> None:
        """Return if the caller may start a session there. Raises ApiError (access denied).

        A document that is named is checked always. One that is not, SSM-SessionManagerRunShell, only where a policy
        demands it: "BoolIfExists": {"ssm:SessionDocumentAccessCheck": "true"}.
        """
        arn = target_arn(call, target)
        if document:
            return await self._allow(call, [arn, document_arn(call, document)], is_checked=True)
        try:
            await self._allow(call, [arn], is_checked=False)
        except ApiError:
            own = document_arn(call, session_documents.DEFAULT_DOCUMENT)
            await self._allow(call, [arn, own], is_checked=True)

    async def _allow(self, call: Call, arns: list[str], *, is_checked: bool) -> None:
        context = {"ssm:sessiondocumentaccesscheck": ["true" if is_checked else "false"]}
        await self.endpoint.authorizer.allow(call, "ssm:StartSession", arns, context)

    async def _document(self, call: Call, name: str) -> tuple[Result, str]:
        """The content of a session document and its ARN; AWS's defaults for preferences that nobody has saved yet."""
        try:
            stored = await self.endpoint.documents.find(call.account_id, call.region, name)
        except ApiError:
            if name != session_documents.DEFAULT_DOCUMENT:
                raise
            return copy.deepcopy(session_documents.DOCUMENTS[name]), document_arn(call, name)
        if stored.document_type != "Session":
            raise ApiError("InvalidDocument", f"{name} is a {stored.document_type} document, not a Session document.")
        owner = "" if stored.owner == AMAZON else stored.owner
        return stored.content, f"arn:aws:ssm:{stored.region}:{owner}:document/{stored.name}"

    async def resume_session(self, call: Call, parameters: Result) -> Result:
        session = await self._session(call, parameters["SessionId"], "ssm:ResumeSession")
        try:
            token = self.endpoint.hub.resume_session(session.session_id)
        except SessionGone:
            # An answer without a token tells the plugin that the session is over; an error would make it try again.
            return {"SessionId": session.session_id}
        return self._opened(call, session.session_id, token)

    async def terminate_session(self, call: Call, parameters: Result) -> Result:
        session = await self._session(call, parameters["SessionId"], "ssm:TerminateSession")
        await self.endpoint.hub.terminate_session(session.session_id)
        await self.endpoint.sessions.end(session.session_id, "Terminated", "terminated on request")
        return {"SessionId": session.session_id}

    async def describe_sessions(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        size = parameters.get("MaxResults", _DEFAULT_SESSIONS_PAGE)
        filters = [(item["key"], item["value"]) for item in parameters.get("Filters", [])]
        before = read_number(parameters.get("NextToken"))
        try:
            rows = await self.endpoint.sessions.page(
                call.account_id,
                call.region,
                is_active=parameters["State"] == "Active",
                filters=filters,
                before=before,
                size=size,
            )
        except ValueError as error:
            raise ApiError("InvalidFilterKey", str(error)) from None
        page = rows[:size]
        return {
            "Sessions": [_described(session) for session in page],
            "NextToken": token(str(page[-1].pk)) if len(rows) > size else None,
        }

    async def _session(self, call: Call, session_id: str, action: str) -> Session:
        session = await self.endpoint.sessions.find(call.account_id, call.region, session_id)
        arn = f"arn:aws:ssm:{call.region}:{call.account_id}:session/{session_id}"
        call.resources = [session_id]
        context: dict[str, list[str]] = {}
        if session is not None:
            call.resources.append(session.target)
            # AWS tags a session with its starter's aws:userid; policies compare it to end only one's own.
            context["ssm:resourcetag/aws:ssmmessages:session-id"] = await self._starter(session)
            context["ssm:resourcetag/aws:ssmmessages:target-id"] = [session.target]
        await self.endpoint.authorizer.allow(call, action, [arn], context)
        if session is None:
            raise ApiError("DoesNotExistException", f"Session {session_id} does not exist.")
        return session

    async def _starter(self, session: Session) -> list[str]:
        """What a session is tagged with: its starter's aws:userid, and the name that its id begins with."""
        kind, name, *session_name = session.owner_arn.rpartition(":")[2].split("/")
        name = name if kind == "assumed-role" else session.owner_arn.rpartition("/")[2]
        kind = "role" if kind == "assumed-role" else "user"
        found = await self.endpoint.identities.identity(session.account_id, kind, name)
        ids = [":".join([found["id"], *(session_name if kind == "role" else [])])] if found is not None else []
        return [*ids, session.session_id.rpartition("-")[0]]

    def _opened(self, call: Call, session_id: str, token: str) -> Result:
        url = f"wss://{self.endpoint.stream_host}/v1/data-channel/{session_id}?role=publish_subscribe"
        result = {"SessionId": session_id, "TokenValue": token, "StreamUrl": url}
        call.response_elements = result
        return result


def _described(session: Session) -> Result:
    return {
        "SessionId": session.session_id,
        "Target": session.target,
        "Status": session.state,
        "StartDate": session.started_at,
        "EndDate": session.ended_at,
        "DocumentName": session.document_name.rpartition("/")[2],  # it may have been given by its ARN
        "Owner": session.owner_arn,
        "Reason": session.reason or None,
        "Details": session.details or None,
        "OutputUrl": {},
        "MaxSessionDuration": str(session.longest_seconds // 60) if session.longest_seconds else None,
        "AccessType": "Standard",
    }


def _session_id(call: Call) -> str:
    assert call.principal is not None
    name = re.sub(r"[^A-Za-z0-9._-]", "-", call.principal.username)[:_LONGEST_SESSION_NAME] or "session"
    return f"{name}-{secrets.token_hex(9)[:_SESSION_DIGITS]}"
