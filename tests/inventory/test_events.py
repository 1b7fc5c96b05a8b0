"""Events of EventBridge from an SQS queue: just the instances that they name are read, and no event is lost."""

import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from fleetops.audit.models import AuditEvent
from fleetops.aws.records import QueueMessage
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.inventory import event_setup, events, services, tasks
from fleetops.inventory.models import Instance, Region
from fleetops.inventory.readiness import Status, status_of
from tests.factories import make_region
from tests.inventory.test_views import text_of
from tests.support.endpoint import until

pytestmark = pytest.mark.django_db


def state_change(instance_id, **facts):
    """As EventBridge sends it [EC2 user guide, "Monitor your instances using EventBridge"]."""
    well = {
        "id": str(uuid.uuid4()),
        "detail-type": "EC2 Instance State-change Notification",
        "source": "aws.ec2",
        "account": "111122223333",
        "time": "2026-11-25T09:00:00Z",
        "region": "eu-west-1",
        "resources": [f"arn:aws:ec2:eu-west-1:111122223333:instance/{instance_id}"],
        "detail": {"instance-id": instance_id, "state": "stopped"},
    }
    return well | facts


def tag_change(instance_id, **facts):
    well = {
        "detail-type": "Tag Change on Resource",
        "source": "aws.tag",
        "detail": {"service": "ec2", "resource-type": "instance", "changed-tag-keys": ["env"]},
    }
    return state_change(instance_id) | well | facts


def message(body) -> QueueMessage:
    return QueueMessage("receipt", body if isinstance(body, str) else json.dumps(body))


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (state_change("i-0123456789abcdef0"), {"i-0123456789abcdef0"}),
        (tag_change("i-0123456789abcdef0"), {"i-0123456789abcdef0"}),
        (tag_change("i-0123456789abcdef0", detail={"service": "s3"}), set()),
        (state_change("i-0123456789abcdef0", account="999900001111"), set()),
        (state_change("i-0123456789abcdef0", region="us-east-1"), set()),
        (state_change("i-0123456789abcdef0", source="somebody.else"), set()),
        (state_change("../../etc"), set()),
        (state_change("i-0123456789abcdef0", detail=[]), set()),
        (state_change("x", detail={"instance-id": 7}), set()),
        ("no json", set()),
        ("[]", set()),
        ("null", set()),
    ],
)
def test_a_message_names_instances_or_nothing(body, found):
    assert events.instances_in(message(body), make_region()) == found


@pytest.fixture
def queue(linked, endpoint):
    """A queue of the endpoint, from which the region's events come; its fleet has been read."""
    sqs = endpoint.client("sqs")
    url = sqs.create_queue(QueueName=f"fleet-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    region = linked.regions.get(name="eu-west-1")
    services.claim_due_regions(now=now())
    services.refresh_region(region.pk, now=now())
    events.set_queue(region, url, actor="tests")

    class Queue:
        def __init__(self):
            self.region, self.url, self.sqs = region, url, sqs

        def send(self, *bodies):
            for body in bodies:
                sqs.send_message(QueueUrl=url, MessageBody=body if isinstance(body, str) else json.dumps(body))

        def left(self) -> int:
            names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
            return sum(map(int, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"].values()))

    return Queue()


def test_a_stopped_instance_shows_without_its_region_being_read(queue, endpoint):
    ec2, wanted = endpoint.client("ec2"), endpoint.instance_id("pay-api-dev-01")
    before = {row.pk: row.ec2_read_at for row in Instance.objects.exclude(instance_id=wanted)}
    ec2.stop_instances(InstanceIds=[wanted])
    try:
        queue.send(state_change(wanted), state_change(wanted), "no json")  # twice, and one that nobody understands
        assert events.read_queue(queue.region.pk, now=now()) == 3
        assert status_of(Instance.objects.get(instance_id=wanted, region=queue.region)) is Status.STOPPED
        assert {row.pk: row.ec2_read_at for row in Instance.objects.exclude(instance_id=wanted)} == before
        assert queue.left() == 0
        region = Region.objects.get(pk=queue.region.pk)
        assert (region.queue_error, region.queue_claimed_until) == ("", None)
        assert region.queue_read_at is not None
    finally:
        ec2.start_instances(InstanceIds=[wanted])
    until(lambda: status_after_event(queue, wanted) is Status.ONLINE, seconds=20)


def status_after_event(queue, instance_id):
    queue.send(state_change(instance_id))
    events.read_queue(queue.region.pk, now=now())
    return status_of(Instance.objects.get(instance_id=instance_id, region=queue.region))


def test_a_launched_a_retagged_and_a_terminated_instance_are_seen(queue, endpoint):
    ec2 = endpoint.client("ec2")
    image = ec2.describe_instances()["Reservations"][0]["Instances"][0]["ImageId"]
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    assert status_after_event(queue, made) is Status.NO_PROFILE
    ec2.create_tags(Resources=[made], Tags=[{"Key": "env", "Value": "scratch"}])
    queue.send(tag_change(made))
    events.read_queue(queue.region.pk, now=now())
    assert Instance.objects.get(tag_rows__key="env", tag_rows__value="scratch").instance_id == made
    ec2.terminate_instances(InstanceIds=[made])
    assert status_after_event(queue, made) is Status.GONE


def test_an_event_of_an_instance_that_nobody_knows_is_taken_and_changes_nothing(queue):
    number = Instance.objects.count()
    queue.send(state_change("i-0fffffffffffffff0"))
    assert events.read_queue(queue.region.pk, now=now()) == 1
    assert Instance.objects.count() == number
    assert queue.left() == 0


def test_what_could_not_be_read_stays_in_the_queue_and_is_told(queue, endpoint, monkeypatch):
    wanted = endpoint.instance_id("pay-api-dev-01")
    queue.send(state_change(wanted))

    def refused(*args, **kwargs):
        raise services.AwsError("RequestLimitExceeded", "slow down")

    monkeypatch.setattr(services.ec2, "instances", refused)
    assert events.read_queue(queue.region.pk, now=now()) == 0
    region = Region.objects.get(pk=queue.region.pk)
    assert "slow down" in region.queue_error
    assert region.queue_claimed_until is None
    assert queue.left() == 1


def test_many_messages_take_few_calls(queue, endpoint, monkeypatch):
    asked, instances = [], services.ec2.instances

    def counted(access, region, ids, **rest):
        asked.append(len(ids))
        return instances(access, region, ids, **rest)

    monkeypatch.setattr(services.ec2, "instances", counted)
    wanted = endpoint.instance_id("pay-api-dev-01")
    queue.send(*(state_change(f"i-{number % 20:017x}") for number in range(60)), state_change(wanted))
    assert events.read_queue(queue.region.pk, now=now()) == 61
    assert asked == [21]


def test_a_queue_is_read_by_one_worker_at_a_time(queue):
    moment = now()
    Region.objects.filter(pk=queue.region.pk).update(queue_claimed_until=moment + events.CLAIM)
    queue.send(state_change("i-0123456789abcdef0"))
    assert events.queues_to_read(now=moment) == []
    assert events.read_queue(queue.region.pk, now=moment) == 0
    assert events.queues_to_read(now=moment + events.CLAIM) == [queue.region.pk]
    assert queue.left() == 1


def test_a_queue_that_is_not_there_says_so_and_the_region_is_still_polled(queue):
    gone = f"{queue.url}-not-there"
    events.set_queue(queue.region, gone, actor="tests")
    assert events.read_queue(queue.region.pk, now=now()) == 0
    assert "NonExistentQueue" in Region.objects.get(pk=queue.region.pk).queue_error
    Region.objects.update(started_at=None)
    assert queue.region.pk in services.claim_due_regions(now=now())


def test_beats_tick_gives_each_queue_to_a_worker(queue, monkeypatch):
    given = []
    monkeypatch.setattr(tasks.read_queue, "delay", given.append)
    tasks.read_queues()
    assert given == [queue.region.pk]
    Region.objects.update(enabled=False)
    tasks.read_queues()
    assert given == [queue.region.pk]


@pytest.mark.parametrize(
    "url", ["ftp://x/111122223333/q", "https://sqs/q", "https://sqs/111122223333/q.fifo", "https://a@b/111122223333/q"]
)
def test_what_is_no_queue_is_refused(url):
    with pytest.raises(UserError, match="is no address of an SQS queue"):
        events.set_queue(make_region(), url, actor="tests")
    assert Region.objects.get().queue_url == ""


def test_a_queue_is_set_by_a_command_and_audited(capsys):
    make_region()
    url = "https://sqs.eu-west-1.amazonaws.com/111122223333/fleet-events"
    call_command("region_queue", "111122223333", "eu-west-1", url)
    call_command("region_queue", "111122223333", "eu-west-1", url)
    assert Region.objects.get().queue_url == url
    event = AuditEvent.objects.get(action="inventory.region.queue")
    assert (event.region, event.details["before"], event.details["after"]) == ("eu-west-1", "", url)
    call_command("region_queue", "111122223333", "eu-west-1")
    assert "only polled" in capsys.readouterr().out
    with pytest.raises(CommandError, match="No region"):
        call_command("region_queue", "111122223333", "eu-west-9")


def test_a_reading_that_began_before_an_event_does_not_undo_it(monkeypatch):
    region, early = make_region(), now()
    stopped = services.Ec2Instance(instance_id="i-0123456789abcdef0", state="stopped", profile_arn="arn:x/p")
    running = services.Ec2Instance(instance_id="i-0123456789abcdef0", state="running", profile_arn="arn:x/p")
    monkeypatch.setattr(services.ec2, "instances", lambda *args, **kwargs: [stopped])
    monkeypatch.setattr(services.ssm, "instances", lambda *args, **kwargs: [])
    services.refresh_instances(region, [stopped.instance_id], now=now())
    services._write(region, {running.instance_id: running}, services._take_machine, early, services.Outcome())
    assert Instance.objects.get().ec2_state == "stopped"


# --- with EventBridge itself, and as the account's page says ---


@pytest.fixture
def region(linked):
    services.claim_due_regions(now=now())
    services.refresh_region(linked.regions.get().pk, now=now())
    return linked.regions.get()


def carry_out(commands, endpoint):
    """Run what the page says with the real `aws`, and its last line as manage.py does."""
    *made, link = commands.splitlines()
    bin_directory = Path(sys.executable).parent
    environment = {
        "PATH": f"{bin_directory}:{os.environ['PATH']}",
        "HOME": str(endpoint.home),
        "AWS_CA_BUNDLE": endpoint.handover["ca_file"],
        "AWS_ACCESS_KEY_ID": endpoint.account["try_credentials"]["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": endpoint.account["try_credentials"]["secret_access_key"],
    }
    script = "\n".join(["set -e", *made, 'printf "%s" "queue=$queue"'])
    run = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    queue = re.search(r"queue=(\S+)$", run.stdout)[1]
    assert link.startswith("python manage.py region_queue ")
    call_command("region_queue", *link.replace('"$queue"', queue).split()[3:])
    return queue


def test_what_the_page_says_makes_a_stopped_instance_show_by_its_event(client_as, region, endpoint):
    client, ec2, wanted = client_as("administrator"), endpoint.client("ec2"), endpoint.instance_id("pay-api-dev-01")
    page = client.get(region.account.get_absolute_url())
    assert "only polled" in text_of(page)
    ((_, _, commands),) = page.context["setups"]
    carry_out(commands, endpoint)
    assert events.read_queue(region.pk, now=now()) == 0
    assert Region.objects.get().queue_error == ""
    assert "None yet" in text_of(client.get(region.account.get_absolute_url()))
    ec2.stop_instances(InstanceIds=[wanted])
    try:
        assert events.read_queue(region.pk, now=now()) == 2  # stopping, stopped
        assert status_of(Instance.objects.get(instance_id=wanted, region=region)) is Status.STOPPED
        page = client.get(region.account.get_absolute_url())
        assert "Received last event" in text_of(page) and Region.objects.get().queue_url in text_of(page)
        assert page.context["setups"] == []
    finally:
        ec2.start_instances(InstanceIds=[wanted])

    def is_running():
        events.read_queue(region.pk, now=now())
        return status_of(Instance.objects.get(instance_id=wanted, region=region)) is Status.ONLINE

    until(is_running, seconds=20)


def test_the_template_and_the_commands_make_the_same(client_as, region):
    answer = client_as("administrator").get(f"{region.account.get_absolute_url()}role/events/")
    assert "fleetops-events.json" in answer["Content-Disposition"]
    made = json.loads(answer.content)["Resources"]
    by_hand = event_setup.by_hand(region)
    assert json.dumps(made["Rule"]["Properties"]["EventPattern"]) in by_hand
    (statement,) = made["QueuePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": {"Fn::GetAtt": ["Rule", "Arn"]}}}
    assert "--stack-name fleetops-events" in event_setup.by_stack(region)
    # What the rule lets through is what the queue's reader understands.
    pattern = made["Rule"]["Properties"]["EventPattern"]
    for event in (state_change("i-0123456789abcdef0"), tag_change("i-0123456789abcdef0")):
        assert event["source"] in pattern["source"] and event["detail-type"] in pattern["detail-type"]
        assert events.instances_in(message(event), region)


def test_a_queue_that_cannot_be_read_is_told_on_the_account_s_page(client_as, region):
    url = "https://sqs.eu-west-1.amazonaws.com/111122223333/gone"
    Region.objects.update(queue_url=url, queue_error="No such queue.")
    page = text_of(client_as("administrator").get(region.account.get_absolute_url()))
    assert "No events" in page and "the queue cannot be read" in page and f"{url} No such queue." in page
