"""Runs a command's coroutine on the asyncio reactor, until it is done or interrupted."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet import asyncioreactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

Main = Callable[[Any, "Interrupts"], Coroutine[Any, Any, int]]


class Interrupts:
    """Ctrl-C and SIGTERM as a Deferred.

    The first one fires :attr:`asked`; another one ends the process on the spot, for those
    who do not want to wait.
    """

    def __init__(self) -> None:
        self.asked: Deferred[int] = Deferred()
        self._twice = False

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: int) -> None:
        if self._twice:
            os._exit(128 + number)
        self._twice = True
        self.asked.callback(number)


def run_main(main: Main) -> int:
    """``main(reactor, interrupts)`` to its exit code. Installs the reactor: call it once."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)  # type: ignore[no-untyped-call]
    from twisted.internet import reactor as installed

    reactor: Any = installed
    interrupts = Interrupts()
    outcome: list[int | Failure] = []

    def ended(result: int | Failure) -> None:
        outcome.append(result)
        reactor.stop()

    def begin() -> None:
        interrupts.install(loop)
        Deferred.fromCoroutine(main(reactor, interrupts)).addBoth(ended)

    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    (result,) = outcome
    if isinstance(result, Failure):
        result.raiseException()
    assert isinstance(result, int)
    return result
