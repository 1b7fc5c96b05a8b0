"""The status of an instance and the reason for it."""

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetops.clock import now
from fleetops.inventory.models import Instance
from fleetops.inventory.readiness import WORDS, Status, readiness_of, status_of, status_words
from tests.factories import make_instance

MOMENT = now()
PROFILE = "arn:aws:iam::111122223333:instance-profile/ssm-core"


def facts(**changes) -> Instance:
    """An EC2 instance that is well."""
    well = {
        "instance_id": "i-0c41d88e5f7a2b309",
        "ec2_state": "running",
        "profile_arn": PROFILE,
        "launched_at": MOMENT - timedelta(days=3),
        "ec2_read_at": MOMENT,
        "ping_status": "Online",
        "last_ping_at": MOMENT - timedelta(seconds=20),
        "agent_version": "3.3.2299.0",
        "platform_type": "Linux",
        "ssm_read_at": MOMENT,
    }
    return Instance(**(well | changes))


SILENT = {"ping_status": "", "last_ping_at": None, "agent_version": "", "ssm_read_at": None}


@pytest.mark.parametrize(
    ("changes", "status", "cause"),
    [
        ({}, Status.ONLINE, ""),
        ({"ping_status": "ConnectionLost"}, Status.LOST, "Agent answers no more"),
        ({"ping_status": ""}, Status.LOST, "Agent answers no more"),
        ({"ec2_state": "stopped", "ping_status": ""}, Status.STOPPED, "Instance is stopped"),
        ({"ec2_state": "stopping"}, Status.STOPPED, "Instance is stopping"),
        ({"ec2_state": "pending"} | SILENT, Status.STARTING, "Instance is starting"),
        ({"profile_arn": ""} | SILENT, Status.NO_PROFILE, "No instance profile is attached"),
        ({"profile_arn": "", "ping_status": "ConnectionLost"}, Status.NO_PROFILE, "No instance profile is attached"),
        (SILENT, Status.NEVER, "SSM Agent has never reported"),
        ({"gone_at": MOMENT}, Status.GONE, "Instance is gone"),
    ],
)
def test_an_instance_has_one_cause_and_a_way_out(changes, status, cause):
    ready = readiness_of(facts(**changes), now=MOMENT)
    assert ready.status is status
    assert [check.text for check in ready.checks if check.state == "cause"] == ([cause] if cause else [])
    assert ready.reason
    assert bool(ready.mend) == (status is not Status.ONLINE)
    assert ready.can_connect == (status is Status.ONLINE)


def test_a_hybrid_node_needs_no_profile():
    hybrid = {"instance_id": "mi-0ec48ba4d2459b6b2", "ec2_state": "", "profile_arn": "", "ec2_read_at": None}
    assert readiness_of(facts(**hybrid), now=MOMENT).can_connect
    lost = readiness_of(facts(**hybrid, ping_status="ConnectionLost"), now=MOMENT)
    assert lost.word == "Connection lost"
    assert lost.checks[0].text == "Node is registered by an activation"
    assert status_of(facts(**hybrid | SILENT)) is Status.NEVER


def test_an_online_instance_without_a_profile_is_told_to_live_on_borrowed_time():
    ready = readiness_of(facts(profile_arn=""), now=MOMENT)
    assert ready.can_connect
    assert [check.text for check in ready.checks if check.state == "warn"] == ["No instance profile is attached"]


def test_online_that_was_read_long_ago_shows_its_age():
    old = MOMENT - timedelta(minutes=14)
    assert status_words(facts(ec2_read_at=old, ssm_read_at=old), now=MOMENT) == ("warn", "Online 14 min ago")
    assert status_words(facts(), now=MOMENT) == ("ok", "Online")


def test_a_windows_agent_is_called_by_its_services_name():
    lost = readiness_of(facts(platform_type="Windows", ping_status="ConnectionLost"), now=MOMENT)
    assert "AmazonSSMAgent" in lost.mend


moments = st.sampled_from([None, MOMENT])


@pytest.mark.django_db
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    ec2_state=st.sampled_from(["", "pending", "running", "stopping", "stopped", "shutting-down", "terminated"]),
    ping_status=st.sampled_from(["", "Online", "ConnectionLost", "Inactive"]),
    profile_arn=st.sampled_from(["", PROFILE]),
    last_ping_at=moments,
    gone_at=moments,
    instance_id=st.sampled_from(["i-0000000000000000a", "mi-000000000000000a"]),
)
def test_the_database_and_the_decider_tell_the_same_status(**fields):
    Instance.objects.all().delete()
    row = make_instance(**fields)
    (told,) = [status for status, count in Instance.objects.counts().items() if count]
    assert told is status_of(row)
    assert told in WORDS
    assert Instance.objects.needing_a_fix().exists() == (told in {Status.NO_PROFILE, Status.LOST, Status.NEVER})
