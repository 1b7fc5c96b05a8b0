"""What moto answers: the request, checked, that its child is given, and the answer that the caller gets.

moto never sees the caller's request. Where its dispatcher looks for an operation (a second Action in a form, one in the
URL, one within a JSON text, a path of its own such as /moto-api/reset) it could find another than the one that was
authorised and journalled. So the request is written anew from what we have read.
"""

import os
import re
from typing import Any
from urllib.parse import unquote, urlencode

import orjson

from fleetops.awsapi import checks, json11, models, query, rest
from fleetops.awsapi.errors import ApiError, not_implemented
from fleetops.endpoint.calls import Answer, Call

_ERROR_CODE = re.compile(rb"<Code>([^<]{1,128})</Code>")
_ERROR_MESSAGE = re.compile(rb"<Message>([^<]{0,1024})</Message>")
# All that moto is told of a caller's headers where the operation stands in the body.
_FORM_HEADERS = {"host"}
# No credential of the caller goes into the journal; the rest would tell moto another region, or to read otherwise.
_DROPPED_HEADERS = {"authorization", "x-amz-security-token", "cookie", "user-agent", "x-amz-target"}


def question(call: Call, *, changes: bool) -> tuple[dict[str, Any], bytes]:
    """One call as moto's child takes it and its journal keeps it, and its body."""
    assert call.service is not None and call.claim is not None
    path, fields, body = call.resource_path or call.request.path, call.request.query, call.request.body
    headers = [(name, value) for name, value in call.request.headers if name not in _DROPPED_HEADERS]
    if call.protocol in {"query", "ec2"}:
        path, fields, body = "/", "", urlencode(call.form).encode()
        headers = [(name, value) for name, value in headers if name in _FORM_HEADERS]
        headers.append(("content-type", "application/x-www-form-urlencoded; charset=utf-8"))
    elif call.protocol == "json":
        path, fields = "/", urlencode({"Action": call.operation})
        headers = [(name, value) for name, value in headers if name in _FORM_HEADERS]
        headers += [
            ("content-type", f"application/x-amz-json-{call.service.json_version}"),
            ("x-amz-target", f"{call.service.target_prefix}.{call.operation}"),
        ]
    elif call.protocol == "rest-json":
        fields = _with_action(fields, call.operation)
        headers = [(name, value) for name, value in headers if name not in {"content-type", "content-encoding"}]
        headers.append(("content-type", "application/json"))
    return {
        "request_id": call.request_id,
        "now": call.now.timestamp(),
        "seed": os.urandom(32).hex(),
        "account": call.owner_id or call.account_id,
        "service": call.service.signing_name,
        "region": call.region,
        "access_key": call.claim.access_key_id,
        "method": call.request.method,
        "path": path,
        "query": fields,
        "headers": headers,
        "protocol": call.protocol,
        "operation": call.operation,
        "changes": changes,
    }, body


# Sub-resources of S3 that moto does not know: it would take a request about one for one about the bucket or the object
# itself, and delete the bucket where its metrics were meant.
_UNKNOWN_PARTS = frozenset(
    {
        *("abac", "analytics", "annotation", "intelligent-tiering", "metadataAnnotationTable", "metadataConfiguration"),
        *("metadataInventoryTable", "metadataJournalTable", "metadataTable", "metrics", "renameObject"),
        *("requestPayment", "session", "torrent"),
    }
)


def _with_action(query: str, operation: str) -> str:
    """A REST request's query with our operation as its only Action."""
    kept = [part for part in query.split("&") if part and unquote(part.partition("=")[0]) != "Action"]
    return "&".join([*kept, urlencode({"Action": operation})])


def checked_parameters(call: Call) -> dict[str, Any]:
    """The parameters of a call that moto answers, as far as the trail and the policies want to know them.

    moto checks little of what it is given: a request is held against botocore's model first.
    Raises ApiError in the code of the service if it cannot be read or breaks its model.
    """
    assert call.service is not None
    operation = call.service.operation(call.operation)
    name, protocol = call.service.signing_name, call.protocol
    if name == "s3" and _UNKNOWN_PARTS & models.query_keys(operation):
        raise not_implemented(f"s3:{call.operation}")
    if protocol in {"query", "ec2"}:
        parsed = query.parse(operation, call.form, ec2=protocol == "ec2")
        call.members = checks.check(name, protocol, operation, parsed)
        return {name: value for name, value in call.form.items() if name not in {"Action", "Version"}}
    if protocol == "json":
        try:
            parameters = json11.Codec.decode(call.request.body)
        except ValueError:
            raise ApiError("SerializationException", "The request body is not a JSON object.") from None
        call.members = checks.check(name, protocol, operation, parameters)
        return parameters
    request = rest.RestRequest(call.resource_path, call.request.query, call.request.headers, call.request.body)
    call.members = parameters = checks.check(name, protocol, operation, rest.parse(operation, request))
    return {} if name == "s3" else parameters  # what the trail shows of S3 is in resources.py


def answer(status: int, headers: list[tuple[str, str]], content: bytes) -> Answer:
    """What the caller gets of moto's answer."""
    kind = next((value for name, value in headers if name == "content-type"), "application/octet-stream")
    others = tuple((name, value) for name, value in headers if name != "content-type")
    code = message = ""
    if status >= 400:
        code, message = _told_error(status, headers, content)
    return Answer(status, content, kind, others, code, message)


def _told_error(status: int, headers: list[tuple[str, str]], content: bytes) -> tuple[str, str]:
    for name, value in headers:
        if name == "x-amzn-errortype":
            return value, ""
    if match := _ERROR_CODE.search(content):
        message = _ERROR_MESSAGE.search(content)
        return match[1].decode(errors="replace"), message[1].decode(errors="replace") if message else ""
    try:
        body = orjson.loads(content)
        return str(body.get("__type", status)).rpartition("#")[2], str(body.get("message", ""))
    except (ValueError, AttributeError):
        return str(status), ""
