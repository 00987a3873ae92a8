"""Following one job to its end: progress for people, the answer where it was asked for."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall

from crawlfarm.cli.logs import printable
from crawlfarm.cli.loop import Interrupts
from crawlfarm.cli.output import STDOUT, Output
from crawlfarm.cli.report import show_receipt, show_result
from crawlfarm.cli.watch import ProgressView, Records
from crawlfarm.client import Job
from crawlfarm.wire.client import Cancelled, Failed, JobProgress, Reply, Result

CANCEL_WITHIN_S = 3.0


class Following:
    """Shows a job's progress on ``console`` and writes its result.

    :param cancels: whether Ctrl-C cancels the job, or only stops following it.
    :param where: options with which other commands find the same farm.
    """

    def __init__(
        self,
        reactor: Any,
        interrupts: Interrupts,
        console: Console,
        output: Output,
        *,
        cancels: bool = True,
        where: str = "",
    ) -> None:
        self._reactor = reactor
        self._interrupts = interrupts
        self._console = console
        self._output = output
        self._cancels = cancels
        self._where = where
        self._interrupted = 0

    async def follow(self, job: Job, title: str) -> int:
        """The exit code.

        :raises ConfigError: the result cannot be written any more.
        """
        records = Records()
        with ProgressView(self._console, title) as view:
            forget = self._interrupts.before_leaving(view.close)
            ticking = LoopingCall(view.tick)
            ticking.clock = self._reactor
            ticking.start(1.0, now=False)
            reading = Deferred.fromCoroutine(self._read(job, view, records))
            stop = self._interrupts.listen(lambda number: self._interrupt(number, job, reading))
            try:
                end = await reading
            except CancelledError:
                end = None
            finally:
                stop()
                ticking.stop()
                forget()
        return self._conclude(job, end, view, records)

    async def _read(self, job: Job, view: ProgressView, records: Records) -> Reply | None:
        reply: Reply | None = None
        async for reply in job:
            if isinstance(reply, JobProgress):
                view.show(reply)
            else:
                records.take(reply)
        return reply

    def _interrupt(self, number: int, job: Job, reading: Deferred[Any]) -> None:
        if reading.called:
            return
        self._interrupted = number
        if not self._cancels:
            reading.cancel()
            return
        self._say("interrupted: cancelling the job (once more to leave at once)")
        job.cancel().addErrback(lambda _: None)
        late = self._reactor.callLater(CANCEL_WITHIN_S, reading.cancel)

        def in_time(result: Any) -> Any:
            if late.active():
                late.cancel()
            return result

        reading.addBoth(in_time)

    def _conclude(self, job: Job, end: Reply | None, view: ProgressView, records: Records) -> int:
        if isinstance(end, Result):
            show_result(self._console, end)
            self._output.write(end, records.final())
            if self._output.target != STDOUT:
                self._say(f"result written to {self._output.target}")
            return 0
        if isinstance(end, Failed):
            self._say(f"the job failed ({end.error.code}): {end.error.message}")
            return 1
        if isinstance(end, Cancelled):
            self._say("the job was cancelled; until then:")
            show_receipt(self._console, end.receipt)
        elif self._interrupted:
            self._say(f"left: {view.line()}")
            goes_on = "it is not known whether the job was cancelled" if self._cancels else "the job goes on"
            name = f"{job.id}{self._where}"
            self._say(f"{goes_on}; `crawlfarm resume {name}` follows it, `crawlfarm cancel {name}` ends it")
        return 128 + self._interrupted if self._interrupted else 1

    def _say(self, text: str) -> None:
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
