"""The links of a page.

``a[href]`` and ``area[href]`` of HTML and XHTML, white space stripped, resolved against
``<base href>``; ``http`` and ``https`` only; each page once, in the order of the document.
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urljoin, urlsplit

from scrapy.http import Response, TextResponse
from selectolax.lexbor import LexborHTMLParser
from w3lib.url import safe_url_string

from crawlfarm.core.ports import Child
from crawlfarm.core.urls import canonical, skip_reason
from crawlfarm.wire.jobs import Scope

HTML_TYPES = frozenset({b"text/html", b"application/xhtml+xml"})
MAX_TITLE = 300

_HTML_SPACE = " \t\n\f\r"


def is_html(response: Response) -> bool:
    """Whether a response's links count: a 2xx page of HTML or XHTML by its content type."""
    content_type = response.headers.get(b"Content-Type") or b""
    return (
        200 <= response.status < 300
        and isinstance(response, TextResponse)
        and content_type.partition(b";")[0].strip().lower() in HTML_TYPES
    )


def parse(response: TextResponse) -> LexborHTMLParser:
    return LexborHTMLParser(response.text)


def title_of(tree: LexborHTMLParser) -> str:
    """The text of ``<title>``, white space folded, at most :data:`MAX_TITLE` characters."""
    node = tree.css_first("title")
    return " ".join(node.text().split())[:MAX_TITLE] if node is not None else ""


def children_of(tree: LexborHTMLParser, response: TextResponse, scope: Scope, base: str) -> list[Child]:
    """The page's links as children for the frontier.

    :param base: the URL the job's scope is measured by.
    """
    encoding = response.encoding
    document = _base_of(tree, response)
    # The same href stands on a page many times, with and without fragments.
    hrefs = dict.fromkeys(
        (node.attributes.get("href") or "").strip(_HTML_SPACE).partition("#")[0]
        for node in tree.css("a[href], area[href]")
    )
    children: dict[str, Child] = {}
    for href in hrefs:
        found = _resolve(document if href[:1] in ("", "?") else _directory_of(document), href, encoding)
        if found is not None and found[0] not in children:
            url, spelling = found
            children[url] = Child(url, spelling, skip_reason(scope, base, url))
    return list(children.values())


def _base_of(tree: LexborHTMLParser, response: TextResponse) -> str:
    """What the document's links are relative to."""
    node = tree.css_first("base[href]")
    if node is None:
        return response.url
    try:
        return urljoin(response.url, (node.attributes.get("href") or "").strip(_HTML_SPACE))
    except ValueError:
        return response.url


def _directory_of(url: str) -> str:
    """What relative references with a path are resolved against: the same for many pages."""
    end = url.find("?")
    path = url if end < 0 else url[:end]
    slash = path.rfind("/")
    return path[: slash + 1] if slash > path.find("://") + 2 else url


@lru_cache(maxsize=100_000)
def _resolve(base: str, href: str, encoding: str) -> tuple[str, str] | None:
    """``(canonical URL, spelling where it differs)``; ``None`` for what is no page on the web."""
    try:
        url = urljoin(base, href)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            return None
        spelling = safe_url_string(url, encoding=encoding).partition("#")[0]
        identity = canonical(spelling)
    except ValueError:
        return None
    return identity, "" if spelling == identity else spelling
