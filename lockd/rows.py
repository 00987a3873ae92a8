"""The rows of the table, and a batch of changes to them.

Invariant: rows are immutable, so a batch may be written by another thread while the
table goes on deciding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.lockd import CancelWanted
from crawlfarm.wire.pages import Progress, Receipt

QUEUED = "queued"
RUNNING = "running"
DONE = "done"
CANCELLED = "cancelled"
FAILED = "failed"
OUTCOMES = frozenset({DONE, CANCELLED, FAILED})
"""The states a job ends in; it never leaves them."""

SubmissionKey = tuple[str, str]
"""A client and its id."""


class Moment(NamedTuple):
    """When a decision is made.

    :ivar now: monotonic seconds: what leases are measured by.
    :ivar wall: seconds on the wall clock: for what outlives the process.
    """

    now: float
    wall: float


class JobRow(msgspec.Struct, frozen=True):
    """A job.

    :ivar flight: the question it answers; see single flight.
    :ivar token: of its last lease; 0 when it never had one.
    :ivar attempt: how many leases it was lost under, the present one included.
    :ivar master: who holds the lease, or completed it; empty for nobody.
    :ivar cancel: why it is to end early; empty to go on.
    """

    job: str
    flight: str
    spec: JobSpec
    created_at: float
    state: str = QUEUED
    token: int = 0
    attempt: int = 0
    master: str = ""
    cancel: str = ""
    progress: Progress = Progress()
    receipt: Receipt | None = None
    error_code: str = ""
    error_message: str = ""
    ended_at: float | None = None

    @property
    def ended(self) -> bool:
        return self.ended_at is not None

    @property
    def in_flight(self) -> bool:
        """Whether the same question may join it."""
        return self.ended_at is None and not self.cancel


class SubmissionRow(msgspec.Struct, frozen=True):
    """A client's claim on a job.

    :ivar detach: the job goes on when its client leaves.
    :ivar withdrawn: the client cancelled it; it may still ask.
    """

    client: str
    id: str
    job: str
    body: str
    detach: bool = False
    withdrawn: bool = False

    @property
    def key(self) -> SubmissionKey:
        return self.client, self.id


class Event(msgspec.Struct, frozen=True):
    """One line for the log: something became of a lease."""

    what: str
    job: str
    token: int
    master: str
    detail: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """What the database holds.

    :ivar token: the highest ever given.
    :ivar commit: the number of the last batch that was written, by whoever it was.
    :ivar first: the batches decided upon this snapshot are numbered from here on.
    """

    jobs: list[JobRow]
    submissions: list[SubmissionRow]
    token: int
    commit: int
    first: int = 0


class Changes:
    """What a number of decisions changed, and what follows once that is committed.

    :ivar jobs: changed rows that answers wait for.
    :ivar progress: rows of which only the progress changed: written with the next
        batch, at the latest within a second; no answer waits for them.
    :ivar token: the highest given; 0 for none.
    :ivar publish: jobs to put on the queue.
    :ivar announce: jobs that ended.
    :ivar cancels: masters to tell ahead of their next heartbeat.
    """

    __slots__ = ("announce", "cancels", "events", "jobs", "progress", "publish", "purged", "submissions", "token")

    def __init__(self) -> None:
        self.jobs: dict[str, JobRow] = {}
        self.progress: dict[str, JobRow] = {}
        self.submissions: dict[SubmissionKey, SubmissionRow] = {}
        self.purged: list[str] = []
        self.token = 0
        self.publish: list[str] = []
        self.announce: list[str] = []
        self.cancels: list[tuple[str, CancelWanted]] = []
        self.events: list[Event] = []

    def put(self, row: JobRow) -> None:
        self.progress.pop(row.job, None)
        self.jobs[row.job] = row

    def put_progress(self, row: JobRow) -> None:
        if row.job in self.jobs:
            self.jobs[row.job] = row
        else:
            self.progress[row.job] = row

    def purge(self, job: str, submissions: Iterable[SubmissionKey]) -> None:
        self.jobs.pop(job, None)
        self.progress.pop(job, None)
        for key in submissions:
            self.submissions.pop(key, None)
        self.purged.append(job)

    @property
    def rows(self) -> list[JobRow]:
        return [*self.jobs.values(), *self.progress.values()]

    @property
    def waited_for(self) -> bool:
        """Whether an answer must not leave before this is committed."""
        return bool(self.jobs or self.submissions or self.purged)

    @property
    def effects(self) -> bool:
        """Whether anything follows, even with nothing to write."""
        return bool(self.publish or self.announce or self.cancels or self.events)
