"""The frontier over Redis: each call is one run of the script, on one shard.

A job lives on one shard, chosen by its seed's host when it is opened. Nothing records the
choice but the job's own keys: who meets an unknown job asks every shard for it. So shards
may be added and removed without moving anything that runs.

When another Redis process answers where a job was opened (a restart, a fail-over), it may
have lost what was written last, and its counters would still agree. The script then serves
the job to nobody until its master opens it again, under a higher run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from uhashring import HashRing

from crawlfarm.adapters.redis import calls, script
from crawlfarm.adapters.redis.link import NoScript, RedisLink
from crawlfarm.core.ports import (
    LATER,
    STALE,
    Exchanged,
    Finish,
    FrontierStatus,
    LeaseRef,
    LogSlice,
    Opened,
    PageLease,
)
from crawlfarm.core.urls import canonical, host_of
from crawlfarm.errors import ConfigError, Unavailable
from crawlfarm.wire.jobs import JobSpec

log = Logger()

WHERE = "CRAWLFARM_FRONTIER_URL"
_TELL_S = 0.002
"""Watchers are told this long after the first change: many changes become one."""


class Shard:
    """The script on one Redis."""

    def __init__(
        self, reactor: Any, url: str, prefix: str, settings: dict[str, Any], changed: Callable[[], None]
    ) -> None:
        self.link = RedisLink(reactor, url, WHERE, f"{prefix}wake", changed)
        self._prefix = prefix
        self._settings = settings

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """The answer as the script gave it: bytes, or a list of them for ``events``."""
        packed = script.pack({**arguments, **self._settings, "server": self.link.run_id})
        keys = (1, self._prefix, name, packed)
        try:
            return await self.link.execute("EVALSHA", script.sha(), *keys)
        except NoScript:
            return await self.link.execute("EVAL", script.source(), *keys)

    async def ask(self, name: str, **arguments: Any) -> Any:
        return script.unpack(await self.call(name, arguments))


class RedisFrontier:
    """A ``FrontierStore`` shared by any number of processes.

    :param urls: one a shard, each with its place in the ring given by its address.
    :param prefix: of every key; farms that share a Redis have different ones.
    :param now: whole milliseconds, instead of the server's clock; for tests.
    """

    def __init__(
        self,
        reactor: Any,
        urls: Sequence[str],
        *,
        page_lease_s: float = 20.0,
        page_attempts: int = 3,
        host_concurrency: int = 8,
        cascade: int = 2000,
        prefix: str = "crawlfarm:",
        now: Callable[[], int] | None = None,
    ) -> None:
        self._reactor = reactor
        self._now = now
        settings = {
            "lease_ms": round(page_lease_s * 1000),
            "attempts": page_attempts,
            "host_concurrency": host_concurrency,
            "cascade": cascade,
        }
        self._shards = {
            shard.link.address.shown: shard
            for shard in (Shard(reactor, url, prefix, settings, self._changed) for url in urls)
        }
        if len(self._shards) != len(urls):
            raise ConfigError(f"{WHERE} names one shard twice")
        self._ring = HashRing(nodes=list(self._shards))
        self._homes: dict[str, Shard] = {}
        self._runs: dict[str, int] = {}
        self._turn = 0
        self._watchers: dict[object, Callable[[], None]] = {}
        self._telling: Any = None

    async def start(self) -> None:
        """Connect to every shard.

        :raises ConfigError: one refuses us. One that is away is tried on in the background.
        """
        for shard in self._shards.values():
            try:
                await shard.link.start()
            except Unavailable as e:
                log.warn("{error}; trying on", error=e)

    async def stop(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        for shard in self._shards.values():
            await shard.link.stop()

    # --- the port --------------------------------------------------------------------------

    def open(self, job: str, spec: JobSpec, token: int) -> Deferred[Opened]:
        return Deferred.fromCoroutine(self._open(job, spec, token))

    def exchange(
        self,
        worker: str,
        finished: Sequence[Finish],
        want: int,
        jobs: Collection[str] | None = None,
        spiders: Collection[str] | None = None,
    ) -> Deferred[Exchanged]:
        return Deferred.fromCoroutine(self._exchange(finished, want, jobs, spiders))

    def extend(self, worker: str, leases: Sequence[LeaseRef]) -> Deferred[list[bool]]:
        return Deferred.fromCoroutine(self._extend(leases))

    def release(self, worker: str, leases: Sequence[LeaseRef]) -> Deferred[int]:
        return Deferred.fromCoroutine(self._release(leases))

    def reap(self) -> Deferred[int]:
        return Deferred.fromCoroutine(self._reap())

    def cancel(self, job: str, token: int, reason: str) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._cancel(job, token, reason))

    def forget(self, job: str, token: int) -> Deferred[None]:
        return Deferred.fromCoroutine(self._forget(job, token))

    def events(self, job: str, after: int, limit: int = 1000) -> Deferred[LogSlice | None]:
        return Deferred.fromCoroutine(self._events(job, after, limit))

    def status(self, job: str) -> Deferred[FrontierStatus | None]:
        return Deferred.fromCoroutine(self._status(job))

    def audit(self, job: str) -> Deferred[list[str]]:
        return Deferred.fromCoroutine(self._audit(job))

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        watching = object()
        self._watchers[watching] = wake

        def stop() -> None:
            self._watchers.pop(watching, None)

        return stop

    # --- jobs and their shards ----------------------------------------------------------------

    async def _home(self, job: str) -> Shard | None:
        """The shard that has the job, or ``None`` when none has.

        :raises Unavailable: a shard that might have it is away.
        """
        home = self._homes.get(job)
        if home is not None:
            return home
        away: Unavailable | None = None
        for shard in self._shards.values():
            try:
                if await shard.ask("has", job=job):
                    return self._settle(job, shard)
            except Unavailable as e:
                away = e
        if away is not None:
            raise away
        return None

    def _settle(self, job: str, shard: Shard) -> Shard:
        self._homes[job] = shard
        while len(self._homes) > 10_000:
            del self._homes[next(iter(self._homes))]
        return shard

    async def _ask(self, job: str, name: str, **arguments: Any) -> Any:
        """``None`` when no shard has the job."""
        home = await self._home(job)
        return None if home is None else await home.ask(name, job=job, **arguments, **self._time())

    def _time(self) -> dict[str, int]:
        return {} if self._now is None else {"now": self._now()}

    # --- the calls ----------------------------------------------------------------------------

    async def _open(self, job: str, spec: JobSpec, token: int) -> Opened:
        home = await self._home(job)
        if home is None:
            home = self._shards[self._ring.get_node(host_of(canonical(spec.url)))]
        arguments = calls.open_arguments(job, spec, token)
        # A job created again, or rewound, by the same master gets a run nobody has seen.
        arguments["run"] = max(arguments["run"], self._runs.get(job, 0) + 1)
        opened = calls.opened(job, await home.ask("open", **arguments, **self._time()))
        self._runs[job] = opened.run
        self._settle(job, home)
        return opened

    async def _exchange(
        self,
        finished: Sequence[Finish],
        want: int,
        jobs: Collection[str] | None,
        spiders: Collection[str] | None,
    ) -> Exchanged:
        if len(self._shards) == 1:
            (shard,) = self._shards.values()
            exchanged = await self._exchange_with(shard, finished, want, jobs, spiders)
        else:
            exchanged = await self._exchange_with_all(finished, want, jobs, spiders)
        return exchanged

    async def _exchange_with(
        self,
        shard: Shard,
        finished: Sequence[Finish],
        want: int,
        jobs: Collection[str] | None,
        spiders: Collection[str] | None,
    ) -> Exchanged:
        arguments = calls.exchange_arguments(finished, want, jobs, spiders)
        exchanged = calls.exchanged(await shard.ask("exchange", **arguments, **self._time()))
        for lease in exchanged.leases:
            self._settle(lease.ref.job, shard)
        return exchanged

    async def _exchange_with_all(
        self,
        finished: Sequence[Finish],
        want: int,
        jobs: Collection[str] | None,
        spiders: Collection[str] | None,
    ) -> Exchanged:
        """Each shard in turn, another one first each time; one that is away costs only its own."""
        homes: dict[str, Shard | None] = {}
        verdicts: dict[int, str] = {}
        for n, finish in enumerate(finished):
            job = finish.ref.job
            try:
                homes[job] = homes.get(job) or await self._home(job)
                verdicts[n] = LATER if homes[job] is not None else STALE
            except Unavailable:
                homes[job], verdicts[n] = None, LATER
        self._turn = (self._turn + 1) % len(self._shards)
        shards = list(self._shards.values())
        shards = shards[self._turn :] + shards[: self._turn]
        leases: list[PageLease] = []
        running: set[str] = set()
        errors: list[Unavailable] = []

        async def with_one(shard: Shard, own: list[int], share: int) -> bool:
            """Whether the shard may have more than its share."""
            try:
                part = await self._exchange_with(shard, [finished[n] for n in own], share, jobs, spiders)
            except Unavailable as e:
                errors.append(e)
                # Its jobs may well be running: nobody may take them for ended.
                known = self._homes if jobs is None else jobs
                running.update(j for j in known if self._homes.get(j) in (shard, None))
                return False
            verdicts.update(zip(own, part.verdicts, strict=True))
            leases.extend(part.leases)
            running.update(part.running)
            return share == len(part.leases)

        shares = [want // len(shards) + (place < want % len(shards)) for place in range(len(shards))]
        more = await gatherResults(
            [
                Deferred.fromCoroutine(
                    with_one(shard, [n for n, f in enumerate(finished) if homes[f.ref.job] is shard], share)
                )
                for shard, share in zip(shards, shares, strict=True)
            ]
        )
        if len(errors) == len(shards):
            raise errors[0]
        for shard in [shard for shard, has_more in zip(shards, more, strict=True) if has_more]:
            if len(leases) < want:
                await with_one(shard, [], want - len(leases))
        return Exchanged([verdicts[n] for n in range(len(finished))], leases, frozenset(running))

    async def _by_shard(self, leases: Sequence[LeaseRef]) -> list[tuple[Shard, list[int]]]:
        places: dict[str, tuple[Shard, list[int]]] = {}
        for n, ref in enumerate(leases):
            home = await self._home(ref.job)
            if home is not None:
                places.setdefault(home.link.address.shown, (home, []))[1].append(n)
        return list(places.values())

    async def _extend(self, leases: Sequence[LeaseRef]) -> list[bool]:
        kept = [False] * len(leases)
        for shard, places in await self._by_shard(leases):
            refs = [calls.reference(leases[n]) for n in places]
            for n, keeps in zip(places, await shard.ask("extend", refs=refs, **self._time()), strict=True):
                kept[n] = keeps
        return kept

    async def _release(self, leases: Sequence[LeaseRef]) -> int:
        taken = 0
        for shard, places in await self._by_shard(leases):
            refs = [calls.reference(leases[n]) for n in places]
            taken += await shard.ask("release", refs=refs, **self._time())
        return taken

    async def _reap(self) -> int:
        lost, away = 0, None
        for shard in self._shards.values():
            try:
                lost += await shard.ask("reap", **self._time())
            except Unavailable as e:
                away = e
        if away is not None:
            raise away
        return lost

    async def _cancel(self, job: str, token: int, reason: str) -> bool:
        return bool(calls.unfenced(job, await self._ask(job, "cancel", token=token, reason=reason)))

    async def _forget(self, job: str, token: int) -> None:
        calls.unfenced(job, await self._ask(job, "forget", token=token))
        self._homes.pop(job, None)
        self._runs.pop(job, None)

    async def _events(self, job: str, after: int, limit: int) -> LogSlice | None:
        home = await self._home(job)
        if home is None:
            return None
        answer = await home.call("events", {"job": job, "after": after, "limit": limit, **self._time()})
        if not isinstance(answer, list):
            self._homes.pop(job, None)
            return None
        return calls.log_slice(answer, after)

    async def _status(self, job: str) -> FrontierStatus | None:
        answer = await self._ask(job, "status")
        if not answer:
            self._homes.pop(job, None)
            return None
        return calls.status(answer)

    async def _audit(self, job: str) -> list[str]:
        return calls.audit(await self._ask(job, "audit") or ())

    # --- watching -------------------------------------------------------------------------------

    def _changed(self) -> None:
        if self._telling is None and self._watchers:
            self._telling = self._reactor.callLater(_TELL_S, self._tell)

    def _tell(self) -> None:
        self._telling = None
        for watching in list(self._watchers):
            wake = self._watchers.get(watching)
            if wake is not None:
                try:
                    wake()
                except Exception:
                    log.failure("a watcher of the frontier failed")
