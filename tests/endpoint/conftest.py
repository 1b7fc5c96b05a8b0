"""Endpoints that the tests of this room share: one without demo nodes, and one with them."""

import pytest

from tests.support.endpoint import running_endpoint


@pytest.fixture(scope="session")
def aws(tmp_path_factory):
    """An endpoint without demo nodes. Tests that break it start their own."""
    with running_endpoint(tmp_path_factory.mktemp("endpoint") / "home", FLEETOPS_ENDPOINT_POLL_SECONDS="1") as endpoint:
        yield endpoint
