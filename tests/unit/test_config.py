"""The configuration: every value checked once, and refused by the name of its variable."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from crawlfarm.config import Config, Timings, parse_networks
from crawlfarm.errors import ConfigError
from tests.support.examples import examples


class ConfigTests(SynchronousTestCase):
    def refused(self, name: str, value: str, **others: str) -> str:
        """The error's text, which names the variable."""
        with self.assertRaises(ConfigError, msg=f"{name}={value!r}") as caught:
            Config.from_environ({name: value, **others})
        text = str(caught.exception)
        self.assertIn(name, text)
        self.assertNotIn("\n", text)
        return text

    def test_defaults(self) -> None:
        """Nothing needs to be set, and what is set empty is not set."""
        self.assertEqual(Config.from_environ({}), Config())
        empty = dict.fromkeys(
            ["CRAWLFARM_GATEWAY_LISTEN", "CRAWLFARM_RUN_DIR", "CRAWLFARM_SLOTS", "CRAWLFARM_HEARTBEAT_S"], ""
        )
        self.assertEqual(Config.from_environ(empty), Config())
        self.assertEqual(Config().database_path, Path(".run/crawlfarm.sqlite"))

    def test_everything_set(self) -> None:
        """Each variable reaches its field."""
        config = Config.from_environ(
            {
                "CRAWLFARM_GATEWAY_LISTEN": "tcp:1",
                "CRAWLFARM_DATABASE_URL": "sqlite:////var/lib/x.db",
                "CRAWLFARM_RUN_DIR": "/run/x",
                "CRAWLFARM_ALLOW_NETWORKS": "127.0.0.0/8, fd00::/8,",
                "CRAWLFARM_MAX_ATTEMPTS": "4",
                "CRAWLFARM_PAGE_ATTEMPTS": "5",
                "CRAWLFARM_HOST_CONCURRENCY": "6",
                "CRAWLFARM_SLOTS": "7",
                "CRAWLFARM_HEARTBEAT_S": "0.5",
                "CRAWLFARM_JOB_LEASE_S": "2",
                "CRAWLFARM_STUCK_S": "3",
                "CRAWLFARM_PAGE_LEASE_S": "1.5",
                "UNRELATED": "x",
            }
        )
        self.assertEqual((config.gateway_listen, config.run_dir), ("tcp:1", Path("/run/x")))
        self.assertEqual(config.database_path, Path("/var/lib/x.db"))
        self.assertEqual((config.max_attempts, config.page_attempts), (4, 5))
        self.assertEqual((config.host_concurrency, config.slots), (6, 7))
        self.assertEqual([str(network) for network in config.allow_networks], ["127.0.0.0/8", "fd00::/8"])
        self.assertEqual(config.timings, Timings(heartbeat_s=0.5, job_lease_s=2.0, stuck_s=3.0, page_lease_s=1.5))

    def test_counts(self) -> None:
        """A count is a whole number from 1 to 100,000."""
        for value in ("0", "-1", "1.5", "x", "100001", "9" * 99, "٣", " 1", "1e2"):
            for name in ("MAX_ATTEMPTS", "PAGE_ATTEMPTS", "HOST_CONCURRENCY", "SLOTS"):
                self.refused(f"CRAWLFARM_{name}", value)

    def test_seconds(self) -> None:
        """A time is a finite number above 0."""
        for value in ("0", "-1", "nan", "inf", "x", "1e9"):
            for name in Timings.__dataclass_fields__:
                self.refused(f"CRAWLFARM_{name.upper()}", value)

    def test_timings_together(self) -> None:
        """A job lease of less than three heartbeats, or longer than what is stuck, is refused."""
        self.assertIn("CRAWLFARM_HEARTBEAT_S", self.refused("CRAWLFARM_JOB_LEASE_S", "14"))
        self.assertIn("CRAWLFARM_JOB_LEASE_S", self.refused("CRAWLFARM_HEARTBEAT_S", "11"))
        self.assertIn("CRAWLFARM_JOB_LEASE_S", self.refused("CRAWLFARM_STUCK_S", "29"))
        Config.from_environ({"CRAWLFARM_JOB_LEASE_S": "15", "CRAWLFARM_STUCK_S": "15"})

    def test_networks(self) -> None:
        """A network that is none is refused, with the one that is wrong."""
        for value in ("127.0.0.1/8", "x", "10.0.0.0/8,300.0.0.0/8", "10.0.0.0/33"):
            self.assertIn(value.split(",")[-1], self.refused("CRAWLFARM_ALLOW_NETWORKS", value))
        self.assertEqual(parse_networks("10.0.0.1", "x"), (ipaddress.ip_network("10.0.0.1/32"),))

    def test_database_url(self) -> None:
        """PostgreSQL or sqlite:///PATH, and an error does not repeat what may hold a password."""
        for value in ("mysql://u:hunter2@h/d", "postgresql:/u:hunter2@h/d", "sqlite://", "sqlite:///", "x"):
            self.assertNotIn("hunter2", self.refused("CRAWLFARM_DATABASE_URL", value))
        config = Config.from_environ({"CRAWLFARM_DATABASE_URL": "postgresql://u:hunter2@h/d"})
        self.assertIsNone(config.database_path)
        self.assertNotIn("hunter2", repr(config))

    def test_servers_are_not_ignored(self) -> None:
        """A server this version cannot use is refused, not quietly done without."""
        for name in ("BROKER_URL", "FRONTIER_URL", "CACHE_URL", "DATABASE_READ_URL", "TOKENS_FILE"):
            self.refused(f"CRAWLFARM_{name}", "x://y")

    def test_secret(self) -> None:
        """The lock daemons' secret is read from a file, and is in no error and no repr."""
        name = "CRAWLFARM_LOCKD_SECRET_FILE"
        path = Path(self.mktemp())
        self.assertIn(str(path), self.refused(name, str(path)))
        self.refused(name, "a\0b")
        self.refused(name, "/")
        path.write_text("fifteen letters")
        self.assertNotIn("fifteen", self.refused(name, str(path)))
        path.write_bytes(b"\xff" * 40)
        self.refused(name, str(path))
        path.write_text("  a secret of some length\n")
        config = Config.from_environ({name: str(path)})
        self.assertEqual(config.lockd_secret, "a secret of some length")
        self.assertNotIn("of some length", repr(config))

    @examples(200)
    @given(
        st.dictionaries(
            st.sampled_from(
                [f"CRAWLFARM_{name.upper()}" for name in (*Config.__dataclass_fields__, *Timings.__dataclass_fields__)]
            ),
            st.text(max_size=8) | st.integers().map(str) | st.floats().map(str),
        )
    )
    def test_anything(self, environ: dict[str, str]) -> None:
        """Whatever the environment holds, the answer is a configuration or a ConfigError."""
        try:
            Config.from_environ(environ).timings.check()
        except ConfigError as e:
            self.assertIn("CRAWLFARM_", str(e))
