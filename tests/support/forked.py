"""Many runs of the ``crawlfarm`` command, each in a process of its own, quickly.

    python -m tests.support.forked FILE

``FILE`` holds a JSON list of ``{"arguments": [...], "environ": {...}}``. What all runs import
is imported once; each then runs in a fork. Prints a JSON list of ``{"code", "stdout", "stderr"}``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import crawlfarm.cli.commands
from crawlfarm.cli.main import main


def run(arguments: list[str], environ: dict[str, str]) -> dict[str, Any]:
    """One run, to its end."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        pid = os.fork()
        if pid == 0:
            _run(arguments, environ, stdout, stderr)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said = [os.pread(file.fileno(), 1 << 20, 0).decode(errors="backslashreplace") for file in (stdout, stderr)]
    return {"code": code, "stdout": said[0], "stderr": said[1]}


def _run(arguments: list[str], environ: dict[str, str], stdout: BinaryIO, stderr: BinaryIO) -> None:
    code: object = 70
    try:
        os.dup2(stdout.fileno(), 1)
        os.dup2(stderr.fileno(), 2)
        os.environ.update(environ)
        sys.argv = ["crawlfarm", *arguments]
        main()
    except SystemExit as e:
        code = e.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    assert crawlfarm.cli.commands
    wanted = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([run(w["arguments"], w["environ"]) for w in wanted]))  # noqa: T201
