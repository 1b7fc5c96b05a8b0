"""SNS: a notice to a topic."""

from .clients import AccountAccess, client
from .errors import aws_call

# SNS, Publish: a subject has fewer than 100 characters, of ASCII, and begins with a letter, digit or sign.
LONGEST_SUBJECT = 99


def publish(
    access: AccountAccess, region: str, *, topic_arn: str, subject: str, message: str, session_name: str
) -> str:
    """Publish once; returns AWS's message id. Not idempotent: one attempt, and the caller decides on another."""
    sns = client("sns", access, region, session_name=session_name, attempts=1)
    plain = subject.encode("ascii", "replace").decode()[:LONGEST_SUBJECT]
    with aws_call("sns:Publish", where=topic_arn):
        answer = sns.publish(TopicArn=topic_arn, Subject=plain, Message=message)
    return str(answer["MessageId"])
