"""Which implementation is behind which port, by the configuration: the only place that knows.

A process makes the :class:`Ports` it needs, any mix of servers and embedded stand-ins,
starts them, and hands them to its daemons. Adapters are imported when they are made: some
of them install a reactor on import.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred, DeferredList, FirstError, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger

from crawlfarm.adapters.sql.database import Database, open_database
from crawlfarm.adapters.sql.results import SqlResults
from crawlfarm.cli.meters import Meters
from crawlfarm.config import Config
from crawlfarm.core.backoff import Backoff
from crawlfarm.core.ports import Cache, FrontierStore, JobQueue, LockService, ResultStore
from crawlfarm.errors import ConfigError, CrawlfarmError, Unavailable

log = Logger()

CHECK_S = 3.0
"""How long a part may take to say that it is there."""

_NOBODY = "no such job"


@dataclass(frozen=True)
class Part:
    """Something this process depends on.

    :ivar start: returns when it can be used. :raises Unavailable: not yet; it is tried again.
    :ivar check: :raises Unavailable: it cannot be used now.
    :ivar needed: the process is of no use without it.
    """

    name: str
    start: Callable[[], Awaitable[object]]
    check: Callable[[], Awaitable[object]]
    stop: Callable[[], Awaitable[object]]
    needed: bool = True


class Ports:
    """The ports of one process, each made when it is first asked for, and all that were made
    started and stopped together.

    :param meters: counts what goes through them.
    """

    def __init__(self, reactor: Any, config: Config, meters: Meters | None = None) -> None:
        self._reactor = reactor
        self._config = config
        self._meters = meters
        self._parts: list[Part] = []
        self._started: list[Part] = []
        self._backoff = Backoff(first_s=0.2, most_s=3.0)

    # --- the ports ------------------------------------------------------------------

    def frontier(self) -> FrontierStore:
        config, timings = self._config, self._config.timings
        made: FrontierStore
        if config.frontier_urls:
            from crawlfarm.adapters.redis.frontier import RedisFrontier

            redis = RedisFrontier(
                self._reactor,
                config.frontier_urls,
                page_lease_s=timings.page_lease_s,
                page_attempts=config.page_attempts,
                host_concurrency=config.host_concurrency,
            )

            begun: list[bool] = []

            async def begin() -> None:
                if not begun:
                    begun.append(True)
                    await redis.start()
                await redis.status(_NOBODY)

            self._parts.append(Part("frontier", begin, lambda: redis.status(_NOBODY), redis.stop))
            made = redis
        else:
            from crawlfarm.adapters.memory.frontier import MemoryFrontier
            from crawlfarm.core.frontier import FrontierModel

            model = FrontierModel(
                page_lease_s=timings.page_lease_s,
                page_attempts=config.page_attempts,
                host_concurrency=config.host_concurrency,
            )
            made = MemoryFrontier(self._reactor, model)
        return self._meters.frontier(made) if self._meters is not None else made

    def queue(self, *, listens: bool = False, needed: bool = True) -> JobQueue:
        """:param listens: this process wants to hear of ended jobs.
        :param needed: it is of no use without the queue.
        """
        made: JobQueue
        if self._config.broker_url:
            from crawlfarm.adapters.rabbit.queue import RabbitQueue

            rabbit = RabbitQueue(self._reactor, self._config.broker_url, listener=listens)

            async def check() -> None:
                if rabbit.trouble:
                    raise Unavailable(rabbit.trouble)

            async def begin() -> None:
                # It tries for as long as it takes, and says so.
                try:
                    await rabbit.start(None if needed else CHECK_S)
                except Unavailable as e:
                    log.warn("going on without the queue until it is there: {why}", why=e.message)

            self._parts.append(Part("queue", begin, check, rabbit.stop, needed))
            made = rabbit
        else:
            from crawlfarm.adapters.memory.queue import MemoryQueue

            made = MemoryQueue(self._reactor)
        return self._meters.queue(made) if self._meters is not None else made

    def cache(self) -> Cache:
        if not self._config.cache_url:
            from crawlfarm.adapters.memory.cache import MemoryCache

            return MemoryCache(self._reactor.seconds, self._config.timings.cache_ttl_s)
        from crawlfarm.adapters.redis.cache import RedisCache

        cache = RedisCache(self._reactor, self._config.cache_url, self._config.timings.cache_ttl_s)

        async def check() -> None:
            await cache.link.execute("PING")

        self._parts.append(Part("cache", cache.start, check, cache.stop, needed=False))
        return cache

    def database(self) -> Database:
        database = open_database(self._reactor, self._config)
        self._parts.append(
            Part("database", database.open, lambda: database.run_apart(lambda c: c.fetch("SELECT 1")), database.close)
        )
        return database

    def results(self, database: Database | None = None) -> ResultStore:
        """:param database: one this process has already."""
        return SqlResults(database if database is not None else self.database())

    def locks(self) -> LockService:
        """The lock daemon, in a process of its own."""
        from crawlfarm.adapters.lockd.client import LockdClient

        client = LockdClient(self._reactor, self._config.lockd, secret=self._config.lockd_secret)

        async def begin() -> None:
            client.start()
            connected = client.connected()
            connected.addTimeout(CHECK_S, self._reactor, lambda *_: _raise(Unavailable(self._lockd_away(client))))
            await connected

        async def check() -> None:
            if not client.healthy:
                raise Unavailable(self._lockd_away(client))

        self._parts.append(Part("lockd", begin, check, client.stop))
        return self._meters.locks(client) if self._meters is not None else client

    # --- together -------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything that was made; what is away is tried again until it is there.

        :raises ConfigError: something that will not pass by itself; nothing is left running.
        """
        starting = [Deferred.fromCoroutine(self._start(part)) for part in self._parts]
        try:
            await gatherResults(starting, consumeErrors=True)
        except BaseException as e:
            for other in starting:
                other.cancel()
            await DeferredList(starting, consumeErrors=True)
            await self.stop()
            if isinstance(e, FirstError):
                e.subFailure.raiseException()
            raise

    async def stop(self) -> None:
        """Leave them, the last one made first."""
        while self._started:
            part = self._started.pop()
            try:
                await part.stop()
            except Exception:
                log.failure("leaving the {part} failed", part=part.name)

    async def troubles(self) -> dict[str, tuple[str, bool]]:
        """What cannot be used now: why, and whether this process needs it."""
        checks = [Deferred.fromCoroutine(self._trouble(part)) for part in self._parts]
        found = await gatherResults(checks)
        return {part.name: (why, part.needed) for part, why in zip(self._parts, found, strict=True) if why}

    async def _start(self, part: Part) -> None:
        self._started.append(part)
        said = ""
        for attempt in range(1 << 30):
            try:
                await part.start()
            except ConfigError:
                raise
            except Unavailable as e:
                if e.message != said:
                    log.warn("waiting for the {part}: {why}", part=part.name, why=e.message)
                    said = e.message
                await deferLater(self._reactor, 0.1 + self._backoff.delay_s(attempt))
            else:
                if said:
                    log.warn("the {part} is there now", part=part.name)
                return

    async def _trouble(self, part: Part) -> str:
        async def check() -> None:
            await part.check()

        try:
            await Deferred.fromCoroutine(check()).addTimeout(CHECK_S, self._reactor)
        except defer.TimeoutError:
            return f"it did not answer within {CHECK_S:g} s"
        except CrawlfarmError as e:
            return e.message
        except Exception as e:
            return f"{type(e).__name__}: {e}"
        return ""

    def _lockd_away(self, client: Any) -> str:
        return f"CRAWLFARM_LOCKD ({', '.join(self._config.lockd)}): {client.problem or 'nobody answers'}"


def process_name(kind: str) -> str:
    """A name nobody else in the farm has, which says where to look."""
    host = "".join(c for c in socket.gethostname() if c.isalnum() or c in "-.")[:40]
    return f"{kind}-{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _raise(error: Exception) -> Any:
    raise error
