"""The table of jobs: every decision of the lock daemon, in memory, without I/O.

Each call takes the moment and a batch of changes it adds to; the caller commits the
batch before it lets the answer out. Invariants:

* a job is queued, or running under exactly one lease, or ended; an ended job never
  changes again, so it has exactly one outcome;
* tokens come from one counter that only grows: of two leases the later has the higher;
* a job that is not ended is known to somebody: it is published again while it is queued,
  and while its lease is overdue;
* at most one job that is not being cancelled runs for a question.

============  ====================================================================
state         how it is left
============  ====================================================================
``queued``    Acquire: ``running`` · CancelJob before any lease: ``cancelled``
``running``   Complete: its outcome · Release: ``queued`` · overdue and acquired:
              ``running`` under the next token · overdue too often: ``failed``
              (``cancelled`` when nobody wanted it any more)
an outcome    never; the row is dropped after ``result_ttl_s``
============  ====================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from msgspec.structs import replace

from crawlfarm.config import Timings
from crawlfarm.wire import lockd
from crawlfarm.wire.pages import Receipt
from lockd.ages import Ages
from lockd.rows import (
    CANCELLED,
    FAILED,
    OUTCOMES,
    QUEUED,
    RUNNING,
    Changes,
    Event,
    JobRow,
    Moment,
    Snapshot,
    SubmissionKey,
    SubmissionRow,
)

_NOTHING_FOUND = Receipt(found=0, fetched=0, failed={}, skipped={}, complete=False)
_PURGE_AT_ONCE = 500
"""How many old rows one tick drops at most: a batch must stay small."""

Lease = lockd.Heartbeat | lockd.Complete | lockd.Release


@dataclass(slots=True)
class _Job:
    row: JobRow
    submissions: dict[SubmissionKey, None] = field(default_factory=dict)
    wanted_by: int = 0
    """How many of its submissions are not withdrawn."""


class Table:
    """The lock daemon's memory.

    :param max_attempts: a job that was lost under this many leases is given up.
    """

    def __init__(self, timings: Timings, max_attempts: int) -> None:
        self._timings = timings
        self._max_attempts = max_attempts
        self._token = 0
        self._jobs: dict[str, _Job] = {}
        self._submissions: dict[SubmissionKey, SubmissionRow] = {}
        self._flights: dict[str, str] = {}
        self._queued = Ages()
        """Queued jobs, by when they were last published."""
        self._heard = Ages()
        """Leased jobs, by their last heartbeat."""
        self._moved = Ages()
        """Leased jobs, by when their progress last changed."""
        self._offered = Ages()
        """Overdue jobs, by when they were last published for another master."""
        self._ended = Ages()
        """Ended jobs, by when they ended on the wall clock."""
        self._decisions: dict[type[Any], Callable[[Any, Moment, Changes], lockd.Answer]] = {
            lockd.Register: self._register,
            lockd.Acquire: self._acquire,
            lockd.Heartbeat: self._heartbeat,
            lockd.Complete: self._complete,
            lockd.Release: self._release,
            lockd.CancelJob: self._cancel,
            lockd.Ask: self._ask,
        }

    def apply(self, command: lockd.Command, at: Moment, changes: Changes) -> lockd.Answer:
        """Decide ``command``. The answer may leave once ``changes`` are committed."""
        return self._decisions[type(command)](command, at, changes)

    def load(self, snapshot: Snapshot, at: Moment, changes: Changes, *, void_leases: bool) -> None:
        """Start from what the database holds; only on a new table.

        Every queued job is published again. ``void_leases`` when no master can be left
        from before: what was leased is queued. Otherwise leases go on, and get their
        whole time once more, for their masters could not be heard meanwhile.
        """
        self._token = max([snapshot.token, *(row.token for row in snapshot.jobs)])
        for row in snapshot.jobs:
            self._jobs[row.job] = _Job(row)
        for submission in snapshot.submissions:
            self._attach(submission)
        for row in sorted(snapshot.jobs, key=lambda row: row.ended_at or 0):
            if row.ended_at is not None:
                self._ended.touch(row.job, row.ended_at)
                continue
            if row.in_flight:
                self._flights[row.flight] = row.job
            if row.state == RUNNING and not void_leases:
                self._heard.touch(row.job, at.now)
                self._moved.touch(row.job, at.now)
                continue
            if row.state == RUNNING:
                changes.events.append(Event("lease void after a restart", row.job, row.token, row.master))
                self._change(self._jobs[row.job], changes, state=QUEUED, master="")
            self._queued.touch(row.job, at.now)
            changes.publish.append(row.job)

    def tick(self, at: Moment, changes: Changes) -> None:
        """What time alone brings about. Call it about twice a second."""
        again_s = self._timings.republish_s
        for name in list(self._queued.older_than(again_s, at.now)):
            self._queued.touch(name, at.now)
            changes.publish.append(name)
        for name in dict.fromkeys(self._overdue(at.now)):
            job = self._jobs[name]
            if self._spent(job.row):
                self._give_up(job, at, changes)
            elif name not in self._offered or self._offered.since(name, at.now) > again_s:
                # No master may ask by itself for a long time: bring it to their ears.
                self._offered.touch(name, at.now)
                changes.publish.append(name)
        expired = self._ended.older_than(self._timings.result_ttl_s, at.wall)
        for name in list(islice(expired, _PURGE_AT_ONCE)):
            self._purge(name, changes)

    # --- commands -------------------------------------------------------------------

    def _register(self, command: lockd.Register, at: Moment, changes: Changes) -> lockd.Answer:
        submission = SubmissionRow(command.client, command.id, command.job, command.body, command.detach)
        known = self._submissions.get(submission.key)
        if known is not None:
            if known.body != command.body:
                return lockd.Refused("id_conflict", f"the id {command.id!r} was used for another job")
            return lockd.Registered(known.job, created=False, joined=False)
        running = self._flights.get(command.flight)
        if running is not None:
            submission = replace(submission, job=running)
        elif command.job in self._jobs:
            return lockd.Refused("id_conflict", f"there is a job {command.job} already")
        else:
            row = JobRow(command.job, command.flight, command.spec, created_at=at.wall)
            self._jobs[row.job] = _Job(row)
            self._flights[row.flight] = row.job
            self._queued.touch(row.job, at.now)
            changes.put(row)
        self._attach(submission)
        changes.submissions[submission.key] = submission
        return lockd.Registered(submission.job, created=running is None, joined=running is not None)

    def _acquire(self, command: lockd.Acquire, at: Moment, changes: Changes) -> lockd.Answer:
        if not command.master:
            return lockd.Refused("bad_master", "a master must have a name")
        asked = self._jobs.get(command.job)
        overdue = asked is not None and self._is_overdue(command.job, at.now)
        if asked is not None and asked.row.state == RUNNING and asked.row.master == command.master and not overdue:
            # Asked again, most likely because the answer was lost on the way.
            self._heard.touch(command.job, at.now)
            return self._granted(asked.row)
        if not overdue:
            # Granted or given up, a job is overdue no longer, so this comes to an end.
            while (name := next(self._overdue(at.now), None)) is not None:
                if granted := self._grant(self._jobs[name], command.master, at, changes):
                    return granted
        if asked is None:
            return lockd.Refused("unknown_job", f"there is no job {command.job}")
        if asked.row.ended:
            return lockd.Refused("ended", f"job {command.job} has ended: {asked.row.state}")
        if asked.row.state == RUNNING and not overdue:
            return lockd.Refused("leased", f"job {command.job} is leased to {asked.row.master}")
        if granted := self._grant(asked, command.master, at, changes):
            return granted
        return lockd.Refused("ended", f"job {command.job} has ended: {asked.row.state}")

    def _heartbeat(self, command: lockd.Heartbeat, at: Moment, changes: Changes) -> lockd.Answer:
        job = self._held(command)
        if job is None:
            return self._fence(command, changes)
        self._heard.touch(command.job, at.now)
        if command.progress != job.row.progress:
            self._moved.touch(command.job, at.now)
            job.row = replace(job.row, progress=command.progress)
            changes.put_progress(job.row)
        if not self._is_overdue(command.job, at.now):
            self._offered.drop(command.job)
        return lockd.Beat(self._timings.job_lease_s, job.row.cancel)

    def _complete(self, command: lockd.Complete, at: Moment, changes: Changes) -> lockd.Answer:
        if command.outcome not in OUTCOMES:
            return lockd.Refused("bad_outcome", f"{command.outcome!r} is not one of {', '.join(sorted(OUTCOMES))}")
        job = self._held(command)
        if job is not None:
            changes.events.append(Event("completed", command.job, command.token, command.master, command.outcome))
            self._end(
                job,
                at,
                changes,
                state=command.outcome,
                receipt=command.receipt,
                error_code=command.error_code,
                error_message=command.error_message,
            )
            return lockd.Done(command.job)
        again = self._jobs.get(command.job)
        if again is not None and again.row.ended and _same_lease(again.row, command):
            return lockd.Done(command.job)
        return self._fence(command, changes)

    def _release(self, command: lockd.Release, at: Moment, changes: Changes) -> lockd.Answer:
        job = self._held(command)
        if job is not None:
            changes.events.append(Event("released", command.job, command.token, command.master))
            self._drop_lease(command.job)
            self._change(job, changes, state=QUEUED, master="", attempt=job.row.attempt - 1)
            self._queued.touch(command.job, at.now)
            changes.publish.append(command.job)
            return lockd.Done(command.job)
        again = self._jobs.get(command.job)
        if again is not None and again.row.state == QUEUED and again.row.token == command.token > 0:
            return lockd.Done(command.job)
        return self._fence(command, changes)

    def _cancel(self, command: lockd.CancelJob, at: Moment, changes: Changes) -> lockd.Answer:
        job = self._jobs.get(command.job)
        mine = [] if job is None else list(self._claims(job, command.client, command.ids))
        if job is None or not mine:
            return lockd.Refused("unknown_job", f"there is no job {command.job}")
        if not job.row.ended:
            for claim in mine:
                if not claim.withdrawn:
                    withdrawn = replace(claim, withdrawn=True)
                    self._submissions[claim.key] = changes.submissions[claim.key] = withdrawn
                    job.wanted_by -= 1
            if not job.wanted_by and not job.row.cancel:
                self._stop(job, command.reason or CANCELLED, at, changes)
        return lockd.Done(command.job)

    def _ask(self, command: lockd.Ask, at: Moment, changes: Changes) -> lockd.Answer:
        job = self._jobs.get(command.job)
        if job is None or not any(self._claims(job, command.client, None)):
            return lockd.Refused("unknown_job", f"there is no job {command.job}")
        row = job.row
        return lockd.JobView(
            job=row.job,
            state=row.state,
            spec=row.spec,
            progress=row.progress,
            receipt=row.receipt,
            error_code=row.error_code,
            error_message=row.error_message,
        )

    # --- what the commands are made of ----------------------------------------------

    def _attach(self, submission: SubmissionRow) -> None:
        job = self._jobs[submission.job]
        self._submissions[submission.key] = submission
        job.submissions[submission.key] = None
        job.wanted_by += not submission.withdrawn

    def _claims(self, job: _Job, client: str, ids: tuple[str, ...] | None) -> Iterator[SubmissionRow]:
        """This client's submissions to ``job``."""
        keys = [key for key in job.submissions if key[0] == client] if ids is None else [(client, i) for i in ids]
        return (self._submissions[key] for key in keys if key in job.submissions)

    def _held(self, command: Lease) -> _Job | None:
        """The job, if this is the lease it runs under, overdue or not."""
        job = self._jobs.get(command.job)
        return job if job is not None and job.row.state == RUNNING and _same_lease(job.row, command) else None

    def _fence(self, command: Lease, changes: Changes) -> lockd.Fenced:
        what = f"fenced {type(command).__name__}"
        changes.events.append(Event(what, command.job, command.token, command.master))
        return lockd.Fenced(command.job)

    def _overdue(self, now: float) -> Iterator[str]:
        yield from self._heard.older_than(self._timings.job_lease_s, now)
        yield from self._moved.older_than(self._timings.stuck_s, now)

    def _is_overdue(self, name: str, now: float) -> bool:
        return name in self._heard and (
            self._heard.since(name, now) > self._timings.job_lease_s
            or self._moved.since(name, now) > self._timings.stuck_s
        )

    def _spent(self, row: JobRow) -> bool:
        return row.attempt >= self._max_attempts

    def _granted(self, row: JobRow) -> lockd.Granted:
        return lockd.Granted(row.job, row.token, row.attempt, self._timings.job_lease_s, row.spec, row.cancel)

    def _grant(self, job: _Job, master: str, at: Moment, changes: Changes) -> lockd.Granted | None:
        """Lease a job that is queued or overdue; ``None`` when it is given up instead."""
        row = job.row
        if row.ended:
            return None
        if self._spent(row):
            self._give_up(job, at, changes)
            return None
        if row.state == RUNNING:
            changes.events.append(self._expiry(row, at.now))
        self._queued.drop(row.job)
        self._drop_lease(row.job)
        self._token += 1
        changes.token = self._token
        self._change(job, changes, state=RUNNING, token=self._token, attempt=row.attempt + 1, master=master)
        self._heard.touch(row.job, at.now)
        self._moved.touch(row.job, at.now)
        changes.events.append(Event("granted", row.job, self._token, master, f"attempt {job.row.attempt}"))
        return self._granted(job.row)

    def _expiry(self, row: JobRow, now: float) -> Event:
        silent_s, still_s = self._heard.since(row.job, now), self._moved.since(row.job, now)
        detail = f"silent for {silent_s:.1f} s, without progress for {still_s:.1f} s"
        return Event("expired", row.job, row.token, row.master, detail)

    def _give_up(self, job: _Job, at: Moment, changes: Changes) -> None:
        """End a job that was lost under too many leases."""
        row = job.row
        if row.state == RUNNING:
            changes.events.append(self._expiry(row, at.now))
        if row.cancel:
            changes.events.append(Event("cancelled", row.job, row.token, row.master, "its last lease was lost"))
            self._end(job, at, changes, state=CANCELLED, master="", receipt=_NOTHING_FOUND)
            return
        attempts = f"{row.attempt} attempt" + "s" * (row.attempt != 1)
        message = f"the job was given up after {attempts}: each time the master that ran it died or stood still"
        changes.events.append(Event("poisoned", row.job, row.token, row.master, attempts))
        self._end(job, at, changes, state=FAILED, master="", error_code="poisoned", error_message=message)

    def _stop(self, job: _Job, reason: str, at: Moment, changes: Changes) -> None:
        """Nobody wants this job any more."""
        row = job.row
        changes.events.append(Event("cancel", row.job, row.token, row.master, reason))
        if row.token == 0:
            self._end(job, at, changes, state=CANCELLED, receipt=_NOTHING_FOUND)
            return
        # Its frontier may hold pages: only a master can settle them and count.
        self._leave_flight(row)
        self._change(job, changes, cancel=reason)
        if row.state == RUNNING:
            changes.cancels.append((row.master, lockd.CancelWanted(row.job, row.token, reason)))

    def _end(self, job: _Job, at: Moment, changes: Changes, **fields: Any) -> None:
        """The one way into an outcome. ``master`` stays that of a lease that completed."""
        name = job.row.job
        self._leave_flight(job.row)
        self._queued.drop(name)
        self._drop_lease(name)
        self._change(job, changes, ended_at=at.wall, **fields)
        self._ended.touch(name, at.wall)
        changes.announce.append(name)

    def _purge(self, name: str, changes: Changes) -> None:
        job = self._jobs.pop(name)
        for key in job.submissions:
            del self._submissions[key]
        self._ended.drop(name)
        changes.purge(name, job.submissions)

    def _change(self, job: _Job, changes: Changes, **fields: Any) -> None:
        job.row = replace(job.row, **fields)
        changes.put(job.row)

    def _drop_lease(self, name: str) -> None:
        self._heard.drop(name)
        self._moved.drop(name)
        self._offered.drop(name)

    def _leave_flight(self, row: JobRow) -> None:
        if self._flights.get(row.flight) == row.job:
            del self._flights[row.flight]

    # --- for those who look on --------------------------------------------------------

    @property
    def token(self) -> int:
        """The highest token given."""
        return self._token

    def rows(self) -> list[JobRow]:
        """All jobs, ended ones too."""
        return [job.row for job in self._jobs.values()]


def _same_lease(row: JobRow, command: Lease) -> bool:
    return row.token == command.token and row.master == command.master
