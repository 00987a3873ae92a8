"""A stored result as a client gets it: its log, its levels, its terminal message."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from crawlfarm.core.levels import cut, fold, levels
from crawlfarm.wire.client import Cancelled, ErrorInfo, Failed, Result, Terminal
from crawlfarm.wire.codec import unpack_result
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.lockd import JobView
from crawlfarm.wire.pages import Entry, Receipt, StoredResult

NOTHING = Receipt(found=0, fetched=0, failed={}, skipped={}, complete=False)
"""The receipt of a job that was cancelled before anybody began it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A stored result, read.

    :ivar data: its bytes as they were stored, before any cut.
    :ivar digest: tells whether two are the same.
    """

    result: StoredResult
    levels: list[list[str]]
    data: bytes
    digest: str


def load(data: bytes, depth: int | None = None) -> Loaded:
    """Read a stored result, cut to ``depth`` levels. Takes a while for a large one.

    :raises BadInput: it is none, or of a version this program does not know.
    """
    result = unpack_result(data)
    if depth is not None:
        result = cut(result, depth)
    found = levels(fold(result.log).values(), result.depth, result.url)
    return Loaded(result, found, data, hashlib.blake2b(data, digest_size=8).hexdigest())


class AnswerNote(msgspec.Struct, frozen=True):
    """Kept beside a cached answer under the id of the job it was given as, so that a client
    that lost its connection, or only wanted the id, can come back for it.

    :ivar key: of the answer in the cache.
    :ivar digest: of the answer given then; cursors count within it.
    """

    client: str
    key: str
    spec: JobSpec
    receipt: Receipt
    digest: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended: the rest of the log comes from here, then ``reply``.

    :ivar run: what the numbers of ``log`` belong to; 0 when there is no log.
    """

    run: int
    log: list[Entry]
    reply: Terminal


def ending(view: JobView, loaded: Loaded | None) -> Ending:
    """The end of a job that the lock daemon says has ended."""
    run, log = (loaded.result.run, loaded.result.log) if loaded is not None else (0, [])
    if view.state == "cancelled":
        receipt = loaded.result.receipt if loaded is not None else view.receipt or NOTHING
        return Ending(run, log, Cancelled(view.job, receipt))
    if view.state == "failed":
        return failure(view.job, view.error_code or "failed", view.error_message or "the job failed")
    if loaded is None:
        return failure(view.job, "result_expired", "the job is done, but its result is not kept any more")
    return Ending(run, log, _result(view.job, view.spec, loaded, cached=False))


def cached_ending(job: str, spec: JobSpec, loaded: Loaded) -> Ending:
    """The end of a job that the cache answered."""
    return Ending(loaded.result.run, loaded.result.log, _result(job, spec, loaded, cached=True))


def failure(job: str, code: str, message: str) -> Ending:
    return Ending(0, [], Failed(job, ErrorInfo(code, message)))


def _result(job: str, spec: JobSpec, loaded: Loaded, *, cached: bool) -> Result:
    return Result(job, spec.url, spec.depth, loaded.levels, loaded.result.receipt, cached)
