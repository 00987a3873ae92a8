"""A real gateway over real loopback websockets, on a farm of tables."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from typing import Any

from autobahn.websocket.compress import PerMessageDeflateOffer
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from crawlfarm.client import Client, Job
from crawlfarm.config import Config, Timings
from crawlfarm.core.backoff import Backoff
from crawlfarm.errors import ConfigError, ConnectionGone, IdConflict, InvalidURL, UnknownJob
from crawlfarm.wire.client import (
    MAX_REQUEST_BYTES,
    Cancelled,
    JobProgress,
    PageLinked,
    PageMoved,
    Pages,
    Reply,
    Result,
    Rewound,
    Terminal,
)
from crawlfarm.wire.jobs import JobOptions
from tests.support.fakes import FakeFarm
from tests.support.wires import CuttableWire, RawClient, exchange, raw_client
from wsgate.service import Gateway
from wsgate.websocket import MOST_DISCARDED

URL = "http://site.test/"
CONFIG = Config(gateway_listen="tcp:0:interface=127.0.0.1")
STREAM = JobOptions(stream=True)
SOON = Backoff(first_s=0.01, most_s=0.05)


def gateway(farm: FakeFarm, config: Config = CONFIG) -> Gateway:
    return Gateway(
        reactor,
        config,
        locks=farm.locks,
        queue=farm.queue,
        frontier=farm.frontier,
        results=farm.results,
        cache=farm.cache,
    )


def urls(replies: list[Reply]) -> list[str]:
    return [page.url for reply in replies if isinstance(reply, Pages) for page in reply.pages]


async def rest(job: Job) -> list[Reply]:
    """Everything that comes of a job from here to its end."""
    return [reply async for reply in job]


async def until_seen(job: Job, count: int) -> list[Reply]:
    """What comes of a job until ``count`` pages were in it."""
    replies: list[Reply] = []
    while len(urls(replies)) < count:
        reply = await job.next()
        assert reply is not None
        replies.append(reply)
    return replies


class GatewayTest(TestCase):
    timeout = 20

    config = CONFIG

    async def setUp(self) -> None:
        self.farm = FakeFarm()
        self.gateway = gateway(self.farm, self.config)
        await self.gateway.start()
        self.addCleanup(self.gateway.stop)
        (self.url,) = self.gateway.endpoints

    async def raw(self, **options: Any) -> RawClient:
        client = await raw_client(reactor, self.url, **options)
        self.addCleanup(lambda: Deferred.fromCoroutine(client.leave()))
        return client

    async def client(self, url: str = "", **options: Any) -> Client:
        client = Client(reactor, url or self.url, backoff=SOON, **options)
        self.addCleanup(client.close)
        await client.connect()
        return client


class Listening(GatewayTest):
    async def test_endpoints(self) -> None:
        """``endpoints`` names the port that was bound."""
        self.assertRegex(self.url, r"^ws://127\.0\.0\.1:\d{2,5}$")

    async def test_port_in_use(self) -> None:
        """A port in use is a :class:`ConfigError` in one sentence that names the variable."""
        listen = f"tcp:{self.url.rpartition(':')[2]}:interface=127.0.0.1"
        second = gateway(self.farm, replace(CONFIG, gateway_listen=listen))
        error = await self.assertFailure(second.start(), ConfigError)
        self.assertRegex(error.message, r"^CRAWLFARM_GATEWAY_LISTEN: .* in use")

    async def test_only_loopback(self) -> None:
        """Without tokens every other interface is refused, and nothing is left listening."""
        for listen in ("tcp:0", "tcp:0:interface=0.0.0.0", r"tcp6:0:interface=\:\:"):
            second = gateway(self.farm, replace(CONFIG, gateway_listen=listen))
            error = await self.assertFailure(second.start(), ConfigError)
            self.assertIn("CRAWLFARM_GATEWAY_LISTEN", error.message)
            self.assertEqual(second.endpoints, [])

    async def test_no_endpoint(self) -> None:
        """What is no endpoint string is refused with an example of one."""
        for listen in ("8080", "tcp:x", "nonsense:5", "tcp:0:colour=red"):
            second = gateway(self.farm, replace(CONFIG, gateway_listen=listen))
            error = await self.assertFailure(second.start(), ConfigError)
            self.assertIn("CRAWLFARM_GATEWAY_LISTEN", error.message)

    async def test_going_away(self) -> None:
        """A gateway that stops says 1001 to its clients and takes no more."""
        raw = await self.raw()
        await self.gateway.stop()
        code, reason = await raw.closed
        self.assertEqual((code, reason), (1001, "the gateway is going away"))
        client = Client(reactor, self.url)
        error = await self.assertFailure(client.connect(), ConnectionGone)
        self.assertIn(self.url, error.message)


class Handshakes(GatewayTest):
    def request(self, *headers: str) -> bytes:
        lines = ["GET /any/path HTTP/1.1", "Host: x", *headers, "", ""]
        return "\r\n".join(lines).encode()

    async def test_no_compression(self) -> None:
        """permessage-deflate is not agreed to, whoever offers it."""
        raw = await self.raw(perMessageCompressionOffers=[PerMessageDeflateOffer()])
        self.assertEqual(raw.websocket_extensions_in_use, [])

    async def test_subprotocols(self) -> None:
        """``crawlfarm.v1`` is spoken where it is offered or nothing is; others are refused."""
        self.assertEqual((await self.raw()).websocket_protocol_in_use, "crawlfarm.v1")
        self.assertEqual((await self.raw(protocols=["x", "crawlfarm.v1"])).websocket_protocol_in_use, "crawlfarm.v1")
        plain = await self.raw(protocols=[])
        plain.say(type="status", job="j")
        self.assertEqual((await plain.messages.get())["code"], "unknown_job")
        await self.assertFailure(Deferred.fromCoroutine(self.raw(protocols=["chat"])), ConnectionRefusedError)

    async def test_origins(self) -> None:
        """A page from elsewhere in somebody's browser is refused; one of this machine is not."""
        await self.raw(origin="http://localhost:8000")
        await self.assertFailure(Deferred.fromCoroutine(self.raw(origin="https://evil.test")), ConnectionRefusedError)

    async def test_what_is_no_handshake(self) -> None:
        """Plain HTTP, nonsense and endless headers are answered with an HTTP error."""
        for data, answer in (
            (self.request(), b"HTTP/1.1 426"),
            (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 405"),
            (b"\x16\x03\x01\r\n\r\n", b"HTTP/1.1 400"),
            (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, b"HTTP/1.1 431"),
            (self.request("Upgrade: websocket", "Connection: Upgrade", "Host: y:\x1b[31m"), b"HTTP/1.1 400"),
        ):
            self.assertTrue((await exchange(reactor, self.url, data)).startswith(answer), data[:60])


class BadMessages(GatewayTest):
    async def test_each_is_answered_and_the_connection_kept(self) -> None:
        """Every bad message gets its own error, on one connection that goes on working."""
        raw = await self.raw()
        for payload, code in (
            (b"hello", "not_json"),
            (b"[]", "not_an_object"),
            (b"[" * 20_000 + b"]" * 20_000, "too_deep"),
            (b'{"type": "status", "type": "status", "job": "j"}', "duplicate_key"),
            (b'{"type": "status", "job": "\xff\xfe"}', "not_utf8"),
            (b"x" * (MAX_REQUEST_BYTES + 1), "too_long"),
            (b"x" * (MOST_DISCARDED - 1), "too_long"),
            (b"", "not_json"),
            (b'{"type": "submit", "id": "a", "url": "http://x.test/", "depth": 0}', "out_of_range"),
            (b'{"type": "submit", "id": "a", "url": "ftp://x.test/", "depth": 1}', "url_scheme"),
            (b'{"type": "submit", "id": "a\\u0000", "url": "http://x.test/", "depth": 1}', "out_of_range"),
        ):
            raw.sendMessage(payload)
            error = await raw.messages.get()
            self.assertEqual((error["type"], error["code"]), ("error", code), payload[:60])
        raw.sendMessage(b'{"type": "status", "job": "j"}', isBinary=True)
        self.assertEqual((await raw.messages.get())["code"], "not_text")
        raw.sendMessage(b"y" * MAX_REQUEST_BYTES * 2, fragmentSize=1000)
        self.assertEqual((await raw.messages.get())["code"], "too_long")
        raw.sendMessage(json.dumps({"type": "status", "job": "é" * 50}).encode(), fragmentSize=3)
        self.assertEqual((await raw.messages.get())["code"], "unknown_job")

    async def test_far_too_long(self) -> None:
        """A message that goes on and on is the end of its connection, with code 1009."""
        raw = await self.raw()
        raw.sendMessage(b"x" * (MOST_DISCARDED + 1))
        code, _ = await raw.closed
        self.assertEqual(code, 1009)

    async def test_broken_frames(self) -> None:
        """Frames that break the websocket protocol end that connection with 1002; another one
        does not notice."""
        other = await self.raw()
        for frame in (b"\x83\x80abcd", b"\xf1\x80abcd", b"\x81\x02hi", b"\x80\x80abcd", b"\x0a\x80abcd"):
            raw = await self.raw()
            raw.transport.write(frame)
            code, _ = await raw.closed
            self.assertEqual(code, 1002, frame)
        other.say(type="status", job="j")
        self.assertEqual((await other.messages.get())["code"], "unknown_job")


class Streams(GatewayTest):
    async def test_submit_to_result(self) -> None:
        """A job's stream has all that was found, in order; its last message is its result."""
        client = await self.client()
        job = await client.submit(URL, 2, STREAM)
        self.assertEqual(job.id, self.farm.only_job)
        self.farm.page(job.id, URL, 0)
        self.farm.page(job.id, URL + "a", 1)
        self.farm.moved(job.id, URL + "a", 1, URL)
        self.farm.linked(job.id, URL, URL + "a")
        self.farm.end(job.id)
        replies = [reply for reply in await rest(job) if not isinstance(reply, JobProgress)]
        self.assertEqual([type(reply) for reply in replies], [Pages, PageMoved, PageLinked, Result])
        self.assertEqual(job.end.levels, [[URL], [URL + "a"]])
        self.assertIs(await job.next(), None)

    async def test_two_followers(self) -> None:
        """Two clients that ask the same each get the whole stream and one result."""
        first, second = await self.client(), await self.client()
        jobs = [await first.submit(URL, 2, STREAM)]
        every = self.farm.pages(jobs[0].id, 250)
        seen = await until_seen(jobs[0], 250)
        jobs.append(await second.submit(URL, 2, STREAM))
        self.assertEqual(jobs[0].id, jobs[1].id)
        every += self.farm.pages(jobs[0].id, 250)
        self.farm.end(jobs[0].id)
        one, two = await gatherResults([Deferred.fromCoroutine(rest(job)) for job in jobs])
        self.assertEqual(urls(seen + one), every)
        self.assertEqual(urls(two), every)
        for replies in (one, two):
            self.assertEqual(len([reply for reply in replies if isinstance(reply, Terminal)]), 1)

    async def test_two_jobs_of_one_client_that_are_one(self) -> None:
        """Two submissions of one client that join one job each get the whole stream."""
        client = await self.client()
        jobs = [await client.submit(URL, 2, STREAM)]
        every = self.farm.pages(jobs[0].id, 300)
        seen = await until_seen(jobs[0], 300)
        jobs.append(await client.submit(URL, 2, STREAM))
        every += self.farm.pages(jobs[0].id, 10)
        self.farm.end(jobs[0].id)
        one, two = await gatherResults([Deferred.fromCoroutine(rest(job)) for job in jobs])
        self.assertEqual(urls(seen + one), every)
        self.assertEqual(urls(two), every)

    async def test_attach(self) -> None:
        """A job can be followed from a cursor on, while it runs and after it ended."""
        client = await self.client()
        job = await client.submit(URL, 2)
        every = self.farm.pages(job.id, 30)
        again = await client.attach(job.id, after="1.10")
        self.assertEqual(urls(await until_seen(again, 20)), every[10:])
        self.farm.end(job.id)
        await rest(job)
        late = await (await self.client()).attach(job.id, after="1.25")
        replies = await rest(late)
        self.assertEqual(urls(replies), every[25:])
        self.assertIsInstance(late.end, Result)
        await self.assertFailure(client.attach("nothing"), UnknownJob)

    async def test_lost_connections(self) -> None:
        """However often the connection is cut in the middle of a stream: every entry comes
        once and in order, and then one result."""
        wire = CuttableWire(reactor, self.url)
        url = await wire.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(wire.stop()))
        client = await self.client(url)
        wire.cut_after = 60_000
        job = await client.submit(URL, 2, STREAM)
        every = self.farm.pages(job.id, 4000)
        replies = await until_seen(job, 3000)
        self.farm.moved(job.id, every[5], 1, every[4])
        every += self.farm.pages(job.id, 2000)
        replies += await until_seen(job, 2500)
        wire.cut_after = 0
        self.farm.end(job.id)
        replies += await rest(job)
        self.assertGreater(wire.cuts, 5)
        self.assertEqual(urls(replies), every)
        self.assertEqual(
            [type(r) for r in replies if isinstance(r, PageMoved | Rewound | Terminal)], [PageMoved, Result]
        )
        self.assertEqual(len(self.farm.jobs), 1)

    async def test_lost_before_accepted(self) -> None:
        """A connection cut before the answer: the job is handed in again under its id, and is one."""
        wire = CuttableWire(reactor, self.url)
        url = await wire.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(wire.stop()))
        client = await self.client(url)
        register = self.farm.locks.call

        async def cut_once(command: Any) -> Any:
            self.farm.locks.call = register
            wire.cut()
            return await register(command)

        self.farm.locks.call = cut_once
        job = await client.submit(URL, 2)
        self.assertEqual(job.id, self.farm.only_job)

    async def test_rewound(self) -> None:
        """A log that begins again is told as ``rewound`` and from its first entry."""
        client = await self.client()
        job = await client.submit(URL, 2, STREAM)
        self.farm.pages(job.id, 5)
        await until_seen(job, 5)
        self.farm.rewind(job.id, 9)
        every = self.farm.pages(job.id, 3)
        self.farm.end(job.id)
        replies = await rest(job)
        at = [type(reply) for reply in replies].index(Rewound)
        self.assertEqual(urls(replies[at:]), every)

    async def test_cached(self) -> None:
        """The same question again is answered from the cache, at once and cut to its depth;
        the answer's job can be come back for."""
        client = await self.client()
        job = await client.submit(URL, 3)
        self.farm.page(job.id, URL, 0)
        self.farm.page(job.id, URL + "a", 1)
        self.farm.page(job.id, URL + "b", 2)
        self.farm.end(job.id)
        await rest(job)
        again = await client.submit(URL, 2, STREAM)
        replies = await rest(again)
        self.assertEqual(urls(replies), [URL, URL + "a"])
        self.assertEqual((again.end.cached, again.end.levels), (True, [[URL], [URL + "a"]]))
        self.assertEqual(len(self.farm.jobs), 1)
        self.assertEqual((await client.status(again.id)).state, "done")
        late = await client.attach(again.id, after="1.1")
        self.assertEqual(urls(await rest(late)), [URL + "a"])

    async def test_large_result(self) -> None:
        """A result of megabytes, read in a thread, comes as one message."""
        client = await self.client()
        job = await client.submit(URL, 2)
        every = self.farm.pages(job.id, 20_000)
        self.farm.end(job.id)
        await rest(job)
        self.assertEqual(job.end.levels[1], every)

    async def test_cancel(self) -> None:
        """A cancelled job ends with ``cancelled``, for its stream and for who asked."""
        client = await self.client()
        job = await client.submit(URL, 2, STREAM)
        self.farm.pages(job.id, 3)
        await until_seen(job, 3)
        end = await job.cancel()
        self.assertIsInstance(end, Cancelled)
        self.assertEqual(end.receipt.found, 3)
        self.assertIs((await rest(job))[-1], end)
        self.assertIs(await job.cancel(), end)
        other = await client.submit(URL, 5)
        self.assertIsInstance(await (await self.client()).cancel(other.id), Cancelled)
        self.assertIsInstance((await rest(other))[-1], Cancelled)
        await self.assertFailure(client.cancel("nothing"), UnknownJob)

    async def test_refused(self) -> None:
        """What the gateway refuses is raised as what it is."""
        client = await self.client()
        await client.submit(URL, 2, id="a")
        await self.assertFailure(client.submit(URL, 3, id="a"), IdConflict)
        error = await self.assertFailure(client.submit("ftp://site.test/", 3), InvalidURL)
        self.assertEqual((error.code, error.path), ("url_scheme", "url"))

    async def test_busy(self) -> None:
        """A client that hears ``busy`` hands its job in again, until it is taken."""
        client = await self.client()
        self.farm.away = {"locks"}
        submitted = client.submit(URL, 2)
        register = self.farm.locks.call

        async def back_soon(command: Any) -> Any:
            if len(self.farm.commands) == 3:
                self.farm.away = set()
            return await register(command)

        self.farm.locks.call = back_soon
        await submitted
        self.assertEqual(len(self.farm.jobs), 1)


class Leaving(GatewayTest):
    config = replace(CONFIG, timings=Timings(leave_grace_s=0.2, idle_s=0.2))

    async def test_a_client_that_left(self) -> None:
        """The job of a client that left and did not come back is cancelled."""
        cancelled: Deferred[None] = Deferred()
        self.farm.queue.on_ended(lambda message: cancelled.callback(None))
        client = await self.client()
        job = await client.submit(URL, 2)
        await client.close()
        await cancelled
        self.assertEqual(self.farm.jobs[job.id].state, "cancelled")

    async def test_idle(self) -> None:
        """A connection without a job is closed with 1000 and told why; one with a job stays."""
        busy, raw = await self.raw(), await self.raw()
        busy.say(type="submit", id="a", url=URL, depth=1)
        await busy.messages.get()
        code, reason = await raw.closed
        self.assertEqual(code, 1000)
        self.assertIn("idle", reason)
        self.assertFalse(busy.closed.called)


class SlowReaders(GatewayTest):
    """What a client costs that does not read."""

    def room(self) -> int:
        """The most bytes waiting in this process for any client."""
        connections = self.gateway._connections._connections.values()
        return max(len(c.transport.dataBuffer) + c.transport._tempDataLen for c in connections)

    async def deaf(self) -> RawClient:
        raw = await self.raw()
        # Else the kernel takes megabytes before anybody here notices.
        (connection,) = self.gateway._connections._connections.values()
        connection.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        raw.transport.pauseProducing()
        return raw

    def paused(self) -> Deferred[None]:
        """Fires when the gateway found a connection full."""
        found: Deferred[None] = Deferred()
        edge = self.gateway.paused

        def paused(number: int) -> None:
            edge(number)
            if not found.called:
                found.callback(None)

        self.patch(self.gateway, "paused", paused)
        return found

    async def test_a_stream_that_is_not_read(self) -> None:
        """Its log is not read ahead of it: it costs a bounded amount of memory, another client
        is served meanwhile, and once it reads it gets everything."""
        full = self.paused()
        raw = await self.deaf()
        raw.say(type="submit", id="a", url=URL, depth=2, options={"stream": True})
        client = await self.client()
        job = await client.submit(URL, 2)
        padding = "x" * 1000
        count = 10_000
        for n in range(count):
            self.farm.page(job.id, f"{URL}{n:06}{padding}", 1)
        await full
        for _ in range(20):
            await client.status(job.id)
            self.gateway._look()
        self.assertLess(self.farm.frontier.reads, count // 2)
        self.assertLess(self.room(), 2**20)
        self.farm.end(job.id)
        self.assertIsInstance((await rest(job))[-1], Result)
        self.assertLess(self.room(), 2**20)
        raw.transport.resumeProducing()
        got = [page["url"] for m in await raw.until("result") if m["type"] == "pages" for page in m["pages"]]
        self.assertEqual([url[len(URL) : len(URL) + 6] for url in got], [f"{n:06}" for n in range(count)])

    async def test_answers_that_are_not_read(self) -> None:
        """Who sends and sends and never reads is not listened to any more; when it reads, all
        of its messages are answered."""
        full = self.paused()
        raw = await self.deaf()
        count = 10_000
        for n in range(count):
            raw.say(type="status", job=str(n).rjust(128, "é"))
        await full
        client = await self.client()
        for _ in range(20):
            await self.assertFailure(client.status("j"), UnknownJob)
        self.assertLess(self.room(), 2**20)
        raw.transport.resumeProducing()
        for _ in range(count):
            await raw.messages.get()


class LostGateways(GatewayTest):
    """What a client hears when its gateway does not answer."""

    async def test_nobody_there(self) -> None:
        """A first connection that cannot be made fails at once and names the address."""
        await self.gateway.stop()
        client = Client(reactor, self.url)
        for asked in (client.connect, lambda: client.submit(URL, 2), lambda: client.status("j")):
            error = await self.assertFailure(asked(), ConnectionGone)
            self.assertIn(f"no gateway answers at {self.url}", error.message)
        await client.close()

    async def test_not_a_gateway(self) -> None:
        """A server that does not shake hands as a gateway does is refused by name."""
        silent: Any = Factory.forProtocol(Rude)
        silent.noisy = False
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(silent)
        self.addCleanup(port.stopListening)
        url = f"ws://127.0.0.1:{port.getHost().port}"
        client = Client(reactor, url)
        error = await self.assertFailure(client.connect(), ConnectionGone)
        self.assertIn(url, error.message)
        await client.close()

    async def test_that_do_not_come_back(self) -> None:
        """A connection that is lost and stays lost ends what waits on it, after the time to give up."""
        client = await self.client(give_up_s=0.2)
        job = await client.submit(URL, 2)
        answered = self.farm.locks.call

        async def gone(command: Any) -> Any:
            await self.gateway.stop()
            return await answered(command)

        self.farm.locks.call = gone
        asked = client.status(job.id)
        error = await self.assertFailure(Deferred.fromCoroutine(rest(job)), ConnectionGone)
        self.assertIn(self.url, error.message)
        await self.assertFailure(asked, ConnectionGone)

    async def test_a_gateway_that_is_started_again(self) -> None:
        """A job goes on where its client finds a gateway again: another one, at the same address."""
        client = await self.client()
        job = await client.submit(URL, 2, STREAM)
        every = self.farm.pages(job.id, 300)
        replies = await until_seen(job, 300)
        await self.gateway.stop()
        listen = f"tcp:{self.url.rpartition(':')[2]}:interface=127.0.0.1"
        second = gateway(self.farm, replace(CONFIG, gateway_listen=listen))
        await second.start()
        self.addCleanup(second.stop)
        every += self.farm.pages(job.id, 300)
        self.farm.end(job.id)
        replies += await rest(job)
        self.assertEqual(urls(replies), every)
        self.assertEqual(len([reply for reply in replies if isinstance(reply, Terminal)]), 1)

    async def test_closing(self) -> None:
        """Who closes its client ends what waits on it, also twice, also at once."""
        client = await self.client()
        job = await client.submit(URL, 2)
        waiting = job.next()
        await gatherResults([client.close(), client.close()])
        await self.assertFailure(waiting, ConnectionGone)
        await self.assertFailure(job.next(), ConnectionGone)


class Rude(Protocol):
    """Answers like a web server that never heard of websockets."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
