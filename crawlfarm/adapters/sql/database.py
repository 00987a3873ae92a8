"""One SQLite file, one connection, one thread of its own.

Invariants: every statement runs inside a transaction of :meth:`Database.run`, one at a
time, in the order of the calls, never on the reactor's thread; what ``run`` answered has
reached the disk (``synchronous=FULL``), so neither ``kill -9`` nor a power cut undoes
it; one process at a time has the file, for as long as it holds the lock beside it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from crawlfarm.adapters.sql.migrations import migrate
from crawlfarm.errors import ConfigError, Unavailable

T = TypeVar("T")
Parameters = Mapping[str, object]
Row = dict[str, Any]

_PRAGMAS = (
    "PRAGMA busy_timeout = 5000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)


class Connection:
    """What a transaction may do. Parameters are ``:named``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def fetch(self, statement: str, parameters: Parameters | None = None) -> list[Row]:
        """The rows, each by column name."""
        cursor = self._connection.execute(statement, dict(parameters or {}))
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def execute(self, statement: str, parameters: Parameters | None = None) -> int:
        """How many rows it changed."""
        return self._connection.execute(statement, dict(parameters or {})).rowcount

    def execute_many(self, statement: str, parameters: Iterable[Parameters]) -> None:
        self._connection.executemany(statement, parameters)


class Database:
    """The SQLite file at ``path``, made with its directories if it is not there.

    :param reactor: answers come back on its thread; its thread pool serves
        :meth:`in_pool`.
    """

    def __init__(self, reactor: Any, path: Path) -> None:
        self._reactor = reactor
        self.path = path
        self._pool: ThreadPool | None = None
        self._connection: sqlite3.Connection | None = None
        self._lock: int | None = None

    def open(self) -> Deferred[None]:
        """Take the file and bring it to this program's schema.

        :raises ConfigError: it cannot be used; the text says why.
        """
        return Deferred.fromCoroutine(self._start())

    def run(self, work: Callable[[Connection], T]) -> Deferred[T]:
        """Run ``work`` as one transaction; committed when the answer is there.

        Whatever ``work`` raises rolls it back.

        :raises Unavailable: the database failed. When that was during the commit it is
            not known whether it took place: read.
        """
        if self._pool is None:
            return fail(Unavailable(f"the database {self.path} is not open"))
        done: Deferred[T] = deferToThreadPool(self._reactor, self._pool, self._transact, work)
        return done

    def in_pool(self, work: Callable[[], T]) -> Deferred[T]:
        """Run ``work``, which must not touch the database, off both its thread and the reactor's."""
        done: Deferred[T] = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)
        return done

    def close(self) -> Deferred[None]:
        """Give the file free, after everything asked for so far is done. May be called twice."""
        return Deferred.fromCoroutine(self._stop())

    async def _start(self) -> None:
        if self._pool is not None:
            return
        self._pool = pool = ThreadPool(1, 1, name="crawlfarm-database")
        # A daemon thread, so that a process that dies without close() does not hang.
        pool.threadFactory = partial(threading.Thread, daemon=True)  # type: ignore[assignment]
        pool.start()
        try:
            await deferToThreadPool(self._reactor, pool, self._open)
        except BaseException:
            await self._stop()
            raise

    async def _stop(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await deferToThreadPool(self._reactor, pool, self._close)
            finally:
                pool.stop()

    # --- on the database's thread -------------------------------------------------

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock_file(self.path)
            connection = sqlite3.connect(self.path, isolation_level=None)
            self._connection = connection
            for pragma in _PRAGMAS:
                connection.execute(pragma)
            migrate(connection)
        except OSError as e:
            raise ConfigError(f"the database {self.path} cannot be made: {e.strerror} ({e.filename})") from e
        except sqlite3.Error as e:
            raise ConfigError(f"the database {self.path} cannot be used: {e}") from e

    def _transact(self, work: Callable[[Connection], T]) -> T:
        connection = self._connection
        if connection is None:
            raise Unavailable(f"the database {self.path} is not open")
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(Connection(connection))
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.NotSupportedError):
            raise  # a defect of ours: trying again would not mend it
        except sqlite3.Error as e:
            raise Unavailable(f"the database {self.path} failed: {e}") from e
        return result

    def _close(self) -> None:
        try:
            if self._connection is not None:
                self._connection.close()
        finally:
            self._connection = None
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None


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
