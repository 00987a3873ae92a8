"""What the lock daemon promises over every database; mixed into TestCases, one a database."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.task import Clock

from crawlfarm.adapters.memory.queue import MemoryQueue
from crawlfarm.config import Timings
from crawlfarm.errors import Unavailable
from crawlfarm.wire import lockd
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Progress, Receipt
from crawlfarm.wire.queue import JobQueued
from lockd.service import TICK_S, LockDaemon

TIMINGS = Timings(heartbeat_s=5, job_lease_s=30, stuck_s=300, republish_s=20, result_ttl_s=1000)
RECEIPT = Receipt(found=2, fetched=1, failed={"dns": 1}, skipped={}, complete=True)
SPEC = JobSpec(url="http://a.example/ä", depth=3, max_pages=5)


class LockDaemonCase:
    """What the suites below have in common."""

    timeout = 30

    def make_database(self: Any) -> Any:
        """A :class:`Shaky` database, the same one each time in one test."""
        raise NotImplementedError

    async def crash(self: Any) -> None:
        """Go on as a new process on what the disk holds now."""
        raise NotImplementedError

    async def start(self: Any) -> LockDaemon:
        """A running daemon with ``self.database``, ``self.queue`` and ``self.clock``."""
        self.clock = Clock()
        self.wall = 1e9
        self.database = database = self.make_database()
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

    def register(self: Any, job: str, client: str = "c", id: str | None = None) -> Deferred[Any]:
        name = id or job
        return self.daemon.call(lockd.Register(job, client, name, f"body {name}", f"flight {job}", SPEC))

    def acquire(self: Any, job: str, master: str = "m1") -> Deferred[Any]:
        return self.daemon.call(lockd.Acquire(master, job))

    def beat(self: Any, token: int, fetched: int, job: str = "j1", master: str = "m1") -> Deferred[Any]:
        return self.daemon.call(lockd.Heartbeat(master, job, token, Progress(fetched=fetched)))

    def complete(self: Any, token: int, job: str = "j1", master: str = "m1") -> Deferred[Any]:
        return self.daemon.call(lockd.Complete(master, job, token, "done", RECEIPT))

    def ask(self: Any, job: str = "j1") -> Deferred[Any]:
        return self.daemon.call(lockd.Ask(job, "c"))

    async def rows(self: Any) -> dict[str, dict[str, Any]]:
        found = await self.database.run(lambda c: c.fetch("SELECT * FROM jobs"))
        return {row["job"]: row for row in found}

    def waiting(self: Any) -> list[str]:
        """The jobs that wait on the queue, which are taken."""
        got: list[str] = []

        def take(delivery: Any) -> None:
            got.append(delivery.message.job)
            delivery.ack()

        cancel = self.queue.consume(take)
        self.clock.advance(0)
        cancel()
        return got

    async def recovered(self: Any) -> None:
        """Fires once the daemon has read its table again."""
        await self.daemon._recovery

    async def assertUnavailable(self: Any, *answers: Deferred[Any]) -> None:
        for answer in answers:
            await self.assertFailure(answer, Unavailable)


class CommitsContract(LockDaemonCase):
    async def test_after_the_commit(self: Any) -> None:
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

    async def test_shared_commits(self: Any) -> None:
        """However many commands come at once, they share two commits: the first's, and the rest's."""
        daemon = await self.start()
        before = daemon.commits
        answers = await gatherResults([self.register(f"j{n}") for n in range(500)])
        self.assertTrue(all(answer.created for answer in answers))
        self.assertEqual(daemon.commits - before, 2)
        self.assertEqual(len(await self.rows()), 500)

    async def test_answered_from_memory(self: Any) -> None:
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

    async def test_progress_within_a_second(self: Any) -> None:
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

    async def test_stop(self: Any) -> None:
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


class EffectsContract(LockDaemonCase):
    async def test_announced_after_the_commit(self: Any) -> None:
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

    async def test_announced_in_the_end(self: Any) -> None:
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

    async def test_published_again(self: Any) -> None:
        """A job nobody leases is put on the queue again, and one given back at once."""
        await self.start()
        await self.register("j1")
        self.assertEqual(self.waiting(), [])
        self.clock.pump([TICK_S] * int(22 / TICK_S))
        self.assertEqual(self.waiting(), ["j1"])
        token = (await self.acquire("j1")).token
        await self.daemon.call(lockd.Release("m1", "j1", token))
        self.assertEqual(self.waiting(), ["j1"])

    async def test_overdue(self: Any) -> None:
        """A job whose master is silent is put on the queue for another."""
        await self.start()
        await self.register("j1")
        old = (await self.acquire("j1")).token
        self.clock.pump([TICK_S] * int(32 / TICK_S))
        self.assertEqual(self.waiting(), ["j1"])
        self.assertGreater((await self.acquire("j1", "m2")).token, old)
        self.assertEqual(await self.complete(old), lockd.Fenced("j1"))

    async def test_cancel_is_pushed(self: Any) -> None:
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

    async def test_purge(self: Any) -> None:
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
        await self.start()
        await self.register("j1")
        self.assertGreater((await self.acquire("j1")).token, token)


class FailuresContract(LockDaemonCase):
    async def test_did_not_take_place(self: Any) -> None:
        """A commit that failed has not happened: not for the client, the table or the database."""
        await self.start()
        self.database.fails_before = 1
        await self.assertUnavailable(self.register("j1"))
        await self.recovered()
        self.assertEqual(await self.rows(), {})
        self.assertEqual(await self.ask(), lockd.Refused("unknown_job", "there is no job j1"))
        self.assertTrue((await self.register("j2", id="j1")).created)
        self.assertEqual(list(await self.rows()), ["j2"])

    async def test_took_place(self: Any) -> None:
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

    async def test_what_was_built_on_it(self: Any) -> None:
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

    async def test_away_for_a_while(self: Any) -> None:
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

    async def test_stopped_while_away(self: Any) -> None:
        """A stop does not wait for a database that does not come back."""
        daemon = await self.start()
        self.database.fails_before = 1000
        await self.assertUnavailable(self.register("j1"))
        await daemon.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.database.fails_before = 0

    async def test_a_defect(self: Any) -> None:
        """A command that makes the table fail is that caller's failure alone."""
        daemon = await self.start()
        await self.assertFailure(daemon.call(JobQueued("j1")), KeyError)  # type: ignore[arg-type]
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertTrue((await self.register("j1")).created)


class RestartsContract(LockDaemonCase):
    async def test_kept_ids(self: Any) -> None:
        """Idempotency and single flight hold across a crash."""
        await self.start()
        await self.register("j1", id="a")
        await self.crash()
        conflict = lockd.Register("j2", "c", "a", "other", "flight x", SPEC)
        self.assertEqual((await self.daemon.call(conflict)).code, "id_conflict")
        join = lockd.Register("j3", "d", "b", "body", "flight j1", SPEC)
        self.assertEqual(await self.daemon.call(join), lockd.Registered("j1", created=False, joined=True))

    async def test_question_asked_again(self: Any) -> None:
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

    async def test_old_jobs_are_dropped(self: Any) -> None:
        """What expired while nothing ran is dropped at the start."""
        await self.start()
        await self.register("j1")
        await self.complete((await self.acquire("j1")).token)
        await self.daemon.stop()
        await self.database.run(lambda c: c.execute("UPDATE jobs SET ended_at = 1"))
        await self.crash()
        self.assertEqual(await self.rows(), {})
        self.assertEqual(self.waiting(), [])

    async def test_ended(self: Any) -> None:
        """The end that was committed is not announced again by a restart."""
        await self.start()
        await self.register("j1")
        await self.complete((await self.acquire("j1")).token)
        await self.crash()
        self.clock.advance(TICK_S)
        self.assertEqual(self.ended, [])
