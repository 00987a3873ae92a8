"""The run directory: what commands keep, and where a run has a directory of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

from crawlfarm.config import Config
from crawlfarm.errors import ConfigError


def made(config: Config, *below: str) -> Path:
    """The directory ``below`` the run directory, made if it is not there.

    :raises ConfigError: it cannot be.
    """
    try:
        path = config.run_dir.joinpath(*below)
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise _unusable(config, e) from e
    return path


def own(config: Config) -> Path:
    """A new directory, for one run.

    :raises ConfigError: it cannot be made.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="run-", dir=made(config)))
    except OSError as e:
        raise _unusable(config, e) from e


def _unusable(config: Config, error: OSError) -> ConfigError:
    why = error.strerror or str(error)
    return ConfigError(
        f"CRAWLFARM_RUN_DIR: the directory {str(config.run_dir)!r} cannot be used: {why}; name another one"
    )
