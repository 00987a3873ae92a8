"""What the hub can ask the shell to do.

A :data:`Need` has an answer: it travels in a :class:`Wanted` under a ticket, and the shell
comes back with :meth:`Hub.answered <wsgate.hub.Hub.answered>` or ``failed``, once, for
each ticket. The other effects are carried out and forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

from crawlfarm.wire import lockd
from crawlfarm.wire.client import Reply
from crawlfarm.wire.queue import JobQueued
from wsgate.answers import AnswerNote


@dataclass(frozen=True, slots=True)
class CallLocks:
    """Answered by the lock daemon's answer."""

    command: lockd.Command


@dataclass(frozen=True, slots=True)
class PublishJob:
    """Answered by ``None`` once the queue has it."""

    message: JobQueued


@dataclass(frozen=True, slots=True)
class FindAnswer:
    """Is there a cached answer at least this deep? A :class:`~wsgate.answers.Loaded`, cut
    to the depth, or ``None``."""

    key: str
    depth: int


@dataclass(frozen=True, slots=True)
class FindNote:
    """Was this job answered from the cache? Its :class:`~wsgate.answers.AnswerNote` or ``None``."""

    job: str


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a finished job found: a :class:`~wsgate.answers.Loaded` or ``None``."""

    job: str


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Up to ``limit`` log entries: a :class:`~crawlfarm.core.ports.LogSlice` or ``None``."""

    job: str
    after: int
    limit: int


@dataclass(frozen=True, slots=True)
class ReadStatus:
    """A :class:`~crawlfarm.core.ports.FrontierStatus`, or ``None`` for a job not opened yet."""

    job: str


Need = CallLocks | PublishJob | FindAnswer | FindNote | LoadResult | ReadLog | ReadStatus


@dataclass(frozen=True, slots=True)
class Wanted:
    ticket: int
    need: Need


@dataclass(frozen=True, slots=True)
class Send:
    """One message to each of these connections."""

    to: tuple[int, ...]
    reply: Reply


@dataclass(frozen=True, slots=True)
class Close:
    """:ivar code: of the websocket close frame."""

    connection: int
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class KeepAnswer:
    """Put a complete answer into the cache."""

    key: str
    depth: int
    data: bytes


@dataclass(frozen=True, slots=True)
class KeepNote:
    """Remember that this job's answer came from the cache."""

    job: str
    note: AnswerNote


@dataclass(frozen=True, slots=True)
class Report:
    """Something here is broken: log it."""

    error: Exception


Effect = Wanted | Send | Close | KeepAnswer | KeepNote | Report
