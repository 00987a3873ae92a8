"""What pytest needs to run trial's TestCases: the asyncio reactor, before anybody imports one.

trial's own ``TestCase.run`` turns the reactor for each test that returns a Deferred or
is a coroutine, under pytest as under trial; nothing else is needed (and pytest-twisted,
where it is installed, stays off: it would keep the reactor running around the tests).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from twisted.internet import asyncioreactor

if "twisted.internet.reactor" not in sys.modules:
    asyncioreactor.install()

RUN_DIR = Path(__file__).parents[1] / ".run"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--reactor=asyncio`` is what trial is called with; here it is the only one."""
    parser.addoption("--reactor", choices=["asyncio"], default="asyncio")


def pytest_configure() -> None:
    """Stop at once where a plugin chose another reactor: tests would pass without it."""
    from twisted.internet import reactor

    if not isinstance(reactor, asyncioreactor.AsyncioSelectorReactor):
        raise RuntimeError(f"the tests need the asyncio reactor, and {type(reactor).__name__} is installed")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Run the tests in a directory of their own, as trial does: ``mktemp()`` writes there."""
    RUN_DIR.mkdir(exist_ok=True)
    before, here = Path.cwd(), tempfile.mkdtemp(prefix="pytest-cwd-", dir=RUN_DIR)
    os.chdir(here)

    def leave() -> None:
        os.chdir(before)
        shutil.rmtree(here, ignore_errors=True)

    session.config.add_cleanup(leave)
