"""The client's side of a websocket: connect, keep connected, say when it is open or lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.logger import Logger

from crawlfarm.core.backoff import Backoff
from crawlfarm.errors import BadInput, ConnectionGone
from crawlfarm.wire.client import SUBPROTOCOL, Reply
from crawlfarm.wire.codec import decode_reply, shown

OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 3.0
PING_S = 20.0
PONG_S = 20.0
"""A gateway that did not answer a ping for so long is gone: another one may be there."""

_log = Logger("crawlfarm.client")


class Link(WebSocketClientProtocol):  # type: ignore[misc]
    """One connection to a gateway.

    :ivar handshaken: fires when it can be used, or fails.
    """

    factory: _LinkFactory
    closeHandshakeTimeoutCall: Any = None
    _open = False

    def connectionMade(self) -> None:
        self.handshaken: Deferred[None] = Deferred(lambda _: self.transport.abortConnection())
        self._waiting: list[Deferred[None]] = []
        super().connectionMade()

    def onOpen(self) -> None:
        if self.websocket_protocol_in_use != SUBPROTOCOL:
            self.wasNotCleanReason = "whoever answers there is not a gateway"
            self.dropConnection(abort=True)
            return
        self._open = True
        self.handshaken.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        try:
            reply = decode_reply(payload)
        except BadInput as e:
            _log.warn("{why}", why=e.message)
        else:
            self.factory.received(reply)

    def send(self, payload: bytes) -> None:
        if self.state == self.STATE_OPEN:
            self.sendMessage(payload)

    def leave(self) -> None:
        if self.state == self.STATE_OPEN:
            self.sendClose(1000)

    def gone(self) -> Deferred[None]:
        """Fires when the connection is closed, both ways."""
        waiting: Deferred[None] = Deferred()
        if self._open:
            self._waiting.append(waiting)
        else:
            waiting.callback(None)
        return waiting

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        if self.closeHandshakeTimeoutCall is not None:
            self.closeHandshakeTimeoutCall.cancel()
            self.closeHandshakeTimeoutCall = None
        if self._open:
            self._open = False
            self.factory.lost(self)
            for waiting in self._waiting:
                waiting.callback(None)
        elif not self.handshaken.called:
            self.handshaken.errback(ConnectionGone(shown(self.wasNotCleanReason or "it hung up")))


class _LinkFactory(WebSocketClientFactory):  # type: ignore[misc]
    protocol = Link
    noisy = False

    def __init__(
        self,
        reactor: Any,
        url: str,
        *,
        received: Callable[[Reply], None],
        lost: Callable[[Link], None],
    ) -> None:
        super().__init__(url, protocols=[SUBPROTOCOL], useragent="crawlfarm", reactor=reactor)
        self.received = received
        self.lost = lost
        # Messages may have any length: a result names every page.
        self.setProtocolOptions(
            failByDrop=False,
            openHandshakeTimeout=OPEN_TIMEOUT_S,
            closeHandshakeTimeout=CLOSE_TIMEOUT_S,
            autoPingInterval=PING_S,
            autoPingTimeout=PONG_S,
        )


class Connector:
    """Makes the connection, and makes it again when it is lost, until told to rest.

    Not a ``ClientService``: with ``prepareConnection`` it raises out of its state machine
    when a connection is lost in the handshake.

    :ivar address: of the gateway, as it may be shown: no path, no credentials.
    :param opened: told of each connection once it can be used.
    :param lost: told when it is gone; the next one is on its way then.
    """

    def __init__(
        self,
        reactor: Any,
        url: str,
        backoff: Backoff,
        *,
        opened: Callable[[Link], None],
        received: Callable[[Reply], None],
        lost: Callable[[], None],
    ) -> None:
        secure, host, port = _parts(url)
        shown_host = f"[{host}]" if ":" in host else host
        self.address = f"{'wss' if secure else 'ws'}://{shown_host}:{port}"
        plain: Any = HostnameEndpoint(reactor, host, port)
        self._endpoint: Any = plain
        if secure:
            from twisted.internet.ssl import optionsForClientTLS

            self._endpoint = wrapClientTLS(optionsForClientTLS(host), plain)
        self._factory = _LinkFactory(reactor, url, received=received, lost=self._gone)
        self._reactor = reactor
        self._backoff = backoff
        self._opened = opened
        self._lost = lost
        self._wanted = False
        self._failures = 0
        self._link: Link | None = None
        self._trying: Deferred[None] | None = None
        self._again: Any = None
        self._first: list[Deferred[None]] = []

    def connect(self) -> Deferred[None]:
        """Fires once connected; at once where a connection is there, or being made again.

        :raises ConnectionGone: the first attempt failed.
        """
        if self._wanted and not self._first:
            return succeed(None)
        first: Deferred[None] = Deferred()
        self._first.append(first)
        if not self._wanted:
            self._wanted = True
            self._try()
        return first

    def rest(self) -> None:
        """Leave, and do not connect again before :meth:`connect`."""
        self._wanted = False
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._trying is not None:
            self._trying.cancel()
        if self._link is not None:
            self._link.leave()

    async def close(self) -> None:
        """:meth:`rest`, and wait until the connection is closed."""
        link = self._link
        self.rest()
        if link is not None:
            await link.gone()

    def _try(self) -> None:
        self._again = None
        self._trying = Deferred.fromCoroutine(self._attempt())
        self._trying.addErrback(self._failed)

    async def _attempt(self) -> None:
        link = await self._endpoint.connect(self._factory)
        await link.handshaken
        self._trying = None
        self._failures = 0
        self._link = link
        self._opened(link)
        self._tell_first(None)

    def _failed(self, failure: Any) -> None:
        self._trying = None
        if self._first:
            self._wanted = False
            why = failure.getErrorMessage() or failure.type.__name__
            gone = ConnectionGone(f"no gateway answers at {self.address}: {why}")
            gone.__cause__ = failure.value
            self._tell_first(gone)
        else:
            self._try_later()

    def _tell_first(self, error: Exception | None) -> None:
        told, self._first = self._first, []
        for first in told:
            if error is None:
                first.callback(None)
            else:
                first.errback(error)

    def _gone(self, link: Link) -> None:
        if link is self._link:
            self._link = None
            self._lost()
            self._try_later()

    def _try_later(self) -> None:
        if self._wanted:
            self._again = self._reactor.callLater(self._backoff.delay_s(self._failures), self._try)
            self._failures += 1


def _parts(url: str) -> tuple[bool, str, int]:
    try:
        parts = urlsplit(url)
        secure = parts.scheme == "wss"
        port = parts.port or (443 if secure else 80)
    except ValueError:
        raise _no_address() from None
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.fragment:
        raise _no_address()
    if "@" in parts.netloc:
        raise BadInput("gateway: a user name or password in its address is not taken", path="gateway")
    return secure, parts.hostname, port


def _no_address() -> BadInput:
    # The text given is not shown: there may be a secret in it.
    return BadInput("gateway: it must be a websocket address such as ws://127.0.0.1:8080", path="gateway")
