"""Our queries, with their ``:named`` parameters, through psycopg2."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from psycopg2.extras import execute_batch, execute_values

from crawlfarm.adapters.sql.database import Parameters, Row

_ROWS_AT_ONCE = 500
"""How many rows one statement of :meth:`PostgresConnection.execute_many` carries."""

_TOKENS = re.compile(r"(?P<text>'(?:[^']|'')*')|(?P<cast>::)|:(?P<name>[a-z_]+)|(?P<percent>%)")
_INSERT = re.compile(r"\A(?P<head>\s*INSERT\s.*?\bVALUES\s*)(?P<row>\([^()]*\))(?P<tail>.*)\Z", re.DOTALL)


@lru_cache(maxsize=256)
def translate(statement: str) -> str:
    """``:name`` as psycopg2 writes it; texts and casts stay as they are."""

    def one(match: re.Match[str]) -> str:
        if name := match["name"]:
            return f"%({name})s"
        return match[0].replace("%", "%%")

    return _TOKENS.sub(one, statement)


@lru_cache(maxsize=64)
def many_rows(statement: str) -> tuple[str, str] | None:
    """An ``INSERT`` of one row as ``(statement for many, template of a row)``; ``None`` for others."""
    match = _INSERT.match(translate(statement))
    return (f"{match['head']}%s{match['tail']}", match["row"]) if match else None


class PostgresConnection:
    """:class:`~crawlfarm.adapters.sql.database.Connection` of psycopg2."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def fetch(self, statement: str, parameters: Parameters | None = None) -> list[Row]:
        self._cursor.execute(translate(statement), dict(parameters or {}))
        names = [column[0] for column in self._cursor.description]
        return [dict(zip(names, map(_plain, row), strict=True)) for row in self._cursor]

    def execute(self, statement: str, parameters: Parameters | None = None) -> int:
        self._cursor.execute(translate(statement), dict(parameters or {}))
        return int(self._cursor.rowcount)

    def execute_many(self, statement: str, parameters: Iterable[Parameters]) -> None:
        rows = list(parameters)
        if not rows:
            return
        if insert := many_rows(statement):
            execute_values(self._cursor, insert[0], rows, template=insert[1], page_size=_ROWS_AT_ONCE)
        else:
            execute_batch(self._cursor, translate(statement), rows, page_size=_ROWS_AT_ONCE)


def _plain(value: object) -> object:
    return bytes(value) if isinstance(value, memoryview) else value
