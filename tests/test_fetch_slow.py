"""A server that drips holds nobody beyond the deadline, whatever it drips: it never stops by itself here."""

import socket
import ssl
import threading

import pytest

from fleetops.fetch import FetchFailed, fetch
from tests.test_fetch import certificate, inside, resolving  # noqa: F401  (a fixture)

# What is said at once, and what follows a byte (or a piece) at a time, for ever.
DRIPS = {
    "greeting": (b"", b"H"),
    "status": (b"HTTP/1.1 200 ", b"O"),
    "header": (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "promises": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "body without length": (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "size of a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "trailer": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
}


class Dripping:
    """Listens on loopback; to each who comes it says `first`, and then `piece` again and again until they hang up."""

    def __init__(self, first: bytes, piece: bytes, context: ssl.SSLContext | None = None) -> None:
        self.first, self.piece, self.context = first, piece, context
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.released, self.visitors = threading.Event(), []
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()

    def listen(self):
        while True:
            try:
                there, _ = self.listener.accept()
            except OSError:
                return
            self.visitors.append(threading.Thread(target=self.drip, args=(there,)))
            self.visitors[-1].start()

    def drip(self, there):
        with there:
            try:
                if self.context:
                    there = self.context.wrap_socket(there, server_side=True)
                there.sendall(self.first)
                while not self.released.wait(0.03):
                    there.sendall(self.piece)
            except OSError:
                pass  # they have hung up
            finally:
                there.close()

    def close(self):
        self.released.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for each in (self.thread, *self.visitors):
            each.join()


@pytest.fixture
def dripping():
    servers = []

    def start(*arguments):
        servers.append(Dripping(*arguments))
        return servers[-1].port

    yield start
    for each in servers:
        each.close()


@pytest.fixture
def tls(tmp_path, settings):
    both, ca = certificate(tmp_path, "hooks.example")
    settings.FETCH_CA_FILE = str(ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", DRIPS)
def test_what_drips_is_given_up(dripping, inside, what):  # noqa: F811
    with pytest.raises(FetchFailed, match="takes too long"):
        fetch(f"http://127.0.0.1:{dripping(*DRIPS[what])}/", timeout_seconds=0.4)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", ["header", "body", "size of a chunk"])
def test_what_drips_under_tls_is_given_up(dripping, tls, inside, what):  # noqa: F811
    port = dripping(*DRIPS[what], tls)
    with pytest.raises(FetchFailed, match="takes too long"):
        fetch(f"https://hooks.example:{port}/", timeout_seconds=0.6, resolve=resolving("127.0.0.1"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("first", [b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", b""])  # a record of 16 KiB; a header
def test_a_handshake_that_drips_is_given_up_and_tried_nowhere_else(dripping, inside, first):  # noqa: F811
    port = dripping(first, b"\x16" if first else b"")
    with pytest.raises(FetchFailed, match="takes too long"):
        fetch(
            f"https://hooks.example:{port}/",
            timeout_seconds=0.4,
            resolve=resolving(*(f"127.0.0.{number}" for number in range(1, 9))),
        )


@pytest.mark.timeout(20)
def test_who_does_not_take_what_is_sent_is_given_up(inside):  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(FetchFailed, match="takes too long"):
        port = deaf.getsockname()[1]
        fetch(f"http://127.0.0.1:{port}/", method="POST", body=bytes(64 << 20), timeout_seconds=0.4)


@pytest.mark.timeout(20)
def test_redirects_share_one_deadline(dripping, inside):  # noqa: F811
    slow = dripping(*DRIPS["body"])
    first = dripping(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://127.0.0.1:%d/\r\n\r\n" % slow, b"")
    with pytest.raises(FetchFailed, match=f"127.0.0.1:{slow} takes too long"):
        fetch(f"http://127.0.0.1:{first}/", timeout_seconds=0.5)


def test_a_body_cut_by_the_deadline_is_no_answer(dripping, inside):  # noqa: F811
    """Without a length the end of the connection is the end of the body: ours must not be taken for theirs."""
    with pytest.raises(FetchFailed):
        fetch(f"http://127.0.0.1:{dripping(*DRIPS['body without length'])}/", timeout_seconds=0.3)
