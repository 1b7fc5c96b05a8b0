"""Which processes of FleetOps live: each writes its time into Valkey now and then, and `fleetops doctor` reads it."""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import dataclass
from typing import Final

import redis
from django.conf import settings

from fleetops.clock import monotonic, real_now

EVERY_SECONDS: Final = 5.0
FORGOTTEN_SECONDS: Final = 24 * 3600.0  # one that has been away so long is not coming back
_KEY: Final = "fleetops:presence"


@dataclass(frozen=True, slots=True)
class Seen:
    """When a process was last heard of; by the system's clock, as Valkey's readers are on other machines."""

    part: str  # web, terminal, worker, beat
    host: str
    pid: int
    at: float  # seconds since 1970


def broker(*, seconds: float = 2.0, number: int = 1) -> redis.Redis:
    """A connection to one numbered database of our Valkey that gives up after `seconds`."""
    # Given as `db`, the number would yield to the one in the URL, which is the cache's: 1.
    url = re.sub(r"(\?db=|/)1$", rf"\g<1>{number}", settings.CACHES["default"]["LOCATION"])
    return redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds)


class Presence:
    """This process's own sign of life. Without the broker it says nothing, and nothing fails."""

    def __init__(self, part: str) -> None:
        self.part = part
        self._told_at = 0.0
        self._client: redis.Redis | None = None

    def tell(self) -> None:
        """Say it, unless it was said within EVERY_SECONDS."""
        if monotonic() - self._told_at < EVERY_SECONDS:
            return
        self._told_at = monotonic()
        self._client = self._client or broker()
        try:
            self._client.hset(_KEY, _field(self.part), json.dumps({"at": real_now().timestamp()}))
        except redis.RedisError:
            self._client = None

    def end(self) -> None:
        """It ends in order."""
        try:
            (self._client or broker()).hdel(_KEY, _field(self.part))
        except redis.RedisError:
            return


def _field(part: str) -> str:
    return f"{part} {socket.gethostname()} {os.getpid()}"


def seen() -> list[Seen]:
    """All processes that were heard of within a day, the newest sign first. Raises redis.RedisError."""
    client = broker()
    found = []
    for field, value in client.hgetall(_KEY).items():
        part, host, pid = field.decode().split(" ")
        at = float(json.loads(value)["at"])
        if real_now().timestamp() - at > FORGOTTEN_SECONDS:
            client.hdel(_KEY, field)
            continue
        found.append(Seen(part, host, int(pid), at))
    return sorted(found, key=lambda each: -each.at)
