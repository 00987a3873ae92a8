"""Running a program that refuses to be root, from a test run that may be root."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers.base import FOLDER, ServerFailed, unavailable

_NOBODY = 65534
_NAMESPACE = ("unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}")
_OTHER_USER = ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")


@dataclass(frozen=True)
class Someone:
    """Who runs such a program.

    :ivar prefix: goes before its command; the process id stays the same.
    :ivar place: where its folders are made.
    :ivar uid: who must own them; ``None``: who makes them.
    """

    prefix: tuple[str, ...]
    place: Path
    uid: int | None = None

    def owns(self, folder: Path) -> None:
        """Let it write there."""
        if self.uid is not None:
            os.chown(folder, self.uid, self.uid)

    def run(self, command: list[str]) -> None:
        """Run a command to its end.

        :raises ServerFailed: with what it said.
        """
        done = subprocess.run(
            [*self.prefix, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd="/"
        )
        if done.returncode:
            raise ServerFailed(f"{' '.join(command)} failed\n{done.stdout}{done.stderr}"[-4000:])


@functools.cache
def someone() -> Someone:
    """Oneself where that is not root; else a user namespace or, failing that, nobody.

    :raises unittest.SkipTest: neither is possible here.
    """
    if os.geteuid() != 0:
        return Someone((), FOLDER)
    if _works(*_NAMESPACE, "true"):
        return Someone(_NAMESPACE, FOLDER)
    if not _works(*_OTHER_USER, "true"):
        raise unavailable("PostgreSQL does not run as root, and neither unshare nor setpriv works here: use a user")
    FOLDER.mkdir(parents=True, exist_ok=True)
    reachable = _works(*_OTHER_USER, "test", "-x", str(FOLDER))
    return Someone(_OTHER_USER, FOLDER if reachable else Path(tempfile.gettempdir()), _NOBODY)


def _works(*command: str) -> bool:
    return bool(shutil.which(command[0])) and not subprocess.run(command, capture_output=True, check=False).returncode
