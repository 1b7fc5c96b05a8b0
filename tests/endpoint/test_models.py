"""Requests that moto answers are held against botocore's models first, in AWS's words; these clients check nothing."""

import pytest
from botocore.exceptions import ClientError


def refused(call, **parameters) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def test_a_value_that_breaks_the_model_is_refused_with_the_services_own_code(aws):
    logs = aws.client("logs")
    code, message = refused(logs.create_log_group, logGroupName="no blanks")
    assert code == "InvalidParameterException"
    assert "Value 'no blanks' at 'logGroupName' failed to satisfy constraint" in message
    code, message = refused(aws.client("kms").create_key, KeyUsage="OPEN_DOORS")
    assert code == "ValidationException"
    assert "enum value set" in message


def test_a_value_of_another_kind_is_refused(aws):
    assert refused(aws.client("kms").describe_key, KeyId=["a", "list"])[0] == "SerializationException"


def test_the_limit_of_bytes_is_that_of_the_bytes_and_not_of_their_base64(aws):
    kms = aws.client("kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    sealed = kms.encrypt(KeyId=key, Plaintext=b"x" * 4096)["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"x" * 4096
    code, message = refused(kms.encrypt, KeyId=key, Plaintext=b"x" * 4097)
    assert code == "ValidationException"
    assert "less than or equal to 4096" in message
