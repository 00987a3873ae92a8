"""What somebody who looks at a server finds, in an operator's words."""

from __future__ import annotations

import time
from dataclasses import dataclass

OK, NOTE, PROBLEM = "ok", "note", "problem"

CLOCK_S = 2.0
"""A clock that is off by more is worth a word."""


@dataclass(frozen=True, slots=True)
class Finding:
    """:ivar part: of the farm, with the variable that says where it is.
    :ivar state: ``ok``, ``note`` (worth knowing) or ``problem``.
    :ivar advice: what to do about it; empty when it is well.
    """

    part: str
    what: str
    state: str
    found: str
    advice: str = ""


def clock(part: str, theirs: float, asked: float, answered: float) -> Finding:
    """A server's clock beside ours.

    :param theirs: seconds since the epoch, as it said at some time between ``asked`` and
        ``answered`` on our own clock.
    """
    away_s = max(asked - theirs, theirs - answered, 0.0)
    if away_s <= CLOCK_S:
        return Finding(part, "clock", OK, "the same as here")
    advice = "set both by NTP; leases do not depend on it, the expiry of results and what logs say does"
    return Finding(part, "clock", NOTE, f"{away_s:.1f} s away from this machine's", advice)


def wall() -> float:
    """Seconds since the epoch."""
    return time.time()
