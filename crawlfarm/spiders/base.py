"""The base class of spiders that crawl a site level by level."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

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
from twisted.python.failure import Failure

from crawlfarm.core.jobs import job_spec, parse_depth, parse_options
from crawlfarm.core.ports import Child
from crawlfarm.errors import BadInput, BlockedAddress, OutOfScope
from crawlfarm.frontier.scheduler import FrontierScheduler
from crawlfarm.frontier.visit import Visit, visit_of
from crawlfarm.spiders.links import children_of, is_html, parse, title_of
from crawlfarm.wire.jobs import JobOptions, JobSpec

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
    nothing on the spider. Override :meth:`items` to make something of each page.

    :ivar spec: the job this crawl is the master of; ``None`` in a worker.
    """

    spec: JobSpec | None = None
    crawler: Crawler

    async def start(self) -> AsyncIterator[Any]:
        """The seed, if this crawl is a master whose job waits for it."""
        scheduler = self.frontier
        if scheduler.seeding and self.spec is not None:
            yield Request(self.spec.url, dont_filter=True)
            scheduler.seeded()

    async def items(self, response: Response) -> AsyncIterator[Any]:
        """What a page yields besides its links: nothing, until overridden."""
        return
        yield

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
        async for item in self.items(response):
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


def spec_from_arguments(arguments: dict[str, Any]) -> JobSpec:
    """The job that spider arguments (``-a url=… -a depth=…``) ask for; all are text.

    :raises BadInput: naming the argument and what is allowed.
    """
    fields = dict(arguments)
    url, depth = fields.pop("url", None), fields.pop("depth", None)
    if depth is None:
        raise BadInput("depth: it is missing; give one such as -a depth=3", path="depth", code="missing_field")
    if url is None:
        raise BadInput("url: it is missing; give one such as -a url=https://example.com/", path="url")
    for name in JobOptions.__struct_fields__:
        value = fields.get(name)
        if isinstance(value, str):
            fields[name] = (
                int(value)
                if value.isdecimal() and len(value) < 12
                else {"true": True, "false": False}.get(value, value)
            )
    return job_spec(url, parse_depth(depth), parse_options(fields))
