"""Finds the lock daemon that decides, among several addresses, and finds it again.

All addresses are tried one after the other without a pause; then there is one, longer
from round to round and with full jitter, until one has been of use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import clientFromString
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from crawlfarm.adapters.lockd.link import Link, Links
from crawlfarm.core.backoff import Backoff
from crawlfarm.errors import ConfigError, CrawlfarmError, Unavailable

CONNECT_S = 2.0
"""An address that takes longer for connection and handshake is passed over."""

_log = Logger("crawlfarm.lockd")


class Connector:
    """Keeps one connection, until told to stop.

    :param addresses: client endpoint strings.
    :param make: a fresh link to an address.
    :param opened: told of each connection once it takes calls.
    :param hopeless: told after a round in which nobody could be used, and somebody never
        will with this configuration.
    :ivar problem: why there is no connection.
    :raises ConfigError: an address is none.
    """

    def __init__(
        self,
        reactor: Any,
        addresses: Sequence[str],
        backoff: Backoff,
        *,
        make: Callable[[str], Link],
        opened: Callable[[Link], None],
        hopeless: Callable[[ConfigError], None],
    ) -> None:
        self.problem: CrawlfarmError = Unavailable("no lock daemon has answered yet")
        self._reactor = reactor
        self._addresses = list(addresses)
        self._endpoints = [_endpoint(reactor, address) for address in addresses]
        if not self._endpoints:
            raise ConfigError("CRAWLFARM_LOCKD names no lock daemon")
        self._backoff = backoff
        self._make = make
        self._opened = opened
        self._hopeless = hopeless
        self._at = 0
        """The address that is tried next."""
        self._tried = 0
        """How many were, in this round."""
        self._round = 0
        self._refused: ConfigError | None = None
        self._closed: Deferred[None] | None = None
        """Fires when the connection is not used any more."""
        self._links: dict[Link, None] = {}
        """Those not closed yet."""
        self._wanted = False
        self._step: Deferred[Any] | None = None
        """What the search waits for."""

    def start(self) -> None:
        self._wanted = True
        Deferred.fromCoroutine(self._run()).addErrback(self._ended)

    async def stop(self) -> None:
        """Close everything; what was written is sent, if the other side reads."""
        self._wanted = False
        for link in self._links:
            link.leave()
        if self._step is not None:
            self._step.cancel()
        patience = deferLater(self._reactor, CONNECT_S, self._abort)
        patience.addErrback(lambda _: None)
        for link in list(self._links):
            await link.gone
        patience.cancel()

    def of_use(self) -> None:
        """A daemon decides: the next search begins afresh, with its address."""
        self._round = self._tried = 0

    def lost(self, why: CrawlfarmError) -> None:
        """The connection is not used any more: find another, the same address first where it was of use."""
        if self._tried:
            self._at = self._next
        else:
            self._tried = len(self._endpoints)  # everybody lost it at once: not all may come back at once
        self._search(why)

    def move_on(self, why: CrawlfarmError, leader: str = "") -> None:
        """As :meth:`lost`, but another address is better: the leader's, if it is one of ours."""
        self._tried = max(self._tried, 1)
        self._at = self._addresses.index(leader) if leader in self._addresses else self._next
        self._search(why)

    # --- inside -----------------------------------------------------------------------

    @property
    def _next(self) -> int:
        return (self._at + 1) % len(self._endpoints)

    def _search(self, why: CrawlfarmError) -> None:
        self.problem = why
        closed, self._closed = self._closed, None
        if closed is not None:
            closed.callback(None)

    async def _run(self) -> None:
        while self._wanted:
            address, endpoint = self._addresses[self._at], self._endpoints[self._at]
            self._tried += 1
            try:
                link = await self._connect(address, endpoint)
            except Exception as e:
                if self._wanted:
                    self._failed(address, e)
            else:
                self._refused = None
                closed: Deferred[None] = Deferred()
                self._closed = closed
                _log.info("connected to the lock daemon at {address}", address=address)
                self._opened(link)
                await self._wait(closed)
            if self._tried >= len(self._endpoints):
                await self._pause()

    async def _wait(self, step: Deferred[Any]) -> None:
        """Wait for ``step``, or for :meth:`stop`, which may have been called within a callback."""
        if self._wanted:
            self._step = step
            try:
                await step
            finally:
                self._step = None

    async def _pause(self) -> None:
        self._tried = 0
        refused, self._refused = self._refused, None
        if refused is not None:
            self._hopeless(refused)
        if self._wanted:
            delay_s = self._backoff.delay_s(self._round)
            self._round += 1
            await self._wait(deferLater(self._reactor, delay_s))

    async def _connect(self, address: str, endpoint: Any) -> Link:
        link = self._make(address)

        async def handshake() -> None:
            await endpoint.connect(Links(link))
            self._links[link] = None
            link.gone.addCallback(lambda _: self._links.pop(link, None))
            await link.ready

        try:
            await self._wait(Deferred.fromCoroutine(handshake()).addTimeout(CONNECT_S, self._reactor))
        except (TimeoutError, ConnectingCancelledError):
            link.abort(Unavailable("it was given up"))
            raise Unavailable(f"nothing is heard from it within {CONNECT_S:g} s") from None
        except BaseException:
            link.abort(Unavailable("it was given up"))
            raise
        return link

    def _failed(self, address: str, error: Exception) -> None:
        self._at = self._next
        text = f"the lock daemon at {address} cannot be used: {error or type(error).__name__}"
        problem = ConfigError(text) if isinstance(error, ConfigError) else Unavailable(text)
        problem.__cause__ = error
        if isinstance(problem, ConfigError):
            self._refused = problem
        if text != self.problem.message:
            _log.warn("{problem}", problem=text)
        self.problem = problem

    def _ended(self, failure: Failure) -> None:
        if not isinstance(failure.value, CancelledError):
            _log.failure("the search for the lock daemon broke", failure=failure)

    def _abort(self) -> None:
        for link in list(self._links):
            link.abort(Unavailable("it did not close"))


def _endpoint(reactor: Any, address: str) -> Any:
    try:
        return clientFromString(reactor, address)  # type: ignore[no-untyped-call]
    except Exception as e:  # each kind of endpoint has its own
        raise ConfigError(
            f"CRAWLFARM_LOCKD: {address!r} is not a client endpoint such as tcp:127.0.0.1:8091 or "
            f"tls:lockd.example:8091 ({e})"
        ) from e
