"""Random sites of known structure, from a seed: the same seed is the same site, always.

A site is a set of :class:`Node`: each *is* one canonical URL, known by construction, and
knows where each of its links leads whatever way the link is written. So the answer to a
crawl (:meth:`Graph.answer`) follows from the structure alone, without a parser, a URL
library or a network; :mod:`tests.support.bfs` must come to the same by crawling.

URLs are templates: ``{main}``, ``{other}``, ``{refused}`` stand for ``host:port`` (and
``{main:port}`` for the port alone) until the site is served (:class:`Addresses`).

Delays are chosen against the crawler: pages on the shortest way to others are slow,
pages on longer ways to the same are fast, so that the shorter path arrives late.
"""

from __future__ import annotations

import dataclasses
import html
import json
import posixpath
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

from tests.support.answer import Answer, Page

HTML_TYPES = ("text/html; charset=utf-8", "text/html", "TEXT/HTML;charset=UTF-8", "application/xhtml+xml")
OTHER_TYPES = ("text/plain; charset=utf-8", "application/json", "text/css", "application/octet-stream")
NOT_LINKS = (
    "mailto:someone@example.com",
    "javascript:void(0)",
    "tel:+4912345",
    "data:text/html,<a href=/never>x</a>",
    "ftp://ftp.example.com/file",
    "about:blank",
    "http://[not-an-address/",
)
BAD_SEEDS = ("broken", "refused", "mail", "nowhere", "loop", "itself")
MAX_REDIRECTS = 20
MAX_URL_LENGTH = 2083


@dataclass(frozen=True)
class Addresses:
    """What a served site's templates stand for, each as ``host:port``.

    :ivar main: where the seed is.
    :ivar other: the same server under another host name.
    :ivar refused: an address nobody listens on.
    """

    main: str
    other: str
    refused: str

    def url(self, template: str) -> str:
        """A template with its places filled in."""
        for name in ("main", "other", "refused"):
            address = getattr(self, name)
            template = template.replace(f"{{{name}}}", address)
            template = template.replace(f"{{{name}:port}}", address.rpartition(":")[2])
        return template


@dataclass(frozen=True)
class Link:
    """One link as its page writes it.

    :ivar href: the attribute's value, before HTML escaping; a template.
    :ivar target: the canonical template of where it leads, empty when it is no link.
    :ivar form: how the element is written: one of :data:`FORMS`.
    """

    href: str
    target: str
    form: str = '<a href="{}">link</a>'


FORMS = (
    '<a href="{}">link</a>',
    '<a href="{}">link</a>',
    '<a href="{}" rel="nofollow">nofollow</a>',
    "<a class='x' href='{}'>single quotes</a>",
    '<A HREF="{}" TITLE="a &gt; b">upper case</A>',
    '<a href="  {}\n">white space</a>',
    '<map><area shape="default" href="{}"></map>',
    '<p><b><a\n  id="x"\n  href="{}"><img src="/img/never-found.png" alt=""></a></b></p>',
)
DECOYS = (
    '<!-- <a href="/never/comment">x</a> -->',
    '<link rel="next" href="/never/link">',
    '<img src="/never/img" alt="">',
    '<script>var s = "<a href=\\"/never/script\\">x</a>";</script>',
    '<style>a[href="/never/style"] { color: red }</style>',
    '<a name="anchor">no href</a>',
    '<form action="/never/form"><input></form>',
    "<p>&lt;a href=&quot;/never/text&quot;&gt;</p>",
)


@dataclass
class Node:
    """One canonical URL and how the server answers it.

    :ivar url: its template.
    :ivar redirect: the template of where it redirects to, as the ``Location`` says it.
    :ivar redirect_target: the canonical template of the same; empty when the final
        answer is this 3xx itself (no ``Location``, or one that is not http).
    :ivar base: the ``<base href>``, a template.
    :ivar delay_ms: how long the server waits before it answers.
    :ivar flaky: how many first requests are answered with 503.
    :ivar missing: the server does not know it and answers 404.
    """

    url: str
    status: int = 200
    content_type: str = HTML_TYPES[0]
    links: list[Link] = field(default_factory=list)
    base: str = ""
    redirect: str = ""
    redirect_target: str = ""
    delay_ms: int = 0
    flaky: int = 0
    missing: bool = False
    meta_refresh: str = ""
    encoding: str = "utf-8"
    filler: int = 0

    @property
    def host(self) -> str:
        """``main``, ``other`` or ``refused``."""
        return self.url.partition("{")[2].partition("}")[0]

    @property
    def followed(self) -> bool:
        """Whether its links count."""
        return 200 <= self.status < 300 and "html" in self.content_type.lower() and not self.missing

    def body(self, addresses: Addresses) -> bytes:
        """What the server sends."""
        xhtml = "xhtml" in self.content_type
        rng = random.Random(self.url)
        out = ['<?xml version="1.0" encoding="utf-8"?>'] if xhtml else []
        out.append('<html xmlns="http://www.w3.org/1999/xhtml"><head>' if xhtml else "<!DOCTYPE html><html><head>")
        out.append(f"<title>{html.escape(self.url[:60])} &amp; more</title>")
        if not xhtml and "charset" not in self.content_type.lower():
            out.append(f'<meta charset="{self.encoding}">')
        if self.base:
            if not xhtml:
                out.append('<!-- <base href="/never/base/"> -->')
            out.append(f'<base href="{html.escape(addresses.url(self.base))}"/>')
            if not xhtml:
                out.append('<base href="/never/second-base/">')
        if self.meta_refresh:
            out.append(f'<meta http-equiv="refresh" content="0; url={html.escape(addresses.url(self.meta_refresh))}"/>')
        out.append("</head><body>")
        for link in self.links:
            form = FORMS[0] if xhtml else link.form
            out.append(form.replace("{}", html.escape(addresses.url(link.href))))
            if not xhtml and rng.random() < 0.2:
                out.append(rng.choice(DECOYS))
        out.append(f"<p>{'lorem ipsum ' * (self.filler // 12)}</p>")
        out.append("</body></html>")
        return "\n".join(out).encode(self.encoding, "xmlcharrefreplace")


@dataclass(frozen=True)
class Graph:
    """A whole site.

    :ivar seed: the template to start from, as a client would type it.
    :ivar start: the canonical template of the same.
    :ivar depth: the depth a test should crawl to; the truth is known for any.
    :ivar scope: the scope a test should crawl with; the truth is known for both.
    :ivar name: the host name the site is served under; ``other`` is the other of
        ``127.0.0.1`` and ``localhost``.
    """

    number: int
    seed: str
    start: str
    depth: int
    scope: str
    name: str
    nodes: dict[str, Node]

    @property
    def other_name(self) -> str:
        return "localhost" if self.name == "127.0.0.1" else "127.0.0.1"

    def node(self, url: str) -> Node:
        """The node of a canonical template; one the server answers with 404 if there is none."""
        return self.nodes.get(url) or Node(url, status=404, missing=True)

    def answer(self, addresses: Addresses, depth: int | None = None, scope: str | None = None) -> Answer:
        """What a crawl must find, from the structure alone."""
        depth, scope = depth or self.depth, scope or self.scope
        pages: dict[str, Page] = {}
        base = self.start
        known = {self.start}
        level = [self.start]
        for d in range(depth):
            below: list[str] = []
            for url in level:
                final, outcome = self._settle(url, None if d == 0 or scope == "any" else base)
                pages[url] = Page(d, outcome, final.status if outcome == "fetched" else 0)
                if d == 0:
                    base = final.url
                if outcome != "fetched" or not final.followed or d == depth - 1:
                    continue
                for link in final.links:
                    if not link.target or link.target in known:
                        continue
                    known.add(link.target)
                    if reason := self._skip(link.target, scope, base, addresses):
                        pages[link.target] = Page(d + 1, f"skipped:{reason}")
                    else:
                        below.append(link.target)
            level = below
        return Answer(addresses.url(self.start), depth, {addresses.url(url): page for url, page in pages.items()})

    def _settle(self, url: str, scope_of: str | None) -> tuple[Node, str]:
        """The node where redirects end, and the disposition; hops stay on ``scope_of``'s host."""
        node = self.node(url)
        for _ in range(MAX_REDIRECTS + 1):
            if node.host == "refused":
                return node, "failed:refused"
            if not node.redirect_target:
                return node, "fetched"
            node = self.node(node.redirect_target)
            if scope_of is not None and not _same_name(node.url, scope_of):
                return node, "skipped:scope"
        return node, "failed:redirects"

    @staticmethod
    def _skip(url: str, scope: str, base: str, addresses: Addresses) -> str:
        if scope == "host" and not _same_name(url, base):
            return "scope"
        if len(addresses.url(url)) > MAX_URL_LENGTH:
            return "url_length"
        # The generator gives no other page a dot in its last segment but ".html".
        name = url.partition("?")[0].rpartition("/")[2]
        return "extension" if "." in name and not name.endswith(".html") else ""

    def to_json(self) -> str:
        """The whole site, as :mod:`tests.support.site` reads it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Graph:
        """The inverse of :meth:`to_json`."""
        fields = json.loads(text)
        nodes = {
            url: Node(**{**node, "links": [Link(**link) for link in node["links"]]})
            for url, node in fields.pop("nodes").items()
        }
        return cls(**fields, nodes=nodes)


def _same_name(url: str, other: str) -> bool:
    """Whether two templates are on one host name: ``refused`` is on ``main``'s."""
    names = [template.partition("{")[2].partition("}")[0].replace("refused", "main") for template in (url, other)]
    return names[0] == names[1]


# --- making one ----------------------------------------------------------------------


def generate(number: int) -> Graph:
    """Site number ``number``: 20 to 150 pages."""
    return _Maker(number).make()


def generate_all(count: int, first: int = 0) -> Iterator[Graph]:
    """Sites ``first`` to ``first + count - 1``."""
    return (generate(number) for number in range(first, first + count))


class _Maker:
    """Builds one graph: pages in chains first, so that long ways exist, then everything
    that makes a crawl hard, then the delays, which need the distances."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.rng = random.Random(f"crawlfarm graph {number}")
        self.nodes: dict[str, Node] = {}
        self.name = self.rng.choice(("127.0.0.1", "localhost"))

    def make(self) -> Graph:
        rng = self.rng
        pages = [self._page(i) for i in range(rng.randint(20, 150))]
        first = pages[0]
        self._chains(pages)
        self._shortcuts(pages)
        redirects = self._redirects(pages)
        self._odd_pages(pages)
        everything = pages + redirects
        for page in pages:
            for _ in range(rng.choice((0, 0, 1, 2, 4))):
                self._odd_link(page, everything)
            rng.shuffle(page.links)
        seed, start = self._seed(first, redirects)
        depth = rng.randint(3, 9)
        graph = Graph(self.number, seed, start, depth, rng.choice(("any", "any", "host")), self.name, self.nodes)
        self._delays(graph)
        return graph

    # --- pages

    def _page(self, i: int) -> Node:
        rng = self.rng
        host = "other" if i and rng.random() < 0.12 else "main"
        folder = rng.choice(("", "", "docs/", "docs/deep/er/", "~user/", "caf%C3%A9/", "sp%20ace/", "A/a/"))
        name = rng.choice(
            (f"p{i}", f"p{i}", f"p{i}.html", f"p{i}/", f"P{i}", f"get?id={i}", f"get?a=1&b=2&id={i}", f"p{i}?x=&y=%2F")
        )
        path = "" if i == 0 and rng.random() < 0.5 else folder + name
        node = Node(
            f"http://{{{host}}}/{path}",
            status=rng.choice((200,) * 12 + (203,)),
            content_type=rng.choice((HTML_TYPES[0],) * 5 + HTML_TYPES),
            filler=rng.choice((0, 0, 300, 5000)),
        )
        if "charset" not in node.content_type.lower() and "xhtml" not in node.content_type and rng.random() < 0.3:
            node.encoding = rng.choice(("latin-1", "windows-1251"))
        if rng.random() < 0.15:
            node.base = rng.choice(
                (
                    "/docs/",
                    "/A/a/b",
                    "sub/",
                    "../",
                    "http://{main}/docs/deep/",
                    f"//{{{host}}}/base/file.html",
                    "http://{other}/elsewhere/",
                    "?only=query",
                )
            )
        return self._add(node)

    def _add(self, node: Node) -> Node:
        assert node.url not in self.nodes, node.url
        self.nodes[node.url] = node
        return node

    def _chains(self, pages: list[Node]) -> None:
        """Every page is reached by some way, and some ways are long."""
        tails = [pages[0]]
        for page in pages[1:]:
            parent = self.rng.choice(tails[-3:])
            self._link(parent, page.url)
            if self.rng.random() < 0.7:
                tails.append(page)
            if self.rng.random() < 0.1:
                tails.append(self.rng.choice(pages[: len(tails)]))

    def _shortcuts(self, pages: list[Node]) -> None:
        """Links anywhere, forwards and back: cycles, self links, shorter ways."""
        for _ in range(self.rng.randint(len(pages), 3 * len(pages))):
            self._link(self.rng.choice(pages), self.rng.choice(pages).url)
        for page in self.rng.sample(pages, max(1, len(pages) // 10)):
            self._link(page, page.url)

    # --- links

    def _link(self, page: Node, target: str) -> None:
        href = self._spell(page, target)
        if self.rng.random() < 0.3:
            href = href.replace("%C3%A9", "é").replace("%c3%a9", "é")
        page.links.append(Link(href, target, self.rng.choice(FORMS)))

    def _spell(self, page: Node, target: str) -> str:
        """One of the many ways to write ``target`` on ``page``."""
        rng = self.rng
        scheme, _, rest = target.partition("://")
        host, _, path = rest.partition("/")
        path = self._vary_query(self._vary_escapes("/" + path))
        base = _base_of(page)
        base_host = base.partition("://")[2].partition("/")[0]
        ways = ["absolute", "protocol-relative", "upper-case"]
        if host == base_host:
            ways += ["path", "path", "path", "relative", "relative", "relative"]
        way = rng.choice(ways)
        if way == "relative":
            href = _relative(base, path)
        elif way == "path":
            href = path if rng.random() < 0.9 else "/x/.." + path
        elif way == "protocol-relative":
            href = f"//{host}{path}"
        elif way == "upper-case" and self.name_of(host) == "localhost":
            href = f"HTTP://LOCALHOST:{host[:-1]}:port}}{path}"
        else:
            if path == "/" and rng.random() < 0.3:
                path = ""
            href = f"{scheme}://{host}{path}"
        if rng.random() < 0.2:
            href += rng.choice(("#", "#top", "#a/b?c", "#%C3%A9"))
        return href

    def name_of(self, host: str) -> str:
        """The host name a placeholder will stand for."""
        other = "localhost" if self.name == "127.0.0.1" else "127.0.0.1"
        return other if host == "{other}" else self.name

    def _vary_query(self, path: str) -> str:
        path, question, query = path.partition("?")
        parts = query.split("&")
        if len(parts) > 1 and self.rng.random() < 0.6:
            self.rng.shuffle(parts)
        return path + question + "&".join(parts)

    def _vary_escapes(self, path: str) -> str:
        rng = self.rng
        if rng.random() < 0.5:
            return path
        path, question, query = path.partition("?")
        path = path.replace("%C3%A9", rng.choice(("%c3%a9", "%C3%a9")))
        path = path.replace("~", rng.choice(("~", "%7E", "%7e")))
        path = path.replace("%20", rng.choice(("%20", " ")))
        if rng.random() < 0.2:
            path = path.replace("docs", "%64ocs", 1)
        return path + question + query.replace("%2F", rng.choice(("%2F", "%2f")))

    def _odd_link(self, page: Node, everything: list[Node]) -> None:
        rng = self.rng
        which = rng.choice(
            (
                "none",
                "none",
                "extension",
                "length",
                "broken",
                "broken",
                "refused",
                "empty",
                "fragment",
                "outside",
                "any",
                "query",
            )
        )
        host = f"http://{{{page.host}}}"
        if which == "none":
            page.links.append(Link(rng.choice(NOT_LINKS), "", rng.choice(FORMS)))
        elif which == "extension":
            name = rng.choice(("i.png", "I.PNG", "doc.pdf", "a.tar.gz", "style.css", "v1.2.zip", "x.jpg?size=2"))
            self._link(page, f"{host}/files/{name}")
        elif which == "length":
            size = rng.choice((1900, 2100, 3000))
            self._link(page, f"{host}/long/{'x' * size}")
        elif which == "broken":
            self._link(page, f"{host}/broken/{rng.randint(0, 9)}")
        elif which == "refused":
            self._link(page, f"http://{{refused}}/{rng.randint(0, 3)}")
        elif which == "empty":
            page.links.append(Link("", _base_of(page), rng.choice(FORMS)))
        elif which == "fragment":
            if not page.base:
                page.links.append(Link("#here", page.url, rng.choice(FORMS)))
        elif which == "query":
            # As in browsers, a query goes out in the page's encoding.
            if page.encoding != "windows-1251":
                byte = "%E9" if page.encoding == "latin-1" else "%C3%A9"
                page.links.append(
                    Link("/broken/?q=é", f"{_origin(_base_of(page))}/broken/?q={byte}", rng.choice(FORMS))
                )
        elif which == "outside":
            self._link(page, f"http://{{other}}/outside/{rng.randint(0, 9)}")
        else:
            self._link(page, rng.choice(everything).url)

    # --- redirects

    def _redirects(self, pages: list[Node]) -> list[Node]:
        rng = self.rng
        made: list[Node] = []

        def redirect(name: str, target: str, *, location: str = "", final: bool = False) -> Node:
            node = Node(
                f"http://{{{rng.choice(('main',) * 6 + ('other',))}}}/go/{name}",
                status=rng.choice((301, 302, 302, 303, 307, 308)),
                content_type="text/html",
                redirect_target="" if final else target,
            )
            # A 3xx may have a body; its links are not followed.
            node.links = [Link("/never/redirect-body", "http://{main}/never/redirect-body")]
            spelled = self._spell(node, target) if target else ""
            node.redirect = location or spelled.strip()
            made.append(self._add(node))
            return node

        for i in range(rng.randint(1, 6)):
            redirect(f"page{i}", rng.choice(pages).url)
        for i in range(rng.randint(0, 3)):
            redirect(f"again{i}", rng.choice(made).url)
        redirect("broken", "http://{main}/broken/redirected")
        redirect("refused", "http://{refused}/redirected")
        redirect("other", rng.choice([p.url for p in pages if p.host == "other"] or ["http://{other}/outside/0"]))
        redirect("mail", "", location="mailto:someone@example.com", final=True)
        redirect("nowhere", "", final=True)
        loop = redirect("loop", "http://{main}/go/loop-back")
        self._add(Node("http://{main}/go/loop-back", 302, "text/plain", redirect="loop", redirect_target=loop.url))
        if loop.host == "other":
            self.nodes["http://{main}/go/loop-back"].redirect = "http://{other}/go/loop"
        itself = Node(
            "http://{main}/go/itself", 301, "text/plain", redirect="#x", redirect_target="http://{main}/go/itself"
        )
        made.append(self._add(itself))
        if rng.random() < 0.25:
            length = rng.choice((19, 20, 21))
            after = rng.choice(pages).url
            for i in reversed(range(length)):
                node = redirect(f"chain{i}", after)
                after = node.url
        for node in rng.sample(made, rng.randint(2, len(made))):
            self._link(rng.choice(pages), node.url)
        return made

    def _seed(self, first: Node, redirects: list[Node]) -> tuple[str, str]:
        rng = self.rng
        draw = rng.random()
        if draw < 0.05:
            bad = rng.choice([node for node in redirects if node.url.rpartition("/")[2] in BAD_SEEDS])
            return bad.url, bad.url
        if draw < 0.25:
            hop = Node("http://{main}/start", rng.choice((301, 302, 307)), "text/html", redirect_target=first.url)
            hop.redirect = self._spell(hop, first.url)
            self._add(hop)
            if rng.random() < 0.5:
                far = Node("http://{other}/begin", 302, "text/html", redirect_target=hop.url)
                far.redirect = self._spell(far, hop.url)
                return far.url + "#seed", self._add(far).url
            return hop.url, hop.url
        return first.url + rng.choice(("", "", "#top")), first.url

    # --- pages that are not quite pages

    def _odd_pages(self, pages: list[Node]) -> None:
        """Some pages stop being plain: other types, broken answers, meta refresh."""
        rng = self.rng
        for page in pages[1:]:
            draw = rng.random()
            if draw < 0.06:
                page.content_type = rng.choice(OTHER_TYPES)
            elif draw < 0.11:
                page.status = rng.choice((404, 410, 403, 500, 503))
            elif draw < 0.14:
                page.meta_refresh = rng.choice(("/never/refreshed", "http://{other}/never/refreshed"))
            elif draw < 0.16:
                page.flaky = rng.choice((1, 2))

    # --- delays

    def _delays(self, graph: Graph) -> None:
        """Slow down the pages through which others are nearest, up to a sum for the site."""
        rng = self.rng
        parents: dict[str, set[str]] = {}
        distance = {graph.start: 0}
        queue = deque([graph.start])
        while queue:
            url = queue.popleft()
            final, outcome = graph._settle(url, None)
            if outcome != "fetched" or not final.followed:
                continue
            for target in {link.target for link in final.links if link.target}:
                parents.setdefault(target, set()).add(url)
                if target not in distance:
                    distance[target] = distance[url] + 1
                    queue.append(target)
        blame: dict[str, int] = {}
        for url, linkers in parents.items():
            nearest = [p for p in linkers if distance[p] == distance[url] - 1]
            longer = [p for p in linkers if distance[p] >= distance[url]]
            if len(nearest) == 1 and longer:
                blame[nearest[0]] = blame.get(nearest[0], 0) + 1
        budget_ms = rng.choice((1000, 2000, 3000))
        for url in sorted(blame, key=lambda u: (-blame[u], u)):
            node = self.nodes.get(url)
            if node is None or budget_ms <= 0 or rng.random() < 0.3:
                continue
            node.delay_ms = rng.randint(100, 500)
            budget_ms -= node.delay_ms
        for node in self.nodes.values():
            if not node.delay_ms and rng.random() < 0.3:
                node.delay_ms = rng.randint(0, 15)


def _base_of(page: Node) -> str:
    """The template relative links of ``page`` resolve against."""
    base = page.base
    if not base:
        return page.url
    if base.startswith("//"):
        return "http:" + base
    if base.startswith("http:"):
        return base
    host, _, path = page.url.removeprefix("http://").partition("/")
    path = "/" + path.partition("?")[0]
    if base.startswith("?"):
        return f"http://{host}{path}{base}"
    folder = path.rpartition("/")[0]
    joined = base if base.startswith("/") else posixpath.normpath(f"{folder}/{base}")
    if base.endswith("/") and not joined.endswith("/"):
        joined += "/"
    return f"http://{host}{joined.replace('//', '/')}"


def _canonical_base(page: Node) -> str:
    return _base_of(page)


def _origin(url: str) -> str:
    return "/".join(url.split("/")[:3])


def _relative(base: str, path: str) -> str:
    """``path`` (absolute, with a query) written relative to the template ``base``."""
    base_path = "/" + base.partition("://")[2].partition("/")[2].partition("?")[0]
    folder = [part for part in base_path.rpartition("/")[0].split("/") if part]
    path, question, query = path.partition("?")
    *parts, name = path.split("/")[1:]
    common = 0
    while common < min(len(folder), len(parts)) and unquote(folder[common]) == unquote(parts[common]):
        common += 1
    steps = [".."] * (len(folder) - common) + parts[common:]
    href = "/".join([*steps, name])
    if not href or href.startswith(("/", "?")):
        href = "./" + href
    return href + question + query
