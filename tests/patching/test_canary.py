"""On demo nodes: the preview foretells what a scan then finds, and a pinned set installs what its canary did."""

from dataclasses import replace
from uuid import uuid4

import pytest

from fleetops.aws.clients import forget_clients
from fleetops.clock import now
from fleetops.policy import services as policy
from fleetops.rollouts import advancing, plan, steering
from fleetops.rollouts.models import Run
from fleetops.runcommand import dispatching
from fleetops.runcommand.models import Command, Dispatch
from patching import groups, known, mirror, pinned, services
from patching.content import Content, Filter, Rule
from patching.models import KnownPatches, PatchBaseline, PinnedSet
from patching.preview import compare
from tests.factories import make_document, make_instance, make_user
from tests.inventory.conftest import link_all
from tests.support.endpoint import running_endpoint, until

from .conftest import tidy

pytestmark = pytest.mark.django_db(transaction=True)
SYSTEM = "AMAZON_LINUX_2023"
CANARY, LATER = "pay-api-eu1a-01", "pay-api-eu1b-02"
OVER = {"Success", "Failed", "Cancelled", "TimedOut"}
FEW = Content(SYSTEM, "few", approved=("curl", "openssl*"))
SECURITY = Content(SYSTEM, "security", rules=(Rule((Filter("CLASSIFICATION", ("Security",)),), 0),))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("canary") / "home", "demo") as endpoint:
        wanted = {endpoint.instance_id(CANARY), endpoint.instance_id(LATER)}
        ssm = endpoint.client("ssm")

        def online():
            rows = ssm.describe_instance_information(MaxResults=50)["InstanceInformationList"]
            return {row["InstanceId"] for row in rows if row["PingStatus"] == "Online"}

        until(lambda: wanted <= online(), seconds=60)
        yield endpoint


@pytest.fixture
def region(db, roles, fleet):
    yield link_all(fleet)[0].regions.get(name="eu-west-1")
    tidy(fleet)
    forget_clients()


@pytest.fixture
def owner(roles):
    return make_user("paula", role="patch_owner")


@pytest.fixture
def nodes(region, fleet):
    facts = {"platform_name": "Amazon Linux", "platform_version": "2023"}
    return [make_instance(region=region, name=n, instance_id=fleet.instance_id(n), **facts) for n in (CANARY, LATER)]


def run(fleet, node, **parameters) -> None:
    ssm = fleet.client("ssm")
    given = {"SnapshotId": str(uuid4()), "RebootOption": "NoReboot"} | parameters
    answer = ssm.send_command(
        InstanceIds=[node.instance_id],
        DocumentName="AWS-RunPatchBaseline",
        Parameters={name: [value] for name, value in given.items()},
    )
    command_id = answer["Command"]["CommandId"]
    until(lambda: ssm.list_commands(CommandId=command_id)["Commands"][0]["Status"] in OVER, seconds=120)
    assert ssm.list_commands(CommandId=command_id)["Commands"][0]["Status"] == "Success"


def titles(fleet, node, *states) -> set[str]:
    ssm = fleet.client("ssm")
    filters = [{"Key": "State", "Values": list(states)}]
    found = ssm.describe_instance_patches(InstanceId=node.instance_id, Filters=filters, MaxResults=100)["Patches"]
    return {patch["Title"] for patch in found}


def test_the_preview_foretells_what_a_scan_finds_and_a_set_is_installed_as_its_canary_did(region, nodes, owner, fleet):
    canary, later = nodes
    few = services.create(region, FEW, actor=owner)
    services.make_default(few, actor=owner)
    run(fleet, later, Operation="Scan")

    # A draft that approves all security updates at once, over what AWS lists and the nodes have told.
    row, is_due = known.ask(region, SYSTEM, now=now())
    assert is_due and known.asked(now=now()) == [row.pk]
    known.read(row.pk, now=now())
    row = KnownPatches.objects.get()
    assert row.error == "" and known.asked(now=now()) == []
    draft = replace(SECURITY, name="few")
    asked = {pk: held for pk, held in row.nodes.items() if held and pk == str(later.pk)}
    found = compare(FEW, draft, known.patches_of(row), asked, now=now())
    foretold = {each.patch.name for each in found.newly_approved if each.needed_on}
    few = PatchBaseline.objects.get(pk=few.pk)
    services.update(few, draft, based_on=1, actor=owner)
    before = {title.partition(".")[0] for title in titles(fleet, later, "Missing")}
    run(fleet, later, Operation="Scan")
    missing = {title.partition(".x86_64:")[0].partition(".noarch:")[0] for title in titles(fleet, later, "Missing")}
    assert foretold and foretold == missing - before, (foretold ^ (missing - before), before)

    # The canary installs a few; what it has installed since then is frozen.
    few = PatchBaseline.objects.get(pk=few.pk)
    services.update(few, FEW, based_on=2, actor=owner)
    since = now().replace(microsecond=0)
    run(fleet, canary, Operation="Install")
    made = pinned.freeze([canary], name="canary", since=since, actor=owner, run_id=uuid4())
    assert 1 <= len(made.entries) < len(missing)

    # Days later the baseline approves more: another node installs what the canary did, and nothing else.
    few = PatchBaseline.objects.get(pk=few.pk)
    services.update(few, draft, based_on=3, actor=owner)
    bucket = "fleetops-patch-lists-111122223333"  # that nodes of the demo may read
    fleet.client("s3").put_object(Bucket=bucket, Key="set.yaml", Body=pinned.override_list(made).encode())
    run(fleet, later, Operation="Install", InstallOverrideList=f"s3://{bucket}/set.yaml")
    installed = titles(fleet, later, "Installed", "InstalledPendingReboot")
    ssm = fleet.client("ssm")
    new = {
        patch["KBId"]
        for patch in ssm.describe_instance_patches(InstanceId=later.instance_id, MaxResults=100)["Patches"]
        if patch["State"].startswith("INSTALLED") and patch["InstalledTime"] >= since
    }
    assert new == {each["id"] for each in made.entries}, (new, installed)
    assert str(groups.baselines_of([later])[later]) == "few" and mirror.SESSION_NAME


def step(run: Run) -> Run:
    """One look at the run and at its commands, as if everything were due now."""
    Run.objects.filter(pk=run.pk).update(sends_at=None)
    run.targets.filter(state__in=["ran", "rebooted"]).update(due_at=None)
    advancing.advance(run.pk)
    Dispatch.objects.exclude(state="sending").update(due_at=now())
    for command in Command.objects.open():
        dispatching.advance(command.pk)
    run.refresh_from_db()
    return run


@pytest.mark.timeout(600)
def test_a_run_pins_what_its_first_wave_installed(region, nodes, owner, fleet):
    """Through the endpoint's S3, SendCommand and two demo nodes; the baseline approves more before the second wave."""
    _, later = nodes
    policy.make_defaults()
    make_document("AWS-RunPatchBaseline", region=region)
    one = services.create(region, Content(SYSTEM, "one", approved=("sudo*", "vim*", "python3*")), actor=owner)
    services.make_default(one, actor=owner)
    run(fleet, later, Operation="Scan")
    wanted = plan.Wanted(
        kind="patch",
        subject={"operation": "Install", "reboot_option": "NoReboot", "pin": True},
        targets="all",
        waves=[{"by": "list", "value": CANARY, "gates": [{"kind": "approval", "quorum": 1}]}, {"by": "rest"}],
    )
    make_user("boss", role="administrator")
    made = plan.make(wanted, actor=owner)
    since = now().replace(microsecond=0)
    steering.release(made, actor=owner, plan_hash=made.plan_hash)
    until(lambda: step(made).waves.get(position=1).state in {"gated", "failed"}, seconds=120)
    until(lambda: step(made).waves.get(position=2).readiness != "open", seconds=30)
    # Frozen before anybody is asked to approve the next wave; by then the baseline approves all.
    pinned_set = PinnedSet.objects.get(run_id=made.pk)
    one = PatchBaseline.objects.get(pk=one.pk)
    services.update(one, replace(SECURITY, name="one"), based_on=1, actor=owner)
    steering.overrule_gate(made.waves.get(position=1).gates.get(), actor=make_user(role="administrator"), reason="ok")
    until(lambda: step(made).state != "running", seconds=120)
    assert made.state == "succeeded", (made.end_reason, list(made.targets.values("state", "reason")))
    ssm = fleet.client("ssm")
    installed = {
        patch["KBId"]
        for patch in ssm.describe_instance_patches(InstanceId=later.instance_id, MaxResults=100)["Patches"]
        if patch["State"].startswith("INSTALLED") and patch["InstalledTime"] >= since
    }
    assert installed and installed == {each["id"] for each in pinned_set.entries}
    state = ssm.describe_instance_patch_states(InstanceIds=[later.instance_id])["InstancePatchStates"][0]
    assert state["InstallOverrideList"] == next(iter(made.preparation["lists"].values()))
    run(fleet, later, Operation="Scan")
    assert titles(fleet, later, "Missing")  # the baseline approves more by then, and it was left alone
