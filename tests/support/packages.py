"""System packages that some tests need: looked for, and installed where that is allowed.

As root on Debian or Ubuntu, :func:`install_missing` installs them; everywhere else it
says what is missing, and the tests that need it skip themselves (a failure under CI).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from glob import glob
from pathlib import Path

NGINX_PLACES = ("/usr/sbin/nginx", "/usr/local/sbin/nginx", "/opt/homebrew/bin/nginx")


def nginx() -> str | None:
    """The path of the nginx program."""
    return shutil.which("nginx") or next((p for p in NGINX_PLACES if os.access(p, os.X_OK)), None)


def tree(name: str) -> Path | None:
    """The directory of an installed documentation tree: ``python``, ``policy`` or ``devref``."""
    patterns = {
        "python": "/usr/share/doc/python3.*/html/index.html",
        "policy": "/usr/share/doc/debian-policy/policy.html/index.html",
        "devref": "/usr/share/developers-reference/index.html",
    }
    found = sorted(glob(patterns[name]))
    return Path(found[-1]).parent if found else None


PACKAGES: Mapping[str, Callable[[], object]] = {
    "nginx-light": nginx,
    "python3-doc": lambda: tree("python"),
    "debian-policy": lambda: tree("policy"),
    "developers-reference": lambda: tree("devref"),
}
"""Debian package to what tells that it is here."""


def missing() -> list[str]:
    """The packages whose content is not on this machine."""
    return [name for name, look in PACKAGES.items() if not look()]


def install_missing() -> list[str]:
    """Install what is missing, where that is allowed; the packages still missing after it."""
    wanted = missing()
    if not wanted:
        return []
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return wanted
    _say(f"installing {' '.join(wanted)}")
    # RUNLEVEL=1: what comes with a service must not start it.
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *wanted],
    ):
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            _say(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return missing()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
