"""The console script.

Thin, for Ctrl-C may come at any moment: this much is imported before it is held back.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    # Held back until somebody listens (run_main): in the middle of an import, or with a
    # directory just made, there is no good way to be interrupted.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    from crawlfarm.cli.commands import invoke

    sys.exit(invoke())
