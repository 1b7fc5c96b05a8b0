"""The whole product, watched: its log, its numbers, and the doctor when things really are broken."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import boto3
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fleetops.aws import governor
from tests.support.stack import ADMIN_PASSWORD, ROOT, running_stack, until
from tests.support.valkey import running_valkey

TYPED = "kept-out-of-the-log"
SEALED = (("outcome", "done"), ("task", "fleetops.audit.tasks.seal"))


def free_ports() -> int:
    """A port that is free, as is the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
                return port
            except OSError:
                continue


@pytest.fixture(scope="module")
def port():
    return free_ports()


@pytest.fixture(scope="module")
def stack(tmp_path_factory, port):
    variables = {"FLEETOPS_LOG_FORMAT": "json", "FLEETOPS_LOG_LEVEL": "DEBUG", "FLEETOPS_METRICS_PORT": str(port)}
    with running_stack(tmp_path_factory.mktemp("watched") / "home", **variables) as stack:
        yield stack


@pytest.fixture(scope="module")
def story(stack):
    """Somebody logs in, has the fleet read anew, opens a shell, types, and leaves."""
    person = stack.log_in()
    refreshed = person.post("/fleet/refresh/")
    session = person.connect(online(person))
    terminal = person.terminal(session)
    terminal.until(rb"[$#] ")
    terminal.run(f"echo {TYPED[:4]}''{TYPED[4:]}", TYPED)
    worker = addresses(stack)["worker"]
    until(lambda: SEALED in scraped(worker).get("fleetops_task_runs_total", {}), what="the worker has sealed the trail")
    numbers = {name: scraped(url) for name, url in addresses(stack).items()}
    terminal.type("exit\r")
    terminal.until_told("ended")
    terminal.close()
    return {"person": person, "session": session, "refreshed": refreshed, "numbers": numbers}


def online(person) -> str:
    def one() -> str | None:
        rows = json.loads(person.get("/fleet/palette/?q="))["instances"]
        return next((row["name"] for row in rows if row["status"] == "Online"), None)

    return until(one, seconds=60, what="an instance is online")


def addresses(stack) -> dict[str, str]:
    port = int(stack.environment["FLEETOPS_METRICS_PORT"])
    return {
        "web": stack.url,
        "terminal": stack.terminal_url.replace("ws:", "http:"),
        "worker": f"http://127.0.0.1:{port}",
        "beat": f"http://127.0.0.1:{port + 1}",
    }


def fetched(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return answer.read().decode()


def scraped(url: str) -> dict[str, dict[tuple, float]]:
    """Samples by metric and labels, as Prometheus's own parser reads them."""
    found: dict[str, dict[tuple, float]] = {}
    for family in text_string_to_metric_families(fetched(url + "/metrics")):
        assert family.documentation, family.name
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def lines(stack) -> list[dict]:
    return [json.loads(line) for line in stack.log.read_text().splitlines()]


def test_every_line_of_the_log_is_an_object(stack, story):
    found = lines(stack)
    assert {line["process"] for line in found} >= {
        "fleetops",
        "valkey",
        "endpoint",
        "web",
        "terminal",
        "worker",
        "commandlog",
        "beat",
    }
    assert all({"time", "level", "logger", "event"} <= line.keys() for line in found)
    page = next(line for line in found if line["logger"] == "fleetops.access" and line["route"] == "sessions:open")
    assert (page["method"], page["status"], page["source"]) == ("POST", 302, "browser")
    assert page["user"] and page["request_id"]


def test_one_id_runs_from_the_page_through_its_task_to_aws(stack, story):
    def joined() -> tuple | None:
        # A region that beat has just had read is not read for a page: whoever looks asks again.
        story["person"].post("/fleet/refresh/")
        time.sleep(1)
        found = lines(stack)
        pages = [line for line in found if line.get("route") == "inventory:refresh"]
        ids = {line["request_id"] for line in pages}
        return next(
            (
                (line["request_id"], line["aws_request"])
                for line in found
                if line["logger"] == "fleetops.aws.calls" and line["process"] == "worker" and line["request_id"] in ids
            ),
            None,
        )

    request_id, _ = until(joined, seconds=60, what="the page's task has called AWS")
    assert request_id


def test_cloudtrail_bears_the_session_in_its_user_agent(stack, story):
    key = {"AttributeKey": "EventName", "AttributeValue": "StartSession"}
    wanted = f"fleetops-request/{story['session'].replace('-', '')}"

    def agents() -> list[str]:
        found = []
        for account in stack.handover["accounts"]:
            keys = account["try_credentials"]
            for region in account["regions"]:
                trail = boto3.client(
                    "cloudtrail",
                    region_name=region,
                    endpoint_url=stack.handover["endpoint_url"],
                    verify=stack.handover["ca_file"],
                    aws_access_key_id=keys["access_key_id"],
                    aws_secret_access_key=keys["secret_access_key"],
                )
                events = trail.lookup_events(LookupAttributes=[key])["Events"]
                found += [json.loads(event["CloudTrailEvent"])["userAgent"] for event in events]
        return [agent for agent in found if wanted in agent]

    assert until(agents, what="CloudTrail has the event")


def test_the_log_holds_no_secret_even_at_debug(stack, story):
    text = stack.log.read_text()
    assert "AWS called" in text and "StartSession" in text
    secrets = [ADMIN_PASSWORD, TYPED]
    secrets += [cookie.value for cookie in story["person"].cookies]
    for account in stack.handover["accounts"]:
        secrets += [account[name]["secret_access_key"] for name in ("try_credentials", "product_credentials")]
    secrets += [(stack.home / "secrets" / name).read_text().strip() for name in ("django.key", "audit.key")]
    secrets.append(json.loads((stack.home / "secrets" / "master.key").read_text().splitlines()[0])["key"])
    for secret in secrets:
        assert secret and secret not in text
    for forbidden in (
        "TokenValue",
        "X-Amz-Security-Token",
        "Authorization: ",
        "AWS4-HMAC-SHA256",
        "wss://",
        "Cookie: ",
    ):
        assert forbidden not in text, forbidden


def test_each_process_counts_what_it_did(story):
    numbers = story["numbers"]
    opened = (("method", "POST"), ("route", "sessions:open"), ("status", "302"))
    assert numbers["web"]["fleetops_http_requests_total"][opened] == 1
    assert numbers["web"]["fleetops_sessions_live"][()] == 1 and numbers["web"]["fleetops_database_up"][()] == 1
    terminal = numbers["terminal"]
    assert (
        terminal["fleetops_terminal_sessions_live"][()] == terminal["fleetops_terminal_sessions_opened_total"][()] == 1
    )
    assert terminal["fleetops_terminal_bytes_total"][(("direction", "out"),)] > len(TYPED)
    start = (("operation", "StartSession"), ("outcome", "ok"), ("service", "ssm"))
    assert terminal["fleetops_aws_calls_total"][start] == 1
    assert numbers["worker"]["fleetops_task_runs_total"][SEALED] > 0  # of all processes of its pool
    assert any(
        dict(labels)["operation"] == "DescribeInstances" for labels in numbers["worker"]["fleetops_aws_calls_total"]
    )
    assert numbers["beat"]["fleetops_beat_ticks_total"][()] > 0


def test_people_and_polls_share_a_budget_of_aws_calls_and_are_told_apart_in_it(stack, story):
    governor.configure(stack.environment["FLEETOPS_VALKEY_URL"] + "?db=3")
    try:
        accounts = [each["account_id"] for each in stack.handover["accounts"]]
        minutes = [(use.operation, minute) for use in governor.use(accounts) for minute in use.minutes]
    finally:
        governor.configure("")

    def callers(operation):
        return {
            each
            for each in governor.Priority
            for name, minute in minutes
            if name == operation and getattr(minute, each)
        }

    assert callers("ssm:StartSession") == {"person"}
    assert callers("ec2:DescribeInstances") == callers("ssm:DescribeInstanceInformation") == {"poll"}
    assert callers("sts:AssumeRole") >= {"person", "poll"}  # and "run" once a session is delivered
    assert not any(minute.person_waited for _, minute in minutes)


def test_every_number_is_in_the_manual_and_every_one_there_is_told(story):
    manual = set(re.findall(r"^\| `(fleetops_\w+)` \|", (ROOT / "docs" / "observability.md").read_text(), re.MULTILINE))
    told = set()
    for families in story["numbers"].values():
        told |= {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in families if name.startswith("fleetops_")}
    # Created by what has not happened here.
    told |= {"fleetops_aws_throttles_total", "fleetops_terminal_sessions_ended_total"}
    told |= {"fleetops_aws_throttled_attempts_total", "fleetops_aws_wait_seconds", "fleetops_backup_age_seconds"}
    told |= {"fleetops_log_puts_total", "fleetops_log_events_total"}
    told = {name for name in told if f"{name}_total" not in told}
    assert told == manual


def test_no_label_names_an_instance_a_user_or_a_session(stack, story):
    labels = {name for one in story["numbers"].values() for rows in one.values() for row in rows for name, _ in row}
    assert labels <= {
        *("method", "route", "status", "service", "operation", "outcome", "account", "region", "task"),
        *("reason", "direction", "state", "le", "priority", "to"),
    }


def test_both_say_that_they_are_ready(stack):
    for part in ("web", "terminal"):
        assert json.loads(fetched(addresses(stack)[part] + "/readyz"))["status"] == "ready"


# --- The doctor ------------------------------------------------------------------------------------------------------


def doctor(stack, **environment: str) -> tuple[int, dict[str, list[dict]]]:
    """Its exit code, and what it found."""
    kept = dict(stack.environment)
    stack.environment |= environment
    try:
        done = stack.manage("doctor", "--json", check=False)
    finally:
        stack.environment.clear()
        stack.environment.update(kept)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["checks"]


def troubles(checks: dict[str, list[dict]], *, state: str = "failed") -> dict[str, str]:
    """The text of what is in that state, by check; each says what to do."""
    found = {name: [each for each in rows if each["state"] == state] for name, rows in checks.items()}
    assert all(each["to_do"] for rows in found.values() for each in rows)
    return {name: "; ".join(each["text"] for each in rows) for name, rows in found.items() if rows}


def test_a_well_installation_has_nothing_failed(stack, story):
    code, checks = doctor(stack)
    assert not troubles(checks), checks
    assert code in {0, 1}  # 1: a small disk, or a development environment's other packages
    assert set(checks) == {
        *("database", "broker", "credentials", "clocks", "storage", "versions", "keys", "processes", "certificates"),
        "deliveries",
        "runs",
    }
    assert sum("acts as arn:aws:sts" in each["text"] for each in checks["credentials"]) == 2


def test_the_command_line_asks_the_same(stack):
    done = subprocess.run(
        [sys.executable, "-m", "fleetops.cli.main", "doctor"],
        cwd=ROOT,
        env=stack.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode in {0, 1} and re.search(r"^ok +database +SQLite", done.stdout, re.MULTILINE), done.stderr


def test_a_stopped_broker_is_found_and_the_rest_is_looked_at(stack, tmp_path):
    with running_valkey(tmp_path / "v") as path:
        gone = f"unix://{path}"
    code, checks = doctor(stack, FLEETOPS_VALKEY_URL=gone)
    assert code == 2 and list(troubles(checks)) == ["broker"]
    assert "does not answer" in troubles(checks)["broker"]
    assert any("who lives is not known" in each["text"] for each in checks["processes"])


def test_a_broker_that_forgets_is_found(stack, tmp_path):
    with running_valkey(tmp_path / "v") as path:  # without an append-only file, and with no sign of anybody
        _, checks = doctor(stack, FLEETOPS_VALKEY_URL=f"unix://{path}")
    assert "no append-only file" in troubles(checks, state="warning")["broker"]
    assert "beat: has not been heard of" in troubles(checks)["processes"]


def test_wrong_credentials_are_found(stack, tmp_path):
    wrong = tmp_path / "credentials"
    text = Path(stack.environment["AWS_SHARED_CREDENTIALS_FILE"]).read_text()
    wrong.write_text(re.sub(r"(aws_secret_access_key *= *)\S+", r"\1" + "x" * 40, text))
    code, checks = doctor(stack, AWS_SHARED_CREDENTIALS_FILE=str(wrong))
    assert code == 2 and list(troubles(checks)) == ["credentials"]
    assert "does not accept the credentials" in troubles(checks)["credentials"]
    assert "x" * 40 not in json.dumps(checks)


def test_a_skewed_clock_is_found(stack, tmp_path):
    clock = tmp_path / "clock.json"
    clock.write_text(json.dumps({"offset_seconds": 400, "rate": 1, "since": 0}))
    code, checks = doctor(stack, FLEETOPS_CLOCK_FILE=str(clock))
    assert code == 2
    assert re.search(r"this machine is (399|400|401) s ahead of AWS in", troubles(checks)["clocks"])


def test_a_spool_that_takes_nothing_is_found(stack):
    code, checks = doctor(stack, FLEETOPS_SPOOL_DIR="/proc/fleetops")
    assert code == 2 and list(troubles(checks)) == ["storage"]
    assert "spool: /proc/fleetops cannot be written to" in troubles(checks)["storage"]


def test_a_migration_that_is_missing_is_found(stack, tmp_path):
    copy = tmp_path / "copy.sqlite3"
    with sqlite3.connect(stack.home / "fleetops.sqlite3") as source, sqlite3.connect(copy) as target:
        source.backup(target)
        target.execute(
            "DELETE FROM django_migrations WHERE id = (SELECT max(id) FROM django_migrations WHERE app = 'notify')"
        )
    source.close()
    target.close()
    code, checks = doctor(stack, FLEETOPS_DATABASE_URL=f"sqlite:///{copy}")
    assert code == 2
    assert "1 migrations of this version are not applied: notify." in troubles(checks)["database"]


def test_without_a_database_all_else_is_looked_at(stack):
    code, checks = doctor(stack, FLEETOPS_DATABASE_URL="postgresql://fleetops:a-hidden-word@127.0.0.1:1/fleetops")
    assert code == 2 and list(troubles(checks)) == ["database"]
    assert "a-hidden-word" not in json.dumps(checks)
    assert any(each["state"] == "ok" for each in checks["broker"]) and checks["storage"][0]["state"] == "ok"


def test_a_key_that_others_can_read_and_one_that_does_not_fit_are_found(stack):
    key = stack.home / "secrets" / "django.key"
    key.chmod(0o644)
    try:
        code, checks = doctor(stack, FLEETOPS_AUDIT_KEY="another key, of more than thirty-two characters")
    finally:
        key.chmod(0o600)
    assert code == 2 and list(troubles(checks)) == ["keys"]
    assert "django.key can be read by others" in troubles(checks)["keys"]
    assert "the audit key is not the one" in troubles(checks)["keys"]
