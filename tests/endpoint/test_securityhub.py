"""Security Hub's findings by boto3: imported, refused, found, sorted, changed; and those of Patch Manager itself."""

import json

import pytest
from botocore.exceptions import ClientError

from tests.endpoint.agent import AgentClient
from tests.endpoint.patch_reports import COMMAND, keep, report
from tests.support.endpoint import running_endpoint

ACCOUNT = "111122223333"
PRODUCT = f"arn:aws:securityhub:eu-west-1:{ACCOUNT}:product/{ACCOUNT}/default"
NODE = "i-0f1a71a71a71a71a7"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("hub") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def hub(endpoint):
    return endpoint.client("securityhub")


def finding(name, **more):
    return {
        "SchemaVersion": "2018-10-08",
        "Id": name,
        "ProductArn": PRODUCT,
        "GeneratorId": "fleetops",
        "AwsAccountId": ACCOUNT,
        "CreatedAt": "2026-11-20T10:00:00Z",
        "UpdatedAt": "2026-11-20T10:00:00Z",
        "Title": f"title of {name}",
        "Description": "patches are missing",
        "FindingProviderFields": {
            "Severity": {"Label": "HIGH", "Original": "Important"},
            "Types": ["Software and Configuration Checks/Patch Management"],
        },
        "Resources": [{"Type": "AwsEc2Instance", "Id": f"arn:aws:ec2:eu-west-1:{ACCOUNT}:instance/{NODE}"}],
        "Compliance": {"Status": "FAILED"},
        **more,
    }


def take(hub, *findings):
    return hub.batch_import_findings(Findings=list(findings))


def where(**filters):
    return {name: [{"Value": value, "Comparison": "EQUALS"}] for name, value in filters.items()}


def one(hub, name, product=PRODUCT):
    (found,) = hub.get_findings(Filters=where(Id=name, ProductArn=product))["Findings"]
    return found


def code(call, **parameters) -> str:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return caught.value.response["Error"]["Code"]


def test_a_finding_comes_back_with_what_security_hub_adds(hub):
    told = take(hub, finding("first"))
    assert (told["SuccessCount"], told["FailedCount"], told["FailedFindings"]) == (1, 0, [])
    found = one(hub, "first")
    assert found["Severity"] == {"Label": "HIGH", "Original": "Important", "Normalized": 70}
    assert found["Types"] == ["Software and Configuration Checks/Patch Management"]
    assert (found["RecordState"], found["Workflow"], found["WorkflowState"]) == ("ACTIVE", {"Status": "NEW"}, "NEW")
    assert (found["Region"], found["ProductName"], found["CompanyName"]) == ("eu-west-1", "Default", "Personal")
    assert found["ProcessedAt"] > found["UpdatedAt"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"AwsAccountId": "444455556666"}, "AwsAccountId"),
        ({"ProductArn": "arn:aws:securityhub:eu-west-1::product/aws/ssm-patch-manager"}, "ProductArn"),
        ({"SchemaVersion": "2019-01-01"}, "SchemaVersion"),
        ({"Description": "a\0b"}, "character zero"),
        ({"CreatedAt": "yesterday"}, "CreatedAt"),
        ({"UpdatedAt": "2026-13-01T00:00:00Z"}, "UpdatedAt"),
        ({"Title": "x" * 257}, "Title"),
        ({"Description": "x" * 1025}, "Description"),
        ({"FindingProviderFields": {"Types": ["TTPs"]}}, "Severity"),
        ({"FindingProviderFields": {"Severity": {"Label": "LOW"}}}, "Types"),
        ({"Types": ["Nonsense/Patch"]}, "namespace/category/classifier"),
        ({"Resources": []}, "Resources"),
        ({"ProductFields": {f"{n}": "x" for n in range(51)}}, "ProductFields"),
        ({"SourceUrl": "x" * 250_000}, "240 KB"),
    ],
)
def test_a_finding_that_breaks_the_format_fails_alone(hub, changes, words):
    told = take(hub, finding("sound"), finding("unsound") | changes)
    assert (told["SuccessCount"], told["FailedCount"]) == (1, 1)
    (failed,) = told["FailedFindings"]
    assert (failed["Id"], failed["ErrorCode"]) == ("unsound", "InvalidInput") and words in failed["ErrorMessage"]
    assert hub.get_findings(Filters=where(Id="unsound"))["Findings"] == []


def test_a_request_that_breaks_the_model_fails_whole(hub):
    missing = finding("whole")
    del missing["Title"]
    assert code(hub.batch_import_findings, Findings=[missing]) == "InvalidInputException"
    assert code(hub.batch_import_findings, Findings=[finding(f"{n}") for n in range(101)]) == "InvalidInputException"
    bad = finding("whole") | {"Severity": {"Label": "AWFUL"}}
    assert code(hub.batch_import_findings, Findings=[finding("whole"), bad]) == "InvalidInputException"
    assert hub.get_findings(Filters=where(Id="whole"))["Findings"] == []


def test_an_import_leaves_what_readers_said_and_no_older_word_undoes_a_newer(hub):
    take(hub, finding("shared"))
    update = {"FindingIdentifiers": [{"Id": "shared", "ProductArn": PRODUCT}, {"Id": "none", "ProductArn": PRODUCT}]}
    told = hub.batch_update_findings(
        **update,
        Note={"Text": "we know", "UpdatedBy": "maria"},
        Workflow={"Status": "SUPPRESSED"},
        Severity={"Label": "LOW"},
        UserDefinedFields={"ticket": "42"},
    )
    assert told["ProcessedFindings"] == [{"Id": "shared", "ProductArn": PRODUCT}]
    (missing,) = told["UnprocessedFindings"]
    assert (missing["FindingIdentifier"]["Id"], missing["ErrorCode"]) == ("none", "FindingNotFound")
    before = one(hub, "shared")
    assert before["UpdatedAt"] == "2026-11-20T10:00:00Z", "a reader's change is no update of the finding"
    assert (before["Note"]["Text"], before["Severity"]["Label"], before["Severity"]["Normalized"]) == (
        "we know",
        "LOW",
        1,
    )
    newer = finding(
        "shared",
        UpdatedAt="2026-11-21T10:00:00.123456789Z",
        Title="newer",
        Note={"Text": "mine"} | {"UpdatedBy": "x", "UpdatedAt": "2026-11-21T10:00:00Z"},
        Workflow={"Status": "NEW"},
    )
    assert take(hub, newer)["SuccessCount"] == 1
    older = take(hub, finding("shared", UpdatedAt="2026-11-20T12:00:00Z", Title="older"))
    assert older["FailedCount"] == 1 and "older" in older["FailedFindings"][0]["ErrorMessage"]
    after = one(hub, "shared")
    assert (after["Title"], after["Note"]["Text"], after["Workflow"]["Status"]) == ("newer", "we know", "SUPPRESSED")
    assert after["UserDefinedFields"] == {"ticket": "42"} and after["Severity"]["Label"] == "LOW"
    assert after["FindingProviderFields"]["Severity"]["Label"] == "HIGH"


@pytest.mark.parametrize(
    ("status", "first", "then", "expected"),
    [
        ("RESOLVED", {"Compliance": {"Status": "PASSED"}}, {"Compliance": {"Status": "FAILED"}}, "NEW"),
        ("RESOLVED", {"RecordState": "ARCHIVED"}, {"RecordState": "ACTIVE"}, "NEW"),
        ("NOTIFIED", {"RecordState": "ARCHIVED"}, {}, "NEW"),
        ("SUPPRESSED", {"RecordState": "ARCHIVED"}, {}, "SUPPRESSED"),
        ("RESOLVED", {}, {}, "RESOLVED"),
    ],
)
def test_what_comes_back_is_new_unless_it_is_suppressed(hub, status, first, then, expected):
    name = f"back {status} {sorted(first)}"
    take(hub, finding(name, **first))
    hub.batch_update_findings(FindingIdentifiers=[{"Id": name, "ProductArn": PRODUCT}], Workflow={"Status": status})
    take(hub, finding(name, UpdatedAt="2026-11-22T10:00:00Z", **then))
    assert one(hub, name)["Workflow"]["Status"] == expected


@pytest.fixture(scope="module")
def three(hub):
    """Three findings of a generator of their own."""
    take(
        hub,
        finding("a", GeneratorId="three", Confidence=10, ProductFields={"node": "web"}),
        finding(
            "b",
            GeneratorId="three",
            UpdatedAt="2026-11-25T10:00:00Z",
            Severity={"Label": "CRITICAL"},
            FindingProviderFields={"Types": ["Effects"], "Severity": {"Label": "CRITICAL"}},
            Confidence=90,
        ),
        finding(
            "c",
            GeneratorId="three",
            UpdatedAt="2026-11-23T10:00:00Z",
            RecordState="ARCHIVED",
            Resources=[{"Type": "Other", "Id": "mi-1", "Tags": {"env": "prod"}}],
            Confidence=50,
        ),
    )
    return where(GeneratorId="three")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, {"a", "b", "c"}),
        (where(SeverityLabel="CRITICAL"), {"b"}),
        (where(RecordState="ACTIVE"), {"a", "b"}),
        (where(ResourceType="Other"), {"c"}),
        (
            {
                "Title": [
                    {"Value": "title", "Comparison": "PREFIX"},
                    {"Value": "title of b", "Comparison": "NOT_EQUALS"},
                ]
            },
            {"a", "c"},
        ),
        ({"Id": [{"Value": "a", "Comparison": "EQUALS"}, {"Value": "c", "Comparison": "EQUALS"}]}, {"a", "c"}),
        ({"ResourceId": [{"Value": NODE, "Comparison": "CONTAINS"}]}, {"a", "b"}),
        ({"ResourceId": [{"Value": NODE, "Comparison": "NOT_CONTAINS"}]}, {"c"}),
        ({"Type": [{"Value": "Effects", "Comparison": "PREFIX"}]}, {"b"}),
        ({"Confidence": [{"Gte": 50, "Lte": 60}]}, {"c"}),
        ({"SeverityNormalized": [{"Gte": 90}]}, {"b"}),
        ({"ProductFields": [{"Key": "node", "Value": "web", "Comparison": "EQUALS"}]}, {"a"}),
        ({"ResourceTags": [{"Key": "env", "Value": "prod", "Comparison": "NOT_EQUALS"}]}, {"a", "b"}),
        ({"UpdatedAt": [{"Start": "2026-11-23T00:00:00Z", "End": "2026-11-24T00:00:00Z"}]}, {"c"}),
        ({"UpdatedAt": [{"DateRange": {"Value": 36000, "Unit": "DAYS"}}]}, {"a", "b", "c"}),
        ({"Keyword": [{"Value": "TITLE OF B"}]}, {"b"}),
        (where(WorkflowStatus="NEW", ComplianceStatus="PASSED"), set()),
    ],
)
def test_findings_are_filtered(hub, three, filters, expected):
    found = hub.get_findings(Filters=three | filters)["Findings"]
    assert {item["Id"] for item in found} == expected


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ([], "bca"),
        ([{"Field": "UpdatedAt", "SortOrder": "asc"}], "acb"),
        ([{"Field": "SeverityNormalized", "SortOrder": "desc"}, {"Field": "UpdatedAt", "SortOrder": "asc"}], "bac"),
        ([{"Field": "Confidence", "SortOrder": "asc"}], "acb"),
        ([{"Field": "ResourceType", "SortOrder": "desc"}, {"Field": "Id", "SortOrder": "desc"}], "cba"),
    ],
)
def test_findings_are_sorted_and_told_page_by_page(hub, three, criteria, expected):
    pages = hub.get_paginator("get_findings").paginate(
        Filters=three, SortCriteria=criteria, PaginationConfig={"PageSize": 2}
    )
    told = [[item["Id"] for item in page["Findings"]] for page in pages]
    assert [len(page) for page in told] == [2, 1]
    assert "".join(name for page in told for name in page) == expected


@pytest.mark.parametrize(
    ("operation", "parameters", "expected"),
    [
        (
            "get_findings",
            {
                "Filters": {
                    "Title": [{"Value": "a", "Comparison": "EQUALS"}, {"Value": "b", "Comparison": "NOT_EQUALS"}]
                }
            },
            "InvalidInputException",
        ),
        (
            "get_findings",
            {"Filters": {"Title": [{"Value": "a", "Comparison": "CONTAINS_WORD"}]}},
            "InvalidInputException",
        ),
        (
            "get_findings",
            {"Filters": {"Title": [{"Value": f"{n}", "Comparison": "EQUALS"} for n in range(21)]}},
            "InvalidInputException",
        ),
        ("get_findings", {"Filters": {"UpdatedAt": [{"Start": "today"}]}}, "InvalidInputException"),
        ("get_findings", {"Filters": {"UpdatedAt": [{}]}}, "InvalidInputException"),
        ("get_findings", {"SortCriteria": [{"Field": "Colour", "SortOrder": "asc"}]}, "InvalidInputException"),
        ("get_findings", {"MaxResults": 101}, "InvalidInputException"),
        ("get_findings", {"Filters": {"MalwareName": [{"Value": "a", "Comparison": "EQUALS"}]}}, "NotImplemented"),
        ("batch_update_findings", {"FindingIdentifiers": [], "Workflow": {"Status": "NEW"}}, "InvalidInputException"),
        (
            "batch_update_findings",
            {"FindingIdentifiers": [{"Id": "a", "ProductArn": PRODUCT}]},
            "InvalidInputException",
        ),
        (
            "batch_update_findings",
            {"FindingIdentifiers": [{"Id": "a", "ProductArn": PRODUCT}] * 101, "Workflow": {"Status": "NEW"}},
            "InvalidInputException",
        ),
        (
            "batch_update_findings",
            {"FindingIdentifiers": [{"Id": "a", "ProductArn": PRODUCT}], "Note": {"Text": "x" * 513, "UpdatedBy": "m"}},
            "InvalidInputException",
        ),
    ],
)
def test_a_wrong_question_is_refused(hub, operation, parameters, expected):
    assert code(getattr(hub, operation), **parameters) == expected


def test_without_a_hub_there_are_no_findings(endpoint):
    elsewhere = endpoint.client("securityhub", region="eu-central-1")
    for call in (elsewhere.get_findings, elsewhere.describe_hub, elsewhere.disable_security_hub):
        assert code(call) == "InvalidAccessException"
    product = PRODUCT.replace("eu-west-1", "eu-central-1")
    made = finding("there", ProductArn=product)
    assert code(elsewhere.batch_import_findings, Findings=[made]) == "InvalidAccessException"
    elsewhere.enable_security_hub()
    assert code(elsewhere.enable_security_hub) == "ResourceConflictException"
    assert elsewhere.describe_hub()["HubArn"] == f"arn:aws:securityhub:eu-central-1:{ACCOUNT}:hub/default"
    assert take(elsewhere, made)["SuccessCount"] == 1
    elsewhere.disable_security_hub()
    elsewhere.enable_security_hub()
    assert elsewhere.get_findings()["Findings"] == []


def test_an_account_sees_its_own_findings_alone_and_policies_name_products(endpoint, hub):
    assert endpoint.staging_client("securityhub").get_findings()["Findings"] == []
    statement = {"Effect": "Allow", "Action": "securityhub:*", "Resource": PRODUCT}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    narrow = endpoint.client("securityhub", user="narrow", **endpoint.as_role(Policy=policy))
    assert take(narrow, finding("by its product"))["SuccessCount"] == 1
    assert code(narrow.get_findings) == "AccessDeniedException"


def test_patch_manager_sends_a_finding_for_each_run_that_finds_a_node_wanting(endpoint, hub):
    AgentClient(endpoint).report(NODE, AgentVersion="3.3.0.0", PlatformName="Debian GNU/Linux", PlatformVersion="12")
    missing = {"name": "openssl", "state": "MISSING", "classification": "Security", "level": "HIGH"}
    installed = missing | {"state": "INSTALLED"}
    bad = report(NODE, missing)
    again = report(NODE, missing, ended_at="2026-11-20T11:00:00Z", command_id=COMMAND.replace("1", "2"))
    keep(endpoint, bad, again, report(NODE, installed, ended_at="2026-11-20T12:00:00Z"))
    product = "arn:aws:securityhub:eu-west-1::product/aws/ssm-patch-manager"
    found = hub.get_findings(
        Filters=where(ProductArn=product), SortCriteria=[{"Field": "CreatedAt", "SortOrder": "asc"}]
    )["Findings"]
    node = f"arn:aws:patchmanager:eu-west-1:{ACCOUNT}:instance/{NODE}/document/AWS-RunPatchBaseline/run-command"
    assert [item["Id"] for item in found] == [f"{node}/{COMMAND}", f"{node}/{COMMAND.replace('1', '2')}"]
    first = found[0]
    assert first["GeneratorId"] == COMMAND and first["Severity"]["Label"] == "HIGH"
    assert first["Types"] == ["Software & Configuration Checks/Patch Management/Compliance"]
    assert first["Title"] == "Systems Manager Patch Summary - Managed Instance Non-Compliant"
    assert first["Resources"] == [{"Type": "AwsEc2Instance", "Id": NODE, "Partition": "aws", "Region": "eu-west-1"}]
    summary = first["PatchSummary"]
    assert (summary["MissingCount"], summary["InstalledPendingReboot"], summary["Operation"]) == (1, 0, "SCAN")
    assert summary["OperationEndTime"] == "2026-11-20T10:05:00Z" and summary["Id"].startswith("pb-")
    assert {item["RecordState"] for item in found} == {"ACTIVE"}, "AWS does not resolve its own when a node complies"
    hub.batch_update_findings(
        FindingIdentifiers=[{"Id": first["Id"], "ProductArn": product}], Workflow={"Status": "RESOLVED"}
    )
    assert one(hub, first["Id"], product)["Workflow"]["Status"] == "RESOLVED"


def test_findings_outlive_a_kill(endpoint, hub):
    take(hub, finding("stays"))
    endpoint.kill()
    endpoint.start_again()
    assert one(endpoint.client("securityhub"), "stays")["Title"] == "title of stays"
