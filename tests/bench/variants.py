"""The frontier model with another idea of order: what exact levels are measured against."""

from __future__ import annotations

from typing import Any

from crawlfarm.core.frontier import FrontierModel
from crawlfarm.core.frontier_job import Job
from crawlfarm.core.frontier_page import QUEUED
from crawlfarm.core.host_queue import HostQueue
from crawlfarm.core.ports import Opened, PageLease
from crawlfarm.wire.jobs import JobSpec


class NoOrderModel(FrontierModel):
    """First found, first fetched, and a page keeps the depth at which it was first seen.

    Its levels are not exact: it is what a crawl costs that does not care.
    """

    def open(self, now: float, job: str, spec: JobSpec, token: int) -> Opened:
        opened = super().open(now, job, spec, token)
        state = self._jobs[job]
        if not isinstance(state.queue, _Fifo):
            state.queue = _Fifo(state)
            vars(state)["_lower"] = lambda page, depth, parent: None
        return opened


class _Fifo(HostQueue):
    def __init__(self, job: Job) -> None:
        super().__init__(lambda url, depth: job.pages[url].state == QUEUED)

    def push(self, host: str, depth: int, key: str) -> None:
        super().push(host, 0, key)


class BarrierModel(FrontierModel):
    """No page of a level before every page of the level above has ended.

    Exact as well, and what the frontier is there to avoid.
    """

    def _lease_next(self, now: float, state: Job, leases: list[PageLease]) -> bool:
        if not super()._lease_next(now, state, leases):
            return False
        if leases[-1].depth <= state.floor:
            return True
        page: Any = state.pages[leases.pop().ref.url]
        state.give_back(page)
        self._host_freed(page.host)
        return False
