"""The lock daemon over real PostgreSQL: what leaves it is committed, whatever happens to either."""

from __future__ import annotations

import signal
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from crawlfarm.adapters.memory.queue import MemoryQueue
from crawlfarm.adapters.sql.postgres import PostgresDatabase
from crawlfarm.config import Timings
from crawlfarm.errors import ConfigError, Unavailable
from crawlfarm.wire import lockd
from lockd.rows import Changes, JobRow
from lockd.service import LockDaemon
from lockd.store import JobStore
from tests.contracts.lock_daemon import (
    SPEC,
    CommitsContract,
    EffectsContract,
    FailuresContract,
    LockDaemonCase,
    RestartsContract,
)
from tests.support.databases import DEADLINE_S, eventually, migrate, migrated_database
from tests.support.processes import Child, start
from tests.support.servers import PostgresServer, postgres_server
from tests.support.servers.base import wait_until
from tests.support.servers.postgres import connected, execute
from tests.support.shaky import Shaky

CHILD = """
import json, sys
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from crawlfarm.adapters.memory.queue import MemoryQueue
from crawlfarm.adapters.sql.postgres import PostgresDatabase
from crawlfarm.config import Timings
from crawlfarm.wire import lockd
from crawlfarm.wire.jobs import JobSpec
from lockd.service import LockDaemon

async def main():
    database = PostgresDatabase(reactor, sys.argv[1])
    await database.open()
    daemon = LockDaemon(reactor, database, MemoryQueue(reactor), Timings(), 3)
    await daemon.start()
    await daemon.call(lockd.Register("j1", "c", "a", "body", "flight", JobSpec("http://a.example/", 2)))
    granted = await daemon.call(lockd.Acquire("m1", "j1"))
    print(json.dumps({"ready": "lockd", "token": granted.token}), flush=True)
    await Deferred()

def failed(failure):
    print(failure.getErrorMessage(), file=sys.stderr)
    reactor.stop()

Deferred.fromCoroutine(main()).addErrback(failed)
reactor.run()
"""


class ShakyPostgres(Shaky, PostgresDatabase):
    pass


class PostgresCase(TestCase):
    timeout = 60
    url = ""

    def make_database(self) -> Any:
        self.url = self.url or migrated_database(self)
        return ShakyPostgres(reactor, self.url)

    async def crash(self: Any) -> None:
        """Go on as a new process; the old one's connection is gone."""
        await self.database.close()
        await self.start()


class Commits(PostgresCase, CommitsContract):
    pass


class Effects(PostgresCase, EffectsContract):
    pass


class Failures(PostgresCase, FailuresContract):
    async def test_failing_start(self) -> None:
        """A daemon that cannot read at its start does not start, and can be started again."""
        daemon = await self.start()
        await daemon.stop()
        self.database.fails_before = 1
        await self.assertUnavailable(LockDaemon(self.clock, self.database, self.queue, Timings(), 3).start())
        self.addCleanup((await self.start_another()).stop)

    async def start_another(self) -> LockDaemon:
        daemon = LockDaemon(self.clock, self.database, self.queue, Timings(), 3)
        await daemon.start()
        return daemon


class Restarts(PostgresCase, RestartsContract):
    async def test_leases_go_on(self) -> None:
        """Masters outlive the daemon: after a crash tokens are valid, and nothing is handed out again."""
        await self.start()
        for job in ("j1", "j2", "j3"):
            await self.register(job)
        old = (await self.acquire("j1")).token
        self.clock.advance(29)
        await self.crash()
        self.assertEqual(sorted(self.waiting()), ["j2", "j3"])
        self.assertEqual((await self.acquire("j1", "m2")).code, "leased")
        self.clock.advance(29)  # the whole time once more: the master could not be heard meanwhile
        self.assertEqual((await self.acquire("j1", "m2")).code, "leased")
        self.assertEqual(await self.beat(old, 1), lockd.Beat(30))
        self.assertGreater((await self.acquire("j2", "m2")).token, old)
        self.assertEqual(await self.complete(old), lockd.Done("j1"))

    async def test_lost_masters(self) -> None:
        """A lease whose master was lost with the daemon is overdue after its grace, and fenced."""
        await self.start()
        await self.register("j1")
        old = (await self.acquire("j1")).token
        await self.crash()
        self.clock.advance(31)
        self.assertEqual(self.waiting(), ["j1"])
        again = await self.acquire("j1", "m2")
        self.assertEqual((again.job, again.attempt), ("j1", 2))
        self.assertGreater(again.token, old)
        self.assertEqual(await self.complete(old), lockd.Fenced("j1"))

    async def test_cancel_of_a_running_job(self) -> None:
        """A cancel that was answered holds after a crash: its master hears of it."""
        await self.start()
        await self.register("j1")
        token = (await self.acquire("j1")).token
        await self.daemon.call(lockd.CancelJob("j1", "c", reason="left"))
        await self.crash()
        self.assertEqual(await self.beat(token, 1), lockd.Beat(30, "left"))

    async def test_killed(self) -> None:
        """kill -9 of the whole process: another daemon goes on at once, with the leases as they were."""
        self.url = migrated_database(self)
        child = start(["python", "-c", CHILD, self.url], test=self)
        child.signal(signal.SIGKILL)
        await self.start()
        self.assertEqual(self.waiting(), [])
        self.assertEqual(await self.beat(child.ready["token"], 1), lockd.Beat(30))


class Two(PostgresCase, LockDaemonCase):
    """Two daemons on one database."""

    async def test_second_is_refused(self) -> None:
        """The second says who is there, and the first does not notice; it may start when that has stopped."""
        first = await self.start()
        second = PostgresDatabase(reactor, self.url)
        await second.open()
        self.addCleanup(second.close)
        daemon = LockDaemon(self.clock, second, self.queue, Timings(), 3)
        error = await self.assertFailure(daemon.start(), ConfigError)
        for part in ("CRAWLFARM_DATABASE_URL", "another lock daemon", "crawlfarm ", "stop that one"):
            self.assertIn(part, str(error))
        self.assertTrue((await self.register("j1")).created)
        await first.stop()
        await self.database.close()
        await daemon.start()
        self.addCleanup(daemon.stop)
        self.assertEqual((await daemon.call(lockd.Ask("j1", "c"))).state, "queued")
        await self.database.open()
        await self.assertFailure(self.database.claim(), ConfigError)

    async def test_superseded(self) -> None:
        """Whoever read the table before somebody else did writes nothing any more."""
        self.url = migrated_database(self)
        stores = []
        for _ in range(2):
            database = PostgresDatabase(reactor, self.url)
            await database.open()
            self.addCleanup(database.close)
            store = JobStore(database)
            stores.append((store, await store.load(0)))
        (old, before), (new, after) = stores
        for job, store, first, lands in (("a", old, before.first, False), ("b", new, after.first, True)):
            changes = Changes()
            changes.put(JobRow(job, f"flight {job}", SPEC, created_at=1))
            if lands:
                await store.write(changes, first + 1)
            else:
                await self.assertFailure(store.write(changes, first + 1), Unavailable)
        self.assertEqual(execute(self.url, "SELECT job FROM jobs"), [("b",)])
        self.assertEqual((await new.load(0)).commit, after.first + 1)

    async def test_taken_while_away(self) -> None:
        """A daemon whose connection is cut is out while another has its place, and goes on after it."""
        await self.start()
        await self.register("j1")
        with connected(self.url) as other:
            cursor = other.cursor()
            # In one statement: ours is ended and the place taken before it can come back.
            (place,) = execute(self.url, "SELECT classid::int, objid::int FROM pg_locks WHERE locktype = 'advisory'")
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted", ())
            cursor.execute("SELECT pg_advisory_lock(%s, %s)", place)
            lost = self.register("j2")
            error = await self.assertFailure(lost, Unavailable)
            self.assertIn("cannot tell", str(error))
            await self.assertUnavailable(self.register("j3"))
            cursor.execute("UPDATE meta SET value = value + 1 WHERE name = 'reading'")
        await self.retried()
        self.assertTrue((await self.register("j3")).created)
        self.assertEqual(sorted(await self.rows()), ["j1", "j3"])

    async def retried(self) -> None:
        """Once the daemon has its table again, however often it has to try."""
        recovery = self.daemon._recovery
        while not recovery.called:
            self.clock.advance(10)
            await deferLater(reactor, 0.01)
        await recovery


class UnknownOutcomes(PostgresCase, LockDaemonCase):
    """The connection is lost while the server commits: a deferred trigger holds it there."""

    async def begin(self) -> Any:
        """A daemon whose next commit hangs in the server until the returned connection lets it go."""
        await self.start()
        await self.register("j0")
        holder = self.enterContext(connected(self.url))
        with holder.cursor() as cursor:
            cursor.execute(
                """
                CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM pg_advisory_xact_lock(99); RETURN NULL; END $$;
                CREATE CONSTRAINT TRIGGER hang AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW WHEN (NEW.job = 'j1') EXECUTE FUNCTION hang();
                """
            )
            cursor.execute("SELECT pg_advisory_lock(99)")
        return holder

    async def hanging(self) -> None:
        await eventually(
            self.url, "SELECT 1 FROM pg_locks WHERE objid = 99 AND NOT granted", "the commit did not reach the server"
        )

    def let_go(self, holder: Any) -> None:
        with holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(99)")

    async def test_did_not_take_place(self) -> None:
        """The old connection is ended, its commit with it: the answer says that nothing happened."""
        holder = await self.begin()
        answer = self.register("j1")
        await self.hanging()
        self.database._leases.session.break_off()
        error = await self.assertFailure(answer, Unavailable)
        self.assertIn("did not happen", str(error))
        self.let_go(holder)
        await self.recovered()
        self.assertEqual(sorted(await self.rows()), ["j0"])
        self.assertTrue((await self.register("j1")).created)

    async def test_took_place(self) -> None:
        """A commit that still hangs in the server is waited for, and answered when it took place."""
        holder = await self.begin()
        session = self.database._leases.session
        session._last = None  # it cannot end the old connection
        session._claims = False
        answer = self.register("j1")
        await self.hanging()
        session.break_off()
        await eventually(
            self.url,
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%reading%'",
            "the reading did not wait for the commit",
        )
        self.assertNoResult(answer)
        self.let_go(holder)
        self.assertTrue((await answer).created)
        self.assertEqual(sorted(await self.rows()), ["j0", "j1"])
        self.assertFalse((await self.register("j1")).created)


class ServerRestarts(TestCase):
    """A server of one's own, restarted and killed under load."""

    timeout = 120
    jobs = 1500

    async def test_in_the_middle_of_commits(self) -> None:
        """Every answer holds, every job is accepted, granted and ended once; clients only ask again."""
        server = await deferToThread(PostgresServer.start, self)
        self.url = server.fresh_database()
        migrate(self.url)
        self.database = PostgresDatabase(reactor, self.url)
        await self.database.open()
        self.addCleanup(self.database.close)
        self.daemon = LockDaemon(reactor, self.database, MemoryQueue(reactor), Timings(), 3)
        await self.daemon.start()
        self.addCleanup(self.daemon.stop)
        self.done = 0
        self.tokens: dict[str, int] = {}
        self.unavailable = 0
        waiting = iter(range(self.jobs))
        working = gatherResults([Deferred.fromCoroutine(self.client(waiting)) for _ in range(100)], consumeErrors=True)
        for part, kill in ((0.1, False), (0.4, True), (0.7, True)):
            while self.done < self.jobs * part:
                await deferLater(reactor, 0.005)
            await deferToThread(server.restart, kill=kill)
        await working
        self.assertGreater(self.unavailable, 0)
        rows = dict(execute(self.url, "SELECT job, state || ' ' || token FROM jobs"))
        self.assertEqual(sorted(rows), sorted(self.tokens))
        self.assertEqual(len(rows), self.jobs)
        self.assertEqual(rows, {job: f"done {token}" for job, token in self.tokens.items()})
        self.assertEqual(len(set(self.tokens.values())), self.jobs)

    async def client(self, numbers: Any) -> None:
        for n in numbers:
            job = f"j{n}"
            registered = await self.ask(lockd.Register(job, "c", job, "body", f"flight {job}", SPEC))
            self.assertEqual(registered.job, job)
            await self.check(job, "queued")
            granted = await self.ask(lockd.Acquire(f"m{n}", job))
            self.assertEqual((granted.job, granted.attempt), (job, 1))
            self.tokens[job] = granted.token
            self.assertEqual(await self.ask(lockd.Complete(f"m{n}", job, granted.token, "done")), lockd.Done(job))
            self.done += 1

    async def check(self, job: str, state: str) -> None:
        self.assertEqual((await self.ask(lockd.Ask(job, "c"))).state, state)

    async def ask(self, command: lockd.Command) -> Any:
        """The answer, as a client gets it that asks until there is one."""
        end = reactor.seconds() + DEADLINE_S * 3
        while True:
            try:
                return await self.daemon.call(command)
            except Unavailable:
                self.unavailable += 1
                self.assertLess(reactor.seconds(), end, "the database does not come back")
                await deferLater(reactor, 0.02)


class Rivals(TestCase):
    timeout = 60

    async def test_who_comes_first(self) -> None:
        """Of several daemons that start at once on an empty database one has it, the others are refused."""
        url = postgres_server().fresh_database(self)
        children = [Child(["python", "-c", CHILD, url]) for _ in range(3)]
        for child in children:
            self.addCleanup(child.kill)
        await deferToThread(wait_until, lambda: all(map(self.has_spoken, children)), DEADLINE_S * 2, "not all spoke")
        (ready,) = (child for child in children if child.lines)
        for child in children:
            if child is not ready:
                self.assertIn("another lock daemon works on this database", child.stderr)

    def has_spoken(self, child: Child) -> bool:
        return bool(child.lines or child.stderr)
