"""SQS: the queue to which EventBridge sends what happens to instances."""

from collections.abc import Sequence
from typing import Final

from .clients import AccountAccess, client
from .errors import aws_call
from .records import QueueMessage

BATCH: Final = 10  # the most that ReceiveMessage and DeleteMessageBatch take [botocore's model of sqs]


def receive(
    access: AccountAccess,
    region: str,
    queue_url: str,
    *,
    session_name: str,
    wait_seconds: int,
    hidden_seconds: int,
) -> list[QueueMessage]:
    """At most ten messages, after at most `wait_seconds`; nobody else gets them for `hidden_seconds`."""
    sqs = client("sqs", access, region, session_name=session_name)
    with aws_call("sqs:ReceiveMessage", where=f"{access.account_id} {region}"):
        answer = sqs.receive_message(
            QueueUrl=queue_url,
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=hidden_seconds,
        )
    return [QueueMessage(each["ReceiptHandle"], each.get("Body", "")) for each in answer.get("Messages", [])]


def delete(
    access: AccountAccess, region: str, queue_url: str, messages: Sequence[QueueMessage], *, session_name: str
) -> None:
    """Delete received messages. One that AWS does not delete comes again, which does no harm."""
    sqs = client("sqs", access, region, session_name=session_name)
    for start in range(0, len(messages), BATCH):
        entries = [
            {"Id": str(number), "ReceiptHandle": each.receipt}
            for number, each in enumerate(messages[start : start + BATCH])
        ]
        with aws_call("sqs:DeleteMessage", where=f"{access.account_id} {region}"):
            sqs.delete_message_batch(QueueUrl=queue_url, Entries=entries)
