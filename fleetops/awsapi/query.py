"""The query and ec2 protocols as a server speaks them: a form in, XML out, by botocore's models."""

import re
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape

from fleetops.awsapi.errors import ApiError

_NAME = re.compile(r"[A-Za-z0-9]{1,128}")
# What XML 1.0 cannot hold at all.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
# A form may not make us build more than this: AWS's largest lists hold a thousand members.
_MOST_FIELDS = 20_000
_LONGEST_KEY = 1024  # characters; each full stop in one is a level


def read_form(body: bytes, query: str = "") -> dict[str, str]:
    """Read the fields of a request, from its body and its URL.

    Raises ApiError (MalformedQueryString) if it cannot be read.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
        pairs += parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise ApiError("MalformedQueryString", "The query string cannot be read.", 400) from None
    return dict(pairs)


def read_action(form: Mapping[str, str]) -> str:
    """The operation that a form names. Raises ApiError (MissingAction) if it names none."""
    action = form.get("Action", "")
    if not _NAME.fullmatch(action):
        raise ApiError("MissingAction", "The request must name an Action.", 400)
    return action


def parse(operation: OperationModel, form: Mapping[str, str], *, ec2: bool) -> dict[str, Any]:
    """Read a form by the operation's input shape.

    Raises ApiError if a value is not of its kind or a required member is missing.
    """
    if operation.input_shape is None:
        return {}
    tree: dict[str, Any] = {}
    for key, text in form.items():
        place = tree
        if len(key) > _LONGEST_KEY:
            raise ApiError("MalformedQueryString", "The query string cannot be read.", 400)
        *folders, last = key.split(".")
        for folder in folders:
            below = place.get(folder)
            if not isinstance(below, dict):
                below = place[folder] = {}
            place = below
        if not isinstance(place.get(last), dict):
            place[last] = text
    value: dict[str, Any] = _read(operation.input_shape, tree, ec2, "")
    for name in operation.input_shape.required_members:
        if name not in value:
            code = "MissingParameter" if ec2 else "ValidationError"
            raise ApiError(code, f"The request must contain the parameter {name}", 400)
    return value


def _read(shape: Shape, node: Any, ec2: bool, path: str) -> Any:
    if isinstance(shape, StructureShape):
        node = node if isinstance(node, dict) else {}
        return {
            name: _read(member, node[key], ec2, f"{path}{key}.")
            for name, member in shape.members.items()
            if (key := _input_name(name, member, ec2)) in node
        }
    if isinstance(shape, ListShape):
        if not isinstance(node, dict):
            return []
        if not ec2 and not shape.serialization.get("flattened"):
            node = node.get(shape.member.serialization.get("name", "member"), {})
        numbered = sorted((int(key), item) for key, item in node.items() if key.isdigit() and len(key) < 7)
        return [_read(shape.member, item, ec2, f"{path}{n}.") for n, item in numbered]
    if isinstance(shape, MapShape):
        if not isinstance(node, dict):
            return {}
        entries = node if shape.serialization.get("flattened") else node.get("entry", {})
        key_name = shape.key.serialization.get("name", "key")
        value_name = shape.value.serialization.get("name", "value")
        return {
            entry[key_name]: _read(shape.value, entry.get(value_name, ""), ec2, path)
            for _, entry in sorted(entries.items())
            if isinstance(entry, dict) and isinstance(entry.get(key_name), str)
        }
    if not isinstance(node, str):
        raise ApiError(
            "InvalidParameterValue" if ec2 else "ValidationError", f"Unexpected value for {path.rstrip('.')}"
        )
    return _scalar(shape, node, ec2, path)


def _input_name(name: str, member: Shape, ec2: bool) -> str:
    if ec2:
        serialization = member.serialization
        if "queryName" in serialization:
            return str(serialization["queryName"])
        located = str(serialization.get("name", name))
        return located[:1].upper() + located[1:]
    if isinstance(member, ListShape) and member.serialization.get("flattened"):
        return str(member.member.serialization.get("name", name))
    return str(member.serialization.get("name", name))


def _scalar(shape: Shape, text: str, ec2: bool, path: str) -> Any:
    try:
        if shape.type_name in {"integer", "long"}:
            return int(text)
        if shape.type_name in {"float", "double"}:
            return float(text)
        if shape.type_name == "boolean":
            return {"true": True, "false": False}[text.lower()]
        if shape.type_name == "timestamp":
            moment = datetime.fromisoformat(text)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (KeyError, ValueError):
        code = "InvalidParameterValue" if ec2 else "MalformedInput"
        raise ApiError(code, f"Invalid value '{text[:100]}' for {path.rstrip('.')}", 400) from None
    return text


def write(operation: OperationModel, result: Mapping[str, Any], request_id: str, *, ec2: bool) -> bytes:
    """Write a result as the operation's XML answer."""
    shape = operation.output_shape
    namespace = operation.service_model.metadata.get("xmlNamespace", "")
    if ec2:
        api = operation.service_model.api_version
        namespace = namespace or f"http://ec2.amazonaws.com/doc/{api}/"
    inner = _members(shape, result, ec2) if isinstance(shape, StructureShape) else ""
    if ec2:
        body = f"<requestId>{request_id}</requestId>{inner}"
    else:
        wrapper = (shape.serialization.get("resultWrapper") if shape is not None else None) or f"{operation.name}Result"
        body = f"<{wrapper}>{inner}</{wrapper}><ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>"
    name = f"{operation.name}Response"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} xmlns="{namespace}">{body}</{name}>'.encode()


def _members(shape: StructureShape, value: Mapping[str, Any], ec2: bool) -> str:
    return "".join(
        _element(member.serialization.get("name", name), member, value[name], ec2)
        for name, member in shape.members.items()
        if value.get(name) is not None
    )


def _element(name: str, shape: Shape, value: Any, ec2: bool) -> str:
    if isinstance(shape, StructureShape):
        return f"<{name}>{_members(shape, value, ec2)}</{name}>"
    if isinstance(shape, ListShape):
        flat = shape.serialization.get("flattened")
        inner_name = shape.member.serialization.get("name", "item" if ec2 else "member")
        if flat:
            return "".join(
                _element(shape.member.serialization.get("name", name), shape.member, item, ec2) for item in value
            )
        return f"<{name}>{''.join(_element(inner_name, shape.member, item, ec2) for item in value)}</{name}>"
    if isinstance(shape, MapShape):
        key_name = shape.key.serialization.get("name", "key")
        value_name = shape.value.serialization.get("name", "value")
        entries = "".join(
            f"<entry>{_element(key_name, shape.key, key, ec2)}{_element(value_name, shape.value, item, ec2)}</entry>"
            for key, item in value.items()
        )
        return f"<{name}>{entries}</{name}>"
    return f"<{name}>{_text(value)}</{name}>"


def _text(value: Any) -> str:
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{value.microsecond // 1000:03d}Z"
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return escape(_UNPRINTABLE.sub("", str(value)))
