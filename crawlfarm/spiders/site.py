"""``site``: everything a site links to, level by level."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

from scrapy.crawler import Crawler

from crawlfarm.spiders.arguments import check_known
from crawlfarm.spiders.base import LevelSpider

logger = logging.getLogger(__name__)

_HINTS = {
    "skipped:blocked_address": ": it is not public; CRAWLFARM_ALLOW_NETWORKS opens networks of your own "
    "(127.0.0.0/8 is this machine)"
}


class SiteSpider(LevelSpider):
    """The spider of the farm's masters and workers, and of ``scrapy crawl site``.

    Run by Scrapy itself (``-a url=… -a depth=…``), its items are the records of the
    fetched pages, whoever fetched them, each once its depth is final. Arguments besides
    ``url`` and ``depth`` are the job options that change the answer. The statistics count
    what became of every URL found.
    """

    name = "site"

    _tells = False

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:
        spider = super().from_crawler(crawler, *args, **kwargs)
        spider._tells = "farm" not in kwargs
        return spider

    @classmethod
    def check_arguments(cls, arguments: Mapping[str, Any]) -> None:
        check_known(arguments)
        super().check_arguments(arguments)

    async def start(self) -> AsyncIterator[Any]:
        async for request in super().start():
            yield request
        if self._tells:
            async for record in self.frontier.final_records():
                if self.crawler.stats is not None:
                    self.crawler.stats.inc_value(f"crawlfarm/{record.disposition}")
                if record.disposition == "fetched":
                    yield record.row()
                elif record.depth == 0:
                    logger.warning(
                        "the seed %(url)s ended as %(disposition)s%(hint)s",
                        {
                            "url": record.url,
                            "disposition": record.disposition,
                            "hint": _HINTS.get(record.disposition, ""),
                        },
                        extra={"spider": self},
                    )
