"""Scope on the way: a redirect must not lead a page out of its job's scope.

Links are tested where they are found; only redirects need a look here. The seed is
exempt: where it leads is what the scope is measured by.
"""

from __future__ import annotations

from scrapy import Request

from crawlfarm.core.urls import canonical, in_scope
from crawlfarm.errors import OutOfScope
from crawlfarm.frontier.visit import visit_of


class ScopeMiddleware:
    """Refuses a redirect out of scope before it is asked for: ``skipped:scope``."""

    def process_request(self, request: Request) -> None:
        """:raises OutOfScope: for the visit's errback to see."""
        visit = visit_of(request)
        if visit is None or visit.lease.depth == 0 or not request.meta.get("redirect_times"):
            return
        if not in_scope(visit.lease.spec.scope, visit.lease.base, canonical(request.url)):
            raise OutOfScope("a redirect leads out of the job's scope")
