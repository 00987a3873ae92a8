"""Following a job: live progress for people, and the records it streams."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from crawlfarm.cli.logs import printable
from crawlfarm.cli.loop import Interrupts
from crawlfarm.core.levels import fold
from crawlfarm.wire.client import JobProgress, PageLinked, PageMoved, Pages, Reply, Rewound
from crawlfarm.wire.pages import Ended, Entry, Linked, Moved, PageRecord

_RATE_WINDOW_S = 5.0
_BAR_WIDTH = 20
_NARROW = 60
"""Below so many columns there is no room for the bar."""


class Records:
    """The log of a job as its stream tells it."""

    def __init__(self) -> None:
        self._log: list[Entry] = []

    def take(self, reply: Reply) -> None:
        log = self._log
        if isinstance(reply, Pages):
            log.extend(Ended(0, page) for page in reply.pages)
        elif isinstance(reply, PageMoved):
            log.append(Moved(0, reply.url, reply.depth, reply.parent))
        elif isinstance(reply, PageLinked):
            log.append(Linked(0, reply.url, reply.parent))
        elif isinstance(reply, Rewound):
            log.clear()

    def final(self) -> list[PageRecord]:
        return list(fold(self._log).values())


def starting(console: Console, interrupts: Interrupts) -> Callable[[], None]:
    """Show on a terminal that something happens, until what is returned is called."""
    status = console.status("starting a farm for this job")
    if not console.is_terminal:
        return lambda: None
    status.start()
    forget = interrupts.before_leaving(status.stop)

    def started() -> None:
        status.stop()
        forget()

    return started


class ProgressView:
    """Progress of one job on stderr: live on a terminal, else a plain line a second.

    A context manager; :meth:`show` takes each ``progress`` message, :meth:`tick` is to be
    called every second, whether one came or not.
    """

    def __init__(self, console: Console, title: str, now: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._title = printable(title)
        self._now = now
        self._began = now()
        self._seen: deque[tuple[float, int]] = deque([(self._began, 0)])
        self._latest = JobProgress(job="", state="queued")
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave nothing on the screen; may be called twice."""
        self._live.stop()

    def show(self, progress: JobProgress) -> None:
        if progress.fetched < self._latest.fetched:  # the job began anew
            self._seen.clear()
        self._latest = progress
        self._count()

    def tick(self) -> None:
        self._count()
        if not self._console.is_terminal:
            self._console.print(self.line(), markup=False, highlight=False, soft_wrap=True)

    def line(self) -> str:
        """One line that says where the job stands."""
        p = self._latest
        return (
            f"{p.state}: {p.fetched} pages, level {p.depth}, {self._rate():.0f}/s, {p.leased} in flight, "
            f"{p.queued} queued, {p.failed} failed, {p.skipped} skipped, {self._now() - self._began:.0f} s"
        )

    def _count(self) -> None:
        now = self._now()
        self._seen.append((now, self._latest.fetched))
        while self._seen[0][0] < now - _RATE_WINDOW_S and len(self._seen) > 2:
            self._seen.popleft()

    def _rate(self) -> float:
        (t0, n0), (t1, n1) = self._seen[0], self._seen[-1]
        return (n1 - n0) / max(1.0, t1 - t0)

    def _render(self) -> Group:
        p = self._latest
        width = self._console.width
        title = Text(self._title, style="bold cyan", overflow="ellipsis", no_wrap=True)
        elapsed = f"{self._now() - self._began:.0f} s"
        if p.state == "queued":
            return Group(title, Text(f"waiting for a master  {elapsed}", overflow="ellipsis", no_wrap=True))
        line = Text(overflow="ellipsis", no_wrap=True)
        if width >= _NARROW:
            done, known = p.fetched + p.failed + p.skipped, max(1, p.found)
            full = min(_BAR_WIDTH, _BAR_WIDTH * done // known)
            line.append("━" * full, style="green")
            line.append("━" * (_BAR_WIDTH - full) + "  ", style="grey37")
        line.append(f"{p.fetched:,}", style="bold")
        line.append(" pages  level ")
        line.append(str(p.depth), style="bold")
        line.append(f"  {self._rate():,.0f}/s  {p.leased} in flight  {p.queued:,} queued  ")
        if p.failed:
            line.append(f"{p.failed:,} failed  ", style="yellow")
        line.append(elapsed)
        return Group(title, line)
