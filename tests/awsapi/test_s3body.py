"""S3's bodies and the digests that come with them."""

import hashlib
import zlib
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.awsapi.errors import ApiError
from fleetops.awsapi.s3body import check_digests, read_chunked

BODY = b"some bytes"
DIGESTS = {
    "content-md5": hashlib.md5(BODY).digest(),
    "x-amz-checksum-crc32": zlib.crc32(BODY).to_bytes(4, "big"),
    "x-amz-checksum-sha1": hashlib.sha1(BODY).digest(),
    "x-amz-checksum-sha256": hashlib.sha256(BODY).digest(),
}


def chunked(data: bytes, size: int, trailer: bytes = b"") -> bytes:
    pieces = [data[n : n + size] for n in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailer + b"\r\n"


@pytest.mark.parametrize("name", DIGESTS)
def test_a_digest_that_is_right_passes_and_one_that_is_not_is_told(name):
    headers = [(name, b64encode(DIGESTS[name]).decode())]
    check_digests(headers, BODY)
    check_digests([("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"), *headers], chunked(BODY, 3))
    with pytest.raises(ApiError, match="BadDigest"):
        check_digests(headers, BODY + b"!")


def test_a_trailing_checksum_counts():
    streaming = [("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")]
    for data, is_right in ((BODY, True), (BODY + b"!", False)):
        body = chunked(data, 4, b"x-amz-checksum-crc32:" + b64encode(DIGESTS["x-amz-checksum-crc32"]) + b"\r\n")
        if is_right:
            check_digests(streaming, body)
        else:
            with pytest.raises(ApiError, match="BadDigest"):
                check_digests(streaming, body)


def test_a_digest_that_is_none_is_told():
    with pytest.raises(ApiError, match="InvalidDigest"):
        check_digests([("content-md5", "!!")], BODY)


@given(st.binary(max_size=64), st.integers(1, 20))
def test_chunks_give_the_data_back(data, size):
    assert read_chunked(chunked(data, size))[0] == data


@given(st.binary(max_size=64))
def test_no_other_body_does_anything_but_be_refused(body):
    try:
        read_chunked(body)
    except ApiError as error:
        assert error.code == "IncompleteBody"
