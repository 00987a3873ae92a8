"""Child processes, kept running: what ends is started again, and none outlives this process.

Not Twisted's procmon: it cannot tell that a child is ready, nor give it a session of its
own (Ctrl-C in a terminal would reach children past us), nor let it notice that we were
killed. Children hold the other end of a pipe as their stdin: when we are gone, however
that came about, it closes, and they stop.

Invariants: children are ended by their ids, first those that were started last, each by
SIGTERM and, when it takes too long, SIGKILL; :meth:`Supervisor.stop` returns when all are gone.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, FirstError, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from crawlfarm.errors import CrawlfarmError

log = Logger()

STEADY_S = 30.0
"""A child that ran for so long was a good one: it is started again at once."""
FIRST_S, MOST_S = 0.2, 10.0
"""The pause before a child is started again; it doubles."""
LAST_WORDS_S = 0.5
"""How long what a child wrote last is waited for, should somebody else hold its pipes open."""
_LONGEST_LINE = 64 * 1024
_WRONG_CONFIG = 2

Say = Callable[[str, str], None]
"""Called with a child's name and a line it wrote."""


class ChildRefused(CrawlfarmError):
    """A child ended before it was ready, for a reason that a restart does not mend."""


@dataclass(frozen=True)
class ChildSpec:
    """:ivar name: for people, such as ``worker-2``."""

    name: str
    argv: Sequence[str]
    environ: Mapping[str, str] = field(repr=False)


class _Pipes(asyncio.SubprocessProtocol):
    """The output of one run of a child, in lines."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._rest = {1: b"", 2: b""}
        self.over = False

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, rest = (self._rest[fd] + data).split(b"\n")
        while len(rest) > _LONGEST_LINE:
            lines.append(rest[:_LONGEST_LINE])
            rest = rest[_LONGEST_LINE:]
        self._rest[fd] = rest
        for line in lines:
            self._child.wrote(fd, line)

    def process_exited(self) -> None:
        self._child.ending(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has exited, and its pipes are empty."""
        self.flush()
        self._child.exited(self)

    def flush(self) -> None:
        for fd, rest in self._rest.items():
            if rest:
                self._child.wrote(fd, rest)
                self._rest[fd] = b""


class Child:
    """One child, over all its runs.

    :ivar endpoints: from its last ready line.
    """

    def __init__(self, reactor: Any, spec: ChildSpec, say: Say) -> None:
        self.spec = spec
        self.endpoints: list[str] = []
        self.ready: Deferred[None] = Deferred()
        self._reactor = reactor
        self._say = say
        self._transport: asyncio.SubprocessTransport | None = None
        self._pipes: _Pipes | None = None
        self._last_words: Any = None
        self._began = 0.0
        self._failures = 0
        self._again: Any = None
        self._wanted = True
        self._gone: list[Deferred[None]] = []
        self._starting: Deferred[None] = succeed(None)

    @property
    def pid(self) -> int | None:
        return self._transport.get_pid() if self._transport is not None else None

    def start(self) -> None:
        self._again = None
        self._began = self._reactor.seconds()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(lambda f: log.failure("{name} could not be started", failure=f, name=self.spec.name))

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._pipes = pipes = _Pipes(self)
        spawning = loop.subprocess_exec(
            lambda: pipes,
            *self.spec.argv,
            stdin=subprocess.PIPE,
            env=dict(self.spec.environ),
            start_new_session=True,
        )
        try:
            transport, _ = await Deferred.fromFuture(asyncio.ensure_future(spawning))
        except OSError as e:
            self._say(self.spec.name, f"cannot be started: {e}")
            self._start_again()
            return
        self._transport = transport
        if pipes.over:
            self.exited(pipes)

    async def stop(self, within_s: float) -> None:
        """SIGTERM; SIGKILL when it takes longer. Returns when it is gone."""
        self._wanted = False
        if self._again is not None:
            self._again.cancel()
            self._again = None
        await self._starting
        if self._transport is None:
            return
        gone: Deferred[None] = Deferred()
        self._gone.append(gone)
        self._signal(signal.SIGTERM)
        late = self._reactor.callLater(within_s, self._kill, within_s)
        await gone
        if late.active():
            late.cancel()

    # --- what the run tells --------------------------------------------------------------

    def wrote(self, fd: int, line: bytes) -> None:
        text = line.decode(errors="replace")
        if fd == 1 and text.startswith('{"ready"'):
            with suppress(ValueError):
                self.endpoints = list(json.loads(text)["endpoints"])
                if not self.ready.called:
                    self.ready.callback(None)
                return
        self._say(self.spec.name, text)

    def ending(self, pipes: _Pipes) -> None:
        """It has exited; what it wrote last is on its way."""
        self._last_words = self._reactor.callLater(LAST_WORDS_S, self.exited, pipes)

    def exited(self, pipes: _Pipes) -> None:
        """That run is over."""
        if self._last_words is not None and self._last_words.active():
            self._last_words.cancel()
        pipes.over = True
        if pipes is not self._pipes or self._transport is None:
            return  # said before, or before the start was through
        transport, self._transport, self._pipes = self._transport, None, None
        pipes.flush()
        code = transport.get_returncode()
        transport.close()
        for gone in self._gone:
            gone.callback(None)
        self._gone.clear()
        if not self._wanted:
            return
        how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        if code == _WRONG_CONFIG and not self.ready.called:
            self._wanted = False
            self.ready.errback(ChildRefused(f"{self.spec.name} cannot be started: what it said is above"))
            return
        if self._reactor.seconds() - self._began > STEADY_S:
            self._failures = 0
        delay_s = self._start_again()
        self._say(self.spec.name, f"{how}, and starts again in {delay_s:g} s")

    # --- inside --------------------------------------------------------------------------

    def _start_again(self) -> float:
        delay_s = min(MOST_S, FIRST_S * 2.0**self._failures)
        self._failures = min(self._failures + 1, 20)
        if self._wanted:
            self._again = self._reactor.callLater(delay_s, self.start)
        return delay_s

    def _signal(self, number: int) -> None:
        if self._transport is not None:
            with suppress(ProcessLookupError):
                self._transport.send_signal(number)

    def _kill(self, after_s: float) -> None:
        self._say(self.spec.name, f"did not stop within {after_s:g} s, and is killed")
        self._signal(signal.SIGKILL)


class Supervisor:
    """A group of children.

    :param stages: the children that stop together, by their places in ``specs``; the
        next stage stops when the one before is gone. They start the other way round, each
        when the one it needs is ready.
    """

    def __init__(
        self,
        reactor: Any,
        specs: Sequence[ChildSpec],
        stages: Sequence[Sequence[int]],
        *,
        say: Say,
        stop_s: float,
    ) -> None:
        self.children = [Child(reactor, spec, say) for spec in specs]
        self._reactor = reactor
        self._stages = stages
        self._stop_s = stop_s

    async def start(self) -> None:
        """Returns when all have been ready once.

        :raises ChildRefused: one cannot be started; the others go on until :meth:`stop`.
        """
        # In a turn of the reactor: before the first one there is no running event loop.
        await deferLater(self._reactor, 0)
        for stage in reversed(self._stages):
            await self._start_together([self.children[n] for n in stage])

    async def _start_together(self, children: Sequence[Child]) -> None:
        for child in children:
            child.start()
        try:
            await DeferredList([child.ready for child in children], fireOnOneErrback=True, consumeErrors=True)
        except FirstError as e:
            e.subFailure.raiseException()

    async def stop(self) -> None:
        """End them all; returns when they are gone."""
        for stage in self._stages:
            ending = [Deferred.fromCoroutine(self.children[n].stop(self._stop_s)) for n in stage]
            await DeferredList(ending, consumeErrors=True)
