"""How property-based tests run: the same examples each time, and those that fail are shown.

``CRAWLFARM_TEST_LONG=1`` runs twenty times as many. ``CRAWLFARM_TEST_RANDOM=1`` draws
new ones in each run instead of the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

TIMES = 20 if os.environ.get("CRAWLFARM_TEST_LONG") else 1


def few(count: int, **more: Any) -> settings:
    """Settings for about ``count`` examples."""
    return settings(
        max_examples=count * TIMES,
        deadline=None,
        derandomize=not os.environ.get("CRAWLFARM_TEST_RANDOM"),
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        **more,
    )


def examples(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put above ``@given``: ``count`` examples, and the failing one on standard error."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        configured = few(count)(test)

        @wraps(configured)
        def run(*args: Any, **kwargs: Any) -> None:
            with _notes_shown():
                configured(*args, **kwargs)

        return run

    return decorate


def run_machine(machine: type[RuleBasedStateMachine], count: int, steps: int) -> None:
    """Run a state machine ``count`` times with up to ``steps`` steps."""
    with _notes_shown():
        run_state_machine_as_test(machine, settings=few(count, stateful_step_count=steps))


class _notes_shown:
    # Hypothesis tells the example in the exception's notes, which trial does not print.
    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for note in getattr(error, "__notes__", ()):
            print(note, file=sys.stderr)  # noqa: T201
