"""A whole refresh at an AWS that allows few calls: it is slowed down, comes to its end, and holds no person up."""

import threading

import pytest
import redis

from fleetops.aws import governor, ssm
from fleetops.aws.governor import Priority, acting_for
from fleetops.clock import now
from fleetops.inventory import services
from fleetops.inventory.models import Instance, Region
from tests.support.endpoint import until
from tests.support.faults import Faults
from tests.support.valkey import running_valkey

REGION = "eu-west-1"
READS = {"operation": "Describe*"}


@pytest.fixture
def paced(tmp_path):
    """Calls are paced, by a Valkey of this test's own."""
    with running_valkey(tmp_path / "governor") as socket:
        governor.configure(f"unix://{socket}?db=3")
        yield redis.Redis(unix_socket_path=str(socket), db=3)
        governor.configure("")


@pytest.fixture
def small_pages(monkeypatch):
    """Twelve nodes are three pages."""
    monkeypatch.setattr(ssm, "PAGE", 5)


@pytest.fixture
def faults(endpoint):
    rules = Faults(endpoint.handover)
    yield rules
    rules.delete()


def used(account) -> dict[str, governor.MinuteUse]:
    """By operation, all its minutes as one."""
    names = [name for name in governor.MinuteUse.__slots__ if name != "at"]
    return {
        use.operation: governor.MinuteUse(
            now(), **{name: sum(getattr(minute, name) for minute in use.minutes) for name in names}
        )
        for use in governor.use([account.account_id])
    }


def refresh() -> services.Outcome:
    Region.objects.update(started_at=None)
    (region_id,) = services.claim_due_regions(now=now())
    with acting_for(Priority.POLL):
        return services.refresh_region(region_id, now=now())


@pytest.mark.django_db(transaction=True)
def test_a_person_waits_for_nothing_while_the_fleet_is_read_at_five_calls_a_second(
    linked, endpoint, faults, paced, small_pages
):
    faults.put("reads", "throttle", match=READS, rate=5)
    stop, failures = threading.Event(), []

    def read_again_and_again():
        while not stop.is_set():
            outcome = refresh()
            failures.append(outcome.error)

    reader = threading.Thread(target=read_again_and_again)
    reader.start()
    try:
        until(lambda: _waits(linked), seconds=60, what="the refresh waits for its next call")
        access = linked.access()
        for number in range(3):
            _waits_or_is_between(linked)
            started = ssm.start_session(
                access,
                REGION,
                target=endpoint.instance_id("pay-api-eu1a-01"),
                reason="a person's",
                session_name="maria",
                source_identity="maria",
            )
            ssm.terminate_session(
                access, REGION, session_id=started.session_id, session_name="maria", source_identity="maria"
            )
            # The very operation for which the refresh waits; its two fifths are for this.
            ssm.instances(access, REGION, [endpoint.instance_id("pay-api-eu1a-01")], session_name="maria")
            before = used(linked)["ssm:DescribeInstanceInformation"].poll
            until(
                lambda before=before: used(linked)["ssm:DescribeInstanceInformation"].poll > before + 3,
                seconds=60,
                what=f"the refresh goes on after shell {number}",
            )
    finally:
        stop.set()
        reader.join(60)
    told = used(linked)
    assert (told["ssm:StartSession"].person, told["ssm:StartSession"].waited) == (3, 0)
    assert (told["sts:AssumeRole"].waited, told["ssm:TerminateSession"].waited) == (0, 0)
    reads = told["ssm:DescribeInstanceInformation"]
    assert reads.person >= 3
    assert (reads.person_waited, reads.poll_waited > 5) == (0, True)
    assert set(failures) == {""}
    assert Instance.objects.present().count() >= 12


def _waits(account) -> bool:
    return any(each.waiting[Priority.POLL] for each in governor.use([account.account_id]))


def _waits_or_is_between(account) -> None:
    until(lambda: _waits(account), seconds=60, what="the refresh waits for its next call")


def test_a_refresh_that_is_refused_as_too_much_goes_on_from_that_page(linked, faults, small_pages):
    faults.put("reads", "throttle", match={"operation": "DescribeInstanceInformation"}, rate=0.01, burst=1)
    outcome = refresh()
    assert (outcome.error, outcome.read) == ("", 5)
    region = Region.objects.get()
    assert (region.error, region.reading["step"], region.claimed_until) == ("", "ssm", None)
    assert region.reading["token"]
    assert services.due_at(region) <= now()
    refused = refresh()  # not one page: that is told
    assert "asks for fewer calls" in refused.error
    faults.delete()
    assert refresh().error == ""
    assert Instance.objects.present().filter(ping_status="Online").count() == 12


def test_a_refresh_that_others_leave_no_call_goes_on_from_that_page(linked, paced, small_pages, monkeypatch):
    monkeypatch.setitem(governor.BOUND_SECONDS, Priority.POLL, 0.2)
    governor.set_ceiling(linked.account_id, REGION, "ssm:DescribeInstanceInformation", 0.1)
    outcome = refresh()
    assert (outcome.error, outcome.read) == ("", 5)  # of three tokens one and a fifth is left for others
    token = Region.objects.get().reading["token"]
    assert token
    assert refresh().read == 0
    assert (Region.objects.get().reading["token"], Region.objects.get().error) == (token, "")
    governor.set_ceiling(linked.account_id, REGION, "ssm:DescribeInstanceInformation", None)
    monkeypatch.undo()
    assert refresh().error == ""
    assert Region.objects.get().reading == {}
    assert Instance.objects.present().filter(ping_status="Online").count() == 12
