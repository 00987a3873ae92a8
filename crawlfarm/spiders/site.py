"""``site``: everything a site links to, level by level."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Self

from scrapy.crawler import Crawler

from crawlfarm.spiders.base import LevelSpider, spec_from_arguments


class SiteSpider(LevelSpider):
    """The spider of the farm's masters and workers, and of ``scrapy crawl site``.

    Run by Scrapy itself (``-a url=… -a depth=…``), its items are the records of the
    fetched pages, whoever fetched them, each once its depth is final. Arguments besides
    ``url`` and ``depth`` are the job options that change the answer.
    """

    name = "site"

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:
        farm = kwargs.pop("farm", None)
        spider = super().from_crawler(crawler)
        if farm is None:
            spider.spec = spec_from_arguments(kwargs)
            spider._tells = True
        else:
            spider.spec = farm.spec
        return spider

    _tells = False

    async def start(self) -> AsyncIterator[Any]:
        async for request in super().start():
            yield request
        if self._tells:
            async for record in self.frontier.final_records():
                if record.disposition == "fetched":
                    yield record.row()
