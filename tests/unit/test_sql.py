"""The SQLite database: its disk, the file's lock, migrations, and the query files."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from functools import partial
from importlib import resources
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase, TestCase

from crawlfarm.adapters.sql import migrations
from crawlfarm.adapters.sql.queries import load_queries, parse_queries
from crawlfarm.adapters.sql.sqlite import SqliteDatabase, transact
from crawlfarm.errors import ConfigError, Unavailable

QUERY_FILES = ("jobs", "results")
"""Those that both databases take."""

HOLDER = """
import json, sys
from pathlib import Path
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from crawlfarm.adapters.sql.sqlite import SqliteDatabase

async def main():
    database = SqliteDatabase(reactor, Path(sys.argv[1]))
    await database.open()
    await database.run(lambda c: c.execute("INSERT INTO results VALUES ('answered', 1, '', 1)"))
    print(json.dumps({"answered": True}), flush=True)
    await Deferred()

Deferred.fromCoroutine(main())
reactor.run()
"""


class DatabaseCase(TestCase):
    timeout = 20

    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "deep" / "down" / "crawlfarm.sqlite"

    def database(self, path: Path | None = None) -> SqliteDatabase:
        from twisted.internet import reactor

        database = SqliteDatabase(reactor, path or self.path)
        self.addCleanup(database.close)
        return database

    async def refusal(self, path: Path | None = None) -> str:
        """What opening it is refused with."""
        error = await self.assertFailure(self.database(path).open(), ConfigError)
        return str(error)


class Disk(DatabaseCase):
    async def test_durable(self) -> None:
        """The settings that keep what was answered, whatever happens then, are on."""
        database = self.database()
        await database.open()
        found = {}
        for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout"):
            (row,) = await database.run(lambda c, name=name: c.fetch(f"PRAGMA {name}"))
            found[name] = next(iter(row.values()))
        self.assertEqual(found, {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000})

    async def test_full_disk(self) -> None:
        """A database that cannot write is unavailable, has done nothing, and goes on once it can."""
        database = self.database()
        await database.open()
        insert = "INSERT INTO results VALUES (:job, 1, zeroblob(1000000), 1)"
        (row,) = await database.run(lambda c: c.fetch("PRAGMA page_count"))
        pages = row["page_count"]
        await database.run(lambda c: c.fetch(f"PRAGMA max_page_count = {pages + 2}"))
        await self.assertFailure(database.run(lambda c: c.execute(insert, {"job": "j1"})), Unavailable)
        self.assertEqual(await database.run(lambda c: c.fetch("SELECT job FROM results")), [])
        await database.run(lambda c: c.fetch("PRAGMA max_page_count = 1000000"))
        await database.run(lambda c: c.execute(insert, {"job": "j1"}))


class Opening(DatabaseCase):
    async def test_twice(self) -> None:
        """A second one on the same file is refused with the process that has it, until that gives it free."""
        first = self.database()
        await first.open()
        text = await self.refusal()
        self.assertIn(f"in use by another running crawlfarm (process {os.getpid()})", text)
        self.assertIn("CRAWLFARM_RUN_DIR", text)
        await first.close()
        await self.database().open()

    async def test_killed(self) -> None:
        """After kill -9 the file is free, and all that was answered is in it."""
        child = subprocess.Popen([sys.executable, "-c", HOLDER, str(self.path)], stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            self.assertEqual(json.loads(child.stdout.readline()), {"answered": True})
            self.assertIn(f"process {child.pid}", await self.refusal())
        finally:
            child.send_signal(signal.SIGKILL)
            child.communicate()
        database = self.database()
        await database.open()
        rows = await database.run(lambda c: c.fetch("SELECT job FROM results"))
        self.assertEqual(rows, [{"job": "answered"}])

    async def test_not_a_database(self) -> None:
        """A file that is something else is refused, and left as it is."""
        self.path.parent.mkdir(parents=True)
        self.path.write_text("these are my notes, not a database\n" * 100)
        before = self.path.read_bytes()
        self.assertIn("file is not a database", await self.refusal())
        self.assertEqual(self.path.read_bytes(), before)

    async def test_a_directory(self) -> None:
        """A directory in the place of the file is refused."""
        self.path.mkdir(parents=True)
        self.assertIn(str(self.path), await self.refusal())

    async def test_no_place(self) -> None:
        """A directory that cannot be made is refused, with the reason."""
        self.path.parent.parent.mkdir(parents=True)
        self.path.parent.write_text("in the way")
        text = await self.refusal()
        self.assertIn("cannot be made", text)
        self.assertIn(str(self.path.parent), text)

    async def test_again_after_a_refusal(self) -> None:
        """A refused database can be opened once the cause is gone."""
        database = self.database()
        self.path.mkdir(parents=True)
        await self.assertFailure(database.open(), ConfigError)
        self.path.rmdir()
        await database.open()
        self.assertEqual(await database.run(lambda _: 1), 1)


class Migrations(DatabaseCase):
    async def test_once(self) -> None:
        """Each file is applied once, and its number noted."""
        for _ in range(2):
            database = self.database()
            await database.open()
            rows = await database.run(lambda c: c.fetch("SELECT number FROM migrations ORDER BY number"))
            self.assertEqual([row["number"] for row in rows], list(migrations.migrations()))
            await database.close()

    async def test_a_later_version(self) -> None:
        """A database of a later version is refused and not touched."""
        database = self.database()
        await database.open()
        await database.run(lambda c: c.execute("INSERT INTO migrations VALUES (9999, 'from the future')"))
        await database.close()
        self.assertIn("a later version of crawlfarm (schema 9999", await self.refusal())

    def test_all_or_nothing(self) -> None:
        """A file that fails leaves nothing of itself."""
        files = {
            1: ("0001_a.sql", "CREATE TABLE a (x);"),
            2: ("0002_b.sql", "CREATE TABLE b (x);\nCREATE TABLE a (x);"),
        }
        self.patch(migrations, "migrations", lambda: files)
        connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(connection.close)
        self.assertRaises(sqlite3.OperationalError, migrations.migrate, partial(transact, connection))
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        self.assertEqual(names, {"migrations", "a"})
        files[2] = ("0002_b.sql", "CREATE TABLE b (x);")
        self.assertEqual(migrations.migrate(partial(transact, connection)), ["0002_b.sql"])

    def test_statements(self) -> None:
        """A file is cut at its statements' ends, not at the semicolons in texts and comments."""
        text = "-- a; comment\nCREATE TABLE a (x); \n\nINSERT INTO a VALUES\n  ('one; two'); -- three;\n"
        self.assertEqual([s.split()[0] for s in migrations.statements(text)], ["CREATE", "INSERT"])
        self.assertRaises(ValueError, migrations.statements, "CREATE TABLE a (")

    def test_numbers(self) -> None:
        """The files are numbered from 1 without gaps."""
        numbers = list(migrations.migrations())
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)))


class Queries(SynchronousTestCase):
    def test_parse(self) -> None:
        """Name, description and statement are told apart."""
        text = "-- about the file\n\n-- name: one\n-- The first.\nSELECT 1;\n\n-- name: two\n-- Next.\nSELECT\n:x;\n"
        self.assertEqual(parse_queries(text), {"one": "SELECT 1", "two": "SELECT\n:x"})

    def test_refused(self) -> None:
        """A query twice, without description, or without statement is a defect."""
        for text in (
            "-- name: a\n-- A.\nSELECT 1;\n-- name: a\n-- A.\nSELECT 1;",
            "-- name: a\nSELECT 1;",
            "-- name: a\n-- A.",
        ):
            self.assertRaises(ValueError, parse_queries, text)

    def test_all_fit_the_schema(self) -> None:
        """Every statement of every file is one the database takes, and no file is forgotten."""
        files = resources.files("crawlfarm.adapters.sql.queries").iterdir()
        names = sorted(f.name for f in files if f.name.endswith(".sql"))
        self.assertEqual(names, sorted(f"{n}.sql" for n in (*QUERY_FILES, "postgres")))
        connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(connection.close)
        migrations.migrate(partial(transact, connection))
        for file in QUERY_FILES:
            for statement in load_queries(file).values():
                parameters = dict.fromkeys(re.findall(r":([a-z_]+)", statement))
                connection.execute(f"EXPLAIN {statement}", parameters)
