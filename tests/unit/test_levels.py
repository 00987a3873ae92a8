"""From a log to records, levels and receipt, and a deep answer cut to a shallower one."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.core.levels import CUTTING, cut, fold, levels, receipt, receipt_of
from crawlfarm.wire.codec import pack, unpack_result
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Ended, Entry, Linked, Moved, PageRecord, Receipt, StoredResult
from tests.support.checked import CheckedFrontier
from tests.support.examples import examples
from tests.support.farm import Farm
from tests.support.sites import Site, tangle, u


def page(name: str, depth: int, disposition: str = "fetched", **more: object) -> PageRecord:
    return PageRecord(u(name), depth, disposition, **more)  # type: ignore[arg-type]


class FoldTests(SynchronousTestCase):
    def test_last_word_counts(self) -> None:
        """A record has its last depth and parent, and all pages that link to it."""
        log: list[Entry] = [
            Ended(1, page("a", 0)),
            Ended(2, page("b", 3, "failed:dns", parent=u("x"), linked_from=[u("x")])),
            Moved(3, u("b"), 2, u("y")),
            Linked(4, u("b"), u("y")),
            Moved(5, u("b"), 1, u("a")),
        ]
        self.assertEqual(
            fold(log),
            {
                u("a"): page("a", 0),
                u("b"): page("b", 1, "failed:dns", parent=u("a"), linked_from=[u("x"), u("y")]),
            },
        )

    def test_the_log_stays_as_it_is(self) -> None:
        """Folding twice gives the same: the entries are not touched."""
        log: list[Entry] = [Ended(1, page("b", 3, "failed:dns", linked_from=[u("x")]))]
        more = [*log, Moved(2, u("b"), 1, u("a")), Linked(3, u("b"), u("a"))]
        before = fold(log)
        fold(more)
        self.assertEqual(fold(log), before)


class LevelsTests(SynchronousTestCase):
    def test_fetched_pages_sorted(self) -> None:
        """``levels[d]`` are the fetched pages at distance d, sorted; nothing else."""
        records = [page("c", 1), page("b", 1), page("a", 0), page("x", 1, "failed:dns"), page("y", 2, "skipped:scope")]
        self.assertEqual(levels(records, 3, u("a")), [[u("a")], [u("b"), u("c")], []])

    def test_seed_is_always_first(self) -> None:
        """``levels[0]`` is the seed's identity, whatever became of it."""
        seed = "HTTP://Site.test/a?b=2&a=1#top"
        self.assertEqual(levels([], 2, seed), [["http://site.test/a?a=1&b=2"], []])
        self.assertEqual(levels([page("a", 0, "failed:dns")], 1, u("a")), [[u("a")]])


class ReceiptTests(SynchronousTestCase):
    def test_counts(self) -> None:
        """It counts each disposition by its reason."""
        dispositions = ["fetched"] * 3 + ["failed:dns"] * 2 + ["skipped:scope", "skipped:robots", "failed:tls"]
        got = receipt(page(f"{n}", 1, d) for n, d in enumerate(dispositions))
        self.assertEqual(got, Receipt(8, 3, {"dns": 2, "tls": 1}, {"scope": 1, "robots": 1}, True))
        self.assertEqual(receipt([]), Receipt(0, 0, {}, {}, True))

    @given(
        st.dictionaries(st.sampled_from(["fetched", "failed:dns", "skipped:scope", *sorted(CUTTING)]), st.integers(0))
    )
    @examples(50)
    def test_found_is_the_sum(self, counts: dict[str, int]) -> None:
        """``found`` equals the sum of the others, always."""
        got = receipt_of(counts)
        self.assertEqual(got.found, got.fetched + sum(got.failed.values()) + sum(got.skipped.values()))
        self.assertEqual(got.complete, not any(counts.get(d) for d in CUTTING))

    def test_not_complete(self) -> None:
        """A limit, a deadline, a trap, a cancel, lost workers: each means not complete. What
        a site is, or its owner wants, does not."""
        for reason in ("page_limit", "host_limit", "deadline", "trap", "cancelled"):
            self.assertFalse(receipt_of({"fetched": 1, f"skipped:{reason}": 1}).complete, reason)
        self.assertFalse(receipt_of({"failed:worker_lost": 1}).complete)
        self.assertFalse(receipt_of({"fetched": 1}, cut=True).complete)
        for disposition in ("failed:dns", "failed:too_large", "skipped:scope", "skipped:robots", "skipped:extension"):
            self.assertTrue(receipt_of({disposition: 5}).complete, disposition)


def crawled(site: Site, depth: int, rng: random.Random) -> StoredResult:
    """What a farm answers for a site."""
    frontier = CheckedFrontier(page_attempts=10**9, cascade=5)
    farm = Farm(rng, frontier, {"job": site}, workers=3, trouble=0.05)
    farm.open("job", JobSpec(site.seed, depth))
    farm.run(150)
    farm.drain()
    status = frontier.model.status(frontier.now, "job")
    assert status is not None
    return StoredResult(site.seed, depth, status.state, status.run, status.receipt, frontier.seen["job"].log)


class CutTests(SynchronousTestCase):
    @examples(60)
    @given(seed=st.integers(0, 2**32 - 1), deep=st.integers(1, 10), data=st.data())
    def test_same_as_a_shallower_crawl(self, seed: int, deep: int, data: st.DataObject) -> None:
        """A deep crawl cut to n levels answers what a crawl of n levels does: levels,
        receipt, and for every URL its disposition, depth and a parent that is in it."""
        rng = random.Random(seed)
        site = tangle(rng, rng.randint(1, 40), 2)
        depth = data.draw(st.integers(1, deep), "cut to")
        got = cut(crawled(site, deep, rng), depth)
        shallow = crawled(site, depth, rng)
        self.assertEqual((got.depth, got.receipt, got.outcome), (depth, shallow.receipt, shallow.outcome))
        mine, theirs = fold(got.log), fold(shallow.log)
        self.assertEqual(
            levels(mine.values(), depth, site.seed),
            levels(theirs.values(), depth, site.seed),
        )
        self.assertEqual(
            {url: (r.depth, r.disposition, r.status) for url, r in mine.items()},
            {url: (r.depth, r.disposition, r.status) for url, r in theirs.items()},
        )
        for url, record in mine.items():
            if record.depth:
                self.assertEqual(mine[record.parent].depth, record.depth - 1)
            self.assertLessEqual(set(record.linked_from), site.linkers(depth, url))
        self.assertEqual(unpack_result(pack(got)), got)

    def result(self, *records: PageRecord, depth: int = 4, complete: bool = True) -> StoredResult:
        log: list[Entry] = [Ended(seq, record) for seq, record in enumerate(records, 1)]
        return StoredResult(u("a"), depth, "done", 3, receipt(records, cut=not complete), log)

    def test_not_deeper(self) -> None:
        """An answer is not cut to more than it has."""
        result = self.result(page("a", 0))
        self.assertIs(cut(result, 4), result)
        self.assertIs(cut(result, 9), result)

    def test_linked_from_what_was_read(self) -> None:
        """The shallower crawl knows no link of its last level or beyond, to whatever page."""
        linkers = [u("deep"), u("last"), u("a")]
        result = self.result(
            page("a", 0),
            page("near", 1, "failed:dns", parent=u("a"), linked_from=linkers),
            page("last", 1),
            page("deep", 2),
        )
        self.assertEqual(fold(cut(result, 2).log)[u("near")].linked_from, [u("a")])
        self.assertEqual(fold(cut(result, 3).log)[u("near")].linked_from, [u("last"), u("a")])
        self.assertEqual(fold(result.log)[u("near")].linked_from, linkers)

    def test_incomplete_stays_incomplete(self) -> None:
        """A piece of an answer that lacks something does not claim to be whole."""
        result = self.result(page("a", 0), page("b", 3), complete=False)
        self.assertFalse(cut(result, 1).receipt.complete)

    def test_numbered_anew(self) -> None:
        """Its log has the numbers 1 to n, and each URL's last word."""
        result = self.result(page("x", 3), page("a", 0), page("b", 3))
        moved = StoredResult(u("a"), 4, "done", 3, result.receipt, [*result.log, Moved(4, u("b"), 1, u("a"))])
        got = cut(moved, 2)
        self.assertEqual([entry.seq for entry in got.log], [1, 2])
        self.assertEqual(list(fold(got.log).values()), [page("a", 0), page("b", 1, parent=u("a"))])
