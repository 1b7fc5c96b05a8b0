"""What a run of AWS-RunPatchBaseline is told to use instead of a node's baseline: lists in S3, or behind https.

InstallOverrideList is YAML: `patches`, a list of `id` (name or name.architecture, with wildcards) and perhaps `title`
(the version, with wildcards). BaselineOverride is JSON: a list of baselines as GetPatchBaseline gives them, one for
each operating system. Source: user guide, "About the AWS-RunPatchBaseline SSM document".
"""

import asyncio
import hashlib
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import orjson
import yaml

from fleetops import clock, fetch
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.bodies import Bodies
from fleetops.endpoint.calls import NodeKey
from fleetops.endpoint.moto_client import MotoClient
from fleetops.endpoint.patch.table import Wanted
from fleetops.endpoint.plain_yaml import PlainLoader
from fleetops.errors import UserError

MOST_BYTES: Final = 1024 * 1024
MOST_WANTED: Final = 3_000  # entries of a list; AWS's user guide gives no figure
_MOST_KEPT: Final = 16  # lists of commands under way, each of MOST_BYTES at most
_LONGEST: Final = 512


class Unusable(Exception):
    """A list that cannot be had or read; the text says why, and the node shows it."""


class Lists:
    """Reads lists for nodes: whether it may have one is asked for each node, and what stands in it once a command."""

    def __init__(self, moto: MotoClient, bodies: Bodies, stream_host: str) -> None:
        self._moto = moto
        self._bodies = bodies
        self._own_host = stream_host
        self._read_lately: OrderedDict[tuple[str, str], asyncio.Task[bytes]] = OrderedDict()  # by command and address
        # Whether a node's own role may read an object; see node_reading.py. Without it nobody may.
        self.allow: Callable[[NodeKey, str, str], Awaitable[str]] = _nobody

    async def wanted(self, key: NodeKey, command_id: str, address: str) -> list[Wanted]:
        """The entries of an InstallOverrideList. Raises Unusable."""
        return await asyncio.to_thread(read_wanted, await self._of_node(key, command_id, address))

    async def baseline(self, key: NodeKey, command_id: str, address: str, system: str) -> Mapping[str, Any]:
        """The baseline for an operating system in a BaselineOverride. Raises Unusable."""
        return read_baseline(await self._of_node(key, command_id, address), system)

    async def _of_node(self, key: NodeKey, command_id: str, address: str) -> bytes:
        """What stands at an address, if the node may read it. Raises Unusable."""
        try:
            place = object_of(address, self._own_host)
        except ValueError:
            raise Unusable(f"{address} is no address.") from None
        owner = key[0]
        if place is not None:
            try:
                owner = await self.allow(key, *place)
            except ApiError as error:
                words = f"An error occurred ({error.code}) when calling the GetObject operation: {error.message}"
                raise Unusable(f"{address} cannot be read: {words}") from None
        task = self._read_lately.get((command_id, address))
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(self._read(owner, key[1], address, place))
            self._read_lately[command_id, address] = task
            while len(self._read_lately) > _MOST_KEPT:
                self._read_lately.popitem(last=False)
        return await asyncio.shield(task)

    async def _read(self, account_id: str, region: str, address: str, place: tuple[str, str] | None) -> bytes:
        """Raises Unusable."""
        if place is None:
            try:
                answer = await asyncio.to_thread(fetch.fetch, address, max_bytes=MOST_BYTES)
            except UserError as error:
                raise Unusable(str(error)) from None
            if answer.status != 200:
                raise Unusable(f"{address} answers with status {answer.status}.")
            return answer.body
        bucket, key = place
        question = {
            "request_id": os.urandom(16).hex(),
            "now": clock.now().timestamp(),
            "seed": hashlib.sha256(address.encode()).hexdigest(),
            "account": account_id,
            "service": "s3",
            "region": region,
            "access_key": "AKIAPATCH",
            "method": "GET",
            "path": f"/{quote(bucket)}/{quote(key)}",
            "query": "",
            "headers": [("host", "127.0.0.1")],
            "protocol": "rest-xml",
            "operation": "GetObject",
            "changes": False,
        }
        try:
            header, content = await self._moto.ask({"ask": "call", "call": question})
        except ApiError as error:
            raise Unusable(f"s3://{bucket}/{key} cannot be read now: {error.code}.") from None
        if header["status"] != 200:
            raise Unusable(f"s3://{bucket}/{key} cannot be read: status {header['status']}.")
        if "body" not in header:
            return content
        try:
            return await asyncio.to_thread(self._body, header["body"])
        except OSError as error:
            raise Unusable(f"s3://{bucket}/{key} cannot be read: {error}.") from None

    def _body(self, segments: Any) -> bytes:
        reader = self._bodies.open(segments)
        try:
            if reader.length > MOST_BYTES:
                raise Unusable(f"The list has more than {MOST_BYTES} bytes.")
            return b"".join(reader.pieces())
        finally:
            reader.close()


async def _nobody(key: NodeKey, bucket: str, name: str) -> str:
    raise ApiError("AccessDenied", "Access Denied", 403)


def object_of(address: str, own_host: str) -> tuple[str, str] | None:
    """The bucket and key of an S3 address (s3://, or path-style https at S3 or at us); None for any other."""
    parts = urlsplit(address)
    if parts.scheme == "s3":
        return parts.netloc, parts.path.lstrip("/")
    host = parts.hostname or ""
    is_s3 = host.startswith(("s3.", "s3-")) and host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    if is_s3 or parts.netloc == own_host:
        bucket, _, key = unquote(parts.path.lstrip("/")).partition("/")
        return bucket, key
    return None


def read_wanted(content: bytes) -> list[Wanted]:
    """The entries of an InstallOverrideList. Raises Unusable."""
    try:
        value = yaml.load(content, PlainLoader)
        patches = value["patches"]
        found = [Wanted(_text(one["id"]), _text(one.get("title") or "")) for one in patches]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unusable(f"The InstallOverrideList is no YAML with a list of patches: {words}") from None
    if len(found) > MOST_WANTED:
        raise Unusable(f"The InstallOverrideList has more than {MOST_WANTED} patches.")
    if not all(one.package for one in found):
        raise Unusable("A patch of the InstallOverrideList has no id.")
    return found


def read_baseline(content: bytes, system: str) -> Mapping[str, Any]:
    """The one baseline for an operating system. Raises Unusable."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Unusable(f"The BaselineOverride is no JSON: {error}") from None
    ones = value if isinstance(value, list) else [value]
    found = [one for one in ones if isinstance(one, dict) and one.get("OperatingSystem") == system]
    if len(found) != 1:
        raise Unusable(f"The BaselineOverride holds {len(found) or 'no'} baselines for {system}; it has to hold one.")
    return found[0]


def _text(value: Any) -> str:
    return str(value)[:_LONGEST]
