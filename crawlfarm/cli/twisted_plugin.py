"""The daemons as Twisted services, for ``deploy/twisted/plugins/crawlfarm.py``."""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from crawlfarm.cli.daemons import check_shared
from crawlfarm.config import Config
from crawlfarm.errors import ConfigError, CrawlfarmError

log = Logger()


class DaemonOptions(UsageOptions):
    """No options: the environment says everything (CRAWLFARM_*)."""

    kind: str
    config: Config

    def postOptions(self) -> None:
        from twisted.internet import reactor
        from twisted.internet.asyncioreactor import AsyncioSelectorReactor

        if not isinstance(reactor, AsyncioSelectorReactor):
            raise UsageError(f"it runs on the asyncio reactor: twist --reactor=asyncio crawlfarm-{self.kind}")
        try:
            self.config = Config.load()
            check_shared(self.config, self.kind)
        except ConfigError as e:
            raise UsageError(e.message) from e


class DaemonService(Service):
    """One daemon. What it cannot be started with ends the process, with exit code 2."""

    def __init__(self, kind: str, config: Config) -> None:
        self._kind = kind
        self._config = config
        self._process: Any = None
        self._starting: Deferred[None] = succeed(None)

    def startService(self) -> None:
        from twisted.internet import reactor

        super().startService()  # type: ignore[no-untyped-call]
        self._starting = Deferred.fromCoroutine(self._start(reactor))

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        self._starting.cancel()
        if self._process is None:
            return succeed(None)
        log.info("stopping: {goodbye}", goodbye=self._process.goodbye)
        stopping: Deferred[None] = Deferred.fromCoroutine(self._process.stop())
        return stopping

    async def _start(self, reactor: Any) -> None:
        from crawlfarm.cli.process import KINDS
        from crawlfarm.cli.serving import say_ready

        try:
            # In a turn of the reactor: before the first one there is no running event loop.
            await deferLater(reactor, 0)
            process = KINDS[self._kind](reactor, self._config)
            await process.start()
            self._process = process
            say_ready(self._kind, process.endpoints)
        except CancelledError:
            log.info("{kind} had not begun", kind=self._kind)
        except Exception as e:
            if not isinstance(e, CrawlfarmError):
                log.failure("{kind} cannot be started", kind=self._kind)
            (sys.__stderr__ or sys.stderr).write(f"crawlfarm-{self._kind}: error: {e}\n")
            reactor.addSystemEventTrigger("after", "shutdown", _leave)
            reactor.stop()


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


class Maker:
    """What a plugin names: ``Options`` and ``makeService`` for one kind of daemon."""

    def __init__(self, kind: str) -> None:
        self.Options = type("Options", (DaemonOptions,), {"kind": kind, "__doc__": DaemonOptions.__doc__})

    def makeService(self, options: DaemonOptions) -> DaemonService:
        return DaemonService(options.kind, options.config)


gateway, lockd, master, worker = (Maker(kind) for kind in ("gateway", "lockd", "master", "worker"))
