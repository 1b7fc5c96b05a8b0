"""Frames between the endpoint and its moto child: two lengths, a JSON header, a body."""

import json
import struct
from typing import Any

LENGTHS = struct.Struct(">II")
OWN_EVENT = "PutOwnEvent"  # the operation by which the endpoint gives EventBridge an event of its own services


def pack(header: dict[str, Any], body: bytes = b"") -> bytes:
    head = json.dumps(header, separators=(",", ":")).encode()
    return LENGTHS.pack(len(head), len(body)) + head + body
