"""The client's side of a websocket: connect, keep connected, say when it is open or lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.application.internet import ClientService
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.task import deferLater
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
        self.handshaken: Deferred[None] = Deferred()
        super().connectionMade()

    def onOpen(self) -> None:
        if self.websocket_protocol_in_use != SUBPROTOCOL:
            self.wasNotCleanReason = "whoever answers there is not a gateway"
            self.dropConnection(abort=True)
            return
        self._open = True
        self.handshaken.callback(None)
        self.factory.opened(self)

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

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        if self.closeHandshakeTimeoutCall is not None:
            self.closeHandshakeTimeoutCall.cancel()
            self.closeHandshakeTimeoutCall = None
        if self._open:
            self._open = False
            self.factory.lost()
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
        opened: Callable[[Link], None],
        received: Callable[[Reply], None],
        lost: Callable[[], None],
    ) -> None:
        super().__init__(url, protocols=[SUBPROTOCOL], useragent="crawlfarm", reactor=reactor)
        self.opened = opened
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

    :ivar address: of the gateway, as it may be shown: no path, no credentials.
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
        self._reactor = reactor
        secure, host, port = _parts(url)
        shown_host = f"[{host}]" if ":" in host else host
        self.address = f"{'wss' if secure else 'ws'}://{shown_host}:{port}"
        endpoint: Any = HostnameEndpoint(reactor, host, port)
        if secure:
            from twisted.internet.ssl import optionsForClientTLS

            endpoint = wrapClientTLS(optionsForClientTLS(host), endpoint)
        self._reactor = reactor
        self._link: Link | None = None
        self._lost = lost
        self._opened = opened
        factory = _LinkFactory(reactor, url, opened=self._note_opened, received=received, lost=self._note_lost)
        self._service = ClientService(
            endpoint,
            factory,
            retryPolicy=backoff.delay_s,
            clock=reactor,
            prepareConnection=lambda link: link.handshaken,
        )

    async def connect(self) -> None:
        """Returns once connected, at once where it is.

        :raises ConnectionGone: the first attempt failed.
        """
        if self._service.running:
            return
        self._service.startService()
        try:
            await self._service.whenConnected(failAfterFailures=1)
        except (Exception, CancelledError) as e:
            # The service is still in the middle of telling us, and may not be stopped there.
            await deferLater(self._reactor, 0)
            await self.close()
            why = str(e) or type(e).__name__
            raise ConnectionGone(f"no gateway answers at {self.address}: {why}") from e

    def _leave_the_machine(self) -> Deferred[None]:
        # ClientService says that it is connected from within its state machine, where it
        # cannot be told anything.
        return deferLater(self._reactor, 0.0)

    def rest(self) -> None:
        """Do not connect again before :meth:`connect`."""
        if self._service.running:
            self._service.stopService()

    async def close(self) -> None:
        if self._link is not None:
            self._link.leave()
        if self._service.running:
            await self._service.stopService()

    def _note_opened(self, link: Link) -> None:
        self._link = link
        self._opened(link)

    def _note_lost(self) -> None:
        self._link = None
        self._lost()


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
