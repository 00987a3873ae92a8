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


class OwnJob:
    """Opened by one crawl, and gone with it.

    Where ``CRAWLFARM_FRONTIER_URL`` names a Redis (``REDIS_URL`` does as well, as users of
    scrapy-redis have it), the job is in the farm's frontier and the farm's workers fetch its
    pages too; otherwise the frontier is in this process.
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
        name = "CRAWLFARM_FRONTIER_URL" if settings.get("CRAWLFARM_FRONTIER_URL") else "REDIS_URL"
        urls = parse_frontier(settings.get(name) or "", name)
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
