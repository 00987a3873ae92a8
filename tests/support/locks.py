"""A lock daemon that listens, and clients of it; also as a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import reactor

from crawlfarm.adapters.lockd.client import LockdClient, Patience
from crawlfarm.adapters.memory.queue import MemoryQueue
from crawlfarm.adapters.sql.sqlite import SqliteDatabase
from crawlfarm.config import Config, Timings
from crawlfarm.core.backoff import Backoff
from crawlfarm.wire import lockd
from lockd.protocol import Limits
from lockd.server import LockServer
from lockd.service import LockDaemon
from tests.support.processes import HasCleanup

QUICK = Backoff(first_s=0.02, most_s=0.2)


class CountedDaemon(LockDaemon):
    """Counts what it decides.

    :ivar decided: every command, in order.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.decided: list[lockd.Command] = []

    def call(self, command: lockd.Command) -> Any:
        self.decided.append(command)
        return super().call(command)


class ServedLocks:
    """A lock daemon on SQLite in the test's reactor, on one port for all its lives.

    :param counted: whether the daemon is a :class:`CountedDaemon`.
    :ivar daemon: the present one; ``server`` is what it listens with.
    """

    daemon: Any
    server: LockServer

    def __init__(
        self, directory: Path, *, secret: str = "", limits: Limits | None = None, counted: bool = True
    ) -> None:
        self.directory = directory
        self.secret = secret
        self.limits = limits
        self.counted = counted
        self.port = 0
        self._running = False

    @property
    def address(self) -> str:
        """Where its clients connect to."""
        return f"tcp:127.0.0.1:{self.port}"

    async def start(self, *, listen: bool = True) -> None:
        self._database = database = SqliteDatabase(reactor, self.directory / "lockd.sqlite")
        await database.open()
        self._running = True
        made = CountedDaemon if self.counted else LockDaemon
        self.daemon = made(reactor, database, MemoryQueue(reactor), Timings(), 3)
        config = Config(lockd_listen=f"tcp:{self.port}:interface=127.0.0.1", lockd_secret=self.secret)
        self.server = LockServer(reactor, config, self.daemon, limits=self.limits)
        await self.daemon.start()
        if listen:
            await self.server.start()
            self.port = int(self.server.endpoints[0].rpartition(":")[2])

    async def stop(self) -> None:
        """May be called twice, and started again."""
        if self._running:
            self._running = False
            await self.server.stop()
            await self.daemon.stop()
            await self._database.close()

    def client(self, test: HasCleanup, *addresses: str, secret: str | None = None, **patience: Any) -> LockdClient:
        """A client that ends with the test; of this daemon, unless ``addresses`` are given."""
        client = LockdClient(
            reactor,
            addresses or (self.address,),
            secret=self.secret if secret is None else secret,
            patience=Patience(**{"backoff": QUICK, **patience}),
        )
        test.addCleanup(client.stop)
        client.start()
        return client
