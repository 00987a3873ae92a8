"""A connection to RabbitMQ that is made again whenever it is lost.

Not a ``ClientService``: its machine has no way from *connecting* when the connection is
lost while ``prepareConnection`` works, which a broker that starts, or refuses a right,
does all the time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from crawlfarm.adapters.rabbit.broker import Broker, blame
from crawlfarm.core.backoff import Backoff
from crawlfarm.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from crawlfarm.adapters.rabbit.protocol import AmqpConnection

HANDSHAKE_S = 10.0
STEADY_S = 10.0
"""A connection that lasted for so long was a good one: the next attempt follows soon."""

log = Logger()


class Renewed(Exception):
    """A connection was ended by ourselves, for a new one."""


class Session(Protocol):
    """What is done over one connection, for as long as it lasts."""

    def ended(self) -> None:
        """The connection is gone."""


S = TypeVar("S", bound=Session)


class Link(Generic[S]):
    """Keeps one connection; :attr:`session` is there while it can be used.

    :ivar trouble: why there is no session; empty while there is one.
    :param role: what it is for, in its log lines.
    :param prepare: makes a session of an open connection.
    """

    def __init__(
        self,
        reactor: Any,
        broker: Broker,
        role: str,
        prepare: Callable[[AmqpConnection], Awaitable[S]],
        backoff: Backoff,
    ) -> None:
        self.session: S | None = None
        self.trouble = "not connected yet"
        self._reactor = reactor
        self._broker = broker
        self._role = role
        self._prepare = prepare
        self._backoff = backoff
        self._wanted = False
        self._connection: AmqpConnection | None = None
        self._running: Deferred[None] = succeed(None)
        self._waiting: list[Deferred[None]] = []
        self._said = ""

    @property
    def started(self) -> bool:
        return self._wanted

    def start(self) -> None:
        """Connect, and stay connected until :meth:`stop`."""
        if not self._wanted:
            self._wanted = True
            self._running = Deferred.fromCoroutine(self._run())
            self._running.addErrback(lambda f: log.failure("the connection to RabbitMQ broke", failure=f))

    def connected(self) -> Deferred[None]:
        """Fires when there is a session.

        :raises ConfigError: the attempt failed in a way that will not pass by itself.
        """
        if self.session is not None:
            return succeed(None)
        if not self._wanted:
            return fail(Unavailable(self.trouble))
        waiting: Deferred[None] = Deferred(self._waiting_no_more)
        self._waiting.append(waiting)
        return waiting

    async def stop(self) -> None:
        """Leave in good order; what a consumer holds goes back."""
        self._wanted = False
        if self.session is not None and self._connection is not None:
            self._connection.shut()
        else:
            self._running.cancel()
        self._tell(Unavailable("stopped"))
        await self._running
        if self._connection is not None:
            await self._connection.lost()

    async def _run(self) -> None:
        failures = 0
        while self._wanted:
            began: float | None = None
            try:
                connection = await self._open()
                began = self._reactor.seconds()
                self._connected()
                self._lost(await connection.lost())
            except Exception as e:  # a cancelled wait too
                if self._wanted:
                    self._failed(e)
            if began is not None and self._reactor.seconds() - began > STEADY_S:
                failures = 0
            if self._wanted:
                await self._pause(self._backoff.delay_s(failures))
                failures += 1

    async def _open(self) -> AmqpConnection:
        """An open connection with its session; none is left behind when that fails."""
        from crawlfarm.adapters.rabbit.protocol import AmqpConnection, timed

        factory = Factory.forProtocol(lambda: AmqpConnection(self._broker.parameters(), self._reactor))
        factory.noisy = False
        connection: AmqpConnection = await self._broker.endpoint(self._reactor).connect(factory)
        self._connection = connection
        try:
            refused = await timed(self._reactor, connection.opened, HANDSHAKE_S)
            if refused is not None:
                raise refused
            self._broker.check(connection.version)
            self.session = await self._prepare(connection)
        except Exception as e:
            connection.drop(e)
            await connection.lost()
            raise
        return connection

    async def _pause(self, delay_s: float) -> None:
        try:
            await deferLater(self._reactor, delay_s)
        except Exception:  # cancelled: the loop looks whether to go on
            return

    def _connected(self) -> None:
        if self._said:
            log.info("RabbitMQ is back for {role}: {where}", role=self._role, where=self._broker.shown)
        self.trouble = self._said = ""
        self._tell(None)

    def _lost(self, why: BaseException) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.ended()
        if isinstance(why, Renewed):
            self.trouble = "being renewed"
        elif self._wanted:
            self._failed(why)

    def _failed(self, why: BaseException) -> None:
        found = blame(why, self._broker)
        self.trouble = found.message
        if found.message != self._said:  # once, however many attempts it takes
            self._said = found.message
            text = "RabbitMQ is not there for {role}, trying again: {trouble}"
            level = log.error if isinstance(found, ConfigError) else log.warn
            level(text, role=self._role, trouble=found.message)
        if isinstance(found, ConfigError):
            self._tell(found)

    def _tell(self, error: Exception | None) -> None:
        told, self._waiting = self._waiting, []
        for waiting in told:
            if error is None:
                waiting.callback(None)
            else:
                waiting.errback(error)

    def _waiting_no_more(self, waiting: Deferred[None]) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
