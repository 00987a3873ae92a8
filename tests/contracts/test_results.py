"""What every result store promises; one class a store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import TestCase

from crawlfarm.adapters.sql.database import Database
from crawlfarm.adapters.sql.postgres import PostgresDatabase
from crawlfarm.adapters.sql.results import SqlResults
from crawlfarm.adapters.sql.sqlite import SqliteDatabase
from crawlfarm.core.ports import ResultStore
from crawlfarm.errors import StaleToken, Unavailable
from tests.support.databases import migrated_database


class ResultsContract:
    """Mixed into a TestCase; ``make_store`` gives an empty store."""

    timeout = 20

    async def make_store(self) -> ResultStore:
        raise NotImplementedError

    def later(self, seconds: float) -> None:
        """Let the store's time go by."""
        raise NotImplementedError

    async def test_unknown(self: Any) -> None:
        """A job that has no result answers nothing."""
        self.assertIsNone(await (await self.make_store()).get("j1"))

    async def test_kept(self: Any) -> None:
        """A result comes back byte by byte, big, empty or incompressible."""
        store = await self.make_store()
        results = {"big": b"http://a.example/" * 200_000, "empty": b"", "noise": os.urandom(100_000)}
        await gatherResults([store.put(job, 1, data, 60) for job, data in results.items()])
        for job, data in results.items():
            self.assertEqual(await store.get(job), data)

    async def test_put_twice(self: Any) -> None:
        """The same lease may write again, and a later one over an earlier."""
        store = await self.make_store()
        for token, data in ((3, b"first"), (3, b"again"), (4, b"successor")):
            await store.put("j1", token, data, 60)
            self.assertEqual(await store.get("j1"), data)

    async def test_stale_token(self: Any) -> None:
        """An earlier lease cannot write over a later one."""
        store = await self.make_store()
        await store.put("j1", 4, b"right", 60)
        await self.assertFailure(store.put("j1", 3, b"late", 60), StaleToken)
        self.assertEqual(await store.get("j1"), b"right")
        await store.put("j2", 3, b"another job", 60)

    async def test_expires(self: Any) -> None:
        """A result is gone after its time; putting it again starts that anew."""
        store = await self.make_store()
        await store.put("j1", 1, b"short", 60)
        await store.put("j2", 1, b"long", 600)
        self.later(59)
        self.assertEqual(await store.get("j1"), b"short")
        await store.put("j1", 1, b"again", 60)
        self.later(59)
        self.assertEqual(await store.get("j1"), b"again")
        self.later(2)
        self.assertIsNone(await store.get("j1"))
        self.assertEqual(await store.get("j2"), b"long")


class SqlResultsContract(ResultsContract):
    """What the tables promise besides."""

    def make_database(self) -> Database:
        raise NotImplementedError

    async def make_store(self: Any) -> ResultStore:
        self.now = 1e9
        self.database = self.make_database()
        await self.database.open()
        self.addCleanup(self.database.close)
        return SqlResults(self.database, lambda: self.now)

    def later(self, seconds: float) -> None:
        self.now += seconds

    async def test_expired_rows_are_dropped(self: Any) -> None:
        """What has expired takes no room in the file."""
        store = await self.make_store()
        await store.put("j1", 1, b"old", 60)
        self.later(61)
        await store.put("j2", 1, b"new", 60)
        rows = await self.database.run(lambda connection: connection.fetch("SELECT job FROM results"))
        self.assertEqual(rows, [{"job": "j2"}])

    async def test_away(self: Any) -> None:
        """With the database closed the store is unavailable, and says so."""
        store = await self.make_store()
        await self.database.close()
        await self.assertFailure(store.put("j1", 1, b"", 60), Unavailable)
        await self.assertFailure(store.get("j1"), Unavailable)


class SqliteResultsTests(SqlResultsContract, TestCase):
    def make_database(self) -> Database:
        return SqliteDatabase(reactor, Path(self.mktemp()) / "results.sqlite")


class PostgresResultsTests(SqlResultsContract, TestCase):
    def make_database(self) -> Database:
        return PostgresDatabase(reactor, migrated_database(self))

    async def test_two_masters(self) -> None:
        """Of two that write at once the later lease's result stays, whoever comes first."""
        store = await self.make_store()
        other = PostgresDatabase(reactor, self.database._rest.session._url)
        await other.open()
        self.addCleanup(other.close)
        stores = [store, SqlResults(other, lambda: self.now)]
        for n in range(20):
            puts = [stores[n % 2].put(f"j{n}", 1, b"early", 60), stores[(n + 1) % 2].put(f"j{n}", 2, b"late", 60)]
            for put in puts:
                try:
                    await put
                except StaleToken:
                    self.assertIs(put, puts[0])
            self.assertEqual(await store.get(f"j{n}"), b"late")
