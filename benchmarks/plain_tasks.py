"""What `benchmarks/rollout.py` is measured beside: a document on many instances as one plain Celery task for each.

Served by `celery -A benchmarks.plain_tasks worker`; the broker stands in PLAIN_BROKER, the server that plays AWS in
PLAIN_AWS.
"""

import os
import time

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from celery import Celery

PAUSE = 2.0  # seconds between two looks at a command
AT_ONCE = 16

app = Celery("plain", broker=os.environ["PLAIN_BROKER"], backend=os.environ["PLAIN_BROKER"])
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, worker_hijack_root_logger=False)
ssm = boto3.client(
    "ssm",
    region_name="eu-west-1",
    endpoint_url=os.environ["PLAIN_AWS"],
    aws_access_key_id="x",
    aws_secret_access_key="x",
    config=Config(retries={"total_max_attempts": 1}, max_pool_connections=AT_ONCE),
)


def patiently(call, **parameters):
    while True:
        try:
            return call(**parameters)
        except ClientError:
            time.sleep(1)


@app.task
def run(name: str) -> str:
    """The document on one instance, until it has ended."""
    sent = patiently(ssm.send_command, DocumentName="say-it", InstanceIds=[name])["Command"]["CommandId"]
    while True:
        time.sleep(PAUSE)
        status = patiently(ssm.get_command_invocation, CommandId=sent, InstanceId=name)["Status"]
        if status != "InProgress":
            return status
