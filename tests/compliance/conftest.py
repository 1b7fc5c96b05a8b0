"""A real endpoint with demo nodes, whose fleet is linked and read."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from fleetops.aws.clients import forget_clients
from fleetops.aws.patch_reports import PatchSummary
from fleetops.clock import now
from fleetops.inventory import services as inventory
from fleetops.inventory.models import Instance
from patching.compliance import reading
from tests.inventory.conftest import link_all
from tests.support.endpoint import running_endpoint, until


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("compliance") / "endpoint", nodes="demo") as running:
        ssm = running.client("ssm")
        until(lambda: len(ssm.describe_instance_information()["InstanceInformationList"]) > 8, what="nodes online")
        yield running


@pytest.fixture
def accounts(db, roles, endpoint):
    yield link_all(endpoint)
    forget_clients()


@pytest.fixture
def region(accounts):
    found = accounts[0].regions.get(name="eu-west-1")
    moment = now()
    for region_id in inventory.claim_due_regions(now=moment):
        inventory.refresh_region(region_id, now=moment)
    return found


@pytest.fixture
def node(region):
    return Instance.objects.get(region=region, name="pay-api-eu1a-01")


@pytest.fixture(scope="module")
def patch(endpoint):
    """Run AWS-RunPatchBaseline on instances, as somebody with the aws CLI would, to its end."""
    ssm = endpoint.client("ssm")

    def run(*instance_ids: str, operation: str = "Scan", **parameters: str) -> list[str]:
        command = ssm.send_command(
            DocumentName="AWS-RunPatchBaseline",
            InstanceIds=list(instance_ids),
            Parameters={"Operation": [operation]} | {name: [text] for name, text in parameters.items()},
        )["Command"]["CommandId"]
        until = time.monotonic() + 120
        while time.monotonic() < until:
            told = ssm.list_command_invocations(CommandId=command)["CommandInvocations"]
            if len(told) == len(instance_ids) and all(each["Status"] not in OPEN for each in told):
                return [each["Status"] for each in told]
            time.sleep(0.2)
        raise AssertionError(f"{command} has not ended")

    return run


OPEN = ("Pending", "InProgress", "Delayed", "Cancelling")


def read_all() -> None:
    """What beat and workers do, once."""
    moment = now()
    for reader_id in reading.claim_due(now=moment):
        reading.read(reader_id, now=moment)
    for region_id in reading.regions_with_details_due(now=now()):
        reading.read_details(region_id, now=now())


def summary(instance: Instance, minutes: int = 0, **facts: object) -> PatchSummary:
    """What AWS would say of the last scan of `instance`, that ended `minutes` after the first."""
    ended = datetime(2026, 11, 2, 4, 0, tzinfo=UTC) + timedelta(minutes=minutes)
    told = {"operation": "Scan", "started_at": ended, "ended_at": ended, "baseline_id": "pb-1", "installed": 100}
    return PatchSummary(instance.instance_id, **told | facts)
