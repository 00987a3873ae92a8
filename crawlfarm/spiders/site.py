"""``site``: everything a site links to, level by level."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

from scrapy.crawler import Crawler

from crawlfarm.spiders.arguments import check_known
from crawlfarm.spiders.base import LevelSpider


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
