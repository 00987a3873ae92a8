"""A database whose commits a test holds in its hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail

from crawlfarm.adapters.sql.database import Connection
from crawlfarm.errors import Unavailable

T = TypeVar("T")


class Shaky:
    """Mixed into a database: its commits can be held back, or fail before or after they took place."""

    fails_before = 0
    fails_after = 0
    held: list[Callable[[], None]] | None = None

    def run(self: Any, work: Callable[[Connection], T]) -> Deferred[T]:
        if self.held is not None:
            waiting: Deferred[T] = Deferred()
            self.held.append(lambda: self._now(work).chainDeferred(waiting))
            return waiting
        return self._now(work)

    def let_go(self: Any) -> None:
        held, self.held = self.held, None
        for start in held or []:
            start()

    def _now(self: Any, work: Callable[[Connection], T]) -> Deferred[T]:
        if self.fails_before:
            self.fails_before -= 1
            return fail(Unavailable("on purpose, before the commit"))
        done = super().run(work)
        if self.fails_after:
            self.fails_after -= 1

            def lose(_: T) -> T:
                raise Unavailable("on purpose, after the commit")

            done.addCallback(lose)
        return done
