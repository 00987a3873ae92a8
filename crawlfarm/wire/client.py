"""The websocket protocol ``crawlfarm.v1``: one JSON object a text frame.

A client sends :data:`Request` messages and gets :data:`Reply` messages. A job that was
``accepted`` ends in exactly one of ``result``, ``failed``, ``cancelled``; before it come
``progress`` and, where asked for, ``pages``, ``moved``, ``linked`` and ``rewound``.

A *cursor* is the text ``run.seq``: the last log entry a client has seen. ``"0.0"`` is
the beginning. A run that is not the job's current one means the log began anew: the
gateway says ``rewound`` and sends it from its first entry.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from crawlfarm.wire.jobs import Depth, JobOptions
from crawlfarm.wire.pages import PageRecord, Receipt

SUBPROTOCOL = "crawlfarm.v1"
MAX_REQUEST_BYTES = 64 * 1024
"""The longest frame a gateway takes from a client."""

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
_Cursor = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,15}\.[0-9]{1,15}\Z")]


class _Request(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    pass


class Submit(_Request, frozen=True, tag="submit"):
    """Start a job. ``id`` is the client's own: the same id and body is the same job."""

    id: _Id
    url: str
    depth: Depth
    options: JobOptions = JobOptions()


class Resume(_Request, frozen=True, tag="resume"):
    """Follow a job from a cursor on; with ``stream`` its page records too."""

    job: _Id
    after: _Cursor = "0.0"
    stream: bool = True


class Cancel(_Request, frozen=True, tag="cancel"):
    job: _Id


class Status(_Request, frozen=True, tag="status"):
    """Answered by one ``progress``."""

    job: _Id


Request = Submit | Resume | Cancel | Status


class _Reply(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True):
    pass


class Accepted(_Reply, frozen=True, tag="accepted"):
    """The job is a committed row. ``joined``: the same question was already running."""

    id: str
    job: str
    joined: bool = False


class Pages(_Reply, frozen=True, tag="pages"):
    """Consecutive page entries of the log; ``first`` and ``last`` are cursors."""

    job: str
    first: str
    last: str
    pages: list[PageRecord]


class PageMoved(_Reply, frozen=True, tag="moved"):
    """A page sent before is nearer to the seed than thought. ``at`` is its cursor."""

    job: str
    at: str
    url: str
    depth: int
    parent: str


class PageLinked(_Reply, frozen=True, tag="linked"):
    """One more page links to a broken page sent before. ``at`` is its cursor."""

    job: str
    at: str
    url: str
    parent: str


class Rewound(_Reply, frozen=True, tag="rewound"):
    """Forget what this job sent so far: it is told again as run ``run``."""

    job: str
    run: int


class JobProgress(_Reply, frozen=True, tag="progress"):
    """``state`` is ``queued``, ``running``, ``done``, ``failed`` or ``cancelled``.

    ``depth`` is the lowest level not yet finished; of a job that has ended, the depth it was asked for.
    """

    job: str
    state: str
    found: int = 0
    fetched: int = 0
    failed: int = 0
    skipped: int = 0
    queued: int = 0
    leased: int = 0
    depth: int = 0


class Result(_Reply, frozen=True, tag="result"):
    """``levels[d]`` are the pages fetched at link distance ``d``, sorted."""

    job: str
    url: str
    depth: int
    levels: list[list[str]]
    receipt: Receipt
    cached: bool = False


class ErrorInfo(msgspec.Struct, frozen=True):
    code: str
    message: str


class Failed(_Reply, frozen=True, tag="failed"):
    job: str
    error: ErrorInfo


class Cancelled(_Reply, frozen=True, tag="cancelled"):
    job: str
    receipt: Receipt


class Error(_Reply, frozen=True, tag="error"):
    """A message could not be taken. ``path`` is the place in it, ``id`` or ``job`` whose."""

    code: str
    message: str
    path: str = ""
    id: str = ""
    job: str = ""


class Busy(_Reply, frozen=True, tag="busy"):
    """Not now: submit again after ``retry_after`` seconds."""

    retry_after: float
    message: str = ""
    id: str = ""


Terminal = Result | Failed | Cancelled
Reply = Accepted | Pages | PageMoved | PageLinked | Rewound | JobProgress | Result | Failed | Cancelled | Error | Busy


def cursor(run: int, seq: int) -> str:
    return f"{run}.{seq}"


def parse_cursor(text: str) -> tuple[int, int]:
    """``(run, seq)`` of a cursor that passed validation."""
    run, _, seq = text.partition(".")
    return int(run), int(seq)
