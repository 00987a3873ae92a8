"""Page records, receipts, and the event log of a job.

The log of a job is a list of entries numbered from 1 without gaps. Folding it
(:func:`crawlfarm.core.levels.fold`) gives the final record of every URL found;
everything a client reads about pages is a piece of this log.
"""

from __future__ import annotations

from typing import Any

import msgspec


class PageRecord(msgspec.Struct, omit_defaults=True):
    """One URL that was found, and how it ended.

    :ivar url: its identity: the canonical URL.
    :ivar depth: link distance from the seed, 0 for the seed itself.
    :ivar disposition: ``fetched``, ``failed:<reason>`` or ``skipped:<reason>``.
    :ivar status: the HTTP status of the final response; 0 without one.
    :ivar final_url: where redirects ended, when that is elsewhere.
    :ivar bytes: length of the decoded body.
    :ivar parent: a page one level above that links here; empty for the seed.
    :ivar elapsed_ms: from the first byte asked to the last one read, redirects included.
    :ivar linked_from: for a broken page (failed, or a status of 400 and more) up to
        five pages that link to it.
    """

    url: str
    depth: int
    disposition: str
    status: int = 0
    final_url: str = ""
    title: str = ""
    content_type: str = ""
    bytes: int = 0
    parent: str = ""
    elapsed_ms: int = 0
    linked_from: list[str] = msgspec.field(default_factory=list)

    @property
    def broken(self) -> bool:
        return self.disposition.startswith("failed:") or self.status >= 400

    def row(self) -> dict[str, Any]:
        """Every field, also those at their default: a line of an export."""
        return msgspec.structs.asdict(self)


class Ended(msgspec.Struct, frozen=True, tag="page", omit_defaults=True):
    """Log entry: a URL got its disposition."""

    seq: int
    page: PageRecord


class Moved(msgspec.Struct, frozen=True, tag="moved"):
    """Log entry: a shorter way to a page already in the log was found."""

    seq: int
    url: str
    depth: int
    parent: str


class Linked(msgspec.Struct, frozen=True, tag="linked"):
    """Log entry: one more page links to a broken page already in the log."""

    seq: int
    url: str
    parent: str


Entry = Ended | Moved | Linked


class Receipt(msgspec.Struct, frozen=True):
    """What became of every URL found: ``found`` equals the sum of the others, always.

    ``complete`` is false when a limit, a cancel or a fault of the farm cut the crawl.
    """

    found: int
    fetched: int
    failed: dict[str, int]
    skipped: dict[str, int]
    complete: bool


class StoredResult(msgspec.Struct, frozen=True):
    """What the result store and the cache keep of a finished job: its log.

    :ivar version: of this format; an unknown one is not read.
    :ivar outcome: how the job ended: ``done`` or ``cancelled``.
    :ivar run: the run the log's numbers belong to; a cursor is ``run.seq``.
    """

    url: str
    depth: int
    outcome: str
    run: int
    receipt: Receipt
    log: list[Entry]
    version: int = 1


class Progress(msgspec.Struct, frozen=True):
    """Where a running job stands. ``depth`` is the lowest level not yet finished."""

    found: int = 0
    fetched: int = 0
    failed: int = 0
    skipped: int = 0
    queued: int = 0
    leased: int = 0
    depth: int = 0
