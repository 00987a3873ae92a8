"""What the farm needs from the outside, as interfaces.

Each has an embedded implementation in :mod:`crawlfarm.adapters.memory` (or ``sql``) and
one over a real server; a contract suite in ``tests/contracts`` runs over both. The code
above never asks which one it has.

Methods return awaitables that Twisted and asyncio code may both await through
Deferreds. A server that is away raises :class:`~crawlfarm.errors.Unavailable`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from crawlfarm.wire import lockd
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Entry, Progress, Receipt
from crawlfarm.wire.queue import JobEnded, JobQueued

# --- the frontier ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Child:
    """A link of a page, ready for the frontier.

    :ivar url: the page's identity: its canonical URL.
    :ivar spelling: how to ask for it, where that is not ``url``.
    :ivar skip: why it is not to be fetched (``scope``, ``extension``, ...), or empty.
    """

    url: str
    spelling: str = ""
    skip: str = ""


@dataclass(frozen=True, slots=True)
class LeaseRef:
    """Names one lease: the page's canonical URL, and what fences it."""

    job: str
    run: int
    lease: int
    url: str


@dataclass(frozen=True, slots=True)
class PageLease:
    """One page handed out to a worker.

    :ivar ref: what to finish, extend or release it with.
    :ivar fetch: the URL to ask for, as first spelled.
    :ivar depth: the lowest known so far; it may be lowered while the page runs.
    :ivar base: what the job's scope is measured by: the URL the seed led to.
    :ivar attempt: 1 for the first worker that gets it.
    """

    ref: LeaseRef
    fetch: str
    depth: int
    attempt: int
    spec: JobSpec
    base: str


@dataclass(frozen=True, slots=True)
class Finish:
    """How a leased page ended.

    :ivar disposition: ``fetched``, ``failed:<reason>`` or ``skipped:<reason>``.
    :ivar children: the page's links, once each; ``None`` when they were not looked
        for because the page was on the last level (answered ``links_wanted`` if it
        no longer is). A seeding lease's children are the seeds, at depth 0.
    :ivar own_network: its address is one the operator opened
        (``CRAWLFARM_ALLOW_NETWORKS``): the host takes as many requests as it is sent.
    """

    ref: LeaseRef
    disposition: str
    children: Sequence[Child] | None = ()
    status: int = 0
    final_url: str = ""
    title: str = ""
    content_type: str = ""
    bytes: int = 0
    elapsed_ms: int = 0
    own_network: bool = False


DONE = "done"
"""Verdict: the finish was applied."""
STALE = "stale"
"""Verdict: the lease was not valid any more; nothing was applied."""
LATER = "later"
"""Verdict: the shard of this page's job is away; hand it in again."""
LINKS_WANTED = "links_wanted"
"""Verdict: finish again with the links; the lease is kept."""


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The answer to an exchange.

    :ivar verdicts: one for each finished page, in their order.
    :ivar leases: the pages now leased to this worker.
    :ivar running: of the jobs named in the call, those not ended; all running jobs'
        ids when none were named.
    """

    verdicts: list[str]
    leases: list[PageLease]
    running: frozenset[str]


RUNS_PER_TOKEN = 1000
"""Runs are numbered from here on for each token: one begun by a later master is higher than
any its predecessors began, also when nothing of theirs is left to read."""


@dataclass(frozen=True, slots=True)
class Opened:
    """:ivar run: counts up whenever the job's log begins anew.
    :ivar seeding: the lease to finish with the seeds; ``None`` when that is done."""

    run: int
    seeding: LeaseRef | None


@dataclass(frozen=True, slots=True)
class LogSlice:
    """A piece of a job's log.

    :ivar state: ``running``, ``done`` or ``cancelled``.
    :ivar final_depth: records at this depth or nearer to the seed cannot move any more.
    """

    run: int
    entries: list[Entry]
    state: str
    final_depth: int


@dataclass(frozen=True, slots=True)
class FrontierStatus:
    run: int
    state: str
    progress: Progress
    receipt: Receipt


class FrontierStore(Protocol):
    """The shared frontier. Every call is atomic; see :mod:`crawlfarm.core.frontier`."""

    def open(self, job: str, spec: JobSpec, token: int) -> Awaitable[Opened]:
        """Create the job, or attach to it as its newest master.

        :raises StaleToken: a higher token has been here.
        """

    def exchange(
        self,
        worker: str,
        finished: Sequence[Finish],
        want: int,
        jobs: Collection[str] | None = None,
        spiders: Collection[str] | None = None,
    ) -> Awaitable[Exchanged]:
        """Hand in finished pages, get up to ``want`` new ones."""

    def extend(self, worker: str, leases: Sequence[LeaseRef]) -> Awaitable[list[bool]]:
        """Keep leases for another page lease; false for those already lost."""

    def release(self, worker: str, leases: Sequence[LeaseRef]) -> Awaitable[int]:
        """Give pages back unfetched; costs them no attempt. How many were taken back."""

    def reap(self) -> Awaitable[int]:
        """Queue again what was leased too long ago. How many pages."""

    def cancel(self, job: str, token: int, reason: str) -> Awaitable[bool]:
        """Settle everything outstanding as ``skipped:<reason>``; false if it had ended.

        :raises StaleToken: a higher token has been here.
        """

    def events(self, job: str, after: int, limit: int = 1000) -> Awaitable[LogSlice | None]:
        """Up to ``limit`` log entries with ``seq > after``; ``None`` for an unknown job."""

    def status(self, job: str) -> Awaitable[FrontierStatus | None]: ...

    def audit(self, job: str) -> Awaitable[list[str]]:
        """What is inconsistent in the job's structures, in words; empty when sound."""

    def forget(self, job: str, token: int) -> Awaitable[None]:
        """Drop an ended job.

        :raises StaleToken: a higher token has been here.
        """

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` soon after anything changed; returns how to stop that."""


# --- jobs, queue, results, cache --------------------------------------------------


class LockService(Protocol):
    """The lock daemon, however it is reached."""

    def call(self, command: lockd.Command) -> Awaitable[lockd.Answer]:
        """:raises Unavailable: nobody who may decide answers."""

    def watch(self, master: str, notice: Callable[[lockd.CancelWanted], None]) -> Callable[[], None]:
        """Hear of cancels of this master's leases at once; returns how to stop."""


class Delivery(Protocol):
    """A queued job in a master's hands, until it is acked or given back."""

    @property
    def message(self) -> JobQueued: ...

    def ack(self) -> None: ...

    def requeue(self) -> None: ...


class JobQueue(Protocol):
    """How a master hears of a job, and a gateway of its end."""

    def publish(self, message: JobQueued) -> Awaitable[None]:
        """Returns once the queue has it for sure.

        :raises Unavailable: it did not.
        """

    def consume(self, deliver: Callable[[Delivery], None]) -> Callable[[], None]:
        """Deliver jobs one by one; returns how to cancel, after which none arrives."""

    def publish_ended(self, message: JobEnded) -> Awaitable[None]: ...

    def on_ended(self, ended: Callable[[JobEnded], None]) -> Callable[[], None]:
        """Hear of every ended job; returns how to stop."""


class ResultStore(Protocol):
    """What finished jobs found, until it expires."""

    def put(self, job: str, token: int, data: bytes, ttl_s: float) -> Awaitable[None]:
        """:raises StaleToken: a result under a higher token is there."""

    def get(self, job: str) -> Awaitable[bytes | None]: ...


class Cache(Protocol):
    """Answers by question. Losing it costs time, nothing else: no method raises."""

    def get(self, key: str) -> Awaitable[tuple[int, bytes] | None]:
        """``(depth, data)``, and the entry's time to live starts again."""

    def put(self, key: str, depth: int, data: bytes) -> Awaitable[bool]:
        """Keep an answer, unless one at least as deep is there. Whether it was kept."""
