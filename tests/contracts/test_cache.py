"""What every cache promises; one class a cache."""

from __future__ import annotations

from typing import Any

import redis
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from crawlfarm.adapters.memory.cache import ENTRY_OVERHEAD, MemoryCache
from crawlfarm.core.ports import Cache
from tests.support.servers import redis_server

LARGEST = 16 * 1024 * 1024


class CacheContract:
    """Mixed into a TestCase; ``make_cache`` gives an empty cache with a time to live of 60 s."""

    timeout = 20

    def make_cache(self) -> Cache:
        raise NotImplementedError

    def later(self, seconds: float) -> None:
        """Let the cache's time go by."""
        raise NotImplementedError

    async def test_unknown(self: Any) -> None:
        """What was never put is not there."""
        self.assertIsNone(await self.make_cache().get("k"))

    async def test_kept(self: Any) -> None:
        """What was put is given back byte by byte, each key its own."""
        cache = self.make_cache()
        data = bytes(range(256))
        self.assertIs(await cache.put("k", 3, data), True)
        self.assertIs(await cache.put("l", 1, b""), True)
        self.assertEqual(await cache.get("k"), (3, data))
        self.assertEqual(await cache.get("l"), (1, b""))

    async def test_only_deeper(self: Any) -> None:
        """Only a deeper answer takes the place of another."""
        cache = self.make_cache()
        await cache.put("k", 3, b"three")
        self.assertIs(await cache.put("k", 3, b"as deep"), False)
        self.assertIs(await cache.put("k", 2, b"two"), False)
        self.assertEqual(await cache.get("k"), (3, b"three"))
        self.assertIs(await cache.put("k", 4, b"four"), True)
        self.assertEqual(await cache.get("k"), (4, b"four"))

    async def test_expires(self: Any) -> None:
        """An answer is gone after its time, and a shallower one may follow it."""
        cache = self.make_cache()
        await cache.put("k", 3, b"three")
        self.later(61)
        self.assertIs(await cache.put("k", 2, b"two"), True)
        self.assertEqual(await cache.get("k"), (2, b"two"))
        self.later(61)
        self.assertIsNone(await cache.get("k"))

    async def test_used(self: Any) -> None:
        """An answer's time starts again whenever it is given."""
        cache = self.make_cache()
        await cache.put("k", 3, b"three")
        await cache.put("l", 3, b"unused")
        for _ in range(5):
            self.later(40)
            self.assertEqual(await cache.get("k"), (3, b"three"))
        self.assertIsNone(await cache.get("l"))


class MemoryCacheContract(CacheContract, TestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def make_cache(self) -> Cache:
        return MemoryCache(self.clock.seconds, ttl_s=60)

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)


class RedisCacheContract(CacheContract, TestCase):
    async def setUp(self) -> None:
        from crawlfarm.adapters.redis.cache import RedisCache

        url = redis_server().fresh(self)
        self.client = redis.Redis.from_url(url)
        self.addCleanup(self.client.close)
        self.cache = RedisCache(reactor, url, ttl_s=60)
        await self.cache.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.cache.stop()))

    def make_cache(self) -> Cache:
        return self.cache

    def later(self, seconds: float) -> None:
        for key in list(self.client.scan_iter()):
            self.client.pexpire(key, max(0, self.client.pttl(key) - round(seconds * 1000)))

    async def test_too_big(self) -> None:
        """A huge answer is not kept: it would push out all others."""
        self.assertIs(await self.cache.put("k", 1, bytes(LARGEST + 1)), False)
        self.assertIsNone(await self.cache.get("k"))


class MemoryCacheBounds(SynchronousTestCase):
    """What the in-process cache adds: a bound on its memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.cache = MemoryCache(self.clock.seconds, ttl_s=60, max_bytes=80_000)

    def put(self, key: str, size: int, depth: int = 1) -> bool:
        return self.successResultOf(self.cache.put(key, depth, bytes(size)))

    def held(self, key: str) -> bool:
        return self.successResultOf(self.cache.get(key)) is not None

    def test_longest_unused_goes(self) -> None:
        """When it is full, the answers longest unused make room; the bound always holds."""
        for n in range(10):
            self.assertTrue(self.put(f"k{n}", 9_000 - ENTRY_OVERHEAD))
            self.assertTrue(self.held("k0"))
            self.assertLessEqual(self.cache.size, 80_000)
        self.assertEqual([n for n in range(10) if self.held(f"k{n}")], [0, 3, 4, 5, 6, 7, 8, 9])

    def test_too_big(self) -> None:
        """An answer above an eighth of the bound is not kept, and pushes nothing out."""
        self.assertTrue(self.put("k", 100))
        self.assertFalse(self.put("big", 10_000))
        self.assertFalse(self.put("k", 10_000, depth=2))
        self.assertTrue(self.held("k"))
        self.assertTrue(self.put("fits", 9_600))

    def test_size(self) -> None:
        """What is replaced or has expired takes no room any more."""
        self.put("k", 1_000)
        self.put("k", 50, depth=2)
        self.assertEqual(self.cache.size, 51 + ENTRY_OVERHEAD)
        self.clock.advance(61)
        self.assertFalse(self.held("other"))
        self.assertEqual(self.cache.size, 0)
