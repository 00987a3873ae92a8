"""The lock daemon over real SQLite: what leaves it is committed, whatever happens to the disk."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from crawlfarm.adapters.memory.queue import MemoryQueue
from crawlfarm.adapters.sql.database import Connection
from crawlfarm.adapters.sql.sqlite import SqliteDatabase
from crawlfarm.config import Timings
from crawlfarm.errors import Unavailable
from crawlfarm.wire import lockd
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Progress, Receipt
from crawlfarm.wire.queue import JobQueued
from lockd.service import TICK_S, LockDaemon

T = TypeVar("T")

TIMINGS = Timings(heartbeat_s=5, job_lease_s=30, stuck_s=300, republish_s=20, result_ttl_s=1000)
RECEIPT = Receipt(found=2, fetched=1, failed={"dns": 1}, skipped={}, complete=True)
SPEC = JobSpec(url="http://a.example/ä", depth=3, max_pages=5)

CHILD = """
import json, sys
from pathlib import Path
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from crawlfarm.adapters.memory.queue import MemoryQueue
from crawlfarm.adapters.sql.sqlite import SqliteDatabase
from crawlfarm.config import Timings
from crawlfarm.wire import lockd
from crawlfarm.wire.jobs import JobSpec
from lockd.service import LockDaemon

async def main():
    database = SqliteDatabase(reactor, Path(sys.argv[1]))
    await database.open()
    daemon = LockDaemon(reactor, database, MemoryQueue(reactor), Timings(), 3)
    await daemon.start()
    await daemon.call(lockd.Register("j1", "c", "a", "body", "flight", JobSpec("http://a.example/", 2)))
    granted = await daemon.call(lockd.Acquire("m1", "j1"))
    print(json.dumps({"token": granted.token}), flush=True)
    await Deferred()

Deferred.fromCoroutine(main())
reactor.run()
"""


class ShakyDatabase(SqliteDatabase):
    """A database whose commits can be held back, or made to fail before or after they took place."""

    def __init__(self, reactor: Any, path: Path) -> None:
        super().__init__(reactor, path)
        self.fails_before = 0
        self.fails_after = 0
        self.held: list[Callable[[], None]] | None = None

    def run(self, work: Callable[[Connection], T]) -> Deferred[T]:
        if self.held is not None:
            waiting: Deferred[T] = Deferred()
            self.held.append(lambda: self._now(work).chainDeferred(waiting))
            return waiting
        return self._now(work)

    def let_go(self) -> None:
        held, self.held = self.held, None
        for start in held or []:
            start()

    def _now(self, work: Callable[[Connection], T]) -> Deferred[T]:
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


class ServiceCase(TestCase):
    timeout = 20

    async def start(self, path: Path | None = None) -> LockDaemon:
        """A running daemon with ``self.database``, ``self.queue`` and ``self.clock``."""
        from twisted.internet import reactor

        self.clock = Clock()
        self.wall = 1e9
        self.path = path or Path(self.mktemp()) / "lockd.sqlite"
        self.database = database = ShakyDatabase(reactor, self.path)
        await database.open()
        self.addCleanup(database.close)
        self.queue = MemoryQueue(self.clock)
        self.ended: list[str] = []
        self.queue.on_ended(lambda message: self.ended.append(message.job))
        self.daemon = daemon = LockDaemon(
            self.clock, database, self.queue, TIMINGS, 3, now=self.clock.seconds, wall=lambda: self.wall
        )
        self.addCleanup(daemon.stop)
        await daemon.start()
        return daemon

    def register(self, job: str, client: str = "c", id: str | None = None) -> Deferred[Any]:
        name = id or job
        return self.daemon.call(lockd.Register(job, client, name, f"body {name}", f"flight {job}", SPEC))

    def acquire(self, job: str, master: str = "m1") -> Deferred[Any]:
        return self.daemon.call(lockd.Acquire(master, job))

    def beat(self, token: int, fetched: int, job: str = "j1", master: str = "m1") -> Deferred[Any]:
        return self.daemon.call(lockd.Heartbeat(master, job, token, Progress(fetched=fetched)))

    def complete(self, token: int, job: str = "j1", master: str = "m1") -> Deferred[Any]:
        return self.daemon.call(lockd.Complete(master, job, token, "done", RECEIPT))

    def ask(self, job: str = "j1") -> Deferred[Any]:
        return self.daemon.call(lockd.Ask(job, "c"))

    async def rows(self) -> dict[str, dict[str, Any]]:
        found = await self.database.run(lambda c: c.fetch("SELECT * FROM jobs"))
        return {row["job"]: row for row in found}

    def waiting(self) -> list[str]:
        """The jobs that wait on the queue, which are taken."""
        got: list[str] = []

        def take(delivery: Any) -> None:
            got.append(delivery.message.job)
            delivery.ack()

        cancel = self.queue.consume(take)
        self.clock.advance(0)
        cancel()
        return got

    async def recovered(self) -> None:
        """Fires once the daemon has read its table again."""
        await self.daemon._recovery

    async def assertUnavailable(self, *answers: Deferred[Any]) -> None:
        for answer in answers:
            await self.assertFailure(answer, Unavailable)


class Commits(ServiceCase):
    async def test_after_the_commit(self) -> None:
        """No answer leaves before what it says, and what it was decided upon, is committed."""
        await self.start()
        self.database.held = []
        answers = [self.register("j1"), self.register("j2", id="j1"), self.ask(), self.acquire("j1")]
        for answer in answers:
            self.assertNoResult(answer)
        self.assertEqual(len(self.database.held), 1)
        self.database.let_go()
        created, again, view, granted = [await answer for answer in answers]
        self.assertEqual(created, lockd.Registered("j1", created=True, joined=False))
        self.assertEqual(again, lockd.Registered("j1", created=False, joined=False))
        self.assertEqual(view.state, "queued")
        self.assertEqual(granted.token, 1)
        self.assertEqual((await self.rows())["j1"]["state"], "running")

    async def test_shared_commits(self) -> None:
        """However many commands come at once, they share two commits: the first's, and the rest's."""
        daemon = await self.start()
        before = daemon.commits
        answers = await gatherResults([self.register(f"j{n}") for n in range(500)])
        self.assertTrue(all(answer.created for answer in answers))
        self.assertEqual(daemon.commits - before, 2)
        self.assertEqual(len(await self.rows()), 500)

    async def test_answered_from_memory(self) -> None:
        """A question with nothing left to commit, and every heartbeat, is answered at once."""
        await self.start()
        await self.register("j1")
        token = (await self.acquire("j1")).token
        self.assertEqual(self.successResultOf(self.ask()).state, "running")
        self.database.held = []
        other = self.register("j2")
        self.assertEqual(self.successResultOf(self.beat(token, 1)), lockd.Beat(30))
        self.assertEqual(self.successResultOf(self.beat(token + 1, 1)), lockd.Fenced("j1"))
        self.assertNoResult(other)
        self.database.let_go()
        await other

    async def test_progress_within_a_second(self) -> None:
        """Progress reaches the database within a second, without an answer waiting for it."""
        daemon = await self.start()
        await self.register("j1")
        token = (await self.acquire("j1")).token
        before = daemon.commits
        for n in range(50):
            self.successResultOf(self.beat(token, n))
        self.clock.advance(TICK_S)
        self.assertEqual(json.loads((await self.rows())["j1"]["progress"])["fetched"], 49)
        self.assertEqual(daemon.commits - before, 1)

    async def test_stop(self) -> None:
        """A stop writes what was decided, progress too; afterwards nothing is decided."""
        daemon = await self.start()
        await self.register("j1")
        token = (await self.acquire("j1")).token
        self.successResultOf(self.beat(token, 7))
        late = self.register("j2")
        self.successResultOf(self.beat(token, 8))
        await daemon.stop()
        self.assertEqual(self.successResultOf(late).job, "j2")
        rows = await self.rows()
        self.assertEqual(json.loads(rows["j1"]["progress"])["fetched"], 8)
        self.assertIn("j2", rows)
        await self.assertUnavailable(self.register("j3"), self.beat(token, 9))
        await daemon.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Effects(ServiceCase):
    async def test_announced_after_the_commit(self) -> None:
        """The end of a job is announced once, after its commit."""
        await self.start()
        await self.register("j1")
        token = (await self.acquire("j1")).token
        self.database.held = []
        done = self.complete(token)
        self.clock.advance(0)
        self.assertEqual(self.ended, [])
        self.database.let_go()
        await done
        await self.complete(token)
        self.clock.advance(0)
        self.assertEqual(self.ended, ["j1"])
        row = (await self.rows())["j1"]
        self.assertEqual((row["state"], json.loads(row["receipt"])["failed"]), ("done", {"dns": 1}))

    async def test_announced_in_the_end(self) -> None:
        """An announcement the queue would not take is made again."""
        await self.start()
        await self.register("j1")
        takes = self.queue.publish_ended
        self.patch(self.queue, "publish_ended", lambda _: fail(Unavailable("on purpose")))
        await self.complete((await self.acquire("j1")).token)
        self.patch(self.queue, "publish_ended", takes)
        self.clock.advance(TICK_S)
        self.clock.advance(0)
        self.assertEqual(self.ended, ["j1"])

    async def test_published_again(self) -> None:
        """A job nobody leases is put on the queue again, and one given back at once."""
        await self.start()
        await self.register("j1")
        self.assertEqual(self.waiting(), [])
        self.clock.pump([TICK_S] * int(22 / TICK_S))
        self.assertEqual(self.waiting(), ["j1"])
        token = (await self.acquire("j1")).token
        await self.daemon.call(lockd.Release("m1", "j1", token))
        self.assertEqual(self.waiting(), ["j1"])

    async def test_overdue(self) -> None:
        """A job whose master is silent is put on the queue for another."""
        await self.start()
        await self.register("j1")
        old = (await self.acquire("j1")).token
        self.clock.pump([TICK_S] * int(32 / TICK_S))
        self.assertEqual(self.waiting(), ["j1"])
        self.assertGreater((await self.acquire("j1", "m2")).token, old)
        self.assertEqual(await self.complete(old), lockd.Fenced("j1"))

    async def test_cancel_is_pushed(self) -> None:
        """The holder hears of a cancel after its commit; who fails on it costs others nothing."""
        await self.start()
        await self.register("j1")
        token = (await self.acquire("j1")).token
        heard: list[lockd.CancelWanted] = []

        def fail_on(_: object) -> None:
            raise RuntimeError("on purpose")

        self.daemon.watch("m1", fail_on)
        stop = self.daemon.watch("m1", heard.append)
        self.daemon.watch("m2", lambda _: self.fail("another master's"))
        self.database.held = []
        cancelled = self.daemon.call(lockd.CancelJob("j1", "c"))
        self.assertEqual(heard, [])
        self.database.let_go()
        self.assertEqual(await cancelled, lockd.Done("j1"))
        self.assertEqual(heard, [lockd.CancelWanted("j1", token, "cancelled")])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        stop()
        stop()

    async def test_purge(self) -> None:
        """Ended jobs leave the database after their time, and tokens still only grow."""
        await self.start()
        await self.register("j1")
        token = (await self.acquire("j1")).token
        await self.complete(token)
        self.wall += 1001
        self.clock.advance(TICK_S)
        self.assertEqual(await self.rows(), {})
        await self.daemon.stop()
        await self.database.close()
        await self.start(self.path)
        await self.register("j1")
        self.assertGreater((await self.acquire("j1")).token, token)


class Failures(ServiceCase):
    async def test_did_not_take_place(self) -> None:
        """A commit that failed has not happened: not for the client, the table or the database."""
        await self.start()
        self.database.fails_before = 1
        await self.assertUnavailable(self.register("j1"))
        await self.recovered()
        self.assertEqual(await self.rows(), {})
        self.assertEqual(await self.ask(), lockd.Refused("unknown_job", "there is no job j1"))
        self.assertTrue((await self.register("j2", id="j1")).created)
        self.assertEqual(list(await self.rows()), ["j2"])

    async def test_took_place(self) -> None:
        """A commit that took place though it seemed to fail is found by reading, and answered."""
        await self.start()
        await self.register("j1")
        self.database.fails_after = 1
        granted = await self.acquire("j1")
        self.assertEqual(granted.token, 1)
        self.assertEqual(await self.beat(1, 5), lockd.Beat(30))
        self.database.fails_after = 1
        self.assertEqual(await self.complete(1), lockd.Done("j1"))
        self.clock.advance(0)
        self.assertEqual(self.ended, ["j1"])

    async def test_what_was_built_on_it(self) -> None:
        """What was decided while the failing commit ran fails with it."""
        await self.start()
        await self.register("j1")
        self.database.held = []
        answers = [self.acquire("j1"), self.register("j2"), self.register("j3"), self.ask()]
        self.database.fails_before = 1
        self.database.let_go()
        await self.assertUnavailable(*answers)
        await self.recovered()
        self.assertEqual((await self.ask()).state, "queued")
        self.assertEqual(list(await self.rows()), ["j1"])
        self.assertEqual((await self.acquire("j1", "m2")).attempt, 1)

    async def test_away_for_a_while(self) -> None:
        """While the database is away every call says so; then all goes on, leases too."""
        await self.start()
        await self.register("j1")
        token = (await self.acquire("j1")).token
        self.database.fails_before = 4
        await self.assertUnavailable(self.register("j2"))
        for _ in range(3):
            await self.assertUnavailable(self.register("j2"), self.beat(token, 1))
            self.clock.advance(10)
        await self.recovered()
        self.assertEqual(await self.beat(token, 1), lockd.Beat(30))
        self.assertTrue((await self.register("j2")).created)
        self.assertIsInstance(await self.acquire("j1", "m2"), lockd.Refused)

    async def test_stopped_while_away(self) -> None:
        """A stop does not wait for a database that does not come back."""
        daemon = await self.start()
        self.database.fails_before = 1000
        await self.assertUnavailable(self.register("j1"))
        await daemon.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.database.fails_before = 0

    async def test_failing_start(self) -> None:
        """A daemon that cannot write at its start does not start."""
        await self.start()
        await self.register("j1")
        await self.acquire("j1")
        second = LockDaemon(self.clock, self.database, self.queue, TIMINGS, 3)
        self.database.held = []
        started = second.start()
        self.database.let_go()  # the reading passes
        self.database.held = []
        self.assertNoResult(started)
        while not self.database.held:
            await self.turn()
        self.database.fails_before = 1
        self.database.let_go()
        await self.assertFailure(started, Unavailable)
        await self.assertUnavailable(second.call(lockd.Ask("j1", "c")))

    async def turn(self) -> None:
        """Let the reactor run what is due."""
        from twisted.internet import reactor

        turned: Deferred[None] = Deferred()
        reactor.callLater(0, turned.callback, None)
        await turned

    async def test_a_defect(self) -> None:
        """A command that makes the table fail is that caller's failure alone."""
        daemon = await self.start()
        await self.assertFailure(daemon.call(JobQueued("j1")), KeyError)  # type: ignore[arg-type]
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertTrue((await self.register("j1")).created)


class Restarts(ServiceCase):
    async def crash(self) -> None:
        """Go on as a new process with the files as the disk holds them now."""
        directory = Path(self.mktemp())
        shutil.copytree(self.path.parent, directory)
        await self.start(directory / self.path.name)

    async def test_all_that_was_answered(self) -> None:
        """After a crash every accepted job is there, published, and runs under a higher token."""
        await self.start()
        await gatherResults([self.register(f"j{n}") for n in range(1, 5)])
        old = (await self.acquire("j1")).token
        await self.complete((await self.acquire("j2")).token, "j2")
        await self.daemon.call(lockd.CancelJob("j3", "c"))
        before = {job: await self.ask(job) for job in ("j2", "j3", "j4")}
        await self.crash()
        self.assertEqual(sorted(self.waiting()), ["j1", "j4"])
        for job, view in before.items():
            self.assertEqual(await self.ask(job), view)
        self.assertEqual(await self.beat(old, 1), lockd.Fenced("j1"))
        again = await self.acquire("j1", "m2")
        self.assertEqual((again.attempt, again.spec), (2, SPEC))
        self.assertGreater(again.token, old + 1)
        self.assertFalse((await self.register("j9", id="j4")).created)

    async def test_kept_ids(self) -> None:
        """Idempotency and single flight hold across a crash."""
        await self.start()
        await self.register("j1", id="a")
        await self.crash()
        conflict = lockd.Register("j2", "c", "a", "other", "flight x", SPEC)
        self.assertEqual((await self.daemon.call(conflict)).code, "id_conflict")
        join = lockd.Register("j3", "d", "b", "body", "flight j1", SPEC)
        self.assertEqual(await self.daemon.call(join), lockd.Registered("j1", created=False, joined=True))

    async def test_cancel_of_a_running_job(self) -> None:
        """A cancel that was answered holds after a crash: the next master is told."""
        await self.start()
        await self.register("j1")
        await self.acquire("j1")
        await self.daemon.call(lockd.CancelJob("j1", "c", reason="left"))
        await self.crash()
        self.assertEqual(self.waiting(), ["j1"])
        self.assertEqual((await self.acquire("j1")).cancel, "left")

    async def test_question_asked_again(self) -> None:
        """The same question may run again once it was cancelled or done, within one commit too."""
        await self.start()
        await self.register("j1")
        self.database.held = []
        first = self.register("j0")
        cancelled = self.daemon.call(lockd.CancelJob("j1", "c"))
        again = self.daemon.call(lockd.Register("j2", "c", "other id", "body", "flight j1", SPEC))
        self.database.let_go()
        await gatherResults([first, cancelled, again])
        self.assertEqual({job: row["state"] for job, row in (await self.rows()).items()}["j2"], "queued")
        await self.crash()
        self.assertEqual(sorted(self.waiting()), ["j0", "j2"])

    async def test_killed(self) -> None:
        """kill -9 of the whole process: the job that was accepted goes on, under a higher token."""
        path = Path(self.mktemp()) / "lockd.sqlite"
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            token = json.loads(child.stdout.readline())["token"]
        finally:
            child.send_signal(signal.SIGKILL)
            child.communicate()
        await self.start(path)
        self.assertEqual(self.waiting(), ["j1"])
        self.assertGreater((await self.acquire("j1")).token, token)

    async def test_old_jobs_are_dropped(self) -> None:
        """What expired while nothing ran is dropped at the start."""
        await self.start()
        await self.register("j1")
        await self.complete((await self.acquire("j1")).token)
        await self.daemon.stop()
        await self.database.run(lambda c: c.execute("UPDATE jobs SET ended_at = 1"))
        await self.crash()
        self.assertEqual(await self.rows(), {})
        self.assertEqual(self.waiting(), [])

    async def test_ended(self) -> None:
        """The end that was committed is not announced again by a restart."""
        await self.start()
        await self.register("j1")
        await self.complete((await self.acquire("j1")).token)
        await self.crash()
        self.clock.advance(TICK_S)
        self.assertEqual(self.ended, [])
