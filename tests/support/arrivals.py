"""What a test was called with, and a way to wait for it."""

from __future__ import annotations

from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class Arrivals(Generic[T]):
    """What was delivered, and a way to wait for the n-th."""

    def __init__(self) -> None:
        self.all: list[T] = []
        self._waiting: list[tuple[int, Deferred[list[T]]]] = []

    def __call__(self, what: T) -> None:
        self.all.append(what)
        for count, waiting in list(self._waiting):
            if count <= len(self.all):
                self._waiting.remove((count, waiting))
                waiting.callback(self.all)

    def count(self, count: int) -> Deferred[list[T]]:
        """Fires when there are that many."""
        waiting: Deferred[list[T]] = Deferred()
        if count <= len(self.all):
            waiting.callback(self.all)
        else:
            self._waiting.append((count, waiting))
        return waiting
