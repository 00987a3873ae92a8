"""What a benchmark prints, and what it leaves in ``.run/bench``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

BENCH_DIR = Path(__file__).parents[2] / ".run" / "bench"


@dataclass(frozen=True)
class Row:
    """One figure beside another.

    :ivar value: the median of ``runs`` runs, in ``unit``.
    :ivar peer: what it is compared with.
    :ivar ratio: ``value`` over the peer's.
    :ivar more: what else was measured, by name.
    """

    name: str
    value: float
    unit: str
    peer: str
    ratio: float
    runs: int
    more: dict[str, Any] = field(default_factory=dict)


def middle(values: list[float]) -> float:
    return round(median(values), 3)


def scratch() -> Path:
    """Where a benchmark may leave things for a moment."""
    BENCH_DIR.mkdir(parents=True, exist_ok=True)
    return BENCH_DIR


def show(title: str, rows: list[Row]) -> None:
    """Print a table."""
    print(f"\n{title}")  # noqa: T201
    wide = max(len(row.name) for row in rows)
    for row in rows:
        more = "  ".join(f"{name} {value}" for name, value in row.more.items())
        line = f"  {row.name:{wide}}  {row.value:10.3f} {row.unit:8} {row.ratio:6.2f} x {row.peer:20} {more}"
        print(line.rstrip())  # noqa: T201


def keep(name: str, rows: list[Row]) -> Path:
    """Write the rows for programs to read."""
    path = scratch() / f"{name}.json"
    flat = [{k: v for k, v in asdict(row).items() if k != "more"} | row.more for row in rows]
    path.write_text(json.dumps(flat, indent=1) + "\n")
    return path
