"""What a job is, as clients, the lock daemon, the queue and the frontier pass it on."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

MAX_DEPTH = 1000
"""The most levels a job may ask for."""

MAX_URL_LENGTH = 2083
"""The longest URL taken or followed, in characters (Scrapy's ``URLLENGTH_LIMIT``)."""

Depth = Annotated[int, msgspec.Meta(ge=1, le=MAX_DEPTH)]
Scope = Literal["any", "host"]


class JobOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The options a client may give with a job.

    :ivar scope: which links are followed: ``any``, or ``host`` (the seed's host
        name, at any port and scheme).
    :ivar max_pages: fetch exactly this many pages at most; ``None`` is no limit.
    :ivar detach: the job goes on when its client leaves.
    :ivar stream: send page records while they are found, not only the result.
    """

    scope: Scope = "any"
    max_pages: Annotated[int, msgspec.Meta(ge=1, le=10**9)] | None = None
    detach: bool = False
    stream: bool = False


class JobSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A checked job: everything that decides its answer, and nothing else.

    :ivar url: the seed in the spelling the client gave.
    :ivar depth: how many levels, 1 to :data:`MAX_DEPTH`.
    """

    url: str
    depth: int
    scope: Scope = "any"
    max_pages: int | None = None
    spider: str = "site"
