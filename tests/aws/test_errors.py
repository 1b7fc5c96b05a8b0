"""botocore's errors in few of our words."""

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from botocore.parsers import ResponseParserError

from fleetops.aws.errors import AccessDenied, AwsError, TargetNotConnected, Unavailable, aws_call


def refused(code: str, message: str = "", status: int = 400) -> ClientError:
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "StartSession")


def raised(error: Exception) -> AwsError:
    with pytest.raises(AwsError) as caught, aws_call("ssm:StartSession", where="1111 eu-west-1"):
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (refused("TargetNotConnected", "i-1 is not connected."), TargetNotConnected, "TargetNotConnected"),
        (refused("ThrottlingException", "Rate exceeded"), Unavailable, "fewer calls of ssm:StartSession"),
        (refused("InternalServerError", status=500), Unavailable, "Try again"),
        (refused("Unheard", status=503), Unavailable, "Unheard"),
        (refused("UnrecognizedClientException", "invalid", 403), AccessDenied, "does not accept the credentials"),
        (refused("ExpiredTokenException", "expired", 403), AccessDenied, "have expired (ExpiredTokenException); renew"),
        (refused("RequestTimeTooSkewed", "skewed", 403), AccessDenied, "clock"),
        (refused("InvalidDocument", "no such document"), AwsError, "InvalidDocument. AWS says: no such document."),
    ],
)
def test_an_answer_becomes_what_a_caller_can_act_on(error, kind, words):
    told = raised(error)
    assert type(told) is kind
    assert words in str(told)
    assert told.operation == "ssm:StartSession"


def test_a_denial_names_the_permission_and_the_resource():
    message = (
        "User: arn:aws:sts::1:assumed-role/R/maria is not authorized to perform: ssm:StartSession on resource: arn:x"
    )
    told = raised(refused("AccessDeniedException", f"{message} because no identity-based policy allows it", 400))
    assert told.permission == "ssm:StartSession"
    assert "ssm:StartSession on arn:x" in str(told)
    assert "let the account's role allow" in str(told)


def test_an_answer_that_never_came_may_have_been_carried_out():
    told = raised(ReadTimeoutError(endpoint_url="https://example.test/secret?token=hush"))
    assert isinstance(told, Unavailable)
    assert told.is_outcome_unknown
    assert "hush" not in str(told)


def test_a_throttled_call_was_not_carried_out():
    told = raised(refused("ThrottlingException"))
    assert told.is_throttled
    assert not told.is_outcome_unknown


def test_a_broken_answer_is_not_quoted():
    told = raised(ResponseParserError('Unable to parse response, body: {"TokenValue": "hush"'))
    assert told.is_outcome_unknown
    assert "hush" not in str(told) + repr(told)
    assert told.__cause__ is None


def test_the_canonical_request_that_aws_quotes_is_left_out():
    told = raised(
        refused("SignatureDoesNotMatch", "The Canonical String should have been x-amz-security-token:hush", 403)
    )
    assert "hush" not in str(told) + told.message


def test_an_error_of_ours_passes_as_it_is():
    first = AwsError("Mine", "as told")
    assert raised(first) is first
