"""Logs of a command: everything to stderr, one line a record."""

from __future__ import annotations

import logging
import sys
from typing import Any, cast

from twisted.logger import ILogObserver, STDLibLogObserver, globalLogBeginner

_ESCAPES = {c: f"\\x{c:02x}" for c in (*range(0x20), *range(0x7F, 0xA0))} | {0x0A: "\\n", 0x09: " "}


def printable(text: str) -> str:
    """Text that may be shown on a terminal: what the web sent must not control it."""
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode()


class LineFormatter(logging.Formatter):
    """One line a record; a traceback keeps its lines, without their control characters."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        text = super().formatException(ei)
        return "\n".join(printable(line) for line in text.splitlines())


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Looks ``sys.stderr`` up for each line: the live display borrows it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> object:
        return sys.stderr


def begin_logging(level: int) -> None:
    """Send Twisted's and Scrapy's logs to stderr from ``level`` on."""
    handler = _Stderr()
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s [%(name)s] %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    globalLogBeginner.beginLoggingTo([cast(ILogObserver, STDLibLogObserver())], redirectStandardIO=False)
