"""What this process knows the frontier has: links it need not send again.

Leaving a link out must change nothing. It would have: found a new page (so the page is
known to be there); lowered its depth (so it is known to be as near already); become one of
the five pages told to link to a broken page (so five were sent); or been kept with the
links of its page, for the case that this one's depth falls (so that cannot happen any more).
"""

from __future__ import annotations

from collections.abc import Sequence

from crawlfarm.core.levels import MAX_LINKERS
from crawlfarm.core.ports import Child, Finish, LeaseRef, PageLease

MOST_PAGES = 500_000
"""Pages remembered by a process, over all jobs; then it begins anew."""


class KnownPages:
    """Trims the children of finished pages.

    Everything remembered belongs to one run of a job: a new run begins with nothing.
    """

    def __init__(self, most: int = MOST_PAGES) -> None:
        self._most = most
        self._size = 0
        self._floors: dict[str, int] = {}
        self._depths: dict[LeaseRef, int] = {}
        self._sent: dict[tuple[str, int], dict[str, tuple[int, int]]] = {}

    def leased(self, lease: PageLease) -> None:
        self._depths[lease.ref] = lease.depth

    def floor(self, job: str, floor: int) -> None:
        """The lowest depth outstanding; it never falls within a run."""
        self._floors[job] = floor

    def ended(self, running: frozenset[str]) -> None:
        """Forget jobs that are over, or not served to us any more."""
        for key in [key for key in self._sent if key[0] not in running]:
            self._size -= len(self._sent.pop(key))
            self._floors.pop(key[0], None)
        for ref in [ref for ref in self._depths if ref.job not in running]:
            del self._depths[ref]

    def trim(self, finish: Finish) -> Sequence[Child] | None:
        """The children that must be sent."""
        ref = finish.ref
        depth = self._depths.get(ref)
        if not finish.children or depth is None or depth > self._floors.get(ref.job, -1) + 1:
            return finish.children
        sent = self._sent.get((ref.job, ref.run), {})
        unknown = (depth + 2, 0)
        return [
            child
            for child in finish.children
            if (known := sent.get(child.url, unknown))[0] > depth + 1 or (known[1] < MAX_LINKERS and not child.skip)
        ]

    def settled(self, finish: Finish, *, applied: bool) -> None:
        """The finish was answered for good. Only what was applied is known to be there: a
        page whose lease was lost hands in its links once more."""
        ref = finish.ref
        depth = self._depths.pop(ref, None)
        if not applied or depth is None:
            return
        if self._size > self._most:
            self._sent.clear()
            self._size = 0
        sent = self._sent.setdefault((ref.job, ref.run), {})
        before = len(sent)
        for child in finish.children or ():
            nearest, times = sent.get(child.url, (depth + 1, 0))
            sent[child.url] = (min(nearest, depth + 1), times + 1)
        self._size += len(sent) - before
