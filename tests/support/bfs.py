"""An independent crawl: one page at a time, breadth first, nothing of the project's own.

It is the yardstick: slow, plain, and read against DESIGN.md section 4 line by line. It
shares with the crawler only ``w3lib``'s canonical URL, by which the design defines what
a page is. Links come from :mod:`html.parser`, pages over :mod:`http.client`.

    python -m tests.support.bfs URL --depth N [--scope host] [-o FILE]
"""

from __future__ import annotations

import argparse
import codecs
import http.client
import json
import re
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from html.parser import HTMLParser
from urllib.parse import quote, urljoin, urlsplit

from w3lib.url import canonicalize_url, safe_url_string

from tests.support.answer import Answer, Page

MAX_REDIRECTS = 20
MAX_URL_LENGTH = 2083
TRIES = 3
REDIRECTS = (301, 302, 303, 307, 308)
WORTH_A_RETRY = (500, 502, 503, 504, 522, 524)
WHITE_SPACE = " \t\n\r\f"
# What Scrapy's documentation lists as IGNORED_EXTENSIONS, by kind.
EXTENSIONS = frozenset(
    "7z 7zip bz2 rar tar tar.gz xz zip".split()
    + "mng pct bmp gif jpg jpeg png pst psp tif tiff ai drw dxf eps ps svg cdr ico webp".split()
    + "mp3 wma ogg wav ra aac mid au aiff 3gp asf asx avi mov mp4 mpg qt rm swf wmv m4a m4v flv webm".split()
    + "xls xlsm xlsx xltm xltx potm potx ppt pptm pptx pps".split()
    + "doc docb docx docm dotm dotx odt ods odg odp".split()
    + "css pdf exe bin rss dmg iso apk jar sh rb js hta bat cpl msi msp py".split()
)

canonical = lru_cache(maxsize=1 << 17)(canonicalize_url)


class Failed(Exception):
    """The page has no final response; the text is the reason in its disposition."""


class LeftScope(Exception):
    """A redirect leads out of the job's scope."""


@dataclass(frozen=True)
class Response:
    """A final response: where it came from, and what it holds."""

    url: str
    status: int
    content_type: str
    body: bytes


class Fetcher:
    """Gets one page after the other, over one kept connection a server."""

    def __init__(self, timeout_s: float = 30.0) -> None:
        self.timeout_s = timeout_s
        self.requests = 0
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}

    def close(self) -> None:
        """Close what is open."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def fetch(self, url: str, host: str) -> Response:
        """The final response for ``url``; redirects must stay on ``host``, if that is not empty.

        :raises Failed: there is none.
        :raises LeftScope: a hop leads elsewhere; it was not asked for.
        """
        for _ in range(MAX_REDIRECTS + 1):
            status, headers, body = self._try(url)
            location = headers.get("Location")
            if status not in REDIRECTS or location is None:
                return Response(url, status, headers.get("Content-Type", ""), body)
            location = safe_url_string(location.encode("latin-1"))
            target = urljoin(url, location)
            if urlsplit(target).scheme not in ("http", "https"):
                return Response(url, status, headers.get("Content-Type", ""), body)
            if host and host_of(target) != host:
                raise LeftScope(target)
            url = target
        raise Failed("redirects")

    def _try(self, url: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        reason = ""
        for attempt in range(1, TRIES + 1):
            try:
                status, headers, body = self._ask(url)
            except Failed as e:
                reason = str(e)
                continue
            if status not in WORTH_A_RETRY or attempt == TRIES:
                return status, headers, body
        raise Failed(reason)

    def _ask(self, url: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        parts = urlsplit(safe_url_string(url))
        key = (parts.scheme, parts.netloc.lower())
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.requests += 1
        kept = self._connections.pop(key, None)
        for connection in (kept, self._connect(*key)) if kept else (self._connect(*key),):
            try:
                connection.request("GET", target, headers={"User-Agent": "bfs", "Accept": "text/html,*/*;q=0.5"})
                response = connection.getresponse()
                status, headers, body = response.status, response.headers, response.read()
            except socket.gaierror as e:
                raise Failed("dns") from e
            except ConnectionRefusedError as e:
                raise Failed("refused") from e
            except TimeoutError as e:
                connection.close()
                raise Failed("timeout") from e
            except ssl.SSLError as e:
                raise Failed("tls") from e
            except (http.client.HTTPException, OSError) as e:
                connection.close()
                if connection is kept:  # closed by the server while it was idle
                    continue
                raise Failed("data_loss" if isinstance(e, http.client.IncompleteRead) else "connection") from e
            if response.will_close:
                connection.close()
            else:
                self._connections[key] = connection
            return status, headers, body
        raise AssertionError("unreachable")

    def _connect(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        return kind(netloc, timeout=self.timeout_s)


class _Links(HTMLParser):
    """Collects the ``href`` of every ``a`` and ``area``, and the first ``base``'s."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.hrefs: list[str] = []
        self.base: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("a", "area", "base"):
            return
        for name, value in attrs:
            if name == "href":
                if tag != "base":
                    self.hrefs.append((value or "").strip(WHITE_SPACE))
                elif self.base is None:
                    self.base = (value or "").strip(WHITE_SPACE)
                return


def is_html(response: Response) -> bool:
    """HTML or XHTML, with a status that says it is the page asked for."""
    kind = response.content_type.partition(";")[0].strip().lower()
    return 200 <= response.status < 300 and kind in ("text/html", "application/xhtml+xml")


def text_of(response: Response) -> tuple[str, str]:
    """The body as text, and its encoding: by byte order mark, header, ``meta``, else
    UTF-8 where that fits, else Windows-1252."""
    body = response.body
    marks = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
    for mark, encoding in marks:
        if body.startswith(mark):
            return body.decode(encoding, "replace"), "utf-8"
    named = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", response.content_type, re.I)
    within = re.search(rb"<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*[\"']?([\w.:-]+)", body[:4096], re.I)
    name = named[1] if named else within[1].decode("ascii") if within else ""
    # As every browser does: what calls itself Latin-1 is Windows-1252.
    name = "cp1252" if name.lower() in ("iso-8859-1", "latin-1", "us-ascii", "ascii") else name
    try:
        return body.decode(name, "replace"), name
    except LookupError:
        pass
    try:
        return body.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return body.decode("cp1252", "replace"), "cp1252"


def links_of(response: Response) -> list[str]:
    """Every link of a page, absolute, http and https only, in its order.

    As in browsers, a query that is not ASCII goes out in the page's encoding.
    """
    if not is_html(response):
        return []
    parser = _Links()
    text, encoding = text_of(response)
    parser.feed(text)
    parser.close()
    base = response.url
    if parser.base:
        try:
            base = urljoin(response.url, parser.base)
        except ValueError:
            base = response.url
    links = []
    for href in parser.hrefs:
        try:
            link = urljoin(base, href)
            parts = urlsplit(link)
            if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
                links.append(_with_query_in(encoding, link.partition("#")[0]))
        except ValueError:
            continue
    return links


def _with_query_in(encoding: str, link: str) -> str:
    """The link with its query in ``encoding``, as browsers send it: what that encoding
    does not have goes out as a character reference."""
    path, question, query = link.partition("?")
    encoded = query.encode(encoding, "xmlcharrefreplace")
    if not query.isascii():
        lost = re.sub(rb"&#(\d+);", rb"%26%23\1%3B", encoded)
        query = quote(lost, safe="".join(map(chr, range(33, 127))))
    return safe_url_string(path + question + query)


def host_of(url: str) -> str:
    return urlsplit(url).hostname or ""


def skip_reason(url: str, scope: str, base: str) -> str:
    """Why a canonical URL is not followed, in the order in which that is tested."""
    if scope == "host" and host_of(url) != host_of(base):
        return "scope"
    if len(url) > MAX_URL_LENGTH:
        return "url_length"
    name = urlsplit(url).path.rpartition("/")[2].lower()
    if any(name.endswith(f".{extension}") and name != f".{extension}" for extension in EXTENSIONS):
        return "extension"
    return ""


def crawl(
    seed: str,
    depth: int,
    scope: str = "any",
    *,
    timeout_s: float = 30.0,
    progress: Callable[[int, int], None] = lambda found, level: None,
) -> Answer:
    """Crawl ``depth`` levels from ``seed``, one page after the other."""
    fetcher = Fetcher(timeout_s)
    start = canonical(seed)
    pages: dict[str, Page] = {}
    known = {start}
    base = seed
    level = [(start, seed)]
    try:
        for d in range(depth):
            below: list[tuple[str, str]] = []
            for url, spelling in level:
                free = d == 0 or scope == "any"
                try:
                    response = fetcher.fetch(spelling, "" if free else host_of(base))
                except Failed as e:
                    pages[url] = Page(d, f"failed:{e}")
                    continue
                except LeftScope:
                    pages[url] = Page(d, "skipped:scope")
                    continue
                pages[url] = Page(d, "fetched", response.status)
                progress(len(pages), d)
                if d == 0:
                    base = response.url
                if d == depth - 1:
                    continue
                for link in links_of(response):
                    try:
                        target = canonical(link)
                    except ValueError:
                        continue
                    if target in known:
                        continue
                    known.add(target)
                    if reason := skip_reason(target, scope, base):
                        pages[target] = Page(d + 1, f"skipped:{reason}")
                    else:
                        below.append((target, link))
            level = below
    finally:
        fetcher.close()
    return Answer(start, depth, pages)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.bfs", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--scope", choices=["any", "host"], default="any")
    parser.add_argument("-o", dest="output", default="-", help="where the JSON goes; - is stdout")
    args = parser.parse_args(argv)
    answer = crawl(args.url, args.depth, args.scope)
    result = {"url": args.url, "depth": args.depth, "levels": answer.levels, "receipt": answer.receipt}
    text = json.dumps(result, indent=1) + "\n"
    if args.output == "-":
        sys.stdout.write(text)
    else:
        with open(args.output, "w", encoding="utf-8") as file:
            file.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
