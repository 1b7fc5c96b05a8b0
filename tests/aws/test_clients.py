"""Whose credentials, which endpoint and CA, and what a refusal says."""

import json
import re
import threading
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.aws import clients, sts
from fleetops.aws.errors import AccessDenied, AwsError, Unavailable

REGION = "eu-west-1"


def who(access, **identity):
    return sts.get_caller_identity(access, REGION, **({"session_name": "maria"} | identity))


def test_calls_are_made_under_the_role_in_the_persons_name(access):
    identity = who(access, source_identity="maria")
    assert identity.account_id == "111122223333"
    assert identity.arn.endswith(":assumed-role/FleetOpsControlPlane/maria")


def test_threads_share_one_client_and_people_do_not(access):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(clients.client("ssm", access, REGION, session_name="maria")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(client) for client in found}) == 1
    assert clients.client("ssm", access, REGION, session_name="jonas") is not found[0]
    assert clients.client("ssm", access, REGION, session_name="maria", source_identity="maria") is not found[0]


def test_the_kept_clients_have_a_bound(access, monkeypatch):
    monkeypatch.setattr(clients, "MOST_CLIENTS", 2)
    first = clients.client("sts", access, REGION, session_name="one")
    for name in ("two", "three"):
        clients.client("sts", access, REGION, session_name=name)
    assert clients.client("sts", access, REGION, session_name="one") is not first
    assert len(clients._clients) == 2
    assert len(clients._sessions) == 2


def test_replaced_credentials_are_read_without_a_restart(access, endpoint, monkeypatch, tmp_path):
    good = endpoint.account["product_credentials"]
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    text = "[fleetops-tests]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
    file.write_text(text.format(good["access_key_id"], "wrong" * 8))
    with pytest.raises(AccessDenied, match=r"does not accept the credentials.*check the access key"):
        who(access)
    file.write_text(text.format(good["access_key_id"], good["secret_access_key"]) + "\n")
    assert who(access).account_id == "111122223333"


@given(st.text(max_size=100), st.text(max_size=100))
def test_a_session_name_is_one_that_sts_takes_and_nobody_elses(one, other):
    assert re.fullmatch(r"[\w+=,.@-]{2,64}", clients.role_session_name(one), re.ASCII)
    if one != other:
        assert clients.role_session_name(one) != clients.role_session_name(other)


def test_the_ca_is_written_once_by_its_content(access, tmp_path):
    clients.client("sts", access, REGION, session_name="maria")
    clients.client("ssm", access, REGION, session_name="maria")
    (written,) = (tmp_path / "ca").iterdir()
    assert written.read_text() == access.ca_pem


def test_a_client_waits_and_retries_as_told(changed):
    access = changed(connect_timeout_seconds=2, read_timeout_seconds=7)
    config = clients.client("s3", access, REGION, session_name="maria", attempts=1).meta.config
    assert (config.connect_timeout, config.read_timeout) == (2, 7)
    assert config.retries == {"mode": "standard", "total_max_attempts": 1}
    assert (config.signature_version, config.s3["addressing_style"]) == ("s3v4", "path")
    assert config.inject_host_prefix is False
    assert "fleetops/" in config.user_agent_extra


def test_an_endpoint_of_the_environment_is_not_taken_for_aws(changed, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    client = clients.client("ssm", changed(endpoint_url=""), REGION, session_name="maria")
    assert client.meta.endpoint_url == "https://ssm.eu-west-1.amazonaws.com"


def test_a_role_that_does_not_take_a_source_identity_is_named(changed, endpoint):
    caller = endpoint.client("sts", user="fleetops").get_caller_identity()["Arn"]
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": caller}, "Action": "sts:AssumeRole"}],
    }
    name = f"bare-{uuid.uuid4().hex[:8]}"
    iam = endpoint.client("iam")
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    allow = {"Effect": "Allow", "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"], "Resource": arn}
    iam.put_user_policy(
        UserName="fleetops",
        PolicyName=name,
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allow]}),
    )
    with pytest.raises(AccessDenied, match="trust policy") as refused:
        who(changed(role_arn=arn), source_identity="maria")
    assert refused.value.permission == "sts:SetSourceIdentity"
    assert name in str(refused.value)
    assert who(changed(role_arn=arn)).account_id == "111122223333"  # without one it is assumed


def test_a_missing_profile_is_told(changed):
    with pytest.raises(AccessDenied, match="profile 'nobody'"):
        who(changed(profile="nobody"))


def test_an_address_where_nobody_listens_is_told(changed):
    with pytest.raises(Unavailable, match=r"https://127\.0\.0\.1:1 cannot be reached") as error:
        who(changed(endpoint_url="https://127.0.0.1:1"))
    assert not error.value.is_outcome_unknown


def test_a_ca_that_did_not_sign_the_endpoint_is_told(changed):
    other = Path("/etc/ssl/certs/ca-certificates.crt").read_text().split("-----END CERTIFICATE-----")[0]
    with pytest.raises(Unavailable, match="not signed by the account's CA"):
        who(changed(ca_pem=f"{other}-----END CERTIFICATE-----\n"))


def test_no_secret_shows_in_a_repr_or_an_error(changed, endpoint):
    access = changed(role_arn="arn:aws:iam::111122223333:role/Nobody")
    with pytest.raises(AwsError) as error:
        who(access, source_identity="maria")
    told = repr(access) + repr(error.value) + str(error.value)
    assert endpoint.account["product_credentials"]["secret_access_key"] not in told
    assert "BEGIN CERTIFICATE" not in told


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-01T08:00:00.000Z",
        "2026-11-01T08:00:00Z",
        "2026-11-01T08:00:00.123456Z",
        "2026-11-01T08:00:00.1Z",
        "2026-11-01T08:00:00+02:00",
        "Sun, 01 Nov 2026 08:00:00 GMT",
        1_795_000_000,
        1_795_000_000.25,
        "1795000000",
        "20261101T080000Z",
    ],
)
def test_timestamps_are_read_as_botocore_reads_them(value):
    read = clients.parse_timestamp(value)
    assert read == clients.botocore_parse_timestamp(value)
    assert read.utcoffset() is not None


def test_what_is_no_timestamp_is_botocores_error():
    with pytest.raises(ValueError, match="Invalid timestamp"):
        clients.parse_timestamp("2026-13-01T08:00:00Z")
