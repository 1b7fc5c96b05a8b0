"""On what AWS authorises each operation in use, and by which of them a role is given to a service; data alone.

Source: AWS's Service Authorization Reference, "Actions, resources, and condition keys" of each service. SSM's own parts
(api/ssm) ask for their resources by themselves, for these may hang on what is found.
"""

from collections.abc import Mapping

# Kind of resource → its ARN, and the members of a request that may name one. "{}" is the name that a member gives.
KINDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "ssm:instance": ("arn:aws:ec2:{region}:{account}:instance/{}", ()),
    "ssm:managed-instance": ("arn:aws:ssm:{region}:{account}:managed-instance/{}", ()),
    "ssm:document": ("arn:aws:ssm:{region}:{account}:document/{}", ()),
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
    "s3:bucket": ("arn:aws:s3:::{}", ("Bucket",)),
    "s3:object": ("arn:aws:s3:::{}", ("Key",)),
}
# Service, kinds of resource ("" where AWS has none, so that policies must say "*"), operations.
_ROWS = (
    ("ssm", "ssm:instance ssm:managed-instance ssm:document", "SendCommand StartSession"),
    ("ssm", "ssm:session", "ResumeSession TerminateSession"),
    (
        "ssm",
        "ssm:instance ssm:managed-instance",
        "DescribeAssociation GetConnectionStatus GetDeployablePatchSnapshotForInstance "
        "ListInstanceAssociations PutComplianceItems PutConfigurePackageResult PutInventory "
        "RequestManagedInstanceRoleToken UpdateAssociationStatus UpdateInstanceAssociationStatus "
        "UpdateInstanceInformation UpdateManagedInstancePublicKey",
    ),
    (
        "ssm",
        "ssm:document",
        "CreateDocument DeleteDocument DescribeDocument DescribeDocumentPermission GetDocument "
        "ListDocumentVersions ModifyDocumentPermission UpdateDocument UpdateDocumentDefaultVersion",
    ),
    (
        "ssm",
        "ssm:document ssm:managed-instance",
        "AddTagsToResource ListTagsForResource RemoveTagsFromResource",
    ),
    ("ssm", "ssm:managed-instance", "DeregisterManagedInstance UpdateManagedInstanceRole"),
    (
        "ssm",
        "",
        "CancelCommand CreateActivation DeleteActivation DescribeActivations DescribeInstanceInformation "
        "DescribeSessions GetCommandInvocation ListAssociations ListCommandInvocations ListCommands "
        "ListDocuments RegisterManagedInstance",
    ),
    ("ec2messages", "", "AcknowledgeMessage DeleteMessage FailMessage GetMessages SendReply"),
    ("ssmmessages", "", "CreateControlChannel CreateDataChannel OpenControlChannel OpenDataChannel"),
    ("sts", "iam:role", "AssumeRole"),
    ("sts", "", "GetAccessKeyInfo GetCallerIdentity GetSessionToken"),
    (
        "ec2",
        "",
        "DescribeIamInstanceProfileAssociations DescribeImages DescribeInstances DescribeRegions DescribeTags",
    ),
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
    ("iam", "iam:policy", "CreatePolicy DeletePolicy GetPolicy GetPolicyVersion"),
    ("iam", "iam:role iam:user", "GetContextKeysForPrincipalPolicy SimulatePrincipalPolicy"),
    (
        "iam",
        "",
        "GetContextKeysForCustomPolicy ListInstanceProfiles ListPolicies ListRoles ListUsers SimulateCustomPolicy",
    ),
    (
        "logs",
        "logs:log-group",
        "CreateLogGroup CreateLogStream DeleteLogGroup DescribeLogGroups DescribeLogStreams "
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
    ("securityhub", "", "GetFindings"),
    ("tagging", "", "GetResources"),
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
