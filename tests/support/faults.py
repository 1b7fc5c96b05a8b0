"""Faults of a running endpoint, as tests ask for them."""

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

PATH = "/_fleetops/faults"


class FaultsRefused(Exception):
    """The endpoint said no; `status` and its words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Faults:
    """The rules of one endpoint, by what it handed over."""

    def __init__(self, handover: dict[str, Any], *, token: str | None = None) -> None:
        self._url = urlsplit(handover["endpoint_url"])
        self._context = ssl.create_default_context(cafile=handover["ca_file"])
        self._token = handover.get("faults_token", "") if token is None else token

    def rules(self) -> dict[str, dict[str, Any]]:
        return self._ask("GET")["rules"]

    def put(self, name: str, kind: str, *, match: dict[str, str] | None = None, **facts: Any) -> dict[str, Any]:
        return self._ask("PUT", f"/{name}", {"kind": kind, "match": match or {}, **facts})

    def delete(self, name: str = "") -> None:
        """One rule, or all."""
        self._ask("DELETE", f"/{name}" if name else "")

    @contextlib.contextmanager
    def on(self, kind: str, *, match: dict[str, str] | None = None, **facts: Any) -> Iterator[None]:
        """A rule that ends with the block."""
        self.put(kind, kind, match=match, **facts)
        try:
            yield
        finally:
            self.delete(kind)

    def _ask(self, method: str, path: str = "", body: Any = None) -> Any:
        connection = http.client.HTTPSConnection(
            self._url.hostname or "", self._url.port, timeout=10, context=self._context
        )
        try:
            content = json.dumps(body) if body is not None else None
            connection.request(method, PATH + path, content, {"Authorization": f"Bearer {self._token}"})
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise FaultsRefused(response.status, answer.decode(errors="replace"))
            return json.loads(answer)
        finally:
            connection.close()
