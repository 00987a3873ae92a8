"""What ties a crawl to the farm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from crawlfarm.core.ports import FrontierStore
from crawlfarm.frontier.exchange import Pace
from crawlfarm.wire.jobs import JobSpec


@dataclass(frozen=True)
class Attachment:
    """How a crawl takes part in the farm.

    :ivar store: the frontier.
    :ivar worker: the name its leases are held under.
    :ivar job: the job this crawl is the master of, with its token; ``None`` for a
        worker, which serves the jobs of all masters.
    :ivar buffer: how many pages are held ready.
    :ivar over: called once, when the job this crawl serves has ended.
    :ivar pace: how much it takes; ``None`` as much as it can.
    """

    store: FrontierStore
    worker: str
    job: tuple[str, JobSpec, int] | None = None
    buffer: int = 16
    page_lease_s: float = 20.0
    over: Callable[[], None] = lambda: None
    pace: Pace | None = None
