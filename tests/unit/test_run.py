"""The counting of ``make test``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.internet import reactor, task
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.run import ROOT, Count, count_pytest, count_trial


class CountTrialTests(SynchronousTestCase):
    def test_everything_passed(self) -> None:
        """Successes and expected failures count as passed."""
        lines = ["Ran 7 tests in 0.1s", "", "PASSED (skips=1, expectedFailures=1, successes=5)"]
        self.assertEqual(count_trial(lines, 0), Count(6, 0, 1))

    def test_failures(self) -> None:
        """Failures, errors and unexpected successes count as failed."""
        lines = ["Ran 9 tests in 0.1s", "FAILED (failures=1, errors=2, unexpectedSuccesses=1, successes=5)"]
        self.assertEqual(count_trial(lines, 1), Count(5, 4, 0))

    def test_no_tests(self) -> None:
        """A run without a test counts nothing, rather than a pass."""
        self.assertEqual(count_trial(["Ran 0 tests in 0.000s", "", "PASSED"], 0), Count())

    def test_crash(self) -> None:
        """A run that ends without a verdict is a failure."""
        self.assertEqual(count_trial(["Segmentation fault"], -11), Count(failed=1))

    def test_exit_code_disagrees(self) -> None:
        """A non-zero exit is a failure whatever the lines say."""
        self.assertEqual(count_trial(["Ran 2 tests in 0.1s", "PASSED (successes=2)"], 1), Count(2, 1, 0))


class CountPytestTests(SynchronousTestCase):
    def report(self, **numbers: int) -> Path:
        path = Path(self.mktemp())
        attributes = " ".join(f'{name}="{number}"' for name, number in numbers.items())
        path.write_text(f"<testsuites><testsuite {attributes}/></testsuites>")
        return path

    def test_report(self) -> None:
        """The numbers come from the XML report."""
        report = self.report(tests=10, failures=2, errors=1, skipped=3)
        self.assertEqual(count_pytest(report, 1), Count(4, 3, 3))

    def test_no_report(self) -> None:
        """A run that leaves no report failed; one that found nothing to run did not."""
        absent = Path(self.mktemp())
        self.assertEqual(count_pytest(absent, 3), Count(failed=1))
        self.assertEqual(count_pytest(absent, 5), Count())

    def test_last_line(self) -> None:
        """The count reads the same way every time."""
        self.assertEqual(str(Count(1, 2, 3) + Count(10, 0, 0)), "11 passed, 2 failed, 3 skipped")


class ReactorTests(TestCase):
    async def test_async_tests_run(self) -> None:
        """A coroutine test runs on the asyncio reactor, under trial and under pytest."""
        self.assertIsInstance(reactor, AsyncioSelectorReactor)
        self.assertEqual(await task.deferLater(reactor, 0, lambda: 42), 42)

    def test_failures_are_seen(self) -> None:
        """Under pytest too, whatever goes wrong in a test fails it, at once or later."""
        tests = Path(self.mktemp()).absolute()
        tests.mkdir()
        (tests / "test_bad.py").write_text(_BAD)
        command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml")]
        done = subprocess.run(
            [*command, "--tb=no", str(tests / "test_bad.py")], cwd=ROOT, capture_output=True, text=True, check=False
        )
        self.assertIn("6 failed, 1 passed", done.stdout, done.stderr)
        self.assertEqual(done.returncode, 1)


_BAD = """
import warnings
from twisted.internet import defer, reactor, task
from twisted.trial.unittest import TestCase

class Tests(TestCase):
    async def test_sound(self):
        await task.deferLater(reactor, 0, lambda: None)
    async def test_async_failure(self):
        await task.deferLater(reactor, 0, lambda: None)
        self.fail("in a coroutine, after a turn of the reactor")
    def test_deferred_failure(self):
        return task.deferLater(reactor, 0, lambda: 1 / 0)
    def test_unhandled_error(self):
        defer.fail(ValueError("nobody looks at this"))
    def test_dirty_reactor(self):
        reactor.callLater(60, lambda: None)
    def test_warning(self):
        warnings.warn("old", DeprecationWarning)
    def test_never_awaited(self):
        self.test_sound()
"""
