"""The cache of answers, on a Redis of its own: away or full, it costs time and nothing else."""

from __future__ import annotations

import struct
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from crawlfarm.adapters.redis.link import RedisLink
from crawlfarm.errors import Unavailable

log = Logger()

WHERE = "CRAWLFARM_CACHE_URL"
LARGEST = 16 * 1024 * 1024
"""Bytes of an answer above which it is not kept: one must not push out all others."""

_DEPTH = struct.Struct(">I")

# KEYS[1] the entry: its depth in 4 bytes, then the answer
# ARGV[1] the new entry  ARGV[2] time to live, ms
_PUT = """
local had = redis.call('GETRANGE', KEYS[1], 0, 3)
if #had == 4 and struct.unpack('>I4', had) >= struct.unpack('>I4', ARGV[1]) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class RedisCache:
    """A ``Cache``; no method raises.

    :param ttl_s: how long an entry lives after it was last asked for.
    """

    def __init__(self, reactor: Any, url: str, ttl_s: float, prefix: str = "crawlfarm:cache:") -> None:
        self.link = RedisLink(reactor, url, WHERE)
        self._ttl_ms = round(ttl_s * 1000)
        self._prefix = prefix

    async def start(self) -> None:
        """:raises ConfigError: the server refuses us."""
        try:
            await self.link.start()
        except Unavailable as e:
            log.warn("{error}; going on without a cache until it answers", error=e)

    async def stop(self) -> None:
        await self.link.stop()

    def get(self, key: str) -> Deferred[tuple[int, bytes] | None]:
        return Deferred.fromCoroutine(self._get(key))

    def put(self, key: str, depth: int, data: bytes) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._put(key, depth, data))

    async def _get(self, key: str) -> tuple[int, bytes] | None:
        try:
            entry = await self.link.execute("GETEX", self._prefix + key, "PX", self._ttl_ms)
        except Exception as e:
            log.debug("the cache was not asked: {error}", error=e)
            return None
        if not isinstance(entry, bytes) or len(entry) < _DEPTH.size:
            return None
        return _DEPTH.unpack_from(entry)[0], entry[_DEPTH.size :]

    async def _put(self, key: str, depth: int, data: bytes) -> bool:
        if len(data) > LARGEST:
            return False
        try:
            entry = _DEPTH.pack(depth) + data
            return bool(await self.link.execute("EVAL", _PUT, 1, self._prefix + key, entry, self._ttl_ms))
        except Exception as e:
            log.debug("an answer was not cached: {error}", error=e)
            return False
