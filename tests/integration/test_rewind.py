"""A frontier that loses what it has, in the middle of a crawl: the answer is the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from crawlfarm.cli.farm import Farm
from crawlfarm.client import Client
from crawlfarm.config import Timings
from crawlfarm.core.backoff import Backoff
from crawlfarm.wire.client import Cancelled, Pages, Reply, Result, Rewound
from crawlfarm.wire.codec import encode_json
from crawlfarm.wire.jobs import JobOptions
from tests.support.crawling import LOOPBACK
from tests.support.gated import GatedSite, tree
from tests.support.proxy import TcpProxy
from tests.support.proxy.tcp import address_of
from tests.support.servers import RedisServer

DEPTH = 6
TIMINGS = Timings(heartbeat_s=0.5, job_lease_s=20.0, page_lease_s=2.0)


class RewindTests(TestCase):
    """One farm in this process, its frontier on a Redis of the test's own."""

    timeout = 60

    async def farm(self, url: str) -> Client:
        config = replace(
            LOOPBACK,
            frontier_urls=(url,),
            gateway_listen="tcp:0:interface=127.0.0.1",
            run_dir=Path(self.mktemp()),
            timings=TIMINGS,
        )
        farm = Farm(reactor, config)
        await farm.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(farm.stop()))
        client = Client(reactor, farm.endpoints[0], backoff=Backoff(0.01, 0.05))
        self.addCleanup(client.close)
        return client

    async def crawl(
        self, url: str, lose: Callable[[], Awaitable[object]], *, early: Callable[[], object] | None = None
    ) -> list[Reply]:
        """Crawl, with ``lose`` called when the crawl stands at the gate.

        :param early: called before that, when some pages have been fetched.
        """
        site = GatedSite(self, tree(), gated=["/gate", "/c"])
        client = await self.farm(url)
        job = await client.submit(site.seed, DEPTH, JobOptions(stream=True))
        await deferToThread(site.wait_asked, "/gate")
        await deferToThread(site.wait_asked, "/c")
        if early is not None:
            await deferToThread(early)
        site.open("/c")
        await deferToThread(site.wait_asked, "/e")
        await lose()
        await deferToThread(site.wait_asked, "/gate", 2)
        site.open()
        replies = [reply async for reply in job]
        self.check(site, replies)
        return replies

    async def test_away_at_the_beginning(self) -> None:
        """A job that comes while the frontier is away waits for it; a cancel meanwhile is carried out then."""
        server = RedisServer.start(self)
        site = GatedSite(self, tree(), gated=["/gate"])
        client = await self.farm(f"{server.url}/1")
        await deferToThread(server.down)
        job = await client.submit(site.seed, DEPTH, JobOptions(stream=True))
        unwanted = await client.submit(site.seed, DEPTH - 1, JobOptions())
        unwanted.cancel().addErrback(lambda _: None)
        await deferToThread(server.up)
        await deferToThread(site.wait_asked, "/gate")
        site.open()
        replies = [reply async for reply in job]
        truth = site.answer(DEPTH)
        assert isinstance(replies[-1], Result), replies[-1]
        self.assertEqual(replies[-1].levels, truth.levels)
        self.assertIsInstance([reply async for reply in unwanted][-1], Cancelled)

    def check(self, site: GatedSite, replies: list[Reply]) -> None:
        truth = site.answer(DEPTH)
        results = [reply for reply in replies if isinstance(reply, Result)]
        self.assertEqual(len(results), 1)
        self.assertIs(replies[-1], results[0])
        self.assertEqual(results[0].levels, truth.levels)
        self.assertEqual({f: getattr(results[0].receipt, f) for f in truth.receipt}, truth.receipt)
        rewound = [n for n, reply in enumerate(replies) if isinstance(reply, Rewound)]
        self.assertTrue(rewound, encode_json(replies))
        since = [page.url for reply in replies[rewound[-1] :] if isinstance(reply, Pages) for page in reply.pages]
        self.assertEqual(sorted(since), sorted(truth.pages), "the stream after `rewound` has every page once")

    async def test_emptied(self) -> None:
        """FLUSHALL: the job starts again from its seed, under a new run."""
        server = RedisServer.start(self)
        await self.crawl(f"{server.url}/1", lambda: deferToThread(server.call, "FLUSHALL"))

    async def test_rolled_back(self) -> None:
        """Restarted from an older append-only file: what is there is kept, the rest done again."""
        server = RedisServer.start(self, config={"appendfsync": "always"})
        taken: list[Path] = []
        await self.crawl(
            f"{server.url}/1",
            lambda: deferToThread(lambda: server.roll_back(taken[0])),
            early=lambda: taken.append(server.snapshot()),
        )

    async def test_restarted(self) -> None:
        """kill -9 and a restart that loses nothing: what was leased is done again, no more."""
        server = RedisServer.start(self, config={"appendfsync": "always"})
        await self.crawl(f"{server.url}/1", lambda: deferToThread(lambda: server.restart(kill=True)))

    async def test_replica_promoted(self) -> None:
        """The primary dies, and its replica, which lacks the last moments, takes its place."""
        primary = RedisServer.start(self)
        replica = await deferToThread(primary.replica, self)
        proxy = TcpProxy.start(self, to=primary.url)

        async def fail_over() -> None:
            await deferToThread(primary.kill)
            await deferToThread(replica.resume)
            await deferToThread(replica.promote)
            proxy.to = address_of(replica.url)

        await self.crawl(f"{proxy.through(primary.url)}/1", fail_over, early=replica.pause)
