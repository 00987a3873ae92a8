"""Answers by question, within this process.

Invariant: entries lie in the order in which they were last used. With one time to live
for all, that is also the order in which they expire, so both limits take from the front.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred, succeed

ENTRY_OVERHEAD = 300
"""What an entry costs beside its key and data, in bytes, about."""


@dataclass(slots=True)
class _Entry:
    depth: int
    data: bytes
    expires: float
    size: int


class MemoryCache:
    """:class:`~crawlfarm.core.ports.Cache` bounded in bytes; the longest unused goes first.

    :param now: monotonic seconds.
    :param ttl_s: how long an entry lives after its last use.
    :param max_bytes: of all entries. One that takes more than an eighth of it is not
        kept: it would push out too many others.
    """

    def __init__(self, now: Callable[[], float], ttl_s: float, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._now = now
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._bytes

    def get(self, key: str) -> Deferred[tuple[int, bytes] | None]:
        self._expire()
        entry = self._entries.get(key)
        if entry is None:
            return succeed(None)
        entry.expires = self._now() + self._ttl_s
        self._entries.move_to_end(key)
        return succeed((entry.depth, entry.data))

    def put(self, key: str, depth: int, data: bytes) -> Deferred[bool]:
        self._expire()
        size = len(key) + len(data) + ENTRY_OVERHEAD
        old = self._entries.get(key)
        if size > self._max_bytes // 8 or (old is not None and old.depth >= depth):
            return succeed(False)
        if old is not None:
            self._drop(key)
        self._entries[key] = _Entry(depth, data, self._now() + self._ttl_s, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))
        return succeed(True)

    def _expire(self) -> None:
        now = self._now()
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.expires > now:
                return
            self._drop(key)

    def _drop(self, key: str) -> None:
        self._bytes -= self._entries.pop(key).size
