"""The frontier model with a second set of books: every call is checked as it happens.

:class:`CheckedFrontier` has the model's calls without ``now``. It keeps its own list of
which leases are valid, and its own fold of each job's log, and after every call it holds
both against the model. A call that breaks a promise raises ``AssertionError`` there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from crawlfarm.core.frontier import SEEDING, FrontierModel
from crawlfarm.core.frontier_job import Job
from crawlfarm.core.frontier_page import ENDED, LEASED, QUEUED
from crawlfarm.core.levels import fold, receipt_of
from crawlfarm.core.ports import DONE, LINKS_WANTED, STALE, Exchanged, Finish, LeaseRef, Opened
from crawlfarm.errors import StaleToken
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Ended, Entry, Linked, Moved, PageRecord


@dataclass
class Held:
    """A lease that is valid as far as the outside can know."""

    worker: str
    expires: float


@dataclass
class Seen:
    """What the outside has learned of a job so far."""

    spec: JobSpec
    token: int
    records: dict[str, PageRecord] = field(default_factory=dict)
    log: list[Entry] = field(default_factory=list)
    losses: Counter[str] = field(default_factory=Counter)
    seeding: LeaseRef | None = None
    state: str = "running"
    final_depth: int = -1
    ended: int = 0


class CheckedFrontier:
    """See the module. ``now`` only moves by :meth:`advance`."""

    def __init__(self, **options: Any) -> None:
        self.page_lease_s = float(options.get("page_lease_s", 20.0))
        self.page_attempts = int(options.get("page_attempts", 3))
        self.host_concurrency = int(options.get("host_concurrency", 8))
        self.model = FrontierModel(**options)
        self.now = 0.0
        self.held: dict[LeaseRef, Held] = {}
        self.seen: dict[str, Seen] = {}
        self.own: set[str] = set()
        self.refetches = 0
        self.moves = 0

    def advance(self, seconds: float) -> None:
        self.now += seconds

    # --- the calls --------------------------------------------------------------------

    def open(self, job: str, spec: JobSpec, token: int) -> Opened:
        seen = self.seen.get(job)
        try:
            opened = self.model.open(self.now, job, spec, token)
        except StaleToken:
            assert seen is not None and token < seen.token, "a token that is not stale was refused"
            self._check()
            raise
        if seen is None:
            seen = self.seen[job] = Seen(spec, token)
        assert token >= seen.token, "a stale token opened the job"
        seen.token = token
        assert (opened.seeding is not None) == self.model._jobs[job].seeding
        if opened.seeding is not None:
            assert opened.seeding != seen.seeding, "two masters have the same seeding lease"
        seen.seeding = opened.seeding
        self._check()
        return opened

    def exchange(
        self,
        worker: str,
        finished: Sequence[Finish] = (),
        want: int = 0,
        jobs: Collection[str] | None = None,
        spiders: Collection[str] | None = None,
    ) -> Exchanged:
        answer = self.model.exchange(self.now, worker, finished, want, jobs, spiders)
        assert len(answer.verdicts) == len(finished)
        applied = [self._verdict(finish, verdict) for finish, verdict in zip(finished, answer.verdicts, strict=True)]
        self._expire()
        assert len(answer.leases) <= want
        for lease in answer.leases:
            ref = lease.ref
            state, seen = self.model._jobs[ref.job], self.seen[ref.job]
            assert ref not in self.held, "a lease was given twice"
            assert all((r.job, r.url) != (ref.job, ref.url) for r in self.held), "a page is with two workers"
            assert jobs is None or ref.job in jobs
            assert spiders is None or lease.spec.spider in spiders
            assert lease.depth == state.pages[ref.url].depth < lease.spec.depth
            assert lease.attempt == seen.losses[ref.url] + 1, "an attempt was miscounted"
            self.refetches += state.pages[ref.url].refetch
            self.held[ref] = Held(worker, self.now + self.page_lease_s)
            self._check_order(state, lease.depth)
        running = {job for job, state in self.model._jobs.items() if state.running}
        assert answer.running == running.intersection(running if jobs is None else jobs)
        self._check({told for told in applied if told})
        if len(answer.leases) < want:
            self._check_nothing_left_lying(running if jobs is None else jobs, spiders)
        return answer

    def extend(self, worker: str, leases: Sequence[LeaseRef]) -> list[bool]:
        kept = self.model.extend(self.now, worker, leases)
        assert kept == [ref in self.held for ref in leases]
        for ref in leases:
            if ref in self.held:
                self.held[ref].expires = self.now + self.page_lease_s
        self._check()
        return kept

    def release(self, worker: str, leases: Sequence[LeaseRef]) -> int:
        valid = set(leases) & self.held.keys()
        taken = self.model.release(self.now, worker, leases)
        assert taken == len(valid), "what was released was not what was held"
        for ref in valid:
            del self.held[ref]
        self._check()
        return taken

    def reap(self) -> int:
        lost = self.model.reap(self.now)
        assert lost == self._expire(), "other pages were reaped than had expired"
        self._check()
        return lost

    def cancel(self, job: str, token: int, reason: str = "cancelled") -> bool:
        seen = self.seen.get(job)
        try:
            cancelled = self.model.cancel(self.now, job, token, reason)
        except StaleToken:
            assert seen is not None and token < seen.token, "a token that is not stale was refused"
            self._check()
            raise
        assert cancelled == (seen is not None and seen.state == "running")
        if seen is not None:
            assert token >= seen.token, "a stale token cancelled the job"
            seen.token = token
        for ref in [ref for ref in self.held if ref.job == job]:
            del self.held[ref]
        self._check(ending=job if cancelled else "")
        status = self.model.status(self.now, job)
        assert not cancelled or (status is not None and not status.receipt.complete)
        return cancelled

    def forget(self, job: str, token: int) -> None:
        seen = self.seen.get(job)
        try:
            self.model.forget(self.now, job, token)
        except StaleToken:
            assert seen is not None and token < seen.token, "a token that is not stale was refused"
            raise
        if seen is not None:
            assert token >= seen.token, "a stale token dropped the job"
            seen.token = token
            assert (job in self.model._jobs) == (seen.state == "running")
            if seen.state != "running":
                del self.seen[job]
        self._check()

    # --- the second set of books --------------------------------------------------------

    def _verdict(self, finish: Finish, verdict: str) -> tuple[str, str] | None:
        """Hold one verdict against the books; the URL and title of what was applied, if anything."""
        ref = finish.ref
        seen = self.seen.get(ref.job)
        if ref.url == SEEDING:
            valid = seen is not None and seen.state == "running" and seen.seeding == ref
            assert verdict == (DONE if valid else STALE), f"a seeding was {verdict}"
            if valid and seen is not None:
                seen.seeding = None
            return None
        if ref not in self.held:
            assert verdict == STALE, f"{verdict} for a lease that is not valid: {ref}"
            return None
        assert verdict != STALE, f"a valid lease was refused: {ref}"
        if verdict == LINKS_WANTED:
            assert finish.children is None and finish.disposition == "fetched"
            self.held[ref].expires = self.now + self.page_lease_s
            return None
        del self.held[ref]
        if finish.own_network:
            self.own.add(self.model._jobs[ref.job].pages[ref.url].host)
        return ref.url, finish.title

    def _expire(self) -> int:
        expired = [ref for ref, held in self.held.items() if held.expires <= self.now]
        for ref in expired:
            del self.held[ref]
            self.seen[ref.job].losses[ref.url] += 1
        return len(expired)

    # --- the invariants -----------------------------------------------------------------

    def _check(self, applied: Collection[tuple[str, str]] = (), ending: str = "") -> None:
        for job, seen in self.seen.items():
            self._check_job(job, seen, applied, ending == job)
        self._check_hosts()

    def _check_job(self, job: str, seen: Seen, applied: Collection[tuple[str, str]], cancelled: bool) -> None:
        state = self.model._jobs[job]
        assert self.model.audit(self.now, job) == []
        self._read_log(job, seen, applied, cancelled)
        status = self.model.status(self.now, job)
        assert status is not None and status.state == seen.state == state.state
        counts = Counter(record.disposition for record in seen.records.values())
        receipt, progress = status.receipt, status.progress
        assert receipt == receipt_of(dict(counts), cut=state.flawed), "the receipt is not that of the log"
        assert receipt.found == receipt.fetched + sum(receipt.failed.values()) + sum(receipt.skipped.values())
        most = seen.spec.max_pages
        assert most is None or receipt.fetched <= most, "more pages than max_pages"

        undecided = 0
        for url, page in state.pages.items():
            record = seen.records.get(url)
            if record is None:
                assert page.state != ENDED and not page.disposition and not page.refetch
                undecided += 1
            else:
                assert page.state == ENDED or page.refetch, "a page with a disposition is out for something else"
                told = (record.disposition, record.depth, record.parent)
                assert told == (page.disposition, page.depth, page.parent), "the log disagrees with the page"
                assert not page.broken or record.linked_from == page.linkers
            if page.links and page.state == ENDED and url not in state._cascading:
                assert state.running and page.depth > state.floor + 1, "links kept that nobody can need"
            assert page.depth < seen.spec.depth
        assert progress.found == len(state.pages) == undecided + len(seen.records)
        assert (progress.queued, progress.leased) == (state.queued, state.leased)
        held = [ref for ref in self.held if ref.job == job]
        assert {ref.url for ref in held} == {url for url, page in state.pages.items() if page.state == LEASED}
        outstanding = state.queued + state.leased + state.cascading + state.seeding
        assert (seen.state == "running") == (outstanding > 0), "the end is early or late"

    def _read_log(self, job: str, seen: Seen, applied: Collection[tuple[str, str]], cancelled: bool) -> None:
        piece = self.model.events(self.now, job, len(seen.log), 10**9)
        assert piece is not None
        assert not piece.entries or seen.state == "running", "an ended job has more to say"
        for entry in piece.entries:
            assert entry.seq == len(seen.log) + 1, "the log has a gap"
            self._read_entry(entry, seen, applied)
            seen.log.append(entry)
        assert piece.final_depth >= seen.final_depth, "the floor fell"
        seen.final_depth = piece.final_depth
        if piece.state != seen.state:
            assert seen.state == "running", "a job ended twice"
            assert piece.state in (("done", "cancelled") if cancelled else ("done",))
            seen.state = piece.state
            seen.ended += 1
            assert fold(seen.log) == seen.records

    def _read_entry(self, entry: Entry, seen: Seen, applied: Collection[tuple[str, str]]) -> None:
        if isinstance(entry, Ended):
            page = entry.page
            assert page.url not in seen.records, "a second disposition"
            if (page.url, page.title) not in applied:
                assert not page.title, "a finish was applied that was refused"
                own = page.disposition.startswith("skipped:") or page.disposition == "failed:worker_lost"
                assert own, f"{page.url} is {page.disposition}, which nobody said"
            seen.records[page.url] = fold([entry])[page.url]
            # Should it go out again for its links, it starts with its first attempt.
            del seen.losses[page.url]
        elif isinstance(entry, Moved):
            record = seen.records[entry.url]
            assert entry.depth < record.depth, "a page moved away from the seed"
            assert record.depth > seen.final_depth, "a page moved that was said to be final"
            record.depth, record.parent = entry.depth, entry.parent
            self.moves += 1
        elif isinstance(entry, Linked):
            record = seen.records[entry.url]
            assert record.broken and entry.parent not in record.linked_from
            record.linked_from.append(entry.parent)

    def _check_hosts(self) -> None:
        out = Counter(
            page.host for job in self.model._jobs.values() for page in job.pages.values() if page.state == LEASED
        )
        counted = {name: host.in_flight for name, host in self.model._hosts.items() if host.in_flight}
        assert counted == dict(out), "requests in flight are miscounted"
        for host, count in out.items():
            assert host in self.own or count <= self.host_concurrency, f"{count} requests at once to {host}"

    def _may_ask(self, host: str) -> bool:
        known = self.model._hosts.get(host)
        return host in self.own or known is None or known.in_flight < self.host_concurrency

    def _check_order(self, state: Job, depth: int) -> None:
        nearer = [
            p.url for p in state.pages.values() if p.state == QUEUED and p.depth < depth and self._may_ask(p.host)
        ]
        assert not nearer, f"a page at depth {depth} went out before {nearer}"

    def _check_nothing_left_lying(self, jobs: Collection[str], spiders: Collection[str] | None) -> None:
        for job in jobs:
            state = self.model._jobs.get(job)
            if state is None or not state.running or (spiders is not None and state.spec.spider not in spiders):
                continue
            most = state.spec.max_pages
            fetching = sum(page.state == LEASED and not page.refetch for page in state.pages.values())
            if most is not None and state.counts.get("fetched", 0) + fetching >= most:
                continue
            lying = [p.url for p in state.pages.values() if p.state == QUEUED and self._may_ask(p.host)]
            assert not lying, f"{lying} could have been handed out"
