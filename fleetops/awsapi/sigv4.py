"""AWS Signature Version 4 as a server checks it: over what SignedHeaders names, never over a list of our own.

Three forms are read: the Authorization header, a presigned URL, and the hybrid node's RSA form, whose header says
AWS4-HMAC-SHA256 while its signature is RSA-PSS in base64.
"""

import hashlib
import hmac
import posixpath
import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, unquote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
# How far a request's date may be from ours: AWS names 5 minutes in its answers ("... - 5 min.").
LARGEST_SKEW = timedelta(minutes=5)
SENT_FORMAT = "%Y%m%dT%H%M%SZ"  # of X-Amz-Date
_LONGEST_PRESIGNED_SECONDS = 7 * 24 * 3600
_RSA_SALT_BYTES = 32
# The signature is hex digits, or base64 for RSA, which holds / + and =.
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=(?P<credential>[^,\s]+)\s*,\s*SignedHeaders=(?P<headers>[^,\s]+)\s*,"
    r"\s*Signature=(?P<signature>[A-Za-z0-9+/=]+)\s*"
)
_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)


class SignatureError(Exception):
    """The request does not prove its sender. `kind`: a key of errors.py's table."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request as it came: path and query as sent (still percent-encoded), header names in lower case."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first value of a header, by its lower-case name."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Claim:
    """Who the request says it is from, and how it says it was signed."""

    access_key_id: str
    date: str  # YYYYMMDD, of the scope
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    sent: str  # X-Amz-Date, YYYYMMDDTHHMMSSZ
    token: str | None
    expires_seconds: int | None = None  # of a presigned URL; None for a header

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def read_claim(request: Request) -> Claim | None:
    """Read who signed a request; None if nobody did.

    Raises SignatureError (incomplete) if it is signed in a form that cannot be read.
    """
    header = request.header("authorization")
    if header is not None:
        match = _AUTHORIZATION.fullmatch(header.strip())
        if match is None:
            raise SignatureError(
                "incomplete",
                "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters and the "
                f"algorithm {ALGORITHM}.",
            )
        sent = request.header("x-amz-date") or _amz_date(request.header("date"))
        if sent is None:
            raise SignatureError(
                "incomplete", "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
            )
        return _claim(
            match["credential"],
            match["headers"],
            match["signature"],
            sent,
            request.header("x-amz-security-token"),
            None,
        )
    if "X-Amz-Signature=" not in request.query:
        return None
    fields = dict(parse_qsl(request.query, keep_blank_values=True))
    try:
        expires = int(fields["X-Amz-Expires"])
        claim = _claim(
            fields["X-Amz-Credential"],
            fields["X-Amz-SignedHeaders"],
            fields["X-Amz-Signature"],
            fields["X-Amz-Date"],
            fields.get("X-Amz-Security-Token"),
            expires,
        )
    except (KeyError, ValueError):
        raise SignatureError("incomplete", "The presigned URL lacks a parameter of its signature.") from None
    if fields.get("X-Amz-Algorithm") != ALGORITHM or not 1 <= expires <= _LONGEST_PRESIGNED_SECONDS:
        raise SignatureError("incomplete", f"A presigned URL needs {ALGORITHM} and lives 1 to 604800 seconds.")
    return claim


def _claim(credential: str, headers: str, signature: str, sent: str, token: str | None, expires: int | None) -> Claim:
    parts = credential.split("/")
    if len(parts) != 5 or parts[4] != "aws4_request" or not all(parts):
        raise SignatureError(
            "incomplete",
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, "
            f"got '{credential[:200]}'.",
        )
    key, date, region, service, _ = parts
    return Claim(key, date, region, service, tuple(headers.split(";")), signature, sent, token, expires)


def _amz_date(http_date: str | None) -> str | None:
    if http_date is None:
        return None
    try:
        moment = datetime.strptime(http_date, "%a, %d %b %Y %H:%M:%S GMT")
    except ValueError:
        return None
    return f"{moment:%Y%m%dT%H%M%SZ}"


def canonical_request(request: Request, claim: Claim) -> str:
    """The text whose digest is signed: method, path, query, the headers named as signed, their list, payload."""
    headers = "".join(f"{name}:{_canonical_values(request, name)}\n" for name in claim.signed_headers)
    return "\n".join(
        (
            request.method,
            _canonical_path(request.path, claim.service),
            _canonical_query(request.query),
            headers,
            ";".join(claim.signed_headers),
            payload_hash(request, claim),
        )
    )


def string_to_sign(request: Request, claim: Claim) -> str:
    digest = hashlib.sha256(canonical_request(request, claim).encode()).hexdigest()
    return f"{ALGORITHM}\n{claim.sent}\n{claim.scope}\n{digest}"


def signing_key(secret: str, claim: Claim) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (claim.date, claim.region, claim.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _canonical_values(request: Request, name: str) -> str:
    values = [" ".join(value.split()) for key, value in request.headers if key == name]
    if not values:
        raise SignatureError("signature", f"The header '{name}' is named as signed and was not sent.")
    return ",".join(values)


def _canonical_path(path: str, service: str) -> str:
    if service in {"s3", "s3-object-lambda"}:
        return path or "/"  # S3 alone neither normalises nor encodes a second time
    normal = posixpath.normpath(path) if path else "/"
    normal = "/" + normal.lstrip("/")
    if path.endswith("/") and normal != "/":
        normal += "/"
    return quote(normal, safe="/-_.~")


def _canonical_query(query: str) -> str:
    pairs = []
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if key and key != "X-Amz-Signature":
            pairs.append((quote(unquote(key), safe="-_.~"), quote(unquote(value), safe="-_.~")))
    return "&".join(f"{key}={value}" for key, value in sorted(pairs))


def payload_hash(request: Request, claim: Claim) -> str:
    """The payload's part of the canonical request: its digest, or what S3 allows in its place.

    Raises SignatureError if a signed X-Amz-Content-Sha256 is not the digest of the body.
    """
    declared = request.header("x-amz-content-sha256")
    if claim.service == "s3" and claim.expires_seconds is not None and declared is None:
        return UNSIGNED_PAYLOAD
    actual = hashlib.sha256(request.body).hexdigest()
    if declared is None or "x-amz-content-sha256" not in claim.signed_headers:
        return actual
    if claim.service == "s3" and (declared == UNSIGNED_PAYLOAD or declared.startswith("STREAMING-")):
        return declared
    if not hmac.compare_digest(declared, actual):
        raise SignatureError(
            "signature", "The provided 'x-amz-content-sha256' header does not match what was computed."
        )
    return declared


def check_time(claim: Claim, now: datetime) -> None:
    """Refuse a date too far from `now` (aware), an expired URL, a scope that names another day.

    Raises SignatureError, in AWS's words.
    """
    try:
        sent = datetime.strptime(claim.sent, SENT_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise SignatureError(
            "incomplete", f"Date must be in ISO-8601 'basic format'. Got '{claim.sent[:40]}'."
        ) from None
    if claim.sent[:8] != claim.date:
        raise SignatureError(
            "signature",
            f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date: {claim.sent}.",
        )
    latest = sent + (timedelta(seconds=claim.expires_seconds) if claim.expires_seconds is not None else LARGEST_SKEW)
    if now > latest and claim.expires_seconds is not None:
        raise SignatureError("url_expired", "Request has expired")
    if now > latest:
        edge = now - LARGEST_SKEW
        raise SignatureError(
            "skew",
            f"Signature expired: {claim.sent} is now earlier than {edge:%Y%m%dT%H%M%SZ} "
            f"({now:%Y%m%dT%H%M%SZ} - 5 min.)",
        )
    if sent - now > LARGEST_SKEW:
        edge = now + LARGEST_SKEW
        raise SignatureError(
            "skew",
            f"Signature not yet current: {claim.sent} is still later than {edge:%Y%m%dT%H%M%SZ} "
            f"({now:%Y%m%dT%H%M%SZ} + 5 min.)",
        )


def check_signature(request: Request, claim: Claim, secret: str) -> None:
    """Verify the HMAC of a request, and of each chunk of an S3 body that is signed in chunks.

    Raises SignatureError (signature) if anything that was signed differs.
    """
    _check_what_is_signed(request, claim)
    key = signing_key(secret, claim)
    expected = hmac.digest(key, string_to_sign(request, claim).encode(), "sha256").hex()
    if not hmac.compare_digest(expected, claim.signature):
        raise SignatureError("signature", _MISMATCH)
    if (request.header("x-amz-content-sha256") or "").startswith("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"):
        _check_chunks(request.body, claim, key)


def check_rsa_signature(request: Request, claim: Claim, public_key: str) -> None:
    """Verify a hybrid node's own signature: RSA-PSS, SHA-256, salt of 32 bytes, over the ordinary string to sign.

    `public_key` is base64 of the DER SubjectPublicKeyInfo that RegisterManagedInstance brought.
    Source: amazon-ssm-agent, agent/ssm/rsaauth; the vector role-token-signed-with-instance-key.
    Raises SignatureError (signature) if it does not match.
    """
    _check_what_is_signed(request, claim)
    try:
        key = serialization.load_der_public_key(b64decode(public_key))
        if not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("not an RSA key")
        key.verify(
            b64decode(claim.signature, validate=True),
            string_to_sign(request, claim).encode(),
            padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=_RSA_SALT_BYTES),
            hashes.SHA256(),
        )
    except (InvalidSignature, ValueError):
        raise SignatureError("signature", _MISMATCH) from None


def _check_what_is_signed(request: Request, claim: Claim) -> None:
    # Without the host a request could be replayed elsewhere; without the target its operation could be exchanged.
    if "host" not in claim.signed_headers:
        raise SignatureError("signature", "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
    if request.header("x-amz-target") is not None and "x-amz-target" not in claim.signed_headers:
        raise SignatureError("signature", "'X-Amz-Target' must be a 'SignedHeader' in the AWS Authorization.")


_CHUNK = re.compile(rb"(?P<size>[0-9a-fA-F]{1,8});chunk-signature=(?P<signature>[0-9a-f]{64})\r\n")


def _check_chunks(body: bytes, claim: Claim, key: bytes) -> None:
    """Verify aws-chunked: each chunk's signature covers the one before it, so none can be moved, dropped or changed."""
    empty = hashlib.sha256(b"").hexdigest()
    previous, at = claim.signature, 0
    while True:
        match = _CHUNK.match(body, at)
        if match is None:
            raise SignatureError("signature", "The body is not signed in chunks as its header says.")
        size = int(match["size"], 16)
        data = body[match.end() : match.end() + size]
        text = "\n".join(
            (
                "AWS4-HMAC-SHA256-PAYLOAD",
                claim.sent,
                claim.scope,
                previous,
                empty,
                hashlib.sha256(data).hexdigest(),
            )
        )
        expected = hmac.digest(key, text.encode(), "sha256").hex()
        if len(data) != size or not hmac.compare_digest(expected, match["signature"].decode()):
            raise SignatureError("signature", _MISMATCH)
        previous, at = expected, match.end() + size + 2
        if size == 0:
            return
