"""What may be crawled, what makes two URLs the same page, and what is in scope.

A page's identity is its canonical URL (:func:`canonical`); everything that decides about
a page (scope, length, extension) looks at the identity, never at the spelling, so that
the order in which spellings are found changes nothing.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from urllib.parse import SplitResult, urlsplit

import idna
from w3lib.url import canonicalize_url

from crawlfarm.errors import InvalidURL
from crawlfarm.wire.codec import shown
from crawlfarm.wire.jobs import MAX_URL_LENGTH, Scope

_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?\Z")
# Nothing here that canonicalize_url would change: no query, no escapes, no dot
# segments, no parameters, nothing outside the plain characters of a path.
_ALREADY_CANONICAL = re.compile(
    r"https?://[a-z0-9.-]+(:[1-9][0-9]{0,3}|:[1-5][0-9]{4})?"
    r"/([A-Za-z0-9_~-][A-Za-z0-9_~.-]*/)*([A-Za-z0-9_~-][A-Za-z0-9_~.-]*)?\Z"
)

# scrapy.linkextractors.IGNORED_EXTENSIONS, which core must not import; a test compares.
IGNORED_EXTENSIONS = frozenset(
    """
    7z 7zip bz2 rar tar tar.gz xz zip
    mng pct bmp gif jpg jpeg png pst psp tif tiff ai drw dxf eps ps svg cdr ico webp
    mp3 wma ogg wav ra aac mid au aiff
    3gp asf asx avi mov mp4 mpg qt rm swf wmv m4a m4v flv webm
    xls xlsm xlsx xltm xltx potm potx ppt pptm pptx pps doc docb docx docm dotm dotx odt ods odg odp
    css pdf exe bin rss dmg iso apk jar sh rb js hta bat cpl msi msp py
    """.split()
)


def check_seed(url: object) -> str:
    """``url`` without white space around it, if it can be crawled.

    :raises InvalidURL: its code is one of ``url_missing``, ``url_length``,
        ``url_characters``, ``url_scheme``, ``url_host``, ``url_port`` and
        ``url_credentials``; its path is ``url``.
    """
    if not isinstance(url, str) or not (url := url.strip(" \t\r\n\f")):
        raise _refuse("missing", "there is no URL; give one such as https://example.com/")
    if len(url) > MAX_URL_LENGTH:
        raise _refuse("length", f"it has {len(url)} characters; at most {MAX_URL_LENGTH} are allowed")
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in url):
        raise _refuse("characters", f"{shown(url)} holds control characters")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    if scheme is None or (scheme[1].lower() not in ("http", "https") and _looks_like_host(url)):
        raise _refuse("scheme", f"{shown(url)} has no scheme; did you mean https://{url[:40]}?")
    if scheme[1].lower() not in ("http", "https"):
        raise _refuse("scheme", f"the scheme {shown(scheme[1])} cannot be crawled; http and https can")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        what = "port" if "ort" in str(e) else "host"
        allowed = "a port is a number from 1 to 65535" if what == "port" else str(e)
        raise _refuse(what, f"{shown(url)} has a bad {what}; {allowed}") from e
    if "@" in parts.netloc:
        raise _refuse("credentials", "it holds a user name or password; crawl without them")
    if not parts.hostname:
        raise _refuse("host", f"{shown(url)} names no host")
    if port == 0:
        raise _refuse("port", "port 0 cannot be dialled; 1 to 65535 can")
    _check_host(parts)
    return url


def _refuse(what: str, why: str) -> InvalidURL:
    return InvalidURL(f"url: {why}", path="url", code=f"url_{what}")


def _looks_like_host(url: str) -> bool:
    # "localhost:8000/x" and "example.com:80" parse as a scheme followed by a path.
    return re.match(r"[A-Za-z0-9.-]+:\d+(/|$)", url) is not None


def _check_host(parts: SplitResult) -> None:
    host = parts.hostname or ""
    if "[" in parts.netloc:
        try:
            if "%" in host:
                raise ValueError("a zone has no meaning on the web")
            ipaddress.IPv6Address(host)
        except ValueError as e:
            raise _refuse("host", f"{shown(host)} is not an IPv6 address") from e
        return
    try:
        ascii_host = host if host.isascii() else idna.encode(host, uts46=True).decode()
        for label in ascii_host.split("."):
            if label.startswith("xn--"):
                idna.decode(label)
    except (idna.IDNAError, UnicodeError) as e:
        raise _refuse("host", f"the host {shown(host)} is not a valid name ({e})") from e
    if len(ascii_host) > 253 or not _HOST.match(ascii_host):
        raise _refuse("host", f"the host {shown(host)} is not a valid name")


@lru_cache(maxsize=65536)
def canonical(url: str) -> str:
    """The identity of a page: :func:`w3lib.url.canonicalize_url`, without the fragment.

    :raises ValueError: the URL cannot be parsed.
    """
    if _ALREADY_CANONICAL.match(url):
        return url
    return canonicalize_url(url)


def host_of(url: str) -> str:
    """Host and port of a canonical URL as they stand in it: what a host clock is kept by."""
    start = url.find("://") + 3
    for i in range(start, len(url)):
        if url[i] in "/?#":
            return url[start:i]
    return url[start:]


@lru_cache(maxsize=65536)
def extension_of(url: str) -> str:
    """The lower-case extension of the path's last segment, ``tar.gz`` whole; or empty."""
    path = urlsplit(url).path
    name = path[path.rfind("/") + 1 :].lower()
    if name.endswith(".tar.gz"):
        return "tar.gz"
    stem, dot, extension = name.rpartition(".")
    return extension if dot and stem else ""


@lru_cache(maxsize=65536)
def host_name(url: str) -> str:
    """The host name alone, lower case, without a port."""
    return (urlsplit(url).hostname or "").rstrip(".")


def in_scope(scope: Scope, base: str, url: str) -> bool:
    """Whether a job may go to ``url``.

    :param base: the URL the job's seed led to.
    """
    return scope == "any" or host_name(base) == host_name(url)


def skip_reason(scope: Scope, base: str, url: str) -> str:
    """Why a link with the identity ``url`` is not followed: ``scope``, ``url_length``,
    ``extension``, tested in this order; empty when it is followed."""
    if not in_scope(scope, base, url):
        return "scope"
    if len(url) > MAX_URL_LENGTH:
        return "url_length"
    if extension_of(url) in IGNORED_EXTENSIONS:
        return "extension"
    return ""
