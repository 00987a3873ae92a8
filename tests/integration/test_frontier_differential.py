"""The Redis frontier does what the model does, call by call."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.adapters.redis import calls, script
from crawlfarm.core.frontier import SEEDING, FrontierModel
from crawlfarm.core.ports import LINKS_WANTED, Child, Exchanged, Finish, FrontierStatus, LeaseRef, LogSlice, Opened
from crawlfarm.errors import StaleToken
from crawlfarm.wire.jobs import JobSpec
from tests.support.servers import redis_server

SEQUENCES = 2000 if os.environ.get("CRAWLFARM_TEST_LONG") else 60
CALLS = 200
LEASE_S = 20


class ScriptedFrontier:
    """The script's calls with the model's signatures: ``now`` is in whole seconds."""

    def __init__(self, client: redis.Redis, *, attempts: int, concurrency: int, cascade: int) -> None:
        self._client = client
        self._script = client.register_script(script.source())
        self._settings = {
            "lease_ms": LEASE_S * 1000,
            "attempts": attempts,
            "host_concurrency": concurrency,
            "cascade": cascade,
            "server": "the only one",
        }

    def _call(self, name: str, now: int, **arguments: Any) -> Any:
        packed = script.pack({**arguments, **self._settings, "now": now * 1000})
        return self._script(keys=["test:"], args=[name, packed])

    def _ask(self, name: str, now: int, **arguments: Any) -> Any:
        return script.unpack(self._call(name, now, **arguments))

    def open(self, now: int, job: str, spec: JobSpec, token: int) -> Opened:
        return calls.opened(job, self._ask("open", now, **calls.open_arguments(job, spec, token)))

    def exchange(self, now: int, worker: str, finished: Sequence[Finish], *rest: Any) -> Exchanged:
        return calls.exchanged(self._ask("exchange", now, **calls.exchange_arguments(finished, *rest)))

    def extend(self, now: int, worker: str, refs: Sequence[LeaseRef]) -> list[bool]:
        return list(self._ask("extend", now, refs=[calls.reference(ref) for ref in refs]))

    def release(self, now: int, worker: str, refs: Sequence[LeaseRef]) -> int:
        return int(self._ask("release", now, refs=[calls.reference(ref) for ref in refs]))

    def reap(self, now: int) -> int:
        return int(self._ask("reap", now))

    def cancel(self, now: int, job: str, token: int, reason: str) -> bool:
        return bool(calls.unfenced(job, self._ask("cancel", now, job=job, token=token, reason=reason)))

    def forget(self, now: int, job: str, token: int) -> None:
        calls.unfenced(job, self._ask("forget", now, job=job, token=token))

    def events(self, now: int, job: str, after: int) -> LogSlice | None:
        answer = self._call("events", now, job=job, after=after, limit=1000)
        return calls.log_slice(answer, after) if isinstance(answer, list) else None

    def status(self, now: int, job: str) -> FrontierStatus | None:
        answer = self._ask("status", now, job=job)
        return calls.status(answer) if answer else None

    def audit(self, now: int, job: str) -> list[str]:
        return calls.audit(self._ask("audit", now, job=job))


@dataclass
class Walk:
    """One random sequence of calls, made on both."""

    test: SynchronousTestCase
    number: int
    client: redis.Redis
    rng: random.Random = field(init=False)
    now: int = 1
    held: list[tuple[LeaseRef, int]] = field(default_factory=list)
    past: list[tuple[LeaseRef, int]] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = self.rng = random.Random(self.number)
        attempts, concurrency = rng.choice([1, 2, 3]), rng.choice([1, 2, 8])
        cascade = rng.choice([1, 5, 2000])
        self.model = FrontierModel(
            page_lease_s=LEASE_S, page_attempts=attempts, host_concurrency=concurrency, cascade=cascade
        )
        self.scripted = ScriptedFrontier(self.client, attempts=attempts, concurrency=concurrency, cascade=cascade)
        self.urls = [f"http://h{i % 3}/{i}" for i in range(rng.choice([8, 30, 120]))]
        self.specs = {
            job: JobSpec(
                "http://h0/0",
                rng.choice([1, 2, 3, 4, 6]),
                max_pages=rng.choice([None, None, None, 5]),
                spider=rng.choice(["site", "other"]),
            )
            for job in ["job 1", "job 2"][: rng.choice([1, 2])]
        }

    def run(self) -> None:
        for step in range(CALLS):
            self.now += self.rng.choice([0, 0, 0, 0, 0, 0, 1, 5, 21])
            self._step(self.rng.random(), self.rng.choice(list(self.specs)))
            for job in self.specs:
                self._both("status", job)
                self.test.assertEqual(self.model.audit(self.now, job), [], f"sequence {self.number}, model")
                self.test.assertEqual(self.scripted.audit(self.now, job), [], f"sequence {self.number}, script")
                if step % 7 == 0 or step == CALLS - 1:
                    self._both("events", job, 0)

    def _step(self, draw: float, job: str) -> None:
        rng = self.rng
        if draw < 0.08:
            token = max(1, self.tokens.get(job, 0) + rng.choice([-1, 0, 1, 1]))
            opened = self._both("open", job, self.specs[job], token)
            if isinstance(opened, Opened):
                self.tokens[job] = max(token, self.tokens.get(job, 0))
                if opened.seeding is not None:
                    self.held.append((opened.seeding, 0))
        elif draw < 0.75:
            self._exchange(job)
        elif draw < 0.80:
            self._both("extend", "worker", [ref for ref, _ in self.held[:3]])
        elif draw < 0.84:
            pages = [entry for entry in self.held if entry[0].url != SEEDING]
            if pages:
                entry = rng.choice(pages)
                self._both("release", "worker", [entry[0]])
                self.held.remove(entry)
                self.past.append(entry)
        elif draw < 0.88:
            self._both("reap")
        elif draw < 0.885:
            token = self.tokens.get(job, 1) - rng.choice([0, 0, 1])
            self._both("cancel", job, token, rng.choice(["cancelled", "deadline"]))
        elif draw < 0.89:
            self._both("forget", job, self.tokens.get(job, 1))

    def _exchange(self, job: str) -> None:
        rng = self.rng
        finished: list[Finish] = []
        for _ in range(rng.randrange(4)):
            source = self.past if self.past and rng.random() < 0.08 else self.held
            if source:
                entry = rng.choice(source)
                if source is self.held and rng.random() < 0.95:
                    self.held.remove(entry)
                    self.past.append(entry)
                finished.append(self._finish(*entry))
        only_jobs, only_spiders = rng.choice([None, None, [job]]), rng.choice([None, None, ["site"]])
        answer = self._both("exchange", "worker", finished, rng.randrange(6), only_jobs, only_spiders)
        self.held += [
            (f.ref, 0) for f, verdict in zip(finished, answer.verdicts, strict=True) if verdict == LINKS_WANTED
        ]
        self.held += [(lease.ref, lease.depth) for lease in answer.leases]

    def _finish(self, ref: LeaseRef, depth: int) -> Finish:
        rng = self.rng
        if ref.url == SEEDING:
            return Finish(ref, "fetched", [self._child() for _ in range(rng.choice([1, 1, 2]))])
        disposition = rng.choice(["fetched"] * 8 + ["failed:dns", "skipped:robots"])
        fetched = disposition == "fetched"
        children: Sequence[Child] | None = ()
        if fetched:
            links = {child.url: child for child in (self._child() for _ in range(rng.randrange(8)))}
            last = depth >= self.specs[ref.job].depth - 1
            children = None if last and rng.random() < 0.8 else list(links.values())
        return Finish(
            ref,
            disposition,
            children,
            status=rng.choice([200, 200, 404]) if fetched else 0,
            final_url=rng.choice(["", "", "http://h1/final"]),
            title="a title",
            bytes=5,
            own_network=rng.random() < 0.05,
        )

    def _child(self) -> Child:
        number = self.rng.randrange(len(self.urls))
        url = self.urls[number]
        return Child(url, f"{url}#x" if self.rng.random() < 0.2 else "", "scope" if number % 7 == 3 else "")

    def _both(self, name: str, *arguments: Any) -> Any:
        """The call on both, which must answer the same."""
        answers = [_answer(getattr(side, name), self.now, *arguments) for side in (self.model, self.scripted)]
        self.test.assertEqual(answers[1], answers[0], f"sequence {self.number}: {name}{arguments}")
        return answers[0]


def _answer(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except StaleToken:
        return "stale token"


class DifferentialTests(SynchronousTestCase):
    """Random calls, with everything that may go wrong: equal answers and equal state."""

    def test_equal_after_every_call(self) -> None:
        """Every answer, every counter and every log is the model's, in every sequence."""
        client = redis.Redis.from_url(redis_server().fresh(self))
        self.addCleanup(client.close)
        for number in range(SEQUENCES):
            client.flushdb()
            Walk(self, number, client).run()
