"""What a user names is asked only where it lies outside, once it has been looked at, and for so much and so long."""

import datetime
import http.server
import ipaddress
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from fleetops.fetch import FetchFailed, FetchRefused, check, fetch, is_public


def resolving(*addresses: str):
    def resolve(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return resolve


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append((self.command, self.path, dict(self.headers), b""))
        status, headers, body = self.server.answers.get(self.path, (200, {}, b"fine"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path == "/slow":
            self.server.released.wait(30)
        if self.path == "/drip":  # a byte now and then keeps every single read alive
            while not self.server.released.wait(0.05):
                self.wfile.write(b"x")
            return
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        status, headers, answer = self.server.answers.get(self.path, (200, {}, b""))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(answer))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.daemon_threads = True
    server.seen, server.answers, server.released = [], {}, threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def inside(settings):
    """Loopback is allowed, as an administrator may do for a receiver of their own network."""
    settings.FETCH_ALLOWED_NETWORKS = ["127.0.0.0/8"]


def url_of(server, path="/", scheme="http", host="127.0.0.1"):
    return f"{scheme}://{host}:{server.server_port}{path}"


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1/",
        "https://localhost/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://[2002:7f00:1::]/",
        "http://169.254.169.254/latest/meta-data/",
        "https://10.0.0.8/",
        "https://100.64.1.1/",
        "https://192.168.1.1:8443/x",
        "https://0.0.0.0/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://224.0.0.1/",
        "https://[fe80::1]/",
        "https://[fd00::1]/",
        "https://[fec0::1]/",
        "https://[::127.0.0.1]/",
        "https://[64:ff9b:1::7f00:1]/",
        "https://[::ffff:0:127.0.0.1]/",
    ],
)
def test_an_address_inside_is_refused_however_it_is_written(address):
    with pytest.raises(FetchRefused, match="private network"):
        check(address)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ftp://example.com/", "neither https"),
        ("file:///etc/passwd", "neither https"),
        ("gopher://example.com/", "neither https"),
        ("example.com/hook", "neither https"),
        ("https:///path", "names no host"),
        ("https://user:pass@example.com/", "before @"),
        ("https://example.com:99999/", "is no address"),
        ("https://example.com:0/", "port 0"),
        ("https://exa mple.com/", "names no host"),
        ("https://[::1/", "is no address"),
    ],
)
def test_what_is_no_address_is_told_so(address, words):
    with pytest.raises(FetchRefused, match=words):
        check(address, resolve=resolving("93.184.215.14"))


def test_one_inner_address_among_outer_ones_is_enough_to_refuse():
    with pytest.raises(FetchRefused, match=r"10\.0\.0\.1"):
        check("https://both.example/", resolve=resolving("93.184.215.14", "10.0.0.1"))


def test_clear_text_stays_inside():
    with pytest.raises(FetchRefused, match="use https"):
        check("http://outside.example/", resolve=resolving("93.184.215.14"))


def test_a_name_that_nobody_knows_is_told_so():
    def nobody(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(FetchFailed, match="cannot be resolved"):
        check("https://nowhere.invalid/", resolve=nobody)


@given(st.ip_addresses())
def test_nothing_private_is_public(address):
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        assert not is_public(address) or address in ipaddress.ip_network("64:ff9b::/96")


def test_an_answer_comes_whole_whatever_its_status(receiver, inside):
    receiver.answers["/gone"] = (410, {"X-Why": "moved out"}, b"gone")
    answer = fetch(url_of(receiver, "/gone"))
    assert (answer.status, answer.body, answer.headers["x-why"]) == (410, b"gone", "moved out")


def test_a_post_carries_its_body_and_headers(receiver, inside):
    fetch(url_of(receiver, "/hook?key=1"), method="POST", body=b"{}", headers={"Content-Type": "application/json"})
    method, path, headers, body = receiver.seen[0]
    assert (method, path, body, headers["Content-Type"]) == ("POST", "/hook?key=1", b"{}", "application/json")


def test_what_was_looked_at_is_what_is_connected_to(receiver, inside):
    """A name that resolves to another address a moment later (DNS rebinding) is not asked twice."""
    asked = []

    def turning(host, port, **_):
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "10.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    answer = fetch(f"http://turning.example:{receiver.server_port}/", resolve=turning)
    assert answer.body == b"fine"
    assert asked == ["turning.example"]
    assert receiver.seen[0][2]["Host"] == f"turning.example:{receiver.server_port}"


def test_a_redirect_inwards_is_refused(receiver, inside):
    receiver.answers["/"] = (302, {"Location": "http://169.254.169.254/latest/"}, b"")
    with pytest.raises(FetchRefused, match=r"169\.254\.169\.254"):
        fetch(url_of(receiver))


def test_a_redirect_to_another_host_takes_no_header_along(receiver, inside):
    receiver.answers["/"] = (302, {"Location": f"http://localhost:{receiver.server_port}/there"}, b"")
    answer = fetch(url_of(receiver), headers={"Authorization": "Bearer one"}, resolve=resolving("127.0.0.1"))
    assert answer.url.endswith("/there")
    assert receiver.seen[0][2]["Authorization"] == "Bearer one"
    assert "Authorization" not in receiver.seen[1][2]


def test_redirects_have_an_end(receiver, inside):
    receiver.answers["/"] = (302, {"Location": "/"}, b"")
    with pytest.raises(FetchFailed, match="more than 3 times"):
        fetch(url_of(receiver))
    assert len(receiver.seen) == 4


def test_a_post_is_not_sent_on(receiver, inside):
    receiver.answers["/"] = (307, {"Location": "/there"}, b"")
    with pytest.raises(FetchFailed, match="give the address that it points to"):
        fetch(url_of(receiver), method="POST", body=b"x")
    assert len(receiver.seen) == 1


def test_a_redirect_to_nonsense_is_told(receiver, inside):
    receiver.answers["/"] = (302, {"Location": "http://[::1"}, b"")
    with pytest.raises(FetchFailed, match="no address"):
        fetch(url_of(receiver))


def test_a_post_that_was_sent_is_not_sent_to_the_next_address(receiver, inside):
    """The receiver hangs up without an answer: it may have done what it was asked."""
    receiver.answers["/hang-up"] = None
    receiver.handle_error = lambda *_: None
    with pytest.raises(FetchFailed, match="broke off before it answered"):
        fetch(url_of(receiver, "/hang-up"), method="POST", body=b"x", resolve=resolving("127.0.0.1", "127.0.0.2"))
    assert len(receiver.seen) == 1


def test_an_answer_has_a_bound(receiver, inside):
    receiver.answers["/"] = (200, {}, b"x" * 2000)
    with pytest.raises(FetchFailed, match="more than 1,000 bytes"):
        fetch(url_of(receiver), max_bytes=1000)


def test_an_answer_that_does_not_come_is_given_up(receiver, inside):
    with pytest.raises(FetchFailed, match="takes too long"):
        fetch(url_of(receiver, "/slow"), timeout_seconds=0.2)


def test_an_answer_that_drips_is_given_up_too(receiver, inside):
    receiver.answers["/drip"] = (200, {}, b"x" * 100_000)
    with pytest.raises(FetchFailed, match="too long"):
        fetch(url_of(receiver, "/drip"), timeout_seconds=0.3)


def test_nobody_there_is_told(inside):
    with socket.socket() as listener:  # bound, and not listening
        listener.bind(("127.0.0.1", 0))
        with pytest.raises(FetchFailed, match="does not answer"):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout_seconds=2)


def certificate(directory, name: str, *, begins: datetime.timedelta = datetime.timedelta(minutes=-5)):
    """A self-signed certificate for `name` and a day; the path of certificate and key together, of the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime.now(datetime.UTC) + begins
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "both.pem").write_bytes(public + private)
    (directory / "ca.pem").write_bytes(public)
    return directory / "both.pem", directory / "ca.pem"


def under_tls(receiver, both, **options):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    for name, value in options.items():
        setattr(context, name, value)
    receiver.socket = context.wrap_socket(receiver.socket, server_side=True)
    receiver.handle_error = lambda *_: None  # a client that does not trust it hangs up
    return context


@pytest.fixture
def secure(receiver, tmp_path):
    both, ca = certificate(tmp_path, "hooks.example")
    under_tls(receiver, both)
    return receiver, ca


def test_the_certificate_is_held_against_the_name_and_not_the_address(secure, inside, settings):
    receiver, ca = secure
    settings.FETCH_CA_FILE = str(ca)
    url = url_of(receiver, scheme="https", host="hooks.example")
    assert fetch(url, resolve=resolving("127.0.0.1")).body == b"fine"
    with pytest.raises(FetchFailed, match="made out to another host name"):
        fetch(url_of(receiver, scheme="https", host="other.example"), resolve=resolving("127.0.0.1"))
    with pytest.raises(FetchFailed, match="made out to another host name"):
        fetch(url_of(receiver, scheme="https"))


def test_a_certificate_of_nobodys_is_refused(secure, inside):
    receiver, _ = secure
    with pytest.raises(FetchFailed, match="not trusted"):
        fetch(url_of(receiver, scheme="https", host="hooks.example"), resolve=resolving("127.0.0.1"))


@pytest.mark.parametrize(
    ("days", "words"), [(-2, "has expired; renew it"), (1, "is not valid yet; compare the clocks")]
)
def test_a_certificate_of_another_time_is_told_apart(receiver, inside, settings, tmp_path, days, words):
    both, ca = certificate(tmp_path, "hooks.example", begins=datetime.timedelta(days=days))
    under_tls(receiver, both)
    settings.FETCH_CA_FILE = str(ca)
    with pytest.raises(FetchFailed, match=words):
        fetch(url_of(receiver, scheme="https", host="hooks.example"), resolve=resolving("127.0.0.1"))


def test_who_speaks_no_tls_is_told_so(receiver, inside):
    receiver.handle_error = lambda *_: None
    with pytest.raises(FetchFailed, match="answers without TLS; check the port"):
        fetch(url_of(receiver, scheme="https", host="hooks.example"), resolve=resolving("127.0.0.1"))


def test_who_speaks_only_old_tls_is_told_so(receiver, inside, settings, tmp_path):
    both, ca = certificate(tmp_path, "hooks.example")
    settings.FETCH_CA_FILE = str(ca)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context = under_tls(receiver, both, maximum_version=ssl.TLSVersion.TLSv1_1)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises(FetchFailed, match=r"needs TLS 1\.2 or newer"):
        fetch(url_of(receiver, scheme="https", host="hooks.example"), resolve=resolving("127.0.0.1"))


def test_who_asks_for_a_certificate_of_ours_is_told_so(receiver, inside, settings, tmp_path):
    both, ca = certificate(tmp_path, "hooks.example")
    settings.FETCH_CA_FILE = str(ca)
    under_tls(receiver, both, verify_mode=ssl.CERT_REQUIRED)
    with pytest.raises(FetchFailed, match="what it asks of its clients"):
        fetch(url_of(receiver, scheme="https", host="hooks.example"), resolve=resolving("127.0.0.1"))


@pytest.mark.parametrize("written", ["bücher.example", "BÜCHER.Example.", "xn--bcher-kva.example", "bücher。example"])
def test_a_name_in_other_letters_is_one_name_to_all(receiver, inside, settings, tmp_path, written):
    """What is resolved, what the certificate is held against, what SNI and Host say: the name that DNS knows."""
    asked, said = [], []
    both, ca = certificate(tmp_path, "xn--bcher-kva.example")
    settings.FETCH_CA_FILE = str(ca)
    context = under_tls(receiver, both)
    context.sni_callback = lambda _, name, __: said.append(name)

    def resolve(host, port, **_):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    receiver.answers["/a"] = (302, {"Location": "/b"}, b"")
    answer = fetch(url_of(receiver, "/a", scheme="https", host=written), headers={"X-Key": "1"}, resolve=resolve)
    known = "xn--bcher-kva.example"
    assert (set(asked), set(said)) == ({known}, {known})
    assert {each[2]["Host"] for each in receiver.seen} == {f"{known}:{receiver.server_port}"}
    assert [each[2]["X-Key"] for each in receiver.seen] == ["1", "1"]
    assert answer.url == f"https://{known}:{receiver.server_port}/b"


@pytest.mark.parametrize("host", ["127.0.0.1.", "localhost.", "１２７.０.０.１", "①②⑦.0.0.1", "lⓞcalhost"])
def test_an_address_inside_in_other_letters_is_refused(host):
    with pytest.raises(FetchRefused, match="private network"):
        check(f"https://{host}/")


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("straße.example", "as it is registered, beginning with xn--"),
        ("a..example", "is no host name"),
        ("example..", "is no host name"),
        (".", "is no host name"),
        ("-a.example", "is no host name"),
        ("exa%6dple.com", "is no host name"),
        ("exa$mple.com", "is no host name"),
        ("ü" * 70 + ".example", "is no host name"),
        (".".join(["a" * 60] * 5), "is no host name"),
        ("℀.example", "is no address"),
    ],
)
def test_what_is_no_host_name_is_refused_in_words(host, words):
    asked = []
    with pytest.raises(FetchRefused, match=words):
        check(f"https://{host}/", resolve=lambda *_, **__: asked.append(1))
    assert asked == []


def test_a_path_in_other_letters_is_sent_as_utf_8(receiver, inside):
    fetch(url_of(receiver, "/bücher?q=ß"))
    assert receiver.seen[0][1] == "/b%C3%BCcher?q=%C3%9F"


def test_no_proxy_of_the_environment_is_used(receiver, inside, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetch(url_of(receiver)).body == b"fine"
