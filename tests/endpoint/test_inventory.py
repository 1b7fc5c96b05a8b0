"""Inventory: a node puts it as the real agent does, boto3 asks for it."""

import base64
import hashlib
import http.client
import json
import subprocess
import sys

import pytest
from botocore.exceptions import ClientError

from tests.endpoint.agent import AgentClient
from tests.support.endpoint import ROOT, running_endpoint

CAPTURED = "2026-11-23T17:30:37Z"
NODES = [f"i-{n:08x}a0b0c0d01" for n in range(1, 8)]


def code(call, **parameters) -> str:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return caught.value.response["Error"]["Code"]


def digest(content) -> str:
    return base64.b64encode(hashlib.md5(json.dumps(content).encode(), usedforsecurity=False).digest()).decode()


def item(content=None, name="AWS:Application", version="1.1", **more):
    made = {"TypeName": name, "SchemaVersion": version, "CaptureTime": CAPTURED, **more}
    if content is not None:
        made |= {"Content": content, "ContentHash": digest(content)}
    return made


def app(name, version="1.0", **more):
    return {"Name": name, "Version": version, "Publisher": "Debian", "Architecture": "x86_64", **more}


def put(endpoint, instance_id, *items):
    """As the node itself, in the words of the real agent."""
    node = AgentClient(endpoint).as_node(endpoint, instance_id)
    return node.call("AmazonSSM.PutInventory", {"InstanceId": instance_id, "Items": list(items)})


def refused(endpoint, instance_id, *items) -> tuple[str, str]:
    status, answer = put(endpoint, instance_id, *items)
    assert status == 400, answer
    return answer["__type"], answer.get("TypeName", "")


def entries(endpoint, instance_id, name="AWS:Application", **more):
    return endpoint.client("ssm").list_inventory_entries(InstanceId=instance_id, TypeName=name, **more)


def ids(answer):
    return [entity["Id"] for entity in answer["Entities"]]


@pytest.fixture(scope="session")
def fleet(aws):
    """Seven nodes with packages, of two platforms."""
    for n, instance_id in enumerate(NODES):
        AgentClient(aws).report(
            instance_id,
            AgentVersion=f"3.3.98{n}.0",
            ComputerName=f"inventory-{n}",
            PlatformName="Alpine" if n < 3 else "Rocky",
            PlatformVersion="3.20" if n < 3 else f"9.{n % 2}",
            IPAddress=f"10.9.0.{n}",
        )
        content = [app("bash", f"5.{n + 5}"), app(f"only-{n}"), app('zlib%_"é', "1.2")]
        assert put(aws, instance_id, item(content)) == (200, {})
    return NODES


@pytest.fixture
def node(aws, fleet):
    """A node that a test may spoil."""
    return fleet[6]


def test_what_a_node_put_is_read_back_page_by_page(aws, fleet):
    found = entries(aws, fleet[0])
    assert (found["SchemaVersion"], found["CaptureTime"], found["TypeName"]) == ("1.1", CAPTURED, "AWS:Application")
    assert [entry["Name"] for entry in found["Entries"]] == ["bash", "only-0", 'zlib%_"é']
    first = entries(aws, fleet[0], MaxResults=2)
    second = entries(aws, fleet[0], MaxResults=2, NextToken=first["NextToken"])
    assert first["Entries"] + second["Entries"] == found["Entries"] and "NextToken" not in second
    named = entries(aws, fleet[0], Filters=[{"Key": "AWS:Application.Name", "Values": ["only"], "Type": "BeginWith"}])
    assert [entry["Name"] for entry in named["Entries"]] == ["only-0"]
    assert entries(aws, fleet[0], name="AWS:Network")["Entries"] == []


def test_a_nodes_own_report_is_its_instance_information(aws, fleet):
    (entry,) = entries(aws, fleet[1], name="AWS:InstanceInformation")["Entries"]
    assert entry == {
        "AgentType": "amazon-ssm-agent",
        "AgentVersion": "3.3.981.0",
        "ComputerName": "inventory-1",
        "InstanceId": fleet[1],
        "InstanceStatus": "Active",
        "IpAddress": "10.9.0.1",
        "PlatformName": "Alpine",
        "PlatformType": "Linux",
        "PlatformVersion": "3.20",
        "ResourceType": "EC2Instance",
    }


def test_an_unchanged_content_is_put_by_its_hash_alone(aws, node):
    content = [app("curl", "8.0")]
    assert put(aws, node, item(content))[0] == 200
    later = item(ContentHash=digest(content)) | {"CaptureTime": "2026-11-24T00:00:00Z"}
    assert put(aws, node, later) == (200, {})
    found = entries(aws, node)
    assert (found["CaptureTime"], found["Entries"]) == ("2026-11-24T00:00:00Z", content)
    other = item(ContentHash=digest([app("wget")]))
    assert refused(aws, node, other) == ("ItemContentMismatchException", "AWS:Application")
    never = item(name="AWS:Service", version="1.0", ContentHash="x")
    assert refused(aws, node, never) == ("ItemContentMismatchException", "AWS:Service")
    # When it sends hashes alone, the real agent says of every type the version of the last one in its list.
    components = [{"Name": "amazon-ssm-agent"}]
    assert put(aws, node, item(components, name="AWS:AWSComponent", version="1.0")) == (200, {})
    for version in ("1.0", "1.1"):
        both = [
            item(ContentHash=digest(content), version=version),
            item(ContentHash=digest(components), name="AWS:AWSComponent", version=version),
        ]
        assert put(aws, node, *both) == (200, {})
    assert entries(aws, node)["SchemaVersion"] == "1.1"
    assert entries(aws, node, name="AWS:AWSComponent")["SchemaVersion"] == "1.0"
    assert put(aws, node, item(content, version="1.0")) == (200, {})
    assert entries(aws, node)["SchemaVersion"] == "1.0"
    assert entries(aws, node)["Entries"] == content


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (item([], name="AWS:Teapot", version="1.0"), "InvalidTypeNameException"),
        (item([], name="Custom:", version="1.0"), "InvalidTypeNameException"),
        (item([], name="Teapot", version="1.0"), "ValidationException"),
        (item([{}], name="AWS:InstanceInformation", version="1.0"), "InvalidTypeNameException"),
        (item([], version="7.7"), "UnsupportedInventorySchemaVersionException"),
        (item([], version="one"), "ValidationException"),
        (item(), "InvalidItemContentException"),
        (item([], Context={"ComplianceType": "Patch"}), "UnsupportedInventoryItemContextException"),
        (
            item([], name="AWS:ComplianceItem", version="1.0", Context={"Colour": "red"}),
            "InvalidInventoryItemContextException",
        ),
        (item([app("x" * 4000, Summary="y" * 4000)] * 140), "ItemSizeLimitExceededException"),
        (item([{"k": "x" * 4000}] * 60, name="Custom:Big", version="1.0"), "ItemSizeLimitExceededException"),
        (item([{f"k{n}": "x"} for n in range(51)], name="Custom:Wide", version="1.0"), "InvalidItemContentException"),
        (item([{"k": "x" * 4097}], name="Custom:Long", version="1.0"), "ValidationException"),
        (item([{"k\0": "x"}], name="Custom:Zero", version="1.0"), "InvalidItemContentException"),
        (item(ContentHash="\0"), "InvalidItemContentException"),
        (item("a text"), "SerializationException"),
        (item(CaptureTime="yesterday"), "ValidationException"),
    ],
)
def test_a_wrong_item_is_refused_and_takes_the_right_ones_with_it(aws, node, wrong, expected):
    before = entries(aws, node, name="AWS:Network")
    right = item([{"Name": f"eth-{expected}"}], name="AWS:Network", version="1.0")
    assert refused(aws, node, right, wrong)[0] == expected
    assert entries(aws, node, name="AWS:Network")["Entries"] == before["Entries"]


def test_a_type_comes_once_in_a_request(aws, node):
    content = [app("twice")]
    assert refused(aws, node, item(content), item(content)) == ("InvalidItemContentException", "AWS:Application")


def test_a_nodes_inventory_as_a_whole_has_a_limit(aws):
    instance_id = "i-0000000bba0b0c0d0"
    AgentClient(aws).report(instance_id, AgentVersion="3.3.987.0")
    large = [{"Name": "x" * 4000, "Description": "y" * 4000}] * 125
    for name in ("AWS:File", "AWS:Service", "AWS:WindowsRole", "AWS:Network", "AWS:WindowsUpdate"):
        assert put(aws, instance_id, item(large, name=name, version="1.0"))[0] == 200
    last = item(large, name="AWS:WindowsRegistry", version="1.0")
    assert refused(aws, instance_id, last)[0] == "TotalSizeLimitExceededException"
    assert entries(aws, instance_id, name="AWS:WindowsRegistry")["Entries"] == []
    assert put(aws, instance_id, item([], name="AWS:File", version="1.0"), last)[0] == 200


def test_a_node_puts_nothing_for_another(aws, fleet):
    own = AgentClient(aws).as_node(aws, fleet[0])
    before = entries(aws, fleet[1])["Entries"]
    body = {"InstanceId": fleet[1], "Items": [item([app("evil")])]}
    status, answer = own.call("AmazonSSM.PutInventory", body)
    assert (status, answer["__type"]) == (400, "AccessDeniedException")
    assert "only" not in json.dumps(answer)
    status, answer = own.call("AmazonSSM.ListInventoryEntries", {"InstanceId": fleet[1], "TypeName": "AWS:Application"})
    assert (status, answer["__type"]) == (400, "AccessDeniedException")
    elsewhere = AgentClient(aws).as_node(aws, fleet[1], node=("111122223333", "us-east-1", fleet[1]))
    assert elsewhere.call("AmazonSSM.PutInventory", body)[1]["__type"] == "AccessDeniedException"
    assert entries(aws, fleet[1])["Entries"] == before


def test_of_a_node_that_is_not_managed_nothing_is_taken_or_told(aws):
    client = aws.client("ssm")
    assert code(client.put_inventory, InstanceId="i-ffffffffffffffff0", Items=[item([])]) == "InvalidInstanceId"
    unknown = {"InstanceId": "i-ffffffffffffffff0", "TypeName": "AWS:Application"}
    assert code(client.list_inventory_entries, **unknown) == "InvalidInstanceId"
    for name in ("AWS:Teapot", "Custom:a\0b"):
        assert code(client.list_inventory_entries, InstanceId=NODES[0], TypeName=name) == "InvalidTypeNameException"
        assert code(client.delete_inventory, TypeName=name) == "InvalidTypeNameException"


def test_a_request_that_is_no_json_or_too_long_is_refused(aws, node):
    client = AgentClient(aws).as_node(aws, node)
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.PutInventory"}
    before = entries(aws, node)["Entries"]
    for body in (b"{", b"[]", b'{"InstanceId": "\xff"}', b"[" * 100_000, b'{"Items": {"a": NaN}}'):
        status, content = client._send("POST", "/", body, headers, "ssm")
        assert (status, json.loads(content)["__type"]) == (400, "SerializationException")
    try:
        status, content = client._send("POST", "/", b" " * (17 * 2**20), headers, "ssm")
    except (ConnectionError, http.client.HTTPException, OSError):
        pass  # the endpoint hangs up on what it does not read
    else:
        assert (status, json.loads(content)["__type"]) == (413, "RequestEntityTooLargeException")
    assert entries(aws, node)["Entries"] == before


APPLICATION = "AWS:Application"
PLATFORM = {"Key": "AWS:InstanceInformation.PlatformName", "Values": ["Alpine", "Rocky"]}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([("AWS:Application.Name", ["only-1", "only-4"], "Equal")], [1, 4]),
        ([("AWS:Application.Name", ["only-"], "BeginWith")], [0, 1, 2, 3, 4, 5]),
        ([("AWS:Application.Name", ["only-2"], "NotEqual")], [0, 1, 3, 4, 5, 6]),
        (
            [("AWS:Application.Name", ["bash"], None), ("AWS:Application.Version", ["5.10"], "LessThan")],
            [0, 1, 2, 3, 4],
        ),
        ([("AWS:Application.Name", ["bash"], None), ("AWS:Application.Version", ["5.9"], "GreaterThan")], [5]),
        ([("AWS:Application.Name", ["bash"], None), ("AWS:Application.Version", ["1.2"], None)], []),
        ([("AWS:Application.Name", ["bash"], None), ("AWS:Application.Version", ["5.6"], "NotEqual")], [0, 2, 3, 4, 5]),
        ([("AWS:Application.Name", ['zlib%_"é'], None)], [0, 1, 2, 3, 4, 5]),
        ([("AWS:Application.Name", ["zlibxx"], None)], []),
        ([("AWS:Application.Name", ["BASH"], None)], []),
        ([("AWS:InstanceInformation.PlatformName", ["Alpine"], None)], [0, 1, 2]),
        (
            [
                ("AWS:InstanceInformation.PlatformName", ["Alpine"], "NotEqual"),
                ("AWS:Application.Name", ["only-1", "only-5"], None),
            ],
            [5],
        ),
        ([("AWS:InstanceInformation.AgentVersion", ["3.3.982.0"], "LessThan")], [0, 1]),
        ([("AWS:Network.Name", ["eth0"], "NotEqual")], []),
    ],
)
def test_filters_find_the_nodes_that_meet_them_all(aws, fleet, filters, expected):
    # The last node is the one that other tests spoil.
    assert put(aws, fleet[6], item([app("spoilt")]))[0] == 200
    given = [{"Key": key, "Values": values} | ({"Type": kind} if kind else {}) for key, values, kind in filters]
    found = aws.client("ssm").get_inventory(Filters=[*given, PLATFORM])
    assert ids(found) == [fleet[n] for n in expected]


def test_nodes_are_told_page_by_page_with_the_type_that_was_asked_for(aws, fleet):
    client = aws.client("ssm")
    pages, more = [], {}
    while True:
        page = client.get_inventory(
            Filters=[PLATFORM], ResultAttributes=[{"TypeName": APPLICATION}], MaxResults=3, **more
        )
        pages.append(page)
        if not page.get("NextToken"):
            break
        more = {"NextToken": page["NextToken"]}
    assert [len(page["Entities"]) for page in pages] == [3, 3, 1]
    first = pages[0]["Entities"][0]
    assert first["Data"][APPLICATION]["Content"][0]["Name"] == "bash"
    assert first["Data"][APPLICATION]["ContentHash"]
    plain = client.get_inventory(Filters=[PLATFORM], MaxResults=1)["Entities"][0]
    assert list(plain["Data"]) == ["AWS:InstanceInformation"]
    assert plain["Data"]["AWS:InstanceInformation"]["Content"][0]["PlatformName"] == "Alpine"
    none = client.get_inventory(Filters=[PLATFORM], ResultAttributes=[{"TypeName": "AWS:Service"}])
    assert [entity["Data"] for entity in none["Entities"]] == [{}] * 7


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"Filters": [{"Key": "AWS:Application.Colour", "Values": ["red"]}]}, "InvalidFilter"),
        ({"Filters": [{"Key": "Name", "Values": ["red"]}]}, "InvalidFilter"),
        ({"Filters": [{"Key": "AWS:Application.Name", "Values": ["x"], "Type": "Exists"}]}, "InvalidFilter"),
        ({"Filters": [{"Key": "AWS:Application.Name", "Values": ["x" * 5000]}]}, "InvalidFilter"),
        ({"Filters": [{"Key": "AWS:Application.Name", "Values": ["x"]}] * 6}, "ValidationException"),
        ({"ResultAttributes": [{"TypeName": "AWS:Teapot"}]}, "InvalidResultAttributeException"),
        ({"MaxResults": 51}, "ValidationException"),
        ({"NextToken": "???"}, "InvalidNextToken"),
        ({"Aggregators": [{"Expression": "AWS:Application.Colour"}]}, "InvalidAggregatorException"),
        ({"Aggregators": [{}]}, "InvalidAggregatorException"),
        (
            {
                "Aggregators": [
                    {
                        "Expression": "AWS:Application.Name",
                        "Aggregators": [{"Expression": "AWS:InstanceInformation.PlatformName"}],
                    }
                ]
            },
            "InvalidAggregatorException",
        ),
        (
            {"Aggregators": [{"Groups": [{"Name": "g", "Filters": [{"Key": "x", "Values": ["y"]}]}]}]},
            "InvalidInventoryGroupException",
        ),
        (
            {"Aggregators": [{"Expression": "AWS:Application.Name"}], "NextToken": "bm90IGEgbnVtYmVy"},
            "InvalidNextToken",
        ),
    ],
)
def test_a_question_that_is_wrong_is_told_so(aws, fleet, parameters, expected):
    assert code(aws.client("ssm").get_inventory, **parameters) == expected


def test_nodes_are_counted_by_attribute(aws, fleet):
    client = aws.client("ssm")
    counted = client.get_inventory(
        Filters=[PLATFORM], Aggregators=[{"Expression": "AWS:InstanceInformation.PlatformName"}]
    )
    (entity,) = counted["Entities"]
    content = entity["Data"]["AWS:InstanceInformation"]["Content"]
    assert content == [{"PlatformName": "Alpine", "Count": "3"}, {"PlatformName": "Rocky", "Count": "4"}]
    nested = client.get_inventory(
        Filters=[PLATFORM],
        Aggregators=[
            {
                "Expression": "AWS:InstanceInformation.PlatformName",
                "Aggregators": [{"Expression": "AWS:InstanceInformation.PlatformVersion"}],
            }
        ],
    )
    content = nested["Entities"][0]["Data"]["AWS:InstanceInformation"]["Content"]
    assert {(entry["PlatformName"], entry["PlatformVersion"]): entry["Count"] for entry in content} == {
        ("Alpine", "3.20"): "3",
        ("Rocky", "9.1"): "2",
        ("Rocky", "9.0"): "2",
    }


def test_nodes_are_counted_by_what_they_have_installed_and_by_group(aws, fleet):
    client = aws.client("ssm")
    six = {"Key": "AWS:Application.Name", "Values": ["bash"]}
    names = {}
    more = {}
    while True:
        page = client.get_inventory(
            Filters=[PLATFORM, six], Aggregators=[{"Expression": "AWS:Application.Name"}], MaxResults=3, **more
        )
        for entry in page["Entities"][0]["Data"][APPLICATION]["Content"]:
            names[entry["Name"]] = entry["Count"]
        if not page.get("NextToken"):
            break
        more = {"NextToken": page["NextToken"]}
    assert names == {"bash": "6", 'zlib%_"é': "6", **{f"only-{n}": "1" for n in range(6)}}
    grouped = client.get_inventory(
        Filters=[PLATFORM, six],
        Aggregators=[
            {
                "Groups": [
                    {"Name": "Even", "Filters": [{"Key": "AWS:Application.Name", "Values": ["only-0", "only-2"]}]},
                    {
                        "Name": "Any",
                        "Filters": [{"Key": "AWS:Application.Name", "Values": ["true"], "Type": "Exists"}],
                    },
                ]
            }
        ],
    )
    found = {name: item["Content"][0] for entity in grouped["Entities"] for name, item in entity["Data"].items()}
    assert found == {
        "Even": {"matchingCount": "2", "notMatchingCount": "4"},
        "Any": {"matchingCount": "6", "notMatchingCount": "0"},
    }


def test_the_schema_names_every_type_and_its_attributes(aws, fleet, node):
    client = aws.client("ssm")
    assert put(aws, node, item([{"Rack": "12", "Row": "b"}], name="Custom:Place", version="1.0"))[0] == 200
    assert put(aws, node, item([{"Rack": "12", "Level": "3"}], name="Custom:Place", version="1.0"))[0] == 200
    (place,) = client.get_inventory_schema(TypeName="Custom:Place")["Schemas"]
    assert [attribute["Name"] for attribute in place["Attributes"]] == ["Level", "Rack", "Row"]
    found = {(schema["TypeName"], schema["Version"]): schema for schema in client.get_inventory_schema()["Schemas"]}
    assert {("AWS:Application", "1.0"), ("AWS:Application", "1.1"), ("Custom:Place", "1.0")} <= found.keys()
    details = found[("AWS:InstanceDetailedInformation", "1.0")]["Attributes"]
    assert {"Name": "CPUs", "DataType": "number"} in details
    (counted,) = client.get_inventory_schema(Aggregator=True)["Schemas"]
    assert counted["TypeName"] == "AWS:InstanceInformation"
    assert client.get_inventory_schema(SubType=True)["Schemas"] == []
    assert code(client.get_inventory_schema, TypeName="Teapot") == "InvalidTypeNameException"
    found = client.get_inventory(
        Filters=[{"Key": "Custom:Place.Rack", "Values": ["12"]}], ResultAttributes=[{"TypeName": "Custom:Place"}]
    )
    assert ids(found) == [node]
    assert aws.client("ssm", region="us-east-1").get_inventory_schema(TypeName="Custom:")["Schemas"] == []


def test_a_custom_type_is_deleted_disabled_and_made_again(aws, node):
    client, name = aws.client("ssm"), "Custom:Short"
    assert put(aws, node, item([{"a": "1"}], name=name, version="1.0"))[0] == 200
    dry = client.delete_inventory(TypeName=name, DryRun=True)
    assert "DeletionId" not in dry
    assert (dry["DeletionSummary"]["TotalCount"], dry["DeletionSummary"]["RemainingCount"]) == (1, 1)
    token = "0f8fad5b-d9cb-469f-a165-70867728950e"
    done = client.delete_inventory(TypeName=name, SchemaDeleteOption="DisableSchema", ClientToken=token)
    assert done["DeletionSummary"]["SummaryItems"] == [{"Version": "1.0", "Count": 1, "RemainingCount": 0}]
    again = client.delete_inventory(TypeName=name, SchemaDeleteOption="DisableSchema", ClientToken=token)
    assert again["DeletionId"] == done["DeletionId"]
    assert put(aws, node, item([{"a": "1"}], name=name, version="1.0")) == (200, {}), "ignored, and not refused"
    assert entries(aws, node, name=name)["Entries"] == []
    assert client.get_inventory_schema(TypeName=name)["Schemas"] == []
    assert put(aws, node, item([{"a": "2"}], name=name, version="1.1"))[0] == 200
    assert entries(aws, node, name=name)["Entries"] == [{"a": "2"}]
    last = client.delete_inventory(TypeName=name, SchemaDeleteOption="DeleteSchema")
    (told,) = client.describe_inventory_deletions(DeletionId=last["DeletionId"])["InventoryDeletions"]
    assert (told["TypeName"], told["LastStatus"], told["DeletionSummary"]["TotalCount"]) == (name, "Complete", 1)
    first = client.describe_inventory_deletions(MaxResults=1)
    assert first["InventoryDeletions"][0]["DeletionId"] == last["DeletionId"]
    second = client.describe_inventory_deletions(MaxResults=1, NextToken=first["NextToken"])
    assert second["InventoryDeletions"][0]["DeletionId"] == done["DeletionId"]
    assert code(client.delete_inventory, TypeName=name) == "InvalidTypeNameException"
    assert code(client.delete_inventory, TypeName=APPLICATION) == "InvalidTypeNameException"
    unknown = "0f8fad5b-d9cb-469f-a165-708677289500"
    assert code(client.describe_inventory_deletions, DeletionId=unknown) == "InvalidDeletionIdException"


def test_a_region_has_so_many_custom_types(tmp_path):
    with running_endpoint(tmp_path / "home") as endpoint:
        AgentClient(endpoint).report(NODES[0], AgentVersion="3.3.987.0")
        types = [item([{"a": "b"}], name=f"Custom:Type{n}", version="1.0") for n in range(20)]
        assert put(endpoint, NODES[0], *types)[0] == 200
        more = item([{"a": "b"}], name="Custom:More", version="1.0")
        assert refused(endpoint, NODES[0], more)[0] == "CustomSchemaCountLimitExceededException"
        content = [app("bash")]
        assert put(endpoint, NODES[0], item(content))[0] == 200

        endpoint.stop()
        endpoint.start_again()
        endpoint.clients.clear()
        assert entries(endpoint, NODES[0])["Entries"] == content, "what was put outlives the process"
        assert put(endpoint, NODES[0], item(ContentHash=digest(content))) == (200, {}), "and so does its hash"
        assert len(endpoint.client("ssm").get_inventory_schema(TypeName="Custom:")["Schemas"]) == 20


def test_a_deregistered_nodes_inventory_is_gone(aws):
    client = aws.client("ssm")
    made = client.create_activation(IamRole="ssm-hybrid")
    body = {
        "ActivationId": made["ActivationId"],
        "ActivationCode": made["ActivationCode"],
        "Fingerprint": "f3b9f3e2-0000-4000-8000-000000000001",
        "PublicKey": base64.b64encode(_public_key()).decode(),
        "PublicKeyType": "Rsa",
    }
    agent = AgentClient(aws)
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.RegisterManagedInstance"}
    status, content = agent._send("POST", "/", json.dumps(body).encode(), headers, "")
    assert status == 200, content
    instance_id = json.loads(content)["InstanceId"]
    assert client.put_inventory(InstanceId=instance_id, Items=[item([app("gone")])])
    find = {"Filters": [{"Key": "AWS:Application.Name", "Values": ["gone"]}]}
    assert ids(client.get_inventory(**find)) == [instance_id]
    client.deregister_managed_instance(InstanceId=instance_id)
    assert ids(client.get_inventory(**find)) == []


def _public_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = rsa.generate_private_key(65537, 2048).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_questions_about_many_nodes_take_few_queries(tmp_path):
    """1,000 nodes in a database of their own: a page, a rare package, a count."""
    command = [sys.executable, "-m", "tests.endpoint.inventory_scale", str(tmp_path), "1000", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["page"]["found"] == 51 and told["page"]["queries"] == 1
    assert told["rare"]["found"] == 1 and told["rare"]["queries"] == 5, "one for each 200 nodes"
    assert told["count"]["found"] == 1000 + 20 and told["count"]["queries"] == 5
    assert told["put"]["queries"] <= 6
    assert told["known"] == {**told["known"], "found": 51, "queries": 0}
