"""What travels through the job queue. Both are hints: the truth is the lock daemon's row."""

from __future__ import annotations

import msgspec


class JobQueued(msgspec.Struct, frozen=True):
    """A job waits for a master. Published by a gateway, or again by the lock daemon."""

    job: str
    version: int = 1


class JobEnded(msgspec.Struct, frozen=True):
    """A job has its outcome. Goes to every gateway."""

    job: str
    version: int = 1
