"""The client library: hand in jobs, follow them, and come back by itself.

::

    client = Client(reactor, "ws://127.0.0.1:8080")
    await client.connect()
    job = await client.submit("https://docs.example/", 3, JobOptions(stream=True))
    async for reply in job:
        ...  # progress, pages, moved, linked, rewound; the last one is the end
    await client.close()

A connection that is lost is made again, with exponential backoff and full jitter, and what
was asked for is asked again: jobs not accepted yet under the same id, the others from the
last entry seen. So each log entry of a job arrives once and in order, whatever happens to
connections and gateways in between; ``rewound`` says when that could not be kept.

Methods return Deferreds: Twisted coroutines await them as they are, asyncio code through
``asFuture`` or Scrapy's ``maybe_deferred_to_future`` (and :meth:`Job.next` instead of
``async for``).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from crawlfarm.core.backoff import Backoff
from crawlfarm.core.jobs import job_spec
from crawlfarm.errors import BadInput, ConnectionGone, CrawlfarmError, IdConflict, InvalidURL, Unavailable, UnknownJob
from crawlfarm.followed import Job
from crawlfarm.link import Connector, Link
from crawlfarm.wire.client import (
    Accepted,
    Busy,
    Cancel,
    Error,
    JobProgress,
    Reply,
    Request,
    Resume,
    Status,
    Submit,
    Terminal,
    cursor,
    parse_cursor,
)
from crawlfarm.wire.codec import decode_request, encode_json
from crawlfarm.wire.jobs import JobOptions

BUSY_AGAIN_S = 1.0

__all__ = ["Client", "Job"]

_log = Logger("crawlfarm.client")


class Client:
    """A client of a farm, over one connection at a time.

    :param url: of the gateway: ``ws://HOST:PORT`` or ``wss://HOST:PORT``.
    :param give_up_s: how long a lost connection may take to come back.
    :raises BadInput: ``url`` is no such address.
    """

    def __init__(self, reactor: Any, url: str, *, give_up_s: float = 30.0, backoff: Backoff | None = None) -> None:
        self._reactor = reactor
        self._give_up_s = give_up_s
        self._connector = Connector(
            reactor, url, backoff or Backoff(), opened=self._opened, received=self._received, lost=self._lost
        )
        self._link: Link | None = None
        self._submitting: dict[str, Job] = {}
        self._jobs: dict[str, list[Job]] = {}
        self._asked: dict[tuple[type[Cancel | Status], str], list[Deferred[Any]]] = {}
        self._later: set[Any] = set()
        self._giving_up: Any = None

    # --- what one can ask ---------------------------------------------------------------

    def connect(self) -> Deferred[None]:
        """Connect now; the other methods do it by themselves.

        :raises ConnectionGone: nobody answers at the address, or not as a gateway.
        """
        return self._connector.connect()

    def submit(
        self, url: str, depth: int, options: JobOptions | None = None, *, id: str | None = None
    ) -> Deferred[Job]:
        """Hand in a job; fires once it is accepted, and from then on it is not lost.

        :param id: your own name for it: the same one never starts it twice.
        :raises BadInput: it cannot be taken; ``path`` says where it is wrong.
        :raises Unavailable: the farm was busy for all of ``give_up_s``.
        """
        return Deferred.fromCoroutine(
            self._submit(url, depth, options or JobOptions(), str(uuid.uuid4()) if id is None else id)
        )

    async def _submit(self, url: str, depth: int, options: JobOptions, id: str) -> Job:
        message = _checked(Submit(id, url, depth, options))
        job_spec(url, depth, options)
        if id in self._submitting:
            raise IdConflict("id: it is being submitted already", path="id")
        await self._connector.connect()
        job = Job(self.cancel, message, now=self._now(), stream=options.stream)
        self._submitting[id] = job
        self._send(message)
        return await job.ready

    def attach(self, job: str, *, after: str = "0.0", stream: bool = True) -> Deferred[Job]:
        """Follow a job, from a cursor on; it may have ended.

        :raises UnknownJob: there is none, or it is not yours.
        """
        return Deferred.fromCoroutine(self._attach(job, after, stream))

    async def _attach(self, id: str, after: str, stream: bool) -> Job:
        _checked(Resume(id, after, stream))
        await self._connector.connect()
        job = Job(self.cancel, None, now=self._now(), id=id, after=after, stream=stream)
        self._jobs.setdefault(id, []).append(job)
        self._send_resume(id)
        return await job.ready

    def status(self, job: str) -> Deferred[JobProgress]:
        """Where a job stands.

        :raises UnknownJob: there is none, or it is not yours.
        """
        return Deferred.fromCoroutine(self._ask(Status(job)))

    def cancel(self, job: str) -> Deferred[Terminal]:
        """End a job; fires with how it ended.

        :raises UnknownJob: there is none, or it is not yours.
        """
        return Deferred.fromCoroutine(self._ask(Cancel(job)))

    async def _ask(self, message: Status | Cancel) -> Any:
        _checked(message)
        await self._connector.connect()
        answer: Deferred[Any] = Deferred()
        self._asked.setdefault((type(message), message.job), []).append(answer)
        self._send(message)
        return await answer

    def close(self) -> Deferred[None]:
        """Leave. Jobs go on if they were detached, or are followed by others."""
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        self._fail_all(ConnectionGone("the client was closed"))
        await self._connector.close()

    # --- the connection ---------------------------------------------------------------

    def _opened(self, link: Link) -> None:
        self._stop_timers()
        self._link = link
        for job in self._submitting.values():
            if job.submit is not None:
                self._send(job.submit)
        for id in self._jobs:
            self._send_resume(id)
        for kind, id in self._asked:
            self._send(kind(id))

    def _lost(self) -> None:
        self._link = None
        self._stop_timers()
        if self._submitting or self._jobs or self._asked:
            self._giving_up = self._reactor.callLater(self._give_up_s, self._give_up)
        else:
            self._connector.rest()

    def _give_up(self) -> None:
        self._giving_up = None
        where, s = self._connector.address, self._give_up_s
        self._fail_all(ConnectionGone(f"the connection to {where} was lost and did not come back for {s:g} s"))
        self._connector.rest()

    def _send(self, message: Request) -> None:
        if self._link is not None:
            self._link.send(encode_json(message))

    def _send_resume(self, id: str) -> None:
        """From where the one of its followers is that has seen least."""
        jobs = self._jobs.get(id)
        if jobs:
            least = min((job for job in jobs if job.stream), key=lambda job: parse_cursor(job.cursor), default=jobs[0])
            self._send(Resume(id, least.cursor, least.stream))

    def _call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        def now() -> None:
            self._later.discard(later)
            call()

        later = self._reactor.callLater(delay_s, now)
        self._later.add(later)

    def _now(self) -> float:
        return float(self._reactor.seconds())

    def _stop_timers(self) -> None:
        for later in self._later:
            later.cancel()
        self._later.clear()
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _fail_all(self, error: CrawlfarmError) -> None:
        self._stop_timers()
        jobs = [*self._submitting.values(), *(job for jobs in self._jobs.values() for job in jobs)]
        asked = [answer for answers in self._asked.values() for answer in answers]
        self._submitting, self._jobs, self._asked = {}, {}, {}
        for job in jobs:
            job.fail(error)
        for answer in asked:
            answer.errback(error)

    # --- messages -------------------------------------------------------------------

    def _received(self, reply: Reply) -> None:
        match reply:
            case Accepted():
                self._accepted(reply)
            case Busy():
                self._busy(reply)
            case Error():
                self._refused(reply)
            case _:
                self._about(reply)

    def _accepted(self, reply: Accepted) -> None:
        job = self._submitting.pop(reply.id, None)
        if job is not None:
            others = self._jobs.setdefault(reply.job, [])
            job.behind = job.stream and any(other.cursor != cursor(0, 0) for other in others)
            others.append(job)
            job.named(reply.job)
            if job.behind:
                # The stream goes on from where the others are: what this one has not seen,
                # it has to ask for.
                self._send_resume(reply.job)

    def _busy(self, reply: Busy) -> None:
        job = self._submitting.get(reply.id)
        if job is None or job.submit is None:
            return
        if self._now() - job.began > self._give_up_s:
            del self._submitting[reply.id]
            job.fail(Unavailable(f"the farm is busy: {reply.message}", retry_after_s=reply.retry_after))
        else:
            again = job.submit
            self._call_later(max(0.0, reply.retry_after), lambda: self._send(again))

    def _refused(self, reply: Error) -> None:
        if reply.id:
            job = self._submitting.pop(reply.id, None)
            if job is not None:
                job.fail(_error(reply))
        elif reply.job and reply.code == Unavailable.code:
            self._call_later(BUSY_AGAIN_S, lambda: self._again(reply.job))
        elif reply.job:
            self._refused_job(reply)
        else:
            _log.warn("the gateway refused a message: {code}", code=reply.code)

    def _refused_job(self, reply: Error) -> None:
        asked = [key for key in self._asked if key[1] == reply.job]
        for key in asked:
            for answer in self._asked.pop(key):
                answer.errback(_error(reply))
        for job in self._jobs.pop(reply.job, []):
            if reply.code == UnknownJob.code and job.submit is not None:
                # Its row is gone, or the answer came from a cache: the same question again.
                self._submitting[job.submit.id] = job
                self._send(job.submit)
            else:
                job.fail(_error(reply))

    def _again(self, id: str) -> None:
        self._send_resume(id)
        for kind, job in self._asked:
            if job == id:
                self._send(kind(id))

    def _about(self, reply: Any) -> None:
        """A message about a job: to all who follow it."""
        jobs = self._jobs.get(reply.job, [])
        were_behind = {job for job in jobs if job.behind}
        behind = [job for job in jobs if not job.take(reply)]
        if not were_behind.issuperset(behind):
            self._send_resume(reply.job)
        over = isinstance(reply, Terminal)
        if over:
            self._jobs.pop(reply.job, None)
            if behind:
                self._jobs[reply.job] = behind
        if over or isinstance(reply, JobProgress):
            for answer in self._asked.pop((Cancel if over else Status, reply.job), []):
                answer.callback(reply)


def _checked(message: Any) -> Any:
    """``message``, if a gateway would take it.

    :raises BadInput: with the code and the path a gateway would name.
    """
    decode_request(encode_json(message))
    return message


def _error(reply: Error) -> CrawlfarmError:
    """What the gateway refused, as the exception it is here."""
    match reply.code:
        case IdConflict.code:
            return IdConflict(reply.message, path=reply.path)
        case UnknownJob.code:
            return UnknownJob(reply.message, path=reply.path)
        case code if code.startswith("url_"):
            return InvalidURL(reply.message, path=reply.path, code=code)
        case code:
            return BadInput(reply.message, path=reply.path, code=code)
