"""A node that lies on demand, as those see it who asked it for something."""

import pytest

from tests.endpoint.agent import AgentClient
from tests.endpoint.jobs import HandAgent, shell_step, until
from tests.endpoint.test_commands import becomes, command, details, send
from tests.support.faults import Faults, FaultsRefused

NODES = ["i-011e50011e5000001", "i-011e50011e5000002"]


@pytest.fixture
def faults(aws):
    made = Faults(aws.handover)
    yield made
    made.delete()


@pytest.fixture
def ssm(aws):
    return aws.client("ssm")


@pytest.fixture(scope="module")
def ids(aws):
    """Two EC2 instances of the seed, which no demo node speaks for here."""
    pages = aws.client("ec2").describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["running"]}])
    found = sorted(item["InstanceId"] for group in pages["Reservations"] for item in group["Instances"])
    return found[-2:]


@pytest.fixture
def agents(aws, ids):
    connected = [HandAgent(aws, instance_id).connect() for instance_id in ids]
    yield connected
    for agent in connected:
        agent.close()


def lie(faults, how, agent, **facts):
    faults.put(how, "lie", how=how, match={"node": agent.instance_id}, **facts)


def test_a_node_says_success_and_did_nothing(ssm, faults, agents):
    liar, honest = agents
    lie(faults, "nothing", liar)
    command_id = send(ssm, liar.instance_id, honest.instance_id)
    honest.run(honest.job(), "Failed", 3)
    becomes(ssm, command_id, "Failed")
    assert details(ssm, command_id) == {liar.instance_id: "Success", honest.instance_id: "Failed"}
    got = ssm.get_command_invocation(CommandId=command_id, InstanceId=liar.instance_id)
    assert (got["ResponseCode"], got["StandardOutputContent"]) == (0, "")
    assert liar.is_quiet(0.3), "it was given nothing to do"
    faults.delete()
    again = send(ssm, liar.instance_id)
    liar.run(liar.job(), "Failed", 3)
    becomes(ssm, again, "Failed")


def test_what_a_node_says_of_anothers_job_is_not_believed(ssm, faults, agents):
    liar, honest = agents[1], agents[0]
    command_id = send(ssm, honest.instance_id, liar.instance_id, MaxErrors="2")
    job = honest.job()
    honest.take(job)
    own = liar.job()
    lie(faults, "other", liar, claims=honest.instance_id)
    liar.run(own, "Success", out="forged")
    assert details(ssm, command_id)[honest.instance_id] == "InProgress"
    assert details(ssm, command_id)[liar.instance_id] == "Pending", "of its own job it said nothing"
    honest.run(job, "Failed", 3, out="true")
    until(lambda: details(ssm, command_id)[honest.instance_id] == "Failed")
    got = ssm.get_command_invocation(CommandId=command_id, InstanceId=honest.instance_id)
    assert got["StandardOutputContent"] == "true"
    faults.delete()
    liar.run(liar.job(), "Success")  # it is sent again, for nobody has taken it
    until(lambda: details(ssm, command_id) == {honest.instance_id: "Failed", liar.instance_id: "Success"})


def test_a_job_that_nobody_has_changes_nothing(ssm, faults, agents):
    liar = agents[0]
    lie(faults, "other", liar)
    command_id = send(ssm, liar.instance_id)
    liar.run(liar.job())
    assert faults.rules()["other"]["struck"] >= 1
    assert command(ssm, command_id)["CompletedCount"] == 0
    faults.delete()
    liar.run(liar.job())
    becomes(ssm, command_id, "Success")


@pytest.mark.parametrize("how", ["twice", "backwards"])
def test_replies_that_come_twice_or_backwards_leave_one_end(ssm, faults, agents, how):
    liar = agents[0]
    lie(faults, how, liar, seconds=0.3)
    command_id = send(ssm, liar.instance_id)
    job = liar.job()
    liar.take(job)
    liar.reply(job.job.job_id, "InProgress")
    liar.reply(job.job.job_id, "InProgress", aws__runShellScript=shell_step("Failed", 3, out="part"))
    liar.reply(job.job.job_id, "Failed", aws__runShellScript=shell_step("Failed", 3, out="part"))
    done = becomes(ssm, command_id, "Failed")
    assert (done["CompletedCount"], done["ErrorCount"]) == (1, 1)
    assert faults.rules()[how]["struck"] >= 3
    assert liar.is_quiet(1.0)
    assert command(ssm, command_id)["StatusDetails"] == "Failed"


def test_replies_that_come_late_are_waited_for(ssm, faults, agents):
    liar = agents[0]
    lie(faults, "late", liar, seconds=1.5)
    command_id = send(ssm, liar.instance_id)
    job = liar.job()
    liar.take(job)
    liar.reply(job.job.job_id, "Success", aws__runShellScript=shell_step("Success", 0))
    until(lambda: details(ssm, command_id)[liar.instance_id] == "InProgress")
    assert faults.rules()["late"]["struck"] == 1
    becomes(ssm, command_id, "Success")


def test_a_node_lies_about_its_compliance_and_about_itself(aws, ssm, faults):
    for instance_id in NODES:
        AgentClient(aws).report(instance_id, AgentVersion="3.3.987.0", PlatformName="Debian")
    liar, honest = (AgentClient(aws).as_node(aws, instance_id) for instance_id in NODES)
    faults.put("compliant", "lie", how="compliant", match={"node": NODES[0]})
    faults.put("report", "lie", how="report", information={"PlatformVersion": "99"}, match={"node": NODES[0]})
    for node, instance_id in ((liar, NODES[0]), (honest, NODES[1])):
        put = {
            "ResourceId": instance_id,
            "ResourceType": "ManagedInstance",
            "ComplianceType": "Custom:Lies",
            "ExecutionSummary": {"ExecutionTime": 1795455830},
            "Items": [{"Id": "a", "Severity": "HIGH", "Status": "NON_COMPLIANT"}],
        }
        assert node.call("AmazonSSM.PutComplianceItems", put) == (200, {})
        assert node.report(instance_id, AgentVersion="3.3.987.0", PlatformVersion="12") == (200, {})
    found = ssm.list_compliance_items(Filters=[{"Key": "ComplianceType", "Values": ["Custom:Lies"]}])["ComplianceItems"]
    assert [(item["ResourceId"], item["Status"]) for item in found] == [
        (NODES[0], "COMPLIANT"),
        (NODES[1], "NON_COMPLIANT"),
    ]
    told = ssm.describe_instance_information(Filters=[{"Key": "InstanceIds", "Values": NODES}])
    versions = {item["InstanceId"]: item["PlatformVersion"] for item in told["InstanceInformationList"]}
    assert versions == {NODES[0]: "99", NODES[1]: "12"}


def test_a_node_that_names_another_is_refused_in_all_that_it_says(aws, ssm, faults):
    for instance_id in NODES:
        AgentClient(aws).report(instance_id, AgentVersion="3.3.987.0")
    liar = AgentClient(aws).as_node(aws, NODES[0])
    item = {"TypeName": "AWS:Network", "SchemaVersion": "1.0", "CaptureTime": "2026-11-23T17:30:37Z"}
    calls = {
        "UpdateInstanceInformation": {"InstanceId": NODES[0], "AgentVersion": "6.6.6.6"},
        "PutInventory": {"InstanceId": NODES[0], "Items": [{**item, "Content": [{"Name": "forged"}]}]},
        "PutComplianceItems": {
            "ResourceId": NODES[0],
            "ResourceType": "ManagedInstance",
            "ComplianceType": "Custom:Forged",
            "ExecutionSummary": {"ExecutionTime": 1795455830},
            "Items": [{"Id": "a", "Severity": "HIGH", "Status": "COMPLIANT"}],
        },
        "ListInstanceAssociations": {"InstanceId": NODES[0]},
    }
    with faults.on("lie", how="claim", claims=NODES[1], match={"node": NODES[0]}):
        for operation, parameters in calls.items():
            status, answer = liar.call(f"AmazonSSM.{operation}", parameters)
            assert (status, answer["__type"]) == (400, "AccessDeniedException"), operation
    told = ssm.describe_instance_information(Filters=[{"Key": "InstanceIds", "Values": NODES}])
    assert {item["AgentVersion"] for item in told["InstanceInformationList"]} == {"3.3.987.0"}
    for instance_id in NODES:
        assert ssm.list_inventory_entries(InstanceId=instance_id, TypeName="AWS:Network")["Entries"] == []
    assert liar.call("AmazonSSM.ListInstanceAssociations", {"InstanceId": NODES[0]}) == (200, {"Associations": []})


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({}, "lie needs how"),
        ({"how": "politely"}, "how is one of nothing, other, twice, late, backwards"),
        ({"how": "claim"}, "claim needs claims"),
        ({"how": "claim", "claims": "a b"}, "claims is the id of another node"),
        ({"how": "late", "seconds": -1}, "seconds is a number from 0 to 300"),
        ({"how": "report", "information": {"AgentVersion": 3}}, "information holds texts"),
        ({"how": "twice", "match": {"caller": "*"}}, "match holds patterns of account, region, node"),
        ({"how": "twice", "rate": 1}, "lie takes no rate"),
    ],
)
def test_a_lie_that_is_none_is_told_so(aws, faults, rule, words):
    with pytest.raises(FaultsRefused, match=words):
        faults.put("wrong", "lie", **rule)
    assert faults.rules() == {}
