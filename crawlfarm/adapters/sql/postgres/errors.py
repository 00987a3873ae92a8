"""What PostgreSQL and its driver say, told to an operator: what is wrong, and what to do.

Each text names ``CRAWLFARM_DATABASE_URL`` and shows it without user name and password. A
refused connection has no code, only text: :data:`_REFUSALS` is a list of what to look for
in it, first match first. Text that is in none of them (another language, say) means that
the server is away for the moment: that is tried again, and the text is shown.
"""

from __future__ import annotations

import re

import psycopg2
from psycopg2 import errorcodes

from crawlfarm.errors import ConfigError, CrawlfarmError, Unavailable

VARIABLE = "CRAWLFARM_DATABASE_URL"

_ROLES = "see deploy/postgres/roles.sql"

_REFUSALS: tuple[tuple[str, type[CrawlfarmError], str], ...] = (
    (
        r"password authentication failed|no password supplied|authentication failed",
        ConfigError,
        "user name or password is wrong: set the right ones in the URL",
    ),
    (r'role ".*" does not exist', ConfigError, f"the server has no such user: make it, {_ROLES}"),
    (r"is not permitted to log in", ConfigError, f"that user may not log in: ALTER ROLE … LOGIN, {_ROLES}"),
    (
        r'database ".*" does not exist',
        ConfigError,
        "make it first: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
    ),
    (r"permission denied for database", ConfigError, f"the user may not connect to it: GRANT CONNECT, {_ROLES}"),
    (r"pg_hba\.conf", ConfigError, "the server lets this user in from elsewhere only: add a line to its pg_hba.conf"),
    (
        r"does not support SSL|certificate|sslmode|SSL error",
        ConfigError,
        "TLS: check sslmode and sslrootcert",
    ),
    (
        r"session is read-only|server is in hot standby",
        Unavailable,
        "only a read-only standby answers: name every server (host1,host2), or promote one",
    ),
    (
        r"too many clients|too many connections|remaining connection slots",
        Unavailable,
        "all its connections are taken: raise max_connections, or stop others",
    ),
    (r"starting up|shutting down|recovery mode|not yet accepting", Unavailable, "the server is starting or stopping"),
)

_FAILURES: dict[str, str] = {
    errorcodes.DISK_FULL: "its disk is full: make room there",
    errorcodes.READ_ONLY_SQL_TRANSACTION: "it is read-only now: the server may have become a standby",
    errorcodes.INSUFFICIENT_PRIVILEGE: f"a right is missing: {_ROLES}",
}
"""By code, what has a cause that an operator can mend."""

_AWAY = ("08", "53", "57", "58")
"""Classes of codes of a server that cannot serve just now."""

AGAIN = (errorcodes.DEADLOCK_DETECTED, errorcodes.SERIALIZATION_FAILURE)
"""The transaction had to give way to another: run it again."""

MOVED = (errorcodes.READ_ONLY_SQL_TRANSACTION,)
"""This connection is of no use any more, though it works: another server may take writes."""


def refused(error: Exception, name: str) -> CrawlfarmError:
    """What a failed attempt to connect means. ``name`` is the URL as it may be shown."""
    said = _one_line(error)
    for pattern, kind, advice in _REFUSALS:
        if re.search(pattern, said):
            return kind(f"{VARIABLE} ({name}): {advice} (it said: {said})")
    return Unavailable(f"{VARIABLE} ({name}): the database cannot be reached: {said}")


def failed(error: Exception, code: str, name: str, *, lost: bool, committing: bool) -> Exception:
    """What a failed transaction means; ``error`` itself when it is a defect of ours.

    :param code: the server's, or empty.
    :param lost: the connection is gone.
    :param committing: it failed in its commit.
    """
    if advice := _FAILURES.get(code):
        return Unavailable(f"{VARIABLE} ({name}): {advice} (it said: {_one_line(error)})")
    ours = isinstance(error, psycopg2.ProgrammingError | psycopg2.IntegrityError | psycopg2.NotSupportedError)
    if not lost and (ours or not (isinstance(error, psycopg2.OperationalError) or code[:2] in _AWAY)):
        return error
    outcome = "; it is not known whether the last commit took place" if committing else ""
    return Unavailable(f"{VARIABLE} ({name}): the database failed{outcome}: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
