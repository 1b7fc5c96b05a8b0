"""One real endpoint with demo nodes for the whole folder, and its accounts, linked."""

import pytest

from fleetops.aws.clients import forget_clients
from tests.inventory.conftest import link_all
from tests.support.endpoint import running_endpoint, until


@pytest.fixture(scope="package")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("emergency") / "endpoint", nodes="demo") as running:
        ssm = running.client("ssm")
        until(lambda: len(ssm.describe_instance_information()["InstanceInformationList"]) > 8, what="nodes online")
        yield running


@pytest.fixture
def accounts(db, roles, endpoint):
    yield link_all(endpoint)
    forget_clients()
