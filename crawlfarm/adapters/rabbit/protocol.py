"""One AMQP connection: pika's, with what its Twisted adapter does not show.

This is the one place that reaches below the adapter's public face: why a handshake failed,
when the server blocks publishers, which version it has. Importing it installs a reactor
where none is chosen: it is imported when the first connection is made.

Invariants: the reason of a loss is the first one known; a connection that is dropped is
gone within moments, whatever the other side does; a channel that closes takes its
connection with it, so that there is one way to begin again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from pika import exceptions
from pika.adapters.twisted_connection import TwistedChannel, TwistedProtocolConnection
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from crawlfarm.adapters.rabbit.connection import Renewed
from crawlfarm.adapters.rabbit.topology import Topology

CALL_S = 5.0
"""For one call: a declaration on a queue without a leader hangs for much longer."""
CLOSE_S = 2.0

T = TypeVar("T")

# Every lost connection is an error to pika; whoever lost it says so in our words.
logging.getLogger("pika").setLevel(logging.CRITICAL)


class _Transport:
    """The transport as pika sees it: closing it does not wait for a peer that reads nothing."""

    def __init__(self, transport: Any, reactor: Any, closing: Callable[[], None]) -> None:
        self._transport = transport
        self._reactor = reactor
        self._tell = closing
        self._closing: Any = None

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def loseConnection(self) -> None:
        if self._closing is None:
            self._tell()
            self._closing = self._reactor.callLater(CLOSE_S, self._transport.abortConnection)
            self._transport.loseConnection()

    def abortConnection(self) -> None:
        self._transport.abortConnection()

    def lost(self) -> None:
        if self._closing is not None and self._closing.active():
            self._closing.cancel()


class AmqpConnection(TwistedProtocolConnection):  # type: ignore[misc]
    """One connection to RabbitMQ.

    :ivar opened: fires when the handshake is over: with ``None``, or with why it failed.
    :ivar blocked: the server takes no messages for the moment.
    :ivar on_blocked: called when that begins (true) and ends (false).
    """

    transport: Any

    def __init__(self, parameters: Any, reactor: Any) -> None:
        super().__init__(parameters, custom_reactor=reactor)
        self.opened: Deferred[BaseException | None] = Deferred()
        self.blocked = False
        self.on_blocked: Callable[[bool], None] = lambda _: None
        self._reactor = reactor
        self._reason: BaseException | None = None
        self._gone = False
        self._shutting = False
        self._waiting: list[Deferred[BaseException]] = []
        assert self.ready is not None
        self.ready.addErrback(lambda _: None)  # told by ``opened``
        self._impl.add_on_connection_blocked_callback(self._blocked)
        self._impl.add_on_connection_unblocked_callback(self._unblocked)

    @property
    def version(self) -> tuple[int, ...]:
        """The server's, as far as it consists of numbers."""
        text = str((self._impl.server_properties or {}).get("version", ""))
        numbers: list[int] = []
        for part in text.split("."):
            if not part.isdigit():
                break
            numbers.append(int(part))
        return tuple(numbers)

    def makeConnection(self, transport: Any) -> None:
        super().makeConnection(_Transport(transport, self._reactor, self._pika_closes))

    def connectionReady(self) -> AmqpConnection:
        if not self.opened.called:
            self.opened.callback(None)
        return self

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone = True
        self.transport.lost()
        at_once = self._impl.connection_state == self._impl.CONNECTION_PROTOCOL
        if at_once and isinstance(reason.value, error.ConnectionDone | error.ConnectionLost):
            self._because(exceptions.IncompatibleProtocolError(reason.value))
        super().connectionLost(reason)
        why: BaseException = self._reason or reason.value or ConnectionError("lost")
        self._reason = why
        if not self.opened.called:
            self.opened.callback(why)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(why)

    def lost(self) -> Deferred[BaseException]:
        """Fires when the connection is gone, with the reason."""
        waiting: Deferred[BaseException] = Deferred()
        if self._gone:
            waiting.callback(self._reason or ConnectionError("lost"))
        else:
            self._waiting.append(waiting)
        return waiting

    async def open_channel(self) -> TwistedChannel:
        """A channel; when it closes, the connection is dropped."""
        channel: TwistedChannel = await timed(self._reactor, self.channel())
        channel.on_closed.addCallback(self.drop)
        return channel

    def drop(self, reason: BaseException) -> None:
        """End it at once, unless it is ending already."""
        self._because(reason)
        if not self._shutting:
            self._abort()

    def failed(self, failure: Failure) -> None:
        """As an errback: end it because something on it failed."""
        self.drop(failure.value or ConnectionError("lost"))

    def shut(self) -> None:
        """End it in good order, or at once if that takes too long; :meth:`lost` says when."""
        if self._shutting or not self.is_open:
            self._abort()
            return
        self._shutting = True
        overdue = self._reactor.callLater(CLOSE_S, self._abort)
        self.lost().addCallback(lambda _: overdue.active() and overdue.cancel())
        self.close()

    def _abort(self) -> None:
        if not self._gone and self.transport is not None:
            self.transport.abortConnection()

    def renew(self) -> None:
        """End it in good order, to be made again."""
        self._because(Renewed())
        self.shut()

    # --- as pika calls us ----------------------------------------------------------------

    def _on_connection_failed(self, _connection: Any, _error_message: Any = None) -> None:
        self._because(_error_message)
        super()._on_connection_failed(_connection, _error_message)

    def _on_connection_closed(self, _connection: Any, exception: Any) -> None:
        self._because(exception)
        super()._on_connection_closed(_connection, exception)

    def _pika_closes(self) -> None:
        # Its reason, the server's refusal for one, is forgotten when the transport is gone.
        self._because(self._impl._error)

    def _because(self, reason: Any) -> None:
        if self._reason is None and isinstance(reason, BaseException):
            self._reason = reason

    def _blocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked = True
        self.on_blocked(True)

    def _unblocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked = False
        self.on_blocked(False)


def timed(reactor: Any, call: Deferred[T], limit_s: float = CALL_S) -> Deferred[T]:
    """The call, failing with ``TimeoutError`` after the limit."""
    return call.addTimeout(limit_s, reactor)


async def declare(reactor: Any, channel: TwistedChannel, topology: Topology) -> None:
    """Declare everything; what is there already as it should be stays."""
    for exchange in topology.exchanges:
        await timed(reactor, channel.exchange_declare(exchange.name, exchange.type, durable=exchange.durable))
    for queue in topology.queues:
        await timed(reactor, channel.queue_declare(queue.name, durable=queue.durable, arguments=dict(queue.arguments)))
    for binding in topology.bindings:
        await timed(reactor, channel.queue_bind(binding.queue, binding.exchange, binding.key))
