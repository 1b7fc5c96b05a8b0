"""EventBridge's rules: what EC2 changes arrives in SQS's queues as on AWS, once, through a kill of moto too."""

import json
import os
import signal
import uuid

import pytest

REGION, ACCOUNT = "eu-west-1", "111122223333"
OF_EC2 = {"source": ["aws.ec2", "aws.tag"], "detail-type": ["EC2 Instance State-change Notification", "Tag Change on Resource"]}  # fmt: skip  # noqa: E501


class Rule:
    """A rule of the default bus, and the queue that it sends to."""

    def __init__(self, aws, pattern, *, lets_in=True, **target):
        self.sqs, self.events, name = aws.client("sqs"), aws.client("events"), f"fleet-{uuid.uuid4().hex[:8]}"
        self.name, self.aws = name, aws
        self.url = self.sqs.create_queue(QueueName=name)["QueueUrl"]
        arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"
        rule = self.events.put_rule(Name=name, EventPattern=json.dumps(pattern))["RuleArn"]
        self.events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn, **target}])
        if lets_in:
            statement = {
                "Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage",
                "Resource": arn, "Condition": {"ArnEquals": {"aws:SourceArn": rule}},
            }  # fmt: skip
            policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            self.sqs.set_queue_attributes(QueueUrl=self.url, Attributes={"Policy": policy})

    def bodies(self):
        found = []
        while got := self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            for each in got:
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=each["ReceiptHandle"])
            found += [each["Body"] for each in got]
        return found

    def said(self, instance_id):
        events = [json.loads(body) for body in self.bodies()]
        assert all(event["resources"] == [f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{instance_id}"] for event in events)
        return [event["detail"].get("state") or event["detail"]["changed-tag-keys"] for event in events]


@pytest.fixture
def instance(aws):
    ec2 = aws.client("ec2")
    image = ec2.describe_instances()["Reservations"][0]["Instances"][0]["ImageId"]
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    yield made
    ec2.terminate_instances(InstanceIds=[made])


@pytest.fixture
def ruled(aws):
    made = []

    def make(pattern, **options):
        made.append(Rule(aws, pattern, **options))
        return made[-1]

    yield make
    for each in made:
        each.events.remove_targets(Rule=each.name, Ids=["queue"])
        each.events.delete_rule(Name=each.name)
        each.sqs.delete_queue(QueueUrl=each.url)


def test_states_and_tags_are_told_as_aws_does(aws, ruled, instance):
    rule, ec2 = ruled(OF_EC2), aws.client("ec2")
    ec2.stop_instances(InstanceIds=[instance])
    (first, second) = map(json.loads, rule.bodies())
    assert first["id"] != second["id"] and first["time"].endswith("Z")
    assert {key: second[key] for key in ("version", "detail-type", "source", "account", "region", "detail")} == {
        "version": "0", "detail-type": "EC2 Instance State-change Notification", "source": "aws.ec2",
        "account": ACCOUNT, "region": REGION, "detail": {"instance-id": instance, "state": "stopped"},
    }  # fmt: skip
    assert first["detail"]["state"] == "stopping"
    ec2.stop_instances(InstanceIds=[instance])  # it is, so that nothing changes
    ec2.create_tags(Resources=[instance], Tags=[{"Key": "env", "Value": "x"}, {"Key": "team", "Value": "y"}])
    ec2.start_instances(InstanceIds=[instance])
    ec2.delete_tags(Resources=[instance], Tags=[{"Key": "env"}])
    assert rule.said(instance) == [["env", "team"], "pending", "running", ["env"]]


def test_a_launch_and_an_end_are_told(aws, ruled):
    rule, ec2 = ruled({"source": ["aws.ec2"]}), aws.client("ec2")
    image = ec2.describe_instances()["Reservations"][0]["Instances"][0]["ImageId"]
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    ec2.terminate_instances(InstanceIds=[made])
    assert rule.said(made) == ["pending", "running", "shutting-down", "terminated"]


def test_a_rule_lets_through_what_it_matches(aws, ruled, instance):
    stopped = ruled({"source": ["aws.ec2"], "detail": {"state": ["stopped"]}})
    other, off = ruled({"source": ["aws.s3"]}), ruled(OF_EC2)
    off.events.disable_rule(Name=off.name)
    aws.client("ec2").stop_instances(InstanceIds=[instance])
    assert (stopped.said(instance), other.bodies(), off.bodies()) == (["stopped"], [], [])


def test_a_queue_without_the_policy_gets_nothing_and_the_call_stands(aws, ruled, instance):
    """As on AWS, where this is forgotten first."""
    shut, gone, ec2 = ruled(OF_EC2, lets_in=False), ruled(OF_EC2), aws.client("ec2")
    gone.sqs.delete_queue(QueueUrl=gone.url)
    changed = ec2.stop_instances(InstanceIds=[instance])["StoppingInstances"][0]
    assert changed["CurrentState"]["Name"] in {"stopping", "stopped"}
    assert shut.bodies() == []
    gone.url = gone.sqs.create_queue(QueueName=gone.name)["QueueUrl"]  # for the fixture to delete


def test_a_target_may_get_a_word_of_its_own_and_no_shape_that_is_not_offered(aws, ruled, instance):
    plain = ruled(OF_EC2, Input='{"go": "look"}')
    shaped = ruled(OF_EC2, InputPath="$.detail")
    aws.client("ec2").stop_instances(InstanceIds=[instance])
    assert plain.bodies() == ['{"go": "look"}'] * 2
    assert shaped.bodies() == []


def test_a_killed_moto_has_the_same_messages_again(aws, ruled, instance):
    rule = ruled(OF_EC2)
    aws.client("ec2").stop_instances(InstanceIds=[instance])
    peeked = rule.sqs.receive_message(QueueUrl=rule.url, MaxNumberOfMessages=10, VisibilityTimeout=0)["Messages"]
    os.kill(aws.child("fleetops.endpoint.moto_process"), signal.SIGKILL)
    again = rule.sqs.receive_message(QueueUrl=rule.url, MaxNumberOfMessages=10, VisibilityTimeout=0)["Messages"]
    first, second = ([(each["MessageId"], each["Body"]) for each in found] for found in (peeked, again))
    assert first == second and len(first) == 2


def test_who_waits_for_a_message_where_none_is_holds_up_nobody(aws, ruled):
    rule = ruled(OF_EC2)
    assert "Messages" not in rule.sqs.receive_message(QueueUrl=rule.url, WaitTimeSeconds=20)
    rule.sqs.set_queue_attributes(QueueUrl=rule.url, Attributes={"ReceiveMessageWaitTimeSeconds": "20"})
    assert "Messages" not in rule.sqs.receive_message(QueueUrl=rule.url)
