"""What every ``LockService`` promises, to be mixed into a TestCase; a class a way to reach it.

The table's own tests go into every corner; here is what a caller sees.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from crawlfarm.core.ports import LockService
from crawlfarm.errors import Unavailable
from crawlfarm.wire import lockd
from crawlfarm.wire.jobs import JobSpec
from crawlfarm.wire.pages import Progress, Receipt

SPEC = JobSpec("http://a.example/ä", 3, max_pages=5)
RECEIPT = Receipt(found=2, fetched=1, failed={"dns": 1}, skipped={}, complete=True)


class LockServiceContract:
    """Mixed into a TestCase, which sets :attr:`locks` to a service without jobs."""

    timeout = 30
    locks: LockService

    async def daemon_away(self) -> None:
        """From now on nobody decides."""
        raise NotImplementedError

    # --- short words ------------------------------------------------------------------------

    def register(self, job: str, client: str = "c", id: str = "", flight: str = "", body: str = "") -> Awaitable[Any]:
        name = id or job
        return self.locks.call(
            lockd.Register(job, client, name, body or f"body {name}", flight or f"flight {job}", SPEC)
        )

    def acquire(self, job: str, master: str = "m1") -> Awaitable[Any]:
        return self.locks.call(lockd.Acquire(master, job))

    def beat(self, job: str, token: int, fetched: int = 1, master: str = "m1") -> Awaitable[Any]:
        return self.locks.call(lockd.Heartbeat(master, job, token, Progress(fetched=fetched)))

    def complete(self, job: str, token: int, master: str = "m1") -> Awaitable[Any]:
        return self.locks.call(lockd.Complete(master, job, token, "done", RECEIPT))

    def release(self, job: str, token: int, master: str = "m1") -> Awaitable[Any]:
        return self.locks.call(lockd.Release(master, job, token))

    def cancel(self, job: str, client: str = "c", ids: tuple[str, ...] | None = None) -> Awaitable[Any]:
        return self.locks.call(lockd.CancelJob(job, client, ids, "enough"))

    def ask(self, job: str, client: str = "c") -> Awaitable[Any]:
        return self.locks.call(lockd.Ask(job, client))

    async def granted(self, job: str, master: str = "m1") -> int:
        """The token of a new job's lease."""
        await self.register(job)
        answer = await self.acquire(job, master)
        assert isinstance(answer, lockd.Granted), answer
        return answer.token

    # --- one job's way ----------------------------------------------------------------------

    async def test_from_start_to_end(self: Any) -> None:
        """A job is registered, leased, kept, completed; who may ask sees each state."""
        self.assertEqual(await self.register("j1"), lockd.Registered("j1", created=True, joined=False))
        self.assertEqual((await self.ask("j1")).state, "queued")
        granted = await self.acquire("j1")
        self.assertEqual((granted.job, granted.attempt, granted.spec, granted.cancel), ("j1", 1, SPEC, ""))
        self.assertGreater(granted.token, 0)
        self.assertEqual(await self.beat("j1", granted.token, 7), lockd.Beat(granted.ttl_s))
        view = await self.ask("j1")
        self.assertEqual((view.state, view.progress.fetched), ("running", 7))
        self.assertEqual(await self.complete("j1", granted.token), lockd.Done("j1"))
        self.assertEqual(await self.ask("j1"), lockd.JobView("j1", "done", SPEC, Progress(fetched=7), receipt=RECEIPT))

    async def test_register_again(self: Any) -> None:
        """The same id gives the same job, with another body a conflict; the same question joins."""
        await self.register("j1", id="a", flight="f")
        self.assertEqual(
            await self.register("j2", id="a", flight="f"), lockd.Registered("j1", created=False, joined=False)
        )
        self.assertEqual((await self.register("j2", id="a", body="other")).code, "id_conflict")
        self.assertEqual(
            await self.register("j3", client="d", flight="f"), lockd.Registered("j1", created=False, joined=True)
        )

    async def test_one_holder(self: Any) -> None:
        """A leased job is refused to others, granted again under the same token to who has it."""
        token = await self.granted("j1")
        refused = await self.acquire("j1", "m2")
        self.assertEqual(refused.code, "leased")
        self.assertEqual((await self.acquire("j1")).token, token)
        self.assertEqual((await self.acquire("nothing")).code, "unknown_job")

    async def test_fenced(self: Any) -> None:
        """Neither another token nor another master writes under a lease."""
        token = await self.granted("j1")
        for wrong, master in ((token + 1, "m1"), (token, "m2")):
            self.assertEqual(await self.beat("j1", wrong, master=master), lockd.Fenced("j1"))
            self.assertEqual(await self.complete("j1", wrong, master), lockd.Fenced("j1"))
            self.assertEqual(await self.release("j1", wrong, master), lockd.Fenced("j1"))
        self.assertEqual((await self.ask("j1")).state, "running")

    async def test_twice(self: Any) -> None:
        """What is done again is done; tokens grow from lease to lease."""
        first = await self.granted("j1")
        self.assertEqual(await self.release("j1", first), lockd.Done("j1"))
        self.assertEqual(await self.release("j1", first), lockd.Done("j1"))
        second = (await self.acquire("j1", "m2")).token
        self.assertGreater(second, first)
        self.assertEqual(await self.complete("j1", second, "m2"), lockd.Done("j1"))
        self.assertEqual(await self.complete("j1", second, "m2"), lockd.Done("j1"))
        self.assertEqual(await self.complete("j1", first), lockd.Fenced("j1"))
        self.assertEqual((await self.acquire("j1")).code, "ended")

    async def test_only_for_its_clients(self: Any) -> None:
        """A client learns nothing of others' jobs."""
        await self.register("j1")
        self.assertEqual((await self.ask("j1", "d")).code, "unknown_job")
        self.assertEqual((await self.cancel("j1", "d")).code, "unknown_job")

    # --- cancels ----------------------------------------------------------------------------

    async def test_cancel_before_a_lease(self: Any) -> None:
        """A queued job nobody wants any more has ended."""
        await self.register("j1")
        self.assertEqual(await self.cancel("j1"), lockd.Done("j1"))
        self.assertEqual((await self.ask("j1")).state, "cancelled")

    async def test_cancel_is_pushed(self: Any) -> None:
        """The holder hears of a cancel at once, and with each heartbeat; others do not."""
        heard: Deferred[lockd.CancelWanted] = Deferred()
        others: list[lockd.CancelWanted] = []
        self.addCleanup(self.locks.watch("m1", heard.callback))
        self.addCleanup(self.locks.watch("m2", others.append))
        token = await self.granted("j1")
        await self.cancel("j1")
        self.assertEqual(await heard, lockd.CancelWanted("j1", token, "enough"))
        self.assertEqual((await self.beat("j1", token)).cancel, "enough")
        self.assertEqual(others, [])

    async def test_cancel_of_one_client(self: Any) -> None:
        """A job goes on for the others that wait for it."""
        await self.register("j1", flight="f")
        await self.register("j2", client="d", flight="f")
        await self.cancel("j1")
        self.assertEqual((await self.ask("j1", "d")).state, "queued")
        await self.cancel("j1", "d")
        self.assertEqual((await self.ask("j1", "d")).state, "cancelled")

    async def test_watching_ends(self: Any) -> None:
        """Two may watch a master; who stopped hears nothing more, and may stop twice."""
        stopped: list[lockd.CancelWanted] = []
        heard: Deferred[lockd.CancelWanted] = Deferred()
        stop = self.locks.watch("m1", stopped.append)
        self.addCleanup(self.locks.watch("m1", heard.callback))
        stop()
        stop()
        await self.granted("j1")
        await self.cancel("j1")
        self.assertEqual((await heard).job, "j1")
        self.assertEqual(stopped, [])

    async def test_a_watcher_fails(self: Any) -> None:
        """Who fails on a cancel costs others nothing."""

        def fail(_: lockd.CancelWanted) -> None:
            raise RuntimeError("on purpose")

        heard: Deferred[lockd.CancelWanted] = Deferred()
        self.addCleanup(self.locks.watch("m1", fail))
        self.addCleanup(self.locks.watch("m1", heard.callback))
        await self.granted("j1")
        await self.cancel("j1")
        await heard
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    # --- many -------------------------------------------------------------------------------

    async def test_in_order(self: Any) -> None:
        """Commands are decided in the order of the calls, without waiting for answers."""
        answers = [self.register("j1"), self.acquire("j1"), self.acquire("j1", "m2"), self.ask("j1")]
        created, granted, refused, view = [await answer for answer in answers]
        self.assertTrue(created.created)
        self.assertEqual((granted.job, refused.code, view.state), ("j1", "leased", "running"))

    async def test_many_at_once(self: Any) -> None:
        """Each of many commands gets its own answer."""
        names = [f"j{n}" for n in range(1500)]
        await gatherResults([self.register(name) for name in names])
        granted = await gatherResults([self.acquire(name) for name in names])
        self.assertEqual([answer.job for answer in granted], names)
        self.assertEqual(len({answer.token for answer in granted}), len(names))
        done = await gatherResults([self.complete(answer.job, answer.token) for answer in granted])
        self.assertEqual([answer.job for answer in done], names)

    async def test_away(self: Any) -> None:
        """While nobody decides, every call says so."""
        token = await self.granted("j1")
        await self.daemon_away()
        for answer in (self.register("j2"), self.acquire("j1"), self.beat("j1", token), self.ask("j1")):
            with self.assertRaises(Unavailable):
                await answer
