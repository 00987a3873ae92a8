"""A process of the farm from its start to its end, as a command."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

from crawlfarm.cli.logs import announce
from crawlfarm.cli.loop import Interrupted, Interrupts
from crawlfarm.cli.process import STOP_S, Process

_LATE_S = 5.0


async def serve(interrupts: Interrupts, process: Process) -> int:
    """Run it until Ctrl-C or SIGTERM; says on stdout when it is ready."""
    try:
        await interrupts.unless(process.start())
    except Interrupted:
        announce(f"stopping: the {process.kind} had not begun")
        return 0
    try:
        say_ready(process.kind, process.endpoints)
        await interrupts.wait()
        announce(f"stopping: {process.goodbye}")
    finally:
        await process.stop()
    sys.stdout.flush()
    return 0


def say_ready(name: str, endpoints: list[str]) -> None:
    """The line that programs wait for. (What goes through ``sys.stdout`` is in `twist`'s log.)"""
    print(json.dumps({"ready": name, "endpoints": endpoints}), file=sys.__stdout__, flush=True)


def stop_with_stdin(reactor: Any, interrupts: Interrupts) -> None:
    """Stop when stdin closes, which it does when the process that holds its other end is
    gone, however it went. On a thread, so that a reactor that hangs is left behind too."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        reactor.callFromThread(interrupts.ask, signal.SIGTERM)
        threading.Event().wait(STOP_S + _LATE_S)
        os._exit(1)

    threading.Thread(target=watch, name="crawlfarm-stdin", daemon=True).start()
