"""The worker: one long Scrapy crawl that knows no job and no master."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from crawlfarm.config import Config
from crawlfarm.core.backoff import Backoff
from crawlfarm.core.ports import FrontierStore
from crawlfarm.frontier.attachment import Attachment
from crawlfarm.frontier.crawl import Crawl

log = Logger()


class Worker:
    """Fetches pages until it is stopped; a crawl that ends by itself is started again.

    :param name: unique in the farm; its page leases are held under it.
    :param spider: the spider whose jobs it serves.
    """

    def __init__(
        self, reactor: Any, config: Config, name: str, *, frontier: FrontierStore, spider: str = "site"
    ) -> None:
        self._reactor = reactor
        self._config = config
        self.name = name
        self._frontier = frontier
        self._spider = spider
        self._crawl: Crawl | None = None
        self._stopping = False
        self._running: Deferred[None] | None = None

    def start(self) -> None:
        self._running = Deferred.fromCoroutine(self._run())

    async def stop(self) -> None:
        """Finish what is in flight, give back the rest."""
        self._stopping = True
        if self._crawl is not None:
            await self._crawl.stop()
        if self._running is not None:
            await self._running

    async def _run(self) -> None:
        backoff = Backoff(first_s=0.5)
        failures = 0
        while not self._stopping:
            self._crawl = Crawl(
                self._config,
                Attachment(store=self._frontier, worker=self.name, page_lease_s=self._config.timings.page_lease_s),
                self._spider,
            )
            try:
                await self._crawl.start()
            except Exception:
                log.failure("the crawl of worker {name} failed", name=self.name)
            if not self._stopping:
                log.warn("the crawl of worker {name} ended by itself and starts again", name=self.name)
                await deferLater(self._reactor, 0.1 + backoff.delay_s(failures))
                failures += 1
