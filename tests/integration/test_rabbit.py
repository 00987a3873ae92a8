"""Jobs on their way to a real RabbitMQ: what is confirmed arrives, what is not is said at once."""

from __future__ import annotations

import time

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from crawlfarm.adapters.rabbit import publishing
from crawlfarm.adapters.rabbit.broker import Broker
from crawlfarm.adapters.rabbit.connection import Link
from crawlfarm.adapters.rabbit.publishing import Publisher
from crawlfarm.adapters.rabbit.topology import Names
from crawlfarm.errors import Unavailable
from crawlfarm.wire.codec import pack
from crawlfarm.wire.queue import JobQueued
from tests.support.brokers import JOBS, SOON, RabbitCase, on_channel, private_server, until, until_counted
from tests.support.proxy import TcpProxy
from tests.support.servers import RabbitServer, rabbitmq_server
from tests.support.servers.base import HOST, free_ports


class PublishTests(RabbitCase):
    async def test_many_in_flight(self) -> None:
        """Hundreds of jobs are on their way at once, and each arrives."""
        queue = await self.started(rabbitmq_server().fresh_vhost(self), prefetch=50)
        got = self.taker(queue)
        sent = [queue.publish(JobQueued(f"j{n}")) for n in range(500)]
        for each in sent:
            await each
        await until(lambda: len(got) == 500)

    async def test_messages_are_kept(self) -> None:
        """A job is persistent, in a durable quorum queue."""
        url = rabbitmq_server().fresh_vhost(self)
        queue = await self.started(url)
        await queue.publish(JobQueued("j1"))
        _, properties, body = await deferToThread(on_channel, url, lambda c: c.basic_get(JOBS))
        self.assertEqual((properties.delivery_mode, properties.content_type), (2, "application/msgpack"))
        self.assertEqual(body, pack(JobQueued("j1")))

    async def test_deleted_queue(self) -> None:
        """A job that no queue took is not confirmed; the queue is declared again, and its consumers are back."""
        url = private_server().fresh_vhost(self)
        queue, other = await self.started(url), await self.started(url)
        got = self.taker(queue)
        await deferToThread(until_counted, url, JOBS, consumers=1)
        private_server().delete_queue(url, JOBS)
        sent = await DeferredList([other.publish(JobQueued(f"j{n}")) for n in range(50)], consumeErrors=True)
        for taken, how in sent:
            self.assertTrue(taken or how.check(Unavailable), how)
        await other.publish(JobQueued("found"))
        confirmed = {f"j{n}" for n, (taken, _) in enumerate(sent) if taken} | {"found"}
        self.assertLess(len(confirmed), 51)
        await until(lambda: confirmed <= got)

    async def test_deleted_exchange(self) -> None:
        """A deleted exchange heals as well."""
        url = rabbitmq_server().fresh_vhost(self)
        queue = await self.started(url)
        await deferToThread(on_channel, url, lambda c: c.exchange_delete(JOBS))
        await self.assertFailure(queue.publish(JobQueued("j1")), Unavailable)
        await until(lambda: queue.ready)
        await queue.publish(JobQueued("j2"))

    async def test_the_one_that_came_back(self) -> None:
        """Of many messages in flight, those without a queue fail, and no other."""
        url = rabbitmq_server().fresh_vhost(self)
        link: Link[Publisher] = Link(
            reactor, Broker.at(url), "a test", lambda c: Publisher.open(reactor, c, Names()), SOON
        )
        link.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(link.stop()))
        await link.connected()
        assert link.session is not None
        send = link.session.send
        keys = [JOBS if n % 3 else "nowhere" for n in range(300)]
        sent = [Deferred.fromCoroutine(send(JOBS, key, b"x", persistent=True, mandatory=True)) for key in keys]
        outcomes = await DeferredList(sent, consumeErrors=True)
        self.assertEqual([taken for taken, _ in outcomes], [key == JOBS for key in keys])
        await deferToThread(until_counted, url, JOBS, ready=200)

    async def test_blocked(self) -> None:
        """A server short of memory is ``Unavailable`` at once, acks still pass, and it recovers by itself."""
        server = private_server()
        url = server.fresh_vhost(self)
        queue = await self.started(url)
        got, cancel = self.consumer(queue)
        await queue.publish(JobQueued("j1"))
        await got.count(1)
        self.addCleanup(server.memory_alarm, False)
        server.memory_alarm(True)
        while queue.ready:  # it tells whoever publishes; what was on its way may still be confirmed
            await DeferredList([queue.publish(JobQueued("early"))], consumeErrors=True)
        began = time.monotonic()
        busy = await self.assertFailure(queue.publish(JobQueued("j2")), Unavailable)
        self.assertLess(time.monotonic() - began, 1)
        self.assertIn("short of memory", str(busy))
        self.assertIn("short of memory", queue.trouble)
        self.assertGreaterEqual(busy.retry_after_s, 1)
        cancel()
        got.all[0].ack()
        server.memory_alarm(False)
        await until(lambda: queue.ready)
        await queue.publish(JobQueued("j3"))
        jobs = self.taker(queue)
        await until(lambda: "j3" in jobs)
        self.assertNotIn("j1", jobs)

    async def test_started_while_blocked(self) -> None:
        """A process that starts meanwhile starts, and says what it waits for."""
        server = private_server()
        url = server.fresh_vhost(self)
        self.addCleanup(server.memory_alarm, False)
        server.memory_alarm(True)
        queue = await self.started(url)
        while queue.ready:
            await DeferredList([queue.publish(JobQueued("early"))], consumeErrors=True)
        self.assertIn("short of memory", queue.trouble)
        server.memory_alarm(False)
        await until(lambda: queue.ready)
        await queue.publish(JobQueued("j2"))

    async def test_silence(self) -> None:
        """A server that does not answer any more is ``Unavailable`` after the limit; then all goes on."""
        self.patch(publishing, "CONFIRM_S", 0.3)
        url = rabbitmq_server().fresh_vhost(self)
        proxy = TcpProxy.start(self, to=url)
        queue = await self.started(proxy.through(url))
        proxy.hold()
        sent = [queue.publish(JobQueued("j1")) for _ in range(5)]
        for each in sent:
            await self.assertFailure(each, Unavailable)
        await self.assertFailure(queue.publish(JobQueued("j1")), Unavailable)
        proxy.resume()
        await until(lambda: queue.ready)
        await queue.publish(JobQueued("j2"))

    async def test_no_endless_turn(self) -> None:
        """Who tries again at once, whatever happens, does not keep the reactor from going on."""
        queue = self.queue(f"amqp://{HOST}:{free_ports(1)[0]}")
        for _ in range(100):
            await self.assertFailure(queue.publish(JobQueued("j1")), Unavailable)


class RestartTests(RabbitCase):
    timeout = 240

    async def test_restarted_and_killed(self) -> None:
        """Across a restart and a kill, while many publish: every confirmed job is delivered."""
        server = await deferToThread(RabbitServer.start)
        self.addCleanup(deferToThread, server.stop)
        url = server.fresh_vhost()
        queue = await self.started(url, prefetch=20)
        taken = self.taker(queue)
        confirmed: set[str] = set()
        refused = 0
        going = True

        async def publish(who: int) -> None:
            nonlocal refused
            number = 0
            while going:
                try:
                    await queue.publish(JobQueued(f"{who}.{number}"))
                except Unavailable as e:
                    refused += 1
                    await deferLater(reactor, min(e.retry_after_s, 0.05))
                else:
                    confirmed.add(f"{who}.{number}")
                    number += 1

        sending = [Deferred.fromCoroutine(publish(n)) for n in range(8)]
        for kill in (False, True):
            before = len(confirmed)
            await until(lambda before=before: len(confirmed) > before + 200)
            await deferToThread(server.restart, kill=kill)
            before = len(confirmed)
            await until(lambda before=before: queue.ready and len(confirmed) > before + 200)
        going = False
        await DeferredList(sending)
        await until(lambda: confirmed <= taken)
        self.assertGreater(refused, 0)
        self.assertLess(len(self.logged), 200)
        await queue.stop()
