"""The job queue over a real RabbitMQ: faults, refusals, and what must not be lost."""

from __future__ import annotations

import json
import time
from typing import Any
from unittest import SkipTest
from urllib.parse import urlsplit

import pika
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from crawlfarm.adapters.rabbit import consuming, publishing
from crawlfarm.adapters.rabbit.broker import VARIABLE, Broker
from crawlfarm.adapters.rabbit.connection import Link
from crawlfarm.adapters.rabbit.publishing import Publisher
from crawlfarm.adapters.rabbit.queue import RabbitQueue
from crawlfarm.adapters.rabbit.topology import Names, definitions, farm
from crawlfarm.core.backoff import Backoff
from crawlfarm.core.ports import Delivery
from crawlfarm.errors import ConfigError, Unavailable
from crawlfarm.wire.codec import pack
from crawlfarm.wire.queue import JobEnded, JobQueued
from tests.contracts.test_queue import Arrivals
from tests.support.brokers import on_channel, until_counted
from tests.support.proxy import TcpProxy
from tests.support.servers import RabbitServer, rabbitmq_server
from tests.support.servers.base import HOST, free_ports

JOBS, DEAD = "crawlfarm.jobs", "crawlfarm.dead"
SOON = Backoff(0.02, 0.2)


def private_server() -> RabbitServer:
    """The test run's server, to do things to."""
    server = rabbitmq_server()
    if not isinstance(server, RabbitServer):
        raise SkipTest("the server is somebody else's")
    return server


async def until(holds: Any, deadline_s: float = 20.0) -> None:
    """Returns when ``holds()`` is true; it is asked in the turns of the reactor."""
    end = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end:
            raise AssertionError("did not happen")
        await deferLater(reactor, 0.005)


class RabbitCase(TestCase):
    timeout = 40

    def setUp(self) -> None:
        self.logged: list[str] = []

        def observe(event: Any) -> None:
            self.logged.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def queue(self, url: str, **options: Any) -> RabbitQueue:
        """One process's queue; it is stopped after the test."""
        queue = RabbitQueue(reactor, url, **{"backoff": SOON, **options})
        self.addCleanup(queue.stop)
        return queue

    async def started(self, url: str, **options: Any) -> RabbitQueue:
        queue = self.queue(url, **options)
        await queue.start(20)
        return queue

    def consumer(self, queue: RabbitQueue) -> tuple[Arrivals[Delivery], Any]:
        got: Arrivals[Delivery] = Arrivals()
        cancel = queue.consume(got)
        self.addCleanup(cancel)
        return got, cancel

    def taker(self, queue: RabbitQueue) -> set[str]:
        """The jobs that a consumer takes, one after the other."""
        taken: set[str] = set()

        def take(delivery: Delivery) -> None:
            taken.add(delivery.message.job)
            delivery.ack()

        self.addCleanup(queue.consume(take))
        return taken

    async def refused(self, queue: RabbitQueue, kind: type[Exception], *words: str, deadline_s: float = 20.0) -> None:
        """``start`` fails so; neither it nor the log holds the password."""
        wrong = await self.assertFailure(queue.start(deadline_s), kind)
        for word in (VARIABLE, *words):
            self.assertIn(word, str(wrong))
        self.assertTrue(any(str(wrong) in line or words[0] in line for line in self.logged), self.logged)


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
        began = time.monotonic()
        # The server tells whoever publishes; what was on its way may still be confirmed.
        await DeferredList([queue.publish(JobQueued(f"e{n}")) for n in range(3)], consumeErrors=True)
        await until(lambda: not queue.ready, 5)
        busy = await self.assertFailure(queue.publish(JobQueued("j2")), Unavailable)
        self.assertLess(time.monotonic() - began, 4)
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
        await DeferredList([queue.publish(JobQueued("j1"))], consumeErrors=True)
        await until(lambda: "short of memory" in queue.trouble)
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


class ConsumeTests(RabbitCase):
    async def test_two_processes(self) -> None:
        """Two processes share the jobs; one given back by the one goes to the other."""
        server = private_server()
        url = server.fresh_vhost(self)
        first, second = await self.started(url), await self.started(url)
        one, _ = self.consumer(first)
        two, _ = self.consumer(second)
        await deferToThread(until_counted, url, JOBS, consumers=2)
        await first.publish(JobQueued("j1"))
        await second.publish(JobQueued("j2"))
        await one.count(1)
        await two.count(1)
        self.assertEqual({one.all[0].message.job, two.all[0].message.job}, {"j1", "j2"})
        two.all[0].ack()
        await until(lambda: server.messages(url, JOBS) == 1)
        one.all[0].requeue()
        await two.count(2)
        self.assertEqual(two.all[1].message, one.all[0].message)
        self.assertEqual(len(one.all), 1)

    async def test_holds_no_more_than_it_takes(self) -> None:
        """A consumer that holds a job is given no second one: others find it waiting."""
        url = rabbitmq_server().fresh_vhost(self)
        queue = await self.started(url)
        got, _ = self.consumer(queue)
        for n in range(3):
            await queue.publish(JobQueued(f"j{n}"))
        await got.count(1)
        await deferToThread(until_counted, url, JOBS, ready=2, consumers=1)
        self.assertEqual(len(got.all), 1)

    async def test_cancel_leaves_nothing(self) -> None:
        """A consumer that cancels within a delivery gets nothing more; what it does not settle waits again."""
        url = rabbitmq_server().fresh_vhost(self)
        queue = await self.started(url, prefetch=10)
        for n in range(20):
            await queue.publish(JobQueued(f"j{n}"))
        got: list[Delivery] = []

        def take(delivery: Delivery) -> None:
            got.append(delivery)
            if len(got) == 3:
                got[0].ack()
                got[1].requeue()
                cancel()

        cancel = queue.consume(take)
        await deferToThread(until_counted, url, JOBS, ready=19, consumers=0)
        self.assertEqual(len(got), 3)
        got[2].ack()  # too late, and harmless
        got[2].requeue()
        await deferToThread(until_counted, url, JOBS, ready=19, consumers=0)

    async def test_taken_after_the_cancel(self) -> None:
        """A consumer that cancels because it takes this very job may ack it a moment later."""
        url = rabbitmq_server().fresh_vhost(self)
        queue = await self.started(url)
        got, cancel = self.consumer(queue)
        await queue.publish(JobQueued("j1"))
        await got.count(1)
        cancel()
        await queue.publish(JobQueued("j2"))
        got.all[0].ack()
        await deferToThread(until_counted, url, JOBS, ready=1, consumers=0)
        await queue.stop()
        await deferToThread(until_counted, url, JOBS, ready=1, consumers=0)

    async def test_cancelled_before_it_began(self) -> None:
        """Consumers come and go as fast as they like; none is left behind."""
        url = rabbitmq_server().fresh_vhost(self)
        queue = await self.started(url)
        queue.consume(self.fail)()
        got, _ = self.consumer(queue)
        for _ in range(50):
            queue.consume(self.fail)()
        await queue.publish(JobQueued("j1"))
        await got.count(1)
        await deferToThread(until_counted, url, JOBS, ready=0, consumers=1)

    async def test_no_spinning(self) -> None:
        """A job that everybody gives back goes round slowly."""
        queue = await self.started(rabbitmq_server().fresh_vhost(self))
        got: list[float] = []

        def decline(delivery: Delivery) -> None:
            got.append(time.monotonic())
            delivery.requeue()

        self.addCleanup(queue.consume(decline))
        await queue.publish(JobQueued("j1"))
        await until(lambda: len(got) >= 6)
        self.assertGreater(got[5] - got[1], 3 * consuming.RETURN_S)

    async def test_settled_once(self) -> None:
        """Whatever is said of a delivery after it was settled is not heard."""
        url = rabbitmq_server().fresh_vhost(self)
        queue = await self.started(url)
        got, _ = self.consumer(queue)
        await queue.publish(JobQueued("j1"))
        await got.count(1)
        got.all[0].ack()
        got.all[0].ack()
        got.all[0].requeue()
        await queue.publish(JobQueued("j2"))
        await got.count(2)
        self.assertEqual([d.message.job for d in got.all], ["j1", "j2"])

    async def test_malformed(self) -> None:
        """What nobody can read is put aside and logged, and the jobs behind it arrive."""
        server = private_server()
        url = server.fresh_vhost(self)
        queue = await self.started(url)
        bad = [
            b"",
            b"\xff\xff",
            b"[" * 100_000,
            b"\x81\xa3job\xa1\xff",
            pack({"job": 7}),
            pack({"job": "j", "version": 2}),
            pack(["j1", 1]),
            json.dumps({"job": "j1"}).encode(),
        ]
        as_json = pika.BasicProperties(content_type="application/json")

        def publish(channel: Any) -> None:
            for body in bad:
                channel.basic_publish(JOBS, JOBS, body)
            channel.basic_publish(JOBS, JOBS, b'{"job": ', as_json)
            channel.basic_publish(JOBS, JOBS, b'{"job": "json", "more": 1}', as_json)

        await deferToThread(on_channel, url, publish)
        await queue.publish(JobQueued("good"))
        got, _ = self.consumer(queue)
        await got.count(1)
        got.all[0].ack()
        await got.count(2)
        self.assertEqual([d.message.job for d in got.all], ["json", "good"])
        await deferToThread(until_counted, url, DEAD, ready=len(bad) + 1)
        self.assertEqual(sum(DEAD in line for line in self.logged), len(bad) + 1)

    async def test_lost_by_the_server(self) -> None:
        """A consumer that was not told of its queue's end (it was there again at once) is back after a while."""
        self.patch(consuming, "RENEW_S", 1.0)
        url = rabbitmq_server().fresh_vhost(self)
        queue = await self.started(url, listener=True)
        got = self.taker(queue)
        await deferToThread(until_counted, url, JOBS, consumers=1)
        jobs = farm(Names()).queues[0]

        def make_anew(channel: Any) -> None:
            channel.queue_delete(JOBS)
            channel.queue_declare(JOBS, durable=True, arguments=dict(jobs.arguments))
            channel.queue_bind(JOBS, JOBS, JOBS)

        await deferToThread(on_channel, url, make_anew)
        await queue.publish(JobQueued("j1"))
        await until(lambda: "j1" in got)
        self.assertFalse([line for line in self.logged if "not there" in line and "deleted" not in line])

    async def test_cut(self) -> None:
        """A lost connection voids what is held; consumers are back by themselves, and so is the job."""
        url = rabbitmq_server().fresh_vhost(self)
        proxy = TcpProxy.start(self, to=url)
        queue = await self.started(proxy.through(url))
        got, cancel = self.consumer(queue)
        await queue.publish(JobQueued("j1"))
        await got.count(1)
        self.assertEqual(proxy.cut(), 2)
        await got.count(2)
        got.all[0].ack()
        got.all[0].requeue()
        self.assertEqual(got.all[1].message, JobQueued("j1"))
        got.all[1].ack()
        await until(lambda: queue.ready)
        await queue.publish(JobQueued("j2"))
        await got.count(3)
        got.all[2].ack()
        cancel()
        await deferToThread(until_counted, url, JOBS, ready=0, consumers=0)

    async def test_cut_again_and_again(self) -> None:
        """However often it is cut, and whenever: every confirmed job arrives, and the log stays short."""
        url = rabbitmq_server().fresh_vhost(self)
        proxy = TcpProxy.start(self, to=url)
        queue = await self.started(proxy.through(url), prefetch=5, listener=True)
        taken = self.taker(queue)
        confirmed: set[str] = set()

        async def publish(job: str) -> None:
            try:
                await queue.publish(JobQueued(job))
            except Unavailable:
                return
            confirmed.add(job)

        for turn in range(20):
            sending = [Deferred.fromCoroutine(publish(f"{turn}.{n}")) for n in range(20)]
            await deferLater(reactor, turn * 0.003)
            proxy.cut()
            await DeferredList(sending)
        proxy.resume()
        await until(lambda: queue.ready)
        await publish("last")
        await until(lambda: confirmed <= taken)
        self.assertIn("last", taken)
        self.assertLess(len(self.logged), 150)


class EndedTests(RabbitCase):
    async def test_every_process_hears(self) -> None:
        """Each listener's process hears of each end, with a name or without; others have no queue."""
        server = private_server()
        url = server.fresh_vhost(self)
        named, unnamed = await self.started(url, listener="g1"), await self.started(url, listener=True)
        late = await self.started(url)
        heard: list[Arrivals[JobEnded]] = []
        for queue in (named, unnamed, late):
            heard.append(Arrivals())
            self.addCleanup(queue.on_ended(heard[-1]))
        await until(lambda: late.ready)
        sender = await self.started(url)
        await sender.publish_ended(JobEnded("j1"))
        for each in heard[:2]:
            await each.count(1)
            self.assertEqual(each.all, [JobEnded("j1")])
        while not heard[2].all:  # it listens soon
            await sender.publish_ended(JobEnded("j2"))
        self.assertEqual(server.messages(url, "crawlfarm.ended.g1"), 0)
        await named.stop()
        self.assertIsNone(server.messages(url, "crawlfarm.ended.g1"))

    async def test_nobody_listens(self) -> None:
        """An end that nobody waits for is no failure."""
        queue = await self.started(rabbitmq_server().fresh_vhost(self))
        await queue.publish_ended(JobEnded("j1"))

    async def test_heard_after_a_cut(self) -> None:
        """A listener is back by itself, and hears what ended in the short time it was away."""
        url = rabbitmq_server().fresh_vhost(self)
        proxy = TcpProxy.start(self, to=url)
        queue = await self.started(proxy.through(url), listener="g1")
        heard: Arrivals[JobEnded] = Arrivals()
        self.addCleanup(queue.on_ended(heard))
        sender = await self.started(url)
        await proxy.refuse()
        proxy.cut()
        await until(lambda: not queue.ready)
        await sender.publish_ended(JobEnded("j1"))
        proxy.listen()
        await heard.count(1)
        self.assertEqual(heard.all, [JobEnded("j1")])

    async def test_unreadable(self) -> None:
        """A hint that nobody can read is logged and dropped."""
        url = rabbitmq_server().fresh_vhost(self)
        queue = await self.started(url, listener=True)
        heard: Arrivals[JobEnded] = Arrivals()
        self.addCleanup(queue.on_ended(heard))
        await deferToThread(on_channel, url, lambda c: c.basic_publish("crawlfarm.ended", "", b"\xff"))
        await queue.publish_ended(JobEnded("j1"))
        await heard.count(1)
        self.assertEqual(heard.all, [JobEnded("j1")])
        self.assertTrue(any("unreadable" in line for line in self.logged))

    async def test_prefix(self) -> None:
        """Farms with different prefixes share a virtual host and nothing else."""
        url = rabbitmq_server().fresh_vhost(self)
        ours, theirs = await self.started(url, prefix="a"), await self.started(url, prefix="b")
        got, _ = self.consumer(ours)
        await theirs.publish(JobQueued("theirs"))
        await ours.publish(JobQueued("ours"))
        await got.count(1)
        self.assertEqual(got.all[0].message.job, "ours")
        await deferToThread(until_counted, url, "b.jobs", ready=1)


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
