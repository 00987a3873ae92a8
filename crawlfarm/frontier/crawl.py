"""One Scrapy crawl inside a daemon, attached to the farm."""

from __future__ import annotations

import asyncio
from typing import Any

from scrapy.crawler import AsyncCrawlerRunner, Crawler
from scrapy.settings import Settings
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from crawlfarm.config import Config
from crawlfarm.frontier import engine
from crawlfarm.frontier.attachment import Attachment
from crawlfarm.frontier.scheduler import FrontierScheduler
from crawlfarm.wire.jobs import JobSpec

FINISH_WITHIN_S = 3.0
"""How long a crawl that is to close waits for what is in flight."""


class Crawl:
    """A crawl of one of the project's spiders on the frontier of ``attachment``.

    :param spider: its name.
    """

    def __init__(self, config: Config, attachment: Attachment, spider: str) -> None:
        settings = Settings()
        settings.setmodule("crawlfarm.settings", priority="project")
        settings.setdict(
            {
                "SCHEDULER": FrontierScheduler.bound(attachment),
                "CRAWLFARM_ALLOW_NETWORKS": ",".join(map(str, config.allow_networks)),
                "STATS_DUMP": False,
                "LOGSTATS_INTERVAL": 0,
            },
            priority="cmdline",
        )
        self._spec = attachment.job[1] if attachment.job is not None else None
        self._runner = AsyncCrawlerRunner(settings)
        self._crawler: Crawler = self._runner.create_crawler(spider)
        self._stopped = False
        self._closed = True

    def start(self) -> Deferred[None]:
        """Crawl; fires when the crawl has closed, fails when it could not begin."""
        self._closed = False
        return Deferred.fromFuture(self._runner.crawl(self._crawler, farm=Farm(self._spec))).addBoth(self._note_closed)

    def stop(self, within_s: float = FINISH_WITHIN_S) -> Deferred[None]:
        """Close it: what is in flight may finish for a while and is then cut off, and all
        that is not finished is given back to the frontier."""
        return Deferred.fromCoroutine(self._stop(within_s))

    async def _stop(self, within_s: float) -> None:
        from twisted.internet import reactor as installed

        reactor: Any = installed
        if self._stopped:
            return
        self._stopped = True
        while not (self._closed or engine.is_running(self._crawler)):
            # It is being opened, which cannot be stopped.
            await deferLater(reactor, 0.01)
        if self._closed:
            return
        cutting_off = reactor.callLater(within_s, self._cut_off)
        try:
            await Deferred.fromFuture(asyncio.ensure_future(self._crawler.stop_async()))
        finally:
            if cutting_off.active():
                cutting_off.cancel()

    def _cut_off(self) -> None:
        scheduler = self._crawler.engine.scheduler if self._crawler.engine is not None else None
        if isinstance(scheduler, FrontierScheduler):
            scheduler.abandon()

    def _note_closed(self, how: Any) -> Any:
        self._closed = True
        return how


class Farm:
    """Tells a spider that it runs inside the farm: ``spec`` is its job's, if it has one."""

    def __init__(self, spec: JobSpec | None) -> None:
        self.spec = spec
