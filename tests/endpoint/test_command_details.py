"""Every detail of a command's and an invocation's status that AWS documents, reached from end to end by boto3.

The lists are the user guide's (monitor-commands, "Detailed status for command plugins and invocations" and "Detailed
status for a command"), spelled as StatusDetails has them. A detail without a way to it fails the last tests.
"""

import json
from collections.abc import Callable

import pytest

from fleetops import clock
from fleetops.endpoint import command_rules as rules
from tests.endpoint.jobs import HandAgent, until
from tests.support.endpoint import running_endpoint

OF_COMMANDS = {
    "Pending",
    "InProgress",
    "Delayed",
    "Success",
    "DeliveryTimedOut",
    "ExecutionTimedOut",
    "Failed",
    "Incomplete",
    "Cancelled",
    "RateExceeded",
    "AccessDenied",
    "NoInstancesInTag",
}
OF_INVOCATIONS = {
    "Pending",
    "InProgress",
    "Delayed",
    "Success",
    "DeliveryTimedOut",
    "ExecutionTimedOut",
    "Failed",
    "Cancelled",
    "Undeliverable",
    "Terminated",
    "InvalidPlatform",
    "AccessDenied",
}
MOST_PENDING = 4
# The status that the API gives with them.
STATUS = rules.DETAILS | {
    "Pending": "Pending",
    "InProgress": "InProgress",
    "Incomplete": "Failed",
    "RateExceeded": "Cancelled",
    "NoInstancesInTag": "Success",
}


class Story:
    """One endpoint with two agents by hand, and a command on them."""

    def __init__(self, endpoint, path) -> None:
        self.endpoint, self.path = endpoint, path
        self.ssm = endpoint.client("ssm")
        self.command_id = ""

    def begin(self, request) -> "Story":
        reservations = self.endpoint.client("ec2").describe_instances(
            Filters=[{"Name": "instance-state-name", "Values": ["running"]}]
        )["Reservations"]
        ids = sorted(item["InstanceId"] for group in reservations for item in group["Instances"])
        self.agents = [HandAgent(self.endpoint, instance_id).connect(PlatformType="Linux") for instance_id in ids[:2]]
        for agent in self.agents:
            request.addfinalizer(agent.close)
        self.first, self.second = self.agents
        return self

    def send(self, *agents: HandAgent, client=None, tagged: bool = False, **more) -> "Story":
        given = {"DocumentName": "AWS-RunShellScript", "TimeoutSeconds": 30, "MaxErrors": "0"} | more
        given["Parameters"] = {"commands": ["true"], "executionTimeout": ["5"]}
        ids = [agent.instance_id for agent in agents]
        given |= {"Targets": [{"Key": "InstanceIds", "Values": ids}]} if tagged else {"InstanceIds": ids}
        self.command_id = (client or self.ssm).send_command(**given)["Command"]["CommandId"]
        return self

    def away(self, *agents: HandAgent) -> "Story":
        for agent in agents:
            agent.close()
            until(
                lambda agent=agent: self.ssm.get_connection_status(Target=agent.instance_id)["Status"] == "notconnected"
            )
        return self

    def later(self, seconds: float) -> "Story":
        clock.set_shift(self.path, jump=seconds)
        return self

    def taken(self, agent: HandAgent) -> "Story":
        agent.take(agent.job())
        self.sees(agent, "InProgress")
        return self

    def denied(self):
        """A client that may send the document, and to no node."""
        iam, name = self.endpoint.client("iam"), "only-documents"
        iam.create_user(UserName=name)
        statement = {"Effect": "Allow", "Action": "ssm:SendCommand", "Resource": "arn:aws:ssm:*:*:document/*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return self.endpoint.client(
            "ssm", aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"]
        )

    # What the API shows

    def command(self) -> dict:
        (row,) = self.ssm.list_commands(CommandId=self.command_id)["Commands"]
        return row

    def sees(self, agent: HandAgent, details: str) -> None:
        """Both calls that show an invocation show it so."""
        expected = (STATUS.get(details, details), details)
        where = {"CommandId": self.command_id, "InstanceId": agent.instance_id}

        def shown() -> bool:
            (listed,) = self.ssm.list_command_invocations(**where)["CommandInvocations"]
            got = self.ssm.get_command_invocation(**where)
            return {(row["Status"], row["StatusDetails"]) for row in (listed, got)} == {expected}

        until(shown)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    home = tmp_path_factory.mktemp("details")
    path = home / "clock.json"
    clock.set_shift(path)
    with running_endpoint(
        home / "home",
        FLEETOPS_ENDPOINT_POLL_SECONDS="1",
        FLEETOPS_ENDPOINT_PENDING_INVOCATIONS=str(MOST_PENDING),
        FLEETOPS_CLOCK_FILE=str(path),
    ) as endpoint:
        yield endpoint, path


@pytest.fixture
def story(place, request):
    story = Story(*place).begin(request)
    yield story
    if story.command_id:  # nothing of it counts as pending for the next one
        story.ssm.cancel_command(CommandId=story.command_id)
        if story.command()["Status"] == "Cancelling":
            story.later(36)
        until(lambda: story.command()["Status"] not in {"Pending", "InProgress", "Cancelling"})


def pending(story: Story) -> None:
    story.away(story.first).send(story.first)


def in_progress(story: Story) -> None:
    story.send(story.first).taken(story.first)


def delayed(story: Story) -> None:
    story.send(story.first)
    story.first.take(story.first.job(), "51402", "ProcessorBufferFull")


def success(story: Story) -> None:
    story.send(story.first).first.run(story.first.job())


def delivery_timed_out(story: Story) -> None:
    story.away(story.first).send(story.first).later(31)


def execution_timed_out(story: Story) -> None:
    story.send(story.first).taken(story.first).later(36)


def failed(story: Story) -> None:
    story.send(story.first).first.run(story.first.job(), "Failed", 3)


def incomplete(story: Story) -> None:
    story.send(story.first, story.second, MaxErrors="1", MaxConcurrency="100%")
    story.first.run(story.first.job(), "Failed", 3)
    story.second.run(story.second.job())


def cancelled(story: Story) -> None:
    story.away(story.first).send(story.first)
    story.ssm.cancel_command(CommandId=story.command_id)


def rate_exceeded(story: Story) -> None:
    """Two commands to two nodes that are away fill what may be pending; the third is one too many."""
    story.away(*story.agents)
    before = [story.send(*story.agents).command_id for _ in range(MOST_PENDING // 2)]
    story.send(story.first)
    for command_id in before:
        story.ssm.cancel_command(CommandId=command_id)


def undeliverable(story: Story) -> None:
    """Its machine goes for good before it was told."""
    story.away(story.second).send(story.second)
    story.first, story.second = story.second, story.first
    story.endpoint.client("ec2").terminate_instances(InstanceIds=[story.first.instance_id])


def terminated(story: Story) -> None:
    """The one that is told first fails, and the budget is spent."""
    story.send(story.first, story.second, MaxConcurrency="1")
    told = until(lambda: next((agent for agent in story.agents if not agent.is_quiet(0.2)), None))
    told.reply(f"aws.ssm.{story.command_id}.{told.instance_id}", "Failed")
    story.first = story.second if told is story.first else story.first


def invalid_platform(story: Story) -> None:
    story.away(story.first)
    story.first.connect(PlatformType="Windows")
    story.send(story.first, tagged=True)


def access_denied(story: Story) -> None:
    story.send(story.first, client=story.denied(), tagged=True)


def no_instances_in_tag(story: Story) -> None:
    story.command_id = story.ssm.send_command(
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": ["true"]},
        Targets=[{"Key": "tag:nobody", "Values": ["has it"]}],
    )["Command"]["CommandId"]


# How each comes about: the details of the command, and those of the invocation on the story's first node.
STORIES: dict[Callable[[Story], None], tuple[str, str]] = {
    pending: ("Pending", "Pending"),
    in_progress: ("InProgress", "InProgress"),
    delayed: ("Delayed", "Delayed"),
    success: ("Success", "Success"),
    delivery_timed_out: ("DeliveryTimedOut", "DeliveryTimedOut"),
    execution_timed_out: ("ExecutionTimedOut", "ExecutionTimedOut"),
    failed: ("Failed", "Failed"),
    incomplete: ("Incomplete", "Failed"),
    cancelled: ("Cancelled", "Cancelled"),
    rate_exceeded: ("RateExceeded", "Cancelled"),
    undeliverable: ("Failed", "Undeliverable"),
    terminated: ("Failed", "Terminated"),
    invalid_platform: ("Failed", "InvalidPlatform"),
    access_denied: ("AccessDenied", "AccessDenied"),
    no_instances_in_tag: ("NoInstancesInTag", ""),
}


@pytest.mark.parametrize("tell", STORIES, ids=lambda tell: tell.__name__)
def test_a_detail_is_reached_and_shown_by_each_call(story, tell):
    of_command, of_invocation = STORIES[tell]
    tell(story)
    row = until(lambda: (row := story.command())["StatusDetails"] == of_command and row)
    assert row["Status"] == STATUS.get(of_command, "InProgress")
    wanted = "LimitExceeded" if of_command == "RateExceeded" else of_command
    listed = story.ssm.list_commands(Filters=[{"key": "Status", "value": wanted}])["Commands"]
    assert story.command_id in {one["CommandId"] for one in listed}
    if not of_invocation:
        assert story.ssm.list_command_invocations(CommandId=story.command_id)["CommandInvocations"] == []
        return
    story.sees(story.first, of_invocation)
    filters = [{"key": "Status", "value": of_invocation}]
    found = story.ssm.list_command_invocations(CommandId=story.command_id, Filters=filters)["CommandInvocations"]
    assert story.first.instance_id in {one["InstanceId"] for one in found}


def test_a_command_that_goes_beyond_what_may_be_pending_is_sent_to_nobody(story):
    """Nor does it count itself: what was pending goes on, and a smaller one has its place."""
    first, second = story.agents
    story.away(first)
    before = [story.send(first).command_id for _ in range(MOST_PENDING - 1)]
    story.send(first, second)
    assert (story.command()["StatusDetails"], story.command()["CompletedCount"]) == ("RateExceeded", 2)
    assert second.is_quiet(1.0)
    refused = story.command_id
    story.send(second)
    second.run(second.job())
    until(lambda: story.command()["StatusDetails"] == "Success")
    first.connect()
    told = set()
    for _ in before:
        job = first.job(seconds=20)
        told.add(job.job.job_id.split(".")[2])
        first.run(job)
    assert told == set(before) and refused not in told


def test_all_that_is_documented_is_reached():
    reached = list(STORIES.values())
    assert {of_command for of_command, _ in reached} == OF_COMMANDS
    assert {of_invocation for _, of_invocation in reached} - {""} == OF_INVOCATIONS


def test_no_other_detail_is_told():
    """Cancelling alone is in the model and not in the user guide."""
    assert {*OF_COMMANDS, "Cancelling"} == rules.COMMAND_DETAILS
    assert {*OF_INVOCATIONS, "Cancelling"} == rules.INVOCATION_DETAILS
