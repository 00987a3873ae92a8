"""The rows of the table in the database.

Invariants:

* A batch is one transaction, and it carries a number that no other ever has. So whoever
  does not know whether a commit took place reads which number is there.
* Only who read the table last may write: each reading has a number too, and the batches
  decided upon it carry it. Reading waits for a batch that is being written, and a batch
  that comes after the reading is refused. So what was read is final, also where an older
  connection's commit still hangs somewhere, or another daemon was here meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from crawlfarm.adapters.sql.database import Connection, Database, Row
from crawlfarm.adapters.sql.queries import load_queries
from crawlfarm.errors import Unavailable
from crawlfarm.wire.codec import encode_json
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Progress, Receipt
from lockd.rows import Changes, JobRow, Snapshot, SubmissionRow

_SQL = load_queries("jobs")
_JSON: dict[str, Any] = {"spec": JobSpec, "progress": Progress, "receipt": Receipt}
"""Columns that hold a message as JSON, so that people and SQL can read them."""
_FREE_TEXT = ("cancel", "error_code", "error_message")
"""Columns that hold whatever somebody said: what a database cannot hold is replaced."""


_SERIES = 1 << 32
"""The numbers of the batches decided upon one reading: from its own times this."""


class JobStore:
    """Jobs, submissions and counters in ``database``, which its owner opens and closes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, ended_before: float) -> Deferred[Snapshot]:
        """Everything but the jobs that ended before then, which are dropped.

        From now on only batches numbered after ``snapshot.first`` are written.

        :param ended_before: on the wall clock.
        """

        def read(connection: Connection) -> Snapshot:
            connection.execute(_SQL["begin_reading"])
            connection.execute(_SQL["purge_ended_jobs"], {"before": ended_before})
            meta = {row["name"]: row["value"] for row in connection.fetch(_SQL["load_meta"])}
            return Snapshot(
                jobs=[_job_row(row) for row in connection.fetch(_SQL["load_jobs"])],
                submissions=[_submission_row(row) for row in connection.fetch(_SQL["load_submissions"])],
                token=meta["token"],
                commit=meta["commit"],
                first=meta["reading"] * _SERIES,
            )

        return self._database.run(read)

    def write(self, changes: Changes, number: int) -> Deferred[None]:
        """Write a batch. Nobody may add to ``changes`` any more.

        :param number: one above the last batch's, or above ``snapshot.first``.
        :raises Unavailable: the database failed, or somebody else read the table since.
        """
        rows, submissions, purged, token = changes.rows, changes.submissions, changes.purged, changes.token

        def write(connection: Connection) -> None:
            if not connection.execute(_SQL["hold_reading"], {"reading": number // _SERIES}):
                raise Unavailable("another lock daemon has worked on this database since")
            # In this order: what is dropped makes room for a client's id, and what leaves
            # the index of single flight makes room for the next job with its question.
            connection.execute_many(_SQL["purge_job"], [{"job": job} for job in purged])
            connection.execute_many(_SQL["put_job"], _job_columns(row for row in rows if not row.in_flight))
            connection.execute_many(_SQL["put_job"], _job_columns(row for row in rows if row.in_flight))
            connection.execute_many(_SQL["put_submission"], [msgspec.structs.asdict(s) for s in submissions.values()])
            counters = {"commit": number} | ({"token": token} if token else {})
            connection.execute_many(_SQL["raise_meta"], [{"name": n, "value": v} for n, v in counters.items()])

        return self._database.run(write)


def _job_columns(rows: Iterable[JobRow]) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        columns = msgspec.structs.asdict(row)
        for name in _JSON:
            if columns[name] is not None:
                columns[name] = encode_json(columns[name]).decode()
        for name in _FREE_TEXT:
            columns[name] = columns[name].encode("utf-8", "replace").decode().replace("\0", "\ufffd")
        found.append(columns)
    return found


def _job_row(columns: Row) -> JobRow:
    for name, kind in _JSON.items():
        if columns[name] is not None:
            columns[name] = msgspec.json.decode(columns[name], type=kind)
    return JobRow(**columns)


def _submission_row(columns: Row) -> SubmissionRow:
    columns["detach"], columns["withdrawn"] = bool(columns["detach"]), bool(columns["withdrawn"])
    return SubmissionRow(**columns)
