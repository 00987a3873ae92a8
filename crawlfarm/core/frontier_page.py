"""One page of a job in the frontier, and the states it can be in."""

from __future__ import annotations

from crawlfarm.core.ports import Child

QUEUED, LEASED, ENDED = "queued", "leased", "ended"


class Page:
    """A URL found by the job.

    :ivar links: what it links to, while that may be needed; ``None`` when nobody read it.
    :ivar losses: how often its worker was lost.
    :ivar refetch: it has its disposition and is out again for its links.
    :ivar linkers: pages that link here, while it may turn out broken.
    """

    __slots__ = (
        "broken",
        "depth",
        "disposition",
        "expires",
        "host",
        "lease",
        "linkers",
        "links",
        "losses",
        "parent",
        "refetch",
        "spelling",
        "state",
        "url",
    )

    def __init__(self, url: str, spelling: str, host: str, depth: int, parent: str) -> None:
        self.url = url
        self.spelling = spelling
        self.host = host
        self.depth = depth
        self.parent = parent
        self.state = QUEUED
        self.disposition = ""
        self.broken = False
        self.lease = 0
        self.expires = 0.0
        self.losses = 0
        self.refetch = False
        self.links: tuple[Child, ...] | None = None
        self.linkers: list[str] = [parent] if parent else []
