"""The client library without a network: what a job delivers, which addresses are taken."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.client import Client, Job
from crawlfarm.errors import BadInput, ConnectionGone
from crawlfarm.wire.client import (
    JobProgress,
    PageMoved,
    Pages,
    Reply,
    Result,
    Rewound,
    cursor,
)
from crawlfarm.wire.jobs import JobOptions
from crawlfarm.wire.pages import PageRecord, Receipt

URL = "http://site.test/"
END = Result("j", URL, 1, [[URL]], Receipt(1, 1, {}, {}, True))


def pages(first: int, last: int, run: int = 1) -> Pages:
    records = [PageRecord(f"{URL}{n}", 1, "fetched") for n in range(first, last + 1)]
    return Pages("j", cursor(run, first), cursor(run, last), records)


class Following(SynchronousTestCase):
    def setUp(self) -> None:
        self.job = self.new_job()

    def new_job(self, **options: Any) -> Job:
        def cancel(job: str) -> Deferred[Any]:
            raise AssertionError(job)

        return Job(cancel, None, now=0.0, id="j", **{"stream": True, **options})

    def delivered(self) -> list[Reply]:
        replies: list[Reply] = []
        while True:
            waiting = self.job.next()
            if not waiting.called:
                waiting.addErrback(lambda failure: failure.trap(CancelledError))
                waiting.cancel()
                return replies
            reply = self.successResultOf(waiting)
            if reply is None:
                return replies
            replies.append(reply)

    def seen(self) -> list[str]:
        return [page.url for reply in self.delivered() if isinstance(reply, Pages) for page in reply.pages]

    def test_each_entry_once(self) -> None:
        """Entries sent again, whole frames or parts of them, are not delivered again."""
        for frame in (pages(1, 3), pages(1, 3), pages(2, 5), pages(4, 4), pages(6, 6)):
            self.assertTrue(self.job.take(frame))
        self.assertEqual(self.seen(), [f"{URL}{n}" for n in range(1, 7)])
        self.assertEqual(self.job.cursor, "1.6")

    def test_a_part_is_numbered_right(self) -> None:
        """What is left of a frame that was partly seen says where it begins."""
        self.job.take(pages(1, 3))
        self.job.take(pages(2, 5))
        self.assertEqual([reply.first for reply in self.delivered()], ["1.1", "1.4"])

    def test_a_gap(self) -> None:
        """After a gap nothing is delivered, the end neither, until what is missing came."""
        self.job.take(pages(1, 2))
        self.assertFalse(self.job.take(pages(5, 6)))
        self.assertFalse(self.job.take(PageMoved("j", "1.7", URL, 0, "")))
        self.assertFalse(self.job.take(END))
        self.assertTrue(self.job.take(pages(3, 6)))
        self.assertTrue(self.job.take(PageMoved("j", "1.7", URL, 0, "")))
        self.assertTrue(self.job.take(END))
        kinds = [type(reply) for reply in self.delivered()]
        self.assertEqual(kinds, [Pages, Pages, PageMoved, Result])

    def test_rewound(self) -> None:
        """After ``rewound`` the log is told again, under its new run."""
        self.job.take(pages(1, 3))
        self.job.take(Rewound("j", 4))
        self.assertEqual(self.job.cursor, "4.0")
        self.job.take(pages(1, 2, run=4))
        self.assertEqual(len(self.seen()), 5)

    def test_from_a_cursor(self) -> None:
        """What comes before the cursor a job was attached at is not delivered."""
        self.job = self.new_job(after="1.2")
        self.job.take(pages(1, 4))
        self.assertEqual(self.seen(), [f"{URL}3", f"{URL}4"])

    def test_without_stream(self) -> None:
        """A job that did not ask for the stream does not get that of another."""
        self.job = self.new_job(stream=False)
        for reply in (pages(1, 3), Rewound("j", 2), END):
            self.assertTrue(self.job.take(reply))
        self.assertEqual(self.delivered(), [END])

    def test_progress_is_the_latest(self) -> None:
        """Progress that nobody read is replaced by the next."""
        for found in range(5):
            self.job.take(JobProgress("j", "running", found))
        self.assertEqual([reply.found for reply in self.delivered()], [4])

    def test_waiting(self) -> None:
        """Who waits gets the next message; who stopped waiting does not swallow it."""
        gone = self.job.next()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        waiting = self.job.next()
        self.job.take(END)
        self.assertIs(self.successResultOf(waiting), END)
        self.assertIsNone(self.successResultOf(self.job.next()))

    def test_failing(self) -> None:
        """A lost connection is raised after what came before it, to who waits and who comes later."""
        self.job.take(pages(1, 1))
        self.job.fail(ConnectionGone("lost"))
        self.assertIsInstance(self.successResultOf(self.job.next()), Pages)
        self.failureResultOf(self.job.next(), ConnectionGone)
        self.failureResultOf(self.job.next(), ConnectionGone)

    def test_another_name(self) -> None:
        """A job that was handed in again under another name is told from its beginning."""
        self.job.take(pages(1, 3))
        self.job.named("k")
        self.assertEqual((self.job.id, self.job.cursor), ("k", "0.0"))
        self.assertIsInstance(self.delivered()[-1], Rewound)


class Asking(SynchronousTestCase):
    def test_addresses(self) -> None:
        """What is no websocket address is refused, and not shown: it may hold a secret."""
        for url in (
            "",
            "127.0.0.1:8080",
            "http://site.test/?token=secret",
            "ws://",
            "ws://h:99999/",
            "ws://h:x/",
            "ws://me:secret@h/",
            "wss://secret@h/",
        ):
            error = self.assertRaises(BadInput, Client, reactor, url)
            self.assertEqual(error.path, "gateway")
            self.assertNotIn("secret", error.message)

    def test_bad_input_is_found_here(self) -> None:
        """What a gateway would refuse is refused before anything is sent."""
        client = Client(reactor, "ws://127.0.0.1:1")
        for asked, path in (
            (client.submit(URL, 0), "depth"),
            (client.submit("ftp://x/", 1), "url"),
            (client.submit(URL, 1, JobOptions(max_pages=0)), "options.max_pages"),
            (client.submit(URL, 1, id="a\n"), "id"),
            (client.attach("j", after="x"), "after"),
            (client.status(""), "job"),
            (client.cancel("a\x00"), "job"),
        ):
            self.assertEqual(self.failureResultOf(asked, BadInput).value.path, path)
