"""A PostgreSQL database, which many processes share.

:meth:`PostgresDatabase.run` and :meth:`PostgresDatabase.run_apart` have a thread and a
connection each, made when first needed: a big result does not hold up a lease's commit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import psycopg2
from twisted.internet.defer import Deferred, DeferredList

from crawlfarm.adapters.sql.database import Connection, Database, Lane
from crawlfarm.adapters.sql.migrations import migrate
from crawlfarm.adapters.sql.postgres.errors import VARIABLE
from crawlfarm.adapters.sql.postgres.session import Session
from crawlfarm.adapters.sql.queries import load_queries
from crawlfarm.errors import ConfigError, Unavailable

T = TypeVar("T")

CLOSE_S = 10.0
"""How long a close waits for the server before it breaks off."""

_SQL = load_queries("postgres")


class PostgresDatabase(Database):
    """The database at ``url``, as libpq takes it: several hosts, ``sslmode`` and the rest.

    :raises ConfigError: the URL cannot be understood.
    """

    embedded = False

    def __init__(self, reactor: Any, url: str) -> None:
        super().__init__(reactor)
        self._leases = _Track(reactor, "leases", Session(url, statement_timeouts=False))
        self._rest = _Track(reactor, "rest", Session(url, statement_timeouts=True))
        self.name = self._leases.session.name

    def open(self) -> Deferred[None]:
        """Look whether the server is one to work with, and bring it to this program's schema.

        The first of several processes migrates, the others wait for it.
        """
        return Deferred.fromCoroutine(self._start())

    def claim(self) -> Deferred[None]:
        return self._leases.do(self._leases.session.claim)

    def run(self, work: Callable[[Connection], T]) -> Deferred[T]:
        return self._leases.run(work)

    def run_apart(self, work: Callable[[Connection], T]) -> Deferred[T]:
        return self._rest.run(work)

    def close(self) -> Deferred[None]:
        """As promised; but a server that does not answer is waited for :data:`CLOSE_S` at most."""
        return Deferred.fromCoroutine(self._stop())

    async def _start(self) -> None:
        if self._rest.lane.open:
            return
        self._leases.lane.start()
        self._rest.lane.start()
        try:
            await self._rest.do(partial(prepare, self._rest.session))
        except BaseException:
            await self._stop()
            raise

    async def _stop(self) -> None:
        tracks = [track for track in (self._leases, self._rest) if track.lane.open]
        late = [self._reactor.callLater(CLOSE_S, track.session.break_off) for track in tracks]
        try:
            ends = [Deferred.fromCoroutine(track.lane.stop(track.session.close)) for track in tracks]
            await DeferredList(ends, fireOnOneErrback=True, consumeErrors=True)
        finally:
            for call in late:
                if call.active():
                    call.cancel()


class _Track:
    """A connection and its thread."""

    def __init__(self, reactor: Any, name: str, session: Session) -> None:
        self.session = session
        self.lane = Lane(reactor, f"crawlfarm-database-{name}")

    def do(self, work: Callable[[], T]) -> Deferred[T]:
        return self.lane.do(work, f"the database {self.session.name} is not open")

    def run(self, work: Callable[[Connection], T]) -> Deferred[T]:
        return self.do(partial(self._run, work))

    def _run(self, work: Callable[[Connection], T]) -> T:
        try:
            return self.session.transact(work)
        except ConfigError as e:
            # It was fine at the start: somebody will set it right.
            raise Unavailable(str(e)) from e


def prepare(session: Session) -> list[str]:
    """Bring a database to this program's schema and check the rights; the migrations applied.

    :raises ConfigError: it was written by a later version, or a right is missing.
    :raises Unavailable: it is away for the moment.
    """
    try:
        applied = migrate(
            session.transact, _SQL["has_notes"], lambda connection: connection.fetch(_SQL["lock_migrations"])
        )
        missing = session.transact(lambda connection: connection.fetch(_SQL["missing_rights"]))
    except Unavailable as e:
        if isinstance(e.__cause__, psycopg2.errors.InsufficientPrivilege):
            raise ConfigError(
                f"{VARIABLE} ({session.name}): the schema is missing or older than this program, and this user may "
                f"not change it ({e.__cause__.diag.message_primary}): run `python -m crawlfarm.adapters.sql` once "
                "with the URL of the schema's owner, see deploy/postgres/roles.sql"
            ) from e
        raise
    except psycopg2.Error as e:
        raise ConfigError(f"{VARIABLE} ({session.name}): the schema cannot be made: {' '.join(str(e).split())}") from e
    if missing:
        rights = ", ".join(f"{row['right_name']} on {row['table_name']}" for row in missing)
        raise ConfigError(
            f"{VARIABLE} ({session.name}): this user lacks the right to {rights}: grant it, "
            "see deploy/postgres/roles.sql"
        )
    return applied
