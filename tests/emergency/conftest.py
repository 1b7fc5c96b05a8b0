"""One real endpoint with demo nodes for the whole folder, and its accounts, linked."""

import pytest

from fleetops.aws.clients import forget_clients
from tests.inventory.conftest import link_all
from tests.support.endpoint import running_endpoint


@pytest.fixture(scope="package")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("emergency") / "endpoint", nodes="demo") as running:
        yield running


@pytest.fixture
def accounts(db, roles, endpoint):
    yield link_all(endpoint)
    forget_clients()
