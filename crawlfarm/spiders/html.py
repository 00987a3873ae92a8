"""Finds the links and the title of an HTML page, in one pass.

Only the tokens are read, as the HTML standard defines them; no tree is built. Building
one takes time that grows with the square of the page where it is nested deeply or a tag
has many attributes: a page of 5 MB of ``<div>`` kept a parser in C busy for half an hour,
and the process with it. The time here grows with the length of the page, whatever is in
it, because nothing in the patterns is ever tried twice (every quantifier is possessive).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from html.entities import html5

_RAW = ("script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes")
"""Elements that hold text alone, up to their end tag."""

_SPACE = r"[\t\n\f\r ]*+"
_NAME = r"[^\t\n\f\r />][^\t\n\f\r />=]*+"
_VALUE = r"""(?: "[^"]*+" | '[^']*+' | [^"'\t\n\f\r >][^\t\n\f\r >]*+ | (?=>|\Z) )"""
_ATTRIBUTES = rf"(?: [\t\n\f\r /]++ | {_NAME} (?: {_SPACE} = {_SPACE} {_VALUE} )?+ )*+"
_WANTED = rf"(?: a | area | base | plaintext | {' | '.join(_RAW)} ) (?=[\t\n\f\r />])"

_NEXT = re.compile(
    rf"""
    (?: [^<]++                                                             # text
      | < (?: (?!{_WANTED}) [a-z] | /[a-z] ) [^\t\n\f\r />]*+ {_ATTRIBUTES} >  # other tags
      | <!-- (?: -?> | (?: [^-]++ | -(?!-!?>) )*+ (?: --!?> | \Z ) )       # comments
      | <[!?] [^>]*+ (?: > | \Z )                                          # doctypes and the like
      | </ (?: [^a-z>] [^>]*+ )?+ (?: > | \Z )                             # what browsers take for a comment
      | < (?![a-z!?/])                                                     # a sign of its own
    )*+
    < ({_WANTED}) ({_ATTRIBUTES}) >
    """,
    re.X | re.I,
)
_HREF = re.compile(
    rf"""
    (?: [\t\n\f\r /]++ | (?! href (?: [\t\n\f\r />=] | \Z ) ) {_NAME} (?: {_SPACE} = {_SPACE} {_VALUE} )?+ )*+
    href {_SPACE} (?: = {_SPACE} (?: "([^"]*+)" | '([^']*+)' | ([^"'\t\n\f\r >][^\t\n\f\r >]*+)?+ ) )?+
    """,
    re.X | re.I,
)
_REFERENCE = re.compile(
    r"&(?: \#[0-9]{1,7}(?![0-9]) | \#x[0-9a-f]{1,6}(?![0-9a-f]) | ([a-z][a-z0-9]*+) );?+", re.X | re.I
)
_END = {name: re.compile(rf"</{name}(?=[\t\n\f\r />])", re.I) for name in _RAW}


class Page:
    """What a crawler wants of a page; each part is looked for when it is asked for.

    :param xml: it is XHTML, where ``<script/>`` is a whole element.
    """

    def __init__(self, text: str, *, xml: bool = False) -> None:
        self._text = text
        self._xml = xml

    def title(self, most: int) -> str:
        """The text of the first ``<title>``, white space folded, at most so many characters."""
        for name, value in self._tokens():
            if name == "title":
                # Cut before it is unescaped: neither takes longer for a long one.
                return " ".join(html.unescape(value[: 8 * most]).split())[:most]
        return ""

    def links(self) -> tuple[str | None, list[str]]:
        """The first ``base[href]``, and ``a[href]`` and ``area[href]`` in their order, unescaped."""
        base, hrefs = None, []
        for name, value in self._tokens():
            if name == "a" or name == "area":
                hrefs.append(value)
            elif name == "base" and base is None:
                base = value
        return base, hrefs

    def _tokens(self) -> Iterator[tuple[str, str]]:
        """``("title", text)``, and name and ``href`` of the tags that have one."""
        text, position = self._text, 0
        while found := _NEXT.match(text, position):
            position = found.end()
            name, attributes = found[1].lower(), found[2]
            if name == "plaintext":
                return
            if name in _END:
                if self._xml and attributes.endswith("/"):
                    continue
                end = _END[name].search(text, position)
                until = end.start() if end is not None else len(text)
                if name == "title":
                    yield name, text[position:until]
                position = until
            elif href := _HREF.match(attributes):
                value = href[1] or href[2] or href[3] or ""
                yield name, _REFERENCE.sub(_character, value) if "&" in value else value


def _character(reference: re.Match[str]) -> str:
    """What a character reference in an attribute stands for.

    ``&copy`` does, but not in ``?a=1&copy=2``, which everybody writes.
    """
    whole, name = reference[0], reference[1]
    if name is None:
        return html.unescape(whole)
    if whole.endswith(";"):
        return html5.get(f"{name};", whole)
    return whole if reference.string.startswith("=", reference.end()) else html5.get(name, whole)
