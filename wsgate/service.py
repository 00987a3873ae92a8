"""The gateway as a running thing: sockets and stores around the hub.

The shell feeds the hub what happens, one thing after the other, and carries out what it
says. An answer that is there at once is fed in after the current turn, never within it, so
that the hub is never entered twice and a long log takes no deep stack.
"""

from __future__ import annotations

import errno
import ipaddress
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet import address, error
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from crawlfarm.config import Config
from crawlfarm.core.ports import Cache, FrontierStore, JobQueue, LockService, ResultStore
from crawlfarm.errors import BadInput, ConfigError, CrawlfarmError
from crawlfarm.wire.codec import encode_json, pack, unpack
from crawlfarm.wire.queue import JobEnded
from wsgate.answers import AnswerNote, Loaded, load
from wsgate.effects import (
    CallLocks,
    Close,
    Effect,
    FindAnswer,
    FindNote,
    KeepAnswer,
    KeepNote,
    LoadResult,
    Need,
    PublishJob,
    ReadLog,
    ReadStatus,
    Report,
    Send,
    Wanted,
)
from wsgate.hub import Hub
from wsgate.websocket import ClientConnections

TICK_S = 0.25
WAKE_S = 0.05
"""Logs that grow are looked at this often at most."""
GOODBYE_S = 1.0
LARGE_BYTES = 256 * 1024
"""A stored result longer than this is read in a thread, not in the reactor's."""

_VARIABLE = "CRAWLFARM_GATEWAY_LISTEN"


class Gateway:
    """One gateway process's part in the farm; :meth:`start` makes it listen.

    :ivar endpoints: the websocket addresses it is bound to, once started.
    """

    _log = Logger("wsgate")

    def __init__(
        self,
        reactor: Any,
        config: Config,
        *,
        locks: LockService,
        queue: JobQueue,
        frontier: FrontierStore,
        results: ResultStore,
        cache: Cache,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoints: list[str] = []
        self._reactor = reactor
        self._config = config
        self._locks = locks
        self._queue = queue
        self._frontier = frontier
        self._results = results
        self._cache = cache
        self._now = monotonic
        self._hub = Hub(config.timings)
        self._connections = ClientConnections(reactor, self)
        self._port: Any = None
        self._turns: deque[Callable[[], list[Effect]]] = deque()
        self._turning = False
        self._running = False
        self._later: dict[str, Any] = {}
        self._ticks = LoopingCall(self._tick)
        self._ticks.clock = reactor
        self._unsubscribe: list[Callable[[], None]] = []

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return self._connections.count

    # --- life -----------------------------------------------------------------------

    def start(self) -> Deferred[None]:
        """Listen. Hints are subscribed to before the first client is let in.

        :raises ConfigError: it cannot listen where the configuration says.
        """
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        port = await self._listen()
        self._port = port
        self._running = True
        self._unsubscribe = [self._queue.on_ended(self._ended), self._frontier.watch(self._wake)]
        self._ticks.start(TICK_S, now=False)
        self.endpoints = [_address(port.getHost())]
        self._log.info("gateway listens on {address}", address=self.endpoints[0])

    async def _listen(self) -> Any:
        listen = self._config.gateway_listen
        try:
            endpoint = serverFromString(self._reactor, listen)  # type: ignore[no-untyped-call]
            port = await endpoint.listen(self._connections)
        except error.CannotListenError as e:
            where = f"{e.interface or '*'}:{e.port}"
            raise ConfigError(f"{_VARIABLE}: cannot listen on {where}: {_reason(e)}") from e
        except (ValueError, TypeError, LookupError, OverflowError, OSError) as e:
            raise ConfigError(
                f"{_VARIABLE}: {listen!r} is not an endpoint such as tcp:8080:interface=127.0.0.1 ({e})"
            ) from e
        if not _is_loopback(port.getHost()):
            # Nobody was accepted yet: that takes another turn of the reactor.
            await maybeDeferred(port.stopListening)
            raise ConfigError(
                f"{_VARIABLE}: {listen!r} is open to other machines, and there are no tokens to tell who may "
                "come in: listen on 127.0.0.1, as in tcp:8080:interface=127.0.0.1"
            )
        return port

    def stop(self) -> Deferred[None]:
        """Close the port, tell the clients that the gateway goes away, and let them go."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._port is None:
            return
        port, self._port = self._port, None
        await maybeDeferred(port.stopListening)
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._ticks.stop()
        self._feed(lambda: self._hub.stop(self._now()))
        await self._connections.all_gone(within_s=GOODBYE_S)
        self._running = False
        for later in self._later.values():
            later.cancel()
        self._later.clear()

    # --- what happens (also the websocket edge) --------------------------------------

    def opened(self, number: int, client: str) -> None:
        self._feed(lambda: self._hub.connected(number, client, self._now()))

    def received(self, number: int, payload: bytes, is_text: bool) -> None:
        self._feed(lambda: self._hub.received(number, payload, is_text, self._now()))

    def refused(self, number: int, error: BadInput) -> None:
        self._feed(lambda: self._hub.refused(number, error, self._now()))

    def paused(self, number: int) -> None:
        self._hub.paused(number)

    def writable(self, number: int) -> None:
        self._feed(lambda: self._hub.writable(number, self._now()))

    def closed(self, number: int) -> None:
        self._feed(lambda: self._hub.disconnected(number, self._now()))

    def _ended(self, message: JobEnded) -> None:
        self._feed(lambda: self._hub.ended(message.job, self._now()))

    # --- turns ----------------------------------------------------------------------

    def _feed(self, turn: Callable[[], list[Effect]]) -> None:
        if not self._running:
            return
        self._turns.append(turn)
        if self._turning:
            return
        self._turning = True
        try:
            while self._turns:
                for effect in self._turn(self._turns.popleft()):
                    self._perform(effect)
        finally:
            self._turning = False
        if self._hub.has_more and "go on" not in self._later:
            # A turn of the reactor in between empties the buffers into the sockets.
            self._call_later("go on", 0.0, self._go_on)

    def _turn(self, turn: Callable[[], list[Effect]]) -> list[Effect]:
        try:
            return turn()
        except Exception:
            self._log.failure("the gateway could not decide what follows from an event")
            return []

    def _perform(self, effect: Effect) -> None:
        try:
            match effect:
                case Wanted(ticket, need):
                    answer = Deferred.fromCoroutine(self._fulfil(need))
                    answer.addCallbacks(self._answered, self._failed, callbackArgs=(ticket,), errbackArgs=(ticket,))
                case Send(to, reply):
                    self._connections.send(to, encode_json(reply))
                case Close(number, code, reason):
                    self._connections.close(number, code, reason)
                case KeepAnswer(key, depth, data):
                    self._keep(self._cache.put(key, depth, data))
                case KeepNote(job, note):
                    self._keep(self._cache.put(_note_key(job), note.spec.depth, pack(note)))
                case Report(broken):
                    failure = Failure(broken)  # type: ignore[no-untyped-call]
                    self._log.failure("a request could not be answered", failure=failure)
        except Exception:
            self._log.failure("the gateway could not do what follows from an event")

    def _answered(self, value: object, ticket: int) -> None:
        self._feed(lambda: self._hub.answered(ticket, value, self._now()))

    def _failed(self, failure: Failure, ticket: int) -> None:
        broken = failure.value if isinstance(failure.value, Exception) else CrawlfarmError(repr(failure.value))
        self._feed(lambda: self._hub.failed(ticket, broken, self._now()))

    async def _fulfil(self, need: Need) -> object:
        match need:
            case CallLocks(command):
                return await self._locks.call(command)
            case PublishJob(message):
                await self._queue.publish(message)
                return None
            case FindAnswer(key, depth):
                return await self._find_answer(key, depth)
            case FindNote(job):
                found = await self._cache.get(_note_key(job))
                return unpack(found[1], AnswerNote) if found is not None else None
            case LoadResult(job):
                data = await self._results.get(job)
                return await self._load(data, None) if data is not None else None
            case ReadLog(job, after, limit):
                return await self._frontier.events(job, after, limit)
            case ReadStatus(job):
                return await self._frontier.status(job)

    async def _find_answer(self, key: str, depth: int) -> Loaded | None:
        found = await self._cache.get(key)
        if found is None or found[0] < depth:
            return None
        try:
            return await self._load(found[1], depth)
        except BadInput as e:
            self._log.warn("a cached answer cannot be read: {why}", why=e.message)
            return None

    async def _load(self, data: bytes, depth: int | None) -> Loaded:
        if len(data) < LARGE_BYTES:
            return load(data, depth)
        loaded: Loaded = await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), load, data, depth)
        return loaded

    def _keep(self, kept: Awaitable[bool]) -> None:
        async def wait() -> None:
            await kept

        done = Deferred.fromCoroutine(wait())
        done.addErrback(lambda f: self._log.failure("an answer could not be kept", failure=f))

    # --- later ----------------------------------------------------------------------

    def _call_later(self, name: str, delay_s: float, call: Callable[[], None]) -> None:
        def now() -> None:
            del self._later[name]
            call()

        self._later[name] = self._reactor.callLater(delay_s, now)

    def _wake(self) -> None:
        if self._running and "look" not in self._later:
            self._call_later("look", WAKE_S, self._look)

    def _look(self) -> None:
        self._feed(lambda: self._hub.woken(self._now()))

    def _go_on(self) -> None:
        self._feed(lambda: self._hub.go_on(self._now()))

    def _tick(self) -> None:
        self._feed(lambda: self._hub.tick(self._now()))


def _note_key(job: str) -> str:
    return f"job:{job}"


def _address(host: Any) -> str:
    if isinstance(host, address.IPv6Address):
        return f"ws://[{host.host}]:{host.port}"
    if isinstance(host, address.IPv4Address):
        return f"ws://{host.host}:{host.port}"
    return str(host)


def _is_loopback(host: Any) -> bool:
    if isinstance(host, address.IPv4Address | address.IPv6Address):
        return ipaddress.ip_address(host.host.partition("%")[0]).is_loopback
    return isinstance(host, address.UNIXAddress)


def _reason(refused: error.CannotListenError) -> str:
    cause = refused.socketError
    if getattr(cause, "errno", None) == errno.EADDRINUSE:
        return "the port is in use already"
    return getattr(cause, "strerror", None) or str(cause)
