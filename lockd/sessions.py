"""The clients of the lock daemon, each across its connections.

Invariant: a command that a client sends again under its number, because the answer was
lost on the way, is decided once: it gets the answer of the first time. That holds for as
long as this process lives and remembers the client; beyond it, commands bear repetition
(:mod:`crawlfarm.wire.lockd`), but for an ``Acquire`` that was granted another job than it
asked for: that lease runs out.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from crawlfarm.errors import BadInput, CrawlfarmError
from crawlfarm.wire import lockd
from crawlfarm.wire.frames import NOT_LEADER, Answered, Call, Failed, encode_frame

MOST_KEPT = 4096
"""Answers kept of one client; those it may still ask for again are few."""
MOST_AWAY = 8192
"""Clients remembered that are not connected."""

_log = Logger("lockd.sessions")

_READS = (lockd.Ask, lockd.Heartbeat)
"""Commands that may be decided twice."""

_TEXTS: dict[type[Any], Callable[[Any], tuple[str, ...]]] = {
    lockd.Register: attrgetter("job", "client", "id", "body", "flight", "spec.url", "spec.spider"),
    lockd.Acquire: attrgetter("master", "job"),
    lockd.Heartbeat: attrgetter("master", "job"),
    lockd.Complete: attrgetter("master", "job", "outcome", "error_code", "error_message"),
    lockd.Release: attrgetter("master", "job"),
    lockd.CancelJob: attrgetter("job", "client", "reason"),
    lockd.Ask: attrgetter("job", "client"),
}


class Line(Protocol):
    """A client's present connection."""

    def send(self, frame: bytes) -> None: ...

    def eased(self) -> None: ...

    def abort(self) -> None: ...


class Session:
    """One client.

    :ivar line: its connection, while there is one.
    :ivar left_at: when there was one last.
    :ivar outstanding: its commands that are being decided.
    """

    __slots__ = ("_answers", "_below", "_decide", "_most", "_sweep_at", "left_at", "line", "outstanding")

    def __init__(self, decide: Callable[[lockd.Command], Deferred[lockd.Answer]], most: int) -> None:
        self._decide = decide
        self._most = most
        self._answers: dict[int, bytes | None] = {}
        """The frame to answer each call with; ``None`` while it is decided."""
        self._below = 0
        self._sweep_at = 128
        self.line: Line | None = None
        self.left_at = 0.0
        self.outstanding = 0

    def call(self, call: Call) -> bool:
        """Decide, unless it was done before. Whether that is enough for the moment."""
        if call.below > self._below:
            self._below = call.below
        if not isinstance(call.command, _READS):
            if call.id in self._answers:
                known = self._answers[call.id]
                if known is not None and self.line is not None:
                    self.line.send(known)
                return False
            if call.id < self._below:
                return False  # nobody waits for the answer
            self._answers[call.id] = None
            if len(self._answers) > self._sweep_at:
                self._sweep()
        self.outstanding += 1
        if "\0" in "".join(_TEXTS[type(call.command)](call.command)):
            what = type(call.command).__name__
            decided: Deferred[lockd.Answer] = fail(BadInput(f"a text in {what} holds a NUL, which cannot be stored"))
        else:
            decided = self._decide(call.command)
        decided.addCallbacks(self._answered, self._failed, callbackArgs=(call.id,), errbackArgs=(call.id,))
        return self.outstanding >= self._most

    def left(self, line: Line, now: float) -> None:
        """The connection is gone; the client may come back on another."""
        if self.line is line:
            self.line = None
            self.left_at = now

    def _answered(self, answer: lockd.Answer, number: int) -> None:
        try:
            frame = encode_frame(Answered(number, answer))
        except BadInput as e:
            frame = encode_frame(Failed(number, e.code, e.message))
        self._settle(number, frame)

    def _failed(self, failure: Failure, number: int) -> None:
        error = failure.value
        if isinstance(error, CrawlfarmError):
            again = getattr(error, "retry_after_s", 1.0)
            failed = Failed(number, error.code, error.message, again, getattr(error, "leader", ""))
            if error.code == NOT_LEADER:
                self._answers.pop(number, None)  # it may come again when this one leads
        else:
            _log.failure("a command could not be decided", failure=failure)
            failed = Failed(number, "internal", "the lock daemon could not decide this; its log says why")
        self._settle(number, encode_frame(failed))

    def _settle(self, number: int, frame: bytes) -> None:
        self.outstanding -= 1
        if number in self._answers:
            self._answers[number] = frame
        if self.line is not None:
            self.line.send(frame)
            if self.outstanding <= self._most // 2:
                self.line.eased()

    def _sweep(self) -> None:
        """Forget what will not be asked for again."""
        kept = {n: frame for n, frame in self._answers.items() if n >= self._below or frame is None}
        while len(kept) > MOST_KEPT:
            kept = dict(list(kept.items())[len(kept) // 2 :])
        self._answers = kept
        self._sweep_at = 2 * len(kept) + 128


class Sessions:
    """All clients, by the name of their session.

    :param most: commands of one client that are decided at a time.
    :param keep_s: how long a client that is gone is remembered.
    """

    def __init__(self, decide: Callable[[lockd.Command], Deferred[lockd.Answer]], most: int, keep_s: float) -> None:
        self._decide = decide
        self._most = most
        self._keep_s = keep_s
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def enter(self, name: str, line: Line) -> Session:
        """The client is on this connection now, and on no other."""
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = Session(self._decide, self._most)
        old, session.line = session.line, line
        if old is not None:
            old.abort()
        return session

    def tick(self, now: float) -> None:
        """Forget who is long gone, and of too many the ones that were there first."""
        away = [name for name, session in self._sessions.items() if session.line is None and not session.outstanding]
        for number, name in enumerate(away):
            if now - self._sessions[name].left_at > self._keep_s or len(away) - number > MOST_AWAY:
                del self._sessions[name]
