"""System packages that some tests need: looked for, and installed where that is allowed.

As root on Debian or Ubuntu, :func:`install_missing` installs them and stops whatever the
installation started; everywhere else it says what is missing, and the tests that need it
skip themselves (a failure under CI).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from glob import glob
from pathlib import Path

NGINX_PLACES = ("/usr/sbin/nginx", "/usr/local/sbin/nginx", "/opt/homebrew/bin/nginx")
POSTGRES_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
RABBITMQ_PLACES = ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq*/sbin", "/opt/homebrew/opt/rabbitmq/sbin")


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


def redis() -> str | None:
    """The path of the Redis server program."""
    return shutil.which("redis-server") or next((p for p in ("/usr/bin/redis-server",) if os.access(p, os.X_OK)), None)


def postgres() -> Path | None:
    """The newest directory with PostgreSQL's server programs, which Debian keeps off the PATH."""
    places = [Path(p) for pattern in POSTGRES_PLACES for p in glob(pattern)]
    if on_path := shutil.which("initdb"):
        places.append(Path(on_path).resolve().parent)
    return max((p for p in places if (p / "initdb").exists() and (p / "postgres").exists()), key=_version, default=None)


def rabbitmq() -> Path | None:
    """The directory with RabbitMQ's own scripts (Debian's in ``sbin`` change the user first)."""
    places = [Path(p) for pattern in RABBITMQ_PLACES for p in glob(pattern)]
    if on_path := shutil.which("rabbitmq-server"):
        places.append(Path(on_path).resolve().parent)
    return max((p for p in places if (p / "rabbitmq-env").exists()), key=_version, default=None)


def _version(place: Path) -> list[int]:
    return [int(digits) for digits in "".join(c if c.isdigit() else " " for c in str(place)).split()]


PACKAGES: Mapping[str, Callable[[], object]] = {
    "nginx-light": nginx,
    "python3-doc": lambda: tree("python"),
    "debian-policy": lambda: tree("policy"),
    "developers-reference": lambda: tree("devref"),
    "redis-server": redis,
    "postgresql": postgres,
    "rabbitmq-server": rabbitmq,
}
"""Debian package to what tells that it is here."""

_NAMED: Mapping[str, str] = {
    "redis-server": "CRAWLFARM_TEST_REDIS_URL",
    "postgresql": "CRAWLFARM_TEST_POSTGRES_URL",
    "rabbitmq-server": "CRAWLFARM_TEST_RABBITMQ_URL",
}
"""Package to the variable that names a server to use instead."""

_SERVICES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "nginx-light": (("nginx.service",), "www-data"),
    "redis-server": (("redis-server.service",), "redis"),
    "postgresql": (("postgresql.service", "postgresql@*.service"), "postgres"),
    "rabbitmq-server": (("rabbitmq-server.service", "epmd.service", "epmd.socket"), "rabbitmq"),
}
"""Debian package to the units it brings and the user they run as."""


def missing(names: Collection[str] | None = None) -> list[str]:
    """Those of the named packages (all, by default) whose content is needed and not on this machine."""
    return [
        name
        for name, look in PACKAGES.items()
        if (names is None or name in names) and not look() and not os.environ.get(_NAMED.get(name, ""))
    ]


def how_to_install(names: Collection[str]) -> str:
    """The command a reader can copy."""
    return f"sudo apt install --no-install-recommends {' '.join(names)}"


def install_missing(names: Collection[str] | None = None) -> list[str]:
    """Install what is missing, where that is allowed; the packages still missing after it."""
    wanted = missing(names)
    if not wanted:
        return []
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return wanted
    _say(f"installing {' '.join(wanted)}")
    before = _service_processes(wanted)
    # RUNLEVEL=1: what comes with a service must not start it.
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    try:
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *wanted],
        ):
            done = _run(command, environ)
            if done.returncode:
                _say(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    finally:
        _stop_services(wanted, before)
    return missing(names)


def _stop_services(names: Collection[str], before: Collection[int]) -> None:
    """RUNLEVEL is not asked under systemd: stop what was started in spite of it, by its id."""
    if Path("/run/systemd/system").exists():
        units = [unit for name in names if name in _SERVICES for unit in _SERVICES[name][0]]
        if units:
            _run(["systemctl", "stop", *units], os.environ)
            _run(["systemctl", "disable", *(unit for unit in units if "*" not in unit)], os.environ)
    begin = time.monotonic()
    while (started := _service_processes(names) - set(before)) and time.monotonic() < begin + 10:
        for pid in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if time.monotonic() < begin + 5 else signal.SIGKILL)
        time.sleep(0.1)


def _service_processes(names: Collection[str]) -> set[int]:
    """The processes of the users that the packages' services run as."""
    uids = set()
    for name in names:
        with contextlib.suppress(KeyError):
            uids.add(pwd.getpwnam(_SERVICES[name][1]).pw_uid)
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry.stat().st_uid in uids:
                found.add(int(entry.name))
    return found


def _run(command: list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
