"""The time of one job in one master's hands.

It ends in one of three ways: the job has its outcome; the lease was lost, and nothing
more is written; or the master stops and gives the job back. Writes carry the lease's
token, so that a second try of any of them, or a late one, does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from crawlfarm.config import Config
from crawlfarm.core.backoff import Backoff
from crawlfarm.core.ports import FrontierStatus, FrontierStore, LockService, ResultStore
from crawlfarm.errors import CrawlfarmError, StaleToken, Unavailable
from crawlfarm.frontier.crawl import Crawl
from crawlfarm.frontier.scheduler import Attachment
from crawlfarm.wire.codec import pack
from crawlfarm.wire.lockd import Beat, Complete, Done, Fenced, Granted, Heartbeat, Release
from crawlfarm.wire.pages import Entry, Progress, StoredResult

log = Logger()

_MARGIN_S = 1.0
"""A lease is trusted this much shorter than granted: time for the last writes to arrive."""

_LOG_BATCH = 5000


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
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._master = master
        self._granted = granted
        self._locks = locks
        self._frontier = frontier
        self._results = results
        self._now = now
        self._trusted_until = asked + granted.ttl_s - _MARGIN_S
        self._over: Deferred[str] = Deferred()
        self._crawl = Crawl(
            config,
            Attachment(
                store=frontier,
                worker=master,
                job=(granted.job, granted.spec, granted.token),
                page_lease_s=config.timings.page_lease_s,
                over=lambda: self._end("over"),
            ),
            granted.spec.spider,
        )
        self._beating = LoopingCall(self._beat)
        self._beating.clock = reactor
        self._backoff = Backoff()

    async def run(self) -> str:
        """Crawl the job to its outcome.

        How it ended: ``completed``, ``fenced``, ``released``, or ``abandoned``: the crawl
        closed without an end, and the lease is left to run out, at the cost of an attempt.
        """
        granted = self._granted
        closed = self._crawl.start()
        closed.addCallbacks(lambda _: self._end("over"), self._crawl_failed)
        self._beating.start(self._config.timings.heartbeat_s, now=False)
        if granted.cancel:
            await self._cancel(granted.cancel)
        try:
            how = await self._over
            if how == "over":
                how = await self._report()
            elif how == "released":
                await self._close()
                await self._call(Release(self._master, granted.job, granted.token))
            elif how != "fenced":
                await self._complete("failed", error=("crawl_failed", how))
                how = "completed"
        finally:
            if self._beating.running:
                self._beating.stop()
        await self._close()
        return how

    def cancel(self, reason: str) -> None:
        """The job's clients do not want it any more."""
        Deferred.fromCoroutine(self._cancel(reason)).addErrback(
            lambda f: log.failure("cancelling job {job} failed", failure=f, job=self._granted.job)
        )

    def give_back(self) -> None:
        """The master stops: leave the job to another, where it stands."""
        self._end("released")

    # --- inside ---------------------------------------------------------------------

    def _end(self, how: str) -> None:
        if not self._over.called:
            self._over.callback(how)

    def _crawl_failed(self, failure: Any) -> None:
        log.failure("the crawl of job {job} could not run", failure=failure, job=self._granted.job)
        self._end(f"the crawl could not run: {failure.getErrorMessage()}")

    async def _close(self) -> None:
        try:
            await self._crawl.stop()
        except Exception:
            log.failure("closing the crawl of job {job} failed", job=self._granted.job)

    async def _cancel(self, reason: str) -> None:
        granted = self._granted
        # The crawl may not have opened the job yet; opening twice is harmless.
        await self._frontier.open(granted.job, granted.spec, granted.token)
        await self._frontier.cancel(granted.job, granted.token, "cancelled")
        log.info("job {job} cancelled: {reason}", job=granted.job, token=granted.token, reason=reason)
        self._end("over")

    async def _beat(self) -> None:
        granted = self._granted
        sent = self._now()
        try:
            status = await self._frontier.status(granted.job)
            progress = status.progress if status is not None else Progress()
            answer = await self._locks.call(Heartbeat(self._master, granted.job, granted.token, progress))
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

    def _fenced(self, why: str) -> None:
        log.warn("stopped job {job}: {why}", job=self._granted.job, token=self._granted.token, why=why)
        self._end("fenced")

    async def _report(self) -> str:
        """Write what was found, then make the outcome final."""
        granted = self._granted
        status = await self._frontier.status(granted.job)
        if status is None or status.state == "running":
            return "abandoned"
        try:
            await self._keep(status)
            fenced = await self._complete(status.state, status)
        except StaleToken as e:
            self._fenced(str(e))
            return "fenced"
        if fenced:
            return "fenced"
        await self._frontier.forget(granted.job, granted.token)
        return "completed"

    async def _keep(self, status: FrontierStatus) -> None:
        granted = self._granted
        entries: list[Entry] = []
        while piece := await self._frontier.events(granted.job, len(entries), _LOG_BATCH):
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

    async def _call(self, command: Release) -> None:
        try:
            await self._locks.call(command)
        except CrawlfarmError as e:
            log.warn("job {job} could not be given back: {error}", job=command.job, error=e)

    async def _persist(self, write: Callable[[], Any]) -> Any:
        """Try a write until it is taken or the lease is not ours any more."""
        for attempt in range(1 << 30):
            try:
                return await write()
            except Unavailable as e:
                if self._now() >= self._trusted_until:
                    raise StaleToken(f"the lease ran out while writing: {e}") from e
                await deferLater(self._reactor, 0.05 + self._backoff.delay_s(attempt))
        raise AssertionError("unreachable")
