"""Run Command: send, cancel, list, and the outcome on each node."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from django.db.models import Q

from fleetops.awsapi.errors import ApiError, not_implemented
from fleetops.documents import InvalidParameters
from fleetops.documents import command as command_document
from fleetops.documents.parameters import check_parameters
from fleetops.endpoint import command_rules as rules
from fleetops.endpoint.calls import Call
from fleetops.endpoint.documents import StoredDocument
from fleetops.endpoint.models import Command, Invocation
from fleetops.endpoint.nodes import Managed
from fleetops.endpoint.states import CommandStatus
from fleetops.endpoint.underway import execution_seconds, job_content, step_status
from fleetops.wire import MAX_PAYLOAD, payloads

from .shared import DEFAULT_PAGE, Part, Result, read_number, target_arn, token

DEFAULT_TIMEOUT_SECONDS = 3600  # to be delivered [user guide, monitor-commands]
_SHOWN_STDERR = 8_000  # of the 24,000 that an agent sends [SSM, GetCommandInvocation]
_NO_CODE = -1  # ResponseCode of what has not ended
_STAGES = {"Executing": False, "Complete": True}


class Commands(Part):
    """Run Command."""

    names = ("send_command", "cancel_command", "list_commands", "list_command_invocations", "get_command_invocation")

    async def send_command(self, call: Call, parameters: Result) -> Result:
        instance_ids, targets = parameters.get("InstanceIds", []), parameters.get("Targets", [])
        call.resources = list(instance_ids)
        if bool(instance_ids) == bool(targets):
            raise ApiError("ValidationException", "Name either InstanceIds or Targets.")
        if len(set(instance_ids)) != len(instance_ids):
            raise ApiError("DuplicateInstanceId", "An instance id is named twice.")
        _refuse_what_is_not_there(parameters)
        stored = await self._document(call, parameters)
        await self.endpoint.authorizer.allow(call, "ssm:SendCommand", [stored.arn()])
        document = command_document.parse(stored.content)
        given = parameters.get("Parameters", {})
        try:
            values = await asyncio.to_thread(check_parameters, document.parameters, given)
        except InvalidParameters as error:
            raise ApiError("InvalidParameters", str(error)) from None
        platforms = document.platform_types
        nodes = await self._named(call, instance_ids, platforms) if instance_ids else self._targeted(call, targets)
        row = Command(
            command_id=call.behalf.made_id if call.behalf is not None else uuid4(),
            account_id=call.account_id,
            region=call.region,
            document_name=stored.name,
            document_version=parameters.get("DocumentVersion", "$DEFAULT"),
            document_content=stored.content,
            given=given,
            parameters=values,
            comment=parameters.get("Comment", ""),
            instance_ids=instance_ids,
            targets=targets,
            timeout_seconds=parameters.get("TimeoutSeconds", DEFAULT_TIMEOUT_SECONDS),
            execution_seconds=execution_seconds(stored.content, values),
            max_concurrency=parameters.get("MaxConcurrency", rules.DEFAULT_CONCURRENCY),
            max_errors=parameters.get("MaxErrors", rules.DEFAULT_ERRORS),
            output=_output(parameters, stored.name),
            target_count=len(nodes),
            requested_at=call.now,
        )
        _check_size(row)
        invocations = []
        for node in nodes:
            invocations.append(await self._invocation(call, node, platforms, is_targeted=bool(targets)))
            await asyncio.sleep(0)  # of thousands each is decided on its own, and terminals go on meanwhile
        await self.endpoint.commands.send(row, invocations)
        call.resources = [*(node.instance_id for node in nodes[:50]), stored.arn()]
        result = {"Command": _command(row, _ended(invocations))}
        call.response_elements = result
        return result

    async def cancel_command(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        row = await self._command(call, parameters["CommandId"])
        chosen = parameters.get("InstanceIds", [])
        if len(set(chosen)) != len(chosen):
            raise ApiError("DuplicateInstanceId", "An instance id is named twice.")
        call.resources = [str(row.command_id), *chosen]
        await self.endpoint.commands.cancel(row, chosen)
        return {}

    async def list_commands(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        rows = Command.objects.filter(account_id=call.account_id, region=call.region)
        if command_id := parameters.get("CommandId"):
            rows = rows.filter(pk=(await self._command(call, command_id)).pk)
        if instance_id := parameters.get("InstanceId"):
            rows = rows.filter(invocations__instance_id=instance_id)
        rows = rows.filter(_filtered(parameters.get("Filters", []), ""))
        size = parameters.get("MaxResults", DEFAULT_PAGE)
        page, following = await self._page(rows, parameters, size)
        ended = await self.endpoint.commands.counts(page)
        return {"Commands": [_command(row, ended[row.pk]) for row in page], "NextToken": following}

    async def list_command_invocations(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        rows = Invocation.objects.select_related("command").filter(
            command__account_id=call.account_id, command__region=call.region
        )
        if command_id := parameters.get("CommandId"):
            rows = rows.filter(command=(await self._command(call, command_id)).pk)
        if instance_id := parameters.get("InstanceId"):
            rows = rows.filter(instance_id=instance_id)
        rows = rows.filter(_filtered(parameters.get("Filters", []), "command__"))
        page, following = await self._page(rows, parameters, parameters.get("MaxResults", DEFAULT_PAGE))
        is_detailed = parameters.get("Details", False)
        return {"CommandInvocations": [_invocation(row, is_detailed) for row in page], "NextToken": following}

    async def get_command_invocation(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        command_id, instance_id = parameters["CommandId"], parameters["InstanceId"]
        row = await self.endpoint.commands.find_invocation(call.account_id, call.region, command_id, instance_id)
        if row is None:
            raise ApiError("InvocationDoesNotExist", "")
        names = [step.name for step in command_document.parse(row.command.document_content).steps]
        name = parameters.get("PluginName", names[0] if len(names) == 1 else "")
        if name and name not in names:
            raise ApiError("InvalidPluginName", f"{name} is not a step of {row.command.document_name}.")
        step = row.steps.get(name, {})
        started, ended = _moment(step.get("started_at", "")), _moment(step.get("ended_at", ""))
        status, details = str(row.state), row.details
        if len(names) > 1 and step:
            status = details = step_status(step)
        output = row.command.output
        return {
            "CommandId": command_id,
            "InstanceId": instance_id,
            "Comment": row.command.comment,
            "DocumentName": row.command.document_name,
            "DocumentVersion": row.command.document_version,
            "PluginName": name or names[0],
            "ResponseCode": step.get("code", _NO_CODE),
            "ExecutionStartDateTime": _iso(started),
            "ExecutionElapsedTime": _elapsed(started, ended),
            "ExecutionEndDateTime": _iso(ended),
            "Status": status,
            "StatusDetails": details,
            "StandardOutputContent": step.get("stdout", ""),
            "StandardOutputUrl": _url(row, name, step, "stdout"),
            "StandardErrorContent": step.get("stderr", "")[:_SHOWN_STDERR],
            "StandardErrorUrl": _url(row, name, step, "stderr"),
            "CloudWatchOutputConfig": {
                "CloudWatchLogGroupName": output.get("log_group") or None,
                "CloudWatchOutputEnabled": bool(output.get("to_logs")),
            },
        }

    # What a command is sent to

    async def _document(self, call: Call, parameters: Result) -> StoredDocument:
        name = parameters["DocumentName"]
        version = parameters.get("DocumentVersion", "$DEFAULT")
        stored = await self.endpoint.documents.find(call.account_id, call.region, name, version)
        if stored.document_type != "Command":
            raise ApiError("InvalidDocument", f"{name} is a {stored.document_type} document, not a Command document.")
        wanted = parameters.get("DocumentHash")
        if wanted and (parameters.get("DocumentHashType", "Sha256") != "Sha256" or wanted.lower() != stored.digest):
            raise ApiError("InvalidDocument", "The document's hash is not the one given.")
        return stored

    async def _named(self, call: Call, instance_ids: list[str], platforms: Collection[str]) -> list[Managed]:
        """The nodes of a request that names them: all there, all of a platform that fits, all allowed."""
        nodes, missing = [], []
        for instance_id in instance_ids:
            node = self.nodes.find((call.account_id, call.region, instance_id))
            resource = target_arn(call, instance_id)
            context = _tags_of(node) if node is not None else {}
            await self.endpoint.authorizer.allow(call, "ssm:SendCommand", [resource], context)
            if node is None or not node.is_listed:
                missing.append(instance_id)
            else:
                nodes.append(node)
        if missing:
            shown = ", ".join(missing)
            raise ApiError(
                "InvalidInstanceId", f"Instances [[{shown}]] not in a valid state for account {call.account_id}"
            )
        for node in nodes:
            if not _fits(node, platforms):
                platform = node.information.get("PlatformType")
                raise ApiError("UnsupportedPlatformType", f"{node.instance_id} runs {platform}, the document does not.")
        return nodes

    def _targeted(self, call: Call, targets: list[dict[str, Any]]) -> list[Managed]:
        """The nodes that match all of the targets; several values of one are alternatives."""
        found = self.nodes.of_region(call.account_id, call.region)
        for target in targets:
            key, values = target.get("Key", ""), target.get("Values", [])
            if key in {"InstanceIds", "instanceids"}:
                found = found if "*" in values else [node for node in found if node.instance_id in values]
            elif key == "tag-key":
                found = [node for node in found if set(values) & set(node.tags)]
            elif key.startswith("tag:"):
                name = key.removeprefix("tag:")
                found = [node for node in found if name in node.tags and (not values or node.tags[name] in values)]
            elif key.startswith("resource-groups:"):
                raise not_implemented("targets by resource group")
            else:
                raise ApiError("ValidationException", f"{key} is no key of a target.")
        return found

    async def _invocation(
        self, call: Call, node: Managed, platforms: Collection[str], *, is_targeted: bool
    ) -> Invocation:
        invocation = Invocation(
            instance_id=node.instance_id,
            instance_name=(node.name or node.tags.get("Name", "") or node.information.get("ComputerName", ""))[:255],
        )
        details = ""
        if is_targeted:
            try:
                arn = target_arn(call, node.instance_id)
                await self.endpoint.authorizer.allow(call, "ssm:SendCommand", [arn], _tags_of(node))
            except ApiError:
                details = "AccessDenied"
        if not details and not _fits(node, platforms):
            details = "InvalidPlatform"
        if details:
            invocation.details, invocation.state, invocation.ended_at = details, rules.DETAILS[details], call.now
        return invocation

    # Small things

    async def _command(self, call: Call, command_id: str) -> Command:
        row = await self.endpoint.commands.find(call.account_id, call.region, command_id)
        if row is None:
            raise ApiError("InvalidCommandId", f"Command {command_id} does not exist.")
        return row

    async def _page(self, rows: Any, parameters: Result, size: int) -> tuple[list[Any], str | None]:
        """The newest first; (rows, the token of the next page)."""
        before = read_number(parameters.get("NextToken"))
        if before is not None:
            rows = rows.filter(pk__lt=before)
        found = await self.endpoint.commands.read(rows.order_by("-pk")[: size + 1])
        page = found[:size]
        return page, token(str(page[-1].pk)) if len(found) > size else None


def _refuse_what_is_not_there(parameters: Result) -> None:
    """What would be accepted in silence and not be done."""
    if parameters.get("NotificationConfig", {}).get("NotificationArn"):
        raise ApiError("InvalidNotificationConfig", "This endpoint sends no notifications of commands.")
    if parameters.get("AlarmConfiguration"):
        raise not_implemented("commands that watch an alarm")


def _fits(node: Managed, platforms: Collection[str]) -> bool:
    return node.information.get("PlatformType", "Linux") in platforms


def _tags_of(node: Managed) -> dict[str, list[str]]:
    return {f"ssm:resourcetag/{tag.lower()}": [value] for tag, value in node.tags.items()}


def _output(parameters: Result, document_name: str) -> dict[str, Any]:
    logs = parameters.get("CloudWatchOutputConfig", {})
    to_logs = bool(logs.get("CloudWatchOutputEnabled"))
    if parameters.get("OutputS3KeyPrefix") and not parameters.get("OutputS3BucketName"):
        raise ApiError("InvalidOutputFolder", "A key prefix needs a bucket.")
    return {
        "bucket": parameters.get("OutputS3BucketName", ""),
        "prefix": parameters.get("OutputS3KeyPrefix", ""),
        "region": parameters.get("OutputS3Region", ""),
        "to_logs": to_logs,
        "log_group": (logs.get("CloudWatchLogGroupName") or f"/aws/ssm/{document_name}") if to_logs else "",
    }


def _check_size(row: Command) -> None:
    """A job has to fit into one message of the control channel, as text within text."""
    job = payloads.AgentJob(f"aws.ssm.{row.command_id}.{'x' * 64}", job_content(row))
    if len(job.serialize()) > MAX_PAYLOAD:
        raise ApiError("MaxDocumentSizeExceeded", "Document and parameters together do not fit into one message.")


def _ended(invocations: Iterable[Invocation]) -> Counter[str]:
    return Counter(invocation.details for invocation in invocations if invocation.state in rules.OVER)


def _filtered(filters: list[dict[str, str]], prefix: str) -> Q:
    wanted = Q()
    for item in filters:
        key, value = item["key"], item["value"]
        if key in {"InvokedAfter", "InvokedBefore"}:
            moment = _moment(value)
            if moment is None:
                raise ApiError("InvalidFilterKey", f"The value of {key} is no moment in ISO 8601.")
            wanted &= Q(**{f"{prefix}requested_at__{'gt' if key == 'InvokedAfter' else 'lt'}": moment})
        elif key == "Status":
            # The status, or its details, which say more: DeliveryTimedOut and so on.
            wanted &= Q(state=value) | Q(details="RateExceeded" if value == "LimitExceeded" else value)
        elif key == "DocumentName":
            wanted &= Q(**{f"{prefix}document_name": value})
        elif value in _STAGES:
            is_over = Q(**{f"{prefix}state__in": rules.OVER})
            wanted &= is_over if _STAGES[value] else ~is_over
        else:
            raise ApiError("InvalidFilterKey", f"{value} is no ExecutionStage.")
    return wanted


def _command(row: Command, ended: Counter[str]) -> Result:
    output = row.output
    return {
        "CommandId": str(row.command_id),
        "DocumentName": row.document_name,
        "DocumentVersion": row.document_version,
        "Comment": row.comment,
        # When nothing of it can go on any more: delivered at the last moment, and then running as long as it may.
        "ExpiresAfter": row.requested_at + timedelta(seconds=row.timeout_seconds + row.execution_seconds),
        "Parameters": row.given,
        "InstanceIds": row.instance_ids,
        "Targets": row.targets,
        "RequestedDateTime": row.requested_at,
        "Status": str(row.state),
        "StatusDetails": row.details,
        "OutputS3Region": output.get("region") or None,
        "OutputS3BucketName": output.get("bucket") or None,
        "OutputS3KeyPrefix": output.get("prefix") or None,
        "MaxConcurrency": row.max_concurrency,
        "MaxErrors": row.max_errors,
        "TargetCount": row.target_count,
        "CompletedCount": ended.total(),
        "ErrorCount": sum(ended[details] for details in rules.ERRORS),
        "DeliveryTimedOutCount": ended["DeliveryTimedOut"],
        "TimeoutSeconds": row.timeout_seconds,
        "CloudWatchOutputConfig": {
            "CloudWatchLogGroupName": output.get("log_group") or None,
            "CloudWatchOutputEnabled": bool(output.get("to_logs")),
        },
    }


def _invocation(row: Invocation, is_detailed: bool) -> Result:
    command = row.command
    return {
        "CommandId": str(command.command_id),
        "InstanceId": row.instance_id,
        "InstanceName": row.instance_name,
        "Comment": command.comment,
        "DocumentName": command.document_name,
        "DocumentVersion": command.document_version,
        "RequestedDateTime": command.requested_at,
        "Status": str(row.state),
        "StatusDetails": row.details,
        "TraceOutput": row.trace_output or None,
        "StandardOutputUrl": "",
        "StandardErrorUrl": "",
        "CommandPlugins": _plugins(row) if is_detailed else [],
        "CloudWatchOutputConfig": {"CloudWatchOutputEnabled": bool(command.output.get("to_logs"))},
    }


def _plugins(row: Invocation) -> list[Result]:
    found = []
    for document_step in command_document.parse(row.command.document_content).steps:
        step = row.steps.get(document_step.name, {})
        status = step_status(step)
        # What has no result of its own ended as its invocation did.
        if not step and row.state in rules.OVER:
            status = "Cancelled" if row.state == CommandStatus.CANCELLED else str(row.state)
        found.append(
            {
                "Name": document_step.name,
                "Status": status,
                "StatusDetails": status,
                "ResponseCode": step.get("code", _NO_CODE),
                "ResponseStartDateTime": _moment(step.get("started_at", "")),
                "ResponseFinishDateTime": _moment(step.get("ended_at", "")),
                "Output": step.get("output", ""),
                "StandardOutputUrl": _url(row, document_step.name, step, "stdout"),
                "StandardErrorUrl": _url(row, document_step.name, step, "stderr"),
                "OutputS3Region": row.command.output.get("region") or row.command.region,
                "OutputS3BucketName": row.command.output.get("bucket") or None,
                "OutputS3KeyPrefix": row.command.output.get("prefix") or None,
            }
        )
    return found


def _url(row: Invocation, name: str, step: dict[str, Any], stream: str) -> str:
    """Where a step's whole output stands in S3; "" without a bucket."""
    output = row.command.output
    if not output.get("bucket") or not step:
        return ""
    region = output.get("region") or row.command.region
    prefix = f"{output['prefix'].strip('/')}/" if output.get("prefix") else ""
    plugin = step.get("plugin", "").replace(":", "")
    # Schema 1.2 puts the id of the plugin's properties there, 2.x the name of the step.
    folder = f"0.{name}".replace(":", "") if name == step.get("plugin") else name
    path = f"{prefix}{row.command.command_id}/{row.instance_id}/{plugin}/{folder}/{stream}"
    return f"https://s3.{region}.amazonaws.com/{output['bucket']}/{path}"


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _iso(moment: datetime | None) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else ""


def _elapsed(started: datetime | None, ended: datetime | None) -> str:
    """An ISO 8601 length, as PT1.5S."""
    if started is None or ended is None:
        return ""
    return f"PT{max(0.0, (ended - started).total_seconds()):.3f}".rstrip("0").rstrip(".") + "S"
