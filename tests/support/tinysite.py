"""A site inside the test: a page a line, and any page can be held back until the test lets it go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

reactor: Any = installed


@dataclass(frozen=True)
class Reply:
    """What a path answers.

    :ivar links: what its page links to.
    :ivar first: the status of the first so many answers, before ``status``.
    """

    links: tuple[str, ...] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    first: tuple[int, ...] = ()


class TinySite:
    """Serves ``pages`` (by path) on loopback until the end of the test.

    :ivar heard: called with each path that is asked for, before it is answered.
    :ivar counts: how often each path was asked for.
    """

    def __init__(self, test: Any, pages: Mapping[str, Reply], heard: Callable[[str], None] = lambda path: None) -> None:
        self.pages = pages
        self.heard = heard
        self.counts: Counter[str] = Counter()
        self.asked: dict[str, Deferred[None]] = {}
        self._gates: dict[str, list[Deferred[None]]] = {}
        self._open: list[Request] = []
        port = reactor.listenTCP(0, Site(_Root(self)), interface="127.0.0.1")
        self.origin = f"http://127.0.0.1:{port.getHost().port}"

        async def stop() -> None:
            for gate in [gate for gates in self._gates.values() for gate in gates]:
                gate.callback(None)
            await port.stopListening()
            for request in self._open:
                request.loseConnection()

        test.addCleanup(lambda: Deferred.fromCoroutine(stop()))

    def url(self, path: str) -> str:
        return self.origin + path

    def hold(self, path: str) -> Deferred[None]:
        """Hold back the next answer for ``path``; fires when it is asked for."""
        self._gates.setdefault(path, []).append(Deferred())
        self.asked[path] = Deferred()
        return self.asked[path]

    def let_go(self, path: str) -> None:
        """Give the answer that was held back."""
        self._gates[path].pop(0).callback(None)

    def answer(self, request: Request) -> None:
        path = request.uri.decode()
        self.counts[path] += 1
        self.heard(path)
        held = self._gates.get(path, [])[-1:]
        if held and path in self.asked:
            asked = self.asked.pop(path)
            gone = request.notifyFinish()
            gone.addErrback(lambda _: None)
            held[0].addCallback(lambda _: None if request._disconnected else self._send(request, path))
            asked.callback(None)
        else:
            self._send(request, path)

    def _send(self, request: Request, path: str) -> None:
        reply = self.pages.get(path, Reply(status=404))
        times = self.counts[path]
        request.setResponseCode(reply.first[times - 1] if times <= len(reply.first) else reply.status)
        request.setHeader("Content-Type", "text/html")
        for name, value in reply.headers.items():
            request.setHeader(name, value)
        request.write(reply.body or "".join(f'<a href="{link}">' for link in reply.links).encode() or b"<p>")
        request.finish()


class _Root(Resource):
    isLeaf = True

    def __init__(self, site: TinySite) -> None:
        super().__init__()
        self._site = site

    def render(self, request: Request) -> int:
        self._site.answer(request)
        return NOT_DONE_YET
