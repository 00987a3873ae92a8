"""A farm in one thread: workers, masters and all their mishaps, in a random order.

:class:`Farm` crawls sites in memory through a :class:`~tests.support.checked.CheckedFrontier`.
First everything may go wrong, then (:meth:`Farm.drain`) nothing does, and the jobs must end.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from crawlfarm.core.frontier import SEEDING
from crawlfarm.core.ports import LINKS_WANTED, Child, Finish, LeaseRef, PageLease
from crawlfarm.errors import StaleToken
from crawlfarm.wire.jobs import JobSpec
from tests.support.checked import CheckedFrontier
from tests.support.sites import Site

POISON = Child("http://poison.test/")
"""What only a finish that must be refused leads to."""


@dataclass
class Worker:
    """One worker: the pages it runs, and the finishes it has not handed in."""

    name: str
    running: dict[LeaseRef, tuple[PageLease, float]] = field(default_factory=dict)
    outbox: dict[LeaseRef, Finish] = field(default_factory=dict)


class Farm:
    """Some workers and one job for each site.

    :param trouble: how likely each mishap is at each occasion, 0 to 1.
    :param read: how likely a worker reads the links of a page on the last level.
    :param flaky: a page fetched again may fail where it did not before.
    """

    def __init__(
        self,
        rng: random.Random,
        frontier: CheckedFrontier,
        sites: dict[str, Site],
        *,
        workers: int,
        trouble: float,
        read: float = 0.1,
        flaky: bool = False,
    ) -> None:
        self.rng = rng
        self.frontier = frontier
        self.sites = sites
        self.trouble = trouble
        self.read = read
        self.flaky = flaky
        self.workers = [Worker(f"worker-{n}") for n in range(workers)]
        self.past: list[Finish] = []
        self.own = {f"h{n}.test" for n in range(4) if rng.random() < 0.2}

    def open(self, job: str, spec: JobSpec) -> None:
        """A master takes the job, and mostly gets as far as seeding it."""
        self._open(job, spec, 1)

    def run(self, steps: int) -> None:
        """Let the farm work, with mishaps, until its jobs have ended or for so many steps."""
        for _ in range(steps):
            if not self._running():
                break
            self._step()

    def drain(self) -> None:
        """Let the farm work without a mishap until its jobs have ended.

        :raises AssertionError: they do not.
        """
        self.trouble = 0.0
        pages = sum(len(site.pages) for site in self.sites.values())
        for _ in range(20 * pages + 100):
            running = self._running()
            if not running:
                return
            for job in running:
                seen = self.frontier.seen[job]
                if seen.seeding is not None:
                    self._seed(job, seen.seeding)
            for worker in self.workers:
                self._exchange(worker)
            self.frontier.advance(self.frontier.page_lease_s / 4)
        raise AssertionError(f"not done: {self.frontier.seen}")

    # --- what happens ---------------------------------------------------------------------

    def _running(self) -> list[str]:
        return [job for job, seen in self.frontier.seen.items() if seen.state == "running"]

    def _mishap(self) -> bool:
        return self.rng.random() < self.trouble

    def _step(self) -> None:
        worker = self.rng.choice(self.workers)
        self._exchange(worker)
        self.frontier.advance(self.rng.random() * 0.1 * self.frontier.page_lease_s)
        if self._mishap():
            self.rng.choice([self._lose_time, self._crash, self._release, self._replay, self._reap, self._takeover])()

    def _exchange(self, worker: Worker) -> None:
        now = self.frontier.now
        running = list(worker.running)
        self.frontier.extend(worker.name, self._some(running) if self._mishap() else running)
        for ref, (lease, ready_at) in list(worker.running.items()):
            if ready_at <= now:
                del worker.running[ref]
                worker.outbox[ref] = self._finish(lease)
        batch = list(worker.outbox.values())
        if self._mishap():
            batch = self._some(batch)
        if batch and self._mishap():
            batch.append(self.rng.choice(batch))
        jobs = [self.rng.choice(list(self.sites))] if self._mishap() else None
        answer = self.frontier.exchange(worker.name, batch, self.rng.choice([0, 1, 2, 5]), jobs)
        if self._mishap():
            return  # The reply is lost: the worker hands in the same again, the leases expire.
        for finish, verdict in zip(batch, answer.verdicts, strict=True):
            worker.outbox.pop(finish.ref, None)
            if verdict == LINKS_WANTED:
                links = self.sites[finish.ref.job].children(finish.ref.url)
                worker.outbox[finish.ref] = replace(finish, children=links)
            else:
                self.past.append(finish)
        for lease in answer.leases:
            slow = self.sites[lease.ref.job].pages[lease.ref.url].slow
            delay = self.rng.random() * (10.0 if slow else 0.05) * self.frontier.page_lease_s
            worker.running[lease.ref] = (lease, now + delay)

    def _finish(self, lease: PageLease) -> Finish:
        finish = self.sites[lease.ref.job].finish(lease, read=self.rng.random() < self.read)
        if self.flaky and lease.ref.url in self.frontier.seen[lease.ref.job].records and self._mishap():
            finish = replace(finish, disposition="failed:timeout", children=self.rng.choice([None, ()]))
        host = lease.ref.url.split("/")[2]
        return replace(finish, own_network=host in self.own)

    def _some(self, things: list) -> list:  # type: ignore[type-arg]
        return self.rng.sample(things, self.rng.randint(0, len(things)))

    # --- mishaps ----------------------------------------------------------------------------

    def _lose_time(self) -> None:
        self.frontier.advance(self.rng.choice([0.5, 1.0, 1.5]) * self.frontier.page_lease_s)

    def _reap(self) -> None:
        self._lose_time()
        self.frontier.reap()

    def _crash(self) -> None:
        worker = self.rng.choice(self.workers)
        worker.running.clear()
        worker.outbox.clear()

    def _release(self) -> None:
        worker = self.rng.choice(self.workers)
        given_back = self._some(list(worker.running))
        self.frontier.release(worker.name, given_back)
        if not self._mishap():
            for ref in given_back:
                del worker.running[ref]

    def _replay(self) -> None:
        """A finish whose lease is no longer valid, saying what must not be believed."""
        late = [finish for finish in self.past if finish.ref not in self.frontier.held]
        late += [Finish(replace(ref, run=ref.run + 1), "fetched") for ref in self.frontier.held]
        if late:
            finish = replace(self.rng.choice(late), title="poison", children=(POISON,), disposition="fetched")
            worker = self.rng.choice(self.workers)
            self.frontier.exchange(worker.name, [finish], 0)
            self.frontier.extend(worker.name, [finish.ref])
            self.frontier.release(worker.name, [finish.ref])

    def _takeover(self) -> None:
        job = self.rng.choice(list(self.sites))
        seen = self.frontier.seen[job]
        stale = seen.token
        self._open(job, seen.spec, stale + self.rng.choice([0, 1, 5]))
        if self.frontier.seen[job].token > stale:
            for call in (self.frontier.cancel, self.frontier.forget):
                try:
                    call(job, stale)
                except StaleToken:
                    continue
                raise AssertionError("a stale token was taken")

    def _open(self, job: str, spec: JobSpec, token: int) -> None:
        seen = self.frontier.seen.get(job)
        former = seen.seeding if seen is not None else None
        opened = self.frontier.open(job, spec, token)
        if former is not None and self.rng.random() < 0.5:
            self._seed(job, former)
        if opened.seeding is not None and not self._mishap():
            self._seed(job, opened.seeding)

    def _seed(self, job: str, ref: LeaseRef) -> None:
        assert ref.url == SEEDING
        stale = ref != self.frontier.seen[job].seeding
        child = POISON if stale else Child(self.sites[job].seed)
        self.frontier.exchange("master", [Finish(ref, "fetched", [child])], 0)
