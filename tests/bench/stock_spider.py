"""Scrapy as it comes, crawling a site breadth first: what ``make bench-docs`` compares with.

    scrapy runspider tests/bench/stock_spider.py -a url=URL -a depth=3

Written as Scrapy's documentation writes it: a link extractor, ``DEPTH_LIMIT``, first-in
first-out queues, and a request for each link. At the end it prints one JSON line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar
from urllib.parse import urlsplit

from scrapy import Request, Spider
from scrapy.crawler import Crawler
from scrapy.http import Response, TextResponse
from scrapy.linkextractors import LinkExtractor


class StockSpider(Spider):
    name = "stock"
    custom_settings: ClassVar = {
        "DEPTH_PRIORITY": 1,
        "SCHEDULER_DISK_QUEUE": "scrapy.squeues.PickleFifoDiskQueue",
        "SCHEDULER_MEMORY_QUEUE": "scrapy.squeues.FifoMemoryQueue",
        # As many at a time as ours; Scrapy's own default is 8 a site.
        "CONCURRENT_REQUESTS": 64,
        "CONCURRENT_REQUESTS_PER_DOMAIN": 64,
        "DOWNLOAD_DELAY": 0,
        "TELNETCONSOLE_ENABLED": False,
        "REMOTE_CONTROL_ENABLED": False,
        "LOG_LEVEL": "WARNING",
    }

    def __init__(self, url: str, depth: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start_urls = [url]
        self.depth = int(depth)
        self.links = LinkExtractor(tags=("a", "area"), allow_domains=[urlsplit(url).netloc])
        self.pages = 0

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> StockSpider:
        crawler.settings.set("DEPTH_LIMIT", max(1, int(kwargs["depth"]) - 1), priority="spider")
        return super().from_crawler(crawler, *args, **kwargs)

    def parse(self, response: Response) -> Iterator[Request]:
        self.pages += 1
        if isinstance(response, TextResponse) and self.depth > 1:
            for link in self.links.extract_links(response):
                yield Request(link.url, callback=self.parse)

    def closed(self, reason: str) -> None:
        print(json.dumps({"pages": self.pages, "reason": reason}), flush=True)  # noqa: T201
