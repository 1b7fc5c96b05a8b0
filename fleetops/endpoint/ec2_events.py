"""What EventBridge tells of EC2: states and tags that changed, by the rules of the default bus, to SQS's queues.

It is made within the call that changed the instance, so that the journal's replay makes the same messages again.
Source: EC2 user guide, "Automate Amazon EC2 using EventBridge"; EventBridge user guide, "Tag change events on AWS
resources" and "Resource-based policies: Amazon SQS permissions".
"""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from moto import backends
from moto.core.exceptions import ServiceException
from moto.moto_api._internal import mock_random

from fleetops.awsapi import iampolicy

logger = logging.getLogger(__name__)

# AWS tells of each state on the way; moto's instances are there at once.
_ON_THE_WAY = {"running": "pending", "stopped": "stopping", "terminated": "shutting-down"}
_SERVICE = "events.amazonaws.com"

Instances = dict[str, tuple[str, dict[str, str]]]


def instances(account: str, region: str) -> Instances | None:
    """State and tags of each instance by its id; None where no rule would be told of a change."""
    if not _rules(account, region):
        return None
    backend = backends.get_backend("ec2")[account][region]
    return {
        each.id: (each.state, dict(backend.tags.get(each.id, {})))
        for reservation in backend.reservations.values()
        for each in reservation.instances
    }


def tell(account: str, region: str, before: Instances, *, now: float) -> None:
    """Send what has changed since `before` to the targets of the rules that it matches. `now`: seconds since 1970."""
    after = instances(account, region) or {}
    for detail_type, source, instance_id, detail in _changes(before, after):
        event = {
            "version": "0",
            "id": str(mock_random.uuid4()),
            "detail-type": detail_type,
            "source": source,
            "account": account,
            "time": f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ}",
            "region": region,
            "resources": [f"arn:aws:ec2:{region}:{account}:instance/{instance_id}"],
            "detail": detail,
        }
        put(account, region, event)


def put(account: str, region: str, event: dict[str, Any]) -> None:
    """Send one event to the targets of the rules that it matches."""
    for rule in _rules(account, region):
        if rule.event_pattern.matches_event(event):
            for target in rule.targets:
                _send(account, region, rule.arn, target, event)


def _changes(before: Instances, after: Instances) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    for instance_id, (state, tags) in after.items():
        old_state, old_tags = before.get(instance_id, ("", {}))
        if state != old_state:
            for each in filter(None, (_ON_THE_WAY.get(state), state)):
                detail: dict[str, Any] = {"instance-id": instance_id, "state": each}
                yield "EC2 Instance State-change Notification", "aws.ec2", instance_id, detail
        if tags != old_tags:
            changed = sorted(key for key in tags.keys() | old_tags.keys() if tags.get(key) != old_tags.get(key))
            detail = {"changed-tag-keys": changed, "service": "ec2", "resource-type": "instance", "tags": tags}
            yield "Tag Change on Resource", "aws.tag", instance_id, detail


def listens(account: str, region: str) -> bool:
    """Whether any rule of a region would be told of an event."""
    return bool(_rules(account, region))


def _rules(account: str, region: str) -> list[Any]:
    """The enabled rules of the default bus that have a pattern and targets."""
    regions = backends.get_backend("events")[account]
    if not dict.__contains__(regions, region):  # asked for, it would be made
        return []
    rules = regions[region].event_buses["default"].rules.values()
    return [rule for rule in rules if rule.state == "ENABLED" and rule.event_pattern.get_pattern() and rule.targets]


def _send(account: str, region: str, rule: str, target: dict[str, Any], event: dict[str, Any]) -> None:
    """To a queue of the region, whole or as the target's constant Input; the endpoint shapes no events.

    As AWS does, of a queue that is not there or does not let EventBridge in, nobody is told but the log.
    """
    _, _, service, its_region, its_account, name = (target["Arn"].split(":", 5) + [""] * 5)[:6]
    if service != "sqs" or its_region != region or target.keys() & {"InputPath", "InputTransformer"}:
        logger.warning("an event is not sent, only as it is, and to queues of the same region rule=%s", rule)
        return
    queue = backends.get_backend("sqs")[its_account][region].queues.get(name)
    context = {"aws:sourcearn": [rule], "aws:sourceaccount": [account]}
    if queue is None or not queue.policy:
        lets_in = False
    else:
        lets_in = iampolicy.trusts(iampolicy.parse(queue.policy), _SERVICE, "sqs:SendMessage", context)
    if not lets_in:
        logger.warning("an event is not sent, the queue does not let EventBridge in rule=%s queue=%s", rule, name)
        return
    body = target.get("Input") or json.dumps(event)
    group = target.get("SqsParameters", {}).get("MessageGroupId")
    try:
        backends.get_backend("sqs")[its_account][region].send_message(name, body, group_id=group)
    except ServiceException as error:  # moto's word for what SQS would not take, such as FIFO without a group
        logger.warning("an event is not sent rule=%s queue=%s reason=%s", rule, name, error)
