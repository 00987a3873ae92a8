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

from crawlfarm.config import Config
from crawlfarm.errors import BadInput, ConfigError
from crawlfarm.wire.client import Result
from crawlfarm.wire.codec import encode_json
from crawlfarm.wire.pages import PageRecord

KINDS = (".json", ".jsonl", ".csv")
STDOUT = "-"


def default_output(config: Config, name: str = "") -> str:
    """A new file in the run directory, called after ``name`` if that can be a file's."""
    results = config.run_dir / "results"
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"the run directory {str(config.run_dir)!r} cannot be used: {e.strerror}") from e
    safe = "".join(c for c in name if c.isascii() and (c.isalnum() or c == "-"))[:64]
    return str(results / f"{safe or uuid.uuid4()}.json")


class Output:
    """Where the answer goes; checked before the crawl, written whole after it.

    :param target: a path ending in one of :data:`KINDS`, or ``-`` for stdout (JSON).
    :raises BadInput: it cannot be written.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.kind = ".json" if target == STDOUT else Path(target).suffix.lower()
        if target != STDOUT:
            _check(Path(target), self.kind)

    @property
    def wants_records(self) -> bool:
        return self.kind != ".json"

    def write(self, result: Result, records: Iterable[PageRecord]) -> None:
        """Write it: readers of the file see the old one or the new one, never half of it."""
        data = encode_json(result) + b"\n" if self.kind == ".json" else _lines(self.kind, records)
        if self.target == STDOUT:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        path = Path(self.target)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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


def _check(path: Path, kind: str) -> None:
    def refuse(why: str) -> BadInput:
        return BadInput(f"output: {str(path)!r} cannot be written: {why}", path="output", code="output")

    if kind not in KINDS:
        raise refuse(f"its name must end in one of {', '.join(KINDS)}")
    if path.is_dir():
        raise refuse("it is a directory")
    try:
        if path.exists():
            with path.open("ab"):
                pass
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as e:
        raise refuse(e.strerror or str(e)) from e


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
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value
