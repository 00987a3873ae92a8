"""The configuration: read once from the environment; nothing else in the project reads it.

:meth:`Config.from_environ` checks every value and every relation between them, so that
a wrong one stops the program at its start with the name of the variable.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from crawlfarm.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_REDIS = ("redis", "rediss", "redis+sentinel")
_SQLITE = "sqlite:///"
_SHORTEST_SECRET, _LONGEST_SECRET = 16, 4096

_LATER = ("CRAWLFARM_TOKENS_FILE", "CRAWLFARM_DATABASE_READ_URL")
"""Names the design gives to what this version does not have yet: refused, not ignored."""


@dataclass(frozen=True, slots=True)
class Timings:
    """How long things may take, in seconds. Each is ``CRAWLFARM_<NAME>``.

    :ivar heartbeat_s: how often a master tells the lock daemon it lives.
    :ivar job_lease_s: after this long without a heartbeat a job is overdue.
    :ivar stuck_s: after this long with heartbeats but no progress it is overdue too.
    :ivar page_lease_s: after this long without an extension a page is handed out again.
    :ivar republish_s: a job nobody leased is published again after this long.
    :ivar leave_grace_s: a job whose last client left, unless detached, is cancelled
        after this long.
    :ivar idle_s: a client without a job is closed after this long.
    :ivar result_ttl_s: how long results are kept.
    :ivar cache_ttl_s: how long an answer is given without asking the site again.
    """

    heartbeat_s: float = 5.0
    job_lease_s: float = 30.0
    stuck_s: float = 300.0
    page_lease_s: float = 20.0
    republish_s: float = 30.0
    leave_grace_s: float = 60.0
    idle_s: float = 300.0
    result_ttl_s: float = 7 * 86400.0
    cache_ttl_s: float = 3600.0

    def check(self) -> None:
        """:raises ConfigError: two of them cannot go together."""
        for f in fields(self):
            if getattr(self, f.name) <= 0:
                raise ConfigError(f"{_variable(f.name)} must be more than 0 seconds")
        if self.job_lease_s < 3 * self.heartbeat_s:
            raise ConfigError(
                f"CRAWLFARM_JOB_LEASE_S ({self.job_lease_s:g}) must be at least three times "
                f"CRAWLFARM_HEARTBEAT_S ({self.heartbeat_s:g}), or healthy masters lose their jobs"
            )
        if self.stuck_s < self.job_lease_s:
            raise ConfigError(
                f"CRAWLFARM_STUCK_S ({self.stuck_s:g}) must not be less than "
                f"CRAWLFARM_JOB_LEASE_S ({self.job_lease_s:g})"
            )


@dataclass(frozen=True, slots=True)
class Config:
    """Everything an operator can set.

    Server URLs may hold passwords: they are never in a repr, and :func:`shown_url` shows
    them in messages.

    :ivar broker_url: ``amqp://`` or ``amqps://``; empty is the queue in this process.
    :ivar frontier_urls: ``redis://``, ``rediss://`` or ``redis+sentinel://``, one a shard;
        none is the frontier in this process.
    :ivar cache_url: the same schemes; empty is a cache in this process.
    :ivar database_url: ``postgresql://`` or ``sqlite:///PATH``; empty is a file in ``run_dir``.
    :ivar gateway_listen: Twisted endpoint string of the gateway.
    :ivar lockd_listen: Twisted endpoint string of the lock daemon.
    :ivar lockd: Twisted client endpoint strings of every lock daemon.
    :ivar lockd_secret: what the lock daemons and their clients share, read from the file
        that ``CRAWLFARM_LOCKD_SECRET_FILE`` names; empty is none.
    :ivar metrics_listen: Twisted endpoint string for health and metrics; empty is none.
    :ivar run_dir: what the embedded stand-ins keep.
    :ivar allow_networks: networks the address guard lets through though not public.
    :ivar max_attempts: a job that lost this many masters is failed.
    :ivar page_attempts: a page that lost this many workers is ``failed:worker_lost``.
    :ivar host_concurrency: requests in flight to one host, over all jobs and workers.
    :ivar slots: jobs one master runs at a time.
    """

    broker_url: str = field(default="", repr=False)
    frontier_urls: tuple[str, ...] = field(default=(), repr=False)
    cache_url: str = field(default="", repr=False)
    database_url: str = field(default="", repr=False)
    gateway_listen: str = "tcp:8080:interface=127.0.0.1"
    lockd_listen: str = "tcp:8091:interface=127.0.0.1"
    lockd: tuple[str, ...] = ("tcp:127.0.0.1:8091",)
    lockd_secret: str = field(default="", repr=False)
    metrics_listen: str = ""
    run_dir: Path = Path(".run")
    allow_networks: tuple[Network, ...] = ()
    max_attempts: int = 3
    page_attempts: int = 3
    host_concurrency: int = 8
    slots: int = 4
    timings: Timings = field(default_factory=Timings)

    @classmethod
    def load(cls) -> Config:
        """The configuration of this process, from its environment."""
        return cls.from_environ(os.environ)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Config:
        """:raises ConfigError: naming the variable and what is allowed."""
        for name in _LATER:
            if environ.get(name):
                raise ConfigError(f"{name} is set, but this version does not have that yet: unset it")
        timings = Timings(**{f.name: _seconds(environ, f.name, f.default) for f in fields(Timings)})
        timings.check()
        defaults = cls()
        return cls(
            broker_url=_url(environ, "CRAWLFARM_BROKER_URL", "amqp", "amqps"),
            frontier_urls=parse_frontier(environ.get("CRAWLFARM_FRONTIER_URL", ""), "CRAWLFARM_FRONTIER_URL"),
            cache_url=_url(environ, "CRAWLFARM_CACHE_URL", *_REDIS),
            database_url=_database_url(environ),
            gateway_listen=environ.get("CRAWLFARM_GATEWAY_LISTEN") or defaults.gateway_listen,
            lockd_listen=environ.get("CRAWLFARM_LOCKD_LISTEN") or defaults.lockd_listen,
            lockd=_list(environ.get("CRAWLFARM_LOCKD", "")) or defaults.lockd,
            lockd_secret=_secret(environ, "CRAWLFARM_LOCKD_SECRET_FILE"),
            metrics_listen=environ.get("CRAWLFARM_METRICS_LISTEN", ""),
            run_dir=Path(environ.get("CRAWLFARM_RUN_DIR") or defaults.run_dir),
            allow_networks=parse_networks(environ.get("CRAWLFARM_ALLOW_NETWORKS", ""), "CRAWLFARM_ALLOW_NETWORKS"),
            max_attempts=_count(environ, "max_attempts", defaults.max_attempts),
            page_attempts=_count(environ, "page_attempts", defaults.page_attempts),
            host_concurrency=_count(environ, "host_concurrency", defaults.host_concurrency),
            slots=_count(environ, "slots", defaults.slots),
            timings=timings,
        )

    @property
    def database_path(self) -> Path | None:
        """The SQLite file; ``None`` with another database."""
        if not self.database_url:
            return self.run_dir / "crawlfarm.sqlite"
        if self.database_url.startswith(_SQLITE):
            return Path(self.database_url.removeprefix(_SQLITE))
        return None

    def embedded(self) -> list[str]:
        """The variables to set before processes can share this farm."""
        missing = {
            "CRAWLFARM_BROKER_URL": not self.broker_url,
            "CRAWLFARM_FRONTIER_URL": not self.frontier_urls,
            "CRAWLFARM_DATABASE_URL": self.database_path is not None,
        }
        return [name for name, is_missing in missing.items() if is_missing]


def child_environ(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child process: this one's, and what is different for it."""
    return {**os.environ, **changes}


def shown_url(url: str) -> str:
    """A server's URL as it may be shown: without user name, password and parameters."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    return f"{scheme}{separator}{rest.rpartition('@')[2].partition('?')[0]}"


def parse_networks(text: str, where: str) -> tuple[Network, ...]:
    """Comma-separated CIDRs.

    :raises ConfigError: naming ``where`` and the one that is wrong.
    """
    networks: list[Network] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        try:
            networks.append(ipaddress.ip_network(part))
        except ValueError as e:
            raise ConfigError(f"{where}: {part!r} is not a network such as 127.0.0.0/8 or fd00::/8 ({e})") from e
    return tuple(networks)


def parse_frontier(text: str, where: str) -> tuple[str, ...]:
    """The URLs of the frontier's shards, comma-separated.

    :raises ConfigError: naming ``where`` and the one that is wrong.
    """
    return _urls({where: text}, where, *_REDIS)


def _variable(name: str) -> str:
    return f"CRAWLFARM_{name.upper()}"


def _list(text: str, separator: str = ",") -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(separator))))


def _urls(environ: Mapping[str, str], name: str, *schemes: str) -> tuple[str, ...]:
    # Several Sentinels of one URL are separated by commas too: a new URL begins with its scheme.
    urls = _list(re.sub(r",(?=\s*[a-z+]+://)", "\n", environ.get(name, "")), "\n")
    for url in urls:
        scheme, separator, rest = url.partition("://")
        if scheme not in schemes or not separator or not rest.rpartition("@")[2]:
            allowed = " or ".join(f"{s}://…" for s in schemes)
            raise ConfigError(f"{name}: {shown_url(url)!r} is not a URL of the form {allowed}")
    return urls


def _url(environ: Mapping[str, str], name: str, *schemes: str) -> str:
    urls = _urls(environ, name, *schemes)
    if len(urls) > 1:
        raise ConfigError(f"{name} takes one URL, not {len(urls)}")
    return urls[0] if urls else ""


def _database_url(environ: Mapping[str, str]) -> str:
    name = "CRAWLFARM_DATABASE_URL"
    url = environ.get(name, "").strip()
    if url.startswith("sqlite:"):
        if not url.startswith(_SQLITE) or len(url) == len(_SQLITE):
            raise ConfigError(f"{name}: an SQLite file is given as sqlite:///PATH")
        return url
    try:
        return _url(environ, name, "postgresql", "postgres")
    except ConfigError as e:
        raise ConfigError(f"{e} or sqlite:///PATH") from None


def _secret(environ: Mapping[str, str], name: str) -> str:
    """What is in the file that the variable names, white space around it left out."""
    path = environ.get(name, "")
    if not path:
        return ""
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else "it is not a text file"
        raise ConfigError(f"{name}: {path!r} cannot be read: {reason}") from e
    if not _SHORTEST_SECRET <= len(secret) <= _LONGEST_SECRET:
        raise ConfigError(
            f"{name}: a secret has {_SHORTEST_SECRET} to {_LONGEST_SECRET} characters, and the one in {path!r} has "
            f"{len(secret)}; make one with: openssl rand -hex 32"
        )
    return secret


def _seconds(environ: Mapping[str, str], name: str, default: object) -> float:
    text = environ.get(_variable(name), "")
    try:
        value = float(text) if text else float(str(default))
    except ValueError:
        value = float("nan")
    if not 0 < value < 10**9:
        raise ConfigError(f"{_variable(name)} must be a number of seconds above 0, not {text!r}")
    return value


def _count(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(_variable(name), "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= 100_000):
        raise ConfigError(f"{_variable(name)} must be a whole number from 1 to 100000, not {text!r}")
    return int(text)
