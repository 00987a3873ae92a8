"""The sample site of ``crawlfarm run --sample``: a field guide to a small island.

About sixty pages over five levels, served on loopback by the command itself. It holds a
little of everything a crawl meets: ways that turn out shorter than thought, a redirect,
a broken link, a link to an address that is not public (never dialled: the address guard
refuses it), a picture, a plain text file, one page under two spellings.

It answers one page at a time and takes its time over it, as a small server would, so
that there is something to watch. Two pages are slow in coming, and they are the short
ways to others: those are met first on a longer way, and their depth is lowered later.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from html import escape
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

SECTIONS = {
    "birds": "Puffin, Gannet, Oystercatcher, Storm petrel, Turnstone, Eider",
    "plants": "Thrift, Sea campion, Bladderwrack, Marram grass, Samphire",
    "shells": "Limpet, Dog whelk, Cowrie, Razor shell, Periwinkle",
    "weather": "Sea fog, Westerlies, Spring tides, Frost, Halos",
    "paths": "North cliff, Harbour steps, Lighthouse road, Shingle bar, Peat track",
    "people": "The keeper, The ferryman, The schoolteacher, The net maker",
}
"""The chapters, and the entries of each."""

JOURNAL_DAYS = 14
LETTERS = 10
DWELL_MS = (40, 60)
"""Between how many milliseconds the site takes over a page."""
SLOW_MS = 700
"""How much longer a slow page takes; others are answered meanwhile."""


@dataclass(frozen=True)
class SamplePage:
    """What is served at one path.

    :ivar links: pairs of a URL, as the page writes it, and its text.
    """

    title: str
    text: str = ""
    links: tuple[tuple[str, str], ...] = ()
    status: int = 200
    content_type: str = "text/html; charset=utf-8"
    location: str = ""
    slow: bool = False

    def body(self) -> bytes:
        if not self.content_type.startswith("text/html"):
            return self.text.encode()
        items = "".join(f'<li><a href="{escape(url)}">{escape(text)}</a></li>' for url, text in self.links)
        return (
            f'<!DOCTYPE html><html lang="en"><head><title>{escape(self.title)}</title></head>'
            f"<body><h1>{escape(self.title)}</h1><p>{escape(self.text)}</p><ul>{items}</ul></body></html>"
        ).encode()


def sample_pages() -> dict[str, SamplePage]:
    """Every page of the site, by path and query."""
    pages: dict[str, SamplePage] = {}
    entries = [(section, name) for section, names in SECTIONS.items() for name in names.split(", ")]

    def entry_path(n: int) -> str:
        section, name = entries[n % len(entries)]
        return f"/{section}/{name.lower().replace(' ', '-')}"

    home = ("/", "The island")
    pages["/"] = SamplePage(
        "A field guide to a small island",
        "Four miles of rock, grass and weather, and everything on them.",
        (
            *((f"/{section}/", section.capitalize()) for section in SECTIONS),
            ("/today", "Today on the island"),
            ("#top", "Back to the top"),
            ("mailto:keeper@example.com", "Write to the keeper"),
        ),
    )
    for section, names in SECTIONS.items():
        links = [(name.lower().replace(" ", "-"), name) for name in names.split(", ")]
        pages[f"/{section}/"] = SamplePage(section.capitalize(), f"What there is to know of {section}.", (*links, home))
    for n, (section, name) in enumerate(entries):
        links = [("./", section.capitalize()), (entry_path(n + 7), "See also")]
        if n % 2 == 0:
            day = n // 2 % JOURNAL_DAYS + 1
            links.append((f"/journal?day={day}&year=1908", f"Seen on day {day}"))
        pages[entry_path(n)] = SamplePage(name, f"{name}, as the keepers have known it.", tuple(links))
    for day in range(1, JOURNAL_DAYS + 1):
        links = [(f"?year=1908&day={day % JOURNAL_DAYS + 1}", "The next day"), (entry_path(day * 3), "Noted")]
        if day <= LETTERS:
            links.append((f"/letters/{day}", "A letter went out"))
        pages[f"/journal?day={day}&year=1908"] = SamplePage(f"Journal, day {day}", "Wind, light, sails.", tuple(links))
    for n in range(1, LETTERS + 1):
        pages[f"/letters/{n}"] = SamplePage(f"Letter {n}", "To the mainland, by the next boat.", (home,))

    # The slow pages: each is the short way to something deep.
    pages["/today"] = SamplePage(
        "Today on the island",
        "What the keeper put on the board this morning.",
        (("/journal?year=1908&day=9", "Nine years ago today"), ("/letters/4", "A letter worth reading again"), home),
        slow=True,
    )
    pages["/people/the-keeper"] = SamplePage(
        "The keeper",
        "He answers slowly, but he knows where everything is.",
        (("/letters/7", "His letter to the board"), ("/letters/10#end", "His last letter"), ("./", "People")),
        slow=True,
    )

    # And some of what goes wrong on real sites.
    pages["/birds/sea-parrot"] = SamplePage("Sea parrot", status=301, location="/birds/puffin")
    pages["/tides.txt"] = SamplePage("Tides", "High water 04:12 and 16:40.\n", content_type="text/plain; charset=utf-8")
    _add_links(
        pages,
        {
            "/birds/": (("sea-parrot", "Sea parrot, as it used to be called"),),
            "/weather/": (("/tides.txt", "The tide table"),),
            "/paths/": (("/map.png", "The map"), ("/paths/old-bridge", "The old bridge, washed away")),
            "/people/": (("http://192.0.2.1/", "The mainland's own site, on a network of its own"),),
        },
    )
    return pages


def _add_links(pages: dict[str, SamplePage], more: dict[str, tuple[tuple[str, str], ...]]) -> None:
    for path, links in more.items():
        page = pages[path]
        pages[path] = SamplePage(page.title, page.text, page.links + links)


class _Pages(Resource):
    """Answers from a single queue: one page is worked on at a time, slow ones step aside."""

    isLeaf = True

    def __init__(self, reactor: Any, pages: dict[str, SamplePage]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reactor = reactor
        self._pages = {_key(path): page for path, page in pages.items()}
        self._waiting: deque[tuple[Request, SamplePage]] = deque()
        self._busy = False
        self._served = 0
        self._asked: set[Request] = set()
        self._timers: set[Any] = set()

    def render(self, request: Request) -> int:
        self._asked.add(request)
        request.notifyFinish().addBoth(lambda _: self._asked.discard(request))
        missing = SamplePage("Not here", "The sea took it.", status=404)
        self._waiting.append((request, self._pages.get(_key(request.uri.decode("latin-1")), missing)))
        if not self._busy:
            self._next()
        return NOT_DONE_YET

    def stop(self) -> None:
        """Answer nobody any more."""
        self._waiting.clear()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _next(self) -> None:
        self._busy = bool(self._waiting)
        if not self._busy:
            return
        request, page = self._waiting.popleft()
        self._served += 1
        least, most = DWELL_MS
        dwell_ms = least + self._served * 7 % (most - least + 1)
        self._later(dwell_ms, self._worked_on, request, page)

    def _worked_on(self, request: Request, page: SamplePage) -> None:
        if page.slow:
            self._later(SLOW_MS, self._send, request, page)
        else:
            self._send(request, page)
        self._next()

    def _send(self, request: Any, page: SamplePage) -> None:
        if request not in self._asked:  # who asked has left meanwhile
            return
        body = page.body()
        request.setResponseCode(page.status)
        request.setHeader(b"Content-Type", page.content_type.encode())
        request.setHeader(b"Content-Length", str(len(body)).encode())
        if page.location:
            request.setHeader(b"Location", page.location.encode())
        request.write(body)
        request.finish()

    def _later(self, delay_ms: int, call: Any, *args: Any) -> None:
        def run() -> None:
            self._timers.discard(timer)
            call(*args)

        timer = self._reactor.callLater(delay_ms / 1000, run)
        self._timers.add(timer)


def _key(uri: str) -> str:
    path, _, query = uri.partition("?")
    return path + "?" + "&".join(sorted(query.split("&")))


class _QuietSite(Site):
    """A site that says nothing in the log: the screen belongs to the crawl."""

    noisy = False

    def log(self, request: Any) -> None:
        pass


class _Connections(WrappingFactory):
    """Knows the open connections, to close them."""

    noisy = False

    def __init__(self, site: Site) -> None:
        super().__init__(site)  # type: ignore[no-untyped-call]
        self._empty: list[Deferred[None]] = []

    def close_all(self) -> Deferred[None]:
        """Drop every connection; fires when the last is gone."""
        done: Deferred[None] = Deferred()
        self._empty.append(done)
        for connection in list(self.protocols):
            connection.abortConnection()
        self._check()
        return done

    def unregisterProtocol(self, p: ProtocolWrapper) -> None:
        super().unregisterProtocol(p)  # type: ignore[no-untyped-call]
        self._check()

    def _check(self) -> None:
        if not self.protocols:
            while self._empty:
                self._empty.pop().callback(None)


class SampleSite:
    """Serves the sample site on a free loopback port."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pages = _Pages(reactor, sample_pages())
        site = _QuietSite(self._pages, reactor=reactor)  # type: ignore[no-untyped-call]
        self._connections = _Connections(site)
        self._port: Any = None

    def start(self) -> Deferred[str]:
        """Listen; fires with the URL of the first page."""

        def listen() -> str:
            self._port = self._reactor.listenTCP(0, self._connections, interface="127.0.0.1")
            return f"http://127.0.0.1:{self._port.getHost().port}/"

        return maybeDeferred(listen)

    def stop(self) -> Deferred[None]:
        """Stop listening and drop what is open; fires when nothing is left of it."""
        port, self._port = self._port, None
        self._pages.stop()
        stopped: Deferred[Any] = maybeDeferred(port.stopListening) if port is not None else succeed(None)
        return stopped.addCallback(lambda _: self._connections.close_all())
