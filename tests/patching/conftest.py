"""A real endpoint whose accounts are linked, people, and baselines that go away after each test."""

import contextlib

import pytest

from fleetops.aws.clients import forget_clients
from fleetops.clock import now
from patching import mirror
from patching.content import Content, Filter, Rule
from tests.factories import make_user
from tests.inventory.conftest import link_all
from tests.support.endpoint import running_endpoint

SECURITY = Rule((Filter("PRODUCT", ("AmazonLinux2023",)), Filter("CLASSIFICATION", ("Security",))), 7, level="HIGH")
STANDARD = Content("AMAZON_LINUX_2023", "al-standard", "For all", rules=(SECURITY,), rejected=("kernel*",))
UBUNTU = Content("UBUNTU", "ubuntu-standard", rules=(Rule((Filter("PRIORITY", ("Required",)),), level="LOW"),))


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("patching") / "endpoint") as running:
        yield running


@pytest.fixture
def accounts(db, roles, endpoint):
    yield link_all(endpoint)
    tidy(endpoint)
    forget_clients()


@pytest.fixture
def region(accounts):
    return accounts[0].regions.get(name="eu-west-1")


@pytest.fixture
def owner(roles):
    return make_user("paula", role="patch_owner")


@pytest.fixture
def ssm(endpoint):
    """Somebody outside FleetOps: the AWS command line."""
    return endpoint.client("ssm")


def tidy(endpoint) -> None:
    for region in ("eu-west-1", "us-east-1"):
        ssm = endpoint.client("ssm", region=region)
        for each in ssm.describe_patch_groups()["Mappings"]:
            name, found = each["PatchGroup"], each["BaselineIdentity"]["BaselineId"]
            ssm.deregister_patch_baseline_for_patch_group(BaselineId=found, PatchGroup=name)
        listed = ssm.describe_patch_baselines(MaxResults=100)["BaselineIdentities"]
        own = [each for each in listed if each["BaselineId"].startswith("pb-")]
        for each in own:
            if each["DefaultBaseline"]:
                aws = next(
                    one
                    for one in listed
                    if one["OperatingSystem"] == each["OperatingSystem"] and one["BaselineId"].startswith("arn:")
                )
                ssm.register_default_patch_baseline(BaselineId=aws["BaselineId"])
            with contextlib.suppress(ssm.exceptions.ClientError):
                ssm.delete_patch_baseline(BaselineId=each["BaselineId"])


def read_all() -> None:
    moment = now()
    for mirror_id in mirror.claim_due(now=moment):
        mirror.read(mirror_id, now=moment)
