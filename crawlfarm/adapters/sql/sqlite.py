"""One SQLite file, one connection, one thread of its own.

Invariants, besides those of :mod:`crawlfarm.adapters.sql.database`: what was answered
survives ``kill -9`` and a power cut (``synchronous=FULL``); one process at a time has the
file, for as long as it holds the lock beside it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed

from crawlfarm.adapters.sql.database import Connection, Database, Lane, Parameters, Row
from crawlfarm.adapters.sql.migrations import migrate
from crawlfarm.errors import ConfigError, Unavailable

T = TypeVar("T")

_PRAGMAS = (
    "PRAGMA busy_timeout = 5000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)


class SqliteConnection:
    """:class:`~crawlfarm.adapters.sql.database.Connection` of SQLite."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def fetch(self, statement: str, parameters: Parameters | None = None) -> list[Row]:
        cursor = self._connection.execute(statement, dict(parameters or {}))
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def execute(self, statement: str, parameters: Parameters | None = None) -> int:
        return self._connection.execute(statement, dict(parameters or {})).rowcount

    def execute_many(self, statement: str, parameters: Iterable[Parameters]) -> None:
        self._connection.executemany(statement, parameters)


class SqliteDatabase(Database):
    """The SQLite file at ``path``, made with its directories if it is not there."""

    embedded = True

    def __init__(self, reactor: Any, path: Path) -> None:
        super().__init__(reactor)
        self.path = path
        self.name = str(path)
        self._closed = f"the database {path} is not open"
        self._lane = Lane(reactor, "crawlfarm-database")
        self._connection: sqlite3.Connection | None = None
        self._lock: int | None = None

    def open(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._start())

    def claim(self) -> Deferred[None]:
        """The file's lock says it already."""
        return succeed(None)

    def run(self, work: Callable[[Connection], T]) -> Deferred[T]:
        return self._lane.do(partial(self._transact, work), self._closed)

    def run_apart(self, work: Callable[[Connection], T]) -> Deferred[T]:
        """SQLite has one writer at a time: the same as :meth:`run`."""
        return self.run(work)

    def close(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._lane.stop(self._close))

    async def _start(self) -> None:
        if self._lane.open:
            return
        self._lane.start()
        try:
            await self._lane.do(self._open, self._closed)
        except BaseException:
            await self._lane.stop(self._close)
            raise

    # --- on the database's thread -------------------------------------------------

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock_file(self.path)
            connection = sqlite3.connect(self.path, isolation_level=None)
            self._connection = connection
            for pragma in _PRAGMAS:
                connection.execute(pragma)
            migrate(partial(transact, connection))
        except OSError as e:
            raise ConfigError(f"the database {self.path} cannot be made: {e.strerror} ({e.filename})") from e
        except sqlite3.Error as e:
            raise ConfigError(f"the database {self.path} cannot be used: {e}") from e

    def _transact(self, work: Callable[[Connection], T]) -> T:
        if self._connection is None:
            raise Unavailable(self._closed)
        try:
            return transact(self._connection, work)
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.NotSupportedError):
            raise  # a defect of ours: trying again would not mend it
        except sqlite3.Error as e:
            if e.sqlite_errorcode == sqlite3.SQLITE_ERROR:
                raise  # such as a statement that is none
            raise Unavailable(f"the database {self.path} failed: {e}") from e

    def _close(self) -> None:
        try:
            if self._connection is not None:
                self._connection.close()
        finally:
            self._connection = None
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None


def transact(connection: sqlite3.Connection, work: Callable[[Connection], T]) -> T:
    """Run ``work`` as one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(SqliteConnection(connection))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _lock_file(path: Path) -> int:
    """Hold ``<path>.lock`` until the process ends or closes it, however it ends."""
    name = path.with_name(path.name + ".lock")
    fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        holder = os.read(fd, 20).decode("ascii", "replace").strip()
        os.close(fd)
        raise ConfigError(
            f"the database {path} is in use by another running crawlfarm (process {holder or 'unknown'}): "
            "stop that one, or set CRAWLFARM_RUN_DIR to another directory"
        ) from e
    except OSError:
        os.close(fd)
        raise
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd
