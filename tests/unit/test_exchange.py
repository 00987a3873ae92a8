"""The exchange of one process with the frontier, against a scripted store and a clock."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.core.ports import DONE, LATER, LINKS_WANTED, STALE, Child, Finish, PageLease
from crawlfarm.frontier.exchange import Exchange, Pace
from tests.support.scripted import JOB, ScriptedStore, done, lease, nobody


class ExchangeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = ScriptedStore()
        self.changes = 0
        self.exchange = self.make()

    def make(self, **options: Any) -> Exchange:
        options = {"jobs": frozenset([JOB]), "spiders": None, "buffer": 4, "page_lease_s": 30.0} | options
        return Exchange(self.clock, self.store, "worker", changed=self._changed, **options)

    def _changed(self) -> None:
        self.changes += 1

    def turn(self) -> None:
        """One turn of the reactor."""
        self.clock.advance(0)

    def begin(self, *leases: PageLease) -> None:
        """Start, with these pages in the first answer."""
        started = self.exchange.start()
        self.turn()
        self.store.answer(*leases)
        self.assertIsNone(self.successResultOf(started))

    def stopping(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.exchange.stop())

    # --- pages in -----------------------------------------------------------------------

    def test_start_waits_for_the_first_answer(self) -> None:
        """A crawl does not begin before the store has said whether there is something to do."""
        started = self.exchange.start()
        self.turn()
        self.assertNoResult(started)
        self.store.answer(lease(1))
        self.successResultOf(started)
        self.assertEqual(self.changes, 1)

    def test_no_more_than_the_buffer_is_asked_for(self) -> None:
        """Ready pages and wanted ones together are never more than the buffer holds."""
        self.begin(lease(1), lease(2))
        wants = [want for _, want in self.store.asked]
        self.assertEqual(wants, [4])
        ready = 2
        for page in range(3, 30):
            self.assertIsNotNone(self.exchange.take())
            ready -= 1
            self.store.wake()
            self.turn()
            if self.store.open_calls:
                self.assertLessEqual(ready + self.store.asked[-1][1], 4)
                self.store.answer(lease(page))
                ready += 1

    def test_a_full_buffer_asks_for_nothing(self) -> None:
        """With more than half of the buffer ready the store is left alone."""
        self.begin(*map(lease, range(4)))
        self.store.wake()
        self.clock.pump([0.5] * 8)
        self.assertEqual(len(self.store.asked), 1)
        self.exchange.take()
        self.turn()
        self.assertEqual(len(self.store.asked), 1)
        self.exchange.take()
        self.turn()
        self.assertEqual(self.store.asked[1:], [([], 2)])

    def test_humble(self) -> None:
        """It takes one page now and then, and hands in what is done at once; told otherwise, all it can."""
        pace = Pace(humble=True)
        self.exchange = self.make(pace=pace)
        self.begin(lease(1))
        self.assertEqual(self.store.asked, [([], 1)])
        self.clock.pump([0.01] * 20)
        self.assertEqual(len(self.store.asked), 1, "one is ready: no other is wanted")
        self.exchange.take()
        self.clock.pump([0.01] * 2)
        self.assertEqual(self.store.asked[1:], [([], 1)], "the pause since the last one is over")
        self.store.answer(lease(2))
        self.exchange.take()
        self.clock.advance(0.01)
        self.assertEqual(len(self.store.asked), 2)
        finish = done(lease(1))
        self.exchange.finish(finish)
        self.turn()
        self.assertEqual(self.store.asked[2:], [([finish], 0)])
        self.store.answer(verdicts=[DONE])
        self.assertEqual(pace.finished, 1)
        pace.humble = False
        self.turn()
        self.assertEqual(self.store.asked[3:], [([], 4)])

    def test_pages_come_in_the_order_of_the_store(self) -> None:
        """The buffer does not reorder: the frontier hands out the nearest first."""
        pages = [lease(n) for n in (5, 3, 9)]
        self.begin(*pages)
        self.assertEqual([self.exchange.take() for _ in range(4)], [*pages, None])

    def test_idle_until_woken(self) -> None:
        """When the store had nothing, nobody asks again before something changed there."""
        self.begin()
        self.clock.pump([0.01] * 50)
        self.assertEqual(len(self.store.asked), 1)
        self.store.wake()
        self.turn()
        self.assertEqual(len(self.store.asked), 2)

    def test_idle_asks_now_and_then(self) -> None:
        """Expired leases of others come back by time alone: nobody wakes us for them."""
        self.begin()
        self.clock.pump([0.1] * 30)
        self.assertEqual(len(self.store.asked), 2)
        self.store.answer()
        self.clock.pump([0.1] * 30)
        self.assertEqual(len(self.store.asked), 3)

    def test_a_wake_up_during_a_call_is_not_lost(self) -> None:
        """What changed after the store wrote its answer is asked for at once, not a poll later."""
        self.begin()
        self.store.wake()
        self.turn()
        self.store.wake()
        self.store.answer()
        self.turn()
        self.assertEqual(len(self.store.asked), 3)
        self.store.answer()
        self.clock.pump([0.01] * 50)
        self.assertEqual(len(self.store.asked), 3)

    # --- pages out ----------------------------------------------------------------------

    def test_a_shard_that_is_away_is_asked_again_later(self) -> None:
        """A finish that found its shard away goes again after a pause, and keeps its lease."""
        page = lease(1)
        self.begin(page)
        self.exchange.take()
        self.exchange.finish(done(page))
        self.turn()
        self.store.answer(verdicts=[LATER])
        self.clock.pump([0.1] * 5)
        self.assertEqual(self.store.asked[-1], ([done(page)], 4))
        asked = len(self.store.asked)
        self.clock.pump([0.1] * 6)
        self.assertEqual(self.store.asked[asked:], [([done(page)], 4)])
        self.store.answer(verdicts=[DONE])
        self.clock.pump([0.5] * 3)
        self.assertEqual(self.store.asked[-1][0], [])

    def test_one_call_at_a_time_and_batches_while_it_lasts(self) -> None:
        """What is finished during a call goes together in the next one."""
        pages = [lease(n) for n in range(4)]
        self.begin(*pages)
        for _ in pages:
            self.exchange.take()
        self.exchange.finish(done(pages[0]))
        self.turn()
        self.assertEqual(self.store.asked[-1], ([done(pages[0])], 4))
        for page in pages[1:]:
            self.exchange.finish(done(page))
            self.turn()
        self.assertEqual(len(self.store.open_calls), 1)
        self.store.answer()
        self.turn()
        self.assertEqual(self.store.asked[-1][0], [done(page) for page in pages[1:]])
        self.assertEqual(len(self.store.asked), 3)

    def test_finishes_of_one_turn_go_together(self) -> None:
        """Pages finished in the same turn of the reactor cost one call."""
        pages = [lease(n) for n in range(3)]
        self.begin(*pages)
        for page in pages:
            self.exchange.finish(done(page))
        self.turn()
        self.assertEqual(self.store.asked[1][0], [done(page) for page in pages])

    def test_links_wanted_is_answered_with_the_links(self) -> None:
        """A page that has left the last level is finished again, with its links."""
        page, links = lease(1), [Child("http://site.example/2")]
        self.begin(page)
        self.exchange.take()
        self.exchange.finish(done(page, None), lambda: links)
        self.turn()
        self.store.answer(verdicts=[LINKS_WANTED])
        self.turn()
        self.assertEqual(self.store.asked[-1][0], [done(page, links)])

    def test_links_are_not_read_unless_wanted(self) -> None:
        """On the last level nobody pays for reading links."""
        page = lease(1)
        self.begin(page)
        self.exchange.finish(done(page, None), lambda: self.fail("read for nothing"))
        self.turn()
        self.store.answer()

    def test_links_that_cannot_be_read_end_the_page(self) -> None:
        """The job ends all the same: the page is ``failed:error``, its lease is not kept for ever."""
        page, other = lease(1), lease(2)
        self.begin(page, other)

        def broken() -> list[Child]:
            raise RecursionError("too deep")

        self.exchange.finish(done(page, None), broken)
        self.exchange.finish(done(other, None))
        self.turn()
        self.store.answer(verdicts=[LINKS_WANTED, LINKS_WANTED])
        self.turn()
        self.assertEqual(self.store.asked[-1][0], [Finish(page.ref, "failed:error"), done(other)])
        self.assertEqual(len(self.flushLoggedErrors(RecursionError)), 1)

    def test_a_stale_finish_is_forgotten(self) -> None:
        """A page that was taken over is not finished twice, and no longer held."""
        page = lease(1)
        self.begin(page)
        self.exchange.take()
        self.exchange.finish(done(page))
        self.turn()
        self.store.answer(verdicts=[STALE])
        self.clock.pump([5.0] * 4)
        self.assertNotIn(done(page), [f for finished, _ in self.store.asked[2:] for f in finished])
        self.assertEqual(self.store.extended, [])

    # --- a store that is away ---------------------------------------------------------

    def test_finishes_survive_a_store_that_is_away(self) -> None:
        """They go again, in their order and before newer ones, until somebody has them."""
        pages = [lease(n) for n in range(3)]
        self.begin(*pages)
        for _ in pages:
            self.exchange.take()
        self.exchange.finish(done(pages[0]))
        self.exchange.finish(done(pages[1]))
        self.turn()
        for tries in range(5):
            self.store.fail()
            if not tries:
                self.exchange.finish(done(pages[2]))
            self.clock.advance(60)
            self.assertEqual(len(self.store.open_calls), 1)
        self.assertEqual(self.store.asked[-1][0], [done(page) for page in pages])
        self.store.answer()
        self.store.wake()
        self.turn()
        self.assertEqual(self.store.asked[-1][0], [])

    def test_it_backs_off(self) -> None:
        """A store that is away is not asked in a busy loop."""
        self.begin()
        self.store.wake()
        self.turn()
        for _ in range(20):
            self.store.fail()
            before = len(self.store.asked)
            self.store.wake()
            self.clock.pump([0.01] * 4)
            self.assertEqual(len(self.store.asked), before)
            self.clock.advance(60)
            self.assertEqual(len(self.store.asked), before + 1)

    # --- leases ------------------------------------------------------------------------

    def test_every_held_lease_is_extended(self) -> None:
        """Ready, being fetched, or finished and not acknowledged: three times a lease."""
        ready, fetching, finished = lease(1), lease(2), lease(3)
        self.begin(fetching, finished, ready)
        self.exchange.take()
        self.exchange.take()
        self.exchange.finish(done(finished))
        self.clock.pump([10.0] * 3)
        self.assertEqual(len(self.store.extended), 3)
        for refs in self.store.extended:
            self.assertCountEqual(refs, [ready.ref, fetching.ref, finished.ref])
        self.store.answer()
        self.clock.advance(10.0)
        self.assertCountEqual(self.store.extended[-1], [ready.ref, fetching.ref])

    def test_lost_leases_are_not_fetched(self) -> None:
        """A page another worker has by now is dropped from the buffer."""
        pages = [lease(n) for n in range(3)]
        self.begin(*pages)
        self.store.lost = {pages[1].ref}
        self.clock.advance(10.0)
        self.assertEqual([self.exchange.take() for _ in range(3)], [pages[0], pages[2], None])
        self.clock.advance(10.0)
        self.assertNotIn(pages[1].ref, self.store.extended[-1])

    def test_extending_goes_on_after_a_failure(self) -> None:
        """One call that fails costs a third of a lease, not the leases."""
        page = lease(1)
        self.begin(page)
        self.store.away = True
        self.clock.advance(10.0)
        self.store.away = False
        self.clock.advance(10.0)
        self.assertEqual(self.store.extended, [[page.ref], [page.ref]])

    def test_pages_of_an_ended_job_are_dropped(self) -> None:
        """A worker does not fetch for a job that has ended, and goes on with the others."""
        self.exchange = self.make(jobs=None, buffer=8)
        mine, other = lease(1, "cancelled"), lease(2)
        started = self.exchange.start()
        self.turn()
        self.store.answer(mine, other, running=["cancelled", JOB])
        self.successResultOf(started)
        self.store.wake()
        self.turn()
        self.store.answer(running=[JOB])
        self.assertEqual([self.exchange.take(), self.exchange.take()], [other, None])
        self.assertFalse(self.exchange.over)
        self.clock.advance(10.0)
        self.assertEqual(self.store.extended, [[other.ref]])

    # --- the end -----------------------------------------------------------------------

    def test_over_when_the_job_has_ended(self) -> None:
        """It says so once, gives no page any more and leaves the store alone."""
        page = lease(1)
        self.begin(page)
        self.exchange.take()
        self.exchange.finish(done(page))
        self.turn()
        self.assertFalse(self.exchange.over)
        self.store.answer(running=[])
        self.assertTrue(self.exchange.over)
        self.assertEqual(self.changes, 2)
        asked = len(self.store.asked)
        self.store.wake()
        self.clock.pump([1.0] * 5)
        self.assertEqual(len(self.store.asked), asked)

    def test_a_worker_of_all_jobs_is_never_over(self) -> None:
        """Another job may come."""
        self.exchange = self.make(jobs=None)
        started = self.exchange.start()
        self.turn()
        self.store.answer(running=[])
        self.successResultOf(started)
        self.assertFalse(self.exchange.over)

    def test_stop_hands_in_and_gives_back(self) -> None:
        """Finished pages are handed in first; what was not fetched is given back."""
        finished, ready, fetching = lease(1), lease(2), lease(3)
        self.begin(finished, fetching, ready)
        self.exchange.take()
        self.exchange.take()
        self.exchange.finish(done(finished))
        stopped = self.stopping()
        self.turn()
        self.assertEqual(self.store.asked[-1], ([done(finished)], 0))
        self.assertEqual(self.store.released, [])
        self.store.answer()
        self.successResultOf(stopped)
        self.assertCountEqual(self.store.released, [ready.ref, fetching.ref])
        self.assertIsNone(self.exchange.take())
        self.assertIs(self.store.wake, nobody)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_waits_for_the_call_under_way(self) -> None:
        """Pages that a call brings while stopping are given back too, links still asked for are read."""
        page, late = lease(1), lease(2)
        self.begin(page)
        self.exchange.finish(done(page, None), lambda: [Child("http://site.example/9")])
        self.turn()
        stopped = self.stopping()
        self.store.answer(late, verdicts=[LINKS_WANTED])
        self.turn()
        self.assertEqual(self.store.asked[-1][0], [done(page, [Child("http://site.example/9")])])
        self.store.answer()
        self.successResultOf(stopped)
        self.assertEqual(self.store.released, [late.ref])

    def test_stop_after_the_end_of_the_job(self) -> None:
        """Pages that finish after a cancel have nobody to go to; stopping does not wait for them."""
        page = lease(1)
        self.begin(page)
        self.exchange.take()
        self.store.wake()
        self.turn()
        self.store.answer(running=[])
        self.exchange.finish(done(page))
        stopped = self.stopping()
        self.turn()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_finishes_waiting_when_the_job_ends(self) -> None:
        """A page finished while the answer that ends the job is on its way does not hold up the stop."""
        page, other = lease(1), lease(2)
        self.begin(page, other)
        self.exchange.finish(done(page))
        self.turn()
        self.exchange.finish(done(other))
        self.store.answer(running=[])
        stopped = self.stopping()
        self.turn()
        self.successResultOf(stopped)

    def test_stop_while_the_store_is_away(self) -> None:
        """It leaves nothing running: the leases expire, others fetch the pages."""
        page = lease(1)
        self.begin(page)
        self.exchange.finish(done(page))
        self.turn()
        self.store.away = True
        stopped = self.stopping()
        self.store.fail()
        self.turn()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.store.released, [])
