"""One real endpoint with its demo nodes for this room."""

import dataclasses
import os
from pathlib import Path

import pytest

from fleetops.aws.clients import AccountAccess, forget_clients
from fleetops.inventory.services import write_profiles
from tests.support.endpoint import running_endpoint, until


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("aws") / "endpoint", nodes="demo") as running:
        ssm = running.client("ssm")
        until(
            lambda: any(
                each["PingStatus"] == "Online"
                for each in ssm.describe_instance_information()["InstanceInformationList"]
            ),
            what="a demo node is online",
        )
        yield running


@pytest.fixture
def access(endpoint, tmp_path) -> AccountAccess:
    """The endpoint's account, with its credentials where botocore looks for them."""
    keys = endpoint.account["product_credentials"]
    credentials = Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"])
    write_profiles(credentials, {"fleetops-tests": (keys["access_key_id"], keys["secret_access_key"])})
    yield AccountAccess(
        account_id=endpoint.account["account_id"],
        role_arn=endpoint.account["role_arn"],
        profile="fleetops-tests",
        endpoint_url=endpoint.url,
        ca_pem=Path(endpoint.handover["ca_file"]).read_text(),
        stream_hosts=tuple(endpoint.handover["stream_hosts"]),
        cache_dir=str(tmp_path / "ca"),
    )
    forget_clients()


@pytest.fixture
def changed(access):
    """The same account with some facts of its access changed."""
    return lambda **facts: dataclasses.replace(access, **facts)
