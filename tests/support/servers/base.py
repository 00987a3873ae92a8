"""What the private servers have in common: a folder, a port, a start, and a certain end.

A server runs under a keeper (``keeper.py``), which ends it and removes its folder when
the test process is gone, however it went. Its folder is ``.run/servers/PID-crawlfarm-KIND-…``, with
the process id of the test run.

These calls block. A test whose reactor must go on meanwhile (something in it reconnects
while the server restarts) calls them with ``deferToThread``.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Generic, Self, TypeVar

from tests.support import packages
from tests.support.processes import ROOT, Child, ChildFailed, HasCleanup, alive

FOLDER = ROOT / ".run" / "servers"
HOST = "127.0.0.1"

_KEEPER = Path(__file__).with_name("keeper.py")
_TRIES = 4
_TAKEN = ("already in use", "eaddrinuse", "could not bind")

T = TypeVar("T")


class ServerFailed(ChildFailed):
    """The server did not start, or ended by itself; the text has the end of its log."""


class Server(ABC):
    """One private server process.

    :ivar folder: everything it writes; gone after :meth:`stop`.
    :ivar port: where it listens on loopback, the same after a restart.
    :ivar pid: the process id of the server itself; another after a restart.
    """

    kind: ClassVar[str]
    stop_signal: ClassVar[str] = "TERM"
    """Ends it in good order."""
    end_signal: ClassVar[str] = "KILL"
    """Ends it at once, when nobody needs its data any more."""
    deadline_s: ClassVar[float] = 30.0

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.pid = 0
        self._child: Child | None = None

    # --- what a kind of server says of itself ------------------------------------------

    @classmethod
    def _place(cls) -> Path:
        """Where its folder is made."""
        return FOLDER

    @abstractmethod
    def _prepare(self) -> None:
        """Write what it needs before its first start."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """What to run, in the foreground."""

    def _environ(self) -> dict[str, str | None]:
        """What its environment has besides the test's."""
        return {}

    @abstractmethod
    def _answers(self, connection: socket.socket) -> bool:
        """Whether it is ready: said by a handshake on a fresh connection."""

    def _ended(self) -> None:  # noqa: B027
        """Called when all its processes are gone."""

    # --- its life ----------------------------------------------------------------------

    @classmethod
    def _launch(cls, make: Callable[[Path, int], Self], test: HasCleanup | None) -> Self:
        """Start one made by ``make(folder, port)``; with ``test``, it ends with that test."""
        place = cls._place()
        _sweep(place)
        for left in reversed(range(_TRIES)):
            folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-crawlfarm-{cls.kind}-", dir=place))
            server = make(folder, free_ports(1)[0])
            try:
                server._prepare()
                server._run()
            except BaseException as e:
                log = server.log()
                server.stop()
                # Somebody may have taken a port between our look and the server's.
                if left and isinstance(e, ChildFailed) and any(word in log.lower() for word in _TAKEN):
                    continue
                raise
            if test is not None:
                test.addCleanup(server.stop)
            return server
        raise AssertionError("unreachable")

    @property
    def running(self) -> bool:
        """Whether its process is there (it may be paused)."""
        return self._child is not None and self._child.process.poll() is None

    def log(self) -> str:
        """What it has said so far."""
        with contextlib.suppress(OSError):
            return (self.folder / "log").read_text(errors="replace")
        return ""

    def restart(self, *, kill: bool = False) -> None:
        """End it, in good order or by SIGKILL, and start it on the same port and data."""
        self.down(kill=kill)
        self.up()

    def down(self, *, kill: bool = False) -> None:
        """End it and keep its data; returns when all its processes are gone."""
        if self._child is None:
            return
        if kill:
            self.kill()
            return
        self._child.signal(signal.SIGTERM)
        self._gone()

    def kill(self) -> None:
        """SIGKILL, as if its machine had lost power (but for what the kernel had to write)."""
        if self._child is None:
            return
        self._signal(signal.SIGKILL)
        self._gone()

    def up(self) -> None:
        """Start it again after :meth:`down` or :meth:`kill`; returns when it answers."""
        if self.running:
            return
        self._run()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo :meth:`pause`."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it at once and remove its folder."""
        if self._child is not None:
            self._let_go()
            self._gone()
        _running.discard(self)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self) -> None:
        child = self._keeper(self._command(), log=self.folder / "log", remove=True)
        self._child = child
        _keep_until_exit(self)
        self.pid = child.wait_ready()["pid"]
        try:
            wait_until(self._ready, self.deadline_s, f"{self.kind} does not answer on port {self.port}")
        except ChildFailed as e:
            raise ServerFailed(f"{e}\n{self.log()[-4000:]}") from e

    def _keeper(self, command: Sequence[str], *, log: Path, remove: bool = False) -> Child:
        """A command under a keeper of its own, in the server's folder and environment."""
        keeper = [sys.executable, "-I", "-S", str(_KEEPER), "--stop", self.stop_signal, "--end", self.end_signal]
        keeper += ["--log", str(log), *(["--remove", str(self.folder)] if remove else []), "--", *command]
        return Child(
            keeper, environ=self._environ(), stdin=subprocess.PIPE, cwd=self.folder, deadline_s=self.deadline_s
        )

    def _ready(self) -> bool:
        if not self.running:
            raise ServerFailed(f"{self.kind} ended while it started")
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1) as connection:
            return self._answers(connection)
        return False

    def _signal(self, number: int) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _let_go(self) -> None:
        """The keeper sees its standard input close, and ends everything."""
        if self._child is not None and self._child.process.stdin is not None:
            with contextlib.suppress(OSError):
                self._child.process.stdin.close()

    def _gone(self) -> None:
        assert self._child is not None
        child, self._child = self._child, None
        try:
            child.wait(self.deadline_s)
        finally:
            if child.process.stdin is not None:
                child.process.stdin.close()
            self._ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class Once(Generic[T]):
    """Something made when first asked for, by any thread; what went wrong is not tried again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: list[T] = []
        self._failed: Exception | None = None

    def get(self, make: Callable[[], T]) -> T:
        """What ``make()`` gave the first time, or raised."""
        with self._lock:
            if self._failed is not None:
                raise self._failed.with_traceback(None)
            if not self._made:
                try:
                    self._made.append(make())
                except Exception as e:
                    self._failed = e
                    raise
            return self._made[0]


def wait_until(holds: Callable[[], T], deadline_s: float, what: str) -> T:
    """Ask until the answer is true, and return it.

    :raises ServerFailed: with ``what``, after the deadline.
    """
    end = time.monotonic() + deadline_s
    pause_s = 0.002
    while not (answer := holds()):
        if time.monotonic() > end:
            raise ServerFailed(f"{what} within {deadline_s:g} s")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.05)
    return answer


def unavailable(why: str) -> Exception:
    """What to raise where a server cannot be had: the test is skipped, or fails under CI."""
    return ServerFailed(why) if os.environ.get("CI") else unittest.SkipTest(why)


def installed(look: Callable[[], T | None], package: str) -> T:
    """What ``look`` finds of a package.

    :raises unittest.SkipTest: with what to install.
    """
    if (found := look()) is None:
        raise unavailable(f"{package} is not installed: {packages.how_to_install([package])}")
    return found


def free_ports(count: int) -> list[int]:
    """Ports nobody has now, below those the kernel gives to outgoing connections.

    A server that restarts finds its port free again: nobody gets one of these by chance.
    """
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            s = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                s.bind((HOST, random.randrange(12_000, _first_ephemeral())))
                found.append(s.getsockname()[1])
        return found


def _first_ephemeral() -> int:
    try:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        low = 49_152
    return low if low > 14_000 else 65_536


_running: set[Server] = set()


def _keep_until_exit(server: Server) -> None:
    """End it when the interpreter exits, before :class:`Child` would kill its keeper."""
    _running.add(server)
    atexit.unregister(_end_all)
    atexit.register(_end_all)


def _end_all() -> None:
    for server in _running:
        server._let_go()
    for server in list(_running):
        server.stop()


def _sweep(place: Path) -> None:
    """Remove the folders of test runs that are gone (the machine went down, say)."""
    place.mkdir(parents=True, exist_ok=True)
    for folder in place.glob("[0-9]*-crawlfarm-*"):
        pid = folder.name.partition("-")[0]
        if pid.isdigit() and not alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
