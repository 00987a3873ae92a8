"""A job as its client follows it: each log entry once and in order, and then the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred, fail, succeed

from crawlfarm.errors import CrawlfarmError
from crawlfarm.wire.client import (
    Cancelled,
    Failed,
    JobProgress,
    PageLinked,
    PageMoved,
    Pages,
    Reply,
    Result,
    Rewound,
    Submit,
    Terminal,
    cursor,
    parse_cursor,
)


class Job:
    """One job as its client follows it; made by :meth:`Client.submit <crawlfarm.client.Client.submit>`
    and ``attach``.

    :ivar id: the farm's name for it.
    :ivar submit: what it was submitted with; ``None`` for one only followed.
    :ivar ready: fires once it is accepted, or the first message about it came.
    :ivar end: the last message, once it is there.
    :ivar behind: entries it has not seen were sent to others; until they come for it too,
        what follows them is not for it.
    """

    def __init__(
        self,
        cancel: Callable[[str], Deferred[Terminal]],
        submit: Submit | None,
        *,
        now: float,
        stream: bool,
        id: str = "",
        after: str = "0.0",
    ) -> None:
        self.id = id
        self.stream = stream
        self.submit = submit
        self.began = now
        self.ready: Deferred[Job] = Deferred()
        self.end: Terminal | None = None
        self.behind = False
        self._cancel = cancel
        self._at = parse_cursor(after)
        self._replies: deque[Reply] = deque()
        self._waiting: list[Deferred[Reply | None]] = []
        self._error: CrawlfarmError | None = None

    def __aiter__(self) -> Job:
        return self

    async def __anext__(self) -> Reply:
        reply = await self.next()
        if reply is None:
            raise StopAsyncIteration
        return reply

    def next(self) -> Deferred[Reply | None]:
        """The next message about this job, ``None`` after the last; one call at a time.

        :raises ConnectionGone: the connection did not come back in time.
        """
        if self._replies:
            return succeed(self._replies.popleft())
        if self._error is not None:
            return fail(self._error)
        if self.end is not None:
            return succeed(None)
        waiting: Deferred[Reply | None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def cancel(self) -> Deferred[Terminal]:
        """End the job, for this client; fires with how it ended."""
        return succeed(self.end) if self.end is not None else self._cancel(self.id)

    @property
    def cursor(self) -> str:
        """The last log entry seen."""
        return cursor(*self._at)

    # --- for the client ------------------------------------------------------------

    def named(self, id: str) -> None:
        """It was accepted; under another id than before, it is told from its beginning."""
        if self.id and self.id != id and self._at != (0, 0):
            self._at = (0, 0)
            self._deliver(Rewound(id, 0))
        self.id = id
        self._is_ready()

    def take(self, reply: Reply) -> bool:
        """A message about this job; false where entries before it are missing."""
        self._is_ready()
        match reply:
            case Pages() | PageMoved() | PageLinked() | Rewound() if not self.stream:
                pass  # for another job of this client, that is the same one
            case Pages():
                run, first = parse_cursor(reply.first)
                last = parse_cursor(reply.last)[1]
                seen = self._seen(run, first)
                if not self.behind and seen < last:
                    self._at = (run, last)
                    fresh = reply.pages[seen + 1 - first :]
                    self._deliver(Pages(reply.job, cursor(run, seen + 1), reply.last, fresh))
            case PageMoved() | PageLinked():
                run, seq = parse_cursor(reply.at)
                seen = self._seen(run, seq)
                if not self.behind and seen < seq:
                    self._at = (run, seq)
                    self._deliver(reply)
            case Rewound():
                self._at, self.behind = (reply.run, 0), False
                self._deliver(reply)
            case JobProgress():
                if self._replies and isinstance(self._replies[-1], JobProgress):
                    self._replies.pop()
                self._deliver(reply)
            case Result() | Failed() | Cancelled() if not self.behind:
                self.end = reply
                self._deliver(reply)
        return not self.behind

    def fail(self, error: CrawlfarmError) -> None:
        if not self.ready.called:
            self._error = error
            self.ready.errback(error)
        elif self.end is None and self._error is None:
            self._error = error
            while self._waiting:
                self._waiting.pop(0).errback(error)

    def _seen(self, run: int, seq: int) -> int:
        """How far the log of ``run`` was seen when its entry ``seq`` comes."""
        seen = self._at[1] if self._at[0] == run else 0
        self.behind = seq > seen + 1
        return seen

    def _deliver(self, reply: Reply) -> None:
        if self._waiting:
            self._waiting.pop(0).callback(reply)
        else:
            self._replies.append(reply)

    def _is_ready(self) -> None:
        if not self.ready.called:
            self.ready.callback(self)
