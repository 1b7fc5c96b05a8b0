"""S3's bodies: taken out of aws-chunked, and held to the digests that their sender gave with them."""

import hashlib
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence

from fleetops.awsapi.errors import ApiError

_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})(?:;[^\r\n]{0,256})?\r\n")
_CHECKSUMS: Mapping[str, Callable[[bytes], bytes]] = {
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "sha1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}  # crc32c and crc64nvme are in no library that we have, and are not checked


def check_digests(headers: Sequence[tuple[str, str]], body: bytes) -> None:
    """Refuse a body that is not what its Content-MD5 or x-amz-checksum-* says; header names are in lower case.

    Raises ApiError: BadDigest, InvalidDigest for one that is none, IncompleteBody for aws-chunked that cannot be read.
    """
    held = dict(headers)
    if held.get("x-amz-content-sha256", "").startswith("STREAMING-"):
        body, trailers = read_chunked(body)
        held |= trailers
    if (digest := held.get("content-md5")) is not None:
        try:
            given = b64decode(digest, validate=True)
        except ValueError:
            given = b""
        if len(given) != hashlib.md5(usedforsecurity=False).digest_size:
            raise ApiError("InvalidDigest", "The Content-MD5 you specified was invalid.")
        if given != hashlib.md5(body, usedforsecurity=False).digest():
            raise ApiError("BadDigest", "The Content-MD5 you specified did not match what we received.")
    for name, compute in _CHECKSUMS.items():
        told = held.get(f"x-amz-checksum-{name}")
        # A multipart upload's own checksum ends in its number of parts, and is of no body.
        if told is not None and "-" not in told and told != b64encode(compute(body)).decode():
            raise ApiError("BadDigest", f"The {name.upper()} you specified did not match the calculated checksum.")


def read_chunked(body: bytes) -> tuple[bytes, dict[str, str]]:
    """The data of an aws-chunked body, and the trailing headers that follow it. Raises ApiError (IncompleteBody)."""
    data, at = [], 0
    while True:
        match = _CHUNK.match(body, at)
        if match is None:
            raise ApiError("IncompleteBody", "The request body is not encoded in chunks as its header says.")
        size, at = int(match[1], 16), match.end()
        if size == 0:
            break
        data.append(body[at : at + size])
        if len(data[-1]) != size or body[at + size : at + size + 2] != b"\r\n":
            raise ApiError("IncompleteBody", "The request body ends within a chunk.")
        at += size + 2
    trailers = {}
    for line in body[at : at + 4096].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            trailers[name.decode("latin-1").strip().lower()] = value.decode("latin-1").strip()
    return b"".join(data), trailers
