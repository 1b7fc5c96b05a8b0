"""Automation: start, look, signal, stop."""

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID, uuid4

from django.db import IntegrityError
from django.db.models import Q

from fleetops.awsapi.errors import ApiError
from fleetops.documents import InvalidDocument, InvalidParameters
from fleetops.documents import automation as runbooks
from fleetops.documents.automation_values import references
from fleetops.endpoint.automation import signals
from fleetops.endpoint.automation.caller import ROLE_ARN, assumed, written
from fleetops.endpoint.automation.targets import resolved
from fleetops.endpoint.calls import Call
from fleetops.endpoint.documents import AMAZON, StoredDocument, split_arn
from fleetops.endpoint.models import AutomationExecution, AutomationStep
from fleetops.endpoint.states import AUTOMATION_OVER

from .automation_members import execution_member, metadata_member, step_member
from .shared import DEFAULT_PAGE, Part, Result, read_number, token

_AIM = ("TargetParameterName", "Targets", "TargetMaps", "MaxConcurrency", "MaxErrors")
_DEEPEST = 5  # automations that start each other
_MOST_STEPS_SHOWN = 100  # of one execution in GetAutomationExecution; the rest by DescribeAutomationStepExecutions
_TYPES = {"Local"}


class Automation(Part):
    """Executions of runbooks."""

    names = (
        "start_automation_execution",
        "get_automation_execution",
        "describe_automation_executions",
        "describe_automation_step_executions",
        "send_automation_signal",
        "stop_automation_execution",
    )

    # Changing

    async def start_automation_execution(self, call: Call, parameters: Result) -> Result:
        name, version = parameters["DocumentName"], parameters.get("DocumentVersion", "$DEFAULT")
        await self.allow(call, [_definition_arn(call, name, version)])
        call.resources = [_definition_arn(call, name, version)]
        stored = await self._document(call, name, version)
        runbook = _runbook(stored)
        if (known := await self._known(call, parameters)) is not None:
            return _started(call, known)
        if parameters.get("TargetLocations") or parameters.get("TargetLocationsURL"):
            raise _wrong(
                "This endpoint runs automations in the account and region of the call alone: no TargetLocations."
            )
        given: dict[str, list[str]] = parameters.get("Parameters", {})
        if any(name.startswith("ssm:") for texts in given.values() for text in texts for name in references(text)):
            raise _wrong("This endpoint keeps no parameters in Parameter Store.")
        aim = {name: parameters[name] for name in _AIM if parameters.get(name)}
        targets = await resolved(self.endpoint, call, aim, runbook)
        first = targets[0] if targets else {}
        try:
            # With targets each has an execution of its own, with its own parameters; what is wrong in all is told now.
            values = runbooks.check_parameters(runbook, {**given, **first})
        except InvalidParameters as error:
            raise _wrong(str(error)) from None
        parent = await self._parent(call, stored.name)
        row = AutomationExecution(
            execution_id=call.behalf.made_id if call.behalf is not None else uuid4(),
            account_id=call.account_id,
            region=call.region,
            document_name=stored.name if stored.owner in {call.account_id, AMAZON} else stored.arn(),
            document_version=str(stored.version),
            document_content=stored.content,
            given=given,
            parameters=values,
            variables={name: default for name, (_, default) in runbook.variables.items()},
            mode=parameters.get("Mode", "Auto"),
            client_token=_token(parameters),
            request_digest=_digest(parameters),
            principal=written(call.principal) if call.principal is not None else {},
            executed_by=call.principal.arn if call.principal is not None else "",
            parent=parent,
            aim=aim | ({"is_controlled": True} if aim.get("Targets") or aim.get("TargetMaps") else {}),
            resolved=targets,
            tags={item["Key"]: item["Value"] for item in parameters.get("Tags", [])},
            alarm=parameters.get("AlarmConfiguration", {}),
            started_at=call.now,
        )
        row.assume_role = await self._role(call, runbook, row)
        if parent is not None and call.behalf is not None and not call.behalf.is_forwarded and not row.assume_role:
            row.principal, row.assume_role = parent.principal, parent.assume_role  # it goes on as its parent's role
        try:
            await self.endpoint.automations.begin(row, [_named(target) for target in targets])
        except IntegrityError:  # the same token twice at the same moment
            if (known := await self._known(call, parameters)) is None:
                raise
            row = known
        return _started(call, row)

    async def _document(self, call: Call, name: str, version: str) -> StoredDocument:
        try:
            stored = await self.endpoint.documents.find(call.account_id, call.region, name, version)
        except ApiError as error:
            is_version = error.code == "InvalidDocumentVersion"
            code = (
                "AutomationDefinitionVersionNotFoundException"
                if is_version
                else "AutomationDefinitionNotFoundException"
            )
            raise ApiError(code, error.message) from None
        if stored.document_type != "Automation":
            raise ApiError(
                "AutomationDefinitionNotFoundException",
                f"{name} is a {stored.document_type} document, not an Automation document.",
            )
        return stored

    async def _known(self, call: Call, parameters: Result) -> AutomationExecution | None:
        """What the same token has started already. Raises ApiError if it was another request."""
        if (given := _token(parameters)) is None:
            return None
        rows = AutomationExecution.objects.filter(account_id=call.account_id, region=call.region, client_token=given)
        row: AutomationExecution | None = await self.endpoint.automations.read(rows.first)
        if row is not None and row.request_digest != _digest(parameters):
            raise ApiError(
                "IdempotentParameterMismatch", "The token was used before, with other parameters of the request."
            )
        return row

    async def _parent(self, call: Call, name: str) -> AutomationExecution | None:
        """The execution that starts another. Raises ApiError if it would go round in a circle, or too deep."""
        if call.behalf is None:
            return None
        parent = await self.endpoint.automations.find_by_id(call.behalf.execution_id)
        above, depth = parent, 1
        while above is not None:
            if above.document_name == name:
                raise _wrong(
                    f"{name} is under way above this execution: runbooks may not start each other in a circle."
                )
            depth += 1
            if depth > _DEEPEST:
                raise _wrong(f"Automations start each other at most {_DEEPEST} deep.")
            above = await self.endpoint.automations.parent_of(above)
        return parent

    async def _role(self, call: Call, runbook: runbooks.Runbook, row: AutomationExecution) -> str:
        """The role that it acts as; "" for the caller itself. Raises ApiError."""
        role = runbook.assume_role
        for name in references(role):
            role = str(row.parameters.get(name) or "")
        if not role.strip():
            return ""
        match = ROLE_ARN.fullmatch(role)
        if match is None or match["account"] != call.account_id:
            raise _wrong("The defined assume role is unable to be assumed.")
        context = {"iam:passedtoservice": ["ssm.amazonaws.com"]}
        await self.endpoint.authorizer.allow(call, "iam:PassRole", [role], context)
        if await assumed(self.endpoint.identities, role, row.execution_id) is None:
            raise _wrong("The defined assume role is unable to be assumed.")
        return role

    async def send_automation_signal(self, call: Call, parameters: Result) -> Result:
        row = await self._found(call, parameters)
        assert call.principal is not None
        await signals.send(
            self.endpoint.automations, row, parameters["SignalType"], parameters.get("Payload", {}), call.principal
        )
        return {}

    async def stop_automation_execution(self, call: Call, parameters: Result) -> Result:
        row = await self._found(call, parameters)
        if row.state in AUTOMATION_OVER:
            raise ApiError(
                "InvalidAutomationStatusUpdateException",
                f"The execution {row.execution_id} has ended as {row.state}, and cannot be stopped.",
            )
        await self.endpoint.automations.stop_one(row, parameters.get("Type", "Cancel"))
        return {}

    # Reading

    async def get_automation_execution(self, call: Call, parameters: Result) -> Result:
        row, steps = await self.endpoint.automations.whole(await self._found(call, parameters))
        member = execution_member(row, steps[:_MOST_STEPS_SHOWN], steps)
        member["StepExecutionsTruncated"] = len(steps) > _MOST_STEPS_SHOWN
        return {"AutomationExecution": member}

    async def describe_automation_executions(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        rows = AutomationExecution.objects.select_related("parent").filter(
            _filtered(parameters.get("Filters", [])), account_id=call.account_id, region=call.region
        )
        before = read_number(parameters.get("NextToken"))
        if before is not None:
            rows = rows.filter(pk__lt=before)
        size = parameters.get("MaxResults", DEFAULT_PAGE)
        found = await self.endpoint.automations.read(lambda: list(rows.order_by("-pk")[: size + 1]))
        page = found[:size]
        return {
            "AutomationExecutionMetadataList": [metadata_member(row) for row in page],
            "NextToken": token(str(page[-1].pk)) if len(found) > size else None,
        }

    async def describe_automation_step_executions(self, call: Call, parameters: Result) -> Result:
        row = await self._found(call, parameters)
        rows = AutomationStep.objects.select_related("loop").filter(_steps_filtered(parameters.get("Filters", [])))
        rows = rows.filter(execution=row.pk)
        is_reverse = parameters.get("ReverseOrder", False)
        after = read_number(parameters.get("NextToken"))
        if after is not None:
            rows = rows.filter(**{"position__lt" if is_reverse else "position__gt": after})
        rows = rows.order_by("-position" if is_reverse else "position")
        size = parameters.get("MaxResults", DEFAULT_PAGE)
        found = await self.endpoint.automations.read(lambda: list(rows[: size + 1]))
        page = found[:size]
        return {
            "StepExecutions": [step_member(step, row) for step in page],
            "NextToken": token(str(page[-1].position)) if len(found) > size else None,
        }

    async def _found(self, call: Call, parameters: Result) -> AutomationExecution:
        execution_id = parameters["AutomationExecutionId"]
        arn = f"arn:aws:ssm:{call.region}:{call.account_id}:automation-execution/{execution_id}"
        call.resources = [arn]
        await self.allow(call, [arn])
        row = await self.endpoint.automations.find(call.account_id, call.region, execution_id)
        if row is None:
            raise ApiError(
                "AutomationExecutionNotFoundException", f"Fail to get automation execution with id {execution_id}."
            )
        return row


def _runbook(stored: StoredDocument) -> runbooks.Runbook:
    try:
        return runbooks.parse(stored.content)
    except InvalidDocument as error:  # kept from before runbooks were read whole
        raise _wrong(f"{stored.name} is no sound runbook: {error}") from None


def _started(call: Call, row: AutomationExecution) -> Result:
    result = {"AutomationExecutionId": str(row.execution_id)}
    call.response_elements = result
    return result


def _wrong(message: str) -> ApiError:
    return ApiError("InvalidAutomationExecutionParametersException", message)


def _token(parameters: Result) -> str | None:
    """The ClientToken; upper and lower case are the same [SSM, StartAutomationExecution]."""
    given = parameters.get("ClientToken")
    return given.lower() if given is not None else None


def _digest(parameters: Result) -> str:
    held = {name: value for name, value in parameters.items() if name != "ClientToken"}
    return hashlib.sha256(json.dumps(held, sort_keys=True, default=str).encode()).hexdigest()


def _definition_arn(call: Call, name: str, version: str) -> str:
    owner, region, plain = split_arn(name, call.account_id, call.region)
    account = "" if owner == AMAZON or plain.startswith("AWS-") else owner
    return f"arn:aws:ssm:{region}:{account}:automation-definition/{plain}:{version}"


def _named(target: dict[str, list[str]]) -> str:
    values = [",".join(texts) for texts in target.values()]
    return (
        values[0] if len(values) == 1 else ",".join(f"{name}={text}" for name, text in zip(target, values, strict=True))
    )


# --- Filters ---


def _filtered(filters: Iterable[Result]) -> Q:
    found = Q()
    for item in filters:
        key, values = item["Key"], item["Values"]
        match key:
            case "ExecutionStatus":
                found &= Q(state__in=values)
            case "ExecutionId":
                found &= Q(execution_id__in=_ids(key, values))
            case "ParentExecutionId":
                found &= Q(parent__execution_id__in=_ids(key, values))
            case "DocumentNamePrefix":
                names = Q()
                for value in values:
                    names |= Q(document_name__startswith=value)
                found &= names
            case "CurrentAction":
                found &= Q(current_action__in=values) & ~Q(state__in=AUTOMATION_OVER)
            case "StartTimeBefore":
                found &= Q(started_at__lte=_moment(key, values))
            case "StartTimeAfter":
                found &= Q(started_at__gte=_moment(key, values))
            case "AutomationType":
                found &= Q() if _TYPES & set(values) else Q(pk=0)  # none is of several accounts
            case "TagKey":
                found &= Q(tags__has_any_keys=values)
            case _:
                found &= Q(pk=0)  # AutomationSubtype, OpsItemId, TargetResourceGroup: there are none
    return found


def _steps_filtered(filters: Iterable[Result]) -> Q:
    found = Q()
    for item in filters:
        key, values = item["Key"], item["Values"]
        match key:
            case "StepExecutionStatus":
                found &= Q(state__in=values)
            case "StepExecutionId":
                found &= Q(step_id__in=_ids(key, values))
            case "StepName":
                found &= Q(name__in=values)
            case "Action":
                found &= Q(action__in=values)
            case "StartTimeBefore":
                found &= Q(started_at__lte=_moment(key, values))
            case "StartTimeAfter":
                found &= Q(started_at__gte=_moment(key, values))
            case "ParentStepExecutionId":
                found &= Q(loop__step_id__in=_ids(key, values))
            case "ParentStepIteration":
                found &= Q(iteration__in=[int(value) for value in values if value.isascii() and value[:9].isdigit()])
            case "ParentStepIteratorValue":
                found &= Q(iterator_value__in=values)
    return found


def _ids(key: str, values: list[str]) -> list[str]:
    try:
        return [str(UUID(value)) for value in values]
    except ValueError:
        raise ApiError("InvalidFilterValue", f"A value of the filter {key} is no id.") from None


def _moment(key: str, values: list[str]) -> datetime:
    try:
        moment = datetime.fromisoformat(values[0])
    except ValueError:
        raise ApiError("InvalidFilterValue", f"The value of the filter {key} is no moment in ISO 8601.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
