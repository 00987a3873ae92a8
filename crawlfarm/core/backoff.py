"""When to try again: exponential backoff with full jitter."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that double from ``first_s`` up to ``most_s``, each drawn from 0 to that.

    Full jitter spreads those who lost the same server over the whole interval, so
    that it does not meet them all at once when it is back.
    """

    first_s: float = 0.2
    most_s: float = 15.0

    def delay_s(self, attempt: int, draw: Callable[[], float] = random.random) -> float:
        """The pause before try number ``attempt``, counted from 0; ``draw`` is in [0, 1)."""
        return min(self.most_s, self.first_s * 2.0 ** min(attempt, 30)) * draw()
