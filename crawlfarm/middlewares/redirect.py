"""Redirects: Scrapy's, except that one to no page on the web is the final response itself."""

from __future__ import annotations

from scrapy import Request
from scrapy.downloadermiddlewares.redirect import RedirectMiddleware
from scrapy.http import Response


class WebRedirectMiddleware(RedirectMiddleware):
    """Follows redirects to http and https; Scrapy fails on ``mailto:`` and broken URLs."""

    def process_response(self, request: Request, response: Response) -> Request | Response:  # type: ignore[override]
        try:
            return super().process_response(request, response)
        except ValueError:
            return response
