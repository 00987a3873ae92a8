"""The frontiers there are, held to one contract; a class a store."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from crawlfarm.adapters.memory.frontier import MemoryFrontier
from crawlfarm.core.frontier import FrontierModel
from crawlfarm.core.ports import FrontierStore
from tests.contracts.frontier import FrontierContract
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
