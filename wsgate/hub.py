"""The gateway's decisions: what each message and each event leads to.

The hub never acts: every method is told what happened and when (``now`` counts seconds on a
clock that never goes back) and returns effects for the shell.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from crawlfarm.config import Timings
from crawlfarm.errors import BadInput, Unavailable
from crawlfarm.wire import lockd
from crawlfarm.wire.codec import decode_request, load_object
from wsgate.effects import CallLocks, Close, Effect, Report
from wsgate.following import Following
from wsgate.presence import Left, Presence
from wsgate.requests import Requests
from wsgate.talks import Outbox, Talk, Talks


class Hub:
    """See the module.

    :param new_job: makes an id nobody else has.
    """

    def __init__(self, timings: Timings, *, new_job: Callable[[], str] = lambda: str(uuid.uuid4())) -> None:
        self._outbox = Outbox()
        self._talks = Talks(self._outbox)
        self._following = Following(self._outbox, self._talks, self._is_paused, self._had_its_end)
        self._presence = Presence(timings)
        self._requests = Requests(self._outbox, self._talks, self._presence, self._following, new_job)
        self._stopping = False

    # --- what happens -------------------------------------------------------------

    def connected(self, number: int, client: str, now: float) -> list[Effect]:
        """:param client: who it is, from its credentials."""
        self._outbox.now = now
        self._presence.arrive(number, client, now)
        return self._outbox.take()

    def received(self, number: int, payload: bytes, is_text: bool, now: float) -> list[Effect]:
        """One whole message of a client."""
        self._outbox.now = now
        connection = self._presence.get(number)
        if connection is not None:
            connection.quiet_since = now
            try:
                if not is_text:
                    raise BadInput("the message is binary; text frames are taken", code="not_text")
                self._requests.take(connection, decode_request(payload))
            except BadInput as error:
                self._requests.refuse(connection, error, *_whose(payload))
        return self._outbox.take()

    def refused(self, number: int, error: BadInput, now: float) -> list[Effect]:
        """A message was thrown away unread, as one too long is."""
        self._outbox.now = now
        connection = self._presence.get(number)
        if connection is not None:
            connection.quiet_since = now
            self._requests.refuse(connection, error)
        return self._outbox.take()

    def paused(self, number: int) -> None:
        """The connection's buffer is full: no more of its jobs until :meth:`writable`."""
        connection = self._presence.get(number)
        if connection is not None:
            connection.paused = True

    def writable(self, number: int, now: float) -> list[Effect]:
        self._outbox.now = now
        connection = self._presence.get(number)
        if connection is not None:
            connection.paused = False
            self._following.writable(number, list(connection.follows))
        return self._outbox.take()

    def disconnected(self, number: int, now: float) -> list[Effect]:
        self._outbox.now = now
        connection = self._presence.depart(number)
        if connection is not None:
            for job in connection.follows:
                self._following.drop(number, job)
            for submission in connection.submissions.values():
                if submission.job and not self._stopping:
                    self._requests.hand_on(connection, submission)
        return self._outbox.take()

    def answered(self, ticket: int, value: object, now: float) -> list[Effect]:
        """The answer to a :class:`~wsgate.effects.Wanted`."""
        self._outbox.now = now
        self._talks.answered(ticket, value)
        return self._outbox.take()

    def failed(self, ticket: int, error: Exception, now: float) -> list[Effect]:
        """There is no answer to a :class:`~wsgate.effects.Wanted`, for this reason."""
        self._outbox.now = now
        self._talks.failed(ticket, error)
        return self._outbox.take()

    def ended(self, job: str, now: float) -> list[Effect]:
        """A hint that a job has its outcome."""
        self._outbox.now = now
        self._requests.ended(job)
        self._following.ended(job)
        return self._outbox.take()

    def woken(self, now: float) -> list[Effect]:
        """A hint that some job's log grew."""
        self._outbox.now = now
        self._following.woken()
        return self._outbox.take()

    def tick(self, now: float) -> list[Effect]:
        """To be called a few times a second."""
        self._outbox.now = now
        self._following.tick()
        for left in self._presence.overdue(now):
            self._take_back(left)
        for number in self._presence.idle(now):
            self._outbox.put(Close(number, 1000, "idle: there was no job on this connection"))
        return self._outbox.take()

    @property
    def has_more(self) -> bool:
        """Whether :meth:`go_on` has more to send, once the shell has seen to its buffers."""
        return self._following.has_more

    def go_on(self, now: float) -> list[Effect]:
        self._outbox.now = now
        self._following.go_on()
        return self._outbox.take()

    def stop(self, now: float) -> list[Effect]:
        """Say goodbye to everybody. No job is cancelled: clients come back elsewhere."""
        self._outbox.now = now
        self._stopping = True
        for connection in self._presence:
            self._outbox.put(Close(connection.number, 1001, "the gateway is going away"))
        return self._outbox.take()

    def _take_back(self, left: Left) -> None:
        """A client left and did not come back: its submission keeps the job alive no more."""

        def over(error: Exception | None) -> None:
            if isinstance(error, Unavailable):
                self._presence.leave(left.client, left.submission, self._outbox.now)
            elif error is not None:
                self._outbox.put(Report(error))

        def talk() -> Talk:
            ids = (left.submission.id,)
            yield CallLocks(lockd.CancelJob(left.submission.job, left.client, ids=ids, reason="client left"))

        self._talks.begin(talk(), over)

    def _had_its_end(self, number: int, job: str) -> None:
        connection = self._presence.get(number)
        if connection is not None:
            connection.follows.pop(job, None)
            connection.quiet_since = self._outbox.now
            for submission in connection.submitted(job):
                del connection.submissions[submission.id]

    def _is_paused(self, number: int) -> bool:
        connection = self._presence.get(number)
        return connection is None or connection.paused


def _whose(payload: bytes) -> tuple[str, str]:
    """The id and the job that a message with something wrong in it names, if it can be read
    that far."""
    try:
        fields = load_object(payload)
    except BadInput:
        return "", ""
    return _readable(fields.get("id")), _readable(fields.get("job"))


def _readable(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= 128 and value.isprintable() else ""
