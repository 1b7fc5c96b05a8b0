"""One real endpoint, whose seed has a security group with SSH open to the world on two machines."""

import pytest

from fleetops.aws.clients import forget_clients
from fleetops.clock import now
from fleetops.exposure import reading, services
from fleetops.exposure.models import Closing, Group, Reading
from fleetops.inventory.models import Instance
from tests.factories import make_instance, make_user
from tests.inventory.conftest import link_all
from tests.support.endpoint import running_endpoint

NAMES = ("web-checkout-eu1a-07", "kafka-events-eu1c-3")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("exposure") / "endpoint") as running:
        yield running


@pytest.fixture
def region(db, roles, endpoint):
    account, *_ = link_all(endpoint)
    yield account.regions.get(name="eu-west-1")
    forget_clients()


@pytest.fixture
def machines(region, endpoint) -> list[Instance]:
    """The two machines that have the group; the second cannot be reached by Session Manager."""
    statuses = dict(zip(NAMES, ("Online", ""), strict=True))
    return [
        make_instance(region=region, instance_id=endpoint.instance_id(name), name=name, ping_status=status)
        for name, status in statuses.items()
    ]


@pytest.fixture
def admin(db, roles):
    return make_user("mei", role="administrator")


@pytest.fixture
def group(region, machines) -> Group:
    """The seed's group as it is read; whatever a test closed is open again after it."""
    read(region)
    yield Group.objects.get(region=region)
    for closing in Closing.objects.filter(state="closed"):
        services.reopen(closing, actor=closing.asked_by)
    settle()


def read(region) -> None:
    """Read one region, as its worker does."""
    row, _ = Reading.objects.get_or_create(region=region)
    reading.read(row.pk, at=now())


def settle() -> None:
    """What workers do with everything that waits."""
    Closing.objects.update(claimed_until=None)
    for pk in services.claim_due(at=now()):
        services.work(pk)
