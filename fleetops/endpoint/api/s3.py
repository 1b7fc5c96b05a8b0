"""S3's objects: their bodies are files of ours (bodies.py), the rest is moto's.

A body is taken out of its transfer encoding and brought to the disk here, before moto's child hears of it; an answer
with one is read from the files, a piece at a time.
"""

import asyncio
import logging
from dataclasses import replace
from typing import Any

from fleetops.awsapi import s3body
from fleetops.awsapi.errors import ApiError, not_implemented
from fleetops.endpoint.api import moto
from fleetops.endpoint.calls import Answer, Call
from fleetops.endpoint.core import Endpoint

logger = logging.getLogger(__name__)

# The operations that bring an object's bytes. What else has a body has a document about a bucket or object.
_BRINGING = {"PutObject", "UploadPart"}


async def answer(endpoint: Endpoint, call: Call) -> Answer:
    """Answer one call of S3. Raises ApiError."""
    if call.operation == "SelectObjectContent":
        raise not_implemented(call.operation)  # moto would need a parser that is not installed, and the object's bytes
    question, body = moto.question(call, changes=not call.read_only)
    if call.operation not in _BRINGING:
        header, content = await endpoint.moto.ask({"ask": "call", "call": question}, body)
    else:
        body = _unwrapped(question, body)
        try:
            question["body"] = await asyncio.to_thread(endpoint.bodies.receive, body, call.request_id)
        except OSError as error:
            logger.error("a body is refused, it cannot be written reason=%s", error)
            raise ApiError(
                "ServiceUnavailable", f"Nothing was changed: the endpoint cannot write: {error}", 503
            ) from None
        try:
            header, content = await endpoint.moto.ask({"ask": "call", "call": question})
        finally:
            endpoint.bodies.forget(call.request_id)
    made = moto.answer(header["status"], header["headers"], content)
    if "body" not in header:
        return made
    try:
        return replace(made, reader=endpoint.bodies.open(header["body"]), is_held=True)
    except OSError as error:
        logger.error("an object's body cannot be read request=%s reason=%s", call.request_id, error)
        raise ApiError("InternalError", "We encountered an internal error. Please try again.", 500) from None


def _unwrapped(question: dict[str, Any], body: bytes) -> bytes:
    """A body without aws-chunked; what trailed it becomes headers of the question, as if it had been sent before."""
    headers = dict(question["headers"])
    if not headers.get("x-amz-content-sha256", "").startswith("STREAMING-"):
        return body
    body, trailers = s3body.read_chunked(body)
    question["headers"] = [
        (name, value) for name, value in question["headers"] if name not in {"x-amz-content-sha256", *trailers}
    ]
    question["headers"] += [(name, value) for name, value in trailers.items() if name.startswith("x-amz-checksum-")]
    return body
