"""A frontier that tells the test what is called, and can be slow, cut off or without pages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from crawlfarm.core.ports import Exchanged, Finish, FrontierStore, LeaseRef, PageLease
from crawlfarm.errors import Unavailable


class SpyFrontier:
    """``store`` as one process sees it; give each consumer its own.

    :ivar finishes: the pages handed in and acknowledged, with the verdict, in their order.
    :ivar refused: the pages handed in while it was cut off.
    :ivar leases: the pages taken.
    :ivar calls_under_way: exchanges that have not been answered yet.
    :ivar delay_s: how long each exchange takes.
    :ivar cut: it does not answer any more.
    :ivar dry: it has no pages.
    """

    def __init__(self, store: FrontierStore, told: Callable[[str, str], None] = lambda what, url: None) -> None:
        self._store = store
        self._told = told
        self.finishes: list[tuple[Finish, str]] = []
        self.refused: list[Finish] = []
        self.leases: list[PageLease] = []
        self.extensions = 0
        self.released: list[LeaseRef] = []
        self.exchanges = 0
        self.calls_under_way = 0
        self.delay_s = 0.0
        self.cut = False
        self.dry = False
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []
        self._wakes: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def when(self, happened: Callable[[], bool]) -> Deferred[None]:
        """Fires after the first call from now on after which ``happened()``."""
        d: Deferred[None] = Deferred()
        self._waiting.append((happened, d))
        self._check()
        return d

    def finished(self, url: str) -> Deferred[None]:
        """Fires when the page has been finished through this frontier."""
        return self.when(lambda: any(f.ref.url == url for f, _ in self.finishes))

    def wake(self) -> None:
        for wake in self._wakes:
            wake()

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        self._wakes.append(wake)
        return self._store.watch(wake)

    def exchange(
        self,
        worker: str,
        finished: Sequence[Finish],
        want: int,
        jobs: Collection[str] | None = None,
        spiders: Collection[str] | None = None,
    ) -> Deferred[Exchanged]:
        return Deferred.fromCoroutine(self._exchange(worker, finished, want, jobs, spiders))

    async def _exchange(self, worker: str, finished: Sequence[Finish], want: int, *which: Any) -> Exchanged:
        if self.cut:
            self.refused += finished
            self._check()
        self._refuse_if_cut()
        self.exchanges += 1
        self.calls_under_way += 1
        try:
            answer = await self._store.exchange(worker, finished, 0 if self.dry else want, *which)
            if self.delay_s:
                await deferLater(reactor, self.delay_s)
        finally:
            self.calls_under_way -= 1
        for finish, verdict in zip(finished, answer.verdicts, strict=True):
            self.finishes.append((finish, verdict))
            self._told("finish", finish.ref.url)
        self.leases += answer.leases
        self._check()
        return answer

    async def _extend(self, worker: str, leases: Sequence[LeaseRef]) -> list[bool]:
        self._refuse_if_cut()
        kept = await self._store.extend(worker, leases)
        self.extensions += 1
        self._check()
        return kept

    def extend(self, worker: str, leases: Sequence[LeaseRef]) -> Deferred[list[bool]]:
        return Deferred.fromCoroutine(self._extend(worker, leases))

    def release(self, worker: str, leases: Sequence[LeaseRef]) -> Any:
        self._refuse_if_cut()
        self.released += leases
        return self._store.release(worker, leases)

    def _refuse_if_cut(self) -> None:
        if self.cut:
            raise Unavailable("cut off")

    def _check(self) -> None:
        for waiting in [w for w in self._waiting if w[0]()]:
            self._waiting.remove(waiting)
            waiting[1].callback(None)
