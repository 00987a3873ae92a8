"""The database as those above it see it, whichever it is.

Invariants of every :class:`Database`: a statement runs inside a transaction, never on the
reactor's thread; the transactions of :meth:`Database.run` run one at a time, in the order
of the calls; what they answered has reached the disk.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from crawlfarm.config import Config
from crawlfarm.errors import Unavailable

T = TypeVar("T")
Parameters = Mapping[str, object]
Row = dict[str, Any]


class Connection(Protocol):
    """What a transaction may do. Parameters are ``:named``."""

    def fetch(self, statement: str, parameters: Parameters | None = None) -> list[Row]:
        """The rows, each by column name."""

    def execute(self, statement: str, parameters: Parameters | None = None) -> int:
        """How many rows it changed."""

    def execute_many(self, statement: str, parameters: Iterable[Parameters]) -> None:
        """The same statement for each. An ``INSERT`` must not meet one of its own rows."""


class Database(ABC):
    """One database, in which all work is done by functions of a :class:`Connection`.

    A function may be run again when its transaction had to give way to another; whatever
    it raises rolls the transaction back.

    :ivar embedded: one process has it to itself, so whoever had it before is gone.
    :ivar name: for messages and logs; never holds a password.
    """

    embedded: ClassVar[bool]
    name: str

    def __init__(self, reactor: Any) -> None:
        """:param reactor: answers come back on its thread; its pool serves :meth:`in_pool`."""
        self._reactor = reactor

    @abstractmethod
    def open(self) -> Deferred[None]:
        """Take the database and bring it to this program's schema.

        :raises ConfigError: it cannot be used; the text says why, and what to set.
        :raises Unavailable: it is away for the moment.
        """

    @abstractmethod
    def claim(self) -> Deferred[None]:
        """Be the one lock daemon of this database until it is closed. May be called twice.

        :raises ConfigError: another one is, and who.
        :raises Unavailable: it is away for the moment.
        """

    @abstractmethod
    def run(self, work: Callable[[Connection], T]) -> Deferred[T]:
        """Run ``work`` as one transaction; committed when the answer is there.

        :raises Unavailable: the database failed; the next call tries to reach it again.
            When that was during the commit it is not known whether it took place: read.
        """

    @abstractmethod
    def run_apart(self, work: Callable[[Connection], T]) -> Deferred[T]:
        """As :meth:`run`, for what must not hold that up: big things, in an order of their own."""

    @abstractmethod
    def close(self) -> Deferred[None]:
        """Give it free, after everything asked for so far is done. May be called twice."""

    def in_pool(self, work: Callable[[], T]) -> Deferred[T]:
        """Run ``work``, which must not touch the database, off both its threads and the reactor's."""
        done: Deferred[T] = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)
        return done


class Lane:
    """A thread of its own, which does what it is given one by one, in that order."""

    def __init__(self, reactor: Any, name: str) -> None:
        self._reactor = reactor
        self._name = name
        self._pool: ThreadPool | None = None

    @property
    def open(self) -> bool:
        return self._pool is not None

    def start(self) -> None:
        self._pool = ThreadPool(1, 1, name=self._name)
        # A daemon thread, so that a process that dies without close() does not hang.
        self._pool.threadFactory = partial(threading.Thread, daemon=True)  # type: ignore[assignment]
        self._pool.start()

    def do(self, work: Callable[[], T], closed: str) -> Deferred[T]:
        """:raises Unavailable: the lane has not been started, or was stopped; says ``closed``."""
        if self._pool is None:
            return fail(Unavailable(closed))
        done: Deferred[T] = deferToThreadPool(self._reactor, self._pool, work)
        return done

    async def stop(self, last: Callable[[], None]) -> None:
        """Take nothing more, and do ``last`` after all there is."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await deferToThreadPool(self._reactor, pool, last)
            finally:
                pool.stop()


def open_database(reactor: Any, config: Config) -> Database:
    """The database that ``config`` names, still to be opened by its :meth:`Database.open`.

    :raises ConfigError: its URL cannot be understood.
    """
    if config.database_path is not None:
        from crawlfarm.adapters.sql.sqlite import SqliteDatabase

        return SqliteDatabase(reactor, config.database_path)
    from crawlfarm.adapters.sql.postgres import PostgresDatabase

    return PostgresDatabase(reactor, config.database_url)
