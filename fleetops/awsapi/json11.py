"""AWS JSON 1.1 as a server speaks it: read, check and write by botocore's models.

Each shape is compiled once into a function that reads and checks a value. botocore's own validator knows types, needed
members and minima only; here maxima, patterns and enumerations are checked too, in the words that AWS uses, with all
failures of one request in one message. What another protocol has read (moments, bytes) is checked by the same
functions.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import regex
from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape

from fleetops.awsapi.errors import ApiError

# At most this many failures are told in one message.
_MOST_FAILURES = 10
_LONGEST_PATTERNED = 65_536  # characters; the longest string with a pattern and a maximum in SSM's model has less
_LONGEST_VALUE = 200  # characters of a refused value that are repeated to its sender


@dataclass(frozen=True, slots=True)
class Failure:
    """One value that breaks one constraint of the model."""

    path: str  # in AWS's way of writing: filters.1.member.values
    value: Any  # None where a required member is missing
    told: str
    kind: str  # "missing", "length", "range", "pattern" or "enum"
    shape: str = ""  # the name of the value's shape

    def __str__(self) -> str:
        shown = "null" if self.value is None else str(self.value)[:_LONGEST_VALUE]
        return f"Value '{shown}' at '{self.path}' failed to satisfy constraint: {self.told}"


Checker = Callable[[Any, str, list[Failure]], Any]


class Codec:
    """Reads and writes the operations of one service; compiled shapes are kept."""

    def __init__(self) -> None:
        self._checkers: dict[tuple[str, int], Checker] = {}

    def parse(self, operation: OperationModel, body: bytes) -> dict[str, Any]:
        """Read the body of a request and check it against the operation's input.

        Unknown members are dropped, as AWS does. Raises ApiError: SerializationException if it is not what the model
        says in kind, ValidationException if a value breaks a constraint.
        """
        try:
            value = orjson.loads(body) if body.strip() else {}
        except orjson.JSONDecodeError:
            raise ApiError("SerializationException", "The request body is not JSON.") from None
        return self.check(operation.input_shape, value)

    @staticmethod
    def decode(body: bytes) -> dict[str, Any]:
        """Read the body of an operation that botocore has no model of. Raises ValueError if it is not an object."""
        value = orjson.loads(body) if body.strip() else {}
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value

    def check(self, shape: Shape | None, value: Any) -> dict[str, Any]:
        """Check a decoded value against a structure; the value with unknown members dropped. Raises as `parse` does."""
        checked, failures = self.examine(shape, value)
        if failures:
            raise ApiError("ValidationException", sentence(failures))
        return checked

    def examine(self, shape: Shape | None, value: Any) -> tuple[dict[str, Any], list[Failure]]:
        """A structure without its unknown members, and what breaks a constraint in it.

        Raises ApiError (SerializationException) if a value is of another kind than the model says.
        """
        if not isinstance(value, dict):
            raise ApiError("SerializationException", "Start of structure or map found where not expected.")
        if shape is None:
            return {}, []
        failures: list[Failure] = []
        return self._checker(shape)(value, "", failures), failures

    def _checker(self, shape: Shape) -> Checker:
        # By name within its model: a reference to a shape may carry traits, and makes another object each time.
        key = (shape.name, id(shape._shape_resolver))
        if key not in self._checkers:
            # Recursive shapes find this while they are being compiled.
            self._checkers[key] = lambda value, path, failures: self._checkers[key](value, path, failures)
            self._checkers[key] = self._compile(shape)
        return self._checkers[key]

    def _compile(self, shape: Shape) -> Checker:
        if isinstance(shape, StructureShape):
            # A document is any JSON at all.
            return (lambda value, path, failures: value) if shape.is_document_type else self._structure(shape)
        if isinstance(shape, ListShape):
            return self._list(shape)
        if isinstance(shape, MapShape):
            return self._map(shape)
        return _scalar(shape)

    def _structure(self, shape: StructureShape) -> Checker:
        members = {name: (self._checker(member), _camel(name)) for name, member in shape.members.items()}
        required = [(name, _camel(name)) for name in shape.required_members]

        def check(value: Any, path: str, failures: list[Failure]) -> dict[str, Any]:
            if not isinstance(value, dict):
                raise ApiError("SerializationException", f"Expected a structure at '{path}'.")
            prefix = f"{path}." if path else ""
            for name, told in required:
                if value.get(name) is None:
                    failures.append(Failure(f"{prefix}{told}", None, "Member must not be null", "missing"))
            return {
                name: members[name][0](item, f"{prefix}{members[name][1]}", failures)
                for name, item in value.items()
                if item is not None and name in members
            }

        return check

    def _list(self, shape: ListShape) -> Checker:
        member = self._checker(shape.member)

        def check(value: Any, path: str, failures: list[Failure]) -> list[Any]:
            if not isinstance(value, list):
                raise ApiError("SerializationException", f"Expected a list at '{path}'.")
            _check_length(len(value), shape, value, path, failures)
            return [member(item, f"{path}.{n}.member", failures) for n, item in enumerate(value, 1)]

        return check

    def _map(self, shape: MapShape) -> Checker:
        key_of, member = self._checker(shape.key), self._checker(shape.value)

        def check(value: Any, path: str, failures: list[Failure]) -> dict[str, Any]:
            if not isinstance(value, dict):
                raise ApiError("SerializationException", f"Expected a map at '{path}'.")
            _check_length(len(value), shape, value, path, failures)
            return {
                key_of(key, f"{path}.key", failures): member(item, f"{path}.{key}.member", failures)
                for key, item in value.items()
            }

        return check


def _scalar(shape: Shape) -> Checker:
    kind = shape.type_name
    limits = shape.metadata.get("min"), shape.metadata.get("max")
    pattern = _compiled(shape.metadata.get("pattern"))
    enum = shape.metadata.get("enum")

    def check_string(value: Any, path: str, failures: list[Failure]) -> str:
        if not isinstance(value, str):
            raise ApiError("SerializationException", f"{_kind(value)} can not be converted to a String at '{path}'.")
        told_before = len(failures)
        _check_length(len(value), shape, value, path, failures)
        # A value of any length is not put to a pattern: some take a time that grows faster than it.
        is_bounded = len(failures) == told_before and len(value) <= _LONGEST_PATTERNED
        if pattern is not None and is_bounded and not pattern.fullmatch(value):
            told = f"Member must satisfy regular expression pattern: {shape.metadata['pattern']}"
            failures.append(Failure(path, value, told, "pattern", shape.name))
        if enum and value not in enum:
            told = f"Member must satisfy enum value set: [{', '.join(enum)}]"
            failures.append(Failure(path, value, told, "enum", shape.name))
        return value

    def check_number(value: Any, path: str, failures: list[Failure]) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int if kind in {"integer", "long"} else (int, float)):
            raise ApiError("SerializationException", f"{_kind(value)} can not be converted to a number at '{path}'.")
        low, high = limits
        if low is not None and value < low:
            told = f"Member must have value greater than or equal to {low}"
            failures.append(Failure(path, value, told, "range", shape.name))
        if high is not None and value > high:
            told = f"Member must have value less than or equal to {high}"
            failures.append(Failure(path, value, told, "range", shape.name))
        return value

    def check_boolean(value: Any, path: str, failures: list[Failure]) -> bool:
        if not isinstance(value, bool):
            raise ApiError("SerializationException", f"{_kind(value)} can not be converted to a Boolean at '{path}'.")
        return value

    def check_timestamp(value: Any, path: str, failures: list[Failure]) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return datetime.fromtimestamp(value, UTC)
            moment = datetime.fromisoformat(value)
        except (TypeError, ValueError, OverflowError, OSError):
            raise ApiError("SerializationException", f"Expected a timestamp at '{path}'.") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def check_blob(value: Any, path: str, failures: list[Failure]) -> str | bytes:
        """Bytes, in base64 or as they are: the limits are those of the bytes."""
        if isinstance(value, bytes):
            _check_length(len(value), shape, "<bytes>", path, failures)
            return value
        try:
            size = len(base64.b64decode(value, validate=True))
        except (TypeError, ValueError):
            raise ApiError("SerializationException", f"Expected bytes in base64 at '{path}'.") from None
        _check_length(size, shape, "<bytes>", path, failures)
        return str(value)

    if kind == "blob":
        return check_blob
    if kind in {"integer", "long", "float", "double"}:
        return check_number
    if kind == "boolean":
        return check_boolean
    if kind == "timestamp":
        return check_timestamp
    return check_string


def _compiled(pattern: str | None) -> Any:
    # AWS's patterns are Java's; the `regex` package knows \p{L} and its like, `re` does not.
    return regex.compile(pattern, regex.DOTALL) if pattern else None


def _check_length(length: int, shape: Shape, value: Any, path: str, failures: list[Failure]) -> None:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and length < low:
        failures.append(
            Failure(path, value, f"Member must have length greater than or equal to {low}", "length", shape.name)
        )
    if high is not None and length > high:
        failures.append(
            Failure(path, value, f"Member must have length less than or equal to {high}", "length", shape.name)
        )


def sentence(failures: Sequence[Failure]) -> str:
    """All failures of a request in AWS's one sentence."""
    told = failures[:_MOST_FAILURES]
    return f"{len(told)} validation error{'s' if len(told) > 1 else ''} detected: {'; '.join(map(str, told))}"


def _camel(name: str) -> str:
    return name[:1].lower() + name[1:]


def _kind(value: Any) -> str:
    return {
        int: "NUMBER_VALUE",
        float: "NUMBER_VALUE",
        bool: "BOOLEAN_VALUE",
        list: "START_ARRAY",
        dict: "START_OBJECT",
    }.get(type(value), "NULL_VALUE")


def dump(result: Mapping[str, Any]) -> bytes:
    """Write a result: moments as seconds since 1970, members that are None left out."""
    return orjson.dumps(_plain(result), default=_epoch, option=orjson.OPT_PASSTHROUGH_DATETIME)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _epoch(value: Any) -> float:
    if isinstance(value, datetime):
        return round(value.timestamp(), 3)
    raise TypeError(f"cannot write {type(value).__name__}")
