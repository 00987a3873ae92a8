"""RabbitMQ in tests: what is asked of it without the management plugin, and queues of ours on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import SkipTest

import pika
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from crawlfarm.adapters.rabbit.broker import VARIABLE
from crawlfarm.adapters.rabbit.queue import RabbitQueue
from crawlfarm.core.backoff import Backoff
from crawlfarm.core.ports import Delivery
from tests.support.arrivals import Arrivals
from tests.support.servers import RabbitServer, rabbitmq_server
from tests.support.servers.base import ServerFailed

JOBS, DEAD = "crawlfarm.jobs", "crawlfarm.dead"
DEADLINE_S = 15.0
SOON = Backoff(0.02, 0.2)


def until_counted(url: str, queue: str, *, consumers: int | None = None, ready: int | None = None) -> None:
    """Returns when a queue has so many consumers, and messages that nobody holds. It blocks.

    :raises ServerFailed: it does not.
    """
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        end = time.monotonic() + DEADLINE_S
        while True:
            found = channel.queue_declare(queue, passive=True).method
            if consumers in (None, found.consumer_count) and ready in (None, found.message_count):
                return
            if time.monotonic() > end:
                raise ServerFailed(
                    f"{queue} has {found.consumer_count} consumers and {found.message_count} messages that wait, "
                    f"not {consumers} and {ready}"
                )
            connection.sleep(0.01)


def on_channel(url: str, work: Callable[[pika.adapters.blocking_connection.BlockingChannel], object]) -> object:
    """What ``work`` returns, given a channel of a connection of its own. It blocks."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        return work(connection.channel())


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
