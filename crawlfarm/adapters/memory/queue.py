"""The job queue of a farm that is one process.

Invariants: a message is waiting, in one consumer's hands, or settled; every delivery
happens in a reactor turn of its own, never inside the call that caused it, so that a
consumer that is full can say so (by cancelling) before the next one comes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from crawlfarm.core.ports import Delivery
from crawlfarm.wire.queue import JobEnded, JobQueued

REDELIVER_S = 0.1
"""The pause before a message goes again to consumers that have all just given it back."""


class _Consumer:
    __slots__ = ("deliver", "held")

    def __init__(self, deliver: Callable[[Delivery], None]) -> None:
        self.deliver = deliver
        self.held: dict[_Held, None] = {}
        """What it has not settled, in the order of delivery."""


class _Held:
    """A message in a consumer's hands: what the port calls a delivery."""

    __slots__ = ("_consumer", "_declined", "_queue", "_settled", "message")

    def __init__(self, queue: MemoryQueue, message: JobQueued, consumer: _Consumer, declined: set[_Consumer]) -> None:
        self.message = message
        self._queue = queue
        self._consumer = consumer
        self._declined = declined
        self._settled = False

    def ack(self) -> None:
        if self._settle() and not self._take():
            # The consumer was cancelled meanwhile, but took the job all the same.
            self._queue._forget(self.message)

    def requeue(self) -> None:
        if self._settle() and self._take():
            self._queue._put_back(self.message, self._declined | {self._consumer})

    def _settle(self) -> bool:
        first, self._settled = not self._settled, True
        return first

    def _take(self) -> bool:
        held = self in self._consumer.held
        self._consumer.held.pop(self, None)
        return held


class MemoryQueue:
    """:class:`~crawlfarm.core.ports.JobQueue` in process.

    A job that waits already is not queued a second time, so that being published again
    and again (the lock daemon does that) cannot make the queue grow.
    """

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._waiting: OrderedDict[JobQueued, set[_Consumer]] = OrderedDict()
        """What waits, and which consumers have just given it back."""
        self._consumers: list[_Consumer] = []
        """In the order in which they are due for a message."""
        self._listeners: dict[object, Callable[[JobEnded], None]] = {}
        self._wake: Any = None

    def publish(self, message: JobQueued) -> Deferred[None]:
        self._waiting.setdefault(message, set())
        self._schedule()
        return succeed(None)

    def consume(self, deliver: Callable[[Delivery], None]) -> Callable[[], None]:
        """See the port. What a consumer has not settled when it cancels waits again."""
        consumer = _Consumer(deliver)
        self._consumers.append(consumer)
        self._schedule()

        def cancel() -> None:
            if consumer in self._consumers:
                self._consumers.remove(consumer)
                held, consumer.held = consumer.held, {}
                for delivery in reversed(held):
                    self._put_back(delivery.message, {consumer})
                self._schedule()

        return cancel

    def publish_ended(self, message: JobEnded) -> Deferred[None]:
        self._reactor.callLater(0, self._fan_out, message)
        return succeed(None)

    def on_ended(self, ended: Callable[[JobEnded], None]) -> Callable[[], None]:
        key = object()
        self._listeners[key] = ended

        def stop() -> None:
            self._listeners.pop(key, None)

        return stop

    def _fan_out(self, message: JobEnded) -> None:
        for key, ended in list(self._listeners.items()):
            if key not in self._listeners:  # an earlier listener stopped this one
                continue
            try:
                ended(message)
            except Exception:
                self._log.failure("a listener failed on the end of job {job}", job=message.job)

    def _put_back(self, message: JobQueued, declined: set[_Consumer]) -> None:
        self._waiting.setdefault(message, declined)
        self._waiting.move_to_end(message, last=False)
        self._schedule()

    def _forget(self, message: JobQueued) -> None:
        self._waiting.pop(message, None)

    def _choose(self) -> tuple[JobQueued, _Consumer] | None:
        for message, declined in self._waiting.items():
            for consumer in self._consumers:
                if consumer not in declined:
                    return message, consumer
        return None

    def _schedule(self) -> None:
        if not (self._waiting and self._consumers):
            if self._wake is not None:
                self._wake.cancel()
                self._wake = None
            return
        delay_s = 0 if self._choose() else REDELIVER_S
        if self._wake is None:
            self._wake = self._reactor.callLater(delay_s, self._deliver_one)
        elif delay_s == 0:
            self._wake.reset(0)

    def _deliver_one(self) -> None:
        self._wake = None
        choice = self._choose()
        if choice is None:
            for declined in self._waiting.values():
                declined.clear()
            choice = self._choose()
        if choice is not None:
            self._deliver(*choice)
        self._schedule()

    def _deliver(self, message: JobQueued, consumer: _Consumer) -> None:
        declined = self._waiting.pop(message)
        delivery = _Held(self, message, consumer, declined)
        consumer.held[delivery] = None
        self._consumers.remove(consumer)
        self._consumers.append(consumer)
        try:
            consumer.deliver(delivery)
        except Exception:
            self._log.failure("a consumer failed on job {job}; it is queued again", job=message.job)
            delivery.requeue()
