"""Recordings in S3: as the store of their pieces, and copied when they are finished."""

import gzip
import hashlib
import json

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.env import Bucket
from sessions_app import recording, upkeep
from sessions_app import spool as spools
from sessions_app.delivery import copies, logs, services
from sessions_app.delivery import numbers as numbers_of
from sessions_app.delivery.models import RecordingCopy
from sessions_app.store import BucketStore, recording_store

from .reading import lines, read

pytestmark = pytest.mark.django_db

BUCKET = "fleetops-recordings"
PUT = {"service": "s3", "operation": "PutObject"}


@pytest.fixture(scope="module")
def s3(endpoint):
    client = endpoint.client("s3")
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return client


@pytest.fixture
def copied(account, s3):
    """The account copies finished recordings into the bucket."""
    services.change(account, {"bucket": BUCKET, "prefix": "/sessions/"}, actor="tests")
    return account


@pytest.fixture
def in_bucket(settings, account, s3):
    """This installation keeps the pieces of recordings in the bucket."""
    settings.RECORDING_BUCKET = Bucket(BUCKET, "pieces", "eu-west-1", account.account_id, "")


def row_of(made) -> RecordingCopy:
    return RecordingCopy.objects.get(pk=made.session.pk)


def get(s3, key: str) -> bytes:
    return s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()


def test_a_finished_recording_is_copied_with_what_proves_it(s3, copied, recorded):
    made = recorded().show(b"one\r\n").seal().show(b"two\r\n")
    assert not copies.due(now()).exists(), "it is not finished"
    made.end()
    assert not copies.due(now()).exists(), "the store does not have it yet"
    upkeep.ship_chunks()
    assert copies.copy_due() == 1 and copies.copy_due() == 0
    row = row_of(made)
    session = made.session
    day = session.created_at.strftime("%Y/%m/%d")
    assert row.key == f"sessions/{copied.account_id}/{session.region}/{day}/{session.pk}.cast.gz"
    body = get(s3, row.key)
    assert (hashlib.sha256(body).hexdigest(), len(body)) == (row.sha256, row.size)
    session.refresh_from_db()
    chunks = list(session.chunks.order_by("number"))
    assert gzip.decompress(body) == b"".join(recording.cast(session, chunks))
    manifest = json.loads(get(s3, row.key.replace(".cast.gz", ".manifest.json")))
    assert manifest["cast"]["sha256"] == row.sha256 and manifest["session"]["user"] == session.user_name
    head = str(session.pk)
    for each in manifest["chain"]["chunks"]:
        names = ("number", "first_offset", "last_offset", "first_time_us", "last_time_us", "output_bytes", "sha256")
        head = hashlib.sha256("\n".join([head, *(str(each[name]) for name in names)]).encode()).hexdigest()
        assert head == each["link"]
    assert head == manifest["chain"]["head"] == session.chain_head
    event = AuditEvent.objects.get(action="sessions.recording.copy")
    assert event.details["key"] == row.key and event.details["chain_head"] == head


def test_a_copy_whose_answer_was_lost_is_made_again_with_the_same_bytes(s3, copied, recorded, faults):
    made = recorded().show(b"one\r\n").end()
    upkeep.ship_chunks()
    with faults.on("drop", match=PUT, when="after"):
        copies.copy(made.session.pk)
    row = row_of(made)
    assert row.done_at is None and "No whole answer" in row.error and row.next_at > now()
    before = get(s3, row.key)
    RecordingCopy.objects.update(next_at=now())
    assert copies.copy_due() == 1
    assert get(s3, row.key) == before and row_of(made).done_at is not None


def test_a_bucket_that_does_not_take_it_is_named_with_what_is_missing(copied, recorded, faults):
    made = recorded().show(b"one\r\n").end()
    upkeep.ship_chunks()
    with faults.on("error", match=PUT, code="AccessDenied", status=403):
        copies.copy_due()
    row = row_of(made)
    assert "s3:PutObject" in row.error and row.waiting_since is not None
    assert [(where, count) for where, count, _ in numbers_of.standing()] == [("logs", 0), ("s3", 1)]


def test_a_recording_that_is_not_what_was_sealed_is_not_copied(copied, recorded):
    made = recorded().show(b"one\r\n").end()
    upkeep.ship_chunks()
    path = recording_store().path(made.session.chunks.get().sha256)
    path.write_bytes(path.read_bytes() + b"x")
    copies.copy_due()
    assert "not what was sealed" in row_of(made).error


def test_a_key_of_kms_encrypts_the_copy(endpoint, s3, copied, recorded):
    key = endpoint.client("kms").create_key()["KeyMetadata"]["Arn"]
    services.change(copied, {"bucket_kms_key": key}, actor="tests")
    made = recorded().show(b"one\r\n").end()
    upkeep.ship_chunks()
    copies.copy_due()
    about = s3.head_object(Bucket=BUCKET, Key=row_of(made).key)
    assert (about["ServerSideEncryption"], about["SSEKMSKeyId"]) == ("aws:kms", key)


def test_pieces_in_a_bucket_are_played_searched_verified_and_delivered_from_there(
    endpoint, s3, account, in_bucket, recorded
):
    made = recorded().show(b"one\r\n").seal().show(b"two\r\n").end()
    assert isinstance(recording_store(), BucketStore)
    assert upkeep.ship_chunks() == 2
    spools.remove(made.session.pk)
    session = made.session
    session.refresh_from_db()
    chunks = list(session.chunks.order_by("number"))
    name = chunks[0].sha256
    assert hashlib.sha256(get(s3, f"pieces/{name[:2]}/{name[2:4]}/{name}.zst")).hexdigest() == name
    assert recording.verify(session).is_whole
    assert recording.search(chunks, "TWO")[0][0]["text"] == "two"
    logs.deliver(session.pk)
    assert lines(read(endpoint, made.row)) == ["one", "two"]


def test_a_bucket_fails_as_a_disk_does(s3, account, in_bucket, recorded, faults):
    made = recorded().show(b"one\r\n").end()
    with faults.on("error", match=PUT, code="SlowDown", status=503):
        assert upkeep.ship_chunks() == 0
    assert made.session.chunks.get().sent_at is None, "it stays in the spool"
    with pytest.raises(FileNotFoundError):
        recording_store().open("0" * 64)
    assert upkeep.ship_chunks() == 1
    spools.remove(made.session.pk)
    s3.delete_object(Bucket=BUCKET, Key=recording_store().key(made.session.chunks.get().sha256))
    assert recording.verify(made.session).faults == ["the bytes of chunk 1 are missing"]


def test_a_session_that_never_was_a_shell_has_nothing_to_copy(copied, recorded):
    made = recorded().end()
    made.session.chunks.all().delete()
    assert copies.copy_due() == 1
    assert row_of(made).done_at is not None and row_of(made).size == 0
