"""How a region comes by its queue of EventBridge's events: by CloudFormation, or by the AWS command line."""

import json
import shlex

from fleetops.aws.regions import partition_of

from .models import Region

NAME = "fleetops-events"  # of queue, rule and stack
# Events that are older say nothing that the region's own reading has not shown since.
KEPT_SECONDS = 3600
PATTERN = {
    "source": ["aws.ec2", "aws.tag", "aws.ssm"],
    "detail-type": [
        "EC2 Instance State-change Notification",
        "Tag Change on Resource",
        "EC2 Command Status-change Notification",
        "EC2 Command Invocation Status-change Notification",
    ],
}


def cloudformation() -> str:
    """A template (JSON) of queue and rule, the same for each region and account; its output is the queue's address."""
    queue = {"Fn::GetAtt": ["Queue", "Arn"]}
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "Tells FleetOps of instances that start, stop, end or change their tags, and of commands",
        "Resources": {
            "Queue": {
                "Type": "AWS::SQS::Queue",
                "Properties": {"QueueName": NAME, "MessageRetentionPeriod": KEPT_SECONDS},
            },
            "Rule": {
                "Type": "AWS::Events::Rule",
                "Properties": {"Name": NAME, "EventPattern": PATTERN, "Targets": [{"Id": "fleetops", "Arn": queue}]},
            },
            "QueuePolicy": {
                "Type": "AWS::SQS::QueuePolicy",
                "Properties": {
                    "Queues": [{"Ref": "Queue"}],
                    "PolicyDocument": _policy(queue, {"Fn::GetAtt": ["Rule", "Arn"]}),
                },
            },
        },
        "Outputs": {"QueueUrl": {"Description": "for manage.py region_queue", "Value": {"Ref": "Queue"}}},
    }
    return json.dumps(template, indent=2)


def by_stack(region: Region) -> str:
    """Commands that make it of the template, as a shell takes them."""
    return "\n".join(
        (
            f"aws cloudformation deploy {_where(region)} --stack-name {NAME} --template-file fleetops-events.json",
            f"queue=$(aws cloudformation describe-stacks {_where(region)} --stack-name {NAME} "
            "--query 'Stacks[0].Outputs[0].OutputValue' --output text)",
            _link(region),
        )
    )


def by_hand(region: Region) -> str:
    """The same without CloudFormation, which the embedded endpoint does not offer."""
    partition, account = partition_of(region.name), region.account.account_id
    queue = f"arn:{partition}:sqs:{region.name}:{account}:{NAME}"
    rule = f"arn:{partition}:events:{region.name}:{account}:rule/{NAME}"
    attributes = {"MessageRetentionPeriod": str(KEPT_SECONDS), "Policy": json.dumps(_policy(queue, rule))}
    here = _where(region)
    return "\n".join(
        (
            f"queue=$(aws sqs create-queue {here} --queue-name {NAME} "
            f"--attributes {shlex.quote(json.dumps(attributes))} --query QueueUrl --output text)",
            f"aws events put-rule {here} --name {NAME} --event-pattern {shlex.quote(json.dumps(PATTERN))}",
            f"aws events put-targets {here} --rule {NAME} --targets Id=fleetops,Arn={queue}",
            _link(region),
        )
    )


def _where(region: Region) -> str:
    address = region.account.endpoint_url
    return f"--region {region.name}" + (f" --endpoint-url {shlex.quote(address)}" if address else "")


def _link(region: Region) -> str:
    return f'python manage.py region_queue {region.account.account_id} {region.name} "$queue"'


def _policy(queue: object, rule: object) -> dict[str, object]:
    """Of the queue: that rule, and nobody else, may send to it."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "events.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": queue,
                "Condition": {"ArnEquals": {"aws:SourceArn": rule}},
            }
        ],
    }
