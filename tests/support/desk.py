"""A hub to try things on: its effects are carried out at once against a farm of tables, and
its clock stands still until it is moved."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.config import Timings
from crawlfarm.wire.client import Pages, Reply, Terminal
from crawlfarm.wire.codec import encode_json, pack, unpack
from tests.support.fakes import FakeFarm
from wsgate import effects
from wsgate.answers import AnswerNote, load
from wsgate.hub import Hub

URL = "http://site.test/"
GRACE_S = 60.0
IDLE_S = 300.0


def value_of(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine that never suspends returns."""
    try:
        coroutine.send(None)
    except StopIteration as e:
        return e.value
    raise AssertionError("it suspended")


class Desk:
    """A hub whose effects are carried out at once against a :class:`FakeFarm`.

    :ivar sent: every reply, by connection.
    :ivar held: needs that wait until :meth:`release`, while ``holding`` names their types.
    """

    def __init__(self) -> None:
        self.farm = FakeFarm()
        self.now = 1000.0
        self.jobs = 0
        self.hub = Hub(Timings(leave_grace_s=GRACE_S, idle_s=IDLE_S), new_job=self._new_job)
        self.sent: dict[int, list[Reply]] = {}
        self.closed: dict[int, tuple[int, str]] = {}
        self.reports: list[Exception] = []
        self.holding: tuple[type, ...] = ()
        self.held: list[effects.Wanted] = []
        self.farm.queue.on_ended(lambda message: self.do(self.hub.ended(message.job, self.now)))

    def _new_job(self) -> str:
        self.jobs += 1
        return f"job-{self.jobs}"

    def do(self, wanted: list[effects.Effect]) -> None:
        for effect in wanted:
            match effect:
                case effects.Wanted() if isinstance(effect.need, self.holding):
                    self.held.append(effect)
                case effects.Wanted():
                    self._answer(effect)
                case effects.Send(to, reply):
                    for number in to:
                        self.sent[number].append(reply)
                case effects.Close(number, code, reason):
                    self.closed[number] = (code, reason)
                case effects.KeepAnswer(key, depth, data):
                    value_of(self.farm.cache.put(key, depth, data))
                case effects.KeepNote(job, note):
                    value_of(self.farm.cache.put(f"job:{job}", 1, pack(note)))
                case effects.Report(error):
                    self.reports.append(error)
        while self.hub.has_more:
            self.do(self.hub.go_on(self.now))

    def release(self) -> None:
        """Answer what was held."""
        self.holding = ()
        held, self.held = self.held, []
        for wanted in held:
            self._answer(wanted)

    def _answer(self, wanted: effects.Wanted) -> None:
        try:
            value = value_of(self._fulfil(wanted.need))
        except Exception as error:
            self.do(self.hub.failed(wanted.ticket, error, self.now))
        else:
            self.do(self.hub.answered(wanted.ticket, value, self.now))

    async def _fulfil(self, need: effects.Need) -> object:
        farm = self.farm
        match need:
            case effects.CallLocks(command):
                return await farm.locks.call(command)
            case effects.PublishJob(message):
                return await farm.queue.publish(message)
            case effects.FindAnswer(key, depth):
                found = await farm.cache.get(key)
                return load(found[1], depth) if found is not None and found[0] >= depth else None
            case effects.FindNote(job):
                found = await farm.cache.get(f"job:{job}")
                return unpack(found[1], AnswerNote) if found is not None else None
            case effects.LoadResult(job):
                data = await farm.results.get(job)
                return load(data) if data is not None else None
            case effects.ReadLog(job, after, limit):
                return await farm.frontier.events(job, after, limit)
            case effects.ReadStatus(job):
                return await farm.frontier.status(job)

    # --- what a test does -----------------------------------------------------------

    def connect(self, number: int, client: str = "local") -> int:
        self.sent[number] = []
        self.do(self.hub.connected(number, client, self.now))
        return number

    def disconnect(self, number: int) -> None:
        self.do(self.hub.disconnected(number, self.now))

    def say(self, number: int, **message: Any) -> None:
        self.do(self.hub.received(number, json.dumps(message).encode(), True, self.now))

    def submit(self, number: int, id: str = "a", url: str = URL, depth: int = 2, **options: Any) -> None:
        self.say(number, type="submit", id=id, url=url, depth=depth, options=options)

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.do(self.hub.tick(self.now))

    def wake(self) -> None:
        self.do(self.hub.woken(self.now))

    def take(self, number: int) -> list[Reply]:
        """What this connection was sent since the last time."""
        sent, self.sent[number] = self.sent[number], []
        return sent

    def ends(self, number: int) -> list[Reply]:
        return [reply for reply in self.sent[number] if isinstance(reply, Terminal)]


def urls(replies: list[Reply]) -> list[str]:
    return [page.url for reply in replies if isinstance(reply, Pages) for page in reply.pages]


def kinds(replies: list[Reply]) -> list[str]:
    return [json.loads(encode_json(reply))["type"] for reply in replies]


class HubTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.desk = Desk()
        self.farm = self.desk.farm
        self.desk.connect(1)

    def tearDown(self) -> None:
        self.assertEqual(self.desk.reports, [])

    def running(self, **options: Any) -> str:
        """A job that connection 1 submitted and a master opened."""
        self.desk.submit(1, **options)
        job = self.farm.only_job
        self.farm.begin(job)
        return job
