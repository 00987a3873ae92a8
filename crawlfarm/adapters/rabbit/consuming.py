"""Messages on their way from RabbitMQ: jobs to consumers, ends of jobs to listeners.

Invariants: a consumer that has cancelled gets nothing more; what it holds it may settle
for :data:`SETTLE_S`, then it goes back to the queue; a delivery is settled at most once,
and not at all when its connection is gone, for the server has put it back by itself. What
nobody can read goes to the dead-letter queue, and the consumer goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from pika import exceptions
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from crawlfarm.adapters.rabbit import topology
from crawlfarm.core.ports import Delivery
from crawlfarm.errors import BadInput, Unavailable
from crawlfarm.wire.codec import shown, unpack
from crawlfarm.wire.queue import JobEnded, JobQueued

if TYPE_CHECKING:
    from pika.adapters.twisted_connection import ReceivedMessage, TwistedChannel

    from crawlfarm.adapters.rabbit.protocol import AmqpConnection

SETTLE_S = 2.0
"""For what a consumer holds when it cancels: a master that takes its last job does, and acks a moment later."""
RETURN_S = 0.1
"""The pause before a message is given back that was given back before: nobody spins over it."""
RENEW_S = 120.0
"""A connection that brought no job for so long is made anew. A consumer that the server has lost (its queue was
deleted and declared again within a moment) is told nothing, and looks like one that has nothing to do."""
VERSION = 1
JSON = "application/json"

M = TypeVar("M", JobQueued, JobEnded)

log = Logger()


def read(message: ReceivedMessage, kind: type[M]) -> M:
    """The message in its body: MessagePack, or JSON where its content type says so.

    :raises BadInput: it is not such a message, or one of another version.
    """
    found: M
    try:
        if message.properties.content_type == JSON:
            found = msgspec.json.decode(message.body, type=kind)
        else:
            found = unpack(message.body, kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as e:
        raise BadInput(f"not a {kind.__name__}: {e}", code="wrong_type") from e
    if found.version != VERSION:
        raise BadInput(f"a {kind.__name__} of version {found.version}; this program reads {VERSION}", code="version")
    return found


class Consumer:
    """Somebody who takes jobs, over any number of connections.

    :ivar held: what it has not settled.
    """

    def __init__(self, deliver: Callable[[Delivery], None]) -> None:
        self.deliver = deliver
        self.cancelled = False
        self.held: dict[HeldJob, None] = {}


class HeldJob:
    """A job in a consumer's hands: what the port calls a delivery."""

    __slots__ = ("_again", "_consumer", "_intake", "_returning", "_settled", "_tag", "message")

    def __init__(self, intake: Intake, consumer: Consumer, message: JobQueued, tag: int, again: bool) -> None:
        self.message = message
        self._again = again  # delivered before
        self._intake = intake
        self._consumer = consumer
        self._tag = tag
        self._settled = False
        self._returning: Any = None

    def ack(self) -> None:
        if self._settle():
            self._intake.ack(self._tag)
            self._consumer.held.pop(self, None)

    def requeue(self) -> None:
        if self._settle():
            if self._again and not self._consumer.cancelled:
                self._returning = self._intake.later(RETURN_S, self._return)
            else:
                self._return()

    def left(self) -> None:
        """The consumer has cancelled: what waits to be given back waits no longer."""
        if self._stay():
            self._return()

    def overdue(self) -> None:
        """The consumer has cancelled, and its time is over."""
        if self._settle():
            self._return()

    def void(self) -> None:
        """The connection is gone, and the server has put it back."""
        self._settled = True
        self._stay()

    def _return(self) -> None:
        self._returning = None
        self._intake.put_back(self._tag)
        self._consumer.held.pop(self, None)

    def _stay(self) -> bool:
        """Whether it was waiting to be given back."""
        returning, self._returning = self._returning, None
        if returning is not None:
            returning.cancel()
        return returning is not None

    def _settle(self) -> bool:
        first, self._settled = not self._settled, True
        return first


class Intake:
    """Consumes over one connection. Made by :meth:`open`.

    :param ended: told of each end of a job.
    """

    def __init__(
        self,
        reactor: Any,
        connection: AmqpConnection,
        channel: TwistedChannel,
        names: topology.Names,
        ended: Callable[[JobEnded], None],
    ) -> None:
        self._reactor = reactor
        self._connection = connection
        self._channel = channel
        self._names = names
        self._ended = ended
        self._tags: dict[Consumer, str] = {}
        self._count = 0
        self._listening = False
        self._renewal: Any = None
        self._leaving: dict[Consumer, Any] = {}
        """Cancelled consumers that hold something, and the timer of their time."""

    @classmethod
    async def open(
        cls,
        reactor: Any,
        connection: AmqpConnection,
        names: topology.Names,
        *,
        prefetch: int,
        ended: Callable[[JobEnded], None],
    ) -> Intake:
        """:param prefetch: how many unsettled jobs each consumer holds at most."""
        from crawlfarm.adapters.rabbit.protocol import declare, timed

        channel = await connection.open_channel()
        await declare(reactor, channel, topology.farm(names, connection.version))
        await timed(reactor, channel.basic_qos(prefetch_count=prefetch))
        return cls(reactor, connection, channel, names, ended)

    # --- jobs --------------------------------------------------------------------------------

    def consume(self, consumer: Consumer) -> None:
        """Deliver to the consumer until it cancels."""
        if consumer in self._tags or not self._channel.is_open:
            return
        if self._renewal is None:
            self._renewal = self._reactor.callLater(RENEW_S, self._renew)
        self._count += 1
        tag = self._tags[consumer] = f"{self._names.jobs}.{self._count}"
        self._go(self._consuming(consumer, tag))

    async def _consuming(self, consumer: Consumer, tag: str) -> None:
        from crawlfarm.adapters.rabbit.protocol import timed

        incoming, _ = await timed(self._reactor, self._channel.basic_consume(self._names.jobs, consumer_tag=tag))
        await self._reading(incoming, lambda m: self._arrived(consumer, m), lambda: not consumer.cancelled)

    def cancel(self, consumer: Consumer) -> None:
        """Deliver nothing more; what it holds it may settle for a while."""
        consumer.cancelled = True
        tag = self._tags.pop(consumer, None)
        if tag is None:
            return
        if not self._channel.is_open:
            _void(consumer)
            return
        self._channel.basic_cancel(tag).addErrback(lambda _: None)  # a channel that closed has nothing to cancel
        for held in list(consumer.held):
            held.left()
        if consumer.held:
            self._leaving[consumer] = self._reactor.callLater(SETTLE_S, self._left, consumer)

    def ended(self) -> None:
        """The connection is gone: everything held is void."""
        if self._renewal is not None:
            self._renewal.cancel()
        for timer in self._leaving.values():
            timer.cancel()
        for consumer in [*self._tags, *self._leaving]:
            _void(consumer)
        self._tags.clear()
        self._leaving.clear()

    def ack(self, tag: int) -> None:
        if self._channel.is_open:
            self._channel.basic_ack(tag)

    def put_back(self, tag: int) -> None:
        if self._channel.is_open:
            self._channel.basic_nack(tag, requeue=True)

    def later(self, delay_s: float, call: Callable[[], None]) -> Any:
        return self._reactor.callLater(delay_s, call)

    def _renew(self) -> None:
        idle = not any(consumer.held for consumer in [*self._tags, *self._leaving])
        if self._tags and idle:
            self._connection.renew()
        self._renewal = self._reactor.callLater(RENEW_S, self._renew)

    def _left(self, consumer: Consumer) -> None:
        del self._leaving[consumer]
        for held in list(consumer.held):
            held.overdue()

    def _arrived(self, consumer: Consumer, message: ReceivedMessage) -> None:
        tag = message.method.delivery_tag
        self._renewal.reset(RENEW_S)
        if consumer.cancelled:
            self.put_back(tag)
            return
        try:
            job = read(message, JobQueued)
        except BadInput as e:
            log.error(
                "a message of {size} bytes in {queue} goes to {dead}: {reason}",
                size=len(message.body),
                queue=self._names.jobs,
                dead=self._names.dead,
                reason=shown(e.message),
            )
            self._channel.basic_reject(tag, requeue=False)
            return
        held = HeldJob(self, consumer, job, tag, message.method.redelivered)
        consumer.held[held] = None
        try:
            consumer.deliver(held)
        except Exception:
            log.failure("a consumer failed on job {job}; it is queued again", job=job.job)
            held.requeue()

    # --- ends of jobs ------------------------------------------------------------------------

    async def listen(self, name: str) -> None:
        """Hear of every job that ends from now on; returns once nothing is missed any more."""
        from crawlfarm.adapters.rabbit.protocol import declare, timed

        await declare(self._reactor, self._channel, topology.listener(self._names, name))
        queue = self._names.listener(name)
        incoming, _ = await timed(self._reactor, self._channel.basic_consume(queue, auto_ack=True))
        self._listening = True
        self._go(self._reading(incoming, self._heard, lambda: self._listening))

    def listen_soon(self, name: str) -> None:
        """:meth:`listen`, in the background."""
        self._go(self.listen(name))

    async def forget(self, name: str) -> None:
        """Delete a listener's queue."""
        from crawlfarm.adapters.rabbit.protocol import CLOSE_S, timed

        self._listening = False
        await timed(self._reactor, self._channel.queue_delete(self._names.listener(name)), CLOSE_S)

    def _heard(self, message: ReceivedMessage) -> None:
        try:
            ended = read(message, JobEnded)
        except BadInput as e:
            log.error("an unreadable message in {queue}: {reason}", queue=self._names.ended, reason=shown(e.message))
            return
        self._ended(ended)

    # --- both --------------------------------------------------------------------------------

    def _go(self, reading: Coroutine[Any, Any, None]) -> None:
        Deferred.fromCoroutine(reading).addErrback(self._connection.failed)

    async def _reading(
        self, incoming: Any, arrived: Callable[[ReceivedMessage], None], wanted: Callable[[], bool]
    ) -> None:
        """Read until it is not wanted any more.

        :raises Unavailable: the queue was deleted.
        """
        try:
            while True:
                arrived(await incoming.get())
        except exceptions.ConsumerCancelled:
            if wanted():
                raise Unavailable("a queue that is read from was deleted; it is declared again") from None


def _void(consumer: Consumer) -> None:
    held, consumer.held = consumer.held, {}
    for each in held:
        each.void()
