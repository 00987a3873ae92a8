"""A leased page while this process works on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from scrapy import Request
from scrapy.http import Response
from twisted.internet.defer import Deferred

from crawlfarm.core.ports import Child, Finish, PageLease
from crawlfarm.core.urls import canonical

META_KEY = "crawlfarm_visit"
"""Where a request carries its visit; redirects and retries inherit it."""


class Visit:
    """What became of one leased page so far.

    The spider calls :meth:`fetched` or :meth:`ended`, once; the scheduler finishes the
    page when no request of the visit is in the engine any more.

    :ivar requests: how many requests of this visit the engine has or will get.
    :ivar read_links: how to read the links after all, should the frontier want them;
        holds on to the response, so it is dropped when the finish is acknowledged.
    :ivar abandoned: nobody here waits for the page any more; it is not finished.
    :ivar download: of the request that is in the engine.
    """

    __slots__ = ("_started", "abandoned", "download", "finish", "lease", "own_network", "read_links", "requests")

    def __init__(self, lease: PageLease) -> None:
        self.lease = lease
        self.requests = 1
        self.finish: Finish | None = None
        self.read_links: Callable[[], Sequence[Child]] | None = None
        self.own_network = False
        self.abandoned = False
        self.download: Deferred[Any] | None = None
        self._started = time.monotonic()

    def fetched(self, response: Response, *, title: str, children: Sequence[Child] | None) -> None:
        """A whole final response arrived, whatever its status."""
        content_type = response.headers.get(b"Content-Type") or b""
        final_url = canonical(response.url)
        self.finish = Finish(
            ref=self.lease.ref,
            disposition="fetched",
            children=children,
            status=response.status,
            final_url="" if final_url == self.lease.ref.url else final_url,
            title=title,
            content_type=content_type.decode("latin-1").partition(";")[0].strip().lower()[:100],
            bytes=len(response.body),
            elapsed_ms=self._elapsed_ms(),
            own_network=self.own_network,
        )

    def ended(self, disposition: str) -> None:
        """It ended without a response: ``failed:<reason>`` or ``skipped:<reason>``."""
        self.finish = Finish(
            ref=self.lease.ref,
            disposition=disposition,
            elapsed_ms=self._elapsed_ms(),
            own_network=self.own_network,
        )

    def abandon(self) -> None:
        """Cut its download off: the page is given back, or nobody wants it any more."""
        self.abandoned = True
        if self.download is not None:
            self.download.cancel()

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._started) * 1000)


def visit_of(request: Request | None) -> Visit | None:
    """The visit a request belongs to, or ``None`` for one of the engine's own."""
    return request.meta.get(META_KEY) if request is not None else None
