"""What ``pipx install .`` gives: a wheel with everything in it, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

from tests.support.commands import CommandTests
from tests.support.processes import ROOT

OURS = ("crawlfarm", "lockd", "wsgate")


def tracked() -> list[Path]:
    """The files that are part of the project, relative to its root."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
        names = [Path(name) for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        outside = {".git", ".venv", ".run", "build", "__pycache__"}
        names = [p.relative_to(ROOT) for p in ROOT.rglob("*") if p.is_file() and not outside & set(p.parts)]
    return [name for name in names if (ROOT / name).is_file()]


def _link(target: Path, place: Path) -> None:
    """``target`` is ``place``; a directory that is there gets what it lacks."""
    if not target.exists():
        target.symlink_to(place)
    elif target.is_dir() and place.is_dir():
        for inside in place.iterdir():
            _link(target / inside.name, inside)


class WheelTests(CommandTests):
    """Built from a copy of the tracked files, installed into a new environment."""

    def build(self) -> Path:
        copy = self.folder / "copy"
        for name in tracked():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
        wheels = self.folder / "wheels"
        code = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
        built = self.start_other([sys.executable, "-W", "ignore", "-c", code, str(wheels)], cwd=copy, PYTHONPATH=None)
        self.output_of(built)
        (wheel,) = wheels.iterdir()
        return wheel

    def install(self, wheel: Path) -> Path:
        """An environment with this wheel, and its dependencies where they already are."""
        environment = self.folder / "venv"
        venv.EnvBuilder(symlinks=True, with_pip=False).create(environment)
        places = {
            name: sysconfig.get_path(name, "venv", vars={"base": str(environment)}) for name in ("purelib", "scripts")
        }
        purelib = Path(places["purelib"])
        pip = [sys.executable, "-m", "pip", "--python", str(environment), "install", "--quiet", "--no-deps"]
        pip += ["--no-index", "--no-compile", "--disable-pip-version-check", str(wheel)]
        self.output_of(self.start_other(pip, PYTHONPATH=None))
        # Not a .pth file: it would bring the editable install of this checkout along.
        for place in Path(sysconfig.get_path("purelib")).iterdir():
            if not place.name.startswith(("__editable__", "crawlfarm", "_crawlfarm")) and place.suffix != ".pth":
                _link(purelib / place.name, place)
        return Path(places["scripts"])

    def test_wheel(self) -> None:
        """Every module and data file, no tests; its console script crawls the sample anywhere."""
        wheel = self.build()
        with zipfile.ZipFile(wheel) as archive:
            inside = {name for name in archive.namelist() if ".dist-info/" not in name}
            (points,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
            entry_points = archive.read(points).decode()
        data = {".py", ".sql", ".lua", ".typed"}
        wanted = {str(name) for name in tracked() if name.parts[0] in OURS and name.suffix in data}
        self.assertEqual(inside, wanted | {"twisted/plugins/crawlfarm.py"})
        self.assertIn("crawlfarm = crawlfarm.cli.main:main", entry_points)
        self.assertIn("[scrapy]\nsettings = crawlfarm.settings", entry_points)

        scripts = self.install(wheel)
        empty = self.folder / "empty"
        empty.mkdir()
        where = "import crawlfarm, lockd, wsgate; print(*(m.__file__ for m in (crawlfarm, lockd, wsgate)), sep='\\n')"
        modules = self.output_of(self.start_other([str(scripts / "python"), "-c", where], cwd=empty, PYTHONPATH=None))
        for module in modules.splitlines():
            self.assertTrue(module.startswith(str(self.folder / "venv")), module)
        twist = self.start_other([str(scripts / "python"), "-m", "twisted", "--help"], cwd=empty, PYTHONPATH=None)
        self.assertIn("crawlfarm-worker", self.output_of(twist))
        sample = self.start_other(
            [str(scripts / "crawlfarm"), "run", "--sample", "--depth", "3", "-o", "-"],
            cwd=empty,
            PYTHONPATH=None,
            CRAWLFARM_RUN_DIR=None,
        )
        result = json.loads(self.output_of(sample))
        self.assertEqual([len(level) for level in result["levels"]], [1, 7, 35])
        self.assertEqual(os.listdir(empty / ".run"), [])
