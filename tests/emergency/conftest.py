"""One real endpoint with demo nodes for the whole folder; its accounts are linked, and have buckets for lists."""

import contextlib

import pytest
from botocore.exceptions import ClientError

from fleetops.aws import clients
from tests.inventory.conftest import link_all
from tests.support.endpoint import running_endpoint


@pytest.fixture(scope="package")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("emergency") / "endpoint", nodes="demo") as running:
        yield running


@pytest.fixture
def accounts(db, roles, endpoint):
    found = link_all(endpoint)
    for each in found:
        s3 = clients.client("s3", each.access(), "eu-west-1", session_name="tests")
        with contextlib.suppress(ClientError):
            s3.create_bucket(
                Bucket=f"fleetops-patch-lists-{each.account_id}",
                CreateBucketConfiguration={"LocationConstraint": "eu-west-1"},
            )
    yield found
    clients.forget_clients()
