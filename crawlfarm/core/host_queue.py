"""The pages of one job that wait, by host and depth.

Pages come out in order of depth; within a depth the hosts take turns, so that a host
with a million pages waits no longer than one with a single page. A host that may take no
more requests now is set aside and costs nothing until it is :meth:`put back <HostQueue.unblock>`.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable


class HostQueue:
    """A page is found again by its key; entries that no longer count are skipped when met.

    :param alive: whether the entry ``(key, depth)`` still counts; an entry stops to
        when its page was queued again at a lower depth, or settled.
    """

    __slots__ = ("_alive", "_aside", "_buckets", "_ready", "_turn", "_turns")

    def __init__(self, alive: Callable[[str, int], bool]) -> None:
        self._alive = alive
        self._buckets: dict[str, dict[int, deque[str]]] = {}
        self._ready: list[tuple[int, int, str]] = []
        self._turns: dict[str, tuple[int, int]] = {}
        self._aside: set[str] = set()
        self._turn = 0

    def push(self, host: str, depth: int, key: str) -> None:
        buckets = self._buckets.setdefault(host, {})
        if (bucket := buckets.get(depth)) is None:
            bucket = buckets[depth] = deque()
        bucket.append(key)
        turn = self._turns.get(host)
        if host not in self._aside and (turn is None or turn[0] > depth):
            self._line_up(host, depth)

    def pop(self, may_take: Callable[[str], bool]) -> str | None:
        """The next page whose host ``may_take`` one more request, or ``None``.

        A host that may not is left out until :meth:`unblock`.
        """
        while self._ready:
            depth, turn, host = heapq.heappop(self._ready)
            if self._turns.get(host) != (depth, turn):
                continue
            del self._turns[host]
            key = self._head(host)
            if key is None:
                continue
            lowest = min(self._buckets[host])
            if lowest > depth:
                # What stood here died; others may be nearer to the seed now.
                self._line_up(host, lowest)
                continue
            if not may_take(host):
                self._aside.add(host)
                continue
            self._buckets[host][lowest].popleft()
            self._line_up_next(host)
            return key
        return None

    def unblock(self, host: str) -> None:
        """The host may take requests again."""
        self._aside.discard(host)
        if host not in self._turns:
            self._line_up_next(host)

    def _line_up_next(self, host: str) -> None:
        if self._head(host) is not None:
            self._line_up(host, min(self._buckets[host]))

    def _line_up(self, host: str, depth: int) -> None:
        self._turn += 1
        self._turns[host] = (depth, self._turn)
        heapq.heappush(self._ready, (depth, self._turn, host))

    def _head(self, host: str) -> str | None:
        """The host's first live entry; dead ones before it are dropped."""
        buckets = self._buckets.get(host)
        while buckets:
            depth = min(buckets)
            bucket = buckets[depth]
            while bucket:
                if self._alive(bucket[0], depth):
                    return bucket[0]
                bucket.popleft()
            del buckets[depth]
        self._buckets.pop(host, None)
        return None
