"""A frontier with one job on a small site, driven step by step: what examples are told in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.core.frontier_job import Job
from crawlfarm.core.ports import DONE, Child, Exchanged, Finish, PageLease
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import PageRecord, Receipt
from tests.support.checked import CheckedFrontier
from tests.support.sites import Site, SitePage, site_of, u

JOB = "job"


class FrontierCase(SynchronousTestCase):
    """Short words for the calls. Pages go by the names that :func:`~tests.support.sites.u` knows."""

    frontier: CheckedFrontier
    site: Site

    def begin(self, links: dict[str, str], depth: int = 3, *, max_pages: int | None = None, **options: Any) -> None:
        """A frontier with a seeded job; ``options`` are the model's, or pages of the site."""
        pages = {name: page for name, page in options.items() if isinstance(page, SitePage)}
        self.site = site_of(links, **pages)
        self.frontier = CheckedFrontier(**{name: o for name, o in options.items() if name not in pages})
        self.add_job(JOB, self.site.seed, depth, max_pages=max_pages)

    def add_job(self, job: str, seed: str, depth: int = 3, **spec: Any) -> None:
        opened = self.frontier.open(job, JobSpec(seed, depth, **spec), 1)
        assert opened.seeding is not None
        self.frontier.exchange("master", [Finish(opened.seeding, "fetched", [Child(seed)])])

    def take(self, want: int = 1, **only: Any) -> list[PageLease]:
        return self.frontier.exchange("worker", [], want, **only).leases

    def take_page(self, name: str) -> PageLease:
        """Lease one page, which must be this one."""
        leases = self.take()
        self.assertEqual([lease.ref.url for lease in leases], [u(name)])
        return leases[0]

    def hand_in(self, *finishes: Finish, want: int = 0) -> Exchanged:
        return self.frontier.exchange("worker", finishes, want)

    def finish(self, lease: PageLease, *, read: bool = False, **told: Any) -> str:
        """Finish a page with what the site has for it; the verdict."""
        return self.hand_in(replace(self.site.finish(lease, read=read), **told)).verdicts[0]

    def finish_page(self, name: str) -> None:
        """Lease a page, which must be next, and finish it."""
        self.assertEqual(self.finish(self.take_page(name)), DONE)

    def finish_rest(self) -> None:
        """One page after the other until nothing is to be had."""
        while leases := self.take():
            self.assertEqual(self.finish(leases[0]), DONE)

    @property
    def job(self) -> Job:
        return self.frontier.model._jobs[JOB]

    @property
    def state(self) -> str:
        return self.frontier.seen[JOB].state

    @property
    def receipt(self) -> Receipt:
        status = self.frontier.model.status(self.frontier.now, JOB)
        assert status is not None
        return status.receipt

    def record(self, name: str) -> PageRecord:
        return self.frontier.seen[JOB].records[u(name)]

    @property
    def dispositions(self) -> dict[str, str]:
        """By short name."""
        return {url.rpartition("/")[2]: record.disposition for url, record in self.frontier.seen[JOB].records.items()}

    @property
    def depths(self) -> dict[str, int]:
        return {url.rpartition("/")[2]: record.depth for url, record in self.frontier.seen[JOB].records.items()}

    @property
    def kinds(self) -> list[str]:
        """The log, each entry as its kind and the page's name."""
        return [
            f"{entry.__struct_config__.tag} {(entry.page.url if hasattr(entry, 'page') else entry.url)[-1]}"
            for entry in self.frontier.seen[JOB].log
        ]
