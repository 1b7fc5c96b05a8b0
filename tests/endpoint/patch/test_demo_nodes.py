"""Demo nodes are scanned, patched and restarted as real nodes are: all through the API, their packages their own."""

import json
from uuid import uuid4

import pytest

from fleetops import clock
from fleetops.endpoint.patch import windows
from fleetops.endpoint.seed import FLAKY
from tests.support.endpoint import running_endpoint, until

LISTS = "fleetops-patch-lists-111122223333"  # the seed's: nodes may read what lies there
OVER = {"Success", "Failed", "Cancelled", "TimedOut"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("patching") / "home", "demo") as endpoint:
        names = ("pay-api-eu1a-01", "pg-ledger-eu1a-1", "pg-ledger-eu1c-3", FLAKY, "web-checkout-eu1a-07")
        wanted = {endpoint.instance_id(name) for name in names}
        ssm = endpoint.client("ssm")
        until(lambda: wanted <= online(ssm), seconds=60)
        yield endpoint


@pytest.fixture(scope="module")
def ssm(fleet):
    return fleet.client("ssm")


def online(ssm):
    rows = ssm.describe_instance_information(MaxResults=50)["InstanceInformationList"]
    return {row["InstanceId"] for row in rows if row["PingStatus"] == "Online"}


def run(ssm, instance_ids, document="AWS-RunPatchBaseline", step="PatchLinux", **parameters):
    """Run a document to its end: by node, the invocation of its step that patches."""
    answer = ssm.send_command(
        InstanceIds=instance_ids,
        DocumentName=document,
        Parameters={name: [value] for name, value in parameters.items()},
        MaxErrors="100%",
    )
    command_id = answer["Command"]["CommandId"]
    until(lambda: ssm.list_commands(CommandId=command_id)["Commands"][0]["Status"] in OVER, seconds=120)
    return {
        instance_id: ssm.get_command_invocation(CommandId=command_id, InstanceId=instance_id, PluginName=step)
        for instance_id in instance_ids
    }


def state(ssm, instance_id):
    """(the node's patch state, its patches by KBId)."""
    (row,) = ssm.describe_instance_patch_states(InstanceIds=[instance_id])["InstancePatchStates"]
    patches, token = [], {}
    while True:
        page = ssm.describe_instance_patches(InstanceId=instance_id, MaxResults=100, **token)
        patches += page["Patches"]
        if not page.get("NextToken"):
            return row, {patch["KBId"]: patch for patch in patches}
        token = {"NextToken": page["NextToken"]}


def of(patches, state):
    return {name for name, patch in patches.items() if patch["State"] == state}


def packages(ssm, instance_id):
    answer = ssm.send_command(
        InstanceIds=[instance_id],
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": ["cat /var/lib/packages/installed"]},
    )
    command_id = answer["Command"]["CommandId"]
    until(lambda: ssm.list_commands(CommandId=command_id)["Commands"][0]["Status"] in OVER)
    text = ssm.get_command_invocation(CommandId=command_id, InstanceId=instance_id)["StandardOutputContent"]
    return dict(line.split("\t") for line in text.splitlines())


def test_a_node_is_scanned_patched_without_a_restart_and_compliant_after_one(fleet, ssm):
    node = fleet.instance_id("pay-api-eu1a-01")
    assert ssm.describe_instance_patch_states(InstanceIds=[node])["InstancePatchStates"] == []  # unknown, not compliant
    before = packages(ssm, node)
    snapshot = str(uuid4())
    told = run(ssm, [node], Operation="Scan", SnapshotId=snapshot)[node]
    row, patches = state(ssm, node)
    missing = of(patches, "MISSING")
    assert told["Status"] == "Success" and row["Operation"] == "Scan" and row["SnapshotId"] == snapshot
    assert missing and row["MissingCount"] == len(missing)
    assert told["StandardOutputContent"].startswith(f"Patch Summary for {node}\n")
    assert f"MissingCount                  : {len(missing)}\n" in told["StandardOutputContent"]
    assert packages(ssm, node) == before  # a scan installs nothing
    one = patches[sorted(missing)[0]]
    assert one["Classification"] in {"Security", "Bugfix"} and one["Title"].startswith(one["KBId"] + ":")
    for other in of(patches, "INSTALLED_OTHER"):
        assert patches[other]["Title"] == patches[other]["Severity"] == ""

    run(ssm, [node], Operation="Install", RebootOption="NoReboot", SnapshotId=snapshot)
    row, patches = state(ssm, node)
    assert of(patches, "INSTALLED_PENDING_REBOOT") == missing and not of(patches, "MISSING")
    assert row["InstalledPendingRebootCount"] == len(missing) and "LastNoRebootInstallOperationTime" in row
    changed = {name for name, version in packages(ssm, node).items() if before[name] != version}
    assert changed == {name.rpartition(".")[0] for name in missing}
    summary = ssm.list_resource_compliance_summaries(
        Filters=[{"Key": "ComplianceType", "Values": ["Patch"]}, {"Key": "Status", "Values": ["NON_COMPLIANT"]}]
    )["ResourceComplianceSummaryItems"]
    assert node in {item["ResourceId"] for item in summary}

    run(ssm, [node], Operation="Scan")  # no restart yet: still pending
    assert of(state(ssm, node)[1], "INSTALLED_PENDING_REBOOT") == missing
    told = run(ssm, [node], Operation="Install")[node]
    assert "Going on after the restart of this node." in told["StandardOutputContent"]
    row, patches = state(ssm, node)
    assert of(patches, "INSTALLED") >= missing and row["InstalledPendingRebootCount"] == 0
    summary = ssm.list_resource_compliance_summaries(
        Filters=[{"Key": "ComplianceType", "Values": ["Patch"]}, {"Key": "Status", "Values": ["COMPLIANT"]}]
    )["ResourceComplianceSummaryItems"]
    assert node in {item["ResourceId"] for item in summary}


def test_a_patch_that_fails_is_told_and_goes_well_the_second_time(fleet, ssm):
    node = fleet.instance_id(FLAKY)
    run(ssm, [node], Operation="Scan")
    missing = of(state(ssm, node)[1], "MISSING")
    told = run(ssm, [node], Operation="Install", RebootOption="NoReboot")[node]
    row, patches = state(ssm, node)
    (failed,) = of(patches, "FAILED")
    assert (told["Status"], told["ResponseCode"]) == ("Failed", 1)
    assert f"Failed {failed} " in told["StandardErrorContent"]
    assert of(patches, "INSTALLED_PENDING_REBOOT") == missing - {failed} and row["FailedCount"] == 1
    assert run(ssm, [node], Operation="Install", RebootOption="NoReboot")[node]["Status"] == "Success"
    assert of(state(ssm, node)[1], "INSTALLED_PENDING_REBOOT") == missing


def test_what_is_rejected_stays_and_a_list_overrides_the_baseline(fleet, ssm):
    node = fleet.instance_id("pg-ledger-eu1a-1")
    before, snapshot = packages(ssm, node), str(uuid4())
    run(ssm, [node], Operation="Scan", SnapshotId=snapshot)
    first, patches = state(ssm, node)
    missing = of(patches, "MISSING")
    rejected, listed = sorted(missing)[0], sorted(missing)[1]
    name = rejected.rpartition(".")[0]
    baseline_id = ssm.create_patch_baseline(
        Name="debian-but",
        OperatingSystem="DEBIAN",
        ApprovalRules={
            "PatchRules": [
                {
                    "PatchFilterGroup": {"PatchFilters": [{"Key": "PRODUCT", "Values": ["*"]}]},
                    "ComplianceLevel": "HIGH",
                }
            ]
        },
        RejectedPatches=[name],
        RejectedPatchesAction="BLOCK",
    )["BaselineId"]
    ssm.register_default_patch_baseline(BaselineId=baseline_id)
    run(ssm, [node], Operation="Scan", SnapshotId=snapshot)  # the snapshot is of the baseline before this one
    row, patches = state(ssm, node)
    assert row["BaselineId"] == first["BaselineId"] and of(patches, "MISSING") == missing

    s3 = fleet.client("s3")
    s3.put_object(Bucket=LISTS, Key="one.yaml", Body=f"patches:\n- id: '{listed}'\n".encode())
    address = f"s3://{LISTS}/one.yaml"
    told = run(ssm, [node], Operation="Install", RebootOption="NoReboot", InstallOverrideList=address)[node]
    row, patches = state(ssm, node)
    assert told["Status"] == "Success" and row["InstallOverrideList"] == address
    assert of(patches, "INSTALLED_PENDING_REBOOT") == {listed}
    assert row["BaselineId"] == baseline_id and of(patches, "INSTALLED_REJECTED") == {rejected}

    run(ssm, [node], Operation="Install", RebootOption="NoReboot")
    _, patches = state(ssm, node)
    assert of(patches, "INSTALLED_PENDING_REBOOT") == missing - {rejected}
    assert packages(ssm, node)[name] == before[name]


def test_a_list_is_read_as_the_node_itself_would_read_it_and_once_for_a_command(fleet, ssm):
    """Each node's own role is asked: one that may not have the list fails, and the others go on."""
    s3, iam = fleet.client("s3"), fleet.client("iam")
    here = {"LocationConstraint": "eu-west-1"}
    s3.create_bucket(Bucket="others-lists", CreateBucketConfiguration=here)
    # 3,000 entries, as many as there may be.
    entries = "".join(f"- id: made-up-library-{number:04}.x86_64\n  title: '1.{number}-1'\n" for number in range(3000))
    s3.put_object(Bucket="others-lists", Key="long.yaml", Body=f"patches:\n{entries}".encode())
    node, hybrid = fleet.instance_id("pay-api-eu1b-02"), fleet.instance_id("lagos-pos-gw-011")
    until(lambda: {node, hybrid} <= online(ssm), seconds=60)
    allow = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::others-lists/*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    iam.put_role_policy(RoleName="ssm-hybrid", PolicyName="others", PolicyDocument=document)
    wanted = {"Operation": "Install", "RebootOption": "NoReboot", "InstallOverrideList": "s3://others-lists/long.yaml"}
    told = run(ssm, [node, hybrid], **wanted)
    assert told[hybrid]["Status"] == "Success", told[hybrid]["StandardErrorContent"]
    assert told[node]["Status"] == "Failed"
    assert (
        "An error occurred (AccessDenied) when calling the GetObject operation: User: arn:aws:sts::111122223333:"
        f"assumed-role/ssm-core/{node} is not authorized to perform: s3:GetObject on resource: "
    ) in told[node]["StandardErrorContent"]
    assert ssm.describe_instance_patch_states(InstanceIds=[node])["InstancePatchStates"] == []
    # What the bucket itself allows counts too.
    allow |= {"Principal": {"AWS": "arn:aws:iam::111122223333:role/ssm-core"}}
    s3.put_bucket_policy(Bucket="others-lists", Policy=json.dumps({"Version": "2012-10-17", "Statement": [allow]}))
    assert run(ssm, [node], **wanted)[node]["Status"] == "Success"


def test_an_override_of_the_baseline_is_shown_and_is_not_the_nodes_compliance(fleet, ssm):
    node = fleet.instance_id("pg-ledger-eu1c-3")
    s3 = fleet.client("s3")
    nothing = {"BaselineId": "pb-0123456789abcdef0", "Name": "Nothing", "OperatingSystem": "REDHAT_ENTERPRISE_LINUX"}
    s3.put_object(Bucket=LISTS, Key="nothing.json", Body=json.dumps([nothing]).encode())
    run(ssm, [node], Operation="Scan")
    before, _ = state(ssm, node)
    assert before["MissingCount"] > 0
    told = run(ssm, [node], Operation="Scan", BaselineOverride=f"s3://{LISTS}/nothing.json")[node]
    assert "MissingCount                  : 0\n" in told["StandardOutputContent"]
    assert state(ssm, node)[0] == before
    packages_before = packages(ssm, node)
    told = run(
        ssm,
        [node],
        Operation="Install",
        BaselineOverride=f"s3://{LISTS}/nothing.json",
        InstallOverrideList=f"s3://{LISTS}/one.yaml",
    )[node]
    assert (told["Status"], told["ResponseCode"]) == ("Failed", 1)
    assert "exclude each other" in told["StandardErrorContent"]
    assert packages(ssm, node) == packages_before and state(ssm, node)[0] == before
    told = run(ssm, [node], Operation="Scan", BaselineOverride=f"s3://{LISTS}/missing.json")[node]
    assert told["Status"] == "Failed" and "cannot be read" in told["StandardErrorContent"]


def test_hooks_run_around_the_installation_and_only_where_there_is_something_to_do(fleet, ssm):
    node = fleet.instance_id("web-checkout-eu1a-07")
    for name in ("Pre", "Post", "Exit"):
        content = {
            "schemaVersion": "2.2",
            "mainSteps": [
                {
                    "action": "aws:runShellScript",
                    "name": "hook",
                    "inputs": {"runCommand": [f"echo {name} >>/var/log/hooks"]},
                }
            ],
        }
        ssm.create_document(Name=f"Hook-{name}", Content=json.dumps(content), DocumentType="Command")
    hooks = {
        "PreInstallHookDocName": "Hook-Pre",
        "PostInstallHookDocName": "Hook-Post",
        "OnExitHookDocName": "Hook-Exit",
    }

    def ran():
        answer = ssm.send_command(
            InstanceIds=[node],
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": ["cat /var/log/hooks 2>/dev/null; rm -f /var/log/hooks"]},
        )
        command_id = answer["Command"]["CommandId"]
        until(lambda: ssm.list_commands(CommandId=command_id)["Commands"][0]["Status"] in OVER)
        return ssm.get_command_invocation(CommandId=command_id, InstanceId=node)["StandardOutputContent"].split()

    document = "AWS-RunPatchBaselineWithHooks"
    run(ssm, [node], document, "PatchLinuxScan", Operation="Scan", **hooks)
    missing = of(state(ssm, node)[1], "MISSING")
    assert missing and ran() == []
    told = run(ssm, [node], document, "PatchLinuxReboot", Operation="Install", **hooks)[node]
    assert "Going on after the restart" in told["StandardOutputContent"]
    assert of(state(ssm, node)[1], "INSTALLED") >= missing
    assert ran() == ["Pre", "Post", "Exit"]
    run(ssm, [node], document, "PatchLinuxScan", Operation="Install", **hooks)
    assert ran() == ["Exit"]


WINDOWS = "win-reports-ue1b-01"


def test_a_node_that_simulates_windows_is_patched_by_article_and_severity_as_its_service_decides(fleet):
    """Shown with a demo node alone: no real Windows node has run anything of this."""
    ssm, node = fleet.client("ssm", region="us-east-1"), fleet.instance_id(WINDOWS)
    until(lambda: node in online(ssm), seconds=60)
    step, sql_server, office = {"step": "PatchWindows"}, "KB5065222", "KB5002794"
    before = windows.installed("WindowsServer2022", WINDOWS, clock.now())
    cumulative = [patch for patch in windows.patches(clock.now()) if "for Windows Server 2022" in patch.title]
    *older, newest = sorted(cumulative, key=lambda patch: patch.released_at)

    def rules(until):
        return [
            {
                "PatchFilterGroup": {"PatchFilters": [{"Key": key, "Values": one} for key, one in filters.items()]},
                "ComplianceLevel": level,
                "ApproveUntilDate": until if level == "CRITICAL" else "2199-01-01",
            }
            for level, filters in (
                (
                    "CRITICAL",
                    {"MSRC_SEVERITY": ["Critical", "Important"]},
                ),  # and PATCH_SET OS, as nothing is said of it
                ("LOW", {"PATCH_SET": ["APPLICATION"], "PRODUCT_FAMILY": ["SQL Server", "Office"]}),
            )
        ]

    def obey(until):
        made = ssm.create_patch_baseline(
            Name=f"windows-until-{until}",
            OperatingSystem="WINDOWS",
            ApprovalRules={"PatchRules": rules(until)},
            AvailableSecurityUpdatesComplianceStatus="NON_COMPLIANT",
        )
        ssm.register_default_patch_baseline(BaselineId=made["BaselineId"])

    obey("2020-01-01")
    told = run(ssm, [node], **step, Operation="Scan")[node]
    assert told["Status"] == "Success", told["StandardErrorContent"]
    row, patches = state(ssm, node)
    # SQL Server is on the node, and Office is not.
    assert of(patches, "MISSING") == {sql_server} and office in of(patches, "NOT_APPLICABLE")
    assert newest.name in of(patches, "AVAILABLE_SECURITY_UPDATE")  # but not approved
    assert of(patches, "INSTALLED_OTHER") == before.keys()

    obey("2199-01-01")
    run(ssm, [node], **step, Operation="Scan")
    row, patches = state(ssm, node)
    missing = of(patches, "MISSING")
    # Of the cumulative updates the newest alone: it holds what the others do.
    assert {sql_server, newest.name} <= missing and not missing & {patch.name for patch in older}
    assert of(patches, "INSTALLED") >= before.keys() and row["MissingCount"] == len(missing)
    told = patches[newest.name]
    assert (told["Classification"], told["Severity"]) == ("SecurityUpdates", "Critical")
    assert told["Title"].startswith(newest.title) and told["Title"].endswith(f"({newest.name})")

    s3 = fleet.client("s3")
    # On Windows a list installs what the baseline approves as well, and nothing else.
    s3.put_object(Bucket=LISTS, Key="windows.yaml", Body=f"patches:\n- id: {sql_server}\n- id: {office}\n".encode())
    one = {"Operation": "Install", "RebootOption": "NoReboot", "InstallOverrideList": f"s3://{LISTS}/windows.yaml"}
    told = run(ssm, [node], **step, **one)[node]
    assert told["Status"] == "Success", told["StandardErrorContent"]
    assert of(state(ssm, node)[1], "INSTALLED_PENDING_REBOOT") == {sql_server}

    told = run(ssm, [node], **step, Operation="Install")[node]
    assert "Going on after the restart of this node." in told["StandardOutputContent"]
    row, patches = state(ssm, node)
    assert of(patches, "INSTALLED") >= missing
    assert row["InstalledPendingRebootCount"] == row["FailedCount"] == 0

    nothing = {"BaselineId": "pb-0123456789abcdef0", "Name": "Nothing", "OperatingSystem": "WINDOWS"}
    s3.put_object(Bucket=LISTS, Key="windows.json", Body=json.dumps([nothing]).encode())
    told = run(ssm, [node], **step, Operation="Scan", BaselineOverride=f"s3://{LISTS}/windows.json")[node]
    assert "InstalledCount                : 0\n" in told["StandardOutputContent"] and state(ssm, node)[0] == row

    other = ssm.send_command(
        InstanceIds=[node], DocumentName="AWS-RunPowerShellScript", Parameters={"commands": ["Get-HotFix"]}
    )["Command"]["CommandId"]
    until(lambda: ssm.list_commands(CommandId=other)["Commands"][0]["Status"] in OVER)
    told = ssm.get_command_invocation(CommandId=other, InstanceId=node)
    assert told["Status"] == "Failed" and "It has no PowerShell" in told["StandardErrorContent"]


def test_a_demo_node_of_suse_has_patches_of_its_own(fleet):
    ssm, node = fleet.client("ssm", region="us-east-1"), fleet.instance_id("sap-erp-ue1a-01")
    until(lambda: node in online(ssm), seconds=60)
    assert run(ssm, [node], Operation="Scan")[node]["Status"] == "Success"
    row, patches = state(ssm, node)
    assert row["MissingCount"] > 0
    assert {patches[name]["Classification"] for name in of(patches, "MISSING")} == {"Security"}
