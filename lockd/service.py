"""The lock daemon as others in its process see it.

Decisions are made at once, on the reactor's thread; answers leave after their commit.
Invariant: whenever a commit may have failed, the table is read again before anything
else is decided, so that memory never knows what the database does not.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from crawlfarm.adapters.sql.database import Database
from crawlfarm.config import Timings
from crawlfarm.core.backoff import Backoff
from crawlfarm.core.ports import JobQueue
from crawlfarm.errors import CrawlfarmError, Unavailable
from crawlfarm.wire import lockd
from crawlfarm.wire.queue import JobEnded, JobQueued
from lockd.commit import Batch, GroupCommit
from lockd.rows import Changes, Moment, Snapshot
from lockd.store import JobStore
from lockd.table import Table

TICK_S = 0.5
"""How often time alone is looked at, and progress written."""

_RETRY = Backoff(first_s=0.2, most_s=5.0)
_DID_NOT = "the lock daemon could not write: what was asked did not happen"
_CANNOT_TELL = "the lock daemon could not write, or cannot tell: ask again"


class LockDaemon:
    """:class:`~crawlfarm.core.ports.LockService` over a database.

    It is the only one that works on it (:meth:`~crawlfarm.adapters.sql.database.Database.claim`).
    At its start the leases of the one before are void where the database is embedded, for
    their masters were in that process. Otherwise they go on: tokens stay valid, and each
    has its whole time once more. While the database is away every call fails with
    :class:`~crawlfarm.errors.Unavailable`.

    :param reactor: an ``IReactorTime``.
    :param database: open, and closed by its owner after :meth:`stop`.
    :param queue: where jobs are published again, and every end of a job is announced.
    :param now: monotonic seconds: what leases are measured by.
    :param wall: seconds on the wall clock: when ended jobs are dropped, nothing else.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        database: Database,
        queue: JobQueue,
        timings: Timings,
        max_attempts: int,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._database = database
        self._store = JobStore(database)
        self._queue = queue
        self._timings = timings
        self._max_attempts = max_attempts
        self._now = now
        self._wall = wall
        self._table = Table(timings, max_attempts)
        self._commits = GroupCommit(self._store.write, self._committed, self._lost)
        self._ready = False
        self._closing = False
        self._recovery: Deferred[None] = succeed(None)
        self._pause: Deferred[None] | None = None
        self._watchers: dict[str, dict[object, Callable[[lockd.CancelWanted], None]]] = {}
        self._unannounced: list[str] = []
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = reactor

    @property
    def commits(self) -> int:
        """How many there were: what many commands share."""
        return self._commits.commits

    @property
    def jobs(self) -> dict[str, int]:
        """How many there are in each state; ended ones until they are dropped."""
        return dict(Counter(row.state for row in self._table.rows()))

    def start(self) -> Deferred[None]:
        """Read the table, and publish every queued job.

        :raises ConfigError: another lock daemon works on this database.
        :raises Unavailable: the database failed.
        """
        return Deferred.fromCoroutine(self._start())

    def stop(self) -> Deferred[None]:
        """Decide nothing more; fires when all that was decided is committed."""
        return Deferred.fromCoroutine(self._stop())

    def call(self, command: lockd.Command) -> Deferred[lockd.Answer]:
        if not self._ready:
            why = "is stopping" if self._closing else "has lost its database for the moment"
            return fail(Unavailable(f"the lock daemon {why}"))
        try:
            answer = self._table.apply(command, self._moment(), self._commits.changes)
        except Exception:
            self._log.failure("{command} of job {job} failed", command=type(command).__name__, job=command.job)
            return fail()
        if isinstance(command, lockd.Heartbeat):
            # It promises nothing that a restart could break.
            self._commits.flush()
            return succeed(answer)
        return self._commits.after(answer)

    def watch(self, master: str, notice: Callable[[lockd.CancelWanted], None]) -> Callable[[], None]:
        key = object()
        self._watchers.setdefault(master, {})[key] = notice

        def stop() -> None:
            watchers = self._watchers.get(master, {})
            watchers.pop(key, None)
            if not watchers:
                self._watchers.pop(master, None)

        return stop

    # --- from start to stop -----------------------------------------------------------

    async def _start(self) -> None:
        await self._database.claim()
        self._adopt(await self._load(), void_leases=self._database.embedded)
        try:
            await self._commits.after(None)
        except CrawlfarmError:
            await self._stop()
            raise
        self._ticking.start(TICK_S, now=False)
        self._log.info("the lock daemon knows {jobs} jobs, {running} not ended", **self._counts())

    async def _stop(self) -> None:
        self._ready = False
        self._closing = True
        if self._ticking.running:
            self._ticking.stop()
        await self._commits.idle()
        if self._pause is not None:
            self._pause.cancel()
        await self._recovery

    def _adopt(self, snapshot: Snapshot, *, void_leases: bool) -> None:
        self._table = Table(self._timings, self._max_attempts)
        self._table.load(snapshot, self._moment(), self._commits.changes, void_leases=void_leases)
        self._ready = not self._closing
        self._commits.restart(snapshot.first)

    def _load(self) -> Deferred[Snapshot]:
        return self._store.load(self._wall() - self._timings.result_ttl_s)

    def _moment(self) -> Moment:
        return Moment(self._now(), self._wall())

    def _counts(self) -> dict[str, int]:
        rows = self._table.rows()
        return {"jobs": len(rows), "running": sum(not row.ended for row in rows)}

    def _tick(self) -> None:
        if not self._ready:
            return
        try:
            self._table.tick(self._moment(), self._commits.changes)
            self._commits.flush(progress=True)
            unannounced, self._unannounced = self._unannounced, []
            for job in unannounced:
                self._announce(job)
        except Exception:
            self._log.failure("a tick of the lock daemon failed")

    # --- when a commit fails ------------------------------------------------------------

    def _lost(self, batch: Batch, number: int, failure: Failure) -> None:
        self._log.error(
            "commit {number} failed, its outcome is looked up: {reason}", number=number, reason=failure.value
        )
        self._ready = False
        self._commits.abandon(Unavailable(_DID_NOT))
        self._recovery = Deferred.fromCoroutine(self._recover(batch, number))

    async def _recover(self, batch: Batch, number: int) -> None:
        """Read what is true. The commit took place exactly when its number is there."""
        snapshot = None
        attempt = 0
        while snapshot is None:
            try:
                snapshot = await self._load()
            except Exception as e:
                batch.settle(Unavailable(_CANNOT_TELL))
                if self._closing:
                    return
                self._log.error("the database is away: {reason}", reason=e)
                await self._wait(_RETRY.delay_s(attempt))
                attempt += 1
        if snapshot.commit == number:
            outcome, error = "took place", None
        elif snapshot.commit < number:
            outcome, error = "did not take place", Unavailable(_DID_NOT)
        else:
            outcome, error = "was followed by another lock daemon's", Unavailable(_CANNOT_TELL)
        self._log.info("commit {number} {outcome}", number=number, outcome=outcome)
        self._adopt(snapshot, void_leases=False)
        if error is None:
            self._committed(batch.changes)
        batch.settle(error)

    async def _wait(self, delay_s: float) -> None:
        self._pause = deferLater(self._reactor, delay_s)
        try:
            await self._pause
        except CancelledError:
            pass
        finally:
            self._pause = None

    # --- what follows a commit ------------------------------------------------------------

    def _committed(self, changes: Changes) -> None:
        for event in changes.events:
            self._log.info(
                "{what}: job {job} token {token} master {master} {detail}",
                what=event.what,
                job=event.job,
                token=event.token,
                master=event.master,
                detail=event.detail,
            )
        for job in changes.publish:
            self._publish(job)
        for job in changes.announce:
            self._announce(job)
        for master, wanted in changes.cancels:
            for notice in list(self._watchers.get(master, {}).values()):
                try:
                    notice(wanted)
                except Exception:
                    self._log.failure("master {master} failed on a cancel of job {job}", master=master, job=wanted.job)

    def _publish(self, job: str) -> None:
        async def publish() -> None:
            try:
                await self._queue.publish(JobQueued(job))
            except Exception as e:  # it is published again before long
                self._log.warn("job {job} could not be published: {reason}", job=job, reason=e)

        Deferred.fromCoroutine(publish())

    def _announce(self, job: str) -> None:
        async def announce() -> None:
            try:
                await self._queue.publish_ended(JobEnded(job))
            except Exception as e:
                self._log.warn("the end of job {job} could not be announced: {reason}", job=job, reason=e)
                self._unannounced.append(job)

        Deferred.fromCoroutine(announce())
