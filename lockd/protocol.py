"""The lock daemon on the network: one connection a client, commands in, answers out.

:class:`~lockd.peers.Peers` makes a :class:`Peer` of each connection, and keeps a
:class:`~lockd.sessions.Session` of each client. Invariants:

* commands of one client are decided in the order in which it sent them; an answer is sent
  when :meth:`Decides.call` gives it, which is after its commit;
* nobody is decided for before the handshake, and who is silent in it is dropped;
* a peer has at most ``outstanding`` commands being decided and is not read from while it
  has, nor while it does not read itself, and takes its turn every ``burst`` frames: whatever
  one sends, the others wait for little of it;
* what a peer sent is not logged as it came, and never more than a few lines a tick.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet import interfaces
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol as Connection
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from crawlfarm.wire import frames, lockd
from crawlfarm.wire.frames import FrameError, FrameReader, encode_frame
from lockd.sessions import Session

if TYPE_CHECKING:
    from lockd.peers import Peers

_log = Logger("lockd.protocol")

_MOST_DISCARDED = 1 << 20
_MOST_UNREAD = 1 << 16
_PING = encode_frame(frames.Ping())
_PONG = encode_frame(frames.Pong())
_GOODBYE = encode_frame(frames.Goodbye())


class Decides(Protocol):
    """What is behind the connections: :class:`~lockd.service.LockDaemon`."""

    def call(self, command: lockd.Command) -> Deferred[lockd.Answer]: ...

    def watch(self, master: str, notice: Callable[[lockd.CancelWanted], None]) -> Callable[[], None]: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may cost.

    :ivar connections: at most; others are closed at once.
    :ivar strangers: connections in the handshake; the oldest goes when there are more.
    :ivar hello_s: how long a handshake may take.
    :ivar ping_s: after this long without a whole frame a peer is asked for one, and
    :ivar silence_s: after this long it is gone.
    :ivar outstanding: commands of one peer that are being decided.
    :ivar burst: frames of one peer in one turn of the reactor.
    :ivar notices: cancels that wait for a peer that does not read.
    :ivar watches: masters on one connection.
    :ivar session_s: how long a client that is gone is remembered.
    :ivar closing_s: how long a peer may take to read why it is closed.
    :ivar tick_s: how often all this is looked at.
    """

    connections: int = 8192
    strangers: int = 512
    hello_s: float = 5.0
    ping_s: float = 15.0
    silence_s: float = 30.0
    outstanding: int = 1024
    burst: int = 64
    notices: int = 1000
    watches: int = 64
    session_s: float = 30.0
    closing_s: float = 2.0
    tick_s: float = 0.5


@implementer(interfaces.IPushProducer)
class Peer(Connection):
    """One connection. As a producer it hears whether its output finds room.

    :ivar since: when the present phase began: the connection, or its end.
    :ivar heard: when the last whole frame came.
    """

    transport: Any

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._limits = peers.limits
        self._reader = FrameReader.of_daemon()
        self._nonce = os.urandom(32)
        self._session: Session | None = None
        self._watches: dict[str, Callable[[], None]] = {}
        self._held: set[str] = set()
        """Why no frames are taken: ``outstanding``, ``output`` or ``turn``."""
        self._paused = False
        self._turning: Any = None
        self._notices = 0
        self._discarded = 0
        self.since = self.heard = peers.now()
        self.ending = False
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        if interfaces.ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self._peers.made(self)
        self.send(encode_frame(frames.Greeting(frames.PROTOCOL_VERSION, self._nonce, bool(self._peers.secret))))

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._leave()
        self._peers.lost(self)
        # What is unread is not taken any more: a watch would never be left again.
        self.gone.callback(None)
        if self._turning is not None:
            self._turning.cancel()

    # --- frames in --------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self.ending:
            self._discarded += len(data)
            if self._discarded > _MOST_DISCARDED:
                self.transport.pauseProducing()
            return
        self._reader.feed(data)
        if not self._held:
            self._go_on()
        elif self._reader.held > _MOST_UNREAD and not self._paused:
            # Not before: TLS holds us during its handshake, for which it must read.
            self._paused = True
            self.transport.pauseProducing()

    def _go_on(self) -> None:
        for _ in range(self._limits.burst):
            if self._held or self.ending or self.gone.called:
                return
            try:
                frame = self._reader.next()
            except FrameError as e:
                self.fault(e.code, e.message)
                return
            if frame is None:
                return
            self.heard = self._peers.now()
            try:
                self._take(frame)
            except Exception:
                _log.failure("frame {number} of {peer} could not be taken", number=self._reader.count, peer=self)
                self.fault("internal", f"frame {self._reader.count} could not be taken")
        self._hold("turn")
        self._turning = self._peers.later(self._turn)

    def _turn(self) -> None:
        self._turning = None
        self._let("turn")

    def _take(self, frame: frames.ToDaemon) -> None:
        if self._session is None:
            if isinstance(frame, frames.Hello):
                self._hello(frame)
            else:
                self.fault("hello_wanted", "the first frame must be a Hello")
            return
        match frame:
            case frames.Call():
                if self._session.call(frame):
                    self._hold("outstanding")
            case frames.Ping():
                self.send(_PONG)
            case frames.Pong():
                pass
            case frames.Watch(master):
                self._watch(master)
            case frames.Unwatch(master):
                self._watches.pop(master, lambda: None)()
            case frames.Hello():
                self.fault("hello_twice", f"frame {self._reader.count} is a second Hello")

    def _hello(self, hello: frames.Hello) -> None:
        secret, told = self._peers.secret, ""
        if hello.version != frames.PROTOCOL_VERSION:
            told = f"this lock daemon speaks version {frames.PROTOCOL_VERSION}, not {hello.version}"
            self.fault(frames.VERSION, told)
        elif secret and not frames.proves(hello.proof, secret, "client", self._nonce, hello.nonce):
            told = "has another secret than this lock daemon" if hello.proof else "has no secret, and there is one here"
            self.fault(frames.SECRET, f"the client {told}")
        else:
            self._reader.limit = frames.MAX_FRAME_BYTES
            proof = frames.proof(secret, "daemon", self._nonce, hello.nonce) if secret else b""
            self.send(encode_frame(frames.Welcome(proof)))
            if self._peers.stopping:
                self.goodbye()
            else:
                self._session = self._peers.welcome(self, hello.session)

    def _watch(self, master: str) -> None:
        if master not in self._watches:
            if len(self._watches) >= self._limits.watches:
                self.fault("too_many", f"at most {self._limits.watches} masters are watched on a connection")
                return
            self._watches[master] = self._peers.decides.watch(master, partial(self._notice, master))

    # --- frames out -------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        if not self.ending:
            self.transport.write(frame)

    def eased(self) -> None:
        """There is room for another command."""
        if "outstanding" in self._held:
            self._let("outstanding")
        if self._peers.stopping:
            self._end_if_idle()

    def fault(self, code: str, message: str) -> None:
        """Say what is wrong, and close."""
        if not self.ending:
            self._peers.complain(self, message)
            self.send(encode_frame(frames.Fault(code, message)))
            self._end()

    def goodbye(self) -> None:
        """Answer what is being decided, then close."""
        self.send(_GOODBYE)
        self._end_if_idle()

    def abort(self) -> None:
        self.ending = True
        self.transport.abortConnection()

    def tick(self, now: float) -> None:
        """Look at the time."""
        limits = self._limits
        if self.ending:
            if now - self.since > limits.closing_s:
                self.abort()
        elif "outstanding" in self._held:
            self.heard = now  # it may have said much: we do not listen
            if "output" not in self._held:
                self.send(_PING)
        elif self._session is None:
            if now - self.since > limits.hello_s:
                self.fault("hello_timeout", f"there was no Hello within {limits.hello_s:g} s")
        elif now - self.heard > limits.silence_s:
            self._peers.complain(self, f"no whole frame came for {limits.silence_s:g} s")
            self.abort()
        elif now - self.heard > limits.ping_s:
            self.send(_PING)

    def _notice(self, master: str, wanted: lockd.CancelWanted) -> None:
        if "output" in self._held:
            self._notices += 1
            if self._notices > self._limits.notices:
                self._peers.complain(self, "it does not read what it is told")
                self.abort()
                return
        self.send(encode_frame(frames.Notice(master, wanted)))

    def _end_if_idle(self) -> None:
        if not self.ending and (self._session is None or not self._session.outstanding):
            self._end()

    def _end(self) -> None:
        """Let what was written be read, then be gone, whatever the other side does."""
        self.ending = True
        self.since = self._peers.now()
        self._leave()
        self.transport.unregisterProducer()
        self.transport.resumeProducing()  # to hear that the other side closes
        if interfaces.ISSLTransport.providedBy(self.transport):
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()

    def _leave(self) -> None:
        watches, self._watches = self._watches, {}
        for unwatch in watches.values():
            unwatch()
        if self._session is not None:
            self._session.left(self, self._peers.now())

    # --- reading, or not ----------------------------------------------------------------

    def _hold(self, why: str) -> None:
        self._held.add(why)

    def _let(self, why: str) -> None:
        self._held.discard(why)
        if not self._held and not self.ending:
            if self._paused:
                self._paused = False
                self.transport.resumeProducing()
            self._go_on()

    def pauseProducing(self) -> None:
        self._hold("output")

    def resumeProducing(self) -> None:
        self._notices = 0
        self._let("output")

    def stopProducing(self) -> None:
        pass  # the transport is gone; connectionLost says so

    def __str__(self) -> str:
        host = self.transport.getPeer()
        return f"{host.host}:{host.port}" if hasattr(host, "port") else "a local peer"
