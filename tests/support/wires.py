"""Connections as tests need them: one that says anything, one that can be cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol

from crawlfarm.wire.client import SUBPROTOCOL


class RawClient(WebSocketClientProtocol):
    """A websocket that sends what it is told to and keeps what it gets.

    :ivar messages: what came, as JSON.
    :ivar closed: fires with the close code and the reason.
    """

    closeHandshakeTimeoutCall: Any = None

    def connectionMade(self) -> None:
        self.messages: DeferredQueue[dict[str, Any]] = DeferredQueue()
        self.opened: Deferred[RawClient] = Deferred()
        self.closed: Deferred[tuple[int, str]] = Deferred()
        self.lost: Deferred[None] = Deferred()
        super().connectionMade()

    def onOpen(self) -> None:
        self.opened.callback(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.messages.put(json.loads(payload))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if not self.opened.called:
            self.opened.errback(ConnectionRefusedError(self.wasNotCleanReason))
        if not self.closed.called:
            self.closed.callback((code or 0, reason or ""))

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        if self.closeHandshakeTimeoutCall is not None:
            self.closeHandshakeTimeoutCall.cancel()
        self.lost.callback(None)

    def say(self, **message: Any) -> None:
        self.sendMessage(json.dumps(message).encode())

    async def until(self, *types: str) -> list[dict[str, Any]]:
        """The messages up to and with the first of these types."""
        taken: list[dict[str, Any]] = []
        while True:
            message = await self.messages.get()
            taken.append(message)
            if message["type"] in types:
                return taken

    async def leave(self) -> None:
        self.transport.abortConnection()
        await self.lost


async def raw_client(
    reactor: Any, url: str, *, protocols: list[str] | None = None, origin: str | None = None, **options: Any
) -> RawClient:
    """Connected and through the handshake.

    :raises ConnectionRefusedError: with the gateway's answer to the handshake.
    """
    factory = WebSocketClientFactory(
        url, protocols=[SUBPROTOCOL] if protocols is None else protocols, origin=origin, reactor=reactor
    )
    factory.protocol = RawClient
    factory.noisy = False
    factory.setProtocolOptions(failByDrop=False, **options)
    client = await TCP4ClientEndpoint(reactor, factory.host, factory.port).connect(factory)
    await client.opened
    return client


class Conversation(Protocol):
    """A TCP connection that keeps every byte it gets until the other side closes."""

    def __init__(self) -> None:
        self.data = b""
        self.ended: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Any = None) -> None:
        self.ended.callback(self.data)


async def exchange(reactor: Any, url: str, data: bytes) -> bytes:
    """What a gateway answers to these bytes before it hangs up."""
    factory: Any = Factory.forProtocol(Conversation)
    factory.noisy = False
    host, _, port = url.removeprefix("ws://").partition(":")
    connection: Any = await TCP4ClientEndpoint(reactor, host, int(port)).connect(factory)
    connection.transport.write(data)
    answer: bytes = await connection.ended
    return answer


class _End(Protocol):
    peer: _End | None = None

    def __init__(self, passed: Callable[[int], None]) -> None:
        self._passed = passed
        self._early: list[bytes] = []

    def join(self, peer: _End) -> None:
        self.peer = peer
        for data in self._early:
            peer.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        self._passed(len(data))
        if self.peer is not None:
            self.peer.transport.write(data)
        else:
            self._early.append(data)

    def connectionLost(self, reason: Any = None) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.abortConnection()


class CuttableWire:
    """A TCP proxy in front of one address, whose connections can be cut, and which can cut
    them itself after so many bytes from the server."""

    def __init__(self, reactor: Any, url: str) -> None:
        self._reactor = reactor
        host, _, port = url.removeprefix("ws://").partition(":")
        self._target = TCP4ClientEndpoint(reactor, host, int(port))
        self._ends: list[_End] = []
        self.cuts = 0
        self.cut_after = 0
        self._bytes = 0

    async def start(self) -> str:
        factory: Any = Factory()
        factory.noisy = False
        factory.buildProtocol = self._accept
        self._port = await TCP4ServerEndpoint(self._reactor, 0, interface="127.0.0.1").listen(factory)
        return f"ws://127.0.0.1:{self._port.getHost().port}"

    async def stop(self) -> None:
        await self._port.stopListening()
        self.cut()

    def cut(self) -> None:
        ends, self._ends, self._bytes = self._ends, [], 0
        for end in ends:
            if end.transport is not None:
                end.transport.abortConnection()

    def _accept(self, address: object) -> _End:
        near = _End(lambda count: None)
        self._ends.append(near)
        factory: Any = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda address: _End(self._count)
        connecting = self._target.connect(factory)
        connecting.addCallbacks(lambda far: self._join(near, far), lambda _: near.transport.abortConnection())
        return near

    def _join(self, near: _End, far: _End) -> None:
        self._ends.append(far)
        far.join(near)
        near.join(far)

    def _count(self, count: int) -> None:
        self._bytes += count
        if self.cut_after and self._bytes > self.cut_after:
            self.cuts += 1
            self._reactor.callLater(0, self.cut)
