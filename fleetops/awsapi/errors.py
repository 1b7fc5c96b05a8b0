"""AWS's errors as its services write them: a code, a sentence, a status, in the shape of each protocol."""

import re
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

import orjson

Answer = tuple[int, str, bytes]  # status, content type, body
# What XML 1.0 cannot hold at all.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class ApiError(Exception):
    """What a service answers instead of a result.

    `code` is AWS's name of the error, `fields` are further members of a modelled error shape.
    """

    def __init__(self, code: str, message: str, status: int = 400, **fields: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.fields = fields


# For each way in which a request fails to prove who sent it: the code and status by family of services. Seen in AWS's
# documentation of common errors of each service; ec2 tells nobody whether the key or the signature was wrong.
_IDENTITY_ERRORS: Mapping[str, Mapping[str, tuple[str, int]]] = {
    "missing": {
        "json": ("MissingAuthenticationTokenException", 400),
        "rest-json": ("MissingAuthenticationTokenException", 403),
        "query": ("MissingAuthenticationToken", 403),
        "ec2": ("AuthFailure", 401),
        "rest-xml": ("AccessDenied", 403),
        "channel": ("MissingAuthenticationTokenException", 403),
    },
    "incomplete": {
        "json": ("IncompleteSignatureException", 400),
        "rest-json": ("IncompleteSignatureException", 403),
        "query": ("IncompleteSignature", 400),
        "ec2": ("AuthFailure", 401),
        "rest-xml": ("AuthorizationHeaderMalformed", 400),
        "channel": ("IncompleteSignatureException", 403),
    },
    "unknown_key": {
        "json": ("UnrecognizedClientException", 400),
        "rest-json": ("UnrecognizedClientException", 403),
        "query": ("InvalidClientTokenId", 403),
        "ec2": ("AuthFailure", 401),
        "rest-xml": ("InvalidAccessKeyId", 403),
        "channel": ("UnrecognizedClientException", 403),
    },
    "signature": {
        "json": ("InvalidSignatureException", 400),
        "rest-json": ("InvalidSignatureException", 403),
        "query": ("SignatureDoesNotMatch", 403),
        "ec2": ("AuthFailure", 401),
        "rest-xml": ("SignatureDoesNotMatch", 403),
        "channel": ("InvalidSignatureException", 403),
    },
    "skew": {
        "json": ("InvalidSignatureException", 400),
        "rest-json": ("InvalidSignatureException", 403),
        "query": ("SignatureDoesNotMatch", 403),
        "ec2": ("RequestExpired", 400),
        "rest-xml": ("RequestTimeTooSkewed", 403),
        "channel": ("InvalidSignatureException", 403),
    },
    "url_expired": {
        "json": ("InvalidSignatureException", 400),
        "rest-json": ("InvalidSignatureException", 403),
        "query": ("SignatureDoesNotMatch", 403),
        "ec2": ("RequestExpired", 400),
        "rest-xml": ("AccessDenied", 403),
        "channel": ("InvalidSignatureException", 403),
    },
    "expired": {
        "json": ("ExpiredTokenException", 400),
        "rest-json": ("ExpiredTokenException", 403),
        "query": ("ExpiredToken", 403),
        "ec2": ("RequestExpired", 400),
        "rest-xml": ("ExpiredToken", 400),
        "channel": ("ExpiredTokenException", 403),
    },
    "denied": {
        "json": ("AccessDeniedException", 400),
        "rest-json": ("AccessDeniedException", 403),
        "query": ("AccessDenied", 403),
        "ec2": ("UnauthorizedOperation", 403),
        "rest-xml": ("AccessDenied", 403),
        "channel": ("AccessDeniedException", 403),
    },
}
_EC2_IDENTITY_MESSAGES = {
    "AuthFailure": "AWS was not able to validate the provided access credentials",
    "RequestExpired": "Request has expired.",
}
_S3_IDENTITY_MESSAGES = {
    "InvalidAccessKeyId": "The AWS Access Key Id you provided does not exist in our records.",
    "RequestTimeTooSkewed": "The difference between the request time and the current time is too large.",
    "ExpiredToken": "The provided token has expired.",
}


def identity_error(kind: str, protocol: str, message: str) -> ApiError:
    """The error for a request that fails to prove its sender, or whose sender may not do this.

    `kind` is a key of the table above; `protocol` is json, rest-json, query, ec2, rest-xml or channel (ssmmessages).
    """
    code, status = _IDENTITY_ERRORS[kind][protocol]
    if protocol == "ec2":
        message = _EC2_IDENTITY_MESSAGES.get(code, message)
    elif protocol == "rest-xml":
        message = _S3_IDENTITY_MESSAGES.get(code, message)
    return ApiError(code, message, status)


def not_implemented(operation: str) -> ApiError:
    """For an operation that AWS has and this endpoint does not offer; botocore does not retry a 501."""
    return ApiError("NotImplemented", f"This endpoint does not offer {operation}.", 501)


def render(error: ApiError, protocol: str, request_id: str) -> Answer:
    """Write `error` in the shape of `protocol`."""
    code, message = escape(error.code), escape(UNPRINTABLE.sub("", error.message))
    if protocol == "json":
        body = {"__type": error.code, "message": error.message, **error.fields}
        return error.status, "application/x-amz-json-1.1", orjson.dumps(body)
    if protocol == "rest-json":
        return error.status, "application/json", orjson.dumps({"message": error.message, **error.fields})
    if protocol == "ec2":
        xml = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            f"<RequestID>{request_id}</RequestID></Response>"
        )
    elif protocol == "rest-xml":
        xml = f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>{request_id}</RequestId></Error>"
    elif protocol == "channel":
        # The agent looks for the text <AccessDeniedException> in the body of a refused CreateControlChannel.
        xml = f"<{code}><Message>{message}</Message><RequestId>{request_id}</RequestId></{code}>"
    else:
        fault = "Receiver" if error.status >= 500 else "Sender"
        xml = (
            f"<ErrorResponse><Error><Type>{fault}</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        )
    return error.status, "text/xml;charset=UTF-8", f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}'.encode()
