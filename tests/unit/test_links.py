"""The links of awkward pages: what a browser would follow, in bounded time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from unittest import SkipTest

import lxml.html
from hypothesis import given
from hypothesis import strategies as st
from scrapy import Request
from scrapy.http import HtmlResponse
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.core.urls import canonical
from crawlfarm.spiders.html import Page
from crawlfarm.spiders.links import MAX_TITLE, children_of, is_html, parse, title_of
from crawlfarm.wire.jobs import Scope
from tests.support import bfs, packages
from tests.support.doctrees import TREES
from tests.support.examples import examples

LONG = bool(os.environ.get("CRAWLFARM_TEST_LONG"))
SCALE = 20 if LONG else 2
URL = "http://site.example/docs/page.html?v=1"


def respond(body: str | bytes, content_type: str = "text/html; charset=utf-8", url: str = URL) -> HtmlResponse:
    data = body.encode() if isinstance(body, str) else body
    return HtmlResponse(url, headers={"Content-Type": content_type}, body=data)


def links(
    body: str | bytes, content_type: str = "text/html; charset=utf-8", *, url: str = URL, scope: Scope = "any"
) -> list[str]:
    response = respond(body, content_type, url)
    return [child.url for child in children_of(parse(response), response, scope, url)]


def link(href: str) -> list[str]:
    return links(f'<a href="{href}">')


class ReferenceTests(SynchronousTestCase):
    """What one reference leads to."""

    def test_relative_references(self) -> None:
        """They are resolved as RFC 3986 says, fragments dropped."""
        for href, expected in {
            "other.html": "http://site.example/docs/other.html",
            "../up": "http://site.example/up",
            "/root#part": "http://site.example/root",
            "./": "http://site.example/docs/",
            "..": "http://site.example/",
            "//host.example/x": "http://host.example/x",
            "?q=2": "http://site.example/docs/page.html?q=2",
            "": "http://site.example/docs/page.html?v=1",
            "#top": "http://site.example/docs/page.html?v=1",
            "page.html?v=1#top": "http://site.example/docs/page.html?v=1",
            ";p": "http://site.example/docs/;p",
            "a:b": None,
            "./a:b": "http://site.example/docs/a:b",
            "http:other": "http://site.example/docs/other",
            "http:?q=2": "http://site.example/docs/page.html?q=2",
        }.items():
            self.assertEqual(link(href), [expected] if expected else [], href)

    def test_white_space_around_a_reference_counts_for_nothing(self) -> None:
        """Around it, and line ends within it, as in browsers."""
        self.assertEqual(link(" \t\n x.html \r\n"), ["http://site.example/docs/x.html"])
        self.assertEqual(link("x\n.ht\tml"), ["http://site.example/docs/x.html"])

    def test_only_http_and_https(self) -> None:
        """Other schemes are no pages; how the scheme is written makes no difference."""
        for href in ("mailto:a@b", "javascript:void(0)", "ftp://x/", "data:text/html,x", "tel:1", "JavaScript:x"):
            self.assertEqual(link(href), [], href)
        self.assertEqual(link("HTTP://Other.EXAMPLE/A"), ["http://other.example/A"])
        self.assertEqual(link("hTTps://other.example"), ["https://other.example/"])

    def test_broken_urls_are_no_links(self) -> None:
        """They neither count nor fail the page."""
        for href in (
            "http://host:99999/",
            "http://host:x/",
            "http://host:0/",
            "http://[::1",
            "http://[x]/",
            "https://",
            "https:",
            "https:x",
            "http://a host/",
            "http://&lt;host&gt;/",
        ):
            self.assertEqual(link(href), [], href)

    def test_credentials_are_left_out(self) -> None:
        """The page is crawled without them: none end up in results, and it is one page with and without."""
        for href in ("http://user:secret@host.example/x", "http://user@host.example/x", "//@host.example/x"):
            response = respond(f"<a href='{href}'><a href='http://host.example/x'>")
            (child,) = children_of(parse(response), response, "any", URL)
            self.assertEqual((child.url, child.spelling), ("http://host.example/x", ""))

    def test_international_names(self) -> None:
        """A host is known by its ASCII form, a path by its percent-encoded UTF-8."""
        self.assertEqual(link("http://bücher.example/ä?ö"), ["http://xn--bcher-kva.example/%C3%A4?%C3%B6="])

    def test_each_page_once(self) -> None:
        """Spellings of one page are one child, asked for as first spelled."""
        response = respond('<a href="/x?b=1&a=2"><a href="/x?a=2&b=1"><a href="/x?a=2&b=1#f"><a href="/y">')
        children = children_of(parse(response), response, "any", URL)
        self.assertEqual(
            [(child.url, child.spelling) for child in children],
            [
                ("http://site.example/x?a=2&b=1", "http://site.example/x?b=1&a=2"),
                ("http://site.example/y", ""),
            ],
        )

    def test_why_a_link_is_not_followed(self) -> None:
        """Scope is tested first, then length, then the extension."""
        long = "/" + "x" * 2100
        hrefs = ["http://other.example/a.zip", f"http://other.example{long}", f"{long}.zip", "a.ZIP", "a.html", ".zip"]
        response = respond("".join(f'<a href="{href}">' for href in hrefs))
        children = children_of(parse(response), response, "host", "https://SITE.example:8443/")
        self.assertEqual([c.skip for c in children], ["scope", "scope", "url_length", "extension", "", ""])


class DocumentTests(SynchronousTestCase):
    """Which references a document holds."""

    def test_a_and_area(self) -> None:
        """Those two elements, in the document's order, however they are written."""
        body = (
            "<A HREF=1>x</A><map><area shape=rect href='2'></map><link href=no><img src=no><a/href=3><a\nhref\n=\n4\n>"
        )
        self.assertEqual(links(body), [f"http://site.example/docs/{n}" for n in (1, 2, 3, 4)])

    def test_nofollow_is_followed(self) -> None:
        """As the design says."""
        self.assertEqual(links('<a rel="nofollow" href="x">'), ["http://site.example/docs/x"])

    def test_elements_without_href(self) -> None:
        """An anchor is no link, and neither is one of another vocabulary."""
        self.assertEqual(links('<a name="x"><a hreflang="y"><a data-href="z"><svg><a xlink:href="w">'), [])

    def test_the_first_href_counts(self) -> None:
        """As in browsers, where an attribute stands twice."""
        self.assertEqual(links('<a href="1" href="2">'), ["http://site.example/docs/1"])

    def test_entities(self) -> None:
        """They are decoded as in an attribute: ``&copy=`` is not one."""
        self.assertEqual(
            link("x?a=1&amp;b=2&#x26;c=3&#38d=4"),
            ["http://site.example/docs/x?a=1&b=2&c=3&d=4"],
        )
        self.assertEqual(link("x?a=1&copy=2&lang=3"), ["http://site.example/docs/x?a=1&copy=2&lang=3"])
        self.assertEqual(link("caf&eacute;"), ["http://site.example/docs/caf%C3%A9"])
        odd = "&notit;&#99999999999;&#;&#x;&amp&"
        self.assertEqual(Page(f"<a href='{odd}'>").links()[1], ["&notit;&#99999999999;&#;&#x;&&"])

    def test_what_is_no_markup(self) -> None:
        """Comments, scripts, styles, titles, text areas and attribute values hold no links."""
        for body in (
            "<!-- <a href=x> -->",
            "<!-- > <a href=x> --!>",
            "<!doctype <a href=x>",
            "<script>'<a href=x>'</script>",
            "<style><a href=x></style >",
            "<title><a href=x></title>",
            "<textarea></text><a href=x></textarea\n>",
            "<iframe><a href=x></iframe>",
            "<script></scriptx><a href=x>",
            '<p title="<a href=x>">',
            "<p title='<a href=x>' >",
            "</p <a href=x>",
            "<plaintext><a href=x>",
            "< a href=x>",
            "<ab href=x>",
            '<a href="x',
        ):
            self.assertEqual(links(body), [], body)

    def test_what_follows_markup_that_ends_oddly(self) -> None:
        """A link after any of these is one."""
        for body in (
            "<!--> <a href=x>",
            "<!-- --!> <a href=x>",
            "<!> <a href=x>",
            "<? x ?> <a href=x>",
            "</> <a href=x>",
            "<3 <a href=x>",
            "<<a href=x>",
            '<p title=a"b> <a href=x>',
            "<p a='>'=\"> <a href=x>\"'> <a href=x>",
            "<noscript><a href=x></noscript>",
            "<select><a href=x></select>",
            "<SCRIPT>'</script>'</SCRIPT><a href=x>",
        ):
            self.assertEqual(links(body), ["http://site.example/docs/x"], body)

    def test_base(self) -> None:
        """The first ``base`` with an ``href``, itself relative to the page; everywhere on the page."""
        body = '<a href="x"><base target="_top"><base href=" ../other/b?c "><base href="/no"><a href=""><a href="?d">'
        self.assertEqual(
            links(body),
            [
                "http://site.example/other/x",
                "http://site.example/other/b?c=",
                "http://site.example/other/b?d=",
            ],
        )

    def test_a_base_that_cannot_be_one(self) -> None:
        """A broken one counts for nothing; under one of another scheme nothing is a page."""
        for base in ("", "http://[", "javascript:x", "data:,x"):
            self.assertEqual(links(f'<base href="{base}"><a href="x">'), ["http://site.example/docs/x"], base)
        self.assertEqual(
            links('<base href="file:///C:/"><a href="x"><a href="http://h.example/">'), ["http://h.example/"]
        )

    def test_the_base_may_be_elsewhere(self) -> None:
        """Scope is measured by the job, not by the page's base."""
        response = respond('<base href="http://other.example/"><a href="x"><a href="//site.example/y">')
        children = children_of(parse(response), response, "host", URL)
        self.assertEqual(
            [(c.url, c.skip) for c in children], [("http://other.example/x", "scope"), ("http://site.example/y", "")]
        )

    def test_xhtml(self) -> None:
        """Read as what it is: an element that is closed in its own tag is closed."""
        body = '<?xml version="1.0"?><html><head><title/><script src="s"/></head><body><a href="x"/></body></html>'
        self.assertEqual(links(body, "application/xhtml+xml"), ["http://site.example/docs/x"])
        self.assertEqual(links(body), [])

    def test_which_responses_are_pages(self) -> None:
        """2xx, HTML or XHTML by the header."""
        self.assertTrue(is_html(respond("", "Text/HTML ; charset=x")))
        self.assertTrue(is_html(respond("", "application/xhtml+xml")))
        self.assertFalse(is_html(respond("", "text/plain")))
        self.assertFalse(is_html(respond("", "application/xml")))
        self.assertFalse(is_html(respond("").replace(status=404)))

    def test_titles(self) -> None:
        """The first one's text: entities decoded, white space folded, bounded."""
        for body, title in {
            "<title> a\n b &amp; <b>c</b> </title>": "a b & <b>c</b>",
            "<p>none": "",
            "<title>": "",
            "<title>open": "open",
            "<title>first</title><svg><title>second</title>": "first",
            f"<title>{'x' * 10_000}</title>": "x" * MAX_TITLE,
            f"<title>&#{'1' * 100_000};</title>": None,
        }.items():
            found = title_of(parse(respond(body)))
            self.assertTrue(found == title if title is not None else len(found) <= MAX_TITLE, body[:60])


class EncodingTests(SynchronousTestCase):
    """A page's encoding decides what its queries say."""

    def test_declared_encodings(self) -> None:
        """By header, by byte order mark, by ``meta``; the query goes out in it, the path in UTF-8."""
        markup = '<a href="é?é">'
        meta = '<meta charset="iso-8859-1">'
        latin, unicode = "http://site.example/docs/%C3%A9?%E9=", "http://site.example/docs/%C3%A9?%C3%A9="
        for body, content_type, expected in (
            (markup.encode("latin-1"), "text/html; charset=latin-1", latin),
            ((meta + markup).encode("latin-1"), "text/html", latin),
            (markup.encode("utf-8"), "text/html; charset=utf-8", unicode),
            (markup.encode("utf-8-sig"), "text/html; charset=iso-8859-1", unicode),
            (markup.encode("utf-16"), "text/html", unicode),
            (markup.encode("utf-8"), "text/html; charset=no-such-thing", unicode),
            (markup.encode("utf-8"), "text/html", unicode),
        ):
            self.assertEqual(links(body, content_type), [expected], (body, content_type))

    def test_what_an_encoding_cannot_say(self) -> None:
        """It goes out as a character reference, as browsers do, and the link is not lost."""
        self.assertEqual(
            links('<a href="中?é中">'.replace("中", "&#20013;").encode("latin-1"), "text/html; charset=latin-1"),
            ["http://site.example/docs/%E4%B8%AD?%E9%26%2320013%3B="],
        )

    def test_encodings_that_are_none(self) -> None:
        """What only Python calls an encoding is not used, whatever a page declares."""
        for (
            name
        ) in "base64 bz2 hex idna punycode quopri raw_unicode_escape rot13 undefined unicode_escape uu zip".split():
            for content_type, meta in ((f"text/html; charset={name}", ""), ("text/html", f"<meta charset={name}>")):
                body = f"{meta}<title>ü</title><a href='é?é'>"
                self.assertEqual(links(body, content_type), ["http://site.example/docs/%C3%A9?%C3%A9="], name)
                self.assertEqual(title_of(parse(respond(body, content_type))), "ü", name)


class HostileTests(SynchronousTestCase):
    """A page is hostile until proven otherwise."""

    def assert_quick(self, body: str, expected: int | None = None, within_s: float = 15.0) -> None:
        began = time.process_time()
        response = respond(body)
        page = parse(response)
        children = children_of(page, response, "host", URL)
        title_of(page)
        self.assertLess(time.process_time() - began, within_s, body[:40])
        if expected is not None:
            self.assertEqual(len(children), expected, body[:40])

    def test_a_million_tags(self) -> None:
        """Nested however deep, closed or not: time grows with the page, not with its square."""
        n = 50_000 * SCALE
        for body in ("<div>" * n, "<div></p>" * n, "<b><p>" * n, "<a href=x>" * n, "<table><i>" * n):
            self.assert_quick(body + "<a href=x>", 1)

    def test_a_million_attributes(self) -> None:
        """On one tag, in front of its ``href``."""
        self.assert_quick("<a " + " ".join(f"a{i}=1" for i in range(50_000 * SCALE)) + " href=x>", 1)

    def test_many_links(self) -> None:
        """Each of many thousand different ones is a child."""
        n = 5_000 * SCALE
        self.assert_quick("".join(f"<a href={i}>" for i in range(n)), n)

    def test_markup_that_never_ends(self) -> None:
        """What would have to be looked for to the end of the page is looked for once."""
        n = 10_000 * SCALE
        for piece in (
            *("<", "<!", "<!--", "<!-- -", "<!-->", "</", "<?", "<a ", "<a =", '<a x="', "<a x='", "<p x=\"'", "<a / "),
            *(
                "<title>",
                "<script>",
                "<script></scrip",
                "<textarea></title>",
                "<![CDATA[",
                "&",
                '<a href="&#1',
                "<a href=",
            ),
        ):
            self.assert_quick(piece * n)

    def test_a_long_reference(self) -> None:
        """A link of a megabyte is found, and skipped for its length."""
        response = respond(f"<a href={'x' * 1_000_000}><a href={'&amp;' * 200_000}><a href={'../' * 300_000}>")
        children = children_of(parse(response), response, "any", URL)
        self.assertEqual([c.skip for c in children], ["url_length", "url_length", ""])

    @examples(500)
    @given(st.text(alphabet="htps:/[]@?#&;=%.\\ \t\n\x00é中a0-_~!$'()*+,{|}^`\"<>", max_size=40))
    def test_no_reference_fails_a_page(self, href: str) -> None:
        """Whatever stands in an ``href``, each child can be asked for, and its identity is a fixed point."""
        for prefix in ("", "http://", "//host.example"):
            body = "<a href='" + (prefix + href).replace("&", "&amp;").replace("'", "&#39;") + "'>"
            response = respond(body)
            for child in children_of(parse(response), response, "any", URL):
                request = Request(child.spelling or child.url)
                self.assertTrue(request.url.isascii())
                self.assertEqual(canonical(child.url), child.url)

    @examples(500)
    @given(st.text(alphabet="<>/!-ahreftilcs=\"' x&;#\n", max_size=60))
    def test_no_markup_fails_a_page(self, text: str) -> None:
        """And a link in front of any text is found."""
        Page(text).links()
        self.assertEqual(Page("<a href=first>" + text).links()[1][:1], ["first"])


class ParityTests(SynchronousTestCase):
    """Pages that nobody here wrote."""

    def test_documentation_trees(self) -> None:
        """The pages of the three trees (a sixth of them, unless there is time) have the links that an
        independent parser, and lxml, find on them."""
        missing = [package for name, package in TREES.items() if packages.tree(name) is None]
        if missing:
            raise SkipTest(f"not installed: {' '.join(missing)}")
        pages = 0
        for name in TREES:
            root = packages.tree(name)
            assert root is not None
            for path in sorted(p for p in root.rglob("*.html") if p.is_file())[:: 1 if LONG else 6]:
                url = f"http://trees.example/{path.relative_to(root)}"
                self._compare(path, url)
                pages += 1
        self.assertGreater(pages, 500 if LONG else 80)

    def _compare(self, path: Path, url: str) -> None:
        body = path.read_bytes()
        response = respond(body, "text/html; charset=utf-8", url)
        children = children_of(parse(response), response, "host", url)
        independent: dict[str, str] = {}
        for found in bfs.links_of(bfs.Response(url, 200, "text/html; charset=utf-8", body)):
            identity = bfs.canonical(found).partition("#")[0]
            independent.setdefault(identity, bfs.skip_reason(identity, "host", url))
        self.assertEqual([(c.url, c.skip) for c in children], list(independent.items()), path)
        tree = lxml.html.document_fromstring(response.text.encode(), parser=lxml.html.HTMLParser(encoding="utf-8"))
        _, hrefs = Page(response.text).links()
        self.assertEqual(hrefs, [str(href) for href in tree.xpath("//a/@href | //area/@href")], path)
