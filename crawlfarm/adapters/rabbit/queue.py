"""The job queue of a farm of many processes: :class:`RabbitQueue`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from crawlfarm.adapters.rabbit import topology
from crawlfarm.adapters.rabbit.broker import Broker, blame
from crawlfarm.adapters.rabbit.connection import Link
from crawlfarm.adapters.rabbit.consuming import Consumer, Intake
from crawlfarm.adapters.rabbit.publishing import AWAY, Publisher
from crawlfarm.core.backoff import Backoff
from crawlfarm.core.ports import Delivery
from crawlfarm.errors import ConfigError, Unavailable
from crawlfarm.wire.codec import pack
from crawlfarm.wire.queue import JobEnded, JobQueued

if TYPE_CHECKING:
    from crawlfarm.adapters.rabbit.protocol import AmqpConnection

RETRY_AFTER_S = 1.0

log = Logger()


class RabbitQueue:
    """:class:`~crawlfarm.core.ports.JobQueue` over RabbitMQ.

    One connection publishes; a second one is made for the first consumer or listener. Both
    are made again by themselves, and with them everything that was declared, every
    consumer and every listener. Meanwhile publishing fails at once with ``Unavailable``.

    :param url: ``amqp://`` or ``amqps://``.
    :param listener: a name for this process's queue of ended jobs, which is there once
        :meth:`start` has returned, and keeps for a while what ends while it reconnects;
        ``True`` makes a name up. Without, there is one from the first :meth:`on_ended` on.
    :param prefetch: how many unsettled jobs a consumer holds at most.
    :param prefix: begins every name at the server: farms with different ones share nothing.
    :raises ConfigError: the URL or the prefix cannot be used.
    """

    def __init__(
        self,
        reactor: Any,
        url: str,
        *,
        listener: str | bool = False,
        prefetch: int = 1,
        prefix: str = topology.PREFIX,
        backoff: Backoff | None = None,
    ) -> None:
        backoff = backoff or Backoff()
        self._reactor = reactor
        self._names = topology.Names(prefix)
        self._broker = Broker.at(url)
        self._listener = listener if isinstance(listener, str) and listener else uuid.uuid4().hex
        self._listening = bool(listener)
        self._prefetch = prefetch
        self._consumers: dict[Consumer, None] = {}
        self._listeners: dict[object, Callable[[JobEnded], None]] = {}
        self._out: Link[Publisher] = Link(reactor, self._broker, "publishing", self._open_publisher, backoff)
        self._in: Link[Intake] = Link(reactor, self._broker, "consuming", self._open_intake, backoff)
        self._stopped = False

    # --- life --------------------------------------------------------------------------------

    def start(self, deadline_s: float | None = None) -> Deferred[None]:
        """Connect; fires when jobs can be published (and ends be heard, with a listener).

        :param deadline_s: how long to try; without one, for as long as it takes.
        :raises ConfigError: the server refuses us, or is too old; nothing is tried any more.
        :raises Unavailable: the deadline has passed; it is still tried until :meth:`stop`.
        """
        return Deferred.fromCoroutine(self._start(deadline_s))

    def stop(self) -> Deferred[None]:
        """Publish what is on its way, give back what is held, and leave."""
        return Deferred.fromCoroutine(self._stop())

    @property
    def ready(self) -> bool:
        """Whether jobs can be published, and taken where that is wanted."""
        return not self.trouble

    @property
    def trouble(self) -> str:
        """Why it is not ready; empty when it is."""
        if self._out.session is None:
            return self._out.trouble
        return self._out.session.trouble or (self._in.trouble if self._in.started else "")

    async def _start(self, deadline_s: float | None) -> None:
        links: list[Link[Any]] = [self._out, self._in] if self._listening or self._consumers else [self._out]
        for link in links:
            link.start()
        trying = Deferred.fromCoroutine(_all_connected(links))
        if deadline_s is not None:
            trying.addTimeout(deadline_s, self._reactor, self._overdue)
        try:
            await trying
        except ConfigError:
            await self._stop()
            raise

    def _overdue(self, _: Any, deadline_s: float) -> None:
        trouble = next((link.trouble for link in (self._out, self._in) if link.trouble), AWAY)
        raise Unavailable(f"not connected within {deadline_s:g} s: {trouble}")

    async def _stop(self) -> None:
        self._stopped = True
        if self._out.session is not None:
            await self._out.session.settled()
        for consumer in list(self._consumers):
            self._cancel(consumer)
        if self._in.session is not None and self._listening:
            try:
                await self._in.session.forget(self._listener)
            except Exception as e:  # it expires
                log.debug("the queue of ended jobs was not deleted: {reason}", reason=blame(e, self._broker))
        await self._in.stop()
        await self._out.stop()

    # --- jobs --------------------------------------------------------------------------------

    def publish(self, message: JobQueued) -> Deferred[None]:
        """See the port. Any number may be on their way at once."""
        jobs = self._names.jobs
        return Deferred.fromCoroutine(self._send(jobs, jobs, pack(message), persistent=True, mandatory=True))

    def consume(self, deliver: Callable[[Delivery], None]) -> Callable[[], None]:
        """See the port. A consumer that cancels has a moment to settle what it holds."""
        consumer = Consumer(deliver)
        self._consumers[consumer] = None
        if self._in.session is not None:
            self._in.session.consume(consumer)
        self._want_intake()

        def cancel() -> None:
            self._cancel(consumer)

        return cancel

    def _cancel(self, consumer: Consumer) -> None:
        consumer.cancelled = True
        self._consumers.pop(consumer, None)
        if self._in.session is not None:
            self._in.session.cancel(consumer)

    # --- ends of jobs ------------------------------------------------------------------------

    def publish_ended(self, message: JobEnded) -> Deferred[None]:
        """Returns once the server has it: who listens now hears of it."""
        return Deferred.fromCoroutine(
            self._send(self._names.ended, "", pack(message), persistent=False, mandatory=False)
        )

    def on_ended(self, ended: Callable[[JobEnded], None]) -> Callable[[], None]:
        """See the port. Without a ``listener`` it takes a moment until the first one hears."""
        key = object()
        self._listeners[key] = ended
        if not self._listening:
            self._listening = True
            if self._in.session is not None:
                self._in.session.listen_soon(self._listener)
        self._want_intake()

        def stop() -> None:
            self._listeners.pop(key, None)

        return stop

    def _ended(self, message: JobEnded) -> None:
        for key, ended in list(self._listeners.items()):
            if key not in self._listeners:  # an earlier listener stopped this one
                continue
            try:
                ended(message)
            except Exception:
                log.failure("a listener failed on the end of job {job}", job=message.job)

    # --- inside ------------------------------------------------------------------------------

    async def _send(self, exchange: str, key: str, body: bytes, *, persistent: bool, mandatory: bool) -> None:
        try:
            if self._out.session is None or self._stopped:
                raise Unavailable(AWAY, retry_after_s=RETRY_AFTER_S)
            await self._out.session.send(exchange, key, body, persistent=persistent, mandatory=mandatory)
        except Unavailable:
            # The news of a lost connection spreads within this turn: who tries again at once
            # does so after it.
            await deferLater(self._reactor, 0)
            raise

    def _want_intake(self) -> None:
        if not self._stopped:
            self._in.start()

    async def _open_publisher(self, connection: AmqpConnection) -> Publisher:
        return await Publisher.open(self._reactor, connection, self._names)

    async def _open_intake(self, connection: AmqpConnection) -> Intake:
        intake = await Intake.open(self._reactor, connection, self._names, prefetch=self._prefetch, ended=self._ended)
        if self._listening:
            await intake.listen(self._listener)
        for consumer in self._consumers:
            intake.consume(consumer)
        return intake


async def _all_connected(links: list[Link[Any]]) -> None:
    for link in links:
        await link.connected()
