"""The TCP proxy with faults."""

from __future__ import annotations

import time

from twisted.internet import reactor
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from tests.support.proxy import DOWN, UP, ProxyChild, TcpProxy
from tests.support.servers.base import HOST


class Echo(Protocol):
    """Sends back what it gets."""

    def connectionMade(self) -> None:
        self.factory.open += 1

    def dataReceived(self, data: bytes) -> None:
        self.factory.heard += data
        self.transport.write(data)

    def connectionLost(self, reason: object = None) -> None:
        self.factory.open -= 1


class Client(Protocol):
    """Waits for bytes, or for the end."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: Deferred[object] = Deferred()
        self._wanted = 0
        self._waiting: Deferred[bytes] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self._check()

    def read(self, count: int, within_s: float = 10.0) -> Deferred[bytes]:
        """The next ``count`` bytes; a ``TimeoutError`` if they do not come."""
        self._wanted, self._waiting = count, Deferred()
        waiting = self._waiting.addTimeout(within_s, reactor)
        self._check()
        return waiting

    def _check(self) -> None:
        if self._waiting is not None and len(self.data) >= self._wanted:
            waiting, self._waiting = self._waiting, None
            data, self.data = self.data[: self._wanted], self.data[self._wanted :]
            waiting.callback(data)

    def connectionLost(self, reason: object = None) -> None:
        self.lost.callback(None)


class ProxyTests(TestCase):
    """In the test's own reactor, in front of a server that echoes."""

    def setUp(self) -> None:
        self.server = Factory.forProtocol(Echo)
        self.server.noisy, self.server.open, self.server.heard = False, 0, b""
        port = reactor.listenTCP(0, self.server, interface=HOST)
        self.addCleanup(port.stopListening)
        self.url = f"tcp://user:word@{HOST}:{port.getHost().port}/path"
        self.proxy = TcpProxy.start(self, to=self.url)

    async def connect(self, port: int | None = None) -> Client:
        client = Client()
        await connectProtocol(HostnameEndpoint(reactor, HOST, port or self.proxy.port), client)

        def close() -> Deferred[object]:
            client.transport.abortConnection()
            return client.lost

        self.addCleanup(close)
        return client

    async def echo(self, client: Client, data: bytes = b"hello") -> float:
        """Seconds for there and back."""
        begin = time.monotonic()
        client.transport.write(data)
        self.assertEqual(await client.read(len(data)), data)
        return time.monotonic() - begin

    async def until(self, holds: object) -> None:
        for _ in range(1000):
            if holds():
                return
            waited: Deferred[None] = Deferred()
            reactor.callLater(0.005, waited.callback, None)
            await waited
        self.fail("did not happen")

    def test_url(self) -> None:
        """A URL by way of the proxy keeps all but host and port."""
        self.assertEqual(self.proxy.through(self.url), f"tcp://user:word@{HOST}:{self.proxy.port}/path")
        self.assertEqual(self.proxy.through("redis://h:1/0"), f"redis://{HOST}:{self.proxy.port}/0")

    async def test_passes_everything_on_and_counts(self) -> None:
        """Megabytes arrive whole, both ways; bytes and connections are counted."""
        clients = [await self.connect() for _ in range(3)]
        data = bytes(range(256)) * 16384
        await self.echo(clients[0], data)
        await self.echo(clients[1])
        counts = self.proxy.counts
        self.assertEqual((counts.accepted, counts.open), (3, 3))
        self.assertEqual((counts.up, counts.down), (len(data) + 5, len(data) + 5))

    async def test_closing_passes_on_after_the_data(self) -> None:
        """A client that writes and closes at once is heard to the end, then closed to the server."""
        self.proxy.delay_s = 0.02
        client = await self.connect()
        client.transport.write(b"x" * 100_000)
        client.transport.loseConnection()
        await self.until(lambda: len(self.server.heard) == 100_000 and self.server.open == 0)

    async def test_server_closing_closes_the_client(self) -> None:
        """A server that is not there closes who connects."""
        proxy = TcpProxy.start(self, to="127.0.0.1:1")
        client = await self.connect(proxy.port)
        await client.lost
        await self.until(lambda: proxy.counts.open == 0)

    async def test_delay_each_way(self) -> None:
        """An answer takes twice the delay, and many small ones take no longer than one."""
        client = await self.connect()
        self.proxy.delay_s = 0.05
        took = await self.echo(client)
        self.assertGreaterEqual(took, 0.1)
        self.assertLess(took, 1.0)
        begin = time.monotonic()
        for n in range(20):
            client.transport.write(b"%d" % (n % 10))
        self.assertEqual(await client.read(20), b"0123456789" * 2)
        self.assertLess(time.monotonic() - begin, 1.0)

    async def test_throttle(self) -> None:
        """No more than so many bytes a second pass each way."""
        client = await self.connect()
        self.proxy.bytes_per_s = 100_000
        took = await self.echo(client, b"x" * 20_000)
        self.assertGreaterEqual(took, 0.19)

    async def test_cut(self) -> None:
        """Both sides lose all connections at once; new ones are taken."""
        clients = [await self.connect() for _ in range(2)]
        for client in clients:
            await self.echo(client)
        self.assertEqual(self.proxy.cut(), 2)
        for client in clients:
            await client.lost
        await self.until(lambda: self.server.open == 0 and self.proxy.counts.open == 0)
        await self.echo(await self.connect())

    async def test_refuse(self) -> None:
        """New connections are refused, old ones stay; it listens again on the same port."""
        client, port = await self.connect(), self.proxy.port
        await self.proxy.refuse()
        with self.assertRaises(ConnectionRefusedError):
            await self.connect()
        await self.echo(client)
        self.proxy.listen()
        self.assertEqual(self.proxy.port, port)
        await self.echo(await self.connect())

    async def test_silence(self) -> None:
        """Connections stay and are taken, nothing passes and no end is told; later nothing was lost."""
        client = await self.connect()
        await self.echo(client)
        self.proxy.hold()
        late = await self.connect()
        for one in (client, late):
            one.transport.write(b"later")
        gone = await self.connect()
        await self.until(lambda: self.server.open == 3)
        gone.transport.loseConnection()
        await gone.lost
        await self.assertFailure(client.read(1, 0.1), TimeoutError)
        self.assertEqual((self.server.heard, self.server.open), (b"hello", 3))
        self.proxy.resume()
        self.assertEqual(await client.read(5), b"later")
        self.assertEqual(await late.read(5), b"later")
        await self.until(lambda: self.server.open == 2)

    async def test_silence_one_way(self) -> None:
        """The server hears and answers, the client does not hear the answer."""
        client = await self.connect()
        self.proxy.hold(DOWN)
        client.transport.write(b"hello")
        await self.until(lambda: self.server.heard == b"hello")
        self.assertEqual((client.data, self.proxy.counts.up, self.proxy.counts.down), (b"", 5, 0))
        self.proxy.resume()
        self.proxy.hold(UP)
        self.assertEqual(await client.read(5), b"hello")

    async def test_silence_is_bounded(self) -> None:
        """Who goes on sending into the silence has to wait, as on a full line."""
        client = await self.connect()
        self.proxy.hold()
        data = b"x" * (64 << 20)
        client.transport.write(data)
        await self.assertFailure(client.read(1, 0.3), TimeoutError)
        self.assertLess(sum(lane._size for side in self.proxy._sides for lane in [side.outgoing]), 16 << 20)
        self.proxy.cut()
        await client.lost

    async def test_as_a_process(self) -> None:
        """A proxy in a process of its own does the same, and ends with the test."""
        proxy = ProxyChild.start(self, to=self.url, delay_s=0.02)
        client = await self.connect(proxy.port)
        self.assertGreaterEqual(await self.echo(client), 0.04)
        proxy.set(delay_s=0)
        await self.echo(client)
        self.assertEqual((proxy.counts.accepted, proxy.counts.open, proxy.counts.down), (1, 1, 10))
        proxy.hold(UP)
        client.transport.write(b"later")
        await self.assertFailure(client.read(1, 0.1), TimeoutError)
        proxy.resume()
        self.assertEqual(await client.read(5), b"later")
        proxy.refuse()
        with self.assertRaises(ConnectionRefusedError):
            await self.connect(proxy.port)
        proxy.cut()
        await client.lost
        proxy.listen()
        await self.echo(await self.connect(proxy.port))
