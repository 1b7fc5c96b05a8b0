"""Signatures, against what the real agent and plugin signed and what botocore signs."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from fleetops.awsapi import sigv4

VECTORS = json.loads((Path(__file__).parent / "vectors" / "signed-requests.json").read_text())
SIGNED = [capture for capture in VECTORS["captures"] if "signature_kind" in capture]
KEYS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")


def captured(capture) -> sigv4.Request:
    request = capture["request"]
    path, _, query = request["path"].partition("?")
    headers = [(name.lower(), value) for name, value in request["headers"]]
    return sigv4.Request(request["method"], path, query, headers, request["body"].encode())


def check(request: sigv4.Request, claim: sigv4.Claim, kind: str) -> None:
    if "RSA" in kind:
        sigv4.check_rsa_signature(request, claim, VECTORS["instance_public_key_der_base64"])
    else:
        sigv4.check_signature(request, claim, VECTORS["secret_access_key"])


def signed_by_botocore(auth, method="POST", url="https://gw.test:8443/", data=b"{}", headers=None) -> sigv4.Request:
    request = AWSRequest(method=method, url=url, data=data, headers=headers or {})
    auth.add_auth(request)
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    sent = [
        (name.lower(), value if isinstance(value, str) else value.decode()) for name, value in prepared.headers.items()
    ]
    if not any(name == "host" for name, _ in sent):
        sent.append(("host", parts.netloc))
    return sigv4.Request(method, parts.path, parts.query, sent, data or b"")


def test_the_vectors_hold_signed_and_unsigned_requests_of_both_programs():
    assert len(SIGNED) >= 6
    assert {"RSA-PSS-SHA256 salt 32, base64", "HMAC-SHA256 (SigV4), hex"} <= {item["signature_kind"] for item in SIGNED}


@pytest.mark.parametrize("capture", VECTORS["captures"], ids=lambda capture: capture["name"])
def test_what_the_real_programs_sent_is_read_and_verified(capture):
    request = captured(capture)
    claim = sigv4.read_claim(request)
    if "signature_kind" not in capture or capture.get("string_to_sign") is None:
        assert claim is None
        return
    assert sigv4.canonical_request(request, claim) == capture["canonical_request"]
    assert sigv4.string_to_sign(request, claim) == capture["string_to_sign"]
    check(request, claim, capture["signature_kind"])


@pytest.mark.parametrize("capture", SIGNED, ids=lambda capture: capture["name"])
def test_a_changed_body_path_or_signed_header_is_refused(capture):
    request = captured(capture)
    claim = sigv4.read_claim(request)
    changed = [
        sigv4.Request(request.method, request.path, request.query, request.headers, request.body + b" "),
        sigv4.Request(request.method, request.path + "x", request.query, request.headers, request.body),
        sigv4.Request(request.method, request.path, request.query + "&a=b", request.headers, request.body),
        *(
            sigv4.Request(
                request.method,
                request.path,
                request.query,
                [(name, value + "1" if name == signed else value) for name, value in request.headers],
                request.body,
            )
            for signed in claim.signed_headers
        ),
    ]
    for other in changed:
        with pytest.raises(sigv4.SignatureError) as caught:
            check(other, claim, capture["signature_kind"])
        assert caught.value.kind == "signature"


@pytest.mark.parametrize("capture", SIGNED, ids=lambda capture: capture["name"])
def test_headers_that_are_not_named_as_signed_may_change(capture):
    request = captured(capture)
    claim = sigv4.read_claim(request)
    more = [(name, value) for name, value in request.headers if name != "user-agent"] + [("x-forwarded-for", "1.2.3.4")]
    other = sigv4.Request(request.method, request.path, request.query, more, request.body)
    check(other, claim, capture["signature_kind"])


@given(
    path=st.text(st.characters(codec="ascii", categories=("L", "N")) | st.sampled_from("-_. ~+/%$'()*"), max_size=30),
    service=st.sampled_from(["ssm", "s3"]),
)
def test_botocores_own_signatures_verify_for_any_path(path, service):
    from urllib.parse import quote

    auth = S3SigV4Auth if service == "s3" else SigV4Auth
    url = "https://gw.test:8443/" + quote(path, safe="/~").lstrip("/")
    request = signed_by_botocore(auth(KEYS, service, "eu-west-1"), url=url)
    claim = sigv4.read_claim(request)
    sigv4.check_signature(request, claim, KEYS.secret_key)


def test_botocores_query_string_is_signed():
    request = signed_by_botocore(
        SigV4Auth(KEYS, "securityhub", "eu-west-1"),
        method="GET",
        url="https://gw.test/tags/a%3Ab?b=2&a=1%2F3&c",
        data=None,
    )
    sigv4.check_signature(request, sigv4.read_claim(request), KEYS.secret_key)


def test_a_presigned_url_verifies_and_a_changed_one_does_not():
    request = signed_by_botocore(
        S3SigV4QueryAuth(KEYS, "s3", "eu-west-1", expires=60), method="GET", url="https://gw.test/b/k%20x", data=None
    )
    claim = sigv4.read_claim(request)
    assert claim.expires_seconds == 60
    sigv4.check_signature(request, claim, KEYS.secret_key)
    other = sigv4.Request("GET", "/b/other", request.query, request.headers)
    with pytest.raises(sigv4.SignatureError):
        sigv4.check_signature(other, claim, KEYS.secret_key)


def test_a_presigned_url_of_another_service_signs_its_body():
    request = signed_by_botocore(
        SigV4QueryAuth(KEYS, "sts", "eu-west-1", expires=60),
        method="GET",
        url="https://gw.test/?Action=GetCallerIdentity",
        data=None,
    )
    sigv4.check_signature(request, sigv4.read_claim(request), KEYS.secret_key)


def test_a_body_signed_in_chunks_is_verified_chunk_by_chunk():
    request, claim, body = chunked_upload([b"a" * 70_000, b"second", b""])
    sigv4.check_signature(request(body), claim, KEYS.secret_key)
    for broken in (body.replace(b"second", b"Second"), body[:-90], b""):
        with pytest.raises(sigv4.SignatureError):
            sigv4.check_signature(request(broken), claim, KEYS.secret_key)


def chunked_upload(chunks):
    import hashlib
    import hmac

    now = "20261125T010203Z"
    headers = [
        ("host", "gw.test"),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ("x-amz-date", now),
    ]
    claim = sigv4.Claim(
        "AKIDEXAMPLE", "20261125", "eu-west-1", "s3", ("host", "x-amz-content-sha256", "x-amz-date"), "", now, None
    )

    def request(body):
        return sigv4.Request("PUT", "/b/k", "", headers, body)

    key = sigv4.signing_key(KEYS.secret_key, claim)
    seed = hmac.digest(key, sigv4.string_to_sign(request(b""), claim).encode(), "sha256").hex()
    previous, body = seed, b""
    for chunk in chunks:
        text = f"AWS4-HMAC-SHA256-PAYLOAD\n{now}\n{claim.scope}\n{previous}\n{hashlib.sha256(b'').hexdigest()}\n"
        previous = hmac.digest(key, (text + hashlib.sha256(chunk).hexdigest()).encode(), "sha256").hex()
        body += b"%x;chunk-signature=%s\r\n" % (len(chunk), previous.encode()) + chunk + b"\r\n"
    signed = sigv4.Claim(**{name: getattr(claim, name) for name in claim.__slots__} | {"signature": seed})
    return request, signed, body


@pytest.mark.parametrize(
    ("offset", "kind"),
    [
        (timedelta(minutes=4, seconds=59), None),
        (-timedelta(minutes=4, seconds=59), None),
        (timedelta(minutes=5, seconds=1), "skew"),
        (-timedelta(minutes=5, seconds=1), "skew"),
    ],
)
def test_a_date_more_than_five_minutes_away_is_refused_in_awss_words(offset, kind):
    sent = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
    claim = sigv4.Claim("A", "20261125", "r", "ssm", ("host",), "0", "20261125T120000Z", None)
    if kind is None:
        sigv4.check_time(claim, sent + offset)
        return
    with pytest.raises(sigv4.SignatureError) as caught:
        sigv4.check_time(claim, sent + offset)
    assert caught.value.kind == kind
    assert "5 min.)" in caught.value.message


def test_the_scope_must_name_the_day_of_the_request():
    claim = sigv4.Claim("A", "20261124", "r", "ssm", ("host",), "0", "20261125T120000Z", None)
    with pytest.raises(sigv4.SignatureError):
        sigv4.check_time(claim, datetime(2026, 11, 25, 12, tzinfo=UTC))


@pytest.mark.parametrize("missing", ["host", "x-amz-target"])
def test_host_and_target_must_be_signed(missing):
    names = tuple(name for name in ("host", "x-amz-date", "x-amz-target") if name != missing)
    request = sigv4.Request(
        "POST", "/", "", [("host", "h"), ("x-amz-date", "20261125T120000Z"), ("x-amz-target", "A.B")]
    )
    claim = sigv4.Claim("A", "20261125", "r", "ssm", names, "00", "20261125T120000Z", None)
    with pytest.raises(sigv4.SignatureError) as caught:
        sigv4.check_signature(request, claim, "secret")
    assert "SignedHeader" in caught.value.message


@given(st.text(max_size=200))
def test_no_authorization_header_does_more_than_be_refused(text):
    request = sigv4.Request("POST", "/", "", [("authorization", text), ("x-amz-date", "20261125T120000Z")])
    with pytest.raises(sigv4.SignatureError) as caught:
        sigv4.read_claim(request)
    assert caught.value.kind == "incomplete"
