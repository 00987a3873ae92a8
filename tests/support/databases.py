"""PostgreSQL databases for tests, with and without the schema."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from crawlfarm.adapters.sql.postgres.database import prepare
from crawlfarm.adapters.sql.postgres.session import Session
from tests.support.processes import HasCleanup
from tests.support.servers import postgres_server
from tests.support.servers.base import wait_until
from tests.support.servers.postgres import execute

DEADLINE_S = 20


def migrate(url: str) -> None:
    """Bring a database to the schema."""
    session = Session(url, statement_timeouts=False)
    try:
        prepare(session)
    finally:
        session.close()


def migrated_database(test: HasCleanup) -> str:
    """The URL of a database of one's own, with the schema in it."""
    return postgres_server().fresh_database(test, prepared_by=migrate)


def eventually(url: str, query: str, what: str) -> Deferred[object]:
    """Fires once ``query`` has a row; off the reactor's thread."""
    return deferToThread(wait_until, lambda: execute(url, query), DEADLINE_S, what)
