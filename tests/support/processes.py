"""Child processes of tests: started, awaited by what they say, ended on every way out.

A child that is ready prints one JSON line with a ``ready`` field on stdout, as all our
daemons do. It is ended by its id: when its ``with`` block or its test is left, when the
interpreter exits, and (on Linux) when the test process is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

ROOT = Path(__file__).parents[2]
"""The checkout: children run here, so that ``-m tests.support.…`` finds itself."""


class HasCleanup(Protocol):
    """What is needed of a TestCase here."""

    def addCleanup(self, f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


class ChildFailed(Exception):
    """A child ended, or said nothing, before it was ready; the text has its last words."""


class Child:
    """One child process with its output.

    :param argv: the command; the first may be ``"python"`` for this interpreter.
    :param environ: added to the test's own environment; ``None`` as a value removes.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        environ: Mapping[str, str | None] | None = None,
        cwd: Path | str = ROOT,
        deadline_s: float = 30.0,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.argv = [sys.executable if argv[0] == "python" else argv[0], *argv[1:]]
        self.deadline_s = deadline_s
        self.ready: dict[str, Any] = {}
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._closed = False
        self._last_stderr = ""
        merged = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), **(environ or {})}
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            self.argv,
            cwd=cwd,
            env={name: value for name, value in merged.items() if value is not None},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
            preexec_fn=_die_with_parent() if threading.current_thread() is threading.main_thread() else None,
        )
        atexit.register(self.kill)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        """What it has written there so far, or had when it ended."""
        if self._stderr.closed:
            return self._last_stderr
        return os.pread(self._stderr.fileno(), 1 << 24, 0).decode(errors="replace")

    @property
    def stdout(self) -> str:
        """What it has written there so far, in whole lines."""
        return "\n".join(self.lines)

    def wait_ready(self) -> dict[str, Any]:
        """The ready line, once it is there.

        :raises ChildFailed: the child ended before, or the deadline passed.
        """

        def said(line: str) -> bool:
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict) and "ready" in value:
                    self.ready = value
                    return True
            return False

        self.wait_line(said)
        return self.ready

    def wait_line(self, matches: Callable[[str], bool]) -> str:
        """The first line of stdout that ``matches``.

        :raises ChildFailed: the child ended without one, or the deadline passed.
        """
        end = time.monotonic() + self.deadline_s
        seen = 0
        with self._changed:
            while True:
                for line in self.lines[seen:]:
                    if matches(line):
                        return line
                seen = len(self.lines)
                left = end - time.monotonic()
                if self._closed or left <= 0:
                    break
                self._changed.wait(left)
        what = "ended" if self._closed else f"was not heard from within {self.deadline_s:g} s"
        code = self._wait(1.0) if self._closed else None
        raise ChildFailed(f"{' '.join(self.argv)} {what} (exit code {code})\n{self.stdout}\n{self.stderr[-4000:]}")

    def wait(self, deadline_s: float | None = None) -> int:
        """Its exit code, once it has ended by itself (negative: the signal that ended it).

        :raises ChildFailed: it goes on; it is killed then.
        """
        code = self._wait(self.deadline_s if deadline_s is None else deadline_s)
        if code is None:
            self.kill()
            raise ChildFailed(f"{' '.join(self.argv)} did not end\n{self.stdout[-4000:]}\n{self.stderr[-4000:]}")
        self._reader.join(5)
        self._forget()
        return code

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.process.poll() is None:
            os.kill(self.pid, number)

    def stop(self) -> int:
        """SIGTERM; after the deadline SIGKILL. Its exit code."""
        self.signal(signal.SIGTERM)
        code = self._wait(self.deadline_s)
        if code is None:
            return self.kill()
        self._reader.join(5)
        self._forget()
        return code

    def kill(self) -> int:
        """SIGKILL, to it and to what it started; returns once it is gone."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        code = self.process.wait()
        self._reader.join(5)
        self._forget()
        return code

    def _wait(self, deadline_s: float) -> int | None:
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return None

    def _forget(self) -> None:
        atexit.unregister(self.kill)
        if self.process.stdout and not self._reader.is_alive():
            self.process.stdout.close()
        self._last_stderr = self.stderr
        self._stderr.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()


def start(argv: Sequence[str], *, test: HasCleanup | None = None, **options: Any) -> Child:
    """Start a child and wait until it is ready; with ``test``, it ends with that test."""
    child = Child(argv, **options)
    if test is not None:
        test.addCleanup(child.__exit__, None, None, None)
    try:
        child.wait_ready()
    except BaseException:
        child.kill()
        raise
    return child


def alive(pid: int) -> bool:
    """Whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent() -> Callable[[], None] | None:
    # The kernel sends the signal when the *thread* that started the child ends, so this
    # is only for children of the main thread.
    if _LIBC is None:
        return None
    pr_set_pdeathsig = 1
    return lambda: _LIBC.prctl(pr_set_pdeathsig, signal.SIGTERM) and None
