"""The result store: what finished jobs found, compressed, until it expires.

Invariant: the token of a job's row only grows, so a master that lost its lease cannot
put its result over its successor's.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import cast

from twisted.internet.defer import Deferred

from crawlfarm.adapters.sql.database import Connection, Database
from crawlfarm.adapters.sql.queries import load_queries
from crawlfarm.errors import StaleToken

_SQL = load_queries("results")
_LEVEL = 3
"""Logs are lists of like URLs: higher levels take much longer and gain little."""


class SqlResults:
    """:class:`~crawlfarm.core.ports.ResultStore` in a table.

    :param now: seconds on the wall clock: results outlive the machine's uptime.
    """

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    def put(self, job: str, token: int, data: bytes, ttl_s: float) -> Deferred[None]:
        """See the port. What has expired is dropped in passing."""
        return Deferred.fromCoroutine(self._put(job, token, data, ttl_s))

    def get(self, job: str) -> Deferred[bytes | None]:
        return Deferred.fromCoroutine(self._get(job))

    async def _put(self, job: str, token: int, data: bytes, ttl_s: float) -> None:
        # The database's thread may have leases to commit: a big result must not hold them up.
        packed = await self._database.in_pool(partial(zlib.compress, data, _LEVEL))
        now = self._now()

        def write(connection: Connection) -> None:
            connection.execute(_SQL["purge_results"], {"now": now})
            row = {"job": job, "token": token, "data": packed, "expires_at": now + ttl_s}
            if not connection.execute(_SQL["put_result"], row):
                (there,) = connection.fetch(_SQL["token_of_result"], {"job": job})
                raise StaleToken(f"a result of job {job} is there under token {there['token']}, above {token}")

        await self._database.run_apart(write)

    async def _get(self, job: str) -> bytes | None:
        query = {"job": job, "now": self._now()}
        rows = await self._database.run_apart(lambda connection: connection.fetch(_SQL["get_result"], query))
        if not rows:
            return None
        packed = cast(bytes, rows[0]["data"])
        return await self._database.in_pool(lambda: zlib.decompress(packed))
