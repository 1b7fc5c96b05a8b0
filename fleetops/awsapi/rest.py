"""The rest-json and rest-xml protocols as a server reads them: path, query, headers and body into parameters.

S3 names its bucket in the path or in the host. A body that is an object's own bytes is handed on as it came: it is
neither copied nor looked into here.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import orjson
from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape

from fleetops.awsapi import s3body, xmlbody
from fleetops.awsapi.errors import ApiError
from fleetops.awsapi.query import read_scalar

_MOST_FIELDS = 1000  # of a query string
_MOST_ELEMENTS = 100_000  # of an XML body; ten thousand parts of an upload with their checksums have 40,000
# bucket.s3.amazonaws.com, bucket.s3.eu-west-1.amazonaws.com, bucket.localhost:8443; a bucket may have full stops.
_VIRTUAL_HOST = re.compile(
    r"(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])\."
    r"(?:s3(?:[.-](?:dualstack\.)?[a-z0-9-]+)?\.amazonaws\.com|localhost)(?::[0-9]{1,5})?",
    re.IGNORECASE,
)
_LABEL = re.compile(r"\{([^}+]+)(\+?)\}")
_HEADER_ITEM = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^,]*?))\s*(?:,|$)')


@dataclass(frozen=True, slots=True)
class RestRequest:
    """What a request's parameters are read from; `path` as `resource_path` gives it, header names in lower case."""

    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes


def resource_path(path: str, host: str, *, is_s3: bool) -> str:
    """The path, still percent-encoded, that names the resource: for S3 with the bucket that the host may name."""
    match = _VIRTUAL_HOST.fullmatch(host.strip()) if is_s3 else None
    if match is None or _is_service_host(match["bucket"].lower()):
        return path
    return f"/{match['bucket'].lower()}{path if path.startswith('/') else '/' + path}"


def _is_service_host(name: str) -> bool:
    # s3.localhost and s3.eu-west-1.localhost are the service itself.
    return name == "s3" or name.startswith("s3.")


def segments(path: str, *, is_s3: bool) -> str:
    """A path in one form of writing, for matching: S3's is decoded, elsewhere a slash within a segment stays %2F."""
    if is_s3:
        return unquote(path)
    return "/".join(quote(unquote(part), safe="") for part in path.split("/"))


def path_pattern(template: str, *, is_s3: bool) -> re.Pattern[str]:
    """An expression for `segments`, with a group for each label of a requestUri; a slash at the end is left open."""
    pattern = ""
    at = 0
    for number, label in enumerate(_LABEL.finditer(template)):
        pattern += _literal(template[at : label.start()], is_s3)
        pattern += f"(?P<l{number}>{'.+' if label[2] else '[^/]+'})"
        at = label.end()
    pattern += _literal(template[at:], is_s3)
    if not pattern.endswith(".+)"):
        pattern = pattern.removesuffix("/") + "/?"
    return re.compile(pattern, re.DOTALL)


def _literal(text: str, is_s3: bool) -> str:
    return re.escape(text if is_s3 else "/".join(quote(part, safe="") for part in text.split("/")))


def parse(operation: OperationModel, request: RestRequest) -> dict[str, Any]:
    """The parameters of a request: texts, numbers, moments and bytes in structures, lists and maps.

    What its values may be is for `checks` to say. Raises ApiError: SerializationException if something of a rest-json
    request is not of its kind; of S3's InvalidArgument (outside the body), MalformedXML and MissingRequestBodyError.
    """
    is_xml = operation.service_model.metadata["protocol"] == "rest-xml"
    shape = operation.input_shape
    if shape is None:
        return {}
    parameters = _outside(operation, shape, request, is_xml)
    payload = shape.serialization.get("payload")
    if payload is not None:
        member = shape.members[payload]
        if member.type_name in {"blob", "string"}:
            if request.body or member.type_name == "blob":
                parameters[payload] = request.body if member.type_name == "blob" else _text(request.body, payload)
            elif is_xml and payload in shape.required_members:
                raise _no_body()
        elif not (member.serialization.get("eventstream") or getattr(member, "is_eventstream", False)):
            value = _body(member, _plain(request, is_xml), is_xml, member.serialization.get("name", member.name))
            if value is not None:
                parameters[payload] = value
            elif is_xml and payload in shape.required_members:
                raise _no_body()
        return parameters
    if any("location" not in member.serialization for member in shape.members.values()):
        name = str(shape.serialization.get("name", shape.name))
        parameters |= _body(shape, _plain(request, is_xml), is_xml, name) or {}
    return parameters


def _outside(operation: OperationModel, shape: StructureShape, request: RestRequest, is_xml: bool) -> dict[str, Any]:
    """What stands in the path, the query string and the headers."""
    labels = _labels(operation, request.path)
    template_query = operation.http["requestUri"].partition("?")[2]
    fixed = {pair.partition("=")[0] for pair in template_query.split("&") if pair}
    fields = _fields(request.query)
    headers: dict[str, str] = {}
    for name, value in request.headers:
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    located = {
        str(member.serialization.get("name", name))
        for name, member in shape.members.items()
        if member.serialization.get("location") == "querystring" and not isinstance(member, MapShape)
    }
    found: dict[str, Any] = {}
    for name, member in shape.members.items():
        location = member.serialization.get("location")
        wire_name = str(member.serialization.get("name", name))
        if location == "uri" and wire_name in labels:
            found[name] = _scalar(member, labels[wire_name], wire_name, is_xml)
        elif location == "querystring" and isinstance(member, MapShape):
            rest = {
                key: values
                for key, values in fields.items()
                if key not in located and key not in fixed and not key.startswith("X-Amz-")
            }
            is_list = isinstance(member.value, ListShape)
            if rest:
                found[name] = {key: values if is_list else values[-1] for key, values in rest.items()}
        elif location == "querystring" and wire_name in fields:
            values = fields[wire_name]
            if isinstance(member, ListShape):
                found[name] = [_scalar(member.member, value, wire_name, is_xml) for value in values]
            else:
                found[name] = _scalar(member, values[-1], wire_name, is_xml)
        elif location == "header" and wire_name.lower() in headers:
            found[name] = _header(member, headers[wire_name.lower()], wire_name, is_xml)
        elif location == "headers":
            prefix = wire_name.lower()
            held = {key[len(prefix) :]: value for key, value in headers.items() if key.startswith(prefix)}
            if held:
                found[name] = held
    return found


def _labels(operation: OperationModel, path: str) -> dict[str, str]:
    template = operation.http["requestUri"].partition("?")[0]
    is_s3 = operation.service_model.service_name == "s3"
    match = path_pattern(template, is_s3=is_s3).fullmatch(segments(path, is_s3=is_s3))
    if match is None:
        return {}
    names = [label[1] for label in _LABEL.finditer(template)]
    return {name: text if is_s3 else unquote(text) for name, text in zip(names, match.groups(), strict=True)}


def _fields(query: str) -> dict[str, list[str]]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        raise ApiError("InvalidArgument", "The query string cannot be read.", 400) from None
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def _header(shape: Shape, text: str, name: str, is_xml: bool) -> Any:
    if shape.serialization.get("jsonvalue"):
        try:
            return orjson.dumps(orjson.loads(base64.b64decode(text, validate=True))).decode()
        except ValueError:
            raise _of_another_kind(name, text, is_xml) from None
    if not isinstance(shape, ListShape):
        return _scalar(shape, text.strip(), name, is_xml)
    if shape.member.type_name == "timestamp":
        # HTTP's own way to write a moment has a comma.
        items = re.findall(r"[^,]+,[^,]+", text) if "," in text and text.strip()[:1].isalpha() else text.split(",")
        return [_scalar(shape.member, item.strip(), name, is_xml) for item in items]
    return [_scalar(shape.member, item, name, is_xml) for item in _items(text)]


def _items(text: str) -> list[str]:
    """The items of a header's list; one that has a comma or a quotation mark stands in quotation marks."""
    items, at = [], 0
    while at <= len(text):
        match = _HEADER_ITEM.match(text, at)
        if match is None:
            items.append(text[at:])
            break
        items.append(match[2] if match[1] is None else match[1].replace('\\"', '"'))
        if match.end() == len(text) and not match[0].endswith(","):
            break
        at = match.end()
    return items


def _scalar(shape: Shape, text: str, name: str, is_xml: bool) -> Any:
    try:
        return read_scalar(shape.type_name, text)
    except ValueError:
        raise _of_another_kind(name, text, is_xml) from None


def _of_another_kind(name: str, text: str, is_xml: bool) -> ApiError:
    if is_xml:
        return ApiError("InvalidArgument", f"Provided {name} not of its kind: '{text[:100]}'", 400)
    return ApiError("SerializationException", f"'{text[:100]}' can not be converted for '{name}'.", 400)


def _text(body: bytes, name: str) -> str:
    try:
        return body.decode()
    except ValueError:
        raise ApiError("SerializationException", f"The body is no text for '{name}'.", 400) from None


def _plain(request: RestRequest, is_xml: bool) -> bytes:
    """The body, out of aws-chunked."""
    if is_xml and any(
        name == "x-amz-content-sha256" and value.startswith("STREAMING-") for name, value in request.headers
    ):
        return s3body.read_chunked(request.body)[0]
    return request.body


def _body(shape: Shape, body: bytes, is_xml: bool, root_name: str) -> Any:
    """The value of a body, None for an empty one."""
    if not body.strip():
        return None
    if is_xml:
        try:
            root = xmlbody.parse(body, most=_MOST_ELEMENTS)
            if root.name != root_name:
                raise xmlbody.Misfit("", f"it is not a {root_name}")
            return xmlbody.read(shape, root)
        except xmlbody.Misfit:
            raise malformed_xml() from None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ApiError("SerializationException", "The request body is not JSON.", 400) from None
    return from_json(shape, value)


def _no_body() -> ApiError:
    return ApiError("MissingRequestBodyError", "Request Body is empty.", 400)


def malformed_xml() -> ApiError:
    return ApiError(
        "MalformedXML",
        "The XML you provided was not well-formed or did not validate against our published schema",
        400,
    )


def from_json(shape: Shape, value: Any, path: str = "") -> Any:
    """A decoded JSON value with the model's names, moments and bytes; unknown members and null dropped.

    Raises ApiError (SerializationException) where it is of another kind.
    """
    if getattr(shape, "is_document_type", False):
        return value
    if isinstance(shape, StructureShape):
        if not isinstance(value, dict):
            raise _not_json(path, "a structure")
        # A member with a place elsewhere in the request is not looked for in its body.
        return {
            name: from_json(member, value[key], f"{path}{key}.")
            for name, member in shape.members.items()
            if value.get(key := str(member.serialization.get("name", name))) is not None
            and "location" not in member.serialization
        }
    if isinstance(shape, ListShape):
        if not isinstance(value, list):
            raise _not_json(path, "a list")
        return [from_json(shape.member, item, f"{path}{n}.") for n, item in enumerate(value, 1)]
    if isinstance(shape, MapShape):
        if not isinstance(value, dict):
            raise _not_json(path, "a map")
        return {key: from_json(shape.value, item, f"{path}{key}.") for key, item in value.items() if item is not None}
    try:
        if shape.type_name == "timestamp" and isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if shape.type_name in {"timestamp", "blob"} or (
            shape.type_name in {"float", "double"} and value in ("NaN", "Infinity", "-Infinity")
        ):
            return read_scalar(shape.type_name, value)
    except (ValueError, TypeError, OverflowError, OSError, binascii.Error):
        raise _not_json(path, f"a {shape.type_name}") from None
    return value


def _not_json(path: str, wanted: str) -> ApiError:
    return ApiError("SerializationException", f"Expected {wanted} at '{path.rstrip('.')[:200]}'.", 400)


def located(parameters: Mapping[str, Any], shape: StructureShape | None) -> dict[str, Any]:
    """Of a request's parameters those that stand outside its body."""
    if shape is None:
        return {}
    return {name: value for name, value in parameters.items() if "location" in shape.members[name].serialization}
