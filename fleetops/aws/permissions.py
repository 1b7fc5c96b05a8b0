"""What FleetOps needs to be allowed in an account, as data, and the policies and the template that follow from it.

Each call that the code makes stands here once, with what it is for and how narrowly AWS lets it be allowed; a test
walks the code and fails if one is missing, or listed and never made. Sources of the resource types:
AWS's Service Authorization Reference for EC2, Systems Manager, STS and IAM, and the Systems Manager user guide,
"Start a default shell session by specifying the default session document in IAM policies".
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

ROLE_NAME: Final = "FleetOpsControlPlane"
ASSUME_ACTIONS: Final = ("sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession")
SESSION_DOCUMENT: Final = "SSM-SessionManagerRunShell"
# In the place of a principal that is not known yet.
UNKNOWN_PRINCIPAL: Final = "arn:aws:iam::HUB-ACCOUNT:role/FLEETOPS"

_INSTANCE = "arn:{partition}:ec2:{region}:{account}:instance/{instance}"
_SECURITY_GROUP = "arn:{partition}:ec2:{region}:{account}:security-group/{group}"
_INBOUND_RULE = "arn:{partition}:ec2:{region}:{account}:security-group-rule/{rule}"
_MANAGED = "arn:{partition}:ssm:{region}:{account}:managed-instance/{managed}"
_QUEUE = "arn:{partition}:sqs:{region}:{account}:{queue}"
# Of machines outside EC2: the one that AWS's console makes, and the one of its manual. Not role/*: whoever registers a
# machine gets the credentials of the role, and SSM may assume other, stronger ones too.
_HYBRID_ROLES = (
    "arn:{partition}:iam::{account}:role/service-role/AmazonEC2RunCommandRoleForManagedInstances",
    "arn:{partition}:iam::{account}:role/SSMServiceRole",
)
_AWS_POLICIES = "arn:{partition}:iam::aws:policy/{policy}"
_PROFILE = "arn:{partition}:iam::{account}:instance-profile/{profile}"
# The one that FleetOps makes: not role/*, or whoever may attach roles could give an instance any of them.
_STANDARD_ROLE = "arn:{partition}:iam::{account}:role/fleetops-ssm-core"
_STANDARD_PROFILE = "arn:{partition}:iam::{account}:instance-profile/fleetops-ssm-core"
# Of privileges that do not fit into a role.
_LEASES = "arn:{partition}:iam::{account}:policy/fleetops/fleetops-lease-{lease}"
_RUNBOOKS = "arn:{partition}:ssm:{region}:{account}:automation-definition/{document}:*"
_AWS_RUNBOOKS = "arn:{partition}:ssm:{region}::automation-definition/{document}:*"
_EXECUTIONS = "arn:{partition}:ssm:{region}:{account}:automation-execution/{execution}"
_KEY = "arn:{partition}:kms:{region}:{account}:key/{key}"
_SESSION = "arn:{partition}:ssm:{region}:{account}:session/{session}"
# Whoever has settings name other groups and buckets allows those too.
_LOG_GROUP = "arn:{partition}:logs:{region}:{account}:log-group:/fleetops/{group}"
_LOG_STREAM = _LOG_GROUP + ":log-stream:{stream}"
_OBJECTS = "arn:{partition}:s3:::fleetops-{bucket}/{key}"
_DOCUMENT = f"arn:{{partition}}:ssm:{{region}}:{{account}}:document/{SESSION_DOCUMENT}"
# Of shells that tell what they run, and of restricted shells: named by what is in them.
_OUR_DOCUMENTS = "arn:{partition}:ssm:{region}:{account}:document/FleetOps-*"
# Of single commands and forwarded ports, by the command line.
_SESSION_DOCUMENTS = tuple(
    f"arn:{{partition}}:ssm:{{region}}::document/AWS-Start{name}"
    for name in (
        *("NonInteractiveCommand", "InteractiveCommand", "SSHSession"),
        *("PortForwardingSession", "PortForwardingSessionToRemoteHost"),
    )
)
_DOCUMENTS = "arn:{partition}:ssm:{region}:{account}:document/{document}"
_BASELINES = "arn:{partition}:ssm:{region}:{account}:patchbaseline/{baseline}"
# AWS's own lie in accounts of AWS, one in each region.
_AWS_BASELINES = "arn:{partition}:ssm:{region}:*:patchbaseline/{baseline}"
_AWS_DOCUMENTS = "arn:{partition}:ssm:{region}::document/{document}"


@dataclass(frozen=True, slots=True)
class Permission:
    """One action in IAM. `resources` are ARNs with places to be filled: {partition}, {region}, {account}, {role}, …"""

    action: str
    feature: str
    purpose: str  # what FleetOps does with it
    missing: str  # what does not work without it
    resources: tuple[str, ...] = ("*",)
    is_optional: bool = False  # FleetOps works without it, and says less
    extra: tuple[str, ...] = ()  # resources of what may be left out: `extra_purpose`
    extra_purpose: str = ""


PERMISSIONS: Final = (
    Permission(
        "ec2:DescribeInstances",
        "Fleet",
        "reads the instances with their state, profile and tags",
        "The fleet shows no EC2 facts: no tags, no state, no instance profile.",
        # AWS knows no resource for the Describe calls of EC2.
    ),
    Permission(
        "ssm:DescribeInstanceInformation",
        "Fleet",
        "reads which agents are online, and finds hybrid nodes",
        "FleetOps cannot tell which instances can be reached, and shows no hybrid node.",
    ),
    Permission(
        "ssm:ListTagsForResource",
        "Fleet",
        "reads the tags of hybrid nodes and of patch baselines",
        "Hybrid nodes have no tags, so no filter and no rule by tag finds them.",
        (_MANAGED, _BASELINES),
    ),
    Permission(
        "sqs:ReceiveMessage",
        "Events",
        "takes EventBridge's events from the queue that a region names",
        "Changes of instances show when the region is read next, not within seconds.",
        (_QUEUE,),
        is_optional=True,
    ),
    Permission(
        "sqs:DeleteMessage",
        "Events",
        "deletes the events that it has taken",
        "The same events are taken again and again, and fill the queue.",
        (_QUEUE,),
        is_optional=True,
    ),
    Permission(
        "ssm:StartSession",
        "Shells",
        "opens a shell",
        "No shell can be opened.",
        # The document of an ordinary shell, also where it is not named, and FleetOps's own.
        (_INSTANCE, _MANAGED, _DOCUMENT, _OUR_DOCUMENTS),
        extra=_SESSION_DOCUMENTS,
        extra_purpose="runs single commands and forwards ports, by AWS's documents for that",
    ),
    Permission(
        "ssm:ResumeSession",
        "Shells",
        "takes a shell up again after a lost network or a restart",
        "A shell ends when the network between FleetOps and AWS is lost.",
        (_SESSION,),
    ),
    Permission(
        "ssm:TerminateSession",
        "Shells",
        "ends a shell",
        "FleetOps closes its own end of a shell; AWS keeps the session until its time-out.",
        (_SESSION,),
    ),
    Permission(
        "ssm:DescribeSessions",
        "Shells",
        "finds a session whose answer was lost",
        "A session whose start was never answered may stay open unseen.",
    ),
    Permission(
        "kms:GenerateDataKey",
        "Shells",
        "makes the data key of a session, where the account's preferences name a KMS key",
        "No session is opened where the account's preferences name a KMS key.",
        (_KEY,),
        is_optional=True,
    ),
    Permission(
        "kms:Decrypt",
        "Shells",
        "gets that data key again after a restart of FleetOps",
        "A session under a KMS key ends when FleetOps is restarted.",
        (_KEY,),
        is_optional=True,
    ),
    Permission(
        "logs:PutLogEvents",
        "Session logs",
        "delivers transcripts and commands of sessions to CloudWatch Logs",
        "No session is delivered to CloudWatch Logs, and strict logging lets nothing pass in time.",
        (_LOG_STREAM,),
        is_optional=True,
    ),
    Permission(
        "logs:GetLogEvents",
        "Session logs",
        "looks after a lost answer whether events are there, so that none comes twice",
        "After a lost answer the delivery of a session waits.",
        (_LOG_STREAM,),
        is_optional=True,
    ),
    Permission(
        "logs:CreateLogStream",
        "Session logs",
        "makes the stream of a session",
        "No session is delivered to CloudWatch Logs.",
        (_LOG_GROUP,),
        is_optional=True,
    ),
    Permission(
        "logs:CreateLogGroup",
        "Session logs",
        "makes the log group that an account's settings name",
        "The log group has to be made by hand.",
        (_LOG_GROUP,),
        is_optional=True,
    ),
    Permission(
        "logs:PutRetentionPolicy",
        "Session logs",
        "says how long the log group keeps its events",
        "The log group keeps its events for as long as somebody else says.",
        (_LOG_GROUP,),
        is_optional=True,
    ),
    Permission(
        "logs:AssociateKmsKey",
        "Session logs",
        "has the log group encrypt under a key of KMS",
        "A log group that is there already is encrypted as somebody else says.",
        (_LOG_GROUP,),
        is_optional=True,
    ),
    Permission(
        "s3:PutObject",
        "Copies of recordings",
        "copies finished recordings and lists of patches to a bucket, and keeps recordings there if so set",
        "No recording is copied to a bucket, and no list of patches is put there for nodes to read.",
        (_OBJECTS,),
        is_optional=True,
    ),
    Permission(
        "s3:GetObject",
        "Copies of recordings",
        "reads recordings whose pieces are kept in a bucket",
        "Recordings that are kept in a bucket cannot be replayed.",
        (_OBJECTS,),
        is_optional=True,
    ),
    Permission(
        "ssm:ListDocuments",
        "Documents",
        "lists AWS's documents and the account's own",
        "The library is empty, and no document can be run.",
    ),
    Permission(
        "ssm:DescribeDocument",
        "Documents",
        "reads what a document is",
        "A document's page shows what the list told, and no more.",
        (_DOCUMENTS, _AWS_DOCUMENTS),
    ),
    Permission(
        "ssm:GetDocument",
        "Documents",
        "reads a document's content and its parameters, and the account's preferences for sessions",
        "No document can be run: its parameters are not known. Commands of sessions are read from the screen.",
        (_DOCUMENTS, _AWS_DOCUMENTS),
    ),
    Permission(
        "ssm:ListDocumentVersions",
        "Documents",
        "lists the versions of a document",
        "A document's page shows its default version alone.",
        (_DOCUMENTS, _AWS_DOCUMENTS),
    ),
    Permission(
        "ssm:DescribeDocumentPermission",
        "Documents",
        "reads with which accounts a document is shared",
        "A document's page does not say who else may use it.",
        (_DOCUMENTS,),
        is_optional=True,
    ),
    Permission(
        "ssm:CreateDocument",
        "Documents",
        "makes documents, also those of shells that tell what they run (document/FleetOps-* is enough for these)",
        "No document can be made with FleetOps; commands of sessions are read from the screen; no restricted shells.",
        (_DOCUMENTS,),
        is_optional=True,
    ),
    Permission(
        "ssm:UpdateDocument",
        "Documents",
        "adds versions to documents",
        "No version can be added with FleetOps.",
        (_DOCUMENTS,),
        is_optional=True,
    ),
    Permission(
        "ssm:UpdateDocumentDefaultVersion",
        "Documents",
        "says which version is a document's default",
        "The default version cannot be changed with FleetOps.",
        (_DOCUMENTS,),
        is_optional=True,
    ),
    Permission(
        "ssm:DeleteDocument",
        "Documents",
        "deletes documents",
        "No document can be deleted with FleetOps.",
        (_DOCUMENTS,),
        is_optional=True,
    ),
    Permission(
        "ssm:SendCommand",
        "Run Command",
        "runs a document on instances",
        "No document can be run.",
        (_INSTANCE, _MANAGED, _DOCUMENTS, _AWS_DOCUMENTS),
    ),
    Permission(
        "ssm:ListCommands",
        "Run Command",
        "finds a command whose answer was lost",
        "After a lost answer a document is not run on those instances: it might run twice.",
    ),
    Permission(
        "ssm:ListCommandInvocations",
        "Run Command",
        "follows a command on each instance",
        "A command shows no progress, and never ends in FleetOps.",
    ),
    Permission(
        "ssm:GetCommandInvocation",
        "Run Command",
        "reads the output of a command on one instance",
        "A command shows the head of its outputs alone.",
    ),
    Permission(
        "ssm:CancelCommand",
        "Run Command",
        "cancels a command",
        "What was sent cannot be cancelled.",
    ),
    Permission(
        "ssm:DescribePatchBaselines",
        "Patch baselines",
        "lists the patch baselines",
        "FleetOps shows no patch baselines.",
    ),
    Permission(
        "ssm:GetPatchBaseline",
        "Patch baselines",
        "reads what a baseline approves",
        "FleetOps shows no patch baselines.",
        (_AWS_BASELINES,),
    ),
    Permission(
        "ssm:GetDefaultPatchBaseline",
        "Patch baselines",
        "reads which baseline is the default of an operating system",
        "After a lost answer it is not known whether a default was changed.",
        (_AWS_BASELINES,),
        is_optional=True,
    ),
    Permission(
        "ssm:DescribePatchGroups",
        "Patch baselines",
        "reads which baseline is registered for which patch group",
        "Every node seems to have the default baseline.",
    ),
    Permission(
        "ssm:DescribePatchProperties",
        "Patch baselines",
        "reads which products, classes and severities a rule can name",
        "The editor cannot offer what a rule can name; it has to be typed.",
        is_optional=True,
    ),
    Permission(
        "ssm:DescribeAvailablePatches",
        "Patch baselines",
        "reads which patches there are, for the preview of a baseline",
        "The preview knows only the patches that nodes have told of.",
        is_optional=True,
    ),
    Permission(
        "ssm:DescribeInstancePatchStates",
        "Patch compliance",
        "reads what instances last reported of their patches",
        "Nothing is known of patch compliance, and no patch run can be judged.",
        is_optional=True,
    ),
    Permission(
        "cloudwatch:DescribeAlarms",
        "Runs in waves",
        "reads whether the alarms ring that a gate of a run asks for",
        "A gate by CloudWatch alarms does not open.",
        is_optional=True,
        # CloudWatch knows no resource for it that would cover composite alarms too.
    ),
    Permission(
        "securityhub:BatchImportFindings",
        "Patch compliance",
        "tells Security Hub of instances that are not compliant, and that they are again",
        "Security Hub does not hear of patch compliance.",
        resources=("arn:{partition}:securityhub:*:{account}:product/{account}/default",),
        is_optional=True,
    ),
    Permission(
        "securityhub:BatchUpdateFindings",
        "Patch compliance",
        "marks findings of its own as resolved",
        "Findings in Security Hub stay open although they say PASSED.",
        resources=("arn:{partition}:securityhub:*:{account}:hub/default",),
        is_optional=True,
    ),
    Permission(
        "securityhub:GetFindings",
        "Patch compliance",
        "reads what people have suppressed, and the findings of Patch Manager itself",
        "Patch Manager's own findings are not shown, and findings of FleetOps are not marked as resolved.",
        resources=("arn:{partition}:securityhub:*:{account}:hub/default",),
        is_optional=True,
    ),
    Permission(
        "ssm:DescribeInstancePatches",
        "Patch baselines",
        "reads the patches of a node: for the preview, and to freeze what a canary has installed",
        "No set of patches can be frozen, and the preview tells of no node.",
        is_optional=True,
    ),
    Permission(
        "ssm:CreatePatchBaseline",
        "Patch baselines",
        "makes patch baselines",
        "No patch baseline can be made with FleetOps.",
        is_optional=True,
    ),
    Permission(
        "ssm:AddTagsToResource",
        "Patch baselines",
        "tags a baseline as it is made",
        "A baseline with tags cannot be made with FleetOps.",
        (_BASELINES,),
        is_optional=True,
    ),
    Permission(
        "ssm:UpdatePatchBaseline",
        "Patch baselines",
        "changes patch baselines",
        "No patch baseline can be changed with FleetOps.",
        (_BASELINES,),
        is_optional=True,
    ),
    Permission(
        "ssm:DeletePatchBaseline",
        "Patch baselines",
        "deletes patch baselines",
        "No patch baseline can be deleted with FleetOps.",
        (_BASELINES,),
        is_optional=True,
    ),
    Permission(
        "ssm:RegisterDefaultPatchBaseline",
        "Patch baselines",
        "makes a baseline the default of its operating system",
        "The default baseline cannot be changed with FleetOps.",
        (_AWS_BASELINES,),
        is_optional=True,
    ),
    Permission(
        "ssm:RegisterPatchBaselineForPatchGroup",
        "Patch baselines",
        "registers patch groups for a baseline",
        "No patch group can be registered with FleetOps.",
        (_AWS_BASELINES,),
        is_optional=True,
    ),
    Permission(
        "ssm:DeregisterPatchBaselineForPatchGroup",
        "Patch baselines",
        "takes patch groups from a baseline",
        "No patch group can be deregistered with FleetOps.",
        (_AWS_BASELINES,),
        is_optional=True,
    ),
    Permission(
        "sns:Publish",
        "Notices",
        "publishes notices to a topic of the account",
        "No notice reaches an SNS topic.",
        ("arn:{partition}:sns:{region}:{account}:*",),
        is_optional=True,
    ),
    Permission(
        "ssm:CreateActivation",
        "Machines outside EC2",
        "makes the activations by which they register",
        "No machine outside EC2 can be added with FleetOps.",
        # AWS knows no resource for activations.
        is_optional=True,
    ),
    Permission(
        "ssm:DescribeActivations",
        "Machines outside EC2",
        "lists activations, and who has come by them",
        "FleetOps shows no activations.",
        is_optional=True,
    ),
    Permission(
        "ssm:DeleteActivation",
        "Machines outside EC2",
        "deletes activations",
        "No activation can be deleted with FleetOps.",
        is_optional=True,
    ),
    Permission(
        "ssm:DeregisterManagedInstance",
        "Machines outside EC2",
        "ends a hybrid node",
        "No hybrid node can be deregistered with FleetOps.",
        (_MANAGED,),
        is_optional=True,
    ),
    Permission(
        "iam:PassRole",
        "Machines outside EC2",
        "hands that role to SSM, which gives it to the machines",
        "No activation can be made with that role.",
        _HYBRID_ROLES,
        is_optional=True,
        extra=(_STANDARD_ROLE,),
        extra_purpose="gives the standard role to instances; other roles that may be attached are added by hand",
    ),
    Permission(
        "ec2:DescribeIamInstanceProfileAssociations",
        "IAM roles",
        "reads which instance has which instance profile, before and after a change",
        "No role can be attached with FleetOps, for a while or for good.",
        is_optional=True,
    ),
    *(
        Permission(
            f"ec2:{operation}",
            "IAM roles",
            purpose,
            f"No role can be {word} with FleetOps.",
            (_INSTANCE,),
            is_optional=True,
        )
        for operation, purpose, word in (
            ("AssociateIamInstanceProfile", "attaches an instance profile", "attached"),
            ("ReplaceIamInstanceProfileAssociation", "puts another instance profile in its place", "replaced"),
            ("DisassociateIamInstanceProfile", "detaches it, at the end of a lease too", "detached"),
        )
    ),
    Permission(
        "cloudtrail:LookupEvents",
        "IAM roles",
        "tells who changed a role outside FleetOps",
        "Changes from outside are shown without who made them.",
        is_optional=True,
    ),
    Permission(
        "iam:GetInstanceProfile",
        "IAM roles",
        "looks whether an instance profile is there, and has exactly one role, before it is attached",
        "No role can be attached with FleetOps.",
        (_PROFILE,),
        is_optional=True,
    ),
    *(
        Permission(
            f"iam:{operation}",
            "IAM roles",
            purpose,
            "The catalogue of IAM roles is empty, or does not tell what is in AWS's own policies.",
            (resource,),
            is_optional=True,
        )
        for operation, purpose, resource in (
            ("GetAccountAuthorizationDetails", "reads all roles with their policies, in one go", "*"),
            ("ListInstanceProfiles", "reads the instance profiles", "*"),
            ("GetPolicy", "finds the current version of AWS's own policies that roles have", _AWS_POLICIES),
            ("GetPolicyVersion", "reads it", _AWS_POLICIES),
        )
    ),
    *(
        Permission(
            f"iam:{operation}",
            "IAM roles",
            purpose,
            "The standard role cannot be made with FleetOps.",
            (resource,),
            is_optional=True,
        )
        for operation, purpose, resource in (
            ("ListAttachedRolePolicies", "looks what the standard role has", _STANDARD_ROLE),
            ("ListRolePolicies", "looks which inline policies the standard role has", _STANDARD_ROLE),
            ("GetRolePolicy", "reads them", _STANDARD_ROLE),
            ("CreateRole", "makes the standard role", _STANDARD_ROLE),
            ("TagRole", "marks it as FleetOps's", _STANDARD_ROLE),
            ("CreateInstanceProfile", "makes the instance profile of the same name", _STANDARD_PROFILE),
            ("AddRoleToInstanceProfile", "puts the standard role into it", _STANDARD_PROFILE),
        )
    ),
    *(
        Permission(
            f"ec2:{operation}",
            "Port 22",
            purpose,
            "Security groups that open SSH or RDP are not listed.",
            is_optional=True,
        )
        for operation, purpose in (
            ("DescribeSecurityGroupRules", "reads which security groups open SSH or RDP"),
            ("DescribeSecurityGroups", "reads their names"),
            ("DescribeNetworkInterfaces", "reads which instances have them, and what else"),
        )
    ),
    *(
        Permission(
            f"ec2:{operation}",
            "Port 22",
            purpose,
            f"No port can be {word} with FleetOps.",
            (_SECURITY_GROUP, _INBOUND_RULE),
            is_optional=True,
        )
        for operation, purpose, word in (
            ("RevokeSecurityGroupIngress", "closes SSH or RDP in a security group", "closed"),
            ("AuthorizeSecurityGroupIngress", "opens it again as it was", "opened again"),
        )
    ),
    Permission(
        "ec2:CreateTags",
        "Port 22",
        "gives such a rule the tags that it had",
        "A rule that had tags cannot be opened again with FleetOps.",
        (_INBOUND_RULE,),
        is_optional=True,
    ),
    *(
        Permission(
            f"ssm:{operation}",
            "Runbooks",
            purpose,
            missing,
            resources,
            is_optional=True,
        )
        for operation, purpose, missing, resources in (
            (
                "StartAutomationExecution",
                "starts the runbooks that people ask for",
                "No runbook can be started with FleetOps.",
                (_RUNBOOKS, _AWS_RUNBOOKS),
            ),
            ("GetAutomationExecution", "reads how far one has come", "Runbooks have no steps here.", (_EXECUTIONS,)),
            ("DescribeAutomationExecutions", "lists those of others, too", "Only FleetOps's own are shown.", ("*",)),
            (
                "DescribeAutomationStepExecutions",
                "reads the steps of long ones",
                "Of a runbook of more than 100 steps the first are shown.",
                ("*",),
            ),
            (
                "SendAutomationSignal",
                "approves, rejects and resumes what a runbook waits for",
                "No step of a runbook can be answered with FleetOps.",
                (_EXECUTIONS,),
            ),
            (
                "StopAutomationExecution",
                "stops a runbook",
                "No runbook can be stopped with FleetOps.",
                (_EXECUTIONS,),
            ),
        )
    ),
    Permission(
        "ec2:DescribeRegions",
        "Connection check",
        "tells which regions are on",
        "The check cannot tell a region that is off from credentials that are wrong.",
        is_optional=True,
    ),
    Permission(
        "iam:SimulatePrincipalPolicy",
        "Connection check",
        "asks whether a permission is there without using it",
        "Permissions that change something show themselves only when they are used.",
        ("{role}",),
        is_optional=True,
    ),
    Permission(
        "iam:GetRole",
        "Connection check",
        "reads whom a role trusts: its own, those of sessions, and those of machines outside EC2",
        "What is missing in a trust policy is not told; a role that does not fit is refused in AWS's words alone.",
        ("{role}", *_HYBRID_ROLES),
        is_optional=True,
        extra=(_STANDARD_ROLE,),
        extra_purpose="looks whether the standard role for instances is there, and as it should be",
    ),
)
# In none of the policies that are made here: whoever holds these over a role can give it anything. An account adds
# them by hand, for roles of people's sessions and not for FleetOps's own; without them FleetOps says that it may not.
BY_HAND: Final = (
    Permission(
        "iam:PutRolePolicy",
        "Sessions",
        "denies older credentials of the role that sessions are opened under, when a grant is revoked",
        "Revoking a grant closes its terminals; credentials that were issued before stay good for up to an hour.",
        ("{role}",),
        is_optional=True,
    ),
    Permission(
        "iam:DeleteRolePolicy",
        "Sessions",
        "takes that denial away again",
        "A denial of older credentials has to be taken away in the IAM console.",
        ("{role}",),
        is_optional=True,
    ),
    *(
        Permission(
            f"iam:{operation}",
            "IAM roles",
            purpose,
            "A privilege-only lease that does not fit into its role's inline policies is refused.",
            (resource,),
            is_optional=True,
        )
        for operation, purpose, resource in (
            ("CreatePolicy", "makes the policy of a privilege-only lease that has no room in its role", _LEASES),
            ("CreatePolicyVersion", "gives such a lease another end", _LEASES),
            ("ListPolicyVersions", "finds the older versions of such a policy", _LEASES),
            ("DeletePolicyVersion", "deletes them", _LEASES),
            ("DeletePolicy", "deletes such a policy at the end of its lease", _LEASES),
            ("AttachRolePolicy", "puts such a policy on the role", "{role}"),
            ("DetachRolePolicy", "takes it away", "{role}"),
        )
    ),
    Permission(
        "iam:UpdateAssumeRolePolicy",
        "IAM roles",
        "puts the trust policy of the standard role right",
        "A standard role that somebody has changed cannot be put right with FleetOps.",
        (_STANDARD_ROLE,),
        is_optional=True,
    ),
)
# Called under the role that a rule of the access policy names for its sessions; all else goes under the account's own.
OF_SESSIONS: Final = frozenset({"ssm:StartSession", "ssm:ResumeSession", "kms:GenerateDataKey", "kms:Decrypt"})
# Never called: AWS asks for them at another call, of whoever makes that.
ASKED_WITHIN: Final = frozenset({"ec2:CreateTags", "iam:PassRole", "ssm:AddTagsToResource"})
# Made, and never denied: AWS answers it to whoever signs right.
NEEDS_NO_PERMISSION: Final = frozenset({"sts:GetCallerIdentity"})

Document = dict[str, Any]


def fill(pattern: str, *, partition: str = "aws", account: str = "*", role: str = "", **places: str) -> str:
    """An ARN of a permission; every place that is not given is "*"."""
    role = role or f"arn:{partition}:iam::{account}:role/{ROLE_NAME}"
    given = {"partition": partition, "account": account, "role": role, **places}
    return re.sub(r"\{(\w+)\}", lambda found: given.get(found[1], "*"), pattern)


def policy(
    account: str = "*",
    *,
    role: str = "",
    partition: str = "aws",
    actions: Iterable[str] | None = None,
    session_roles: Iterable[str] = (),
) -> Document:
    """The least that the account's role needs; of `actions` alone, if they are given.

    It may look at itself, and at `session_roles`: ARNs of roles under which rules of the access policy open sessions.
    """
    wanted = None if actions is None else set(actions)
    chosen = [each for each in PERMISSIONS if wanted is None or each.action in wanted]
    places = {"account": account, "role": role, "partition": partition}
    made = _policy(chosen, lambda pattern: fill(pattern, **places))
    own, more = fill("{role}", **places), sorted(session_roles)
    for statement in made["Statement"]:
        named = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        if more and own in named:
            statement["Resource"] = [own, *more, *(each for each in named if each != own)]
    return made


def session_policy(account: str = "*", *, partition: str = "aws") -> Document:
    """The least that a role needs under which a rule of the access policy opens sessions."""
    chosen = [each for each in PERMISSIONS if each.action in OF_SESSIONS]
    return _policy(chosen, lambda pattern: fill(pattern, account=account, partition=partition))


def trust_policy(principal: str, external_id: str = "") -> Document:
    """Who may assume the role: `principal`, with the external id, naming the person and tagging the session."""
    statement: Document = {
        "Sid": "FleetOps",
        "Effect": "Allow",
        "Principal": {"AWS": principal},
        "Action": list(ASSUME_ACTIONS),
    }
    if external_id:
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": external_id}}
    return {"Version": "2012-10-17", "Statement": [statement]}


def caller_policy(role_arns: Iterable[str]) -> Document:
    """What the identity needs as which FleetOps itself runs: to assume the accounts' roles, and nothing else."""
    statement = {
        "Sid": "AssumeTheRolesOfTheAccounts",
        "Effect": "Allow",
        "Action": list(ASSUME_ACTIONS),
        "Resource": sorted(role_arns),
    }
    return {"Version": "2012-10-17", "Statement": [statement]}


def cloudformation(principal: str = "", external_id: str = "") -> str:
    """A CloudFormation template (YAML) that makes the role; its trusted principal and external id are parameters."""

    def substituted(pattern: str) -> Any:
        role = "arn:${AWS::Partition}:iam::${AWS::AccountId}:role/${RoleName}"
        filled = fill(pattern, partition="${AWS::Partition}", account="${AWS::AccountId}", role=role)
        return {"Fn::Sub": filled} if "${" in filled else filled

    trusted: Document = {
        "Type": "String",
        "Description": "ARN of the user or role as which FleetOps runs",
        "AllowedPattern": r"arn:aws[a-z-]*:iam::\d{12}:(user|role)/[\w+=,.@/-]+",
        "ConstraintDescription": "give the ARN of a user or a role",
    }
    secret: Document = {
        "Type": "String",
        "Description": "what FleetOps must say to assume the role; the account's page in FleetOps has it",
        "MinLength": 2,
        "MaxLength": 128,
        "AllowedPattern": r"[\w+=,.@:/-]*",
    }
    if principal:
        trusted["Default"] = principal
    if external_id:
        secret["Default"] = external_id
    trust = trust_policy("")
    trust["Statement"][0]["Principal"] = {"AWS": {"Ref": "TrustedPrincipal"}}
    trust["Statement"][0]["Condition"] = {"StringEquals": {"sts:ExternalId": {"Ref": "ExternalId"}}}
    template: Document = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "The role that FleetOps assumes in this account, with the least that it needs",
        "Parameters": {
            "TrustedPrincipal": trusted,
            "ExternalId": secret,
            "RoleName": {
                "Type": "String",
                "Default": ROLE_NAME,
                "AllowedPattern": r"[\w+=,.@-]{1,64}",
                "Description": "name of the role",
            },
        },
        "Resources": {
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "RoleName": {"Ref": "RoleName"},
                    "Description": "Assumed by FleetOps for each person and for its own reading",
                    "MaxSessionDuration": 3600,
                    "AssumeRolePolicyDocument": trust,
                    "Policies": [
                        {"PolicyName": "FleetOps", "PolicyDocument": _policy(PERMISSIONS, substituted)},
                    ],
                },
            }
        },
        "Outputs": {
            "RoleArn": {
                "Description": "for the account's page in FleetOps",
                "Value": {"Fn::GetAtt": ["Role", "Arn"]},
            }
        },
    }
    return _yaml(template)


def as_json(document: Document) -> str:
    return json.dumps(document, indent=2)


def _policy(permissions: Iterable[Permission], filled: Any) -> Document:
    """One statement for the permissions of a feature that have their resources in common."""
    groups: dict[str, tuple[Permission, list[str]]] = {}
    for each in permissions:
        key = json.dumps([each.feature, each.resources, each.extra])
        groups.setdefault(key, (each, []))[1].append(each.action)
    statements: list[Document] = []
    seen: dict[str, int] = {}
    for permission, actions in groups.values():
        name = "".join(word.capitalize() for word in permission.feature.split())
        seen[name] = seen.get(name, 0) + 1
        resources = [filled(pattern) for pattern in (*permission.resources, *permission.extra)]
        statement: Document = {
            "Sid": name + (str(seen[name]) if seen[name] > 1 else ""),
            "Effect": "Allow",
            "Action": sorted(actions),
            "Resource": resources[0] if len(resources) == 1 else resources,
        }
        statements.append(statement)
    return {"Version": "2012-10-17", "Statement": statements}


_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9 ,;/._-]*")  # what YAML takes for a string without quotes
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def _yaml(value: Any, indent: int = 0) -> str:
    """`value` as block-style YAML: mappings, lists, strings and numbers, and nothing else."""
    pad = "  " * indent
    if isinstance(value, dict):
        return "".join(f"{pad}{_scalar(key)}:{_after(inner, indent)}" for key, inner in value.items())
    lines = []
    for inner in value:
        text = _yaml(inner, indent + 1) if isinstance(inner, dict | list) else f"{pad}  {_scalar(inner)}\n"
        lines.append(f"{pad}- {text[len(pad) + 2 :]}")
    return "".join(lines)


def _after(value: Any, indent: int) -> str:
    return f"\n{_yaml(value, indent + 1)}" if isinstance(value, dict | list) else f" {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if "\\" in text and "'" not in text:
        return f"'{text}'"
    is_word = _PLAIN.fullmatch(text) and text.lower() not in _WORDS and not text.endswith(" ")
    is_plain = is_word or text.startswith("Fn::")
    # JSON's strings are YAML's.
    return text if is_plain else json.dumps(text)
