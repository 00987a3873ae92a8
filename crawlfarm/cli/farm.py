"""A whole farm in one process, on the embedded stand-ins.

This is the only place that knows which implementation is behind which port.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from crawlfarm.adapters.memory.cache import MemoryCache
from crawlfarm.adapters.memory.frontier import MemoryFrontier
from crawlfarm.adapters.memory.queue import MemoryQueue
from crawlfarm.adapters.sql.results import SqlResults
from crawlfarm.adapters.sql.sqlite import SqliteDatabase
from crawlfarm.config import Config
from crawlfarm.core.frontier import FrontierModel
from crawlfarm.errors import ConfigError
from crawlfarm.master.daemon import Master
from crawlfarm.worker.daemon import Worker
from lockd.service import LockDaemon
from wsgate.service import Gateway

log = Logger()


class EmbeddedFarm:
    """Gateway, lock daemon, master and worker in this process.

    Accepted jobs are rows in SQLite: a farm started on the same ``config.run_dir`` goes on
    with them.

    :raises ConfigError: the configuration names servers.
    """

    def __init__(self, reactor: Any, config: Config) -> None:
        timings = config.timings
        self._database = SqliteDatabase(reactor, _sqlite_file(config))
        results = SqlResults(self._database)
        queue = MemoryQueue(reactor)
        frontier = MemoryFrontier(
            reactor,
            FrontierModel(
                page_lease_s=timings.page_lease_s,
                page_attempts=config.page_attempts,
                host_concurrency=config.host_concurrency,
            ),
        )
        self._lockd = LockDaemon(reactor, self._database, queue, timings, max_attempts=config.max_attempts)
        self._gateway = Gateway(
            reactor,
            config,
            locks=self._lockd,
            queue=queue,
            frontier=frontier,
            results=results,
            cache=MemoryCache(reactor.seconds, timings.cache_ttl_s),
        )
        name = str(uuid.uuid4())
        self._master = Master(
            reactor,
            config,
            f"master-{name}",
            locks=self._lockd,
            queue=queue,
            frontier=frontier,
            results=results,
        )
        self._worker = Worker(reactor, config, f"worker-{name}", frontier=frontier)

    @property
    def endpoints(self) -> list[str]:
        """Where the gateway listens, as ``ws://`` URLs."""
        return self._gateway.endpoints

    async def start(self) -> None:
        """:raises ConfigError: a file or an address cannot be had; nothing is left running."""
        await self._database.open()
        try:
            await self._lockd.start()
            await self._gateway.start()
        except BaseException:
            await self._lockd.stop()
            await self._database.close()
            raise
        self._worker.start()
        self._master.start()

    async def stop(self) -> None:
        """Clients first, then the jobs (given back, where they stand), the database last."""
        for together in (
            (self._gateway.stop,),
            (self._master.stop, self._worker.stop),
            (self._lockd.stop,),
            (self._database.close,),
        ):
            await DeferredList([Deferred.fromCoroutine(_stopped(stop)) for stop in together])


def _sqlite_file(config: Config) -> Path:
    path = config.database_path
    servers = {
        "CRAWLFARM_BROKER_URL": config.broker_url,
        "CRAWLFARM_FRONTIER_URL": config.frontier_urls,
        "CRAWLFARM_CACHE_URL": config.cache_url,
        "CRAWLFARM_DATABASE_URL": path is None,
    }
    for name, is_set in servers.items():
        if is_set:
            raise ConfigError(f"{name} names a server, but this command has only the embedded stand-ins yet: unset it")
    assert path is not None
    return path


async def _stopped(stop: Callable[[], Awaitable[None]]) -> None:
    try:
        await stop()
    except Exception:
        log.failure("stopping {what} failed", what=stop)
