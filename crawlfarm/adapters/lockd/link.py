"""One connection to a lock daemon: the handshake, then frames both ways."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet import interfaces
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as Connection
from twisted.python.failure import Failure

from crawlfarm.errors import BadInput, ConfigError, CrawlfarmError, Unavailable
from crawlfarm.wire import frames
from crawlfarm.wire.frames import FrameError, FrameReader, encode_frame

_PING = encode_frame(frames.Ping())
_PONG = encode_frame(frames.Pong())
_VARIABLE = "CRAWLFARM_LOCKD_SECRET_FILE"


class Owner(Protocol):
    """What a link tells."""

    def received(self, link: Link, frame: frames.Answered | frames.Failed | frames.Notice | frames.Goodbye) -> None: ...

    def lost(self, link: Link, why: CrawlfarmError) -> None: ...


class Link(Connection):
    """One connection.

    :param address: of the daemon, for messages.
    :param secret: what the daemon must prove to know; empty for none.
    :ivar ready: fires when calls may be sent; fails when that does not come about.
    :ivar gone: fires when the connection is closed.
    :ivar heard: when anything came last.
    :ivar pinged: when it was asked for a word and has not answered since.
    :ivar leader: who decides, when this daemon said that it does not and knows.
    """

    transport: Any

    def __init__(self, address: str, secret: str, session: str, owner: Owner, now: Callable[[], float]) -> None:
        self.address = address
        self.ready: Deferred[None] = Deferred(lambda _: self.abort(Unavailable("it was given up")))
        self.gone: Deferred[None] = Deferred()
        self.heard = now()
        self.pinged: float | None = None
        self.leader = ""
        self._secret = secret
        self._session = session
        self._owner = owner
        self._now = now
        self._nonce = os.urandom(32)
        self._daemon_nonce = b""
        self._reader = FrameReader.of_client()
        self._open = False
        self._ended = False
        self._why: CrawlfarmError | None = None

    def connectionMade(self) -> None:
        if interfaces.ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        self.heard = self._now()
        self.pinged = None
        self._reader.feed(data)
        while not self._ended:
            try:
                frame = self._reader.next()
            except FrameError as e:
                self.abort(BadInput(f"what it says cannot be understood: {e.message}", code=e.code))
                return
            if frame is None:
                return
            self._take(frame)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._ended = True
        why = self._why or Unavailable(_hung_up(reason))
        if self._open:
            self._open = False
            self._owner.lost(self, why)
        elif not self.ready.called:
            self.ready.errback(why)
        self.gone.callback(None)

    def send(self, frame: bytes) -> None:
        if not self._ended:
            self.transport.write(frame)

    def ping(self) -> None:
        self.pinged = self._now()
        self.send(_PING)

    def leave(self) -> None:
        """Close, once everything is written."""
        self._ended = True
        if self.transport is not None:
            self.transport.loseConnection()

    def abort(self, why: CrawlfarmError) -> None:
        """Close at once."""
        self._ended = True
        self._why = why
        if self.transport is not None:
            self.transport.abortConnection()

    # --- frames in ----------------------------------------------------------------------

    def _take(self, frame: frames.ToClient) -> None:
        match frame:
            case frames.Ping():
                self.send(_PONG)
            case frames.Pong():
                pass
            case frames.Fault():
                self._fault(frame)
            case frames.Greeting():
                self._greeted(frame)
            case frames.Welcome(proof):
                self._welcomed(proof)
            case frames.Goodbye() if not self._open:
                self.abort(Unavailable("it stops"))
            case _ if self._open:
                self._owner.received(self, frame)
            case _:
                self.abort(BadInput(f"it sent {type(frame).__name__} before its Welcome", code="bad_frame"))

    def _greeted(self, greeting: frames.Greeting) -> None:
        if self._daemon_nonce:
            self.abort(BadInput("it greeted twice", code="bad_frame"))
        elif greeting.version != frames.PROTOCOL_VERSION:
            versions = f"it speaks version {greeting.version}, and this program {frames.PROTOCOL_VERSION}"
            self.abort(ConfigError(f"{versions}: update the older one"))
        elif greeting.secret and not self._secret:
            self.abort(ConfigError(f"it wants a secret: set {_VARIABLE} to the file that it has, too"))
        elif self._secret and not greeting.secret:
            self.abort(ConfigError(f"it has no secret, and here there is one: set {_VARIABLE} there, too"))
        else:
            self._daemon_nonce = greeting.nonce
            proof = frames.proof(self._secret, "client", greeting.nonce, self._nonce) if self._secret else b""
            self.send(encode_frame(frames.Hello(frames.PROTOCOL_VERSION, self._session, self._nonce, proof)))

    def _welcomed(self, proof: bytes) -> None:
        if self._open or not self._daemon_nonce:
            self.abort(BadInput("its Welcome came at the wrong time", code="bad_frame"))
        elif self._secret and not frames.proves(proof, self._secret, "daemon", self._daemon_nonce, self._nonce):
            self.abort(ConfigError(f"it does not know the secret in {_VARIABLE}: whoever answers there is not ours"))
        else:
            self._open = True
            self.ready.callback(None)

    def _fault(self, fault: frames.Fault) -> None:
        self.leader = fault.leader
        if fault.code == frames.SECRET:
            self.abort(ConfigError(f"it has another secret: the file of {_VARIABLE} must be the same here and there"))
        elif fault.code == frames.VERSION:
            self.abort(ConfigError(f"{fault.message}: update the older program"))
        else:
            self.abort(Unavailable(f"it ended the connection: {fault.message}"))


class Links(Factory):
    """Makes the one connection that an endpoint asks for."""

    noisy = False

    def __init__(self, link: Link) -> None:
        self._link = link

    def buildProtocol(self, addr: Any) -> Link:
        return self._link


def _hung_up(reason: Failure | None) -> str:
    if reason is None or isinstance(reason.value, ConnectionDone):
        return "it hung up"
    return f"the connection broke: {reason.getErrorMessage()}"
