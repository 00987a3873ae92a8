"""The lock daemon's table: what each command does."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.config import Timings
from crawlfarm.wire import lockd
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Progress, Receipt
from lockd.rows import Changes, Moment, Snapshot
from lockd.table import Table

TIMINGS = Timings(heartbeat_s=5, job_lease_s=30, stuck_s=300, republish_s=20, result_ttl_s=1000)
RECEIPT = Receipt(found=1, fetched=1, failed={}, skipped={}, complete=True)


def spec(flight: str = "f") -> JobSpec:
    return JobSpec(url=f"http://{flight}.example/", depth=2)


class TableCase(SynchronousTestCase):
    """A table, a clock, and short words for the commands."""

    def setUp(self) -> None:
        self.table = Table(TIMINGS, max_attempts=3)
        self.now = 100.0
        self.wall = 1_000_000.0
        self.changes = Changes()

    def apply(self, command: lockd.Command) -> Any:
        """The answer; what changed is in ``self.changes`` alone."""
        self.changes = Changes()
        return self.table.apply(command, Moment(self.now, self.wall), self.changes)

    def tick(self, after: float = 0.0) -> Changes:
        self.now += after
        self.changes = Changes()
        self.table.tick(Moment(self.now, self.wall), self.changes)
        return self.changes

    def register(self, job: str, client: str = "c", id: str | None = None, flight: str | None = None) -> Any:
        body, flight = f"body of {id or job}", flight or f"flight-{job}"
        return self.apply(lockd.Register(job, client, id or job, body, flight, spec()))

    def acquire(self, job: str, master: str = "m1") -> Any:
        return self.apply(lockd.Acquire(master, job))

    def beat(self, granted: lockd.Granted, fetched: int = 0, master: str = "m1") -> Any:
        return self.apply(lockd.Heartbeat(master, granted.job, granted.token, Progress(fetched=fetched)))

    def complete(self, granted: lockd.Granted, outcome: str = "done", master: str = "m1") -> Any:
        return self.apply(lockd.Complete(master, granted.job, granted.token, outcome, RECEIPT))

    def release(self, granted: lockd.Granted, master: str = "m1") -> Any:
        return self.apply(lockd.Release(master, granted.job, granted.token))

    def cancel(self, job: str, client: str = "c", ids: tuple[str, ...] | None = None) -> Any:
        return self.apply(lockd.CancelJob(job, client, ids))

    def ask(self, job: str, client: str = "c") -> Any:
        return self.apply(lockd.Ask(job, client))

    def granted(self, job: str, master: str = "m1") -> lockd.Granted:
        answer = self.acquire(job, master)
        self.assertIsInstance(answer, lockd.Granted)
        return answer

    def assertRefused(self, answer: object, code: str) -> None:
        self.assertIsInstance(answer, lockd.Refused)
        self.assertEqual(answer.code, code)

    def events(self) -> list[str]:
        return [event.what for event in self.changes.events]


class Registering(TableCase):
    def test_new(self) -> None:
        """A new job is a queued row, owned by its submission."""
        self.assertEqual(self.register("j1"), lockd.Registered("j1", created=True, joined=False))
        self.assertEqual([row.state for row in self.changes.jobs.values()], ["queued"])
        self.assertEqual([s.job for s in self.changes.submissions.values()], ["j1"])

    def test_same_id_same_body(self) -> None:
        """The same id and body is the same job, whatever new id came with it; nothing changes."""
        self.register("j1", id="a")
        self.assertEqual(self.register("j2", id="a"), lockd.Registered("j1", created=False, joined=False))
        self.assertFalse(self.changes.waited_for)

    def test_same_id_after_the_end(self) -> None:
        """An id names its job also when that has ended; it does not run again."""
        self.register("j1", id="a")
        self.complete(self.granted("j1"))
        self.assertEqual(self.register("j2", id="a").job, "j1")
        self.assertEqual(self.ask("j1").state, "done")

    def test_same_id_other_body(self) -> None:
        """The same id with another body is a conflict."""
        self.register("j1", id="a")
        answer = self.apply(lockd.Register("j2", "c", "a", "another body", "g", spec()))
        self.assertRefused(answer, "id_conflict")
        self.assertFalse(self.changes.waited_for)

    def test_same_id_of_another_client(self) -> None:
        """Ids of two clients do not meet."""
        self.register("j1", client="c", id="a")
        self.assertTrue(self.register("j2", client="d", id="a").created)

    def test_job_id_taken(self) -> None:
        """A job's id is never used twice."""
        self.register("j1", id="a")
        self.assertRefused(self.register("j1", client="d", flight="g"), "id_conflict")

    def test_joins_queued_and_running(self) -> None:
        """The same question joins the job that waits or runs."""
        self.register("j1", flight="f")
        self.assertEqual(self.register("j2", client="d", flight="f"), lockd.Registered("j1", False, True))
        self.granted("j1")
        self.assertEqual(self.register("j3", client="e", flight="f"), lockd.Registered("j1", False, True))

    def test_does_not_join_what_ended_or_ends(self) -> None:
        """A job that has ended, or is being cancelled, is not joined."""
        self.register("j1", flight="f")
        held = self.granted("j1")
        self.cancel("j1")
        self.assertEqual(self.register("j2", id="b", flight="f"), lockd.Registered("j2", True, False))
        self.complete(held, "cancelled")
        self.assertEqual(self.register("j3", id="c", flight="f").job, "j2")
        self.complete(self.granted("j2"))
        self.assertTrue(self.register("j4", id="d", flight="f").created)


class Leasing(TableCase):
    def test_grant(self) -> None:
        """A queued job is granted with a token and its first attempt."""
        self.register("j1")
        answer = self.acquire("j1")
        self.assertEqual(answer, lockd.Granted("j1", token=1, attempt=1, ttl_s=30, spec=spec()))
        self.assertEqual(self.changes.token, 1)
        self.assertEqual(self.events(), ["granted"])

    def test_asked_twice(self) -> None:
        """A master that asks again, its answer lost, gets the same lease."""
        self.register("j1")
        first = self.granted("j1")
        self.now += 29
        self.assertEqual(self.acquire("j1"), first)
        self.now += 29
        self.assertRefused(self.acquire("j1", "m2"), "leased")

    def test_refusals(self) -> None:
        """A leased, an ended and an unknown job are refused, each with its code."""
        self.register("j1")
        held = self.granted("j1")
        self.assertRefused(self.acquire("j1", "m2"), "leased")
        self.complete(held)
        self.assertRefused(self.acquire("j1", "m2"), "ended")
        self.assertRefused(self.acquire("nothing"), "unknown_job")
        self.assertRefused(self.acquire("j1", ""), "bad_master")

    def test_silent(self) -> None:
        """A lease not heard of for longer than job_lease_s goes to the next that asks for it."""
        self.register("j1")
        old = self.granted("j1")
        self.now += 30
        self.assertRefused(self.acquire("j1", "m2"), "leased")
        self.now += 0.1
        new = self.granted("j1", "m2")
        self.assertGreater(new.token, old.token)
        self.assertEqual(new.attempt, 2)
        self.assertEqual(self.events(), ["expired", "granted"])
        self.assertEqual(self.beat(old), lockd.Fenced("j1"))
        self.assertEqual(self.complete(old), lockd.Fenced("j1"))
        self.assertEqual(self.release(old), lockd.Fenced("j1"))

    def test_heartbeats_keep_it(self) -> None:
        """Heartbeats keep a lease for as long as its progress moves."""
        self.register("j1")
        held = self.granted("j1")
        for n in range(100):
            self.now += 25
            self.assertEqual(self.beat(held, fetched=n), lockd.Beat(30))
        self.assertRefused(self.acquire("j1", "m2"), "leased")

    def test_stuck(self) -> None:
        """A lease that is heard of, but does not move for stuck_s, is overdue too."""
        self.register("j1")
        held = self.granted("j1")
        for _ in range(12):
            self.now += 25
            self.beat(held, fetched=1)
        self.assertRefused(self.acquire("j1", "m2"), "leased")
        self.now += 26
        self.beat(held, fetched=1)
        self.assertEqual(self.granted("j1", "m2").attempt, 2)
        self.assertEqual(self.beat(held, fetched=2), lockd.Fenced("j1"))

    def test_overdue_goes_first(self) -> None:
        """Whoever asks for another job gets the overdue one; its own waits on."""
        self.register("j1")
        self.register("j2")
        self.granted("j1")
        self.now += 31
        self.assertEqual(self.granted("j2", "m2").job, "j1")
        self.assertEqual(self.granted("j2", "m2").job, "j2")

    def test_overdue_even_for_a_refusal(self) -> None:
        """A hint for a job that is gone brings an overdue one just as well."""
        self.register("j1")
        self.granted("j1")
        self.now += 31
        self.assertEqual(self.granted("gone", "m2").job, "j1")

    def test_overdue_but_back(self) -> None:
        """An overdue lease that nobody took yet is still its holder's."""
        self.register("j1")
        held = self.granted("j1")
        self.now += 500
        self.assertEqual(self.beat(held, 1), lockd.Beat(30))
        self.assertRefused(self.acquire("j1", "m2"), "leased")
        self.now += 500
        self.assertEqual(self.complete(held), lockd.Done("j1"))

    def test_overdue_is_published(self) -> None:
        """With nobody asking, an overdue job is published, and again every republish_s."""
        self.register("j1")
        self.granted("j1")
        self.assertEqual(self.tick(30).publish, [])
        self.assertEqual(self.tick(1).publish, ["j1"])
        self.assertEqual(self.tick(1).publish, [])
        self.assertEqual(self.tick(20).publish, ["j1"])

    def test_only_progress(self) -> None:
        """A heartbeat changes nothing but the progress, for which no answer waits."""
        self.register("j1")
        held = self.granted("j1")
        self.beat(held, fetched=3)
        self.assertFalse(self.changes.waited_for)
        self.assertEqual([row.progress.fetched for row in self.changes.progress.values()], [3])
        self.assertEqual(self.ask("j1").progress, Progress(fetched=3))
        self.beat(held, fetched=3)
        self.assertEqual(self.changes.rows, [])

    def test_release(self) -> None:
        """A job given back is published at once, and has lost no attempt."""
        self.register("j1")
        held = self.granted("j1")
        self.assertEqual(self.release(held), lockd.Done("j1"))
        self.assertEqual(self.changes.publish, ["j1"])
        self.assertEqual(self.release(held), lockd.Done("j1"))
        self.assertEqual(self.beat(held), lockd.Fenced("j1"))
        again = self.granted("j1", "m2")
        self.assertEqual((again.token, again.attempt), (2, 1))
        self.assertEqual(self.release(held), lockd.Fenced("j1"))

    def test_republished(self) -> None:
        """A job nobody leases is published again every republish_s."""
        self.register("j1")
        self.assertEqual(self.tick(20).publish, [])
        self.assertEqual(self.tick(1).publish, ["j1"])
        self.assertEqual(self.tick(20).publish, [])
        self.assertEqual(self.tick(1).publish, ["j1"])
        self.granted("j1")
        self.assertEqual(self.tick(21).publish, [])


class Ending(TableCase):
    def test_complete(self) -> None:
        """An outcome is a row and an announcement; asked for a second time, neither."""
        self.register("j1")
        held = self.granted("j1")
        self.assertEqual(self.complete(held), lockd.Done("j1"))
        self.assertEqual(self.changes.announce, ["j1"])
        self.assertEqual(self.complete(held), lockd.Done("j1"))
        self.assertEqual(self.complete(held, "failed"), lockd.Done("j1"))
        self.assertEqual((self.changes.announce, self.changes.rows), ([], []))
        view = self.ask("j1")
        self.assertEqual((view.state, view.receipt), ("done", RECEIPT))
        self.assertEqual(self.beat(held), lockd.Fenced("j1"))

    def test_failed(self) -> None:
        """A failure carries its code and message to whoever asks."""
        self.register("j1")
        held = self.granted("j1")
        self.apply(lockd.Complete("m1", "j1", held.token, "failed", None, "spider", "it raised"))
        view = self.ask("j1")
        self.assertEqual((view.state, view.error_code, view.error_message), ("failed", "spider", "it raised"))

    def test_no_such_outcome(self) -> None:
        """Only the three outcomes end a job."""
        self.register("j1")
        held = self.granted("j1")
        self.assertRefused(self.complete(held, "queued"), "bad_outcome")
        self.assertEqual(self.ask("j1").state, "running")

    def test_poisoned(self) -> None:
        """A job lost by max_attempts masters is failed, with the reason, and offered no more."""
        self.register("j1")
        self.register("j2")
        for attempt in (1, 2, 3):
            self.assertEqual(self.granted("j1", f"m{attempt}").attempt, attempt)
            self.now += 31
        self.assertEqual(self.granted("j2", "m4").job, "j2")
        self.assertEqual(self.changes.announce, ["j1"])
        view = self.ask("j1")
        self.assertEqual((view.state, view.error_code), ("failed", "poisoned"))
        self.assertIn("given up after 3 attempts", view.error_message)
        late = lockd.Granted("j1", 3, 3, 30, spec())
        self.assertEqual(self.complete(late, master="m3"), lockd.Fenced("j1"))

    def test_poisoned_by_time_alone(self) -> None:
        """It does not take another master's question to give a job up."""
        self.register("j1")
        for attempt in (1, 2, 3):
            self.granted("j1", f"m{attempt}")
            self.now += 400  # silent and stuck at once
        changes = self.tick()
        self.assertEqual((changes.announce, changes.publish), (["j1"], []))
        self.assertEqual(self.events(), ["expired", "poisoned"])

    def test_poisoned_when_asked(self) -> None:
        """Also when it is the very job that is asked for."""
        self.register("j1")
        for attempt in (1, 2, 3):
            self.granted("j1", f"m{attempt}")
            self.now += 31
        self.assertRefused(self.acquire("j1", "m4"), "ended")
        self.assertEqual(self.ask("j1").error_code, "poisoned")

    def test_purged(self) -> None:
        """An ended job is dropped after result_ttl_s on the wall clock, its ids free again."""
        self.register("j1")
        token = self.granted("j1").token
        self.complete(lockd.Granted("j1", token, 1, 30, spec()))
        self.wall += 1000
        self.assertEqual(self.tick().purged, [])
        self.wall += 1
        self.assertEqual(self.tick().purged, ["j1"])
        self.assertRefused(self.ask("j1"), "unknown_job")
        self.assertTrue(self.register("j2", id="j1").created)
        self.assertGreater(self.granted("j2").token, token)

    def test_the_wall_clock_decides_no_lease(self) -> None:
        """An hour forward or back on the wall clock moves no lease."""
        self.register("j1")
        held = self.granted("j1")
        for jump in (3600, -7200):
            self.wall += jump
            self.assertEqual(self.tick().publish, [])
            self.assertRefused(self.acquire("j1", "m2"), "leased")
            self.assertEqual(self.beat(held), lockd.Beat(30))


class Cancelling(TableCase):
    def test_queued(self) -> None:
        """A job no master had ends at once, with nothing found."""
        self.register("j1")
        self.assertEqual(self.cancel("j1"), lockd.Done("j1"))
        self.assertEqual(self.changes.announce, ["j1"])
        view = self.ask("j1")
        self.assertEqual((view.state, view.receipt), ("cancelled", Receipt(0, 0, {}, {}, False)))
        self.assertRefused(self.acquire("j1"), "ended")

    def test_running(self) -> None:
        """The holder is told at once and at every heartbeat, and ends the job itself."""
        self.register("j1")
        held = self.granted("j1")
        self.assertEqual(self.cancel("j1"), lockd.Done("j1"))
        self.assertEqual(self.changes.cancels, [("m1", lockd.CancelWanted("j1", held.token, "cancelled"))])
        self.assertEqual(self.changes.announce, [])
        self.assertEqual(self.beat(held), lockd.Beat(30, "cancelled"))
        self.complete(held, "cancelled")
        self.assertEqual(self.ask("j1").state, "cancelled")

    def test_done_wins(self) -> None:
        """A job that is done before its master hears of the cancel is done, once."""
        self.register("j1")
        held = self.granted("j1")
        self.cancel("j1")
        self.complete(held, "done")
        self.complete(held, "cancelled")
        self.assertEqual(self.ask("j1").state, "done")

    def test_successor_is_told(self) -> None:
        """If the holder dies before it ended the job, its successor does."""
        self.register("j1")
        self.granted("j1")
        self.cancel("j1")
        self.now += 31
        self.assertEqual(self.granted("j1", "m2").cancel, "cancelled")

    def test_given_back(self) -> None:
        """A job that had a master needs one to end it: its pages must be settled and counted."""
        self.register("j1")
        self.release(self.granted("j1"))
        self.cancel("j1")
        self.assertEqual(self.ask("j1").state, "queued")
        held = self.granted("j1", "m2")
        self.assertEqual(held.cancel, "cancelled")
        self.complete(held, "cancelled", master="m2")
        self.assertEqual(self.ask("j1").state, "cancelled")

    def test_nobody_left_to_end_it(self) -> None:
        """A cancelled job whose every master dies is cancelled, not failed."""
        self.register("j1")
        for attempt in (1, 2, 3):
            self.granted("j1", f"m{attempt}")
            self.now += 31
        self.cancel("j1")
        self.tick()
        self.assertEqual(self.ask("j1").state, "cancelled")

    def test_by_one_of_two(self) -> None:
        """A cancel by one of several detaches that client; the last one ends the job."""
        self.register("j1", client="c", flight="f")
        self.register("j2", client="d", flight="f")
        held = self.granted("j1")
        self.cancel("j1", "c")
        self.assertEqual(self.beat(held), lockd.Beat(30))
        self.assertEqual(self.ask("j1", "c").state, "running")
        self.cancel("j1", "c")
        self.assertEqual(self.beat(held), lockd.Beat(30))
        self.cancel("j1", "d")
        self.assertEqual(self.beat(held), lockd.Beat(30, "cancelled"))

    def test_by_id(self) -> None:
        """Of a client's several submissions only those named are withdrawn."""
        self.register("j1", id="a", flight="f")
        self.register("j2", id="b", flight="f")
        held = self.granted("j1")
        self.cancel("j1", ids=("a",))
        self.assertEqual(self.beat(held), lockd.Beat(30))
        self.cancel("j1", ids=("b", "unknown"))
        self.assertEqual(self.beat(held), lockd.Beat(30, "cancelled"))

    def test_not_ones_own(self) -> None:
        """Another client's job is as unknown as one that is not there."""
        self.register("j1")
        for answer in (self.cancel("j1", "d"), self.ask("j1", "d"), self.cancel("j9"), self.ask("j9")):
            self.assertRefused(answer, "unknown_job")
        self.assertRefused(self.cancel("j1", ids=("b",)), "unknown_job")
        self.assertEqual(self.ask("j1").state, "queued")

    def test_ended(self) -> None:
        """A cancel of a job that has ended is done, and changes nothing."""
        self.register("j1")
        self.complete(self.granted("j1"))
        self.assertEqual(self.cancel("j1"), lockd.Done("j1"))
        self.assertFalse(self.changes.waited_for)
        self.assertEqual(self.ask("j1").state, "done")


class Loading(TableCase):
    def snapshot(self) -> Snapshot:
        return Snapshot(self.table.rows(), list(self.table._submissions.values()), self.table.token, 7)

    def reload(self, *, void_leases: bool) -> Changes:
        snapshot = self.snapshot()
        self.table = Table(TIMINGS, max_attempts=3)
        changes = Changes()
        self.table.load(snapshot, Moment(self.now, self.wall), changes, void_leases=void_leases)
        return changes

    def test_void_leases(self) -> None:
        """At the start of a single process no lease is valid: all that has not ended is published."""
        for job in ("j1", "j2", "j3"):
            self.register(job)
        held = self.granted("j1")
        self.complete(self.granted("j2"))
        changes = self.reload(void_leases=True)
        self.assertEqual(sorted(changes.publish), ["j1", "j3"])
        self.assertEqual([row.state for row in changes.rows], ["queued"])
        self.assertEqual(self.beat(held), lockd.Fenced("j1"))
        again = self.granted("j1")
        self.assertGreater(again.token, held.token)
        self.assertEqual(again.attempt, 2)

    def test_leases_go_on(self) -> None:
        """After a database failure leases go on, with their whole time."""
        self.register("j1")
        held = self.granted("j1")
        self.now += 1000
        changes = self.reload(void_leases=False)
        self.assertEqual((changes.publish, changes.rows), ([], []))
        self.assertRefused(self.acquire("j1", "m2"), "leased")
        self.assertEqual(self.beat(held), lockd.Beat(30))

    def test_tokens_outlive_rows(self) -> None:
        """Tokens go on from the highest ever, though its row is gone."""
        table = Table(TIMINGS, 3)
        table.load(Snapshot([], [], token=41, commit=9), Moment(0, 0), Changes(), void_leases=True)
        self.table = table
        self.register("j1")
        self.assertEqual(self.granted("j1").token, 42)

    def test_flights_and_claims(self) -> None:
        """What may be joined, cancelled and asked is the same after a restart."""
        self.register("j1", flight="f")
        self.granted("j1")
        self.register("j2", client="d", id="x", flight="f")
        self.cancel("j1", "c")
        self.reload(void_leases=True)
        self.assertTrue(self.register("j3", client="e", flight="f").joined)
        self.cancel("j1", "e")
        self.cancel("j1", "d")
        self.assertEqual(self.granted("j1").cancel, "cancelled")
        self.assertTrue(self.register("j4", client="e", flight="f").created)
