"""The base class of spiders that crawl a site level by level."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from typing import Any, Self

from scrapy import Request, Spider
from scrapy.crawler import Crawler
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    IgnoreRequest,
    ResponseDataLossError,
)
from scrapy.http import Response, TextResponse
from scrapy.utils.defer import maybe_deferred_to_future
from scrapy.utils.spider import iterate_spider_output
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from crawlfarm.core.ports import Child
from crawlfarm.errors import BlockedAddress, OutOfScope
from crawlfarm.frontier.scheduler import FrontierScheduler
from crawlfarm.frontier.visit import Visit, visit_of
from crawlfarm.spiders.arguments import NAMES, job_of
from crawlfarm.spiders.links import children_of, is_html, parse, title_of
from crawlfarm.wire.jobs import JobSpec

_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (BlockedAddress, "skipped:blocked_address"),
    (OutOfScope, "skipped:scope"),
    (CannotResolveHostError, "failed:dns"),
    (DownloadConnectionRefusedError, "failed:refused"),
    (DownloadTimeoutError, "failed:timeout"),
    (ResponseDataLossError, "failed:data_loss"),
    (DownloadCancelledError, "failed:too_large"),
)


class LevelSpider(Spider):
    """A spider whose pages are found by their links, level by level, with exact depths.

    One instance serves pages of many jobs: everything about a page's job is in its lease,
    nothing on the spider. Override :meth:`items` to make something of each page::

        class Titles(LevelSpider):
            name = "titles"

            def items(self, response):
                yield {"url": response.url, "title": response.css("title::text").get()}

    Run by Scrapy itself, the job comes from the arguments ``url``, ``depth``, ``scope`` and
    ``max_pages``, or from class attributes of these names.

    :ivar spec: the job this crawl is the master of; ``None`` in a worker.
    """

    spec: JobSpec | None = None
    crawler: Crawler

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> Self:
        """:raises BadInput: the arguments ask for no job."""
        farm = kwargs.pop("farm", None)
        spec = cls._job(kwargs) if farm is None else farm.spec
        spider = super().from_crawler(crawler, *args, **kwargs)
        spider.spec = spec
        return spider

    @classmethod
    def check_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """Called before anything runs.

        :raises BadInput: naming the argument and what is allowed.
        """
        cls._job(arguments)

    @classmethod
    def _job(cls, arguments: Mapping[str, Any]) -> JobSpec:
        own = {name: getattr(cls, name) for name in NAMES if hasattr(cls, name)}
        return job_of({**own, **arguments}, cls.name)

    async def start(self) -> AsyncIterator[Any]:
        """The seed, if this crawl is a master whose job waits for it."""
        scheduler = self.frontier
        if scheduler.seeding and self.spec is not None:
            yield Request(self.spec.url, dont_filter=True)
            scheduler.seeded()

    def items(self, response: Response) -> Any:
        """What a page yields besides its links: nothing, until overridden.

        As Scrapy's callbacks: a generator, an item, ``None`` or a coroutine. Requests are
        dropped: pages are found by their links. The page's depth, in
        ``response.meta["depth"]``, may yet turn out to be lower.
        """

    @property
    def frontier(self) -> FrontierScheduler:
        scheduler = self.crawler.engine.scheduler if self.crawler.engine is not None else None
        assert isinstance(scheduler, FrontierScheduler)
        return scheduler

    # --- called by the engine for the scheduler's requests ----------------------------

    async def arrived(self, response: Response) -> AsyncIterator[Any]:
        """A page's final response."""
        visit = visit_of(response.request)
        assert visit is not None
        if isinstance(response, TextResponse) and is_html(response):
            self._read(visit, response)
        else:
            visit.fetched(response, title="", children=())
        items: Any = iterate_spider_output(self.items(response))
        if isinstance(items, Deferred):
            items = await maybe_deferred_to_future(items)
        if isinstance(items, AsyncIterable):
            async for item in items:
                yield item
        else:
            for item in items:
                yield item

    def missed(self, failure: Failure) -> None:
        """A page ended without a response."""
        request: Request = failure.request  # type: ignore[attr-defined]
        visit = visit_of(request)
        assert visit is not None
        visit.ended(self.disposition_of(failure, request))

    def _read(self, visit: Visit, response: TextResponse) -> None:
        page = parse(response)
        lease = visit.lease
        base = response.url if lease.depth == 0 else lease.base

        def read_links() -> Sequence[Child]:
            return children_of(page, response, lease.spec.scope, base)

        if lease.depth < lease.spec.depth - 1:
            children: list[Child] | None = children_of(page, response, lease.spec.scope, base)
        else:
            # On the last level, as far as is known; the frontier asks if it is not.
            children = None
            visit.read_links = read_links
        visit.fetched(response, title=title_of(page), children=children)

    def disposition_of(self, failure: Failure, request: Request) -> str:
        """How a page without a response ended, from what its download raised."""
        error: BaseException | None = failure.value
        for kind, disposition in _REASONS:
            if isinstance(error, kind):
                return disposition
        if isinstance(error, IgnoreRequest):
            if request.meta.get("redirect_times", 0) >= self.crawler.settings.getint("REDIRECT_MAX_TIMES"):
                return "failed:redirects"
            return "failed:too_large" if "DOWNLOAD_MAXSIZE" in str(error) else "failed:ignored"
        if isinstance(error, DownloadFailedError) or "SSL" in type(error).__module__:
            return "failed:tls" if "SSL" in repr(getattr(error, "__cause__", None) or error) else "failed:connection"
        return "failed:error"
