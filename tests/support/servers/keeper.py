"""Runs one server in the foreground and lets nothing of it outlive the test run.

    python -I -S keeper.py --remove FOLDER --log FILE --stop TERM --end KILL -- COMMAND ...

Prints ``{"ready": "keeper", "pid": N}`` once the command runs, with the command's process
id. From then on:

- the command ended: everything it left behind (daemons too: they become children of the
  keeper) is killed, and the keeper ends with the command's exit code;
- SIGTERM: the command gets the ``--stop`` signal, and has ``--grace`` seconds;
- standard input closed, which is what happens when the test process ends in any way: the
  command gets the ``--end`` signal, and ``--remove`` is removed.

On its own, without imports from this project: it has to start in milliseconds.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Keeper:
    """The command, what it started, and how they end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.deadline: float | None = None
        """When a command that was told to end is killed; ``None``: it was not told."""
        self.remove = False
        self.log = open(options.log, "ab")  # noqa: SIM115
        become_parent_of_orphans()
        self.command = subprocess.Popen(
            options.command,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            preexec_fn=die_with_parent(),
        )

    def run(self) -> int:
        """Wait for one of the three reasons to end; the command's exit code."""
        wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(f'{{"ready": "keeper", "pid": {self.command.pid}}}', flush=True)  # noqa: T201
        watched = [wake, sys.stdin.fileno()]
        while self.command.poll() is None:
            readable, _, _ = select.select(watched, [], [], self.time_left())
            if wake in readable and signal.SIGTERM in os.read(wake, 4096):
                self.tell(self.options.stop)
            if sys.stdin.fileno() in readable and not os.read(sys.stdin.fileno(), 4096):
                watched = [wake]
                self.remove = True
                self.tell(self.options.end)
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.command.kill()
        end_children()
        if not self.remove and select.select([sys.stdin], [], [], 0)[0]:
            self.remove = not os.read(sys.stdin.fileno(), 4096)
        if self.remove and self.options.remove:
            shutil.rmtree(self.options.remove, ignore_errors=True)
        return self.command.returncode

    def tell(self, name: str) -> None:
        self.command.send_signal(getattr(signal, f"SIG{name}"))
        self.command.send_signal(signal.SIGCONT)  # a test may have stopped it
        self.deadline = min(self.deadline or float("inf"), time.monotonic() + self.options.grace)

    def time_left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


def become_parent_of_orphans() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> Callable[[], None] | None:
    if _LIBC is None:
        return None
    return lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) and None


def end_children() -> None:
    """Kill and reap until no child is left; a killed child's own children become ours."""
    while True:
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def children() -> list[int]:
    """The ids of the processes whose parent we are, the ended ones among them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == os.getpid():
            found.append(int(entry.name))
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--remove")
    parser.add_argument("--log", required=True)
    parser.add_argument("--stop", default="TERM")
    parser.add_argument("--end", default="KILL")
    parser.add_argument("--grace", type=float, default=20.0)
    parser.add_argument("command", nargs="+")
    code = Keeper(parser.parse_args()).run()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
