"""Imports point one way: the rule of DESIGN.md, section 2, held by walking every import.

``errors <- wire <- core <- adapters <- frontier <- {middlewares, spiders, master, worker,
cli}``. Each rule is shown to fail on a tree that breaks it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[2]
PACKAGES = ("crawlfarm", "lockd", "wsgate")

_BASE = {"errors", "wire", "core", "config", "adapters"}
_UPPER = {*_BASE, "frontier"}
ALLOWED = {
    "errors": set(),
    "wire": {"errors"},
    "core": {"errors", "wire"},
    "config": {"errors"},
    "adapters": {"errors", "wire", "core", "config"},
    "frontier": _BASE,
    "client": {"errors", "wire", "core"},
    "settings": {"package", "config", "frontier"},
    "package": set(),
    "middlewares": _UPPER,
    "spiders": _UPPER,
    "worker": _UPPER,
    "master": _UPPER,
    "cli": {*_UPPER, "package", "client", "master", "worker", "lockd", "wsgate"},
    "lockd": _BASE,
    "wsgate": _BASE,
}
"""Room to the rooms it may import, besides itself. ``package`` is ``crawlfarm`` itself:
its version."""

ROOM_OF_FILE = {"client": "client", "link": "client", "followed": "client", "settings": "settings", "addon": "settings"}
"""Modules directly in ``crawlfarm`` that are part of a room of another name."""

DRIVERS = {"sqlite3", "redis", "txredisapi", "pika", "psycopg2", "psycopg", "asyncpg", "aiosqlite", "scrapy_redis"}
NO_PICKLE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
DOES_IO = {
    "twisted",
    "scrapy",
    "autobahn",
    "asyncio",
    "socket",
    "ssl",
    "select",
    "selectors",
    "threading",
    "subprocess",
}
CLIENT_NEEDS = {"twisted", "autobahn"}
READS_ENVIRON = {"crawlfarm.config", "crawlfarm.cli.main"}


@dataclass(frozen=True)
class Import:
    """``module`` imports ``name`` (dotted, absolute) in this line."""

    module: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.name}"


def room_of(name: str) -> str | None:
    """The room of a dotted name, or ``None`` when it is not the project's."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return None
    if parts[0] != "crawlfarm":
        return parts[0]
    if len(parts) == 1 or parts[1].startswith("__"):
        return "package"
    return ROOM_OF_FILE.get(parts[1], parts[1])


def imports_of(module: str, source: str, *, package: bool = False) -> Iterator[Import]:
    """Every import in a module's source, wherever it stands; ``import_module`` too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".") if package else module.split(".")[:-1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base]) if base else ".".join(parents)
            for alias in node.names:
                yield Import(module, node.lineno, f"{base}.{alias.name}")
        elif isinstance(node, ast.Call):
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if called in ("import_module", "__import__"):
                argument = node.args[0] if node.args else None
                known = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                yield Import(module, node.lineno, str(argument.value) if known else "a name made at run time")


def environ_reads(module: str, source: str) -> Iterator[Import]:
    """Where a module touches the process's environment."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            names = [alias.name for alias in node.names]
        for name in names:
            if name in ("environ", "environb", "getenv", "getenvb", "putenv"):
                yield Import(module, node.lineno, f"os.{name}")


def faults(modules: dict[str, str], packages: frozenset[str] = frozenset()) -> list[str]:
    """What breaks a rule in a tree given as dotted module name to source; empty when sound."""
    found = []
    for module, source in modules.items():
        room = room_of(module)
        if room not in ALLOWED:
            found.append(f"{module} is in no room")
            continue
        for use in imports_of(module, source, package=module in packages):
            found += [f"{use}: {why}" for why in _why_not(room, use)]
        if module not in READS_ENVIRON:
            found += [f"{use}: only crawlfarm.config reads the environment" for use in environ_reads(module, source)]
    return found


def _why_not(room: str, use: Import) -> Iterator[str]:
    top = use.name.partition(".")[0]
    target = room_of(use.name)
    if top == "a name made at run time":
        yield "such an import cannot be checked"
    if target is not None and target != room and target not in ALLOWED[room]:
        yield f"{room} may not import {target}"
    if top in DRIVERS and room != "adapters":
        yield "drivers are imported in adapters only"
    if top in NO_PICKLE:
        yield "nothing is ever pickled"
    if top in DOES_IO and room in ("errors", "wire", "core"):
        yield f"{room} does no I/O"
    if room == "client" and target is None and top not in CLIENT_NEEDS and top not in sys.stdlib_module_names:
        yield "the client library needs Twisted and Autobahn, nothing else"


def tree() -> tuple[dict[str, str], frozenset[str]]:
    """The project's modules, and which of them are packages."""
    modules, packages = {}, set()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if path.name == "__init__.py":
                name = name.removesuffix(".__init__")
                packages.add(name)
            modules[name] = path.read_text(encoding="utf-8")
    return modules, frozenset(packages)


class ProjectTests(SynchronousTestCase):
    def test_imports_point_one_way(self) -> None:
        """No module of the project breaks a rule."""
        found = faults(*tree())
        self.assertEqual(found, [], "\n" + "\n".join(found))

    def test_everything_is_seen(self) -> None:
        """The walk reaches every room that exists."""
        modules, _ = tree()
        for room in ("wire", "core", "adapters", "frontier"):
            self.assertTrue(any(room_of(module) == room for module in modules), room)


class RuleTests(SynchronousTestCase):
    """Each rule finds the module that breaks it, and lets the sound one pass."""

    def assert_refused(self, module: str, source: str, why: str) -> None:
        found = faults({module: source})
        self.assertEqual(len(found), 1, found)
        self.assertIn(why, found[0])

    def assert_sound(self, module: str, source: str) -> None:
        self.assertEqual(faults({module: source}), [])

    def test_order_of_rooms(self) -> None:
        """A lower room imports no higher one; a higher one may import lower ones."""
        order = ["errors", "wire", "core", "adapters", "frontier", "master"]
        for lower, room in enumerate(order):
            for higher in order[lower + 1 :]:
                self.assert_refused(f"crawlfarm.{room}.x", f"import crawlfarm.{higher}.y", f"{room} may not import")
                self.assert_sound(f"crawlfarm.{higher}.x", f"from crawlfarm.{room} import y")

    def test_every_form_of_import(self) -> None:
        """An import is seen however it is written and wherever it stands."""
        for source in (
            "import crawlfarm.core",
            "import json, crawlfarm.core.urls as urls",
            "from crawlfarm import core",
            "from crawlfarm.core.urls import canonical",
            "from ..core import urls",
            "from .. import core",
            "def f():\n    from crawlfarm.core import urls",
            "if TYPE_CHECKING:\n    import crawlfarm.core",
            "import importlib\nimportlib.import_module('crawlfarm.core')",
            "__import__('crawlfarm.core')",
        ):
            self.assert_refused("crawlfarm.wire.x", source, "wire may not import core")

    def test_relative_import_in_a_package(self) -> None:
        """In ``__init__`` one dot is the package itself."""
        modules = {"crawlfarm.wire": "from . import codec\nfrom ..core import urls"}
        found = faults(modules, frozenset({"crawlfarm.wire"}))
        self.assertEqual(len(found), 1, found)
        self.assertIn("crawlfarm.core.urls", found[0])

    def test_unknown_import(self) -> None:
        """An import that is only known at run time cannot be checked, so it is refused."""
        self.assert_refused("crawlfarm.cli.x", "import_module(name)", "cannot be checked")

    def test_pure_rooms(self) -> None:
        """``wire`` and ``core`` import no Twisted, no Scrapy, no sockets."""
        for room in ("wire", "core"):
            for name in ("twisted.internet.defer", "scrapy", "autobahn.twisted", "asyncio", "socket"):
                self.assert_refused(f"crawlfarm.{room}.x", f"import {name}", "does no I/O")

    def test_drivers(self) -> None:
        """Drivers are imported in ``adapters`` and nowhere else."""
        for driver in sorted(DRIVERS):
            self.assert_refused("lockd.store", f"import {driver}", "drivers")
            self.assert_refused("crawlfarm.frontier.x", f"def f():\n    import {driver}.x", "drivers")
            self.assert_sound("crawlfarm.adapters.x", f"import {driver}")

    def test_lockd_and_wsgate(self) -> None:
        """They never import each other, nor the crawler's upper rooms."""
        self.assert_refused("lockd.x", "import wsgate.hub", "lockd may not import wsgate")
        self.assert_refused("wsgate.x", "from lockd import table", "wsgate may not import lockd")
        self.assert_refused("lockd.x", "import crawlfarm.frontier.crawl", "lockd may not import frontier")
        self.assert_refused("wsgate.x", "import crawlfarm.client", "wsgate may not import client")
        self.assert_sound(
            "wsgate.x", "from crawlfarm.adapters.memory import queue\nfrom crawlfarm.config import Config"
        )

    def test_crawlfarm_imports_no_daemon(self) -> None:
        """Only ``cli`` imports ``lockd`` and ``wsgate``: it starts them."""
        self.assert_refused("crawlfarm.master.x", "import lockd.table", "master may not import lockd")
        self.assert_refused("crawlfarm.frontier.x", "import wsgate", "frontier may not import wsgate")
        self.assert_sound("crawlfarm.cli.x", "import lockd.service\nimport wsgate.service")

    def test_config(self) -> None:
        """``config`` imports ``errors`` alone; ``errors``, ``wire`` and ``core`` do not import it."""
        self.assert_refused("crawlfarm.config", "import crawlfarm.wire.jobs", "config may not import wire")
        for room in ("errors", "wire", "core"):
            self.assert_refused(f"crawlfarm.{room}.x", "import crawlfarm.config", f"{room} may not import config")
        self.assert_sound("crawlfarm.config", "from crawlfarm.errors import ConfigError")

    def test_client_library(self) -> None:
        """The client library can be taken out: errors, wire, core, Twisted and Autobahn."""
        self.assert_refused("crawlfarm.client", "import msgspec", "client library")
        self.assert_refused("crawlfarm.client", "import crawlfarm.config", "client may not import config")
        self.assert_sound(
            "crawlfarm.client", "import json\nimport twisted\nimport autobahn\nimport crawlfarm.wire.client"
        )

    def test_settings(self) -> None:
        """``settings`` and ``addon`` import ``config`` and ``frontier``, no other room."""
        for module in ("crawlfarm.settings", "crawlfarm.addon"):
            self.assert_sound(module, "import crawlfarm.config\nimport crawlfarm.frontier.scheduler")
            self.assert_refused(module, "import crawlfarm.master.daemon", "settings may not import master")

    def test_environment(self) -> None:
        """Nobody but ``config`` reads the environment; the command line's main may hand it over."""
        for source in ("import os\nos.environ['X']", "import os\nos.getenv('X')", "from os import environ"):
            self.assert_refused("crawlfarm.worker.x", source, "only crawlfarm.config")
            self.assert_sound("crawlfarm.config", source)
            self.assert_sound("crawlfarm.cli.main", source)

    def test_no_pickle(self) -> None:
        """Nothing is ever pickled, anywhere."""
        for name in ("pickle", "marshal", "shelve"):
            self.assert_refused("crawlfarm.adapters.x", f"import {name}", "pickled")
            self.assert_refused("crawlfarm.cli.x", f"from {name} import loads", "pickled")

    def test_top_rooms(self) -> None:
        """The rooms above the frontier do not know each other; ``cli`` starts the daemons."""
        for room in ("middlewares", "spiders", "master", "worker"):
            for other in {"middlewares", "spiders", "master", "worker", "cli"} - {room}:
                self.assert_refused(f"crawlfarm.{room}.x", f"import crawlfarm.{other}.y", f"may not import {other}")
        self.assert_sound("crawlfarm.cli.x", "import crawlfarm.master.daemon, crawlfarm.worker.daemon")

    def test_no_room(self) -> None:
        """A module in a new place is refused until the rules name its room."""
        self.assert_refused("crawlfarm.shiny", "", "is in no room")
        self.assert_refused("crawlfarm.cli.x", "import crawlfarm.shiny", "cli may not import shiny")
