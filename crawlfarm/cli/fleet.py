"""The child processes of ``crawlfarm up``: which, with what environment, stopped in which order."""

from __future__ import annotations

import json
import re
import socket
import sys
from datetime import UTC, datetime

from crawlfarm.cli.logs import Logging, printable
from crawlfarm.cli.supervisor import ChildSpec
from crawlfarm.config import Config, child_environ
from crawlfarm.errors import ConfigError

_ENTRY = "from crawlfarm.cli.main import main; main()"
_PORT = re.compile(r"^(?P<head>(?:tcp6?|ssl|tls):(?:port=)?)(?P<port>\d+)(?P<tail>.*)$")
_INTERFACE = re.compile(r"(?<=:interface=)(?:\\.|[^:])+")
_STAGES = (("gateway", "master", "worker"), ("lockd",))
"""What stops together, in this order: masters give their leases back to the lock daemon."""


def fleet(config: Config, counts: dict[str, int], logging: Logging) -> tuple[list[ChildSpec], list[list[int]]]:
    """What to start, and which of it stops together.

    :param counts: how many of each kind.
    :raises ConfigError: several are to listen, and the setting does not say where.
    """
    shared = {"CRAWLFARM_ALLOW_NETWORKS": ",".join(map(str, config.allow_networks)), **_lockd(config)}
    specs: list[ChildSpec] = []
    kinds: list[str] = []
    for kind, count in counts.items():
        for n in range(count):
            environ = dict(shared)
            if config.metrics_listen:
                environ["CRAWLFARM_METRICS_LISTEN"] = counted_up(
                    config.metrics_listen, len(specs), "CRAWLFARM_METRICS_LISTEN"
                )
            if kind == "gateway":
                environ["CRAWLFARM_GATEWAY_LISTEN"] = counted_up(config.gateway_listen, n, "CRAWLFARM_GATEWAY_LISTEN")
            argv = [sys.executable, "-c", _ENTRY, *logging.options(), kind, "--supervised"]
            specs.append(ChildSpec(f"{kind}-{n + 1}" if count > 1 else kind, argv, child_environ(environ)))
            kinds.append(kind)
    return specs, [[n for n, kind in enumerate(kinds) if kind in stage] for stage in _STAGES]


def counted_up(where: str, by: int, variable: str) -> str:
    """The endpoint string with a port that is higher by ``by``; port 0 stays.

    :raises ConfigError: it has no port to count up.
    """
    if not by:
        return where
    found = _PORT.match(where)
    if found is None:
        raise ConfigError(f"{variable}: {where!r} has no port to count up from, as tcp:8080 has, for several processes")
    port = int(found["port"])
    return f"{found['head']}{port + by if port else 0}{found['tail']}"


def passed_on(name: str, line: str, logging: Logging) -> str:
    """A child's line with its name in front; in JSON, as a field."""
    if not logging.as_json:
        return f"{name:<10}| {printable(line)}"
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict):
            raise ValueError
    except ValueError:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        fields = {"time": now, "level": "warning", "logger": "stderr", "message": line}
    return json.dumps({"process": name, **fields}, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def _lockd(config: Config) -> dict[str, str]:
    """Where the lock daemon listens and its clients find it, where that is for us to say."""
    found = _PORT.match(config.lockd_listen)
    if found is None or not found["head"].startswith("tcp:") or config.lockd != Config().lockd:
        return {}
    interface = _INTERFACE.search(config.lockd_listen)
    host = interface[0] if interface is not None and interface[0] != "0.0.0.0" else "127.0.0.1"
    port = int(found["port"]) or _free_port(host)
    return {
        "CRAWLFARM_LOCKD_LISTEN": f"{found['head']}{port}{found['tail']}",
        "CRAWLFARM_LOCKD": f"tcp:{host}:{port}",
    }


def _free_port(host: str) -> int:
    """A port that stays the same over the daemon's restarts."""
    with socket.socket() as s:
        s.bind((host, 0))
        port: int = s.getsockname()[1]
        return port
