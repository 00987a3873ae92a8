"""The ways to the lock daemon, held to one contract: in its process, and over TCP."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import TestCase

from tests.contracts.lock_service import LockServiceContract
from tests.support.locks import ServedLocks


class InProcessTests(LockServiceContract, TestCase):
    async def setUp(self) -> None:
        self.served = ServedLocks(Path(self.mktemp()))
        self.addCleanup(self.served.stop)
        await self.served.start(listen=False)
        self.locks = self.served.daemon

    async def daemon_away(self) -> None:
        await self.served.daemon.stop()


class OverTcpTests(LockServiceContract, TestCase):
    async def setUp(self) -> None:
        self.served = ServedLocks(Path(self.mktemp()))
        self.addCleanup(self.served.stop)
        await self.served.start()
        self.locks = self.served.client(self, give_up_s=3.0)

    async def daemon_away(self) -> None:
        await self.served.stop()
