"""Exact levels and receipts over generated sites made to be hard."""

from __future__ import annotations

import os

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from crawlfarm.core.ports import FrontierStore
from crawlfarm.wire.jobs import JobSpec
from tests.support.crawling import crawl
from tests.support.servers import redis_server
from tests.support.site import Site

LONG = bool(os.environ.get("CRAWLFARM_TEST_LONG"))
AT_ONCE = 6


class GraphTests(TestCase):
    """Whatever the order in which a site's pages answer, the answer is the same."""

    timeout = 3000
    graphs = 200 if LONG else 24
    store: FrontierStore | None

    async def frontier(self) -> FrontierStore | None:
        """The store all crawls share; ``None`` gives each its own."""
        return None

    async def test_every_graph_with_every_number_of_consumers(self) -> None:
        """Levels, dispositions and receipt are those of the site's structure, for 1, 2 and 5
        concurrent consumers of the frontier, with delays that bring shorter paths late."""
        numbers = list(range(self.graphs))
        self.store = await self.frontier()
        wrong: list[str] = []

        async def lane(first: int) -> None:
            for number in numbers[first::AT_ONCE]:
                wrong.extend(await self._differences(number))

        await gatherResults([Deferred.fromCoroutine(lane(first)) for first in range(AT_ONCE)])
        self.assertEqual(wrong, [])

    async def _differences(self, number: int) -> list[str]:
        wrong: list[str] = []
        with Site.of_graph(number) as site:
            assert site.graph is not None
            truth = site.answer()
            for consumers in (1, 2, 5):
                site.reset()
                spec = JobSpec(site.seed, site.graph.depth, scope=site.graph.scope)
                found = await crawl(spec, consumers=consumers, store=self.store)
                name = f"graph {number}, {consumers} consumers"
                wrong += [f"{name}: {line}" for line in truth.differences(found.answer)]
                if found.levels != truth.levels:
                    wrong.append(f"{name}: levels differ")
                receipt = found.receipt
                fields = {f: getattr(receipt, f) for f in receipt.__struct_fields__}
                if fields != truth.receipt:
                    wrong.append(f"{name}: receipt {fields} != {truth.receipt}")
        return wrong


class RedisGraphTests(GraphTests):
    """The same over Redis, on two shards; here the workers of each crawl help all others."""

    graphs = 200 if LONG else 8

    async def frontier(self) -> FrontierStore:
        from crawlfarm.adapters.redis.frontier import RedisFrontier

        frontier = RedisFrontier(reactor, [redis_server().fresh(self), redis_server().fresh(self)])
        await frontier.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(frontier.stop()))
        return frontier
