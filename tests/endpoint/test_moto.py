"""What moto keeps for us: identical after a restart, whole after a kill, refused when somebody changed it."""

import io
import os
import signal
import threading
import time

import boto3
import boto3.s3.transfer
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.support.endpoint import running_endpoint, start_endpoint, until

CHILD = "fleetops.endpoint.moto_process"


@pytest.fixture(scope="module")
def mortal(tmp_path_factory):
    """An endpoint that is killed and started again by the tests of this module, one after the other."""
    with running_endpoint(tmp_path_factory.mktemp("mortal") / "home") as endpoint:
        yield endpoint


def image(aws) -> str:
    return aws.client("ec2").describe_images()["Images"][0]["ImageId"]


def state(aws) -> dict:
    """What identifiers, times and bytes a client sees."""
    iam, ec2 = aws.client("iam"), aws.client("ec2")
    kms, s3, logs, sns = aws.client("kms"), aws.client("s3"), aws.client("logs"), aws.client("sns")
    strip = lambda answer: {key: value for key, value in answer.items() if key != "ResponseMetadata"}  # noqa: E731
    buckets = s3.list_buckets()["Buckets"]
    return {
        "instances": strip(ec2.describe_instances()),
        "vpcs": strip(ec2.describe_vpcs()),
        "subnets": strip(ec2.describe_subnets()),
        "volumes": strip(ec2.describe_volumes()),
        "enis": strip(ec2.describe_network_interfaces()),
        "key pairs": strip(ec2.describe_key_pairs()),
        "roles": strip(iam.list_roles()),
        "users": strip(iam.list_users()),
        "keys": strip(iam.list_access_keys(UserName="admin")),
        "profiles": strip(iam.list_instance_profiles()),
        "kms": [kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"] for key in kms.list_keys()["Keys"]],
        "buckets": buckets,
        "objects": {
            bucket["Name"]: [
                (
                    item["Key"],
                    item["LastModified"],
                    s3.get_object(Bucket=bucket["Name"], Key=item["Key"])["Body"].read(),
                )
                for item in s3.list_objects_v2(Bucket=bucket["Name"]).get("Contents", [])
            ]
            for bucket in buckets
        },
        "logs": strip(logs.describe_log_groups()),
        "events": logs.get_log_events(logGroupName="g", logStreamName="s")["events"]
        if logs.describe_log_groups()["logGroups"]
        else [],
        "topics": strip(sns.list_topics()),
    }


def make_one_of_each(aws) -> dict:
    """Change something in every service; what is needed to check it afterwards."""
    ec2, kms, s3, logs = aws.client("ec2"), aws.client("kms"), aws.client("s3"), aws.client("logs")
    ec2.run_instances(ImageId=image(aws), MinCount=2, MaxCount=2, InstanceType="t3.small")
    ec2.create_key_pair(KeyName="k")
    symmetric = kms.create_key()["KeyMetadata"]["KeyId"]
    signing = kms.create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    secret = kms.encrypt(KeyId=symmetric, Plaintext=b"secret")["CiphertextBlob"]
    signature = kms.sign(KeyId=signing, Message=b"m", SigningAlgorithm="RSASSA_PSS_SHA_256")["Signature"]
    s3.create_bucket(Bucket="records", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="records", Key="a b/ü", Body=b"x" * 300_000, Metadata={"my_key": "1"})
    logs.create_log_group(logGroupName="g")
    logs.create_log_stream(logGroupName="g", logStreamName="s")
    events = [{"timestamp": int(time.time() * 1000) + n, "message": f"line {n}"} for n in range(20)]
    logs.put_log_events(logGroupName="g", logStreamName="s", logEvents=events)
    aws.client("sns").create_topic(Name="t")
    aws.client("sqs").create_queue(QueueName="q")
    return {"symmetric": symmetric, "signing": signing, "secret": secret, "signature": signature}


def check_keys(aws, made) -> None:
    kms = aws.client("kms")
    assert kms.decrypt(CiphertextBlob=made["secret"])["Plaintext"] == b"secret"
    assert kms.verify(
        KeyId=made["signing"], Message=b"m", Signature=made["signature"], SigningAlgorithm="RSASSA_PSS_SHA_256"
    )["SignatureValid"]


def test_ids_times_and_bytes_are_the_same_after_a_kill_and_after_a_restart(mortal):
    aws = mortal
    made = make_one_of_each(aws)
    before = state(aws)
    child = aws.child(CHILD)
    os.kill(child, signal.SIGKILL)
    assert state(aws) == before, "after moto was killed"
    assert aws.child(CHILD) != child
    check_keys(aws, made)
    aws.kill()
    aws.start_again()
    assert state(aws) == before, "after the endpoint was killed"
    aws.stop()
    assert aws.process.returncode == 0
    until(lambda: aws.child(CHILD) is None, seconds=10)
    aws.start_again()
    assert state(aws) == before, "after an orderly restart"
    check_keys(aws, made)


def test_a_kill_in_the_middle_of_writes_loses_nothing_that_was_answered_and_does_nothing_twice(mortal):
    aws = mortal
    answered: list[str] = []
    stop = threading.Event()

    def write(worker: int) -> None:
        iam = aws.client("iam")
        for number in range(10_000):
            if stop.is_set():
                return
            name = f"r-{worker}-{number}"
            iam.create_role(RoleName=name, AssumeRolePolicyDocument='{"Version":"2012-10-17","Statement":[]}')
            answered.append(name)

    workers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    for _ in range(2):
        reached = len(answered) + 25
        until(lambda reached=reached: len(answered) >= reached, seconds=20)
        child = until(lambda: aws.child(CHILD))
        os.kill(child, signal.SIGKILL)
    reached = len(answered) + 10
    until(lambda: len(answered) >= reached, seconds=20)
    stop.set()
    for worker in workers:
        worker.join()
    paginator = aws.client("iam").get_paginator("list_roles")
    found = [role["RoleName"] for page in paginator.paginate() for role in page["Roles"]]
    assert set(answered) <= set(found)
    assert len(found) == len(set(found))
    # Every worker went on without an error: a call that was under way was done once, and answered.
    assert len([name for name in found if name.startswith("r-")]) == len(answered)


def test_the_endpoint_killed_in_the_middle_of_writes_keeps_what_it_answered(mortal):
    aws = mortal
    answered: list[str] = []

    def write() -> None:
        s3 = aws.client("s3")
        s3.create_bucket(Bucket="killed", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        try:
            for number in range(10_000):
                s3.put_object(Bucket="killed", Key=f"k{number}", Body=b"%d" % number * 1000)
                answered.append(f"k{number}")
        except Exception:  # the connection breaks: that is the point
            return

    worker = threading.Thread(target=write)
    worker.start()
    until(lambda: len(answered) > 40, seconds=20)
    aws.kill()
    worker.join()
    aws.start_again()
    s3 = aws.client("s3")
    found = {item["Key"] for item in s3.list_objects_v2(Bucket="killed")["Contents"]}
    assert set(answered) <= found
    last = answered[-1]
    assert s3.get_object(Bucket="killed", Key=last)["Body"].read() == last[1:].encode() * 1000
    trail = aws.client("cloudtrail").lookup_events(
        LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "PutObject"}]
    )
    recorded = {event["CloudTrailEvent"] for event in trail["Events"]}
    assert any(f'"key":"{last}"' in text for text in recorded), "a changing call is recorded before it is answered"


def test_a_snapshot_follows_many_calls_and_one_that_was_changed_or_is_of_another_moto_is_refused(tmp_path):
    with running_endpoint(tmp_path / "home", FLEETOPS_ENDPOINT_SNAPSHOT_CALLS="40") as aws:
        iam = aws.client("iam")
        for number in range(60):
            iam.create_user(UserName=f"u{number}")
        (snapshot,) = (aws.home / "moto").glob("snapshot-*")
        (journal,) = (aws.home / "moto").glob("journal-*")
        assert journal.stat().st_size < 60_000
        aws.kill()
        aws.start_again()
        users = [
            user["UserName"]
            for page in aws.client("iam").get_paginator("list_users").paginate()
            for user in page["Users"]
        ]
        assert {f"u{number}" for number in range(60)} <= set(users)
        aws.stop()
        version = aws.home / "moto" / "version"
        told = version.read_text()
        version.write_text("moto-4.0.0")
        with pytest.raises(AssertionError, match="go back to it, or move"):
            start_endpoint(aws.home)
        version.write_text(told)
        content = bytearray(snapshot.read_bytes())
        content[len(content) // 2] ^= 1
        snapshot.write_bytes(content)
        with pytest.raises(AssertionError, match="does not carry this endpoint's seal"):
            start_endpoint(aws.home)


def test_the_adapter_refuses_another_moto(monkeypatch):
    from fleetops.endpoint import moto_adapter

    moto_adapter.check_version()
    monkeypatch.setattr(moto_adapter, "version", lambda name: "5.3.0")
    with pytest.raises(moto_adapter.OtherMoto, match=r"pip install moto==5\.2\.5"):
        moto_adapter.check_version()


def test_a_second_endpoint_on_the_same_home_is_refused(aws):
    with pytest.raises(AssertionError, match="Another endpoint runs on"):
        start_endpoint(aws.home)


def test_a_taken_port_says_what_to_do(aws, tmp_path):
    port = aws.url.rpartition(":")[2]
    with pytest.raises(AssertionError, match="Choose another --port"):
        start_endpoint(tmp_path / "home", arguments=["--port", port, "--nodes", "none"])


@pytest.mark.parametrize(
    ("service", "operation", "parameters"),
    [
        ("ec2", "get_instance_metadata_defaults", {}),
        ("iam", "generate_service_last_accessed_details", {"Arn": "arn:aws:iam::111122223333:role/ssm-core"}),
        ("logs", "stop_query", {"queryId": "x"}),
        ("securityhub", "describe_products", {}),
        ("cloudtrail", "list_event_data_stores", {}),
    ],
)
def test_what_moto_has_not_is_a_501_in_the_protocols_own_shape(aws, service, operation, parameters):
    with pytest.raises(ClientError) as caught:
        getattr(aws.client(service), operation)(**parameters)
    assert caught.value.response["Error"]["Code"] == "NotImplemented"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501


def test_s3_takes_multipart_uploads_streamed_bodies_and_odd_keys(aws):
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="odd-keys", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    body = os.urandom(9 * 2**20)
    transfer = boto3.s3.transfer.TransferConfig(multipart_threshold=2**20, multipart_chunksize=5 * 2**20)
    s3.upload_fileobj(io.BytesIO(body), "odd-keys", "big", Config=transfer)
    assert s3.get_object(Bucket="odd-keys", Key="big")["Body"].read() == body
    for key in ("a b/ü%2F.txt", "x//y", "plus+and=more"):
        s3.put_object(Bucket="odd-keys", Key=key, Body=key.encode(), ChecksumAlgorithm="CRC32")
        assert s3.get_object(Bucket="odd-keys", Key=key)["Body"].read() == key.encode()
        assert s3.head_object(Bucket="odd-keys", Key=key)["ContentLength"] == len(key.encode())
    keys = {item["Key"] for item in s3.list_objects_v2(Bucket="odd-keys")["Contents"]}
    assert {"a b/ü%2F.txt", "x//y", "plus+and=more", "big"} <= keys


def test_a_retrying_client_sees_nothing_of_a_killed_child(aws):
    keys = aws.account["try_credentials"]
    iam = boto3.client(
        "iam",
        region_name="us-east-1",
        endpoint_url=aws.url,
        verify=aws.handover["ca_file"],
        aws_access_key_id=keys["access_key_id"],
        aws_secret_access_key=keys["secret_access_key"],
        config=Config(retries={"mode": "standard", "total_max_attempts": 5}),
    )
    os.kill(aws.child(CHILD), signal.SIGKILL)
    assert iam.list_users()["Users"]
