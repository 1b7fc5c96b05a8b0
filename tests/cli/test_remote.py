"""The real command against the real product: log-in, lists, refusals, exit codes, completion in a real bash."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fleetops.cli import tables
from fleetops.cli.client import Client
from fleetops.cli.errors import Refused
from tests.cli.conftest import COMMAND, Shell
from tests.support.stack import ADMIN_PASSWORD, ROOT, until

# --- Log-in ----------------------------------------------------------------------------------------------------------


def test_login_keeps_a_token_that_only_its_user_can_read(stack, log_in):
    shell = log_in("--scopes", "fleet:read,audit:read", "--days", "2", "--name", "laptop")
    assert stat.S_IMODE(shell.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(shell.file.parent.stat().st_mode) == 0o700
    kept = json.loads(shell.file.read_text())["profiles"]["default"]
    assert kept["url"] == stack.url and kept["username"] == "admin" and ADMIN_PASSWORD not in shell.file.read_text()
    who = json.loads(shell.ok("whoami", "--json"))
    assert who["username"] == "admin" and who["token"]["name"] == "laptop"
    assert who["token"]["scopes"] == ["audit:read", "fleet:read"]
    words = shell.ok("whoami")
    assert re.search(r"^User +admin", words, re.M) and re.search(r"^Scopes +audit:read, fleet:read$", words, re.M)
    assert kept["token"] not in words


def test_a_wrong_password_is_refused_and_nothing_is_kept(stack, shell):
    done = shell.run("login", "--url", stack.url, "--username", "admin", "--password-stdin", typed="nope\n")
    assert (done.returncode, done.stdout) == (4, "") and "do not match" in done.stderr
    assert not shell.file.exists()


def test_a_scope_beyond_the_owner_or_unknown_is_refused(stack, shell):
    line = ("login", "--url", stack.url, "--username", "admin", "--password-stdin", "--scopes", "root:all")
    done = shell.run(*line, typed=ADMIN_PASSWORD + "\n")
    assert done.returncode == 1 and "root:all" in done.stderr and not shell.file.exists()


def test_logout_revokes_and_forgets(stack, log_in):
    shell = log_in()
    token = json.loads(shell.file.read_text())["profiles"]["default"]["token"]
    assert "revoked and forgotten" in shell.ok("logout")
    done = shell.run("whoami")
    assert done.returncode == 4 and "fleetops login" in done.stderr
    done = shell.run("whoami", FLEETOPS_URL=stack.url, FLEETOPS_TOKEN=token)
    assert done.returncode == 4 and "was revoked on" in done.stderr
    assert shell.run("logout").returncode == 4


def test_a_token_from_the_page_is_taken_from_standard_input(stack, log_in):
    first = log_in()
    token = json.loads(first.file.read_text())["profiles"]["default"]["token"]
    second = Shell(first.config / "other")
    assert "Logged in to" in second.ok("login", "--url", stack.url, "--token-stdin", typed=token + "\n")
    assert second.ok("whoami", "--json") == first.ok("whoami", "--json")
    done = Shell(first.config / "third").run("login", "--url", stack.url, "--token-stdin", typed="fo_nonsense\n")
    assert done.returncode == 4 and "no token of FleetOps" in done.stderr


def test_the_environment_is_a_log_in_too(stack, log_in, tmp_path):
    token = json.loads(log_in().file.read_text())["profiles"]["default"]["token"]
    other = Shell(tmp_path / "elsewhere", {"FLEETOPS_URL": stack.url, "FLEETOPS_TOKEN": token})
    assert "admin" in other.ok("whoami") and not other.file.exists()


def test_several_profiles_stand_side_by_side(stack, log_in):
    shell = log_in("--profile", "staging", "--name", "for staging")
    assert shell.run("whoami").returncode == 4
    assert "for staging" in shell.ok("whoami", "--profile", "staging")
    assert "for staging" in shell.ok("whoami", FLEETOPS_CLI_PROFILE="staging")


def test_a_token_goes_to_the_server_that_gave_it_and_nowhere_else(stack, log_in):
    shell = log_in()
    seen: list[str | None] = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(302)
            self.send_header("Location", stack.url + self.path)
            self.end_headers()

        def log_message(self, *arguments) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert shell.run("whoami", "--url", url).returncode == 4 and seen == []
        # And a redirect is told, not followed.
        done = shell.run("whoami", FLEETOPS_URL=url, FLEETOPS_TOKEN="fo_x")
        server.shutdown()
    assert done.returncode == 3 and "sends elsewhere" in done.stderr and len(seen) == 1


def test_a_file_that_others_can_read_is_refused(stack, log_in):
    shell = log_in()
    shell.file.chmod(0o644)
    done = shell.run("whoami")
    assert done.returncode == 1 and "chmod 600" in done.stderr


def test_the_password_is_asked_for_on_a_terminal(stack, shell):
    """Typed at the prompt, and never shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(sys.executable, [*COMMAND, "login", "--url", stack.url], shell.env)
    shown = b""

    def read_until(text: bytes) -> None:
        nonlocal shown
        deadline = time.monotonic() + 30
        while text not in shown and time.monotonic() < deadline:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # the command has ended
                break
        assert text in shown, shown

    read_until(b"Username on")
    os.write(terminal, b"admin\n")
    read_until(b"Password of admin:")
    os.write(terminal, ADMIN_PASSWORD.encode() + b"\n")
    read_until(b"Logged in to")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert ADMIN_PASSWORD.encode() not in shown


# --- Lists -----------------------------------------------------------------------------------------------------------


def test_the_fleet_is_listed_as_a_table_and_as_json(stack, log_in):
    shell = log_in()
    table = shell.ok("fleet", "list").splitlines()
    rows = json.loads(shell.ok("fleet", "list", "--json"))
    assert table[0].split() == ["NAME", "ID", "STATUS", "PLATFORM", "ACCOUNT", "REGION"]
    assert len(table) == len(rows) + 1 > 3
    one = next(row for row in rows if row["status"] == "online")
    assert any(one["name"] in line and one["instance_id"] in line and "online" in line for line in table)


def test_the_fleet_is_chosen_by_an_expression(stack, log_in):
    shell = log_in()
    rows = json.loads(shell.ok("fleet", "list", "--json"))
    online = [row["name"] for row in rows if row["status"] == "online"]
    listed = shell.ok("fleet", "list", "status=online", "--columns", "name").split()
    assert sorted(listed[1:]) == sorted(online)
    listed = shell.ok("fleet", "list", "not", "status=online", "--columns", "name").split()
    assert sorted(listed[1:]) == sorted(row["name"] for row in rows if row["status"] != "online")
    none = shell.run("fleet", "list", "name=there-is-none")
    assert (none.returncode, none.stdout) == (0, "") and "Nothing matches." in none.stderr
    wrong = shell.run("fleet", "list", "status=online", "and")
    assert wrong.returncode == 1 and wrong.stdout == "" and wrong.stderr


def test_one_instance_is_shown_by_name_and_by_id(stack, log_in):
    shell = log_in()
    row = next(r for r in json.loads(shell.ok("fleet", "list", "--json")) if r["status"] == "online")
    by_name = json.loads(shell.ok("fleet", "show", row["name"], "--json"))
    assert by_name["id"] == row["id"] and by_name["readiness"]["can_connect"] is True
    assert json.loads(shell.ok("fleet", "show", row["instance_id"], "--json"))["id"] == row["id"]
    assert json.loads(shell.ok("fleet", "show", row["id"], "--json"))["id"] == row["id"]
    words = shell.ok("fleet", "show", row["name"])
    assert re.search(rf"^Name +{row['name']}$", words, re.M) and re.search(r"^Status +Online", words, re.M)
    done = shell.run("fleet", "show", 'no "such" *')
    assert done.returncode == 1 and "No instance that you may see is called" in done.stderr


def test_sessions_and_the_audit_log_are_listed(stack, log_in):
    shell = log_in()
    stack.log_in().connect(json.loads(shell.ok("fleet", "list", "status=online", "--json"))[0]["name"])
    sessions = json.loads(shell.ok("session", "list", "--json"))
    assert sessions[0]["user"] == "admin" and sessions[0]["id"] in shell.ok("session", "list")
    assert shell.run("session", "list", "--state", "asleep").returncode == 2
    events = json.loads(shell.ok("audit", "list", "action:sessions.open", "--json"))
    assert events[0]["session_id"] == sessions[0]["id"]
    assert "sessions.open" in shell.ok("audit", "list", "action:sessions.open")
    wrong = shell.run("audit", "list", "outcome:odd")
    assert wrong.returncode == 1 and "outcome:odd is none of" in wrong.stderr


ASKS = """
from datetime import timedelta
from fleetops.clock import now
from tests.factories import make_grant, make_user
from fleetops.inventory.models import Instance
print(make_grant(user=make_user("tomas"), instance=Instance.objects.get(name="pay-api-eu1a-01")).pk)
"""


def test_access_is_asked_for_answered_and_revoked(stack, log_in):
    shell = log_in()
    done = shell.run("access", "request", "pay-api-eu1a-01", "--reason", "INC-7")
    assert done.returncode == 1 and "Nothing of this needs an approval" in done.stderr
    done = shell.run("access", "request", "pay-api-eu1a-01", "--reason", "INC-7", "--forward", "x:y")
    assert done.returncode == 2
    pk = stack.manage("shell", "-v0", "-c", ASKS).stdout.strip().splitlines()[-1]
    waiting = shell.ok("access", "list", "--show", "waiting")
    assert "tomas" in waiting and "pay-api-eu1a-01" in waiting and pk in waiting
    assert re.match(r"tomas: active until 20\d\d-", shell.ok("access", "approve", pk))
    assert [each["id"] for each in json.loads(shell.ok("access", "list", "--show", "open", "--json"))] == [pk]
    assert "Say why" in shell.run("access", "revoke", pk).stderr
    assert shell.ok("access", "revoke", pk, "--reason", "It is fixed") == "tomas: revoked\n"


def test_a_long_list_is_shown_in_part_unless_all_is_asked_for(stack, log_in):
    shell = log_in()
    log_in("--scopes", "fleet:read", "--profile", "narrow")
    narrow = Client(stack.url, json.loads(shell.file.read_text())["profiles"]["narrow"]["token"])
    for _ in range(110):
        with pytest.raises(Refused, match="lacks the scope"):  # audited, each
            narrow.get("audit/events/")
    first = shell.run("audit", "list", "--columns", "id")
    assert len(first.stdout.split()) == 101 and "The first 100 are shown; --all shows the rest." in first.stderr
    everything = json.loads(shell.ok("audit", "list", "--all", "--json"))
    assert len({row["id"] for row in everything}) == len(everything) > 100


def test_any_path_is_got(stack, log_in):
    shell = log_in()
    assert json.loads(shell.ok("api", "get", "/api/v1/users/me/"))["username"] == "admin"
    assert json.loads(shell.ok("api", "get", "instances/?q=status=online&page_size=1"))["results"]
    done = shell.run("api", "get", "nothing/")
    assert done.returncode == 1 and "no such thing" in done.stderr
    assert shell.run("api", "get", "https://evil.example/").returncode == 2


def test_any_call_is_made_and_what_is_refused_is_told_in_the_servers_words(stack, log_in):
    shell = log_in()
    rule = {"name": "By the shell", "effect": "deny", "everybody": True, "deeds": ["patch"], "targets": "env=none"}
    made = json.loads(shell.ok("api", "post", "policy/rules/", "-", typed=json.dumps(rule)))
    path = f"policy/rules/{made['id']}/"
    changed = json.loads(shell.ok("api", "patch", path, '{"version": 1, "note": "Later"}'))
    assert (changed["note"], changed["version"]) == ("Later", 2)
    assert json.loads(shell.ok("api", "post", f"{path}enabled/", '{"enabled": false}'))["enabled"] is False
    late = shell.run("api", "patch", path, '{"version": 1, "note": "Too late"}')
    assert late.returncode == 1 and "meanwhile" in late.stderr
    wrong = shell.run("api", "post", "policy/rules/", json.dumps(rule | {"name": "Other", "deeds": []}))
    assert wrong.returncode == 1 and "Choose at least one deed" in wrong.stderr
    assert shell.ok("api", "delete", f"{path}?version=3") == ""
    assert shell.run("api", "get", path).returncode == 1
    for body in ("{", "[]", "text"):
        assert shell.run("api", "post", "policy/rules/", body).returncode == 2


def test_a_token_without_the_scope_is_refused_in_the_servers_words(stack, log_in):
    done = log_in("--scopes", "fleet:read").run("audit", "list")
    assert done.returncode == 1 and "lacks the scope audit:read; it has fleet:read" in done.stderr


# --- What goes wrong -------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_exit_3(shell):
    done = shell.run("whoami", FLEETOPS_URL="http://127.0.0.1:1", FLEETOPS_TOKEN="fo_x")
    assert done.returncode == 3 and "http://127.0.0.1:1 cannot be reached: Connection refused." in done.stderr


def test_what_is_no_fleetops_is_told(stack, shell):
    done = shell.run("whoami", FLEETOPS_URL=stack.url + "/static", FLEETOPS_TOKEN="fo_x")
    assert done.returncode == 3 and "is the address right?" in done.stderr


@pytest.mark.parametrize("url", ["http://fleetops.example.com", "ftp://127.0.0.1", "https://", "https://a:b@host"])
def test_an_address_that_cannot_be_is_wrong_usage(shell, url):
    done = shell.run("whoami", FLEETOPS_URL=url, FLEETOPS_TOKEN="fo_x")
    assert done.returncode == 2 and done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [["fly"], ["fleet"], ["fleet", "list", "--wings"], ["fleet", "list", "--columns", "x"]]
)
def test_wrong_usage_is_exit_2(log_in, stack, words):
    done = log_in().run(*words)
    assert done.returncode == 2 and done.stderr and "Traceback" not in done.stderr


def test_without_a_log_in_it_is_said_how_to_log_in(shell):
    done = shell.run("fleet", "list")
    assert done.returncode == 4 and "fleetops login --url" in done.stderr


def test_a_certificate_of_ones_own_ca_is_trusted_by_name(stack, shell):
    """The endpoint's CA, which the system does not know; it is no FleetOps, but its certificate is good then."""
    handover = stack.handover
    exported = {"FLEETOPS_URL": handover["endpoint_url"], "FLEETOPS_TOKEN": "fo_x"}
    unknown = shell.run("whoami", **exported)
    assert unknown.returncode == 3 and "is not to be trusted" in unknown.stderr and "--ca-file" in unknown.stderr
    known = shell.run("whoami", "--ca-file", handover["ca_file"], **exported)
    assert known.returncode == 3 and "does not answer as FleetOps does" in known.stderr
    assert shell.run("whoami", FLEETOPS_CA_FILE="/nowhere.pem", **exported).returncode == 2


# --- Completion ------------------------------------------------------------------------------------------------------


def complete(shell: Shell, *words: str) -> list[str]:
    return shell.run("__complete", *words).stdout.split()


def test_words_are_completed(shell):
    assert complete(shell, "") == sorted(
        [
            "up",
            "status",
            "doctor",
            "manage",
            "node",
            "login",
            "access",
            "connect",
            "logout",
            "whoami",
            "fleet",
            "run",
            "compliance",
            "patch",
            "port",
            "role",
            "schedule",
            "session",
            "audit",
            "api",
            "completion",
        ]
    )
    assert complete(shell, "fleet", "l") == ["list"]
    assert complete(shell, "session", "list", "--state", "") == ["live", "past"]
    assert complete(shell, "fleet", "list", "--j") == ["--json"]
    assert complete(shell, "fleet", "list", "--columns", "name,reg") == ["name,region"]
    assert complete(shell, "node", "") == ["register", "run"]
    assert complete(shell, "completion", "") == ["bash", "fish", "zsh"]
    assert complete(shell, "nonsense", "") == complete(shell, "whoami", "") == []
    assert complete(shell, "fleet", "show", "") == []  # nobody is logged in


def test_names_of_instances_are_completed_in_a_real_bash(stack, log_in):
    shell = log_in()
    row = next(r for r in json.loads(shell.ok("fleet", "list", "--json")) if r["status"] == "online")
    bin_ = shell.config / "bin"
    bin_.mkdir()
    command = bin_ / "fleetops"
    command.write_text(f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" -m fleetops.cli.main "$@"\n')
    command.chmod(0o755)
    script = f"""
        eval "$(fleetops completion bash)"
        COMP_WORDS=(fleetops fleet show {row["name"][:-1]}); COMP_CWORD=3
        _fleetops
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", script],
        env={**shell.env, "PATH": f"{bin_}:{os.environ['PATH']}"},
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert row["name"] in done.stdout.split(), done.stderr


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_each_script_is_one_that_its_shell_reads(shell, name, tmp_path):
    script = tmp_path / f"completion.{name}"
    script.write_text(shell.ok("completion", name))
    if shutil.which(name) is None:
        assert "__complete" in script.read_text()
        return
    check = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "--no-execute"]}[name]
    subprocess.run([*check, str(script)], check=True, timeout=20)


# --- Tables ----------------------------------------------------------------------------------------------------------


def test_a_table_fits_the_terminal():
    rows = [["a" * 40, "b" * 10], ["c", "d"]]
    assert tables.lines(["ONE", "TWO"], rows, columns=None)[1] == "a" * 40 + "  " + "b" * 10
    narrow = tables.lines(["ONE", "TWO"], rows, columns=30)
    assert all(tables.width_of(line) <= 30 for line in narrow) and "…" in narrow[1] and "b" * 10 in narrow[1]


def test_wide_letters_are_counted_as_the_terminal_shows_them():
    (_, line, other) = tables.lines(["N", "X"], [["日本", "x"], ["abcd", "x"]], columns=None)
    assert tables.width_of(line) == tables.width_of(other) == 7


def test_a_name_cannot_steer_the_terminal():
    assert tables.safe("web\x1b[2J\x07\n\u202e1") == "web\ufffd[2J\ufffd\ufffd\ufffd1"


def test_a_run_is_planned_started_as_it_was_seen_followed_and_steered(stack, log_in):
    shell = log_in()
    until(
        lambda: json.loads(shell.ok("api", "get", "documents/?name=AWS-RunShellScript"))["results"],
        seconds=90,
        what="the worker has read the documents",
    )
    asked = {"subject": {"document": "AWS-RunShellScript", "parameters": {"commands": ["sleep 3"]}}}
    asked |= {"targets": "name=pay-api-* and status=online", "name": "from a shell", "concurrency": "100%"}
    made = json.loads(shell.ok("api", "post", "runs/", json.dumps(asked)))
    pk, count = made["id"], made["counts"]["queued"]
    shown = shell.ok("run", "show", pk)
    assert "from a shell: draft" in shown and f"fleetops run start {pk} --plan {made['plan_hash']}" in shown
    wrong = shell.run("run", "start", pk, "--plan", "0")
    assert wrong.returncode == 1 and "The plan is another by now" in wrong.stderr
    assert shell.run("run", "watch", pk).returncode == 1  # nobody has started it
    assert "from a shell: running" in shell.ok("run", "start", pk, "--plan", made["plan_hash"])
    assert "paused" in shell.ok("run", "pause", pk, "--reason", "lunch")
    assert json.loads(shell.ok("run", "resume", pk, "--json"))["state"] == "running"
    done = shell.run("run", "watch", pk, "--json")
    last = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and last["state"] == "succeeded" and last["counts"]["succeeded"] == count
    rows = json.loads(shell.ok("run", "targets", pk, "--json"))
    assert {row["state"] for row in rows} == {"succeeded"}
    assert pk in shell.ok("run", "list", "--state", "succeeded")


def test_a_run_comes_again_by_a_schedule(stack, log_in):
    shell = log_in()
    until(
        lambda: json.loads(shell.ok("api", "get", "documents/?name=AWS-RunShellScript"))["results"],
        seconds=90,
        what="the worker has read the documents",
    )
    asked = {"subject": {"document": "AWS-RunShellScript", "parameters": {"commands": ["true"]}}}
    asked |= {"targets": "name=pay-api-* and status=online", "name": "comes again", "concurrency": "100%"}
    run = json.loads(shell.ok("api", "post", "runs/", json.dumps(asked)))["id"]
    made = shell.ok(
        *("schedule", "create", "--run", run, "--name", "Patch day", "--when", "cron(0 2 ? * TUE#2 *)"),
        *("--offset", "3", "--zone", "Europe/Berlin"),
    )
    assert "Patch day: at 02:00 on the second Tuesday of the month, 3 days later (Europe/Berlin), for admin; on" in made
    pk = made.splitlines()[-2]
    shell.ok("schedule", "run", pk)

    def states():
        return [row["run_state"] for row in json.loads(shell.ok("schedule", "history", pk, "--json"))]

    until(
        lambda: states() == ["succeeded"],
        seconds=90,
        what="the worker has planned and started its run, and it has ended well",
    )
    assert "off. Paused by" in shell.ok("schedule", "pause", pk, "--reason", "lunch")
    shell.ok("schedule", "delete", pk)
    assert json.loads(shell.ok("schedule", "list", "--json")) == []


def test_compliance_is_listed_shown_and_taken_away(stack, log_in, tmp_path):
    shell = log_in()
    name = json.loads(shell.ok("fleet", "list", "--json"))[0]["name"]
    rows = json.loads(shell.ok("compliance", "list", f"name={name}", "--json"))
    assert [each["name"] for each in rows] == [name]
    shown = shell.ok("compliance", "show", name)
    word = {"compliant": "compliant", "not_compliant": "not compliant", "never_scanned": "never scanned"}
    assert f"{name}: {word[rows[0]['standing']]}" in shown
    wrong = shell.run("compliance", "list", "--at", "yesterday")
    assert wrong.returncode == 1 and "Write a moment as" in wrong.stderr
    assert isinstance(json.loads(shell.ok("compliance", "cve", "--json")), list)
    unknown = shell.run("compliance", "cve", "CVE-1999-0001")
    assert unknown.returncode == 1 and "No instance has ever told of CVE-1999-0001" in unknown.stderr
    there = tmp_path / "all.csv"
    assert shell.ok("compliance", "export", "instances", "--output", str(there)) == ""
    assert there.read_text().startswith("instance_id,name,") and name in there.read_text()
    assert isinstance(json.loads(shell.ok("compliance", "export", "patches", "--format", "json")), list)
    assert not list(tmp_path.glob("*.part"))
    assert complete(shell, "compliance", "") == ["cve", "export", "list", "show"]
    assert complete(shell, "compliance", "list", "--state", "ne") == ["never"]
    assert name in complete(shell, "compliance", "show", name[:4])
