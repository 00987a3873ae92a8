"""Which of many things have been left alone the longest.

Invariant: entries lie in the order in which they were last touched. Time only grows, so
the oldest are at the front and nobody looks at the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator


class Ages:
    """Keys with the time each was last touched."""

    __slots__ = ("_touched",)

    def __init__(self) -> None:
        self._touched: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._touched)

    def __contains__(self, key: str) -> bool:
        return key in self._touched

    def touch(self, key: str, now: float) -> None:
        self._touched[key] = now
        self._touched.move_to_end(key)

    def drop(self, key: str) -> None:
        self._touched.pop(key, None)

    def since(self, key: str, now: float) -> float:
        """Seconds since ``key`` was touched."""
        return now - self._touched[key]

    def older_than(self, limit: float, now: float) -> Iterator[str]:
        """Those not touched for more than ``limit``, oldest first.

        Stop iterating before you touch or drop one, or take a list of them.
        """
        for key, touched in self._touched.items():
            if now - touched <= limit:
                return
            yield key
