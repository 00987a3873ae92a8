"""One Scrapy crawl inside a daemon, attached to the farm."""

from __future__ import annotations

import logging
from typing import Any

from scrapy.crawler import AsyncCrawlerRunner, Crawler
from scrapy.settings import Settings
from twisted.internet.defer import Deferred

from crawlfarm.config import Config
from crawlfarm.frontier.scheduler import Attachment, FrontierScheduler
from crawlfarm.wire.jobs import JobSpec

logger = logging.getLogger(__name__)


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

    def start(self) -> Deferred[None]:
        """Crawl; fires when the crawl has closed, fails when it could not begin."""
        return Deferred.fromFuture(self._runner.crawl(self._crawler, farm=Farm(self._spec)))

    def stop(self) -> Deferred[Any]:
        """Close it: what is in flight is awaited, what waits is given back to the frontier."""
        if self._stopped or not self._crawler.crawling:
            return Deferred.fromCoroutine(_nothing())
        self._stopped = True
        import asyncio

        return Deferred.fromFuture(asyncio.ensure_future(self._crawler.stop_async()))


async def _nothing() -> None:
    return None


class Farm:
    """Tells a spider that it runs inside the farm: ``spec`` is its job's, if it has one."""

    def __init__(self, spec: JobSpec | None) -> None:
        self.spec = spec
