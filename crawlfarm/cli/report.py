"""What a person reads when a job has ended: the levels and the receipt."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crawlfarm.cli.logs import printable
from crawlfarm.wire.client import Result
from crawlfarm.wire.pages import Receipt

_EXAMPLES = 3
_BLOCKED = (
    "blocked_address: not public, so it was not dialled; `run` and `up` take --allow-network CIDR, or set "
    "CRAWLFARM_ALLOW_NETWORKS (127.0.0.0/8 is this machine)"
)


def show_result(console: Console, result: Result) -> None:
    """The levels as a table with a few examples each, then the receipt."""
    widest = max(map(len, result.levels), default=0)
    table = Table(title=Text(f"Levels of {printable(result.url)}"), title_justify="left", title_style="bold")
    table.add_column("depth", justify="right", no_wrap=True, min_width=5)
    table.add_column("pages", justify="right", no_wrap=True, min_width=max(5, len(f"{widest:,}")))
    table.add_column("for example", overflow="ellipsis", no_wrap=True, max_width=max(12, console.width - 24))
    deepest = max((depth for depth, urls in enumerate(result.levels) if urls), default=0)
    for depth, urls in enumerate(result.levels[: deepest + 1]):
        if not urls:
            table.add_row(str(depth), "0", "")
        for place, url in enumerate(urls[:_EXAMPLES]):
            head = (str(depth), f"{len(urls):,}") if place == 0 else ("", "")
            table.add_row(*head, Text(printable(url)))
    if len(result.levels) > deepest + 1:
        last = len(result.levels) - 1
        table.add_row(f"{deepest + 1}" if last == deepest + 1 else f"{deepest + 1}-{last}", "0", "")
    console.print(table)
    show_receipt(console, result.receipt)
    if result.cached:
        console.print("answered from the cache")


def show_receipt(console: Console, receipt: Receipt) -> None:
    """``found`` and what it is the sum of."""
    table = Table(title="Receipt", title_justify="left", title_style="bold", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row("found", f"{receipt.found:,}")
    table.add_row("  fetched", f"{receipt.fetched:,}")
    for kind, reasons in (("failed", receipt.failed), ("skipped", receipt.skipped)):
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
            table.add_row(Text(f"  {kind}: {printable(reason)}"), f"{count:,}")
    table.add_row("complete", "yes" if receipt.complete else "no", style="green" if receipt.complete else "yellow")
    console.print(table)
    if "blocked_address" in receipt.skipped:
        console.print(_BLOCKED, markup=False, highlight=False, soft_wrap=True)
