"""What the steps of a runbook do, by boto3 against a real endpoint."""

import json

import pytest

from tests.endpoint.jobs import HandAgent

from .runbooks import api, becomes, ended, get, make, of_step, run, sleep, start, statuses, step


@pytest.fixture
def ssm(aws):
    return aws.client("ssm")


def test_an_api_is_called_and_its_answer_used_by_the_next_steps(ssm, aws):
    found = ended(
        ssm,
        run(
            ssm,
            api("make", "sqs", "create_queue", {"Url": ("$.QueueUrl", "String")}, QueueName="auto-{{ global:REGION }}"),
            api(
                "look",
                "sqs",
                "GetQueueAttributes",
                {"Wait": ("$.Attributes.VisibilityTimeout", "Integer")},
                QueueUrl="{{ make.Url }}",
                AttributeNames=["VisibilityTimeout"],
            ),
            api("who", "sts", "GetCallerIdentity", {"Arn": ("$.Arn", "String"), "All": ("$..Account", "StringList")}),
            api("role", "iam", "GetRole", {"Made": ("$.Role.CreateDate", "String")}, RoleName="ssm-core"),
            api("buckets", "s3", "ListBuckets", {"Names": ("$.Buckets[*].Name", "StringList")}),
            outputs=["make.Url", "look.Wait", "who.Arn", "who.All"],
        ),
    )
    assert found["AutomationExecutionStatus"] == "Success", found
    url = aws.client("sqs").get_queue_url(QueueName="auto-eu-west-1")["QueueUrl"]
    assert found["Outputs"] == {
        "make.Url": [url],
        "look.Wait": ["30"],
        "who.Arn": ["arn:aws:iam::111122223333:user/admin"],
        "who.All": ["111122223333"],
    }
    look = of_step(found, "look")
    assert json.loads(look["Inputs"]["QueueUrl"]) == url
    assert json.loads(look["Outputs"]["OutputPayload"][0])["Attributes"] == {"VisibilityTimeout": "30"}
    assert look["ExecutionStartTime"] <= look["ExecutionEndTime"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (api("x", "iam", "GetRole", RoleName="nobody"), "An error occurred (NoSuchEntity) when calling the GetRole"),
        (api("x", "iam", "GetRole"), "Missing required parameter in input"),
        (api("x", "iam", "MakeTea"), "iam has no API MakeTea"),
        (api("x", "dynamodb", "ListTables"), "This endpoint does not serve dynamodb"),
        (api("x", "s3", "GetObject", Bucket="b", Key="k"), "answers with a stream"),
        (api("x", "iam", "GetRole", {"No": ("$.Role.Colour", "String")}, RoleName="ssm-core"), "No results for path"),
        (api("x", "iam", "GetRole", {"No": ("$.Role", "Integer")}, RoleName="ssm-core"), "is no Integer"),
        (step("x", "executeScript", {"Runtime": "python3.11"}), "This endpoint does not run aws:executeScript"),
        (step("x", "sleep", {"Duration": "P8D"}), "at most 604799 seconds"),
    ],
    ids=lambda value: value if isinstance(value, str) else "step",
)
def test_what_fails_is_told_in_words(ssm, asked, words):
    found = ended(ssm, run(ssm, asked, sleep("after")))
    assert (found["AutomationExecutionStatus"], statuses(found)) == ("Failed", {"x": "Failed", "after": "Pending"})
    failed = of_step(found, "x")
    assert words in failed["FailureMessage"] and found["FailureMessage"] == failed["FailureMessage"]
    assert failed["FailureMessage"].startswith("Step fails when it is Execute/Cancelling action. ")
    assert words in failed["FailureDetails"]["Details"]["VerificationErrorMessage"][0]


def test_ways_after_a_failure(ssm):
    def fails(name, **more):
        return api(name, "iam", "GetRole", RoleName="nobody", step_=more)

    goes_on = ended(
        ssm, run(ssm, fails("one", onFailure="Continue"), sleep("two"), sleep("three", isEnd=True), sleep("no"))
    )
    assert goes_on["AutomationExecutionStatus"] == "Success"
    assert statuses(goes_on) == {"one": "Failed", "two": "Success", "three": "Success", "no": "Pending"}
    critical = ended(ssm, run(ssm, fails("one", onFailure="Continue", isCritical=True), sleep("two")))
    assert (critical["AutomationExecutionStatus"], statuses(critical)["two"]) == ("Failed", "Success")
    elsewhere = ended(
        ssm, run(ssm, fails("one", onFailure="step:three", isCritical=False), sleep("two"), sleep("three"))
    )
    assert statuses(elsewhere) == {"one": "Failed", "two": "Pending", "three": "Success"}
    assert elsewhere["AutomationExecutionStatus"] == "Success"


def test_a_branch_takes_the_first_choice_that_holds(ssm):
    choices = [
        {"NextStep": "big", "Variable": "{{ Size }}", "NumericGreater": 10},
        {
            "NextStep": "named",
            "And": [
                {"Variable": "{{ Name }}", "StartsWith": "x"},
                {"Not": {"Variable": "{{ Size }}", "NumericEquals": 0}},
            ],
        },
    ]
    name = make(
        ssm,
        step("choose", "branch", {"Choices": choices, "Default": "other"}),
        sleep("big", isEnd=True),
        sleep("named", isEnd=True),
        sleep("other"),
        parameters={"Size": {"type": "Integer"}, "Name": {"type": "String", "default": ""}},
    )
    for parameters, taken in (
        ({"Size": ["11"]}, "big"),
        ({"Size": ["1"], "Name": ["xy"]}, "named"),
        ({"Size": ["0"]}, "other"),
    ):
        found = ended(ssm, start(ssm, name, Parameters=parameters))
        assert [key for key, value in statuses(found).items() if value == "Success"] == ["choose", taken]


def test_a_property_is_asserted_and_waited_for(ssm, aws):
    queue = aws.client("sqs").create_queue(QueueName="auto-waited")["QueueUrl"]
    asked = {
        "Service": "sqs",
        "Api": "GetQueueAttributes",
        "QueueUrl": queue,
        "AttributeNames": ["VisibilityTimeout"],
        "PropertySelector": "$.Attributes.VisibilityTimeout",
    }
    wrong = ended(ssm, run(ssm, step("check", "assertAwsResourceProperty", {**asked, "DesiredValues": ["7"]})))
    assert (
        "Property value '30' from the API output is not in the desired values. Desired values: ['7']."
        in wrong["FailureMessage"]
    )
    waits = run(
        ssm,
        step("check", "assertAwsResourceProperty", {**asked, "DesiredValues": [7, 30]}),
        step("wait", "waitForAwsResourceProperty", {**asked, "DesiredValues": ["7"]}),
    )
    until_waits = becomes(ssm, waits, "InProgress")
    assert until_waits["AutomationExecutionStatus"] == "InProgress"
    aws.client("sqs").set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "7"})
    assert ended(ssm, waits)["AutomationExecutionStatus"] == "Success"
    late = step("wait", "waitForAwsResourceProperty", {**asked, "DesiredValues": ["never"]}, timeoutSeconds=1)
    found = ended(ssm, run(ssm, late))
    assert (found["AutomationExecutionStatus"], statuses(found)) == ("TimedOut", {"wait": "TimedOut"})


def test_a_failing_step_is_tried_as_often_as_it_says(ssm, aws):
    found = ended(ssm, run(ssm, api("look", "iam", "GetRole", RoleName="tried-twice", step_={"maxAttempts": 2})))
    assert found["AutomationExecutionStatus"] == "Failed"
    attribute = [{"AttributeKey": "EventName", "AttributeValue": "GetRole"}]
    events = aws.client("cloudtrail").lookup_events(LookupAttributes=attribute)["Events"]
    assert len([one for one in events if "tried-twice" in one["CloudTrailEvent"]]) == 2


def test_a_loop_for_each_value_and_one_while_a_condition_holds(ssm):
    each = step(
        "each",
        "loop",
        {
            "Iterators": "{{ Names }}",
            "IteratorDataType": "String",
            "Steps": [
                api(
                    "make",
                    "sqs",
                    "CreateQueue",
                    {"Url": ("$.QueueUrl", "String")},
                    QueueName="{{ each.CurrentIteratorValue }}",
                )
            ],
        },
    )
    again = step(
        "again",
        "loop",
        {
            "LoopCondition": {"Variable": "{{ again.CurrentIteration }}", "NumericLesser": 3},
            "MaxIterations": 10,
            "Steps": [
                step("note", "updateVariable", {"Name": "variable:seen", "Value": "{{ again.CurrentIteration }}"})
            ],
        },
    )
    parameters = {"Names": {"type": "StringList", "default": ["auto-a", "auto-b"]}}
    found = ended(
        ssm, run(ssm, each, again, parameters=parameters, variables={"seen": {"type": "Integer", "default": 0}})
    )
    assert found["AutomationExecutionStatus"] == "Success", found
    inner = [one for one in found["StepExecutions"] if one["StepName"] == "make"]
    assert [one["ParentStepDetails"]["IteratorValue"] for one in inner] == ["auto-a", "auto-b"]
    assert [one["Outputs"]["Url"][0].rpartition("/")[2] for one in inner] == ["auto-a", "auto-b"]
    notes = [one["ParentStepDetails"]["Iteration"] for one in found["StepExecutions"] if one["StepName"] == "note"]
    assert (notes, found["Variables"]) == ([1, 2, 3], {"seen": ["3"]})
    below = of_step(found, "each")["StepExecutionId"]
    filters = [{"Key": "ParentStepExecutionId", "Values": [below]}, {"Key": "ParentStepIteration", "Values": ["2"]}]
    (second,) = ssm.describe_automation_step_executions(
        AutomationExecutionId=found["AutomationExecutionId"], Filters=filters
    )["StepExecutions"]
    assert second["ParentStepDetails"]["IteratorValue"] == "auto-b"


def test_a_failure_within_a_loop_is_the_loops(ssm):
    inner = [api("look", "iam", "GetRole", RoleName="{{ each.CurrentIteratorValue }}")]
    found = ended(ssm, run(ssm, step("each", "loop", {"Iterators": ["ssm-core", "nobody", "x"], "Steps": inner})))
    assert [one["StepStatus"] for one in found["StepExecutions"]] == ["Failed", "Success", "Failed"]
    assert "in iteration 2" in found["FailureMessage"]


@pytest.fixture
def agent(aws):
    connected = HandAgent(aws, aws.instance_id("web-checkout-eu1b-08")).connect()
    yield connected
    connected.close()


def command(instance_id, **more):
    inputs = {"DocumentName": "AWS-RunShellScript", "InstanceIds": [instance_id], "Parameters": {"commands": "echo hi"}}
    return step("ask", "runCommand", inputs, **more)


def test_a_command_is_run_and_its_end_awaited(ssm, agent):
    execution = run(ssm, command(agent.instance_id), outputs=["ask.Output", "ask.ResponseCode"])
    job = agent.job()
    agent.run(job, out="hi\n")
    found = ended(ssm, execution)
    assert (found["AutomationExecutionStatus"], found["Outputs"]["ask.Output"]) == ("Success", ["hi\n"])
    assert of_step(found, "ask")["ResponseCode"] == "0"
    sent = ssm.list_commands(CommandId=of_step(found, "ask")["Outputs"]["CommandId"][0])["Commands"][0]
    assert (sent["Parameters"], sent["Status"]) == ({"commands": ["echo hi"]}, "Success")


def test_a_command_that_fails_fails_the_step(ssm, agent):
    execution = run(ssm, command(agent.instance_id))
    job = agent.job()
    agent.run(job, "Failed", 3, "no\n")
    found = ended(ssm, execution)
    assert found["FailureMessage"].startswith("Step fails when it is Poll action status for completion. ")
    assert "Status=[Failed], ResponseCode=[3]" in found["FailureMessage"]


def test_a_command_is_cancelled_with_its_automation(ssm, agent):
    execution = run(ssm, command(agent.instance_id, onCancel="step:tidy"), sleep("no", isEnd=True), sleep("tidy"))
    job = agent.job()
    agent.take(job)
    ssm.stop_automation_execution(AutomationExecutionId=execution)
    found = ended(ssm, execution)
    assert found["AutomationExecutionStatus"] == "Cancelled"
    assert statuses(found) == {"ask": "Cancelled", "no": "Pending", "tidy": "Success"}
    (sent,) = ssm.list_commands(InstanceId=agent.instance_id, MaxResults=1)["Commands"]
    assert sent["Status"] in {"Cancelling", "Cancelled"}
    agent.reply(job.job.job_id, "Cancelled")


def test_an_automation_starts_another_with_its_parameters(ssm):
    inner = make(
        ssm,
        api("who", "iam", "GetRole", {"Arn": ("$.Role.Arn", "String")}, RoleName="{{ Name }}"),
        parameters={"Name": {"type": "String"}},
        outputs=["who.Arn"],
    )
    calls = step("call", "executeAutomation", {"DocumentName": inner, "RuntimeParameters": {"Name": "{{ Role }}"}})
    outer = make(ssm, calls, parameters={"Role": {"type": "String"}}, outputs=["call.Output", "call.Status"])
    found = ended(ssm, start(ssm, outer, Parameters={"Role": ["ssm-core"]}))
    assert found["Outputs"] == {"call.Output": ["arn:aws:iam::111122223333:role/ssm-core"], "call.Status": ["Success"]}
    (child,) = ssm.describe_automation_executions(
        Filters=[{"Key": "ParentExecutionId", "Values": [found["AutomationExecutionId"]]}]
    )["AutomationExecutionMetadataList"]
    assert child["AutomationExecutionId"] == of_step(found, "call")["Outputs"]["ExecutionId"][0]
    assert child["ParentAutomationExecutionId"] == found["AutomationExecutionId"]
    failed = ended(ssm, start(ssm, outer, Parameters={"Role": ["nobody"]}))
    assert failed["FailureMessage"].startswith("Step fails when it is Execution complete: verified. Failed to run ")


def test_automations_do_not_start_each_other_in_a_circle(ssm):
    name = make(ssm, sleep("nap"))
    content = {
        "schemaVersion": "0.3",
        "mainSteps": [step("self", "executeAutomation", {"DocumentName": name})],
    }
    ssm.update_document(Name=name, Content=json.dumps(content), DocumentVersion="$LATEST")
    ssm.update_document_default_version(Name=name, DocumentVersion="2")
    found = ended(ssm, start(ssm, name))
    assert "in a circle" in found["FailureMessage"]


def test_awss_runbook_attaches_a_role_and_replaces_one_only_if_told(ssm, aws):
    ec2, iam = aws.client("ec2"), aws.client("iam")
    trust = {
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]
    }
    for role in ("auto-first", "auto-second"):
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))
    instance = aws.instance_id("kafka-events-eu1c-3")

    def attach(role, **more):
        return ended(
            ssm,
            start(ssm, "AWS-AttachIAMToInstance", Parameters={"InstanceId": [instance], "RoleName": [role], **more}),
        )

    def held():
        filters = [{"Name": "instance-id", "Values": [instance]}, {"Name": "state", "Values": ["associated"]}]
        found = ec2.describe_iam_instance_profile_associations(Filters=filters)["IamInstanceProfileAssociations"]
        return [(one["AssociationId"], one["IamInstanceProfile"]["Arn"].rpartition("/")[2]) for one in found]

    try:
        first = attach("auto-first")
        assert first["AutomationExecutionStatus"] == "Success", first
        assert held() == [(first["Outputs"]["verifyIAMProfile.AssociationId"][0], "auto-first")]
        assert attach("auto-second")["AutomationExecutionStatus"] == "Failed"
        assert [name for _, name in held()] == ["auto-first"]
        assert attach("auto-second", ForceReplace=["true"])["AutomationExecutionStatus"] == "Success"
        assert [name for _, name in held()] == ["auto-second"]
    finally:
        for association, _ in held():
            ec2.disassociate_iam_instance_profile(AssociationId=association)
    assert get(ssm, first["AutomationExecutionId"])["DocumentName"] == "AWS-AttachIAMToInstance"


@pytest.fixture
def instance(aws):
    ec2 = aws.client("ec2")
    image = ec2.describe_instances()["Reservations"][0]["Instances"][0]["ImageId"]
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    yield made
    ec2.terminate_instances(InstanceIds=[made])


def test_awss_runbooks_stop_start_and_restart_instances_and_a_step_tags_them(ssm, aws, instance):
    ec2 = aws.client("ec2")

    def state():
        return ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]["State"]["Name"]

    for name, becomes_ in (("Stop", "stopped"), ("Start", "running"), ("Restart", "running")):
        found = ended(ssm, start(ssm, f"AWS-{name}EC2Instance", Parameters={"InstanceId": [instance]}))
        assert (found["AutomationExecutionStatus"], state()) == ("Success", becomes_), found
    assert of_step(found, "startInstances")["Outputs"]["InstanceStates"] == ["running"]
    tags = {"ResourceIds": [instance], "Tags": [{"Key": "seen", "Value": "yes"}]}
    assert ended(ssm, run(ssm, step("tag", "createTags", tags)))["AutomationExecutionStatus"] == "Success"
    tagged = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [instance]}])["Tags"]
    assert [(tag["Key"], tag["Value"]) for tag in tagged] == [("seen", "yes")]
