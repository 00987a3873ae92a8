"""The job of a crawl that Scrapy itself started: no lock daemon knows of it."""

from __future__ import annotations

import logging
import uuid
from typing import Any

from scrapy.settings import BaseSettings

from crawlfarm.config import parse_frontier
from crawlfarm.errors import ConfigError, CrawlfarmError
from crawlfarm.frontier.attachment import Attachment
from crawlfarm.wire.jobs import JobSpec

logger = logging.getLogger(__name__)

_TOKEN = 1


def frontier_urls(settings: BaseSettings) -> tuple[str, ...]:
    """The Redis that Scrapy settings name: ``CRAWLFARM_FRONTIER_URL``, or as users of
    scrapy-redis have it ``REDIS_URL``, or ``REDIS_HOST`` and ``REDIS_PORT``; empty for none.

    :raises ConfigError: naming the setting.
    """
    for name in ("CRAWLFARM_FRONTIER_URL", "REDIS_URL"):
        if settings.get(name):
            return parse_frontier(settings[name], name)
    if settings.get("REDIS_HOST"):
        return parse_frontier(f"redis://{settings['REDIS_HOST']}:{settings.getint('REDIS_PORT', 6379)}", "REDIS_HOST")
    return ()


class OwnJob:
    """Opened by one crawl, and gone with it.

    Where :func:`frontier_urls` finds a Redis in the settings, the job is in the farm's
    frontier and the farm's workers fetch its pages too; otherwise the frontier is in this
    process.
    """

    def __init__(self, settings: BaseSettings, spec: JobSpec | None) -> None:
        if spec is None:
            raise ConfigError("SCHEDULER: crawlfarm's takes spiders built on crawlfarm.spiders.base.LevelSpider alone")
        self._settings = settings
        self._spec = spec
        self._job = str(uuid.uuid4())
        self._store: Any = None
        self._shared = False

    async def begin(self) -> Attachment:
        """:raises ConfigError: the frontier cannot be used."""
        from twisted.internet import reactor

        settings = self._settings
        page_lease_s = settings.getfloat("CRAWLFARM_PAGE_LEASE_S", 20.0)
        options: dict[str, Any] = {
            "page_lease_s": page_lease_s,
            "page_attempts": settings.getint("CRAWLFARM_PAGE_ATTEMPTS", 3),
            "host_concurrency": settings.getint("CRAWLFARM_HOST_CONCURRENCY", 8),
        }
        urls = frontier_urls(settings)
        if urls:
            from crawlfarm.adapters.redis.frontier import RedisFrontier

            self._store = RedisFrontier(reactor, urls, **options)
            self._shared = True
            await self._store.start()
        else:
            from crawlfarm.adapters.memory.frontier import MemoryFrontier
            from crawlfarm.core.frontier import FrontierModel

            self._store = MemoryFrontier(reactor, FrontierModel(**options))
        return Attachment(
            store=self._store,
            worker=f"scrapy-{self._job}",
            job=(self._job, self._spec, _TOKEN),
            page_lease_s=page_lease_s,
        )

    async def end(self) -> None:
        """Leave nothing in a frontier that others use; what still runs there is cancelled."""
        if not self._shared:
            return
        try:
            await self._store.cancel(self._job, _TOKEN, "cancelled")
            await self._store.forget(self._job, _TOKEN)
        except CrawlfarmError as e:
            logger.warning("job %(job)s stays in the frontier: %(error)s", {"job": self._job, "error": e})
        await self._store.stop()
