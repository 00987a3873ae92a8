"""The embedded frontier: the model of :mod:`crawlfarm.core.frontier`, with a clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, execute
from twisted.logger import Logger

from crawlfarm.core.frontier import FrontierModel
from crawlfarm.core.ports import Exchanged, Finish, FrontierStatus, LeaseRef, LogSlice, Opened
from crawlfarm.wire.jobs import JobSpec

T = TypeVar("T")
log = Logger()


class MemoryFrontier:
    """A ``FrontierStore`` for one process; what is in it goes with the process.

    :param reactor: an ``IReactorTime``, only to tell watchers in another turn of the reactor.
    :param now: seconds on a clock that never goes back.
    """

    def __init__(self, reactor: Any, model: FrontierModel, now: Callable[[], float] = time.monotonic) -> None:
        self._reactor = reactor
        self._model = model
        self._now = now
        self._watchers: dict[object, Callable[[], None]] = {}
        self._told = model.changes
        self._telling = False

    def open(self, job: str, spec: JobSpec, token: int) -> Deferred[Opened]:
        return self._call(self._model.open, job, spec, token)

    def exchange(
        self,
        worker: str,
        finished: Sequence[Finish],
        want: int,
        jobs: Collection[str] | None = None,
        spiders: Collection[str] | None = None,
    ) -> Deferred[Exchanged]:
        return self._call(self._model.exchange, worker, finished, want, jobs, spiders)

    def extend(self, worker: str, leases: Sequence[LeaseRef]) -> Deferred[list[bool]]:
        return self._call(self._model.extend, worker, leases)

    def release(self, worker: str, leases: Sequence[LeaseRef]) -> Deferred[int]:
        return self._call(self._model.release, worker, leases)

    def reap(self) -> Deferred[int]:
        return self._call(self._model.reap)

    def cancel(self, job: str, token: int, reason: str) -> Deferred[bool]:
        return self._call(self._model.cancel, job, token, reason)

    def forget(self, job: str, token: int) -> Deferred[None]:
        return self._call(self._model.forget, job, token)

    def events(self, job: str, after: int, limit: int = 1000) -> Deferred[LogSlice | None]:
        return self._call(self._model.events, job, after, limit)

    def status(self, job: str) -> Deferred[FrontierStatus | None]:
        return self._call(self._model.status, job)

    def audit(self, job: str) -> Deferred[list[str]]:
        return self._call(self._model.audit, job)

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        watcher = object()
        self._watchers[watcher] = wake

        def stop() -> None:
            self._watchers.pop(watcher, None)

        return stop

    def _call(self, call: Callable[..., T], *args: Any) -> Deferred[T]:
        answer = execute(call, self._now(), *args)
        if self._model.changes != self._told:
            self._told = self._model.changes
            self._tell()
        return answer

    def _tell(self) -> None:
        """Wake the watchers in the next turn, once however much changed in this one."""
        if self._watchers and not self._telling:
            self._telling = True
            self._reactor.callLater(0, self._wake)

    def _wake(self) -> None:
        self._telling = False
        for watcher in list(self._watchers):
            # One may stop another, or itself.
            wake = self._watchers.get(watcher)
            try:
                if wake is not None:
                    wake()
            except Exception:
                log.failure("a watcher of the frontier failed")
