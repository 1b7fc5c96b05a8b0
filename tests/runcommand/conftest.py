"""One real endpoint, the rows of its account, and agents by hand on three of its instances."""

import pytest

from fleetops.aws.clients import forget_clients
from fleetops.library import services as library
from fleetops.library.models import Document, Shelf
from fleetops.policy import services as policy
from fleetops.runcommand import dispatching, services
from fleetops.runcommand.models import Command
from tests.endpoint.jobs import HandAgent, until
from tests.factories import make_instance, make_user
from tests.inventory.conftest import link_all
from tests.support.endpoint import running_endpoint
from tests.support.faults import Faults

SHELL = "AWS-RunShellScript"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("runcommand") / "endpoint") as running:
        yield running


@pytest.fixture
def faults(endpoint):
    made = Faults(endpoint.handover)
    yield made
    made.delete()


@pytest.fixture(scope="module")
def ids(endpoint):
    found = []
    for page in (
        endpoint.client("ec2")
        .get_paginator("describe_instances")
        .paginate(Filters=[{"Name": "instance-state-name", "Values": ["running"]}])
    ):
        found += [item["InstanceId"] for group in page["Reservations"] for item in group["Instances"]]
    return sorted(found)[:3]


@pytest.fixture(scope="module")
def agents(endpoint, ids):
    connected = [HandAgent(endpoint, each).connect() for each in ids]
    yield connected
    for agent in connected:
        agent.close()


@pytest.fixture
def region(db, roles, endpoint):
    """The first region of the endpoint's first account, with its documents read."""
    account, *_ = link_all(endpoint)
    found = account.regions.get(name="eu-west-1")
    shelf = Shelf.objects.create(region=found)
    library.read_shelf(shelf.pk, now=dispatching.clock_now())
    yield found
    forget_clients()


@pytest.fixture
def fleet(region, agents):
    """Rows of the three instances."""
    return [
        make_instance(region=region, instance_id=agent.instance_id, name=f"node-{number}", tags={"env": "prod"})
        for number, agent in enumerate(agents, 1)
    ]


@pytest.fixture
def document(region):
    return Document.objects.get(name=SHELL, region=region)


@pytest.fixture
def operator(roles):
    policy.make_defaults()
    return make_user("mei", role="operator")


def plan(document, instances, actor, *, commands=("true",), **more) -> Command:
    from fleetops.inventory.models import Instance

    chosen = Instance.objects.filter(pk__in=[each.pk for each in instances])
    return services.draft(document, parameters={"commands": list(commands)}, instances=chosen, actor=actor, **more)


def started(document, instances, actor, **more) -> Command:
    command = plan(document, instances, actor, **more)
    services.start(command, actor=actor)
    return command


def step(command: Command) -> Command:
    """One step further, as if everything of it were due now."""
    moment = dispatching.clock_now()
    command.dispatches.exclude(state="sending").update(due_at=moment)
    dispatching.advance(command.pk)
    command.refresh_from_db()
    return command


def ends(command: Command, state: str) -> Command:
    until(lambda: step(command).is_over)
    assert command.state == state, list(command.invocations.values("state", "details"))
    return command


def states(command: Command) -> dict[str, str]:
    return dict(command.invocations.values_list("instance_name", "state"))


def sent(endpoint, command: Command) -> int:
    """How many commands AWS has of it."""
    comments = {f"fleetops:{pk}" for pk in command.dispatches.values_list("pk", flat=True)}
    listed = endpoint.client("ssm").list_commands(MaxResults=50)["Commands"]
    return sum(each["Comment"] in comments for each in listed)
