"""The table of resources, held against what is in use and against botocore's models."""

import re

import pytest

from fleetops.aws.permissions import PERMISSIONS
from fleetops.awsapi import models
from fleetops.endpoint.resource_table import KINDS, PASSING, TABLE
from tests.endpoint.operations import ssm_operations

# Permissions that come with another operation.
NO_OPERATIONS = {"sts:TagSession", "sts:SetSourceIdentity", "iam:PassRole"}
NO_MODEL = {"ec2messages", "ssmmessages"}
# What the table names otherwise than a request does, and resources.py finds out.
FOUND_OTHERWISE = {
    "ec2:ReplaceIamInstanceProfileAssociation",
    "ec2:DisassociateIamInstanceProfile",
    "ec2:CreateTags",
    "ec2:DeleteTags",
    "ec2:RunInstances",
    "iam:SimulatePrincipalPolicy",
    "iam:GetContextKeysForPrincipalPolicy",
    "logs:DescribeLogGroups",
    "kms:CreateAlias",
    "securityhub:BatchImportFindings",
    "securityhub:BatchUpdateFindings",
    "securityhub:DescribeHub",
    "securityhub:DisableSecurityHub",
    "securityhub:EnableSecurityHub",
    "securityhub:GetFindings",
}


def test_no_operation_in_use_is_without_a_row():
    modelled, of_agents = ssm_operations()
    in_use = {f"ssm:{name}" for name in modelled | of_agents}
    # Rows are by what requests are signed for; of CloudWatch that is another word than in policies.
    actions = {each.action.replace("cloudwatch:", "monitoring:") for each in PERMISSIONS}
    in_use |= actions - NO_OPERATIONS
    assert sorted(in_use - set(TABLE)) == []


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_row_is_of_an_operation_and_of_kinds_that_are_there(name):
    service, _, operation = name.partition(":")
    kinds = TABLE[name].split()
    assert set(kinds) <= set(KINDS)
    if service in NO_MODEL:
        return
    model = models.service(service)
    if operation not in model.operations:
        _, of_agents = ssm_operations()
        enrolling = {"RegisterManagedInstance", "RequestManagedInstanceRoleToken", "UpdateManagedInstancePublicKey"}
        assert service == "ssm" and operation in of_agents | enrolling
        return
    if service in {"ssm", "sts", "s3"} or name in FOUND_OTHERWISE:
        return  # each asks by itself
    shape = model.operation(operation).input_shape
    for kind in kinds:
        assert set(KINDS[kind][1]) & set(shape.members if shape is not None else ()), f"nothing names {kind}"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_arn_is_one_and_has_one_place_for_a_name(kind):
    template, _ = KINDS[kind]
    assert re.fullmatch(r"arn:aws:[a-z0-9]+:(\{region\})?:(\{account\})?:.+", template)
    assert len(re.findall(r"\{\}", template)) == 1


@pytest.mark.parametrize("name", sorted(PASSING))
def test_a_role_is_passed_where_the_request_has_it(name):
    service, _, operation = name.partition(":")
    shape = models.service(service).operation(operation).input_shape
    path, to = PASSING[name]
    for member in ("IamInstanceProfile" if path == "profile" else path).split("."):
        held = shape.members[member]
        shape = held.member if held.type_name == "list" else held
    assert to.endswith(".amazonaws.com")
