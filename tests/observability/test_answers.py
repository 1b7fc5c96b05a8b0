"""/healthz, /readyz and /metrics as an ASGI server asks for them, while what they ask is there, and is not."""

import asyncio
import json

import pytest
from django.db import connection
from prometheus_client.parser import text_string_to_metric_families

from fleetops import metrics
from fleetops.monitoring import Watched
from tests.support.valkey import running_valkey

TOKEN = "a-token-of-the-tests"


async def ask(path: str, *, part: str = "web", client: str = "127.0.0.1", method: str = "GET", **headers: str):
    """Status, headers and body."""
    sent = []

    async def send(message):
        sent.append(message)

    async def nobody(*_):
        raise AssertionError("it went on to the application")

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "method": method, "headers": raw, "client": (client, 1)}
    await Watched(nobody, part, has_lifespan=False)(scope, nobody, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def asked(*args, **kwargs):
    return asyncio.run(ask(*args, **kwargs))


@pytest.fixture
def broken(transactional_db):
    """The database of other threads, too, refuses connections, with words that nobody should read."""
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.utils import OperationalError

    def refuse(self):
        raise OperationalError("connection to server at 10.0.0.1, user fleetops, failed")

    connection.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseDatabaseWrapper, "connect", refuse)
        yield


@pytest.mark.django_db(transaction=True)
def test_both_are_ready_and_say_how_long_each_check_took(valkey, settings, tmp_path):
    settings.SPOOL_DIR = tmp_path / "spool"
    for part, checks in (("web", ["database", "broker"]), ("terminal", ["database", "broker", "spool"])):
        status, headers, body = asked("/readyz", part=part)
        found = json.loads(body)
        assert (status, found["status"], list(found["checks"])) == (200, "ready", checks)
        assert all(each["ok"] and each["ms"] >= 0 for each in found["checks"].values())
        assert headers[b"cache-control"] == b"no-store"


def test_without_the_database_it_lives_and_is_not_ready_and_tells_no_address(broken, valkey):
    assert asked("/healthz")[::2] == (200, b"ok\n")
    status, _, body = asked("/readyz")
    assert status == 503 and b"The database does not answer." in body and b"10.0.0.1" not in body
    status, _, body = asked("/metrics")
    assert status == 200 and b"fleetops_database_up 0.0" in body and b"fleetops_audit_unsealed_rows" not in body


@pytest.mark.django_db(transaction=True)
def test_a_stopped_broker_is_named(settings, tmp_path):
    with running_valkey(tmp_path / "v") as socket:
        settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": f"unix://{socket}?db=1"}}
        assert asked("/readyz")[0] == 200
    status, _, body = asked("/readyz")
    assert status == 503 and json.loads(body)["checks"]["broker"]["text"].startswith("The broker (Valkey)")


@pytest.mark.django_db(transaction=True)
def test_a_migration_that_is_not_applied_is_counted(valkey):
    with connection.cursor() as cursor:
        cursor.execute("SELECT app, name, applied FROM django_migrations WHERE app = 'audit' ORDER BY id LIMIT 1")
        app, name, applied = cursor.fetchone()
        cursor.execute("DELETE FROM django_migrations WHERE app = %s AND name = %s", [app, name])
        try:
            status, _, body = asked("/readyz")
        finally:
            row = [app, name, applied]
            cursor.execute("INSERT INTO django_migrations (app, name, applied) VALUES (%s, %s, %s)", row)
    assert status == 503 and b"lacks 1 migrations of this version" in body


@pytest.mark.django_db(transaction=True)
def test_a_spool_that_takes_no_file_is_told(valkey, settings, tmp_path):
    (tmp_path / "file").write_text("")
    settings.SPOOL_DIR = tmp_path / "file" / "spool"
    status, _, body = asked("/readyz", part="terminal")
    assert status == 503 and b"The spool cannot be written to." in body and str(tmp_path).encode() not in body


def test_other_methods_are_refused_and_head_has_no_body():
    status, headers, _ = asked("/healthz", method="POST")
    assert (status, headers[b"allow"]) == (405, b"GET, HEAD")
    assert asked("/healthz", method="HEAD")[::2] == (200, b"")


@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("::ffff:127.0.0.1", {}, 200),
        ("127.0.0.1", {"x_forwarded_for": "203.0.113.9"}, 403),  # through a proxy on this machine
        ("10.1.2.3", {}, 200),
        ("10.2.0.1", {}, 403),
        ("203.0.113.9", {"authorization": f"Bearer {TOKEN}"}, 200),
        ("203.0.113.9", {"authorization": "Bearer another-token-of-it"}, 403),
        ("203.0.113.9", {"authorization": "Bearer "}, 403),
        ("", {}, 403),
    ],
)
def test_who_may_read_the_numbers(settings, client, headers, status):
    settings.METRICS_NETWORKS, settings.METRICS_TOKEN = ["10.1.0.0/16"], TOKEN
    found, _, body = asked("/metrics", part="terminal", client=client, **headers)
    assert found == status
    assert (b"fleetops_" in body) == (status == 200)


def test_without_a_token_set_none_opens(settings):
    settings.METRICS_TOKEN = ""
    assert asked("/metrics", part="terminal", client="203.0.113.9", authorization="Bearer ")[0] == 403


@pytest.mark.django_db(transaction=True)
def test_the_numbers_of_the_database_are_those_in_it(valkey, roles):
    from fleetops.audit.record import record

    metrics.ask("fleetops_made_up", "Made up.", ("kind",), lambda: [(("a",), 3.0)])
    try:
        record("identity.login", actor="test")
        families = {each.name: each for each in text_string_to_metric_families(asked("/metrics")[2].decode())}
    finally:
        metrics._asked[:] = [each for each in metrics._asked if each[0] != "fleetops_made_up"]
    assert families["fleetops_audit_unsealed_rows"].samples[0].value >= 1
    assert families["fleetops_database_up"].samples[0].value == 1
    assert families["fleetops_made_up"].samples[0].labels == {"kind": "a"}
    assert "fleetops_task_queue_length" in families
