"""The frontiers there are, held to one contract; a class a store."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from crawlfarm.adapters.memory.frontier import MemoryFrontier
from crawlfarm.core.frontier import FrontierModel
from crawlfarm.core.ports import FrontierStore
from tests.contracts.frontier import FrontierContract
from tests.support.servers import redis_server
from tests.support.sites import u


class MemoryFrontierTests(FrontierContract, TestCase):
    clock: Clock

    async def make_store(self, **options: Any) -> FrontierStore:
        self.clock = Clock()
        return MemoryFrontier(self.clock, FrontierModel(**options), self.clock.seconds)

    async def later(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def told(self) -> None:
        self.clock.advance(0)

    async def test_watchers_are_told_once(self) -> None:
        """However much changes in one turn of the reactor, watchers hear of it once."""
        woken: list[int] = []
        await self.begin({"a": "b"})
        await self.told()
        self.store.watch(lambda: woken.append(1))
        await self.finish_page("a", "b")
        self.assertEqual(woken, [])
        await self.told()
        self.assertEqual(woken, [1])

    async def test_failing_watcher(self) -> None:
        """A watcher that fails is logged, and keeps the others from nothing."""
        woken: list[str] = []
        await self.begin({"a": "b"})
        stops = [self.store.watch(lambda: woken.append("first"))]
        self.store.watch(lambda: stops[1]())
        self.store.watch(self.fail)
        stops.append(self.store.watch(lambda: woken.append("stopped meanwhile")))
        self.store.watch(lambda: woken.append("last"))
        await self.finish_page("a")
        await self.told()
        self.assertEqual(woken, ["first", "last"])
        self.assertEqual(len(self.flushLoggedErrors(self.failureException)), 1)
        self.assertEqual((await self.take_page("b")).ref.url, u("b"))


class RedisFrontierTests(FrontierContract, TestCase):
    """Over Redis, with the tests' clock instead of the server's."""

    shards = 1
    store: Any

    async def make_store(self, **options: Any) -> FrontierStore:
        from crawlfarm.adapters.redis.frontier import RedisFrontier

        self.milliseconds = 0
        urls = [redis_server().fresh(self) for _ in range(self.shards)]
        store = RedisFrontier(reactor, urls, **options, now=lambda: self.milliseconds)
        await store.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(store.stop()))
        return store

    async def later(self, seconds: float) -> None:
        self.milliseconds += round(seconds * 1000)

    async def told(self) -> None:
        """Notifications come in order: an answer on their connection is behind all of them."""
        for shard in self.store._shards.values():
            _, listening = shard.link._handlers
            await listening.execute_command("PING")
        while self.store._telling is not None:
            await deferLater(reactor, 0)


class ShardedRedisFrontierTests(RedisFrontierTests):
    """The same, with each job on one of three shards."""

    shards = 3
