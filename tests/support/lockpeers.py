"""Cases about the lock daemon over TCP, and peers that speak its frames by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from crawlfarm.wire import frames, lockd
from crawlfarm.wire.frames import FrameReader, encode_frame
from crawlfarm.wire.jobs import JobSpec
from tests.support.locks import ServedLocks

SPEC = JobSpec("http://a.example/", 2)
DEADLINE_S = 20.0


def register(job: str) -> lockd.Register:
    return lockd.Register(job, "c", job, f"body {job}", f"flight {job}", SPEC)


async def until(holds: Any) -> None:
    """Returns when it does."""
    end = reactor.seconds() + DEADLINE_S
    while not holds():
        assert reactor.seconds() < end, "it did not come about"
        await deferLater(reactor, 0.005)


class RawPeer(Protocol):
    """Says what a test wants; reads frames, as long as they are some.

    :ivar polite: answers pings.
    """

    def __init__(self) -> None:
        self.polite = False
        self.reader = FrameReader.of_client()
        self.frames: list[frames.ToClient] = []
        self.gone: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.reader.feed(data)
        while (frame := self.reader.next()) is not None:
            self.frames.append(frame)
            if self.polite and isinstance(frame, frames.Ping):
                self.send(frames.Pong())

    def connectionLost(self, reason: object = None) -> None:
        self.gone.callback(None)

    def send(self, *messages: frames.ToDaemon) -> None:
        self.transport.write(b"".join(encode_frame(message) for message in messages))

    def hello(self, session: str = "") -> None:
        self.send(frames.Hello(frames.PROTOCOL_VERSION, session or os.urandom(16).hex(), os.urandom(32)))

    @property
    def faults(self) -> list[frames.Fault]:
        return [frame for frame in self.frames if isinstance(frame, frames.Fault)]


class Never:
    """Decides nothing."""

    def call(self, command: lockd.Command) -> Deferred[lockd.Answer]:
        return Deferred()

    def watch(self, master: str, notice: Any) -> Any:
        return lambda: None


class LocksCase(TestCase):
    timeout = 60

    async def serve(self, **options: Any) -> ServedLocks:
        served = ServedLocks(Path(self.mktemp()), **options)
        self.addCleanup(served.stop)
        await served.start()
        return served

    async def raw(self, served: ServedLocks, *, hello: bool = True) -> RawPeer:
        peer: RawPeer = await connectProtocol(clientFromString(reactor, served.address), RawPeer())

        def close() -> Deferred[None]:
            peer.transport.abortConnection()
            return peer.gone

        self.addCleanup(close)
        if hello:
            peer.hello()
            await until(lambda: any(isinstance(frame, frames.Welcome) for frame in peer.frames))
        return peer
