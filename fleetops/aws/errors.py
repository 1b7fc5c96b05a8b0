"""botocore's many errors as few of ours, told apart by what a caller can do, in words that a user can act on.

A text holds AWS's code and message. It never holds a token, a key, a signature or the body of an answer.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from fleetops.errors import UserError

# AWS's codes that mean: slower. botocore 1.44, botocore/retries/standard.py, ThrottledRetryableChecker.
THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RateExceeded",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
_UNAVAILABLE = frozenset(
    {"InternalError", "InternalFailure", "InternalServerError", "ServiceUnavailable", "Unavailable", "RequestTimeout"}
)
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError"})
# The credentials themselves are at fault, whatever they would have been allowed to do.
_BAD_CREDENTIALS = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "OptInRequired",
        "RegionDisabledException",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException"})
_CLOCK_CODES = frozenset({"RequestExpired", "RequestTimeTooSkewed"})
_CLOCK_WORDS = re.compile(r"Signature (?:not yet current|expired)", re.IGNORECASE)
# "User: arn:… is not authorized to perform: sts:SetSourceIdentity on resource: arn:…", in all of AWS's services.
_PERMISSION = re.compile(r"not authorized to perform:? ([\w-]+:\w+)(?: on resource:? (\S+))?")
_LONGEST_MESSAGE = 400  # characters of AWS's own words that a page, a row and a log line still carry well


class AwsError(UserError):
    """AWS refused, in a way that no narrower class names.

    code        AWS's code, or botocore's class of error where AWS was not reached
    message     AWS's words, cut to 400 characters
    operation   as IAM writes it: "ssm:StartSession"
    cause       what is wrong, where it is known: "clock", "credentials" (or a region that is off: AWS tells the two not
                apart), "no credentials", "permission", "certificate", "unreachable"; else empty
    """

    cause = ""

    def __init__(self, code: str, message: str, *, operation: str = "", text: str = "") -> None:
        self.code = code
        self.message = message
        self.operation = operation
        super().__init__(text or _sentence(f"AWS refused {operation or 'a call'}: {code}", message))


class Unavailable(AwsError):
    """Not now: AWS cannot be reached, is at fault, or asks for fewer calls. Trying later may work.

    is_outcome_unknown: the request may have reached AWS, and may have been carried out there.
    is_throttled: AWS asks for fewer calls.
    is_paced: we did not ask AWS, since others' calls came first.
    """

    is_outcome_unknown = False
    is_throttled = False
    is_paced = False


class AccessDenied(AwsError):
    """The credentials are not accepted, or may not do this; `permission` names what is missing, where AWS said it."""

    permission = ""


class TargetNotConnected(AwsError):
    """The instance's agent holds no connection to Session Manager."""


@contextmanager
def aws_call(operation: str, *, where: str = "") -> Iterator[None]:
    """Turn what botocore raises inside into an AwsError; `operation` as IAM writes it, `where` for the texts.

    Our errors pass unchanged: the AssumeRole below a call has told its own story by then.
    """
    try:
        yield
    except AwsError:
        raise
    except (boto.BotoCoreError, boto.ClientError, ResponseParserError) as error:
        # Without the cause: some of botocore's errors print the whole answer, and an answer may hold a token.
        raise from_botocore(error, operation, where=where) from None


def from_botocore(error: Exception, operation: str, *, where: str = "") -> AwsError:
    """The error of ours for one of botocore's."""
    if isinstance(error, boto.ClientError):
        return _from_answer(error.response, operation, where)
    return _from_transport(error, operation, where)


def _from_answer(response: dict[str, Any], operation: str, where: str) -> AwsError:
    about = response.get("Error", {})
    code = str(about.get("Code") or "Unknown")
    message = " ".join(str(about.get("Message") or "").split())[:_LONGEST_MESSAGE]
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    at = f" in {where}" if where else ""

    if code == "TargetNotConnected":
        return TargetNotConnected(
            code,
            message,
            operation=operation,
            text="The instance's agent is not connected to Session Manager (AWS: TargetNotConnected). "
            "Its page shows what is missing.",
        )
    if code in _BAD_CREDENTIALS:
        is_clock = code in _CLOCK_CODES or bool(_CLOCK_WORDS.search(message))
        mend = (
            "set this machine's clock right: a signature is good for a few minutes only"
            if is_clock
            else "check the access key of the account's profile in the AWS credentials file, and that the region is "
            "turned on in the account"
        )
        text = f"AWS does not accept the credentials for {operation}{at} ({code}); {mend}."
        if code in _EXPIRED:
            text = (
                f"The credentials for {operation}{at} have expired ({code}); renew those of the account's profile in "
                "the AWS credentials file, or what hands them out there."
            )
        # Without AWS's message: it may quote the canonical request, and that holds the session token.
        refused = AccessDenied(code, "", operation=operation, text=text)
        refused.cause = "clock" if is_clock else "credentials"
        return refused
    if code in _DENIED or status == 403:
        return _denied(code, message, operation, where)
    if code in THROTTLED:
        unavailable = Unavailable(
            code,
            message,
            operation=operation,
            text=f"AWS asks for fewer calls of {operation}{at} ({code}); it is tried again by itself.",
        )
        unavailable.is_throttled = True
        return unavailable
    if code in _UNAVAILABLE or status >= 500:
        unavailable = Unavailable(
            code,
            message,
            operation=operation,
            text=_sentence(f"AWS failed at {operation}{at} ({code})", message) + " Try again in a minute.",
        )
        unavailable.is_outcome_unknown = True
        return unavailable
    return AwsError(code, message, operation=operation, text=_sentence(f"AWS refused {operation}{at}: {code}", message))


def _denied(code: str, message: str, operation: str, where: str) -> AccessDenied:
    found = _PERMISSION.search(message)
    permission = found.group(1) if found else operation
    resource = (found.group(2) or "").rstrip(".,") if found else ""
    on = f" on {resource}" if resource else f" in {where}" if where else ""
    mend = (
        f"let the role's trust policy allow {permission} for the caller"
        if permission.startswith("sts:")
        else f"let the account's role allow {permission}"
    )
    error = AccessDenied(
        code, message, operation=operation, text=_sentence(f"AWS refused {permission}{on} ({code}); {mend}", message)
    )
    error.permission, error.cause = permission, "permission"
    return error


def _from_transport(error: Exception, operation: str, where: str) -> AwsError:
    name = type(error).__name__
    at = f" in {where}" if where else ""
    if isinstance(error, boto.ProfileNotFound | boto.NoCredentialsError | boto.PartialCredentialsError):
        profile = getattr(error, "kwargs", {}).get("profile", "")
        which = f"profile {profile!r} is" if profile else "credentials are"
        missing = AccessDenied(
            name,
            "",
            operation=operation,
            text=f"No {which} to be had for {operation}{at}; add them to the AWS credentials file.",
        )
        missing.cause = "no credentials"
        return missing
    if isinstance(error, boto.SSLError):
        text = (
            f"The certificate shown for {operation}{at} is not signed by the account's CA; "
            "check the account's CA and its endpoint address."
        )
        untrusted = Unavailable(name, "", operation=operation, text=text)
        untrusted.cause = "certificate"
        return untrusted
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError | boto.ProxyConnectionError):
        endpoint = getattr(error, "kwargs", {}).get("endpoint_url", "")
        host = re.sub(r"^(\w+://[^/?]+).*", r"\1", str(endpoint))
        unreachable = Unavailable(
            name,
            "",
            operation=operation,
            text=f"{host or 'AWS'} cannot be reached for {operation}{at} ({name}); "
            "check the network and the account's endpoint address.",
        )
        unreachable.cause = "unreachable"
        return unreachable
    if isinstance(error, boto.HTTPClientError | ResponseParserError):
        unavailable = Unavailable(
            name,
            "",
            operation=operation,
            text=f"No whole answer came to {operation}{at} ({name}); try again in a minute.",
        )
        unavailable.is_outcome_unknown = True
        return unavailable
    if isinstance(error, boto.ParamValidationError):
        return AwsError(name, str(error)[:_LONGEST_MESSAGE], operation=operation)
    return AwsError(name, "", operation=operation)


def _sentence(start: str, message: str) -> str:
    return f"{start}. AWS says: {message.rstrip('.')}." if message else f"{start}."
