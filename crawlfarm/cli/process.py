"""One process of the farm: its ports, its daemon, and how it starts and stops.

:class:`GatewayProcess`, :class:`LockProcess`, :class:`MasterProcess` and
:class:`WorkerProcess` hold one daemon each; :mod:`crawlfarm.cli.farm` holds one with all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from crawlfarm.cli.compose import Ports, process_name
from crawlfarm.cli.health import Health
from crawlfarm.cli.meters import Meters
from crawlfarm.config import Config
from crawlfarm.core.ports import LockService
from crawlfarm.errors import CrawlfarmError, Unavailable
from crawlfarm.master.daemon import Master
from crawlfarm.wire.lockd import Ask
from crawlfarm.worker.daemon import Worker
from lockd.server import LockServer
from lockd.service import LockDaemon
from wsgate.service import Gateway

log = Logger()

STOP_S = 20.0
"""A process that was told to stop is gone after this, whatever hangs."""
_RETRY_S = 1.0
_LOOK_S = 0.1


class Process:
    """Something of the farm in this process: :meth:`start` returns when it is ready.

    :cvar kind: its name in the ready line.
    :cvar goodbye: what becomes of its work when it stops, for people.
    """

    kind: ClassVar[str]
    goodbye: ClassVar[str]

    def __init__(self, reactor: Any, config: Config) -> None:
        self._reactor = reactor
        self._config = config
        self._meters = Meters(reactor) if config.metrics_listen else None
        self._ports = Ports(reactor, config, self._meters)
        self._health: Health | None = None
        if self._meters is not None:
            self._health = Health(reactor, config.metrics_listen, self.kind, self._meters, self._troubles)

    @property
    def endpoints(self) -> list[str]:
        """Where it listens, as URLs or endpoint strings; health and metrics last."""
        return [*self._own_endpoints(), *(self._health.endpoints if self._health is not None else [])]

    async def start(self) -> None:
        """:raises ConfigError: it will not come about by itself; nothing is left running."""
        try:
            if self._health is not None:
                await self._health.start()
            await self._ports.start()
            await self._begin()
            # What began may have asked for another connection.
            while any(needed for _, needed in (await self._troubles()).values()):
                await deferLater(self._reactor, _LOOK_S)
        except BaseException:
            await self.stop()
            raise
        if self._health is not None:
            self._health.started = True

    async def stop(self) -> None:
        """Finish or give back, and leave; within :data:`STOP_S`."""
        stopping = Deferred.fromCoroutine(self._stop())
        try:
            await stopping.addTimeout(STOP_S, self._reactor)
        except defer.TimeoutError:
            log.error("left after {seconds:g} s, though not everything had stopped", seconds=STOP_S)

    async def _stop(self) -> None:
        if self._health is not None:
            self._health.stopping = True
        await self._end()
        await self._ports.stop()
        if self._health is not None:
            await stopped(self._health.stop)

    async def _troubles(self) -> dict[str, tuple[str, bool]]:
        found = await self._ports.troubles()
        own = await self._own_trouble()
        return {**found, self.kind: (own, True)} if own else found

    # --- what each kind says ------------------------------------------------------------

    def _own_endpoints(self) -> list[str]:
        return []

    async def _begin(self) -> None:
        """The ports are there."""
        raise NotImplementedError

    async def _end(self) -> None:
        """Stop; it may not have begun. Raises nothing."""
        raise NotImplementedError

    async def _own_trouble(self) -> str:
        """Why it cannot do its work, though its ports are there; empty when it can."""
        return ""


class GatewayProcess(Process):
    kind = "gateway"
    goodbye = "clients are told to come back to another gateway; their jobs go on"

    def __init__(self, reactor: Any, config: Config) -> None:
        super().__init__(reactor, config)
        ports = self._ports
        self._gateway = Gateway(
            reactor,
            config,
            locks=ports.locks(),
            queue=ports.queue(listens=True),
            frontier=ports.frontier(),
            results=ports.results(),
            cache=ports.cache(),
        )
        meter_gateway(self._meters, self._gateway)

    def _own_endpoints(self) -> list[str]:
        return self._gateway.endpoints

    async def _begin(self) -> None:
        await self._gateway.start()

    async def _end(self) -> None:
        await stopped(self._gateway.stop)


class MasterProcess(Process):
    kind = "master"
    goodbye = "jobs are given back where they stand; another master takes them"

    def __init__(self, reactor: Any, config: Config) -> None:
        super().__init__(reactor, config)
        ports = self._ports
        self._master = Master(
            reactor,
            config,
            process_name("master"),
            locks=ports.locks(),
            queue=ports.queue(),
            frontier=ports.frontier(),
            results=ports.results(),
            cache=ports.cache(),
        )
        meter_master(self._meters, self._master)

    async def _begin(self) -> None:
        self._master.start()

    async def _end(self) -> None:
        await stopped(self._master.stop)


class WorkerProcess(Process):
    kind = "worker"
    goodbye = "what is in flight may finish, the other pages are given back"

    def __init__(self, reactor: Any, config: Config) -> None:
        super().__init__(reactor, config)
        self._worker = Worker(reactor, config, process_name("worker"), frontier=self._ports.frontier())

    async def _begin(self) -> None:
        self._worker.start()

    async def _end(self) -> None:
        await stopped(self._worker.stop)


class LockProcess(Process):
    kind = "lockd"
    goodbye = "what was decided is committed; running jobs go on until it is back"

    def __init__(self, reactor: Any, config: Config) -> None:
        super().__init__(reactor, config)
        self._database = self._ports.database()
        # Leases go on without it; what could not be published is published again.
        self._queue = self._ports.queue(needed=False)
        self._daemon: LockDaemon | None = None
        self._server: LockServer | None = None
        if self._meters is not None:
            meter_locks(self._meters, lambda: self._daemon)
            self._meters.gauge(
                "lockd_connections",
                "Connections to the lock daemon",
                lambda: self._server.connections if self._server is not None else 0,
            )

    def _own_endpoints(self) -> list[str]:
        return self._server.endpoints if self._server is not None else []

    async def _begin(self) -> None:
        while True:
            self._daemon = daemon = LockDaemon(
                self._reactor, self._database, self._queue, self._config.timings, self._config.max_attempts
            )
            try:
                await daemon.start()
                break
            except Unavailable as e:
                log.warn("the lock daemon cannot start yet: {why}", why=e.message)
                await deferLater(self._reactor, _RETRY_S)
        self._server = LockServer(self._reactor, self._config, daemon)
        await self._server.start()

    async def _end(self) -> None:
        if self._server is not None:
            await stopped(self._server.stop)
        if self._daemon is not None:
            await stopped(self._daemon.stop)

    async def _own_trouble(self) -> str:
        return await trouble_of(self._daemon) if self._daemon is not None else ""


KINDS: dict[str, type[Process]] = {
    process.kind: process for process in (GatewayProcess, LockProcess, MasterProcess, WorkerProcess)
}


async def stopped(stop: Callable[[], Awaitable[object]]) -> None:
    """Stop it; what goes wrong with that is said, and the rest stopped all the same."""
    try:
        await stop()
    except Exception:
        log.failure("stopping {what} failed", what=stop)


async def trouble_of(locks: LockService) -> str:
    try:
        await locks.call(Ask("no such job", "nobody"))
    except CrawlfarmError as e:
        return e.message
    return ""


def meter_gateway(meters: Meters | None, gateway: Gateway) -> None:
    if meters is not None:
        meters.gauge("gateway_connections", "Clients connected to this gateway", lambda: gateway.connections)


def meter_master(meters: Meters | None, master: Master) -> None:
    if meters is not None:
        meters.gauge("master_jobs", "Jobs this master runs now", lambda: master.jobs)


def meter_locks(meters: Meters | None, daemon: Callable[[], LockDaemon | None]) -> None:
    def jobs() -> dict[str, int]:
        found = daemon()
        return found.jobs if found is not None else {}

    def commits() -> int:
        found = daemon()
        return found.commits if found is not None else 0

    if meters is not None:
        meters.states("jobs", "Jobs the lock daemon knows, by state", "state", jobs)
        meters.counter("lockd_commits", "Commits of the lock daemon, each of many decisions", commits)
