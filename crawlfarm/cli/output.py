"""Files for programs: ``.json`` the result message, ``.jsonl`` and ``.csv`` a line a URL."""

from __future__ import annotations

import csv
import io
import os
import sys
import tempfile
import uuid
from collections.abc import Iterable
from pathlib import Path

from crawlfarm.cli.rundir import made
from crawlfarm.config import Config
from crawlfarm.errors import BadInput, CrawlfarmError
from crawlfarm.wire.client import Result
from crawlfarm.wire.codec import encode_json, shown
from crawlfarm.wire.pages import PageRecord

KINDS = (".json", ".jsonl", ".csv")
STDOUT = "-"


class OutputLost(CrawlfarmError):
    """The answer could not be written where it was wanted."""

    code = "output"


class Output:
    """Where the answer goes; checked before the crawl, written whole after it.

    :param target: a path ending in one of :data:`KINDS`, or ``-`` for stdout (JSON); ``None``
        is a new file in the run directory.
    :param name: what that file is called after, if that can be a file's name.
    :raises BadInput: it cannot be written.
    :raises ConfigError: the run directory cannot be used.
    """

    def __init__(self, config: Config, target: str | None, name: str = "") -> None:
        self._config = config
        self.target = self._new_file(name) if target is None else target
        self.kind = kind_of(self.target)
        if self.target != STDOUT:
            _check(self.target, self.kind)
        elif sys.stdout is None:  # the shell's >&-
            raise BadInput("output: stdout is closed, so - cannot be written", path="output", code="output")

    @property
    def wants_records(self) -> bool:
        return self.kind != ".json"

    def write(self, result: Result, records: Iterable[PageRecord]) -> None:
        """Write it: readers of the file see the old one or the new one, never half of it.

        :raises OutputLost: it cannot be written; the text says where the result is instead.
        """
        data = encode_json(result) + b"\n" if self.kind == ".json" else _lines(self.kind, records)
        try:
            if self.target == STDOUT:
                _to_stdout(data)
            else:
                _to_file(Path(self.target), data)
        except BrokenPipeError as e:
            raise OutputLost("whoever read the output has gone") from e
        except OSError as e:
            rescued = self._new_file("", self.kind)
            try:
                _to_file(Path(rescued), data)
            except OSError:
                rescued = "nowhere"
            why = e.strerror or str(e)
            raise OutputLost(
                f"output: {shown(self.target)} cannot be written: {why}; the result is in {rescued}"
            ) from e

    def _new_file(self, name: str, kind: str = ".json") -> str:
        results = made(self._config, "results")
        safe = "".join(c for c in name if c.isascii() and (c.isalnum() or c == "-"))[:64]
        return str(results / f"{safe or uuid.uuid4()}{kind}")


def kind_of(target: str | None) -> str:
    """The kind of file, one of :data:`KINDS` when it can be written."""
    return ".json" if target in (None, STDOUT) else Path(target or "").suffix.lower()


def _check(target: str, kind: str) -> None:
    path = Path(target)

    def refuse(why: str) -> BadInput:
        return BadInput(f"output: {shown(target)} cannot be written: {why}", path="output", code="output")

    try:
        if path.is_dir():
            raise refuse("it is a directory")
        if kind not in KINDS:
            raise refuse(f"its name must end in {', '.join(KINDS[:-1])} or {KINDS[-1]}; - is stdout")
        if not path.parent.is_dir():
            raise refuse(f"there is no directory {shown(str(path.parent))}")
        if path.exists():
            with path.open("ab"):
                pass
        handle, probe = tempfile.mkstemp(dir=path.parent, prefix=_hidden(path))
        os.close(handle)
        os.unlink(probe)
    except OSError as e:
        raise refuse(e.strerror or str(e)) from e


def _hidden(path: Path) -> str:
    return f".{path.stem[:20]}."


def _to_stdout(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError:
        # Or the interpreter tries once more at its end, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _to_file(path: Path, data: bytes) -> None:
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=_hidden(path))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(part, 0o666 & ~umask)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def _lines(kind: str, records: Iterable[PageRecord]) -> bytes:
    ordered = sorted(records, key=lambda r: (r.depth, r.url))
    if kind == ".jsonl":
        return b"".join(encode_json(record.row()) + b"\n" for record in ordered)
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(PageRecord.__struct_fields__)
    for record in ordered:
        row = record.row()
        row["linked_from"] = " ".join(record.linked_from)
        table.writerow([_cell(value) for value in row.values()])
    return text.getvalue().encode()


def _cell(value: object) -> object:
    """A cell a spreadsheet shows as text: what the web wrote must not become a formula."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return "'" + value
    return value
