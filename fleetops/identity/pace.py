"""How often somebody may call: the API with a token or a log-in, and the CLI's door with an access key."""

import logging

from django.core.cache import cache
from redis.exceptions import RedisError

from fleetops.clock import real_now

logger = logging.getLogger(__name__)


def take_call(who: str, limit: int) -> int:
    """Count one call of `who` in this minute; returns 0, or in how many seconds the next one is let through.

    Without Valkey nothing is counted and all are let through: whoever can still be served is.
    """
    second = int(real_now().timestamp())
    key = f"api-calls:{who}:{second // 60}"
    try:
        cache.add(key, 0, timeout=120)
        count = cache.incr(key)
    except (RedisError, ValueError):  # ValueError: the key went between the two
        logger.warning("calls of the API are not counted: Valkey cannot be reached")
        return 0
    return 0 if count <= limit else 60 - second % 60
