"""A small site in the test's own process, whose gated pages answer when the test says so.

So a test can have a crawl exactly where it wants it: everything before the gate fetched,
everything behind it under way, for as long as it likes.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.answer import Answer, Page
from tests.support.processes import HasCleanup


class GatedSite:
    """Serves ``links`` on loopback until the test ends.

    :param links: the paths each path links to; the first is the seed. A path that is
        only linked to is answered with 404.
    :param gated: the paths that wait for :meth:`open`.
    :param titles: of pages, where they matter.
    """

    def __init__(
        self,
        test: HasCleanup,
        links: Mapping[str, Sequence[str]],
        *,
        gated: Sequence[str] = (),
        titles: Mapping[str, str] | None = None,
    ) -> None:
        self.links = links
        self.titles = titles or {}
        self._gates = {path: threading.Event() for path in gated}
        self._changed = threading.Condition()
        self.asked: Counter[str] = Counter()
        self._server = _Server(self)
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.seed = self.origin + next(iter(links))
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        test.addCleanup(self._stop, thread)

    def open(self, *paths: str) -> None:
        """Let these gated pages be answered from now on, or all."""
        for path in paths or self._gates:
            self._gates[path].set()

    def wait_asked(self, path: str, times: int = 1, deadline_s: float = 30.0) -> None:
        """Return when ``path`` was asked for so often.

        :raises AssertionError: that did not happen in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.asked[path] >= times, deadline_s):
                raise AssertionError(f"{path} was asked for {self.asked[path]} times only; asked: {dict(self.asked)}")

    def answer(self, depth: int) -> Answer:
        """What a crawl must find: a plain breadth-first walk over ``links``."""
        seed = next(iter(self.links))
        found = {seed: 0}
        queue = deque([seed])
        while queue:
            path = queue.popleft()
            if found[path] + 1 < depth:
                for target in self.links.get(path, ()):
                    if target not in found:
                        found[target] = found[path] + 1
                        queue.append(target)
        pages = {self.origin + p: Page(d, "fetched", 200 if p in self.links else 404) for p, d in found.items()}
        return Answer(self.seed, depth, pages)

    def _reply(self, path: str) -> tuple[int, bytes]:
        with self._changed:
            self.asked[path] += 1
            self._changed.notify_all()
        if path in self._gates:
            self._gates[path].wait(120)
        if path not in self.links:
            return 404, b"not found"
        items = "".join(f'<a href="{escape(target)}">to</a>' for target in self.links[path])
        return 200, f"<title>{escape(self.titles.get(path, path))}</title>{items}".encode()

    def _stop(self, thread: threading.Thread) -> None:
        self.open()
        self._server.shutdown()
        self._server.server_close()
        thread.join(10)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, site: GatedSite) -> None:
        class Handler(_Handler):
            pass

        Handler.site = site
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A crawler that was killed hangs up in the middle; that is no news."""


class _Handler(BaseHTTPRequestHandler):
    site: GatedSite
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, body = self.site._reply(self.path)
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def tree(name: str = "") -> dict[str, list[str]]:
    """Links of a site with a gate at ``/gate``: pages before it, a longer way round to what
    lies behind it, so that depths are lowered when it opens, and a broken link."""
    links: dict[str, list[str]] = {"/": ["/a", "/gate"]}
    for i, here in enumerate("abcdef"):
        links[f"/{here}"] = [f"/{'abcdef'[i + 1]}" if here != "f" else "/behind/3", f"/{here}{name}/x", "/"]
        links[f"/{here}{name}/x"] = ["/nowhere"]
    links["/gate"] = [f"/behind/{i}" for i in range(8)]
    for i in range(8):
        links[f"/behind/{i}"] = [f"/behind/{i}/{j}" for j in range(3)]
        links.update({f"/behind/{i}/{j}": ["/gate"] for j in range(3)})
    return links
