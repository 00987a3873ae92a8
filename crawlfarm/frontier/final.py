"""Which records of a running job nothing can change any more."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from crawlfarm.core.ports import LogSlice
from crawlfarm.wire.pages import Ended, Moved, PageRecord


class FinalRecords:
    """Reads a job's log piece by piece and gives each record once, when its depth is final.

    A broken page comes at the very end: until then another page may turn out to link to it.
    All waiting records are looked at only when the depth down to which they are final has
    grown, so that one slow page near the seed does not make every later piece expensive.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, PageRecord] = {}
        self._final_depth = -1

    def feed(self, piece: LogSlice, *, last: bool) -> list[PageRecord]:
        """The records that are final now.

        :param last: the job has ended and this is the end of its log.
        """
        touched: dict[str, None] = {}
        for entry in piece.entries:
            if isinstance(entry, Ended):
                url = entry.page.url
                self._waiting[url] = msgspec.structs.replace(entry.page, linked_from=list(entry.page.linked_from))
                touched[url] = None
            elif (record := self._waiting.get(entry.url)) is not None:
                if isinstance(entry, Moved):
                    record.depth, record.parent = entry.depth, entry.parent
                    touched[entry.url] = None
                else:
                    record.linked_from.append(entry.parent)
        grown, self._final_depth = piece.final_depth > self._final_depth, piece.final_depth
        return self._take(list(self._waiting) if grown or last else touched, last)

    def _take(self, urls: Iterable[str], last: bool) -> list[PageRecord]:
        records = (self._waiting[url] for url in urls)
        final = [record for record in records if last or (record.depth <= self._final_depth and not record.broken)]
        for record in final:
            del self._waiting[record.url]
        return final
