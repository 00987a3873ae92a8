"""The frontier model against a plain breadth-first crawl, whatever happens in between.

After every call the books of :class:`tests.support.checked.CheckedFrontier` must agree
with the model's; at the end the answer must be that of :meth:`tests.support.sites.Site.crawl`.
"""

from __future__ import annotations

import contextlib
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.core.frontier import SEEDING
from crawlfarm.core.levels import MAX_LINKERS, cut, fold, levels, receipt
from crawlfarm.core.ports import LINKS_WANTED, Child, Finish, LeaseRef, PageLease
from crawlfarm.errors import StaleToken
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Receipt, StoredResult
from tests.support.checked import CheckedFrontier
from tests.support.examples import examples, run_machine
from tests.support.farm import POISON, Farm
from tests.support.sites import Site, levels_of, receipt_of, tangle

SEEDS = st.integers(0, 2**32 - 1)
TOKENS = st.sampled_from([0, 1, -1])


def plain(receipt: Receipt) -> dict[str, Any]:
    return {name: getattr(receipt, name) for name in receipt.__struct_fields__}


def result_of(frontier: CheckedFrontier, job: str) -> StoredResult:
    """What a master stores of an ended job."""
    status = frontier.model.status(frontier.now, job)
    assert status is not None
    seen = frontier.seen[job]
    return StoredResult(seen.spec.url, seen.spec.depth, status.state, status.run, status.receipt, seen.log)


class Exactness(SynchronousTestCase):
    """What a crawl of ``site`` must have come to."""

    def assert_exact(self, frontier: CheckedFrontier, job: str, site: Site) -> None:
        seen = frontier.seen[job]
        expected = site.crawl(seen.spec.depth)
        self.assertEqual({url: (r.depth, r.disposition) for url, r in seen.records.items()}, expected)
        result = result_of(frontier, job)
        self.assertEqual(plain(result.receipt), receipt_of(expected))
        self.assertEqual(plain(receipt(seen.records.values())), receipt_of(expected))
        got = levels(seen.records.values(), seen.spec.depth, seen.spec.url)
        self.assertEqual(got, levels_of(expected, seen.spec.depth, site.seed))
        self.assertEqual((seen.state, seen.ended), ("done", 1))
        for url, record in seen.records.items():
            if record.depth:
                self.assertEqual(seen.records[record.parent].depth, record.depth - 1)
                self.assertIn(url, site.pages[record.parent].links)
            if record.broken:
                linkers = site.linkers(seen.spec.depth, url)
                self.assertEqual(len(set(record.linked_from)), len(record.linked_from))
                self.assertLessEqual(set(record.linked_from), linkers)
                self.assertEqual(len(record.linked_from), min(MAX_LINKERS, len(linkers)))
        for depth in range(1, seen.spec.depth):
            self.assert_cut(site, cut(result, depth), depth)

    def assert_cut(self, site: Site, shallower: StoredResult, depth: int) -> None:
        """A deeper result cut to ``depth`` is that of a crawl of ``depth`` levels."""
        expected = site.crawl(depth)
        records = fold(shallower.log)
        self.assertEqual({url: (r.depth, r.disposition) for url, r in records.items()}, expected)
        self.assertEqual(plain(shallower.receipt), receipt_of(expected))
        self.assertEqual(shallower.depth, depth)
        self.assertEqual(levels(records.values(), depth, site.seed), levels_of(expected, depth, site.seed))
        self.assertEqual([entry.seq for entry in shallower.log], [*range(1, len(shallower.log) + 1)])
        for url, record in records.items():
            self.assertLessEqual(set(record.linked_from), site.linkers(depth, url))


class RandomCrawlTests(Exactness):
    @examples(400)
    @given(
        seed=SEEDS,
        size=st.integers(1, 40),
        depth=st.integers(1, 12),
        hosts=st.integers(1, 4),
        workers=st.integers(1, 5),
        host_concurrency=st.integers(1, 4),
        cascade=st.sampled_from([1, 2, 5, 2000]),
        trouble=st.sampled_from([0.0, 0.05, 0.3]),
        jobs=st.integers(1, 2),
    )
    def test_exact_whatever_happens(
        self,
        seed: int,
        size: int,
        depth: int,
        hosts: int,
        workers: int,
        host_concurrency: int,
        cascade: int,
        trouble: float,
        jobs: int,
    ) -> None:
        """Slow pages, lost workers, lost replies, stale and duplicate finishes, successive
        masters, small hosts and small steps change nothing about levels, dispositions,
        depths, parents and receipt."""
        rng = random.Random(seed)
        frontier = CheckedFrontier(page_attempts=10**9, host_concurrency=host_concurrency, cascade=cascade)
        sites = {f"job-{n}": tangle(rng, size, hosts) for n in range(jobs)}
        farm = Farm(rng, frontier, sites, workers=workers, trouble=trouble, read=rng.choice([0.0, 0.2]))
        for job, site in sites.items():
            farm.open(job, JobSpec(site.seed, max(1, depth - rng.randint(0, 1))))
        farm.run(400)
        farm.drain()
        for job, site in sites.items():
            self.assert_exact(frontier, job, site)

    def test_lowered_depths_were_met(self) -> None:
        """The random sites do bring shorter ways late: depths are lowered, pages fetched again."""
        rng = random.Random(7)
        moves = refetches = 0
        for _ in range(40):
            frontier = CheckedFrontier(page_attempts=10**9, cascade=2)
            site = tangle(rng, 40)
            farm = Farm(rng, frontier, {"job": site}, workers=5, trouble=0.1, read=0.0)
            farm.open("job", JobSpec(site.seed, rng.randint(4, 10)))
            farm.run(300)
            farm.drain()
            self.assert_exact(frontier, "job", site)
            moves += frontier.moves
            refetches += frontier.refetches
        self.assertGreater(moves, 60)
        self.assertGreater(refetches, 10)

    @examples(80)
    @given(seed=SEEDS, most=st.integers(1, 25), workers=st.integers(1, 5), trouble=st.sampled_from([0.0, 0.3]))
    def test_max_pages_is_exact(self, seed: int, most: int, workers: int, trouble: float) -> None:
        """Exactly ``max_pages`` pages are fetched, or everything if that is fewer; the
        rest is ``skipped:page_limit``, and depths are those of the links that were read."""
        rng = random.Random(seed)
        frontier = CheckedFrontier(page_attempts=10**9, host_concurrency=rng.randint(1, 8), cascade=3)
        site = tangle(rng, rng.randint(1, 40), 3)
        farm = Farm(rng, frontier, {"job": site}, workers=workers, trouble=trouble)
        spec = JobSpec(site.seed, rng.randint(1, 6), max_pages=most)
        farm.open("job", spec)
        farm.run(300)
        farm.drain()
        expected = site.crawl(spec.depth)
        fetched = sum(disposition == "fetched" for _, disposition in expected.values())
        if fetched < most:
            self.assert_exact(frontier, "job", site)
            return
        result = result_of(frontier, "job")
        self.assertEqual(result.receipt.fetched, most)
        records = frontier.seen["job"].records
        if "page_limit" in result.receipt.skipped:
            self.assertFalse(result.receipt.complete)
        elif result.receipt.complete:
            self.assert_exact(frontier, "job", site)
        for url, record in records.items():
            read = [r.depth for r in records.values() if self._links_to(site, r.url, url) and r.depth + 1 < spec.depth]
            if record.depth and result.receipt.complete:
                self.assertEqual(record.depth, 1 + min(read))

    def _links_to(self, site: Site, url: str, target: str) -> bool:
        return any(child.url == target for child in site.children(url))

    @examples(150)
    @given(seed=SEEDS, attempts=st.integers(1, 4))
    def test_what_is_missing_is_told(self, seed: int, attempts: int) -> None:
        """Pages that cost too many workers are ``failed:worker_lost``, second fetches fail;
        everything still ends, each URL once, and an answer that lacks something says so."""
        rng = random.Random(seed)
        frontier = CheckedFrontier(page_attempts=attempts, host_concurrency=4, cascade=2)
        site = tangle(rng, rng.randint(1, 40), 2)
        farm = Farm(rng, frontier, {"job": site}, workers=4, trouble=0.1 * attempts, read=0.0, flaky=True)
        farm.open("job", JobSpec(site.seed, rng.randint(1, 9)))
        farm.run(300)
        farm.drain()
        found = result_of(frontier, "job").receipt
        records = frontier.seen["job"].records
        self.assertEqual(len(records), found.found)
        self.assertLessEqual(records.keys(), site.crawl(10**6).keys())
        if "worker_lost" in found.failed:
            self.assertFalse(found.complete)
        if found.complete:
            self.assert_exact(frontier, "job", site)


class FrontierMachine(RuleBasedStateMachine):
    """Every call in any order, two jobs on the same hosts; see CheckedFrontier for what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.frontier = CheckedFrontier(page_attempts=2, host_concurrency=2, cascade=2)
        self.sites: dict[str, Site] = {}
        self.specs: dict[str, JobSpec] = {}
        self.leases: list[PageLease] = []
        self.seedings: list[LeaseRef] = []

    @initialize(seed=SEEDS, depth=st.integers(1, 5), most=st.none() | st.integers(1, 8))
    def make_sites(self, seed: int, depth: int, most: int | None) -> None:
        rng = random.Random(seed)
        for job, limit in (("a", None), ("b", most)):
            self.sites[job] = tangle(rng, 12, 2)
            self.specs[job] = JobSpec(self.sites[job].seed, depth, max_pages=limit)
            self._open(job, 1)

    def _open(self, job: str, token: int) -> None:
        opened = self.frontier.open(job, self.specs[job], token)
        if opened.seeding is not None:
            self.seedings.append(opened.seeding)

    def _token(self, job: str, newer: int) -> int:
        seen = self.frontier.seen.get(job)
        return (seen.token if seen is not None else 1) + newer

    @rule(job=st.sampled_from("ab"), newer=TOKENS)
    def open(self, job: str, newer: int) -> None:
        """A master comes, or one that is late."""
        with contextlib.suppress(StaleToken):
            self._open(job, self._token(job, newer))

    @precondition(lambda self: self.seedings)
    @rule(data=st.data())
    def seed(self, data: st.DataObject) -> None:
        """A seeding is handed in, under its last lease or an earlier one."""
        ref = data.draw(st.sampled_from(self.seedings), "seeding")
        valid = ref.job in self.frontier.seen and self.frontier.seen[ref.job].seeding == ref
        child = Child(self.sites[ref.job].seed) if valid else POISON
        self.frontier.exchange("master", [Finish(ref, "fetched", [child])], 0)

    @rule(
        data=st.data(),
        want=st.integers(0, 4),
        jobs=st.sampled_from([None, ["a"], ["b"], ["a", "b"], ["unknown"]]),
        spiders=st.sampled_from([None, None, ["site"], ["other"]]),
    )
    def exchange(self, data: st.DataObject, want: int, jobs: list[str] | None, spiders: list[str] | None) -> None:
        """Some finishes, of valid and of invalid leases, with and without links."""
        batch = []
        for lease in data.draw(self._some(), "finished"):
            valid = lease.ref in self.frontier.held
            finish = self.sites[lease.ref.job].finish(lease, read=data.draw(st.booleans(), "reads links"))
            batch.append(finish if valid else Finish(lease.ref, "fetched", [POISON], title="poison"))
        answer = self.frontier.exchange("worker", batch, want, jobs, spiders)
        for finish, verdict in zip(batch, answer.verdicts, strict=True):
            assert verdict != LINKS_WANTED or finish.ref in self.frontier.held
        self.leases += answer.leases

    def _some(self) -> st.SearchStrategy[list[PageLease]]:
        return st.lists(st.sampled_from(self.leases), max_size=4) if self.leases else st.just([])

    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        self.frontier.extend("worker", [lease.ref for lease in data.draw(self._some(), "extended")])

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.frontier.release("worker", [lease.ref for lease in data.draw(self._some(), "released")])

    @rule(seconds=st.sampled_from([1.0, 9.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.frontier.advance(seconds)

    @rule()
    def reap(self) -> None:
        self.frontier.reap()

    @rule(
        job=st.sampled_from("ab"),
        newer=TOKENS,
        reason=st.sampled_from(["cancelled", "deadline"]),
        seldom=st.sampled_from([True, False, False, False]),
    )
    def cancel(self, job: str, newer: int, reason: str, seldom: bool) -> None:
        """A master cancels; seldom, as it is the end of the job."""
        if seldom:
            with contextlib.suppress(StaleToken):
                self.frontier.cancel(job, self._token(job, newer), reason)

    @rule(job=st.sampled_from("ab"), newer=TOKENS)
    def forget(self, job: str, newer: int) -> None:
        """A master drops a job that has ended, or tries to."""
        with contextlib.suppress(StaleToken):
            self.frontier.forget(job, self._token(job, newer))

    def teardown(self) -> None:
        """From wherever this has led, the jobs come to their ends."""
        jobs = {job: self.sites[job] for job in self.frontier.seen}
        if jobs:
            Farm(random.Random(0), self.frontier, jobs, workers=2, trouble=0.0).drain()
        for seen in self.frontier.seen.values():
            assert POISON.url not in seen.records
            assert all(record.depth < seen.spec.depth for record in seen.records.values())


class FrontierMachineTests(SynchronousTestCase):
    def test_any_order_of_calls(self) -> None:
        """Whatever calls come in whatever order, every promise holds after each, and the
        jobs end when the farm is left to itself."""
        assert SEEDING == ""
        run_machine(FrontierMachine, 150, 50)
