"""Reading regions: claims, the join of EC2 with SSM, what is gone, what fails."""

import json
import threading
import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleetops.audit.models import AuditEvent
from fleetops.aws.records import Ec2Instance, ManagedInstance, Page
from fleetops.clock import now
from fleetops.inventory import services
from fleetops.inventory.models import Instance, InstanceTag, Region
from fleetops.inventory.readiness import Status, status_of
from fleetops.notify.models import Notice
from tests.factories import make_instance, make_region
from tests.support.endpoint import until

pytestmark = pytest.mark.django_db
MOMENT = now()


def read():
    """Claim all regions and read them; returns the outcome of the last."""
    moment = now()
    Region.objects.update(started_at=None)
    outcome = None
    for region_id in services.claim_due_regions(now=moment):
        outcome = services.refresh_region(region_id, now=moment)
    return outcome


@pytest.fixture
def region(db):
    return make_region()


@pytest.fixture
def aws(monkeypatch):
    """Makes AWS tell what is given: for numbers of rows that no demo fleet has, and for faults."""

    def tell(machines=(), nodes=(), *, page=500):
        calls = []
        for module, told in ((services.ec2, machines), (services.ssm, nodes)):

            def pages(access, region, *, session_name, token="", told=told, module=module):
                calls.append((module.__name__.rpartition(".")[2], token))
                for start in range(int(token or 0), len(told) or 1, page):
                    rest = start + page < len(told) or isinstance(told, Failing)
                    yield Page(told[start : start + page], str(start + page) if rest else "")
                if isinstance(told, Failing):
                    raise told.error

            monkeypatch.setattr(module, "instance_pages", pages)
        return calls

    return tell


class Failing(list):
    """Some records, and then an error."""

    def __init__(self, records, error):
        super().__init__(records)
        self.error = error


def machine(number: int, **facts) -> Ec2Instance:
    well = {"state": "running", "profile_arn": "arn:x/ssm-core", "tags": {"Name": f"node-{number}", "env": "prod"}}
    return Ec2Instance(instance_id=f"i-{number:017x}", **(well | facts))


def node(number: int, **facts) -> ManagedInstance:
    well = {"resource_type": "EC2Instance", "ping_status": "Online", "last_ping_at": MOMENT, "agent_version": "3.3"}
    return ManagedInstance(instance_id=f"i-{number:017x}", **(well | facts))


# --- claims ---


def test_a_region_is_due_when_its_interval_is_over(region, settings):
    settings.INVENTORY_SECONDS = 20
    assert services.claim_due_regions(now=MOMENT) == [region.pk]
    Region.objects.update(claimed_until=None, refreshed_at=MOMENT + timedelta(seconds=1))
    assert services.claim_due_regions(now=MOMENT + timedelta(seconds=19)) == []
    assert services.claim_due_regions(now=MOMENT + timedelta(seconds=20)) == [region.pk]


def test_a_region_that_takes_long_is_read_less_often(region, settings):
    settings.INVENTORY_SECONDS = 20
    Region.objects.update(started_at=MOMENT, refreshed_at=MOMENT + timedelta(seconds=30))
    assert services.due_at(Region.objects.get()) == MOMENT + timedelta(seconds=90)


def test_a_claimed_region_is_nobody_elses_until_the_claim_ends(region):
    assert services.claim_due_regions(now=MOMENT) == [region.pk]
    later = MOMENT + timedelta(seconds=60)
    assert services.claim_due_regions(now=later) == []
    assert services.claim_regions_now(now=later) == []
    assert services.claim_due_regions(now=MOMENT + services.CLAIM) == [region.pk]


@pytest.mark.django_db(transaction=True)
def test_of_two_that_claim_at_once_one_gets_the_region():
    make_region()
    barrier, claimed = threading.Barrier(4), []

    def claim():
        try:
            barrier.wait(10)
            claimed.extend(services.claim_due_regions(now=MOMENT))
        finally:
            connection.close()

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 1


def test_a_region_that_is_off_is_not_read(region):
    Region.objects.update(enabled=False)
    assert services.claim_due_regions(now=MOMENT) == []
    assert services.claim_regions_now(now=MOMENT) == []


def test_a_person_may_ask_again_after_five_seconds(region):
    Region.objects.update(started_at=MOMENT)
    assert services.claim_regions_now(now=MOMENT + timedelta(seconds=4)) == []
    assert services.claim_regions_now(now=MOMENT + timedelta(seconds=5)) == [region.pk]


def test_who_holds_no_claim_reads_nothing(region, aws):
    aws([machine(1)])
    assert services.refresh_region(region.pk, now=MOMENT) is None
    assert not Instance.objects.exists()


# --- reading the real endpoint ---


def test_the_demo_fleet_is_read_and_joined(linked):
    outcome = read()
    assert (outcome.gone, outcome.error) == (0, "")
    rows = {row.name: row for row in Instance.objects.all()}
    assert len(rows) == 14
    ledger = rows["pg-ledger-eu1a-1"]
    assert (ledger.ec2_state, ledger.ping_status, ledger.profile_name) == ("running", "Online", "ssm-core")
    assert (ledger.short_platform, ledger.zone, ledger.tags["cluster"]) == ("Debian 12", "eu-west-1a", "pg-ledger")
    assert ledger.ec2_read_at == ledger.ssm_read_at == ledger.changed_at
    assert {tag.key: tag.value for tag in ledger.tag_rows.all()} == ledger.tags
    assert status_of(rows["pg-report-eu1a-1"]) is Status.STOPPED
    assert status_of(rows["kafka-events-eu1c-3"]) is Status.NO_PROFILE
    hybrid = rows["lagos-pos-gw-011"]
    assert (hybrid.is_hybrid, hybrid.ec2_read_at, hybrid.tags["cluster"]) == (True, None, "lagos-pos")
    region = Region.objects.get()
    assert (region.error, region.claimed_until) == ("", None)
    assert region.refreshed_at is not None


def test_a_second_reading_changes_only_ages(linked):
    read()
    before = {row.pk: row for row in Instance.objects.all()}
    outcome = read()
    assert outcome.changed == 0
    for row in Instance.objects.all():
        assert row.changed_at == before[row.pk].changed_at
        assert (row.ec2_read_at or row.ssm_read_at) > (before[row.pk].ec2_read_at or before[row.pk].ssm_read_at)


def test_a_stopped_a_retagged_and_a_terminated_instance_are_seen(linked, endpoint):
    ec2 = endpoint.client("ec2")
    image = ec2.describe_instances()["Reservations"][0]["Instances"][0]["ImageId"]
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    read()
    row = Instance.objects.get(instance_id=made)
    assert status_of(row) is Status.NO_PROFILE
    assert str(row) == made

    ec2.create_tags(Resources=[made], Tags=[{"Key": "Name", "Value": "scratch"}, {"Key": "env", "Value": "dev"}])
    ec2.stop_instances(InstanceIds=[made])
    read()
    row.refresh_from_db()
    assert (row.name, status_of(row)) == ("scratch", Status.STOPPED)
    assert list(Instance.objects.filter(tag_rows__key="env", tag_rows__value="dev", name="scratch")) == [row]

    ec2.terminate_instances(InstanceIds=[made])
    assert read().gone == 1
    row.refresh_from_db()
    assert row.gone_at is not None
    assert row not in Instance.objects.present()


def test_a_node_that_loses_its_profile_is_lost_and_comes_back(linked, endpoint):
    ec2, wanted = endpoint.client("ec2"), endpoint.instance_id("pay-api-dev-01")
    filters = [{"Name": "instance-id", "Values": [wanted]}]
    (association,) = ec2.describe_iam_instance_profile_associations(Filters=filters)["IamInstanceProfileAssociations"]
    ec2.disassociate_iam_instance_profile(AssociationId=association["AssociationId"])

    def status():
        read()
        return status_of(Instance.objects.get(instance_id=wanted))

    try:
        until(lambda: status() is Status.NO_PROFILE, seconds=20)
    finally:
        ec2.associate_iam_instance_profile(
            IamInstanceProfile={"Arn": association["IamInstanceProfile"]["Arn"]}, InstanceId=wanted
        )
    until(lambda: status() is Status.ONLINE, seconds=20)


def test_an_account_that_may_only_list_instances_still_shows_them(linked, endpoint):
    """SSM is denied: EC2's facts are taken, the reason is told, and nothing is marked as gone."""
    read()
    caller = endpoint.client("sts", user="fleetops").get_caller_identity()["Arn"]
    name, iam = f"half-{uuid.uuid4().hex[:8]}", endpoint.client("iam")
    trust = {"Effect": "Allow", "Principal": {"AWS": caller}, "Action": ["sts:AssumeRole", "sts:TagSession"]}
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))["Role"]["Arn"]
    iam.put_role_policy(
        RoleName=name,
        PolicyName="ec2",
        PolicyDocument=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Action": "ec2:DescribeInstances", "Resource": "*"}],
            }
        ),
    )
    iam.put_user_policy(
        UserName="fleetops",
        PolicyName=name,
        PolicyDocument=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": arn}],
            }
        ),
    )
    linked.role_arn = arn
    linked.save()
    before = {row.pk: row.ssm_read_at for row in Instance.objects.exclude(ssm_read_at=None)}
    outcome = read()
    assert "ssm:DescribeInstanceInformation" in outcome.error
    assert not Instance.objects.exclude(gone_at=None).exists()
    assert {row.pk: row.ssm_read_at for row in Instance.objects.exclude(ssm_read_at=None)} == before
    assert Instance.objects.filter(ping_status="Online").count() == 12
    assert Region.objects.get().error == outcome.error


def test_a_first_failure_is_recorded_and_the_next_ones_are_not(linked):
    read()
    linked.endpoint_url = "https://127.0.0.1:1"
    linked.save()
    read()
    read()
    (event,) = AuditEvent.objects.filter(action="inventory.region.refresh.fail")
    assert "cannot be reached" in event.reason
    assert (event.actor_name, event.account_id, event.region) == ("worker", "111122223333", "eu-west-1")
    region = Region.objects.get()
    assert "cannot be reached" in region.error
    assert region.error.count("cannot be reached") <= 2
    assert region.claimed_until is None
    assert Instance.objects.present().count() == 14


def test_people_are_told_of_a_region_that_fails_twice_in_a_row_and_of_its_end(linked, endpoint):
    read()
    linked.endpoint_url = "https://127.0.0.1:1"
    linked.save()
    read()
    assert not Notice.objects.exists()
    read()
    read()
    notice = Notice.objects.get()
    assert (notice.topic, notice.repeats, notice.closed_at) == ("inventory.region", 1, None)
    assert (notice.account_id, notice.region) == ("111122223333", "eu-west-1")
    assert "cannot be reached" in notice.text
    linked.endpoint_url = endpoint.url
    linked.save()
    read()
    assert Notice.objects.get().closed_at


def test_a_region_that_works_again_forgets_its_error(linked, endpoint):
    linked.endpoint_url = "https://127.0.0.1:1"
    linked.save()
    read()
    linked.endpoint_url = endpoint.url
    linked.save()
    read()
    assert Region.objects.get().error == ""


# --- numbers and faults that no demo fleet has ---


def test_a_page_of_500_takes_a_bounded_number_of_queries(region, aws):
    machines, nodes = [machine(n) for n in range(500)], [node(n) for n in range(500)]
    aws(machines, nodes)
    with CaptureQueriesContext(connection) as first:
        read()
    with CaptureQueriesContext(connection) as second:
        read()
    assert Instance.objects.count() == 500
    assert InstanceTag.objects.count() == 1000
    # Django gives SQLite 999 values a statement: 33 rows of 30 columns each, 333 tags.
    assert len(first) <= 54
    assert len(second) <= 20


def test_a_region_that_takes_long_is_read_in_parts(region, aws, monkeypatch):
    """AWS answers only so many calls a second: what one task does not reach, the next goes on with."""
    monkeypatch.setattr(services, "READING_SECONDS", -1)
    make_instance(region=region, name="old", instance_id="i-0ld", ec2_read_at=MOMENT, ssm_read_at=MOMENT)
    calls = aws([machine(n) for n in range(5)], [node(n) for n in range(5)], page=2)
    began = now()
    parts = 0
    while Region.objects.get().refreshed_at is None:
        for region_id in services.claim_due_regions(now=now()):  # due at once, without anybody's help
            outcome = services.refresh_region(region_id, now=now())
            assert outcome.error == ""
        assert Instance.objects.filter(name="old", gone_at=None).exists() == (Region.objects.get().refreshed_at is None)
        parts += 1
        assert parts <= 5
    assert calls == [("ssm", ""), ("ssm", "2"), ("ssm", "4"), ("ec2", ""), ("ec2", "2"), ("ec2", "4")]
    assert Instance.objects.present().filter(ping_status="Online", ec2_state="running").count() == 5
    finished = Region.objects.get()
    assert (finished.reading, finished.claimed_until) == ({}, None)
    assert began < finished.started_at < finished.refreshed_at  # the pause before the next reading is for all of it
    assert services.due_at(finished) > finished.refreshed_at


def test_a_fault_in_the_last_part_is_told_and_the_next_reading_begins_anew(region, aws, monkeypatch):
    monkeypatch.setattr(services, "READING_SECONDS", -1)
    broken = services.AwsError("InvalidNextToken", "the token has expired")
    calls = aws([], Failing([node(n) for n in range(2)], broken), page=2)
    for _ in range(3):
        for region_id in services.claim_due_regions(now=now()):
            services.refresh_region(region_id, now=now())
    assert "InvalidNextToken" in Region.objects.get().error
    assert Region.objects.get().reading == {}
    assert Instance.objects.filter(ping_status="Online").count() == 2
    read()
    assert calls[-1] == ("ssm", "")


def test_pings_that_move_are_written_and_are_no_change(region, aws):
    aws([machine(1), machine(2)], [node(1), node(2)])
    read()
    changed_at = Instance.objects.values_list("changed_at", flat=True).first()
    later = MOMENT + timedelta(seconds=30)
    aws([machine(1), machine(2)], [node(1, last_ping_at=later), node(2)])
    outcome = read()
    assert outcome.changed == 0
    rows = list(Instance.objects.order_by("instance_id"))
    assert [row.last_ping_at for row in rows] == [later, MOMENT]
    assert {row.changed_at for row in rows} == {changed_at}
    assert len({row.ssm_read_at for row in rows} | {row.ec2_read_at for row in rows}) == 1
    assert rows[0].ssm_read_at > changed_at


def test_what_ssm_told_before_it_failed_is_kept(region, aws):
    broken = services.AwsError("ThrottlingException", "slow down")
    aws([machine(n) for n in range(4)], [node(n) for n in range(4)])
    read()
    aws([machine(n) for n in range(4)], Failing([node(0, ping_status="ConnectionLost"), node(1)], broken), page=2)
    assert "ThrottlingException" in read().error
    assert [row.ping_status for row in Instance.objects.order_by("instance_id")] == ["ConnectionLost", *["Online"] * 3]
    read_at = list(Instance.objects.order_by("instance_id").values_list("ssm_read_at", flat=True))
    assert read_at[0] == read_at[1] > read_at[2] == read_at[3]


def test_only_changed_tags_are_written_again(region, aws):
    aws([machine(1), machine(2)], [])
    read()
    kept = set(InstanceTag.objects.filter(instance__instance_id=machine(1).instance_id).values_list("pk", flat=True))
    aws([machine(1), machine(2, tags={"Name": "node-2", "env": "dev"})], [])
    outcome = read()
    assert outcome.changed == 1
    assert kept <= set(InstanceTag.objects.values_list("pk", flat=True))
    assert InstanceTag.objects.get(key="env", instance__name="node-2").value == "dev"


def test_a_reading_that_breaks_off_marks_nothing_as_gone(region, aws):
    aws([machine(n) for n in range(4)], [node(n) for n in range(4)])
    read()
    broken = services.AwsError("Throttling", "slow down")
    aws(Failing([machine(0, state="stopped"), machine(1)], broken), [node(1)], page=2)
    outcome = read()
    assert "Throttling" in outcome.error
    assert Instance.objects.present().count() == 4
    assert Instance.objects.get(instance_id=machine(0).instance_id).ec2_state == "stopped"


def test_what_ssm_lists_no_more_keeps_its_agents_facts_and_is_not_online(region, aws):
    aws([machine(1)], [node(1)])
    read()
    aws([machine(1)], [])
    read()
    row = Instance.objects.get()
    assert (row.ping_status, row.agent_version) == ("", "3.3")
    assert row.last_ping_at is not None
    assert status_of(row) is Status.LOST


def test_a_terminated_instance_that_ec2_still_lists_is_gone(region, aws):
    aws([machine(1)], [node(1)])
    read()
    aws([machine(1, state="terminated")], [])
    assert read().gone == 1


def test_one_node_id_in_two_regions_is_two_instances(region, aws):
    make_region("eu-north-1")
    hybrid = ManagedInstance(instance_id="mi-0ec48ba4d2459b6b2", ping_status="Online", last_ping_at=MOMENT)
    aws([machine(1)], [node(1)])
    read()
    assert Instance.objects.filter(instance_id=machine(1).instance_id).count() == 2
    first, second = Region.objects.all()
    make_instance(region=first, instance_id=hybrid.instance_id, ec2_state="", ec2_read_at=None)
    make_instance(region=second, instance_id=hybrid.instance_id, ec2_state="", ec2_read_at=None)
    assert Instance.objects.filter(instance_id=hybrid.instance_id).count() == 2


def test_words_longer_than_their_columns_are_cut(region, aws):
    aws([machine(1, tags={"Name": "n" * 300, "k" * 128: "v" * 256})], [node(1, platform_name="P" * 200)])
    read()
    row = Instance.objects.get()
    assert (len(row.name), len(row.platform_name)) == (255, 64)


def test_a_reading_that_took_too_long_does_not_end_anothers_claim(region, aws):
    aws([machine(1)], [node(1)])
    services.claim_due_regions(now=MOMENT)
    slow = Region.objects.get()
    services.claim_due_regions(now=MOMENT + services.CLAIM)
    services._finish(slow, services.Outcome(error="too late"))
    region.refresh_from_db()
    assert (region.error, region.claimed_until) == ("", MOMENT + 2 * services.CLAIM)


def test_a_refresh_that_ran_out_of_time_says_so(region):
    services.claim_due_regions(now=MOMENT)
    services.fail_refresh(region.pk, "Reading this region took longer than 90 s.")
    region.refresh_from_db()
    assert (region.error, region.claimed_until) == ("Reading this region took longer than 90 s.", None)
