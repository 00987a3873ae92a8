"""What RabbitMQ refuses, and what an operator is told about it; what is declared and exported."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from crawlfarm.adapters.rabbit.topology import Names, definitions, farm
from crawlfarm.errors import ConfigError, Unavailable
from crawlfarm.wire.queue import JobEnded, JobQueued
from tests.support.brokers import JOBS, RabbitCase, on_channel, private_server, until, until_counted
from tests.support.proxy import TcpProxy
from tests.support.servers import RabbitServer, rabbitmq_server
from tests.support.servers.base import HOST, free_ports


class RefusedTests(RabbitCase):
    """What an operator did wrong is said at the start, by the variable's name and without the password."""

    async def test_wrong_password(self) -> None:
        url = rabbitmq_server().fresh_vhost(self)
        password = urlsplit(url).password
        assert password is not None
        await self.refused(self.queue(url.replace(password, "wr0ng")), ConfigError, "user name or password")
        for line in self.logged:
            self.assertNotIn("wr0ng", line)
            self.assertNotIn(password, line)

    async def test_wrong_vhost(self) -> None:
        url = urlsplit(rabbitmq_server().fresh_vhost(self))._replace(path="/nowhere").geturl()
        await self.refused(self.queue(url), ConfigError, "no virtual host 'nowhere'")

    async def test_no_entry(self) -> None:
        mine, theirs = rabbitmq_server().fresh_vhost(self), rabbitmq_server().fresh_vhost(self)
        url = urlsplit(mine)._replace(path=urlsplit(theirs).path).geturl()
        await self.refused(self.queue(url), ConfigError, "may not enter")

    async def test_missing_rights(self) -> None:
        """Each of the three rights, on the farm's names, is enough; without one the refusal names it."""
        server = private_server()
        url = server.fresh_vhost(self)
        ours = r"^crawlfarm\."
        server.permit(url, configure="^$", write=ours, read=ours)
        await self.refused(self.queue(url), ConfigError, "right on exchange 'crawlfarm.jobs'")
        server.permit(url, configure=ours, write="^$", read=ours)
        await self.refused(self.queue(url), ConfigError, "right on ", "'crawlfarm.")
        server.permit(url, configure=ours, write=ours, read="^$")
        await self.refused(self.queue(url, listener=True), ConfigError, "right on ", "'crawlfarm.")
        server.permit(url, configure=ours, write=ours, read=ours)
        queue = await self.started(url, listener=True)
        got, _ = self.consumer(queue)
        await queue.publish(JobQueued("j1"))
        await queue.publish_ended(JobEnded("j1"))
        await got.count(1)

    async def test_only_publishing_is_refused(self) -> None:
        """With everything declared beforehand, a missing right to publish is still noticed at the start."""
        server = private_server()
        url = server.fresh_vhost(self)
        queue = await self.started(url)
        await queue.stop()
        server.permit(url, write=r"^crawlfarm\.(dead|ended)|^crawlfarm\.jobs-no$")
        await self.refused(self.queue(url), ConfigError, "right on ", "'crawlfarm.jobs'")

    async def test_other_queue_there(self) -> None:
        """A classic queue in the place of the quorum queue is refused, not used."""
        url = rabbitmq_server().fresh_vhost(self)
        await deferToThread(on_channel, url, lambda c: c.queue_declare(JOBS, durable=True))
        await self.refused(self.queue(url), ConfigError, "other arguments", "'crawlfarm.jobs'")

    async def test_unknown_host(self) -> None:
        """It is tried again until the deadline: names may come to be known."""
        url = "amqp://who:hush@queue.invalid/"
        await self.refused(self.queue(url), Unavailable, "'queue.invalid' is not known", deadline_s=1)
        self.assertFalse([line for line in self.logged if "hush" in line])

    async def test_unreachable(self) -> None:
        """After the deadline it is still tried, and begins when the server is there."""
        url = rabbitmq_server().fresh_vhost(self)
        proxy = TcpProxy.start(self, to=url)
        await proxy.refuse()
        queue = self.queue(proxy.through(url))
        await self.refused(queue, Unavailable, "cannot be reached", deadline_s=2)
        self.assertFalse(queue.ready)
        self.assertIn("cannot be reached", queue.trouble)
        proxy.listen()
        await until(lambda: queue.ready)
        await queue.publish(JobQueued("j1"))

    async def test_not_rabbitmq(self) -> None:
        """Somebody else at that port is said to be that."""

        class Shout(Protocol):
            def connectionMade(self) -> None:
                assert self.transport is not None
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                self.transport.loseConnection()

        factory = Factory.forProtocol(Shout)
        factory.noisy = False
        port = await TCP4ServerEndpoint(reactor, 0, interface=HOST).listen(factory)
        self.addCleanup(port.stopListening)
        queue = self.queue(f"amqp://{HOST}:{port.getHost().port}")
        await self.assertFailure(queue.start(0.5), Unavailable)
        self.assertIn("AMQP", queue.trouble)

    async def test_stopped_while_it_tries(self) -> None:
        """A stop ends the trying, whatever it waits for."""
        url = rabbitmq_server().fresh_vhost(self)
        proxy = TcpProxy.start(self, to=url)
        proxy.hold()
        queue = self.queue(proxy.through(url))
        starting = queue.start()
        await until(lambda: proxy.counts.accepted == 1)
        await queue.stop()
        await self.assertFailure(starting, Unavailable)
        await until(lambda: proxy.counts.open == 0)

    async def test_leaves_in_good_order(self) -> None:
        """A stop is a farewell: what is held goes back, and the server has nothing to complain of."""
        server = private_server()
        url = server.fresh_vhost(self)
        queue = await self.started(url, listener=True)
        got, _ = self.consumer(queue)
        await queue.publish(JobQueued("j1"))
        await got.count(1)
        before = len(server.log())
        await queue.stop()
        await deferToThread(until_counted, url, JOBS, ready=1, consumers=0)
        said = server.log()[before:]
        self.assertNotIn("unexpectedly", said)
        self.assertNotIn("[error]", said)
        await self.assertFailure(queue.publish(JobQueued("j2")), Unavailable)

    async def test_rights_taken_away(self) -> None:
        """A right that is taken and given back while it runs is waited for, in a few lines of log."""
        server = private_server()
        url = server.fresh_vhost(self)
        queue = await self.started(url)
        got, _ = self.consumer(queue)
        await deferToThread(until_counted, url, JOBS, consumers=1)
        server.permit(url, read="^$")
        server.close_connections(url)
        await until(lambda: "sufficient right" in queue.trouble)
        server.permit(url)
        await until(lambda: queue.ready)
        await queue.publish(JobQueued("j1"))
        await got.count(1)
        self.assertLess(len(self.logged), 30)


class TlsTests(RabbitCase):
    async def test_amqps(self) -> None:
        """``amqps://`` checks the server's certificate against the authorities of this machine."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        certificate(folder)
        (port,) = free_ports(1)
        config = [f"listeners.ssl.local = {HOST}:{port}"]
        config += [f"ssl_options.{name} = {folder}/{name}" for name in ("certfile", "keyfile", "cacertfile")]
        server = await deferToThread(RabbitServer.start, config=config)
        self.addCleanup(deferToThread, server.stop)
        parts = urlsplit(server.fresh_vhost())
        netloc = parts.netloc.rpartition("@")[0] + f"@localhost:{port}"
        url = parts._replace(scheme="amqps", netloc=netloc).geturl()
        await self.refused(self.queue(url), ConfigError, "certificate", "SSL_CERT_FILE")
        before = os.environ.get("SSL_CERT_FILE")

        def restore() -> None:
            os.environ.pop("SSL_CERT_FILE")
            if before is not None:
                os.environ["SSL_CERT_FILE"] = before

        self.addCleanup(restore)
        os.environ["SSL_CERT_FILE"] = str(folder / "cacertfile")
        queue = await self.started(url)
        await queue.publish(JobQueued("j1"))
        await queue.stop()


def certificate(folder: Path) -> None:
    """A certificate for ``localhost``, its own authority, as ``certfile``, ``keyfile`` and ``cacertfile``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    (folder / "certfile").write_bytes(pem)
    (folder / "cacertfile").write_bytes(pem)
    (folder / "keyfile").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


class DefinitionsTests(RabbitCase):
    async def test_what_is_exported_is_what_is_declared(self) -> None:
        """The server's own export of what a process declared is ours, and importing ours agrees with it."""
        server = private_server()
        url = server.fresh_vhost(self)
        vhost = urlsplit(url).path[1:]
        ours = definitions(farm(Names()), vhost)
        queue = await self.started(url)
        path = server.folder / "export.json"
        await deferToThread(server.ctl, "export_definitions", str(path))
        theirs = json.loads(path.read_text())
        for kind in ("exchanges", "queues", "bindings"):
            found = [thing for thing in theirs[kind] if thing["vhost"] == vhost]
            self.assertEqual(sorted(map(_canonical, found)), sorted(map(_canonical, ours[kind])), kind)
        await queue.stop()

        fresh = server.fresh_vhost(self)
        path = server.folder / "import.json"
        path.write_text(json.dumps(definitions(farm(Names()), urlsplit(fresh).path[1:])))
        await deferToThread(server.ctl, "import_definitions", str(path))
        await deferToThread(until_counted, fresh, JOBS, ready=0)
        again = await self.started(fresh)
        await again.publish(JobQueued("j1"))


def _canonical(thing: dict[str, Any]) -> str:
    return json.dumps(thing, sort_keys=True)
