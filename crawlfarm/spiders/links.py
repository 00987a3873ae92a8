"""The links of a page.

``a[href]`` and ``area[href]`` of HTML and XHTML, white space stripped, resolved against
``<base href>``; ``http`` and ``https`` only; each page once, in the order of the document.
A user name or password in a link is left out of it: the page is crawled without.
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache
from urllib.parse import quote, urljoin, urlsplit

from scrapy.http import Response, TextResponse
from w3lib.url import safe_url_string

from crawlfarm.core.ports import Child
from crawlfarm.core.urls import canonical, skip_reason
from crawlfarm.spiders.html import Page
from crawlfarm.wire.jobs import MAX_URL_LENGTH, Scope

XHTML = b"application/xhtml+xml"
HTML_TYPES = frozenset({b"text/html", XHTML})
MAX_TITLE = 300

_HTML_SPACE = " \t\n\f\r"
_NO_PATH = re.compile(r"(https?:)?(\?|$)", re.I)
"""References that go on from the whole of their base, not from its directory."""

_NO_HOST = re.compile(r'[\x00-\x20\x7f"<>\\^`{|}]')
"""What no host name has in it."""

_NO_ENCODINGS = frozenset(
    "base64 bz2 hex idna punycode quopri raw-unicode-escape rot-13 undefined unicode-escape uu zlib".split()
)
"""What Python calls encodings and the web does not; a page that declares one is read as UTF-8."""

_REFERENCE = "crawlfarm.links.reference"
codecs.register_error(
    _REFERENCE,
    lambda e: (quote("".join(f"&#{ord(c)};" for c in e.object[e.start : e.end])), e.end),  # type: ignore
)


def is_html(response: Response) -> bool:
    """Whether a response's links count: a 2xx page of HTML or XHTML by its content type."""
    return 200 <= response.status < 300 and isinstance(response, TextResponse) and _type_of(response) in HTML_TYPES


def _type_of(response: Response) -> bytes:
    return (response.headers.get(b"Content-Type") or b"").partition(b";")[0].strip().lower()


def parse(response: TextResponse) -> Page:
    encoding = response.encoding
    text = response.body.decode("utf-8", "replace") if encoding in _NO_ENCODINGS else response.text
    return Page(text, xml=_type_of(response) == XHTML)


def title_of(page: Page) -> str:
    """The text of ``<title>``, white space folded, at most :data:`MAX_TITLE` characters."""
    return page.title(MAX_TITLE)


def children_of(page: Page, response: TextResponse, scope: Scope, base: str) -> list[Child]:
    """The page's links as children for the frontier.

    :param base: the URL the job's scope is measured by.
    """
    base_href, hrefs = page.links()
    document = _base_of(base_href, response)
    directory = _directory_of(document)
    # As in browsers: queries are in the page's encoding, unless that is some Unicode.
    encoding = response.encoding
    if encoding.startswith("utf") or encoding in _NO_ENCODINGS:
        encoding = "utf-8"
    children: dict[str, Child] = {}
    # The same href stands on a page many times, with and without fragments.
    for href in dict.fromkeys(href.strip(_HTML_SPACE).partition("#")[0] for href in hrefs):
        find = _child if len(href) <= MAX_URL_LENGTH else _child.__wrapped__  # nothing long is kept
        child = find(document if _NO_PATH.match(href) else directory, href, encoding, scope, base)
        if child is not None:
            children.setdefault(child.url, child)
    return list(children.values())


def _base_of(href: str | None, response: TextResponse) -> str:
    """What the document's links are relative to."""
    try:
        base = urljoin(response.url, (href or "").strip(_HTML_SPACE))
        # As in browsers: these cannot be anybody's base.
        return response.url if urlsplit(base).scheme in ("data", "javascript") else base
    except ValueError:
        return response.url


def _directory_of(url: str) -> str:
    """What relative references with a path are resolved against: the same for many pages."""
    end = url.find("?")
    path = url if end < 0 else url[:end]
    slash = path.rfind("/")
    return path[: slash + 1] if slash > path.find("://") + 2 else url


@lru_cache(maxsize=100_000)
def _child(base: str, href: str, encoding: str, scope: Scope, scope_base: str) -> Child | None:
    """The link's child, the same object for all pages; ``None`` for what is no page on the web."""
    try:
        url = urljoin(base, href)
        parts = urlsplit(url)
        host = parts.hostname
        if parts.scheme not in ("http", "https") or not host or _NO_HOST.search(host) or parts.port == 0:
            return None
        if "@" in parts.netloc:
            url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        spelling = safe_url_string(_sayable(url, encoding), encoding=encoding).partition("#")[0]
        identity = canonical(spelling)
    except (ValueError, LookupError):
        return None
    if not identity.isascii():
        return None  # a host name with no ASCII form
    return Child(identity, "" if spelling == identity else spelling, skip_reason(scope, scope_base, identity))


def _sayable(url: str, encoding: str) -> str:
    """As in browsers: what the page's encoding has no word for is a character reference in the query."""
    path, mark, query = url.partition("?")
    return url if url.isascii() else path + mark + query.encode(encoding, _REFERENCE).decode(encoding)
