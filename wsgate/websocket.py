"""The websocket edge: frames of clients in, messages out.

One :class:`ClientConnection` a client, made by :class:`ClientConnections`, which knows them
all. What they say goes to an :class:`Edge`. Invariants:

* a message is held only up to ``MAX_REQUEST_BYTES``; of a longer one the rest is thrown away
  unread and the connection kept, unless it goes on for ever;
* a client that does not read is not sent to, nor, after a while, listened to: neither its
  jobs nor its own messages can fill this process;
* nothing a client sends is logged as it came.
"""

from __future__ import annotations

from typing import Any, Protocol

import txaio.tx
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.util import encode_truncate
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from crawlfarm.errors import BadInput
from crawlfarm.wire.client import MAX_REQUEST_BYTES, SUBPROTOCOL
from crawlfarm.wire.codec import shown

MOST_DISCARDED = 16 * MAX_REQUEST_BYTES
"""A message longer than this ends the connection: nobody means to send that."""
MOST_HANDSHAKE_BYTES = 16 * 1024
MOST_OWED = 32
"""So many messages are taken from a client that does not read the answers."""
OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 3.0
PING_S = 20.0
PONG_S = 60.0
"""A client that did not answer a ping for so long is gone, or might as well be."""
LOOPBACK_ORIGINS = ["http://127.0.0.1:*", "http://localhost:*", "http://[::1]:*"]

_log = Logger("wsgate.websocket")


class Edge(Protocol):
    """What the connections tell. ``number`` names one of them."""

    def opened(self, number: int, client: str) -> None: ...

    def received(self, number: int, payload: bytes, is_text: bool) -> None: ...

    def refused(self, number: int, error: BadInput) -> None: ...

    def paused(self, number: int) -> None: ...

    def writable(self, number: int) -> None: ...

    def closed(self, number: int) -> None: ...


@implementer(IPushProducer)
class _Valve:
    """Tells a connection whether its transport has room."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def pauseProducing(self) -> None:
        self._connection.buffer_full()

    def resumeProducing(self) -> None:
        self._connection.buffer_empty()

    def stopProducing(self) -> None:
        pass  # the transport is gone; connectionLost says so


class ClientConnection(WebSocketServerProtocol):  # type: ignore[misc]
    """One client's connection."""

    # Autobahn's own lines hold what the client sent, as it came.
    log: Any = txaio.tx.make_logger(level="error")  # type: ignore[no-untyped-call]

    factory: ClientConnections
    data: bytes
    closeHandshakeTimeoutCall: Any = None
    number = 0
    _open = False
    _full = False
    _owed = 0
    _buffer: bytearray
    _length = 0

    # --- the handshake ------------------------------------------------------------

    def connectionMade(self) -> None:
        self.factory.made(self)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        if self.state == self.STATE_CONNECTING and len(self.data) + len(data) > MOST_HANDSHAKE_BYTES:
            self.data = b""
            self.failHandshake("the request's headers are too long", 431)
            return
        super().dataReceived(data)

    def onConnect(self, request: ConnectionRequest) -> str | None:
        if SUBPROTOCOL in request.protocols:
            return SUBPROTOCOL
        if request.protocols:
            raise ConnectionDeny(ConnectionDeny.BAD_REQUEST, f"this gateway speaks {SUBPROTOCOL}")
        return None

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        _log.info("refused a handshake of {peer}: {why}", peer=self.peer, why=shown(reason))
        super().failHandshake("".join(c if 31 < ord(c) < 127 else "?" for c in reason), code, responseHeaders)

    def onOpen(self) -> None:
        self._open = True
        self.transport.registerProducer(_Valve(self), True)
        self.factory.edge.opened(self.number, "local")

    # --- messages in ----------------------------------------------------------------

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)
        self._buffer = bytearray()
        self._length = 0

    def onMessageFrameBegin(self, length: int) -> None:
        super().onMessageFrameBegin(length)
        self._length += length
        if self._length > MAX_REQUEST_BYTES:
            self._buffer = bytearray()
        if self._length > MOST_DISCARDED:
            self.close(self.CLOSE_STATUS_CODE_MESSAGE_TOO_BIG, f"at most {MAX_REQUEST_BYTES} bytes are taken")

    def onMessageFrameData(self, payload: bytes) -> None:
        if self._length <= MAX_REQUEST_BYTES:
            self._buffer += payload

    def onMessageFrameEnd(self) -> None:
        pass

    def onMessageEnd(self) -> None:
        payload, self._buffer = bytes(self._buffer), bytearray()
        if self.state != self.STATE_OPEN:
            return
        self._owe()
        if self._length > MAX_REQUEST_BYTES:
            error = f"the message has {self._length} bytes; at most {MAX_REQUEST_BYTES} are taken"
            self.factory.edge.refused(self.number, BadInput(error, code="too_long"))
        else:
            self.factory.edge.received(self.number, payload, not self.message_is_binary)

    def onPing(self, payload: bytes) -> None:
        self._owe()
        super().onPing(payload)

    def _owe(self) -> None:
        if self._full:
            self._owed += 1
            if self._owed == MOST_OWED:
                self.transport.pauseProducing()

    # --- messages out ---------------------------------------------------------------

    def buffer_full(self) -> None:
        self._full = True
        self.factory.edge.paused(self.number)

    def buffer_empty(self) -> None:
        self._full = False
        if self._owed >= MOST_OWED:
            self.transport.resumeProducing()
        self._owed = 0
        self.factory.edge.writable(self.number)

    def deliver(self, payload: bytes) -> None:
        if self.state == self.STATE_OPEN:
            self.sendMessage(payload)

    def close(self, code: int, reason: str) -> None:
        """Say why and close; at once where there is nobody to say it to."""
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code=code, reasonUtf8=encode_truncate(reason, 123))
        elif self.state == self.STATE_CONNECTING:
            self.transport.abortConnection()

    def abort(self) -> None:
        self.transport.abortConnection()

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        if self.closeHandshakeTimeoutCall is not None:
            self.closeHandshakeTimeoutCall.cancel()
            self.closeHandshakeTimeoutCall = None
        if self._open:
            self._open = False
            self.factory.edge.closed(self.number)
        self.factory.lost(self)


class ClientConnections(WebSocketServerFactory):  # type: ignore[misc]
    """All connections of one gateway, by number."""

    protocol = ClientConnection
    noisy = False

    def __init__(self, reactor: Any, edge: Edge) -> None:
        super().__init__(protocols=[SUBPROTOCOL], server="crawlfarm", reactor=reactor)
        self.edge = edge
        self._reactor = reactor
        self._numbers = 0
        self._connections: dict[int, ClientConnection] = {}
        self._gone: dict[int, Deferred[None]] = {}
        self._closing = False
        # No limit on the size of messages here: Autobahn holds what is sent to it as well.
        self.setProtocolOptions(
            webStatus=False,
            failByDrop=False,
            utf8validateIncoming=False,  # the codec does, and the connection lives on
            perMessageCompressionAccept=lambda offers: None,
            allowedOrigins=LOOPBACK_ORIGINS,
            openHandshakeTimeout=OPEN_TIMEOUT_S,
            closeHandshakeTimeout=CLOSE_TIMEOUT_S,
            autoPingInterval=PING_S,
            autoPingTimeout=PONG_S,
        )

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._connections)

    def made(self, connection: ClientConnection) -> None:
        self._numbers += 1
        connection.number = self._numbers
        self._connections[connection.number] = connection
        self._gone[connection.number] = Deferred()

    def lost(self, connection: ClientConnection) -> None:
        if self._connections.pop(connection.number, None) is not None:
            self._gone.pop(connection.number).callback(None)

    def send(self, to: tuple[int, ...], payload: bytes) -> None:
        for number in to:
            connection = self._connections.get(number)
            if connection is not None:
                connection.deliver(payload)

    def close(self, number: int, code: int, reason: str) -> None:
        connection = self._connections.get(number)
        if connection is not None:
            connection.close(code, reason)

    async def all_gone(self, within_s: float) -> None:
        """Wait until every connection is closed; those that take too long are cut off."""
        waiting = list(self._gone.values())
        for connection in list(self._connections.values()):
            if connection.state == connection.STATE_CONNECTING:
                connection.abort()
        cut = self._reactor.callLater(within_s, self._cut_off)
        await DeferredList(waiting)
        if cut.active():
            cut.cancel()

    def _cut_off(self) -> None:
        for connection in list(self._connections.values()):
            connection.abort()
