"""What every database promises those who work on it; one class a database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from crawlfarm.adapters.sql.database import Connection, Database, open_database
from crawlfarm.adapters.sql.postgres import PostgresDatabase
from crawlfarm.adapters.sql.queries import load_queries
from crawlfarm.adapters.sql.sqlite import SqliteDatabase
from crawlfarm.config import Config
from crawlfarm.errors import CrawlfarmError, Unavailable
from tests.support.databases import migrated_database

SQL = load_queries("results")
AWKWARD = ["", "100%", "%s %(job)s", ":job", "a'b\"c\\d", "\\x41", "ä€\U0001f577", "line\nline", ";--", "$1 $$"]


class DatabaseContract:
    """Mixed into a TestCase."""

    timeout = 30
    database: Database

    def make_database(self) -> Database:
        """A new one, with no rows."""
        raise NotImplementedError

    async def open(self: Any) -> Database:
        self.database = self.make_database()
        self.addCleanup(self.database.close)
        await self.database.open()
        return self.database

    async def jobs(self) -> list[str]:
        rows = await self.database.run(lambda c: c.fetch("SELECT job FROM results ORDER BY job"))
        return [row["job"] for row in rows]

    async def test_commits(self: Any) -> None:
        """What work did is there for the next, on either track."""
        database = await self.open()
        self.assertEqual(await database.run(lambda c: c.execute(SQL["put_result"], put("j1"))), 1)
        rows = await database.run_apart(lambda c: c.fetch("SELECT job, token FROM results"))
        self.assertEqual(rows, [{"job": "j1", "token": 1}])

    async def test_rolls_back(self: Any) -> None:
        """Work that raises has done nothing, and its error comes back as it was."""
        database = await self.open()

        def work(connection: Connection) -> None:
            connection.execute(SQL["put_result"], put("j1"))
            connection.execute_many(SQL["put_result"], [put("j2")])
            raise LookupError("on purpose")

        await self.assertFailure(database.run(work), LookupError)
        self.assertEqual(await self.jobs(), [])

    async def test_in_order(self: Any) -> None:
        """Transactions run one by one in the order of the calls."""
        database = await self.open()
        seen: list[int] = []
        pending = [database.run(lambda _, n=n: seen.append(n)) for n in range(100)]
        for one in pending:
            await one
        self.assertEqual(seen, list(range(100)))

    async def test_many(self: Any) -> None:
        """A statement for many rows does what it does for each; none at all is nothing."""
        database = await self.open()
        many = [put(f"j{n:04}") for n in range(1201)]
        await database.run(lambda c: c.execute_many(SQL["put_result"], many))
        self.assertEqual(await self.jobs(), [row["job"] for row in many])
        await database.run(lambda c: c.execute_many(SQL["put_result"], [put(row["job"], 2) for row in many]))
        (row,) = await database.run(lambda c: c.fetch("SELECT sum(token) AS tokens FROM results"))
        self.assertEqual(row["tokens"], 2402)
        await database.run(lambda c: c.execute_many("DELETE FROM results WHERE job = :job", many[1:]))
        await database.run(lambda c: c.execute_many("DELETE FROM results WHERE job = :job", []))
        self.assertEqual(await self.jobs(), ["j0000"])

    async def test_values(self: Any) -> None:
        """Every text and every byte comes back as it was."""
        database = await self.open()
        for text in AWKWARD:
            row = put(text) | {"data": text.encode() + bytes(range(256))}
            await database.run(lambda c, row=row: c.execute(SQL["put_result"], row))
            await database.run(lambda c, row=row: c.execute_many(SQL["put_result"], [row]))
            ask = "SELECT job, token, data, expires_at, ':no %s' AS text FROM results WHERE job = :job AND 7 % 4 = 3"
            rows = await database.run(lambda c, text=text, ask=ask: c.fetch(ask, {"job": text}))
            self.assertEqual(rows, [row | {"text": ":no %s"}])
        self.assertEqual(sorted(await self.jobs()), sorted(AWKWARD))

    async def test_rows_without_bytes(self: Any) -> None:
        """Many rows of texts, numbers, truths and nothing come back as they were."""
        database = await self.open()
        jobs = load_queries("jobs")
        row = {"flight": "", "state": "queued", "token": 2**53 + 1, "attempt": 0, "master": "", "cancel": ""}
        row |= {"progress": "{}", "receipt": None, "error_code": "", "created_at": 0.1 + 0.2, "ended_at": None}
        rows = [row | {"job": text, "flight": text, "spec": text, "error_message": text} for text in AWKWARD]
        await database.run(lambda c: c.execute_many(jobs["put_job"], rows))
        found = await database.run(lambda c: c.fetch(jobs["load_jobs"]))
        self.assertCountEqual(found, rows)
        claims = [{"client": "c", "id": t, "job": t, "body": "", "detach": True, "withdrawn": False} for t in AWKWARD]
        await database.run(lambda c: c.execute_many(jobs["put_submission"], claims))
        self.assertCountEqual(await database.run(lambda c: c.fetch(jobs["load_submissions"])), claims)

    async def test_counts(self: Any) -> None:
        """It says how many rows were changed: a result under a lower token changes none."""
        database = await self.open()
        counts = [
            await database.run(lambda c, token=token: c.execute(SQL["put_result"], put("j1", token)))
            for token in (2, 2, 1, 3)
        ]
        self.assertEqual(counts, [1, 1, 0, 1])

    async def test_a_defect(self: Any) -> None:
        """A constraint that is broken is our defect, not a database that is away; all goes on."""
        database = await self.open()
        insert = "INSERT INTO submissions VALUES ('c', 'i', 'no such job', '', false, false)"
        for statement in (insert, "SELECT nonsense FROM nowhere"):
            with self.assertRaises(Exception) as raised:
                await database.run(lambda c, statement=statement: c.fetch(statement))
            self.assertNotIsInstance(raised.exception, CrawlfarmError)
        self.assertEqual(await self.jobs(), [])

    async def test_claimed_twice(self: Any) -> None:
        """The lock daemon's place is one's own as often as one asks."""
        database = await self.open()
        await database.claim()
        await database.claim()
        self.assertEqual(await self.jobs(), [])

    async def test_closed(self: Any) -> None:
        """Before it is open and after it is closed nothing runs; what was asked before the close is done."""
        database = self.make_database()
        self.addCleanup(database.close)
        await self.assertFailure(database.run(lambda _: None), Unavailable)
        await database.open()
        last = database.run(lambda _: "done")
        closing = database.close()
        await self.assertFailure(database.run(lambda _: None), Unavailable)
        await self.assertFailure(database.run_apart(lambda _: None), Unavailable)
        self.assertEqual(await last, "done")
        await closing
        await database.close()
        await database.open()
        self.assertEqual(await database.run(lambda _: "again"), "again")


def put(job: str, token: int = 1) -> dict[str, Any]:
    return {"job": job, "token": token, "data": b"", "expires_at": 1.5}


class SqliteTests(DatabaseContract, TestCase):
    def make_database(self) -> Database:
        database = open_database(reactor, Config(run_dir=Path(self.mktemp()) / "deep" / "down"))
        self.assertIsInstance(database, SqliteDatabase)
        self.assertTrue(database.embedded)
        return database


class PostgresTests(DatabaseContract, TestCase):
    def make_database(self) -> Database:
        database = open_database(reactor, Config(database_url=migrated_database(self)))
        self.assertIsInstance(database, PostgresDatabase)
        self.assertFalse(database.embedded)
        return database
