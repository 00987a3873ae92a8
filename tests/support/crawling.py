"""Crawls with the real spider, scheduler and frontier, in this process, without daemons."""

from __future__ import annotations

import ipaddress
import uuid
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList

from crawlfarm.adapters.memory.frontier import MemoryFrontier
from crawlfarm.config import Config
from crawlfarm.core.frontier import FrontierModel
from crawlfarm.core.levels import fold, levels, receipt
from crawlfarm.core.ports import FrontierStore
from crawlfarm.frontier.attachment import Attachment
from crawlfarm.frontier.crawl import Crawl
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Entry, PageRecord
from tests.support.answer import Answer, Page

LOOPBACK = Config(allow_networks=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")))


def memory_frontier(model: FrontierModel | None = None) -> MemoryFrontier:
    return MemoryFrontier(reactor, model or FrontierModel())


class Crawled:
    """What a crawl left in the frontier."""

    def __init__(self, spec: JobSpec, state: str, records: list[PageRecord]) -> None:
        self.state = state
        self.records = records
        self.levels = levels(records, spec.depth, spec.url)
        self.receipt = receipt(records)
        self.answer = Answer(
            self.levels[0][0],
            spec.depth,
            {r.url: Page(r.depth, r.disposition, r.status) for r in records},
        )


async def crawl(spec: JobSpec, *, consumers: int = 1, store: FrontierStore | None = None) -> Crawled:
    """Crawl with one master and ``consumers - 1`` workers, all in this reactor.

    :raises AssertionError: the frontier's own audit finds something wrong.
    """
    frontier = store or memory_frontier()
    job = str(uuid.uuid4())
    over: Deferred[None] = Deferred()
    master = Crawl(
        LOOPBACK,
        Attachment(frontier, "master", (job, spec, 1), over=lambda: over.called or over.callback(None)),
        spec.spider,
    )
    workers = [Crawl(LOOPBACK, Attachment(frontier, f"worker-{n}"), spec.spider) for n in range(1, consumers)]
    closed: list[Deferred[Any]] = [crawl.start() for crawl in (*workers, master)]
    closed[-1].addErrback(lambda failure: over.called or over.errback(failure))
    await over
    for crawl_ in workers:
        await crawl_.stop()
    await DeferredList(closed, fireOnOneErrback=True)
    assert await frontier.audit(job) == []
    status = await frontier.status(job)
    assert status is not None
    crawled = Crawled(spec, status.state, list(fold(await whole_log(frontier, job)).values()))
    assert status.receipt == crawled.receipt
    return crawled


async def whole_log(frontier: FrontierStore, job: str) -> list[Entry]:
    entries: list[Entry] = []
    while (piece := await frontier.events(job, len(entries), 1000)) and piece.entries:
        entries.extend(piece.entries)
    return entries
