"""One connection to PostgreSQL, used by one thread, made again after it was lost.

Invariants: what is committed has reached the server's disk; a session that claimed the
lock daemon's place commits nothing over a connection that does not hold its lock, so two
daemons never write side by side. The lock belongs to the connection: a daemon that dies
gives it free. (Something between us and the server that shares connections out by
transaction breaks this: pgbouncer needs ``pool_mode = session``.)
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR, parse_dsn

from crawlfarm.adapters.sql.database import Connection
from crawlfarm.adapters.sql.postgres.errors import AGAIN, MOVED, VARIABLE, failed, refused
from crawlfarm.adapters.sql.postgres.statements import PostgresConnection, translate
from crawlfarm.adapters.sql.queries import load_queries
from crawlfarm.config import shown_url
from crawlfarm.errors import ConfigError, Unavailable

T = TypeVar("T")

OLDEST = 12
"""The oldest major version of the server we work with."""

_SQL = load_queries("postgres")
_TRIES = 5
"""How often a transaction that must give way is run before that is an error."""

_DEFAULTS: dict[str, str] = {
    "connect_timeout": "5",  # for each host
    "target_session_attrs": "read-write",
    "client_encoding": "utf8",
    # A server whose machine is gone is noticed within about twenty seconds; a slow one is waited for.
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
"""What the URL need not say."""


class Session:
    """A connection that comes when it is needed, and again after it was lost.

    Everything but :meth:`break_off` is called on one thread.

    :param url: as libpq takes it; several hosts are tried in turn.
    :param statement_timeouts: whether those of the role or the server hold.
    """

    def __init__(self, url: str, *, statement_timeouts: bool) -> None:
        self.name = shown_url(url.partition("?")[0])  # a password may stand after it too
        self._url = url
        self._options = _options(url)
        self._statement_timeouts = statement_timeouts
        self._claims = False
        self._connection: Any = None
        self._last: tuple[Any, Any] | None = None
        self._closing = threading.Lock()

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` as one transaction, connecting first where that is needed.

        :raises ConfigError: connecting was refused for good.
        :raises Unavailable: the server failed, or is away.
        """
        for left in reversed(range(_TRIES)):
            try:
                return self._transact(self.connected(), work)
            except psycopg2.Error as e:
                if e.pgcode not in AGAIN:
                    raise
                if not left:
                    raise Unavailable(f"{VARIABLE} ({self.name}): the database is too busy: {e}") from e
        raise AssertionError("unreachable")

    def claim(self) -> None:
        """Take the lock daemon's place, and take it again with every new connection.

        :raises ConfigError: another one has it.
        """
        if self._claims:
            return
        connection = self.connected()
        try:
            self._take_place(connection)
        except psycopg2.Error as e:
            self._give_up(connection, e)
            raise refused(e, self.name) from e
        self._claims = True

    def connected(self) -> Any:
        """The connection, made now if there is none.

        :raises ConfigError: it was refused for good.
        :raises Unavailable: the server is away.
        """
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    def close(self) -> None:
        """Give everything back: what comes after is a new session."""
        self._drop()
        self._claims = False
        self._last = None

    def break_off(self) -> None:
        """Let whoever waits for the server on the session's thread fail now. From any thread."""
        with self._closing:
            if self._connection is not None and not self._connection.closed:
                with socket.socket(fileno=os.dup(self._connection.fileno())) as wire:
                    wire.shutdown(socket.SHUT_RDWR)

    # --- connecting -----------------------------------------------------------------

    def _connect(self) -> Any:
        try:
            connection = psycopg2.connect(self._url, **self._options)
        except (psycopg2.Error, UnicodeError) as e:
            raise refused(e, self.name) from e
        try:
            connection.autocommit = True  # we say ourselves where a transaction begins
            self._check(connection)
            self._set_up(connection)
        except psycopg2.Error as e:
            connection.close()
            raise refused(e, self.name) from e
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: Any) -> None:
        version = connection.server_version
        if version < OLDEST * 10000:
            raise ConfigError(
                f"{VARIABLE} ({self.name}): the server is PostgreSQL {version // 10000}; "
                f"crawlfarm needs {OLDEST} or later"
            )
        encoding = connection.get_parameter_status("server_encoding")
        if encoding != "UTF8":
            raise ConfigError(
                f"{VARIABLE} ({self.name}): the database's encoding is {encoding}, which cannot hold every URL: "
                "make it with ENCODING 'UTF8' TEMPLATE template0"
            )

    def _set_up(self, connection: Any) -> None:
        keep = ["keep_commits_durable"] if self._statement_timeouts else ["keep_commits_durable", "wait_for_commits"]
        with connection.cursor() as cursor:
            for name in keep:
                cursor.execute(_SQL[name])
            cursor.execute(_SQL["this_connection"])
            (me,) = cursor
            if self._last is not None:
                # What is left of our last connection may still hold locks: the server may
                # not know yet that it is gone.
                pid, backend_start = self._last
                cursor.execute(translate(_SQL["end_connection"]), {"pid": pid, "backend_start": backend_start})
        if self._claims:
            try:
                self._take_place(connection)
            except ConfigError as e:
                raise Unavailable(str(e)) from e  # until that one leaves
        self._last = me

    def _take_place(self, connection: Any) -> None:
        with connection.cursor() as cursor:
            # It waits a moment: the connection of a daemon just killed ends by itself.
            cursor.execute(_SQL["wait_for_place"])
            try:
                cursor.execute(_SQL["take_place"])
            except psycopg2.errors.LockNotAvailable as e:
                raise ConfigError(self._taken(cursor)) from e
            finally:
                if not connection.closed:
                    cursor.execute(_SQL["wait_for_commits"])

    def _taken(self, cursor: Any) -> str:
        who = "nobody can tell which"
        cursor.execute(_SQL["who_has_the_place"])
        for pid, application, address in cursor:
            who = f"{application or 'unnamed'}{f' at {address}' if address else ''}, server process {pid}"
        return (
            f"{VARIABLE} ({self.name}): another lock daemon works on this database ({who}): "
            "stop that one, or name another database"
        )

    # --- transactions ---------------------------------------------------------------

    def _transact(self, connection: Any, work: Callable[[Connection], T]) -> T:
        committing = False
        try:
            with connection.cursor() as cursor:
                transaction = PostgresConnection(cursor)
                result = work(transaction)
                if connection.info.transaction_status == TRANSACTION_STATUS_INERROR:
                    raise psycopg2.InternalError("the work went on after an error of the database")
                committing = True
                transaction.commit()
        except psycopg2.Error as e:
            lost = self._give_up(connection, e)
            if e.pgcode in AGAIN:
                raise
            means = failed(e, e.pgcode or "", self.name, lost=lost, committing=committing and lost)
            if means is e:
                raise
            raise means from e
        except BaseException:
            self._give_up(connection, None)
            raise
        return result

    def _give_up(self, connection: Any, error: psycopg2.Error | None) -> bool:
        """Roll back; whether the connection is lost, which is forgotten then."""
        lost = bool(connection.closed)
        if not lost and connection.info.transaction_status != TRANSACTION_STATUS_IDLE:
            try:
                with connection.cursor() as cursor:
                    cursor.execute("ROLLBACK")
            except psycopg2.Error:
                lost = True
        if lost or (error is not None and error.pgcode in MOVED):
            self._drop()
        return lost

    def _drop(self) -> None:
        with self._closing:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()


def _options(url: str) -> dict[str, str]:
    """What to connect with besides the URL.

    :raises ConfigError: the URL cannot be understood. The text shows nothing libpq made
        of it: that may be a piece of the password.
    """
    try:
        given = parse_dsn(url)
    except psycopg2.ProgrammingError:
        given = {}
    ports = given.get("port", "")
    if not given or "@" in given.get("dbname", "") + given.get("host", "") or re.search(r"[^0-9,]", ports):
        raise ConfigError(
            f"{VARIABLE}: this is not a URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE; "
            "special characters in user name and password are written as %40 (@), %2F (/), %3A (:), %23 (#)"
        ) from None
    options = {"fallback_application_name": f"crawlfarm {socket.gethostname()}:{os.getpid()}"[:63], **_DEFAULTS}
    return {key: value for key, value in options.items() if key not in given}
