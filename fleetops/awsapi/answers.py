"""Answers against botocore's models: whether boto3 reads out of one what was meant.

Two ways in: `misfit` for a result that we are about to write, at a cost that production can bear, and `read_misfit` for
an answer that somebody else has written, which is read as botocore reads it first.
"""

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape

from fleetops.awsapi import xmlbody
from fleetops.awsapi.query import read_moment
from fleetops.awsapi.xmlbody import Misfit

Check = Callable[[Any], None]
_checks: dict[tuple[str, int], tuple[Shape, Check]] = {}
# Kinds of Python values by kinds of the models.
_KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "character": (str,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "boolean": (bool,),
    "timestamp": (datetime,),
    "blob": (bytes, str),
}


def misfit(operation: OperationModel, result: Mapping[str, Any]) -> str:
    """What of a result its model does not have; "" if it fits. Members that are None count as not there."""
    shape = operation.output_shape
    if shape is None:
        return "it has members, and the operation has no output" if result else ""
    try:
        _check_of(shape)(result)
    except Misfit as found:
        return str(found)
    return ""


def _check_of(shape: Shape) -> Check:
    key = (shape.name, id(shape._shape_resolver))
    if key not in _checks:
        _checks[key] = (shape, lambda value: _checks[key][1](value))  # found by a shape that holds itself
        _checks[key] = (shape, _compile(shape))
    return _checks[key][1]


def _compile(shape: Shape) -> Check:
    """A function that raises Misfit; paths are built on the way out, so that what fits costs nothing but its look."""
    if getattr(shape, "is_document_type", False):
        return lambda value: None
    if isinstance(shape, StructureShape):
        return _structure(shape)
    if isinstance(shape, ListShape):
        return _list(shape)
    if isinstance(shape, MapShape):
        return _map(shape)
    kinds = _KINDS.get(shape.type_name, (str,))

    def check(value: Any) -> None:
        if type(value) not in kinds:
            raise Misfit("", f"a {type(value).__name__} where the model has a {shape.type_name}")

    return check


def _structure(shape: StructureShape) -> Check:
    members = {name: _check_of(member) for name, member in shape.members.items()}
    required = tuple(shape.required_members)

    def check(value: Any) -> None:
        if not isinstance(value, Mapping):
            raise Misfit("", f"a {type(value).__name__} where the model has a structure")
        for name in required:
            if value.get(name) is None:
                raise Misfit(name, "it is required")
        name = ""
        try:
            for name, item in value.items():
                if item is not None:
                    members[name](item)
        except KeyError:
            raise Misfit(name, "there is no such member") from None
        except Misfit as found:
            raise _below(name, found) from None

    return check


def _list(shape: ListShape) -> Check:
    member = _check_of(shape.member)

    def check(value: Any) -> None:
        if not isinstance(value, list | tuple):
            raise Misfit("", f"a {type(value).__name__} where the model has a list")
        n = 0
        try:
            for n, item in enumerate(value, 1):  # noqa: B007 (told by the handler)
                member(item)
        except Misfit as found:
            raise _below(str(n), found) from None

    return check


def _map(shape: MapShape) -> Check:
    member = _check_of(shape.value)

    def check(value: Any) -> None:
        if not isinstance(value, Mapping):
            raise Misfit("", f"a {type(value).__name__} where the model has a map")
        key = ""
        try:
            for key, item in value.items():  # noqa: B007 (told by the handler)
                if item is not None:
                    member(item)
        except Misfit as found:
            raise _below(str(key), found) from None

    return check


def _below(name: str, found: Misfit) -> Misfit:
    return Misfit(f"{name}.{found.path}" if found.path else name, found.told)


def read_misfit(
    operation: OperationModel, protocol: str, status: int, headers: Sequence[tuple[str, str]], body: bytes
) -> str:
    """What boto3 would stumble over, or read otherwise than it was meant, in an answer; "" if it fits."""
    try:
        if status >= 300:
            _read_error(protocol, status, dict(headers), body)
            return ""
        shape = operation.output_shape
        if shape is None:
            return ""
        return misfit(operation, _read(operation, shape, protocol, dict(headers), body))
    except Misfit as found:
        return str(found)


def _read_error(protocol: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """boto3 must find a code in it; an answer to HEAD and a 304 have no body to hold one."""
    if not body or status < 400:
        return
    if protocol in {"json", "rest-json"}:
        value = _json(body)
        if not (headers.get("x-amzn-errortype") or value.get("__type") or value.get("code")):
            raise Misfit("", "an error without a code")
        return
    node = xmlbody.parse(body)
    for name in ("Errors", "Error"):  # around the code in ec2, in query and in S3 the latter, or nothing
        node = node.find(name) or node
    code = node.find("Code")
    if code is None or not code.text:
        raise Misfit("", "an error without a code")


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError:
        raise Misfit("", "it is not JSON") from None
    if not isinstance(value, dict):
        raise Misfit("", "it is not a JSON object")
    return value


def _read(
    operation: OperationModel, shape: StructureShape, protocol: str, headers: Mapping[str, str], body: bytes
) -> dict[str, Any]:
    if protocol == "json":
        return _structure_from_json(shape, _json(body), "")
    if protocol in {"query", "ec2"}:
        root = xmlbody.parse(body)
        wrapper = shape.serialization.get("resultWrapper") if protocol == "query" else None
        node = root.find(wrapper) if wrapper else root
        if node is None:
            raise Misfit("", f"there is no {wrapper}")
        value: dict[str, Any] = xmlbody.read(shape, node, is_answer=True)
        return value
    return _read_rest(shape, protocol, headers, body)


def _read_rest(shape: StructureShape, protocol: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, member in shape.members.items():
        location = member.serialization.get("location")
        wire_name = str(member.serialization.get("name", name)).lower()
        if location == "header" and wire_name in headers and not isinstance(member, ListShape):
            found[name] = xmlbody.scalar(member, headers[wire_name], name, True)
        elif location == "headers":
            found[name] = {key: value for key, value in headers.items() if key.startswith(wire_name)}
        elif location == "statusCode":
            found[name] = 200
    payload = shape.serialization.get("payload")
    member = shape.members[payload] if payload else shape
    if not isinstance(member, StructureShape) or getattr(member, "is_eventstream", False):
        return found  # an object's own bytes, or a stream of events
    if member is shape and all("location" in item.serialization for item in shape.members.values()):
        return found
    if protocol == "rest-json":
        value = _structure_from_json(member, _json(body), "")
    elif not body:
        value = {}
    else:
        value = xmlbody.read(member, xmlbody.parse(body), is_answer=True)
    return found | ({payload: value} if payload else value)


def _structure_from_json(shape: StructureShape, value: dict[str, Any], path: str) -> dict[str, Any]:
    return {
        name: _from_json(member, value[key], f"{path}{key}")
        for name, member in shape.members.items()
        if value.get(key := str(member.serialization.get("name", name))) is not None
        and "location" not in member.serialization
    }


def _from_json(shape: Shape, value: Any, path: str) -> Any:
    if getattr(shape, "is_document_type", False):
        return value
    try:
        if isinstance(shape, StructureShape):
            return _structure_from_json(shape, _kind(value, dict, path), f"{path}.")
        if isinstance(shape, ListShape):
            return [_from_json(shape.member, item, f"{path}.{n}") for n, item in enumerate(_kind(value, list, path), 1)]
        if isinstance(shape, MapShape):
            return {
                key: _from_json(shape.value, item, f"{path}.{key}")
                for key, item in _kind(value, dict, path).items()
                if item is not None
            }
        if shape.type_name == "timestamp":
            return read_moment(str(value))
        if shape.type_name == "blob":
            return b64decode(value)
    except (ValueError, TypeError):
        raise Misfit(path, f"{str(value)[:100]!r} is no {shape.type_name}") from None
    return value


def _kind(value: Any, wanted: type, path: str) -> Any:
    if not isinstance(value, wanted):
        raise Misfit(path, f"a {type(value).__name__} where the model has another kind")
    return value
