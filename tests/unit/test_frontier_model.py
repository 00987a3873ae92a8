"""What the frontier promises, by example. Every call is also checked as in the random tests."""

from __future__ import annotations

from dataclasses import replace

from crawlfarm.core.frontier import SEEDING, FrontierModel
from crawlfarm.core.ports import DONE, LINKS_WANTED, STALE, Child, Finish
from crawlfarm.errors import StaleToken
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Ended, Linked, Moved
from tests.support.checked import CheckedFrontier
from tests.support.sites import SitePage, u
from tests.support.steps import JOB, FrontierCase

FAILED = SitePage(disposition="failed:timeout", status=0)


class OpenTests(FrontierCase):
    def setUp(self) -> None:
        self.frontier = CheckedFrontier()
        self.spec = JobSpec(u("a"), 2)

    def seed(self, ref: object) -> str:
        finish = Finish(ref, "fetched", [Child(u("a"))])  # type: ignore[arg-type]
        return self.frontier.exchange("master", [finish]).verdicts[0]

    def test_first_open_is_to_be_seeded(self) -> None:
        """A new job runs, has no page, and gives its master the seeding to finish."""
        opened = self.frontier.open(JOB, self.spec, 3)
        assert opened.seeding is not None
        self.assertEqual((opened.seeding.url, opened.seeding.run), (SEEDING, opened.run))
        self.assertEqual((self.state, self.receipt.found), ("running", 0))
        self.assertEqual(self.take(), [])

    def test_not_done_before_it_is_seeded(self) -> None:
        """A job without pages is not done while its spider's start is not through."""
        self.frontier.open(JOB, self.spec, 1)
        self.assertEqual(self.frontier.exchange("worker").running, {JOB})

    def test_successor_seeds(self) -> None:
        """A master that takes over an unseeded job seeds it; its predecessor cannot any more."""
        first = self.frontier.open(JOB, self.spec, 1).seeding
        second = self.frontier.open(JOB, self.spec, 2).seeding
        self.assertEqual(self.seed(first), STALE)
        self.assertEqual(self.take(), [])
        self.assertEqual(self.seed(second), DONE)
        self.assertEqual(self.seed(second), STALE)
        self.assertEqual([lease.ref.url for lease in self.take(9)], [u("a")])

    def test_attach_costs_no_page(self) -> None:
        """Attaching to a seeded job leaves its pages where they are, those in flight too."""
        first = self.frontier.open(JOB, self.spec, 1)
        self.seed(first.seeding)
        lease = self.take()[0]
        opened = self.frontier.open(JOB, self.spec, 9)
        self.assertEqual((opened.run, opened.seeding), (first.run, None))
        self.assertEqual(self.hand_in(Finish(lease.ref, "fetched")).verdicts, [DONE])
        self.assertEqual(self.state, "done")
        self.assertIsNone(self.frontier.open(JOB, self.spec, 10).seeding)

    def test_same_master_opens_again(self) -> None:
        """The same token may open twice, as after a lost reply."""
        self.frontier.open(JOB, self.spec, 4)
        self.assertEqual(self.seed(self.frontier.open(JOB, self.spec, 4).seeding), DONE)

    def test_stale_token(self) -> None:
        """Below the highest token seen, whoever it came with, every master's call is refused."""
        self.frontier.open(JOB, self.spec, 4)
        self.frontier.open(JOB, self.spec, 7)
        self.assertRaises(StaleToken, self.frontier.open, JOB, self.spec, 6)
        self.assertRaises(StaleToken, self.frontier.cancel, JOB, 4)
        self.assertRaises(StaleToken, self.frontier.forget, JOB, 6)
        self.assertEqual(self.state, "running")
        self.frontier.cancel(JOB, 8)
        self.assertRaises(StaleToken, self.frontier.open, JOB, self.spec, 7)
        self.assertRaises(StaleToken, self.frontier.forget, JOB, 7)

    def test_seeding_with_nothing_ends_the_job(self) -> None:
        """A spider that starts with no page at all is done."""
        opened = self.frontier.open(JOB, self.spec, 1)
        self.hand_in(Finish(opened.seeding, "fetched", []))  # type: ignore[arg-type]
        self.assertEqual((self.state, self.receipt.found, self.receipt.complete), ("done", 0, True))

    def test_several_seeds(self) -> None:
        """All seeds are at depth 0, once each; one not to be fetched has its disposition at once."""
        opened = self.frontier.open(JOB, self.spec, 1)
        seeds = [Child(u("a")), Child(u("b")), Child(u("a")), Child(u("c"), skip="extension")]
        self.hand_in(Finish(opened.seeding, "fetched", seeds))  # type: ignore[arg-type]
        self.assertEqual(self.dispositions, {"c": "skipped:extension"})
        self.assertEqual([(x.ref.url, x.depth) for x in self.take(9)], [(u("a"), 0), (u("b"), 0)])

    def test_forget(self) -> None:
        """Only an ended job is dropped; its id may then be used anew."""
        self.frontier.open(JOB, self.spec, 1)
        self.frontier.forget(JOB, 1)
        self.assertEqual(self.state, "running")
        self.frontier.cancel(JOB, 1)
        self.frontier.forget(JOB, 1)
        self.assertIsNone(self.frontier.model.status(0, JOB))
        self.assertIsNotNone(self.frontier.open(JOB, self.spec, 1).seeding)

    def test_unknown_job(self) -> None:
        """What nobody opened is answered with nothing, and cannot be finished."""
        model = FrontierModel()
        self.assertIsNone(model.events(0, "x", 0))
        self.assertIsNone(model.status(0, "x"))
        self.assertEqual(model.audit(0, "x"), [])
        self.assertFalse(model.cancel(0, "x", 1, "cancelled"))
        model.forget(0, "x", 1)
        ref = self.frontier.open(JOB, self.spec, 1).seeding
        assert ref is not None
        finishes = [Finish(ref, "fetched"), Finish(replace(ref, url=u("a")), "fetched")]
        self.assertEqual(model.exchange(0, "w", finishes, 1, ["x"]).verdicts, [STALE, STALE])


class FinishTests(FrontierCase):
    def test_each_url_once(self) -> None:
        """However many pages link to a URL, itself too, it is fetched once."""
        self.begin({"a": "b c a", "b": "c d a", "c": "d b"}, depth=5)
        urls = []
        while leases := self.take(4):
            urls += [lease.ref.url for lease in leases]
            self.hand_in(*(self.site.finish(lease) for lease in leases))
        self.assertEqual(sorted(urls), [u("a"), u("b"), u("c"), u("d")])
        self.assertEqual(self.state, "done")

    def test_dispositions(self) -> None:
        """Each URL ends as fetched, failed or skipped, with one entry of the log."""
        self.begin({"a": "b c d"}, b=FAILED, c=SitePage(disposition="skipped:robots", status=0))
        self.site.skips[u("d")] = "scope"
        self.finish_rest()
        self.assertEqual(
            self.dispositions, {"a": "fetched", "b": "failed:timeout", "c": "skipped:robots", "d": "skipped:scope"}
        )
        self.assertEqual(self.depths, {"a": 0, "b": 1, "c": 1, "d": 1})
        self.assertEqual(len(self.frontier.seen[JOB].log), 4)
        receipt = self.receipt
        self.assertEqual((receipt.found, receipt.fetched, receipt.complete), (4, 1, True))
        self.assertEqual((receipt.failed, receipt.skipped), ({"timeout": 1}, {"robots": 1, "scope": 1}))

    def test_record(self) -> None:
        """The log has what the worker said of a page, its depth and a page that links to it."""
        self.begin({"a": "b"}, depth=2)
        self.finish_page("a")
        told = {"status": 203, "final_url": u("z"), "title": "T", "content_type": "text/html"}
        lease = self.take_page("b")
        self.hand_in(Finish(lease.ref, "fetched", (), **told, bytes=7, elapsed_ms=9))  # type: ignore[arg-type]
        record = self.frontier.model._jobs[JOB].log[-1].page  # type: ignore[union-attr]
        self.assertEqual({name: getattr(record, name) for name in told}, told)
        self.assertEqual((record.depth, record.parent, record.bytes, record.elapsed_ms), (1, u("a"), 7, 9))

    def test_spelling(self) -> None:
        """A page is asked for in the spelling found first, and known by its canonical URL."""
        self.begin({"a": ""})
        lease = self.take()[0]
        links = [Child(u("b"), spelling=u("b#1")), Child(u("c"))]
        self.hand_in(Finish(lease.ref, "fetched", links))
        self.assertEqual([(x.ref.url, x.fetch) for x in self.take(2)], [(u("b"), u("b#1")), (u("c"), u("c"))])

    def test_exact_end(self) -> None:
        """The call that settles the last page ends the job: not the one before, not one after."""
        self.begin({"a": "b c"}, depth=2)
        self.finish_page("a")
        b, c = self.take(2)
        self.assertEqual(self.hand_in(self.site.finish(b), want=5).running, {JOB})
        self.assertEqual(self.hand_in(self.site.finish(c), want=5).running, frozenset())
        self.assertEqual(self.state, "done")

    def test_end_in_one_batch(self) -> None:
        """Several last pages may come in one call, with their duplicates."""
        self.begin({"a": "b c"}, depth=2)
        self.finish_page("a")
        batch = [self.site.finish(lease) for lease in self.take(2)]
        answer = self.hand_in(*batch, *batch)
        self.assertEqual(answer.verdicts, [DONE, DONE, STALE, STALE])
        self.assertEqual(answer.running, frozenset())

    def test_duplicate_finish(self) -> None:
        """A finish repeated after a lost reply changes nothing."""
        self.begin({"a": "b"})
        a = self.take()[0]
        self.assertEqual(self.finish(a), DONE)
        self.assertEqual(self.finish(a, children=[Child(u("x"))]), STALE)
        self.assertEqual(self.finish(a), STALE)
        self.assertNotIn(u("x"), self.job.pages)

    def test_wrong_run(self) -> None:
        """A lease of another run of the job is not valid."""
        self.begin({"a": "b"})
        a = self.take()[0]
        other = replace(a, ref=replace(a.ref, run=a.ref.run + 1))
        self.assertEqual(self.finish(other), STALE)
        self.assertEqual(self.frontier.extend("worker", [other.ref]), [False])
        self.assertEqual(self.frontier.release("worker", [other.ref]), 0)
        self.assertEqual(self.finish(a), DONE)

    def test_last_level_is_not_followed(self) -> None:
        """Links of the last level lead nowhere, whether a worker read them or not."""
        self.begin({"a": "b c", "b": "x", "c": "y"}, depth=2)
        self.finish_page("a")
        b, c = self.take(2)
        self.assertEqual([self.finish(b), self.finish(c, read=True)], [DONE, DONE])
        self.assertEqual(self.depths, {"a": 0, "b": 1, "c": 1})
        self.assertEqual(self.state, "done")

    def test_depth_one(self) -> None:
        """One level is the seed alone."""
        self.begin({"a": "b"}, depth=1)
        self.finish_page("a")
        self.assertEqual((self.state, self.depths), ("done", {"a": 0}))

    def test_log_in_pieces(self) -> None:
        """The log is read from any number on, in pieces of any size."""
        self.begin({"a": "b c d"}, depth=2)
        self.finish_rest()
        model = self.frontier.model
        seqs = [[e.seq for e in model.events(0, JOB, after, 2).entries] for after in (0, 2, 3, 4, 9)]  # type: ignore[union-attr]
        self.assertEqual(seqs, [[1, 2], [3, 4], [4], [], []])

    def test_seed_redirect_moves_the_base(self) -> None:
        """The scope is measured by where the seed led to; no other page's redirect moves it."""
        self.begin({"a": "b c"})
        a = self.take_page("a")
        self.assertEqual(a.base, u("a"))
        self.finish(a, final_url=u("home@new") + "#top")
        b = self.take_page("b")
        self.assertEqual(b.base, u("home@new"))
        self.finish(b, final_url=u("x@elsewhere"))
        self.assertEqual(self.take_page("c").base, u("home@new"))

    def test_progress(self) -> None:
        """The status says what is queued, leased and found, and the lowest unfinished level."""
        self.begin({"a": "b c d"}, depth=2)
        self.finish_page("a")
        self.finish(self.take()[0])
        self.take()
        status = self.frontier.model.status(0, JOB)
        assert status is not None
        p = status.progress
        self.assertEqual((p.found, p.fetched, p.queued, p.leased, p.depth), (4, 2, 1, 1, 1))


class DepthTests(FrontierCase):
    def test_nearest_first(self) -> None:
        """Pages go out in order of their lowest known depth, not of their finding."""
        self.begin({"a": "b c", "b": "x y", "c": "z"}, depth=3)
        self.finish_page("a")
        self.finish_page("b")
        for name in "cxyz":
            self.finish_page(name)

    def test_lowered_while_queued(self) -> None:
        """A shorter way to a waiting page brings it nearer, and out earlier."""
        # d is found at 3 through b-c, then at 2 through s, which is slow.
        self.begin({"a": "s b", "b": "c", "c": "d e", "s": "e"}, depth=5)
        self.finish_page("a")
        slow = self.take_page("s")
        self.finish_page("b")
        self.finish_page("c")
        self.assertEqual(self.job.pages[u("e")].depth, 3)
        self.finish(slow)
        lease = self.take_page("e")
        self.assertEqual(lease.depth, 2)
        self.finish(lease)
        self.finish_rest()
        self.assertEqual(self.depths, {"a": 0, "s": 1, "b": 1, "c": 2, "d": 3, "e": 2})
        self.assertEqual(self.record("e").parent, u("s"))
        self.assertNotIn("moved e", self.kinds)

    def slow_short_way(self, depth: int, links: dict[str, str] | None = None, **options: object) -> object:
        """``d`` is reached at 3 by b and c, at 2 by the slow page ``s``, whose lease comes back."""
        site = {"a": "s b", "s": "d", "b": "c", "c": "d", "d": "e", "e": "f", "f": "g"} | (links or {})
        self.begin(site, depth=depth, **options)  # type: ignore[arg-type]
        self.finish_page("a")
        slow = self.take_page("s")
        self.finish_page("b")
        self.finish_page("c")
        return slow

    def test_links_wanted(self) -> None:
        """A page leased on the last level and brought nearer meanwhile is asked for its links;
        its lease is kept, for another full time."""
        slow = self.slow_short_way(4)
        d = self.take_page("d")
        self.assertEqual(d.depth, d.spec.depth - 1)
        self.finish(slow)  # type: ignore[arg-type]
        self.frontier.advance(19)
        self.assertEqual(self.finish(d), LINKS_WANTED)
        self.assertEqual(self.state, "running")
        self.frontier.advance(19)
        self.assertEqual(self.finish(d), LINKS_WANTED)
        self.frontier.advance(19)
        self.assertEqual(self.frontier.reap(), 0)
        self.assertEqual(self.finish(d, children=self.site.children(u("d"))), DONE)
        self.finish_rest()
        self.assertEqual(self.depths, {"a": 0, "s": 1, "b": 1, "c": 2, "d": 2, "e": 3})
        self.assertEqual(self.state, "done")

    def test_no_links_wanted_of_a_failure(self) -> None:
        """A page that failed has no links to ask for."""
        slow = self.slow_short_way(4)
        d = self.take_page("d")
        self.finish(slow)  # type: ignore[arg-type]
        self.assertEqual(self.finish(d, disposition="failed:timeout", children=None), DONE)

    def test_fetched_page_comes_nearer(self) -> None:
        """The pages after a page that came nearer come nearer with it, from the links kept."""
        slow = self.slow_short_way(6)
        for name in "def":
            self.finish_page(name)
        self.assertEqual(self.depths, {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5})
        self.finish(slow)  # type: ignore[arg-type]
        moved = {e.url: (e.depth, e.parent) for e in self.frontier.seen[JOB].log if isinstance(e, Moved)}
        self.assertEqual(moved, {u("d"): (2, u("s")), u("e"): (3, u("d")), u("f"): (4, u("e"))})

    def test_long_cascade(self) -> None:
        """A cascade longer than one call may follow is carried on by the next ones, of
        whatever kind; the job does not end in between."""
        chain = {f"n{i}": f"n{i + 1}" for i in range(9)}
        slow = self.slow_short_way(15, {"d": "n0", **chain}, cascade=3)
        self.finish_rest()
        self.assertEqual(self.job.pages[u("n9")].depth, 13)
        self.finish(slow)  # type: ignore[arg-type]
        calls = 0
        while self.state == "running":
            calls += 1
            self.assertGreater(self.job.pages[u("n9")].depth, 11)
            if calls % 2:
                self.frontier.reap()
            else:
                self.assertEqual(self.frontier.exchange("worker").running <= {JOB}, True)
        self.assertGreater(calls, 3)
        self.assertEqual(self.depths["n9"], 12)
        self.assertEqual(self.receipt.complete, True)

    def test_fetched_again_for_its_links(self) -> None:
        """A page long finished on the last level whose links nobody read is fetched once
        more: it keeps its disposition and its one entry."""
        slow = self.slow_short_way(4)
        self.finish_page("d")
        self.finish(slow)  # type: ignore[arg-type]
        again = self.take_page("d")
        self.assertEqual((again.depth, again.attempt), (2, 1))
        self.assertEqual(self.finish(again, disposition="fetched", status=500, title="changed"), DONE)
        self.assertEqual(self.record("d").status, 200)
        self.finish_rest()
        self.assertEqual(self.kinds, ["page a", "page b", "page c", "page d", "page s", "moved d", "page e"])
        self.assertEqual((self.receipt.found, self.receipt.fetched, self.receipt.complete), (6, 6, True))

    def test_links_read_early_are_not_fetched_again(self) -> None:
        """What the worker read on the last level is used when the page comes nearer."""
        slow = self.slow_short_way(4)
        self.finish(self.take_page("d"), read=True)
        self.finish(slow)  # type: ignore[arg-type]
        self.finish_page("e")
        self.assertEqual(self.state, "done")

    def test_page_without_links_is_not_fetched_again(self) -> None:
        """A page known to have no links, or not fetched, is left alone when it comes nearer."""
        for page in (SitePage(html=False), FAILED, SitePage(disposition="skipped:robots")):
            slow = self.slow_short_way(4, d=page)
            self.finish_page("d")
            self.finish(slow)  # type: ignore[arg-type]
            self.assertEqual(self.take(), [])
            self.assertEqual((self.state, self.depths["d"]), ("done", 2))

    def test_comes_nearer_while_fetched_again(self) -> None:
        """A page that is out for its links only and comes nearer still is told of as moved."""
        for taken in (False, True):
            # d is found at 4, then at 3 through s, then at 2 through t.
            self.begin({"a": "t b", "t": "d", "b": "s q", "s": "d", "q": "r", "r": "d", "d": "e"}, depth=5)
            self.finish_page("a")
            top = self.take_page("t")
            self.finish_page("b")
            slow = self.take_page("s")
            for name in "qrd":
                self.finish_page(name)
            self.finish(slow)
            again = self.take(1 if taken else 0)
            self.finish(top)
            self.assertEqual(self.kinds[-4:], ["page s", "moved d", "page t", "moved d"])
            for lease in again:
                self.assertEqual(self.finish(lease), DONE)
            self.finish_rest()
            self.assertEqual((self.depths["d"], self.depths["e"], self.state), (2, 3, "done"))

    def test_failing_to_fetch_again(self) -> None:
        """When the second fetch fails the first disposition stays, but the answer, which
        may lack what the page links to, does not claim to be complete."""
        slow = self.slow_short_way(4)
        self.finish_page("d")
        self.finish(slow)  # type: ignore[arg-type]
        again = self.take_page("d")
        self.assertEqual(self.finish(again, disposition="failed:timeout", children=None), DONE)
        self.assertEqual((self.state, self.record("d").disposition), ("done", "fetched"))
        self.assertEqual((self.receipt.failed, self.receipt.complete), ({}, False))

    def test_losing_workers_while_fetching_again(self) -> None:
        """The same when its workers are lost: no second disposition, not complete."""
        slow = self.slow_short_way(4, page_attempts=1)
        self.finish_page("d")
        self.finish(slow)  # type: ignore[arg-type]
        self.take_page("d")
        self.frontier.advance(20)
        self.assertEqual(self.frontier.reap(), 1)
        self.assertEqual((self.state, self.record("d").disposition), ("done", "fetched"))
        self.assertEqual((self.receipt.failed, self.receipt.complete), ({}, False))

    def test_final_depth(self) -> None:
        """Records as near as the nearest outstanding page's links are final; at the end all are."""
        self.begin({"a": "b c", "b": "d"}, depth=3)
        depths = [self.frontier.seen[JOB].final_depth]
        for _ in range(4):
            self.finish(self.take()[0])
            depths.append(self.frontier.seen[JOB].final_depth)
        self.assertEqual(depths, [1, 2, 2, 3, 3])

    def test_links_are_freed(self) -> None:
        """Links are kept exactly as long as an outstanding page is near enough to need them."""
        slow = self.slow_short_way(6)
        for name in "def":
            self.finish_page(name)
        kept = {url[-1] for url, page in self.job.pages.items() if page.links}
        # The slow page, at 1, may bring what stands at 3 or farther nearer, nothing else.
        self.assertEqual(kept, {"d", "e", "f"} - {"f"} | ({"f"} if self.job.pages[u("f")].links else set()))
        self.finish(slow)  # type: ignore[arg-type]
        self.finish_rest()
        self.assertFalse(any(page.links for page in self.job.pages.values()))


class LinkedFromTests(FrontierCase):
    BROKEN = SitePage(status=404, html=False)

    def test_up_to_five(self) -> None:
        """A broken page's record names up to five pages that link to it, before and after its end."""
        self.begin({"a": "b x c d e f g", **dict.fromkeys("bcdefg", "x")}, x=self.BROKEN)
        self.finish_page("a")
        self.finish_page("b")
        self.finish_page("x")
        record = self.frontier.seen[JOB].log[-1].page  # type: ignore[union-attr]
        self.assertEqual(record.linked_from, [u("a"), u("b")])
        self.finish_rest()
        self.assertEqual(self.record("x").linked_from, [u(n) for n in "abcde"])
        linked = [e for e in self.frontier.seen[JOB].log if isinstance(e, Linked)]
        self.assertEqual([e.parent for e in linked], [u(n) for n in "cde"])

    def test_a_good_page_has_none(self) -> None:
        """What is not broken costs no memory for who links to it."""
        self.begin({"a": "b x", "b": "x"})
        self.finish_rest()
        self.assertEqual((self.record("x").linked_from, self.job.pages[u("x")].linkers), ([], []))

    def test_failed_page(self) -> None:
        """A failed page is broken too."""
        self.begin({"a": "b x", "b": "x"}, x=FAILED)
        self.finish_rest()
        self.assertEqual(self.record("x").linked_from, [u("a"), u("b")])

    def test_broken_page_fetched_again(self) -> None:
        """Pages that link to a broken page are told of while it is out for its links, too."""
        links = {"a": "t b", "t": "d", "b": "s q", "s": "d", "q": "r", "r": "d", "e": ""}
        self.begin(links, depth=5, d=SitePage((u("e"),), status=404))
        self.finish_page("a")
        top = self.take_page("t")
        self.finish_page("b")
        slow = self.take_page("s")
        for name in "qrd":
            self.finish_page(name)
        self.finish(slow)
        self.assertTrue(self.job.pages[u("d")].refetch)
        self.finish(top)
        self.finish_rest()
        self.assertEqual(self.record("d").linked_from, [u("r"), u("s"), u("t")])


class LossTests(FrontierCase):
    def test_expired_lease_goes_back(self) -> None:
        """A page whose worker says nothing goes to another, as its second attempt."""
        self.begin({"a": "b"})
        first = self.take_page("a")
        self.frontier.advance(19.9)
        self.assertEqual(self.frontier.reap(), 0)
        self.frontier.advance(0.1)
        self.assertEqual(self.frontier.reap(), 1)
        second = self.take_page("a")
        self.assertEqual((first.attempt, second.attempt), (1, 2))
        self.assertEqual(self.finish(first), STALE)
        self.assertEqual(self.finish(second), DONE)

    def test_exchange_reaps(self) -> None:
        """Nobody needs to reap for that: any exchange does in passing."""
        self.begin({"a": "b"})
        self.take_page("a")
        self.frontier.advance(20)
        self.assertEqual(self.take_page("a").attempt, 2)

    def test_late_but_not_reaped(self) -> None:
        """A finish that is late still counts while the page has not been taken back."""
        self.begin({"a": "b"})
        a = self.take_page("a")
        self.frontier.advance(1000)
        self.assertEqual(self.finish(a), DONE)

    def test_worker_lost(self) -> None:
        """A page that cost its attempts is failed:worker_lost, and the answer not complete."""
        self.begin({"a": "b"}, page_attempts=3)
        for attempt in (1, 2, 3):
            self.assertEqual(self.take_page("a").attempt, attempt)
            self.frontier.advance(20)
        self.assertEqual(self.frontier.reap(), 1)
        self.assertEqual((self.state, self.dispositions), ("done", {"a": "failed:worker_lost"}))
        self.assertFalse(self.receipt.complete)

    def test_lost_in_passing_ends_the_job(self) -> None:
        """The exchange that finds the last page lost says that the job runs no more."""
        self.begin({"a": ""}, page_attempts=1)
        self.take_page("a")
        self.frontier.advance(20)
        self.assertEqual(self.frontier.exchange("other", [], 5).running, frozenset())

    def test_extend(self) -> None:
        """A lease lasts as long as its worker extends it; one already lost is said to be."""
        self.begin({"a": "b c"})
        self.finish_page("a")
        b, c = self.take(2)
        for _ in range(5):
            self.frontier.advance(15)
            self.assertEqual(self.frontier.extend("worker", [b.ref]), [True])
        self.frontier.reap()
        self.assertEqual(self.frontier.extend("worker", [b.ref, c.ref]), [True, False])
        self.assertEqual(self.finish(b), DONE)

    def test_release_costs_no_attempt(self) -> None:
        """A page given back goes out again at once, still as the first attempt."""
        self.begin({"a": "b"}, page_attempts=1)
        for _ in range(4):
            lease = self.take_page("a")
            self.assertEqual(lease.attempt, 1)
            self.assertEqual(self.frontier.release("worker", [lease.ref, lease.ref]), 1)
            self.assertEqual(self.finish(lease), STALE)
        self.assertEqual(self.frontier.release("worker", [lease.ref]), 0)


class CancelTests(FrontierCase):
    def test_everything_is_settled_at_once(self) -> None:
        """What was queued or leased is skipped:cancelled; what was fetched stays."""
        self.begin({"a": "b c d"})
        self.finish_page("a")
        leases = self.take(2)
        self.assertTrue(self.frontier.cancel(JOB, 1))
        self.assertEqual(self.state, "cancelled")
        self.assertEqual(self.dispositions, {"a": "fetched", **dict.fromkeys("bcd", "skipped:cancelled")})
        self.assertFalse(self.receipt.complete)
        self.assertEqual([self.finish(lease) for lease in leases], [STALE, STALE])
        self.assertEqual(self.frontier.extend("worker", [x.ref for x in leases]), [False, False])
        self.assertEqual(self.frontier.release("worker", [x.ref for x in leases]), 0)
        self.frontier.advance(100)
        self.assertEqual(self.frontier.reap(), 0)
        self.assertEqual(self.take(), [])

    def test_once(self) -> None:
        """A second cancel, or one of a job that is done, says so and changes nothing."""
        self.begin({"a": ""})
        self.assertTrue(self.frontier.cancel(JOB, 1))
        self.assertFalse(self.frontier.cancel(JOB, 2))
        self.begin({"a": ""})
        self.finish_rest()
        self.assertFalse(self.frontier.cancel(JOB, 1))
        self.assertEqual(self.state, "done")

    def test_before_it_was_seeded(self) -> None:
        """A job cancelled before its first page has found nothing; its seeding is refused."""
        self.frontier = CheckedFrontier()
        opened = self.frontier.open(JOB, JobSpec(u("a"), 2), 1)
        self.frontier.cancel(JOB, 1)
        seeding = Finish(opened.seeding, "fetched", [Child(u("a"))])  # type: ignore[arg-type]
        self.assertEqual(self.hand_in(seeding).verdicts, [STALE])
        self.assertEqual((self.state, self.receipt.found, self.receipt.complete), ("cancelled", 0, False))

    def test_in_a_cascade(self) -> None:
        """Depths not carried on yet are enough not to be complete."""
        links = {"a": "s b", "s": "d", "b": "c", "c": "d", "d": "e", "e": "f"}
        self.begin(links, depth=9, cascade=1)
        self.finish_page("a")
        slow = self.take_page("s")
        for name in "bcdef":
            self.finish_page(name)
        self.finish(slow)
        self.assertEqual((self.state, self.job.queued, self.job.leased), ("running", 0, 0))
        self.assertTrue(self.frontier.cancel(JOB, 1))
        self.assertEqual((self.state, self.receipt.skipped, self.receipt.complete), ("cancelled", {}, False))

    def test_other_reasons(self) -> None:
        """A deadline ends a job the same way, but as done: its answer is what there is."""
        self.begin({"a": "b"})
        self.finish_page("a")
        self.frontier.cancel(JOB, 1, "deadline")
        self.assertEqual((self.state, self.dispositions), ("done", {"a": "fetched", "b": "skipped:deadline"}))
        self.assertFalse(self.receipt.complete)

    def test_frees_the_hosts(self) -> None:
        """Another job has the hosts of a cancelled one at once."""
        self.begin({"a": ""}, host_concurrency=1)
        self.add_job("other", u("z"))
        self.assertEqual(len(self.take(5)), 1)
        self.frontier.cancel(JOB, 1)
        self.assertEqual([lease.ref.job for lease in self.take(5)], ["other"])


class MaxPagesTests(FrontierCase):
    LINKS = {"a": "b c d e f g"}  # noqa: RUF012

    def test_exact_with_many_workers(self) -> None:
        """No more pages are out than may still be fetched, however many workers ask."""
        self.begin(self.LINKS, max_pages=4, c=FAILED)
        self.finish_page("a")
        leases = [lease for _ in range(5) for lease in self.take(5)]
        self.assertEqual(len(leases), 3)
        for lease in leases:
            self.finish(lease)
        self.assertEqual(self.state, "running")
        self.finish(self.take(5)[0])
        self.assertEqual((self.state, self.receipt.fetched), ("done", 4))
        self.assertEqual((self.receipt.failed, self.receipt.skipped), ({"timeout": 1}, {"page_limit": 2}))
        self.assertFalse(self.receipt.complete)

    def test_lost_worker_does_not_count(self) -> None:
        """A page taken back leaves its place to the next; its late finish does not count."""
        self.begin(self.LINKS, max_pages=2)
        self.finish_page("a")
        lost = self.take_page("b")
        self.assertEqual(self.take(), [])
        self.frontier.advance(20)
        second = self.take_page("c")
        self.assertEqual(self.finish(lost), STALE)
        self.finish(second)
        self.assertEqual((self.state, self.receipt.fetched), ("done", 2))

    def test_as_many_as_there_are(self) -> None:
        """A limit that the site just fits in cut nothing."""
        self.begin({"a": "b"}, depth=5, max_pages=2)
        self.finish_rest()
        self.assertEqual((self.state, self.receipt.fetched, self.receipt.complete), ("done", 2, True))

    def fetched_again_at_the_limit(self) -> object:
        """Page ``d`` is out for its links only while the last page that may be fetched is."""
        links = {"a": "s b", "s": "d", "b": "c", "c": "d x", "d": "e"}
        self.begin(links, depth=4, max_pages=6)
        self.finish_page("a")
        slow = self.take_page("s")
        for name in "bcd":
            self.finish_page(name)
        self.finish(slow)
        again = self.take_page("d")
        self.finish_page("x")
        self.assertEqual((self.state, self.receipt.fetched), ("running", 6))
        return again

    def test_links_of_a_page_out_at_the_limit(self) -> None:
        """A page out for its links alone may still bring them: they are found, not fetched."""
        again = self.fetched_again_at_the_limit()
        self.assertEqual(self.finish(again), DONE)  # type: ignore[arg-type]
        self.assertEqual((self.state, self.dispositions["e"]), ("done", "skipped:page_limit"))

    def test_given_back_at_the_limit(self) -> None:
        """Given back instead, it does not go out again: the job ends, not complete."""
        again = self.fetched_again_at_the_limit()
        self.frontier.release("worker", [again.ref])  # type: ignore[attr-defined]
        self.assertEqual((self.state, self.receipt.fetched, self.receipt.complete), ("done", 6, False))

    def test_lost_at_the_limit(self) -> None:
        """The same when its worker is lost."""
        self.fetched_again_at_the_limit()
        self.frontier.advance(20)
        self.frontier.reap()
        self.assertEqual((self.state, self.receipt.fetched, self.receipt.complete), ("done", 6, False))

    def test_nearer_after_the_limit(self) -> None:
        """A page that would have to go out for its links after the limit does not: the
        job ends, and says that it is not complete."""
        links = {"a": "s b", "s": "d", "b": "c", "c": "e", "e": "d x y", "d": "x"}
        self.begin(links, depth=5, max_pages=8)
        self.finish_page("a")
        slow = self.take_page("s")
        for name in "bcedx":
            self.finish_page(name)
        self.finish(slow)
        again = self.take_page("d")
        self.finish_page("y")
        self.assertEqual((self.state, self.receipt.fetched), ("running", 8))
        self.finish(again)
        self.assertEqual((self.state, self.depths["x"]), ("done", 3))
        self.assertEqual((self.receipt.skipped, self.receipt.complete), ({}, False))


class HostTests(FrontierCase):
    def names(self, want: int, **only: object) -> list[str]:
        return [lease.ref.url.rpartition("/")[2] for lease in self.take(want, **only)]

    def test_concurrency(self) -> None:
        """A host gets no more requests at once than allowed, over all jobs and workers; the
        next goes out when one has ended, whichever way."""
        self.begin({"a": "b c d e f g h"}, host_concurrency=2)
        self.finish_page("a")
        self.add_job("other", u("z"))
        b, z = self.take(9)
        self.assertEqual({b.ref.job, z.ref.job}, {JOB, "other"})
        self.assertEqual(self.take(9), [])
        self.finish(b)
        c = self.take(9)
        self.assertEqual(len(c), 1)
        self.frontier.release("worker", [z.ref])
        self.assertEqual(len(self.take(9)), 1)
        self.frontier.advance(20)
        self.assertEqual(len(self.take(9)), 2)

    def test_full_host_holds_up_no_other(self) -> None:
        """Pages of other hosts go out while one host is full, farther ones too."""
        self.begin({"a": "b1@x b2@x b3@x c@y", "c@y": "d@y"}, host_concurrency=1)
        self.finish_page("a")
        leases = self.take(9)
        self.assertEqual([lease.ref.url for lease in leases], [u("b1@x"), u("c@y")])
        self.finish(leases[1])
        self.assertEqual(self.names(9), ["d"])

    def test_hosts_take_turns(self) -> None:
        """A host with many pages waits no less than one with few."""
        self.begin({"a": "x1@x x2@x x3@x x4@x y1@y y2@y z1@z"})
        self.finish_page("a")
        self.assertEqual(self.names(9), ["x1", "y1", "z1", "x2", "y2", "x3", "x4"])

    def test_jobs_take_turns(self) -> None:
        """A large job does not hold up a small one, within a call and over calls."""
        self.begin({"a": "b c d e f g"}, host_concurrency=99)
        self.finish_page("a")
        for n in (1, 2):
            self.add_job(f"job{n}", u(f"z{n}"))
        self.assertEqual([lease.ref.job for lease in self.take(4)], [JOB, "job1", "job2", JOB])

    def test_least_recently_served_job_first(self) -> None:
        """Workers that ask for one page at a time serve all jobs alike."""
        self.begin({"a": "b c d e f g"}, host_concurrency=99)
        self.finish_page("a")
        for n in (1, 2):
            site = [Child(u(f"z{n}{i}")) for i in range(5)]
            opened = self.frontier.open(f"job{n}", JobSpec(u("z"), 2), 1)
            self.hand_in(Finish(opened.seeding, "fetched", site))  # type: ignore[arg-type]
        served = [lease.ref.job for _ in range(9) for lease in self.take(1)]
        for start in range(7):
            self.assertEqual(set(served[start : start + 3]), {JOB, "job1", "job2"}, served)

    def test_jobs_with_nothing_to_give_take_no_turn(self) -> None:
        """A job whose host is full does not shift the turns of the others."""
        self.begin({"a": "b"}, host_concurrency=1)
        self.take(1)
        self.add_job("blocked", u("y"))
        for n in (1, 2):
            site = [Child(u(f"p@{n}{i}")) for i in range(5)]
            opened = self.frontier.open(f"job{n}", JobSpec(u("z"), 2), 1)
            self.hand_in(Finish(opened.seeding, "fetched", site))  # type: ignore[arg-type]
        served = [lease.ref.job for _ in range(6) for lease in self.take(1)]
        self.assertEqual(served, ["job1", "job2"] * 3)

    def test_named_jobs_and_spiders(self) -> None:
        """A worker gets pages of the jobs and the spiders it asks for only."""
        self.begin({"a": ""})
        self.add_job("other", u("z"), spider="mine")
        self.assertEqual(self.names(9, jobs=["unknown"]), [])
        self.assertEqual(self.names(9, spiders=["none"]), [])
        answer = self.frontier.exchange("worker", [], 9, ["other", "unknown"], ["site"])
        self.assertEqual((answer.leases, answer.running), ([], {"other"}))
        self.assertEqual(self.names(9, jobs=["other"], spiders=["mine"]), ["z"])
        self.assertEqual(self.names(9), ["a"])

    def test_own_network(self) -> None:
        """A host found to be in the operator's own network takes as many as are asked for."""
        self.begin({"a": "b c d e f"}, host_concurrency=1)
        a = self.take_page("a")
        self.finish(a, own_network=True)
        self.assertEqual(self.names(9), list("bcdef"))

    def test_own_network_found_while_others_wait(self) -> None:
        """Pages set aside for the host come out as soon as it is known."""
        self.begin({"a": "b c d e f"}, host_concurrency=2)
        self.finish_page("a")
        b, _ = self.take(9)
        self.finish(b, own_network=True)
        self.assertEqual(self.names(9), list("def"))


class AuditTests(FrontierCase):
    def setUp(self) -> None:
        self.begin({"a": "b c d", "b": "e"}, depth=4)
        self.finish_page("a")
        self.finish_page("b")
        self.take(1)
        self.assertEqual(self.audit(), [])

    def audit(self) -> list[str]:
        return self.frontier.model.audit(0, JOB)

    def test_counters(self) -> None:
        """A counter that is off by one is found, whichever it is."""
        for name in ("queued", "leased", "fetching"):
            setattr(self.job, name, getattr(self.job, name) + 1)
            self.assertNotEqual(self.audit(), [], name)
            setattr(self.job, name, getattr(self.job, name) - 1)
        self.assertEqual(self.audit(), [])

    def test_dispositions(self) -> None:
        """So is a disposition counted twice, or not at all."""
        for change in (1, -1):
            self.job.counts["fetched"] += change
            self.assertNotEqual(self.audit(), [])
            self.job.counts["fetched"] -= change

    def test_outstanding(self) -> None:
        """So is a page outstanding at a depth where it is not, though the sum is right."""
        self.job._count(2, 1)
        self.assertNotEqual(self.audit(), [])
        self.job._count(1, -1)
        self.assertNotEqual(self.audit(), [])

    def test_lost_page(self) -> None:
        """So is a page gone from the structures, or one that ended without a disposition."""
        page = self.job.pages.pop(u("e"))
        self.assertNotEqual(self.audit(), [])
        self.job.pages[u("e")] = page
        page.state = "ended"
        self.assertNotEqual(self.audit(), [])

    def test_lost_record(self) -> None:
        """So is a log that lacks an entry."""
        entry = self.job.log.pop()
        self.assertIsInstance(entry, Ended)
        self.assertNotEqual(self.audit(), [])

    def test_ended_too_early(self) -> None:
        """So is an end with something outstanding."""
        self.job.state = "done"
        self.assertNotEqual(self.audit(), [])
