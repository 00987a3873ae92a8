"""The only place that touches private names of Scrapy.

Scrapy has no asynchronous scheduler interface, no signal for "everything that came of
this request has left the engine", and no way to choose what its HTTP handler dials with.
Each is one private name away; a test fails loudly when a version of Scrapy moves them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scrapy import Request
from scrapy.core.downloader.handlers.http11 import HTTP11DownloadHandler, _ScrapyAgent
from scrapy.crawler import Crawler
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Response
from scrapy.utils._download_handlers import wrap_twisted_exceptions
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.web.client import Agent

from crawlfarm.frontier.visit import visit_of


def wake(crawler: Crawler) -> None:
    """Let the engine ask the scheduler again: there is something, or an end."""
    slot = crawler._engine._slot if crawler._engine is not None else None
    if slot is not None and slot.closing is None:
        slot.nextcall.schedule()


def is_running(crawler: Crawler) -> bool:
    """Whether the engine can be stopped."""
    # Crawler.engine raises until there is one.
    return crawler._engine is not None and crawler._engine.running


def on_request_removed(crawler: Crawler, removed: Callable[[Request], None]) -> None:
    """Call ``removed`` when a request has left the engine, its output and items included.

    A redirect or a retry has been enqueued by then, so counting requests works.
    """
    engine: Any = crawler.engine
    remove = engine._remove_request

    def _remove_request(result: Any, request: Request) -> None:
        try:
            remove(result, request)
        finally:
            removed(request)

    engine._remove_request = _remove_request


class _AgentOn(_ScrapyAgent):
    def __init__(self, reactor: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._reactor = reactor

    def _get_agent(self, request: Request, timeout: float) -> Agent:
        # No proxy and no bind address from request meta: both would go round the reactor.
        return Agent(self._reactor, self._contextFactory, connectTimeout=timeout, pool=self._pool)  # type: ignore[no-untyped-call]


class HTTPHandlerOn(HTTP11DownloadHandler):
    """Scrapy's HTTP handler, dialling through :attr:`dialler`, for as long as the visit lasts.

    :ivar dialler: a reactor, or what looks like one to Twisted's endpoints.
    """

    dialler: Any

    async def download_request(self, request: Request) -> Response:
        agent = _AgentOn(
            self.dialler,
            contextFactory=self._contextFactory,
            pool=self._pool,
            maxsize=self._default_maxsize,
            warnsize=self._default_warnsize,
            fail_on_dataloss=self._fail_on_dataloss,
            crawler=self._crawler,
            tls_verbose_logging=self._tls_verbose_logging,
        )
        visit = visit_of(request)
        if visit is not None and visit.abandoned:
            raise IgnoreRequest("nobody waits for this page any more")
        with wrap_twisted_exceptions():
            download = agent.download_request(request)
            if visit is not None:
                visit.download = download
            return await maybe_deferred_to_future(download)
