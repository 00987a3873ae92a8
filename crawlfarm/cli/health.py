"""``/healthz``, ``/readyz`` and ``/metrics`` of one process, on ``CRAWLFARM_METRICS_LISTEN``.

``/healthz`` says that the process runs, ``/readyz`` whether it can do its work, and if
not, what is missing (503). Loopback only, unless the endpoint names another interface.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet import address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.web.resource import NoResource, Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from crawlfarm import __version__
from crawlfarm.adapters.listening import listen
from crawlfarm.cli.meters import Meters

log = Logger()

VARIABLE = "CRAWLFARM_METRICS_LISTEN"
Troubles = Callable[[], Awaitable[dict[str, tuple[str, bool]]]]


def loopback_unless_told(where: str) -> str:
    """A ``tcp:PORT`` without an interface is this machine's alone."""
    kind, *rest = where.split(":")
    if kind in ("tcp", "tcp6") and not any(part.startswith("interface=") for part in rest):
        return f"{where}:interface=127.0.0.1" if kind == "tcp" else rf"{where}:interface=\:\:1"
    return where


class Health:
    """Serves them.

    :param where: the endpoint string.
    :param name: the daemon's.
    :param troubles: what this process depends on and cannot reach: why, and whether it
        is of no use without.
    :ivar started: the daemon has begun its work; not ready before.
    :ivar stopping: it is about to leave; not ready any more.
    :ivar endpoints: where it listens, once started.
    """

    def __init__(self, reactor: Any, where: str, name: str, meters: Meters, troubles: Troubles) -> None:
        self.started = False
        self.stopping = False
        self.endpoints: list[str] = []
        self._reactor = reactor
        self._where = loopback_unless_told(where)
        self._name = name
        self._meters = meters
        self._troubles = troubles
        self._port: Any = None

    async def start(self) -> None:
        """:raises ConfigError: it cannot listen where the configuration says."""
        root: Any = Resource()  # type: ignore[no-untyped-call]
        root.putChild(b"healthz", _Page(self._healthz))
        root.putChild(b"readyz", _Page(self._readyz))
        root.putChild(b"metrics", _Page(self._metrics))
        root.putChild(b"", NoResource("there are /healthz, /readyz and /metrics"))
        site = _QuietSite(root, reactor=self._reactor)  # type: ignore[no-untyped-call]
        self._port = await listen(self._reactor, self._where, site, VARIABLE)
        self.endpoints = [_shown(self._port.getHost())]
        self._meters.start()

    async def stop(self) -> None:
        self._meters.stop()
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)

    async def _healthz(self) -> tuple[int, str, bytes]:
        return 200, "application/json", _json({"status": "ok", "name": self._name, "version": __version__})

    async def _readyz(self) -> tuple[int, str, bytes]:
        found = await self._troubles()
        missing = {name: why for name, (why, needed) in found.items() if needed}
        slower = {name: why for name, (why, needed) in found.items() if not needed}
        if self.stopping:
            missing[self._name] = "it is stopping"
        elif not self.started and not missing:
            missing[self._name] = "it is starting"
        answer = {"ready": not missing, "name": self._name, "missing": missing, "without": slower}
        return 503 if missing else 200, "application/json", _json(answer)

    async def _metrics(self) -> tuple[int, str, bytes]:
        return 200, "text/plain; version=0.0.4; charset=utf-8", self._meters.text()


class _Page(Resource):
    isLeaf = True

    def __init__(self, answer: Callable[[], Awaitable[tuple[int, str, bytes]]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._answer = answer

    def render_GET(self, request: Request) -> int:
        gone: list[Any] = []
        request.notifyFinish().addErrback(gone.append)
        Deferred.fromCoroutine(self._reply(request, gone)).addErrback(
            lambda f: log.failure("a question about health could not be answered", failure=f)
        )
        return NOT_DONE_YET

    async def _reply(self, request: Any, gone: list[Any]) -> None:
        try:
            code, kind, body = await self._answer()
        except Exception:
            log.failure("a question about health could not be answered")
            code, kind, body = 500, "text/plain", b"see the log\n"
        if gone:
            return
        request.setResponseCode(code)
        request.setHeader(b"Content-Type", kind.encode())
        request.setHeader(b"Content-Length", str(len(body)).encode())
        request.setHeader(b"Cache-Control", b"no-store")
        request.write(body)
        request.finish()


class _QuietSite(Site):
    noisy = False

    def log(self, request: Any) -> None:
        """Who asks every few seconds is no news."""


def _json(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _shown(host: Any) -> str:
    if isinstance(host, address.IPv6Address):
        return f"http://[{host.host}]:{host.port}"
    if isinstance(host, address.IPv4Address):
        return f"http://{host.host}:{host.port}"
    return str(host)
