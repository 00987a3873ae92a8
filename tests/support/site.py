"""Serves a made site on loopback, as a process of its own.

    python -m tests.support.site --graph 17
    python -m tests.support.site --json FILE
    python -m tests.support.site --big '{"pages": 20000, "slow_every": 50}'

Prints one JSON line when it is ready. What lies under ``/-/`` is for the test, not for
crawlers: ``/-/stats`` says how often each path was asked for, ``/-/reset`` forgets that
(and answers flaky pages anew), ``/-/delays?scale=0`` scales the delays of all pages.

The HTTP in here is just what crawlers need of it: GET, keep-alive, pipelining.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import posixpath
import signal
import socket
import sys
import urllib.request
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import parse_qsl, unquote, urlencode

from tests.support.answer import Answer
from tests.support.bigsite import BigSite
from tests.support.graphs import Addresses, Graph, generate
from tests.support.processes import Child, HasCleanup, start


@dataclass(frozen=True)
class Reply:
    """What the server sends for one URL."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    delay_ms: int = 0


class Content(Protocol):
    """What is served."""

    def reply(self, host: str, target: str, times: int) -> Reply:
        """The answer to the request for ``target`` that is number ``times`` (from 1) for it."""


class GraphContent:
    """A generated graph: host name and path, in any spelling, to its node."""

    def __init__(self, graph: Graph, addresses: Addresses) -> None:
        self.graph = graph
        self.addresses = addresses
        self._replies: dict[str, Reply] = {}
        self._names = {addresses.main: "main", addresses.other: "other"}
        self._by_key = {}
        for node in graph.nodes.values():
            _, _, rest = node.url.partition("://")
            host, _, path = rest.partition("/")
            self._by_key[host, normal("/" + path)] = node.url

    def reply(self, host: str, target: str, times: int) -> Reply:
        name = self._names.get(host.lower())
        url = self._by_key.get((f"{{{name}}}", normal(target)), "")
        node = self.graph.nodes.get(url)
        if node is None:
            return Reply(404, (("Content-Type", "text/html"),), b'<a href="/never/404">not found</a>')
        if times <= node.flaky:
            return Reply(503, (("Content-Type", "text/html"),), b'<a href="/never/503">later</a>', node.delay_ms)
        if url not in self._replies:
            headers = [("Content-Type", node.content_type)]
            if node.redirect:
                headers.append(("Location", self.addresses.url(node.redirect)))
            self._replies[url] = Reply(node.status, tuple(headers), node.body(self.addresses), node.delay_ms)
        return self._replies[url]


class BigContent:
    """A big site, rendered when it is asked for."""

    def __init__(self, site: BigSite) -> None:
        self.site = site

    def reply(self, host: str, target: str, times: int) -> Reply:
        number = target.removeprefix("/page/")
        if not (number.isdigit() and int(number) < self.site.pages):
            return Reply(404, (("Content-Type", "text/plain"),), b"not found")
        i = int(number)
        return Reply(200, (("Content-Type", "text/html; charset=utf-8"),), self.site.body(i), self.site.delay_of(i))


def normal(target: str) -> str:
    """One form for all spellings of a path and query."""
    path, question, query = target.partition("?")
    path = unquote(path)
    folded = posixpath.normpath(path)
    if path.endswith(("/", "/..", "/.")) and folded != "/":
        folded += "/"
    pairs = sorted(parse_qsl(query, keep_blank_values=True))
    return folded + (question + urlencode(pairs) if pairs else "")


class Connections:
    """What all connections share: the content, the counts, the control paths."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.counts: Counter[str] = Counter()
        self.scale = 1.0
        self.in_flight = 0
        self.most_in_flight = 0

    def answer(self, host: str, target: str) -> Reply:
        if target.startswith("/-/"):
            return self._control(target)
        key = f"{host.lower()}{normal(target)}"
        self.counts[key] += 1
        reply = self.content.reply(host, target, self.counts[key])
        return dataclasses.replace(reply, delay_ms=round(reply.delay_ms * self.scale))

    def _control(self, target: str) -> Reply:
        path, _, query = target.partition("?")
        if path == "/-/reset":
            self.counts.clear()
            self.most_in_flight = 0
        elif path == "/-/delays":
            self.scale = float(dict(parse_qsl(query))["scale"])
        stats = {"total": self.counts.total(), "most_in_flight": self.most_in_flight, "counts": self.counts}
        return Reply(200, (("Content-Type", "application/json"),), json.dumps(stats).encode())


class Connection(asyncio.Protocol):
    """One kept connection; answers requests one after the other."""

    def __init__(self, shared: Connections, loop: asyncio.AbstractEventLoop) -> None:
        self.shared = shared
        self.loop = loop
        self.buffer = b""
        self.busy = False
        self.timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.timer is not None:
            self.timer.cancel()
        if self.busy:
            self.shared.in_flight -= 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.busy:
            self._next()

    def _next(self) -> None:
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end or self.transport is None:
            return
        self.buffer = rest
        lines = head.decode("latin-1").split("\r\n")
        method, _, after = lines[0].partition(" ")
        target = after.rpartition(" ")[0]
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        close = headers.get("connection") == "close" or lines[0].endswith("HTTP/1.0")
        reply = self.shared.answer(headers.get("host", ""), target)
        self.busy = True
        self.shared.in_flight += 1
        self.shared.most_in_flight = max(self.shared.most_in_flight, self.shared.in_flight)
        if reply.delay_ms:
            self.timer = self.loop.call_later(reply.delay_ms / 1000, self._send, reply, method == "HEAD", close)
        else:
            self._send(reply, method == "HEAD", close)

    def _send(self, reply: Reply, head_only: bool, close: bool) -> None:
        self.busy = False
        self.shared.in_flight -= 1
        if self.transport is None:
            return
        lines = [f"HTTP/1.1 {reply.status} {_phrase(reply.status)}", f"Content-Length: {len(reply.body)}"]
        lines += [f"{name}: {value}" for name, value in reply.headers]
        if close:
            lines.append("Connection: close")
        self.transport.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (b"" if head_only else reply.body))
        if close:
            self.transport.close()
        elif self.buffer:
            self.loop.call_soon(self._next)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


async def serve(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    # Bound and never listened on: a connection there is refused, and nobody else gets it.
    refusing = socket.socket()
    refusing.bind(("127.0.0.1", 0))
    refused_port = refusing.getsockname()[1]
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    port = listening.getsockname()[1]
    content: Content
    if args.big is not None:
        addresses = Addresses(f"127.0.0.1:{port}", f"localhost:{port}", f"127.0.0.1:{refused_port}")
        content, seed = BigContent(BigSite(**json.loads(args.big))), f"http://{addresses.main}/page/0"
    else:
        graph = generate(args.graph) if args.json is None else Graph.from_json(Path(args.json).read_text())
        addresses = Addresses(f"{graph.name}:{port}", f"{graph.other_name}:{port}", f"{graph.name}:{refused_port}")
        content, seed = GraphContent(graph, addresses), addresses.url(graph.seed)
    shared = Connections(content)
    server = await loop.create_server(lambda: Connection(shared, loop), sock=listening)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ready = {"ready": "site", "seed": seed, "port": port, **dataclasses.asdict(addresses)}
    print(json.dumps(ready), flush=True)  # noqa: T201
    await stop.wait()
    server.close()
    refusing.close()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.site", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--graph", type=int, help="the number of a generated site")
    which.add_argument("--json", help="a file with a site")
    which.add_argument("--big", help="a big site: a JSON object of its fields")
    asyncio.run(serve(parser.parse_args(argv)))
    return 0


# --- from the test's side -----------------------------------------------------------------


class Site:
    """A served site, from the side of the test that wants it::

    site = Site.of_graph(17, test=self)     # ends with the test
    with Site.of_big(BigSite()) as site:    # or with the block
        crawl(site.seed)
    """

    def __init__(self, child: Child) -> None:
        self.child = child
        ready = child.ready
        self.seed: str = ready["seed"]
        self.port: int = ready["port"]
        self.addresses = Addresses(ready["main"], ready["other"], ready["refused"])
        self.origin = f"http://{self.addresses.main}"
        self.graph: Graph | None = None

    @classmethod
    def of_graph(cls, graph: int | Graph, *, test: HasCleanup | None = None, folder: Path | None = None) -> Site:
        """Serve generated site number ``graph``, or a graph of one's own (written to ``folder``)."""
        if isinstance(graph, int):
            site = cls(start(["python", "-m", "tests.support.site", "--graph", str(graph)], test=test))
            site.graph = generate(graph)
            return site
        assert folder is not None, "a graph of one's own is handed over in a file"
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "graph.json").absolute()
        file.write_text(graph.to_json())
        site = cls(start(["python", "-m", "tests.support.site", "--json", str(file)], test=test))
        site.graph = graph
        return site

    @classmethod
    def of_big(cls, big: BigSite, *, test: HasCleanup | None = None) -> Site:
        """Serve a big site."""
        fields = json.dumps(dataclasses.asdict(big))
        return cls(start(["python", "-m", "tests.support.site", "--big", fields], test=test))

    def answer(self, depth: int | None = None, scope: str | None = None) -> Answer:
        """What a crawl of the graph must find, from its structure."""
        assert self.graph is not None, "only graphs know it; ask the BigSite"
        return self.graph.answer(self.addresses, depth, scope)

    def stats(self) -> dict[str, Any]:
        """``total``, ``most_in_flight`` and ``counts`` by ``host:port/path``."""
        return self._control("stats")

    def reset(self) -> None:
        """Forget the counts; flaky pages are flaky again."""
        self._control("reset")

    def scale_delays(self, scale: float) -> None:
        """Multiply every delay; 0 is a site without any."""
        self._control(f"delays?scale={scale}")

    def _control(self, what: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/{what}", timeout=10) as response:
            stats: dict[str, Any] = json.load(response)
        return stats

    def stop(self) -> None:
        self.child.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.child.__exit__(kind, value, traceback)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
