"""What every ``FrontierStore`` promises, to be mixed into a TestCase; a class a store.

The model's own tests go into every corner; here is what a store must have understood, as
seen from outside, and what only a store has: time, watchers, Deferreds.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from crawlfarm.core.levels import fold, levels, receipt
from crawlfarm.core.ports import (
    DONE,
    LINKS_WANTED,
    STALE,
    Child,
    Exchanged,
    Finish,
    FrontierStore,
    LeaseRef,
    LogSlice,
    PageLease,
)
from crawlfarm.errors import StaleToken
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Ended, Linked, Moved, PageRecord, Receipt
from tests.support.sites import Site, SitePage, levels_of, receipt_of, site_of, tangle, u

JOB = "0b9d1f0c-job"


class FrontierContract:
    """Mixed into a TestCase.

    A test calls :meth:`make_store` once; ``page_lease_s`` is 20 unless it says otherwise.
    """

    timeout = 60
    store: FrontierStore

    async def make_store(self, **options: Any) -> FrontierStore:
        """An empty store. ``options`` are those of
        :class:`~crawlfarm.core.frontier.FrontierModel`."""
        raise NotImplementedError

    async def later(self: Any, seconds: float) -> None:
        """Let the store's time go by."""
        raise NotImplementedError

    async def told(self: Any) -> None:
        """Wait until watchers have heard of what was done before."""
        raise NotImplementedError

    # --- short words ------------------------------------------------------------------------

    async def begin(
        self: Any, links: dict[str, str] | Site, depth: int = 3, *, max_pages: int | None = None, **options: Any
    ) -> None:
        """A store with one seeded job."""
        pages = {name: page for name, page in options.items() if isinstance(page, SitePage)}
        self.site = links if isinstance(links, Site) else site_of(links, **pages)
        self.store = await self.make_store(**{name: o for name, o in options.items() if name not in pages})
        await self.add_job(JOB, self.site.seed, depth=depth, max_pages=max_pages)

    async def add_job(self: Any, job: str, *seeds: str, depth: int = 3, **spec: Any) -> None:
        opened = await self.store.open(job, JobSpec(seeds[0], depth, **spec), 1)
        finish = Finish(opened.seeding, "fetched", [Child(seed) for seed in seeds])
        self.assertEqual((await self.hand_in(finish)).verdicts, [DONE])

    async def hand_in(self: Any, *finishes: Finish, want: int = 0) -> Exchanged:
        return await self.store.exchange("worker", finishes, want)  # type: ignore[no-any-return]

    async def take(self: Any, want: int = 1, **only: Any) -> list[PageLease]:
        return (await self.store.exchange("worker", [], want, **only)).leases  # type: ignore[no-any-return]

    async def take_page(self: Any, name: str) -> PageLease:
        leases = await self.take()
        self.assertEqual([lease.ref.url for lease in leases], [u(name)])
        return leases[0]  # type: ignore[no-any-return]

    async def finish(self: Any, lease: PageLease, *, read: bool = False, **told: Any) -> str:
        finish = replace(self.site.finish(lease, read=read), **told)
        return (await self.hand_in(finish)).verdicts[0]  # type: ignore[no-any-return]

    async def finish_page(self: Any, *names: str) -> None:
        for name in names:
            self.assertEqual(await self.finish(await self.take_page(name)), DONE)

    async def finish_rest(self: Any) -> None:
        while leases := await self.take(3):
            answer = await self.hand_in(*(self.site.finish(lease) for lease in leases))
            self.assertEqual(set(answer.verdicts), {DONE})

    async def log(self: Any, job: str = JOB) -> LogSlice:
        piece = await self.store.events(job, 0, 10**6)
        self.assertEqual([entry.seq for entry in piece.entries], [*range(1, len(piece.entries) + 1)])
        self.assertEqual(await self.store.audit(job), [])
        return piece  # type: ignore[no-any-return]

    async def records(self: Any, job: str = JOB) -> dict[str, PageRecord]:
        """By the last part of their URLs."""
        return {url.rpartition("/")[2]: record for url, record in fold((await self.log(job)).entries).items()}

    async def dispositions(self: Any) -> dict[str, str]:
        return {name: record.disposition for name, record in (await self.records()).items()}

    async def state(self: Any, job: str = JOB) -> str:
        return (await self.store.status(job)).state  # type: ignore[no-any-return]

    async def receipt(self: Any) -> Receipt:
        status = await self.store.status(JOB)
        self.assertEqual(status.progress.found, status.receipt.found + status.progress.queued + status.progress.leased)
        return status.receipt  # type: ignore[no-any-return]

    async def refused(self: Any, call: Any) -> None:
        """The call must end in :class:`StaleToken`."""
        try:
            await call
        except StaleToken:
            return
        self.fail("a stale token was taken")

    # --- masters ----------------------------------------------------------------------------

    async def test_open_and_seed(self: Any) -> None:
        """A new job runs and is to be seeded; an attaching master seeds it in its stead."""
        self.store = await self.make_store()
        spec = JobSpec(u("a"), 2, scope="host", max_pages=7, spider="mine")
        first = await self.store.open(JOB, spec, 1)
        self.assertEqual((await self.state(), await self.take()), ("running", []))
        second = await self.store.open(JOB, spec, 2)
        self.assertEqual(second.run, first.run)
        answer = await self.hand_in(*(Finish(x.seeding, "fetched", [Child(u("a"))]) for x in (first, second, second)))
        self.assertEqual((answer.verdicts, answer.running), ([STALE, DONE, STALE], {JOB}))
        lease = await self.take_page("a")
        self.assertEqual((lease.fetch, lease.depth, lease.attempt, lease.base), (u("a"), 0, 1, u("a")))
        self.assertEqual((lease.ref.job, lease.ref.run, lease.spec), (JOB, first.run, spec))
        third = await self.store.open(JOB, spec, 3)
        self.assertEqual((third.run, third.seeding), (first.run, None))

    async def test_stale_token(self: Any) -> None:
        """A higher token shuts the lower one out of open, cancel and forget."""
        await self.begin({"a": "b"})
        spec = JobSpec(u("a"), 3)
        await self.store.open(JOB, spec, 5)
        await self.refused(self.store.open(JOB, spec, 4))
        await self.refused(self.store.cancel(JOB, 4, "cancelled"))
        self.assertEqual(await self.state(), "running")
        await self.store.open(JOB, spec, 5)
        self.assertIs(await self.store.cancel(JOB, 6, "cancelled"), True)
        await self.refused(self.store.forget(JOB, 5))
        await self.refused(self.store.open(JOB, spec, 5))

    async def test_successor_keeps_pages_in_flight(self: Any) -> None:
        """A change of master costs no page in flight."""
        await self.begin({"a": "b"}, 2)
        lease = await self.take_page("a")
        await self.store.open(JOB, JobSpec(u("a"), 2), 9)
        self.assertEqual(await self.finish(lease), DONE)

    async def test_forget(self: Any) -> None:
        """An ended job is dropped, a running one is not; the id may be used anew."""
        await self.begin({"a": "b"})
        await self.store.forget(JOB, 1)
        self.assertEqual(await self.state(), "running")
        await self.finish_rest()
        await self.store.forget(JOB, 1)
        self.assertIsNone(await self.store.status(JOB))
        self.assertIsNone(await self.store.events(JOB, 0))
        opened = await self.store.open(JOB, JobSpec(u("a"), 3), 1)
        self.assertIsNotNone(opened.seeding)

    async def test_unknown(self: Any) -> None:
        """What is not known is answered with nothing."""
        self.store = await self.make_store()
        ref = LeaseRef("x", 1, 1, u("a"))
        self.assertIsNone(await self.store.status("x"))
        self.assertIsNone(await self.store.events("x", 0))
        self.assertIs(await self.store.cancel("x", 1, "cancelled"), False)
        await self.store.forget("x", 1)
        finishes = [Finish(ref, "fetched"), Finish(replace(ref, url=""), "fetched")]
        answer = await self.store.exchange("worker", finishes, 3, ["x"])
        self.assertEqual(answer, Exchanged([STALE, STALE], [], frozenset()))
        self.assertEqual(await self.store.extend("worker", [ref]), [False])
        self.assertEqual(await self.store.release("worker", [ref]), 0)
        self.assertEqual(await self.store.reap(), 0)

    # --- pages ------------------------------------------------------------------------------

    async def test_everything_once(self: Any) -> None:
        """Each URL is leased once and ends in one disposition; the last ends the job."""
        await self.begin({"a": "b c a x", "b": "c d", "c": "e f"}, e=SitePage(disposition="failed:dns", status=0))
        self.site.skips[u("x")] = "scope"
        urls = []
        while leases := await self.take(2):
            urls += [lease.ref.url[-1] for lease in leases]
            answer = await self.hand_in(*(self.site.finish(lease) for lease in leases))
        self.assertEqual(sorted(urls), list("abcdef"))
        self.assertEqual(answer.running, frozenset())
        expected = dict.fromkeys("abcdf", "fetched") | {"e": "failed:dns", "x": "skipped:scope"}
        self.assertEqual(await self.dispositions(), expected)
        got = await self.receipt()
        self.assertEqual((got.found, got.fetched, got.complete), (7, 5, True))
        self.assertEqual((got.failed, got.skipped), ({"dns": 1}, {"scope": 1}))
        self.assertEqual(await self.state(), "done")

    async def test_record(self: Any) -> None:
        """The log keeps all a worker said, letter by letter."""
        await self.begin({"a": ""}, 1)
        lease = await self.take_page("a")
        told = {
            "status": 203,
            "final_url": u("ü") + "?a=1&b=%20#f",
            "title": 'T "quoted" \n \x00 é 漢 😀',
            "content_type": "text/html; charset=utf-8",
            "bytes": 10**12,
            "elapsed_ms": 10**7,
        }
        await self.hand_in(Finish(lease.ref, "fetched", None, **told))
        entry = (await self.log()).entries[0]
        self.assertEqual(entry, Ended(1, PageRecord(u("a"), 0, "fetched", **told)))

    async def test_spelling(self: Any) -> None:
        """A page is asked for in the spelling found first."""
        await self.begin({"a": ""})
        lease = await self.take_page("a")
        links = [Child(u("ü"), spelling=u("ü#1")), Child(u("c"))]
        await self.hand_in(Finish(lease.ref, "fetched", links))
        fetches = [(x.ref.url, x.fetch) for x in await self.take(2)]
        self.assertEqual(fetches, [(u("ü"), u("ü#1")), (u("c"), u("c"))])

    async def test_seed_redirect(self: Any) -> None:
        """The base moves to where the seed led."""
        await self.begin({"a": "b"})
        await self.finish(await self.take_page("a"), final_url=u("home@new") + "#top")
        self.assertEqual((await self.take_page("b")).base, u("home@new"))

    async def test_many_links(self: Any) -> None:
        """A page may have thousands of links."""
        self.store = await self.make_store(host_concurrency=10**6)
        await self.add_job(JOB, u("a"))
        links = [Child(u(f"n{n}")) for n in range(12_000)]
        lease = await self.take_page("a")
        await self.hand_in(Finish(lease.ref, "fetched", links))
        leases = await self.take(20_000)
        self.assertEqual(sorted(lease.ref.url for lease in leases), sorted(child.url for child in links))
        await self.store.cancel(JOB, 1, "cancelled")
        self.assertEqual((await self.receipt()).skipped, {"cancelled": 12_000})
        await self.log()

    async def test_nearest_first(self: Any) -> None:
        """Pages go out by their lowest known depth."""
        await self.begin({"a": "b c", "b": "x", "c": "z"})
        await self.finish_page(*"abcxz")
        self.assertEqual(await self.state(), "done")

    async def test_events_in_pieces(self: Any) -> None:
        """The log is read from any number on, in pieces of any size."""
        await self.begin({"a": "b c d"}, 2)
        await self.finish_rest()
        pieces = [await self.store.events(JOB, after, 2) for after in (0, 2, 3, 4, 99)]
        self.assertEqual([[e.seq for e in piece.entries] for piece in pieces], [[1, 2], [3, 4], [4], [], []])
        self.assertEqual({(piece.state, piece.final_depth) for piece in pieces}, {("done", 2)})

    async def test_final_depth(self: Any) -> None:
        """It rises with the nearest outstanding page, up to the job's depth."""
        await self.begin({"a": "b c", "b": "d"})
        depths = []
        for name in "abcd":
            depths.append((await self.log()).final_depth)
            await self.finish_page(name)
        self.assertEqual([*depths, (await self.log()).final_depth], [1, 2, 2, 3, 3])

    async def test_linked_from(self: Any) -> None:
        """A broken page's record names up to five pages that link to it, however late."""
        links = {"a": "b x c d e f g", **dict.fromkeys("bcdefg", "x")}
        await self.begin(links, x=SitePage(status=404, html=False))
        await self.finish_rest()
        linked = (await self.records())["x"].linked_from
        self.assertEqual(len(linked), 5)
        self.assertEqual(linked[0], u("a"))
        self.assertLessEqual(set(linked), {u(name) for name in "abcdefg"})
        self.assertTrue(any(isinstance(entry, Linked) for entry in (await self.log()).entries))

    # --- leases -------------------------------------------------------------------------------

    async def test_finish_under_another_lease(self: Any) -> None:
        """A finish applies once, and only under its own lease and run."""
        await self.begin({"a": "b"})
        lease = await self.take_page("a")
        for wrong in (replace(lease.ref, run=lease.ref.run + 1), replace(lease.ref, lease=lease.ref.lease + 1)):
            self.assertEqual(await self.finish(replace(lease, ref=wrong)), STALE)
        poison = [Child(u("poison"))]
        answer = await self.hand_in(self.site.finish(lease), Finish(lease.ref, "fetched", poison))
        self.assertEqual(answer.verdicts, [DONE, STALE])
        self.assertEqual(await self.finish(lease, children=poison), STALE)
        await self.finish_rest()
        self.assertEqual(set(await self.records()), {"a", "b"})

    async def test_expired(self: Any) -> None:
        """A page whose worker says nothing goes out again, an attempt later; its first
        worker is refused."""
        await self.begin({"a": "b"})
        first = await self.take_page("a")
        await self.later(19)
        self.assertEqual((await self.store.reap(), await self.take()), (0, []))
        await self.later(2)
        self.assertEqual(await self.store.reap(), 1)
        second = await self.take_page("a")
        self.assertEqual((first.attempt, second.attempt), (1, 2))
        self.assertEqual([await self.finish(first), await self.finish(second)], [STALE, DONE])

    async def test_exchange_reaps(self: Any) -> None:
        """Any exchange takes expired pages back in passing, after its own finishes."""
        await self.begin({"a": "b c"})
        await self.finish_page("a")
        b, _ = await self.take(2)
        await self.later(21)
        answer = await self.hand_in(self.site.finish(b), want=5)
        self.assertEqual(answer.verdicts, [DONE])
        self.assertEqual([(x.ref.url, x.attempt) for x in answer.leases], [(u("c"), 2)])

    async def test_worker_lost(self: Any) -> None:
        """After its attempts a page is failed:worker_lost, and the answer not complete."""
        await self.begin({"a": "b"}, page_attempts=2)
        for attempt in (1, 2):
            self.assertEqual((await self.take_page("a")).attempt, attempt)
            await self.later(21)
        self.assertEqual((await self.store.exchange("other", [], 3)).running, frozenset())
        self.assertEqual(await self.dispositions(), {"a": "failed:worker_lost"})
        self.assertIs((await self.receipt()).complete, False)

    async def test_extend(self: Any) -> None:
        """An extended lease lasts; one already lost is said to be."""
        await self.begin({"a": "b c"})
        await self.finish_page("a")
        b, c = await self.take(2)
        for _ in range(3):
            await self.later(15)
            self.assertEqual(await self.store.extend("worker", [b.ref]), [True])
        await self.store.reap()
        self.assertEqual(await self.store.extend("worker", [c.ref, b.ref]), [False, True])
        self.assertEqual(await self.finish(b), DONE)

    async def test_release(self: Any) -> None:
        """A page given back goes out at once, and it costs no attempt."""
        await self.begin({"a": "b"}, page_attempts=1)
        for _ in range(3):
            lease = await self.take_page("a")
            self.assertEqual(lease.attempt, 1)
            self.assertEqual(await self.store.release("worker", [lease.ref, lease.ref]), 1)
        self.assertEqual(await self.finish(lease), STALE)

    # --- depths -------------------------------------------------------------------------------

    async def slow_short_way(self: Any, depth: int, links: dict[str, str] | None = None, **options: Any) -> PageLease:
        """``d`` is reached at 3 by b and c, at 2 by the slow page ``s``, whose lease comes back."""
        site = {"a": "s b", "s": "d", "b": "c", "c": "d", "d": "e", "e": "f", "f": "g"} | (links or {})
        await self.begin(site, depth, **options)
        await self.finish_page("a")
        slow = await self.take_page("s")
        await self.finish_page("b", "c")
        return slow  # type: ignore[no-any-return]

    async def test_lowered_while_queued(self: Any) -> None:
        """A page that comes nearer while it waits goes out with its new depth."""
        slow = await self.slow_short_way(5)
        await self.finish(slow)
        self.assertEqual((await self.take_page("d")).depth, 2)

    async def test_links_wanted(self: Any) -> None:
        """A page that comes nearer while it is out on the last level keeps its lease, for
        another full time, until it brings its links."""
        slow = await self.slow_short_way(4)
        d = await self.take_page("d")
        await self.finish(slow)
        for _ in range(2):
            await self.later(15)
            self.assertEqual(await self.finish(d), LINKS_WANTED)
        await self.later(15)
        self.assertEqual(await self.store.reap(), 0)
        self.assertEqual(await self.finish(d, children=self.site.children(u("d"))), DONE)
        await self.finish_page("e")
        self.assertEqual((await self.records())["e"].depth, 3)
        self.assertEqual(await self.state(), "done")

    async def test_moved(self: Any) -> None:
        """Pages after one that came nearer come nearer with it, and the log says so."""
        slow = await self.slow_short_way(6)
        await self.finish_page("d", "e", "f")
        await self.finish(slow)
        moved = {(e.url[-1], e.depth, e.parent[-1]) for e in (await self.log()).entries if isinstance(e, Moved)}
        self.assertEqual(moved, {("d", 2, "s"), ("e", 3, "d"), ("f", 4, "e")})

    async def test_long_cascade(self: Any) -> None:
        """A cascade too long for one call is carried on by later ones; the end waits for it."""
        slow = await self.slow_short_way(70, {"d": "n0", **{f"n{i}": f"n{i + 1}" for i in range(50)}}, cascade=3)
        await self.finish_rest()
        await self.finish(slow)
        self.assertEqual(await self.state(), "running")
        calls = 0
        while await self.state() == "running":
            calls += 1
            self.assertLess(calls, 200)
            await self.store.reap()
        self.assertEqual((await self.records())["n50"].depth, 53)
        self.assertIs((await self.receipt()).complete, True)

    async def test_fetched_again(self: Any) -> None:
        """A page long finished on the last level is fetched once more for its links; it
        keeps its disposition and its one entry."""
        slow = await self.slow_short_way(4)
        await self.finish_page("d")
        await self.finish(slow)
        again = await self.take_page("d")
        self.assertEqual(again.depth, 2)
        self.assertEqual(await self.finish(again, status=500, title="changed"), DONE)
        await self.finish_page("e")
        record = (await self.records())["d"]
        self.assertEqual((record.status, record.depth), (200, 2))
        ended = [e.page.url for e in (await self.log()).entries if isinstance(e, Ended)]
        self.assertEqual(len(ended), len(set(ended)))
        self.assertEqual((await self.receipt()).complete, True)

    async def test_second_fetch_fails(self: Any) -> None:
        """Then the disposition stays, and the answer is not complete."""
        slow = await self.slow_short_way(4)
        await self.finish_page("d")
        await self.finish(slow)
        verdict = await self.finish(await self.take_page("d"), disposition="failed:timeout", children=None)
        self.assertEqual((verdict, await self.state()), (DONE, "done"))
        self.assertEqual((await self.dispositions())["d"], "fetched")
        self.assertIs((await self.receipt()).complete, False)

    async def test_random_sites(self: Any) -> None:
        """With slow pages, lost workers and lost replies the answer is that of a plain crawl."""
        rng = random.Random(2)
        self.store = await self.make_store(page_attempts=10**6, host_concurrency=3, cascade=4)
        for n in range(self.random_sites):
            site = tangle(rng, rng.randint(1, 30), 3)
            depth = rng.randint(1, 8)
            await self.add_job(f"random-{n}", site.seed, depth=depth)
            await self.crawl_with_mishaps(rng, f"random-{n}", site)
            expected = site.crawl(depth)
            records = fold((await self.log(f"random-{n}")).entries).values()
            self.assertEqual({r.url: (r.depth, r.disposition) for r in records}, expected)
            self.assertEqual(levels(records, depth, site.seed), levels_of(expected, depth, site.seed))
            got = (await self.store.status(f"random-{n}")).receipt
            self.assertEqual(got, receipt(records))
            self.assertEqual({name: getattr(got, name) for name in got.__struct_fields__}, receipt_of(expected))

    random_sites = 25

    async def crawl_with_mishaps(self: Any, rng: random.Random, job: str, site: Site) -> None:
        out: list[PageLease] = []
        for _ in range(3000):
            done = [x for x in out if rng.random() < (0.03 if site.pages[x.ref.url].slow else 0.6)]
            out = [x for x in out if x not in done]
            await self.store.extend("worker", [x.ref for x in out])
            answer = await self.hand_in(*(site.finish(x) for x in done), want=rng.randint(0, 5))
            mishap = rng.random()
            if mishap > 0.04:
                out += answer.leases
            again = [x for x, verdict in zip(done, answer.verdicts, strict=True) if verdict == LINKS_WANTED]
            await self.hand_in(*(site.finish(x, read=True) for x in again), *(site.finish(x) for x in done))
            if mishap > 0.97:
                await self.later(21)
                await self.store.reap()
            if mishap > 0.93:
                await self.store.release("worker", [out.pop().ref for _ in out[:2]])
            if not (await self.store.exchange("worker", [], 0)).running:
                return
            if not out:
                await self.later(21)
        self.fail(f"{job} does not end")

    # --- limits -------------------------------------------------------------------------------

    async def test_cancel(self: Any) -> None:
        """Everything out is settled at once; late finishes are refused; it happens once."""
        await self.begin({"a": "b c d"})
        await self.finish_page("a")
        leases = await self.take(2)
        self.assertIs(await self.store.cancel(JOB, 1, "cancelled"), True)
        self.assertIs(await self.store.cancel(JOB, 1, "cancelled"), False)
        self.assertEqual(await self.state(), "cancelled")
        self.assertEqual(await self.dispositions(), {"a": "fetched", **dict.fromkeys("bcd", "skipped:cancelled")})
        self.assertEqual([await self.finish(lease) for lease in leases], [STALE, STALE])
        self.assertEqual(await self.store.extend("worker", [x.ref for x in leases]), [False, False])
        self.assertEqual(await self.store.release("worker", [x.ref for x in leases]), 0)
        self.assertIs((await self.receipt()).complete, False)
        self.assertEqual(await self.take(5), [])

    async def test_cancel_before_seeding(self: Any) -> None:
        """A job cancelled before its first page has found nothing, and is not complete."""
        self.store = await self.make_store()
        opened = await self.store.open(JOB, JobSpec(u("a"), 2), 1)
        self.assertIs(await self.store.cancel(JOB, 1, "cancelled"), True)
        answer = await self.hand_in(Finish(opened.seeding, "fetched", [Child(u("a"))]))
        self.assertEqual(answer.verdicts, [STALE])
        self.assertEqual((await self.receipt()).complete, False)
        self.assertIsNone((await self.store.open(JOB, JobSpec(u("a"), 2), 2)).seeding)

    async def test_deadline(self: Any) -> None:
        """Another reason ends the job as done."""
        await self.begin({"a": "b"})
        await self.store.cancel(JOB, 1, "deadline")
        self.assertEqual((await self.state(), await self.dispositions()), ("done", {"a": "skipped:deadline"}))

    async def test_max_pages(self: Any) -> None:
        """Exactly so many are fetched, however many are asked for at once."""
        await self.begin({"a": "b c d e f g"}, max_pages=4, c=SitePage(disposition="failed:dns", status=0))
        await self.finish_page("a")
        leases = [*await self.take(9), *await self.take(9)]
        self.assertEqual(len(leases), 3)
        for lease in leases:
            await self.finish(lease)
        await self.finish_rest()
        got = await self.receipt()
        self.assertEqual((got.fetched, got.failed, got.skipped), (4, {"dns": 1}, {"page_limit": 2}))
        self.assertEqual((await self.state(), got.complete), ("done", False))

    async def test_given_back_at_the_limit(self: Any) -> None:
        """A page out for its links only, given back after the limit was met, ends the job."""
        await self.begin({"a": "s b", "s": "d", "b": "c", "c": "d x", "d": "e"}, 4, max_pages=6)
        await self.finish_page("a")
        slow = await self.take_page("s")
        await self.finish_page("b", "c", "d")
        await self.finish(slow)
        again = await self.take_page("d")
        await self.finish_page("x")
        self.assertEqual(await self.state(), "running")
        self.assertEqual(await self.store.release("worker", [again.ref]), 1)
        self.assertEqual((await self.state(), (await self.receipt()).complete), ("done", False))

    # --- hosts and jobs -----------------------------------------------------------------------

    async def test_host_concurrency(self: Any) -> None:
        """Over all jobs and workers, whichever way a request ends."""
        await self.begin({"a": "b c d e f g h x@other"}, host_concurrency=2)
        await self.finish_page("a")
        await self.add_job("second", u("z"))
        leases = await self.take(9)
        self.assertEqual({lease.ref.job for lease in leases if "/x" not in lease.ref.url}, {JOB, "second"})
        self.assertEqual(len(leases), 3)
        self.assertEqual(await self.take(9), [])
        await self.store.release("worker", [x.ref for x in leases if x.ref.job == "second"])
        self.assertEqual(len(await self.take(9)), 1)
        await self.store.cancel("second", 1, "cancelled")
        await self.later(21)
        self.assertEqual(len(await self.take(9)), 3)

    async def test_own_network(self: Any) -> None:
        """A host of the operator's own network takes all that is asked for, at once."""
        await self.begin({"a": "b c d e f"}, host_concurrency=2)
        await self.finish_page("a")
        b, _ = await self.take(9)
        await self.finish(b, own_network=True)
        self.assertEqual(len(await self.take(9)), 3)

    async def test_hosts_take_turns(self: Any) -> None:
        """A host with many pages holds up none with few."""
        await self.begin({"a": "x1@x x2@x x3@x y1@y y2@y z1@z"})
        await self.finish_page("a")
        hosts = [lease.ref.url.split("/")[2][0] for lease in await self.take(6)]
        self.assertEqual((set(hosts[:3]), set(hosts[3:5]), hosts[5]), ({"x", "y", "z"}, {"x", "y"}, "x"))

    async def test_jobs_take_turns(self: Any) -> None:
        """A large job holds up no small one, within a call and over calls."""
        self.store = await self.make_store(host_concurrency=100)
        for job, pages in (("large", 20), ("small", 4), ("other", 4)):
            await self.add_job(job, *(u(f"{job}{n}") for n in range(pages)))
        one_call = [lease.ref.job for lease in await self.take(6)]
        self.assertEqual(sorted(one_call), sorted(["large", "small", "other"] * 2))
        calls = [lease.ref.job for _ in range(6) for lease in await self.take()]
        self.assertEqual(sorted(calls), sorted(["large", "small", "other"] * 2))

    async def test_named_jobs_and_spiders(self: Any) -> None:
        """Only pages of the jobs and spiders asked for; ``running`` speaks of those jobs."""
        await self.begin({"a": ""})
        await self.add_job("other", u("z"), spider="mine")
        answer = await self.store.exchange("worker", [], 9, ["other", "unknown"], ["site"])
        self.assertEqual((answer.leases, answer.running), ([], {"other"}))
        answer = await self.store.exchange("worker", [], 9, None, ["mine"])
        self.assertEqual(([x.ref.job for x in answer.leases], answer.running), (["other"], {JOB, "other"}))
        self.assertEqual([x.ref.job for x in await self.take(9, jobs=[JOB])], [JOB])

    # --- watching -----------------------------------------------------------------------------

    async def test_watch(self: Any) -> None:
        """Watchers are woken, after the call, by what queues or ends pages and opens or ends jobs."""
        woken: list[str] = []
        await self.begin({"a": "b c d"}, page_attempts=1)
        await self.told()
        stop = self.store.watch(lambda: woken.append("w"))

        async def wakes(what: str, call: Any, expected: bool = True) -> Any:
            woken.clear()
            answer = await call
            await self.told()
            self.assertEqual(bool(woken), expected, what)
            return answer

        leases = await wakes("leasing", self.take(), False)
        await wakes("finishing", self.finish(leases[0]))
        leases = await wakes("leasing more", self.take(2), False)
        await wakes("extending", self.store.extend("worker", [leases[0].ref]), False)
        await wakes("reading", self.store.status(JOB), False)
        await wakes("refusing", self.hand_in(Finish(replace(leases[0].ref, lease=10**6), "fetched")), False)
        await wakes("releasing", self.store.release("worker", [leases[0].ref]))
        await wakes("reaping nothing", self.store.reap(), False)
        await self.later(21)
        await wakes("reaping", self.store.reap())
        await wakes("opening", self.store.open("new", JobSpec(u("n"), 1), 1))
        await wakes("cancelling", self.store.cancel("new", 1, "cancelled"))
        await wakes("leasing again", self.take(1), False)
        await self.later(21)
        await wakes("reaping in passing", self.take())
        stop()
        await wakes("nobody", self.store.cancel(JOB, 1, "cancelled"), False)

    async def test_watch_twice(self: Any) -> None:
        """The same call may watch twice, and stops once for each."""
        woken: list[int] = []

        def wake() -> None:
            woken.append(1)

        await self.begin({"a": "b"})
        stops = [self.store.watch(wake), self.store.watch(wake)]
        stops[0]()
        stops[0]()
        await self.finish_page("a")
        await self.told()
        self.assertTrue(woken)
        woken.clear()
        stops[1]()
        await self.finish_rest()
        await self.told()
        self.assertEqual(woken, [])
