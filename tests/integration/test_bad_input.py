"""What cannot be done is refused before anything is done: one line, exit 2."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field

from tests.support.commands import CommandTests, free_port

URL = "http://example.invalid/"


@dataclass(frozen=True)
class Wrong:
    """A command line, and all that its error must name."""

    command: str
    arguments: list[str]
    names: list[str]
    environ: dict[str, str] = field(default_factory=dict)
    code: int = 2
    hides: str = "Traceback"


def run(*arguments: str, names: str, hides: str = "Traceback", command: str = "run") -> Wrong:
    return Wrong(command, list(arguments), names.split("|"), hides=hides)


LONG = "http://example.invalid/" + "x" * 2083
URLS = [
    run("--depth", "2", names="url|https://example.com/"),
    run("", "--depth", "2", names="url|https://example.com/"),
    run("example.com", "--depth", "2", names="url|'example.com'|no scheme|https://example.com"),
    run("example.com:8080/x", "--depth", "2", names="url|no scheme|https://example.com:8080/x"),
    run("//example.com/", "--depth", "2", names="url|no scheme"),
    run("ftp://example.com/", "--depth", "2", names="url|'ftp'|http and https"),
    run("javascript:alert(1)", "--depth", "2", names="url|'javascript'|http and https"),
    run("file:///etc/passwd", "--depth", "2", names="url|'file'|http and https"),
    run("http://", "--depth", "2", names="url|no host"),
    run("http:///x", "--depth", "2", names="url|no host"),
    run("http://example.com:0/", "--depth", "2", names="url|port 0|1 to 65535"),
    run("http://example.com:99999/", "--depth", "2", names="url|port|1 to 65535"),
    run("http://example.com:x/", "--depth", "2", names="url|port|1 to 65535"),
    run("http://me:geheim@example.com/", "--depth", "2", names="url|user name or password", hides="geheim"),
    run("http://geheim@example.com/", "--depth", "2", names="url|user name or password", hides="geheim"),
    run("http://exa mple.com/", "--depth", "2", names="url|host|'exa mple.com'"),
    run("http://xn--a/", "--depth", "2", names="url|host|'xn--a'"),
    run("http://ex\u2603\u200dample.com/", "--depth", "2", names="url|host"),
    run("http://[::1/", "--depth", "2", names="url|host"),
    run("http://[g::1]/", "--depth", "2", names="url|'g::1'|IPv6"),
    run("http://example.com/\x1b[31m", "--depth", "2", names="url|control characters", hides="\x1b"),
    run("http://example.com/\n", "http://example.com/", "--depth", "2", names="unexpected extra argument"),
    run(LONG, "--depth", "2", names="url|2106|2083", hides="xxxxx"),
]
OPTIONS = [
    run(URL, names="--depth|1 to 1000"),
    run(URL, "--depth", "0", names="--depth|'0'|1 to 1000"),
    run(URL, "--depth", "-1", names="--depth|'-1'|1 to 1000"),
    run(URL, "--depth", "1.5", names="--depth|'1.5'|1 to 1000"),
    run(URL, "--depth", "x", names="--depth|'x'|1 to 1000"),
    run(URL, "--depth", "", names="--depth|1 to 1000"),
    run(URL, "--depth", "1000000000", names="--depth|1000000000|1 to 1000"),
    run(URL, "--depth", "1001", names="--depth|1001|1 to 1000"),
    run(URL, "--depth", "9" * 5000, names="--depth|1 to 1000", hides="9" * 100),
    run(URL, "--depth", names="--depth"),
    run(URL, "--depth", "2", "--scope", "galaxy", names="--scope|'galaxy'|any, host"),
    run(URL, "--depth", "2", "--scope", "domain", names="--scope|'domain'|any, host"),
    run(URL, "--depth", "2", "--max-pages", "0", names="--max-pages|0|1 to 1000000000"),
    run(URL, "--depth", "2", "--max-pages", "-1", names="--max-pages|-1|1 to 1000000000"),
    run(URL, "--depth", "2", "--max-pages", "x", names="--max-pages|'x'|1 to 1000000000"),
    run(URL, "--depth", "2", "--max-pages", "2.5", names="--max-pages|'2.5'|1 to 1000000000"),
    run(URL, "--depth", "2", "--max-pages", "9" * 5000, names="--max-pages|1 to 1000000000", hides="9" * 100),
    *(
        run(URL, "--depth", "2", *option.split(), names=f"no such option|{option.split()[0]}|crawlfarm run --help")
        for option in ("--robots obey", "--include x", "--exclude x", "--deadline 3", "--fresh", "--sitemap x")
    ),
    run(URL, "--dpeth", "2", names="--dpeth|--depth"),
    run(URL, URL, "--depth", "2", names="unexpected extra argument|crawlfarm run --help"),
    run("--sample", URL, names="--sample"),
    run(URL, "--depth", "2", "--allow-network", "127.0.0", names="--allow-network|'127.0.0'|127.0.0.0/8"),
    run(URL, "--depth", "2", "--allow-network", "127.0.0.1/8", names="--allow-network|'127.0.0.1/8'"),
    run(URL, "--depth", "2", "--allow-network", "localhost", names="--allow-network|'localhost'"),
    run("bogus", names="no such command|'bogus'", command=""),
    run("--workers", "2", names="--workers|CRAWLFARM_FRONTIER_URL", command="up"),
    run("--masters", "2", names="--masters|CRAWLFARM_BROKER_URL", command="up"),
    run("--gateways", "2", names="--gateways|CRAWLFARM_BROKER_URL", command="up"),
    run("--workers", "0", names="--workers|0|1<=", command="up"),
    run("--workers", "x", names="--workers|'x'|whole number", command="up"),
    run(
        URL, "--depth", "2", "--allow-network", "127.0.0.0/8", names="no such option|--allow-network", command="submit"
    ),
    run("--depth", "2", names="url", command="submit"),
    run(URL, "--depth", "2", "--detach", "-o", "x.json", names="--detach|crawlfarm resume JOB", command="submit"),
    run(URL, "--depth", "2", "--id", "", names="id|1 to 128", command="submit"),
    *(run(names=f"'JOB'|crawlfarm {command} --help", command=command) for command in ("resume", "status", "cancel")),
]
GATEWAYS = [
    run("x", "--gateway", wrong, names="gateway|ws://127.0.0.1:8080", command="status")
    for wrong in ("", "x", "http://127.0.0.1:8080", "ws://", "ws://127.0.0.1:99999", "ws://127.0.0.1:x", "ws://[::1")
]
GATEWAYS.append(
    run("x", "--gateway", "ws://me:geheim@127.0.0.1/", names="gateway|password", hides="geheim", command="status")
)
VARIABLES = [
    Wrong("up", [], [name, *names.split("|")], {name: value})
    for name, value, names in (
        ("CRAWLFARM_ALLOW_NETWORKS", "10.0.0.0/33", "'10.0.0.0/33'"),
        ("CRAWLFARM_BROKER_URL", "bogus://x/", "amqp"),
        ("CRAWLFARM_DATABASE_URL", "mysql://x/y", "sqlite"),
        ("CRAWLFARM_TOKENS_FILE", "x", "unset"),
        ("CRAWLFARM_GATEWAY_LISTEN", "bogus", "tcp:8080:interface=127.0.0.1"),
        ("CRAWLFARM_GATEWAY_LISTEN", "tcp:99999:interface=127.0.0.1", "tcp:99999"),
        ("CRAWLFARM_GATEWAY_LISTEN", "tcp:0:interface=0.0.0.0", "127.0.0.1"),
        ("CRAWLFARM_HEARTBEAT_S", "x", "'x'|seconds"),
        ("CRAWLFARM_HEARTBEAT_S", "-1", "'-1'|seconds"),
        ("CRAWLFARM_HEARTBEAT_S", "nan", "'nan'|seconds"),
        ("CRAWLFARM_JOB_LEASE_S", "6", "CRAWLFARM_HEARTBEAT_S"),
        ("CRAWLFARM_SLOTS", "0", "1 to 100000|'0'"),
        ("CRAWLFARM_SLOTS", "many", "1 to 100000|'many'"),
        ("CRAWLFARM_RUN_DIR", "/proc/nowhere", "/proc/nowhere"),
    )
]


class BadInputTests(CommandTests):
    """Each error is one line on stderr that names what is wrong, where, and what is allowed."""

    def check(self, wrongs: list[Wrong]) -> None:
        asked = self.folder / "asked.json"
        asked.write_text(
            json.dumps([{"arguments": [*w.command.split(), *w.arguments], "environ": w.environ} for w in wrongs])
        )
        runs = self.start_other([sys.executable, "-m", "tests.support.forked", str(asked)])
        answers = json.loads(self.output_of(runs))
        bad = []
        for wrong, answer in zip(wrongs, answers, strict=True):
            line = answer["stderr"]
            missing = [name for name in wrong.names if name not in line]
            shape = line.startswith("crawlfarm: error: ") and line.count("\n") == 1 and line.endswith("\n")
            short = len(line) < 400
            if answer["code"] != wrong.code or answer["stdout"] or missing or not shape or not short:
                bad.append(f"{wrong}\n  -> {answer}\n  missing {missing}")
            elif wrong.hides in line or "Traceback" in line:
                bad.append(f"{wrong}\n  -> {line}\n  shows {wrong.hides!r}")
        self.assertEqual(bad, [], "\n".join(bad))

    def test_urls(self) -> None:
        """Before any directory is made."""
        self.check(URLS)
        self.assertFalse(self.run_dir.exists())

    def test_options(self) -> None:
        """Those that other versions know too: they are refused, not ignored."""
        self.check(OPTIONS)
        self.assertFalse(self.run_dir.exists())

    def test_gateways(self) -> None:
        """Wrong ones are exit 2; one where nobody answers, or not a gateway, is exit 1."""
        self.check(GATEWAYS)
        nobody = f"ws://127.0.0.1:{free_port()}"
        self.check(
            [
                Wrong(command, [*more, "--gateway", nobody], [nobody, "refused", "crawlfarm up"], code=1)
                for command, more in (("status", ["x"]), ("submit", [URL, "--depth", "2"]), ("resume", ["x"]))
            ]
        )

    def test_variables(self) -> None:
        """The variable is named."""
        self.check(VARIABLES)

    def test_outputs(self) -> None:
        """Where nothing can be written is known before the crawl; what is there stays."""
        folder = self.folder / "folder.json"
        folder.mkdir()
        file = self.folder / "file.txt"
        file.write_text("mine")
        wrong = {
            str(self.folder / "missing" / "x.json"): "no directory",
            str(file / "x.json"): "no directory",
            str(folder): "it is a directory",
            str(file): ".json, .jsonl or .csv",
            "": "''",
            "x": ".json, .jsonl or .csv",
            "x.json.gz": ".json, .jsonl or .csv",
            "/proc/x.json": "'/proc/x.json'",
            "x" * 300 + ".json": "too long",
        }
        if os.geteuid() != 0:
            closed = self.folder / "closed"
            closed.mkdir(mode=0o555)
            wrong[str(closed / "x.json")] = "Permission denied"
        self.check(
            [
                run(URL, "--depth", "2", "-o", output, names=f"output|cannot be written|{why}")
                for output, why in wrong.items()
            ]
        )
        self.assertEqual(file.read_text(), "mine")
        self.assertEqual(list(folder.iterdir()), [])
        self.assertFalse(self.run_dir.exists())

    def test_unknown_jobs(self) -> None:
        """A farm that does not know the job says so; the id is taken as it is."""
        self.up()
        self.check(
            [
                Wrong(command, [job, "--gateway", self.gateway], ["job", *names])
                for command in ("status", "cancel", "resume")
                for job, names in (("nope", ["no such job"]), ("../../x", ["no such job"]), ("x" * 200, ["1 to 128"]))
            ]
        )
