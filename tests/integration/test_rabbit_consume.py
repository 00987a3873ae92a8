"""Jobs, and ends of jobs, on their way from a real RabbitMQ: shared, settled once, never lost."""

from __future__ import annotations

import json
import time
from typing import Any

import pika
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from crawlfarm.adapters.rabbit import consuming
from crawlfarm.adapters.rabbit.topology import Names, farm
from crawlfarm.core.ports import Delivery
from crawlfarm.errors import Unavailable
from crawlfarm.wire.codec import pack
from crawlfarm.wire.queue import JobEnded, JobQueued
from tests.support.arrivals import Arrivals
from tests.support.brokers import DEAD, JOBS, RabbitCase, on_channel, private_server, until, until_counted
from tests.support.proxy import TcpProxy
from tests.support.servers import rabbitmq_server


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
        await sender.stop()

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
