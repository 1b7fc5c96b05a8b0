"""Taking over what the endpoint hands over."""

import io
import json
import stat
import threading
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from fleetops.audit.models import AuditEvent
from fleetops.inventory.models import Account, Region
from fleetops.inventory.services import write_profiles

pytestmark = pytest.mark.django_db

TOLD = {
    "endpoint_url": "https://127.0.0.1:8443",
    "stream_hosts": ["127.0.0.1:8443"],
    "accounts": [
        {
            "account_id": "111122223333",
            "name": "northwind-prod",
            "regions": ["eu-west-1", "eu-north-1"],
            "role_arn": "arn:aws:iam::111122223333:role/FleetOpsControlPlane",
            "external_id": "",
            "product_credentials": {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "hush-hush"},
        }
    ],
}


@pytest.fixture
def link(tmp_path, monkeypatch):
    """Calls the command on `told`; returns what it printed."""
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws" / "credentials"))

    def call(told=TOLD, **options):
        if told is not None:
            (tmp_path / "handover.json").write_text(json.dumps(told | {"ca_file": str(tmp_path / "ca.pem")}))
        out = io.StringIO()
        call_command("link_endpoint", handover=tmp_path / "handover.json", stdout=out, **options)
        return out.getvalue()

    return call


def test_it_makes_the_account_its_regions_and_its_profile(link, tmp_path):
    assert link() == "northwind-prod (111122223333): eu-north-1, eu-west-1\n"
    account = Account.objects.get()
    assert account.access().stream_hosts == ("127.0.0.1:8443",)
    assert account.profile == "fleetops-111122223333"
    credentials = tmp_path / "aws" / "credentials"
    assert "aws_secret_access_key = hush-hush" in credentials.read_text()
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    assert stat.S_IMODE(credentials.parent.stat().st_mode) == 0o700


def test_to_link_again_changes_and_records_nothing(link, tmp_path):
    link()
    credentials = tmp_path / "aws" / "credentials"
    before = credentials.stat()
    link()
    assert (credentials.stat().st_mtime_ns, credentials.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert AuditEvent.objects.filter(action="inventory.account.link").count() == 1


def test_what_changed_is_recorded_without_a_secret(link):
    link()
    link(TOLD | {"endpoint_url": "https://127.0.0.1:9443", "stream_hosts": ["127.0.0.1:9443"]})
    event = AuditEvent.objects.filter(action="inventory.account.link").first()
    assert event.details["changed"] == ["endpoint_url", "stream_hosts"]
    assert event.source == "command"
    assert not AuditEvent.objects.filter(details__icontains="hush").exists()
    assert Region.objects.count() == 2


def test_a_changed_account_is_read_at_once(link):
    link()
    Region.objects.update(started_at="2026-11-25T00:00:00Z")
    link(TOLD | {"stream_hosts": ["127.0.0.1:9443"]})
    assert not Region.objects.exclude(started_at=None).exists()


def test_it_waits_for_the_endpoint(link, tmp_path):
    text = json.dumps(TOLD | {"ca_file": str(tmp_path / "ca.pem")})
    timer = threading.Timer(0.3, (tmp_path / "handover.json").write_text, [text])
    timer.start()
    assert "northwind-prod" in link(None, wait=10)
    timer.join()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (None, "has not started"),
        ({"accounts": "hush-hush"}, "not a hand-over of the endpoint"),
        ({"accounts": [{}]}, "not a hand-over of the endpoint"),
        (TOLD | {"endpoint_url": "http://127.0.0.1:8443"}, "not https"),
    ],
)
def test_what_is_no_hand_over_is_told_and_changes_nothing(link, told, words):
    with pytest.raises(CommandError, match=words) as error:
        link(told)
    assert "hush" not in str(error.value)
    assert not Account.objects.exists()


def test_other_profiles_of_the_file_stay(tmp_path):
    file = tmp_path / "credentials"
    file.write_text(
        "# mine\n[default]\naws_access_key_id = A\n\n[fleetops-1]\naws_access_key_id = old\n\n[late]\nx = y\n"
    )
    assert write_profiles(file, {"fleetops-1": ("new", "secret")})
    assert file.read_text() == (
        "# mine\n[default]\naws_access_key_id = A\n\n[late]\nx = y\n\n"
        "[fleetops-1]\naws_access_key_id = new\naws_secret_access_key = secret\n"
    )
    assert not write_profiles(file, {"fleetops-1": ("new", "secret")})


def test_a_file_that_others_may_read_is_closed(tmp_path):
    file = tmp_path / "credentials"
    write_profiles(file, {"fleetops-1": ("new", "secret")})
    Path(file).chmod(0o644)
    write_profiles(file, {"fleetops-1": ("new", "secret")})
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
