"""The lock daemon over TCP: connections that break, daemons that come and go."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, gatherResults

from crawlfarm.adapters.lockd.client import LockdClient
from crawlfarm.config import Config
from crawlfarm.errors import ConfigError, CrawlfarmError, Unavailable
from crawlfarm.wire import frames, lockd
from crawlfarm.wire.pages import Progress
from lockd.server import LockServer
from tests.support.lockpeers import DEADLINE_S, LocksCase, Never, register, until
from tests.support.proxy import TcpProxy
from tests.support.servers.base import free_ports


class ReconnectTests(LocksCase):
    async def test_cut_again_and_again(self) -> None:
        """Connections cut amid pipelined commands lose none and have none decided twice."""
        served = await self.serve()
        proxy = TcpProxy.start(self, to=f"127.0.0.1:{served.port}")
        proxy.delay_s = 0.002
        client = served.client(self, f"tcp:127.0.0.1:{proxy.port}", give_up_s=DEADLINE_S)
        names = [f"j{n}" for n in range(600)]
        answered = 0

        def count(answer: Any) -> Any:
            nonlocal answered
            answered += 1
            if answered % 97 == 0:
                proxy.cut()
            return answer

        async def life(job: str) -> tuple[lockd.Answer, int]:
            registered = await client.call(register(job)).addCallback(count)
            self.assertEqual(registered, lockd.Registered(job, created=True, joined=False))
            granted = await client.call(lockd.Acquire("m", job)).addCallback(count)
            self.assertEqual(granted.job, job)
            done = await client.call(lockd.Complete("m", job, granted.token, "done")).addCallback(count)
            return done, granted.token

        async def lives(some: list[str]) -> list[tuple[lockd.Answer, int]]:
            return [await life(job) for job in some]

        found = await gatherResults([Deferred.fromCoroutine(lives(names[n::60])) for n in range(60)])
        ends = [end for some in found for end in some]
        self.assertEqual({done for done, _ in ends}, {lockd.Done(job) for job in names})
        self.assertEqual(len({token for _, token in ends}), len(names))
        self.assertEqual(len(served.daemon.decided), 3 * len(names))
        self.assertGreater(proxy.counts.accepted, 10)

    async def test_an_overdue_job_is_granted_once(self) -> None:
        """The answer that names another job than was asked for is not lost with its connection."""
        served = await self.serve()
        peer = await self.raw(served, hello=False)
        peer.hello("0123456789abcdef")
        peer.send(frames.Call(1, 0, register("j1")), frames.Call(2, 0, lockd.Acquire("m", "j1")))
        await until(lambda: len(peer.frames) >= 4)
        again = await self.raw(served, hello=False)
        again.hello("0123456789abcdef")
        again.send(frames.Call(2, 2, lockd.Acquire("m", "j1")), frames.Call(3, 2, lockd.Ask("j1", "c")))
        await until(lambda: len(again.frames) >= 4)
        self.assertEqual(again.frames[2], peer.frames[3])
        self.assertEqual(len(served.daemon.decided), 3)
        await peer.gone

    async def test_half_open(self) -> None:
        """A daemon that falls silent without a word is left for another address."""
        served = await self.serve()
        proxy = TcpProxy.start(self, to=f"127.0.0.1:{served.port}")
        client = served.client(
            self, f"tcp:127.0.0.1:{proxy.port}", served.address, give_up_s=DEADLINE_S, ping_s=0.1, silence_s=0.2
        )
        await client.connected()
        await client.call(register("j1"))
        proxy.hold()
        answers = await gatherResults([client.call(lockd.Acquire("m", "j1")), client.call(lockd.Ask("j1", "c"))])
        self.assertEqual([type(answer) for answer in answers], [lockd.Granted, lockd.JobView])

    async def test_a_slow_line(self) -> None:
        """What is slow is waited for."""
        served = await self.serve()
        proxy = TcpProxy.start(self, to=f"127.0.0.1:{served.port}")
        proxy.delay_s = 0.15
        client = served.client(self, f"tcp:127.0.0.1:{proxy.port}", give_up_s=DEADLINE_S, ping_s=0.1, silence_s=2)
        for n in range(3):
            self.assertTrue((await client.call(register(f"j{n}"))).created)
        self.assertEqual(proxy.counts.accepted, 1)

    async def test_stopped_and_back(self) -> None:
        """While the daemon is away calls fail in time, and say why; when it is back they do not."""
        served = await self.serve()
        client = served.client(self, give_up_s=0.5, heartbeat_s=0.3)
        await client.call(register("j1"))
        self.assertTrue(client.healthy)
        self.assertEqual(client.problem, "")
        await served.stop()
        before = reactor.seconds()
        with self.assertRaises(Unavailable) as caught:
            await client.call(lockd.Ask("j1", "c"))
        self.assertLess(reactor.seconds() - before, 5)
        self.assertIn(served.address, caught.exception.message)
        self.assertFalse(client.healthy)
        self.assertIn(served.address, client.problem)
        waiting = client.call(register("j2"))
        await served.start()
        self.assertEqual((await waiting).job, "j2")
        self.assertEqual((await client.call(lockd.Ask("j1", "c"))).state, "queued")

    async def test_stop_answers_first(self) -> None:
        """A daemon that stops answers what it was asked before."""
        served = await self.serve()
        client = served.client(self, give_up_s=2)
        await client.call(register("j0"))
        answers = [client.call(register(f"j{n}")) for n in range(300)]
        await until(lambda: len(served.daemon.decided) > 100)
        await served.stop()
        self.assertTrue(all(answer.called for answer in answers))
        await gatherResults(answers)

    async def test_client_stopped(self) -> None:
        """A client that is stopped fails what it owes, and takes nothing more."""
        served = await self.serve()
        client = served.client(self)
        await client.connected()
        for session in served.server._peers._sessions._sessions.values():
            self.patch(session, "_decide", Never().call)
        owed = client.call(lockd.Ask("j1", "c"))
        await client.stop()
        await self.assertFailure(owed, Unavailable)
        await self.assertFailure(client.call(lockd.Ask("j1", "c")), Unavailable)
        await self.assertFailure(client.connected(), Unavailable)
        await client.stop()

    async def test_cancelled_call(self) -> None:
        """Who does not want the answer any more is not in the way."""
        served = await self.serve()
        client = served.client(self)
        call = client.call(register("j1"))
        call.addErrback(lambda _: None)
        call.cancel()
        self.assertTrue((await client.call(register("j2"))).created)


class NotLeader(CrawlfarmError):
    code = "not_leader"

    def __init__(self, leader: str) -> None:
        super().__init__("another one leads")
        self.leader = leader


class Standby(Never):
    """Does not decide, and knows who does."""

    def __init__(self, leader: str) -> None:
        self.leader = leader
        self.asked = 0

    def call(self, command: lockd.Command) -> Deferred[lockd.Answer]:
        self.asked += 1
        return fail(NotLeader(self.leader))


class AddressTests(LocksCase):
    async def standby(self, leader: str = "") -> tuple[Standby, str]:
        decides = Standby(leader)
        server = LockServer(reactor, Config(lockd_listen="tcp:0:interface=127.0.0.1"), decides)
        await server.start()
        self.addCleanup(server.stop)
        return decides, server.endpoints[0]

    async def test_first_dead(self) -> None:
        """An address where nobody listens is passed over."""
        served = await self.serve()
        client = served.client(self, f"tcp:127.0.0.1:{free_ports(1)[0]}", served.address)
        self.assertTrue((await client.call(register("j1"))).created)

    async def test_first_mute(self) -> None:
        """So is one that takes connections and says nothing."""
        served = await self.serve()
        proxy = TcpProxy.start(self, to=f"127.0.0.1:{served.port}")
        proxy.hold()
        client = served.client(self, f"tcp:127.0.0.1:{proxy.port}", served.address)
        self.assertTrue((await client.call(register("j1"))).created)

    async def test_not_leader(self) -> None:
        """Who does not decide is left for who does: the one it names, or the next."""
        served = await self.serve()
        one, one_at = await self.standby(served.address)
        two, two_at = await self.standby()
        client = served.client(self, one_at, two_at, served.address)
        answers = await gatherResults([client.call(register(f"j{n}")) for n in range(20)])
        self.assertEqual({answer.created for answer in answers}, {True})
        self.assertGreater(one.asked, 0)
        self.assertEqual(two.asked, 0)
        other = served.client(self, two_at, served.address)
        self.assertTrue((await other.call(register("k"))).created)
        self.assertGreater(two.asked, 0)

    async def test_nobody_leads(self) -> None:
        """While nobody decides, calls fail in time and say so."""
        _, at = await self.standby()
        client = LockdClient(reactor, [at])
        self.addCleanup(client.stop)
        client.start()
        with self.assertRaises(Unavailable) as caught:
            await client.call(lockd.Heartbeat("m", "j", 1, Progress()))
        self.assertIn("another one leads", caught.exception.message)

    def test_no_address(self) -> None:
        """What is no endpoint is refused by the name of the setting."""
        for addresses in ((), ("x",), ("tcp:127.0.0.1",), ("tcp:127.0.0.1:http",), ("http://a:1",)):
            with self.assertRaises(ConfigError) as caught:
                LockdClient(reactor, addresses)
            self.assertIn("CRAWLFARM_LOCKD", str(caught.exception))


class CancelTests(LocksCase):
    async def test_pushed_after_a_reconnect(self) -> None:
        """A master hears of cancels on its next connection, too."""
        served = await self.serve()
        proxy = TcpProxy.start(self, to=f"127.0.0.1:{served.port}")
        master = served.client(self, f"tcp:127.0.0.1:{proxy.port}", give_up_s=DEADLINE_S)
        gateway = served.client(self)
        heard: Deferred[lockd.CancelWanted] = Deferred()
        self.addCleanup(master.watch("m", heard.callback))
        await gateway.call(register("j1"))
        token = (await master.call(lockd.Acquire("m", "j1"))).token
        proxy.cut()
        await until(lambda: proxy.counts.accepted == 2 and master.healthy)
        await master.call(lockd.Ask("j1", "c"))
        await gateway.call(lockd.CancelJob("j1", "c"))
        self.assertEqual((await heard).token, token)

    async def test_no_watcher_left(self) -> None:
        """A daemon keeps no watcher of a connection that is gone."""
        served = await self.serve()
        client = served.client(self)
        client.watch("m", lambda _: None)
        await client.call(register("j1"))
        self.assertEqual(list(served.daemon._watchers), ["m"])
        await client.stop()
        await until(lambda: not served.daemon._watchers)
