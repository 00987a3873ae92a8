"""What a client asks for, one talk a message.

Whatever goes wrong in a talk becomes one message to the client that sent it, and touches
no other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from crawlfarm.core.jobs import body_digest, cache_key, flight_key, job_spec
from crawlfarm.errors import BadInput, IdConflict, Unavailable, UnknownJob
from crawlfarm.wire import lockd
from crawlfarm.wire.client import (
    Accepted,
    Busy,
    Cancel,
    Error,
    JobProgress,
    Reply,
    Request,
    Resume,
    Rewound,
    Status,
    Submit,
    cursor,
    parse_cursor,
)
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Progress, Receipt
from crawlfarm.wire.queue import JobQueued
from wsgate.answers import AnswerNote, Ending, Loaded, cached_ending, failure
from wsgate.effects import CallLocks, FindAnswer, FindNote, KeepNote, Need, PublishJob, ReadStatus, Report
from wsgate.following import OVER, Following
from wsgate.presence import Connection, Presence, Submission
from wsgate.talks import Outbox, Talk, Talks

MOST_TALKS = 64
"""Requests of one connection answered at a time; more are told to wait."""
CANCEL_WAIT_S = 3.0
"""A job that was cancelled has this long to end; then the client is told without it."""


class Requests:
    """Answers the messages of all clients.

    :param new_job: makes an id nobody else has.
    """

    def __init__(
        self, outbox: Outbox, talks: Talks, presence: Presence, following: Following, new_job: Callable[[], str]
    ) -> None:
        self._outbox = outbox
        self._talks = talks
        self._presence = presence
        self._following = following
        self._new_job = new_job
        self._unpublished: set[str] = set()

    def take(self, connection: Connection, request: Request) -> None:
        id_ = request.id if isinstance(request, Submit) else ""
        job = "" if isinstance(request, Submit) else request.job
        if connection.talks >= MOST_TALKS:
            busy = Unavailable(f"{MOST_TALKS} requests of this connection are being answered: wait for some")
            self.refuse(connection, busy, id_, job)
            return
        connection.talks += 1

        def over(error: Exception | None) -> None:
            connection.talks -= 1
            connection.quiet_since = self._outbox.now
            if error is not None:
                self.refuse(connection, error, id_, job)

        self._talks.begin(self._talk_about(connection, request), over)

    def refuse(self, connection: Connection, error: Exception, id_: str = "", job: str = "") -> None:
        """Every error of a request becomes one message to the one who sent it."""
        if isinstance(error, Unavailable) and not job:
            self._say(connection, Busy(error.retry_after_s, error.message, id_))
        elif isinstance(error, Unavailable):
            self._say(connection, Error("busy", error.message, job=job))
        elif isinstance(error, BadInput):
            self._say(connection, Error(error.code, error.message, error.path, id_, job))
        else:
            self._outbox.put(Report(error))
            self._say(connection, Error("internal", "something is broken in the gateway", id=id_, job=job))

    def ended(self, job: str) -> None:
        """A job has its outcome, so that it needs no publishing."""
        self._unpublished.discard(job)

    def _talk_about(self, connection: Connection, request: Request) -> Talk:
        match request:
            case Submit():
                return self._submit(connection, request)
            case Resume():
                return self._resume(connection, request)
            case Cancel():
                return self._cancel(connection, request)
            case Status():
                return self._status(connection, request)

    def _submit(self, connection: Connection, request: Submit) -> Talk:
        options = request.options
        spec = job_spec(request.url, request.depth, options)
        body = body_digest(request.url, request.depth, options)
        known = connection.submissions.get(request.id)
        if known is not None:
            if known.body != body:
                raise IdConflict("id: it was used before, for another job", path="id")
            if known.job:
                self._say(connection, Accepted(known.id, known.job, known.joined))
                self._follow(connection, known.job, stream=options.stream)
            else:
                known.repeats += 1
            return
        submission = connection.submissions[request.id] = Submission(request.id, body, options.detach)
        try:
            answer: Loaded | None = yield FindAnswer(cache_key(spec), spec.depth)
            if answer is not None:
                submission.job = self._new_job()
                end = self._cached(submission.job, connection.client, spec, answer)
                self._accept(connection, submission)
                self._follow(connection, submission.job, stream=options.stream, end=end)
            else:
                yield from self._register(connection, submission, spec)
                self._accept(connection, submission)
                self._follow(connection, submission.job, stream=options.stream)
        finally:
            if not submission.job:
                connection.submissions.pop(request.id, None)

    def _cached(self, job: str, client: str, spec: JobSpec, answer: Loaded) -> Ending:
        self._outbox.put(KeepNote(job, AnswerNote(client, cache_key(spec), spec, answer.result.receipt, answer.digest)))
        return cached_ending(job, spec, answer)

    def _register(self, connection: Connection, submission: Submission, spec: JobSpec) -> Talk:
        """Make the job a row, and let the masters hear of it."""
        registered = yield CallLocks(
            lockd.Register(
                job=self._new_job(),
                client=connection.client,
                id=submission.id,
                body=submission.body,
                flight=flight_key(spec),
                spec=spec,
                detach=submission.detach,
            )
        )
        if isinstance(registered, lockd.Refused):
            raise _refusal(registered)
        job: str = registered.job
        if registered.created or job in self._unpublished:
            # The lock daemon publishes it again some time; told "busy" the client comes
            # back sooner, and if it does not, the job is not left behind.
            self._unpublished.add(job)
            try:
                yield PublishJob(JobQueued(job))
            except Unavailable:
                left = Submission(submission.id, submission.body, submission.detach, job)
                self._presence.leave(connection.client, left, self._outbox.now)
                raise
            self._unpublished.discard(job)
        submission.job, submission.joined = job, registered.joined

    def _accept(self, connection: Connection, submission: Submission) -> None:
        self._presence.returned(connection.client, submission)
        if connection.gone:
            self.hand_on(connection, submission)
        for _ in range(1 + submission.repeats):
            self._say(connection, Accepted(submission.id, submission.job, submission.joined))

    def _resume(self, connection: Connection, request: Resume) -> Talk:
        run, seq = parse_cursor(request.after)
        after = (run, seq if run else 0)
        end: Ending | None = None
        view = yield CallLocks(lockd.Ask(request.job, connection.client))
        if not isinstance(view, lockd.Refused):
            self._presence.adopt(connection, request.job)
            if view.state not in OVER:
                self._say(connection, _progress(view.job, view.state, view.progress))
        else:
            note = yield from self._note(connection, request.job)
            answer: Loaded | None = yield FindAnswer(note.key, note.spec.depth)
            if answer is None:
                end = failure(request.job, "result_expired", "its answer is not in the cache any more")
            else:
                end = cached_ending(request.job, note.spec, answer)
                if run and answer.digest != note.digest:
                    # Another answer took its place, and numbers its pages differently.
                    self._say(connection, Rewound(request.job, end.run))
                    after = (end.run, 0)
        self._follow(connection, request.job, stream=request.stream, after=after, afresh=True, end=end)

    def _note(self, connection: Connection, job: str) -> Generator[Need, Any, AnswerNote]:
        """What is remembered of a job that was answered from the cache.

        :raises UnknownJob: nothing; or it is not this client's.
        """
        note: AnswerNote | None = yield FindNote(job)
        if note is None or note.client != connection.client:
            raise UnknownJob("job: there is no such job, or it is not yours", path="job")
        return note

    def _cancel(self, connection: Connection, request: Cancel) -> Talk:
        job = request.job
        mine = tuple(s.id for s in connection.submitted(job))
        followed = job in connection.follows
        answer = yield CallLocks(lockd.CancelJob(job, connection.client, ids=mine or None))
        if isinstance(answer, lockd.Refused) and answer.code == "unknown_job":
            yield from self._note(connection, job)
            yield from self._resume(connection, Resume(job, cursor(0, 0), stream=False))
            return
        if isinstance(answer, lockd.Refused) and answer.code != "ended":
            raise _refusal(answer)
        for id_ in mine:
            connection.submissions.pop(id_, None)
        if followed and job not in connection.follows:
            return  # its end was quicker than this answer
        self._follow(connection, job, stream=False)
        others = {s.id for c in self._presence for s in c.submitted(job)} - set(mine)
        leaving = [connection.number]
        if not mine:
            leaving = [n for n in self._following.followers(job) if self._is_of(n, connection.client)]
        give_up_at = self._outbox.now + (0.0 if mine and others else CANCEL_WAIT_S)
        for number in leaving:
            self._following.give_up(number, job, give_up_at)

    def _status(self, connection: Connection, request: Status) -> Talk:
        view = yield CallLocks(lockd.Ask(request.job, connection.client))
        if isinstance(view, lockd.Refused):
            note = yield from self._note(connection, request.job)
            self._say(connection, _counted(request.job, "done", note.receipt, note.spec.depth))
        elif view.receipt is not None:
            self._say(connection, _counted(view.job, view.state, view.receipt, view.spec.depth))
        else:
            status = None
            if view.state == "running":
                status = yield ReadStatus(view.job)
            progress = view.progress if status is None else status.progress
            self._say(connection, _progress(view.job, view.state, progress))

    def _say(self, connection: Connection, reply: Reply) -> None:
        if not connection.gone:
            self._outbox.send(reply, connection.number)

    def _follow(
        self,
        connection: Connection,
        job: str,
        *,
        stream: bool,
        after: tuple[int, int] = (0, 0),
        afresh: bool = False,
        end: Ending | None = None,
    ) -> None:
        if not connection.gone:
            connection.follows[job] = None
            self._following.follow(
                connection.number, job, connection.client, stream=stream, after=after, afresh=afresh, end=end
            )

    def hand_on(self, lost: Connection, submission: Submission) -> None:
        followers = self._following.followers(submission.job)
        self._presence.hand_on(lost, submission, followers, self._outbox.now)

    def _is_of(self, number: int, client: str) -> bool:
        connection = self._presence.get(number)
        return connection is not None and connection.client == client


def _progress(job: str, state: str, progress: Progress) -> JobProgress:
    return JobProgress(
        job,
        state,
        progress.found,
        progress.fetched,
        progress.failed,
        progress.skipped,
        progress.queued,
        progress.leased,
        progress.depth,
    )


def _counted(job: str, state: str, receipt: Receipt, depth: int) -> JobProgress:
    failed, skipped = sum(receipt.failed.values()), sum(receipt.skipped.values())
    return JobProgress(job, state, receipt.found, receipt.fetched, failed, skipped, depth=depth)


def _refusal(answer: lockd.Refused) -> Exception:
    """The lock daemon's no, as the error it is for the client."""
    match answer.code:
        case "id_conflict":
            return IdConflict(answer.message, path="id")
        case "unknown_job":
            return UnknownJob(answer.message, path="job")
        case "busy":
            return Unavailable(answer.message)
        case code:
            return BadInput(answer.message, code=code)
