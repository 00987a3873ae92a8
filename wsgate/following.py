"""Who follows which job, from where in its log, and what comes next for each.

A follower is one connection's interest in one job. While the job runs its log is read from
the frontier, from that follower's cursor, and only while its connection has room; followers
at the same place share a read. Once the lock daemon says the job has ended, the rest of the
log comes from the stored result, under the same numbers, and then the terminal message,
once; with it the follower is gone.

What wakes a follower is only ever a hint: a lost one costs a second (log) or
:data:`ASK_AGAIN_S` (end), never the message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from crawlfarm.core.jobs import cache_key
from crawlfarm.core.ports import FrontierStatus, LogSlice
from crawlfarm.errors import Unavailable
from crawlfarm.wire import lockd
from crawlfarm.wire.client import (
    Cancelled,
    JobProgress,
    PageLinked,
    PageMoved,
    Pages,
    Reply,
    Rewound,
    cursor,
)
from crawlfarm.wire.pages import Ended, Entry, Linked, PageRecord
from wsgate.answers import NOTHING, Ending, Loaded, ending, failure
from wsgate.effects import CallLocks, KeepAnswer, LoadResult, ReadLog, ReadStatus, Report
from wsgate.talks import Outbox, Talk, Talks

CHUNK = 200
"""Log entries read and sent at a time: what one follower may have on its way."""
PROGRESS_S = 1.0
ASK_AGAIN_S = 5.0
"""A followed job is asked about this often, for the hint of its end that got lost."""
ASK_SOON_S = 1.0
"""The same when the lock daemon or the result store was away."""
OVER = ("done", "cancelled", "failed")


@dataclass(slots=True, eq=False)
class Follower:
    """One connection's place in one job's log.

    :ivar run: what ``seq`` counts in; 0 before the first entry.
    :ivar seq: the last entry sent.
    :ivar behind: the log may hold more.
    :ivar reading: a read from ``seq`` on is under way.
    :ivar told: the last progress sent.
    :ivar give_up_at: it cancelled: when to tell it so although the job goes on for others.
    """

    connection: int
    stream: bool
    run: int = 0
    seq: int = 0
    behind: bool = True
    reading: bool = False
    told: JobProgress | None = None
    give_up_at: float | None = None


@dataclass(slots=True, eq=False)
class FollowedJob:
    """A job with at least one follower.

    :ivar client: whose it is; the lock daemon answers for a job's own clients only.
    :ivar ending: set once, when it is known how the job ended.
    :ivar reads: connections waiting for the log after an entry.
    """

    id: str
    client: str
    state: str = "queued"
    followers: dict[int, Follower] = field(default_factory=dict)
    ending: Ending | None = None
    reads: dict[int, set[int]] = field(default_factory=dict)
    asking: bool = False
    ask_again: bool = False
    ask_at: float = 0.0
    counting: bool = False
    progress_at: float = 0.0


class Following:
    """All followers of this gateway.

    :param paused: whether a connection has no room for more.
    :param left: told when a connection got the end of a job.
    """

    def __init__(
        self, outbox: Outbox, talks: Talks, paused: Callable[[int], bool], left: Callable[[int, str], None]
    ) -> None:
        self._outbox = outbox
        self._talks = talks
        self._paused = paused
        self._left = left
        self._jobs: dict[str, FollowedJob] = {}
        self._ready: dict[tuple[str, int], None] = {}

    # --- coming and going ---------------------------------------------------------

    def follow(
        self,
        connection: int,
        job_id: str,
        client: str,
        *,
        stream: bool,
        after: tuple[int, int] = (0, 0),
        afresh: bool = False,
        end: Ending | None = None,
    ) -> None:
        """Begin to follow, or go on: only ``afresh`` moves an existing follower.

        :param end: the job has ended, and this is how.
        """
        job = self._jobs.get(job_id)
        if job is None:
            job = self._jobs[job_id] = FollowedJob(job_id, client)
        follower = job.followers.get(connection)
        if follower is None or afresh:
            job.followers[connection] = Follower(connection, stream, *after)
        elif stream and not follower.stream:
            follower.stream = True
        job.ending = job.ending or end
        if job.ending is None:
            self._ask(job)
        self._pump_all(job)

    def drop(self, connection: int, job_id: str) -> None:
        """The connection is gone, or has had its end."""
        job = self._jobs.get(job_id)
        if job is not None:
            job.followers.pop(connection, None)
            if not job.followers:
                del self._jobs[job_id]

    def followers(self, job_id: str) -> list[int]:
        job = self._jobs.get(job_id)
        return list(job.followers) if job is not None else []

    def give_up(self, connection: int, job_id: str, at: float) -> None:
        """Unless the job ends before, tell the follower ``cancelled`` at ``at``."""
        job = self._jobs.get(job_id)
        if job is not None and connection in job.followers:
            job.followers[connection].give_up_at = at
            self._ask(job)

    # --- what may mean that there is more ------------------------------------------

    def ended(self, job_id: str) -> None:
        """A hint that a job has its outcome."""
        job = self._jobs.get(job_id)
        if job is not None:
            self._ask(job)

    def woken(self) -> None:
        """A hint that some log grew."""
        for job in list(self._jobs.values()):
            self._look(job)

    def writable(self, connection: int, job_ids: Sequence[str]) -> None:
        """A connection has room again."""
        for job_id in job_ids:
            job = self._jobs.get(job_id)
            if job is not None and connection in job.followers:
                self._pump(job, job.followers[connection])

    def tick(self) -> None:
        now = self._outbox.now
        for job in list(self._jobs.values()):
            if job.ending is not None:
                continue
            if now >= job.ask_at:
                self._ask(job)
            if now >= job.progress_at and not job.counting:
                job.counting = True
                job.progress_at = now + PROGRESS_S
                self._talks.begin(self._tell_progress(job), self._over)
                self._look(job)

    @property
    def has_more(self) -> bool:
        """Whether :meth:`go_on` has something to do at once."""
        return bool(self._ready)

    def go_on(self) -> None:
        """The next piece for each follower that is being sent a stored log."""
        ready, self._ready = self._ready, {}
        for job_id, connection in ready:
            job = self._jobs.get(job_id)
            if job is not None and connection in job.followers:
                self._pump(job, job.followers[connection])

    # --- the log ------------------------------------------------------------------

    def _look(self, job: FollowedJob) -> None:
        for follower in list(job.followers.values()):
            follower.behind = True
            self._pump(job, follower)

    def _pump_all(self, job: FollowedJob) -> None:
        for follower in list(job.followers.values()):
            self._pump(job, follower)

    def _pump(self, job: FollowedJob, follower: Follower) -> None:
        """Send what can be sent now, or read what is to be sent next."""
        if self._paused(follower.connection):
            return
        if job.ending is not None:
            self._finish(job, follower, job.ending)
        elif follower.stream and follower.behind and not follower.reading:
            follower.reading, follower.behind = True, False
            waiting = job.reads.setdefault(follower.seq, set())
            waiting.add(follower.connection)
            if len(waiting) == 1:
                self._talks.begin(self._read(job, follower.seq), self._over)

    def _finish(self, job: FollowedJob, follower: Follower, end: Ending) -> None:
        if follower.stream and end.run:
            self._turn_to(job, follower, end.run)
            piece = end.log[follower.seq : follower.seq + CHUNK]
            if piece:
                for reply in frames(job.id, end.run, piece):
                    self._outbox.send(reply, follower.connection)
                follower.seq += len(piece)
                # The rest waits until the shell has seen whether there is room for it.
                self._ready[job.id, follower.connection] = None
                return
        self._say_end(job, follower, end.reply)

    def _say_end(self, job: FollowedJob, follower: Follower, reply: Reply) -> None:
        self._outbox.send(reply, follower.connection)
        self.drop(follower.connection, job.id)
        self._left(follower.connection, job.id)

    def _turn_to(self, job: FollowedJob, follower: Follower, run: int) -> None:
        """The log is of ``run``: where the follower's was not, it begins again."""
        if follower.run != run:
            if follower.run:
                self._outbox.send(Rewound(job.id, run), follower.connection)
            follower.run, follower.seq = run, 0

    def _read(self, job: FollowedJob, after: int) -> Talk:
        piece: LogSlice | None = None
        try:
            piece = yield ReadLog(job.id, after, CHUNK)
        except Unavailable:
            pass  # the next look tries again
        finally:
            waiting = job.reads.pop(after)
        replies = frames(job.id, piece.run, piece.entries) if piece is not None else []
        for connection in waiting:
            follower = job.followers.get(connection)
            if follower is None or not follower.reading or follower.seq != after:
                continue  # it left, or was moved by a resume
            follower.reading = False
            if piece is not None and job.ending is None:
                self._turn_to(job, follower, piece.run)
                if follower.seq != after:
                    follower.behind = True
                elif piece.entries:
                    for reply in replies:
                        self._outbox.send(reply, connection)
                    follower.seq = piece.entries[-1].seq
                    follower.behind = follower.behind or len(piece.entries) == CHUNK
            self._pump(job, follower)

    # --- progress and the end --------------------------------------------------------

    def _tell_progress(self, job: FollowedJob) -> Talk:
        try:
            status: FrontierStatus | None = yield ReadStatus(job.id)
        except Unavailable:
            return
        finally:
            job.counting = False
        if job.ending is not None:
            return
        if status is not None:
            job.state = "running"
        progress = progress_of(job.id, job.state, status)
        receipt = msgspec.structs.replace(status.receipt, complete=False) if status is not None else NOTHING
        for follower in list(job.followers.values()):
            if self._paused(follower.connection):
                continue
            if follower.give_up_at is not None and follower.give_up_at <= self._outbox.now:
                self._say_end(job, follower, Cancelled(job.id, receipt))
            elif follower.told != progress:
                follower.told = progress
                self._outbox.send(progress, follower.connection)

    def _ask(self, job: FollowedJob) -> None:
        job.ask_again = True
        if not job.asking and job.ending is None:
            job.asking = True
            self._talks.begin(self._asking(job), self._over)

    def _asking(self, job: FollowedJob) -> Talk:
        """How does it stand? A hint that comes meanwhile is answered by asking once more."""
        wait_s = ASK_AGAIN_S
        try:
            while job.ask_again and job.ending is None and job.followers:
                job.ask_again = False
                view = yield CallLocks(lockd.Ask(job.id, job.client))
                if isinstance(view, lockd.Refused):
                    job.ending = failure(job.id, view.code, view.message)
                elif view.state in OVER:
                    yield from self._end(job, view)
                else:
                    job.state = view.state
        except Unavailable:
            wait_s = ASK_SOON_S
        finally:
            job.asking = False
            job.ask_at = self._outbox.now + wait_s
        self._pump_all(job)

    def _end(self, job: FollowedJob, view: lockd.JobView) -> Talk:
        loaded: Loaded | None = None
        if view.state != "failed":
            loaded = yield LoadResult(job.id)
        job.ending = ending(view, loaded)
        if loaded is not None and view.state == "done" and loaded.result.receipt.complete:
            self._outbox.put(KeepAnswer(cache_key(view.spec), loaded.result.depth, loaded.data))

    def _over(self, error: Exception | None) -> None:
        if error is not None:
            self._outbox.put(Report(error))


def progress_of(job: str, state: str, status: FrontierStatus | None) -> JobProgress:
    if status is None:
        return JobProgress(job, state)
    return JobProgress(job, state, **msgspec.structs.asdict(status.progress))


def frames(job: str, run: int, entries: Sequence[Entry]) -> list[Reply]:
    """Log entries as messages: pages that follow each other in one, the others alone."""
    replies: list[Reply] = []
    pages: list[PageRecord] = []
    for i, entry in enumerate(entries):
        if isinstance(entry, Ended):
            pages.append(entry.page)
            if i + 1 == len(entries) or not isinstance(entries[i + 1], Ended):
                first = entry.seq - len(pages) + 1
                replies.append(Pages(job, cursor(run, first), cursor(run, entry.seq), pages))
                pages = []
        elif isinstance(entry, Linked):
            replies.append(PageLinked(job, cursor(run, entry.seq), entry.url, entry.parent))
        else:
            replies.append(PageMoved(job, cursor(run, entry.seq), entry.url, entry.depth, entry.parent))
    return replies
