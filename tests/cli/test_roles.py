"""`fleetops role` against the real product: the standard role is made, leased, extended and given back."""

from __future__ import annotations

import json

from tests.support.stack import until

STANDARD = "fleetops-ssm-core"


def test_a_role_is_leased_and_given_back(stack, log_in):
    shell = log_in()
    node = next(
        row["name"] for row in json.loads(shell.ok("fleet", "list", "status=online", "--json")) if not row["is_hybrid"]
    )
    before = json.loads(shell.ok("fleet", "show", node, "--json"))["profile"]
    assert before and before != STANDARD

    def standing():
        return {row["word"] for row in json.loads(shell.ok("role", "standard", "--json"))}

    until(lambda: "not read yet" not in standing(), seconds=90, what="a worker has read the accounts' IAM")
    shell.ok("role", "standard", "--make")
    until(lambda: standing() == {"there"}, seconds=90, what="the standard role is there in each account")
    assert STANDARD in shell.ok("role", "rules")

    looked = shell.ok("role", "lease", node, STANDARD, "--minutes", "5", "--look")
    assert "It begins at once." in looked and f"At its end {before} is put back." in looked
    refused = shell.run("role", "lease", node, "nobody-has-made-it", "--minutes", "5")
    assert refused.returncode == 1 and "no instance profile nobody-has-made-it" in refused.stderr
    refused = shell.run("role", "detach", node)
    assert refused.returncode == 1 and "25 to 30 minutes" in refused.stderr and "--cut-off" in refused.stderr
    assert shell.run("role", "lease", node).returncode == 2

    made = json.loads(shell.ok("role", "lease", node, STANDARD, "--minutes", "5", "--reason", "INC-1", "--json"))

    def state():
        return json.loads(shell.ok("role", "show", made["id"], "--json"))["state"]

    until(lambda: state() == "active", seconds=90, what="AWS holds the leased role")
    assert node in shell.ok("role", "list", "--leases", f'name="{node}"')
    assert f"{STANDARD} on {node}: active, until" in shell.ok("role", "extend", made["id"], "--minutes", "9")
    assert "ending" in shell.ok("role", "end", made["id"], "--reason", "done")
    until(lambda: state() == "ended", seconds=60, what="what was there before is put back")
    changes = json.loads(shell.ok("role", "history", f'name="{node}"', "--json"))
    assert [(row["before"], row["after"]) for row in changes] == [(STANDARD, before), (before, STANDARD)]
    assert json.loads(shell.ok("role", "findings", "--json")) == []
