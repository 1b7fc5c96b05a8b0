"""Reports are read from the real endpoint: each once, patch by patch, and kept when later ones come."""

from datetime import timedelta

import pytest

from fleetops.clock import now
from fleetops.inventory.models import Instance
from fleetops.notify.models import Notice
from patching.compliance import reading, standing
from patching.compliance.models import PatchSpan, Reader, Report, Standing, Trend
from tests.compliance.conftest import read_all, summary
from tests.factories import make_instance
from tests.support.stack import until

pytestmark = pytest.mark.django_db


def due_again() -> None:
    Reader.objects.update(read_at=None, claimed_until=None)


def test_an_instance_that_never_reported_has_no_standing(node, region):
    read_all()
    assert not Standing.objects.filter(instance=node).exists()
    assert Trend.objects.get(region=region).never_scanned >= 1


def test_scan_and_install_leave_two_reports_and_the_life_of_each_patch(node, region, patch):
    assert patch(node.instance_id) == ["Success"]
    read_all()
    row = Standing.objects.select_related("report").get(instance=node)
    scan = row.report
    assert scan.operation == "Scan" and scan.missing > 0 and not scan.is_compliant
    assert row.fell_at == scan.ended_at and row.detailed_at == scan.ended_at and row.due_at is None
    missing = PatchSpan.objects.open().filter(instance=node, state="MISSING")
    assert missing.count() == scan.missing
    assert set(missing.values_list("lacks_since", flat=True)) == {scan.ended_at}
    assert missing.filter(cves__cve__startswith="CVE-").exists()
    assert (
        Notice.objects.get(topic=standing.TOPIC, closed_at=None).title == f"{node} has fallen out of patch compliance"
    )

    due_again()
    read_all()  # nothing new: nothing written
    assert Report.objects.filter(instance=node).count() == 1 and Notice.objects.count() == 1

    patch(node.instance_id, operation="Install")
    patch(node.instance_id)
    due_again()
    read_all()
    row.refresh_from_db()
    assert row.report.operation == "Scan" and row.report.missing < scan.missing
    assert Report.objects.filter(pk=scan.pk, missing=scan.missing).exists()  # the older one says what it said
    before = PatchSpan.objects.filter(instance=node).at(scan.ended_at).filter(state="MISSING")
    assert before.count() == scan.missing
    assert PatchSpan.objects.open().filter(instance=node, state="INSTALLED", from_at__gt=scan.ended_at).exists()
    if row.report.is_compliant:
        assert row.fell_at is None and not Notice.objects.filter(closed_at=None).exists()


def test_a_reading_that_is_cut_short_goes_on_where_it_was(node, region, patch, monkeypatch):
    patch(node.instance_id)
    monkeypatch.setattr(reading, "BATCH", 1)
    monkeypatch.setattr(reading, "WORK_SECONDS", -1.0)
    moment = now()
    mine = Reader.objects.create(region=region, claimed_until=moment + timedelta(seconds=120))
    reading.read(mine.pk, now=moment)
    mine.refresh_from_db()
    assert mine.read_at is None and mine.claimed_until is None
    monkeypatch.setattr(reading, "WORK_SECONDS", 60.0)
    reading.read(mine.pk, now=now())
    mine.refresh_from_db()
    assert mine.read_at == moment or mine.read_at is not None
    assert Standing.objects.filter(instance=node).exists()


def test_two_workers_do_not_take_one_region(region):
    moment = now()
    assert reading.claim_due(now=moment) and reading.claim_due(now=moment) == []


def test_patches_of_a_report_that_is_the_newest_no_more_are_not_written_down(node, region, patch):
    patch(node.instance_id)
    moment = now()
    for reader_id in reading.claim_due(now=moment):
        reading.read(reader_id, now=moment)
    row = Standing.objects.select_related("report").get(instance=node)
    until(lambda: now() >= row.report.ended_at + timedelta(seconds=1))  # reports tell whole seconds
    patch(node.instance_id)
    assert reading.read_details(region.pk, now=now()) == 0
    newer = Standing.objects.select_related("report").get(instance=node)
    assert newer.report.ended_at > row.report.ended_at and newer.due_at is not None
    assert reading.keep_patches(row, []) is False
    assert reading.read_details(region.pk, now=now()) == 1


def test_a_first_report_that_somebody_else_has_just_written_down_takes_the_others_not_along():
    twice, other = make_instance(), make_instance()
    # As a reading and a run that have both looked before either has written.
    told = [(twice, summary(twice, 0, missing=1)), (twice, summary(twice, 5)), (other, summary(other, 0, missing=1))]
    reading.keep_summaries(told)
    assert set(Standing.objects.values_list("instance", flat=True)) == {twice.pk, other.pk}
    reading.keep_summaries([(twice, summary(twice, 5))])
    assert Standing.objects.select_related("report").get(instance=twice).report.is_compliant


def test_many_that_fall_at_once_are_told_of_in_one_notice_also_after_a_kill(region, node, monkeypatch):
    monkeypatch.setattr(standing, "MOST_TOLD", 2)
    nodes = list(Instance.objects.filter(region=region).exclude(ssm_read_at=None)[:3])
    reading.keep_summaries([(each, summary(each, missing=1)) for each in nodes])  # and its worker is killed here
    assert not Notice.objects.exists()
    standing.tell_all()
    standing.tell_all()
    assert Notice.objects.get().title == f"3 instances of {region} have fallen out of patch compliance"
    reading.keep_summaries([(each, summary(each, 5)) for each in nodes[:2]])
    Instance.objects.filter(pk=nodes[2].pk).update(gone_at=now())
    standing.tell_all()
    standing.tell_all()
    assert Notice.objects.get().closed_at is not None


def test_what_no_row_can_hold_of_one_node_keeps_no_other_from_being_read(region, monkeypatch):
    one, two = Instance.objects.filter(region=region).exclude(ssm_read_at=None)[:2]
    reading.keep_summaries([(each, summary(each, missing=1)) for each in (one, two)])
    whole = reading.keep_patches

    def refusing(row, patches):
        if row.instance_id == one.pk:
            raise ValueError("A string literal cannot contain NUL (0x00) characters.")
        return whole(row, patches)

    monkeypatch.setattr(reading, "keep_patches", refusing)  # what PostgreSQL says; SQLite takes it
    monkeypatch.setattr(reading, "_patches", lambda region, row: [])
    told = [summary(one, missing=1), summary(two, missing=1)]
    monkeypatch.setattr(reading, "summaries", lambda *arguments, **named: told)
    assert reading.read_details(region.pk, now=now()) == 1
    assert Standing.objects.get(instance=one).tries == 1 and Standing.objects.get(instance=two).due_at is None
