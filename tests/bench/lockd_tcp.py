"""How many durable commands a second the lock daemon takes over TCP, on SQLite.

One process serves, this one loads: each connection runs a number of jobs at a time through
Register, Acquire and Complete. ``python -m tests.bench.lockd_tcp [--connections N]``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet import asyncioreactor

if "twisted.internet.reactor" not in sys.modules:
    asyncioreactor.install()

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from crawlfarm.adapters.lockd.client import LockdClient, Patience
from crawlfarm.wire import lockd
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Progress
from tests.bench.rows import scratch
from tests.support.locks import ServedLocks
from tests.support.processes import Child

SPEC = JobSpec("http://a.example/some/page.html", 5)
IN_FLIGHT = 1024
"""Jobs at a time, over all connections."""


async def serve(directory: str) -> None:
    served = ServedLocks(Path(directory), counted=False)
    await served.start()
    print(json.dumps({"ready": "lockd", "endpoints": served.server.endpoints}), flush=True)  # noqa: T201
    await Deferred()


async def load(address: str, connections: int, seconds: float, heartbeats: int) -> dict[str, Any]:
    clients = [LockdClient(reactor, [address], patience=Patience(give_up_s=30)) for _ in range(connections)]
    for client in clients:
        client.start()
    await gatherResults([client.connected() for client in clients])
    end = time.monotonic() + seconds
    took: list[float] = []
    beats = 0

    async def timed(client: LockdClient, command: lockd.Command) -> Any:
        begin = time.monotonic()
        answer = await client.call(command)
        took.append(time.monotonic() - begin)
        return answer

    async def lives(number: int, client: LockdClient) -> None:
        nonlocal beats
        count, master = 0, f"m{number}"
        while time.monotonic() < end:
            count += 1
            job = f"{os.getpid()}-{connections}-{heartbeats}-{number}-{count}"
            await timed(client, lockd.Register(job, "c", job, job, job, SPEC))
            granted = await timed(client, lockd.Acquire(master, job))
            for fetched in range(heartbeats):
                await client.call(lockd.Heartbeat(master, job, granted.token, Progress(fetched=fetched)))
                beats += 1
            await timed(client, lockd.Complete(master, job, granted.token, "done"))

    begin, used = time.monotonic(), time.process_time()
    every = range(max(IN_FLIGHT, connections))
    await gatherResults([Deferred.fromCoroutine(lives(n, clients[n % connections])) for n in every])
    wall = time.monotonic() - begin
    used = time.process_time() - used
    await gatherResults([client.stop() for client in clients])
    took.sort()
    return {
        "connections": connections,
        "durable/s": round(len(took) / wall),
        "heartbeats/s": round(beats / wall),
        "p50 ms": round(1000 * statistics.median(took), 1),
        "p99 ms": round(1000 * took[int(len(took) * 0.99)], 1),
        "loader CPU": round(used / wall, 2),
        "wall": wall,
    }


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=scratch()) as directory:
        for connections in options.connections or [64, 512]:
            for heartbeats in (0, 4):
                where = Path(directory) / f"{connections}-{heartbeats}"
                with Child(["python", "-m", "tests.bench.lockd_tcp", "--serve", str(where)]) as child:
                    (address,) = child.wait_ready()["endpoints"]
                    before = cpu_s(child.pid)
                    row = await load(address, connections, options.seconds, heartbeats)
                    row["lockd CPU"] = round((cpu_s(child.pid) - before) / row.pop("wall"), 2)
                print(json.dumps(row), flush=True)  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", metavar="DIRECTORY")
    parser.add_argument("--connections", type=int, nargs="*")
    parser.add_argument("--seconds", type=float, default=10.0)
    parsed = parser.parse_args()
    todo = Deferred.fromCoroutine(serve(parsed.serve) if parsed.serve else main(parsed))
    todo.addErrback(lambda failure: failure.printTraceback())
    todo.addBoth(lambda _: reactor.stop())
    reactor.run()
