"""PostgreSQL with everything that happens to it: rights, restarts, standbys, full disks."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import psycopg2
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from crawlfarm.adapters.sql import migrations as migrations_module
from crawlfarm.adapters.sql.migrations import migrations
from crawlfarm.adapters.sql.postgres import PostgresDatabase
from crawlfarm.adapters.sql.postgres import database as database_module
from crawlfarm.adapters.sql.postgres import session as session_module
from crawlfarm.errors import ConfigError, CrawlfarmError, Unavailable
from tests.support.databases import migrate, migrated_database
from tests.support.processes import ROOT, Child
from tests.support.servers import PostgresServer, postgres_server
from tests.support.servers.base import HOST, free_ports
from tests.support.servers.postgres import PASSWORD, connected, execute

ROLES = ROOT / "deploy" / "postgres" / "roles.sql"

OPENER = """
import json, sys
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from crawlfarm.adapters.sql.postgres import PostgresDatabase

async def main():
    database = PostgresDatabase(reactor, sys.argv[1])
    await database.open()
    print(json.dumps({"ready": "open"}), flush=True)
    await database.close()

def failed(failure):
    print(failure.getErrorMessage(), file=sys.stderr)

Deferred.fromCoroutine(main()).addErrback(failed).addBoth(lambda _: reactor.stop())
reactor.run()
"""

NO_ROOM = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER no_room BEFORE INSERT ON results FOR EACH ROW WHEN (NEW.job = 'big') EXECUTE FUNCTION no_room();
"""


def with_parts(url: str, *, user: str = "", password: str = "", netloc: str = "", path: str = "") -> str:
    """The URL with some of it changed."""
    parts = urlsplit(url)
    name, secret = user or parts.username, password or parts.password
    where = netloc or f"{parts.hostname}:{parts.port}"
    return parts._replace(netloc=f"{name}:{secret}@{where}", path=path or parts.path).geturl()


class PostgresCase(TestCase):
    timeout = 60

    def database(self, url: str) -> PostgresDatabase:
        database = PostgresDatabase(reactor, url)
        self.addCleanup(database.close)
        return database

    async def opened(self, url: str) -> PostgresDatabase:
        database = self.database(url)
        await database.open()
        return database

    async def refusal(self, url: str, kind: type[CrawlfarmError] = ConfigError) -> str:
        """What opening it is refused with: it names the setting and no secret, and can be tried again."""
        database = self.database(url)
        for _ in range(2):
            error = await self.assertFailure(database.open(), kind)
        text = str(error)
        self.assertIn("CRAWLFARM_DATABASE_URL", text)
        self.assertNotIn(PASSWORD, text)
        self.assertNotIn("wrong-secret", text)
        return text

    async def jobs(self, database: PostgresDatabase) -> list[str]:
        rows = await database.run(lambda c: c.fetch("SELECT job FROM results ORDER BY job"))
        return [row["job"] for row in rows]


def insert(job: str) -> Callable[[Any], Any]:
    """Work that adds a result."""
    return lambda c: c.execute("INSERT INTO results VALUES (:job, 1, '', 1)", {"job": job})


class Refusals(PostgresCase):
    """What an operator reads when the database cannot be used."""

    async def test_wrong_password(self) -> None:
        """Also when it is missing, and when the user does not exist."""
        url = migrated_database(self)
        for wrong in (with_parts(url, password="wrong-secret"), with_parts(url, user="nobody")):
            self.assertIn("user name or password is wrong", await self.refusal(wrong))
        bare = url.replace(f":{PASSWORD}", "")
        for wrong in (bare, f"{bare}?password=wrong-secret"):
            self.assertIn("user name or password is wrong", await self.refusal(wrong))

    async def test_unknown_database(self) -> None:
        """It is named, and how to make it."""
        text = await self.refusal(with_parts(migrated_database(self), path="/nowhere"))
        self.assertIn('database "nowhere" does not exist', text)
        self.assertIn("CREATE DATABASE", text)

    async def test_not_a_url(self) -> None:
        """A URL that would be misunderstood is refused, without showing what might be the password."""
        for url in (
            "postgresql://me:wrong-secret/x@h/db",
            "postgresql://me:wrong-secret@a@h/db",
            "postgresql://h/db?wrong-secret=1",
            "postgresql://h:port/db",
        ):
            with self.assertRaises(ConfigError) as raised:
                PostgresDatabase(reactor, url)
            self.assertIn("CRAWLFARM_DATABASE_URL", str(raised.exception))
            self.assertNotIn("wrong-secret", str(raised.exception))

    async def test_unreachable(self) -> None:
        """Nobody listens, or the name is unknown: away for the moment."""
        url = migrated_database(self)
        text = await self.refusal(with_parts(url, netloc=f"{HOST}:{free_ports(1)[0]}"), Unavailable)
        self.assertIn("cannot be reached", text)
        self.assertIn("refused", text)
        await self.refusal(with_parts(url, netloc="no-such-host.invalid"), Unavailable)

    async def test_old_server(self) -> None:
        """A server that is too old is told with its version and ours."""
        self.patch(session_module, "OLDEST", 99)
        self.assertRegex(await self.refusal(migrated_database(self)), r"is PostgreSQL \d+; crawlfarm needs 99 or later")

    async def test_encoding(self) -> None:
        """A database that cannot hold every URL is refused."""
        url = postgres_server().fresh_database(self)
        execute(url, "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1'")
        self.addCleanup(execute, postgres_server().url, "DROP DATABASE latin")
        self.assertIn("encoding is LATIN1", await self.refusal(with_parts(url, path="/latin")))

    async def test_later_version(self) -> None:
        """A database of a later version is refused and not touched."""
        url = migrated_database(self)
        execute(url, "INSERT INTO migrations VALUES (9999, 'from the future')")
        database = self.database(url)
        error = await self.assertFailure(database.open(), ConfigError)
        self.assertIn("a later version of crawlfarm (schema 9999", str(error))

    async def test_no_connection_left(self) -> None:
        """A server whose connections are all taken is away, with what to raise."""
        url = migrated_database(self)
        execute(url, "CREATE ROLE narrow LOGIN PASSWORD 'wrong-secret' CONNECTION LIMIT 0")
        self.addCleanup(execute, postgres_server().url, "DROP ROLE narrow")
        text = await self.refusal(with_parts(url, user="narrow", password="wrong-secret"), Unavailable)
        self.assertIn("max_connections", text)


class Roles(PostgresCase):
    """``deploy/postgres/roles.sql``, on a server of its own: roles belong to the whole server."""

    def setUp(self) -> None:
        self.server = PostgresServer.start(self)
        self.admin = self.server.fresh_database()
        for _ in range(2):
            execute(self.admin, ROLES.read_text())
        for role in ("crawlfarm_owner", "crawlfarm_daemon"):
            execute(self.admin, f"ALTER ROLE {role} PASSWORD 'wrong-secret'")
        self.owner = with_parts(self.admin, user="crawlfarm_owner", password="wrong-secret")
        self.farm = with_parts(self.admin, user="crawlfarm_daemon", password="wrong-secret")

    async def test_least_rights(self) -> None:
        """The owner makes the schema; the daemons' role cannot, works with it, and can do nothing else."""
        text = await self.refusal(self.farm)
        self.assertIn("python -m crawlfarm.adapters.sql", text)
        self.assertIn("roles.sql", text)
        with Child(["python", "-m", "crawlfarm.adapters.sql"], environ={"CRAWLFARM_DATABASE_URL": self.owner}) as child:
            self.assertEqual(child.wait(), 0)
        self.assertIn("0001_jobs.sql", child.stderr)
        self.assertNotIn("wrong-secret", child.stderr)
        database = await self.opened(self.farm)
        await database.claim()
        await database.run(insert("j1"))
        self.assertEqual(await self.jobs(database), ["j1"])
        for forbidden in (
            "CREATE TABLE t (a int)",
            "DROP TABLE results",
            "CREATE TEMP TABLE t (a int)",
            "TRUNCATE jobs",
        ):
            error = await self.assertFailure(database.run(lambda c, f=forbidden: c.execute(f)), Unavailable)
            self.assertIn("a right is missing", str(error))

    async def test_missing_right(self) -> None:
        """A right the tables need is named at the start."""
        migrate(self.owner)
        execute(self.admin, "REVOKE UPDATE ON meta, jobs FROM crawlfarm_daemon")
        self.assertIn("lacks the right to UPDATE on jobs, UPDATE on meta", await self.refusal(self.farm))

    async def test_may_not_connect(self) -> None:
        """A user who may not connect reads what to grant."""
        migrate(self.owner)
        execute(self.admin, f'REVOKE CONNECT ON DATABASE "{urlsplit(self.admin).path[1:]}" FROM crawlfarm_daemon')
        self.assertIn("GRANT CONNECT", await self.refusal(self.farm))
        execute(self.admin, "ALTER ROLE crawlfarm_daemon NOLOGIN")
        self.assertIn("may not log in", await self.refusal(self.farm))


class Migrating(PostgresCase):
    async def test_at_once(self) -> None:
        """Of many processes that start at once on an empty database one migrates, the others wait for it."""
        url = postgres_server().fresh_database(self)
        children = [Child(["python", "-c", OPENER, url]) for _ in range(4)]
        for child in children:
            self.addCleanup(child.kill)
        for child in children:
            await deferToThread(child.wait)
            self.assertIn("ready", child.stdout, child.stderr)
        self.assertEqual(execute(url, "SELECT number FROM migrations ORDER BY 1"), [(n,) for n in migrations()])

    async def test_all_or_nothing(self) -> None:
        """A file that fails leaves nothing of itself, and the next start goes on from there."""
        url = postgres_server().fresh_database(self)
        known = migrations()
        broken = {**known, 9: ("0009_x.sql", "CREATE TABLE x (a int);\nCREATE TABLE jobs (a int);")}
        self.patch_migrations(broken)
        self.assertIn('relation "jobs" already exists', await self.refusal(url))
        self.assertEqual(execute(url, "SELECT to_regclass('x')"), [(None,)])
        self.patch_migrations({**known, 9: ("0009_x.sql", "CREATE TABLE x (a int);")})
        await self.opened(url)
        self.assertEqual(execute(url, "SELECT max(number) FROM migrations"), [(9,)])

    def patch_migrations(self, files: dict[int, tuple[str, str]]) -> None:
        self.patch(migrations_module, "migrations", lambda: files)


class Connections(PostgresCase):
    async def test_lost(self) -> None:
        """A connection that is lost fails what was asked over it; the next call has another."""
        url = migrated_database(self)
        database = await self.opened(url)
        for run in (database.run, database.run_apart):
            await run(lambda _: None)
            (row,) = await run(lambda c: c.fetch("SELECT pg_backend_pid() AS pid"))
            execute(url, "SELECT pg_terminate_backend(%s, 5000)", row["pid"])
            await self.assertFailure(run(insert("lost")), Unavailable)
            self.assertEqual(await run(lambda c: c.fetch("SELECT job FROM results")), [])

    async def test_restarted(self) -> None:
        """While the server is away calls say so; when it is back they work, and all that was answered is there."""
        server = await deferToThread(PostgresServer.start, self)
        url = server.fresh_database()
        database = await self.opened(url)
        for n, kill in enumerate((False, True)):
            await database.run(insert(f"j{n}"))
            await deferToThread(server.down, kill=kill)
            for _ in range(3):
                error = await self.assertFailure(database.run(insert("lost")), Unavailable)
            self.assertIn("refused", str(error))
            await deferToThread(server.up)
            self.assertEqual(await self.jobs(database), [f"j{m}" for m in range(n + 1)])

    async def test_big_results_hold_up_nothing(self) -> None:
        """While a statement of one track waits the other goes on."""
        url = migrated_database(self)
        database = await self.opened(url)
        with connected(url) as holder, holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(7)")
            big = database.run_apart(lambda c: c.fetch("SELECT pg_advisory_xact_lock(7)"))
            for n in range(10):
                await database.run(insert(f"j{n}"))
            self.assertNoResult(big)
            cursor.execute("SELECT pg_advisory_unlock(7)")
            await big

    async def test_no_time_out_for_commits(self) -> None:
        """Time-outs that a role has hold for results, not for leases; commits are durable in any case."""
        url = migrated_database(self)
        execute(url, f'ALTER DATABASE "{urlsplit(url).path[1:]}" SET statement_timeout = 100')
        execute(url, f'ALTER DATABASE "{urlsplit(url).path[1:]}" SET synchronous_commit = off')
        database = await self.opened(url)
        for run, timeout in ((database.run, "0"), (database.run_apart, "100ms")):
            for name, value in (("statement_timeout", timeout), ("synchronous_commit", "on")):
                (row,) = await run(lambda c, name=name: c.fetch(f"SHOW {name}"))
                self.assertEqual(row[name], value)
        sleep = "SELECT pg_sleep(0.3)"
        await database.run(lambda c: c.fetch(sleep))
        await self.assertFailure(database.run_apart(lambda c: c.fetch(sleep)), Unavailable)

    async def test_gives_way(self) -> None:
        """Of two that wait for each other one is run again, and both are done."""
        url = migrated_database(self)
        database = await self.opened(url)
        await database.run(
            lambda c: c.execute_many("INSERT INTO results VALUES (:job, 1, '', 1)", [{"job": "a"}, {"job": "b"}])
        )
        update = "UPDATE results SET token = token + 1 WHERE job = :job"
        locked = {"a": False, "b": False}

        def crossing(first: str, second: str) -> Callable[[Any], None]:
            def work(connection: Any) -> None:
                connection.execute(update, {"job": first})
                if not locked[first]:
                    locked[first] = True
                    end = 200
                    while not locked[second] and end:
                        connection.fetch("SELECT pg_sleep(0.01)")
                        end -= 1
                connection.execute(update, {"job": second})

            return work

        await gatherResults([database.run(crossing("a", "b")), database.run_apart(crossing("b", "a"))])
        self.assertEqual(execute(url, "SELECT token FROM results"), [(3,), (3,)])

    async def test_swallowed_error(self) -> None:
        """Work that goes on after a failed statement does not look as if it were committed."""
        database = await self.opened(migrated_database(self))

        def work(connection: Any) -> None:
            insert("j1")(connection)
            with contextlib.suppress(psycopg2.Error):
                connection.execute("SELECT nonsense")

        await self.assertFailure(database.run(work), psycopg2.InternalError)
        self.assertEqual(await self.jobs(database), [])

    async def test_close_of_a_server_that_stands_still(self) -> None:
        """A close does not wait for ever; what waited fails."""
        self.patch(database_module, "CLOSE_S", 0.2)
        server = await deferToThread(PostgresServer.start, self)
        url = server.fresh_database()
        database = await self.opened(url)
        with connected(url) as holder, holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(7)")
            waiting = database.run(lambda c: c.fetch("SELECT pg_advisory_xact_lock(7)"))
            closing = database.close()
            await self.assertFailure(waiting, Unavailable)
            await closing


class Failover(PostgresCase):
    async def test_standby(self) -> None:
        """A read-only standby alone is refused with what to name; with both named the primary is found."""
        primary = await deferToThread(PostgresServer.start, self)
        url = primary.fresh_database()
        migrate(url)
        standby = await deferToThread(primary.replica, self)
        self.assertIn(
            "read-only standby", await self.refusal(with_parts(url, netloc=f"{HOST}:{standby.port}"), Unavailable)
        )
        both = with_parts(url, netloc=f"{HOST}:{standby.port},{HOST}:{primary.port}")
        database = await self.opened(both)
        await database.claim()
        await database.run(insert("j1"))
        await deferToThread(standby.catch_up)
        await deferToThread(primary.kill)
        await self.assertFailure(database.run(insert("lost")), Unavailable)
        await self.assertFailure(database.run(insert("lost")), Unavailable)
        await deferToThread(standby.promote)
        self.assertEqual(await self.jobs(database), ["j1"])
        await database.run(insert("j2"))

    async def test_became_read_only(self) -> None:
        """A server that takes no writes any more is left, and looked for again."""
        url = migrated_database(self)
        database = await self.opened(url)
        await database.run(insert("j1"))
        error = await self.assertFailure(
            database.run(lambda c: (c.execute("SET TRANSACTION READ ONLY"), insert("j2")(c))), Unavailable
        )
        self.assertIn("read-only", str(error))
        self.assertIsNone(database._leases.session._connection)
        self.assertEqual(await self.jobs(database), ["j1"])


class FullDisk(PostgresCase):
    """A disk of our own where we may mount one; elsewhere the server only says that it is full."""

    async def test_full(self) -> None:
        """It is unavailable with what to do, has done nothing, and goes on with what there is room for."""
        server = await deferToThread(PostgresServer.start, self)
        url = server.fresh_database()
        database = await self.opened(url)
        await deferToThread(self.make_small, server, url)
        noise = "SELECT string_agg(uuid_send(gen_random_uuid()), '') FROM generate_series(1, 1000000)"
        big = f"INSERT INTO results VALUES ('big', 1, ({noise}), 1)"
        error = await self.assertFailure(database.run(lambda c: (insert("small")(c), c.execute(big))), Unavailable)
        self.assertIn("its disk is full: make room there", str(error))
        self.assertEqual(await self.jobs(database), [])
        await database.run(insert("small"))
        self.assertEqual(await self.jobs(database), ["small"])

    def make_small(self, server: PostgresServer, url: str) -> None:
        """Leave no room for big results."""
        place = server.folder / "small"
        place.mkdir()
        owner = server.folder.stat().st_uid
        options = f"size=8m,uid={owner},mode=700"
        mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
        if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            self.addCleanup(subprocess.run, ["umount", "--lazy", str(place)], check=True)
            execute(url, f"CREATE TABLESPACE small LOCATION '{place}'")
            execute(url, "ALTER TABLE results SET TABLESPACE small")
        else:
            execute(url, NO_ROOM)
