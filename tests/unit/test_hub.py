"""The gateway's decisions, driven without a network: a farm of tables and a clock by hand."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.config import Timings
from crawlfarm.errors import BadInput
from crawlfarm.wire import lockd
from crawlfarm.wire.client import Cancelled, Error, Failed, JobProgress, Pages, Reply, Result, Terminal
from crawlfarm.wire.codec import encode_json, pack, unpack
from tests.support.fakes import FakeFarm
from wsgate import effects
from wsgate.answers import AnswerNote, load
from wsgate.following import ASK_AGAIN_S
from wsgate.hub import Hub
from wsgate.requests import CANCEL_WAIT_S, MOST_TALKS

URL = "http://site.test/"
GRACE_S = 60.0
IDLE_S = 300.0


def value_of(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine that never suspends returns."""
    try:
        coroutine.send(None)
    except StopIteration as e:
        return e.value
    raise AssertionError("it suspended")


class Desk:
    """A hub whose effects are carried out at once against a :class:`FakeFarm`.

    :ivar sent: every reply, by connection.
    :ivar held: needs that wait until :meth:`release`, while ``holding`` names their types.
    """

    def __init__(self) -> None:
        self.farm = FakeFarm()
        self.now = 1000.0
        self.jobs = 0
        self.hub = Hub(Timings(leave_grace_s=GRACE_S, idle_s=IDLE_S), new_job=self._new_job)
        self.sent: dict[int, list[Reply]] = {}
        self.closed: dict[int, tuple[int, str]] = {}
        self.reports: list[Exception] = []
        self.holding: tuple[type, ...] = ()
        self.held: list[effects.Wanted] = []
        self.farm.queue.on_ended(lambda message: self.do(self.hub.ended(message.job, self.now)))

    def _new_job(self) -> str:
        self.jobs += 1
        return f"job-{self.jobs}"

    def do(self, wanted: list[effects.Effect]) -> None:
        for effect in wanted:
            match effect:
                case effects.Wanted() if isinstance(effect.need, self.holding):
                    self.held.append(effect)
                case effects.Wanted():
                    self._answer(effect)
                case effects.Send(to, reply):
                    for number in to:
                        self.sent[number].append(reply)
                case effects.Close(number, code, reason):
                    self.closed[number] = (code, reason)
                case effects.KeepAnswer(key, depth, data):
                    value_of(self.farm.cache.put(key, depth, data))
                case effects.KeepNote(job, note):
                    value_of(self.farm.cache.put(f"job:{job}", 1, pack(note)))
                case effects.Report(error):
                    self.reports.append(error)
        while self.hub.has_more:
            self.do(self.hub.go_on(self.now))

    def release(self) -> None:
        """Answer what was held."""
        self.holding = ()
        held, self.held = self.held, []
        for wanted in held:
            self._answer(wanted)

    def _answer(self, wanted: effects.Wanted) -> None:
        try:
            value = value_of(self._fulfil(wanted.need))
        except Exception as error:
            self.do(self.hub.failed(wanted.ticket, error, self.now))
        else:
            self.do(self.hub.answered(wanted.ticket, value, self.now))

    async def _fulfil(self, need: effects.Need) -> object:
        farm = self.farm
        match need:
            case effects.CallLocks(command):
                return await farm.locks.call(command)
            case effects.PublishJob(message):
                return await farm.queue.publish(message)
            case effects.FindAnswer(key, depth):
                found = await farm.cache.get(key)
                return load(found[1], depth) if found is not None and found[0] >= depth else None
            case effects.FindNote(job):
                found = await farm.cache.get(f"job:{job}")
                return unpack(found[1], AnswerNote) if found is not None else None
            case effects.LoadResult(job):
                data = await farm.results.get(job)
                return load(data) if data is not None else None
            case effects.ReadLog(job, after, limit):
                return await farm.frontier.events(job, after, limit)
            case effects.ReadStatus(job):
                return await farm.frontier.status(job)

    # --- what a test does -----------------------------------------------------------

    def connect(self, number: int, client: str = "local") -> int:
        self.sent[number] = []
        self.do(self.hub.connected(number, client, self.now))
        return number

    def disconnect(self, number: int) -> None:
        self.do(self.hub.disconnected(number, self.now))

    def say(self, number: int, **message: Any) -> None:
        self.do(self.hub.received(number, json.dumps(message).encode(), True, self.now))

    def submit(self, number: int, id: str = "a", url: str = URL, depth: int = 2, **options: Any) -> None:
        self.say(number, type="submit", id=id, url=url, depth=depth, options=options)

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.do(self.hub.tick(self.now))

    def wake(self) -> None:
        self.do(self.hub.woken(self.now))

    def take(self, number: int) -> list[Reply]:
        """What this connection was sent since the last time."""
        sent, self.sent[number] = self.sent[number], []
        return sent

    def ends(self, number: int) -> list[Reply]:
        return [reply for reply in self.sent[number] if isinstance(reply, Terminal)]


def urls(replies: list[Reply]) -> list[str]:
    return [page.url for reply in replies if isinstance(reply, Pages) for page in reply.pages]


def kinds(replies: list[Reply]) -> list[str]:
    return [json.loads(encode_json(reply))["type"] for reply in replies]


class HubTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.desk = Desk()
        self.farm = self.desk.farm
        self.desk.connect(1)

    def tearDown(self) -> None:
        self.assertEqual(self.desk.reports, [])

    def running(self, **options: Any) -> str:
        """A job that connection 1 submitted and a master opened."""
        self.desk.submit(1, **options)
        job = self.farm.only_job
        self.farm.begin(job)
        return job


class Submitting(HubTest):
    def test_accepted_after_row_and_queue(self) -> None:
        """``accepted`` names a job that is a row and is in the queue."""
        self.desk.holding = (effects.PublishJob,)
        self.desk.submit(1)
        self.assertEqual(self.desk.take(1), [])
        self.desk.release()
        (accepted,) = self.desk.take(1)
        self.assertEqual((accepted.id, accepted.job, accepted.joined), ("a", "job-1", False))
        self.assertEqual(self.farm.queue.published, ["job-1"])

    def test_register_names_what_decides(self) -> None:
        """The row gets the client's name, its id, the digest of the body, and whether it is detached."""
        self.desk.submit(1, detach=True)
        (command,) = [c for c in self.farm.commands if isinstance(c, lockd.Register)]
        self.assertEqual((command.client, command.id, command.detach), ("local", "a", True))
        self.assertEqual(command.spec.depth, 2)

    def test_bad_url_says_where(self) -> None:
        """A URL that cannot be crawled is an error with the id, the path and its own code."""
        self.desk.submit(1, url="ftp://site.test/")
        (error,) = self.desk.take(1)
        self.assertEqual((error.code, error.path, error.id), ("url_scheme", "url", "a"))
        self.assertEqual(self.farm.commands, [])

    def test_same_question_joins(self) -> None:
        """Another id for the same question joins the job that runs, and is told so."""
        self.desk.submit(1)
        self.desk.connect(2)
        self.desk.submit(2, id="b")
        (accepted,) = self.desk.take(2)
        self.assertEqual((accepted.job, accepted.joined), ("job-1", True))
        self.assertEqual(self.farm.queue.published, ["job-1"])

    def test_other_body_conflicts(self) -> None:
        """The same id for another job is ``id_conflict``, on this connection and any other."""
        self.desk.submit(1)
        self.desk.connect(2)
        for number in (1, 2):
            self.desk.take(number)
            self.desk.submit(number, depth=3)
            (error,) = self.desk.take(number)
            self.assertEqual((error.code, error.path, error.id), ("id_conflict", "id", "a"))

    def test_lock_daemon_away(self) -> None:
        """Without the lock daemon a submit hears ``busy`` at once, with its id."""
        self.farm.away = {"locks"}
        self.desk.submit(1)
        (busy,) = self.desk.take(1)
        self.assertEqual((kinds([busy]), busy.id, busy.retry_after), (["busy"], "a", 0.01))

    def test_queue_away_then_back(self) -> None:
        """Without the queue a submit hears ``busy``; sent again it is published and accepted."""
        self.farm.away = {"queue"}
        self.desk.submit(1)
        self.assertEqual(kinds(self.desk.take(1)), ["busy"])
        self.farm.away = set()
        self.desk.submit(1)
        self.assertEqual(kinds(self.desk.take(1)), ["accepted"])
        self.assertEqual(self.farm.queue.published, [self.farm.only_job])
        self.desk.tick(GRACE_S + 1)
        self.assertEqual(self.farm.jobs[self.farm.only_job].state, "queued")

    def test_busy_and_never_back(self) -> None:
        """A job whose client heard ``busy`` and never came back is cancelled after the grace time."""
        self.farm.away = {"queue"}
        self.desk.submit(1)
        self.desk.tick(GRACE_S + 1)
        self.assertEqual(self.farm.jobs[self.farm.only_job].state, "cancelled")

    def test_same_id_twice_one_stream(self) -> None:
        """The same id again is accepted again, and nothing of the stream comes twice."""
        job = self.running(stream=True)
        self.farm.pages(job, 3)
        self.desk.wake()
        self.desk.submit(1, stream=True)
        self.farm.pages(job, 2)
        self.desk.wake()
        self.farm.end(job)
        replies = self.desk.take(1)
        self.assertEqual(kinds(replies).count("accepted"), 2)
        self.assertEqual(len(urls(replies)), 5)
        self.assertEqual(kinds(replies).count("result"), 1)

    def test_same_id_while_being_registered(self) -> None:
        """The same id again before the answer makes one job, and two ``accepted``."""
        self.desk.holding = (effects.CallLocks,)
        self.desk.submit(1)
        self.desk.submit(1)
        self.desk.release()
        self.assertEqual(kinds(self.desk.take(1)), ["accepted", "accepted"])
        self.assertEqual(len(self.farm.jobs), 1)

    def test_too_many_at_a_time(self) -> None:
        """More requests at a time than one connection may have are told to wait."""
        self.desk.holding = (effects.CallLocks,)
        for n in range(MOST_TALKS + 1):
            self.desk.submit(1, id=str(n), url=f"{URL}{n}")
        self.assertEqual([reply.id for reply in self.desk.take(1)], [str(MOST_TALKS)])
        self.desk.release()
        self.assertEqual(len(self.desk.take(1)), MOST_TALKS)

    def test_broken_part_is_reported(self) -> None:
        """An error nobody expects is logged, and the client hears ``internal``."""

        async def broken(command: object) -> None:
            raise ZeroDivisionError

        self.farm.locks.call = broken
        self.desk.submit(1)
        (error,) = self.desk.take(1)
        self.assertEqual((error.code, error.id), ("internal", "a"))
        self.assertEqual([type(e) for e in self.desk.reports], [ZeroDivisionError])
        self.desk.reports.clear()


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


class Cancelling(HubTest):
    def test_own_job(self) -> None:
        """Who cancels its job gets ``cancelled`` with what was found, once."""
        job = self.running()
        self.farm.pages(job, 3)
        self.desk.say(1, type="cancel", job=job)
        (end,) = self.desk.ends(1)
        self.assertEqual((type(end), end.receipt.found, end.receipt.complete), (Cancelled, 3, False))
        self.desk.tick(CANCEL_WAIT_S + 2)
        self.assertEqual(len(self.desk.ends(1)), 1)

    def test_one_of_two(self) -> None:
        """A cancel by one of two clients is that one's end; the job goes on for the other."""
        job = self.running()
        self.farm.pages(job, 2)
        self.desk.connect(2)
        self.desk.submit(2, id="b")
        self.desk.say(2, type="cancel", job=job)
        self.desk.tick(1.0)
        (end,) = self.desk.ends(2)
        self.assertEqual((type(end), end.receipt.found, end.receipt.complete), (Cancelled, 2, False))
        self.assertEqual(self.farm.jobs[job].state, "running")
        self.farm.end(job)
        self.assertEqual(kinds(self.desk.ends(1)), ["result"])
        self.assertEqual(len(self.desk.ends(2)), 1)

    def test_that_takes_too_long(self) -> None:
        """A cancel is answered within seconds although the job does not end."""
        self.farm.locks.cancel_ends = False
        job = self.running()
        self.desk.say(1, type="cancel", job=job)
        self.desk.tick(1.0)
        self.assertEqual(self.desk.ends(1), [])
        self.desk.tick(CANCEL_WAIT_S)
        self.assertEqual(kinds(self.desk.ends(1)), ["cancelled"])
        self.farm.end(job, "cancelled")
        self.assertEqual(len(self.desk.ends(1)), 1)

    def test_by_another_connection(self) -> None:
        """A connection that did not submit cancels for its whole client, and hears the end too."""
        job = self.running()
        self.desk.connect(2)
        self.desk.say(2, type="cancel", job=job)
        for number in (1, 2):
            self.assertEqual(kinds(self.desk.ends(number)), ["cancelled"])

    def test_of_an_ended_job(self) -> None:
        """A cancel that comes too late is answered by how the job ended."""
        job = self.running()
        self.farm.end(job)
        self.desk.connect(2)
        self.desk.say(2, type="cancel", job=job)
        self.assertEqual(kinds(self.desk.take(2)), ["result"])


class Leaving(HubTest):
    def test_cancelled_after_the_grace_time(self) -> None:
        """A job whose only client left is cancelled after the grace time, not before."""
        job = self.running()
        self.desk.disconnect(1)
        self.desk.tick(GRACE_S - 1)
        self.assertEqual(self.farm.jobs[job].state, "running")
        self.desk.tick(2)
        self.assertEqual(self.farm.jobs[job].state, "cancelled")
        self.assertEqual(self.farm.commands[-1].reason, "client left")

    def test_detached_goes_on(self) -> None:
        """A detached job goes on without its client."""
        job = self.running(detach=True)
        self.desk.disconnect(1)
        self.desk.tick(GRACE_S + 1)
        self.assertEqual(self.farm.jobs[job].state, "running")

    def test_coming_back(self) -> None:
        """Who comes back in time, by ``resume`` or by the same id, keeps the job; and leaving
        again, loses it after the grace time again."""
        for number, message in ((2, {"type": "resume"}), (3, None)):
            desk = self.desk = Desk()
            desk.connect(1)
            desk.submit(1)
            job = desk.farm.only_job
            desk.disconnect(1)
            desk.tick(GRACE_S - 1)
            desk.connect(number)
            if message is None:
                desk.submit(number)
            else:
                desk.say(number, job=job, **message)
            desk.tick(GRACE_S)
            self.assertEqual(desk.farm.jobs[job].state, "queued")
            desk.disconnect(number)
            desk.tick(GRACE_S + 1)
            self.assertEqual(desk.farm.jobs[job].state, "cancelled")

    def test_followed_elsewhere(self) -> None:
        """A job that another connection of the client follows outlives the one it came by."""
        job = self.running()
        self.desk.connect(2)
        self.desk.say(2, type="resume", job=job)
        self.desk.disconnect(1)
        self.desk.tick(GRACE_S + 1)
        self.assertEqual(self.farm.jobs[job].state, "running")
        self.desk.disconnect(2)
        self.desk.tick(GRACE_S + 1)
        self.assertEqual(self.farm.jobs[job].state, "cancelled")

    def test_one_of_two_joined(self) -> None:
        """Of two that joined one job, the one that left is taken off, and the job goes on."""
        job = self.running()
        self.desk.connect(2)
        self.desk.submit(2, id="b")
        self.desk.disconnect(1)
        self.desk.tick(GRACE_S + 1)
        self.assertEqual(self.farm.jobs[job].withdrawn, {("local", "a")})
        self.assertEqual(self.farm.jobs[job].state, "running")

    def test_lost_while_being_registered(self) -> None:
        """A connection lost before ``accepted`` leaves no job behind for ever."""
        self.desk.holding = (effects.CallLocks,)
        self.desk.submit(1)
        self.desk.disconnect(1)
        self.desk.release()
        self.desk.tick(GRACE_S + 1)
        self.assertEqual(self.farm.jobs[self.farm.only_job].state, "cancelled")

    def test_lock_daemon_away_when_it_is_time(self) -> None:
        """A cancel for a client that left is tried again when the lock daemon was away."""
        job = self.running()
        self.desk.disconnect(1)
        self.farm.away = {"locks"}
        self.desk.tick(GRACE_S + 1)
        self.farm.away = set()
        self.desk.tick(GRACE_S + 1)
        self.assertEqual(self.farm.jobs[job].state, "cancelled")

    def test_idle(self) -> None:
        """A connection without a job is closed after the idle time; one with a job is not."""
        self.running()
        self.desk.connect(2)
        self.desk.tick(IDLE_S - 1)
        self.desk.say(2, type="status", job="j")
        self.desk.tick(IDLE_S - 1)
        self.assertEqual(self.desk.closed, {})
        self.desk.tick(2)
        self.assertEqual((list(self.desk.closed), self.desk.closed[2][0]), ([2], 1000))

    def test_idle_after_its_job(self) -> None:
        """The idle time begins with the end of the last job."""
        job = self.running()
        self.desk.tick(IDLE_S * 2)
        self.farm.end(job)
        self.desk.tick(IDLE_S - 1)
        self.assertEqual(self.desk.closed, {})
        self.desk.tick(IDLE_S)
        self.assertEqual(list(self.desk.closed), [1])

    def test_going_away(self) -> None:
        """A gateway that stops says 1001 to everybody, and cancels no job."""
        job = self.running()
        self.desk.do(self.desk.hub.stop(self.desk.now))
        self.assertEqual(self.desk.closed[1][0], 1001)
        self.desk.disconnect(1)
        self.desk.tick(GRACE_S + 1)
        self.assertEqual(self.farm.jobs[job].state, "running")


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


class BadMessages(HubTest):
    def test_binary(self) -> None:
        """A binary frame is an error, and the connection is kept."""
        self.desk.do(self.desk.hub.received(1, b"\x00\xff", False, self.desk.now))
        (error,) = self.desk.take(1)
        self.assertEqual((type(error), error.code), (Error, "not_text"))
        self.assertEqual(self.desk.closed, {})

    def test_too_long(self) -> None:
        """A message thrown away unread is answered."""
        self.desk.do(self.desk.hub.refused(1, BadInput("it is long", code="too_long"), self.desk.now))
        self.assertEqual([e.code for e in self.desk.take(1)], ["too_long"])

    def test_names_the_id(self) -> None:
        """An error names the id or the job of its message, where that can be read and shown."""
        for message, id_, job in (
            ({"type": "submit", "id": "x", "url": URL, "depth": 0}, "x", ""),
            ({"type": "resume", "job": "j", "after": "x"}, "", "j"),
            ({"type": "submit", "id": 5}, "", ""),
            ({"type": "submit", "id": "a\r\nb", "url": URL, "depth": 1}, "", ""),
            ({"type": "submit", "id": "a\x00b", "url": URL, "depth": 1}, "", ""),
        ):
            self.desk.say(1, **message)
            (error,) = self.desk.take(1)
            self.assertEqual((error.id, error.job), (id_, job), message)

    def test_from_one_that_is_gone(self) -> None:
        """What still comes from a connection that is gone changes nothing."""
        self.desk.disconnect(1)
        self.desk.submit(1)
        self.assertEqual(self.farm.jobs, {})

    def test_result_type_is_right(self) -> None:
        """Levels come out for every depth asked, empty ones too."""
        job = self.running(depth=4)
        self.farm.page(job, URL, 0)
        self.farm.end(job)
        (end,) = self.desk.ends(1)
        self.assertIsInstance(end, Result)
        self.assertEqual(end.levels, [[URL], [], [], []])
