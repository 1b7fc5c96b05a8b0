"""On what AWS authorises each operation in use, and by which of them a role is given to a service; data alone.

Source: AWS's Service Authorization Reference, "Actions, resources, and condition keys" of each service. SSM's own parts
(api/ssm) ask for their resources by themselves, for these may hang on what is found.
"""

import re
from collections.abc import Mapping

# Kind of resource → its ARN, and the members of a request that may name one. "{}" is the name that a member gives.
KINDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "ssm:instance": ("arn:aws:ec2:{region}:{account}:instance/{}", ()),
    "ssm:managed-instance": ("arn:aws:ssm:{region}:{account}:managed-instance/{}", ()),
    "ssm:document": ("arn:aws:ssm:{region}:{account}:document/{}", ()),
    "ssm:patchbaseline": ("arn:aws:ssm:{region}:{account}:patchbaseline/{}", ()),
    "ssm:automation-definition": ("arn:aws:ssm:{region}:{account}:automation-definition/{}", ()),
    "ssm:automation-execution": ("arn:aws:ssm:{region}:{account}:automation-execution/{}", ()),
    "ssm:session": ("arn:aws:ssm:{region}:{account}:session/{}", ()),
    "ec2:instance": (
        "arn:aws:ec2:{region}:{account}:instance/{}",
        ("InstanceId", "InstanceIds", "IamInstanceProfileInstance"),
    ),
    "ec2:image": ("arn:aws:ec2:{region}::image/{}", ("ImageId",)),
    "ec2:subnet": ("arn:aws:ec2:{region}:{account}:subnet/{}", ("SubnetId",)),
    "ec2:security-group": (
        "arn:aws:ec2:{region}:{account}:security-group/{}",
        ("SecurityGroupIds", "GroupId", "Groups"),
    ),
    "ec2:key-pair": ("arn:aws:ec2:{region}:{account}:key-pair/{}", ("KeyName",)),
    "iam:role": ("arn:aws:iam::{account}:role/{}", ("RoleName",)),
    "iam:instance-profile": ("arn:aws:iam::{account}:instance-profile/{}", ("InstanceProfileName",)),
    "iam:user": ("arn:aws:iam::{account}:user/{}", ("UserName",)),
    "iam:group": ("arn:aws:iam::{account}:group/{}", ("GroupName",)),
    "iam:policy": ("arn:aws:iam::{account}:policy/{}", ("PolicyArn", "PolicyName")),
    "kms:key": ("arn:aws:kms:{region}:{account}:key/{}", ("KeyId", "TargetKeyId", "SourceKeyId")),
    "kms:alias": ("arn:aws:kms:{region}:{account}:{}", ("AliasName",)),
    "logs:log-group": ("arn:aws:logs:{region}:{account}:log-group:{}", ("logGroupName", "logGroupIdentifier")),
    "sns:topic": ("arn:aws:sns:{region}:{account}:{}", ("TopicArn", "TargetArn", "ResourceArn", "Name")),
    "sqs:queue": ("arn:aws:sqs:{region}:{account}:{}", ("QueueUrl", "QueueName")),
    "events:rule": ("arn:aws:events:{region}:{account}:rule/{}", ("Name", "Rule")),
    "securityhub:hub": ("arn:aws:securityhub:{region}:{account}:hub/{}", ()),
    "securityhub:product": ("arn:aws:securityhub:{region}:{account}:product/{}", ()),
    "s3:bucket": ("arn:aws:s3:::{}", ("Bucket",)),
    "s3:object": ("arn:aws:s3:::{}", ("Key",)),
}
# Service, kinds of resource ("" where AWS has none, so that policies must say "*"), operations.
_ROWS = (
    ("ssm", "ssm:instance ssm:managed-instance ssm:document", "SendCommand StartSession"),
    ("ssm", "ssm:session", "ResumeSession TerminateSession"),
    ("ssm", "ssm:automation-definition", "StartAutomationExecution"),
    (
        "ssm",
        "ssm:automation-execution",
        "DescribeAutomationStepExecutions GetAutomationExecution SendAutomationSignal StopAutomationExecution",
    ),
    (
        "ssm",
        "ssm:instance ssm:managed-instance",
        "DescribeEffectiveInstanceAssociations DescribeInstanceAssociationsStatus GetConnectionStatus "
        "GetDeployablePatchSnapshotForInstance ListComplianceItems ListInstanceAssociations "
        "ListInventoryEntries PutComplianceItems PutInventory RequestManagedInstanceRoleToken "
        "UpdateAssociationStatus UpdateInstanceAssociationStatus UpdateInstanceInformation "
        "UpdateManagedInstancePublicKey",
    ),
    (
        "ssm",
        "ssm:document",
        "CreateDocument DeleteDocument DescribeDocument DescribeDocumentPermission GetDocument "
        "ListDocumentVersions ModifyDocumentPermission UpdateDocument UpdateDocumentDefaultVersion",
    ),
    (
        "ssm",
        "ssm:document ssm:managed-instance ssm:patchbaseline",
        "AddTagsToResource ListTagsForResource RemoveTagsFromResource",
    ),
    (
        "ssm",
        "ssm:patchbaseline",
        "DeletePatchBaseline DeregisterPatchBaselineForPatchGroup DescribeEffectivePatchesForPatchBaseline "
        "GetDefaultPatchBaseline GetPatchBaseline GetPatchBaselineForPatchGroup RegisterDefaultPatchBaseline "
        "RegisterPatchBaselineForPatchGroup UpdatePatchBaseline",
    ),
    (
        "ssm",
        "",
        "CreatePatchBaseline DescribeAvailablePatches DescribeInstancePatchStates "
        "DescribeInstancePatchStatesForPatchGroup DescribeInstancePatches DescribePatchBaselines "
        "DescribePatchGroupState DescribePatchGroups DescribePatchProperties",
    ),
    ("ssm", "ssm:managed-instance", "DeregisterManagedInstance UpdateManagedInstanceRole"),
    (
        "ssm",
        "",
        "CancelCommand CreateActivation DeleteActivation DeleteInventory DescribeActivations "
        "DescribeAutomationExecutions "
        "DescribeAssociation DescribeInstanceInformation DescribeInventoryDeletions DescribeSessions "
        "GetCommandInvocation GetInventory GetInventorySchema GetManifest ListAssociations "
        "ListCommandInvocations ListCommands ListComplianceSummaries ListDocuments "
        "ListResourceComplianceSummaries PutConfigurePackageResult RegisterManagedInstance",
    ),
    ("ec2messages", "", "AcknowledgeMessage DeleteMessage FailMessage GetMessages SendReply"),
    ("ssmmessages", "", "CreateControlChannel CreateDataChannel OpenControlChannel OpenDataChannel"),
    ("sts", "iam:role", "AssumeRole"),
    ("sts", "", "GetAccessKeyInfo GetCallerIdentity GetSessionToken"),
    (
        "ec2",
        "",
        "DescribeIamInstanceProfileAssociations DescribeImages DescribeInstances DescribeNetworkInterfaces "
        "DescribeRegions DescribeSecurityGroupRules DescribeSecurityGroups DescribeTags",
    ),
    ("ec2", "ec2:security-group", "AuthorizeSecurityGroupIngress RevokeSecurityGroupIngress"),
    ("ec2", "ec2:instance ec2:image ec2:subnet ec2:security-group ec2:key-pair", "RunInstances"),
    (
        "ec2",
        "ec2:instance",
        "AssociateIamInstanceProfile CreateTags DeleteTags DisassociateIamInstanceProfile "
        "ModifyInstanceAttribute ModifyInstanceMetadataOptions RebootInstances "
        "ReplaceIamInstanceProfileAssociation StartInstances StopInstances TerminateInstances",
    ),
    (
        "iam",
        "iam:role",
        "AttachRolePolicy CreateRole DeleteRole DeleteRolePermissionsBoundary DeleteRolePolicy "
        "DetachRolePolicy GetRole GetRolePolicy ListAttachedRolePolicies ListInstanceProfilesForRole "
        "ListRolePolicies PutRolePermissionsBoundary PutRolePolicy TagRole UntagRole "
        "UpdateAssumeRolePolicy UpdateRole",
    ),
    (
        "iam",
        "iam:user",
        "AttachUserPolicy CreateAccessKey CreateUser DeleteAccessKey DeleteUser "
        "DeleteUserPermissionsBoundary DeleteUserPolicy DetachUserPolicy GetUser ListAccessKeys "
        "PutUserPermissionsBoundary PutUserPolicy TagUser UntagUser UpdateAccessKey",
    ),
    (
        "iam",
        "iam:instance-profile",
        "AddRoleToInstanceProfile CreateInstanceProfile DeleteInstanceProfile GetInstanceProfile "
        "RemoveRoleFromInstanceProfile",
    ),
    (
        "iam",
        "iam:policy",
        "CreatePolicy CreatePolicyVersion DeletePolicy DeletePolicyVersion GetPolicy GetPolicyVersion "
        "ListPolicyVersions",
    ),
    ("iam", "iam:role iam:user", "GetContextKeysForPrincipalPolicy SimulatePrincipalPolicy"),
    (
        "iam",
        "",
        "GetAccountAuthorizationDetails GetContextKeysForCustomPolicy ListInstanceProfiles ListPolicies ListRoles "
        "ListUsers SimulateCustomPolicy",
    ),
    (
        "logs",
        "logs:log-group",
        "AssociateKmsKey CreateLogGroup CreateLogStream DeleteLogGroup DescribeLogGroups DescribeLogStreams "
        "FilterLogEvents GetLogEvents PutLogEvents PutRetentionPolicy",
    ),
    (
        "s3",
        "s3:bucket",
        "CreateBucket DeleteBucket GetBucketEncryption GetBucketLocation GetBucketPolicy HeadBucket "
        "ListObjectsV2 PutBucketEncryption PutBucketPolicy",
    ),
    (
        "s3",
        "s3:object",
        "AbortMultipartUpload CompleteMultipartUpload CreateMultipartUpload DeleteObject GetObject "
        "HeadObject PutObject UploadPart",
    ),
    ("s3", "", "ListBuckets"),
    (
        "kms",
        "kms:key",
        "Decrypt DescribeKey Encrypt GenerateDataKey GetKeyPolicy PutKeyPolicy ScheduleKeyDeletion",
    ),
    ("kms", "kms:alias kms:key", "CreateAlias"),
    ("kms", "", "CreateKey ListAliases ListKeys"),
    ("sns", "sns:topic", "CreateTopic GetTopicAttributes Publish SetTopicAttributes Subscribe"),
    ("sns", "", "ListTopics"),
    (
        "sqs",
        "sqs:queue",
        "CreateQueue DeleteMessage GetQueueAttributes GetQueueUrl ReceiveMessage SendMessage SetQueueAttributes",
    ),
    ("sqs", "", "ListQueues"),
    ("events", "events:rule", "PutRule PutTargets"),
    ("cloudtrail", "", "LookupEvents"),
    (
        "securityhub",
        "securityhub:hub",
        "BatchUpdateFindings DescribeHub DisableSecurityHub EnableSecurityHub GetFindings",
    ),
    ("securityhub", "securityhub:product", "BatchImportFindings"),
    ("tagging", "", "GetResources"),
    ("monitoring", "", "DescribeAlarms"),
)
TABLE: Mapping[str, str] = {
    f"{service}:{operation}": kinds for service, kinds, operations in _ROWS for operation in operations.split()
}

# Operations by which a role is given to a service: where the request names it, and the service. "profile": it is the
# one within the instance profile that the request names.
PASSING: Mapping[str, tuple[str, str]] = {
    "ec2:RunInstances": ("profile", "ec2.amazonaws.com"),
    "ec2:AssociateIamInstanceProfile": ("profile", "ec2.amazonaws.com"),
    "ec2:ReplaceIamInstanceProfileAssociation": ("profile", "ec2.amazonaws.com"),
    "iam:AddRoleToInstanceProfile": ("RoleName", "ec2.amazonaws.com"),
    "events:PutRule": ("RoleArn", "events.amazonaws.com"),
    "events:PutTargets": ("Targets.RoleArn", "events.amazonaws.com"),
    "logs:PutSubscriptionFilter": ("roleArn", "logs.amazonaws.com"),
    "cloudtrail:CreateTrail": ("CloudWatchLogsRoleArn", "cloudtrail.amazonaws.com"),
    "cloudtrail:UpdateTrail": ("CloudWatchLogsRoleArn", "cloudtrail.amazonaws.com"),
}


# What CloudTrail calls a resource, by how its name or ARN reads; the first that fits. Source: CloudTrail user guide and
# CloudFormation's names of types, which it takes.
_TYPES = (
    (r"arn:aws:iam::\d*:role/.+", "AWS::IAM::Role"),
    (r"arn:aws:iam::\d*:user/.+", "AWS::IAM::User"),
    (r"arn:aws:iam::\d*:group/.+", "AWS::IAM::Group"),
    (r"arn:aws:iam::(\d*|aws):policy/.+", "AWS::IAM::Policy"),
    (r"arn:aws:iam::\d*:instance-profile/.+", "AWS::IAM::InstanceProfile"),
    (r"arn:aws:sts::\d*:assumed-role/.+", "AWS::STS::AssumedRole"),
    (r"(arn:aws:ec2:[^:]*:\d*:instance/)?i-[0-9a-f]{8,17}", "AWS::EC2::Instance"),
    (r"(arn:aws:ssm:[^:]*:\d*:managed-instance/)?mi-[0-9a-f]{17}", "AWS::SSM::ManagedInstance"),
    (r"arn:aws:ssm:[^:]*:\d*:document/.+", "AWS::SSM::Document"),
    (r"arn:aws:ssm:[^:]*:\d*:patchbaseline/.+", "AWS::SSM::PatchBaseline"),
    (r"arn:aws:kms:[^:]*:\d*:key/.+", "AWS::KMS::Key"),
    (r"arn:aws:kms:[^:]*:\d*:alias/.+", "AWS::KMS::Alias"),
    (r"arn:aws:s3:::[^/]+", "AWS::S3::Bucket"),
    (r"arn:aws:s3:::[^/]+/.+", "AWS::S3::Object"),
    (r"arn:aws:logs:[^:]*:\d*:log-group:.+:log-stream:.+", "AWS::Logs::LogStream"),
    (r"arn:aws:logs:[^:]*:\d*:log-group:.+", "AWS::Logs::LogGroup"),
    (r"arn:aws:sns:[^:]*:\d*:.+", "AWS::SNS::Topic"),
    (r"arn:aws:sqs:[^:]*:\d*:.+", "AWS::SQS::Queue"),
    (r"arn:aws:events:[^:]*:\d*:rule/.+", "AWS::Events::Rule"),
    (r"vol-[0-9a-f]+", "AWS::EC2::Volume"),
    (r"ami-[0-9a-f]+", "AWS::EC2::Ami"),
    (r"sg-[0-9a-f]+", "AWS::EC2::SecurityGroup"),
    (r"subnet-[0-9a-f]+", "AWS::EC2::Subnet"),
    (r"vpc-[0-9a-f]+", "AWS::EC2::VPC"),
)
_TYPE = [(re.compile(pattern, re.DOTALL), name) for pattern, name in _TYPES]


def type_of(name: str) -> str:
    """CloudTrail's type of a resource, by its name or ARN; "" for one that says nothing of itself."""
    return next((kind for pattern, kind in _TYPE if pattern.fullmatch(name)), "")
