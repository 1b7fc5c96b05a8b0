"""On demo nodes: the preview foretells what a scan then finds, and a pinned set installs what its canary did."""

from dataclasses import replace
from uuid import uuid4

import pytest

from fleetops.aws.clients import forget_clients
from fleetops.clock import now
from patching import groups, known, mirror, pinned, services
from patching.content import Content, Filter, Rule
from patching.models import KnownPatches, PatchBaseline
from patching.preview import compare
from tests.factories import make_instance, make_user
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
    s3 = fleet.client("s3")
    s3.create_bucket(Bucket="fleetops-sets", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="fleetops-sets", Key="set.yaml", Body=pinned.override_list(made).encode())
    run(fleet, later, Operation="Install", InstallOverrideList="s3://fleetops-sets/set.yaml")
    installed = titles(fleet, later, "Installed", "InstalledPendingReboot")
    ssm = fleet.client("ssm")
    new = {
        patch["KBId"]
        for patch in ssm.describe_instance_patches(InstanceId=later.instance_id, MaxResults=100)["Patches"]
        if patch["State"].startswith("INSTALLED") and patch["InstalledTime"] >= since
    }
    assert new == {each["id"] for each in made.entries}, (new, installed)
    assert str(groups.baselines_of([later])[later]) == "few" and mirror.SESSION_NAME
