"""The JSON inside the frames, and the openers and token answers around them.

Written exactly as the Go programs write it: their field order, `null` for an absent list, base64 for bytes, and `<`,
`>`, `&` escaped. Read as Go reads it: names without regard to case, unknown ones skipped, an absent one (or null) is
the empty value. Every `parse` raises RemoteProtocolError for what Go could not read either, and nothing else.

Source: amazon-ssm-agent, agent/session/contracts/agentmessage.go and model.go, agent/contracts/model.go,
agent/runcommand/contracts/model.go, agent/session/service; session-manager-plugin, src/message and src/service.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn, TypeAlias
from uuid import UUID
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from .errors import LocalProtocolError, RemoteProtocolError
from .frames import wire_id_text

Json: TypeAlias = Any  # whatever json.loads gives

SCHEMA_VERSION: Final = "1.0"  # of the openers and the two calls that answer with a token

# An opener is a token and a few names. The real service's tokens have some 1,500 characters.
MAX_OPENER: Final = 16 * 1024  # characters
MAX_TOKEN_ANSWER: Final = 64 * 1024  # characters of XML: the same, and room for elements that nobody reads

_SEND_COMMAND: Final = "aws.ssm.sendCommand"
_CANCEL_COMMAND: Final = "aws.ssm.cancelCommand"


# Reading and writing JSON as Go does


_ESCAPES: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_TO_ESCAPE: Final = re.compile("[<>&\u2028\u2029]")
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _dump(value: Json) -> str:
    """Write `value` as Go's json.Marshal does: a dict is a struct here, its order is kept."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise LocalProtocolError(f"this is no JSON: {error}") from None
    return _TO_ESCAPE.sub(lambda match: _ESCAPES[match[0]], _LONE_SURROGATE.sub("\ufffd", text))


def _encode(value: Json) -> bytes:
    return _dump(value).encode()


def _go_map(value: Json) -> Json:
    """Sort the keys at every depth: Go writes a struct in its order, and a map in the order of its keys."""
    if isinstance(value, Mapping):
        return {key: _go_map(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_go_map(item) for item in value]
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _load(payload: bytes | str) -> Json:
    try:
        text = payload if isinstance(payload, str) else payload.decode()
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"the payload is no JSON: {error}") from None


class _Fields:
    """One JSON object, asked for its fields by name and type. Names are compared without regard to case."""

    __slots__ = ("_values",)

    def __init__(self, value: Json) -> None:
        if not isinstance(value, dict):
            raise RemoteProtocolError("the payload is no JSON object")
        self._values = {name.lower(): item for name, item in value.items()}

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def any(self, name: str) -> Json:
        return self._values.get(name.lower())

    def text(self, name: str) -> str:
        value = self.any(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise RemoteProtocolError(f"{name} is not a text")
        return value

    def needed(self, name: str) -> str:
        if not (value := self.text(name)):
            raise RemoteProtocolError(f"{name} is missing")
        return value

    def number(self, name: str, *, least: int = -(2**63), most: int = 2**63 - 1) -> int:
        value = self.any(name)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise RemoteProtocolError(f"{name} is not a number between {least} and {most}")
        return value

    def truth(self, name: str) -> bool:
        value = self.any(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise RemoteProtocolError(f"{name} is neither true nor false")
        return value

    def octets(self, name: str) -> bytes:
        try:
            return base64.b64decode(self.text(name), validate=True)
        except (binascii.Error, ValueError):
            raise RemoteProtocolError(f"{name} is not base64") from None

    def uuid(self, name: str) -> UUID:
        text = self.text(name)
        if not _UUID.fullmatch(text):
            raise RemoteProtocolError(f"{name} is not a UUID")
        return UUID(text)

    def items(self, name: str) -> list[Json]:
        value = self.any(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise RemoteProtocolError(f"{name} is not a list")
        return value

    def mapping(self, name: str) -> dict[str, Json]:
        value = self.any(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise RemoteProtocolError(f"{name} is not an object")
        return value


_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def iso_time(milliseconds: int) -> str:
    """Return milliseconds since 1970 UTC as the agent writes dates: 2023-11-14T22:13:20.000Z."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03}Z"


# The data channel


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """`acknowledge`: the stream message that has arrived. A receiver looks at the number alone."""

    message_type: str
    message_id: UUID
    sequence: int

    def serialize(self) -> bytes:
        return acknowledge(self.message_type, str(self.message_id), self.sequence)

    @classmethod
    def parse(cls, payload: bytes) -> Acknowledge:
        fields = _Fields(_load(payload))
        return cls(
            fields.text("AcknowledgedMessageType"),
            fields.uuid("AcknowledgedMessageId"),
            fields.number("AcknowledgedMessageSequenceNumber"),
        )


def acknowledge(message_type: str, message_id: str, sequence: int) -> bytes:
    """Write an `acknowledge` in one stroke: there is one for each stream message. No argument needs JSON escapes."""
    return (
        f'{{"AcknowledgedMessageType":"{message_type}","AcknowledgedMessageId":"{message_id}",'
        f'"AcknowledgedMessageSequenceNumber":{sequence},"IsSequentialMessage":true}}'
    ).encode()


def acknowledge_wire_id(message_type: str, wire_id: bytes, sequence: int) -> bytes:
    """The same from the id as a frame holds it (frames.to_wire_id)."""
    return acknowledge(message_type, wire_id_text(wire_id), sequence)


_GO_ACKNOWLEDGE: Final = re.compile(
    rb'\{"AcknowledgedMessageType":"[a-z_]+","AcknowledgedMessageId":"[0-9a-f-]{36}",'
    rb'"AcknowledgedMessageSequenceNumber":(\d{1,18}),"IsSequentialMessage":(?:true|false)\}'
)


def acknowledged_sequence(payload: bytes) -> int:
    """Return the number that an `acknowledge` names: at once if Go wrote it, else by reading all the JSON."""
    match = _GO_ACKNOWLEDGE.fullmatch(payload)
    return int(match[1]) if match else Acknowledge.parse(payload).sequence


@dataclass(frozen=True, slots=True)
class Size:
    """SIZE: the client's terminal, in characters."""

    cols: int
    rows: int

    def serialize(self) -> bytes:
        if not (0 <= self.cols < 2**32 and 0 <= self.rows < 2**32):
            raise LocalProtocolError(f"{self.cols} by {self.rows} is no size of a terminal")
        return b'{"cols":%d,"rows":%d}' % (self.cols, self.rows)

    @classmethod
    def parse(cls, payload: bytes) -> Size:
        fields = _Fields(_load(payload))
        return cls(
            fields.number("cols", least=0, most=2**32 - 1),
            fields.number("rows", least=0, most=2**32 - 1),
        )


class ActionStatus:
    """How the client fared with one action of the handshake. Anything but SUCCESS makes the agent end the session."""

    SUCCESS: Final = 1
    FAILED: Final = 2
    UNSUPPORTED: Final = 3


@dataclass(frozen=True, slots=True)
class RequestedAction:
    """Something the agent asks of the client. `parameters` is an object whose order is kept."""

    action_type: str  # "SessionType" or "KMSEncryption"
    parameters: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class HandshakeRequest:
    """HANDSHAKE_REQUEST: the agent's first stream message where a handshake is due."""

    agent_version: str  # four numbers with dots, or the plugin takes every feature for unsupported
    actions: tuple[RequestedAction, ...]

    @classmethod
    def for_session(
        cls,
        agent_version: str,
        session_type: str,
        properties: Mapping[str, Json] | None = None,
        *,
        kms_key_id: str = "",
        challenge: bytes = b"",
    ) -> HandshakeRequest:
        """Ask for a session type, and for encryption if there is a key. `properties` only for Port, resolved."""
        actions = [RequestedAction("SessionType", {"SessionType": session_type, "Properties": _go_map(properties)})]
        if kms_key_id:
            text = base64.b64encode(challenge).decode()
            actions.append(RequestedAction("KMSEncryption", {"KMSKeyId": kms_key_id, "Challenge": text}))
        return cls(agent_version, tuple(actions))

    @property
    def session_type(self) -> str:
        """The type of session that is asked for; empty if none is."""
        value = self._parameter("SessionType", "SessionType")
        return value if isinstance(value, str) else ""

    @property
    def properties(self) -> Json:
        """The document's properties, resolved, for a Port session; else None."""
        return self._parameter("SessionType", "Properties")

    @property
    def kms_key_id(self) -> str:
        """The id or ARN of the key under which to encrypt; empty if none is asked for."""
        value = self._parameter("KMSEncryption", "KMSKeyId")
        return value if isinstance(value, str) else ""

    @property
    def kms_challenge(self) -> str:
        """The random text of the encryption context, as it came: base64; see encryption_context."""
        value = self._parameter("KMSEncryption", "Challenge")
        return value if isinstance(value, str) else ""

    def _parameter(self, action_type: str, name: str) -> Json:
        for action in self.actions:
            if action.action_type == action_type:
                return action.parameters.get(name)
        return None

    def serialize(self) -> bytes:
        actions = [{"ActionType": act.action_type, "ActionParameters": dict(act.parameters)} for act in self.actions]
        return _encode({"AgentVersion": self.agent_version, "RequestedClientActions": actions})

    @classmethod
    def parse(cls, payload: bytes) -> HandshakeRequest:
        fields = _Fields(_load(payload))
        actions = []
        for item in fields.items("RequestedClientActions"):
            action = _Fields(item)
            actions.append(RequestedAction(action.text("ActionType"), action.mapping("ActionParameters")))
        return cls(fields.text("AgentVersion"), tuple(actions))


@dataclass(frozen=True, slots=True)
class ProcessedAction:
    """The client's answer to one action."""

    action_type: str
    status: int  # see ActionStatus; the plugin answers 0 and result 3 to an action that it does not know
    result: Json = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class DataKey:
    """What a client got of KMS's GenerateDataKey for the agent: the ciphertext blob."""

    ciphertext: bytes
    # Whether the encryption context held the agent's random challenge. The plugin 1.2.650.0 does not know of it.
    has_challenge: bool = False


@dataclass(frozen=True, slots=True)
class HandshakeResponse:
    """HANDSHAKE_RESPONSE: the client's answer, given exactly once; a second one blocks the real agent for ever."""

    client_version: str  # four numbers with dots, above 1.2.331.0, or the agent turns smux keep-alives on
    actions: tuple[ProcessedAction, ...]
    errors: tuple[str, ...] = ()

    @property
    def refusal(self) -> str:
        """Why the agent ends the session, in its words; empty if the client did all that was asked."""
        for action in self.actions:
            if action.status != ActionStatus.SUCCESS:
                return f"{action.action_type} failed on client with status {action.status} error: {action.error}"
        return ""

    @property
    def data_key(self) -> DataKey | None:
        """The data key for an encryption, still under KMS's; None without one. Raises RemoteProtocolError."""
        for action in self.actions:
            if action.action_type == "KMSEncryption" and action.status == ActionStatus.SUCCESS:
                fields = _Fields(action.result)
                return DataKey(fields.octets("KMSCipherTextKey"), fields.truth("ChallengeAcknowledgement"))
        return None

    def serialize(self) -> bytes:
        actions = [
            {
                "ActionType": action.action_type,
                "ActionStatus": action.status,
                "ActionResult": action.result,
                "Error": action.error,
            }
            for action in self.actions
        ]
        return _encode(
            {
                "ClientVersion": self.client_version,
                "ProcessedClientActions": actions,
                "Errors": list(self.errors) or None,
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> HandshakeResponse:
        fields = _Fields(_load(payload))
        actions = []
        for item in fields.items("ProcessedClientActions"):
            action = _Fields(item)
            actions.append(
                ProcessedAction(
                    action.text("ActionType"),
                    action.number("ActionStatus"),
                    action.any("ActionResult"),
                    action.text("Error"),
                )
            )
        errors = fields.items("Errors")
        if not all(isinstance(error, str) for error in errors):
            raise RemoteProtocolError("Errors is not a list of texts")
        return cls(fields.text("ClientVersion"), tuple(actions), tuple(errors))


_SESSION_TYPES: Final = ("Standard_Stream", "InteractiveCommands", "NonInteractiveCommands", "Port")


def answer_handshake(
    request: HandshakeRequest, *, client_version: str, data_key: DataKey | None = None, kms_error: str = ""
) -> HandshakeResponse:
    """Return the answer of a client that knows the four session types, and encryption if it has a data key.

    `kms_error`: why there is none, if KMS refused one. Texts as the plugin has them, but an action that is not known
    gets the status that the protocol has for it. Source: session-manager-plugin, src/datachannel/streaming.go.
    """
    actions = []
    errors = []
    for action in request.actions:
        name = action.action_type
        failure = ""
        if name == "KMSEncryption" and data_key is not None:
            key = base64.b64encode(data_key.ciphertext).decode()
            result: dict[str, Json] = {"KMSCipherTextKey": key, "KMSCipherTextHash": None}
            if data_key.has_challenge:
                result["ChallengeAcknowledgement"] = True
            actions.append(ProcessedAction(name, ActionStatus.SUCCESS, result))
        elif name == "KMSEncryption" and kms_error:
            failure = kms_error
        elif name != "SessionType":
            errors.append(f"Unsupported action {name}")
            actions.append(ProcessedAction(name, ActionStatus.UNSUPPORTED, error=errors[-1]))
        elif (asked := action.parameters.get("SessionType")) in _SESSION_TYPES:
            actions.append(ProcessedAction(name, ActionStatus.SUCCESS))
        else:
            failure = f"Unknown session type {asked}"
        if failure:
            errors.append(failure)
            actions.append(
                ProcessedAction(name, ActionStatus.FAILED, error=f"Failed to process action {name}: {failure}")
            )
    return HandshakeResponse(client_version, tuple(actions), tuple(errors))


def encryption_context(session_id: str, instance_id: str, *, challenge: str = "") -> dict[str, str]:
    """What KMS binds a session's data key to. The client gives it to GenerateDataKey, the agent to Decrypt.

    `challenge`: HandshakeRequest.kms_challenge, where both ends know of it. Source: amazon-ssm-agent,
    agent/session/crypto/blockcipher.go, UpdateEncryptionKey.
    """
    context = {"aws:ssm:SessionId": session_id, "aws:ssm:TargetId": instance_id}
    if challenge:
        context["aws:ssm:RandomChallenge"] = challenge
    return context


@dataclass(frozen=True, slots=True)
class HandshakeComplete:
    """HANDSHAKE_COMPLETE: the stream may begin."""

    time_ns: int  # how long the handshake took, nanoseconds
    customer_message: str = ""

    def serialize(self) -> bytes:
        return _encode({"HandshakeTimeToComplete": self.time_ns, "CustomerMessage": self.customer_message})

    @classmethod
    def parse(cls, payload: bytes) -> HandshakeComplete:
        fields = _Fields(_load(payload))
        return cls(fields.number("HandshakeTimeToComplete"), fields.text("CustomerMessage"))


@dataclass(frozen=True, slots=True)
class EncryptionChallenge:
    """ENC_CHALLENGE_REQUEST and ENC_CHALLENGE_RESPONSE, which look the same: some bytes, encrypted."""

    challenge: bytes

    def serialize(self) -> bytes:
        return _encode({"Challenge": base64.b64encode(self.challenge).decode()})

    @classmethod
    def parse(cls, payload: bytes) -> EncryptionChallenge:
        return cls(_Fields(_load(payload)).octets("Challenge"))


@dataclass(frozen=True, slots=True)
class AgentSessionState:
    """`agent_session_state`: from the agent to the gateway, never to the client."""

    state: str  # "Connected" or "Terminating"
    session_id: str

    def serialize(self) -> bytes:
        return _encode({"SchemaVersion": 1, "SessionState": self.state, "SessionId": self.session_id})

    @classmethod
    def parse(cls, payload: bytes) -> AgentSessionState:
        fields = _Fields(_load(payload))
        return cls(fields.text("SessionState"), fields.text("SessionId"))


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """`channel_closed`: the gateway ends a session.

    With an `output` (it may be empty) it is written in the plugin's order of fields, without one in the agent's, whose
    struct has no such field. Both read either.
    """

    message_id: str
    created_date: str  # see iso_time
    session_id: str
    destination_id: str = ""  # the instance
    output: str | None = None  # for the user, instead of the goodbye line

    def serialize(self) -> bytes:
        if self.output is None:
            return _encode(
                {
                    "MessageType": "channel_closed",
                    "MessageId": self.message_id,
                    "DestinationId": self.destination_id,
                    "SessionId": self.session_id,
                    "SchemaVersion": 1,
                    "CreatedDate": self.created_date,
                }
            )
        return _encode(
            {
                "MessageId": self.message_id,
                "CreatedDate": self.created_date,
                "DestinationId": self.destination_id,
                "SessionId": self.session_id,
                "MessageType": "channel_closed",
                "SchemaVersion": 1,
                "Output": self.output,
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> ChannelClosed:
        fields = _Fields(_load(payload))
        return cls(
            fields.text("MessageId"),
            fields.text("CreatedDate"),
            fields.text("SessionId"),
            fields.text("DestinationId"),
            fields.text("Output") if "Output" in fields else None,
        )


EMPTY: Final = b"{}"  # of pause_publication and start_publication; nobody reads it

_EXIT_CODE: Final = re.compile(rb"EXIT_CODE: (-?\d{1,10})\s*")


def exit_code(code: int) -> bytes:
    """Write EXIT_CODE. Source: amazon-ssm-agent, agent/session/plugins/noninteractivecommands."""
    return b"EXIT_CODE: %d" % code


def parse_exit_code(payload: bytes) -> int:
    """Raises RemoteProtocolError unless the payload is `EXIT_CODE: <n>`."""
    if not (match := _EXIT_CODE.fullmatch(payload)):
        raise RemoteProtocolError("the payload is no exit code")
    return int(match[1])


def flag(value: int) -> bytes:
    """Write FLAG: four bytes, big-endian."""
    try:
        return value.to_bytes(4, "big")
    except OverflowError:
        raise LocalProtocolError(f"{value} is no flag") from None


def parse_flag(payload: bytes) -> int:
    """Raises RemoteProtocolError unless there are four bytes."""
    if len(payload) != 4:
        raise RemoteProtocolError(f"a flag has 4 bytes, not {len(payload)}")
    return int.from_bytes(payload, "big")


# The control channel: sessions


@dataclass(frozen=True, slots=True)
class SessionTask:
    """`interactive_shell`: start a session, of whatever type. There is no answer but the agent's data channel."""

    session_id: str
    document_name: str
    document_content: Mapping[str, Json]  # schemaVersion "1.0", sessionType, inputs, parameters, properties
    parameters: Mapping[str, Json] = field(default_factory=dict)
    run_as_user: str = ""
    session_owner: str = ""  # an ARN
    topic: str = "aws.ssm.interactive_shell"  # neither it nor the task id is used by the agent
    task_id: str = ""  # empty: the session id

    def serialize(self) -> bytes:
        content = _dump(
            {
                "DocumentName": self.document_name,
                "DocumentContent": dict(self.document_content),
                "SessionId": self.session_id,
                "Parameters": _go_map(self.parameters),
                "RunAsUser": self.run_as_user,
                "SessionOwner": self.session_owner,
            }
        )
        return _encode(
            {
                "Content": content,
                "TaskId": self.task_id or self.session_id,
                "Topic": self.topic,
                "SchemaVersion": 1,
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> SessionTask:
        """Also raises RemoteProtocolError if the document's schemaVersion is not "1.0", as the agent refuses it."""
        outer = _Fields(_load(payload))
        inner = _Fields(_load(outer.text("Content")))
        document = inner.mapping("DocumentContent")
        if _Fields(document).text("schemaVersion") != "1.0":
            raise RemoteProtocolError("the schemaVersion of a session document is 1.0")
        return cls(
            inner.needed("SessionId"),
            inner.text("DocumentName"),
            document,
            inner.mapping("Parameters"),
            inner.text("RunAsUser"),
            inner.text("SessionOwner"),
            outer.text("Topic"),
            outer.text("TaskId"),
        )


@dataclass(frozen=True, slots=True)
class AgentTaskComplete:
    """`agent_task_complete`: a session has ended at the agent. A failed session is reported twice."""

    task_id: str  # the session
    final_status: str  # "Success" (a command that failed, too), "Failed", "Cancelled", "TimedOut"
    instance_id: str
    output: str = ""
    s3_bucket: str = ""
    s3_url_suffix: str = ""
    log_group: str = ""
    log_stream: str = ""
    retry_number: int = 1  # 1 to 3
    is_routing_failure: bool = False
    account_id: str = ""

    def serialize(self) -> bytes:
        return _encode(
            {
                "SchemaVersion": 1,
                "TaskId": self.task_id,
                "Topic": "agent_task_complete",
                "FinalTaskStatus": self.final_status,
                "IsRoutingFailure": self.is_routing_failure,
                "AwsAccountId": self.account_id,
                "InstanceId": self.instance_id,
                "Output": self.output,
                "S3Bucket": self.s3_bucket,
                "S3UrlSuffix": self.s3_url_suffix,
                "CwlGroup": self.log_group,
                "CwlStream": self.log_stream,
                "RetryNumber": self.retry_number,
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> AgentTaskComplete:
        fields = _Fields(_load(payload))
        return cls(
            fields.needed("TaskId"),
            fields.text("FinalTaskStatus"),
            fields.text("InstanceId"),
            fields.text("Output"),
            fields.text("S3Bucket"),
            fields.text("S3UrlSuffix"),
            fields.text("CwlGroup"),
            fields.text("CwlStream"),
            fields.number("RetryNumber"),
            fields.truth("IsRoutingFailure"),
            fields.text("AwsAccountId"),
        )


@dataclass(frozen=True, slots=True)
class AgentTaskAcknowledge:
    """`agent_task_acknowledge`. The agent matches it by the id of its agent_task_complete alone."""

    message_id: UUID
    task_id: str
    topic: str = "agent_task_complete"

    def serialize(self) -> bytes:
        return _encode(
            {"SchemaVersion": 1, "MessageId": str(self.message_id), "TaskId": self.task_id, "Topic": self.topic}
        )

    @classmethod
    def parse(cls, payload: bytes) -> AgentTaskAcknowledge:
        fields = _Fields(_load(payload))
        return cls(fields.uuid("MessageId"), fields.text("TaskId"), fields.text("Topic"))


# The control channel: Run Command


@dataclass(frozen=True, slots=True)
class AgentJob:
    """`agent_job`: run a command, or cancel one."""

    job_id: str  # aws.ssm.<command id>.<instance id>
    content: str  # JSON: a send_command_content or a cancel_command_content
    topic: str = _SEND_COMMAND  # only the beginning counts; the real service adds a suffix
    schema_version: int = 1

    @classmethod
    def cancel(cls, job_id: str, cancelled_job_id: str, topic: str = _CANCEL_COMMAND) -> AgentJob:
        """A job, with an id of its own, that cancels another."""
        return cls(job_id, _dump({"CancelMessageId": cancelled_job_id}), topic)

    @property
    def is_cancel(self) -> bool:
        """False means sendCommand; parse lets no third kind through."""
        return self.topic.startswith(_CANCEL_COMMAND)

    @property
    def command_id(self) -> str:
        """The component before the last dot, as the agent finds it."""
        return self.job_id.split(".")[-2]

    def load_content(self) -> dict[str, Json]:
        """Return the content as an object. Raises RemoteProtocolError if it is none."""
        value = _load(self.content)
        if not isinstance(value, dict):
            raise RemoteProtocolError("the content of the job is no JSON object")
        return value

    def serialize(self) -> bytes:
        return _encode(
            {
                "Content": self.content,
                "JobId": self.job_id,
                "Topic": self.topic,
                "SchemaVersion": self.schema_version,
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> AgentJob:
        fields = _Fields(_load(payload))
        topic = fields.text("Topic")
        if not topic.startswith((_SEND_COMMAND, _CANCEL_COMMAND)):
            raise RemoteProtocolError(f"the topic of a job is {_SEND_COMMAND} or {_CANCEL_COMMAND}")
        job_id = fields.text("JobId")
        if not re.match(r"aws\.ssm\..+", job_id):
            raise RemoteProtocolError("the JobId does not begin with aws.ssm.")
        return cls(job_id, fields.text("Content"), topic, fields.number("SchemaVersion"))


def send_command_content(
    *,
    command_id: str,
    document_name: str,
    document_content: Mapping[str, Json],
    parameters: Mapping[str, Json],
    output_s3_bucket_name: str = "",
    output_s3_key_prefix: str = "",
    cloudwatch_log_group_name: str = "",
    cloudwatch_output_enabled: bool = False,
) -> str:
    """Write the content of a sendCommand job. A String is a text, a StringList a list, a StringMap an object."""
    return _dump(
        {
            "Parameters": _go_map(parameters),
            "DocumentContent": dict(document_content),
            "CommandId": command_id,
            "DocumentName": document_name,
            "OutputS3KeyPrefix": output_s3_key_prefix,
            "OutputS3BucketName": output_s3_bucket_name,
            "CloudWatchLogGroupName": cloudwatch_log_group_name,
            "CloudWatchOutputEnabled": "true" if cloudwatch_output_enabled else "false",
        }
    )


@dataclass(frozen=True, slots=True)
class AgentJobAck:
    """`agent_job_ack`: whether the agent takes a job."""

    job_id: str  # empty if the job could not be read
    message_id: UUID  # of the agent_job
    created_date: str  # of the agent_job, see iso_time
    status_code: str = "200"  # 51402: no room, send again; 51405: already there; 51408: unreadable
    error_message: str = "Successful"

    def serialize(self) -> bytes:
        return _encode(
            {
                "jobId": self.job_id,
                "acknowledgedMessageId": str(self.message_id),
                "createdDate": self.created_date,
                "statusCode": self.status_code,
                "errorMessage": self.error_message,
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> AgentJobAck:
        fields = _Fields(_load(payload))
        return cls(
            fields.text("jobId"),
            fields.uuid("acknowledgedMessageId"),
            fields.text("createdDate"),
            fields.text("statusCode"),
            fields.text("errorMessage"),
        )


@dataclass(frozen=True, slots=True)
class AgentJobReply:
    """`agent_job_reply`: how a command fares. The last two replies of a command come in either order."""

    job_id: str
    content: str  # JSON: a ReplyContent
    topic: str = _SEND_COMMAND
    schema_version: int = 1

    def serialize(self) -> bytes:
        return _encode(
            {
                "schemaVersion": self.schema_version,
                "jobId": self.job_id,
                "content": self.content,
                "topic": self.topic,
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> AgentJobReply:
        fields = _Fields(_load(payload))
        return cls(fields.needed("jobId"), fields.text("content"), fields.text("topic"), fields.number("schemaVersion"))


@dataclass(frozen=True, slots=True)
class AgentJobReplyAck:
    """`agent_job_reply_ack`: without it the agent keeps the reply and sends it again each five minutes."""

    job_id: str
    message_id: UUID  # of the agent_job_reply

    def serialize(self) -> bytes:
        return _encode({"jobId": self.job_id, "acknowledgedMessageId": str(self.message_id)})

    @classmethod
    def parse(cls, payload: bytes) -> AgentJobReplyAck:
        fields = _Fields(_load(payload))
        return cls(fields.text("jobId"), fields.uuid("acknowledgedMessageId"))


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """Who replies."""

    name: str = "amazon-ssm-agent"
    version: str = ""
    os: str = "linux"
    os_version: str = "1"
    language: str = "en-US"


@dataclass(frozen=True, slots=True)
class StepResult:
    """How one step of a command ended. Dates are texts as of iso_time."""

    status: str  # Success, Failed, TimedOut, Cancelled, Skipped, SuccessAndReboot, ...
    code: int
    name: str  # of the plugin: aws:runShellScript
    output: str = ""  # both streams together, cut at 2,500 bytes
    start_date_time: str = ""
    end_date_time: str = ""
    output_s3_bucket_name: str = ""
    output_s3_key_prefix: str = ""
    step_name: str = ""
    standard_output: str = ""  # cut at 24,000
    standard_error: str = ""  # cut at 24,000

    def _as_json(self) -> Json:
        return {
            "status": self.status,
            "code": self.code,
            "name": self.name,
            "output": self.output,
            "startDateTime": self.start_date_time,
            "endDateTime": self.end_date_time,
            "outputS3BucketName": self.output_s3_bucket_name,
            "outputS3KeyPrefix": self.output_s3_key_prefix,
            "stepName": self.step_name,
            "standardOutput": self.standard_output,
            "standardError": self.standard_error,
        }

    @classmethod
    def _from_json(cls, value: Json) -> StepResult:
        fields = _Fields(value)
        return cls(
            fields.text("status"),
            fields.number("code"),
            fields.text("name"),
            fields.text("output"),
            fields.text("startDateTime"),
            fields.text("endDateTime"),
            fields.text("outputS3BucketName"),
            fields.text("outputS3KeyPrefix"),
            fields.text("stepName"),
            fields.text("standardOutput"),
            fields.text("standardError"),
        )


@dataclass(frozen=True, slots=True)
class ReplyContent:
    """The content of an agent_job_reply; the same text is the Payload of SendReply over MDS."""

    document_status: str
    date_time: str  # see iso_time
    agent: AgentInfo = field(default_factory=AgentInfo)
    status_counts: Mapping[str, int] | None = None  # None in the first reply
    runtime_status: Mapping[str, StepResult] | None = None  # by step (2.x) or plugin (1.x); None in the first reply
    trace_output: str = ""
    run_id: str = ""
    can_open_mgs: bool | None = None  # said over MDS only

    def serialize(self) -> str:
        agent = self.agent
        info: dict[str, Json] = {
            "agent": {
                "lang": agent.language,
                "name": agent.name,
                "os": agent.os,
                "osver": agent.os_version,
                "ver": agent.version,
            },
            "dateTime": self.date_time,
            "runId": self.run_id,
            "runtimeStatusCounts": _go_map(self.status_counts),
        }
        if self.can_open_mgs is not None:
            info["ableToOpenMGSConnection"] = self.can_open_mgs
        steps = self.runtime_status
        return _dump(
            {
                "additionalInfo": info,
                "documentStatus": self.document_status,
                "documentTraceOutput": self.trace_output,
                "runtimeStatus": None if steps is None else {name: steps[name]._as_json() for name in sorted(steps)},
            }
        )

    @classmethod
    def parse(cls, content: str) -> ReplyContent:
        fields = _Fields(_load(content))
        info = _Fields(fields.mapping("additionalInfo"))
        agent = _Fields(info.mapping("agent"))
        counts = None
        if info.any("runtimeStatusCounts") is not None:
            numbers = info.mapping("runtimeStatusCounts")
            if not all(isinstance(number, int) for number in numbers.values()):
                raise RemoteProtocolError("runtimeStatusCounts holds something that is no number")
            counts = numbers
        steps = None
        if fields.any("runtimeStatus") is not None:
            steps = {name: StepResult._from_json(value) for name, value in fields.mapping("runtimeStatus").items()}
        return cls(
            fields.text("documentStatus"),
            info.text("dateTime"),
            AgentInfo(agent.text("name"), agent.text("ver"), agent.text("os"), agent.text("osver"), agent.text("lang")),
            counts,
            steps,
            fields.text("documentTraceOutput"),
            info.text("runId"),
            info.truth("ableToOpenMGSConnection") if info.any("ableToOpenMGSConnection") is not None else None,
        )


@dataclass(frozen=True, slots=True)
class AgentTelemetry:
    """`agent_telemetry`: counts of restarts. Source: amazon-ssm-agent, agent/session/telemetry/eventlog.go."""

    agent_version: str
    agent_reboots: int = 0
    worker_reboots: int = 0
    in_process_executer_starts: int = 0

    def serialize(self) -> bytes:
        return _encode(
            {
                "SchemaVersion": 1,
                "NumberOfAgentReboot": self.agent_reboots,
                "NumberOfSSMWorkerReboot": self.worker_reboots,
                "NumberOfInProcExecuterStart": self.in_process_executer_starts,
                "AgentVersion": self.agent_version,
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> AgentTelemetry:
        fields = _Fields(_load(payload))
        return cls(
            fields.text("AgentVersion"),
            fields.number("NumberOfAgentReboot"),
            fields.number("NumberOfSSMWorkerReboot"),
            fields.number("NumberOfInProcExecuterStart"),
        )


@dataclass(frozen=True, slots=True)
class AgentUpdateResult:
    """`agent_update_result`: the agent has updated itself, or failed to."""

    result_code: str
    source_version: str
    target_version: str

    def serialize(self) -> bytes:
        return _encode(
            {
                "SchemaVersion": 1,
                "AgentUpdateResultCode": self.result_code,
                "SourceVersion": self.source_version,
                "TargetVersion": self.target_version,
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> AgentUpdateResult:
        fields = _Fields(_load(payload))
        return cls(fields.text("AgentUpdateResultCode"), fields.text("SourceVersion"), fields.text("TargetVersion"))


# The openers: the first frame of each websocket, the only text frame


@dataclass(frozen=True, slots=True)
class ControlOpener:
    """The agent opens its control channel."""

    request_id: str
    token: str
    agent_version: str
    platform_type: str  # lower case here: linux, windows, macos


@dataclass(frozen=True, slots=True)
class AgentOpener:
    """The agent opens a data channel."""

    request_id: str
    token: str
    instance_id: str
    client_id: str = ""


@dataclass(frozen=True, slots=True)
class ClientOpener:
    """The client opens a data channel."""

    request_id: str
    token: str
    client_id: str
    client_version: str = ""  # empty from older plugins


def open_control_channel(request_id: UUID, token: str, *, agent_version: str, platform_type: str = "linux") -> str:
    """Write the first frame of the agent's control channel. Source: amazon-ssm-agent, agent/session/service."""
    return _dump(
        {
            "Cookie": None,
            "MessageSchemaVersion": SCHEMA_VERSION,
            "RequestId": str(request_id),
            "TokenValue": token,
            "AgentVersion": agent_version,
            "PlatformType": platform_type,
        }
    )


def open_data_channel_agent(request_id: UUID, token: str, *, instance_id: str, client_id: str = "") -> str:
    """Write the first frame of the agent's end of a data channel. The real agent's `client_id` is always empty."""
    return _dump(
        {
            "MessageSchemaVersion": SCHEMA_VERSION,
            "RequestId": str(request_id),
            "TokenValue": token,
            "ClientInstanceId": instance_id,
            "ClientId": client_id,
        }
    )


def open_data_channel_client(request_id: UUID, token: str, *, client_id: str, client_version: str) -> str:
    """Write the first frame of the client's end. Source: session-manager-plugin, src/datachannel/streaming.go."""
    return _dump(
        {
            "MessageSchemaVersion": SCHEMA_VERSION,
            "RequestId": str(request_id),
            "TokenValue": token,
            "ClientId": client_id,
            "ClientVersion": client_version,
        }
    )


def parse_opener(text: str) -> ControlOpener | AgentOpener | ClientOpener:
    """Read the first frame of a websocket.

    AgentVersion or PlatformType mark a control channel, ClientInstanceId the agent's end of a data channel,
    ClientVersion the client's. Without any of them it is the client: plugins up to 1.2.650.0 name no version. The token
    decides in any case, so compare what it was given for with the type that is returned.

    Raises RemoteProtocolError if it is no JSON object, longer than MAX_OPENER, has no token, or claims both ends.
    """
    if len(text) > MAX_OPENER:
        raise RemoteProtocolError(f"an opener of {len(text)} characters is over the limit of {MAX_OPENER}")
    fields = _Fields(_load(text))
    request_id = fields.text("RequestId")
    token = fields.needed("TokenValue")
    if "AgentVersion" in fields or "PlatformType" in fields:
        return ControlOpener(request_id, token, fields.text("AgentVersion"), fields.text("PlatformType"))
    client_id = fields.text("ClientId")
    instance_id = fields.text("ClientInstanceId")
    client_version = fields.text("ClientVersion")
    if instance_id and client_version:
        raise RemoteProtocolError("an opener is the agent's or the client's, not both")
    if instance_id:
        return AgentOpener(request_id, token, instance_id, client_id)
    if not client_id:
        raise RemoteProtocolError("an opener names an instance or a client")
    return ClientOpener(request_id, token, client_id, client_version)


# The two calls that give the agent a token


@dataclass(frozen=True, slots=True)
class CreateChannel:
    """The body of CreateControlChannel (`client_id` None) and CreateDataChannel (in practice an empty text)."""

    request_id: str
    client_id: str | None = None

    def serialize(self) -> bytes:
        body = {"MessageSchemaVersion": SCHEMA_VERSION, "RequestId": self.request_id}
        if self.client_id is not None:
            body["ClientId"] = self.client_id
        return _encode(body)

    @classmethod
    def parse(cls, body: bytes) -> CreateChannel:
        fields = _Fields(_load(body))
        return cls(fields.text("RequestId"), fields.text("ClientId") if "ClientId" in fields else None)


def token_answer(name: str, token: str) -> str:
    """Write the XML that answers one of the calls, `name` being "CreateControlChannel" or "CreateDataChannel"."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<{name}Response xmlns="http://ssmmessages.amazonaws.com/doc/2017-01-01/">'
        f"<MessageSchemaVersion>{SCHEMA_VERSION}</MessageSchemaVersion>"
        f"<TokenValue>{escape(token)}</TokenValue></{name}Response>"
    )


def parse_token_answer(body: str) -> str:
    """Return the token of such an answer: the root's direct child TokenValue. Root and namespace may have any name.

    Raises RemoteProtocolError where the real agent fails or crashes: no XML, no token, or one that is nested deeper.
    A document type is refused too, since entities grow without bound.
    Source: amazon-ssm-agent, agent/session/service/service.go.
    """
    if len(body) > MAX_TOKEN_ANSWER:
        raise RemoteProtocolError(f"an answer of {len(body)} characters is over the limit of {MAX_TOKEN_ANSWER}")
    if "<!DOCTYPE" in body:
        raise RemoteProtocolError("the answer has a document type")
    try:
        root = ElementTree.fromstring(body.encode())
    except (ElementTree.ParseError, ValueError) as error:
        raise RemoteProtocolError(f"the answer is no XML: {error}") from None
    for child in root:
        if child.tag.rpartition("}")[2] == "TokenValue" and child.text:
            return child.text
    raise RemoteProtocolError("the answer holds no token")
