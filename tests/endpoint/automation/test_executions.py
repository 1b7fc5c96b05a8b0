"""Executions by the API: as whom they act, their parameters and targets, signals, stopping, lists."""

import json
from uuid import uuid4

import pytest

from tests.endpoint.jobs import until

from .runbooks import api, becomes, ended, get, make, of_step, refusal, run, sleep, start, statuses, step

WRONG = "InvalidAutomationExecutionParametersException"


@pytest.fixture
def ssm(aws):
    return aws.client("ssm")


def allow(*actions, resource="*", effect="Allow"):
    return {"Effect": effect, "Action": list(actions), "Resource": resource}


def policy(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


@pytest.fixture
def person(aws):
    """A user with the policy given; its client."""
    iam = aws.client("iam")
    made = []

    def make_person(*statements, name="", service="ssm"):
        name = name or f"auto-{uuid4().hex[:8]}"
        iam.create_user(UserName=name)
        made.append(name)
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy(*statements))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        keys = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
        return aws.client(service, user=name, **keys)

    yield make_person
    for name in made:
        iam.delete_user_policy(UserName=name, PolicyName="p")


def role(aws, name, trusted, *statements):
    iam = aws.client("iam")
    trust = policy({"Effect": "Allow", "Principal": {"Service": trusted}, "Action": "sts:AssumeRole"})
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    if statements:
        iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=policy(*statements))
    return arn


def trail(aws, name, containing):
    found = aws.client("cloudtrail").lookup_events(
        LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": name}]
    )
    events = [json.loads(one["CloudTrailEvent"]) for one in found["Events"]]
    return next(event for event in events if containing in json.dumps(event))


# --- As whom it acts ---


def test_an_automation_may_do_what_its_starter_may_and_cloudtrail_names_them(ssm, aws, person):
    name = make(ssm, api("make", "sqs", "CreateQueue", QueueName="auto-by-person"), api("look", "iam", "ListRoles"))
    client = person(
        allow("ssm:StartAutomationExecution", "ssm:GetAutomationExecution", "sqs:CreateQueue"), name="auto-maria"
    )
    found = ended(client, start(client, name))
    assert statuses(found) == {"make": "Success", "look": "Failed"}
    assert "is not authorized to perform: iam:ListRoles" in found["FailureMessage"]
    assert found["ExecutedBy"] == "arn:aws:iam::111122223333:user/auto-maria"
    event = trail(aws, "CreateQueue", "auto-by-person")
    assert event["userIdentity"]["userName"] == "auto-maria"
    assert event["userIdentity"]["invokedBy"] == event["sourceIPAddress"] == "ssm.amazonaws.com"
    code, words = refusal(
        client.describe_automation_step_executions, AutomationExecutionId=found["AutomationExecutionId"]
    )
    assert code == "AccessDeniedException" and "automation-execution/" in words


def test_a_call_for_a_person_is_via_a_service_and_has_no_address(ssm, person):
    statement = allow("sqs:CreateQueue", effect="Deny") | {"Condition": {"Bool": {"aws:ViaAWSService": "true"}}}
    client = person(allow("ssm:*", "sqs:*"), statement)
    found = ended(client, start(client, make(ssm, api("make", "sqs", "CreateQueue", QueueName="auto-never"))))
    assert "explicit deny" in found["FailureMessage"]


def test_starting_a_runbook_is_allowed_by_its_name(ssm, person):
    name = make(ssm, sleep("nap"))
    client = person(allow("ssm:StartAutomationExecution", resource=f"arn:aws:ssm:*:*:automation-definition/{name}:*"))
    assert start(client, name)
    assert (
        refusal(client.start_automation_execution, DocumentName=make(ssm, sleep("nap")))[0] == "AccessDeniedException"
    )


def test_an_automation_acts_as_the_role_that_it_is_given(ssm, aws, person):
    arn = role(aws, "auto-acts", "ssm.amazonaws.com", allow("sqs:CreateQueue"))
    name = make(
        ssm,
        api("who", "sts", "GetCallerIdentity", {"Arn": ("$.Arn", "String")}),
        api("make", "sqs", "CreateQueue", QueueName="auto-by-role"),
        assumeRole="{{ Role }}",
        parameters={"Role": {"type": "AWS::IAM::Role::Arn", "default": ""}},
        outputs=["who.Arn"],
    )
    client = person(allow("ssm:*"), allow("iam:PassRole", resource=arn))
    execution = start(client, name, Parameters={"Role": [arn]})
    found = ended(client, execution)
    assert found["AutomationExecutionStatus"] == "Success", found
    acting = f"arn:aws:sts::111122223333:assumed-role/auto-acts/Automation-{execution}"
    assert found["Outputs"] == {"who.Arn": [acting]}
    event = trail(aws, "CreateQueue", "auto-by-role")
    assert event["userIdentity"]["arn"] == acting and event["userIdentity"]["invokedBy"] == "ssm.amazonaws.com"
    assumed = trail(aws, "AssumeRole", f"Automation-{execution}")
    assert assumed["userIdentity"] == {"type": "AWSService", "invokedBy": "ssm.amazonaws.com"}
    assert assumed["requestParameters"]["roleArn"] == arn


def test_a_role_is_given_by_who_may_pass_it_and_taken_if_it_trusts_automation(ssm, aws, person):
    name = make(
        ssm, sleep("nap"), assumeRole="{{ Role }}", parameters={"Role": {"type": "AWS::IAM::Role::Arn", "default": ""}}
    )
    arn = role(aws, "auto-of-ec2", "ec2.amazonaws.com")
    wrong = "The defined assume role is unable to be assumed."
    assert refusal(ssm.start_automation_execution, DocumentName=name, Parameters={"Role": [arn]}) == (WRONG, wrong)
    there_is_none = arn.replace("auto-of-ec2", "nobody")
    assert refusal(ssm.start_automation_execution, DocumentName=name, Parameters={"Role": [there_is_none]}) == (
        WRONG,
        wrong,
    )
    client = person(allow("ssm:*"))
    code, words = refusal(client.start_automation_execution, DocumentName=name, Parameters={"Role": [arn]})
    assert code == "AccessDeniedException" and "iam:PassRole" in words


# --- What is asked for ---


def test_what_cannot_be_started_is_refused_in_awss_words(ssm):
    name = make(ssm, sleep("nap"), parameters={"Size": {"type": "Integer"}})
    begin = ssm.start_automation_execution
    assert refusal(begin, DocumentName="Nothing")[0] == "AutomationDefinitionNotFoundException"
    assert refusal(begin, DocumentName="AWS-RunShellScript")[0] == "AutomationDefinitionNotFoundException"
    assert refusal(begin, DocumentName=name, DocumentVersion="7")[0] == "AutomationDefinitionVersionNotFoundException"
    assert refusal(begin, DocumentName=name) == (WRONG, "Size is required")
    assert refusal(begin, DocumentName=name, Parameters={"Size": ["big"]}) == (WRONG, "Size is no Integer")
    locations = [{"Accounts": ["111122223333"], "Regions": ["eu-west-1"], "ExecutionRoleName": "x"}]
    assert refusal(begin, DocumentName=name, Parameters={"Size": ["1"]}, TargetLocations=locations)[0] == WRONG
    assert (
        refusal(ssm.get_automation_execution, AutomationExecutionId=str(uuid4()))[0]
        == "AutomationExecutionNotFoundException"
    )
    wrong = json.dumps({"schemaVersion": "0.3", "mainSteps": [step("a", "teleport")]})
    code, words = refusal(ssm.create_document, Name="Wrong", Content=wrong, DocumentType="Automation")
    assert code == "InvalidDocumentContent" and "aws:teleport is not an action" in words


def test_the_same_token_starts_one_execution(ssm):
    name, token = make(ssm, sleep("nap"), parameters={"Size": {"type": "Integer", "default": 1}}), str(uuid4())
    first = start(ssm, name, ClientToken=token)
    assert start(ssm, name, ClientToken=token.upper()) == first
    other = {"DocumentName": name, "ClientToken": token, "Parameters": {"Size": ["2"]}}
    assert refusal(ssm.start_automation_execution, **other)[0] == "IdempotentParameterMismatch"


def test_describe_document_tells_of_a_runbooks_parameters(ssm):
    name = make(ssm, sleep("nap"), parameters={"Ids": {"type": "List<AWS::EC2::Instance::Id>", "default": []}})
    (parameter,) = ssm.describe_document(Name=name)["Document"]["Parameters"]
    assert (parameter["Name"], parameter["Type"], parameter["DefaultValue"]) == ("Ids", "StringList", "[]")


# --- Targets ---


def of_target(ssm, **more):
    asked = api("look", "iam", "GetRole", RoleName="{{ Name }}")
    return make(ssm, asked, parameters={"Name": {"type": "String"}}, **more)


def test_each_target_has_an_execution_of_its_own(ssm):
    name = of_target(ssm)
    targets = [{"Key": "ParameterValues", "Values": ["ssm-core", "nobody", "fleetops"]}]
    more = {"TargetParameterName": "Name", "Targets": targets, "MaxConcurrency": "2", "MaxErrors": "1"}
    found = ended(ssm, start(ssm, name, **more))
    assert statuses(found)["ssm-core"] == "Success" and statuses(found)["nobody"] == "Failed"
    counters = found["ProgressCounters"]
    assert (counters["TotalSteps"], counters["FailedSteps"]) == (3, list(statuses(found).values()).count("Failed"))
    assert found["ResolvedTargets"] == {"ParameterValues": ["ssm-core", "nobody", "fleetops"], "Truncated": False}
    filters = [{"Key": "ParentExecutionId", "Values": [found["AutomationExecutionId"]]}]
    children = ssm.describe_automation_executions(Filters=filters)["AutomationExecutionMetadataList"]
    assert {child["Target"] for child in children} == {"ssm-core", "nobody", "fleetops"}
    assert {of_step(found, one)["Outputs"]["ExecutionId"][0] for one in statuses(found)} == {
        child["AutomationExecutionId"] for child in children
    }


def test_no_other_target_is_begun_once_too_many_have_failed(ssm):
    more = {
        "TargetParameterName": "Name",
        "Targets": [{"Key": "ParameterValues", "Values": ["nobody", "ssm-core"]}],
        "MaxConcurrency": "1",
    }
    found = ended(ssm, start(ssm, of_target(ssm), **more))
    assert (found["AutomationExecutionStatus"], statuses(found)) == (
        "Failed",
        {"nobody": "Failed", "ssm-core": "Cancelled"},
    )


def test_targets_by_tag_and_by_maps(ssm, aws):
    name = make(ssm, sleep("nap"), parameters={"InstanceId": {"type": "AWS::EC2::Instance::Id"}})
    by_tag = {"TargetParameterName": "InstanceId", "Targets": [{"Key": "tag:Name", "Values": ["kafka-events-eu1c-3"]}]}
    found = ended(ssm, start(ssm, name, **by_tag))
    assert found["ResolvedTargets"]["ParameterValues"] == [aws.instance_id("kafka-events-eu1c-3")]
    maps = [{"InstanceId": ["i-1"]}, {"InstanceId": ["i-2"]}]
    found = ended(ssm, start(ssm, name, TargetMaps=maps))
    assert (found["AutomationExecutionStatus"], set(statuses(found))) == ("Success", {"i-1", "i-2"})
    begin = ssm.start_automation_execution
    nothing = by_tag | {"Targets": [{"Key": "tag:Name", "Values": ["nothing"]}]}
    assert refusal(begin, DocumentName=name, **nothing)[0] == "InvalidTarget"
    groups = by_tag | {"Targets": [{"Key": "ResourceGroup", "Values": ["x"]}]}
    assert refusal(begin, DocumentName=name, **groups)[0] == "InvalidTarget"
    assert refusal(begin, DocumentName=name, **(by_tag | {"TargetParameterName": "Colour"}))[0] == WRONG
    assert refusal(begin, DocumentName=name, TargetMaps=maps, **by_tag)[0] == WRONG


def test_targets_are_cancelled_with_the_whole(ssm):
    name = make(ssm, sleep("nap", "PT1H"), parameters={"Name": {"type": "String"}})
    targets = [{"Key": "ParameterValues", "Values": ["a", "b", "c"]}]
    execution = start(ssm, name, TargetParameterName="Name", Targets=targets, MaxConcurrency="2")
    until(lambda: list(statuses(get(ssm, execution)).values()).count("InProgress") == 2)
    ssm.stop_automation_execution(AutomationExecutionId=execution)
    found = ended(ssm, execution)
    assert (found["AutomationExecutionStatus"], set(statuses(found).values())) == ("Cancelled", {"Cancelled"})


# --- Signals and stopping ---


def approval(*approvers, **more):
    return step("ask", "approve", {"Approvers": list(approvers), "Message": "may we?", **more})


def test_as_many_approve_as_must_and_each_counts_once(ssm, aws, person):
    client = person(allow("ssm:*"), name="auto-approver")
    arn = "arn:aws:iam::111122223333:user/admin"
    execution = run(
        ssm, approval(arn, "auto-approver", MinRequiredApprovals=2), sleep("after"), outputs=["ask.ApprovalStatus"]
    )
    assert statuses(becomes(ssm, execution, "Waiting")) == {"ask": "Waiting", "after": "Pending"}
    approve = {"AutomationExecutionId": execution, "SignalType": "Approve", "Payload": {"Comment": ["fine"]}}
    ssm.send_automation_signal(**approve)
    assert refusal(ssm.send_automation_signal, **approve)[0] == "InvalidAutomationSignalException"
    stranger = person(allow("ssm:*"))
    assert "is no approver" in refusal(stranger.send_automation_signal, **approve)[1]
    assert get(ssm, execution)["AutomationExecutionStatus"] == "Waiting"
    client.send_automation_signal(**approve)
    found = ended(ssm, execution)
    assert (found["AutomationExecutionStatus"], found["Outputs"]["ask.ApprovalStatus"]) == ("Success", ["Approved"])
    decisions = [json.loads(one) for one in of_step(found, "ask")["Outputs"]["ApproverDecisions"]]
    assert (decisions[0]["Approver"], decisions[0]["Comment"], len(decisions)) == (arn, "fine", 2)


def test_one_rejection_is_enough(ssm):
    execution = run(ssm, approval("admin"), sleep("after"))
    becomes(ssm, execution, "Waiting")
    ssm.send_automation_signal(AutomationExecutionId=execution, SignalType="Reject", Payload={"Comment": ["not today"]})
    found = ended(ssm, execution)
    assert (found["AutomationExecutionStatus"], statuses(found)["after"]) == ("Failed", "Pending")
    assert "rejected by arn:aws:iam::111122223333:user/admin: not today" in found["FailureMessage"]


def test_a_pause_ends_by_resume(ssm):
    execution = run(ssm, step("hold", "pause"), sleep("after"))
    becomes(ssm, execution, "Waiting")
    wrong = refusal(ssm.send_automation_signal, AutomationExecutionId=execution, SignalType="Approve")
    assert wrong[0] == "InvalidAutomationSignalException"
    ssm.send_automation_signal(AutomationExecutionId=execution, SignalType="Resume", Payload={"StepName": ["hold"]})
    assert statuses(ended(ssm, execution)) == {"hold": "Success", "after": "Success"}


def test_in_the_mode_interactive_each_step_is_started_by_hand(ssm):
    execution = start(ssm, make(ssm, sleep("one"), sleep("two")), Mode="Interactive")
    for name in ("one", "two"):
        until(lambda name=name: get(ssm, execution).get("CurrentStepName") == name)
        found = becomes(ssm, execution, "Waiting")
        assert statuses(found)[name] == "Pending"
        ssm.send_automation_signal(
            AutomationExecutionId=execution, SignalType="StartStep", Payload={"StepName": [name]}
        )
    found = ended(ssm, execution)
    assert (found["Mode"], found["AutomationExecutionStatus"]) == ("Interactive", "Success")


def test_one_step_is_stopped(ssm):
    execution = run(ssm, sleep("nap", "PT1H", onCancel="step:tidy"), sleep("no", isEnd=True), sleep("tidy"))
    found = until(lambda: (all_ := get(ssm, execution)) and statuses(all_)["nap"] == "InProgress" and all_)
    nap = of_step(found, "nap")["StepExecutionId"]
    payload = {"StepExecutionId": [nap]}
    ssm.send_automation_signal(AutomationExecutionId=execution, SignalType="StopStep", Payload=payload)
    assert statuses(ended(ssm, execution)) == {"nap": "Cancelled", "no": "Pending", "tidy": "Success"}
    late = refusal(ssm.stop_automation_execution, AutomationExecutionId=execution)
    assert late[0] == "InvalidAutomationStatusUpdateException"


def test_an_automation_is_completed_after_its_step(ssm):
    execution = run(ssm, step("hold", "pause"), sleep("never"))
    becomes(ssm, execution, "Waiting")
    ssm.stop_automation_execution(AutomationExecutionId=execution, Type="Complete")
    ssm.send_automation_signal(AutomationExecutionId=execution, SignalType="Resume", Payload={"StepName": ["hold"]})
    found = ended(ssm, execution)
    assert (found["AutomationExecutionStatus"], statuses(found)) == ("Success", {"hold": "Success", "never": "Pending"})


def test_an_automation_is_cancelled_with_the_one_that_it_started(ssm):
    inner = make(ssm, sleep("nap", "PT1H"))
    execution = run(ssm, step("call", "executeAutomation", {"DocumentName": inner}))
    child = until(lambda: of_step(get(ssm, execution), "call").get("Outputs", {}).get("ExecutionId"))[0]
    ssm.stop_automation_execution(AutomationExecutionId=execution)
    assert ended(ssm, execution)["AutomationExecutionStatus"] == "Cancelled"
    assert ended(ssm, child)["AutomationExecutionStatus"] == "Cancelled"


# --- Lists ---


def test_executions_and_steps_are_listed_page_by_page_and_filtered(ssm):
    name = make(ssm, sleep("one"), sleep("two"), sleep("three"))
    mine = [start(ssm, name, Tags=[{"Key": "auto-listed", "Value": "x"}]) for _ in range(3)]
    for execution in mine:
        ended(ssm, execution)
    filters = [{"Key": "DocumentNamePrefix", "Values": [name]}, {"Key": "ExecutionStatus", "Values": ["Success"]}]
    pages = ssm.get_paginator("describe_automation_executions").paginate(
        Filters=filters, PaginationConfig={"PageSize": 2}
    )
    listed = [[one["AutomationExecutionId"] for one in page["AutomationExecutionMetadataList"]] for page in pages]
    assert listed == [[mine[2], mine[1]], [mine[0]]]
    for key, values, count in (
        ("TagKey", ["auto-listed"], 3),
        ("ExecutionId", mine[:2], 2),
        ("AutomationType", ["CrossAccount"], 0),
        ("StartTimeAfter", ["2100-01-01T00:00:00Z"], 0),
    ):
        answer = ssm.describe_automation_executions(Filters=[{"Key": key, "Values": values}])
        assert len(answer["AutomationExecutionMetadataList"]) == count, key
    wrong = [{"Key": "StartTimeAfter", "Values": ["tomorrow"]}]
    assert refusal(ssm.describe_automation_executions, Filters=wrong)[0] == "InvalidFilterValue"
    steps = ssm.get_paginator("describe_automation_step_executions").paginate(
        AutomationExecutionId=mine[0], ReverseOrder=True, PaginationConfig={"PageSize": 2}
    )
    assert [[one["StepName"] for one in page["StepExecutions"]] for page in steps] == [["three", "two"], ["one"]]
    only = ssm.describe_automation_step_executions(
        AutomationExecutionId=mine[0], Filters=[{"Key": "StepName", "Values": ["two"]}]
    )
    assert [one["StepName"] for one in only["StepExecutions"]] == ["two"]


def test_nobody_of_another_account_finds_an_execution(ssm, aws):
    execution = run(ssm, sleep("nap"))
    code, _ = refusal(aws.staging_client("ssm").get_automation_execution, AutomationExecutionId=execution)
    assert code == "AutomationExecutionNotFoundException"
