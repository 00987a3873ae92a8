"""The client of the lock daemon: commands over one connection, and again over the next.

Invariants:

* a command is sent until it is answered or its time is over: what a lost connection left
  unanswered goes first on the next one, in the old order and under the old numbers, so that
  the same daemon decides it once (:mod:`crawlfarm.wire.frames`), and another one harmlessly
  again;
* who calls always hears, by ``give_up_s`` at the latest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from crawlfarm.adapters.lockd.connector import Connector
from crawlfarm.adapters.lockd.link import Link
from crawlfarm.core.backoff import Backoff
from crawlfarm.errors import BadInput, CrawlfarmError, Unavailable
from crawlfarm.wire import frames, lockd
from crawlfarm.wire.frames import encode_frame

TICK_S = 0.25
MOST_PENDING = 10_000
"""Commands without an answer; more are refused at once."""

_STALLED_S = 4 * TICK_S

_log = Logger("crawlfarm.lockd")


@dataclass(slots=True, eq=False)
class _Pending:
    command: lockd.Command
    until: float
    answer: Deferred[lockd.Answer]
    sent: int = 0
    """On how many connections."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take, in seconds.

    :ivar give_up_s: a command without an answer fails.
    :ivar heartbeat_s: a heartbeat does: the next one is as good.
    :ivar ping_s: a silent daemon that owes an answer is asked for a word;
    :ivar idle_ping_s: one that owes none is;
    :ivar silence_s: so long after that it counts as gone.
    :ivar backoff: between two rounds of trying all addresses.
    """

    give_up_s: float = 5.0
    heartbeat_s: float = 2.0
    ping_s: float = 1.0
    idle_ping_s: float = 5.0
    silence_s: float = 1.5
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=0.1, most_s=2.0))


class LockdClient:
    """:class:`~crawlfarm.core.ports.LockService` over TCP or TLS.

    :param addresses: client endpoint strings of all daemons; the first that decides is
        used until it does not any more.
    :param secret: what they and we share; empty for none.
    :param now: monotonic seconds.
    :raises ConfigError: an address is none.
    """

    def __init__(
        self,
        reactor: Any,
        addresses: Sequence[str],
        *,
        secret: str = "",
        patience: Patience | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._secret = secret
        self._patience = patience or Patience()
        self._now = now
        self._session = os.urandom(16).hex()
        self._number = 0
        self._below = 0
        self._pending: dict[int, _Pending] = {}
        self._watches: dict[str, dict[object, Callable[[lockd.CancelWanted], None]]] = {}
        self._link: Link | None = None
        self._ticked = now()
        self._stalled = False
        self._waiting: list[Deferred[None]] = []
        self._started = False
        self._connector = Connector(
            reactor,
            addresses,
            self._patience.backoff,
            make=lambda address: Link(address, self._secret, self._session, self, now),
            opened=self._opened,
            hopeless=self._tell_waiting,
        )
        self._ticks = LoopingCall(self._tick)
        self._ticks.clock = reactor

    # --- life -----------------------------------------------------------------------

    def start(self) -> None:
        """Connect, and stay connected. Calls wait for it by themselves."""
        if not self._started:
            self._started = True
            self._connector.start()
            self._ticks.start(TICK_S, now=False)

    def connected(self) -> Deferred[None]:
        """Fires once there is a connection.

        :raises ConfigError: a daemon answers that cannot be used: another secret or version.
        :raises Unavailable: the client is not running.
        """
        if not self._started:
            return fail(_stopped())
        if self._link is not None:
            return succeed(None)
        waiting: Deferred[None] = Deferred(lambda d: self._waiting.remove(d))
        self._waiting.append(waiting)
        return waiting

    def stop(self) -> Deferred[None]:
        """Close; whatever is not answered fails. May be called twice."""
        if not self._started:
            return succeed(None)
        self._started = False
        self._ticks.stop()
        self._link = None
        pending, self._pending = self._pending, {}
        for one in pending.values():
            one.answer.errback(_stopped())
        self._tell_waiting(_stopped())
        return Deferred.fromCoroutine(self._connector.stop())

    @property
    def healthy(self) -> bool:
        """Whether there is a connection to a daemon that takes commands."""
        return self._link is not None

    @property
    def problem(self) -> str:
        """Why it is not healthy, in words; empty when it is."""
        return "" if self.healthy else self._connector.problem.message

    # --- the port -------------------------------------------------------------------

    def call(self, command: lockd.Command) -> Deferred[lockd.Answer]:
        """As the port says; besides:

        :raises BadInput: the command cannot be sent, or cannot be kept there.
        """
        if not self._started:
            return fail(_stopped())
        if len(self._pending) >= MOST_PENDING:
            return fail(Unavailable(f"{len(self._pending)} commands wait for the lock daemon already"))
        self._number = number = self._number + 1
        if not number % 64:
            self._below = next(iter(self._pending), number)
        try:
            frame = encode_frame(frames.Call(number, self._below, command))
        except BadInput as e:
            return fail(e)
        patience = self._patience
        allowed_s = patience.heartbeat_s if isinstance(command, lockd.Heartbeat) else patience.give_up_s
        answer: Deferred[lockd.Answer] = Deferred(lambda _: self._forget(number))
        self._pending[number] = pending = _Pending(command, self._now() + allowed_s, answer)
        if self._link is not None:
            pending.sent = 1
            self._link.send(frame)
        return answer

    def _forget(self, number: int) -> None:
        self._pending.pop(number, None)

    def watch(self, master: str, notice: Callable[[lockd.CancelWanted], None]) -> Callable[[], None]:
        """As the port says. What is cancelled while there is no connection is heard of with the next heartbeat."""
        key = object()
        self._watches.setdefault(master, {})[key] = notice
        if len(self._watches[master]) == 1:
            self._tell(frames.Watch(master))

        def stop() -> None:
            watchers = self._watches.get(master, {})
            if watchers.pop(key, None) is not None and not watchers:
                del self._watches[master]
                self._tell(frames.Unwatch(master))

        return stop

    # --- what the connections bring ---------------------------------------------------

    def _opened(self, link: Link) -> None:
        self._link = link
        for master in self._watches:
            self._tell(frames.Watch(master))
        self._below = next(iter(self._pending), self._number)
        for number, pending in self._pending.items():
            pending.sent += 1
            self._tell(frames.Call(number, self._below, pending.command))
        self._tell_waiting(None)

    def received(self, link: Link, frame: frames.Answered | frames.Failed | frames.Notice | frames.Goodbye) -> None:
        match frame:
            case frames.Answered(number, answer):
                if link is self._link:
                    self._connector.of_use()
                if (pending := self._pending.pop(number, None)) is not None:
                    pending.answer.callback(_as_the_first_time(pending, answer))
            case frames.Failed() if frame.code == frames.NOT_LEADER:
                link.leave()
                self._lost(link, f"does not decide: {frame.message}", moving=True, leader=frame.leader)
            case frames.Failed():
                if (pending := self._pending.pop(frame.id, None)) is not None:
                    pending.answer.errback(_error(frame))
            case frames.Notice(master, wanted):
                self._notify(master, wanted)
            case frames.Goodbye():
                # It goes on answering what it has; that comes here as long as it is open.
                self._lost(link, "stops", moving=True)

    def lost(self, link: Link, why: CrawlfarmError) -> None:
        self._lost(link, f"was lost: {why}", moving=bool(link.leader))

    def _lost(self, link: Link, what: str, *, moving: bool = False, leader: str = "") -> None:
        if link is not self._link:
            return
        self._link = None
        why = Unavailable(f"the lock daemon at {link.address} {what}")
        _log.warn("{why}", why=why.message)
        if moving:
            self._connector.move_on(why, leader or link.leader)
        else:
            self._connector.lost(why)

    def _notify(self, master: str, wanted: lockd.CancelWanted) -> None:
        for notice in list(self._watches.get(master, {}).values()):
            try:
                notice(wanted)
            except Exception:
                _log.failure("master {master} failed on a cancel of job {job}", master=master, job=wanted.job)

    def _tell(self, frame: frames.ToDaemon) -> None:
        if self._link is not None:
            self._link.send(encode_frame(frame))

    def _tell_waiting(self, error: CrawlfarmError | None) -> None:
        told, self._waiting = self._waiting, []
        for waiting in told:
            if error is None:
                waiting.callback(None)
            else:
                waiting.errback(error)

    # --- what time brings -----------------------------------------------------------

    def _tick(self) -> None:
        now, before = self._now(), self._ticked
        self._ticked = now
        self._stalled = now - before > _STALLED_S and not self._stalled
        if self._stalled:
            return  # this process stood still: what came meanwhile is read first
        self._listen(now)
        for number, pending in list(self._pending.items()):
            if now >= pending.until and self._pending.pop(number, None) is not None:
                why = self.problem or "it is connected and does not answer"
                pending.answer.errback(Unavailable(f"no answer from the lock daemon in time: {why}"))

    def _listen(self, now: float) -> None:
        """Find out whether the daemon is still there."""
        link, patience = self._link, self._patience
        if link is None:
            return
        if link.pinged is not None:
            if now - link.pinged > patience.silence_s:
                link.abort(Unavailable("it is silent"))
                self._lost(link, "is silent", moving=True)
        elif now - link.heard > (patience.ping_s if self._pending else patience.idle_ping_s):
            link.ping()


def _as_the_first_time(pending: _Pending, answer: lockd.Answer) -> lockd.Answer:
    """The answer, where it may be to a repetition of what was done already."""
    if pending.sent > 1:
        match pending.command, answer:
            case lockd.Release(), lockd.Fenced(job):
                return lockd.Done(job)
            case lockd.Register(job), lockd.Registered(found, joined=False) if found == job:
                # Job ids are drawn at random: nobody else made this one.
                return replace(answer, created=True)
    return answer


def _error(failed: frames.Failed) -> CrawlfarmError:
    if failed.code == Unavailable.code:
        return Unavailable(failed.message, retry_after_s=failed.retry_after_s)
    if failed.code in (BadInput.code, frames.FrameError.code, "too_long"):
        return BadInput(failed.message, code=failed.code)
    error = CrawlfarmError(failed.message)
    error.code = failed.code
    return error


def _stopped() -> Unavailable:
    return Unavailable("the lock daemon's client is not running")
