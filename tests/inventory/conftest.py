"""One real endpoint with its demo nodes for this room."""

import os
from pathlib import Path

import pytest

from fleetops.aws.clients import forget_clients
from fleetops.inventory import services
from tests.support.endpoint import running_endpoint, until


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("inventory") / "endpoint", nodes="demo") as running:
        ssm = running.client("ssm")

        def all_online():
            nodes = ssm.describe_instance_information()["InstanceInformationList"]
            return len(nodes) == 12 and all(node["PingStatus"] == "Online" for node in nodes)

        until(all_online, what="twelve demo nodes are online")
        yield running


@pytest.fixture
def linked(db, endpoint):
    """The endpoint's first account with its first region, linked; it has never been read."""
    account, *others = link_all(endpoint)
    account.regions.exclude(name="eu-west-1").delete()
    for other in others:
        other.delete()
    yield account
    forget_clients()


@pytest.fixture
def all_linked(db, endpoint):
    """The endpoint's two accounts with their three regions, linked; none has ever been read."""
    yield link_all(endpoint)
    forget_clients()


def link_all(endpoint):
    credentials = Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"])
    return services.link_endpoint(endpoint.home / "handover.json", credentials, actor="tests")


@pytest.fixture
def client_as(roles, client, settings):
    """Django's test client, logged in as somebody of the role named."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # a slow one proves nothing here
    from tests.factories import make_user

    def log_in(role):
        client.force_login(make_user(role=role), backend="django.contrib.auth.backends.ModelBackend")
        return client

    return log_in
