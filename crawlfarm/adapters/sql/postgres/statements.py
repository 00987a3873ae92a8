"""Our queries, with their ``:named`` parameters, through psycopg2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, cast

import msgspec

from crawlfarm.adapters.sql.database import Parameters, Row

_ROWS_AT_ONCE = 500
"""How many rows one statement of :meth:`PostgresConnection.execute_many` carries."""

_TOKENS = re.compile(r"(?P<text>'(?:[^']|'')*')|(?P<cast>::)|:(?P<name>[a-z_]+)|(?P<percent>%)")
_INSERT = re.compile(
    r"\A\s*(?P<into>INSERT INTO (?P<table>\w+) \((?P<columns>[^()]*)\))\s*VALUES\s*"
    r"\((?P<values>[^()]*)\)(?P<tail>.*)\Z",
    re.DOTALL,
)


@lru_cache(maxsize=256)
def translate(statement: str) -> str:
    """``:name`` as psycopg2 writes it; texts and casts stay as they are."""

    def one(match: re.Match[str]) -> str:
        if name := match["name"]:
            return f"%({name})s"
        return match[0].replace("%", "%%")

    return _TOKENS.sub(one, statement)


@dataclass(frozen=True, slots=True)
class Insert:
    """An ``INSERT`` of one row, as what it takes to insert many."""

    into: str
    row: str
    from_json: str
    tail: str

    def values(self, cursor: Any, rows: Sequence[Parameters]) -> bytes:
        """All in one statement."""
        if any(isinstance(value, bytes) for value in rows[0].values()):
            given = b"VALUES " + b",".join(cursor.mogrify(self.row, row) for row in rows)
        else:
            # A fifth of the time that quoting value by value takes.
            given = cast(bytes, cursor.mogrify(self.from_json, (msgspec.json.encode(rows).decode(),)))
        return b" ".join((self.into.encode(), given, self.tail.encode()))


@lru_cache(maxsize=64)
def insert_of(statement: str) -> Insert | None:
    """``None`` for other statements, and for an ``INSERT`` of more than its parameters."""
    match = _INSERT.match(statement)
    if match is None or ":" in match["tail"]:
        return None
    columns = [name.strip() for name in match["columns"].split(",")]
    if [value.strip() for value in match["values"].split(",")] != [f":{name}" for name in columns]:
        return None
    return Insert(
        into=match["into"],
        row="(" + ", ".join(f"%({name})s" for name in columns) + ")",
        from_json=f"SELECT {', '.join(columns)} FROM json_populate_recordset(NULL::{match['table']}, %s)",
        tail=match["tail"],
    )


class PostgresConnection:
    """:class:`~crawlfarm.adapters.sql.database.Connection` of psycopg2, for one transaction.

    What has no answer to wait for (the begin, :meth:`execute_many`) is kept and goes to
    the server together with what comes next, at the latest with the commit. A round trip
    costs more than the network's time: meanwhile the reactor's thread has taken the
    interpreter, and gives it back when it likes.
    """

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self._kept: list[bytes] = [b"BEGIN"]

    def fetch(self, statement: str, parameters: Parameters | None = None) -> list[Row]:
        self._send(statement, parameters)
        names = [column[0] for column in self._cursor.description]
        return [dict(zip(names, map(_plain, row), strict=True)) for row in self._cursor]

    def execute(self, statement: str, parameters: Parameters | None = None) -> int:
        self._send(statement, parameters)
        return int(self._cursor.rowcount)

    def execute_many(self, statement: str, parameters: Iterable[Parameters]) -> None:
        rows = iter(parameters)
        if insert := insert_of(statement):
            while page := list(islice(rows, _ROWS_AT_ONCE)):
                self._kept.append(insert.values(self._cursor, page))
        else:
            translated = translate(statement)
            self._kept += [self._cursor.mogrify(translated, one) for one in rows]

    def commit(self) -> None:
        self._kept.append(b"COMMIT")
        self._flush()

    def _send(self, statement: str, parameters: Parameters | None) -> None:
        self._kept.append(self._cursor.mogrify(translate(statement), dict(parameters or {})))
        self._flush()

    def _flush(self) -> None:
        kept, self._kept = self._kept, []
        self._cursor.execute(b";\n".join(kept))


def _plain(value: object) -> object:
    return bytes(value) if isinstance(value, memoryview) else value
