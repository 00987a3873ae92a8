"""Every exception the project raises on purpose.

Each class has a stable ``code``: it is what goes on the wire, into logs and into
metrics, so it never changes its meaning. The base classes say whose fault it is:
:class:`BadInput` the sender's, :class:`ConfigError` the operator's,
:class:`Unavailable` nobody's (try again), everything else ours.

A driver's own error stays on ``__cause__``.
"""

from __future__ import annotations


class CrawlfarmError(Exception):
    """The root of the tree."""

    code = "internal"

    @property
    def message(self) -> str:
        return str(self)


class BadInput(CrawlfarmError):
    """What somebody sent cannot be taken.

    ``path`` names the place in dotted form (``"depth"``, ``"options.scope"``), empty
    for the whole message; the text says what is wrong there and what is allowed.
    """

    code = "bad_input"

    def __init__(self, message: str, *, path: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.path = path
        if code is not None:
            self.code = code


class InvalidURL(BadInput):
    """The URL cannot be crawled; ``code`` is one of the ``url_*`` codes."""

    code = "invalid_url"


class IdConflict(BadInput):
    """This client used the same id before, for another job."""

    code = "id_conflict"


class UnknownJob(BadInput):
    """There is no such job, or it is not this client's."""

    code = "unknown_job"


class ResultExpired(CrawlfarmError):
    """The job is done, but what it found is kept nowhere any more."""

    code = "result_expired"


class ConfigError(CrawlfarmError):
    """A setting is missing or wrong; the text names it and says what is allowed."""

    code = "config"


class Unavailable(CrawlfarmError):
    """Something the farm needs is away for the moment: try again after ``retry_after_s``."""

    code = "busy"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StaleToken(CrawlfarmError):
    """The lease behind this write has been given to somebody else."""

    code = "stale_token"


class BlockedAddress(CrawlfarmError):
    """The address behind this host is not one the farm may dial.

    The text never holds the address: it would tell an outsider about the network.
    """

    code = "blocked_address"


class OutOfScope(CrawlfarmError):
    """A redirect leads to where the job must not go."""

    code = "scope"


class ConnectionGone(CrawlfarmError):
    """The connection to the farm was lost and did not come back in time."""

    code = "connection_gone"
