"""The lock daemon over real SQLite: what leaves it is committed, whatever happens to the disk."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from crawlfarm.adapters.sql.sqlite import SqliteDatabase
from crawlfarm.errors import Unavailable
from crawlfarm.wire import lockd
from lockd.service import LockDaemon
from tests.contracts.lock_daemon import (
    SPEC,
    TIMINGS,
    CommitsContract,
    EffectsContract,
    FailuresContract,
    RestartsContract,
)
from tests.support.shaky import Shaky

CHILD = """
import json, sys
from pathlib import Path
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from crawlfarm.adapters.memory.queue import MemoryQueue
from crawlfarm.adapters.sql.sqlite import SqliteDatabase
from crawlfarm.config import Timings
from crawlfarm.wire import lockd
from crawlfarm.wire.jobs import JobSpec
from lockd.service import LockDaemon

async def main():
    database = SqliteDatabase(reactor, Path(sys.argv[1]))
    await database.open()
    daemon = LockDaemon(reactor, database, MemoryQueue(reactor), Timings(), 3)
    await daemon.start()
    await daemon.call(lockd.Register("j1", "c", "a", "body", "flight", JobSpec("http://a.example/", 2)))
    granted = await daemon.call(lockd.Acquire("m1", "j1"))
    print(json.dumps({"token": granted.token}), flush=True)
    await Deferred()

Deferred.fromCoroutine(main())
reactor.run()
"""


class ShakySqlite(Shaky, SqliteDatabase):
    pass


class SqliteCase(TestCase):
    path: Path | None = None

    def make_database(self) -> Any:
        from twisted.internet import reactor

        self.path = self.path or Path(self.mktemp()) / "lockd.sqlite"
        return ShakySqlite(reactor, self.path)

    async def crash(self: Any) -> None:
        """Go on as a new process with the files as the disk holds them now."""
        directory = Path(self.mktemp())
        shutil.copytree(self.path.parent, directory)
        self.path = directory / self.path.name
        await self.start()


class Commits(SqliteCase, CommitsContract):
    pass


class Effects(SqliteCase, EffectsContract):
    pass


class Failures(SqliteCase, FailuresContract):
    async def test_failing_start(self) -> None:
        """A daemon that cannot write at its start does not start."""
        await self.start()
        await self.register("j1")
        await self.acquire("j1")
        second = LockDaemon(self.clock, self.database, self.queue, TIMINGS, 3)
        self.database.held = []
        started = second.start()
        self.database.let_go()  # the reading passes
        self.database.held = []
        self.assertNoResult(started)
        while not self.database.held:
            await self.turn()
        self.database.fails_before = 1
        self.database.let_go()
        await self.assertFailure(started, Unavailable)
        await self.assertUnavailable(second.call(lockd.Ask("j1", "c")))

    async def turn(self) -> None:
        """Let the reactor run what is due."""
        from twisted.internet import reactor

        turned: Deferred[None] = Deferred()
        reactor.callLater(0, turned.callback, None)
        await turned


class Restarts(SqliteCase, RestartsContract):
    async def test_all_that_was_answered(self) -> None:
        """After a crash every accepted job is there, published, and runs under a higher token."""
        await self.start()
        await gatherResults([self.register(f"j{n}") for n in range(1, 5)])
        old = (await self.acquire("j1")).token
        await self.complete((await self.acquire("j2")).token, "j2")
        await self.daemon.call(lockd.CancelJob("j3", "c"))
        before = {job: await self.ask(job) for job in ("j2", "j3", "j4")}
        await self.crash()
        self.assertEqual(sorted(self.waiting()), ["j1", "j4"])
        for job, view in before.items():
            self.assertEqual(await self.ask(job), view)
        self.assertEqual(await self.beat(old, 1), lockd.Fenced("j1"))
        again = await self.acquire("j1", "m2")
        self.assertEqual((again.attempt, again.spec), (2, SPEC))
        self.assertGreater(again.token, old + 1)
        self.assertFalse((await self.register("j9", id="j4")).created)

    async def test_cancel_of_a_running_job(self) -> None:
        """A cancel that was answered holds after a crash: the next master is told."""
        await self.start()
        await self.register("j1")
        await self.acquire("j1")
        await self.daemon.call(lockd.CancelJob("j1", "c", reason="left"))
        await self.crash()
        self.assertEqual(self.waiting(), ["j1"])
        self.assertEqual((await self.acquire("j1")).cancel, "left")

    async def test_killed(self) -> None:
        """kill -9 of the whole process: the job that was accepted goes on, under a higher token."""
        self.path = Path(self.mktemp()) / "lockd.sqlite"
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(self.path)], stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            token = json.loads(child.stdout.readline())["token"]
        finally:
            child.send_signal(signal.SIGKILL)
            child.communicate()
        await self.start()
        self.assertEqual(self.waiting(), ["j1"])
        self.assertGreater((await self.acquire("j1")).token, token)
