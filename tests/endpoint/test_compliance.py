"""Compliance: put by nodes and people, listed and counted by boto3."""

import http.client
import json
from datetime import UTC, datetime

import pytest
from botocore.exceptions import ClientError

from tests.endpoint.agent import AgentClient
from tests.support.endpoint import running_endpoint

MOMENT = 1795455830.049
NODES = [f"i-{n:08x}c0d1c0d1c" for n in range(1, 7)]
CUSTOM = "Custom:Hardening"


def code(call, **parameters) -> str:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return caught.value.response["Error"]["Code"]


def one(name="a", status="COMPLIANT", severity="UNSPECIFIED", **details):
    return {"Id": name, "Title": f"title of {name}", "Status": status, "Severity": severity, "Details": details}


def bad(name="a", severity="HIGH", **details):
    return one(name, "NON_COMPLIANT", severity, **details)


def body(instance_id, items, compliance_type=CUSTOM, **more):
    return {
        "ResourceId": instance_id,
        "ResourceType": "ManagedInstance",
        "ComplianceType": compliance_type,
        "ExecutionSummary": {"ExecutionTime": MOMENT, "ExecutionId": "run-1", "ExecutionType": "Command"},
        "Items": items,
        **more,
    }


def put(endpoint, instance_id, *given, **more):
    """As the node itself."""
    node = AgentClient(endpoint).as_node(endpoint, instance_id)
    return node.call("AmazonSSM.PutComplianceItems", body(instance_id, *given, **more))


def items(endpoint, instance_id, *filters, **more):
    given = {"Filters": [dict(item) for item in filters]} if filters else {}
    answer = endpoint.client("ssm").list_compliance_items(
        ResourceIds=[instance_id], ResourceTypes=["ManagedInstance"], **given, **more
    )
    return answer["ComplianceItems"]


def where(key, *values, kind="EQUAL"):
    return {"Key": key, "Values": list(values), "Type": kind}


@pytest.fixture(scope="session")
def fleet(aws):
    """Six nodes: five with a custom type, of which two are not compliant, and one of which nothing was put."""
    for n, instance_id in enumerate(NODES):
        AgentClient(aws).report(
            instance_id, AgentVersion="3.3.987.0", PlatformName="Slackware" if n < 3 else "Void", PlatformVersion="15"
        )
    assert put(aws, NODES[0], [one("a"), bad("b", "LOW"), bad("c", "CRITICAL", PatchGroup="web")]) == (200, {})
    assert put(aws, NODES[1], [one("a", severity="HIGH"), one("b")])[0] == 200
    assert put(aws, NODES[2], [bad("a", "MEDIUM")])[0] == 200
    assert put(aws, NODES[3], [one("a")])[0] == 200
    assert put(aws, NODES[4], [bad("a", "INFORMATIONAL")], compliance_type="Custom:Other")[0] == 200
    return NODES


@pytest.fixture
def node(aws):
    """A node that a test may spoil, of a platform of its own."""
    instance_id = "i-0000000bcc0d1c0d1"
    AgentClient(aws).report(instance_id, AgentVersion="3.3.987.0", PlatformName="Plan 9")
    return instance_id


HERE = where("AWS:InstanceInformation.PlatformName", "Slackware", "Void")


def test_items_come_back_as_they_were_put(aws, fleet):
    first = items(aws, fleet[0])[2]
    assert first["ExecutionSummary"].pop("ExecutionTime") == datetime.fromtimestamp(MOMENT, UTC)
    assert first == {
        "ComplianceType": CUSTOM,
        "ResourceType": "ManagedInstance",
        "ResourceId": fleet[0],
        "Id": "c",
        "Title": "title of c",
        "Status": "NON_COMPLIANT",
        "Severity": "CRITICAL",
        "ExecutionSummary": {"ExecutionId": "run-1", "ExecutionType": "Command"},
        "Details": {"PatchGroup": "web"},
    }
    assert items(aws, fleet[5]) == []


def test_each_put_takes_the_types_place_and_no_others(aws, node):
    put(aws, node, [one("a"), one("b")])
    put(aws, node, [one("x")], compliance_type="Patch")
    put(aws, node, [bad("c")])
    assert [(item["ComplianceType"], item["Id"]) for item in items(aws, node)] == [(CUSTOM, "c"), ("Patch", "x")]
    put(aws, node, [])
    assert [item["Id"] for item in items(aws, node)] == ["x"]
    put(aws, node, [], compliance_type="Patch")
    assert items(aws, node) == []


def test_what_bears_the_hash_of_what_is_there_is_ignored(aws, node):
    put(aws, node, [one("a")], ItemContentHash="h1")
    put(aws, node, [one("b")], ItemContentHash="h1")
    assert [item["Id"] for item in items(aws, node)] == ["a"]
    put(aws, node, [one("b")], ItemContentHash="h2")
    assert [item["Id"] for item in items(aws, node)] == ["b"]
    put(aws, node, [one("c")])
    put(aws, node, [one("d")], ItemContentHash="h2")
    assert [item["Id"] for item in items(aws, node)] == ["d"], "the hash went with what it was of"


def test_a_partial_upload_replaces_the_items_of_its_ids(aws, node):
    """As the real agent puts its associations (ssm-protocol.md 6.4), and as one with SyncCompliance MANUAL is put."""
    put(aws, node, [one("a"), bad("b")], compliance_type="Association")
    put(aws, node, [one("b"), one("c")], compliance_type="Association", UploadType="PARTIAL")
    found = items(aws, node, where("ComplianceType", "Association"))
    assert [(item["Id"], item["Status"]) for item in found] == [(name, "COMPLIANT") for name in "abc"]
    status, answer = put(aws, node, [one("a")], UploadType="PARTIAL")
    assert (status, answer["__type"]) == (400, "InvalidItemContentException")
    put(aws, node, [], compliance_type="Association")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([where("Status", "NON_COMPLIANT")], ["b", "c"]),
        ([where("Severity", "CRITICAL", "LOW")], ["b", "c"]),
        ([where("Severity", "CRITICAL", kind="NOT_EQUAL")], ["a", "b"]),
        ([where("Title", "title of c", "none")], ["c"]),
        ([where("Id", "b", kind="GREATER_THAN")], ["c"]),
        ([where("Title", "title", kind="BEGIN_WITH"), where("Status", "COMPLIANT")], ["a"]),
        ([where("PatchGroup", "web")], ["c"]),
        ([where("ComplianceType", "Patch")], []),
        ([where("ExecutionType", "Command")], ["a", "b", "c"]),
        ([where("ExecutionTime", "2026-01-01T00:00:00Z", kind="GREATER_THAN")], ["a", "b", "c"]),
        ([where("ExecutionTime", "2026-01-01T00:00:00Z", kind="LESS_THAN")], []),
    ],
)
def test_items_are_filtered(aws, fleet, filters, expected):
    assert [item["Id"] for item in items(aws, fleet[0], *filters)] == expected


def test_items_of_all_nodes_are_told_page_by_page(aws, fleet):
    client, found, more = aws.client("ssm"), [], {}
    mine = {"Filters": [where("ComplianceType", CUSTOM)]}
    while True:
        page = client.list_compliance_items(**mine, MaxResults=2, **more)
        assert len(page["ComplianceItems"]) <= 2
        found += [(item["ResourceId"], item["Id"]) for item in page["ComplianceItems"]]
        if not page.get("NextToken"):
            break
        more = {"NextToken": page["NextToken"]}
    expected = [(fleet[0], "a"), (fleet[0], "b"), (fleet[0], "c"), (fleet[1], "a"), (fleet[1], "b"), (fleet[2], "a")]
    assert [pair for pair in found if pair[0] in fleet] == [*expected, (fleet[3], "a")]


def test_a_node_counts_once_in_a_summary_by_its_worst_item(aws, fleet):
    found = aws.client("ssm").list_compliance_summaries(Filters=[HERE])["ComplianceSummaryItems"]
    assert [item["ComplianceType"] for item in found] == [CUSTOM, "Custom:Other"]
    assert found[0]["CompliantSummary"]["CompliantCount"] == 2
    assert found[0]["CompliantSummary"]["SeveritySummary"]["UnspecifiedCount"] == 2
    severities = found[0]["NonCompliantSummary"]["SeveritySummary"]
    assert found[0]["NonCompliantSummary"]["NonCompliantCount"] == 2
    assert (severities["CriticalCount"], severities["MediumCount"], severities["LowCount"]) == (1, 1, 0)
    only = aws.client("ssm").list_compliance_summaries(Filters=[HERE, where("ComplianceType", "Custom:Other")])
    assert [item["ComplianceType"] for item in only["ComplianceSummaryItems"]] == ["Custom:Other"]


def test_summaries_are_told_page_by_page(aws, fleet):
    client = aws.client("ssm")
    first = client.list_compliance_summaries(Filters=[HERE], MaxResults=1)
    second = client.list_compliance_summaries(Filters=[HERE], MaxResults=1, NextToken=first["NextToken"])
    assert second["ComplianceSummaryItems"][0]["ComplianceType"] == "Custom:Other" and "NextToken" not in second


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], [0, 1, 2, 3, 4]),
        ([where("Status", "NON_COMPLIANT")], [0, 2, 4]),
        ([where("OverallSeverity", "CRITICAL", "MEDIUM")], [0, 2]),
        ([where("ComplianceType", CUSTOM, kind="NOT_EQUAL")], [4]),
        ([where("AWS:InstanceInformation.PlatformName", "Void")], [3, 4]),
        ([where("ResourceId", NODES[1])], [1]),
    ],
)
def test_nodes_are_listed_with_what_their_items_come_to(aws, fleet, filters, expected):
    found = aws.client("ssm").list_resource_compliance_summaries(Filters=[HERE, *filters])
    assert [item["ResourceId"] for item in found["ResourceComplianceSummaryItems"]] == [fleet[n] for n in expected]


def test_a_nodes_summary_counts_its_items(aws, fleet):
    client = aws.client("ssm")
    page = client.list_resource_compliance_summaries(Filters=[HERE], MaxResults=1)
    (item,) = page["ResourceComplianceSummaryItems"]
    assert (item["ResourceId"], item["Status"], item["OverallSeverity"]) == (fleet[0], "NON_COMPLIANT", "CRITICAL")
    assert item["CompliantSummary"]["CompliantCount"] == 1
    assert item["NonCompliantSummary"]["SeveritySummary"]["LowCount"] == 1
    after = client.list_resource_compliance_summaries(Filters=[HERE], MaxResults=1, NextToken=page["NextToken"])
    assert after["ResourceComplianceSummaryItems"][0]["ResourceId"] == fleet[1]


def test_a_patch_group_is_a_tag_of_the_nodes(aws):
    client = aws.client("ssm")
    instance_id = aws.instance_id("lagos-pos-gw-011")
    tags = {"ResourceType": "ManagedInstance", "ResourceId": instance_id}
    client.add_tags_to_resource(**tags, Tags=[{"Key": "Patch Group", "Value": "tills"}])
    client.put_compliance_items(**body(instance_id, [bad("KB1")], compliance_type="Patch"))
    found = client.list_compliance_summaries(Filters=[where("PatchGroup", "tills")])["ComplianceSummaryItems"]
    assert [(item["ComplianceType"], item["NonCompliantSummary"]["NonCompliantCount"]) for item in found] == [
        ("Patch", 1)
    ]
    assert client.list_compliance_summaries(Filters=[where("PatchGroup", "nobody")])["ComplianceSummaryItems"] == []
    client.put_compliance_items(**body(instance_id, [], compliance_type="Patch"))
    client.remove_tags_from_resource(**tags, TagKeys=["Patch Group"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ResourceId": "i-ffffffffffffffff0"}, "InvalidResourceId"),
        ({"ResourceId": "../etc"}, "InvalidResourceId"),
        ({"ResourceType": "Teapot"}, "InvalidResourceType"),
        ({"ComplianceType": "Teapot"}, "InvalidItemContentException"),
        ({"ComplianceType": "Custom:"}, "ValidationException"),
        ({"Items": [{"Id": "a", "Severity": "AWFUL", "Status": "COMPLIANT"}]}, "ValidationException"),
        ({"Items": [{"Id": "a", "Severity": "LOW", "Status": "MAYBE"}]}, "ValidationException"),
        ({"Items": [{"Id": "a"}]}, "ValidationException"),
        ({"Items": "all"}, "SerializationException"),
        ({"ItemContentHash": "a\0b"}, "InvalidItemContentException"),
        ({"ExecutionSummary": {}}, "ValidationException"),
        ({"ExecutionSummary": {"ExecutionTime": "yesterday"}}, "SerializationException"),
        ({"Items": [one(x="y" * 4000)] * 220}, "ItemSizeLimitExceededException"),
        ({"Items": [{"Severity": "LOW", "Status": "COMPLIANT"}] * 10_001}, "ValidationException"),
    ],
)
def test_a_wrong_put_is_refused_and_changes_nothing(aws, node, changes, expected):
    put(aws, node, [one("stays")])
    request = body(node, [one("a")]) | changes
    status, answer = AgentClient(aws).call("AmazonSSM.PutComplianceItems", request)
    assert (status, answer["__type"]) == (400, expected)
    assert [item["Id"] for item in items(aws, node)] == ["stays"]


def test_ten_thousand_items_and_ten_types_are_the_most(aws):
    instance_id = "i-0000000bdc0d1c0d1"
    AgentClient(aws).report(instance_id, AgentVersion="3.3.987.0")
    many = [{"Id": f"{n}", "Severity": "LOW", "Status": "COMPLIANT"} for n in range(10_000)]
    assert put(aws, instance_id, many)[0] == 200
    (summary,) = aws.client("ssm").list_resource_compliance_summaries(Filters=[where("ResourceId", instance_id)])[
        "ResourceComplianceSummaryItems"
    ]
    assert summary["CompliantSummary"]["CompliantCount"] == 10_000
    for n in range(9):
        assert put(aws, instance_id, [one()], compliance_type=f"Custom:Type{n}")[0] == 200
    status, answer = put(aws, instance_id, [one()], compliance_type="Custom:TypeTooMany")
    assert (status, answer["__type"]) == (400, "ComplianceTypeCountLimitExceededException")
    assert put(aws, instance_id, [one()], compliance_type="Patch")[0] == 200, "AWS's own types are not counted"
    assert put(aws, instance_id, [bad()], compliance_type="Custom:Type3")[0] == 200
    for name in (CUSTOM, "Patch", *(f"Custom:Type{n}" for n in range(9))):
        put(aws, instance_id, [], compliance_type=name)
    assert items(aws, instance_id) == []


def test_a_node_puts_nothing_for_another_and_is_told_nothing_of_it(aws, fleet):
    own = AgentClient(aws).as_node(aws, fleet[3])
    before = items(aws, fleet[0])
    status, answer = own.call("AmazonSSM.PutComplianceItems", body(fleet[0], [one("all-is-well")]))
    assert (status, answer["__type"]) == (400, "AccessDeniedException")
    for operation in ("ListComplianceItems", "ListComplianceSummaries", "ListResourceComplianceSummaries"):
        status, answer = own.call(f"AmazonSSM.{operation}", {})
        assert (status, answer["__type"]) == (400, "AccessDeniedException")
    assert items(aws, fleet[0]) == before
    assert aws.client("ssm", region="us-east-1").list_compliance_items()["ComplianceItems"] == []
    assert aws.staging_client("ssm").list_resource_compliance_summaries()["ResourceComplianceSummaryItems"] == []


@pytest.mark.parametrize(
    ("operation", "parameters", "expected"),
    [
        ("list_compliance_items", {"ResourceIds": NODES[:2]}, "InvalidResourceId"),
        ("list_compliance_items", {"ResourceIds": ["i-ffffffffffffffff0"]}, "InvalidResourceId"),
        ("list_compliance_items", {"ResourceTypes": ["Teapot"]}, "InvalidResourceType"),
        ("list_compliance_items", {"Filters": [where("Colour", "red")]}, "InvalidFilter"),
        ("list_compliance_items", {"Filters": [{"Key": "Status"}]}, "InvalidFilter"),
        ("list_compliance_items", {"Filters": [where("ExecutionId", "a\0b")]}, "InvalidFilter"),
        ("list_compliance_items", {"Filters": [where("ExecutionTime", "noon")]}, "InvalidFilter"),
        ("list_compliance_items", {"NextToken": "bm90aGluZw=="}, "InvalidNextToken"),
        ("list_compliance_items", {"NextToken": "???"}, "InvalidNextToken"),
        ("list_compliance_items", {"MaxResults": 51}, "ValidationException"),
        ("list_compliance_summaries", {"Filters": [where("Title", "x")]}, "InvalidFilter"),
        ("list_compliance_summaries", {"NextToken": "bm90aGluZw=="}, "InvalidNextToken"),
        (
            "list_resource_compliance_summaries",
            {"Filters": [where("AWS:InstanceInformation.Colour", "x")]},
            "InvalidFilter",
        ),
        ("list_resource_compliance_summaries", {"Filters": [where("Status", "x", kind="LIKE")]}, "ValidationException"),
    ],
)
def test_a_question_that_is_wrong_is_told_so(aws, fleet, operation, parameters, expected):
    assert code(getattr(aws.client("ssm"), operation), **parameters) == expected


def test_a_request_that_is_no_json_or_too_long_is_refused(aws, node):
    put(aws, node, [one("stays")])
    client = AgentClient(aws).as_node(aws, node)
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.PutComplianceItems"}
    for content in (b"{", b"[]", b'{"Items": {"a": NaN}}'):
        status, answer = client._send("POST", "/", content, headers, "ssm")
        assert (status, json.loads(answer)["__type"]) == (400, "SerializationException")
    try:
        status, answer = client._send("POST", "/", b" " * (17 * 2**20), headers, "ssm")
    except (OSError, http.client.HTTPException):
        pass  # the endpoint hangs up on what it does not read
    else:
        assert (status, json.loads(answer)["__type"]) == (413, "RequestEntityTooLargeException")
    assert [item["Id"] for item in items(aws, node)] == ["stays"]


def test_what_was_put_outlives_the_process(tmp_path):
    with running_endpoint(tmp_path / "home") as endpoint:
        AgentClient(endpoint).report(NODES[0], AgentVersion="3.3.987.0")
        assert put(endpoint, NODES[0], [bad("a")], ItemContentHash="h") == (200, {})
        endpoint.kill()
        endpoint.start_again()
        endpoint.clients.clear()
        assert [item["Id"] for item in items(endpoint, NODES[0])] == ["a"]
        assert put(endpoint, NODES[0], [one("b")], ItemContentHash="h")[0] == 200
        assert [item["Id"] for item in items(endpoint, NODES[0])] == ["a"]
