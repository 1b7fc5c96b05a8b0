"""Findings of ours reach the real endpoint's Security Hub, are one for each instance and baseline, and are resolved."""

import contextlib
from datetime import timedelta

import pytest

from fleetops.clock import now
from fleetops.inventory.models import Instance
from fleetops.notify.models import Notice
from patching.compliance import asff, findings, reading, standing
from patching.compliance.models import Finding, Hub, Report, Sla, SsmFinding, Standing
from patching.compliance.verdict import Patch
from tests.compliance.conftest import summary
from tests.support.endpoint import until

pytestmark = pytest.mark.django_db
EQUALS = {"Comparison": "EQUALS"}


def report(instance, minutes=0, **counts):
    """A report of `instance` as AWS would sum it up, read now."""
    reading.keep_summaries([(instance, summary(instance, minutes, **counts))])


def send():
    moment = now()
    Hub.objects.update(claimed_until=None)
    for hub_id in findings.claim_due(now=moment):
        findings.work(hub_id, now=moment)


@pytest.fixture
def hub(endpoint):
    """Somebody who looks at Security Hub."""
    client = endpoint.client("securityhub")
    with contextlib.suppress(client.exceptions.ResourceConflictException):
        client.enable_security_hub()

    def look(instance):
        found = client.get_findings(
            Filters={
                "GeneratorId": [{"Value": asff.GENERATOR, "Comparison": "EQUALS"}],
                "ResourceId": [{"Value": instance.instance_id, "Comparison": "CONTAINS"}],
            }
        )["Findings"]
        return [
            (each["Id"], each["Compliance"]["Status"], each["Workflow"]["Status"], each["RecordState"])
            for each in found
        ]

    look.client = client
    return look


def test_a_finding_is_one_from_its_first_failure_through_its_end_and_back(node, region, hub):
    report(node, missing=3, security=3)
    send()
    name = asff.finding_id("111122223333", "eu-west-1", node.instance_id, "pb-1")
    assert hub(node) == [(name, "FAILED", "NEW", "ACTIVE")]
    assert Finding.objects.get().due_at is None
    report(node, 5)
    send()
    assert hub(node) == [(name, "PASSED", "RESOLVED", "ARCHIVED")]
    report(node, 10, missing=1)
    send()
    assert hub(node) == [(name, "FAILED", "NEW", "ACTIVE")]
    assert Finding.objects.count() == 1


def test_what_somebody_has_suppressed_stays_suppressed(node, region, hub):
    other = Instance.objects.get(region=region, name="pay-api-eu1b-02")
    report(other, missing=1)
    send()
    product = asff.product_arn("111122223333", "eu-west-1")
    hub.client.batch_update_findings(
        FindingIdentifiers=[{"Id": hub(other)[0][0], "ProductArn": product}], Workflow={"Status": "SUPPRESSED"}
    )
    report(other, 5)
    send()
    assert [each[1:3] for each in hub(other)] == [("PASSED", "SUPPRESSED")]
    report(other, 10, missing=2)
    send()
    assert [each[1:3] for each in hub(other)] == [("FAILED", "SUPPRESSED")]
    assert Finding.objects.get().workflow == "SUPPRESSED"


def test_who_was_always_compliant_leaves_no_finding(node, region):
    report(node)
    assert not Finding.objects.exists()


def test_another_baseline_resolves_the_finding_of_the_one_before(node, region):
    report(node, missing=1)
    report(node, 5, missing=1, baseline_id="pb-2")
    assert dict(Finding.objects.values_list("baseline_id", "is_failed")) == {"pb-1": False, "pb-2": True}


def test_an_instance_that_is_gone_has_its_finding_resolved(node, region):
    report(node, missing=1)
    Instance.objects.filter(pk=node.pk).update(gone_at=now())
    assert findings.resolve_gone(now=now()) == 1
    finding = Finding.objects.get()
    assert not finding.is_failed and finding.asff["Title"].endswith("is gone") and finding.due_at is not None


def test_a_newer_report_while_one_is_sent_is_sent_too(node, region, hub, monkeypatch):
    report(node, missing=1)
    whole = findings.aws.import_findings

    def slow(*arguments, **named):
        report(node, 5, missing=2)
        monkeypatch.setattr(findings.aws, "import_findings", whole)
        return whole(*arguments, **named)

    monkeypatch.setattr(findings.aws, "import_findings", slow)  # a report that comes in the midst of the call
    send()
    assert Finding.objects.get().due_at is not None
    send()
    assert Finding.objects.get().due_at is None


def test_a_hybrid_node_is_no_ec2_instance_in_its_finding(region):
    hybrid = Instance.objects.filter(region=region, instance_id__startswith="mi-").first()
    report(hybrid, missing=1)
    (resource,) = Finding.objects.get().asff["Resources"]
    assert resource["Type"] == "Other" and resource["Id"].startswith("arn:aws:ssm:eu-west-1:111122223333:managed-")


def test_a_hub_that_is_turned_off_hears_nothing(node, region):
    report(node, missing=1)
    findings.claim_due(now=now())
    Hub.objects.update(enabled=False, claimed_until=None)
    assert findings.claim_due(now=now()) == [] and Finding.objects.get().due_at is not None


def test_patch_managers_own_findings_are_read_with_what_people_have_said_of_them_and_never_changed(
    node, region, hub, patch
):
    patch(node.instance_id)  # which leaves one, as Patch Manager does, where Security Hub is on
    of_aws = {"ProductArn": [{"Value": "arn:aws:securityhub:eu-west-1::product/aws/ssm-patch-manager", **EQUALS}]}
    (theirs,) = [
        each
        for each in until(lambda: hub.client.get_findings(Filters=of_aws)["Findings"], what="its own finding")
        if node.instance_id in each["Resources"][0]["Id"]
    ]
    send()
    row = SsmFinding.objects.get(instance=node)
    assert (row.finding_id, row.title, row.workflow) == (theirs["Id"], theirs["Title"], "NEW")
    identifier = {"Id": theirs["Id"], "ProductArn": theirs["ProductArn"]}
    hub.client.batch_update_findings(FindingIdentifiers=[identifier], Workflow={"Status": "SUPPRESSED"})
    Hub.objects.update(read_at=None)
    send()
    row.refresh_from_db()
    assert row.workflow == "SUPPRESSED"
    there = hub.client.get_findings(Filters={"Id": [{"Value": theirs["Id"], **EQUALS}]})["Findings"]
    assert [each["Workflow"]["Status"] for each in there] == ["SUPPRESSED"]


def test_a_missing_patch_past_its_sla_is_told_of_once_and_ended(node, region):
    Sla.objects.create(severity="Important", days=7)
    report(node, missing=1)
    row = Standing.objects.select_related("report", "instance").get()
    reading.keep_patches(row, [Patch("openssl", "3.0.8", "Security", "Important", "MISSING", None, ())])
    later = now() + timedelta(days=8)
    standing.tell_overdue(at=later)
    standing.tell_overdue(at=later)
    told = Notice.objects.get(topic=standing.SLA_TOPIC)
    assert told.repeats == 0 or told.repeats == 1
    assert "1 missing patches on 1 instance" in told.title
    assert told.url == "/compliance/patches/?only=overdue"  # whose list is cut down to these
    report(node, 5)
    row.refresh_from_db()
    reading.keep_patches(Standing.objects.select_related("report", "instance").get(), [])
    standing.tell_overdue(at=later)
    told.refresh_from_db()
    assert told.closed_at is not None
    assert Report.objects.count() == 2
