"""The query and ec2 protocols as a server speaks them: a form in, XML out, by botocore's models."""

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape

from fleetops.awsapi.errors import UNPRINTABLE, ApiError

_NAME = re.compile(r"[A-Za-z0-9]{1,128}")
# A form may not make us build more than this: AWS's largest lists hold a thousand members.
_MOST_FIELDS = 20_000
_LONGEST_KEY = 1024  # characters
_DEEPEST = 64  # levels of a key, at its full stops; the models have less than twenty
_LONGEST_TOLD = 200  # characters of a key that are repeated to its sender
# What a form says besides the parameters of its operation.
_ENVELOPE = {"Action", "Version"}
_NUMBER_OF_ITEM = re.compile(r"[0-9]{1,6}")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_FLOAT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?|NaN|-?Infinity")
_BITS = {"integer": 31, "long": 63}
_BOOLEANS = {text: text.lower() == "true" for text in ("true", "false", "True", "False", "TRUE", "FALSE")}


def read_form(body: bytes, query: str = "") -> dict[str, str]:
    """Read the fields of a request, from its body and its URL; those of a signature in the URL are left out.

    Raises ApiError (MalformedQueryString) if it cannot be read.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
        pairs += parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise ApiError("MalformedQueryString", "The query string cannot be read.", 400) from None
    return {name: value for name, value in pairs if not name.startswith("X-Amz-")}


def read_action(form: Mapping[str, str]) -> str:
    """The operation that a form names. Raises ApiError (MissingAction) if it names none."""
    action = form.get("Action", "")
    if not _NAME.fullmatch(action):
        raise ApiError("MissingAction", "The request must name an Action.", 400)
    return action


def parse(operation: OperationModel, form: Mapping[str, str], *, ec2: bool) -> dict[str, Any]:
    """Read a form by the operation's input shape: texts, numbers, moments and bytes in structures, lists and maps.

    What its values may be is for `checks` to say. EC2 refuses a parameter that it does not know, the other services
    pass over it. Raises ApiError if a value is not of its kind.
    """
    tree: dict[str, Any] = {}
    for key, text in form.items():
        if key in _ENVELOPE:
            continue
        place = tree
        *folders, last = key.split(".")
        if len(key) > _LONGEST_KEY or len(folders) >= _DEEPEST:
            raise ApiError("MalformedQueryString", "The query string cannot be read.", 400)
        for folder in folders:
            below = place.get(folder)
            if not isinstance(below, dict):
                below = place[folder] = {}
            place = below
        if not isinstance(place.get(last), dict):
            place[last] = text
    if operation.input_shape is None:
        if ec2 and tree:
            raise _unknown(next(iter(tree)))
        return {}
    value: dict[str, Any] = _read(operation.input_shape, tree, ec2, "")
    return value


def _read(shape: Shape, node: Any, ec2: bool, path: str) -> Any:
    if isinstance(shape, StructureShape):
        return _read_structure(shape, node, ec2, path)
    if isinstance(shape, ListShape):
        if node == "":
            return []  # as botocore writes an empty list
        if not ec2 and not shape.serialization.get("flattened"):
            node = _folder(node, ec2, path).get(shape.member.serialization.get("name", "member"), {})
        return [_read(shape.member, item, ec2, f"{path}{n}.") for n, item in _numbered(node, ec2, path)]
    if isinstance(shape, MapShape):
        if node == "":
            return {}
        if not shape.serialization.get("flattened"):
            node = _folder(node, ec2, path).get("entry", {})
        key_name = shape.key.serialization.get("name", "key")
        value_name = shape.value.serialization.get("name", "value")
        found = {}
        for n, item in _numbered(node, ec2, path):
            entry = _folder(item, ec2, f"{path}{n}.")
            if not isinstance(entry.get(key_name), str) or value_name not in entry:
                raise _of_another_kind(ec2, f"{path}{n}.")
            found[entry[key_name]] = _read(shape.value, entry[value_name], ec2, f"{path}{n}.{value_name}.")
        return found
    if not isinstance(node, str):
        raise _of_another_kind(ec2, path)
    return _scalar(shape, node, ec2, path)


def _read_structure(shape: StructureShape, node: Any, ec2: bool, path: str) -> dict[str, Any]:
    node = {} if node == "" else _folder(node, ec2, path)
    members = _members_by_name(shape, ec2)
    found = {}
    for key, item in node.items():
        if key in members:
            name, member = members[key]
            found[name] = _read(member, item, ec2, f"{path}{key}.")
        elif ec2:
            raise _unknown(f"{path}{key}")
    return found


def _folder(node: Any, ec2: bool, path: str) -> dict[str, Any]:
    if not isinstance(node, dict):
        raise _of_another_kind(ec2, path)
    return node


def _numbered(node: Any, ec2: bool, path: str) -> list[tuple[int, Any]]:
    """The items of a list in order of their numbers, which may have gaps."""
    items = _folder(node, ec2, path)
    for key in items:
        if not _NUMBER_OF_ITEM.fullmatch(key):
            raise _unknown(f"{path}{key}") if ec2 else _of_another_kind(ec2, f"{path}{key}.")
    return sorted(((int(key), item) for key, item in items.items()), key=lambda pair: pair[0])


def _unknown(name: str) -> ApiError:
    return ApiError("UnknownParameter", f"The parameter {name[:_LONGEST_TOLD]} is not recognized", 400)


def _of_another_kind(ec2: bool, path: str) -> ApiError:
    code = "InvalidParameterValue" if ec2 else "MalformedInput"
    return ApiError(code, f"Unexpected value for {path.rstrip('.')[:_LONGEST_TOLD]}", 400)


# By model and shape: the names of the members in a form. The shape is kept with them, and so is its model.
_names: dict[tuple[int, str, bool], tuple[StructureShape, dict[str, tuple[str, Shape]]]] = {}


def _members_by_name(shape: StructureShape, ec2: bool) -> dict[str, tuple[str, Shape]]:
    key = (id(shape._shape_resolver), shape.name, ec2)
    if key not in _names:
        found = {input_name(name, member, ec2=ec2): (name, member) for name, member in shape.members.items()}
        _names[key] = (shape, found)
    return _names[key][1]


def input_name(name: str, member: Shape, *, ec2: bool) -> str:
    """A member's name in a form."""
    if ec2:
        serialization = member.serialization
        if "queryName" in serialization:
            return str(serialization["queryName"])
        located = str(serialization.get("name", name))
        return located[:1].upper() + located[1:]
    if isinstance(member, ListShape) and member.serialization.get("flattened"):
        return str(member.member.serialization.get("name", member.serialization.get("name", name)))
    return str(member.serialization.get("name", name))


def _scalar(shape: Shape, text: str, ec2: bool, path: str) -> Any:
    try:
        return read_scalar(shape.type_name, text)
    except ValueError:
        code = "InvalidParameterValue" if ec2 else "MalformedInput"
        raise ApiError(code, f"Invalid value '{text[:100]}' for {path.rstrip('.')[:_LONGEST_TOLD]}", 400) from None


def read_scalar(kind: str, text: str) -> Any:
    """A value of a kind of botocore's models from its text in a form, an URL or XML. Raises ValueError."""
    if kind in _BITS:
        if not _INTEGER.fullmatch(text) or not -(2 ** _BITS[kind]) <= int(text) < 2 ** _BITS[kind]:
            raise ValueError("not an integer")
        return int(text)
    if kind in {"float", "double"}:
        if not _FLOAT.fullmatch(text):
            raise ValueError("not a number")
        return float(text)
    if kind == "boolean":
        if text not in _BOOLEANS:
            raise ValueError("neither true nor false")
        return _BOOLEANS[text]
    if kind == "timestamp":
        return read_moment(text)
    if kind == "blob":
        return b64decode(text, validate=True)
    return text


def read_moment(text: str) -> datetime:
    """A moment in ISO 8601, seconds since 1970, or HTTP's own way. Raises ValueError."""
    try:
        if _FLOAT.fullmatch(text) and len(text) != 4:
            return datetime.fromtimestamp(float(text), UTC)
        moment = parsedate_to_datetime(text) if text[:1].isalpha() else datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError, TypeError, IndexError):
        raise ValueError("not a moment") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


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
    return escape(UNPRINTABLE.sub("", str(value)))
