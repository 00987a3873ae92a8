"""The proxy: what waits in each direction of each connection, and the faults."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from twisted.internet import interfaces
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.support.processes import HasCleanup
from tests.support.servers.base import HOST, free_ports

UP, DOWN = "up", "down"
_FULL = 1 << 20
"""Bytes on their way in one direction of a connection; beyond, the sender has to wait."""


@dataclasses.dataclass
class Counts:
    """What went through so far: ``up`` is from the client to the server.

    :ivar accepted: connections ever made; ``open`` are there now.
    """

    accepted: int = 0
    open: int = 0
    up: int = 0
    down: int = 0


@implementer(interfaces.IPushProducer)
class Lane:
    """One direction of one connection: bytes wait here for their time, in order."""

    def __init__(self, proxy: TcpProxy, direction: str, source: Side) -> None:
        self.proxy = proxy
        self.direction = direction
        self.source = source
        self.target: Side | None = None
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._ended = False
        self._full = False
        """The other end takes no more for now."""
        self._call: Any = None

    def take(self, data: bytes) -> None:
        """Bytes from the source."""
        now = self.proxy.reactor.seconds()
        for piece in self.proxy.pieces(data):
            self._waiting.append((self.proxy.due(self.direction, len(piece), now), piece))
        self._size += len(data)
        self.go_on()

    def end(self) -> None:
        """The source is closed: the target is, once it has everything."""
        self._ended = True
        self.go_on()

    def go_on(self) -> None:
        """Deliver what is due."""
        if self.target is not None and self.target.there and self.direction not in self.proxy.held:
            self._deliver()
        if self.source.there:
            assert self.source.transport is not None
            if self._size > _FULL:
                self.source.transport.pauseProducing()
            else:
                self.source.transport.resumeProducing()

    def drop(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        self._size = 0
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _deliver(self) -> None:
        assert self.target is not None and self.target.transport is not None
        while self._waiting and not self._full:
            left = self._waiting[0][0] - self.proxy.reactor.seconds()
            if left > 0:
                if self._call is None or not self._call.active():
                    self._call = self.proxy.reactor.callLater(left, self.go_on)
                return
            _, piece = self._waiting.popleft()
            self._size -= len(piece)
            setattr(self.proxy.counts, self.direction, getattr(self.proxy.counts, self.direction) + len(piece))
            self.target.transport.write(piece)
        if self._ended and not self._waiting:
            self.target.transport.unregisterProducer()
            self.target.transport.loseConnection()

    # --- as the producer of the target's transport ------------------------------------

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        self.go_on()

    def stopProducing(self) -> None:
        self.drop()


class Side(Protocol):
    """One end of a connection through the proxy."""

    def __init__(self, proxy: TcpProxy) -> None:
        self.proxy = proxy
        self.outgoing: Lane | None = None
        self.incoming: Lane | None = None
        self.gone: Deferred[None] = Deferred()

    @property
    def there(self) -> bool:
        """Whether it is connected."""
        return self.transport is not None and not self.gone.called

    def connectionMade(self) -> None:
        assert self.transport is not None and self.incoming is not None
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self.incoming, True)
        self.incoming.target = self
        self.incoming.go_on()

    def dataReceived(self, data: bytes) -> None:
        assert self.outgoing is not None
        self.outgoing.take(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionError("lost"))) -> None:  # noqa: B008
        assert self.incoming is not None and self.outgoing is not None
        self.gone.callback(None)
        self.incoming.drop()
        self.outgoing.end()

    def abort(self) -> None:
        """Close it at once, without a word to the other side."""
        if self.there:
            assert self.outgoing is not None and self.transport is not None
            self.outgoing.drop()
            self.transport.abortConnection()


class TcpProxy:
    """One listening port, in front of one server.

    :ivar delay_s: how long bytes are on their way, each way; for what comes from now on.
    :ivar bytes_per_s: what passes each way, all connections together; ``None``: no limit.
    :ivar held: the directions in which nothing passes.
    """

    def __init__(
        self, reactor: Any, to: tuple[str, int], *, delay_s: float = 0.0, bytes_per_s: float | None = None
    ) -> None:
        self.reactor = reactor
        self.to = to
        self.delay_s = delay_s
        self.bytes_per_s = bytes_per_s
        self.held: set[str] = set()
        self.counts = Counts()
        self.port = 0
        self._listening: Any = None
        self._free_at = {UP: 0.0, DOWN: 0.0}
        self._sides: set[Side] = set()
        self._connecting: set[Any] = set()

    @classmethod
    def start(cls, test: HasCleanup, *, to: str, delay_s: float = 0.0, bytes_per_s: float | None = None) -> TcpProxy:
        """A proxy in the test's reactor, to the host and port of a URL; ends with the test."""
        from twisted.internet import reactor

        proxy = cls(reactor, address_of(to), delay_s=delay_s, bytes_per_s=bytes_per_s)
        proxy.listen()
        test.addCleanup(proxy.stop)
        return proxy

    def through(self, url: str) -> str:
        """The same URL, by way of this proxy."""
        return through(url, self.port)

    # --- faults -------------------------------------------------------------------------

    def listen(self, port: int = 0) -> None:
        """Take connections: the first time on ``port``, then always on the same."""
        if self._listening is None:
            self.port = self.port or port or free_ports(1)[0]
            self._listening = self.reactor.listenTCP(self.port, _Clients(self), interface=HOST, backlog=1024)

    def refuse(self) -> Deferred[Any]:
        """Refuse new connections, until :meth:`listen`; those that are there stay."""
        listening, self._listening = self._listening, None
        return succeed(None) if listening is None else listening.stopListening()

    def cut(self) -> int:
        """Reset all connections; how many there were."""
        open_ = self.counts.open
        for side in list(self._sides):
            side.abort()
        return open_

    def hold(self, *directions: str) -> None:
        """Let nothing pass, in both directions or the given one, and tell nobody.

        New connections are taken and get no answer. As on a broken line, nothing is lost
        of a connection that is still there at :meth:`resume`.
        """
        self.held.update(directions or (UP, DOWN))

    def resume(self) -> None:
        """No more delay, limit or silence; connections are taken."""
        self.delay_s, self.bytes_per_s = 0.0, None
        self.held.clear()
        self.listen()
        for side in list(self._sides):
            for lane in (side.outgoing, side.incoming):
                if lane is not None:
                    lane.go_on()

    def stop(self) -> Deferred[Any]:
        """End everything; fires when nothing is left in the reactor."""
        self.held.clear()
        for connector in list(self._connecting):
            connector.disconnect()
        waited = [self.refuse(), *(side.gone for side in self._sides)]
        self.cut()
        return DeferredList(waited)

    # --- for the lanes --------------------------------------------------------------------

    def pieces(self, data: bytes) -> list[bytes]:
        """Small enough that a throttled line brings them one by one."""
        size = len(data) if self.bytes_per_s is None else max(1, int(self.bytes_per_s / 20))
        return [data[at : at + size] for at in range(0, len(data), size)]

    def due(self, direction: str, size: int, now: float) -> float:
        """When bytes that came now have passed."""
        if self.bytes_per_s is None:
            return now + self.delay_s
        self._free_at[direction] = max(now, self._free_at[direction]) + size / self.bytes_per_s
        return self._free_at[direction] + self.delay_s

    def _connect(self) -> Side:
        """The client's side of a new connection; the server's is on its way."""
        client, server = Side(self), Side(self)
        client.outgoing = server.incoming = Lane(self, UP, client)
        client.incoming = server.outgoing = Lane(self, DOWN, server)
        self.counts.accepted += 1
        self.counts.open += 1
        self._add(client)
        client.gone.addCallback(lambda _: setattr(self.counts, "open", self.counts.open - 1))
        self._connecting.add(self.reactor.connectTCP(*self.to, _ToServer(self, client, server), timeout=10))
        return client

    def _add(self, side: Side) -> None:
        self._sides.add(side)
        side.gone.addCallback(lambda _: self._sides.discard(side))


class _Clients(Factory):
    noisy = False

    def __init__(self, proxy: TcpProxy) -> None:
        self.proxy = proxy

    def buildProtocol(self, addr: Any) -> Side:
        return self.proxy._connect()


class _ToServer(ClientFactory):
    noisy = False

    def __init__(self, proxy: TcpProxy, client: Side, server: Side) -> None:
        self.proxy = proxy
        self.client = client
        self.server = server
        self.connector: Any = None

    def startedConnecting(self, connector: Any) -> None:
        self.connector = connector

    def buildProtocol(self, addr: Any) -> Side:
        self.proxy._connecting.discard(self.connector)
        self.proxy._add(self.server)
        return self.server

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self.proxy._connecting.discard(connector)
        self.client.abort()


def address_of(url: str) -> tuple[str, int]:
    """The host and port that a URL, or HOST:PORT, names."""
    parts = urlsplit(url if "://" in url else f"tcp://{url}")
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"{url} names no host and port")
    return parts.hostname, parts.port


def through(url: str, port: int) -> str:
    """The same URL, by way of a port on loopback."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}{HOST}:{port}"))
