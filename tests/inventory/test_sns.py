"""A notice by SNS goes under the account's own role, to a topic of that account, over the wire."""

import json

import pytest

from fleetops.clock import now
from fleetops.notify import services
from fleetops.notify.models import DeliveryState
from tests.factories import make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("roles")]


def send():
    for pk, claim in services.claim_due(at=now()):
        services.deliver(pk, claim)


def test_a_notice_reaches_a_topic(linked, endpoint):
    sns, sqs = endpoint.client("sns"), endpoint.client("sqs")
    topic = sns.create_topic(Name="alerts")["TopicArn"]
    queue = sqs.create_queue(QueueName="seen")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    chief = make_user(role="administrator")
    channel, key = services.create_channel(actor=chief, name="Alerts", kind="sns", address=topic)
    assert not key
    delivery = services.send_test(channel, actor=chief).deliveries.get()
    send()
    delivery.refresh_from_db()
    assert (delivery.state, delivery.error) == (DeliveryState.SENT, "")
    body = json.loads(sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5)["Messages"][0]["Body"])
    assert body["Subject"] == "FleetOps: A test of ?Alerts?"
    assert str(delivery.pk) in body["Message"] and chief.username in body["Message"]


def test_a_topic_that_is_not_there_is_told(linked):
    chief = make_user(role="administrator")
    arn = f"arn:aws:sns:eu-west-1:{linked.account_id}:nowhere"
    channel, _ = services.create_channel(actor=chief, name="Alerts", kind="sns", address=arn)
    delivery = services.send_test(channel, actor=chief).deliveries.get()
    send()
    delivery.refresh_from_db()
    assert delivery.state == DeliveryState.FAILED
    assert "sns:Publish" in delivery.error and "NotFound" in delivery.error


def test_a_topic_of_another_account_is_not_published_to_as_this_one(linked):
    """The ARN says which account, and so whose role: an account that is gone since cannot be stood in for."""
    chief = make_user(role="administrator")
    arn = f"arn:aws:sns:eu-west-1:{linked.account_id}:alerts"
    channel, _ = services.create_channel(actor=chief, name="Alerts", kind="sns", address=arn)
    linked.regions.all().delete()
    linked.delete()
    delivery = services.send_test(channel, actor=chief).deliveries.get()
    send()
    delivery.refresh_from_db()
    assert delivery.state == DeliveryState.FAILED
    assert "does not know" in delivery.error
