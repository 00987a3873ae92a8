"""Brings a database forward to this program's schema; never back.

Each ``NNNN_name.sql`` beside this module is applied once, in order, each in one
transaction together with the note that it was. A file that has been released is not
edited any more: what changes is a new file.
"""

from __future__ import annotations

import re
import sqlite3
from importlib import resources

from crawlfarm.errors import ConfigError

_FILE = re.compile(r"^(?P<number>\d{4})_\w+\.sql$")

_NOTES = "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)"


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


def migrate(connection: sqlite3.Connection) -> list[str]:
    """Apply what is missing; the names of the files applied.

    :raises ConfigError: a later version of the program was here.
    """
    known = migrations()
    connection.execute(_NOTES)
    done = {number for (number,) in connection.execute("SELECT number FROM migrations")}
    if unknown := done - known.keys():
        raise ConfigError(
            f"the database was written by a later version of crawlfarm "
            f"(schema {max(unknown)}; this one knows {max(known)}): use that version, or another file"
        )
    applied = []
    for number, (name, text) in known.items():
        if number in done:
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements(text):
                connection.execute(statement)
            connection.execute("INSERT INTO migrations (number, name) VALUES (?, ?)", (number, name))
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        applied.append(name)
    return applied
