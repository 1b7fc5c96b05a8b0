"""What FleetOps says that it needs is what its code calls, and what it needs is enough: nothing more, nothing less."""

import ast
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from botocore import xform_name
from botocore.exceptions import ClientError
from botocore.session import Session

from fleetops import clock
from fleetops.aws import commands, documents, ec2, iam, permissions, ssm, sts
from fleetops.aws.errors import AccessDenied
from tests.support.endpoint import until

ROOT = Path(__file__).resolve().parents[2]
# Rooms that answer AWS's calls, or are a node that makes them for itself.
NOT_THE_PRODUCT = {"endpoint", "node", "awsapi"}
SERVICES = (
    "ec2",
    "ssm",
    "sts",
    "iam",
    "logs",
    "s3",
    "sns",
    "sqs",
    "events",
    "cloudtrail",
    "securityhub",
    "kms",
    "cloudwatch",
)


# The action in IAM of an operation that has another name.
ACTIONS = {"sqs:DeleteMessageBatch": "sqs:DeleteMessage", "sns:PublishBatch": "sns:Publish"}


def operations() -> dict[str, set[str]]:
    """boto3's method names, each with the IAM actions that it may be."""
    session, found = Session(), {}
    for service in SERVICES:
        for operation in session.get_service_model(service).operation_names:
            action = f"{service}:{operation}"
            found.setdefault(xform_name(operation), set()).add(ACTIONS.get(action, action))
    return found


def product_files() -> Iterator[Path]:
    for package in ("fleetops", "sessions_app", "patching", "statemgr"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).parts
            if not (parts[0] == "fleetops" and parts[1] in NOT_THE_PRODUCT) and "migrations" not in parts:
                yield path


class Calls(ast.NodeVisitor):
    """The boto3 methods that a module calls, each with the operation that its `aws_call` names."""

    def __init__(self, known: dict[str, set[str]]) -> None:
        self.known, self.stack, self.found = known, [], []
        self.ours: set[str] = set()  # names of modules of `fleetops.aws`: `ssm.start_session(access, …)` is a wrapper

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module == "fleetops.aws" or (node.level and not node.module):
            self.ours |= {alias.asname or alias.name for alias in node.names}

    def visit_With(self, node: ast.With) -> None:
        names = [
            item.context_expr.args[0].value
            for item in node.items
            if isinstance(item.context_expr, ast.Call)
            and getattr(item.context_expr.func, "id", getattr(item.context_expr.func, "attr", "")) == "aws_call"
            and isinstance(item.context_expr.args[0], ast.Constant)
        ]
        self.stack += names
        self.generic_visit(node)
        del self.stack[len(self.stack) - len(names) :]

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name in {"get_paginator", "get_waiter"} and node.args and isinstance(node.args[0], ast.Constant):
                name = node.args[0].value
            is_ours = isinstance(node.func.value, ast.Name) and node.func.value.id in self.ours
            if name in self.known and not is_ours:
                self.found.append((name, self.stack[-1] if self.stack else "", node.lineno))
        self.generic_visit(node)


def calls_in(text: str) -> list[tuple[str, str, int]]:
    visitor = Calls(operations())
    visitor.visit(ast.parse(text))
    return visitor.found


def calls_in_the_code() -> dict[str, str]:
    """Each IAM action that the product's code calls, and where."""
    found, known = {}, operations()
    for path in product_files():
        text = path.read_text()
        if "aws_call" not in text and "aws.clients" not in text:
            continue  # it has no client: only `fleetops.aws` makes them, and test_house keeps boto3 out of the rest
        for name, wrapped, line in calls_in(text):
            where = f"{path.relative_to(ROOT)}:{line}"
            assert wrapped in known[name], f"{where} {name}: wrap it in aws_call(…), which names its operation"
            found[wrapped] = where
    return found


def listed() -> set[str]:
    return {permission.action for permission in permissions.PERMISSIONS}


# --- the list and the code ---


def test_each_call_of_the_code_is_listed_and_each_listed_one_is_made():
    made = calls_in_the_code()
    needed = made.keys() - permissions.NEEDS_NO_PERMISSION - set(permissions.ASSUME_ACTIONS)
    by_hand = {permission.action for permission in permissions.BY_HAND}
    missing = {action: made[action] for action in needed - listed() - by_hand}
    assert not missing, f"add these to PERMISSIONS in fleetops/aws/permissions.py: {missing}"
    assert listed() >= permissions.ASKED_WITHIN
    assert by_hand <= made.keys() and not by_hand & listed()
    assert not listed() - made.keys() - permissions.ASKED_WITHIN, "listed in PERMISSIONS, and never called"
    assert made.keys() >= permissions.NEEDS_NO_PERMISSION and "sts:AssumeRole" in made


def test_a_call_that_nobody_listed_would_be_found():
    text = 'with aws_call("ssm:SendCommand"):\n    client.send_command(DocumentName="x")\n'
    assert calls_in(text) == [("send_command", "ssm:SendCommand", 2)]
    paged = 'client.get_paginator("describe_instances").paginate()'
    assert calls_in(paged) == [("describe_instances", "", 1)]


def test_no_action_is_listed_twice_and_each_is_one_of_awss():
    actions = [permission.action for permission in permissions.PERMISSIONS]
    assert len(actions) == len(set(actions))
    known = {action for names in operations().values() for action in names}
    assert set(actions) <= known | permissions.ASKED_WITHIN
    for permission in permissions.PERMISSIONS:
        assert permission.purpose and permission.missing.endswith(".")


# --- what is made of the list ---


def test_the_policy_holds_each_action_once_and_is_of_the_one_account():
    policy = permissions.policy("222233334444", role="arn:aws:iam::222233334444:role/ops/FleetOps")
    statements = policy["Statement"]
    assert sorted(action for each in statements for action in each["Action"]) == sorted(listed())
    assert len({each["Sid"] for each in statements}) == len(statements)
    assert all(re.fullmatch(r"[A-Za-z0-9]+", each["Sid"]) for each in statements)
    resources = [
        arn
        for each in statements
        for arn in ([each["Resource"]] if isinstance(each["Resource"], str) else each["Resource"])
    ]
    # AWS's own documents are of no account, its baselines of accounts of its own, and a bucket's ARN names none.
    free_arns = ("::document/", "::automation-definition/", ":*:patchbaseline/", ":s3:::fleetops-", "::aws:policy/")
    of_one = [arn for arn in resources if arn != "*" and not any(part in arn for part in free_arns)]
    assert {arn.split(":")[4] for arn in of_one} == {"222233334444"}
    assert "arn:aws:iam::222233334444:role/ops/FleetOps" in resources
    # Only these calls of EC2 and SSM know no resource: those that list, and those on a command.
    free = {action.partition(":")[2] for each in statements if each["Resource"] == "*" for action in each["Action"]}
    free -= {
        "LookupEvents",
        "CreateActivation",
        "DeleteActivation",
        "CreatePatchBaseline",
        "GetAccountAuthorizationDetails",
    }
    assert all(action.startswith(("Describe", "List")) or "Command" in action for action in free)


def test_a_policy_of_some_actions_holds_only_those_and_other_partitions_have_their_arns():
    policy = permissions.policy("222233334444", partition="aws-cn", actions=["ssm:TerminateSession"])
    (statement,) = policy["Statement"]
    assert statement["Action"] == ["ssm:TerminateSession"]
    assert statement["Resource"] == "arn:aws-cn:ssm:*:222233334444:session/*"


def test_the_trust_policy_asks_for_the_external_id_where_there_is_one():
    (statement,) = permissions.trust_policy("arn:aws:iam::1:role/hub", "known to us")["Statement"]
    assert statement["Condition"] == {"StringEquals": {"sts:ExternalId": "known to us"}}
    assert set(statement["Action"]) == set(permissions.ASSUME_ACTIONS)
    assert "Condition" not in permissions.trust_policy("arn:aws:iam::1:role/hub")["Statement"][0]


def test_the_template_is_a_role_with_the_policy_and_every_name_in_it_is_declared():
    template = yaml.safe_load(permissions.cloudformation())
    assert template["AWSTemplateFormatVersion"] == "2010-09-09"
    assert set(template) <= {"AWSTemplateFormatVersion", "Description", "Parameters", "Resources", "Outputs"}
    (role,) = template["Resources"].values()
    assert role["Type"] == "AWS::IAM::Role"
    properties = role["Properties"]
    model = {"RoleName", "Description", "MaxSessionDuration", "AssumeRolePolicyDocument", "Policies"}
    assert set(properties) <= model

    declared = set(template["Parameters"]) | set(template["Resources"])
    pseudo = {"AWS::AccountId", "AWS::Partition"}

    def names(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "Ref":
                    yield inner
                elif key == "Fn::Sub":
                    yield from re.findall(r"\$\{([^}]+)\}", inner)
                elif key == "Fn::GetAtt":
                    yield inner[0]
                else:
                    yield from names(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from names(inner)

    used = set(names(template))
    assert used <= declared | pseudo and set(template["Parameters"]) <= used

    def resolved(value):
        """The template's values for one account."""
        places = {"AWS::AccountId": "222233334444", "AWS::Partition": "aws", "RoleName": permissions.ROLE_NAME}
        places |= {"TrustedPrincipal": "arn:aws:iam::1:role/hub", "ExternalId": "known"}
        if isinstance(value, list):
            return [resolved(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        if "Ref" in value:
            return places[value["Ref"]]
        if "Fn::Sub" in value:
            return re.sub(r"\$\{([^}]+)\}", lambda found: places[found[1]], value["Fn::Sub"])
        return {key: resolved(inner) for key, inner in value.items()}

    (inline,) = properties["Policies"]
    assert resolved(inline["PolicyDocument"]) == permissions.policy("222233334444")
    trust = resolved(properties["AssumeRolePolicyDocument"])
    assert trust == permissions.trust_policy("arn:aws:iam::1:role/hub", "known")


def test_the_templates_parameters_take_what_fleetops_takes_and_can_be_filled_in():
    template = yaml.safe_load(permissions.cloudformation("arn:aws:iam::111122223333:role/fleetops", "a:b/c@d"))
    for name, good, bad in (
        ("TrustedPrincipal", "arn:aws:iam::111122223333:user/fleetops", "fleetops"),
        ("ExternalId", "northwind-fleetops-7d41", "two words"),
        ("RoleName", "FleetOps", "a/b"),
    ):
        pattern = template["Parameters"][name]["AllowedPattern"]
        assert re.fullmatch(pattern, good) and not re.fullmatch(pattern, bad)
    assert template["Parameters"]["TrustedPrincipal"]["Default"] == "arn:aws:iam::111122223333:role/fleetops"
    assert template["Parameters"]["ExternalId"]["Default"] == "a:b/c@d"


def test_the_manual_shows_the_policies_as_they_are_made():
    """docs/aws.md is read before there is anything to run."""
    text = (ROOT / "docs" / "aws.md").read_text()
    shown = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    role = f"arn:aws:iam::222233334444:role/{permissions.ROLE_NAME}"
    assert shown == [
        permissions.policy("222233334444"),
        permissions.trust_policy(permissions.UNKNOWN_PRINCIPAL, "SOMETHING-ONLY-YOU-KNOW"),
        permissions.session_policy("222233334444"),
        permissions.caller_policy([role]),
    ], "write them anew: manage.py aws_policy --account 222233334444, and so on"


# --- the policy on a real role ---


@pytest.fixture
def least(endpoint, changed):
    """Access under a role of the endpoint that has the generated trust and policy, and nothing else."""
    admin = endpoint.client("iam")
    account = endpoint.account["account_id"]
    user = f"arn:aws:iam::{account}:user/fleetops"
    admin.create_role(
        RoleName="LeastFleetOps", AssumeRolePolicyDocument=json.dumps(permissions.trust_policy(user, "only-us"))
    )
    arn = f"arn:aws:iam::{account}:role/LeastFleetOps"
    policy = permissions.policy(account, role=arn)
    admin.put_role_policy(RoleName="LeastFleetOps", PolicyName="FleetOps", PolicyDocument=json.dumps(policy))
    caller = json.dumps(permissions.caller_policy([arn]))
    admin.put_user_policy(UserName="fleetops", PolicyName="least", PolicyDocument=caller)
    yield changed(role_arn=arn, external_id="only-us")
    admin.delete_user_policy(UserName="fleetops", PolicyName="least")
    admin.delete_role_policy(RoleName="LeastFleetOps", PolicyName="FleetOps")
    admin.delete_role(RoleName="LeastFleetOps")


def test_under_the_generated_policy_the_whole_main_job_runs_and_nothing_else(least, endpoint):
    region, person = "eu-west-1", {"session_name": "maria", "source_identity": "maria"}
    machines = [each for page in ec2.instance_pages(least, region, session_name="fleetops-inventory") for each in page]
    nodes = [each for page in ssm.instance_pages(least, region, session_name="fleetops-inventory") for each in page]
    assert len(machines) >= 12 and len(nodes) >= 12
    hybrid = next(node.instance_id for node in nodes if node.instance_id.startswith("mi-"))
    assert ssm.managed_instance_tags(least, region, instance_id=hybrid, session_name="w")["cluster"] == "lagos-pos"
    assert ec2.region_states(least, region, session_name="w")["eu-south-2"] is False

    target = endpoint.instance_id("pay-api-eu1a-01")
    until(lambda: endpoint.client("ssm").get_connection_status(Target=target)["Status"] == "connected")
    for node in (target, hybrid):
        started = ssm.start_session(least, region, target=node, reason="fleetops:test", **person)
        resumed = ssm.resume_session(least, region, session_id=started.session_id, **person)
        assert resumed.token != started.token
        found = ssm.describe_sessions(least, region, session_id=started.session_id, **person)
        assert [each.session_id for each in found] == [started.session_id]
        ssm.terminate_session(least, region, session_id=started.session_id, **person)
    with pytest.raises(AccessDenied, match="ssm:StartSession"):
        ssm.start_session(least, region, target=target, reason="", document_name="AWS-PasswordReset", **person)

    verdicts = iam.simulate(
        least, region, principal_arn=least.role_arn, actions=["ssm:StartSession"], session_name="w",
        resources=[f"arn:aws:ec2:{region}:{least.account_id}:instance/{target}", f"arn:aws:ec2:{region}:9:instance/x"],
    )  # fmt: skip
    assert [(each.decision, each.is_allowed) for each in verdicts] == [("allowed", True), ("implicitDeny", False)]

    issued = endpoint.client("sts", user="fleetops").assume_role(
        RoleArn=least.role_arn, RoleSessionName="maria", ExternalId="only-us"
    )["Credentials"]
    keys = {
        "aws_access_key_id": issued["AccessKeyId"],
        "aws_secret_access_key": issued["SecretAccessKey"],
        "aws_session_token": issued["SessionToken"],
    }
    for service, call in (
        ("ec2", lambda client: client.terminate_instances(InstanceIds=[target])),
        ("ssm", lambda client: client.add_tags_to_resource(ResourceType="ManagedInstance", ResourceId=hybrid, Tags=[])),
        ("iam", lambda client: client.list_roles()),
        ("iam", lambda client: client.simulate_principal_policy(
            PolicySourceArn=endpoint.account["role_arn"], ActionNames=["ec2:DescribeInstances"])),
    ):  # fmt: skip
        with pytest.raises(ClientError) as refused:
            call(endpoint.client(service, **keys))
        assert refused.value.response["Error"]["Code"] in {
            "UnauthorizedOperation",
            "AccessDeniedException",
            "AccessDenied",
        }


def test_without_the_external_id_the_role_is_not_assumed(least):
    with pytest.raises(AccessDenied, match="sts:AssumeRole"):
        sts.get_caller_identity(
            least.__class__(**{**_facts(least), "external_id": "guess"}), "eu-west-1", session_name="w"
        )


def _facts(access) -> dict:
    return {name: getattr(access, name) for name in access.__dataclass_fields__}


# --- what the simulator of the endpoint says ---


def test_the_simulator_says_what_happens_and_takes_further_policies(endpoint):
    client, role = endpoint.client("iam"), endpoint.account["role_arn"]

    def decisions(*actions, **parameters):
        answer = client.simulate_principal_policy(PolicySourceArn=role, ActionNames=list(actions), **parameters)
        return [each["EvalDecision"] for each in answer["EvaluationResults"]]

    assert decisions("ssm:StartSession", "organizations:ListAccounts") == ["allowed", "implicitDeny"]
    statement = {
        "Effect": "Deny",
        "Action": "ssm:*",
        "Resource": "*",
        "Condition": {"Bool": {"aws:MultiFactor": "false"}},
    }
    deny = [json.dumps({"Version": "2012-10-17", "Statement": [statement]})]
    context = [{"ContextKeyName": "aws:MultiFactor", "ContextKeyValues": ["false"], "ContextKeyType": "boolean"}]
    assert decisions("ssm:StartSession", PolicyInputList=deny, ContextEntries=context) == ["explicitDeny"]
    assert decisions("ssm:StartSession", PolicyInputList=deny) == ["allowed"]
    only = [json.dumps({"Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]})]
    assert decisions("ssm:StartSession", "s3:GetObject", PermissionsBoundaryPolicyInputList=only) == [
        "implicitDeny",
        "allowed",
    ]
    answer = client.simulate_custom_policy(PolicyInputList=only, ActionNames=["s3:GetObject", "ec2:RunInstances"])
    assert [each["EvalDecision"] for each in answer["EvaluationResults"]] == ["allowed", "implicitDeny"]


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"PolicySourceArn": "arn:aws:iam::111122223333:role/Nobody"}, "NoSuchEntity"),
        ({"PolicySourceArn": "arn:aws:iam::444455556666:role/FleetOpsControlPlane"}, "NoSuchEntity"),
        ({"PolicySourceArn": "too short"}, "ValidationError"),
        ({"PolicySourceArn": "arn:aws:iam::111122223333:user/admin", "PolicyInputList": ["x"]}, "InvalidInput"),
    ],
)
def test_the_simulator_refuses_what_it_cannot_answer(endpoint, parameters, code):
    with pytest.raises(ClientError) as caught:
        endpoint.client("iam").simulate_principal_policy(**{"ActionNames": ["s3:ListAllMyBuckets"]} | parameters)
    assert caught.value.response["Error"]["Code"] == code


def test_under_the_generated_policy_documents_are_made_read_run_and_deleted(least, endpoint):
    region, person = "eu-west-1", {"session_name": "maria", "source_identity": "maria"}
    step = {"action": "aws:runShellScript", "name": "say", "inputs": {"runCommand": ["echo"]}}
    text = json.dumps({"schemaVersion": "2.2", "mainSteps": [step]})
    kind = {"document_format": "JSON"}
    documents.create_document(least, region, name="least", content=text, document_type="Command", **kind, **person)
    documents.update_document(least, region, name="least", content=text.replace("echo", "id"), **kind, **person)
    documents.set_default_version(least, region, name="least", version="2", **person)
    for name in ("least", "AWS-RunShellScript"):
        assert documents.describe_document(least, region, name=name, session_name="w").name == name
        assert documents.get_document(least, region, name=name, version="$DEFAULT", session_name="w")[0]
        assert documents.document_versions(least, region, name=name, session_name="w")
    assert documents.shared_with(least, region, name="least", session_name="w") == []
    listed = {each.name for page in documents.document_pages(least, region, session_name="w") for each in page}
    assert {"least", "AWS-RunShellScript"} <= listed
    nodes = [each for page in ssm.instance_pages(least, region, session_name="w") for each in page]
    targets = [endpoint.instance_id("pay-api-eu1a-01"), next(n.instance_id for n in nodes if n.instance_id[0] == "m")]
    for name, parameters in (("least", {}), ("AWS-RunShellScript", {"commands": ["true"]})):
        command_id = commands.send_command(
            least, region, document_name=name, document_version="$DEFAULT", parameters=parameters,
            instance_ids=targets, comment="fleetops:least", timeout_seconds=60, **person,
        )  # fmt: skip
        since = clock.now() - timedelta(minutes=1)
        found = commands.recent(least, region, since=since, session_name="w")
        assert command_id in {each.command_id for each in found if each.comment == "fleetops:least"}
        (page,) = commands.invocations(least, region, command_id=command_id, session_name="w")
        assert {each.instance_id for each in page} == set(targets)
        told = {"command_id": command_id, "instance_id": targets[0], "step": "", "session_name": "w"}
        assert commands.output_of(least, region, **told).status
        commands.cancel_command(least, region, command_id=command_id, **person)
    documents.delete_document(least, region, name="least", **person)
