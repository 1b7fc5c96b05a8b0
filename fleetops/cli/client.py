"""Speaks FleetOps's REST API, with the standard library alone."""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from fleetops.cli.errors import NotLoggedIn, Refused, Unreachable, WrongUsage

TIMEOUT_SECONDS = 30
MOST_BYTES = 64 * 2**20  # of one answer
PAGE_SIZE = 500


class NeedsCode(NotLoggedIn):
    """The password is right, and the second factor is missing or wrong."""


class NeedsReason(Refused):
    """It would be done for who says why."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the token along, to wherever it leads."""

    def redirect_request(self, request, file, code, message, headers, new_url):  # type: ignore[no-untyped-def]
        return None


def base_url(text: str) -> str:
    """The address as it is kept, "https://host[:port][/path]". Raises WrongUsage.

    Without TLS only to this machine: the token would pass in clear.
    """
    parts = urlsplit(text if "://" in text else f"https://{text}")
    try:
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if parts.scheme not in {"http", "https"} or not host or parts.username or parts.query or parts.fragment:
        raise WrongUsage(f"{text!r} is no address of FleetOps; write it as https://fleetops.example.com.")
    if parts.scheme == "http" and not _is_here(host):
        raise WrongUsage(f"{text} would send your token in clear over the network. Use https://{parts.netloc}.")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Client:
    """One server, with one token or none."""

    def __init__(self, url: str, token: str = "", *, ca_file: str = "", timeout: float = TIMEOUT_SECONDS) -> None:
        self.url, self.token, self.timeout = base_url(url), token, timeout
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        self.tls: ssl.SSLContext | None = None
        if self.url.startswith("https:"):
            try:
                self.tls = ssl.create_default_context(cafile=ca_file or None)
                handlers.append(urllib.request.HTTPSHandler(context=self.tls))
            except (OSError, ssl.SSLError) as error:
                raise WrongUsage(f"The CA file {ca_file} cannot be used: {error}.") from None
        if _is_here(urlsplit(self.url).hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))
        self.opener = urllib.request.build_opener(*handlers)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        return self._ask("GET", self._address(path, query))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._ask("POST", self._address(path), body)

    def delete(self, path: str) -> None:
        self._ask("DELETE", self._address(path))

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._ask(method, self._address(path), body)

    def pages(self, path: str, query: Mapping[str, str]) -> Iterator[tuple[list[dict[str, Any]], bool]]:
        """The rows of a list, page by page; the flag says whether there are more."""
        following = dict(query)
        while True:
            page = self.get(path, following)
            if not isinstance(page, dict) or not isinstance(page.get("results"), list):
                raise Unreachable(f"{self.url} does not answer as FleetOps does; is the address right?")
            rows = page["results"]
            yield rows, bool(page["next"])
            if not page["next"] or not rows:
                return
            following["after"] = dict(parse_qsl(urlsplit(page["next"]).query)).get("after", "")

    def blocks(self, path: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """What a path answers, as it comes, however long it is."""
        with self._answer("GET", self._address(path, query)) as answer:
            while block := answer.read(1 << 16):
                yield block

    def _address(self, path: str, query: Mapping[str, str] | None = None) -> str:
        if path.startswith(("http:", "https:", "//")):
            raise WrongUsage("Give a path such as instances/, not a whole address.")
        path, _, own = path.removeprefix("/").removeprefix("api/v1/").partition("?")
        path = quote(path, safe="/-._~%:")
        asked = "&".join(part for part in (quote(own, safe="=&%-._~:+*,"), urlencode(query or {})) if part)
        return f"{self.url}/api/v1/{path}" + (f"?{asked}" if asked else "")

    def _ask(self, method: str, address: str, body: Mapping[str, Any] | None = None) -> Any:
        with self._answer(method, address, body) as answer:
            return self._read(answer)

    @contextmanager
    def _answer(
        self, method: str, address: str, body: Mapping[str, Any] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """A good answer, to be read; all else is raised in words."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "User-Agent": "fleetops-cli"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            request = urllib.request.Request(address, data, headers, method=method)
            with self.opener.open(request, timeout=self.timeout) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except urllib.error.URLError as error:
            raise Unreachable(self._unreachable(error.reason)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(self._unreachable(error)) from None

    def _read(self, answer: http.client.HTTPResponse) -> Any:
        content = answer.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise Refused(f"The answer is larger than {MOST_BYTES // 2**20} MiB; ask for less at once.")
        kind = answer.headers.get_content_type()
        if not content:
            return None
        if kind == "application/json" or kind.endswith("+json"):
            try:
                return json.loads(content)
            except ValueError:
                raise Unreachable(f"{self.url} answered with what is no JSON; is the address right?") from None
        if kind == "text/html":
            raise Unreachable(f"{self.url} answered with a page, not as FleetOps's API does; is the address right?")
        return content.decode("utf-8", "replace")

    def _refusal(self, error: urllib.error.HTTPError) -> Refused:
        if 300 <= error.code < 400:
            return Unreachable(
                f"{self.url} sends elsewhere, to {error.headers.get('Location', 'nowhere')}; give that address with "
                "--url if it is FleetOps's."
            )
        try:
            problem = json.loads(error.read(MOST_BYTES))
            detail = str(problem["detail"])
        except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
            if error.code >= 500:
                return Unreachable(f"{self.url} cannot answer now: {error.code} {error.reason}.")
            return Unreachable(f"{self.url} does not answer as FleetOps does ({error.code}); is the address right?")
        if error.code >= 500:
            return Refused(f"{detail} request_id={problem.get('request_id', '')}")
        if error.code == 401:
            return NeedsCode(detail) if problem.get("code_needed") else NotLoggedIn(detail)
        if error.code == 400 and "reason" in (problem.get("errors") or {}):
            return NeedsReason(detail)
        return Refused(detail)

    def _unreachable(self, reason: object) -> str:
        if isinstance(reason, ssl.SSLCertVerificationError):
            return (
                f"The certificate of {self.url} is not to be trusted: {reason.verify_message}. "
                "If it is of your own CA, name that with --ca-file."
            )
        if isinstance(reason, TimeoutError):
            return f"{self.url} did not answer within {self.timeout:.0f} s."
        return f"{self.url} cannot be reached: {getattr(reason, 'strerror', None) or reason}."
