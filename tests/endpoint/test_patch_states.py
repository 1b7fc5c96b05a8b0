"""What nodes reported of their patches, listed, filtered and counted by boto3."""

import json
from datetime import UTC, datetime

import pytest
from botocore.exceptions import ClientError

from tests.endpoint.agent import AgentClient
from tests.endpoint.patch_reports import COMMAND, SNAPSHOT, keep, report
from tests.endpoint.test_cli import aws as aws_cli
from tests.support.endpoint import running_endpoint, until

NODES = [f"i-{n:08x}a7c4a7c4a" for n in range(1, 6)]
QUIET, BAD, LEVELS, SPARE, NEVER = NODES


def patch(name, state, **more):
    return {"name": name, "state": state, **more}


INSTALLED = patch(
    *("openssl", "INSTALLED"),
    classification="Security",
    severity="Important",
    installed_at="2026-11-01T08:00:00Z",
)
OTHER = patch("vim-tiny", "INSTALLED_OTHER", classification="Other", severity="optional")
CRITICAL = patch(
    *("linux-image-amd64", "MISSING"),
    classification="Security",
    severity="Critical",
    level="CRITICAL",
    cves=["CVE-2026-1", "CVE-2026-2"],
)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """Four nodes that have reported, and one that has not."""
    with running_endpoint(tmp_path_factory.mktemp("states") / "home") as running:
        for instance_id in NODES:
            AgentClient(running).report(
                instance_id, AgentVersion="3.3.0.0", PlatformName="Debian GNU/Linux", PlatformVersion="12"
            )
        group = {"tags": {"PatchGroup": "web"}}
        kept = keep(
            running,
            report(QUIET, INSTALLED, OTHER, not_applicable=7),
            report(BAD, CRITICAL, INSTALLED, patch("curl", "FAILED", level="HIGH", classification="Bugfix"), **group),
            report(
                LEVELS,
                patch("bash", "INSTALLED_PENDING_REBOOT", level="LOW", classification="Enhancement"),
                patch("dash", "INSTALLED_REJECTED"),
                patch("kernel", "MISSING"),
                operation="Install",
                reboot_option="NoReboot",
                **group,
            ),
        )
        assert kept == [True] * 3
        yield running


@pytest.fixture(scope="module")
def ssm(endpoint):
    return endpoint.client("ssm")


def code(call, **parameters) -> str:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return caught.value.response["Error"]["Code"]


def state_of(ssm, instance_id):
    (found,) = ssm.describe_instance_patch_states(InstanceIds=[instance_id])["InstancePatchStates"]
    return found


def summary_of(ssm, instance_id):
    here = [{"Key": "ResourceId", "Values": [instance_id], "Type": "EQUAL"}]
    (found,) = ssm.list_resource_compliance_summaries(Filters=here)["ResourceComplianceSummaryItems"]
    return found


def test_a_node_s_state_is_told_with_its_counts(ssm):
    found = ssm.describe_instance_patch_states(InstanceIds=[*NODES, "i-0ffffffffffffffff"])["InstancePatchStates"]
    assert [one["InstanceId"] for one in found] == [QUIET, BAD, LEVELS], "who never reported is unknown, not compliant"
    quiet, bad, levels = found
    counts = {name: number for name, number in quiet.items() if name.endswith("Count") and number}
    assert counts == {"InstalledCount": 1, "InstalledOtherCount": 1, "NotApplicableCount": 7}
    assert (quiet["Operation"], quiet["RebootOption"], quiet["SnapshotId"]) == ("Scan", "RebootIfNeeded", SNAPSHOT)
    assert (quiet["PatchGroup"], bad["PatchGroup"]) == ("", "web")
    assert quiet["OperationEndTime"] == datetime(2026, 11, 20, 10, 5, tzinfo=UTC)
    default = ssm.get_default_patch_baseline(OperatingSystem="DEBIAN")["BaselineId"]
    assert quiet["BaselineId"] == default
    noncompliant = [
        tuple(one[f"{kind}NonCompliantCount"] for kind in ("Critical", "Security", "Other"))
        for one in (quiet, bad, levels)
    ]
    assert noncompliant == [(0, 0, 0), (1, 1, 1), (0, 0, 2)]


def test_an_install_lists_nothing_as_missing_and_is_remembered_if_it_did_not_reboot(ssm):
    levels = state_of(ssm, LEVELS)
    assert (levels["MissingCount"], levels["InstalledPendingRebootCount"], levels["InstalledRejectedCount"]) == (
        0,
        1,
        1,
    )
    assert levels["LastNoRebootInstallOperationTime"] == datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
    patches = ssm.describe_instance_patches(InstanceId=LEVELS)["Patches"]
    assert {one["KBId"] for one in patches} == {"bash", "dash"}


def test_patches_are_told_and_what_is_not_of_the_baseline_by_its_name_alone(ssm):
    openssl, vim = ssm.describe_instance_patches(InstanceId=QUIET)["Patches"]
    assert openssl == {
        "Title": "openssl:1.0-1",
        "KBId": "openssl",
        "Classification": "Security",
        "Severity": "Important",
        "State": "INSTALLED",
        "InstalledTime": datetime(2026, 11, 1, 8, tzinfo=UTC),
    }
    assert (vim["KBId"], vim["Title"], vim["Classification"], vim["Severity"]) == ("vim-tiny", "", "", "")
    assert vim["InstalledTime"] == datetime(1970, 1, 1, tzinfo=UTC)
    (missing,) = ssm.describe_instance_patches(InstanceId=BAD, Filters=[{"Key": "State", "Values": ["Missing"]}])[
        "Patches"
    ]
    assert missing["CVEIds"] == "CVE-2026-1,CVE-2026-2"
    assert ssm.describe_instance_patches(InstanceId=NEVER)["Patches"] == []


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("State", ["Failed", "INSTALLED"], {"curl", "openssl"}),
        ("State", ["InstalledPendingReboot"], set()),
        ("Classification", ["Security"], {"openssl", "linux-image-amd64"}),
        ("Severity", ["Critical"], {"linux-image-amd64"}),
        ("KBId", ["curl", "none"], {"curl"}),
    ],
)
def test_patches_are_filtered(ssm, key, values, expected):
    found = ssm.describe_instance_patches(InstanceId=BAD, Filters=[{"Key": key, "Values": values}])["Patches"]
    assert {one["KBId"] for one in found} == expected


@pytest.mark.parametrize(
    ("key", "kind", "value", "expected"),
    [
        ("MissingCount", "GreaterThan", "0", [BAD]),
        ("MissingCount", "LessThan", "1", [LEVELS]),
        ("FailedCount", "Equal", "1", [BAD]),
        ("InstalledRejectedCount", "NotEqual", "0", [LEVELS]),
    ],
)
def test_states_of_a_group_are_filtered(ssm, key, kind, value, expected):
    found = ssm.describe_instance_patch_states_for_patch_group(
        PatchGroup="web", Filters=[{"Key": key, "Values": [value], "Type": kind}]
    )["InstancePatchStates"]
    assert [one["InstanceId"] for one in found] == expected


def test_a_group_s_state_counts_its_nodes(endpoint, ssm):
    told = ssm.describe_patch_group_state(PatchGroup="web")
    del told["ResponseMetadata"]
    assert {name: number for name, number in told.items() if number} == {
        "InstancesWithInstalledPatches": 1,
        "InstancesWithMissingPatches": 1,
        "InstancesWithFailedPatches": 1,
        "InstancesWithInstalledPendingRebootPatches": 1,
        "InstancesWithInstalledRejectedPatches": 1,
        "InstancesWithCriticalNonCompliantPatches": 1,
        "InstancesWithSecurityNonCompliantPatches": 1,
        "InstancesWithOtherNonCompliantPatches": 2,
    }
    hybrid = endpoint.instance_id("lagos-pos-gw-011")
    tags = {"ResourceType": "ManagedInstance", "ResourceId": hybrid}
    ssm.add_tags_to_resource(**tags, Tags=[{"Key": "Patch Group", "Value": "web"}])
    assert ssm.describe_patch_group_state(PatchGroup="web")["Instances"] == 1
    ssm.remove_tags_from_resource(**tags, TagKeys=["Patch Group"])


def test_compliance_follows_the_states(ssm):
    bad, quiet = summary_of(ssm, BAD), summary_of(ssm, QUIET)
    assert (bad["ComplianceType"], bad["Status"], bad["OverallSeverity"]) == ("Patch", "NON_COMPLIANT", "CRITICAL")
    assert bad["ExecutionSummary"]["ExecutionId"] == COMMAND and bad["ExecutionSummary"]["ExecutionType"] == "Command"
    assert bad["NonCompliantSummary"]["SeveritySummary"]["HighCount"] == 1
    assert (quiet["Status"], quiet["CompliantSummary"]["CompliantCount"]) == ("COMPLIANT", 2)
    items = ssm.list_compliance_items(
        ResourceIds=[BAD], Filters=[{"Key": "Status", "Values": ["NON_COMPLIANT"], "Type": "EQUAL"}]
    )["ComplianceItems"]
    missing = next(one for one in items if one["Id"] == "linux-image-amd64")
    assert (missing["Severity"], missing["Title"]) == ("CRITICAL", "linux-image-amd64:1.0-1")
    assert missing["Details"] == {
        "DocumentName": "AWS-RunPatchBaseline",
        "DocumentVersion": "1",
        "PatchBaselineId": state_of(ssm, BAD)["BaselineId"],
        "PatchGroup": "web",
        "PatchState": "MISSING",
        "Classification": "Security",
        "PatchSeverity": "Critical",
        "CVEIds": "CVE-2026-1,CVE-2026-2",
    }
    totals = ssm.list_compliance_summaries()["ComplianceSummaryItems"]
    (of_patches,) = [one for one in totals if one["ComplianceType"] == "Patch"]
    assert of_patches["NonCompliantSummary"]["NonCompliantCount"] >= 2


def test_an_older_report_and_an_override_s_change_nothing_and_a_newer_one_all(endpoint, ssm):
    clean = report(SPARE, INSTALLED, ended_at="2026-11-20T11:00:00Z")
    older = report(SPARE, CRITICAL, ended_at="2026-11-20T10:59:59Z")
    override = report(SPARE, CRITICAL, ended_at="2026-11-20T12:00:00Z", is_override=True)
    assert keep(endpoint, clean, older, override, clean) == [True, False, False, True]
    assert state_of(ssm, SPARE)["MissingCount"] == 0
    assert summary_of(ssm, SPARE)["Status"] == "COMPLIANT"
    install = report(SPARE, INSTALLED, ended_at="2026-11-20T12:30:00Z", operation="Install", reboot_option="NoReboot")
    newer = report(SPARE, CRITICAL, ended_at="2026-11-20T13:00:00Z")
    assert keep(endpoint, install, newer) == [True, True]
    state = state_of(ssm, SPARE)
    assert (state["MissingCount"], state["Operation"]) == (1, "Scan")
    assert state["LastNoRebootInstallOperationTime"] == datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
    assert summary_of(ssm, SPARE)["Status"] == "NON_COMPLIANT"
    assert keep(endpoint, report(SPARE, ended_at="2026-11-20T14:00:00Z")) == [True]
    assert summary_of(ssm, SPARE)["Status"] == "COMPLIANT", "scanned, and nothing is missing"


@pytest.mark.parametrize("status", ["COMPLIANT", "NON_COMPLIANT"])
def test_an_available_security_update_counts_as_its_windows_baseline_says(endpoint, ssm, status):
    instance_id = "i-0123456789abcdef5"
    AgentClient(endpoint).report(
        instance_id, PlatformType="Windows", PlatformName="Microsoft Windows Server 2022 Datacenter"
    )
    made = ssm.create_patch_baseline(Name="windows", AvailableSecurityUpdatesComplianceStatus=status)["BaselineId"]
    ssm.register_patch_baseline_for_patch_group(BaselineId=made, PatchGroup="windows")
    update = patch("KB5068787", "AVAILABLE_SECURITY_UPDATE", classification="SecurityUpdates")
    ended_at = "2026-11-20T10:05:00Z" if status == "COMPLIANT" else "2026-11-20T11:05:00Z"
    assert keep(endpoint, report(instance_id, update, ended_at=ended_at, tags={"Patch Group": "windows"})) == [True]
    state = state_of(ssm, instance_id)
    assert (state["BaselineId"], state["AvailableSecurityUpdateCount"]) == (made, 1)
    assert state["SecurityNonCompliantCount"] == (status == "NON_COMPLIANT")
    assert summary_of(ssm, instance_id)["Status"] == status
    ssm.deregister_patch_baseline_for_patch_group(BaselineId=made, PatchGroup="windows")
    ssm.delete_patch_baseline(BaselineId=made)


def test_three_thousand_packages_are_told_page_by_page(endpoint, ssm):
    many = [patch(f"package-{n:04}", "INSTALLED_OTHER") for n in range(3000)]
    assert keep(endpoint, report(SPARE, *many, ended_at="2026-11-21T10:00:00Z")) == [True]
    pages = ssm.get_paginator("describe_instance_patches").paginate(
        InstanceId=SPARE, PaginationConfig={"PageSize": 100}
    )
    found = [one["KBId"] for page in pages for one in page["Patches"]]
    assert found == [one["name"] for one in many]
    assert summary_of(ssm, SPARE)["CompliantSummary"]["CompliantCount"] == 3000
    assert keep(endpoint, report(SPARE, INSTALLED, ended_at="2026-11-22T10:00:00Z")) == [True]


@pytest.mark.parametrize(
    ("operation", "parameters", "expected"),
    [
        ("describe_instance_patches", {"InstanceId": "i-0ffffffffffffffff"}, "InvalidInstanceId"),
        ("describe_instance_patches", {"InstanceId": BAD, "MaxResults": 9}, "ValidationException"),
        ("describe_instance_patches", {"InstanceId": BAD, "MaxResults": 101}, "ValidationException"),
        ("describe_instance_patches", {"InstanceId": BAD, "NextToken": "?"}, "InvalidNextToken"),
        (
            "describe_instance_patches",
            {"InstanceId": BAD, "Filters": [{"Key": "Colour", "Values": ["red"]}]},
            "InvalidFilter",
        ),
        ("describe_instance_patch_states", {"InstanceIds": [BAD] * 51}, "ValidationException"),
        ("describe_instance_patch_states", {"InstanceIds": ["nonsense"]}, "ValidationException"),
        (
            "describe_instance_patch_states_for_patch_group",
            {"PatchGroup": "web", "Filters": [{"Key": "CriticalNonCompliantCount", "Values": ["1"], "Type": "Equal"}]},
            "InvalidFilter",
        ),
        (
            "describe_instance_patch_states_for_patch_group",
            {"PatchGroup": "web", "Filters": [{"Key": "FailedCount", "Values": ["-1"], "Type": "Equal"}]},
            "InvalidFilter",
        ),
    ],
)
def test_a_wrong_question_is_refused(ssm, operation, parameters, expected):
    assert code(getattr(ssm, operation), **parameters) == expected


def test_the_unmodified_cli_reads_states(endpoint):
    told = aws_cli(endpoint, "ssm", "describe-instance-patch-states", "--instance-ids", BAD)
    (state,) = json.loads(told.stdout)["InstancePatchStates"]
    assert (state["MissingCount"], state["FailedCount"]) == (1, 1)


def test_eventbridge_is_told_when_compliance_turns_also_after_a_kill(endpoint):
    sqs, events = endpoint.client("sqs"), endpoint.client("events")
    url = sqs.create_queue(QueueName="turns")["QueueUrl"]
    queue = "arn:aws:sqs:eu-west-1:111122223333:turns"
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue,
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    pattern = {"detail-type": ["Configuration Compliance State Change"], "detail": {"resource-id": [SPARE]}}
    events.put_rule(Name="turns", EventPattern=json.dumps(pattern))
    events.put_targets(Rule="turns", Targets=[{"Id": "1", "Arn": queue}])
    # The reports are kept beside the endpoint, as by one that is killed before it can tell: it tells when it starts.
    bad = report(SPARE, CRITICAL, ended_at="2026-11-23T10:00:00Z")
    keep(endpoint, bad)
    endpoint.kill()
    endpoint.start_again()
    sqs = endpoint.client("sqs")

    def message():
        return sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages")

    (told,) = until(message, what="the event is told")
    sqs.delete_message(QueueUrl=url, ReceiptHandle=told["ReceiptHandle"])
    event = json.loads(told["Body"])
    assert event["detail"] == {
        "resource-type": "managed-instance",
        "resource-id": SPARE,
        "compliance-status": "non_compliant",
        "compliance-type": "Patch",
        "patch-baseline-id": state_of(endpoint.client("ssm"), SPARE)["BaselineId"],
        "severity": "critical",
    }
    keep(endpoint, bad | {"ended_at": "2026-11-23T11:00:00Z"})
    endpoint.kill()
    endpoint.start_again()
    assert state_of(endpoint.client("ssm"), SPARE)["OperationEndTime"] == datetime(2026, 11, 23, 11, tzinfo=UTC)
    assert endpoint.client("sqs").receive_message(QueueUrl=url, VisibilityTimeout=0).get("Messages") is None
