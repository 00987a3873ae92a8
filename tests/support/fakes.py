"""A farm of nothing but tables: the ports a gateway needs, each held in the test's hand.

Nothing happens by itself: a test says which page was found (:meth:`FakeFarm.page`), that
the job ended (:meth:`FakeFarm.end`), that a part is away. The ports' methods never suspend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from crawlfarm.core.levels import fold, receipt
from crawlfarm.core.ports import FrontierStatus, LogSlice
from crawlfarm.errors import Unavailable
from crawlfarm.wire import lockd
from crawlfarm.wire.codec import pack
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Ended, Entry, Linked, Moved, PageRecord, Progress, Receipt, StoredResult
from crawlfarm.wire.queue import JobEnded, JobQueued


@dataclass
class FakeJob:
    id: str
    spec: JobSpec
    flight: str
    state: str = "queued"
    receipt: Receipt | None = None
    error: tuple[str, str] = ("", "")
    submissions: dict[tuple[str, str], str] = field(default_factory=dict)
    withdrawn: set[tuple[str, str]] = field(default_factory=set)
    run: int = 0
    log: list[Entry] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        return set(self.submissions) != self.withdrawn


class FakeFarm:
    """Stands in for the lock daemon, the queue, the frontier, the result store and the cache.

    :ivar away: names of the parts that raise ``Unavailable``.
    :ivar commands: what the lock daemon was told, in order.
    """

    def __init__(self) -> None:
        self.away: set[str] = set()
        self.jobs: dict[str, FakeJob] = {}
        self.commands: list[lockd.Command] = []
        self.locks = FakeLocks(self)
        self.queue = FakeQueue(self)
        self.frontier = FakeFrontier(self)
        self.results = FakeResults(self)
        self.cache = FakeCache()

    def check(self, part: str) -> None:
        if part in self.away:
            raise Unavailable(f"the {part} is away", retry_after_s=0.01)

    @property
    def only_job(self) -> str:
        (job,) = self.jobs
        return job

    # --- what a crawl does ----------------------------------------------------------

    def begin(self, job: str, run: int = 1) -> None:
        """A master opens the job."""
        self.jobs[job].state, self.jobs[job].run = "running", run

    def page(self, job: str, url: str, depth: int, disposition: str = "fetched") -> None:
        self._log(job, lambda seq: Ended(seq, PageRecord(url, depth, disposition)))

    def pages(self, job: str, count: int, depth: int = 1) -> list[str]:
        """``count`` more pages; their URLs."""
        at = len(self.jobs[job].log)
        urls = [f"http://site.test/{n:06}" for n in range(at, at + count)]
        for url in urls:
            self.page(job, url, depth)
        return urls

    def moved(self, job: str, url: str, depth: int, parent: str) -> None:
        self._log(job, lambda seq: Moved(seq, url, depth, parent))

    def linked(self, job: str, url: str, parent: str) -> None:
        self._log(job, lambda seq: Linked(seq, url, parent))

    def rewind(self, job: str, run: int) -> None:
        """The store lost the job: it begins again."""
        self.jobs[job].run, self.jobs[job].log = run, []
        self.frontier.wake()

    def end(self, job: str, state: str = "done", *, announce: bool = True, kept: bool = True, **error: str) -> None:
        """The job has its outcome; with ``kept`` its result is in the store."""
        row = self.jobs[job]
        row.receipt = receipt(fold(row.log).values(), cut=state != "done")
        if kept and state != "failed":
            stored = StoredResult(row.spec.url, row.spec.depth, state, row.run, row.receipt, list(row.log))
            self.results.kept[job] = pack(stored)
        row.state = state
        row.error = (error.get("code", ""), error.get("message", ""))
        if announce:
            self.queue.announce(job)

    def _log(self, job: str, entry: Callable[[int], Entry]) -> None:
        if self.jobs[job].state == "queued":
            self.begin(job)
        self.jobs[job].log.append(entry(len(self.jobs[job].log) + 1))
        self.frontier.wake()


class FakeLocks:
    """Registers, joins, cancels and answers as the lock daemon does.

    :ivar cancel_ends: whether a job nobody wants any more ends at once.
    """

    def __init__(self, farm: FakeFarm) -> None:
        self._farm = farm
        self.cancel_ends = True

    async def call(self, command: lockd.Command) -> lockd.Answer:
        self._farm.commands.append(command)
        self._farm.check("locks")
        match command:
            case lockd.Register():
                return self._register(command)
            case lockd.CancelJob():
                return self._cancel(command)
            case lockd.Ask():
                row = self._mine(command.job, command.client)
                if row is None:
                    return lockd.Refused("unknown_job", "there is no such job")
                return lockd.JobView(row.id, row.state, row.spec, Progress(), row.receipt, *row.error)
        raise AssertionError(command)

    def watch(self, master: str, notice: Callable[[lockd.CancelWanted], None]) -> Callable[[], None]:
        raise AssertionError("a gateway is no master")

    def _mine(self, job: str, client: str) -> FakeJob | None:
        row = self._farm.jobs.get(job)
        return row if row is not None and any(c == client for c, _ in row.submissions) else None

    def _register(self, command: lockd.Register) -> lockd.Answer:
        key = (command.client, command.id)
        for row in self._farm.jobs.values():
            if key in row.submissions:
                if row.submissions[key] != command.body:
                    return lockd.Refused("id_conflict", "the id was used before, for another job")
                return lockd.Registered(row.id, False, False)
        for row in self._farm.jobs.values():
            if row.flight == command.flight and row.state in ("queued", "running") and row.wanted:
                row.submissions[key] = command.body
                return lockd.Registered(row.id, False, True)
        self._farm.jobs[command.job] = FakeJob(
            command.job, command.spec, command.flight, submissions={key: command.body}
        )
        return lockd.Registered(command.job, True, False)

    def _cancel(self, command: lockd.CancelJob) -> lockd.Answer:
        row = self._mine(command.job, command.client)
        if row is None:
            return lockd.Refused("unknown_job", "there is no such job")
        ended = row.state not in ("queued", "running")
        for client, id_ in row.submissions:
            if client == command.client and (command.ids is None or id_ in command.ids):
                row.withdrawn.add((client, id_))
        if not ended and not row.wanted and self.cancel_ends:
            self._farm.end(row.id, "cancelled")
        return lockd.Done(row.id)


class FakeQueue:
    def __init__(self, farm: FakeFarm) -> None:
        self._farm = farm
        self.published: list[str] = []
        self._listeners: list[Callable[[JobEnded], None]] = []

    async def publish(self, message: JobQueued) -> None:
        self._farm.check("queue")
        self.published.append(message.job)

    def consume(self, deliver: Any) -> Callable[[], None]:
        raise AssertionError("a gateway takes no jobs")

    async def publish_ended(self, message: JobEnded) -> None:
        self.announce(message.job)

    def announce(self, job: str) -> None:
        for listener in list(self._listeners):
            listener(JobEnded(job))

    def on_ended(self, ended: Callable[[JobEnded], None]) -> Callable[[], None]:
        self._listeners.append(ended)
        return lambda: self._listeners.remove(ended)


class FakeFrontier:
    """:ivar reads: how many log entries were given out."""

    def __init__(self, farm: FakeFarm) -> None:
        self._farm = farm
        self.reads = 0
        self._watchers: list[Callable[[], None]] = []

    async def events(self, job: str, after: int, limit: int = 1000) -> LogSlice | None:
        self._farm.check("frontier")
        row = self._farm.jobs.get(job)
        if row is None or not row.run:
            return None
        entries = row.log[after : after + limit]
        self.reads += len(entries)
        return LogSlice(row.run, entries, row.state, -1)

    async def status(self, job: str) -> FrontierStatus | None:
        self._farm.check("frontier")
        row = self._farm.jobs.get(job)
        if row is None or not row.run:
            return None
        records = fold(row.log).values()
        return FrontierStatus(row.run, row.state, Progress(found=len(records), fetched=len(records)), receipt(records))

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        self._watchers.append(wake)
        return lambda: self._watchers.remove(wake)

    def wake(self) -> None:
        for watcher in list(self._watchers):
            watcher()


class FakeResults:
    def __init__(self, farm: FakeFarm) -> None:
        self._farm = farm
        self.kept: dict[str, bytes] = {}

    async def put(self, job: str, token: int, data: bytes, ttl_s: float) -> None:
        self.kept[job] = data

    async def get(self, job: str) -> bytes | None:
        self._farm.check("results")
        return self.kept.get(job)


class FakeCache:
    def __init__(self) -> None:
        self.kept: dict[str, tuple[int, bytes]] = {}

    async def get(self, key: str) -> tuple[int, bytes] | None:
        return self.kept.get(key)

    async def put(self, key: str, depth: int, data: bytes) -> bool:
        if key in self.kept and self.kept[key][0] >= depth:
            return False
        self.kept[key] = (depth, data)
        return True
