"""What a gateway decides about requests and connections, without a network."""

from __future__ import annotations

from crawlfarm.errors import BadInput
from crawlfarm.wire import lockd
from crawlfarm.wire.client import Cancelled, Error, Result
from tests.support.desk import GRACE_S, IDLE_S, URL, Desk, HubTest, kinds, urls
from wsgate import effects
from wsgate.requests import CANCEL_WAIT_S, MOST_TALKS


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
