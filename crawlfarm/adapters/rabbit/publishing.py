"""Messages on their way to RabbitMQ, until it says that it has them.

Invariant: a call that returns was confirmed, by a quorum queue once a majority of its
members wrote it to disk; every other call fails with ``Unavailable``, in bounded time.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from pika import BasicProperties, exceptions
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from crawlfarm.adapters.rabbit import topology
from crawlfarm.errors import Unavailable

if TYPE_CHECKING:
    from pika.adapters.twisted_connection import ReceivedMessage, TwistedChannel

    from crawlfarm.adapters.rabbit.protocol import AmqpConnection

CONFIRM_S = 5.0
MOST_IN_FLIGHT = 10_000
HEAL_AFTER_S = 0.3
"""Before what was deleted is declared again. The server tells consumers of a deleted queue within 30 ms; one that was
not told when the queue is back stays its consumer, is given jobs, and never gets them (seen with 3.10)."""
AWAY = "the job queue is away for the moment"
BLOCKED = "the job queue takes nothing for the moment: its server is short of memory or disk space"
BLOCKED_RETRY_S = 5.0

PERSISTENT, TRANSIENT = 2, 1
MSGPACK = "application/msgpack"

log = Logger()


class Publisher:
    """Publishes over one connection. Made by :meth:`open`."""

    def __init__(
        self, reactor: Any, connection: AmqpConnection, channel: TwistedChannel, names: topology.Names
    ) -> None:
        self._reactor = reactor
        self._connection = connection
        self._channel = channel
        self._names = names
        self._numbers = itertools.count(1)
        self._in_flight: dict[str, Deferred[Any]] = {}
        self._returned: set[str] = set()
        """Numbers of the messages in flight that no queue took."""
        self._healing: Deferred[None] | None = None
        connection.on_blocked = self._blocked
        channel.add_on_return_callback(self._came_back)

    @classmethod
    async def open(cls, reactor: Any, connection: AmqpConnection, names: topology.Names) -> Publisher:
        """Declare what the farm shares, and see that messages may be published."""
        from crawlfarm.adapters.rabbit.protocol import timed

        channel = await connection.open_channel()
        publisher = cls(reactor, connection, channel, names)
        await publisher._declare()
        await timed(reactor, channel.confirm_delivery())
        await publisher._try_rights()
        return publisher

    @property
    def trouble(self) -> str:
        return BLOCKED if self._connection.blocked else ""

    def ended(self) -> None:
        """Calls in flight have failed with the channel."""

    async def send(self, exchange: str, key: str, body: bytes, *, persistent: bool, mandatory: bool) -> None:
        """Returns once it is confirmed.

        :param mandatory: it is a failure when no queue takes it.
        :raises Unavailable: it is not, or that is not known.
        """
        if self._connection.blocked:
            raise Unavailable(BLOCKED, retry_after_s=BLOCKED_RETRY_S)
        if len(self._in_flight) >= MOST_IN_FLIGHT:
            raise Unavailable(f"{MOST_IN_FLIGHT} messages are on their way to the job queue already")
        number = str(next(self._numbers))
        properties = BasicProperties(
            content_type=MSGPACK, delivery_mode=PERSISTENT if persistent else TRANSIENT, message_id=number
        )
        try:
            taken = await self._confirmed(number, exchange, key, body, properties, mandatory)
        except exceptions.NackError as e:
            raise Unavailable("the job queue did not take the message") from e
        except Exception as e:
            if self._connection.blocked:
                raise Unavailable(BLOCKED, retry_after_s=BLOCKED_RETRY_S) from e
            # Without an answer the connection is of no use; a channel that closed has ended it already.
            self._connection.drop(e)
            raise Unavailable("the job queue did not confirm the message") from e
        if not taken:
            await self._heal()
            raise Unavailable("there was no queue for the message; it is declared again")

    async def settled(self) -> None:
        """Returns when nothing is in flight any more."""
        while self._in_flight:
            waiting: Deferred[None] = Deferred()
            last = next(reversed(self._in_flight.values()))
            last.addBoth(_then, waiting)
            await waiting

    # --- inside --------------------------------------------------------------------------

    async def _confirmed(
        self, number: str, exchange: str, key: str, body: bytes, properties: BasicProperties, mandatory: bool
    ) -> bool:
        """Whether a queue took it, once the server has confirmed it."""
        sent: Deferred[Any] = self._channel.basic_publish(exchange, key, body, properties, mandatory)
        sent.addTimeout(CONFIRM_S, self._reactor)
        self._in_flight[number] = sent
        with contextlib.suppress(exceptions.UnroutableError):
            # A confirm all the same, but pika books a return on whichever message is confirmed
            # next: which one came back is known by its number.
            try:
                await sent
            finally:
                del self._in_flight[number]
        came_back = number in self._returned
        self._returned.discard(number)
        return not came_back

    def _came_back(self, message: ReceivedMessage) -> None:
        number = message.properties.message_id
        if number in self._in_flight:
            self._returned.add(number)

    def _blocked(self, begins: bool) -> None:
        if begins:
            log.warn("RabbitMQ is short of memory or disk space and takes no messages for the moment")
            for sent in list(self._in_flight.values()):
                sent.cancel()
        else:
            log.info("RabbitMQ takes messages again")

    async def _declare(self) -> None:
        from crawlfarm.adapters.rabbit.protocol import declare

        await declare(self._reactor, self._channel, topology.farm(self._names, self._connection.version))

    async def _heal(self) -> None:
        """Declare everything again, once for all who noticed that something is gone."""
        healing = self._healing
        if healing is None:
            log.warn("RabbitMQ has no queue {queue} any more; it is declared again", queue=self._names.jobs)
            self._healing = healing = deferLater(self._reactor, HEAL_AFTER_S)
            healing.addCallback(lambda _: Deferred.fromCoroutine(self._declare()))
            healing.addErrback(self._connection.failed)
            healing.addBoth(self._healed)
        waiting: Deferred[None] = Deferred()
        healing.addBoth(_then, waiting)
        await waiting

    def _healed(self, _: Any) -> None:
        self._healing = None

    async def _try_rights(self) -> None:
        """Publish a message for no queue: without the right to write, the channel is closed."""
        key = f"{self._names.prefix}.nowhere"
        number = str(next(self._numbers))
        try:
            await self._confirmed(number, self._names.jobs, key, b"", BasicProperties(message_id=number), True)
        except Exception:
            if not self._connection.blocked:  # then it will be answered some time
                raise


def _then(result: Any, waiting: Deferred[None]) -> Any:
    """Tell somebody else who waits for the same."""
    if not waiting.called:
        waiting.callback(None)
    return result
