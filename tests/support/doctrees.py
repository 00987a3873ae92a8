"""Real documentation trees that nobody here wrote, served by a private nginx on loopback.

The trees are those of Debian's ``python3-doc``, ``debian-policy`` and
``developers-reference``; each has a port of its own, so that no link leads from one to
another. Everything nginx writes is in a directory that is gone at the end.

    python -m tests.support.doctrees      # serve until Ctrl-C, printing one JSON line
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import packages
from tests.support.processes import Child, ChildFailed, HasCleanup
from tests.support.servers.base import FOLDER

TREES = {"python": "python3-doc", "policy": "debian-policy", "devref": "developers-reference"}
"""The trees' names, and the Debian package each is in."""

_CONFIG = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 100000;
    keepalive_timeout 60s;
    default_type application/octet-stream;
    types {{
        text/html html htm;
        text/css css;
        text/plain txt;
        application/javascript js;
        image/png png;
        image/svg+xml svg;
        application/pdf pdf;
        application/json json;
    }}
    charset utf-8;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{servers}}}
"""
_SERVER = """\
    server {{ listen 127.0.0.1:{port}; root {root}; index index.html; }}
"""
_TRIES = 5


def missing() -> list[str]:
    """What is not installed of all this; a test that needs it skips itself with the list."""
    return packages.missing(["nginx-light", *TREES.values()])


class DocTrees:
    """The served trees::

    trees = DocTrees.start(test=self)       # ends with the test
    crawl(trees.urls["policy"])
    """

    def __init__(self, child: Child, folder: Path, ports: dict[str, int]) -> None:
        self.child = child
        self.folder = folder
        self.ports = ports
        self.urls = {name: f"http://127.0.0.1:{port}/" for name, port in ports.items()}

    @classmethod
    def start(cls, *, test: HasCleanup | None = None) -> DocTrees:
        """Serve every installed tree.

        :raises ChildFailed: nginx does not start.
        """
        program = packages.nginx()
        if program is None:
            raise ChildFailed("nginx is not installed")
        for left in reversed(range(_TRIES)):
            FOLDER.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="nginx-", dir=FOLDER))
            ports = _free_ports(len(TREES))
            try:
                trees = cls._start(program, folder, dict(zip(TREES, ports, strict=True)))
            except BaseException as e:
                shutil.rmtree(folder, ignore_errors=True)
                # Somebody may have taken a port between our look and nginx's.
                if not left or "Address already in use" not in str(e):
                    raise
                continue
            if test is not None:
                test.addCleanup(trees.stop)
            return trees
        raise AssertionError("unreachable")

    @classmethod
    def _start(cls, program: str, folder: Path, ports: dict[str, int]) -> DocTrees:
        served = {name: port for name, port in ports.items() if packages.tree(name)}
        servers = "".join(_SERVER.format(port=port, root=packages.tree(name)) for name, port in served.items())
        # As root, nginx would hand its work to a user who may not enter our directory.
        user = "user root;" if os.geteuid() == 0 else ""
        config = folder / "nginx.conf"
        config.write_text(_CONFIG.format(folder=folder, user=user, servers=servers))
        child = Child([program, "-p", str(folder), "-c", str(config), "-e", "stderr"])
        try:
            for port in served.values():
                _wait_listening(child, port)
        except BaseException:
            child.kill()
            raise
        return cls(child, folder, served)

    def stop(self) -> None:
        """End nginx and remove what it wrote."""
        try:
            self.child.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def _wait_listening(child: Child, port: int) -> None:
    """nginx says nothing when it is ready: it is asked."""
    end = time.monotonic() + child.deadline_s
    while time.monotonic() < end:
        if child.process.poll() is not None:
            raise ChildFailed(f"nginx ended with {child.process.returncode}\n{child.stderr}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.01)
    raise ChildFailed(f"nginx does not listen on port {port}\n{child.stderr}")


def main() -> int:
    with DocTrees.start() as trees:
        print(json.dumps({"ready": "doctrees", "urls": trees.urls}), flush=True)  # noqa: T201
        with contextlib.suppress(KeyboardInterrupt):
            trees.child.process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
