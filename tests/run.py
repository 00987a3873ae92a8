"""``make test``: all TestCases, under trial and under pytest, with one count at the end.

The unit tests and contracts run under both; the integration tests under pytest alone.
The last line is ``N passed, N failed, N skipped``, summed over both; the exit code is 0
only when tests ran and none failed, and, with ``CI`` set, none was skipped either.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.support import packages

ROOT = Path(__file__).parents[1]
RUN_DIR = ROOT / ".run" / "tests"
BOTH = ("unit", "contracts")

_RAN = re.compile(r"^Ran (\d+) tests? in ")
_VERDICT = re.compile(r"^(PASSED|FAILED)(?: \((.*)\))?$")


@dataclass(frozen=True)
class Count:
    """How many tests ended how. A broken run counts as one failure."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def count_trial(output: list[str], returncode: int) -> Count:
    """What trial's last lines say; a failure where they and its exit code disagree."""
    ran, verdict = None, None
    for line in output:
        ran = _RAN.match(line) or ran
        verdict = _VERDICT.match(line) or verdict
    if ran is None or verdict is None:
        return Count(failed=1)
    words = dict(part.split("=") for part in (verdict[2] or "").split(", ") if part)
    numbers = {name: int(number) for name, number in words.items()}
    bad = sum(numbers.get(name, 0) for name in ("failures", "errors", "unexpectedSuccesses"))
    if (returncode or verdict[1] == "FAILED") and not bad:
        bad = 1
    passed = numbers.get("successes", 0) + numbers.get("expectedFailures", 0)
    return Count(passed, bad, numbers.get("skips", 0))


def count_pytest(report: Path, returncode: int) -> Count:
    """What pytest's XML report says; a failure where it and the exit code disagree."""
    passed = bad = skipped = 0
    if report.exists():
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            tests, failures, errors, skips = (
                int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")
            )
            bad += failures + errors
            skipped += skips
            passed += max(0, tests - failures - errors - skips)
    nothing_collected = 5
    if returncode not in (0, nothing_collected) and not bad:
        bad = 1
    return Count(passed, bad, skipped)


def run_trial(rooms: list[str]) -> Count:
    """Run the packages under trial, passing its output on while it comes."""
    command = [sys.executable, "-m", "twisted.trial", "--reactor=asyncio", "--reporter=text"]
    command += [f"--temp-directory={RUN_DIR / 'trial'}", *(f"tests.{room}" for room in rooms)]
    say(f"trial: {' '.join(rooms)}")
    lines: list[str] = []
    child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        while piece := os.read(child.stdout.fileno(), 65536).decode(errors="replace"):
            sys.stdout.write(piece)
            sys.stdout.flush()
            lines.append(piece)
    finally:
        if child.poll() is None and sys.exc_info()[0] is not None:
            child.terminate()
        child.wait()
    return count_trial("".join(lines).splitlines(), child.returncode)


def run_pytest() -> Count:
    """Run everything under pytest."""
    report = RUN_DIR / "pytest.xml"
    report.unlink(missing_ok=True)
    say("pytest: everything")
    command = [sys.executable, "-m", "pytest", f"--junitxml={report}", "-o", "junit_logging=no", "tests"]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False)
    return count_pytest(report, done.returncode)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main() -> int:
    RUN_DIR.mkdir(parents=True, exist_ok=True)
    absent = packages.install_missing()
    rooms = [room for room in BOTH if any((ROOT / "tests" / room).glob("test_*.py"))]
    count = (run_trial(rooms) if rooms else Count()) + run_pytest()
    if absent:
        say(f"not installed, so tests that need them were skipped: {' '.join(absent)}")
        say(f"install them with: sudo apt install --no-install-recommends {' '.join(absent)}")
    in_ci = bool(os.environ.get("CI"))
    if in_ci and (absent or count.skipped):
        say("skipped tests are failures where CI is set")
    if count.passed + count.failed == 0:
        say("no test ran")
    say(str(count))
    return int(count.failed > 0 or count.passed == 0 or (in_ci and (bool(absent) or count.skipped > 0)))


if __name__ == "__main__":
    sys.exit(main())
