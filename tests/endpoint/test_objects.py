"""S3's bodies are files of ours: moto's journal and snapshots stay small, and no kill loses or leaves one."""

import contextlib
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time

import boto3.s3.transfer
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.endpoint import old_state
from tests.support.endpoint import ROOT, running_endpoint, until

CHILD = "fleetops.endpoint.moto_process"
PLACE = {"CreateBucketConfiguration": {"LocationConstraint": "eu-west-1"}}
IN_PARTS = boto3.s3.transfer.TransferConfig(multipart_threshold=2**20, multipart_chunksize=5 * 2**20)


def bodies(aws) -> set[str]:
    """The digests under which bodies lie on the disk; each file is what its name says."""
    found = set()
    for path in (aws.home / "moto" / "bodies").glob("??/*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        found.add(path.name)
    return found


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def read(s3, bucket: str, key: str, **parameters) -> bytes:
    return s3.get_object(Bucket=bucket, Key=key, **parameters)["Body"].read()


@pytest.fixture(scope="module")
def s3(aws):
    made = aws.client("s3")
    made.create_bucket(Bucket="objects", **PLACE)
    return made


def test_ranges_versions_copies_and_deletes_are_as_of_an_object_in_one_piece(s3):
    s3.create_bucket(Bucket="versions", **PLACE)
    s3.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    first, second = os.urandom(700_000), os.urandom(10)
    one = s3.put_object(Bucket="versions", Key="k", Body=first, Metadata={"a": "b"})
    two = s3.put_object(Bucket="versions", Key="k", Body=second)
    assert one["ETag"] == f'"{hashlib.md5(first, usedforsecurity=False).hexdigest()}"'
    assert read(s3, "versions", "k") == second
    assert read(s3, "versions", "k", VersionId=one["VersionId"]) == first
    old = {"VersionId": one["VersionId"]}
    assert read(s3, "versions", "k", Range="bytes=262140-262150", **old) == first[262140:262151]
    assert read(s3, "versions", "k", Range="bytes=-5", **old) == first[-5:]
    ranged = s3.get_object(Bucket="versions", Key="k", Range="bytes=699990-", **old)
    assert (ranged["ContentRange"], ranged["ContentLength"]) == ("bytes 699990-699999/700000", 10)
    assert ranged["Body"].read() == first[-10:]
    with pytest.raises(ClientError, match="InvalidRange"):
        s3.get_object(Bucket="versions", Key="k", Range="bytes=700000-", **old)
    head = s3.head_object(Bucket="versions", Key="k", **old)
    assert (head["ContentLength"], head["ETag"], head["Metadata"]) == (700_000, one["ETag"], {"a": "b"})
    with pytest.raises(ClientError) as unchanged:
        s3.get_object(Bucket="versions", Key="k", IfNoneMatch=two["ETag"])
    assert unchanged.value.response["ResponseMetadata"]["HTTPStatusCode"] == 304
    source = {"Bucket": "versions", "Key": "k", "VersionId": one["VersionId"]}
    copied = s3.copy_object(Bucket="objects", Key="copy", CopySource=source)
    assert copied["CopyObjectResult"]["ETag"] == one["ETag"]
    s3.delete_object(Bucket="versions", Key="k", **old)
    assert read(s3, "objects", "copy") == first, "a copy does not go with what it was made from"
    s3.delete_objects(Bucket="versions", Delete={"Objects": [{"Key": "k"}]})
    with pytest.raises(ClientError, match="NoSuchKey"):
        read(s3, "versions", "k")
    assert read(s3, "versions", "k", VersionId=two["VersionId"]) == second
    s3.put_object(Bucket="objects", Key="empty", Body=b"")
    assert read(s3, "objects", "empty") == b""
    assert s3.head_object(Bucket="objects", Key="empty")["ETag"] == '"d41d8cd98f00b204e9800998ecf8427e"'


def test_an_upload_in_parts_has_awss_etag_and_copies_no_bytes(aws, s3):
    body = os.urandom(12 * 2**20)
    s3.upload_fileobj(io.BytesIO(body), "objects", "big", Config=IN_PARTS)
    sums = [
        hashlib.md5(body[at : at + 5 * 2**20], usedforsecurity=False).digest() for at in range(0, 12 * 2**20, 5 * 2**20)
    ]
    head = s3.head_object(Bucket="objects", Key="big")
    assert head["ETag"] == f'"{hashlib.md5(b"".join(sums), usedforsecurity=False).hexdigest()}-3"'
    assert read(s3, "objects", "big") == body
    assert read(s3, "objects", "big", Range="bytes=5242870-10485770") == body[5242870:10485771]
    assert s3.head_object(Bucket="objects", Key="big", PartNumber=2)["ContentLength"] == 5 * 2**20
    assert digest(body) not in bodies(aws), "the parts are the object"
    started = s3.create_multipart_upload(Bucket="objects", Key="again")
    upload = {"Bucket": "objects", "Key": "again", "UploadId": started["UploadId"]}
    wanted = {"CopySource": "objects/big", "CopySourceRange": "bytes=100-5242979"}
    part = s3.upload_part_copy(**upload, PartNumber=1, **wanted)["CopyPartResult"]["ETag"]
    unlisted = s3.upload_part(**upload, PartNumber=2, Body=b"not listed")["ETag"]
    last = s3.upload_part(**upload, PartNumber=3, Body=b"the end")["ETag"]
    assert [told["Size"] for told in s3.list_parts(**upload)["Parts"]] == [5 * 2**20, 10, 7]
    assert unlisted != last
    parts = [{"PartNumber": 1, "ETag": part}, {"PartNumber": 3, "ETag": last}]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert read(s3, "objects", "again") == body[100:5242980] + b"the end"
    started = s3.create_multipart_upload(Bucket="objects", Key="none")["UploadId"]
    s3.upload_part(Bucket="objects", Key="none", UploadId=started, PartNumber=1, Body=b"x")
    with pytest.raises(ClientError, match="InvalidPart"):
        wrong = {"Parts": [{"PartNumber": 1, "ETag": '"00000000000000000000000000000000"'}]}
        s3.complete_multipart_upload(Bucket="objects", Key="none", UploadId=started, MultipartUpload=wrong)
    s3.abort_multipart_upload(Bucket="objects", Key="none", UploadId=started)


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_checksums_come_back_as_they_were_given(s3, algorithm):
    put = s3.put_object(Bucket="objects", Key="sum", Body=b"summed" * 1000, ChecksumAlgorithm=algorithm)
    name = f"Checksum{algorithm}"
    got = s3.get_object(Bucket="objects", Key="sum", ChecksumMode="ENABLED")
    assert got["Body"].read() == b"summed" * 1000  # which boto3 has held against the sum
    assert got[name] == put[name]


def test_journal_and_snapshot_do_not_grow_with_bodies_and_events(tmp_path):
    with running_endpoint(tmp_path / "home", FLEETOPS_ENDPOINT_SNAPSHOT_CALLS="30") as aws:
        s3, logs, iam = aws.client("s3"), aws.client("logs"), aws.client("iam")
        s3.create_bucket(Bucket="sizes", **PLACE)
        logs.create_log_group(logGroupName="g")
        logs.create_log_stream(logGroupName="g", logStreamName="s")

        def state() -> int:
            return sum(
                path.stat().st_size for name in ("journal-*", "snapshot-*") for path in (aws.home / "moto").glob(name)
            )

        def follow_with_a_snapshot() -> None:
            for number in range(30):
                iam.tag_user(UserName="admin", Tags=[{"Key": "n", "Value": str(number)}])

        follow_with_a_snapshot()
        before, largest = state(), 0
        for number in range(40):
            s3.put_object(Bucket="sizes", Key=f"k{number}", Body=os.urandom(2**20))
            event = {"timestamp": int(time.time() * 1000), "message": os.urandom(250_000).hex()}
            logs.put_log_events(logGroupName="g", logStreamName="s", logEvents=[event])
            largest = max(largest, state())
        s3.upload_fileobj(io.BytesIO(os.urandom(11 * 2**20)), "sizes", "big", Config=IN_PARTS)
        follow_with_a_snapshot()
        # 51 MB of bodies and 20 MB of events, and what stays of them is their names.
        assert largest - before < 150_000
        assert state() - before < 150_000
        assert len(bodies(aws)) == 43


def test_bodies_that_nothing_names_are_gone_after_a_start_and_no_others(tmp_path):
    with running_endpoint(tmp_path / "home") as aws:
        s3 = aws.client("s3")
        s3.create_bucket(Bucket="waste", **PLACE)
        kept, twice = os.urandom(1000), os.urandom(2000)
        s3.put_object(Bucket="waste", Key="kept", Body=kept)
        for key in ("one", "two", "gone"):
            s3.put_object(Bucket="waste", Key=key, Body=twice if key != "gone" else os.urandom(3000))
        s3.delete_objects(Bucket="waste", Delete={"Objects": [{"Key": "one"}, {"Key": "gone"}]})
        s3.put_object(Bucket="waste", Key="kept", Body=os.urandom(10))
        s3.put_object(Bucket="waste", Key="kept", Body=kept)
        with pytest.raises(ClientError, match="NoSuchBucket"):
            s3.put_object(Bucket="absent", Key="k", Body=b"refused")
        aws.kill()
        # What a kill in the middle of a request leaves: received and not adopted, and adopted and not journalled.
        (aws.home / "moto" / "bodies" / "incoming" / "half").write_bytes(b"ha")
        stray = aws.home / "moto" / "bodies" / digest(b"stray")[:2]
        stray.mkdir(exist_ok=True)
        (stray / digest(b"stray")).write_bytes(b"stray")
        aws.start_again()
        assert not list((aws.home / "moto" / "bodies" / "incoming").iterdir())
        # The journal still names all that its calls brought: they would be needed to run it again.
        assert {digest(kept), digest(twice)} <= bodies(aws)
        assert digest(b"stray") not in bodies(aws)
        iam = aws.client("iam")
        for number in range(400):  # a snapshot follows, and the journal names nothing any more
            iam.tag_user(UserName="admin", Tags=[{"Key": "n", "Value": str(number)}])
        aws.kill()
        aws.start_again()
        assert bodies(aws) == {digest(kept), digest(twice)}
        s3 = aws.client("s3")
        assert (read(s3, "waste", "kept"), read(s3, "waste", "two")) == (kept, twice)


def test_state_from_before_is_taken_over_once_and_stays_readable(tmp_path):
    home = tmp_path / "home"
    now = int(time.time()) - 60
    subprocess.run([sys.executable, "-m", "tests.endpoint.old_state", str(home), str(now)], cwd=ROOT, check=True)
    assert (home / "moto" / "version").read_text().endswith("journal-2")
    held = sum(path.stat().st_size for path in (home / "moto").glob("journal-*"))
    assert held > len(old_state.LATER), "the old journal has the bytes within"
    with running_endpoint(home, FLEETOPS_ENDPOINT_CHECK_ANSWERS="fail") as aws:
        for _ in range(2):
            s3, logs = aws.client("s3"), aws.client("logs")
            assert read(s3, "old", "snapshot") == old_state.BODY
            assert s3.head_object(Bucket="old", Key="snapshot")["Metadata"] == {"kind": "s"}
            assert read(s3, "old", "journal") == old_state.LATER
            assert read(s3, "old", "parts") == b"".join(old_state.PARTS)
            assert s3.head_object(Bucket="old", Key="parts")["ETag"].endswith('-2"')
            with pytest.raises(ClientError, match="NoSuchKey"):
                read(s3, "old", "deleted")
            events = logs.get_log_events(logGroupName="old", logStreamName="s", startFromHead=True)["events"]
            assert [event["message"] for event in events] == [f"line {n}" for n in range(900)]
            assert events[0]["timestamp"] == now * 1000
            assert (home / "moto" / "version").read_text().endswith("journal-3")
            assert digest(old_state.BODY) in bodies(aws)
            assert digest(b"no more") not in bodies(aws)
            aws.kill()
            aws.start_again()
        event = {"timestamp": int(time.time() * 1000), "message": "new"}
        aws.client("logs").put_log_events(logGroupName="old", logStreamName="s", logEvents=[event])
        assert (
            aws.client("logs").get_log_events(logGroupName="old", logStreamName="s", limit=1)["events"][0]["message"]
            == "new"
        )


class Storm:
    """Writers that note what was answered."""

    def __init__(self, seed: int) -> None:
        self.lock = threading.Lock()
        self.kept: dict[str, str] = {}  # key → digest
        self.open: set[str] = set()  # keys whose last call was not answered
        self.logged: dict[str, list[str]] = {"w0": [], "w1": []}
        self.stopped = threading.Event()
        self.chance = random.Random(seed)

    def write(self, aws, worker: int) -> None:
        chance = random.Random(worker)
        number = 0
        while not self.stopped.is_set():
            number += 1
            key, stream = f"{worker}/{chance.randrange(40)}", f"w{worker}"
            body = chance.randbytes(chance.choice([0, 10, 5_000, 300_000]))
            with self.lock:
                self.open.add(key)
            try:
                s3, logs = aws.client("s3"), aws.client("logs")
                is_deleted = chance.random() < 0.2
                if is_deleted:
                    s3.delete_object(Bucket="storm", Key=key)
                else:
                    s3.put_object(Bucket="storm", Key=key, Body=body)
                with self.lock:
                    self.open.discard(key)
                    self.kept[key] = "" if is_deleted else digest(body)
                message = f"{worker}-{number}"
                event = {"timestamp": int(time.time() * 1000), "message": message}
                logs.put_log_events(logGroupName="storm", logStreamName=stream, logEvents=[event])
                self.logged[stream].append(message)
            except (BotoCoreError, ClientError):
                time.sleep(0.05)  # the endpoint is away; not a wait for anything


def test_a_storm_of_kills_loses_nothing_that_was_answered_and_leaves_nothing(tmp_path):
    seed = int(os.environ.get("FLEETOPS_TEST_SEED", "20261125"))
    print(f"seed {seed}")
    storm = Storm(seed)
    with running_endpoint(tmp_path / "home", FLEETOPS_ENDPOINT_SNAPSHOT_CALLS="25") as aws:
        aws.client("s3").create_bucket(Bucket="storm", **PLACE)
        logs = aws.client("logs")
        logs.create_log_group(logGroupName="storm")
        for stream in storm.logged:
            logs.create_log_stream(logGroupName="storm", logStreamName=stream)
        workers = [threading.Thread(target=storm.write, args=(aws, number)) for number in range(2)]
        for worker in workers:
            worker.start()
        for round_ in range(5):
            reached = sum(map(len, storm.logged.values())) + storm.chance.randrange(15, 40)
            until(lambda reached=reached: sum(map(len, storm.logged.values())) >= reached, seconds=30)
            if round_ % 2:
                aws.kill()
                aws.start_again()
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(until(lambda: aws.child(CHILD)), signal.SIGKILL)
        storm.stopped.set()
        for worker in workers:
            worker.join()
        aws.kill()
        aws.start_again()
        s3, logs = aws.client("s3"), aws.client("logs")
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket="storm")
        found = {
            item["Key"]: digest(read(s3, "storm", item["Key"])) for page in pages for item in page.get("Contents", [])
        }
        for key, wanted in storm.kept.items():
            if key not in storm.open:
                assert found.get(key, "") == wanted, key
        for stream, answered in storm.logged.items():
            events = logs.get_log_events(logGroupName="storm", logStreamName=stream, startFromHead=True)["events"]
            messages = [event["message"] for event in events]
            assert len(messages) == len(set(messages))
            assert [message for message in messages if message in set(answered)] == answered
        for number in range(30):
            aws.client("iam").tag_user(UserName="admin", Tags=[{"Key": "n", "Value": str(number)}])
        aws.kill()
        aws.start_again()
        named = set(found.values()) - {digest(b"")}
        assert bodies(aws) == named
        assert "bodies of S3 objects are missing" not in aws.log.read_text()
