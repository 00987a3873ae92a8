"""From a job's log to what its client reads: records, levels, the receipt.

All of it is derived: the log is the only thing stored (see
:class:`~crawlfarm.wire.pages.StoredResult`).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from crawlfarm.core.urls import canonical
from crawlfarm.wire.pages import Ended, Entry, Linked, Moved, PageRecord, Receipt, StoredResult

MAX_LINKERS = 5
"""How many of the pages that link to a broken one are told."""

CUTTING = frozenset(
    {"skipped:page_limit", "skipped:host_limit", "skipped:deadline", "skipped:trap", "skipped:cancelled"}
)
"""Dispositions that mean the crawl did not see everything: such an answer is not complete."""

_FLAWED = CUTTING | {"failed:worker_lost"}


def fold(log: Iterable[Entry]) -> dict[str, PageRecord]:
    """The final record of every URL in the log, by URL."""
    records: dict[str, PageRecord] = {}
    for entry in log:
        if isinstance(entry, Ended):
            records[entry.page.url] = msgspec.structs.replace(entry.page, linked_from=list(entry.page.linked_from))
        elif isinstance(entry, Moved):
            records[entry.url].depth = entry.depth
            records[entry.url].parent = entry.parent
        elif isinstance(entry, Linked):
            records[entry.url].linked_from.append(entry.parent)
    return records


def levels(records: Iterable[PageRecord], depth: int, seed: str) -> list[list[str]]:
    """``depth`` lists: the fetched pages at each link distance, sorted.

    The first is always the seed, whatever became of it.
    """
    found: list[list[str]] = [[] for _ in range(depth)]
    for record in records:
        if record.disposition == "fetched" and 0 < record.depth < depth:
            found[record.depth].append(record.url)
    for level in found:
        level.sort()
    found[0] = [canonical(seed)]
    return found


def receipt(records: Iterable[PageRecord], *, cut: bool = False) -> Receipt:
    """Counts the dispositions.

    :param cut: something that no disposition shows kept the crawl from being complete.
    """
    counts: dict[str, int] = {}
    for record in records:
        counts[record.disposition] = counts.get(record.disposition, 0) + 1
    return receipt_of(counts, cut=cut)


def receipt_of(counts: dict[str, int], *, cut: bool = False) -> Receipt:
    """The receipt of counted dispositions."""
    failed: dict[str, int] = {}
    skipped: dict[str, int] = {}
    for disposition in sorted(counts):
        kind, _, reason = disposition.partition(":")
        if reason and counts[disposition]:
            (failed if kind == "failed" else skipped)[reason] = counts[disposition]
    return Receipt(
        found=sum(counts.values()),
        fetched=counts.get("fetched", 0),
        failed=failed,
        skipped=skipped,
        complete=not cut and not any(counts.get(d) for d in _FLAWED),
    )


def cut(result: StoredResult, depth: int) -> StoredResult:
    """What the same crawl would have answered for fewer levels.

    A URL belongs to the shallower answer exactly when its distance does, whatever its
    disposition; a parent one level above is then in it as well.
    """
    if depth >= result.depth:
        return result
    kept = [record for record in fold(result.log).values() if record.depth < depth]
    # The shallower crawl did not read the pages on its last level for links.
    read = {record.url for record in kept if record.depth < depth - 1}
    for record in kept:
        record.linked_from = [url for url in record.linked_from if url in read]
    log: list[Entry] = [Ended(seq, record) for seq, record in enumerate(kept, 1)]
    return msgspec.structs.replace(result, depth=depth, log=log, receipt=receipt(kept, cut=not result.receipt.complete))
