"""What every job queue promises; one class a queue."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from crawlfarm.adapters.memory.queue import REDELIVER_S, MemoryQueue
from crawlfarm.core.ports import Delivery, JobQueue
from crawlfarm.wire.queue import JobEnded, JobQueued
from tests.support.arrivals import Arrivals
from tests.support.brokers import until_counted
from tests.support.servers import rabbitmq_server


class QueueContract:
    """Mixed into a TestCase; ``make_queue`` gives an empty queue, started."""

    timeout = 20

    async def make_queue(self, held: int = 1) -> JobQueue:
        """:param held: how many unsettled jobs a consumer of it takes."""
        raise NotImplementedError

    def consumer(self, queue: JobQueue) -> tuple[Arrivals[Delivery], Any]:
        """A consumer that keeps what it gets."""
        got: Arrivals[Delivery] = Arrivals()
        cancel = queue.consume(got)
        self.addCleanup(cancel)
        return got, cancel

    async def settled(self, queue: JobQueue, consumers: int) -> None:
        """Returns when the queue knows of so many consumers: a server hears of them in its own time."""

    async def test_before_the_consumer(self: Any) -> None:
        """A job published while nobody listens waits for the first consumer."""
        queue = await self.make_queue()
        await queue.publish(JobQueued("j1"))
        got, _ = self.consumer(queue)
        await got.count(1)
        self.assertEqual([d.message for d in got.all], [JobQueued("j1")])

    async def test_not_within_the_call(self: Any) -> None:
        """A delivery never happens inside the call that caused it."""
        queue = await self.make_queue()
        got, _ = self.consumer(queue)
        published = queue.publish(JobQueued("j1"))
        self.assertEqual(got.all, [])
        await published
        await got.count(1)

    async def test_shared(self: Any) -> None:
        """Consumers share the jobs: each goes to one of them, in turn."""
        queue = await self.make_queue(held=6)
        one, _ = self.consumer(queue)
        two, _ = self.consumer(queue)
        await self.settled(queue, 2)
        for n in range(6):
            await queue.publish(JobQueued(f"j{n}"))
        await one.count(3)
        await two.count(3)
        self.assertEqual({d.message.job for d in one.all + two.all}, {f"j{n}" for n in range(6)})
        self.assertEqual((len(one.all), len(two.all)), (3, 3))

    async def test_given_back(self: Any) -> None:
        """A job given back goes to another consumer."""
        queue = await self.make_queue()
        one, _ = self.consumer(queue)
        await queue.publish(JobQueued("j1"))
        await one.count(1)
        two, _ = self.consumer(queue)
        await self.settled(queue, 2)
        one.all[0].requeue()
        await two.count(1)
        self.assertEqual(two.all[0].message, JobQueued("j1"))
        self.assertEqual(len(one.all), 1)

    async def test_given_back_by_the_only_one(self: Any) -> None:
        """With nobody else there it comes to the same consumer again."""
        queue = await self.make_queue()
        got, _ = self.consumer(queue)
        await queue.publish(JobQueued("j1"))
        await got.count(1)
        got.all[0].requeue()
        await got.count(2)
        self.assertEqual(got.all[1].message, JobQueued("j1"))

    async def test_cancelled_with_a_job_in_hand(self: Any) -> None:
        """What a consumer has not settled when it leaves is delivered again."""
        queue = await self.make_queue()
        one, cancel = self.consumer(queue)
        await queue.publish(JobQueued("j1"))
        await one.count(1)
        cancel()
        two, _ = self.consumer(queue)
        await two.count(1)
        self.assertEqual(two.all[0].message, JobQueued("j1"))

    async def test_acked(self: Any) -> None:
        """An acked job does not come back, nor does anything after a cancel."""
        queue = await self.make_queue()
        one, cancel = self.consumer(queue)
        await queue.publish(JobQueued("j1"))
        await one.count(1)
        one.all[0].ack()
        cancel()
        two, _ = self.consumer(queue)
        await queue.publish(JobQueued("j2"))
        await two.count(1)
        self.assertEqual([d.message.job for d in one.all + two.all], ["j1", "j2"])

    async def test_a_failing_consumer(self: Any) -> None:
        """A consumer that raises loses no job: another gets it."""
        queue = await self.make_queue(held=4)

        def fail(_: Delivery) -> None:
            raise RuntimeError("on purpose")

        self.addCleanup(queue.consume(fail))
        got, _ = self.consumer(queue)
        for n in range(4):
            await queue.publish(JobQueued(f"j{n}"))
        await got.count(4)
        self.assertEqual({d.message.job for d in got.all}, {"j0", "j1", "j2", "j3"})
        self.assertGreater(len(self.flushLoggedErrors(RuntimeError)), 0)

    async def test_ended(self: Any) -> None:
        """Every listener hears of every end; one that fails costs the others nothing."""
        queue = await self.make_queue()

        def fail(_: JobEnded) -> None:
            raise RuntimeError("on purpose")

        self.addCleanup(queue.on_ended(fail))
        one: Arrivals[JobEnded] = Arrivals()
        two: Arrivals[JobEnded] = Arrivals()
        self.addCleanup(queue.on_ended(one))
        stop = queue.on_ended(two)
        published = queue.publish_ended(JobEnded("j1"))
        self.assertEqual(one.all, [])
        await published
        await one.count(1)
        await two.count(1)
        stop()
        await queue.publish_ended(JobEnded("j2"))
        await one.count(2)
        self.assertEqual((one.all, two.all), ([JobEnded("j1"), JobEnded("j2")], [JobEnded("j1")]))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)


class MemoryQueueContract(QueueContract, TestCase):
    async def make_queue(self, held: int = 1) -> JobQueue:
        from twisted.internet import reactor

        return MemoryQueue(reactor)


class RabbitQueueContract(QueueContract, TestCase):
    async def make_queue(self, held: int = 1) -> JobQueue:
        from twisted.internet import reactor

        from crawlfarm.adapters.rabbit.queue import RabbitQueue

        self.url = rabbitmq_server().fresh_vhost(self)
        queue = RabbitQueue(reactor, self.url, listener=True, prefetch=held)
        self.addCleanup(queue.stop)
        await queue.start(deadline_s=10)
        return queue

    async def settled(self, queue: JobQueue, consumers: int) -> None:
        await deferToThread(until_counted, self.url, "crawlfarm.jobs", consumers=consumers)


class MemoryQueueTurns(SynchronousTestCase):
    """What the in-process queue adds: when things happen."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.queue = MemoryQueue(self.clock)

    def publish(self, *jobs: str) -> None:
        for job in jobs:
            self.successResultOf(self.queue.publish(JobQueued(job)))

    def turns(self, count: int = 20) -> None:
        for _ in range(count):
            self.clock.advance(0)

    def test_one_a_turn(self) -> None:
        """A consumer that cancels when it is full gets no more, however many wait."""
        got: list[Delivery] = []

        def deliver(delivery: Delivery) -> None:
            got.append(delivery)
            delivery.ack()
            if len(got) == 2:
                cancel()

        cancel = self.queue.consume(deliver)
        self.publish("j1", "j2", "j3", "j4")
        self.turns()
        self.assertEqual([d.message.job for d in got], ["j1", "j2"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_back_to_the_front(self) -> None:
        """What is given back goes before what came later, in its order."""
        got: list[Delivery] = []
        cancel = self.queue.consume(got.append)
        self.publish("j1", "j2", "j3")
        self.turns()
        cancel()
        self.publish("j4")
        again: list[Delivery] = []
        self.queue.consume(again.append)
        self.turns()
        self.assertEqual([d.message.job for d in again], ["j1", "j2", "j3", "j4"])

    def test_taken_after_the_cancel(self) -> None:
        """A consumer that left, but acks after all, has taken the job."""
        got: list[Delivery] = []
        cancel = self.queue.consume(got.append)
        self.publish("j1")
        self.turns()
        cancel()
        got[0].ack()
        self.queue.consume(got.append)
        self.turns()
        self.assertEqual(len(got), 1)

    def test_acked_twice(self) -> None:
        """A second ack does not take away the same job published anew."""
        got: list[Delivery] = []
        cancel = self.queue.consume(got.append)
        self.publish("j1")
        self.turns()
        got[0].ack()
        cancel()
        self.publish("j1")
        got[0].ack()
        self.queue.consume(got.append)
        self.turns()
        self.assertEqual(len(got), 2)

    def test_waits_once(self) -> None:
        """A job that waits already is not queued again."""
        self.publish("j1", "j1", "j1")
        got: list[Delivery] = []
        self.queue.consume(got.append)
        self.turns()
        self.assertEqual(len(got), 1)
        self.publish("j1")
        self.turns()
        self.assertEqual(len(got), 2)

    def test_no_spinning(self) -> None:
        """Consumers that all give a job back get it again after a moment, others at once."""
        got: list[str] = []

        def decline(delivery: Delivery) -> None:
            got.append(delivery.message.job)
            delivery.requeue()

        self.queue.consume(decline)
        self.queue.consume(decline)
        self.publish("j1")
        self.turns()
        self.assertEqual(got, ["j1", "j1"])
        self.publish("j2")
        self.turns()
        self.assertEqual(got, ["j1", "j1", "j2", "j2"])
        self.clock.advance(REDELIVER_S)
        self.turns()
        self.assertEqual(sorted(got[4:]), ["j1", "j1", "j2", "j2"])
        taken: list[Delivery] = []
        self.queue.consume(taken.append)
        self.turns()
        self.assertEqual({d.message.job for d in taken}, {"j1", "j2"})
