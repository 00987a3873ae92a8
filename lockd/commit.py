"""Group commit: one commit at a time, and whatever is decided meanwhile goes into the next.

Invariant: an answer leaves after the commit of everything decided before it, whether it
changed something itself or only read what others had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from lockd.rows import Changes

T = TypeVar("T")


class Batch:
    """Changes, and the answers that wait for their commit."""

    __slots__ = ("changes", "waiting")

    def __init__(self) -> None:
        self.changes = Changes()
        self.waiting: list[Callable[[Exception | None], None]] = []

    def settle(self, error: Exception | None = None) -> None:
        """Let the answers go, or fail them all."""
        waiting, self.waiting = self.waiting, []
        for leave in waiting:
            leave(error)


class GroupCommit:
    """Commits batches with ``write``, one after the other.

    :param write: commits changes under a number; fails when it may not have.
    :param committed: called after each commit, before the answers leave; also at once
        for a batch that has effects but nothing to write.
    :param lost: called with the batch whose commit failed, and its number. From then on
        nothing is committed until :meth:`restart`.
    """

    def __init__(
        self,
        write: Callable[[Changes, int], Deferred[None]],
        committed: Callable[[Changes], None],
        lost: Callable[[Batch, int, Failure], None],
    ) -> None:
        self._write = write
        self._committed = committed
        self._lost = lost
        self._open = Batch()
        self._flying: Batch | None = None
        self._stopped = True
        self._number = 0
        self._idle: list[Deferred[None]] = []
        self.commits = 0
        """How many there were."""

    @property
    def changes(self) -> Changes:
        """The open batch's: what a decision adds to."""
        return self._open.changes

    def restart(self, number: int) -> None:
        """Go on with the commit after ``number``."""
        self._number = number
        self._stopped = False
        self.flush()

    def abandon(self, error: Exception) -> None:
        """Drop the open batch: it was decided upon something that may not be."""
        batch, self._open = self._open, Batch()
        batch.settle(error)

    def after(self, answer: T) -> Deferred[T]:
        """Fires with ``answer`` once all decided so far is committed."""
        batch = self._open if self._open.changes.waited_for else self._flying
        if batch is None:
            self.flush()  # there may be effects
            return succeed(answer)
        leaving: Deferred[T] = Deferred()

        def leave(error: Exception | None) -> None:
            if error is None:
                leaving.callback(answer)
            else:
                leaving.errback(error)

        batch.waiting.append(leave)
        self.flush()
        return leaving

    def flush(self, progress: bool = False) -> None:
        """Start a commit if there is cause and none is under way."""
        if self._stopped or self._flying is not None:
            return
        changes = self._open.changes
        if changes.waited_for or (progress and changes.progress):
            batch, self._open = self._open, Batch()
            self._flying = batch
            self._write(changes, self._number + 1).addCallbacks(
                lambda _: self._landed(batch), lambda failure: self._failed(batch, failure)
            )
        elif changes.effects:
            self._open.changes = Changes()
            self._open.changes.progress = changes.progress
            self._committed(changes)

    def idle(self) -> Deferred[None]:
        """Fires when everything decided so far is committed, or given up."""
        self.flush(progress=True)
        if self._flying is None:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._idle.append(waiting)
        return waiting

    def _landed(self, batch: Batch) -> None:
        self._flying = None
        self._number += 1
        self.commits += 1
        self.flush()  # the next commit runs while the answers leave
        self._committed(batch.changes)
        batch.settle()
        self._rest()

    def _failed(self, batch: Batch, failure: Failure) -> None:
        self._flying = None
        self._stopped = True
        self._lost(batch, self._number + 1, failure)
        self._rest()

    def _rest(self) -> None:
        if self._idle:
            self.flush(progress=True)
        if self._flying is None:
            waiting, self._idle = self._idle, []
            for d in waiting:
                d.callback(None)
