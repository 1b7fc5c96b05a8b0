"""Kill -9 in every phase of a lease, and a week without FleetOps: none ends early, none outlives its end."""

import botocore.auth
import pytest

from fleetops import clock
from fleetops.endpoint.seed import MACHINES
from tests.support.clock import clock_file, following  # noqa: F401
from tests.support.stack import A_PAGE, Stack, running_stack, until

from .test_rollouts import one

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

BARE = next(machine.instance_id for machine in MACHINES if machine.name == "kafka-events-eu1c-3")
ASK = """
from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.roles import services
from fleetops.roles.models import RoleRule
RoleRule.objects.get_or_create(name="All may", defaults={"targets": "all", "profile_name": "*"})
instance = Instance.objects.select_related("account", "region").get(instance_id="%s")
arn = services.find_profile(instance, "ssm-core").arn
lease = services.ask(instance, services.Wish(arn, 10), actor=User.objects.get(username="admin"))
print("LEASE", lease.pk.hex)
"""
MINUTE = 60.0


def leased(stack: Stack) -> str:
    seen = "SELECT count(*) FROM inventory_instance WHERE instance_id = ?"
    until(lambda: one(stack, seen, BARE), seconds=60, what="the instance has been read", every=A_PAGE)
    told = stack.manage("shell", "-c", ASK % BARE, check=False)
    line = next((line for line in told.stdout.splitlines() if line.startswith("LEASE ")), None)
    assert line, told.stdout + told.stderr
    return line.split()[1]


def state(stack: Stack, lease: str) -> str:
    return one(stack, "SELECT state FROM roles_roleattachment WHERE id = ?", lease)


def profile(stack: Stack) -> str:
    found = stack.boto3("ec2").describe_iam_instance_profile_associations(
        Filters=[{"Name": "instance-id", "Values": [BARE]}, {"Name": "state", "Values": ["associated"]}]
    )["IamInstanceProfileAssociations"]
    return found[0]["IamInstanceProfile"]["Arn"].rpartition("/")[2] if found else ""


def killed(stack: Stack, *parts: str) -> None:
    for part in parts:
        stack.is_back(part, instead_of=stack.kill(part), seconds=90)


def test_a_lease_ends_at_its_time_whoever_dies(tmp_path, following):  # noqa: F811
    clock.sign_by_this(botocore.auth)
    settings = {"FLEETOPS_CLOCK_FILE": str(following)}
    with running_stack(tmp_path / "fo", **settings) as stack:
        stack.kill("worker")
        lease = leased(stack)
        stack.kill("beat")
        until(lambda: state(stack, lease) == "active", seconds=60, what="the role is there", every=A_PAGE)
        assert profile(stack) == "ssm-core"

        clock.set_shift(following, jump=9 * MINUTE)
        killed(stack, "valkey", "worker")
        assert (state(stack, lease), profile(stack)) == ("active", "ssm-core"), "it ended early"

        clock.set_shift(following, jump=2 * MINUTE)
        stack.kill("worker")
        stack.kill("beat")
        until(lambda: state(stack, lease) == "ended", seconds=60, what="the lease ends", every=A_PAGE)
        assert profile(stack) == ""
        assert stack.boto3("ssm").get_connection_status(Target=BARE)["Status"] == "notconnected"
        lease = leased(stack)
        until(lambda: state(stack, lease) == "active", seconds=60, what="another is there", every=A_PAGE)

    clock.set_shift(following, jump=7 * 24 * 60 * MINUTE)
    with running_stack(tmp_path / "fo", **settings) as stack:
        until(lambda: state(stack, lease) == "ended", seconds=60, what="it ends after a week", every=A_PAGE)
        assert profile(stack) == ""
        assert not one(stack, "SELECT count(*) FROM roles_rolefinding")
        actions = "SELECT count(*) FROM audit_auditevent WHERE action = ?"
        assert [one(stack, actions, f"roles.{each}") for each in ("ask", "applied", "end", "ended")] == [2, 2, 2, 2]
