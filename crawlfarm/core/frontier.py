"""The frontier as plain Python: the executable specification of ``FrontierStore``.

How a page moves through it::

    seed ──> queued ──exchange──> leased ──finish──> ended (disposition, log entry)
               ^                    │  └─ links_wanted: the lease stays
               └── release, reap ───┘

    ended ──a shorter way, links unread──> queued again, for its links only

Every method takes ``now`` (seconds on any clock that never goes back) and is one atomic
step; there is no I/O and no clock in here. What may be relied on:

* each URL found has exactly one disposition, or is outstanding;
* a job is done in the very call that settles its last outstanding page, once;
* a finish applies only under the lease it was given, a master's call only under the
  highest token seen; everything else is refused and changes nothing;
* depths are those of a sequential breadth-first crawl (:mod:`crawlfarm.core.frontier_job`).
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence

from crawlfarm.core.frontier_job import Job
from crawlfarm.core.frontier_page import LEASED, Page
from crawlfarm.core.levels import receipt_of
from crawlfarm.core.ports import (
    DONE,
    LINKS_WANTED,
    STALE,
    Exchanged,
    Finish,
    FrontierStatus,
    LeaseRef,
    LogSlice,
    Opened,
    PageLease,
)
from crawlfarm.errors import StaleToken
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Progress

SEEDING = ""
"""The URL in the :class:`LeaseRef` of a seeding."""


class Host:
    """What the farm does to one host now.

    :ivar own: it is in a network the operator opened: no limit of requests in flight.
    :ivar waiting: jobs whose pages were set aside for it.
    """

    __slots__ = ("in_flight", "own", "waiting")

    def __init__(self) -> None:
        self.in_flight = 0
        self.own = False
        self.waiting: set[str] = set()


class FrontierModel:
    """All jobs of a farm.

    :param page_lease_s: how long a page stays with a worker that says nothing.
    :param page_attempts: after this many lost workers a page is ``failed:worker_lost``.
    :param host_concurrency: requests in flight to one host, over all jobs and workers.
    :param cascade: about how many links of a job one call follows to carry lowered depths on.

    :ivar changes: goes up when pages were queued or ended, or a job opened or ended: all
        that somebody may wait for.
    """

    def __init__(
        self,
        *,
        page_lease_s: float = 20.0,
        page_attempts: int = 3,
        host_concurrency: int = 8,
        cascade: int = 2000,
    ) -> None:
        self._page_lease_s = page_lease_s
        self._page_attempts = page_attempts
        self._host_concurrency = host_concurrency
        self._cascade = cascade
        self._jobs: dict[str, Job] = {}
        self._hosts: dict[str, Host] = {}
        self._turns: dict[str, None] = {}
        self._leases = 0
        self._expiries: list[tuple[float, int, str, str]] = []
        self.changes = 0

    # --- the master's calls -------------------------------------------------------

    def open(self, now: float, job: str, spec: JobSpec, token: int) -> Opened:
        state = self._jobs.get(job)
        if state is None:
            state = self._jobs[job] = Job(job, spec, token)
            self._turns[job] = None
        else:
            self._fence(state, token)
        self.changes += 1
        seeding = None
        if state.running and state.seeding:
            self._leases += 1
            state.seeding_lease = self._leases
            seeding = LeaseRef(job, state.run, self._leases, SEEDING)
        return Opened(state.run, seeding)

    def cancel(self, now: float, job: str, token: int, reason: str) -> bool:
        state = self._jobs.get(job)
        if state is None:
            return False
        self._fence(state, token)
        if not state.running:
            return False
        leased = sorted(page.host for page in state.pages.values() if page.state == LEASED)
        state.end(reason)
        for host in leased:
            self._host_freed(host)
        self._retire(state)
        self.changes += 1
        return True

    def forget(self, now: float, job: str, token: int) -> None:
        state = self._jobs.get(job)
        if state is not None:
            self._fence(state, token)
            if not state.running:
                del self._jobs[job]

    # --- the workers' calls ---------------------------------------------------------

    def exchange(
        self,
        now: float,
        worker: str,
        finished: Sequence[Finish],
        want: int,
        jobs: Collection[str] | None = None,
        spiders: Collection[str] | None = None,
    ) -> Exchanged:
        # A finish first: one that is late but not yet reaped still counts. Then reap,
        # which ends the job whose last page this was.
        verdicts = [self._finish(now, finish) for finish in finished]
        self.changes += verdicts.count(DONE)
        self.reap(now)
        running = [self._jobs[job] for job in self._turns if jobs is None or job in jobs]
        served = [state for state in running if spiders is None or state.spec.spider in spiders]
        leases: list[PageLease] = []
        while served and len(leases) < want:
            # One page a job in turn: a large job does not hold up a small one.
            served = [s for s in served if len(leases) < want and self._lease_next(now, s, leases)]
        for lease in leases:
            # The job that waited longest is first in the next exchange.
            self._turns[lease.ref.job] = self._turns.pop(lease.ref.job)
        return Exchanged(verdicts, leases, frozenset(state.id for state in running))

    def extend(self, now: float, worker: str, leases: Sequence[LeaseRef]) -> list[bool]:
        kept = []
        for ref in leases:
            page = self._leased(ref)
            if page is not None:
                page.expires = now + self._page_lease_s
            kept.append(page is not None)
        return kept

    def release(self, now: float, worker: str, leases: Sequence[LeaseRef]) -> int:
        taken = 0
        for ref in leases:
            page = self._leased(ref)
            if page is not None:
                state = self._jobs[ref.job]
                state.give_back(page)
                self._host_freed(page.host)
                self._settled(state)
                taken += 1
        self.changes += taken
        return taken

    def reap(self, now: float) -> int:
        """Queue expired leases again, carry on cascades, and end the jobs that are through."""
        lost = 0
        while self._expiries and self._expiries[0][0] <= now:
            expires, lease, job, url = heapq.heappop(self._expiries)
            state = self._jobs.get(job)
            page = state.pages.get(url) if state is not None and state.running else None
            if state is None or page is None or page.state != LEASED or page.lease != lease:
                continue
            if page.expires > expires:
                # Extended meanwhile: it is looked at in the order of its new expiry.
                heapq.heappush(self._expiries, (page.expires, lease, job, url))
                continue
            lost += 1
            page.losses += 1
            if page.losses >= self._page_attempts:
                state.give_up(page, "failed:worker_lost")
            else:
                state.give_back(page)
            self._host_freed(page.host)
        self.changes += lost
        for job in list(self._turns):
            self._settled(self._jobs[job])
        return lost

    # --- reading ----------------------------------------------------------------------

    def events(self, now: float, job: str, after: int, limit: int = 1000) -> LogSlice | None:
        state = self._jobs.get(job)
        if state is None:
            return None
        return LogSlice(state.run, state.log[after : after + limit], state.state, state.final_depth)

    def status(self, now: float, job: str) -> FrontierStatus | None:
        state = self._jobs.get(job)
        if state is None:
            return None
        receipt = receipt_of(state.counts, cut=state.flawed)
        progress = Progress(
            found=len(state.pages),
            fetched=receipt.fetched,
            failed=sum(receipt.failed.values()),
            skipped=sum(receipt.skipped.values()),
            queued=state.queued,
            leased=state.leased,
            depth=max(0, min(state.floor, state.last_level)),
        )
        return FrontierStatus(state.run, state.state, progress, receipt)

    def audit(self, now: float, job: str) -> list[str]:
        state = self._jobs.get(job)
        return state.audit() if state is not None else []

    # --- the steps --------------------------------------------------------------------

    def _fence(self, state: Job, token: int) -> None:
        if token < state.token:
            raise StaleToken(f"job {state.id} has been taken over: token {token} is older than {state.token}")
        state.token = token

    def _is_running(self, job: str) -> bool:
        state = self._jobs.get(job)
        return state is not None and state.running

    def _leased(self, ref: LeaseRef) -> Page | None:
        """The page under a lease that is still valid."""
        state = self._jobs.get(ref.job)
        if state is None or not state.running or state.run != ref.run:
            return None
        page = state.pages.get(ref.url)
        return page if page is not None and page.state == LEASED and page.lease == ref.lease else None

    def _finish(self, now: float, finish: Finish) -> str:
        ref = finish.ref
        if ref.url == SEEDING:
            return self._finish_seeding(finish)
        page = self._leased(ref)
        if page is None:
            return STALE
        state = self._jobs[ref.job]
        if state.wants_links(page, finish):
            page.expires = now + self._page_lease_s
            return LINKS_WANTED
        if finish.own_network:
            self._host(page.host).own = True
        state.finish(page, finish)
        self._host_freed(page.host)
        return DONE

    def _finish_seeding(self, finish: Finish) -> str:
        state = self._jobs.get(finish.ref.job)
        if state is None or not state.running or not state.seeding or state.seeding_lease != finish.ref.lease:
            return STALE
        state.seed(finish.children or ())
        return DONE

    def _settled(self, state: Job) -> None:
        """Each call that may end pages comes through here: it may have been the last."""
        if state.running:
            self.changes += state.cascading > 0
            state.cascade(self._cascade)
            state.finish_if_done()
            if not state.running:
                self._retire(state)

    def _retire(self, state: Job) -> None:
        del self._turns[state.id]

    def _lease_next(self, now: float, state: Job, leases: list[PageLease]) -> bool:
        """Lease one page of the job; false if it has none that may go out now."""
        if not state.may_lease:
            return False
        url = state.queue.pop(lambda host: self._may_ask(host, state.id))
        if url is None:
            return False
        page = state.pages[url]
        self._leases += 1
        expires = now + self._page_lease_s
        state.lease(page, self._leases, expires)
        heapq.heappush(self._expiries, (expires, self._leases, state.id, url))
        self._host(page.host).in_flight += 1
        leases.append(
            PageLease(
                ref=LeaseRef(state.id, state.run, self._leases, url),
                fetch=page.spelling or url,
                depth=page.depth,
                attempt=page.losses + 1,
                spec=state.spec,
                base=state.base,
            )
        )
        return True

    # --- hosts ------------------------------------------------------------------------

    def _host(self, name: str) -> Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host()
        return host

    def _may_ask(self, name: str, job: str) -> bool:
        host = self._host(name)
        if host.own or host.in_flight < self._host_concurrency:
            return True
        host.waiting.add(job)
        return False

    def _host_freed(self, name: str) -> None:
        host = self._host(name)
        host.in_flight -= 1
        waiting, host.waiting = host.waiting, set()
        for job in waiting:
            if self._is_running(job):
                self._jobs[job].queue.unblock(name)
        if not host.in_flight and not host.own:
            del self._hosts[name]
