"""Who is connected, and which submissions keep which jobs alive.

A *submission* is one client's id for a job. Several may share a job; each keeps it alive.
A submission belongs to the connection it came by. When that is lost, another connection of
the same client that follows the job takes it over, or one that resumes it later does; if
none has for the grace time, it is to be taken back, and with a job's last one the job ends.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from crawlfarm.config import Timings


@dataclass(slots=True, eq=False)
class Submission:
    """:ivar job: empty until the job is a committed row.
    :ivar repeats: how often it was sent again until then.
    """

    id: str
    body: str
    detach: bool
    job: str = ""
    joined: bool = False
    repeats: int = 0


@dataclass(slots=True, eq=False)
class Connection:
    """:ivar talks: requests being answered.
    :ivar quiet_since: the last thing heard from it, or the end of its last job.
    """

    number: int
    client: str
    quiet_since: float
    paused: bool = False
    gone: bool = False
    talks: int = 0
    follows: dict[str, None] = field(default_factory=dict)
    submissions: dict[str, Submission] = field(default_factory=dict)

    def submitted(self, job: str) -> list[Submission]:
        return [s for s in self.submissions.values() if s.job == job]


@dataclass(frozen=True, slots=True)
class Left:
    """A submission nobody waits for."""

    client: str
    submission: Submission


class Presence:
    """The connections of one gateway. Times are seconds on a clock that never goes back."""

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._connections: dict[int, Connection] = {}
        self._idle_checks: list[tuple[float, int]] = []
        self._leaving: dict[tuple[str, str, str], tuple[float, Left]] = {}

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._connections.values())

    def get(self, number: int) -> Connection | None:
        return self._connections.get(number)

    def arrive(self, number: int, client: str, now: float) -> None:
        self._connections[number] = Connection(number, client, quiet_since=now)
        heapq.heappush(self._idle_checks, (now + self._timings.idle_s, number))

    def depart(self, number: int) -> Connection | None:
        connection = self._connections.pop(number, None)
        if connection is not None:
            connection.gone = True
        return connection

    def idle(self, now: float) -> list[int]:
        """Connections that have had no job and said nothing for too long; each told once."""
        found: list[int] = []
        while self._idle_checks and self._idle_checks[0][0] <= now:
            _, number = heapq.heappop(self._idle_checks)
            connection = self._connections.get(number)
            if connection is None:
                continue
            busy = connection.follows or connection.talks
            due = (now if busy else connection.quiet_since) + self._timings.idle_s
            if due > now:
                heapq.heappush(self._idle_checks, (due, number))
            else:
                found.append(number)
        return found

    # --- submissions ----------------------------------------------------------------

    def hand_on(self, lost: Connection, submission: Submission, followers: Iterable[int], now: float) -> None:
        """The connection a submission came by is gone.

        :param followers: who follows its job now.
        """
        others = [c for c in map(self.get, followers) if c is not None and c.client == lost.client]
        if any(submission.id in other.submissions for other in others):
            return
        for other in others:
            if not other.submitted(submission.job):
                other.submissions[submission.id] = submission
                return
        self.leave(lost.client, submission, now)

    def leave(self, client: str, submission: Submission, now: float) -> None:
        """Take it back after the grace time, unless somebody comes for it."""
        if not submission.detach:
            key = (submission.job, client, submission.id)
            self._leaving[key] = (now + self._timings.leave_grace_s, Left(client, submission))

    def returned(self, client: str, submission: Submission) -> None:
        """It was submitted again."""
        self._leaving.pop((submission.job, client, submission.id), None)

    def adopt(self, connection: Connection, job: str) -> None:
        """Somebody came back for a job: one submission less that nobody waits for.

        Which of several is all the same, as they are for the same job.
        """
        for key, (_, left) in self._leaving.items():
            if key[:2] == (job, connection.client) and key[2] not in connection.submissions:
                del self._leaving[key]
                connection.submissions[key[2]] = left.submission
                return

    def overdue(self, now: float) -> list[Left]:
        """The submissions whose grace time is over; each told once."""
        due = [key for key, (at, _) in self._leaving.items() if at <= now]
        return [self._leaving.pop(key)[1] for key in due]
