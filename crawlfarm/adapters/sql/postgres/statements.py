"""Our queries, with their ``:named`` parameters, through psycopg2."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from typing import Any

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
def many_rows(statement: str) -> tuple[bytes, str, bytes] | None:
    """An ``INSERT`` of one row as what comes before, the row as a template, what comes after.

    ``None`` for other statements, and where parameters are elsewhere too.
    """
    match = _INSERT.match(statement)
    if match is None or any(token["name"] for token in _TOKENS.finditer(match["head"] + match["tail"])):
        return None
    return match["head"].encode(), translate(match["row"]), match["tail"].encode()


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
        if insert := many_rows(statement):
            head, row, tail = insert
            while page := [self._cursor.mogrify(row, one) for one in islice(rows, _ROWS_AT_ONCE)]:
                self._kept.append(b"".join((head, b",".join(page), tail)))
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
