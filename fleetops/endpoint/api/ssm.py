"""SSM, ours in full: instance information, sessions, tags, session documents, and the calls of the agent."""

import base64
import re
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from fleetops.awsapi import json11
from fleetops.awsapi.errors import ApiError, not_implemented
from fleetops.endpoint import session_documents
from fleetops.endpoint.calls import Call, NodeKey
from fleetops.endpoint.core import Endpoint
from fleetops.endpoint.hub import NotConnected, SessionGone, SessionTask
from fleetops.endpoint.models import Session
from fleetops.endpoint.nodes import Managed

Result = dict[str, Any]
_codec = json11.Codec()

_INSTANCE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # decisions.md 22
_LONGEST_SESSION_NAME = 78  # with "-" and 17 digits a session id stays within 96 characters
_SESSION_DIGITS = 17
_INFORMATION_MEMBERS = {  # of UpdateInstanceInformation, with the most characters that we keep of each
    "AgentName": 64,
    "AgentStatus": 32,
    "AgentVersion": 32,
    "AvailabilityZone": 32,
    "AvailabilityZoneId": 32,
    "ComputerName": 255,
    "IPAddress": 46,
    "PlatformName": 128,
    "PlatformType": 16,
    "PlatformVersion": 64,
    "SSMConnectionChannel": 16,
}
_PLATFORM_TYPES = {"Linux", "Windows", "MacOS"}
_DEFAULT_PAGE = 50
_DEFAULT_SESSIONS_PAGE = 200
_MOST_TAGS = 50


class Ssm:
    """The operations of SSM by name; each takes the call and its checked parameters."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._nodes = endpoint.nodes
        operations: list[Callable[[Call, Result], Awaitable[Result]]] = [
            self.describe_instance_information,
            self.start_session,
            self.resume_session,
            self.terminate_session,
            self.describe_sessions,
            self.get_connection_status,
            self.list_tags_for_resource,
            self.add_tags_to_resource,
            self.remove_tags_from_resource,
            self.get_document,
            self.describe_document,
            self.list_documents,
            self.list_associations,
        ]
        self._operations = {_pascal(operation.__name__): operation for operation in operations}
        # What only agents call; botocore has no model of these.
        self._agent_operations = {
            "UpdateInstanceInformation": self.update_instance_information,
            "ListInstanceAssociations": self.list_instance_associations,
        }

    async def handle(self, call: Call) -> Result:
        """Answer one call. Raises ApiError."""
        assert call.service is not None
        if call.operation in self._agent_operations:
            parameters = _agent_parameters(call.request.body)
            call.parameters = parameters
            return await self._agent_operations[call.operation](call, parameters)
        if call.operation not in call.service.operations:
            raise ApiError("UnknownOperationException", "", 400)
        parameters = _codec.parse(call.service.operation(call.operation), call.request.body)
        call.parameters = parameters
        operation = self._operations.get(call.operation)
        if operation is None:
            raise not_implemented(f"ssm:{call.operation}")
        return await operation(call, parameters)

    # --- The agent --------------------------------------------------------------------------------------------------

    async def update_instance_information(self, call: Call, parameters: Result) -> Result:
        instance_id = _instance_id(parameters)
        await self._endpoint.authorizer.allow_node(call, instance_id, "ssm:UpdateInstanceInformation")
        information = {}
        for name, longest in _INFORMATION_MEMBERS.items():
            value = parameters.get(name)
            if value is None:
                continue
            if not isinstance(value, str) or len(value) > longest:
                raise ApiError(
                    "ValidationException",
                    f"1 validation error detected: Value at '{name[:1].lower()}{name[1:]}' failed to satisfy "
                    f"constraint: Member must have length less than or equal to {longest}",
                )
            information[name] = value
        platform = information.get("PlatformType", "Linux")
        if platform not in _PLATFORM_TYPES:
            raise ApiError("ValidationException", f"'{platform}' is not a platform type")
        await self._nodes.report((call.account_id, call.region, instance_id), information, call.now)
        return {}

    async def list_instance_associations(self, call: Call, parameters: Result) -> Result:
        await self._endpoint.authorizer.allow_node(call, _instance_id(parameters), "ssm:ListInstanceAssociations")
        return {"Associations": []}

    async def list_associations(self, call: Call, parameters: Result) -> Result:
        await self._allow(call)
        return {"Associations": []}

    # --- Nodes ------------------------------------------------------------------------------------------------------

    async def describe_instance_information(self, call: Call, parameters: Result) -> Result:
        await self._allow(call)
        if parameters.get("Filters") and parameters.get("InstanceInformationFilterList"):
            raise ApiError("ValidationException", "Filters and InstanceInformationFilterList cannot be used together.")
        filters = [(item["Key"], item["Values"]) for item in parameters.get("Filters", [])]
        filters += [(item["key"], item["valueSet"]) for item in parameters.get("InstanceInformationFilterList", [])]
        found = self._nodes.of_region(call.account_id, call.region)
        for key, values in filters:
            if key == "InstanceIds":
                self._check_owned(call, values)
            found = [node for node in found if self._matches(node, key, values, call.now)]
        size = parameters.get("MaxResults", _DEFAULT_PAGE)
        after = _read_token(parameters.get("NextToken"))
        found = [node for node in found if node.instance_id > after]
        page = found[:size]
        return {
            "InstanceInformationList": [self._information(node, call.now) for node in page],
            "NextToken": _token(page[-1].instance_id) if len(found) > size else None,
        }

    async def get_connection_status(self, call: Call, parameters: Result) -> Result:
        target = parameters["Target"]
        await self._allow(call, [self._target_arn(call, target)])
        connected = self._endpoint.hub.is_connected((call.account_id, call.region, target))
        return {"Target": target, "Status": "connected" if connected else "notconnected"}

    def _check_owned(self, call: Call, instance_ids: list[str]) -> None:
        for instance_id in instance_ids:
            if self._nodes.find((call.account_id, call.region, instance_id)) is None:
                raise ApiError("InvalidInstanceId", f"{instance_id} is not a managed instance of this account.")

    def _matches(self, node: Managed, key: str, values: list[str], now: datetime) -> bool:
        information = node.information
        if key.startswith("tag:"):
            return node.tags.get(key.removeprefix("tag:")) in values
        held: dict[str, Callable[[], list[str]]] = {
            "InstanceIds": lambda: [node.instance_id],
            "AgentVersion": lambda: [information.get("AgentVersion", "")],
            "PingStatus": lambda: [self._nodes.ping_status(node, now)],
            "PlatformTypes": lambda: [information.get("PlatformType", "")],
            "IamRole": lambda: [node.iam_role],
            "ResourceType": lambda: ["ManagedInstance" if node.is_hybrid else "EC2Instance"],
            "SourceTypes": lambda: ["AWS::SSM::ManagedInstance" if node.is_hybrid else "AWS::EC2::Instance"],
            "SourceIds": lambda: [node.instance_id],
            "ActivationIds": list,
            "AssociationStatus": list,
            "tag-key": lambda: list(node.tags),
        }
        if key not in held:
            raise ApiError("InvalidFilterKey", f"Invalid filter key: {key}")
        return any(value in values for value in held[key]())

    def _information(self, node: Managed, now: datetime) -> Result:
        information = node.information
        return {
            "InstanceId": node.instance_id,
            "PingStatus": self._nodes.ping_status(node, now),
            "LastPingDateTime": self._nodes.last_ping(node, now),
            "AgentVersion": information.get("AgentVersion"),
            "IsLatestVersion": True,
            "PlatformType": information.get("PlatformType"),
            "PlatformName": information.get("PlatformName"),
            "PlatformVersion": information.get("PlatformVersion"),
            "IamRole": node.iam_role or None,
            "RegistrationDate": node.registered_at if node.is_hybrid else None,
            "ResourceType": "ManagedInstance" if node.is_hybrid else "EC2Instance",
            "Name": node.name or None,
            "IPAddress": information.get("IPAddress"),
            "ComputerName": information.get("ComputerName"),
            "SourceId": node.instance_id,
            "SourceType": "AWS::SSM::ManagedInstance" if node.is_hybrid else "AWS::EC2::Instance",
        }

    # --- Sessions ---------------------------------------------------------------------------------------------------

    async def start_session(self, call: Call, parameters: Result) -> Result:
        """Start a session: its row first, then the agent is told; without an agent the row goes again."""
        target = parameters["Target"]
        name = parameters.get("DocumentName") or session_documents.DEFAULT_DOCUMENT
        call.resources = [target]
        key: NodeKey = (call.account_id, call.region, target)
        node = self._nodes.find(key)
        context = {"ssm:sessiondocumentaccesscheck": ["true" if "DocumentName" in parameters else "false"]}
        if node is not None:
            context |= {f"ssm:resourcetag/{tag.lower()}": [value] for tag, value in node.tags.items()}
        resources = [self._target_arn(call, target)]
        if "DocumentName" in parameters:
            resources.append(self._document_arn(call, name))
        await self._endpoint.authorizer.allow(call, "ssm:StartSession", resources, context)
        document = session_documents.find(name)
        values = session_documents.check_parameters(document, parameters.get("Parameters", {}))
        if not _INSTANCE_ID.fullmatch(target) or not self._endpoint.hub.is_connected(key):
            raise ApiError("TargetNotConnected", f"{target} is not connected.")
        assert call.principal is not None
        idle, longest = session_documents.limits(document)
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
        await self._endpoint.sessions.add(session)
        try:
            token = await self._endpoint.hub.start_session(
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
        except NotConnected:
            await self._endpoint.sessions.remove(session)
            raise ApiError("TargetNotConnected", f"{target} is not connected.") from None
        call.resources.append(session.session_id)
        return self._opened(call, session.session_id, token)

    async def resume_session(self, call: Call, parameters: Result) -> Result:
        session = await self._session(call, parameters["SessionId"], "ssm:ResumeSession")
        try:
            token = self._endpoint.hub.resume_session(session.session_id)
        except SessionGone:
            # An answer without a token tells the plugin that the session is over; an error would make it try again.
            return {"SessionId": session.session_id}
        return self._opened(call, session.session_id, token)

    async def terminate_session(self, call: Call, parameters: Result) -> Result:
        session = await self._session(call, parameters["SessionId"], "ssm:TerminateSession")
        await self._endpoint.hub.terminate_session(session.session_id)
        await self._endpoint.sessions.end(session.session_id, "Terminated", "terminated on request")
        return {"SessionId": session.session_id}

    async def describe_sessions(self, call: Call, parameters: Result) -> Result:
        await self._allow(call)
        size = parameters.get("MaxResults", _DEFAULT_SESSIONS_PAGE)
        filters = [(item["key"], item["value"]) for item in parameters.get("Filters", [])]
        before = _read_number(parameters.get("NextToken"))
        try:
            rows = await self._endpoint.sessions.page(
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
            "NextToken": _token(str(page[-1].pk)) if len(rows) > size else None,
        }

    async def _session(self, call: Call, session_id: str, action: str) -> Session:
        session = await self._endpoint.sessions.find(call.account_id, call.region, session_id)
        arn = f"arn:aws:ssm:{call.region}:{call.account_id}:session/{session_id}"
        call.resources = [session_id]
        context: dict[str, list[str]] = {}
        if session is not None:
            call.resources.append(session.target)
            # AWS tags a session with its starter's aws:userid; policies compare it to end only one's own.
            context["ssm:resourcetag/aws:ssmmessages:session-id"] = [session_id.rpartition("-")[0]]
            context["ssm:resourcetag/aws:ssmmessages:target-id"] = [session.target]
        await self._endpoint.authorizer.allow(call, action, [arn], context)
        if session is None:
            raise ApiError("DoesNotExistException", f"Session {session_id} does not exist.")
        return session

    def _opened(self, call: Call, session_id: str, token: str) -> Result:
        url = f"wss://{self._endpoint.stream_host}/v1/data-channel/{session_id}?role=publish_subscribe"
        result = {"SessionId": session_id, "TokenValue": token, "StreamUrl": url}
        call.response_elements = result
        return result

    # --- Tags -------------------------------------------------------------------------------------------------------

    async def list_tags_for_resource(self, call: Call, parameters: Result) -> Result:
        await self._allow(call, self._tagged_arns(call, parameters))
        node = self._tagged(call, parameters)
        tags = sorted(node.tags.items()) if node is not None else []
        return {"TagList": [{"Key": key, "Value": value} for key, value in tags]}

    async def add_tags_to_resource(self, call: Call, parameters: Result) -> Result:
        await self._allow(call, self._tagged_arns(call, parameters))
        node = self._tagged(call, parameters)
        if node is None:
            raise not_implemented(f"tags of a {parameters['ResourceType']}")
        tags = node.tags | {item["Key"]: item["Value"] for item in parameters["Tags"]}
        if len(tags) > _MOST_TAGS:
            raise ApiError("TooManyTagsError", f"A resource holds {_MOST_TAGS} tags at most.")
        await self._nodes.set_tags(node, tags)
        return {}

    async def remove_tags_from_resource(self, call: Call, parameters: Result) -> Result:
        await self._allow(call, self._tagged_arns(call, parameters))
        node = self._tagged(call, parameters)
        if node is not None:
            gone = set(parameters["TagKeys"])
            await self._nodes.set_tags(node, {key: value for key, value in node.tags.items() if key not in gone})
        return {}

    def _tagged(self, call: Call, parameters: Result) -> Managed | None:
        resource_id = parameters["ResourceId"]
        call.resources = [resource_id]
        if parameters["ResourceType"] == "Document":
            session_documents.find(resource_id)
            return None
        if parameters["ResourceType"] != "ManagedInstance":
            raise ApiError("InvalidResourceId", f"{resource_id} does not exist.")
        node = self._nodes.find((call.account_id, call.region, resource_id))
        # An EC2 instance carries EC2's tags; AWS refuses it here.
        if node is None or not node.is_hybrid:
            raise ApiError("InvalidResourceId", f"{resource_id} is not a hybrid managed instance.")
        return node

    # --- Documents --------------------------------------------------------------------------------------------------

    async def get_document(self, call: Call, parameters: Result) -> Result:
        name = parameters["Name"]
        await self._allow(call, [self._document_arn(call, name)])
        _check_version(parameters)
        return {
            "Name": name,
            "DocumentVersion": "1",
            "Status": "Active",
            "Content": session_documents.text_of(name),
            "DocumentType": "Session",
            "DocumentFormat": "JSON",
        }

    async def describe_document(self, call: Call, parameters: Result) -> Result:
        name = parameters["Name"]
        await self._allow(call, [self._document_arn(call, name)])
        _check_version(parameters)
        document = session_documents.find(name)
        return {
            "Document": {
                "Hash": session_documents.digest(name),
                "HashType": "Sha256",
                "Name": name,
                "Owner": session_documents.owner(name) or call.account_id,
                "Status": "Active",
                "DocumentVersion": "1",
                "Description": document["description"],
                "Parameters": [
                    {
                        "Name": parameter,
                        "Type": rule["type"],
                        "Description": rule.get("description"),
                        "DefaultValue": rule.get("default"),
                    }
                    for parameter, rule in document.get("parameters", {}).items()
                ],
                "PlatformTypes": ["Windows", "Linux", "MacOS"],
                "DocumentType": "Session",
                "SchemaVersion": "1.0",
                "LatestVersion": "1",
                "DefaultVersion": "1",
                "DocumentFormat": "JSON",
                "Tags": [],
            }
        }

    async def list_documents(self, call: Call, parameters: Result) -> Result:
        await self._allow(call)
        names = sorted(session_documents.DOCUMENTS)
        filters = {item["Key"]: item["Values"] for item in parameters.get("Filters", []) if item.get("Values")}
        filters |= {item["key"]: [item["value"]] for item in parameters.get("DocumentFilterList", [])}
        for key, values in filters.items():
            if key == "DocumentType":
                names = names if "Session" in values else []
            elif key == "Name":
                names = [name for name in names if any(name.startswith(value) for value in values)]
            elif key == "Owner":
                wanted = {"Amazon"} if set(values) & {"Amazon", "Public", "All"} else set()
                wanted |= {""} if set(values) & {"Self", "Private", "All"} else set()
                names = [name for name in names if session_documents.owner(name) in wanted]
            elif key == "PlatformTypes":
                names = names if {value.lower() for value in values} & {"linux", "windows", "macos"} else []
            elif not key.startswith("tag:"):
                raise ApiError("InvalidFilterKey", f"Invalid filter key: {key}")
            else:
                names = []
        after = _read_token(parameters.get("NextToken"))
        names = [name for name in names if name > after]
        page = names[: parameters.get("MaxResults", _DEFAULT_PAGE)]
        return {
            "DocumentIdentifiers": [
                {
                    "Name": name,
                    "Owner": session_documents.owner(name) or call.account_id,
                    "DocumentVersion": "1",
                    "DocumentType": "Session",
                    "SchemaVersion": "1.0",
                    "DocumentFormat": "JSON",
                    "PlatformTypes": ["Windows", "Linux", "MacOS"],
                    "Tags": [],
                }
                for name in page
            ],
            "NextToken": _token(page[-1]) if len(page) < len(names) else None,
        }

    # --- Shared -----------------------------------------------------------------------------------------------------

    async def _allow(self, call: Call, resources: list[str] | None = None) -> None:
        await self._endpoint.authorizer.allow(call, f"ssm:{call.operation}", resources or ["*"])

    def _tagged_arns(self, call: Call, parameters: Result) -> list[str]:
        if parameters["ResourceType"] != "ManagedInstance":
            return []
        return [f"arn:aws:ssm:{call.region}:{call.account_id}:managed-instance/{parameters['ResourceId']}"]

    def _target_arn(self, call: Call, target: str) -> str:
        if target.startswith("mi-"):
            return f"arn:aws:ssm:{call.region}:{call.account_id}:managed-instance/{target}"
        return f"arn:aws:ec2:{call.region}:{call.account_id}:instance/{target}"

    def _document_arn(self, call: Call, name: str) -> str:
        if name.startswith("arn:"):
            return name
        account = "" if name.startswith("AWS-") else call.account_id
        return f"arn:aws:ssm:{call.region}:{account}:document/{name}"


def _described(session: Session) -> Result:
    return {
        "SessionId": session.session_id,
        "Target": session.target,
        "Status": session.state,
        "StartDate": session.started_at,
        "EndDate": session.ended_at,
        "DocumentName": session.document_name,
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


def _agent_parameters(body: bytes) -> Result:
    try:
        return _codec.decode(body)
    except ValueError:
        raise ApiError("SerializationException", "The request body is not a JSON object.") from None


def _instance_id(parameters: Result) -> str:
    instance_id = parameters.get("InstanceId")
    if not isinstance(instance_id, str) or not _INSTANCE_ID.fullmatch(instance_id):
        raise ApiError(
            "ValidationException",
            "1 validation error detected: Value at 'instanceId' failed to satisfy constraint: Member must satisfy "
            f"regular expression pattern: {_INSTANCE_ID.pattern}",
        )
    return instance_id


def _check_version(parameters: Result) -> None:
    version = parameters.get("DocumentVersion", "$DEFAULT")
    if version not in {"$DEFAULT", "$LATEST", "1"}:
        raise ApiError("InvalidDocumentVersion", f"Document version {version} does not exist.")


def _pascal(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _token(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def _read_number(token: str | None) -> int | None:
    """The row's number in a token; None for no token. Raises ApiError."""
    text = _read_token(token)
    if text and not re.fullmatch(r"[0-9]{1,18}", text):
        raise ApiError("InvalidNextToken", "The specified token is not valid.")
    return int(text) if text else None


def _read_token(token: str | None) -> str:
    if not token:
        return ""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:
        raise ApiError("InvalidNextToken", "The specified token is not valid.") from None
