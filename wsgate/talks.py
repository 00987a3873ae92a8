"""Exchanges that need an answer from elsewhere, written as generators.

A talk yields a :data:`~wsgate.effects.Need` and is sent its answer, or has the error thrown
in where it waits. Between two needs it runs in one piece, so that what it looked at is
still so when it acts on it; after a ``yield`` it must look again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from crawlfarm.wire.client import Reply
from wsgate.effects import Effect, Need, Send, Wanted

Talk = Generator[Need, Any, None]
Over = Callable[[Exception | None], None]


class Outbox:
    """The effects of what is happening now.

    :ivar now: seconds on a clock that never goes back.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._effects: list[Effect] = []

    def put(self, effect: Effect) -> None:
        self._effects.append(effect)

    def send(self, reply: Reply, *to: int) -> None:
        if to:
            self._effects.append(Send(to, reply))

    def take(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects


class Talks:
    """The talks under way, by the ticket each waits on."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._waiting: dict[int, tuple[Talk, Over]] = {}
        self._tickets = 0

    def begin(self, talk: Talk, over: Over) -> None:
        """Run ``talk`` to its first need; ``over`` is told when it ends, with the error that
        ended it, if one did."""
        self._advance(talk, over, lambda: next(talk))

    def answered(self, ticket: int, value: object) -> None:
        talk, over = self._waiting.pop(ticket)
        self._advance(talk, over, lambda: talk.send(value))

    def failed(self, ticket: int, error: Exception) -> None:
        talk, over = self._waiting.pop(ticket)
        self._advance(talk, over, lambda: talk.throw(error))

    def _advance(self, talk: Talk, over: Over, step: Callable[[], Need]) -> None:
        try:
            need = step()
        except StopIteration:
            over(None)
        except Exception as error:
            over(error)
        else:
            self._tickets += 1
            self._waiting[self._tickets] = (talk, over)
            self._outbox.put(Wanted(self._tickets, need))
