"""The links of a page.

``a[href]`` and ``area[href]`` of HTML and XHTML, white space stripped, resolved against
``<base href>``; ``http`` and ``https`` only; each page once, in the order of the document.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    children: dict[str, Child] = {}
    for spelling in _spellings(tree, response):
        try:
            url = canonical(spelling)
        except ValueError:
            continue
        if url not in children:
            children[url] = Child(url, "" if spelling == url else spelling, skip_reason(scope, base, url))
    return list(children.values())


def _spellings(tree: LexborHTMLParser, response: TextResponse) -> Iterator[str]:
    base = response.url
    node = tree.css_first("base[href]")
    if node is not None:
        base = _join(base, node.attributes.get("href") or "") or base
    for node in tree.css("a[href], area[href]"):
        url = _join(base, node.attributes.get("href") or "")
        if url is not None:
            yield safe_url_string(url, encoding=response.encoding)


def _join(base: str, href: str) -> str | None:
    """The absolute URL without its fragment, or ``None`` when it names no page on the web."""
    try:
        url = urljoin(base, href.strip(_HTML_SPACE))
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            return None
    except ValueError:
        return None
    return url.partition("#")[0]
