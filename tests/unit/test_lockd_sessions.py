"""A client of the lock daemon across its connections: what is asked again is not decided again."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.errors import CrawlfarmError, Unavailable
from crawlfarm.wire import lockd
from crawlfarm.wire.frames import Answered, Call, Failed, FrameReader
from crawlfarm.wire.pages import Progress
from lockd.sessions import MOST_AWAY, MOST_KEPT, Sessions


class FakeLine:
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        self.reader = FrameReader.of_client()
        self.eases = 0
        self.aborted = False

    def send(self, frame: bytes) -> None:
        self.reader.feed(frame)

    def eased(self) -> None:
        self.eases += 1

    def abort(self) -> None:
        self.aborted = True

    @property
    def sent(self) -> list[Any]:
        """What was sent since the last look."""
        found = []
        while (frame := self.reader.next()) is not None:
            found.append(frame)
        return found


class SessionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.deciding: list[tuple[lockd.Command, Deferred[lockd.Answer]]] = []
        self.sessions = Sessions(self.decide, most=4, keep_s=30)
        self.line = FakeLine()
        self.session = self.sessions.enter("s", self.line)

    def decide(self, command: lockd.Command) -> Deferred[lockd.Answer]:
        answer: Deferred[lockd.Answer] = Deferred()
        self.deciding.append((command, answer))
        return answer

    def acquire(self, number: int, below: int = 0) -> bool:
        return self.session.call(Call(number, below, lockd.Acquire("m", f"j{number}")))

    def come_back(self) -> None:
        self.session.left(self.line, 0.0)
        self.line = FakeLine()
        self.assertIs(self.sessions.enter("s", self.line), self.session)

    def test_asked_again_while_it_is_decided(self) -> None:
        """The answer goes to the connection that is there when it comes, once."""
        self.acquire(1)
        self.come_back()
        self.acquire(1)
        self.assertEqual(len(self.deciding), 1)
        self.deciding[0][1].callback(lockd.Done("x"))
        self.assertEqual(self.line.sent, [Answered(1, lockd.Done("x"))])

    def test_asked_again_when_it_was_answered(self) -> None:
        """An answer that was lost is given again, a failure too."""
        self.acquire(1)
        self.acquire(2)
        self.session.left(self.line, 0.0)
        self.deciding[0][1].callback(lockd.Done("x"))
        self.deciding[1][1].errback(Unavailable("no", retry_after_s=3))
        self.come_back()
        self.acquire(1)
        self.acquire(2)
        self.assertEqual(self.line.sent, [Answered(1, lockd.Done("x")), Failed(2, "busy", "no", 3)])
        self.assertEqual(len(self.deciding), 2)

    def test_not_leader_then_leader(self) -> None:
        """That another one decides holds for the moment only."""
        standby = CrawlfarmError("another one leads")
        standby.code = "not_leader"
        self.acquire(1)
        self.deciding[0][1].errback(standby)
        self.acquire(1)
        self.deciding[1][1].callback(lockd.Done("x"))
        self.assertEqual(self.line.sent, [Failed(1, "not_leader", "another one leads"), Answered(1, lockd.Done("x"))])

    def test_below(self) -> None:
        """What the client does not wait for any more is not decided."""
        self.acquire(9, below=8)
        self.acquire(5, below=8)
        self.assertEqual([command.job for command, _ in self.deciding], ["j9"])

    def test_reads_are_decided_each_time(self) -> None:
        """Answers of questions and heartbeats are not kept."""
        for command in (lockd.Ask("j", "c"), lockd.Heartbeat("m", "j", 1, Progress())):
            for _ in range(2):
                self.session.call(Call(1, 0, command))
        self.assertEqual(len(self.deciding), 4)
        self.assertEqual(self.session._answers, {})

    def test_enough(self) -> None:
        """It says when there is enough to decide, and the connection when there is room again."""
        self.assertEqual([self.acquire(n) for n in (1, 2, 3, 4)], [False, False, False, True])
        for _, answer in self.deciding[:2]:
            self.assertEqual(self.line.eases, 0)
            answer.callback(lockd.Done("x"))
        self.assertEqual(self.line.eases, 1)

    def test_kept_is_bounded(self) -> None:
        """Answers are dropped as the client has them; who never says so keeps a bounded number."""
        self.patch(self.session, "_decide", lambda command: succeed(lockd.Done(command.job)))
        for number in range(1, 3000):
            self.acquire(number, below=number - 1)
        self.assertLess(len(self.session._answers), 300)
        for number in range(3000, 3000 + 5 * MOST_KEPT):
            self.acquire(number, below=2999)
        self.assertLess(len(self.session._answers), 3 * MOST_KEPT)

    def test_an_answer_too_long(self) -> None:
        """It fails its own command."""
        self.patch(self.session, "_decide", lambda command: succeed(lockd.Done("x" * 1_000_000)))
        self.acquire(1)
        (failed,) = self.line.sent
        self.assertEqual((failed.id, failed.code), (1, "too_long"))

    def test_a_defect(self) -> None:
        """What broke is logged here, and not told."""
        self.patch(self.session, "_decide", lambda command: fail(ZeroDivisionError("inside")))
        self.acquire(1)
        (failed,) = self.line.sent
        self.assertEqual(failed.code, "internal")
        self.assertNotIn("inside", failed.message)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_taken_over(self) -> None:
        """A client's second connection ends the first, whose end then means nothing."""
        old, self.line = self.line, FakeLine()
        self.sessions.enter("s", self.line)
        self.assertTrue(old.aborted)
        self.session.left(old, 0.0)
        self.assertIs(self.session.line, self.line)

    def test_forgotten(self) -> None:
        """A client is remembered while it is there, for a time after, and while it is owed an answer."""
        self.acquire(1)
        self.sessions.tick(1e9)
        self.session.left(self.line, 100.0)
        self.sessions.tick(1e9)
        self.assertEqual(len(self.sessions), 1)
        self.deciding[0][1].callback(lockd.Done("x"))
        self.sessions.tick(129.0)
        self.assertEqual(len(self.sessions), 1)
        self.sessions.tick(131.0)
        self.assertEqual(len(self.sessions), 0)

    def test_too_many_to_remember(self) -> None:
        """Of too many clients that left, those that came first are forgotten."""
        for number in range(MOST_AWAY + 10):
            line = FakeLine()
            self.sessions.enter(f"s{number}", line).left(line, 0.0)
        self.sessions.tick(1.0)
        self.assertEqual(len(self.sessions), MOST_AWAY + 1)
