"""The commands of the lock daemon and its answers.

Who sends what: gateways :class:`Register`, :class:`CancelJob` and :class:`Ask`; masters
:class:`Acquire`, :class:`Heartbeat`, :class:`Complete` and :class:`Release`. An answer
leaves the daemon only after what it says is committed.
"""

from __future__ import annotations

import msgspec

from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Progress, Receipt


class _Message(msgspec.Struct, frozen=True, tag=True):
    pass


class Register(_Message, frozen=True):
    """Make a job a row.

    :ivar job: the id it gets if it is new (a UUID).
    :ivar client: who asks, from its credentials.
    :ivar id: the client's idempotency key; unique per client.
    :ivar body: digest of what was asked; the same id with another body is a conflict.
    :ivar flight: digest of the question; the same question joins the job that runs.
    """

    job: str
    client: str
    id: str
    body: str
    flight: str
    spec: JobSpec
    detach: bool = False


class Acquire(_Message, frozen=True):
    """Ask for the lease of a job. The answer may grant another one that is overdue."""

    master: str
    job: str


class Heartbeat(_Message, frozen=True):
    """Keep a lease. ``progress`` that never changes makes a master count as stuck."""

    master: str
    job: str
    token: int
    progress: Progress


class Complete(_Message, frozen=True):
    """The job has its outcome: ``done``, ``cancelled`` or ``failed`` (then with an error)."""

    master: str
    job: str
    token: int
    outcome: str
    receipt: Receipt | None = None
    error_code: str = ""
    error_message: str = ""


class Release(_Message, frozen=True):
    """Give a lease back unfinished, at a graceful stop; it costs no attempt."""

    master: str
    job: str
    token: int


class CancelJob(_Message, frozen=True):
    """Detach a client's submissions (``ids``, or all of them); the last one ends the job."""

    job: str
    client: str
    ids: tuple[str, ...] | None = None
    reason: str = "cancelled"


class Ask(_Message, frozen=True):
    """How does this job stand? Answered for its own clients only."""

    job: str
    client: str


Command = Register | Acquire | Heartbeat | Complete | Release | CancelJob | Ask


class Registered(_Message, frozen=True):
    """``created``: a new job. ``joined``: another submission's job that still runs."""

    job: str
    created: bool
    joined: bool


class Granted(_Message, frozen=True):
    """The lease of ``job`` until ``ttl_s`` after the request was *sent*.

    :ivar token: only grows; whatever takes a write for the job refuses a lower one.
    :ivar attempt: 1 for the first master.
    :ivar cancel: why the job is to end, when it was cancelled meanwhile.
    """

    job: str
    token: int
    attempt: int
    ttl_s: float
    spec: JobSpec
    cancel: str = ""


class Beat(_Message, frozen=True):
    """The lease goes on. ``cancel`` is a reason to end the job, empty to go on."""

    ttl_s: float
    cancel: str = ""


class Fenced(_Message, frozen=True):
    """This master does not hold this lease (any more): stop, write nothing."""

    job: str


class Done(_Message, frozen=True):
    """The command was carried out (or had been before)."""

    job: str


class Refused(_Message, frozen=True):
    """No: ``code`` is ``id_conflict``, ``unknown_job``, ``leased``, ``ended`` or ``busy``."""

    code: str
    message: str


class JobView(_Message, frozen=True):
    """A job as its clients may see it.

    ``state`` is ``queued``, ``running``, ``done``, ``cancelled`` or ``failed``.
    """

    job: str
    state: str
    spec: JobSpec
    progress: Progress
    receipt: Receipt | None = None
    error_code: str = ""
    error_message: str = ""


Answer = Registered | Granted | Beat | Fenced | Done | Refused | JobView


class CancelWanted(_Message, frozen=True):
    """Pushed to the master that holds the lease, ahead of its next heartbeat."""

    job: str
    token: int
    reason: str
