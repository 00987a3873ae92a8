"""Runs a command's coroutine on the asyncio reactor, until it is done or interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import click
from twisted.internet import asyncioreactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

T = TypeVar("T")
Main = Callable[[Any, "Interrupts"], Coroutine[Any, Any, int]]


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interrupts:
    """Ctrl-C and SIGTERM, as something a coroutine can wait for.

    The first one is told to whoever listens; another one ends the process on the spot, for
    those who do not want to wait. So does a hangup: nobody is there who could be told.

    :ivar number: the signal that came, 0 before.
    """

    def __init__(self) -> None:
        self.number = 0
        self._listeners: dict[object, Callable[[int], None]] = {}
        self._last_words: dict[object, Callable[[], None]] = {}

    def listen(self, asked: Callable[[int], None]) -> Callable[[], None]:
        """Call ``asked`` with the signal, at once where it has come; returns what ends that."""
        if self.number:
            asked(self.number)
            return lambda: None
        return _added(self._listeners, asked)

    def before_leaving(self, last: Callable[[], None]) -> Callable[[], None]:
        """Call ``last`` before the process ends on the spot; returns what ends that."""
        return _added(self._last_words, last)

    async def unless(self, work: Awaitable[T]) -> T:
        """The outcome of ``work``, which is cancelled when the interrupt comes.

        :raises Interrupted: it came first.
        """

        async def wait() -> T:
            return await work

        working = Deferred.fromCoroutine(wait())
        stop = self.listen(lambda _: working.cancel())
        try:
            return await working
        except CancelledError:
            if not self.number:
                raise
            raise Interrupted(self.number) from None
        finally:
            stop()

    async def wait(self) -> int:
        """The signal, once it has come."""
        came: Deferred[int] = Deferred()
        self.listen(came.callback)
        return await came

    def ask(self, number: int) -> None:
        """As if the signal had come, unless one has."""
        if not self.number:
            self._signalled(number)

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, number)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` has it
            loop.add_signal_handler(signal.SIGHUP, self._leave, signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))

    def _signalled(self, number: int) -> None:
        if self.number:
            self._leave(number)
        self.number = number
        for asked in list(self._listeners.values()):
            asked(number)

    def _leave(self, number: int) -> None:
        for last in list(self._last_words.values()):
            with contextlib.suppress(OSError):  # the terminal may be gone
                last()
        os._exit(128 + number)


def _added(calls: dict[object, T], call: T) -> Callable[[], None]:
    key = object()
    calls[key] = call

    def remove() -> None:
        calls.pop(key, None)

    return remove


def run_main(main: Main) -> int:
    """``main(reactor, interrupts)`` to its exit code, 128 and the signal's number where it
    was interrupted. Installs the reactor: call it once."""
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
        if isinstance(result.value, Interrupted):
            click.echo("interrupted", err=True)
            return 128 + result.value.number
        result.raiseException()
    assert isinstance(result, int)
    return result
