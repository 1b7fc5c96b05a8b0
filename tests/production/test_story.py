"""The services of docker-compose.yml, all of them and two of each, carry the main job; also while parts of them die.

The fleet is the endpoint of the file, linked as an administrator would link an AWS, and one machine that joins it.
"""

import contextlib
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import boto3
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from fleetops import clock
from fleetops.endpoint import seed
from fleetops.endpoint.calls import Principal
from fleetops.endpoint.credentials import TokenVault
from fleetops.node.spec import NodeSpec
from tests.browser.conftest import CHROMIUM, FLAGS
from tests.browser.test_one_click_shell import connect, wait_for_screen
from tests.sessions_app.clients import StreamClient
from tests.support.production import HOST, ROOT, Production, missing_programs
from tests.support.stack import descendants, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

ENDPOINT = "/var/lib/fleetops/endpoint"
MACHINE = seed.MACHINES[0]
MAKE_A_KEY = """
from datetime import timedelta
from fleetops.clock import now
from fleetops.identity import access_keys
from fleetops.identity.models import User
owner = User.objects.get(username="admin")
key, secret = access_keys.create(owner, actor=owner, name="story", expires_at=now() + timedelta(days=1))
print(key.key_id, secret)
"""


@pytest.fixture(scope="module")
def production(tmp_path_factory) -> Iterator[Production]:
    if missing := missing_programs():
        if os.environ.get("CI"):
            pytest.fail(f"{', '.join(missing)} not there; .ci/run installs it.")
        pytest.skip(f"Production is tried with Debian's programs; install {', '.join(missing)}.")
    directory = tmp_path_factory.mktemp("fo")
    production = Production(directory, profiles=("endpoint",))
    production.make_secrets()
    (directory / "fleetops.env").write_text("FLEETOPS_INVENTORY_SECONDS=5\n")
    with production.running():
        production.until_well()
        with production.known_here(), joined(production, MACHINE):
            yield production


@contextlib.contextmanager
def joined(production: Production, machine: seed.Machine) -> Iterator[None]:
    """A machine whose agent talks to the endpoint, with the credentials that an instance's metadata would give it."""
    home = production.volume("endpoint")
    keys = handover(production)["accounts"][0]["try_credentials"]
    iam = boto3.client(
        "iam",
        endpoint_url="https://endpoint:8443",
        verify=str(home / "ca.pem"),
        region_name=machine.region,
        aws_access_key_id=keys["access_key_id"],
        aws_secret_access_key=keys["secret_access_key"],
    )
    role = iam.get_role(RoleName=seed.NODE_ROLE)["Role"]
    principal = Principal(
        kind="node",
        account_id=machine.account_id,
        arn=f"arn:aws:sts::{machine.account_id}:assumed-role/{seed.NODE_ROLE}/{machine.instance_id}",
        user_id=f"{role['RoleId']}:{machine.instance_id}",
        name=seed.NODE_ROLE,
        access_key_id="",
        session_name=machine.instance_id,
        role_arn=role["Arn"],
        node=machine.key,
    )
    given = TokenVault((home / "keys" / "token.key").read_bytes()).issue(principal, timedelta(hours=1), clock.now())
    spec = NodeSpec(
        *machine.key, hostname=machine.name, name=machine.name, home=str(production.directory / "machine"), zone="a"
    )
    orders = [
        {"op": "node", "spec": spec.to_json()},
        {"op": "state", "node": machine.key, "running": True},
        {
            "op": "credentials",
            "node": machine.key,
            "credentials": {
                "access_key_id": given.access_key_id,
                "secret_access_key": given.secret_access_key,
                "session_token": given.session_token,
            },
        },
    ]
    config = production.directory / "machine.json"
    config.write_text(json.dumps({"options": {"is_loopback": False, "retry_scale": 0.1}}))
    command = [
        *("bwrap", "--dev-bind", "/", "/", "--ro-bind", str(production.hosts("web-1")), "/etc/hosts"),
        *("--die-with-parent", "--", sys.executable, "-m", "fleetops.node", "host"),
        *("--endpoint", "https://endpoint:8443", "--ca", str(home / "ca.pem"), "--config", str(config)),
    ]
    with (production.directory / "logs" / "machine").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        process.stdin.write("".join(json.dumps(order) + "\n" for order in orders).encode())
        process.stdin.flush()
        yield
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()


def handover(production: Production) -> dict:
    """What the endpoint tells an administrator."""
    return json.loads(production.execute("endpoint", "cat", f"{ENDPOINT}/handover.json").stdout)


@pytest.fixture(scope="module")
def browser(production: Production) -> Iterator[Browser]:
    if not CHROMIUM.exists():
        if os.environ.get("CI"):
            pytest.fail("There is no Chromium; .ci/run installs it.")
        pytest.skip("Browser tests need Chromium: install Debian's package chromium.")
    names = f"--host-resolver-rules=MAP {HOST} {production.address('proxy')}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=[*FLAGS, names])
        yield browser
        browser.close()


@pytest.fixture
def admin(browser: Browser, production: Production) -> Iterator[Page]:
    """The administrator's browser. The certificate is the one that FleetOps signs itself."""
    context = browser.new_context(
        base_url=production.url, viewport={"width": 1440, "height": 900}, ignore_https_errors=True
    )
    page = context.new_page()
    page.goto("/login/")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(production.secret("admin_password").read_text().strip())
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/fleet/")
    yield page
    context.close()


@pytest.fixture
def fleet(admin: Page, production: Production) -> Page:
    """The fleet page, once the endpoint's first account is linked as any AWS is."""
    account = handover(production)["accounts"][0]
    if not production.rows("SELECT 1 FROM inventory_account"):
        keys = account["product_credentials"]
        path = production.secret("aws_credentials")
        path.chmod(0o600)
        path.write_text(  # in its place: the services hold this very file
            f"[own]\naws_access_key_id = {keys['access_key_id']}\naws_secret_access_key = {keys['secret_access_key']}\n"
        )
        admin.get_by_role("link", name="Accounts").click()
        admin.get_by_role("link", name="Add account").first.click()
        admin.get_by_label("Account number").fill(account["account_id"])
        admin.get_by_label("Name", exact=True).fill("our-own")
        admin.get_by_label("eu-west-1", exact=True).check()
        admin.get_by_label("Role to assume").fill(account["role_arn"])
        admin.get_by_label("External id").fill("")
        admin.get_by_label("Profile of the base credentials").fill("own")
        admin.get_by_label("Endpoint address").fill("https://endpoint:8443")
        certificate = production.execute("endpoint", "cat", f"{ENDPOINT}/ca.pem").stdout
        admin.get_by_label("CA certificate").fill(certificate)
        admin.get_by_role("button", name="Add and check").click()
        expect(admin.locator("#check")).to_contain_text("Works", timeout=60_000)
        admin.goto("/fleet/")
    return admin


# --- Requests without a browser ---------------------------------------------------------------------------------------


class Client:
    """Somebody at an address of their own, who talks to the proxy or past it."""

    def __init__(self, production: Production, address: str, *, to: str = "proxy", port: int = 8443) -> None:
        self.cookies: dict[str, str] = {}
        self.options: dict[str, Any] = {"timeout": 20, "source_address": (address, 0)}
        self.is_tls, self.host, self.port = port == 8443, production.address(to), port
        if self.is_tls:
            self.host = HOST
            self.options["context"] = ssl.create_default_context(cafile=str(production.secret("tls_certificate")))

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        fields = {"Host": f"{HOST}:8443"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            fields["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        kind = http.client.HTTPSConnection if self.is_tls else http.client.HTTPConnection
        with contextlib.closing(kind(self.host, self.port, **self.options)) as connection:
            connection.request(method, path, body or None, fields)
            answer = connection.getresponse()
            content = answer.read()
        for line in answer.headers.get_all("Set-Cookie") or ():
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
            assert "Secure" in line, line
        return answer, content

    def log_in_wrongly(self, username: str, **headers: str) -> int:
        """A wrong password by the form; the status of the answer."""
        self.ask("GET", "/login/")
        form = {"username": username, "password": "not it", "csrfmiddlewaretoken": self.cookies["fleetops_csrf"]}
        sent = {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"https://{HOST}:8443"} | headers
        return self.ask("POST", "/login/", urlencode(form), **sent)[0].status


def test_every_service_is_well_and_migrations_are_through(production: Production):
    assert {name: production.check(name) for name in production.containers if name != "migrate"} == {
        name: 0 for name in production.containers if name != "migrate"
    }
    assert production.containers["migrate"].is_done
    names = {f"{part}-{number}" for part in ("web", "terminal", "worker", "beat") for number in (1, 2)}
    assert names < production.containers.keys()


def test_what_runs_is_what_the_file_says(production: Production):
    for name, container in production.containers.items():
        if not container.spec["image"].startswith("fleetops") or container.is_done:
            continue
        process = Path("/proc", str(descendants(container.process.pid)[1]))  # below bubblewrap's own process 1
        assert process.joinpath("cmdline").read_text().split("\0")[:-1] == container.spec["command"]
        environment = dict(each.split("=", 1) for each in process.joinpath("environ").read_text().split("\0") if each)
        assert container.spec["environment"].items() <= environment.items(), name


def test_a_service_has_the_root_and_the_rights_of_its_container(production: Production):
    script = "id -u; touch /app/x /x 2>&1; cat /run/secrets/tls_key 2>&1; grep CapBnd /proc/self/status"
    said = production.execute("web-1", "sh", "-c", script).stdout
    assert said.startswith("10001\n") and said.count("Read-only file system") == 2
    assert "/run/secrets/tls_key: No such file" in said and re.search(r"CapBnd:\s+0{16}\n", said)
    # Who has no network in common does not know the name.
    assert production.execute("proxy", "getent", "hosts", "postgres", check=False).returncode != 0


def test_the_proxy_ends_tls_and_keeps_what_is_inside(production: Production):
    plain, _ = Client(production, "127.0.0.1", port=8080).ask("GET", "/fleet/?q=a%20b")
    assert (plain.status, plain.headers["Location"]) == (301, f"https://{HOST}:8443/fleet/?q=a%20b")
    client = Client(production, "127.0.0.1")
    page, _ = client.ask("GET", "/login/")
    assert page.status == 200 and re.fullmatch(r"[0-9a-f]{32}", page.headers["X-Request-Id"])
    assert page.headers.get_all("Strict-Transport-Security") == ["max-age=31536000"]
    for path in ("/metrics", "/readyz"):
        hidden, _ = client.ask("GET", path)
        assert hidden.status == 404 and hidden.headers["Strict-Transport-Security"]
    large, _ = client.ask("POST", "/login/", "x" * (5 << 20))
    assert large.status == 413
    strange, _ = client.ask("GET", "/login/", Host="evil.example.com")
    assert strange.status == 400


def test_numbers_are_read_at_the_process_with_the_token(production: Production):
    token = production.secret("metrics_token").read_text().strip()
    client = Client(production, "127.0.0.1", to="web-1", port=8080)
    answer, body = client.ask("GET", "/metrics", Authorization=f"Bearer {token}", Via="1.1 prometheus")
    assert answer.status == 200 and b"fleetops_http_requests_total" in body
    assert client.ask("GET", "/metrics", Via="1.1 prometheus")[0].status == 403
    assert client.ask("GET", "/readyz")[0].status == 200


def test_the_audit_log_names_where_people_are_and_believes_the_proxy_alone(production: Production):
    assert Client(production, "127.0.0.7").log_in_wrongly("admin", X_Forwarded_For="9.9.9.9") == 400
    query = "SELECT source_address FROM audit_auditevent WHERE action = 'identity.login.refuse'"
    assert production.rows(query) == [("127.0.0.7",)]
    past = Client(production, "127.0.0.8", to="web-1", port=8080)
    answer, _ = past.ask("GET", "/api/v1/users/me/", X_Forwarded_Proto="https", X_Forwarded_For="9.9.9.9")
    assert "Strict-Transport-Security" not in answer.headers  # it came without TLS, whatever it says


def test_log_ins_of_one_address_are_slowed_down_and_those_of_others_are_not(production: Production):
    client = Client(production, "127.0.0.9")
    client.ask("GET", "/login/")
    statuses = [client.ask("POST", "/login/", "x=1")[0].status for _ in range(25)]
    assert statuses[:20] == [403] * 20 and 429 in statuses[20:]
    assert client.ask("GET", "/login/")[0].status == 200
    assert Client(production, "127.0.0.10").log_in_wrongly("admin") == 400


# --- The main job -----------------------------------------------------------------------------------------------------


def do_the_main_job(page: Page) -> None:
    """Connect, type, leave; the recording replays it and the audit log shows it: as in test_one_click_shell.py."""
    connect(page)
    wait_for_screen(page, r"[$#] $")
    page.keyboard.type("echo $((6*7))\n")
    wait_for_screen(page, r"^42$")
    end_shell(page)
    page.get_by_role("link", name=re.compile("replay|recording", re.I)).first.click()
    page.wait_for_url("**/replay/**")
    page.get_by_role("button", name=re.compile("^Play")).click()
    page.wait_for_function("() => /^42$/m.test(window.fleetopsReplay.text())", timeout=20_000)
    page.goto("/audit/?q=session:" + re.search(r"/sessions/([0-9a-f-]{36})/", page.url)[1])
    for deed in ("sessions.open", "sessions.start", "sessions.end"):
        expect(page.get_by_text(deed).first).to_be_visible()


def owner_of(production: Production, page: Page) -> str:
    """The terminal process that holds the session of a page."""
    session = re.search(r"/sessions/([0-9a-f-]{36})/", page.url)[1]
    (owner,) = production.rows("SELECT owner FROM sessions_app_terminalsession WHERE id = %s", session)[0]
    address = owner.split(":")[0]
    return next(name for name, each in production.containers.items() if each.addresses.get("edge") == address)


def end_shell(page: Page) -> None:
    page.keyboard.type("exit\n")
    expect(page.get_by_text("This session has ended").first).to_be_visible(timeout=30_000)


def test_the_main_job_is_done(fleet: Page):
    do_the_main_job(fleet)


def test_the_aws_cli_has_its_door_behind_the_proxy(fleet: Page, production: Production):
    """Signed over the path and the Host that the proxy was sent."""
    made = production.execute("web-1", "python", "manage.py", "shell", "-v", "0", "-c", MAKE_A_KEY).stdout.split()[-2:]
    tls = str(production.secret("tls_certificate"))

    def client(service: str) -> Any:
        keys = {"aws_access_key_id": made[0], "aws_secret_access_key": made[1], "region_name": "eu-west-1"}
        return boto3.client(service, endpoint_url=f"https://{HOST}:8443/aws/", verify=tls, **keys)

    assert client("sts").get_caller_identity()["Arn"].endswith(":user/admin")
    answer = client("ssm").start_session(Target=MACHINE.instance_id)
    assert answer["StreamUrl"].startswith(f"wss://{HOST}:8443/aws/stream/")
    shell = StreamClient(answer, tls=ssl.create_default_context(cafile=tls)).connect()
    shell.until(lambda: b"$ " in shell.output or b"# " in shell.output, what="a prompt", seconds=30)
    shell.run("echo $((6*7))", b"42\r\n")
    client("ssm").terminate_session(SessionId=answer["SessionId"])
    assert shell.ended(seconds=30) == "Ended by admin."


def test_a_shell_goes_on_when_one_of_each_is_killed_and_the_main_job_is_done_again(fleet: Page, production: Production):
    connect(fleet)
    wait_for_screen(fleet, r"[$#] $")
    fleet.keyboard.type("MARK=kept; echo first-$MARK\n")
    wait_for_screen(fleet, r"^first-kept$")
    killed = [owner_of(production, fleet), "web-1", "worker-1", "beat-1"]
    for name in killed:
        production.kill(name)
    other = {"terminal-1": "terminal-2", "terminal-2": "terminal-1"}[killed[0]]
    until(lambda: owner_of(production, fleet) == other, seconds=60, what="the other one goes on with the session")
    wait_for_screen(fleet, r"^first-kept$")
    expect(fleet.locator('[data-part="state"]')).to_contain_text("Connected", timeout=30_000)
    fleet.keyboard.type("echo again-$MARK\n")
    wait_for_screen(fleet, r"^again-kept$")
    end_shell(fleet)
    fleet.goto("/fleet/")
    do_the_main_job(fleet)
    production.until_well()
    assert all(production.containers[name].starts == 2 for name in killed)


def test_killed_stores_are_started_again_and_the_main_job_is_done_again(fleet: Page, production: Production):
    for name in ("postgres", "valkey"):
        production.kill(name)
    production.until_well()
    assert [production.containers[name].starts for name in ("postgres", "valkey")] == [2, 2]
    fleet.goto("/fleet/")
    do_the_main_job(fleet)


def test_what_is_stopped_ends_in_its_time_and_the_shell_goes_on(fleet: Page, production: Production):
    connect(fleet)
    wait_for_screen(fleet, r"[$#] $")
    fleet.keyboard.type("MARK=kept\n")
    owner = owner_of(production, fleet)
    stopped = [owner, "web-2", "worker-2", "beat-2", "proxy"]
    codes = production.stop(*stopped)
    assert not {name: code for name, code in codes.items() if code not in (0, 128 + 15)}
    for name in stopped:
        production.start(name)
    production.until_well()
    fleet.keyboard.type("echo again-$MARK\n")
    wait_for_screen(fleet, r"^again-kept$")
    end_shell(fleet)


def test_two_of_each_have_done_nothing_twice(production: Production):
    """Beats tick beside each other, and workers take the same tasks: what is done once is there once."""
    sessions = production.rows(
        "SELECT id, state FROM sessions_app_terminalsession WHERE ended_at IS NOT NULL AND state = 'ended'"
    )
    assert sessions
    actions = "SELECT action, count(*) FROM audit_auditevent WHERE session_id = %s GROUP BY 1"
    for pk, _ in sessions:
        counted = dict(production.rows(actions, str(pk)))
        assert [counted.get(f"sessions.{deed}") for deed in ("open", "start", "end")] == [1, 1, 1], counted
    unsent = "SELECT count(*) FROM sessions_app_recordingchunk WHERE sent_at IS NULL"
    until(lambda: production.rows(unsent) == [(0,)], seconds=30, what="every chunk is stored")
    chunks = production.rows("SELECT count(*), count(DISTINCT (session_id, number)) FROM sessions_app_recordingchunk")
    assert chunks[0][0] == chunks[0][1] > 0

    def verdict() -> dict:
        done = production.execute("web-1", "python", "manage.py", "audit_verify", "--json", check=False)
        return json.loads(done.stdout)

    until(lambda: verdict()["unsealed"] == 0, seconds=30, what="every audit row is sealed")
    assert verdict()["ok"]


def test_the_doctor_finds_nothing_that_has_to_be_mended(production: Production):
    done = production.execute("worker-1", "python", "manage.py", "doctor", "--json", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_backup_was_made_and_is_whole(production: Production):
    said = production.execute("backup", "python", "-m", "fleetops.backup", "verify", "/backups").stdout
    assert re.fullmatch(r"\d{8}T\d{6}Z  whole\n", said), said


def test_no_secret_was_logged(production: Production):
    secrets = {path.name: path.read_text().strip() for path in (production.directory / "secrets").iterdir()}
    for log in sorted((production.directory / "logs").iterdir()):
        text = log.read_text(errors="replace")
        assert not [name for name, value in secrets.items() if len(value) > 15 and value in text], log.name
        passwords = [re.search(r":([^:@/]+)@", secrets[name])[1] for name in ("database_url", "valkey_url")]
        assert not [word for word in passwords if word in text], log.name
