"""XML bodies by botocore's models: S3's requests, and the answers of the protocols that speak XML.

A body is read into a tree without entities, then into values. A request is held to its schema, as S3 does; an answer
may hold more than the model knows, as boto3 allows.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from xml.parsers import expat

from botocore.model import ListShape, MapShape, Shape, StructureShape
from botocore.utils import parse_timestamp

from fleetops.awsapi.query import read_scalar

_DEEPEST = 64  # levels of elements; the models have less than twenty


class Misfit(Exception):
    """A body that is not what the model says; `path` leads to what is wrong."""

    def __init__(self, path: str, told: str) -> None:
        super().__init__(f"{path or 'the body'}: {told}")
        self.path = path
        self.told = told


class Node:
    """One element, by its name without the prefix."""

    __slots__ = ("attributes", "children", "name", "pieces")

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name = name
        self.attributes = attributes
        self.children: list[Node] = []
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def find(self, name: str) -> "Node | None":
        return next((child for child in self.children if child.name == name), None)


def parse(body: bytes, *, most: int | None = None) -> Node:
    """The root of a document.

    Raises Misfit if it is not well-formed, declares a document type, is too deep or has more than `most` elements.
    """
    root = Node("", {})
    open_nodes = [root]
    count = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if len(open_nodes) > _DEEPEST or (most is not None and count > most):
            raise Misfit("", "its elements are too many or nested too deep")
        node = Node(name.rpartition(":")[2], attributes)
        open_nodes[-1].children.append(node)
        open_nodes.append(node)

    def end(name: str) -> None:
        open_nodes.pop()

    def text(data: str) -> None:
        open_nodes[-1].pieces.append(data)

    def refuse(*_: Any) -> None:
        raise Misfit("", "it declares a document type")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise Misfit("", f"it is not well-formed: {error}") from None
    return root.children[0]


def read(shape: Shape, node: Node, path: str = "", *, is_answer: bool = False) -> Any:
    """The value of an element. Raises Misfit."""
    if isinstance(shape, StructureShape):
        return _structure(shape, node, path, is_answer)
    if isinstance(shape, ListShape):
        return _list(shape, node.children, path, is_answer)
    if isinstance(shape, MapShape):
        return _map(shape, node.children, path, is_answer)
    if node.children:
        raise Misfit(path, "an element where a text is expected")
    return scalar(shape, node.text, path, is_answer)


def scalar(shape: Shape, text: str, path: str, is_answer: bool) -> Any:
    """A value from its text. Raises Misfit."""
    try:
        if is_answer and shape.type_name == "boolean" and text not in {"true", "false"}:
            raise ValueError("boto3 takes anything but true as False")
        if is_answer and shape.type_name == "timestamp":
            return _moment(text)
        return read_scalar(shape.type_name, text)
    except (ValueError, OverflowError):
        raise Misfit(path, f"{text[:100]!r} is no {shape.type_name}") from None


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        moment: datetime = parse_timestamp(text)
        return moment


def _structure(shape: StructureShape, node: Node, path: str, is_answer: bool) -> dict[str, Any]:
    groups: dict[str, list[Node]] = {}
    for child in node.children:
        groups.setdefault(child.name, []).append(child)
    found: dict[str, Any] = {}
    known = set()
    for name, member in shape.members.items():
        serialization = member.serialization
        if "location" in serialization:
            continue
        wire_name = str(serialization.get("name", name))
        if serialization.get("xmlAttribute"):
            if wire_name in node.attributes:
                found[name] = scalar(member, node.attributes[wire_name], f"{path}{name}", is_answer)
            continue
        if isinstance(member, ListShape) and serialization.get("flattened"):
            wire_name = str(member.member.serialization.get("name", wire_name)) if is_answer else wire_name
        nodes = groups.get(wire_name)
        if nodes is None:
            continue
        is_known = wire_name in known  # S3's old notifications have a list and a text of one name
        known.add(wire_name)
        below = f"{path}{name}"
        if serialization.get("flattened") and isinstance(member, ListShape):
            found[name] = [
                read(member.member, item, f"{below}.{n}.", is_answer=is_answer) for n, item in enumerate(nodes, 1)
            ]
        elif serialization.get("flattened") and isinstance(member, MapShape):
            found[name] = _map(member, nodes, f"{below}.", is_answer)
        elif len(nodes) > 1 and is_known:
            continue
        elif len(nodes) > 1:
            raise Misfit(below, "there is more than one")
        else:
            inner = f"{below}." if isinstance(member, StructureShape | ListShape | MapShape) else below
            found[name] = read(member, nodes[0], inner, is_answer=is_answer)
    if not is_answer and (foreign := groups.keys() - known):
        raise Misfit(f"{path}{min(foreign)}", "there is no such element")
    return found


def _list(shape: ListShape, nodes: list[Node], path: str, is_answer: bool) -> list[Any]:
    wire_name = shape.member.serialization.get("name", "member")
    if not is_answer and any(node.name != wire_name for node in nodes):
        raise Misfit(path, f"its elements are not all named {wire_name}")
    return [read(shape.member, node, f"{path}{n}.", is_answer=is_answer) for n, node in enumerate(nodes, 1)]


def _map(shape: MapShape, nodes: Iterable[Node], path: str, is_answer: bool) -> dict[str, Any]:
    key_name = shape.key.serialization.get("name", "key")
    value_name = shape.value.serialization.get("name", "value")
    found = {}
    for node in nodes:
        key, value = node.find(key_name), node.find(value_name)
        if key is None or value is None:
            raise Misfit(path, f"an entry without {key_name} or {value_name}")
        found[key.text] = read(shape.value, value, f"{path}{key.text}.", is_answer=is_answer)
    return found
