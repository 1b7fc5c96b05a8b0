"""The one way out to an address that a user has given: webhooks, calendars, metadata, git.

Such an address may point into the machine's own network, at a cloud's metadata service or at FleetOps itself. So what
is connected to is an address that was looked at, not a name that may resolve to another a moment later; a redirect is
looked at again; size and time have a bound, however little comes at a time; and no proxy, cookie or credential of the
process goes with it.
"""

import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, urljoin, urlsplit

from django.conf import settings
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
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
_MOST_HOST: Final = 253  # characters of a name, RFC 1035 2.3.4
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# Letters that IDNA 2003, which Python knows, turns into others, and IDNA 2008, as in browsers, keeps: RFC 5894 7.2.
_READ_TWO_WAYS: Final = frozenset("ßẞς\u200c\u200d")
# What OpenSSL 3 calls the reasons, ssl.SSLError.reason; and X509_V_ERR_…, ssl.SSLCertVerificationError.verify_code.
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
_OLD_TLS: Final = frozenset({"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"})
_NOT_YET, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in its low 32 bits
# All that IANA has given to hosts of the internet [IPv6 Address Space]. Python calls the rest global where it is not
# private: old site-local addresses, and IPv4 ones written in ways that nobody uses any more.
_HOSTS: Final = ipaddress.ip_network("2000::/3")


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
            following = urljoin(parts.geturl(), location)
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
    if not parts.hostname or any(each.isspace() or not each.isprintable() for each in url.strip()):
        raise FetchRefused(f"“{_cut(url)}” names no host; write https://host/path.")
    if parts.username is not None or parts.password is not None:
        raise FetchRefused("The address holds a name or password before @; give it without.")
    if port == 0:
        raise FetchRefused(f"“{_cut(url)}” has port 0; leave the port out or give a real one.")
    host = _ascii(parts.hostname)
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    parts = parts._replace(netloc=netloc)  # from here on there is one way to write it: asked for, said and held against
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


def _ascii(name: str) -> str:
    """The host `name` as DNS knows it: other letters as xn--…, no dot at the end. Raises FetchRefused if it is none."""
    if ":" in name:
        return name  # IPv6
    if _READ_TWO_WAYS & set(name):
        raise FetchRefused(
            f"“{_cut(name)}” holds a letter that is read in two ways in host names; give the name as it is registered, "
            "beginning with xn--."
        )
    try:
        found = name[: _MOST_HOST + 1].encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        found = ""
    if not 0 < len(found) <= _MOST_HOST or not all(map(_LABEL.fullmatch, found.split("."))):
        raise FetchRefused(f"“{_cut(name)}” is no host name; write https://host/path.")
    return found


def is_public(address: Address) -> bool:
    """Whether `address` is a host of the public internet, seen through IPv6's ways to carry an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if inner:
            return is_public(inner)
        if address not in _HOSTS:
            return False
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
        if monotonic() >= deadline:
            break
        with _pool(parts, address, deadline) as pool:
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
            except (NewConnectionError, ConnectTimeoutError) as error:  # nothing was sent; the next may be there
                last = error
                continue
            except HTTPError as error:  # it may have been sent, and is not sent twice
                raise _broken(parts, error, deadline, "before it answered") from None
            return _read(parts, answer, max_bytes, deadline)
    why = f" ({type(last).__name__})" if last else ""
    raise FetchFailed(f"{_shown(parts)} does not answer in time{why}; it is tried again where that makes sense.")


def _broken(parts: SplitResult, error: HTTPError, deadline: float, when: str) -> FetchFailed:
    if monotonic() >= deadline:
        return FetchFailed(f"{_shown(parts)} takes too long to answer.")
    if isinstance(error, SSLError):
        return FetchFailed(f"{_shown(parts)} {_of_tls(error)}")
    return FetchFailed(f"{_shown(parts)} broke off {when} ({type(error).__name__}).")


def _of_tls(error: SSLError) -> str:
    """What is wrong with the other side's TLS, and who mends it how."""
    cause = error.args[0] if error.args else error
    reason = getattr(cause, "reason", None) or type(cause).__name__
    if isinstance(cause, ssl.SSLCertVerificationError):
        if cause.verify_code in {_OTHER_NAME, _OTHER_ADDRESS}:
            return "shows a certificate that is made out to another host name; give the name that it is made out to."
        if cause.verify_code == _EXPIRED:
            return "shows a certificate that has expired; renew it there."
        if cause.verify_code == _NOT_YET:
            return "shows a certificate that is not valid yet; compare the clocks there and here."
        return (
            f"shows a certificate that is not trusted ({_cut(cause.verify_message)}); mend it there, or name its CA in "
            "FLEETOPS_FETCH_CA_FILE."
        )
    if reason in _NO_TLS:
        return "answers without TLS; check the port, or whether it is to be http://."
    if reason in _OLD_TLS:
        return "offers no TLS that is safe to use; it needs TLS 1.2 or newer."
    return f"breaks off where TLS begins ({_cut(reason)}); check the port, and what it asks of its clients."


def _left(deadline: float) -> float:
    """Seconds until `deadline`. Raises TimeoutError after it, as a socket does."""
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


# A socket's own time-out begins anew with each byte that comes. These look at the clock before they wait.


class _Socket(socket.socket):
    deadline: float

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_left(self.deadline))
        return super().recv_into(*args, **kwargs)

    def sendall(self, *args: Any) -> None:  # its time-out is for all together
        self.settimeout(_left(self.deadline))
        super().sendall(*args)


class _TlsSocket(ssl.SSLSocket):
    context: "_Context"

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_left(self.context.deadline))
        return super().recv_into(*args, **kwargs)

    def send(self, *args: Any) -> int:  # sendall sends by this
        self.settimeout(_left(self.context.deadline))
        return super().send(*args)


class _Context(ssl.SSLContext):
    """Asks for a certificate and holds it against the name, as PROTOCOL_TLS_CLIENT does."""

    deadline: float
    sslsocket_class = _TlsSocket


class _Timed(HTTPConnection):
    def __init__(self, *args: Any, deadline: float, **kwargs: Any) -> None:
        self._deadline = deadline
        super().__init__(*args, **kwargs)

    def _new_conn(self) -> socket.socket:
        timed = _Socket(fileno=super()._new_conn().detach())
        timed.deadline = self._deadline
        timed.settimeout(max(self._deadline - monotonic(), 0.001))  # a TLS handshake's, for all of it together
        return timed


class _TimedTls(_Timed, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Timed


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TimedTls


def _pool(parts: SplitResult, address: Address, deadline: float) -> HTTPConnectionPool:
    seconds = max(deadline - monotonic(), 0.001)
    timeout = Timeout(connect=min(seconds, 5.0), read=seconds)
    port = parts.port or _port(parts)
    if parts.scheme == "http":
        return _Pool(str(address), port, timeout=timeout, maxsize=1, deadline=deadline)
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False
    context.deadline = deadline
    if settings.FETCH_CA_FILE:
        context.load_verify_locations(settings.FETCH_CA_FILE)
    else:
        context.load_default_certs()
    return _TlsPool(
        str(address),
        port,
        timeout=timeout,
        maxsize=1,
        deadline=deadline,
        ssl_context=context,
        cert_reqs="CERT_REQUIRED",
        server_hostname=parts.hostname,
    )


def _read(parts: SplitResult, answer: BaseHTTPResponse, max_bytes: int, deadline: float) -> Fetched:
    body = bytearray()
    try:
        while piece := answer.read1(_PIECE, decode_content=False):  # what is there, not all that was asked for
            body += piece
            if len(body) > max_bytes:
                raise FetchFailed(f"{_shown(parts)} answers with more than {max_bytes:,} bytes.")
            if monotonic() > deadline:
                raise FetchFailed(f"{_shown(parts)} takes too long to answer.")
    except HTTPError as error:
        raise _broken(parts, error, deadline, "its answer") from None
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
