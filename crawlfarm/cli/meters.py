"""What a process counts, for Prometheus: at its ports, so that nothing below them knows.

Names follow Prometheus' conventions: ``crawlfarm_``, base units, ``_total`` for counters.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from crawlfarm.core.ports import (
    DONE,
    STALE,
    Delivery,
    Exchanged,
    Finish,
    FrontierStatus,
    FrontierStore,
    JobQueue,
    LeaseRef,
    LockService,
    LogSlice,
    Opened,
)
from crawlfarm.wire import lockd
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.queue import JobEnded, JobQueued

_QUICK = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_LAG_S = 0.25


class Meters:
    """The numbers of one process."""

    def __init__(self, reactor: Any) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the page
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.exchanges = Histogram(
            "crawlfarm_frontier_exchange_seconds",
            "Time of an exchange with the frontier",
            buckets=_QUICK,
            registry=registry,
        )
        self.exchange_failures = Counter(
            "crawlfarm_frontier_exchange_failures", "Exchanges that the frontier did not answer", registry=registry
        )
        self.pages = Counter(
            "crawlfarm_pages", "Pages this process finished, by what became of them", ["disposition"], registry=registry
        )
        self.stale = Counter(
            "crawlfarm_pages_stale", "Pages finished too late: somebody else had them", registry=registry
        )
        self.leases = Gauge("crawlfarm_page_leases", "Pages this process holds", registry=registry)
        self.publishes = Counter(
            "crawlfarm_queue_publishes", "Messages published", ["what", "outcome"], registry=registry
        )
        self.deliveries = Counter(
            "crawlfarm_queue_deliveries", "Jobs the queue brought", ["outcome"], registry=registry
        )
        self.lock_calls = Histogram(
            "crawlfarm_lockd_call_seconds",
            "Time of a command to the lock daemon",
            ["command"],
            buckets=_QUICK,
            registry=registry,
        )
        self.lock_failures = Counter(
            "crawlfarm_lockd_call_failures", "Commands without an answer", ["command"], registry=registry
        )
        self.lag = Histogram(
            "crawlfarm_reactor_lag_seconds", "How late the reactor calls", buckets=_QUICK, registry=registry
        )
        self._ticks = LoopingCall(self._tick)
        self._ticks.clock = reactor
        self._due = 0.0

    def start(self) -> None:
        self._due = time.monotonic() + _LAG_S
        self._ticks.start(_LAG_S, now=False)

    def stop(self) -> None:
        if self._ticks.running:
            self._ticks.stop()

    def gauge(self, name: str, help: str, value: Callable[[], float]) -> None:
        """A number that is asked for when it is wanted."""
        Gauge(f"crawlfarm_{name}", help, registry=self.registry).set_function(value)

    def counter(self, name: str, help: str, value: Callable[[], float]) -> None:
        """A count that somebody else keeps."""
        self.registry.register(_Asked(f"crawlfarm_{name}", help, value))

    def states(self, name: str, help: str, label: str, values: Callable[[], dict[str, int]]) -> None:
        """Numbers by state, asked for when they are wanted."""
        self.registry.register(_States(f"crawlfarm_{name}", help, label, values))

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)

    def frontier(self, store: FrontierStore) -> FrontierStore:
        return MeteredFrontier(store, self)

    def queue(self, queue: JobQueue) -> JobQueue:
        return MeteredQueue(queue, self)

    def locks(self, locks: LockService) -> LockService:
        return MeteredLocks(locks, self)

    def _tick(self) -> None:
        now = time.monotonic()
        self.lag.observe(max(0.0, now - self._due))
        self._due = now + _LAG_S


class _Asked:
    def __init__(self, name: str, help: str, value: Callable[[], float]) -> None:
        self._name, self._help, self._value = name, help, value

    def collect(self) -> list[Any]:
        from prometheus_client.core import CounterMetricFamily

        return [CounterMetricFamily(self._name, self._help, value=self._value())]


class _States:
    def __init__(self, name: str, help: str, label: str, values: Callable[[], dict[str, int]]) -> None:
        self._name, self._help, self._label, self._values = name, help, label, values

    def collect(self) -> list[Any]:
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily(self._name, self._help, labels=[self._label])
        for state, value in self._values().items():
            family.add_metric([state], value)
        return [family]


class MeteredFrontier:
    """Counts exchanges, pages and leases; a ``FrontierStore`` as the one it stands before."""

    def __init__(self, store: FrontierStore, meters: Meters) -> None:
        self._store = store
        self._meters = meters
        self._held: set[LeaseRef] = set()
        meters.leases.set_function(lambda: len(self._held))

    def exchange(
        self,
        worker: str,
        finished: Sequence[Finish],
        want: int,
        jobs: Collection[str] | None = None,
        spiders: Collection[str] | None = None,
    ) -> Awaitable[Exchanged]:
        return Deferred.fromCoroutine(self._exchange(worker, finished, want, jobs, spiders))

    async def _exchange(
        self,
        worker: str,
        finished: Sequence[Finish],
        want: int,
        jobs: Collection[str] | None,
        spiders: Collection[str] | None,
    ) -> Exchanged:
        meters = self._meters
        began = time.monotonic()
        try:
            exchanged = await self._store.exchange(worker, finished, want, jobs, spiders)
        except Exception:
            meters.exchange_failures.inc()
            raise
        meters.exchanges.observe(time.monotonic() - began)
        for finish, verdict in zip(finished, exchanged.verdicts, strict=True):
            if verdict not in (DONE, STALE):
                continue
            self._held.discard(finish.ref)
            if verdict == STALE:
                meters.stale.inc()
            elif finish.ref.url:
                meters.pages.labels(finish.disposition).inc()
        self._held.update(lease.ref for lease in exchanged.leases)
        gone = [ref for ref in self._held if ref.job not in exchanged.running and (jobs is None or ref.job in jobs)]
        self._held.difference_update(gone)
        return exchanged

    def extend(self, worker: str, leases: Sequence[LeaseRef]) -> Awaitable[list[bool]]:
        return Deferred.fromCoroutine(self._extend(worker, leases))

    async def _extend(self, worker: str, leases: Sequence[LeaseRef]) -> list[bool]:
        kept = await self._store.extend(worker, leases)
        self._held.difference_update(ref for ref, keeps in zip(leases, kept, strict=True) if not keeps)
        return kept

    def release(self, worker: str, leases: Sequence[LeaseRef]) -> Awaitable[int]:
        self._held.difference_update(leases)
        return self._store.release(worker, leases)

    def open(self, job: str, spec: JobSpec, token: int) -> Awaitable[Opened]:
        return self._store.open(job, spec, token)

    def reap(self) -> Awaitable[int]:
        return self._store.reap()

    def cancel(self, job: str, token: int, reason: str) -> Awaitable[bool]:
        return self._store.cancel(job, token, reason)

    def events(self, job: str, after: int, limit: int = 1000) -> Awaitable[LogSlice | None]:
        return self._store.events(job, after, limit)

    def status(self, job: str) -> Awaitable[FrontierStatus | None]:
        return self._store.status(job)

    def audit(self, job: str) -> Awaitable[list[str]]:
        return self._store.audit(job)

    def forget(self, job: str, token: int) -> Awaitable[None]:
        return self._store.forget(job, token)

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        return self._store.watch(wake)


class MeteredQueue:
    """Counts messages; a ``JobQueue`` as the one it stands before."""

    def __init__(self, queue: JobQueue, meters: Meters) -> None:
        self._queue = queue
        self._meters = meters

    def publish(self, message: JobQueued) -> Awaitable[None]:
        return Deferred.fromCoroutine(self._counted("job", self._queue.publish(message)))

    def publish_ended(self, message: JobEnded) -> Awaitable[None]:
        return Deferred.fromCoroutine(self._counted("ended", self._queue.publish_ended(message)))

    async def _counted(self, what: str, published: Awaitable[None]) -> None:
        outcome = "failed"
        try:
            await published
            outcome = "confirmed"
        finally:
            self._meters.publishes.labels(what, outcome).inc()

    def consume(self, deliver: Callable[[Delivery], None]) -> Callable[[], None]:
        deliveries = self._meters.deliveries
        return self._queue.consume(lambda delivery: deliver(_MeteredDelivery(delivery, deliveries)))

    def on_ended(self, ended: Callable[[JobEnded], None]) -> Callable[[], None]:
        return self._queue.on_ended(ended)


class _MeteredDelivery:
    def __init__(self, delivery: Delivery, deliveries: Counter) -> None:
        self._delivery = delivery
        self._deliveries = deliveries

    @property
    def message(self) -> JobQueued:
        return self._delivery.message

    def ack(self) -> None:
        self._deliveries.labels("acked").inc()
        self._delivery.ack()

    def requeue(self) -> None:
        self._deliveries.labels("requeued").inc()
        self._delivery.requeue()


class MeteredLocks:
    """Times commands; a ``LockService`` as the one it stands before."""

    def __init__(self, locks: LockService, meters: Meters) -> None:
        self._locks = locks
        self._meters = meters

    def call(self, command: lockd.Command) -> Awaitable[lockd.Answer]:
        return Deferred.fromCoroutine(self._call(command))

    async def _call(self, command: lockd.Command) -> lockd.Answer:
        name = type(command).__name__
        began = time.monotonic()
        try:
            answer = await self._locks.call(command)
        except Exception:
            self._meters.lock_failures.labels(name).inc()
            raise
        self._meters.lock_calls.labels(name).observe(time.monotonic() - began)
        return answer

    def watch(self, master: str, notice: Callable[[lockd.CancelWanted], None]) -> Callable[[], None]:
        return self._locks.watch(master, notice)
