"""Sessions and instances, asked of a real endpoint."""

import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fleetops.aws import clients, ec2, ssm
from fleetops.aws.errors import AwsError, TargetNotConnected, Unavailable
from tests.support.endpoint import until

REGION = "eu-west-1"
MARIA = {"session_name": "maria", "source_identity": "maria"}


@pytest.fixture
def online(access):
    """The id of a demo node whose control channel stands."""
    found = until(
        lambda: [
            node.instance_id
            for page in ssm.instance_pages(access, REGION, session_name="tests")
            for node in page
            if node.ping_status == "Online" and node.instance_id.startswith("i-")
        ]
    )
    return found[0]


@contextmanager
def failing_server(action):
    """An HTTP server whose every answer is `action(handler)`; yields its URL and the list of requests."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(self.headers.get("X-Amz-Target", ""))
            action(self)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def error_500(handler):
    body = b'{"__type": "InternalServerError"}'
    handler.send_response(500)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def hang_up(handler):
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def test_a_session_is_started_resumed_listed_and_ended(access, online):
    started = ssm.start_session(access, REGION, target=online, reason="fleetops:0190", **MARIA)
    assert started.session_id.startswith("maria-")
    assert started.stream_url.startswith("wss://127.0.0.1:")
    assert started.token not in repr(started)
    assert started.stream_url not in repr(started)

    resumed = ssm.resume_session(access, REGION, session_id=started.session_id, **MARIA)
    assert resumed.session_id == started.session_id
    assert resumed.token != started.token

    (listed,) = ssm.describe_sessions(access, REGION, target=online, **MARIA)
    assert (listed.session_id, listed.reason) == (started.session_id, "fleetops:0190")
    assert listed.owner.endswith("/maria")

    ssm.terminate_session(access, REGION, session_id=started.session_id, **MARIA)
    until(lambda: not list(ssm.describe_sessions(access, REGION, target=online, **MARIA)))
    with pytest.raises(AwsError):
        ssm.resume_session(access, REGION, session_id=started.session_id, **MARIA)


def test_a_session_that_aws_knows_no_more_has_been_ended(access):
    ssm.terminate_session(access, REGION, session_id="maria-00000000000000000", **MARIA)


def test_an_instance_that_is_stopped_is_not_connected(access, endpoint):
    stopped = endpoint.instance_id("pg-report-eu1a-1")
    with pytest.raises(TargetNotConnected, match="not connected"):
        ssm.start_session(access, REGION, target=stopped, reason="", **MARIA)


@pytest.mark.parametrize("fault", [error_500, hang_up])
def test_start_session_is_tried_once_whatever_happens(changed, fault, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
    with failing_server(fault) as (url, seen):
        broken = changed(endpoint_url=url, ca_pem="", role_arn="", profile="")
        with pytest.raises(Unavailable) as error:
            ssm.start_session(broken, REGION, target="i-0", reason="", **MARIA)
        assert seen == ["AmazonSSM.StartSession"]
        assert error.value.is_outcome_unknown
        with pytest.raises(Unavailable):
            ssm.terminate_session(broken, REGION, session_id="maria-1", **MARIA)
        assert seen.count("AmazonSSM.TerminateSession") == clients.DEFAULT_ATTEMPTS


@pytest.mark.parametrize(
    "url",
    [
        "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/maria-1?role=publish_subscribe",
        "wss://ssmmessages-fips.us-gov-west-1.amazonaws.com/v1/data-channel/x",
        "wss://ssmmessages.cn-north-1.amazonaws.com.cn/v1/data-channel/x",
        "wss://Stream.Example:8443/v1/data-channel/x",
        "wss://[::1]:8443/x",
        "wss://plain.example/x",
    ],
)
def test_a_stream_may_lead_to_aws_and_to_the_accounts_hosts(url):
    access = clients.AccountAccess("1", stream_hosts=("stream.example:8443", "[::1]:8443", "plain.example"))
    region = url.split(".")[1] if "ssmmessages" in url else REGION
    ssm.check_stream_url(url, access, region)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ws://stream.example:8443/x",
        "https://stream.example:8443/x",
        "wss://stream.example/x",
        "wss://stream.example:8444/x",
        "wss://stream.example:8443@evil.example/x",
        "wss://user@stream.example:8443/x",
        "wss://169.254.169.254/latest",
        "wss://ssmmessages.eu-west-1.amazonaws.com.evil.example/x",
        "wss://evilssmmessages.eu-west-1.amazonaws.com/x",
        "wss://ssmmessages.us-east-1.amazonaws.com/x",  # AWS's, and not the region's that was asked
        "wss://ssmmessages.eu-west-1.amazonaws.com:8080/x",
        "wss://stream.example:notaport/x",
        "wss://[::1/x",
    ],
)
def test_a_stream_that_leads_elsewhere_is_refused(url):
    access = clients.AccountAccess("1", stream_hosts=("stream.example:8443",))
    with pytest.raises(AwsError, match="neither AWS's own nor one of the stream hosts"):
        ssm.check_stream_url(url, access, REGION)


def test_a_started_session_with_a_foreign_stream_is_refused(changed, online):
    with pytest.raises(AwsError, match="stream leads to"):
        ssm.start_session(changed(stream_hosts=()), REGION, target=online, reason="", **MARIA)


def test_pages_bear_everything_once_and_keep_to_their_size(access, monkeypatch):
    monkeypatch.setattr(ssm, "PAGE", 5)
    monkeypatch.setattr(ec2, "PAGE", 5)
    nodes = list(ssm.instance_pages(access, REGION, session_name="tests"))
    machines = list(ec2.instance_pages(access, REGION, session_name="tests"))
    for pages in (nodes, machines):
        ids = [each.instance_id for page in pages for each in page]
        assert len(pages) > 1
        assert all(len(page) <= 5 for page in pages)
        assert len(ids) == len(set(ids))
    by_name = {each.tags["Name"]: each for page in machines for each in page}
    assert by_name["pg-report-eu1a-1"].state == "stopped"
    assert by_name["pg-ledger-eu1a-1"].profile_arn.endswith("instance-profile/ssm-core")
    assert by_name["pg-ledger-eu1a-1"].launched_at.tzinfo is not None


def test_a_hybrid_nodes_tags_are_asked_for_by_themselves(access):
    hybrid = [
        node
        for page in ssm.instance_pages(access, REGION, session_name="tests")
        for node in page
        if node.resource_type == "ManagedInstance"
    ]
    tags = ssm.managed_instance_tags(access, REGION, instance_id=hybrid[0].instance_id, session_name="tests")
    assert tags["cluster"] == "lagos-pos"
