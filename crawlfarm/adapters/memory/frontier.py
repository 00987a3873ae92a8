"""The embedded frontier: the model of :mod:`crawlfarm.core.frontier`, with a clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from crawlfarm.core.frontier import FrontierModel
from crawlfarm.core.ports import Exchanged, Finish, FrontierStatus, LeaseRef, LogSlice, Opened
from crawlfarm.wire.jobs import JobSpec

T = TypeVar("T")
log = Logger()


class MemoryFrontier:
    """A ``FrontierStore`` for one process; what is in it goes with the process.

    :param reactor: only to tell watchers, and to reap, in another turn of the reactor.
    :param now: seconds on a clock that never goes back.
    """

    def __init__(
        self, reactor: IReactorTime, model: FrontierModel, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._reactor = reactor
        self._model = model
        self._now = now
        self._watchers: set[Callable[[], None]] = set()
        self._told: Any = None

    def open(self, job: str, spec: JobSpec, token: int) -> Deferred[Opened]:
        return self._changing(self._model.open, job, spec, token)

    def exchange(
        self,
        worker: str,
        finished: Sequence[Finish],
        want: int,
        jobs: Collection[str] | None = None,
        spiders: Collection[str] | None = None,
    ) -> Deferred[Exchanged]:
        if finished:
            return self._changing(self._model.exchange, worker, finished, want, jobs, spiders)
        return self._reading(self._model.exchange, worker, finished, want, jobs, spiders)

    def extend(self, worker: str, leases: Sequence[LeaseRef]) -> Deferred[list[bool]]:
        return self._reading(self._model.extend, worker, leases)

    def release(self, worker: str, leases: Sequence[LeaseRef]) -> Deferred[int]:
        return self._changing(self._model.release, worker, leases)

    def reap(self) -> Deferred[int]:
        reaped = self._reading(self._model.reap)
        reaped.addCallback(self._tell_if_any)
        return reaped

    def cancel(self, job: str, token: int, reason: str) -> Deferred[bool]:
        return self._changing(self._model.cancel, job, token, reason)

    def forget(self, job: str, token: int) -> Deferred[None]:
        return self._changing(self._model.forget, job, token)

    def events(self, job: str, after: int, limit: int = 1000) -> Deferred[LogSlice | None]:
        return self._reading(self._model.events, job, after, limit)

    def status(self, job: str) -> Deferred[FrontierStatus | None]:
        return self._reading(self._model.status, job)

    def audit(self, job: str) -> Deferred[list[str]]:
        return self._reading(self._model.audit, job)

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        self._watchers.add(wake)
        return lambda: self._watchers.discard(wake)

    def _reading(self, call: Callable[..., T], *args: Any) -> Deferred[T]:
        return execute(call, self._now(), *args)

    def _changing(self, call: Callable[..., T], *args: Any) -> Deferred[T]:
        self._tell()
        return self._reading(call, *args)

    def _tell_if_any(self, reaped: int) -> int:
        if reaped:
            self._tell()
        return reaped

    def _tell(self) -> None:
        """Wake the watchers in the next turn, once however much changed in this one."""
        if self._told is None and self._watchers:
            self._told = self._reactor.callLater(0, self._wake)

    def _wake(self) -> None:
        self._told = None
        for wake in list(self._watchers):
            try:
                wake()
            except Exception:
                log.failure("a watcher of the frontier failed")
