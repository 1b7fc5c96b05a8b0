"""Patch baselines and groups by boto3: made, changed, registered, refused in words."""

import json
import ssl
import urllib.error
import urllib.request
import uuid
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from tests.endpoint.agent import AgentClient
from tests.endpoint.test_cli import aws as aws_cli
from tests.support.endpoint import running_endpoint

SYSTEMS = {
    *("WINDOWS", "AMAZON_LINUX", "AMAZON_LINUX_2", "AMAZON_LINUX_2022", "AMAZON_LINUX_2023", "UBUNTU", "SUSE"),
    *("REDHAT_ENTERPRISE_LINUX", "CENTOS", "ORACLE_LINUX", "DEBIAN", "MACOS", "RASPBIAN", "ROCKY_LINUX", "ALMA_LINUX"),
}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """One of this module's own: accounts have few baselines, and one default for each system."""
    with running_endpoint(tmp_path_factory.mktemp("patching") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def ssm(endpoint):
    return endpoint.client("ssm")


def refusal(call, **parameters) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def code(call, **parameters) -> str:
    return refusal(call, **parameters)[0]


def rule(filters, **more):
    group = {"PatchFilters": [{"Key": key, "Values": list(values)} for key, values in filters.items()]}
    return {"PatchFilterGroup": group, **more}


def rules(*given):
    return {"PatchRules": list(given)}


SECURITY = rule({"CLASSIFICATION": ["Security"], "SEVERITY": ["Critical", "Important"]}, ApproveAfterDays=3)


@pytest.fixture
def baseline(ssm):
    """An own baseline of Rocky Linux that a test may spoil."""
    made = ssm.create_patch_baseline(
        Name="rocky-urgent",
        OperatingSystem="ROCKY_LINUX",
        Description="urgent ones",
        ApprovalRules=rules(SECURITY),
        ApprovedPatches=["kernel*", "CVE-2026-12345", "RLSA-2026:1234", "1234567"],
        RejectedPatches=["telnet"],
        Tags=[{"Key": "team", "Value": "linux"}],
    )["BaselineId"]
    yield made
    ssm.deregister_patch_baseline_for_patch_group(BaselineId=made, PatchGroup="web")
    ssm.delete_patch_baseline(BaselineId=made)


def test_aws_has_a_baseline_for_each_operating_system_and_three_for_windows(ssm):
    found = ssm.get_paginator("describe_patch_baselines").paginate(
        Filters=[{"Key": "OWNER", "Values": ["AWS"]}], PaginationConfig={"PageSize": 4}
    )
    listed = [one for page in found for one in page["BaselineIdentities"]]
    assert {one["OperatingSystem"] for one in listed} == SYSTEMS
    assert len(listed) == len(SYSTEMS) + 2 and len({one["BaselineId"] for one in listed}) == len(listed)
    windows = {one["BaselineName"]: one for one in listed if one["OperatingSystem"] == "WINDOWS"}
    assert set(windows) == {
        "AWS-DefaultPatchBaseline",
        "AWS-WindowsPredefinedPatchBaseline-OS",
        "AWS-WindowsPredefinedPatchBaseline-OS-Applications",
    }
    for system in SYSTEMS:
        default = ssm.get_default_patch_baseline(OperatingSystem=system)["BaselineId"]
        marked = [one["BaselineId"] for one in listed if one["OperatingSystem"] == system and one["DefaultBaseline"]]
        assert marked == [default]
        told = ssm.get_patch_baseline(BaselineId=default)
        assert told["OperatingSystem"] == system and told["Name"].startswith("AWS-")
        assert {rule["ComplianceLevel"] for rule in told["ApprovalRules"]["PatchRules"]} == {"UNSPECIFIED"}
        has_delay = {"ApproveAfterDays" in rule for rule in told["ApprovalRules"]["PatchRules"]}
        assert has_delay == {system not in {"DEBIAN", "UBUNTU", "RASPBIAN"}}
    assert ssm.get_default_patch_baseline()["OperatingSystem"] == "WINDOWS"


def test_a_baseline_is_told_as_it_was_made(ssm, baseline):
    told = ssm.get_patch_baseline(BaselineId=baseline)
    assert (told["Name"], told["OperatingSystem"], told["Description"]) == (
        "rocky-urgent",
        "ROCKY_LINUX",
        "urgent ones",
    )
    (made,) = told["ApprovalRules"]["PatchRules"]
    assert made == {**SECURITY, "ComplianceLevel": "UNSPECIFIED", "EnableNonSecurity": False}
    assert told["ApprovedPatches"] == ["kernel*", "CVE-2026-12345", "RLSA-2026:1234", "1234567"]
    assert (told["ApprovedPatchesComplianceLevel"], told["RejectedPatchesAction"]) == (
        "UNSPECIFIED",
        "ALLOW_AS_DEPENDENCY",
    )
    assert told["PatchGroups"] == [] and told["GlobalFilters"] == {"PatchFilters": []}
    assert told["CreatedDate"] == told["ModifiedDate"]
    arn = f"arn:aws:ssm:eu-west-1:111122223333:patchbaseline/{baseline}"
    assert ssm.get_patch_baseline(BaselineId=arn)["BaselineId"] == baseline


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"OWNER": ["Self"]}, {"rocky-urgent"}),
        ({"OWNER": ["Self"], "OPERATING_SYSTEM": ["SUSE"]}, set()),
        ({"NAME_PREFIX": ["rocky"]}, {"rocky-urgent"}),
        ({"OPERATING_SYSTEM": ["ROCKY_LINUX"]}, {"rocky-urgent", "AWS-RockyLinuxDefaultPatchBaseline"}),
    ],
)
def test_baselines_are_filtered(ssm, baseline, filters, expected):
    given = [{"Key": key, "Values": values} for key, values in filters.items()]
    found = ssm.describe_patch_baselines(Filters=given)["BaselineIdentities"]
    assert {one["BaselineName"] for one in found} == expected


def test_a_list_that_is_asked_wrongly_is_refused(ssm):
    colour = [{"Key": "COLOUR", "Values": ["red"]}]
    for call in (ssm.describe_patch_baselines, ssm.describe_patch_groups, ssm.describe_available_patches):
        assert code(call, Filters=colour) == "ValidationException"
        assert code(call, MaxResults=101) == "ValidationException"
        assert code(call, NextToken="?") == "InvalidNextToken"


def test_an_update_leaves_what_it_does_not_name_and_replace_does_not(ssm, baseline):
    changed = ssm.update_patch_baseline(BaselineId=baseline, RejectedPatches=[], RejectedPatchesAction="BLOCK")
    assert changed["RejectedPatches"] == [] and changed["RejectedPatchesAction"] == "BLOCK"
    assert len(changed["ApprovedPatches"]) == 4 and changed["ModifiedDate"] > changed["CreatedDate"]
    assert code(ssm.update_patch_baseline, BaselineId=baseline, Replace=True) == "ValidationException"
    replaced = ssm.update_patch_baseline(BaselineId=baseline, Name="rocky-new", Replace=True)
    assert replaced["ApprovedPatches"] == [] and replaced["RejectedPatchesAction"] == "ALLOW_AS_DEPENDENCY"
    assert "Description" not in replaced and replaced["ApprovalRules"] == {"PatchRules": []}
    assert ssm.list_tags_for_resource(ResourceType="PatchBaseline", ResourceId=baseline)["TagList"]
    missing = "pb-0123456789abcdef0"
    assert code(ssm.update_patch_baseline, BaselineId=missing, Name="abc") == "DoesNotExistException"
    assert code(ssm.get_patch_baseline, BaselineId=missing) == "DoesNotExistException"
    aws = ssm.get_default_patch_baseline(OperatingSystem="SUSE")["BaselineId"]
    assert code(ssm.update_patch_baseline, BaselineId=aws, Name="abc") == "ValidationException"
    assert code(ssm.delete_patch_baseline, BaselineId=aws) == "ValidationException"
    assert code(ssm.get_patch_baseline, BaselineId=aws.rpartition("/")[2]) == "DoesNotExistException"


def test_a_token_makes_one_baseline_however_often_it_is_sent(ssm):
    request = {"Name": "once", "OperatingSystem": "SUSE", "ClientToken": str(uuid.uuid4())}
    first = ssm.create_patch_baseline(**request)["BaselineId"]
    assert ssm.create_patch_baseline(**request)["BaselineId"] == first
    assert code(ssm.create_patch_baseline, **(request | {"Name": "twice"})) == "IdempotentParameterMismatch"
    ssm.delete_patch_baseline(BaselineId=first)
    assert ssm.delete_patch_baseline(BaselineId=first)["BaselineId"] == first


def test_a_group_has_one_baseline_for_each_operating_system(ssm, baseline):
    other = ssm.create_patch_baseline(Name="rocky-other", OperatingSystem="ROCKY_LINUX")["BaselineId"]
    suse = ssm.create_patch_baseline(Name="suse-web", OperatingSystem="SUSE")["BaselineId"]
    default = ssm.get_default_patch_baseline(OperatingSystem="ROCKY_LINUX")["BaselineId"]
    of_web = {"PatchGroup": "web", "OperatingSystem": "ROCKY_LINUX"}
    assert ssm.get_patch_baseline_for_patch_group(**of_web)["BaselineId"] == default
    for one in (baseline, baseline, suse):
        told = ssm.register_patch_baseline_for_patch_group(BaselineId=one, PatchGroup="web")
        assert (told["BaselineId"], told["PatchGroup"]) == (one, "web")
    told = code(ssm.register_patch_baseline_for_patch_group, BaselineId=other, PatchGroup="web")
    assert told == "AlreadyExistsException"
    assert ssm.get_patch_baseline_for_patch_group(**of_web)["BaselineId"] == baseline
    assert ssm.get_patch_baseline(BaselineId=baseline)["PatchGroups"] == ["web"]
    groups = ssm.describe_patch_groups(Filters=[{"Key": "NAME_PREFIX", "Values": ["we"]}])["Mappings"]
    assert [(one["PatchGroup"], one["BaselineIdentity"]["BaselineId"]) for one in groups] == [
        ("web", baseline),
        ("web", suse),
    ]
    assert code(ssm.delete_patch_baseline, BaselineId=suse) == "ResourceInUseException"
    ssm.deregister_patch_baseline_for_patch_group(BaselineId=suse, PatchGroup="web")
    for one in (other, suse):
        ssm.delete_patch_baseline(BaselineId=one)


def test_a_default_is_registered_and_aws_s_own_taken_back_by_its_arn(ssm, baseline):
    aws = ssm.get_default_patch_baseline(OperatingSystem="ROCKY_LINUX")["BaselineId"]
    ssm.register_default_patch_baseline(BaselineId=baseline)
    assert ssm.get_default_patch_baseline(OperatingSystem="ROCKY_LINUX")["BaselineId"] == baseline
    assert code(ssm.delete_patch_baseline, BaselineId=baseline) == "ResourceInUseException"
    plain = aws.rpartition("/")[2]
    assert code(ssm.register_default_patch_baseline, BaselineId=plain) == "DoesNotExistException"
    ssm.register_default_patch_baseline(BaselineId=aws)
    assert ssm.get_default_patch_baseline(OperatingSystem="ROCKY_LINUX")["BaselineId"] == aws


def test_fifty_baselines_and_twenty_five_groups_are_the_most(endpoint):
    ssm = endpoint.client("ssm", region="us-east-1")
    made = [ssm.create_patch_baseline(Name=f"many-{n}", OperatingSystem="SUSE")["BaselineId"] for n in range(50)]
    assert code(ssm.create_patch_baseline, Name="one-more") == "ResourceLimitExceededException"
    for n in range(25):
        ssm.register_patch_baseline_for_patch_group(BaselineId=made[0], PatchGroup=f"group {n:02}")
    told = code(ssm.register_patch_baseline_for_patch_group, BaselineId=made[0], PatchGroup="one more")
    assert told == "ResourceLimitExceededException"
    pages = ssm.get_paginator("describe_patch_groups").paginate(PaginationConfig={"PageSize": 10})
    assert [one["PatchGroup"] for page in pages for one in page["Mappings"]] == [f"group {n:02}" for n in range(25)]
    own = [{"Key": "OWNER", "Values": ["Self"]}]
    pages = ssm.get_paginator("describe_patch_baselines").paginate(Filters=own, PaginationConfig={"PageSize": 20})
    assert [one["BaselineId"] for page in pages for one in page["BaselineIdentities"]] == made


ROCKY, WINDOWS, DEBIAN = {"OperatingSystem": "ROCKY_LINUX"}, {}, {"OperatingSystem": "DEBIAN"}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (ROCKY | {"Name": "no"}, "at 'name'"),
        (ROCKY | {"OperatingSystem": "PLAN_9"}, "enum value set"),
        (ROCKY | {"ApprovalRules": rules(*[SECURITY] * 11)}, "less than or equal to 10"),
        (ROCKY | {"ApprovalRules": rules(rule({"NAME": [str(n) for n in range(21)]}))}, "less than or equal to 20"),
        (ROCKY | {"ApprovedPatches": [f"a{n}" for n in range(51)]}, "less than or equal to 50"),
        (ROCKY | {"ApprovalRules": rules(rule({}, ApproveAfterDays=361))}, "less than or equal to 360"),
        (ROCKY | {"ApprovalRules": rules(rule({}))}, "one of ApproveAfterDays and ApproveUntilDate is required"),
        (
            ROCKY | {"ApprovalRules": rules(rule({}, ApproveAfterDays=1, ApproveUntilDate="2026-01-01"))},
            "cannot be used together",
        ),
        (ROCKY | {"ApprovalRules": rules(rule({}, ApproveUntilDate="2026-02-30"))}, "YYYY-MM-DD"),
        (ROCKY | {"ApprovalRules": rules(rule({}, ApproveUntilDate="20260230"))}, "YYYY-MM-DD"),
        (DEBIAN | {"ApprovalRules": rules(rule({}, ApproveAfterDays=0))}, "not supported for DEBIAN"),
        (
            DEBIAN | {"OperatingSystem": "UBUNTU", "ApprovalRules": rules(rule({}, ApproveUntilDate="2026-01-01"))},
            "not supported for UBUNTU",
        ),
        (DEBIAN | {"ApprovalRules": rules(rule({"SEVERITY": ["Low"]}))}, "not a filter key for DEBIAN"),
        (
            ROCKY | {"ApprovalRules": rules(rule({"PRIORITY": ["Extra"]}, ApproveAfterDays=0))},
            "PRIORITY is not a filter",
        ),
        (ROCKY | {"ApprovalRules": rules(rule({"SEVERITY": ["Awful"]}, ApproveAfterDays=0))}, "Awful is not a value"),
        (ROCKY | {"GlobalFilters": rule({"PRODUCT": ["Debian12"]})["PatchFilterGroup"]}, "Debian12 is not a value"),
        (
            ROCKY | {"ApprovalRules": rules(rule({"SEVERITY": ["Low", "Low"]}, ApproveAfterDays=0))},
            "given more than once",
        ),
        (
            ROCKY
            | {
                "GlobalFilters": rule({"CLASSIFICATION": ["Bugfix"]})["PatchFilterGroup"],
                "ApprovalRules": rules(SECURITY),
            },
            "contradicts GlobalFilters",
        ),
        (
            WINDOWS
            | {
                "ApprovalRules": rules(
                    rule({"PATCH_SET": ["APPLICATION"], "PRODUCT": ["WindowsServer2022"]}, ApproveAfterDays=0)
                )
            },
            "matches nothing",
        ),
        (
            WINDOWS | {"ApprovalRules": rules(rule({}, ApproveAfterDays=0, EnableNonSecurity=True))},
            "Linux managed nodes only",
        ),
        (WINDOWS | {"ApprovedPatches": ["kernel"]}, "KB5031364"),
        (
            WINDOWS | {"Sources": [{"Name": "mine", "Products": ["*"], "Configuration": "x"}]},
            "Sources apply to Linux managed nodes only",
        ),
        (ROCKY | {"AvailableSecurityUpdatesComplianceStatus": "COMPLIANT"}, "Windows Server managed nodes only"),
        (ROCKY | {"Description": "a\0b"}, "character zero"),
        (ROCKY | {"ApprovedPatches": ["a*b*c"]}, "at most one wildcard"),
        (ROCKY | {"RejectedPatches": ["CVE-2026-12345"]}, "not in a format"),
        (ROCKY | {"RejectedPatches": ["1234567"]}, "not in a format"),
        (ROCKY | {"ApprovedPatches": ["kernel", "kernel"]}, "more than once"),
        (DEBIAN | {"ApprovedPatches": ["openssl=3.0.1"]}, "bare package name"),
        (DEBIAN | {"ApprovedPatches": ["openssl*"]}, "bare package name"),
        ({"OperatingSystem": "MACOS", "RejectedPatches": ["Safari*"]}, "without a wildcard"),
    ],
)
def test_an_unsound_baseline_is_refused_in_words_and_nothing_is_made(ssm, request_, words):
    told, message = refusal(ssm.create_patch_baseline, **({"Name": "unsound"} | request_))
    assert told == "ValidationException" and words in message
    assert (
        ssm.describe_patch_baselines(Filters=[{"Key": "NAME_PREFIX", "Values": ["unsound"]}])["BaselineIdentities"]
        == []
    )


def test_what_each_system_takes_is_listed_and_taken(ssm):
    keys = {"DEBIAN": ["PRODUCT", "PRIORITY"], "MACOS": ["PRODUCT", "CLASSIFICATION"]}
    keys["WINDOWS"] = ["PRODUCT", "PRODUCT_FAMILY", "CLASSIFICATION", "MSRC_SEVERITY"]
    keys["AMAZON_LINUX_2023"] = keys["SUSE"] = ["PRODUCT", "CLASSIFICATION", "SEVERITY"]
    for system, properties in keys.items():
        filters = {}
        for name in properties:
            pages = ssm.get_paginator("describe_patch_properties").paginate(OperatingSystem=system, Property=name)
            filters[name] = [one["Name"] for page in pages for one in page["Properties"]][:20]
            assert filters[name]
        delay = {} if system == "DEBIAN" else {"ApproveAfterDays": 7}
        made = ssm.create_patch_baseline(
            Name="all-of-it", OperatingSystem=system, ApprovalRules=rules(rule(filters, **delay))
        )
        ssm.delete_patch_baseline(BaselineId=made["BaselineId"])
    severities = ssm.describe_patch_properties(OperatingSystem="AMAZON_LINUX_2", Property="SEVERITY")["Properties"]
    assert [one["Name"] for one in severities] == ["Critical", "Important", "Medium", "Low"]
    office = ssm.describe_patch_properties(OperatingSystem="WINDOWS", Property="PRODUCT_FAMILY", PatchSet="APPLICATION")
    assert {"Name": "Office"} in office["Properties"]
    wrong = {"OperatingSystem": "DEBIAN", "Property": "SEVERITY"}
    assert code(ssm.describe_patch_properties, **wrong) == "ValidationException"
    assert (
        code(ssm.describe_patch_properties, **(wrong | {"Property": "PRODUCT", "PatchSet": "OS"}))
        == "ValidationException"
    )


def test_available_and_effective_patches_of_windows(ssm):
    found = ssm.describe_available_patches(Filters=[{"Key": "PRODUCT", "Values": ["WindowsServer2022"]}])["Patches"]
    assert found and {one["Product"] for one in found} == {"WindowsServer2022"}
    assert found == sorted(found, key=lambda one: one["ReleaseDate"], reverse=True)
    amazon = {"Key": "PRODUCT", "Values": ["AmazonLinux2023"]}
    kernels = ssm.describe_available_patches(Filters=[amazon, {"Key": "NAME", "Values": ["kernel"]}])["Patches"]
    assert kernels and {(one["Name"], one["Arch"]) for one in kernels} == {("kernel", "x86_64")}
    assert all(one["AdvisoryIds"][0].startswith("ALAS2023-") for one in kernels)
    cve = [{"Key": "CVE_ID", "Values": ["CVE-2018-3615"]}]
    assert code(ssm.describe_available_patches, Filters=cve) == "ValidationException"
    made = ssm.create_patch_baseline(
        Name="windows-slow",
        ApprovalRules=rules(
            rule({"CLASSIFICATION": ["SecurityUpdates"]}, ApproveAfterDays=360, ComplianceLevel="LOW"),
            rule({"PRODUCT": ["WindowsServer2019"]}, ApproveAfterDays=0, ComplianceLevel="HIGH"),
        ),
        RejectedPatches=["KB5066782"],
        ApprovedPatches=["KB890830"],
        ApprovedPatchesComplianceLevel="CRITICAL",
    )["BaselineId"]
    pages = ssm.get_paginator("describe_effective_patches_for_patch_baseline").paginate(BaselineId=made)
    told = {one["Patch"]["KbNumber"]: one["PatchStatus"] for page in pages for one in page["EffectivePatches"]}
    assert told["KB5066782"]["DeploymentStatus"] == "EXPLICIT_REJECTED"
    assert (told["KB890830"]["DeploymentStatus"], told["KB890830"]["ComplianceLevel"]) == (
        "EXPLICIT_APPROVED",
        "CRITICAL",
    )
    assert (told["KB5066586"]["DeploymentStatus"], told["KB5066586"]["ComplianceLevel"]) == ("APPROVED", "HIGH")
    waiting = told["KB5068787"]
    assert (waiting["DeploymentStatus"], waiting["ComplianceLevel"]) == ("PENDING_APPROVAL", "LOW")
    assert waiting["ApprovalDate"] == datetime(2026, 11, 10, 17, tzinfo=UTC) + timedelta(days=360)
    assert "KB2267602" not in told
    linux = ssm.get_default_patch_baseline(OperatingSystem="DEBIAN")["BaselineId"]
    effective = ssm.describe_effective_patches_for_patch_baseline
    assert code(effective, BaselineId=linux) == "UnsupportedOperatingSystem"
    ssm.delete_patch_baseline(BaselineId=made)


def test_a_baseline_has_tags(ssm, baseline):
    here = {"ResourceType": "PatchBaseline", "ResourceId": baseline}
    ssm.add_tags_to_resource(**here, Tags=[{"Key": "env", "Value": "prod"}])
    assert ssm.list_tags_for_resource(**here)["TagList"] == [
        {"Key": "env", "Value": "prod"},
        {"Key": "team", "Value": "linux"},
    ]
    ssm.remove_tags_from_resource(**here, TagKeys=["team"])
    assert [one["Key"] for one in ssm.list_tags_for_resource(**here)["TagList"]] == ["env"]
    missing = here | {"ResourceId": "pb-0123456789abcdef0"}
    assert code(ssm.list_tags_for_resource, **missing) == "InvalidResourceId"


def test_policies_name_baselines_and_their_tags_and_the_trail_names_them(endpoint, ssm, baseline):
    arn = f"arn:aws:ssm:eu-west-1:111122223333:patchbaseline/{baseline}"
    condition = {"StringEquals": {"aws:ResourceTag/team": "linux"}}
    statement = {"Effect": "Allow", "Action": "ssm:*PatchBaseline*", "Resource": "*", "Condition": condition}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    narrow = endpoint.client("ssm", user="narrow", **endpoint.as_role(Policy=policy))
    assert narrow.get_patch_baseline(BaselineId=baseline)["BaselineId"] == baseline
    narrow.update_patch_baseline(BaselineId=baseline, Description="by its tag")
    other = ssm.create_patch_baseline(Name="untagged", OperatingSystem="SUSE")["BaselineId"]
    told, message = refusal(narrow.get_patch_baseline, BaselineId=other)
    assert told == "AccessDeniedException" and other in message
    assert code(narrow.create_patch_baseline, Name="another") == "AccessDeniedException"
    ssm.delete_patch_baseline(BaselineId=other)
    named = [{"AttributeKey": "ResourceName", "AttributeValue": arn}]
    events = endpoint.client("cloudtrail").lookup_events(LookupAttributes=named)["Events"]
    (update,) = [event for event in events if event["EventName"] == "UpdatePatchBaseline"]
    assert update["Username"] == "maria"
    assert {"ResourceType": "AWS::SSM::PatchBaseline", "ResourceName": arn} in update["Resources"]


def test_a_snapshot_keeps_its_content_and_is_downloaded_by_its_url(endpoint, ssm, baseline):
    instance_id = "i-0123456789abcde0f"
    AgentClient(endpoint).report(instance_id, AgentVersion="3.3.0.0", PlatformName="Rocky Linux", PlatformVersion="9.4")
    request = {"InstanceId": instance_id, "SnapshotId": str(uuid.uuid4())}
    take = ssm.get_deployable_patch_snapshot_for_instance
    context = ssl.create_default_context(cafile=endpoint.handover["ca_file"])

    def content(url: str) -> dict:
        with urllib.request.urlopen(url, context=context) as answer:
            return json.loads(answer.read())

    first = take(**request)
    assert (first["Product"], first["SnapshotId"]) == ("RockyLinux9.4", request["SnapshotId"])
    before = content(first["SnapshotDownloadUrl"])
    assert before["patchBaseline"]["Name"] == "AWS-RockyLinuxDefaultPatchBaseline"
    ssm.register_default_patch_baseline(BaselineId=baseline)
    override = {"OperatingSystem": "ROCKY_LINUX", "ApprovedPatches": ["bash"]}
    assert content(take(**request, BaselineOverride=override)["SnapshotDownloadUrl"]) == before, "the snapshot wins"
    fresh = request | {"SnapshotId": str(uuid.uuid4())}
    assert content(take(**fresh)["SnapshotDownloadUrl"])["patchBaseline"]["BaselineId"] == baseline
    overridden = content(
        take(**(request | {"SnapshotId": str(uuid.uuid4())}), BaselineOverride=override)["SnapshotDownloadUrl"]
    )
    assert overridden["patchBaseline"]["ApprovedPatches"] == ["bash"]
    ssm.register_default_patch_baseline(BaselineId=_aws_s(ssm, "AWS-RockyLinuxDefaultPatchBaseline"))
    wrong = override | {"OperatingSystem": "SUSE"}
    assert code(take, **(request | {"SnapshotId": str(uuid.uuid4())}), BaselineOverride=wrong) == "ValidationException"
    url = urlsplit(first["SnapshotDownloadUrl"])
    for spoilt in (url._replace(query=url.query[:-1] + "x"), url._replace(path=url.path[:-1] + "99")):
        with pytest.raises(urllib.error.HTTPError) as caught:
            content(spoilt.geturl())
        assert caught.value.code == 403
        caught.value.close()
    assert code(take, **(request | {"InstanceId": "i-0ffffffffffffffff"})) == "InvalidInstanceId"
    AgentClient(endpoint).report("i-0123456789abcde0e", AgentVersion="3.3.0.0", PlatformName="Plan 9")
    assert code(take, **(request | {"InstanceId": "i-0123456789abcde0e"})) == "UnsupportedOperatingSystem"
    node = AgentClient(endpoint).as_node(endpoint, instance_id)
    assert node.call("AmazonSSM.GetDeployablePatchSnapshotForInstance", request)[0] == 200
    told = node.call("AmazonSSM.GetDeployablePatchSnapshotForInstance", request | {"InstanceId": "i-0123456789abcde0e"})
    assert told[0] == 400 and told[1]["__type"] == "AccessDeniedException"


def _aws_s(ssm, name: str) -> str:
    found = ssm.describe_patch_baselines(Filters=[{"Key": "NAME_PREFIX", "Values": [name]}])["BaselineIdentities"]
    return found[0]["BaselineId"]


def test_the_unmodified_cli_makes_and_lists_baselines(endpoint):
    rule_ = "PatchRules=[{PatchFilterGroup={PatchFilters=[{Key=PRIORITY,Values=[Required]}]}}]"
    made = aws_cli(
        endpoint,
        *("ssm", "create-patch-baseline", "--name", "by-cli", "--operating-system", "DEBIAN"),
        *("--approval-rules", rule_),
    )
    assert made.returncode == 0, made.stderr
    listed = json.loads(
        aws_cli(endpoint, "ssm", "describe-patch-baselines", "--filters", "Key=OWNER,Values=Self").stdout
    )
    ids = [one["BaselineId"] for one in listed["BaselineIdentities"]]
    assert json.loads(made.stdout)["BaselineId"] in ids
