"""The tests: ``unit`` and ``contracts`` run under trial and pytest, ``integration`` under pytest."""

import os
from pathlib import Path

# Read by hypothesis when it first writes; the default is beside the sources.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(__file__).parents[1] / ".run" / "hypothesis"))
