"""A RabbitMQ that somebody else runs, used through its management plugin."""

from __future__ import annotations

import json
import os
import secrets
import urllib.error
import urllib.request
from base64 import b64encode
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from tests.support.processes import HasCleanup
from tests.support.servers.base import ServerFailed

MANAGEMENT_VARIABLE = "CRAWLFARM_TEST_RABBITMQ_MANAGEMENT_URL"


class RemoteRabbit:
    """The server that ``CRAWLFARM_TEST_RABBITMQ_URL`` names: used, never restarted.

    Virtual hosts are made through the management plugin's HTTP interface, on port 15672
    of the same host or at ``CRAWLFARM_TEST_RABBITMQ_MANAGEMENT_URL``, as the URL's user.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._parts = urlsplit(url)
        self._management = os.environ.get(MANAGEMENT_VARIABLE) or f"http://{self._parts.hostname}:15672"

    def fresh_vhost(self, test: HasCleanup | None = None) -> str:
        """The URL of an empty virtual host; with ``test``, deleted after it."""
        name = f"crawlfarm-test-{os.getpid()}-{secrets.token_hex(4)}"
        self._ask("PUT", f"vhosts/{name}")
        if test is not None:
            test.addCleanup(self._ask, "DELETE", f"vhosts/{name}")
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        self._ask("PUT", f"permissions/{name}/{quote(self._login[0], safe='')}", rights)
        return urlunsplit(self._parts._replace(path=f"/{name}"))

    @property
    def _login(self) -> tuple[str, str]:
        return unquote(self._parts.username or "guest"), unquote(self._parts.password or "guest")

    def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> None:
        request = urllib.request.Request(
            f"{self._management}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Basic {b64encode(':'.join(self._login).encode()).decode()}",
                "Content-Type": "application/json",
            },
        )
        try:
            urllib.request.urlopen(request, timeout=20).close()
        except urllib.error.URLError as e:
            if isinstance(e, urllib.error.HTTPError):
                e.close()
            raise ServerFailed(
                f"{self._management} does not make virtual hosts for tests ({e}): enable the plugin "
                f"rabbitmq_management there, or name where it listens in {MANAGEMENT_VARIABLE}"
            ) from e
