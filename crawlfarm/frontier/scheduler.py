"""Scrapy's scheduler over the shared frontier."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

from scrapy import Request, Spider
from scrapy.core.scheduler import BaseScheduler
from scrapy.crawler import Crawler
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred

from crawlfarm.core.ports import Child, Finish, LeaseRef, LogSlice
from crawlfarm.core.urls import canonical
from crawlfarm.frontier import engine
from crawlfarm.frontier.attachment import Attachment
from crawlfarm.frontier.exchange import Exchange
from crawlfarm.frontier.final import FinalRecords
from crawlfarm.frontier.own_job import OwnJob
from crawlfarm.frontier.visit import META_KEY, Visit, visit_of
from crawlfarm.wire.pages import PageRecord

logger = logging.getLogger(__name__)

_LOG_BATCH = 1000
_future: Any = maybe_deferred_to_future


class FrontierScheduler(BaseScheduler):
    """A scheduler whose requests are pages of the shared frontier.

    It never blocks the reactor: :meth:`next_request` reads a buffer that an
    :class:`~crawlfarm.frontier.exchange.Exchange` keeps filled. A page is finished when
    everything that came of it (output, items, redirects, retries) has left the engine, so
    that a process that dies has lost no page, only time.

    As a job's master it opens the job and takes the requests of the spider's ``start()``
    as its seeds; it has pending requests until the job has ended, wherever its pages
    are. As a worker it serves every running job until the crawl is stopped.

    A crawl started by Scrapy itself (``scrapy crawl site``) is the master of a job of its
    own on the embedded frontier.
    """

    attachment: ClassVar[Attachment | None] = None

    @classmethod
    def bound(cls, attachment: Attachment) -> type[FrontierScheduler]:
        """A scheduler class for the ``SCHEDULER`` setting of one crawl.

        A class, because Scrapy copies settings deeply, and a frontier cannot be copied.
        """
        return type("BoundFrontierScheduler", (cls,), {"attachment": attachment})

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> FrontierScheduler:
        return cls(crawler)

    def __init__(self, crawler: Crawler) -> None:
        self._crawler = crawler
        self._again: deque[Request] = deque()
        self._visits: dict[LeaseRef, Visit] = {}
        self._seeds: list[Child] = []
        self._seeding: LeaseRef | None = None
        self._exchange: Exchange | None = None
        self._attached = self.attachment
        self._own_job: OwnJob | None = None

    # --- what Scrapy's engine calls -------------------------------------------------

    def open(self, spider: Spider) -> Deferred[None]:
        return Deferred.fromCoroutine(self._open(spider))

    def close(self, reason: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._close())

    def has_pending_requests(self) -> bool:
        return bool(self._again) or self._exchange is None or not self._exchange.over

    def enqueue_request(self, request: Request) -> bool:
        visit = visit_of(request)
        if visit is not None:
            if visit.abandoned:
                return False
            # A redirect or retry belongs to the page that asked and stays here.
            visit.requests += 1
            self._again.append(request)
            return True
        if self._seeding is not None:
            self._seeds.append(Child(canonical(request.url), request.url))
            return True
        logger.error(
            "%(request)s was dropped: pages of a job are found by their links; requests made by callbacks "
            "cannot be shared by the farm",
            {"request": request},
            extra={"spider": self._crawler.spider},
        )
        return False

    def next_request(self) -> Request | None:
        if self._again:
            return self._again.popleft()
        lease = self._exchange.take() if self._exchange is not None else None
        if lease is None:
            return None
        spider: Any = self._crawler.spider
        visit = self._visits[lease.ref] = Visit(lease)
        return Request(
            lease.fetch,
            callback=spider.arrived,
            errback=spider.missed,
            dont_filter=True,
            meta={META_KEY: visit, "depth": lease.depth},
        )

    # --- for the spider and the master ------------------------------------------------

    @property
    def seeding(self) -> bool:
        """Whether the job waits for the seeds of this crawl's spider."""
        return self._seeding is not None

    def seeded(self) -> None:
        """The spider's start is through."""
        if self._seeding is not None and self._exchange is not None:
            seeding, self._seeding = self._seeding, None
            self._exchange.finish(Finish(seeding, "fetched", self._seeds))

    def abandon(self) -> None:
        """Cut off what is in flight; it is given back when this crawl closes."""
        self._lost(list(self._visits))

    async def final_records(self) -> AsyncIterator[PageRecord]:
        """The job's records, each once, as soon as nothing can change its depth any more.

        To be iterated in Scrapy's own coroutines. A broken page comes at the very end:
        until then another page may turn out to link to it.
        """
        assert self._attached is not None and self._attached.job is not None
        store, job = self._attached.store, self._attached.job[0]
        changed = asyncio.Event()
        unwatch = store.watch(changed.set)
        final = FinalRecords()
        seen = 0
        try:
            while True:
                changed.clear()
                piece: LogSlice | None = await _future(store.events(job, seen, _LOG_BATCH))
                if piece is None:
                    return
                seen += len(piece.entries)
                ended = piece.state != "running" and len(piece.entries) < _LOG_BATCH
                for record in final.feed(piece, last=ended):
                    yield record
                if ended:
                    return
                if len(piece.entries) < _LOG_BATCH:
                    await changed.wait()
        finally:
            unwatch()

    # --- inside -------------------------------------------------------------------------

    async def _open(self, spider: Spider) -> None:
        if self._attached is None:
            self._own_job = OwnJob(self._crawler.settings, getattr(spider, "spec", None))
            self._attached = await self._own_job.begin()
        attached = self._attached
        if attached.job is not None:
            job, spec, token = attached.job
            opened = await attached.store.open(job, spec, token)
            self._seeding = opened.seeding
        from twisted.internet import reactor

        self._exchange = Exchange(
            reactor,
            attached.store,
            attached.worker,
            jobs=frozenset([attached.job[0]]) if attached.job is not None else None,
            spiders=frozenset([spider.name]),
            buffer=attached.buffer,
            page_lease_s=attached.page_lease_s,
            changed=self._changed,
            lost=self._lost,
            pace=attached.pace,
        )
        engine.on_request_removed(self._crawler, self._removed)
        await self._exchange.start()

    async def _close(self) -> None:
        if self._exchange is not None:
            await self._exchange.stop()
        if self._own_job is not None:
            await self._own_job.end()

    def _changed(self) -> None:
        engine.wake(self._crawler)
        if self._exchange is not None and self._exchange.over and self._attached is not None:
            self._attached.over()

    def _lost(self, refs: Sequence[LeaseRef]) -> None:
        for ref in refs:
            visit = self._visits.get(ref)
            if visit is not None:
                visit.abandon()

    def _removed(self, request: Request) -> None:
        visit = visit_of(request)
        if visit is None or self._exchange is None:
            return
        visit.requests -= 1
        if visit.requests == 0:
            self._visits.pop(visit.lease.ref, None)
            if visit.abandoned:
                return
            if visit.finish is None:
                # A callback that failed, or a middleware that swallowed the request.
                visit.ended("failed:error")
            assert visit.finish is not None
            self._exchange.finish(visit.finish, visit.read_links)
