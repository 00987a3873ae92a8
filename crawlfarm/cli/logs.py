"""Logs of a command: everything to stderr, one line a record, as text or as JSON."""

from __future__ import annotations

import json
import logging
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from twisted.logger import ILogObserver, STDLibLogObserver, globalLogBeginner


@dataclass(frozen=True)
class Logging:
    """How much is logged, and in which form."""

    verbose: int = 0
    as_json: bool = False

    @property
    def level(self) -> int:
        return {0: logging.WARNING, 1: logging.INFO}.get(self.verbose, logging.DEBUG)

    def options(self) -> list[str]:
        """The options that say the same."""
        return [*["-v"] * self.verbose, *(["--log-format", "json"] if self.as_json else [])]


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


FIELDS = ("job", "token", "attempt", "master", "worker", "run", "url", "what", "part", "code")
"""What a JSON line has besides, where a record has it. Nothing else of a record is shown."""

_LOGIN = re.compile(r"(?<=://)[^/\s@'\"]*:[^/\s@'\"]*@")


def without_secrets(text: str) -> str:
    """The text, without user names and passwords of URLs."""
    return _LOGIN.sub("", text)


class JsonFormatter(logging.Formatter):
    """One JSON object a record, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = getattr(record.msg, "event", None) or {}
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": str(event.get("log_namespace") or record.name),
            "message": without_secrets(record.getMessage()),
        }
        for name in FIELDS:
            value = event.get(name, record.__dict__.get(name))
            if isinstance(value, str | int | float):
                line[name] = without_secrets(value) if isinstance(value, str) else value
        if record.exc_info:
            line["traceback"] = without_secrets(super().formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def announce(text: str) -> None:
    """Say something to whoever runs this command, whatever is logged: a line like the log's."""
    formatter = next((handler.formatter for handler in logging.getLogger().handlers), None)
    if isinstance(formatter, JsonFormatter):
        text = formatter.format(logging.LogRecord("crawlfarm", logging.INFO, "", 0, text, None, None))
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Looks ``sys.stderr`` up for each line: the live display borrows it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> object:
        return sys.stderr


def begin_logging(level: int, *, as_json: bool = False) -> None:
    """Send Twisted's and Scrapy's logs to stderr from ``level`` on."""
    handler = _Stderr()
    handler.setFormatter(
        JsonFormatter() if as_json else LineFormatter("%(asctime)s %(levelname)s [%(name)s] %(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    if level > logging.DEBUG:
        for name in ("scrapy.addons", "scrapy.crawler", "scrapy.middleware"):
            logging.getLogger(name).setLevel(logging.WARNING)  # settings and middlewares, for each crawl
    globalLogBeginner.beginLoggingTo([cast(ILogObserver, STDLibLogObserver())], redirectStandardIO=False)
