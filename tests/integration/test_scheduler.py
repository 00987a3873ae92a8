"""Scrapy on the frontier: when a page is finished, and what happens when a process goes away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

from scrapy.core.scheduler import BaseScheduler
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Response
from scrapy.utils.defer import maybe_deferred_to_future
from scrapy.utils.misc import load_object
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import TestCase

from crawlfarm import settings
from crawlfarm.adapters.memory.frontier import MemoryFrontier
from crawlfarm.core.frontier import FrontierModel
from crawlfarm.core.levels import fold
from crawlfarm.core.ports import DONE, LINKS_WANTED, STALE, FrontierStore
from crawlfarm.errors import StaleToken
from crawlfarm.frontier.attachment import Attachment
from crawlfarm.frontier.crawl import Crawl
from crawlfarm.frontier.scheduler import FrontierScheduler
from crawlfarm.spiders.site import SiteSpider
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import PageRecord
from tests.support.crawling import LOOPBACK, whole_log
from tests.support.spying import SpyFrontier
from tests.support.tinysite import Reply, TinySite

JOB = "job"
LEASE_S = 0.6


class CrawlTestCase(TestCase):
    """``self.store`` is the frontier all consumers of a test share."""

    timeout = 60

    def setUp(self) -> None:
        self.happened: list[tuple[str, str]] = []
        self.store: FrontierStore = MemoryFrontier(reactor, FrontierModel(page_lease_s=LEASE_S))

    def tell(self, what: str, url: str) -> None:
        self.happened.append((what, url[url.find("/", 8) :]))

    def site(self, pages: dict[str, Reply]) -> TinySite:
        return TinySite(self, pages, lambda path: self.happened.append(("asked", path)))

    def spy(self) -> SpyFrontier:
        return SpyFrontier(self.store, self.tell)

    def master(
        self,
        site: TinySite,
        store: FrontierStore,
        *,
        depth: int = 3,
        token: int = 1,
        spider: Any = "site",
        over: Callable[[], None] = lambda: None,
    ) -> tuple[Crawl, Deferred[None]]:
        """A master of the job and what fires when its crawl has closed."""
        spec = JobSpec(site.url("/"), depth, scope="host")
        crawl = Crawl(
            LOOPBACK, Attachment(store, f"master-{token}", (JOB, spec, token), page_lease_s=LEASE_S, over=over), spider
        )
        return crawl, crawl.start()

    def worker(self, store: FrontierStore, *, spider: Any = "site") -> tuple[Crawl, Deferred[None]]:
        crawl = Crawl(LOOPBACK, Attachment(store, "worker", page_lease_s=LEASE_S), spider)
        return crawl, crawl.start()

    async def records(self, site: TinySite) -> dict[str, PageRecord]:
        """By path; the frontier's own audit agrees, and the job has ended."""
        self.assertEqual(await self.store.audit(JOB), [])
        status = await self.store.status(JOB)
        assert status is not None
        self.assertEqual(status.state, "done")
        return {url.removeprefix(site.origin): r for url, r in fold(await whole_log(self.store, JOB)).items()}

    def order(self, *events: tuple[str, str]) -> None:
        """These happened, in this order, each for the first time."""
        places = [self.happened.index(event) for event in events]
        self.assertEqual(places, sorted(places), self.happened)


class Gated:
    """An item pipeline that holds the items of ``/held`` until the test lets them go."""

    gate: Deferred[None]
    begun: Deferred[None]
    tell: Callable[[str, str], None]

    async def process_item(self, item: dict[str, str]) -> dict[str, str]:
        self.tell("item", item["url"])
        if item["url"].endswith("/held") and not self.begun.called:
            self.begun.callback(None)
            await maybe_deferred_to_future(self.gate)
            self.tell("item done", item["url"])
        return item


class ItemSpider(SiteSpider):
    custom_settings: ClassVar = {"ITEM_PIPELINES": {Gated: 1}}

    async def items(self, response: Response) -> AsyncIterator[Any]:
        yield {"url": response.url}


class Swallowing:
    def process_request(self, request: Any) -> None:
        if request.url.endswith("/swallowed"):
            raise IgnoreRequest("not this one")


class FailingSpider(SiteSpider):
    custom_settings: ClassVar = {"DOWNLOADER_MIDDLEWARES": {Swallowing: 500}}

    async def arrived(self, response: Response) -> AsyncIterator[Any]:
        if response.url.endswith("/broken"):
            raise RuntimeError("this callback fails")
        async for item in super().arrived(response):
            yield item

    async def items(self, response: Response) -> AsyncIterator[Any]:
        yield {"url": response.url}
        if response.url.endswith("/item"):
            raise RuntimeError("what is made of this page fails")


class AsScrapyCallsItTests(CrawlTestCase):
    """The scheduler is one like any other."""

    def test_the_setting_names_a_scheduler(self) -> None:
        """What the project's settings name is a ``BaseScheduler``, and so is one bound to a frontier."""
        self.assertTrue(issubclass(load_object(settings.SCHEDULER), BaseScheduler))
        bound = FrontierScheduler.bound(Attachment(self.store, "worker"))
        self.assertTrue(issubclass(bound, BaseScheduler))
        self.assertIsNone(FrontierScheduler.attachment)

    async def test_a_master_closes_when_its_job_has_ended(self) -> None:
        """And tells whoever attached it, once; a worker stays."""
        site = self.site({"/": Reply(("/a",)), "/a": Reply()})
        told: list[str] = []
        worker, left = self.worker(self.spy())
        _, closed = self.master(site, self.spy(), over=lambda: told.append("over"))
        await closed
        self.assertEqual(told, ["over"])
        self.assertFalse(left.called)
        await worker.stop()
        await left
        self.assertEqual({path: r.depth for path, r in (await self.records(site)).items()}, {"/": 0, "/a": 1})

    async def test_a_worker_is_stopped_before_it_has_opened(self) -> None:
        """A stop that comes at once is not lost."""
        worker, left = self.worker(self.store)
        await worker.stop()
        await left

    async def test_a_master_of_an_ended_job(self) -> None:
        """Attached again, it closes at once and fetches nothing."""
        site = self.site({"/": Reply()})
        await self.master(site, self.store)[1]
        told: list[str] = []
        await self.master(site, self.store, token=2, over=lambda: told.append("over"))[1]
        self.assertEqual((site.counts.total(), told), (1, ["over"]))


class FinishTests(CrawlTestCase):
    """A page is finished when everything that came of it has left the engine."""

    async def test_after_its_items(self) -> None:
        """Not before the last pipeline is through with the last item, however slow."""
        site = self.site({"/": Reply(("/held", "/b")), "/held": Reply(("/c",)), "/b": Reply()})
        Gated.gate, Gated.begun, Gated.tell = Deferred(), Deferred(), self.tell
        spy = self.spy()
        _, closed = self.master(site, spy, spider=ItemSpider)
        await gatherResults([Gated.begun, spy.finished(site.url("/b"))])
        self.assertNotIn(("finish", "/held"), self.happened)
        self.assertNotIn(("asked", "/c"), self.happened)
        Gated.gate.callback(None)
        await closed
        self.order(("asked", "/held"), ("item", "/held"), ("item done", "/held"), ("finish", "/held"), ("asked", "/c"))
        self.assertEqual([v for _, v in spy.finishes], [DONE] * 5)

    async def test_after_its_redirects(self) -> None:
        """The page that asked waits for the end of the chain, and is the only one finished."""
        hop = {"/r": Reply(status=302, headers={"Location": "/s"}), "/s": Reply(status=301, headers={"Location": "/t"})}
        site = self.site({"/": Reply(("/r", "/b")), **hop, "/t": Reply(("/c",)), "/b": Reply()})
        held = site.hold("/t")
        spy = self.spy()
        _, closed = self.master(site, spy)
        await gatherResults([held, spy.finished(site.url("/b"))])
        self.assertNotIn(("finish", "/r"), self.happened)
        site.let_go("/t")
        await closed
        self.order(("asked", "/r"), ("asked", "/s"), ("asked", "/t"), ("finish", "/r"), ("asked", "/c"))
        records = await self.records(site)
        self.assertEqual(sorted(records), ["/", "/b", "/c", "/r"])
        self.assertEqual(records["/r"].final_url, site.url("/t"))

    async def test_after_its_retries(self) -> None:
        """Three answers and one finish."""
        site = self.site({"/": Reply(("/f", "/g")), "/f": Reply(first=(503, 500)), "/g": Reply(first=(503,) * 3)})
        spy = self.spy()
        await self.master(site, spy)[1]
        self.assertEqual((site.counts["/f"], site.counts["/g"]), (3, 3))
        self.assertEqual(len(spy.finishes), 4)  # with the seeding
        records = await self.records(site)
        self.assertEqual(
            [(r.disposition, r.status) for _, r in sorted(records.items())][1:], [("fetched", 200), ("fetched", 503)]
        )

    async def test_what_fails_ends_the_page(self) -> None:
        """A callback that raises: ``failed:error``. What is made of a whole page fails: it was
        fetched all the same. A request that a middleware swallows: ``failed:ignored``. The job ends."""
        site = self.site({"/": Reply(("/broken", "/item", "/swallowed")), "/item": Reply(("/c",))})
        await self.master(site, self.store, spider=FailingSpider)[1]
        dispositions = {path: r.disposition for path, r in (await self.records(site)).items()}
        self.assertEqual(
            dispositions,
            {
                "/": "fetched",
                "/broken": "failed:error",
                "/item": "fetched",
                "/swallowed": "failed:ignored",
                "/c": "fetched",
            },
        )

    async def test_the_links_of_a_page_that_left_the_last_level(self) -> None:
        """The frontier asks for them after all, and the page is not fetched again."""
        deep = {"/a": Reply(("/b",)), "/b": Reply(("/x",)), "/x": Reply(("/y",)), "/y": Reply(("/z",))}
        site = self.site({"/": Reply(("/slow", "/a")), "/slow": Reply(("/x",)), **deep})
        held_slow, held_x = site.hold("/slow"), site.hold("/x")
        spy = self.spy()
        _, closed = self.master(site, spy, depth=4)
        await gatherResults([held_slow, held_x])
        site.let_go("/slow")
        await spy.finished(site.url("/slow"))
        site.let_go("/x")
        await closed
        verdicts = [verdict for finish, verdict in spy.finishes if finish.ref.url == site.url("/x")]
        self.assertEqual(verdicts, [LINKS_WANTED, DONE])
        self.assertEqual(site.counts["/x"], 1)
        depths = {path: record.depth for path, record in (await self.records(site)).items()}
        self.assertEqual(depths, {"/": 0, "/slow": 1, "/a": 1, "/b": 2, "/x": 2, "/y": 3})


class LeaseTests(CrawlTestCase):
    """Processes come and go."""

    async def test_a_page_longer_than_its_lease(self) -> None:
        """It is kept while it runs: fetched once, by its first worker."""
        site = self.site({"/": Reply(("/slow",)), "/slow": Reply()})
        held = site.hold("/slow")
        spy = self.spy()
        _, closed = self.master(site, spy)
        await held
        before = spy.extensions
        await spy.when(lambda: spy.extensions >= before + 5)  # nearly two leases
        site.let_go("/slow")
        await closed
        self.assertEqual(site.counts["/slow"], 1)
        self.assertEqual([lease.attempt for lease in spy.leases], [1, 1])

    async def test_a_worker_that_disappears(self) -> None:
        """Nothing of what it was at is finished; after the lease somebody else fetches it, and the
        answer is exact. What it says when it is back is refused."""
        pages = {"/": Reply(("/slow", "/a")), "/slow": Reply(("/b",)), "/a": Reply(), "/b": Reply()}
        site = self.site(pages)
        held = site.hold("/slow")
        mine, theirs = self.spy(), self.spy()
        mine.dry = True
        worker, left = self.worker(theirs)
        _, closed = self.master(site, mine)
        await held
        theirs.cut = True
        mine.dry = False
        self.assertNotIn(site.url("/slow"), [f.ref.url for f, _ in theirs.finishes])
        await closed
        self.assertEqual([(f.ref.url, v) for f, v in mine.finishes if v != DONE], [])
        self.assertEqual({lease.fetch: lease.attempt for lease in mine.leases}[site.url("/slow")], 2)
        self.assertEqual(sorted(await self.records(site)), ["/", "/a", "/b", "/slow"])
        site.let_go("/slow")
        await theirs.when(lambda: site.url("/slow") in [finish.ref.url for finish in theirs.refused])
        theirs.cut = False
        await theirs.finished(site.url("/slow"))
        self.assertEqual(theirs.finishes[-1][1], STALE)
        await worker.stop()
        await left

    async def test_a_graceful_close_gives_pages_back(self) -> None:
        """What was not fetched goes to others at once and at the cost of no attempt."""
        links = tuple(f"/{n}" for n in range(10))
        site = self.site({"/": Reply(("/slow", *links)), "/slow": Reply(("/b",))})
        held = site.hold("/slow")
        mine, theirs = self.spy(), self.spy()
        mine.dry = True
        worker, left = self.worker(theirs)
        _, closed = self.master(site, mine)
        await held
        await worker.stop(within_s=0)
        await left
        self.assertIn(site.url("/slow"), [ref.url for ref in theirs.released])
        mine.dry = False
        mine.wake()
        await closed
        self.assertEqual({lease.attempt for lease in mine.leases}, {1})
        self.assertEqual(len(await self.records(site)), 13)
        self.assertEqual(max(site.counts[path] for path in links), 1)

    async def test_a_master_that_was_replaced(self) -> None:
        """The higher token has the job: the older one's calls are refused, its pages in flight count."""
        site = self.site({"/": Reply(("/slow",)), "/slow": Reply(("/a",)), "/a": Reply()})
        held = site.hold("/slow")
        old, new = self.spy(), self.spy()
        _, old_closed = self.master(site, old)
        await held
        _, new_closed = self.master(site, new, token=2)
        await new.when(lambda: new.exchanges > 0)
        with self.assertRaises(StaleToken):
            await self.store.cancel(JOB, 1, "cancelled")
        _, late = self.master(site, self.store, token=1)
        await self.assertFailure(late, StaleToken)
        site.let_go("/slow")
        await gatherResults([old_closed, new_closed])
        self.assertEqual(site.counts["/slow"], 1)
        self.assertEqual(sorted(await self.records(site)), ["/", "/a", "/slow"])

    async def test_a_job_is_seeded_once(self) -> None:
        """A master replaced before its spider's start is through does not seed the job a second time."""
        site = self.site({"/": Reply()})
        spec = JobSpec(site.url("/"), 3, scope="host")
        first = await self.store.open(JOB, spec, 1)
        assert first.seeding is not None
        spy = self.spy()
        await self.master(site, spy, token=2)[1]
        self.assertEqual(site.counts["/"], 1)
        self.assertEqual([(f.ref.url, v) for f, v in spy.finishes], [("", DONE), (site.url("/"), DONE)])

    async def test_a_slow_frontier_blocks_nobody(self) -> None:
        """While the store takes 300 ms for an answer the reactor turns and pages are fetched."""
        paths = [f"/{n}" for n in range(120)]
        site = self.site({"/": Reply(tuple(paths))} | {path: Reply() for path in paths})
        spy = self.spy()
        spy.delay_s = 0.3
        ticks = 0
        meanwhile = 0

        def tick() -> None:
            nonlocal ticks
            ticks += spy.calls_under_way > 0

        def heard(path: str) -> None:
            nonlocal meanwhile
            meanwhile += spy.calls_under_way > 0

        site.heard = heard
        ticking = LoopingCall(tick)
        ticking.start(0.01)
        try:
            await self.master(site, spy)[1]
        finally:
            ticking.stop()
        self.assertEqual(len(await self.records(site)), 121)
        self.assertGreater(ticks, 5 * spy.exchanges)
        self.assertGreater(meanwhile, 60)
        self.assertLess(spy.exchanges, 40)
