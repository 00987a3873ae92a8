"""The lock daemon on the network: who is let in, and what those cost who should not be there."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

from crawlfarm.adapters.lockd.client import LockdClient
from crawlfarm.config import Config
from crawlfarm.errors import BadInput, ConfigError, CrawlfarmError, Unavailable
from crawlfarm.wire import frames, lockd
from crawlfarm.wire.frames import encode_frame
from crawlfarm.wire.pages import Progress
from lockd.protocol import Limits
from lockd.server import LockServer
from tests.support.lockpeers import DEADLINE_S, LocksCase, Never, register, until


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
        flooding.polite = True
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
        # Relative: the way here may be longer than the name of a socket can be.
        server = await self.listen("unix:lockd.sock")
        client = LockdClient(reactor, server.endpoints)
        self.addCleanup(client.stop)
        client.start()
        await client.connected()
