"""Brings a database forward to this program's schema; never back.

Each ``NNNN_name.sql`` beside this module is applied once, in order, each in one
transaction together with the note that it was. A file that has been released is not
edited any more: what changes is a new file.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Protocol, TypeVar

from crawlfarm.errors import ConfigError

if TYPE_CHECKING:
    from crawlfarm.adapters.sql.database import Connection

T = TypeVar("T")

_FILE = re.compile(r"^(?P<number>\d{4})_\w+\.sql$")

_MAKE_NOTES = "CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)"


class Transact(Protocol):
    """Runs a function as one transaction."""

    def __call__(self, work: Callable[[Connection], T], /) -> T: ...


def migrations() -> dict[int, tuple[str, str]]:
    """Number to ``(file name, text)``, in order."""
    found: dict[int, tuple[str, str]] = {}
    for file in sorted(resources.files(__package__).iterdir(), key=lambda f: f.name):
        if match := _FILE.match(file.name):
            found[int(match["number"])] = (file.name, file.read_text("utf-8"))
    return found


def statements(text: str) -> list[str]:
    """The statements of a file, one by one: SQLite's own way to run many commits in between."""
    found: list[str] = []
    begun = ""
    for line in text.splitlines(keepends=True):
        if not begun and (not line.strip() or line.startswith("--")):
            continue
        begun += line
        if sqlite3.complete_statement(begun):
            found.append(begun)
            begun = ""
    if begun.strip():
        raise ValueError(f"a statement does not end: {begun[:60]!r}")
    return found


def behind(connection: Connection, has_notes: str) -> list[int]:
    """The numbers of the files that are still to be applied.

    :param has_notes: a query that has a row when the table of notes is there.
    :raises ConfigError: a later version of the program was here.
    """
    known = migrations()
    if not connection.fetch(has_notes):
        return list(known)
    done = {row["number"] for row in connection.fetch("SELECT number FROM migrations")}
    if unknown := done - known.keys():
        raise ConfigError(
            f"the database was written by a later version of crawlfarm "
            f"(schema {max(unknown)}; this one knows {max(known)}): use that version, or another database"
        )
    return [number for number in known if number not in done]


SQLITE_HAS_NOTES = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'migrations'"


def migrate(
    transact: Transact, has_notes: str = SQLITE_HAS_NOTES, lock: Callable[[Connection], object] = lambda _: None
) -> list[str]:
    """Apply what is missing; the names of the files applied.

    Where nothing is missing nothing is locked, and no right to change the schema needed.

    :param has_notes: as :func:`behind` takes it.
    :param lock: lets one process at a time through until its transaction's end.
    :raises ConfigError: a later version of the program was here.
    """

    def apply_next(connection: Connection) -> str | None:
        lock(connection)
        missing = behind(connection, has_notes)
        if not missing:
            return None
        number = missing[0]
        name, text = migrations()[number]
        if not connection.fetch(has_notes):
            connection.execute(_MAKE_NOTES)
        for statement in statements(text):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO migrations (number, name) VALUES (:number, :name)", {"number": number, "name": name}
        )
        return name

    applied: list[str] = []
    while transact(lambda connection: behind(connection, has_notes)):
        if name := transact(apply_next):
            applied.append(name)
    return applied
