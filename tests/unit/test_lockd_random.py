"""The lock daemon's table: what no order of commands, deaths and restarts can break."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.wire import lockd
from crawlfarm.wire.pages import Progress
from lockd.rows import Changes, JobRow, Moment, Snapshot, SubmissionRow
from lockd.table import Table
from tests.unit.test_lockd_table import RECEIPT, TIMINGS, spec

CLIENTS, MASTERS, FLIGHTS = ("c", "d"), ("m1", "m2", "m3"), ("f", "g", "h")


class Walk(RuleBasedStateMachine):
    """Clients, masters, time and restarts in any order, beside a database of what was changed."""

    leases = Bundle("leases")

    @initialize()
    def begin(self) -> None:
        self.table = Table(TIMINGS, max_attempts=2)
        self.now, self.wall = 0.0, 1e6
        self.names = itertools.count()
        self.jobs: dict[str, JobRow] = {}
        self.submissions: dict[tuple[str, str], SubmissionRow] = {}
        self.accepted: list[str] = []
        self.token = 0
        self.holder: dict[str, tuple[str, int]] = {}
        self.outcomes: dict[str, JobRow] = {}
        self.announced: dict[str, int] = {}

    def apply(self, command: lockd.Command) -> Any:
        changes = Changes()
        answer = self.table.apply(command, Moment(self.now, self.wall), changes)
        self.write(changes)
        return answer

    def write(self, changes: Changes) -> None:
        for name in changes.purged:
            assert self.jobs.pop(name).ended, "only what has ended is dropped"
            self.submissions = {key: s for key, s in self.submissions.items() if s.job != name}
        for row in changes.rows:
            assert row.job not in self.outcomes, "a job that ended never changes"
            if row.ended:
                self.outcomes[row.job] = row
                self.holder.pop(row.job, None)
            self.jobs[row.job] = row
        self.submissions.update(changes.submissions)
        for name in changes.publish:
            assert not self.jobs[name].ended, "what has ended is not published"
        for name in changes.announce:
            self.announced[name] = self.announced.get(name, 0) + 1

    @rule(client=st.sampled_from(CLIENTS), id=st.integers(0, 5), flight=st.sampled_from(FLIGHTS))
    def register(self, client: str, id: int, flight: str) -> None:
        job = f"j{next(self.names)}"
        answer = self.apply(lockd.Register(job, client, f"{flight}{id}", flight, flight, spec(flight)))
        assert isinstance(answer, lockd.Registered)
        assert answer.created == (answer.job == job)
        assert answer.job in self.jobs
        if answer.created:
            self.accepted.append(job)
        if answer.joined:
            assert self.jobs[answer.job].in_flight, "only what still runs is joined"

    @rule(target=leases, master=st.sampled_from(MASTERS), pick=st.integers(0))
    def acquire(self, master: str, pick: int) -> Any:
        job = self.accepted[-1 - pick % min(6, len(self.accepted))] if self.accepted else "nothing"
        answer = self.apply(lockd.Acquire(master, job))
        if not isinstance(answer, lockd.Granted):
            return multiple()
        lease = (master, answer.token)
        if self.holder.get(answer.job) != lease:
            assert answer.token > self.token, "tokens only grow"
            self.token = answer.token
            self.holder[answer.job] = lease
        assert answer.job not in self.outcomes, "what has ended does not run again"
        assert answer.attempt <= 2
        return master, answer

    def lease_of(self, lease: Any) -> tuple[str, lockd.Granted, bool]:
        master, granted = lease
        return master, granted, self.holder.get(granted.job) == (master, granted.token)

    @rule(lease=leases, fetched=st.integers(0, 3))
    def heartbeat(self, lease: Any, fetched: int) -> None:
        master, granted, valid = self.lease_of(lease)
        answer = self.apply(lockd.Heartbeat(master, granted.job, granted.token, Progress(fetched=fetched)))
        assert isinstance(answer, lockd.Beat if valid else lockd.Fenced)

    @rule(lease=leases, outcome=st.sampled_from(["done", "cancelled", "failed"]))
    def complete(self, lease: Any, outcome: str) -> None:
        master, granted, valid = self.lease_of(lease)
        before = self.outcomes.get(granted.job)
        answer = self.apply(lockd.Complete(master, granted.job, granted.token, outcome, RECEIPT))
        mine = before is not None and (before.master, before.token) == (master, granted.token)
        if granted.job in self.jobs:
            assert isinstance(answer, lockd.Done if valid or mine else lockd.Fenced)
        if valid:
            assert self.outcomes[granted.job].state == outcome

    @rule(lease=leases)
    def release(self, lease: Any) -> None:
        master, granted, valid = self.lease_of(lease)
        row = self.jobs.get(granted.job)
        answer = self.apply(lockd.Release(master, granted.job, granted.token))
        if valid:
            assert isinstance(answer, lockd.Done)
            del self.holder[granted.job]
        else:
            assert self.jobs.get(granted.job) == row, "a stale release changes nothing"

    @rule(client=st.sampled_from(CLIENTS), pick=st.integers(0))
    def cancel(self, client: str, pick: int) -> None:
        if self.accepted:
            job = self.accepted[pick % len(self.accepted)]
            answer = self.apply(lockd.CancelJob(job, client))
            mine = any(s.client == client and s.job == job for s in self.submissions.values())
            assert isinstance(answer, lockd.Done if mine else lockd.Refused)

    @rule(seconds=st.sampled_from([1.0, 11.0, 31.0, 301.0]))
    def time(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds
        changes = Changes()
        self.table.tick(Moment(self.now, self.wall), changes)
        self.write(changes)

    @precondition(lambda self: self.accepted)
    @rule(void=st.booleans())
    def restart(self, void: bool) -> None:
        self.table = Table(TIMINGS, max_attempts=2)
        changes = Changes()
        snapshot = Snapshot(list(self.jobs.values()), list(self.submissions.values()), self.token, 0)
        self.table.load(snapshot, Moment(self.now, self.wall), changes, void_leases=void)
        self.write(changes)
        if void:
            self.holder.clear()

    @invariant()
    def database_is_memory(self) -> None:
        """What was changed adds up to what is in memory."""
        rows = {row.job: row for row in self.table.rows()}
        assert rows == self.jobs
        assert self.table.token == self.token

    @invariant()
    def one_holder(self) -> None:
        """A running job has one lease: the one granted last."""
        running = {row.job: (row.master, row.token) for row in self.table.rows() if row.state == "running"}
        assert running == self.holder

    @invariant()
    def single_flight(self) -> None:
        flights = [row.flight for row in self.table.rows() if row.in_flight]
        assert len(flights) == len(set(flights))

    @invariant()
    def wanted(self) -> None:
        """A job goes on for exactly as long as somebody wants it."""
        wanted = {s.job for s in self.submissions.values() if not s.withdrawn}
        for row in self.jobs.values():
            assert row.ended or bool(row.cancel) == (row.job not in wanted)

    @invariant()
    def one_outcome(self) -> None:
        assert self.announced == dict.fromkeys(self.outcomes, 1)

    def teardown(self) -> None:
        """Whatever happened: a single honest master that hears what is published ends every job."""
        if not hasattr(self, "table"):
            return
        for _ in range(6):
            self.now += 400
            changes = Changes()
            self.table.tick(Moment(self.now, self.wall), changes)
            self.write(changes)
            for job in changes.publish:
                answer = self.apply(lockd.Acquire("honest", job))
                if isinstance(answer, lockd.Granted):
                    self.apply(lockd.Complete("honest", answer.job, answer.token, "done", RECEIPT))
        assert set(self.accepted) == set(self.outcomes), "every accepted job ends"
        self.one_outcome()


class RandomWalks(SynchronousTestCase):
    def test_walks(self) -> None:
        """No order of commands, deaths and restarts breaks a promise of the table."""
        run_state_machine_as_test(
            Walk,
            settings=settings(
                max_examples=200,
                stateful_step_count=60,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
