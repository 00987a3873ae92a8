"""What each follower of a job is sent, and when, without a network."""

from __future__ import annotations

from crawlfarm.wire.client import Failed, JobProgress
from tests.support.desk import URL, HubTest, kinds, urls, value_of
from wsgate import effects
from wsgate.following import ASK_AGAIN_S


class Following(HubTest):
    def test_stream_then_result(self) -> None:
        """A stream has every entry in its kind and order, numbered, and then one result."""
        job = self.running(stream=True)
        self.farm.page(job, URL, 0)
        self.farm.page(job, URL + "a", 1)
        self.farm.page(job, URL + "b", 1, "failed:timeout")
        self.desk.wake()
        self.farm.moved(job, URL + "a", 1, URL)
        self.farm.linked(job, URL + "b", URL + "a")
        self.farm.page(job, URL + "c", 1)
        self.desk.wake()
        self.farm.end(job)
        replies = self.desk.take(1)
        self.assertEqual(kinds(replies), ["accepted", "pages", "moved", "linked", "pages", "result"])
        self.assertEqual((replies[1].first, replies[1].last), ("1.1", "1.3"))
        self.assertEqual((replies[2].at, replies[3].at, replies[4].first), ("1.4", "1.5", "1.6"))
        self.assertEqual(replies[5].levels, [[URL], [URL + "a", URL + "c"]])
        self.assertEqual((replies[5].receipt.found, replies[5].cached), (4, False))

    def test_no_stream_no_pages(self) -> None:
        """Without ``stream`` only progress and the end come."""
        job = self.running()
        self.farm.pages(job, 3)
        self.desk.tick(1.0)
        self.farm.end(job)
        self.assertEqual(set(kinds(self.desk.take(1))), {"accepted", "progress", "result"})

    def test_progress_once_a_second(self) -> None:
        """Progress comes once a second at most, and only where it changed."""
        job = self.running()
        self.desk.take(1)
        for _ in range(8):
            self.farm.pages(job, 1)
            self.desk.tick(0.25)
        self.assertLessEqual(len(self.desk.take(1)), 3)
        self.desk.tick(2.0)
        self.desk.take(1)
        self.desk.tick(2.0)
        self.assertEqual(self.desk.take(1), [])

    def test_queued_then_running(self) -> None:
        """Progress says ``queued`` until a master opened the job."""
        self.desk.submit(1)
        self.desk.tick(1.0)
        self.farm.begin(self.farm.only_job)
        self.desk.tick(1.0)
        states = [reply.state for reply in self.desk.take(1) if isinstance(reply, JobProgress)]
        self.assertEqual(states, ["queued", "running"])

    def test_two_followers(self) -> None:
        """Two connections that joined one job both get all of it, and one end each."""
        job = self.running(stream=True)
        self.farm.pages(job, 3)
        self.desk.wake()
        self.desk.connect(2)
        self.desk.submit(2, id="b", stream=True)
        self.farm.pages(job, 3)
        self.desk.wake()
        self.farm.end(job)
        for number in (1, 2):
            self.assertEqual(len(self.desk.ends(number)), 1)
            replies = self.desk.take(number)
            self.assertEqual(len(urls(replies)), 6)
            self.assertEqual(len(set(urls(replies))), 6)

    def test_followers_share_reads(self) -> None:
        """Followers at the same place of a log cost one read."""
        job = self.running(stream=True)
        for number in range(2, 6):
            self.desk.connect(number)
            self.desk.submit(number, id=str(number), stream=True)
        self.desk.holding = (effects.ReadLog,)
        self.farm.pages(job, 7)
        self.desk.wake()
        self.desk.release()
        self.assertEqual(self.farm.frontier.reads, 7)
        for number in range(1, 6):
            self.assertEqual(len(urls(self.desk.take(number))), 7)

    def test_woken_while_reading(self) -> None:
        """What is logged while a read is on its way is not forgotten."""
        job = self.running(stream=True)
        self.farm.pages(job, 2)
        self.desk.holding = (effects.ReadLog,)
        self.desk.wake()
        wanted = self.desk.held.pop()
        slice_of_two = value_of(self.farm.frontier.events(job, 0))
        self.farm.pages(job, 2)
        self.desk.wake()
        self.desk.holding = ()
        self.desk.do(self.desk.hub.answered(wanted.ticket, slice_of_two, self.desk.now))
        self.assertEqual(len(urls(self.desk.take(1))), 4)

    def test_paused_reads_nothing(self) -> None:
        """A connection without room costs no reads; with room again it misses nothing."""
        job = self.running(stream=True)
        self.desk.take(1)
        self.desk.hub.paused(1)
        self.farm.pages(job, 1000)
        for _ in range(5):
            self.desk.wake()
            self.desk.tick(1.0)
        self.assertEqual((self.desk.take(1), self.farm.frontier.reads), ([], 0))
        self.desk.do(self.desk.hub.writable(1, self.desk.now))
        self.assertEqual(len(urls(self.desk.take(1))), 1000)

    def test_paused_at_the_end(self) -> None:
        """The rest of the log and the result wait for room as well."""
        job = self.running(stream=True)
        self.desk.hub.paused(1)
        self.farm.pages(job, 700)
        self.farm.end(job)
        self.assertEqual(kinds(self.desk.take(1)), ["accepted"])
        self.desk.do(self.desk.hub.writable(1, self.desk.now))
        replies = self.desk.take(1)
        self.assertEqual((len(urls(replies)), kinds(replies)[-1]), (700, "result"))

    def test_rewound(self) -> None:
        """When the log begins again the stream says so, and then tells it from its first entry."""
        job = self.running(stream=True)
        self.farm.pages(job, 3)
        self.desk.wake()
        self.farm.rewind(job, 7)
        self.farm.pages(job, 2)
        self.desk.wake()
        self.assertEqual(kinds(self.desk.take(1)), ["accepted", "pages", "rewound", "pages"])

    def test_rewound_only_in_the_result(self) -> None:
        """A run that only the stored result is of is told as well."""
        job = self.running(stream=True)
        self.farm.pages(job, 3)
        self.desk.wake()
        self.farm.rewind(job, 7)
        self.farm.pages(job, 2)
        self.farm.end(job)
        self.assertEqual(kinds(self.desk.take(1)), ["accepted", "pages", "rewound", "pages", "result"])

    def test_lost_hint(self) -> None:
        """A lost hint of the end costs some seconds, not the result."""
        job = self.running()
        self.farm.end(job, announce=False)
        self.desk.tick(0.1)
        self.assertEqual(self.desk.ends(1), [])
        self.desk.tick(ASK_AGAIN_S)
        self.assertEqual(len(self.desk.ends(1)), 1)

    def test_store_away_at_the_end(self) -> None:
        """While the result store is away the end waits; nobody is told a failure."""
        job = self.running()
        self.farm.away = {"results"}
        self.farm.end(job)
        self.desk.tick(2.0)
        self.assertEqual(self.desk.ends(1), [])
        self.farm.away = set()
        self.desk.tick(2.0)
        self.assertEqual(kinds(self.desk.ends(1)), ["result"])

    def test_frontier_away(self) -> None:
        """While the frontier is away a stream stands still, and then goes on."""
        job = self.running(stream=True)
        self.farm.pages(job, 2)
        self.farm.away = {"frontier"}
        self.desk.wake()
        self.farm.away = set()
        self.desk.tick(1.0)
        self.assertEqual(len(urls(self.desk.take(1))), 2)

    def test_hint_while_asking(self) -> None:
        """A hint that comes while the lock daemon is being asked is not lost."""
        self.desk.submit(1)
        job = self.farm.only_job
        self.desk.holding = (effects.CallLocks,)
        self.desk.tick(ASK_AGAIN_S + 1)
        (wanted,) = self.desk.held
        before = value_of(self.farm.locks.call(wanted.need.command))
        self.farm.begin(job)
        self.farm.end(job)
        self.desk.holding = ()
        self.desk.do(self.desk.hub.answered(wanted.ticket, before, self.desk.now))
        self.assertEqual(len(self.desk.ends(1)), 1)

    def test_result_expired(self) -> None:
        """A job that is done but kept nowhere answers ``result_expired``."""
        job = self.running()
        self.farm.end(job, kept=False)
        (end,) = self.desk.ends(1)
        self.assertEqual((type(end), end.error.code), (Failed, "result_expired"))

    def test_failed(self) -> None:
        """A failed job says why."""
        job = self.running(stream=True)
        self.farm.end(job, "failed", code="poisoned", message="it lost three masters")
        (end,) = self.desk.ends(1)
        self.assertEqual((end.error.code, end.error.message), ("poisoned", "it lost three masters"))

    def test_many_jobs_one_connection(self) -> None:
        """One connection may have several jobs; each has its own stream and end."""
        for name in "abc":
            self.desk.submit(1, id=name, url=URL + name, stream=True)
        for job in list(self.farm.jobs):
            self.farm.pages(job, 2)
        self.desk.wake()
        for job in list(self.farm.jobs):
            self.farm.end(job)
        self.assertEqual(sorted(end.job for end in self.desk.ends(1)), sorted(self.farm.jobs))
        self.assertEqual(len(urls(self.desk.take(1))), 6)


class Resuming(HubTest):
    def test_from_a_cursor(self) -> None:
        """``resume`` goes on after its cursor, in a running job and in one that has ended."""
        job = self.running(stream=True)
        every = self.farm.pages(job, 5)
        self.desk.connect(2)
        self.desk.say(2, type="resume", job=job, after="1.2")
        replies = self.desk.take(2)
        self.assertEqual(kinds(replies)[0], "progress")
        self.assertEqual(urls(replies), every[2:])
        self.farm.end(job)
        self.desk.connect(3)
        self.desk.say(3, type="resume", job=job, after="1.4")
        replies = self.desk.take(3)
        self.assertEqual((urls(replies), kinds(replies)), (every[4:], ["pages", "result"]))

    def test_unknown(self) -> None:
        """Another client's job is as unknown as none at all."""
        self.desk.submit(1)
        self.desk.connect(2, client="eve")
        for job in (self.farm.only_job, "nothing"):
            for kind in ("resume", "status", "cancel"):
                self.desk.say(2, type=kind, job=job)
                (error,) = self.desk.take(2)
                self.assertEqual((error.code, error.path, error.job), ("unknown_job", "job", job))
        self.assertEqual(self.farm.jobs[self.farm.only_job].state, "queued")

    def test_of_another_run(self) -> None:
        """A cursor of a run that is gone is answered ``rewound`` and the whole log."""
        job = self.running()
        self.farm.rewind(job, 5)
        self.farm.pages(job, 3)
        self.desk.connect(2)
        self.desk.say(2, type="resume", job=job, after="1.2")
        replies = self.desk.take(2)
        self.assertEqual(kinds(replies), ["progress", "rewound", "pages"])
        self.assertEqual((replies[1].run, replies[2].first), (5, "5.1"))

    def test_moves_the_cursor(self) -> None:
        """``resume`` of a job this connection follows moves its cursor."""
        job = self.running(stream=True)
        every = self.farm.pages(job, 3)
        self.desk.wake()
        self.desk.take(1)
        self.desk.say(1, type="resume", job=job, after="1.1")
        self.assertEqual(urls(self.desk.take(1)), every[1:])

    def test_lock_daemon_away(self) -> None:
        """Without the lock daemon a resume hears ``busy`` with its job."""
        self.farm.away = {"locks"}
        self.desk.say(1, type="resume", job="j")
        (error,) = self.desk.take(1)
        self.assertEqual((error.code, error.job), ("busy", "j"))

    def test_status(self) -> None:
        """``status`` is answered by one ``progress``, with the state."""
        job = self.running()
        self.farm.pages(job, 3)
        self.desk.connect(2)
        self.desk.say(2, type="status", job=job)
        (progress,) = self.desk.take(2)
        self.assertEqual((progress.state, progress.fetched), ("running", 3))
        self.farm.end(job)
        self.desk.say(2, type="status", job=job)
        (progress,) = self.desk.take(2)
        self.assertEqual((progress.state, progress.found, progress.depth), ("done", 3, 2))


class Caching(HubTest):
    def done(self, depth: int = 3) -> str:
        """A question that was answered before."""
        self.desk.submit(1, id="first", depth=depth)
        job = self.farm.only_job
        self.farm.page(job, URL, 0)
        self.farm.page(job, URL + "a", 1)
        self.farm.page(job, URL + "b", 2)
        self.farm.end(job)
        self.desk.take(1)
        return job

    def test_answered_at_once_and_cut(self) -> None:
        """A complete answer at least as deep answers at once: cut, streamed, marked."""
        first = self.done()
        self.desk.submit(1, depth=2, stream=True)
        accepted, pages, result = self.desk.take(1)
        self.assertNotEqual(accepted.job, first)
        self.assertEqual([page.url for page in pages.pages], [URL, URL + "a"])
        self.assertEqual((result.levels, result.cached, result.depth), ([[URL], [URL + "a"]], True, 2))
        self.assertEqual({reply.job for reply in (pages, result)}, {accepted.job})
        self.assertEqual(len(self.farm.jobs), 1)

    def test_shallower_does_not_answer(self) -> None:
        """An answer not deep enough is no answer."""
        self.done(depth=3)
        self.desk.submit(1, depth=4)
        self.assertEqual(kinds(self.desk.take(1)), ["accepted"])
        self.assertEqual(len(self.farm.jobs), 2)

    def test_incomplete_is_not_kept(self) -> None:
        """A cancelled or cut job answers no other question."""
        job = self.running()
        self.farm.page(job, URL, 0)
        self.farm.page(job, URL + "a", 1, "skipped:page_limit")
        self.farm.end(job)
        self.assertEqual(self.farm.cache.kept, {})

    def test_the_answers_job_can_be_asked_for(self) -> None:
        """The id given with a cached answer works afterwards: resume, status and cancel."""
        self.done()
        self.desk.submit(1, depth=2)
        job = self.desk.take(1)[0].job
        self.desk.connect(2)
        self.desk.say(2, type="resume", job=job, after="1.1")
        replies = self.desk.take(2)
        self.assertEqual((urls(replies), kinds(replies)), ([URL + "a"], ["pages", "result"]))
        self.desk.say(2, type="status", job=job)
        self.assertEqual([(p.state, p.found) for p in self.desk.take(2)], [("done", 2)])
        self.desk.say(2, type="cancel", job=job)
        self.assertEqual(kinds(self.desk.take(2)), ["result"])
        self.desk.connect(3, client="eve")
        self.desk.say(3, type="resume", job=job)
        self.assertEqual([reply.code for reply in self.desk.take(3)], ["unknown_job"])

    def test_another_answer_took_its_place(self) -> None:
        """A cursor into a cached answer that was replaced is answered ``rewound``."""
        self.done()
        self.desk.submit(1, depth=2)
        job = self.desk.take(1)[0].job
        self.desk.submit(1, id="deeper", depth=4)
        deeper = self.desk.take(1)[0].job
        self.farm.page(deeper, URL, 0)
        self.farm.end(deeper)
        self.desk.take(1)
        self.desk.say(1, type="resume", job=job, after="1.1")
        self.assertEqual(kinds(self.desk.take(1)), ["rewound", "pages", "result"])

    def test_gone_from_the_cache(self) -> None:
        """A cached answer that is gone when somebody comes back for it has expired."""
        self.done()
        self.desk.submit(1, depth=2)
        job = self.desk.take(1)[0].job
        self.farm.cache.kept = {key: kept for key, kept in self.farm.cache.kept.items() if key.startswith("job:")}
        self.desk.say(1, type="resume", job=job)
        (end,) = self.desk.take(1)
        self.assertEqual((type(end), end.error.code), (Failed, "result_expired"))

    def test_every_option_counts(self) -> None:
        """An answer to another question is not given."""
        self.done()
        self.desk.submit(1, depth=2, scope="host")
        self.assertEqual(len(self.farm.jobs), 2)
