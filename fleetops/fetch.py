"""The one way out to an address that a user has given: webhooks, calendars, metadata, git.

Such an address may point into the machine's own network, at a cloud's metadata service or at FleetOps itself. So what
is connected to is an address that was looked at, not a name that may resolve to another a moment later; a redirect is
looked at again; size and time have a bound; and no proxy, cookie or credential of the process goes with it.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3
from django.conf import settings
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError

from fleetops.clock import monotonic
from fleetops.errors import UserError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[..., Iterable[tuple[Any, ...]]]

MOST_BYTES: Final = 1 << 20  # of an answer, unless the caller says else
TIMEOUT_SECONDS: Final = 10.0  # for everything together, name resolution excepted
MOST_REDIRECTS: Final = 3
_PIECE: Final = 16 * 1024  # bytes read at a time: the clock and the size are looked at in between
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in its low 32 bits


class FetchRefused(UserError):
    """The address is none that FleetOps may ask; nothing was sent."""


class FetchFailed(UserError):
    """The address was asked, and gave no answer that can be used; asking again later may help."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer, whatever its status."""

    url: str  # after redirects
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


def fetch(
    url: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    max_bytes: int = MOST_BYTES,
    timeout_seconds: float = TIMEOUT_SECONDS,
    resolve: Resolver = socket.getaddrinfo,
) -> Fetched:
    """Ask `url` once, follow at most three redirects of a GET, and return the answer with any status.

    `https` anywhere public; `http`, and addresses of private, local and reserved networks, only inside the networks of
    FLEETOPS_FETCH_ALLOWED_NETWORKS. The answer comes uncompressed, so `max_bytes` is what it costs.

    Raises FetchRefused before anything is sent, FetchFailed where no usable answer came.
    """
    deadline = monotonic() + timeout_seconds
    for _ in range(MOST_REDIRECTS + 1):
        parts, addresses = _examine(url, resolve)
        answer = _ask(parts, addresses, method, body, headers or {}, max_bytes, deadline)
        location = answer.headers.get("location")
        if answer.status not in {301, 302, 303, 307, 308} or not location:
            return answer
        if method != "GET":
            raise FetchFailed(f"{_shown(parts)} answers with a redirect; give the address that it points to.")
        try:
            following = urljoin(url, location)
            is_elsewhere = urlsplit(following)[:2] != parts[:2]
        except ValueError:
            raise FetchFailed(f"{_shown(parts)} redirects to what is no address.") from None
        if is_elsewhere:
            headers = {}  # what was meant for one host is not shown to another
        url = following
    raise FetchFailed(f"{_shown(parts)} redirects more than {MOST_REDIRECTS} times.")


def check(url: str, *, resolve: Resolver = socket.getaddrinfo) -> None:
    """Raise FetchRefused if `url` is none that FleetOps would ask now; sends nothing. For forms."""
    _examine(url, resolve)


def _examine(url: str, resolve: Resolver) -> tuple[SplitResult, list[Address]]:
    """The parts of `url` and the addresses that may be connected to, all of them looked at."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise FetchRefused(f"“{_cut(url)}” is no address; write https://host/path.") from None
    if parts.scheme not in {"https", "http"}:
        raise FetchRefused(f"“{_cut(url)}” begins with neither https:// nor http://.")
    host = parts.hostname
    if not host or any(each.isspace() or not each.isprintable() for each in url.strip()):
        raise FetchRefused(f"“{_cut(url)}” names no host; write https://host/path.")
    if parts.username is not None or parts.password is not None:
        raise FetchRefused("The address holds a name or password before @; give it without.")
    if port == 0:
        raise FetchRefused(f"“{_cut(url)}” has port 0; leave the port out or give a real one.")
    try:
        found = resolve(host, port or _port(parts), type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found))
    except (OSError, UnicodeError):
        raise FetchFailed(f"{host} cannot be resolved now; check the name, and this machine's DNS.") from None
    allowed = [ipaddress.ip_network(each) for each in settings.FETCH_ALLOWED_NETWORKS]
    for address in addresses:
        if any(address.version == each.version and address in each for each in allowed):
            continue
        if not is_public(address):
            raise FetchRefused(
                f"{host} lies at {address}, inside this machine's own or a private network, where FleetOps asks "
                "nothing that a user names. An administrator can allow the network in FLEETOPS_FETCH_ALLOWED_NETWORKS."
            )
        if parts.scheme == "http":
            raise FetchRefused(f"{host} is outside: http:// would send in clear over the internet; use https://.")
    return parts, addresses


def is_public(address: Address) -> bool:
    """Whether `address` is a host of the public internet, seen through IPv6's ways to carry an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if inner:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def _ask(
    parts: SplitResult,
    addresses: list[Address],
    method: str,
    body: bytes | None,
    headers: Mapping[str, str],
    max_bytes: int,
    deadline: float,
) -> Fetched:
    last: Exception | None = None
    for address in addresses:
        left = deadline - monotonic()
        if left <= 0:
            break
        with _pool(parts, address, left) as pool:
            try:
                answer = pool.urlopen(
                    method,
                    parts._replace(scheme="", netloc="", fragment="").geturl() or "/",
                    body=body,
                    headers={
                        "User-Agent": "FleetOps",
                        "Accept-Encoding": "identity",
                        **headers,
                        "Host": parts.netloc,
                    },
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    decode_content=False,
                )
            except SSLError as error:
                raise FetchFailed(
                    f"{_shown(parts)} shows a certificate that is not trusted ({_cut(str(error))}); mend it there, or "
                    "name its CA in FLEETOPS_FETCH_CA_FILE."
                ) from None
            except (NewConnectionError, ConnectTimeoutError) as error:  # nothing was sent; the next may be there
                last = error
                continue
            except HTTPError as error:  # it may have been sent, and is not sent twice
                raise FetchFailed(f"{_shown(parts)} broke off before it answered ({type(error).__name__}).") from None
            return _read(parts, answer, max_bytes, deadline)
    why = f" ({type(last).__name__})" if last else ""
    raise FetchFailed(f"{_shown(parts)} does not answer in time{why}; it is tried again where that makes sense.")


def _pool(parts: SplitResult, address: Address, seconds: float) -> urllib3.HTTPConnectionPool:
    timeout = urllib3.Timeout(connect=min(seconds, 5.0), read=seconds)
    port = parts.port or _port(parts)
    if parts.scheme == "http":
        return urllib3.HTTPConnectionPool(str(address), port, timeout=timeout, maxsize=1)
    return urllib3.HTTPSConnectionPool(
        str(address),
        port,
        timeout=timeout,
        maxsize=1,
        cert_reqs="CERT_REQUIRED",
        ca_certs=settings.FETCH_CA_FILE or None,
        server_hostname=parts.hostname,
        assert_hostname=parts.hostname,
    )


def _read(parts: SplitResult, answer: urllib3.BaseHTTPResponse, max_bytes: int, deadline: float) -> Fetched:
    body = bytearray()
    try:
        while piece := answer.read1(_PIECE, decode_content=False):  # what is there, not all that was asked for
            body += piece
            if len(body) > max_bytes:
                raise FetchFailed(f"{_shown(parts)} answers with more than {max_bytes:,} bytes.")
            if monotonic() > deadline:
                raise FetchFailed(f"{_shown(parts)} takes too long to answer.")
    except HTTPError as error:
        raise FetchFailed(f"{_shown(parts)} broke off its answer ({type(error).__name__}).") from None
    finally:
        answer.close()
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Fetched(parts.geturl(), answer.status, headers, bytes(body))


def _port(parts: SplitResult) -> int:
    return 443 if parts.scheme == "https" else 80


def _shown(parts: SplitResult) -> str:
    """Scheme and host: a path or query may be a secret, as in many webhooks."""
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"
