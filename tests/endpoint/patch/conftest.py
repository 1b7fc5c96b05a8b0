"""One endpoint for all roots in which patches are installed: each has an operating system of its own."""

import pytest

from tests.support.endpoint import running_endpoint


@pytest.fixture(scope="package")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("patching") / "home") as endpoint:
        yield endpoint


@pytest.fixture(scope="package")
def ssm(endpoint):
    return endpoint.client("ssm")
