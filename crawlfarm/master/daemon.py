"""The master: takes jobs as it has slots for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from crawlfarm.config import Config
from crawlfarm.core.backoff import Backoff
from crawlfarm.core.ports import Cache, Delivery, FrontierStore, JobQueue, LockService, ResultStore
from crawlfarm.errors import CrawlfarmError
from crawlfarm.master.tenure import Tenure
from crawlfarm.wire.lockd import Acquire, CancelWanted, Granted, Release

log = Logger()

_REAP_EVERY_S = 1.0


class Master:
    """Runs up to ``config.slots`` jobs at a time.

    It holds no delivery it has no slot for: when full it stops consuming, and a straggler
    goes back at once. A delivery is acknowledged when its lease is committed, or when the
    lock daemon says that there is nothing to do for it.

    :param name: unique in the farm.
    """

    def __init__(
        self,
        reactor: Any,
        config: Config,
        name: str,
        *,
        locks: LockService,
        queue: JobQueue,
        frontier: FrontierStore,
        results: ResultStore,
        cache: Cache | None = None,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self.name = name
        self._locks = locks
        self._queue = queue
        self._frontier = frontier
        self._results = results
        self._cache = cache
        self._tenures: dict[str, Tenure] = {}
        self._running: list[Deferred[Any]] = []
        self._asking: list[Deferred[Any]] = []
        self._failures = 0
        self._pausing: Any = None
        self._backoff = Backoff()
        self._cancel_consumer: Callable[[], None] | None = None
        self._unwatch: Callable[[], None] = lambda: None
        self._stopping = False
        self._reaping = LoopingCall(self._reap)
        self._reaping.clock = reactor

    @property
    def jobs(self) -> int:
        """How many it runs now."""
        return len(self._running)

    def start(self) -> None:
        self._unwatch = self._locks.watch(self.name, self._cancel_wanted)
        self._reaping.start(_REAP_EVERY_S, now=False)
        self._adjust()

    async def stop(self) -> None:
        """Give every job back and wait until that is done."""
        self._stopping = True
        self._adjust()
        self._unwatch()
        if self._reaping.running:
            self._reaping.stop()
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        for tenure in list(self._tenures.values()):
            tenure.give_back()
        await DeferredList(list(self._asking), consumeErrors=True)
        await DeferredList(list(self._running), consumeErrors=True)

    # --- inside ---------------------------------------------------------------------

    @property
    def _free(self) -> int:
        return self._config.slots - len(self._running) - len(self._asking)

    def _adjust(self) -> None:
        """Consume while there is a free slot, and only then."""
        wants = self._free > 0 and not self._stopping and self._pausing is None
        if wants and self._cancel_consumer is None:
            self._cancel_consumer = self._queue.consume(self._delivered)
        elif not wants and self._cancel_consumer is not None:
            cancel, self._cancel_consumer = self._cancel_consumer, None
            cancel()

    def _delivered(self, delivery: Delivery) -> None:
        if self._free <= 0 or self._stopping or self._pausing is not None:
            delivery.requeue()
            return
        answered: Deferred[None] = Deferred()
        self._asking.append(answered)
        self._adjust()
        asking = Deferred.fromCoroutine(self._ask(delivery))
        asking.addErrback(lambda f: log.failure("taking job {job} failed", failure=f, job=delivery.message.job))
        asking.addBoth(self._asked, answered)

    def _asked(self, _: Any, answered: Deferred[None]) -> None:
        self._asking.remove(answered)
        answered.callback(None)
        self._adjust()

    async def _ask(self, delivery: Delivery) -> None:
        job = delivery.message.job
        asked = time.monotonic()
        try:
            answer = await self._locks.call(Acquire(self.name, job))
        except CrawlfarmError as e:
            delivery.requeue()
            self._pause(job, e)
            return
        self._failures = 0
        if not isinstance(answer, Granted):
            delivery.ack()  # leased, ended or unknown: nothing to do for this message
        elif answer.job == job:
            delivery.ack()
            await self._take(answer, asked)
        else:
            delivery.requeue()  # an overdue job goes first; ours waits for the next slot
            await self._take(answer, asked)

    def _pause(self, job: str, error: CrawlfarmError) -> None:
        """Nobody grants leases now: take nothing until the next try."""
        log.warn("job {job} cannot be leased now: {error}", job=job, error=error)
        if self._pausing is None and not self._stopping:
            delay_s = 0.05 + self._backoff.delay_s(self._failures)
            self._failures += 1
            self._pausing = self._reactor.callLater(delay_s, self._resume)
        self._adjust()

    def _resume(self) -> None:
        self._pausing = None
        self._adjust()

    async def _take(self, granted: Granted, asked: float) -> None:
        if granted.job in self._tenures or self._stopping:
            await self._locks.call(Release(self.name, granted.job, granted.token))
            return
        log.info("job {job} begins", job=granted.job, token=granted.token, attempt=granted.attempt, master=self.name)
        tenure = Tenure(
            self._reactor,
            self._config,
            self.name,
            granted,
            asked,
            locks=self._locks,
            frontier=self._frontier,
            results=self._results,
            cache=self._cache,
        )
        self._tenures[granted.job] = tenure
        running = Deferred.fromCoroutine(tenure.run())
        self._running.append(running)
        running.addErrback(lambda f: log.failure("job {job} broke", failure=f, job=granted.job))
        running.addBoth(self._ended, granted.job, running)

    def _ended(self, how: Any, job: str, running: Deferred[Any]) -> None:
        log.info("job {job} is out of our hands: {how}", job=job, how=how, master=self.name)
        self._tenures.pop(job, None)
        self._running.remove(running)
        self._adjust()

    def _cancel_wanted(self, notice: CancelWanted) -> None:
        tenure = self._tenures.get(notice.job)
        if tenure is not None:
            tenure.cancel(notice.reason)

    async def _reap(self) -> None:
        try:
            await self._frontier.reap()
        except CrawlfarmError as e:
            log.debug("expired pages were not collected: {error}", error=e)
