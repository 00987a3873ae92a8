"""What may be crawled, what makes two URLs one page, and what is in scope."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scrapy import linkextractors
from twisted.trial.unittest import SynchronousTestCase
from w3lib.url import canonicalize_url

from crawlfarm.core import urls
from crawlfarm.core.urls import canonical, check_seed, extension_of, host_name, host_of, in_scope, skip_reason
from crawlfarm.errors import InvalidURL
from tests.support.examples import examples

PLAIN = "abzAZ059_~.-"
ODD = PLAIN + "/%2F?&=+;:,@!$'()*[]#\"<>\\^`{|} é漢ß"


def texts(alphabet: str, longest: int) -> st.SearchStrategy[str]:
    return st.text(alphabet=alphabet, max_size=longest)


HOSTS = st.sampled_from(["a.test", "localhost", "127.0.0.1", "xn--bcher-kva.test", "a-b.c_d.test", "A.Test", "[::1]"])
PORTS = st.sampled_from(["", ":80", ":443", ":8080", ":1", ":65535", ":08", ":"])
SCHEMES = st.sampled_from(["http", "https", "HTTP"])


def built(scheme: str, host: str, port: str, rest: str) -> str:
    return f"{scheme}://{host}{port}{rest}"


URLS = st.one_of(
    st.builds(built, SCHEMES, HOSTS, PORTS, st.lists(texts(PLAIN, 4), max_size=4).map(lambda p: "/" + "/".join(p))),
    st.builds(built, SCHEMES, HOSTS, PORTS, texts(ODD, 12).map(lambda rest: "/" + rest)),
    st.builds(built, SCHEMES, HOSTS, PORTS, texts(ODD, 6).map(lambda query: "/p?" + query)),
    st.builds(built, SCHEMES, HOSTS, PORTS, st.just("")),
)


class CanonicalTests(SynchronousTestCase):
    @examples(1500)
    @given(URLS)
    def test_as_w3lib(self, url: str) -> None:
        """The short way to a canonical URL never differs from w3lib's, nor does a second step."""
        self.assertEqual(canonical(url), canonicalize_url(url))
        self.assertEqual(canonical(canonical(url)), canonical(url))

    def test_short_way_is_taken(self) -> None:
        """Plain URLs take it, so that the comparison above compares two things."""
        for url in ("http://a.test/", "https://a.test:8080/b/c.html", "http://127.0.0.1/a~b/-/_x.y"):
            self.assertIsNotNone(urls._ALREADY_CANONICAL.match(url), url)
        for url in ("http://a.test", "http://a.test/?", "http://a.test/../b", "http://a.test/%7E", "http://A.test/"):
            self.assertIsNone(urls._ALREADY_CANONICAL.match(url), url)

    def test_one_page(self) -> None:
        """Fragment, order of the query, case of the host and escapes make no other page."""
        spellings = ["http://a.test/x?b=2&a=1", "HTTP://A.TEST/x?a=1&b=2#y", "http://a.test/%78?a=1&b=2"]
        self.assertEqual({canonical(url) for url in spellings}, {"http://a.test/x?a=1&b=2"})

    def test_not_a_url(self) -> None:
        """What cannot be parsed is a ValueError, the second time too."""
        for _ in range(2):
            self.assertRaises(ValueError, canonical, "http://[not-an-address/")


class SeedTests(SynchronousTestCase):
    REFUSED = {  # noqa: RUF012
        "url_missing": [None, 5, b"http://a.test/", "", "  \t\n"],
        "url_length": ["http://a.test/" + "x" * 2083, "http://a.test/" + "x" * 2070],
        "url_characters": ["http://a.test/\x00", "http://a\n.test/", "http://a.test/\x7f", "http://a.test/\r\nx"],
        "url_scheme": [
            "example.com",
            "example.com:80",
            "localhost:8000/x",
            "//a.test/b",
            "/etc/passwd",
            "?",
            "ftp://a.test/",
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            "file:///etc/passwd",
            "data:text/html,x",
            "mailto:x@a.test",
            "gopher://a.test/",
        ],
        "url_host": [
            "http://",
            "http:",
            "http:///x",
            "https:/a.test",
            "http:a.test",
            "http://:80/",
            "http://?x",
            "http://a b/",
            "http://a%20b/",
            "http://a..b/",
            "http://.a/",
            "http://-a.test/",
            "http://a-.test/",
            "http://xn--/",
            "http://xn--a/",
            "http://☃.net/x",
            "http://a<b/",
            "http://a\\b/",
            "http://" + "a" * 64 + ".test/",
            "http://" + "a." * 127 + "test/",
            "http://[::1",
            "http://[::g]/",
            "http://[1.2.3.4]/",
        ],
        "url_port": ["http://a.test:0/", "http://a.test:65536/", "http://a.test:99999/", "http://a.test:x/"],
        "url_credentials": ["http://u:p@a.test/", "http://u@a.test/", "http://@a.test/"],
    }

    def test_refused(self) -> None:
        """Each kind of bad URL has its code, the path ``url``, and one line that says why."""
        for code, bad in self.REFUSED.items():
            for url in bad:
                with self.assertRaises(InvalidURL, msg=repr(url)) as caught:
                    check_seed(url)
                error = caught.exception
                self.assertEqual((error.code, error.path), (code, "url"), repr(url))
                self.assertTrue(error.message.startswith("url: "))
                self.assertTrue(error.message.isprintable() and len(error.message) < 300, error.message)

    def test_secrets_are_not_repeated(self) -> None:
        """Credentials do not come back in the error's text."""
        with self.assertRaises(InvalidURL) as caught:
            check_seed("http://u:hunter2@a.test/")
        self.assertNotIn("hunter2", caught.exception.message)

    def test_taken(self) -> None:
        """What can be crawled is given back as it was, without white space around it."""
        for url in (
            "http://a.test",
            "HTTPS://A.Test:65535/x?y=ä#z",
            "http://127.0.0.1:8000/",
            "http://[::1]:8000/",
            "http://bücher.example/",
            "http://xn--bcher-kva.example/",
            "http://a_b.test./",
            "http://a.test/" + "x" * 2069,
        ):
            self.assertEqual(check_seed(f" \t{url}\r\n"), url)

    @examples(500)
    @given(st.text(max_size=30) | texts(ODD + "ht:", 30).map(lambda rest: "http://" + rest))
    def test_anything(self, url: str) -> None:
        """Whatever is given, it is taken or refused; what is taken has an identity and a host."""
        try:
            seed = check_seed(url)
        except InvalidURL as e:
            self.assertEqual(e.path, "url")
            return
        self.assertTrue(host_name(canonical(seed)))
        self.assertTrue(host_of(canonical(seed)))


class PartsTests(SynchronousTestCase):
    def test_host_of(self) -> None:
        """Host and port as they stand in the URL."""
        for url, host in (
            ("http://a.test/x", "a.test"),
            ("https://a.test:81/x:y", "a.test:81"),
            ("http://a.test?x=/", "a.test"),
            ("http://a.test#x", "a.test"),
            ("http://a.test", "a.test"),
            ("http://[::1]:8/x", "[::1]:8"),
        ):
            self.assertEqual(host_of(url), host)

    def test_extension(self) -> None:
        """The last segment's last extension, in lower case; of a hidden file, none."""
        for path, extension in (
            ("x.PDF", "pdf"),
            ("a.b/x", ""),
            ("x.tar.gz", "tar.gz"),
            ("x.gz", "gz"),
            (".pdf", ""),
            ("x.", ""),
            ("x.html?y=z.pdf", "html"),
            ("", ""),
        ):
            self.assertEqual(extension_of(f"http://a.test/{path}"), extension, path)

    def test_ignored_extensions(self) -> None:
        """They are Scrapy's, to the last one."""
        self.assertEqual(urls.IGNORED_EXTENSIONS, set(linkextractors.IGNORED_EXTENSIONS))


class ScopeTests(SynchronousTestCase):
    def test_any(self) -> None:
        """Everything is in the scope ``any``."""
        self.assertTrue(in_scope("any", "http://a.test/", "https://b.example:8/x"))

    def test_host(self) -> None:
        """The scope ``host`` is a host's name at any port and scheme; not its subdomains."""
        base = "http://www.a.test:8000/x"
        for url in ("http://www.a.test/", "https://www.a.test:1/y", "http://WWW.A.test/", "http://www.a.test./"):
            self.assertTrue(in_scope("host", base, url), url)
        for url in ("http://a.test/", "http://x.www.a.test/", "http://www.a.test.evil.test/", "http://b.test/"):
            self.assertFalse(in_scope("host", base, url), url)

    def test_order_of_reasons(self) -> None:
        """Scope is told before length, and length before extension."""
        base, long = "http://a.test/", "x" * 2100
        for url, reason in (
            (f"http://b.test/{long}.pdf", "scope"),
            (f"http://a.test/{long}.pdf", "url_length"),
            ("http://a.test/x.pdf", "extension"),
            ("http://a.test/x.html", ""),
            ("http://a.test/" + "x" * 2069, ""),
        ):
            self.assertEqual(skip_reason("host", base, url), reason, url[:40])
        self.assertEqual(skip_reason("any", base, "http://b.test/"), "")
