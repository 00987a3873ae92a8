"""The frontier's calls in the script's terms, and its answers in the port's.

Plain translation, no I/O: :class:`~crawlfarm.adapters.redis.frontier.RedisFrontier` does that,
and so does the differential test, without Twisted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

import msgspec

from crawlfarm.adapters.redis import script
from crawlfarm.core.frontier import SEEDING
from crawlfarm.core.levels import receipt_of
from crawlfarm.core.ports import (
    RUNS_PER_TOKEN,
    Child,
    Exchanged,
    Finish,
    FrontierStatus,
    LeaseRef,
    LogSlice,
    Opened,
    PageLease,
)
from crawlfarm.core.urls import canonical
from crawlfarm.errors import StaleToken
from crawlfarm.wire.codec import encode_json
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Ended, Entry, Linked, Moved, PageRecord, Progress

FENCED = "fenced"

_spec = lru_cache(maxsize=1024)(msgspec.json.Decoder(JobSpec).decode)


def page_key(job: str, url: str) -> bytes:
    """What a page is known by in Redis: 8 bytes, different for each job."""
    return hashlib.blake2b(url.encode("utf-8", "surrogatepass"), digest_size=8, key=job.encode()[:64]).digest()


def open_arguments(job: str, spec: JobSpec, token: int) -> dict[str, Any]:
    return {
        "job": job,
        "spec": encode_json(spec),
        "depth": spec.depth,
        "max": spec.max_pages or 0,
        "spider": spec.spider,
        "base": canonical(spec.url),
        "token": token,
        "run": token * RUNS_PER_TOKEN,
    }


def opened(job: str, answer: Any) -> Opened:
    """:raises StaleToken: the script refused the token."""
    run, lease = unfenced(job, answer)
    return Opened(run, LeaseRef(job, run, lease, SEEDING) if lease else None)


def unfenced(job: str, answer: Any) -> Any:
    if answer == FENCED:
        raise StaleToken(f"job {job} has been taken over by a newer token")
    return answer


def exchange_arguments(
    finished: Iterable[Finish], want: int, jobs: Collection[str] | None, spiders: Collection[str] | None
) -> dict[str, Any]:
    return {
        "finished": [_finish(finish) for finish in finished],
        "want": want,
        "jobs": None if jobs is None else list(jobs),
        "spiders": None if spiders is None else list(spiders),
    }


def _finish(f: Finish) -> dict[str, Any]:
    arguments: dict[str, Any] = reference(f.ref)
    arguments["disposition"] = f.disposition
    if f.children is not None:
        arguments["children"] = _children(f.ref.job, f.children)
    for name in ("status", "final_url", "title", "content_type", "bytes", "elapsed_ms"):
        value = getattr(f, name)
        if value:
            arguments[name] = value
    if f.final_url:
        arguments["base"] = canonical(f.final_url)
    if f.own_network:
        arguments["own"] = True
    if f.ref.url == SEEDING:
        arguments["seeding"] = True
    return arguments


def _children(job: str, children: Iterable[Child]) -> list[Any]:
    return [(page_key(job, child.url), child.url, child.spelling, child.skip) for child in children]


def reference(ref: LeaseRef) -> dict[str, Any]:
    return {"job": ref.job, "run": ref.run, "lease": ref.lease, "key": page_key(ref.job, ref.url)}


def exchanged(answer: Any) -> Exchanged:
    verdicts, leases, specs, running = answer
    return Exchanged(list(verdicts), [_lease(lease, specs) for lease in leases], frozenset(running))


def _lease(lease: Any, specs: Any) -> PageLease:
    job, number, url, spelling, depth, attempt = lease
    run, base, spec = specs[job]
    return PageLease(
        ref=LeaseRef(job, run, number, url),
        fetch=spelling or url,
        depth=depth,
        attempt=attempt,
        spec=_spec(spec),
        base=base,
    )


def log_slice(answer: Any, after: int) -> LogSlice:
    head, *entries = answer
    run, state, final_depth = script.unpack(head)
    return LogSlice(run, [_entry(script.unpack(e), after + n) for n, e in enumerate(entries, 1)], state, final_depth)


def _entry(fields: Any, seq: int) -> Entry:
    kind = fields[0]
    if kind == "p":
        _, depth, url, disposition, parent, status, final_url, title, content_type, size, elapsed_ms, linked = fields
        record = PageRecord(
            url=url,
            depth=depth,
            disposition=disposition,
            status=status,
            final_url=final_url,
            title=title,
            content_type=content_type,
            bytes=size,
            parent=parent,
            elapsed_ms=elapsed_ms,
            linked_from=list(linked),
        )
        return Ended(seq, record)
    if kind == "m":
        return Moved(seq, fields[1], fields[2], fields[3])
    return Linked(seq, fields[1], fields[2])


def status(answer: Any) -> FrontierStatus:
    run, state, found, queued, leased, floor, depth, counts, flawed = answer
    receipt = receipt_of(dict(counts or {}), cut=flawed)
    progress = Progress(
        found=found,
        fetched=receipt.fetched,
        failed=sum(receipt.failed.values()),
        skipped=sum(receipt.skipped.values()),
        queued=queued,
        leased=leased,
        depth=max(0, min(floor, depth - 1)),
    )
    return FrontierStatus(run, state, progress, receipt)


def audit(answer: Any) -> list[str]:
    return [f"{what}: counted {has}, there are {are}" for what, has, are in answer if has != are]
