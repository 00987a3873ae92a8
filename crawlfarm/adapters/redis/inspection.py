"""A look at a Redis, for ``crawlfarm doctor``."""

from __future__ import annotations

from typing import Any

from crawlfarm.adapters.findings import NOTE, OK, PROBLEM, Finding, clock, wall
from crawlfarm.adapters.redis import cache, frontier, script
from crawlfarm.adapters.redis.link import OLDEST, RedisLink
from crawlfarm.config import shown_url
from crawlfarm.errors import CrawlfarmError

_PROBE = "crawlfarm:doctor"


async def inspect_frontier(reactor: Any, url: str) -> list[Finding]:
    """One shard of the frontier."""
    part = f"frontier ({frontier.WHERE})"
    return await _inspect(reactor, url, frontier.WHERE, part, _frontier)


async def inspect_cache(reactor: Any, url: str) -> list[Finding]:
    part = f"cache ({cache.WHERE})"
    return await _inspect(reactor, url, cache.WHERE, part, _cache)


async def _inspect(reactor: Any, url: str, where: str, part: str, more: Any) -> list[Finding]:
    try:
        link = RedisLink(reactor, url, where)
    except CrawlfarmError as e:
        return [Finding(part, "address", PROBLEM, e.message, f"set {where} right")]
    found: list[Finding] = []
    try:
        await link.start()
        found.append(Finding(part, "reachable", OK, shown_url(url)))
        found += await _common(link, part)
        found += await more(link, part)
    except CrawlfarmError as e:
        found.append(Finding(part, "reachable" if not found else "answers", PROBLEM, e.message, _advice(e)))
    finally:
        await link.stop()
    return found


async def _common(link: RedisLink, part: str) -> list[Finding]:
    oldest = ".".join(map(str, OLDEST))
    found = [Finding(part, "version", OK, f"Redis {link.version} ({oldest} is the oldest)")]
    asked = wall()
    seconds, microseconds = await link.execute("TIME")
    found.append(clock(part, int(seconds) + int(microseconds) / 1e6, asked, wall()))
    await link.execute("SET", _PROBE, "1", "PX", 1000)
    await link.execute("PUBLISH", f"{_PROBE}:wake", "")
    await link.execute("EVAL", "return redis.call('DEL', KEYS[1])", 1, _PROBE)
    found.append(Finding(part, "rights", OK, "it may write, publish and run scripts"))
    return found


async def _frontier(link: RedisLink, part: str) -> list[Finding]:
    info = await _info(link)
    found = []
    if info.get("aof_enabled") == "1":
        status = info.get("aof_last_write_status", "ok")
        if status == "ok":
            found.append(Finding(part, "append-only", OK, "on: a restart loses a second at most"))
        else:
            found.append(Finding(part, "append-only", PROBLEM, f"the last write: {status}", "make room on its disk"))
    else:
        advice = "CONFIG SET appendonly yes, and in redis.conf"
        found.append(Finding(part, "append-only", PROBLEM, "off: a restart loses every running crawl's state", advice))
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        found.append(Finding(part, "eviction", OK, "none: a full server refuses, and drops nothing"))
    else:
        advice = "CONFIG SET maxmemory-policy noeviction, and in redis.conf; the cache belongs on a Redis of its own"
        found.append(Finding(part, "eviction", PROBLEM, f"{policy} drops pages of running crawls when full", advice))
    (loaded,) = await link.execute("SCRIPT", "EXISTS", script.sha())
    if int(loaded):
        found.append(Finding(part, "script", OK, f"loaded ({script.sha()[:12]})"))
    else:
        found.append(Finding(part, "script", OK, "not loaded yet: the first call brings it"))
    return found


async def _cache(link: RedisLink, part: str) -> list[Finding]:
    info = await _info(link)
    policy, limit = info.get("maxmemory_policy", "noeviction"), int(info.get("maxmemory", "0"))
    if limit and policy.startswith("allkeys"):
        return [Finding(part, "eviction", OK, f"{policy} at {limit // 2**20} MiB")]
    advice = "CONFIG SET maxmemory 256mb and maxmemory-policy allkeys-lru, and in redis.conf"
    return [Finding(part, "eviction", NOTE, "it grows until its answers expire, or refuses them when full", advice)]


async def _info(link: RedisLink) -> dict[str, str]:
    text = (await link.execute("INFO")).decode()
    return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)


def _advice(error: CrawlfarmError) -> str:
    text = error.message
    if "NOPERM" in text or "lacks a right" in text:
        return "ACL SETUSER: the user needs ~crawlfarm:* &crawlfarm:* and +@all -@admin, +info, +script"
    if "WRONGPASS" in text or "NOAUTH" in text or "invalid" in text:
        return "put the right user name and password into the URL"
    if "MISCONF" in text or "OOM" in text:
        return "make room: disk, or maxmemory"
    return "start it, or set the URL of the one that runs"
