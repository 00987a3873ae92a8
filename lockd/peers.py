"""All connections of the lock daemon, and all its clients."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from lockd.protocol import Decides, Limits, Peer
from lockd.sessions import Session, Sessions

_log = Logger("lockd.protocol")

_MOST_COMPLAINTS = 20
"""Lines in the log a tick about connections that were closed."""


class Peers(Factory):
    """All connections of this daemon, and all clients.

    :param secret: what clients must prove to know; empty for none.
    :param now: monotonic seconds.
    """

    noisy = False

    def __init__(
        self,
        reactor: Any,
        decides: Decides,
        *,
        secret: str = "",
        limits: Limits,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.decides = decides
        self.secret = secret
        self.limits = limits
        self.now = now
        self.stopping = False
        self._reactor = reactor
        self._sessions = Sessions(decides.call, limits.outstanding, limits.session_s)
        self._peers: dict[Peer, None] = {}
        self._strangers: dict[Peer, None] = {}
        self._complaints = 0
        self._ticks = LoopingCall(self._tick)
        self._ticks.clock = reactor

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._peers)

    def start(self) -> None:
        self._ticks.start(self.limits.tick_s, now=False)

    async def stop(self, within_s: float = 2.0) -> None:
        """Say goodbye, answer what is being decided, and wait until all are gone."""
        self.stopping = True
        for peer in list(self._peers):
            peer.goodbye()
        everyone: Deferred[Any] = DeferredList([peer.gone for peer in self._peers])
        patience = deferLater(self._reactor, within_s, self._abort)
        patience.addErrback(lambda _: None)
        await everyone
        patience.cancel()
        if self._ticks.running:
            self._ticks.stop()

    # --- for the connections ----------------------------------------------------------------

    def buildProtocol(self, addr: Any) -> Peer | None:
        if len(self._peers) >= self.limits.connections or self.stopping:
            return None
        return Peer(self)

    def made(self, peer: Peer) -> None:
        self._peers[peer] = self._strangers[peer] = None
        if len(self._strangers) > self.limits.strangers:
            next(iter(self._strangers)).abort()

    def lost(self, peer: Peer) -> None:
        self._peers.pop(peer, None)
        self._strangers.pop(peer, None)

    def welcome(self, peer: Peer, session: str) -> Session:
        """The client of this name is on this connection now."""
        self._strangers.pop(peer, None)
        return self._sessions.enter(session, peer)

    def later(self, call: Callable[[], None]) -> Any:
        """In another turn of the reactor."""
        return self._reactor.callLater(0, call)

    def complain(self, peer: Peer, why: str) -> None:
        self._complaints += 1
        if self._complaints <= _MOST_COMPLAINTS:
            _log.warn("the connection of {peer} is closed: {why}", peer=str(peer), why=why)

    def _tick(self) -> None:
        now = self.now()
        more, self._complaints = self._complaints - _MOST_COMPLAINTS, 0
        if more > 0:
            _log.warn("{more} more connections were closed for such reasons", more=more)
        for peer in list(self._peers):
            peer.tick(now)
        self._sessions.tick(now)

    def _abort(self) -> None:
        for peer in list(self._peers):
            peer.abort()
