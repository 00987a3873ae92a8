"""Following one job to its end: progress for people, the answer where it was asked for."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from twisted.internet.defer import CancelledError, Deferred

from crawlfarm.cli.logs import printable
from crawlfarm.cli.loop import Interrupts
from crawlfarm.cli.output import Output
from crawlfarm.cli.report import show_receipt, show_result
from crawlfarm.cli.watch import ProgressView, Records
from crawlfarm.client import Job
from crawlfarm.wire.client import Cancelled, Failed, JobProgress, Reply, Result

CANCEL_WITHIN_S = 10.0


class Following:
    """Shows a job's progress on ``console`` and writes its result.

    :param cancels: whether Ctrl-C cancels the job, or only stops following it.
    """

    def __init__(
        self, reactor: Any, interrupts: Interrupts, console: Console, output: Output, *, cancels: bool = True
    ) -> None:
        self._reactor = reactor
        self._interrupts = interrupts
        self._console = console
        self._output = output
        self._cancels = cancels
        self._interrupted = 0

    async def follow(self, job: Job, title: str) -> int:
        """The exit code."""
        records = Records()
        with ProgressView(self._console, title) as view:
            reading = Deferred.fromCoroutine(self._read(job, view, records))
            self._interrupts.asked.addCallback(self._interrupt, job, reading)
            try:
                end = await reading
            except CancelledError:
                end = None
        return self._conclude(job, end, view, records)

    async def _read(self, job: Job, view: ProgressView, records: Records) -> Reply | None:
        reply: Reply | None = None
        async for reply in job:
            if isinstance(reply, JobProgress):
                view.show(reply)
            else:
                records.take(reply)
        return reply

    def _interrupt(self, number: int, job: Job, reading: Deferred[Any]) -> int:
        if reading.called:
            return number
        self._interrupted = number
        if not self._cancels:
            reading.cancel()
            return number
        self._console.print("interrupted: cancelling the job (once more to leave at once)", highlight=False)
        job.cancel().addErrback(lambda _: None)
        late = self._reactor.callLater(CANCEL_WITHIN_S, reading.cancel)
        reading.addBoth(lambda result: (late.cancel() if late.active() else None, result)[1])
        return number

    def _conclude(self, job: Job, end: Reply | None, view: ProgressView, records: Records) -> int:
        console = self._console
        if isinstance(end, Result):
            show_result(console, end)
            self._output.write(end, records.final())
            if self._output.target != "-":
                console.print(f"result written to {self._output.target}", markup=False, highlight=False, soft_wrap=True)
            return 0
        if isinstance(end, Failed):
            error = f"the job failed ({end.error.code}): {printable(end.error.message)}"
            console.print(error, markup=False, highlight=False, soft_wrap=True)
            return 1
        if isinstance(end, Cancelled):
            console.print("the job was cancelled; until then:", highlight=False)
            show_receipt(console, end.receipt)
        elif self._interrupted:
            console.print(f"left: {view.line()}", markup=False, highlight=False, soft_wrap=True)
            if not self._cancels:
                console.print(
                    f"the job goes on; `crawlfarm resume {job.id}` follows it, `crawlfarm cancel {job.id}` ends it",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
        return 128 + self._interrupted if self._interrupted else 1
