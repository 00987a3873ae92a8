"""The time of one job in one master's hands.

It ends in one of three ways: the job has its outcome; the lease was lost, and nothing
more is written; or the master stops and gives the job back. Writes carry the lease's
token, so that a second try of any of them, or a late one, does no harm.

A frontier that lost what it had (Redis emptied, rolled back, replaced) stops serving the
job: the crawl closes though the job has not ended. It is opened again, under a higher run,
by a new crawl, for as long as the lease is ours.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from crawlfarm.config import Config
from crawlfarm.core.backoff import Backoff
from crawlfarm.core.jobs import cache_key
from crawlfarm.core.ports import Cache, FrontierStatus, FrontierStore, LockService, ResultStore
from crawlfarm.errors import CrawlfarmError, StaleToken, Unavailable
from crawlfarm.frontier.attachment import Attachment
from crawlfarm.frontier.crawl import Crawl
from crawlfarm.frontier.exchange import Pace
from crawlfarm.wire.codec import pack
from crawlfarm.wire.lockd import Beat, Complete, Done, Fenced, Granted, Heartbeat, Release
from crawlfarm.wire.pages import Entry, Progress, StoredResult

log = Logger()

_MARGIN_S = 1.0
"""A lease is trusted this much shorter than granted: time for the last writes to arrive."""

_LOG_BATCH = 5000
_STEADY_S = 10.0
"""A crawl that lasted for so long was a good one: the next begins soon."""

_FIRST_LOOK_S, _LOOK_S = 0.3, 1.0
"""When it is looked whether workers fetch, and how often from then on."""

_OVER, _RELEASED, _FENCED = "over", "released", "fenced"

T = TypeVar("T")


class Tenure:
    """Runs one leased job.

    :param asked: monotonic time at which the lease was asked for.
    """

    def __init__(
        self,
        reactor: Any,
        config: Config,
        master: str,
        granted: Granted,
        asked: float,
        *,
        locks: LockService,
        frontier: FrontierStore,
        results: ResultStore,
        cache: Cache | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._master = master
        self._granted = granted
        self._locks = locks
        self._frontier = frontier
        self._results = results
        self._cache = cache
        self._now = now
        self._trusted_until = asked + granted.ttl_s - _MARGIN_S
        self._ending = ""
        """How it ends, once that is not for the frontier to say any more."""
        self._over: Deferred[str] = Deferred()
        self._cancelled = ""
        self._progress = Progress()
        self._crawl: Crawl | None = None
        self._pace = Pace(humble=True)
        self._by_others = 0
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._beating = LoopingCall(self._beat)
        self._beating.clock = reactor
        self._backoff = Backoff(most_s=3.0)

    async def run(self) -> str:
        """Crawl the job to its outcome; how it ended: ``completed``, ``fenced`` or ``released``."""
        granted = self._granted
        self._cancelled = granted.cancel
        self._beating.start(self._config.timings.heartbeat_s, now=False).addErrback(
            lambda f: log.failure("the heartbeat of job {job} broke", failure=f, job=granted.job)
        )
        first_look = self._reactor.callLater(_FIRST_LOOK_S, self._begin_looking)
        try:
            how = await self._run()
            if how == _RELEASED:
                await self._close()
                await self._give_up_lease()
            return how
        finally:
            if first_look.active():
                first_look.cancel()
            for repeated in (self._beating, self._looking):
                if repeated.running:
                    repeated.stop()
            await self._close()

    async def _run(self) -> str:
        try:
            return await self._crawl_and_report()
        except StaleToken as e:
            if not self._ending:
                self._fenced(str(e))
            return self._ending

    async def _crawl_and_report(self) -> str:
        granted = self._granted
        failures = 0
        while True:
            began = self._now()
            how = await self._crawl_until_over()
            if how in (_FENCED, _RELEASED):
                return how
            if how != _OVER:
                fenced = await self._complete("failed", error=("crawl_failed", how))
                return _FENCED if fenced else "completed"
            if outcome := await self._report():
                return outcome
            await self._close()
            failures = 0 if self._now() - began > _STEADY_S else failures + 1
            log.warn(
                "job {job} is not what it was in the frontier, and is opened again",
                job=granted.job,
                token=granted.token,
            )
            await deferLater(self._reactor, self._backoff.delay_s(failures))

    def cancel(self, reason: str) -> None:
        """The job's clients do not want it any more."""
        Deferred.fromCoroutine(self._cancel(reason)).addErrback(
            lambda f: log.failure("cancelling job {job} failed", failure=f, job=self._granted.job)
        )

    def give_back(self) -> None:
        """The master stops: leave the job to another, where it stands."""
        self._end(_RELEASED)

    # --- one crawl --------------------------------------------------------------------

    async def _crawl_until_over(self) -> str:
        """What came first: the end of a crawl, or of the tenure."""
        over = self._over = Deferred()
        if self._ending:
            return self._ending
        if self._cancelled:
            await self._persist(self._cancel_in_frontier)
            return _OVER
        self._crawl = self._new_crawl(over)
        closed = self._crawl.start()
        closed.addCallbacks(lambda _: _fire(over, _OVER), self._crawl_failed, errbackArgs=(over,))
        return await over

    def _new_crawl(self, over: Deferred[str]) -> Crawl:
        granted = self._granted
        attachment = Attachment(
            store=self._frontier,
            worker=self._master,
            job=(granted.job, granted.spec, granted.token),
            page_lease_s=self._config.timings.page_lease_s,
            over=lambda: _fire(over, _OVER),
            pace=self._pace,
        )
        return Crawl(self._config, attachment, granted.spec.spider)

    def _crawl_failed(self, failure: Any, over: Deferred[str]) -> None:
        job = self._granted.job
        if failure.check(Unavailable):
            log.warn("the crawl of job {job} cannot begin yet: {why}", job=job, why=failure.value)
            _fire(over, _OVER)
        elif failure.check(StaleToken):
            self._fenced(str(failure.value))
        else:
            log.failure("the crawl of job {job} could not run", failure=failure, job=job)
            _fire(over, f"the crawl could not run: {failure.getErrorMessage()}")

    async def _close(self) -> None:
        crawl, self._crawl = self._crawl, None
        if crawl is None:
            return
        try:
            await crawl.stop()
        except Exception:
            log.failure("closing the crawl of job {job} failed", job=self._granted.job)

    # --- how it ends --------------------------------------------------------------------

    def _end(self, how: str) -> None:
        self._ending = self._ending or how
        _fire(self._over, self._ending)

    def _fenced(self, why: str) -> None:
        log.warn("stopped job {job}: {why}", job=self._granted.job, token=self._granted.token, why=why)
        self._end(_FENCED)

    async def _cancel(self, reason: str) -> None:
        self._cancelled = reason
        try:
            await self._cancel_in_frontier()
        except StaleToken as e:
            self._fenced(str(e))
        except Unavailable as e:
            # The heartbeat brings the wish again.
            log.warn("job {job} cannot be cancelled yet: {error}", job=self._granted.job, error=e)
        else:
            _fire(self._over, _OVER)

    async def _cancel_in_frontier(self) -> None:
        granted = self._granted
        # The crawl may not have opened the job yet; opening twice is harmless.
        await self._frontier.open(granted.job, granted.spec, granted.token)
        await self._frontier.cancel(granted.job, granted.token, "cancelled")
        log.info("job {job} cancelled: {reason}", job=granted.job, token=granted.token, reason=self._cancelled)

    async def _beat(self) -> None:
        granted = self._granted
        sent = self._now()
        try:
            status = await self._frontier.status(granted.job)
            self._progress = status.progress if status is not None else Progress()
        except CrawlfarmError as e:
            # The lock daemon hears that we live all the same, and that nothing moves.
            log.debug("the progress of job {job} is not known: {error}", job=granted.job, error=e)
        try:
            answer = await self._locks.call(Heartbeat(self._master, granted.job, granted.token, self._progress))
        except CrawlfarmError as e:
            log.warn("no heartbeat for job {job}: {error}", job=granted.job, token=granted.token, error=e)
            if self._now() >= self._trusted_until:
                self._fenced("its lease ran out unanswered")
            return
        if isinstance(answer, Beat):
            self._trusted_until = sent + answer.ttl_s - _MARGIN_S
            if answer.cancel:
                await self._cancel(answer.cancel)
        elif isinstance(answer, Fenced):
            self._fenced("another master has it")

    def _begin_looking(self) -> None:
        self._looking.start(_LOOK_S).addErrback(
            lambda f: log.failure("it is not known who fetches job {job}", failure=f, job=self._granted.job)
        )

    async def _look(self) -> None:
        """Leave the pages to the workers, where there are some: a master has jobs to look after."""
        try:
            status = await self._frontier.status(self._granted.job)
        except CrawlfarmError:
            return
        if status is None:
            return
        by_others = status.progress.fetched + status.progress.failed - self._pace.finished
        self._pace.humble = by_others > self._by_others
        self._by_others = by_others

    async def _report(self) -> str:
        """Write what was found, then make the outcome final.

        How the tenure ended; empty when the job has not ended, or is not whole any more.
        """
        granted = self._granted
        status = await self._persist(lambda: self._frontier.status(granted.job))
        if status is None or status.state == "running" or not await self._keep(status):
            return ""
        if await self._complete(status.state, status):
            return _FENCED
        try:
            await self._frontier.forget(granted.job, granted.token)
        except CrawlfarmError as e:
            log.warn("what the frontier holds of job {job} stays there: {error}", job=granted.job, error=e)
        return "completed"

    async def _keep(self, status: FrontierStatus) -> bool:
        """Store the result; false when the frontier lost a part of it meanwhile."""
        granted = self._granted
        entries: list[Entry] = []
        while True:
            piece = await self._persist(lambda: self._frontier.events(granted.job, len(entries), _LOG_BATCH))
            if piece is None or (piece.run, piece.state) != (status.run, status.state):
                return False
            entries.extend(piece.entries)
            if len(piece.entries) < _LOG_BATCH:
                break
        result = StoredResult(
            url=granted.spec.url,
            depth=granted.spec.depth,
            outcome=status.state,
            run=status.run,
            receipt=status.receipt,
            log=entries,
        )
        data = pack(result)
        await self._persist(
            lambda: self._results.put(granted.job, granted.token, data, self._config.timings.result_ttl_s)
        )
        if self._cache is not None and status.state == "done" and status.receipt.complete:
            # Before the job has its outcome: who asks the same then finds the answer.
            await self._cache.put(cache_key(granted.spec), granted.spec.depth, data)
        return True

    async def _complete(
        self, outcome: str, status: FrontierStatus | None = None, error: tuple[str, str] = ("", "")
    ) -> bool:
        """True if the lease had been lost."""
        granted = self._granted
        answer = await self._persist(
            lambda: self._locks.call(
                Complete(
                    master=self._master,
                    job=granted.job,
                    token=granted.token,
                    outcome=outcome,
                    receipt=status.receipt if status is not None else None,
                    error_code=error[0],
                    error_message=error[1],
                )
            )
        )
        if isinstance(answer, Done):
            log.info("job {job} is {outcome}", job=granted.job, token=granted.token, outcome=outcome)
        return not isinstance(answer, Done)

    async def _give_up_lease(self) -> None:
        granted = self._granted
        try:
            await self._locks.call(Release(self._master, granted.job, granted.token))
        except CrawlfarmError as e:
            log.warn("job {job} could not be given back: {error}", job=granted.job, error=e)

    async def _persist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Try until it is done.

        :raises StaleToken: the lease is not ours any more, or is to be given back.
        """
        for attempt in range(1 << 30):
            try:
                return await work()
            except Unavailable as e:
                if self._ending or self._now() >= self._trusted_until:
                    raise StaleToken(f"the lease ran out while waiting: {e}") from e
                await deferLater(self._reactor, 0.05 + self._backoff.delay_s(attempt))
        raise AssertionError("unreachable")


def _fire(over: Deferred[str], how: str) -> None:
    if not over.called:
        over.callback(how)
