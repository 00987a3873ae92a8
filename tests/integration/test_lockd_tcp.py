"""The lock daemon over TCP: connections that break, peers that lie, daemons that come and go."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from crawlfarm.adapters.lockd.client import LockdClient
from crawlfarm.config import Config
from crawlfarm.errors import BadInput, ConfigError, CrawlfarmError, Unavailable
from crawlfarm.wire import frames, lockd
from crawlfarm.wire.frames import FrameReader, encode_frame
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Progress
from lockd.protocol import Limits
from lockd.server import LockServer
from tests.support.locks import ServedLocks
from tests.support.proxy import TcpProxy
from tests.support.servers.base import free_ports

SPEC = JobSpec("http://a.example/", 2)
DEADLINE_S = 20.0


def register(job: str) -> lockd.Register:
    return lockd.Register(job, "c", job, f"body {job}", f"flight {job}", SPEC)


async def until(holds: Any) -> None:
    """Returns when it does."""
    end = reactor.seconds() + DEADLINE_S
    while not holds():
        assert reactor.seconds() < end, "it did not come about"
        await deferLater(reactor, 0.005)


class RawPeer(Protocol):
    """Says what a test wants; reads frames, as long as they are some."""

    def __init__(self) -> None:
        self.reader = FrameReader.of_client()
        self.frames: list[frames.ToClient] = []
        self.gone: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.reader.feed(data)
        while (frame := self.reader.next()) is not None:
            self.frames.append(frame)

    def connectionLost(self, reason: object = None) -> None:
        self.gone.callback(None)

    def send(self, *messages: frames.ToDaemon) -> None:
        self.transport.write(b"".join(encode_frame(message) for message in messages))

    def hello(self, session: str = "") -> None:
        self.send(frames.Hello(frames.PROTOCOL_VERSION, session or os.urandom(16).hex(), os.urandom(32)))

    @property
    def faults(self) -> list[frames.Fault]:
        return [frame for frame in self.frames if isinstance(frame, frames.Fault)]


class LocksCase(TestCase):
    timeout = 60

    async def serve(self, **options: Any) -> ServedLocks:
        served = ServedLocks(Path(self.mktemp()), **options)
        self.addCleanup(served.stop)
        await served.start()
        return served

    async def raw(self, served: ServedLocks, *, hello: bool = True) -> RawPeer:
        peer: RawPeer = await connectProtocol(clientFromString(reactor, served.address), RawPeer())

        def close() -> Deferred[None]:
            peer.transport.abortConnection()
            return peer.gone

        self.addCleanup(close)
        if hello:
            peer.hello()
            await until(lambda: any(isinstance(frame, frames.Welcome) for frame in peer.frames))
        return peer


class ReconnectTests(LocksCase):
    async def test_cut_again_and_again(self) -> None:
        """Connections cut amid pipelined commands lose none and have none decided twice."""
        served = await self.serve()
        proxy = TcpProxy.start(self, to=f"127.0.0.1:{served.port}")
        proxy.delay_s = 0.002
        client = served.client(self, f"tcp:127.0.0.1:{proxy.port}", give_up_s=DEADLINE_S)
        names = [f"j{n}" for n in range(600)]
        answered = 0

        def count(answer: Any) -> Any:
            nonlocal answered
            answered += 1
            if answered % 97 == 0:
                proxy.cut()
            return answer

        async def life(job: str) -> tuple[lockd.Answer, int]:
            registered = await client.call(register(job)).addCallback(count)
            self.assertEqual(registered, lockd.Registered(job, created=True, joined=False))
            granted = await client.call(lockd.Acquire("m", job)).addCallback(count)
            self.assertEqual(granted.job, job)
            done = await client.call(lockd.Complete("m", job, granted.token, "done")).addCallback(count)
            return done, granted.token

        async def lives(some: list[str]) -> list[tuple[lockd.Answer, int]]:
            return [await life(job) for job in some]

        found = await gatherResults([Deferred.fromCoroutine(lives(names[n::60])) for n in range(60)])
        ends = [end for some in found for end in some]
        self.assertEqual({done for done, _ in ends}, {lockd.Done(job) for job in names})
        self.assertEqual(len({token for _, token in ends}), len(names))
        self.assertEqual(len(served.daemon.decided), 3 * len(names))
        self.assertGreater(proxy.counts.accepted, 10)

    async def test_an_overdue_job_is_granted_once(self) -> None:
        """The answer that names another job than was asked for is not lost with its connection."""
        served = await self.serve()
        peer = await self.raw(served, hello=False)
        peer.hello("0123456789abcdef")
        peer.send(frames.Call(1, 0, register("j1")), frames.Call(2, 0, lockd.Acquire("m", "j1")))
        await until(lambda: len(peer.frames) >= 4)
        again = await self.raw(served, hello=False)
        again.hello("0123456789abcdef")
        again.send(frames.Call(2, 2, lockd.Acquire("m", "j1")), frames.Call(3, 2, lockd.Ask("j1", "c")))
        await until(lambda: len(again.frames) >= 4)
        self.assertEqual(again.frames[2], peer.frames[3])
        self.assertEqual(len(served.daemon.decided), 3)
        await peer.gone

    async def test_half_open(self) -> None:
        """A daemon that falls silent without a word is left for another address."""
        served = await self.serve()
        proxy = TcpProxy.start(self, to=f"127.0.0.1:{served.port}")
        client = served.client(
            self, f"tcp:127.0.0.1:{proxy.port}", served.address, give_up_s=DEADLINE_S, ping_s=0.1, silence_s=0.2
        )
        await client.connected()
        await client.call(register("j1"))
        proxy.hold()
        answers = await gatherResults([client.call(lockd.Acquire("m", "j1")), client.call(lockd.Ask("j1", "c"))])
        self.assertEqual([type(answer) for answer in answers], [lockd.Granted, lockd.JobView])

    async def test_a_slow_line(self) -> None:
        """What is slow is waited for."""
        served = await self.serve()
        proxy = TcpProxy.start(self, to=f"127.0.0.1:{served.port}")
        proxy.delay_s = 0.15
        client = served.client(self, f"tcp:127.0.0.1:{proxy.port}", give_up_s=DEADLINE_S, ping_s=0.1, silence_s=2)
        for n in range(3):
            self.assertTrue((await client.call(register(f"j{n}"))).created)
        self.assertEqual(proxy.counts.accepted, 1)

    async def test_stopped_and_back(self) -> None:
        """While the daemon is away calls fail in time, and say why; when it is back they do not."""
        served = await self.serve()
        client = served.client(self, give_up_s=0.5, heartbeat_s=0.3)
        await client.call(register("j1"))
        self.assertTrue(client.healthy)
        self.assertEqual(client.problem, "")
        await served.stop()
        before = reactor.seconds()
        with self.assertRaises(Unavailable) as caught:
            await client.call(lockd.Ask("j1", "c"))
        self.assertLess(reactor.seconds() - before, 5)
        self.assertIn(served.address, caught.exception.message)
        self.assertFalse(client.healthy)
        self.assertIn(served.address, client.problem)
        waiting = client.call(register("j2"))
        await served.start()
        self.assertEqual((await waiting).job, "j2")
        self.assertEqual((await client.call(lockd.Ask("j1", "c"))).state, "queued")

    async def test_stop_answers_first(self) -> None:
        """A daemon that stops answers what it was asked before."""
        served = await self.serve()
        client = served.client(self, give_up_s=2)
        await client.call(register("j0"))
        answers = [client.call(register(f"j{n}")) for n in range(300)]
        await until(lambda: len(served.daemon.decided) > 100)
        await served.stop()
        self.assertTrue(all(answer.called for answer in answers))
        await gatherResults(answers)

    async def test_client_stopped(self) -> None:
        """A client that is stopped fails what it owes, and takes nothing more."""
        served = await self.serve()
        client = served.client(self)
        await client.connected()
        for session in served.server._peers._sessions._sessions.values():
            self.patch(session, "_decide", Never().call)
        owed = client.call(lockd.Ask("j1", "c"))
        await client.stop()
        await self.assertFailure(owed, Unavailable)
        await self.assertFailure(client.call(lockd.Ask("j1", "c")), Unavailable)
        await self.assertFailure(client.connected(), Unavailable)
        await client.stop()

    async def test_cancelled_call(self) -> None:
        """Who does not want the answer any more is not in the way."""
        served = await self.serve()
        client = served.client(self)
        call = client.call(register("j1"))
        call.addErrback(lambda _: None)
        call.cancel()
        self.assertTrue((await client.call(register("j2"))).created)


def own_certificate(directory: Path) -> Path:
    """A key and a certificate of ``localhost`` for an hour, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    hour = datetime.timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - hour, now + hour)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    directory.mkdir()
    path = directory / "localhost.pem"
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()) + certificate.public_bytes(pem))
    return path


class Never:
    """Decides nothing."""

    def call(self, command: lockd.Command) -> Deferred[lockd.Answer]:
        return Deferred()

    def watch(self, master: str, notice: Any) -> Any:
        return lambda: None


class NotLeader(CrawlfarmError):
    code = "not_leader"

    def __init__(self, leader: str) -> None:
        super().__init__("another one leads")
        self.leader = leader


class Standby(Never):
    """Does not decide, and knows who does."""

    def __init__(self, leader: str) -> None:
        self.leader = leader
        self.asked = 0

    def call(self, command: lockd.Command) -> Deferred[lockd.Answer]:
        self.asked += 1
        return fail(NotLeader(self.leader))


class AddressTests(LocksCase):
    async def standby(self, leader: str = "") -> tuple[Standby, str]:
        decides = Standby(leader)
        server = LockServer(reactor, Config(lockd_listen="tcp:0:interface=127.0.0.1"), decides)
        await server.start()
        self.addCleanup(server.stop)
        return decides, server.endpoints[0]

    async def test_first_dead(self) -> None:
        """An address where nobody listens is passed over."""
        served = await self.serve()
        client = served.client(self, f"tcp:127.0.0.1:{free_ports(1)[0]}", served.address)
        self.assertTrue((await client.call(register("j1"))).created)

    async def test_first_mute(self) -> None:
        """So is one that takes connections and says nothing."""
        served = await self.serve()
        proxy = TcpProxy.start(self, to=f"127.0.0.1:{served.port}")
        proxy.hold()
        client = served.client(self, f"tcp:127.0.0.1:{proxy.port}", served.address)
        self.assertTrue((await client.call(register("j1"))).created)

    async def test_not_leader(self) -> None:
        """Who does not decide is left for who does: the one it names, or the next."""
        served = await self.serve()
        one, one_at = await self.standby(served.address)
        two, two_at = await self.standby()
        client = served.client(self, one_at, two_at, served.address)
        answers = await gatherResults([client.call(register(f"j{n}")) for n in range(20)])
        self.assertEqual({answer.created for answer in answers}, {True})
        self.assertGreater(one.asked, 0)
        self.assertEqual(two.asked, 0)
        other = served.client(self, two_at, served.address)
        self.assertTrue((await other.call(register("k"))).created)
        self.assertGreater(two.asked, 0)

    async def test_nobody_leads(self) -> None:
        """While nobody decides, calls fail in time and say so."""
        _, at = await self.standby()
        client = LockdClient(reactor, [at])
        self.addCleanup(client.stop)
        client.start()
        with self.assertRaises(Unavailable) as caught:
            await client.call(lockd.Heartbeat("m", "j", 1, Progress()))
        self.assertIn("another one leads", caught.exception.message)

    def test_no_address(self) -> None:
        """What is no endpoint is refused by the name of the setting."""
        for addresses in ((), ("x",), ("tcp:127.0.0.1",), ("tcp:127.0.0.1:http",), ("http://a:1",)):
            with self.assertRaises(ConfigError) as caught:
                LockdClient(reactor, addresses)
            self.assertIn("CRAWLFARM_LOCKD", str(caught.exception))


class CancelTests(LocksCase):
    async def test_pushed_after_a_reconnect(self) -> None:
        """A master hears of cancels on its next connection, too."""
        served = await self.serve()
        proxy = TcpProxy.start(self, to=f"127.0.0.1:{served.port}")
        master = served.client(self, f"tcp:127.0.0.1:{proxy.port}", give_up_s=DEADLINE_S)
        gateway = served.client(self)
        heard: Deferred[lockd.CancelWanted] = Deferred()
        self.addCleanup(master.watch("m", heard.callback))
        await gateway.call(register("j1"))
        token = (await master.call(lockd.Acquire("m", "j1"))).token
        proxy.cut()
        await until(lambda: proxy.counts.accepted == 2 and master.healthy)
        await master.call(lockd.Ask("j1", "c"))
        await gateway.call(lockd.CancelJob("j1", "c"))
        self.assertEqual((await heard).token, token)

    async def test_no_watcher_left(self) -> None:
        """A daemon keeps no watcher of a connection that is gone."""
        served = await self.serve()
        client = served.client(self)
        client.watch("m", lambda _: None)
        await client.call(register("j1"))
        self.assertEqual(list(served.daemon._watchers), ["m"])
        await client.stop()
        await until(lambda: not served.daemon._watchers)


class HostileTests(LocksCase):
    LIMITS = Limits(hello_s=0.3, ping_s=0.2, silence_s=0.5, closing_s=0.3, tick_s=0.05, outstanding=100)

    async def test_bad_frames_are_named(self) -> None:
        """What cannot be understood gets an error that names it, and the connection ends."""
        served = await self.serve(limits=self.LIMITS)
        good = encode_frame(frames.Call(1, 0, register("j1")))
        for data, code, words in (
            (b"GET / HTTP/1.1\r\n\r\n", "frame_version", "0x47"),
            (good[:1] + b"\xff" * 3, "too_long", "at most"),
            (good + good[:4] + b"\xc1" * (len(good) - 4), "bad_frame", "frame 3 "),
            (encode_frame(frames.Hello(1, "x" * 16, b"n" * 16)), "hello_twice", "second"),
            (b"".join(encode_frame(frames.Watch(f"m{n}")) for n in range(100)), "too_many", "64"),
        ):
            peer = await self.raw(served)
            peer.transport.write(data)
            await peer.gone
            self.assertEqual([fault.code for fault in peer.faults], [code])
            self.assertIn(words, peer.faults[0].message)
        for data, code in (
            (b"", "hello_timeout"),
            (b"\x01\0\0", "hello_timeout"),
            (good, "hello_wanted"),
            (encode_frame(frames.Hello(2, "x" * 16, b"n" * 16)), "version"),
            (good[:1] + b"\0\x10\0", "too_long"),
        ):
            peer = await self.raw(served, hello=False)
            peer.transport.write(data)
            await peer.gone
            self.assertEqual([fault.code for fault in peer.faults], [code])
        await until(lambda: served.server.connections == 0)

    async def test_they_cost_the_others_nothing(self) -> None:
        """Garbage, floods, dribblers, the deaf and 500 who say nothing: another one notices none."""
        served = await self.serve(limits=self.LIMITS)
        client = served.client(self, ping_s=0.1, silence_s=3, give_up_s=DEADLINE_S)
        await client.call(register("j0"))
        silent = [await self.raw(served, hello=False) for _ in range(500)]
        deaf, flooding, dribbling, garbage = [await self.raw(served) for _ in range(4)]
        deaf.transport.pauseProducing()
        number = 0

        def hurt() -> None:
            nonlocal number
            if not deaf.gone.called:
                number += 1
                deaf.send(*(frames.Call(number * 1000 + n, 0, lockd.Ask("j0", "c")) for n in range(500)))
            if not flooding.gone.called:
                number += 1
                flooding.send(*(frames.Call(number * 1000 + n, 0, lockd.Ask("j0", "c")) for n in range(500)))
            if not dribbling.gone.called:
                dribbling.transport.write(b"\x01\x01\0\0"[number % 4 : number % 4 + 1] if number < 4 else b"x")
            if not garbage.gone.called:
                garbage.transport.write(os.urandom(5000))

        slowest = 0.0
        for n in range(1, 60):
            hurt()
            before = reactor.seconds()
            await client.call(register(f"j{n}"))
            slowest = max(slowest, reactor.seconds() - before)
        self.assertLess(slowest, 2.0)
        self.assertTrue(client.healthy)
        for peer in (*silent, dribbling, garbage):
            await peer.gone
        self.assertFalse(flooding.gone.called)
        flooding.transport.abortConnection()
        await until(lambda: served.server.connections == 1)
        self.assertEqual((await client.call(lockd.Ask("j1", "c"))).state, "queued")

    async def test_too_many_connections(self) -> None:
        """Strangers beyond the limit push out the oldest of them; known ones stay."""
        served = await self.serve(limits=Limits(strangers=20, connections=40))
        client = served.client(self)
        await client.call(register("j1"))
        strangers = [await self.raw(served, hello=False) for _ in range(30)]
        for stranger in strangers[:10]:
            await stranger.gone
        self.assertEqual(served.server.connections, 21)
        self.assertTrue((await client.call(register("j2"))).created)

    async def test_pipelined_beyond_the_limit(self) -> None:
        """Who sends more than is taken at a time waits, and gets every answer."""
        served = await self.serve(limits=self.LIMITS)
        peer = await self.raw(served)
        peer.send(*(frames.Call(n, 0, register(f"j{n}")) for n in range(1, 2001)))
        await until(lambda: len([f for f in peer.frames if isinstance(f, frames.Answered)]) == 2000)
        self.assertEqual(peer.faults, [])

    async def test_what_cannot_be_kept(self) -> None:
        """A text that a database would not take fails its own command, nothing else."""
        served = await self.serve()
        client = served.client(self)
        with self.assertRaises(BadInput):
            await client.call(register("j\0"))
        with self.assertRaises(BadInput):
            await client.call(register("j" * frames.MAX_FRAME_BYTES))
        self.assertTrue((await client.call(register("j1"))).created)

    async def test_a_defect(self) -> None:
        """A command that breaks the daemon fails alone, without what broke it."""
        served = await self.serve()
        client = served.client(self)
        self.patch(served.daemon._table, "apply", lambda *_: 1 / 0)
        with self.assertRaises(CrawlfarmError) as caught:
            await client.call(register("j1"))
        self.assertEqual(caught.exception.code, "internal")
        self.assertNotIn("division", caught.exception.message)
        self.assertGreater(len(self.flushLoggedErrors(ZeroDivisionError)), 0)


class SecretTests(LocksCase):
    SECRET = "a secret of the test"

    async def refused(self, client: LockdClient, words: str) -> None:
        with self.assertRaises(ConfigError) as caught:
            await client.connected()
        text = str(caught.exception)
        self.assertIn("CRAWLFARM_LOCKD_SECRET_FILE", text)
        self.assertIn(words, text)
        self.assertNotIn(self.SECRET, text)
        with self.assertRaises(Unavailable) as away:
            await client.call(lockd.Ask("j", "c"))
        self.assertIn("CRAWLFARM_LOCKD_SECRET_FILE", away.exception.message)

    async def test_shared(self) -> None:
        """Who shares the secret is let in."""
        served = await self.serve(secret=self.SECRET)
        self.assertTrue((await served.client(self).call(register("j1"))).created)

    async def test_not_shared(self) -> None:
        """Another secret, none, and one on the client's side alone are told apart."""
        served = await self.serve(secret=self.SECRET)
        await self.refused(served.client(self, secret="another secret", give_up_s=0.3), "another secret")
        await self.refused(served.client(self, secret="", give_up_s=0.3), "wants a secret")
        open_to_all = await self.serve()
        await self.refused(open_to_all.client(self, secret=self.SECRET, give_up_s=0.3), "has no secret")
        self.assertEqual(served.daemon.decided, [])

    async def test_a_peer_without_proof(self) -> None:
        """The daemon lets nobody in whose proof is wrong, or is another connection's."""
        served = await self.serve(secret=self.SECRET)
        first, second = [await self.raw(served, hello=False) for _ in range(2)]
        await until(lambda: first.frames and second.frames)
        proof = frames.proof(self.SECRET, "client", first.frames[0].nonce, b"n" * 16)
        for peer in (second, first):
            peer.send(frames.Hello(1, "s" * 16, b"n" * 16, proof), frames.Call(1, 0, lockd.Ask("j", "c")))
        await until(lambda: len(first.frames) == 3)
        await second.gone
        self.assertEqual([fault.code for fault in second.faults], ["secret"])
        self.assertEqual(len(served.daemon.decided), 1)

    async def test_another_daemon(self) -> None:
        """Who answers as the daemon without knowing the secret is found out."""
        from twisted.internet.protocol import Factory

        class Impostor(Protocol):
            def connectionMade(self) -> None:
                self.transport.write(encode_frame(frames.Greeting(1, b"n" * 32, True)))

            def dataReceived(self, data: bytes) -> None:
                self.transport.write(encode_frame(frames.Welcome(b"p" * 32)))

        port = reactor.listenTCP(0, Factory.forProtocol(Impostor), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        client = LockdClient(reactor, [f"tcp:127.0.0.1:{port.getHost().port}"], secret=self.SECRET)
        self.addCleanup(client.stop)
        client.start()
        with self.assertRaises(ConfigError) as caught:
            await client.connected()
        self.assertIn("is not ours", str(caught.exception))


class ListenTests(LocksCase):
    async def listen(self, where: str, secret: str = "") -> LockServer:
        server = LockServer(reactor, Config(lockd_listen=where, lockd_secret=secret), Never())
        await server.start()
        self.addCleanup(server.stop)
        return server

    async def refused(self, where: str) -> str:
        with self.assertRaises(ConfigError) as caught:
            await self.listen(where)
        text = str(caught.exception)
        self.assertIn("CRAWLFARM_LOCKD_LISTEN", text)
        return text

    async def test_open_to_others(self) -> None:
        """Other machines are let in with a secret only."""
        self.assertIn("CRAWLFARM_LOCKD_SECRET_FILE", await self.refused("tcp:0"))
        self.assertIn("CRAWLFARM_LOCKD_SECRET_FILE", await self.refused("tcp:0:interface=0.0.0.0"))
        await self.listen("tcp:0", "a secret of the test")

    async def test_what_cannot_be_had(self) -> None:
        """A port that is taken, and what is no endpoint, are told."""
        server = await self.listen("tcp:0:interface=127.0.0.1")
        port = server.endpoints[0].rpartition(":")[2]
        self.assertIn("in use", await self.refused(f"tcp:{port}:interface=127.0.0.1"))
        for where in ("x", "tcp:http", "ssl:0:privateKey=/nowhere"):
            self.assertIn(where, await self.refused(where))

    async def test_tls(self) -> None:
        """TLS is a word in the endpoint; a client that does not trust the daemon says so."""
        directory = Path(self.mktemp())
        pem = own_certificate(directory)
        server = await self.listen(f"ssl:0:interface=127.0.0.1:privateKey={pem}:certKey={pem}")
        port = server.endpoints[0].rpartition(":")[2]
        self.assertEqual(server.endpoints, [f"tls:127.0.0.1:{port}"])
        for roots, secret in ((f":trustRoots={directory}", ""), ("", ""), (f":trustRoots={directory}", "a secret")):
            client = LockdClient(reactor, [f"tls:localhost:{port}{roots}:bindAddress=127.0.0.1"], secret=secret)
            self.addCleanup(client.stop)
            client.start()
            if not roots:
                with self.assertRaises(Unavailable) as caught:
                    await client.call(lockd.Heartbeat("m", "j", 1, Progress()))
                self.assertIn("certificate", caught.exception.message)
            elif secret:
                await self.assertFailure(client.connected(), ConfigError)
            else:
                await client.connected()
        self.flushWarnings()  # Twisted's, about pyOpenSSL

    async def test_unix(self) -> None:
        """A socket in the file system is this machine's own."""
        path = f"/tmp/lockd-test-{os.getpid()}.sock"
        server = await self.listen(f"unix:{path}")
        client = LockdClient(reactor, server.endpoints)
        self.addCleanup(client.stop)
        client.start()
        await client.connected()
