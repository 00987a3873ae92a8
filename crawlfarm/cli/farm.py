"""A whole farm in one process, on the embedded stand-ins and the servers that are set."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from crawlfarm.cli.compose import process_name
from crawlfarm.cli.process import Process, meter_gateway, meter_locks, meter_master, stopped, trouble_of
from crawlfarm.config import Config
from crawlfarm.master.daemon import Master
from crawlfarm.worker.daemon import Worker
from lockd.service import LockDaemon
from wsgate.service import Gateway


class Farm(Process):
    """Gateway, lock daemon, master and worker in this process.

    Accepted jobs are rows of the database: a farm started on the same one goes on with them.
    """

    kind = "up"
    goodbye = "what is in flight finishes, the rest is kept for the next `crawlfarm up`"

    def __init__(self, reactor: Any, config: Config) -> None:
        super().__init__(reactor, config)
        ports, timings = self._ports, config.timings
        database = ports.database()
        results = ports.results(database)
        queue = ports.queue(listens=True)
        frontier = ports.frontier()
        cache = ports.cache()
        self._lockd = LockDaemon(reactor, database, queue, timings, max_attempts=config.max_attempts)
        locks = self._meters.locks(self._lockd) if self._meters is not None else self._lockd
        self._gateway = Gateway(
            reactor, config, locks=locks, queue=queue, frontier=frontier, results=results, cache=cache
        )
        self._master = Master(
            reactor,
            config,
            process_name("master"),
            locks=locks,
            queue=queue,
            frontier=frontier,
            results=results,
            cache=cache,
        )
        self._worker = Worker(reactor, config, process_name("worker"), frontier=frontier)
        meter_gateway(self._meters, self._gateway)
        meter_master(self._meters, self._master)
        meter_locks(self._meters, lambda: self._lockd)

    def _own_endpoints(self) -> list[str]:
        """Where the gateway listens, as ``ws://`` URLs."""
        return self._gateway.endpoints

    async def _begin(self) -> None:
        await self._lockd.start()
        await self._gateway.start()
        self._worker.start()
        self._master.start()

    async def _end(self) -> None:
        """Clients first, then the jobs (given back, where they stand)."""
        for together in ((self._gateway.stop,), (self._master.stop, self._worker.stop), (self._lockd.stop,)):
            await DeferredList([Deferred.fromCoroutine(stopped(stop)) for stop in together])

    async def _own_trouble(self) -> str:
        return await trouble_of(self._lockd)
