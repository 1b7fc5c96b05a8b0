"""AWS's own runbooks that every account has here, by their names and parameters; their steps are written by us.

AWS's own of the last one runs a script, which the endpoint does not; what it does is the same.
Source of names and parameters: Systems Manager Automation runbook reference.
"""

from typing import Any

_ROLE = {
    "AutomationAssumeRole": {
        "type": "AWS::IAM::Role::Arn",
        "description": "(Optional) The ARN of the role that allows Automation to perform the actions on your behalf.",
        "default": "",
    }
}
_INSTANCES = {
    "InstanceId": {
        "type": "StringList",
        "description": "(Required) EC2 Instance(s) to act on.",
        "allowedPattern": "^i-[0-9a-f]{8,17}$",
    }
}


def _runbook(
    description: str, parameters: dict[str, Any], steps: list[dict[str, Any]], outputs: list[str] | None = None
) -> dict[str, Any]:
    return {
        "schemaVersion": "0.3",
        "description": description,
        "assumeRole": "{{ AutomationAssumeRole }}",
        "parameters": parameters | _ROLE,
        "mainSteps": steps,
        **({"outputs": outputs} if outputs else {}),
    }


def _change(name: str, state: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "action": "aws:changeInstanceState",
        "inputs": {"InstanceIds": "{{ InstanceId }}", "DesiredState": state, **more.pop("inputs", {})},
        **more,
    }


def _api(name: str, service: str, api: str, parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    outputs = [{"Name": key, "Selector": path, "Type": kind} for key, (path, kind) in more.pop("outputs", {}).items()]
    return {
        "name": name,
        "action": "aws:executeAwsApi",
        "inputs": {"Service": service, "Api": api, **parameters},
        **({"outputs": outputs} if outputs else {}),
        **more,
    }


def _branch(name: str, *choices: tuple[str, str, str], default: str) -> dict[str, Any]:
    rules = [{"NextStep": step, "Variable": variable, "StringEquals": value} for step, variable, value in choices]
    return {"name": name, "action": "aws:branch", "inputs": {"Choices": rules, "Default": default}}


_STOP = [
    _change("stopInstances", "stopped", onFailure="Continue", isCritical=False, timeoutSeconds=600),
    _change("forceStopInstances", "stopped", inputs={"Force": True}),
]
_OF_INSTANCE = {
    "Filters": [
        {"Name": "instance-id", "Values": ["{{ InstanceId }}"]},
        {"Name": "state", "Values": ["associating", "associated"]},
    ]
}
_FIRST = "$.IamInstanceProfileAssociations[0]"
_PROFILE = {"Name": "{{ getProfile.Name }}"}

RUNBOOKS: dict[str, dict[str, Any]] = {
    "AWS-StartEC2Instance": _runbook("Start EC2 instance(s)", _INSTANCES, [_change("startInstances", "running")]),
    "AWS-StopEC2Instance": _runbook("Stop EC2 instance(s)", _INSTANCES, _STOP),
    "AWS-RestartEC2Instance": _runbook(
        "Restart EC2 instance(s)",
        _INSTANCES,
        [_change("stopInstances", "stopped"), _change("startInstances", "running")],
    ),
    "AWS-AttachIAMToInstance": _runbook(
        "Attach IAM to Instances",
        {
            "InstanceId": {
                "type": "AWS::EC2::Instance::Id",
                "description": "(Required) The ID of the instance on which you want to assign an IAM role.",
                "allowedPattern": "^i-[0-9a-f]{8,17}$",
            },
            "RoleName": {
                "type": "String",
                "description": "(Required) The IAM role name to add to the managed instance.",
                "allowedPattern": "^[\\w+=,.@-]{1,64}$",
            },
            "ForceReplace": {
                "type": "Boolean",
                "description": "(Optional) Flag to specify whether to replace the existing IAM profile or not.",
                "default": False,
            },
        },
        [
            _api(
                "findProfiles",
                "iam",
                "ListInstanceProfilesForRole",
                {"RoleName": "{{ RoleName }}"},
                outputs={"Names": ("$.InstanceProfiles[*].InstanceProfileName", "StringList")},
            ),
            _branch("hasProfile", ("createProfile", "{{ findProfiles.Names }}", "[]"), default="getProfile"),
            _api("createProfile", "iam", "CreateInstanceProfile", {"InstanceProfileName": "{{ RoleName }}"}),
            _api(
                "addRole",
                "iam",
                "AddRoleToInstanceProfile",
                {"InstanceProfileName": "{{ RoleName }}", "RoleName": "{{ RoleName }}"},
            ),
            _api(
                "getProfile",
                "iam",
                "ListInstanceProfilesForRole",
                {"RoleName": "{{ RoleName }}"},
                outputs={"Name": ("$.InstanceProfiles[0].InstanceProfileName", "String")},
            ),
            _api(
                "findAssociations",
                "ec2",
                "DescribeIamInstanceProfileAssociations",
                _OF_INSTANCE,
                outputs={"Ids": ("$.IamInstanceProfileAssociations[*].AssociationId", "StringList")},
            ),
            _branch(
                "isAttached",
                ("attachIAMProfileToInstance", "{{ findAssociations.Ids }}", "[]"),
                ("getAssociation", "{{ ForceReplace }}", "true"),
                default="attachIAMProfileToInstance",  # which EC2 refuses in its words
            ),
            _api(
                "getAssociation",
                "ec2",
                "DescribeIamInstanceProfileAssociations",
                _OF_INSTANCE,
                outputs={"Id": (f"{_FIRST}.AssociationId", "String")},
            ),
            _api(
                "replaceIAMProfile",
                "ec2",
                "ReplaceIamInstanceProfileAssociation",
                {"AssociationId": "{{ getAssociation.Id }}", "IamInstanceProfile": _PROFILE},
                nextStep="verifyIAMProfile",
            ),
            _api(
                "attachIAMProfileToInstance",
                "ec2",
                "AssociateIamInstanceProfile",
                {"InstanceId": "{{ InstanceId }}", "IamInstanceProfile": _PROFILE},
            ),
            {
                "name": "verifyIAMProfile",
                "action": "aws:waitForAwsResourceProperty",
                "timeoutSeconds": 600,
                "inputs": {
                    "Service": "ec2",
                    "Api": "DescribeIamInstanceProfileAssociations",
                    **_OF_INSTANCE,
                    "PropertySelector": f"{_FIRST}.State",
                    "DesiredValues": ["associated"],
                },
                "outputs": [{"Name": "AssociationId", "Selector": f"{_FIRST}.AssociationId", "Type": "String"}],
                "isEnd": True,
            },
        ],
        ["verifyIAMProfile.AssociationId"],
    ),
}
