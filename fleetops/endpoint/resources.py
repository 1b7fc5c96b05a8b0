"""What a call acts on: ARNs for the policies, and names for the trail, of the services that moto answers."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from fleetops.endpoint.calls import Call

# The IAM action of an S3 operation, where it is not its name.
_S3_ACTIONS = {
    "ListBuckets": "ListAllMyBuckets",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "HeadBucket": "ListBucket",
    "ListObjectVersions": "ListBucketVersions",
    "HeadObject": "GetObject",
    "CopyObject": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "DeleteObjects": "DeleteObject",
}
_IAM_KINDS = (
    ("RoleName", "role"),
    ("InstanceProfileName", "instance-profile"),
    ("UserName", "user"),
    ("GroupName", "group"),
)


def action(call: Call) -> str:
    """The IAM action of a call."""
    assert call.service is not None
    name = call.operation
    if call.service.signing_name == "s3":
        name = _S3_ACTIONS.get(name, name)
    return f"{call.service.action_prefix}:{name}"


def copied(call: Call) -> list[str]:
    """The ARN of the object that an S3 request copies from; [] for all other requests."""
    source = call.request.header("x-amz-copy-source")
    if source is None or call.service is None or call.service.signing_name != "s3":
        return []
    name = unquote(source.partition("?versionId=")[0]).lstrip("/")
    return [name if name.startswith("arn:") else f"arn:aws:s3:::{name}"]


def find(call: Call, parameters: Mapping[str, Any]) -> list[str]:
    """The ARNs that a call acts on; ["*"] where none is known. Fills in the names for the trail."""
    assert call.service is not None
    account, region = call.account_id, call.region
    service = call.service.signing_name
    arns: list[str] = []
    if service == "s3":
        bucket, _, key = unquote(call.resource_path).lstrip("/").partition("/")
        if bucket:
            arns = [f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"]
            call.parameters = {"bucketName": bucket, **({"key": key} if key else {})}
    elif service == "iam":
        if "PolicyArn" in parameters:
            call.resources.append(str(parameters["PolicyArn"]))
        for name, kind in _IAM_KINDS:
            if name in parameters:
                arns = [f"arn:aws:iam::{account}:{kind}/{parameters[name]}"]
                call.resources.append(str(parameters[name]))
                break
        else:
            arns = [str(parameters["PolicyArn"])] if "PolicyArn" in parameters else []
    elif service == "ec2":
        ids = [value for name, value in parameters.items() if name == "InstanceId" or name.startswith("InstanceId.")]
        call.resources += [str(value) for value in ids]
        if not call.read_only:
            arns = [f"arn:aws:ec2:{region}:{account}:instance/{value}" for value in ids]
    elif service == "kms" and isinstance(parameters.get("KeyId"), str):
        key = parameters["KeyId"]
        arns = [key if key.startswith("arn:") else f"arn:aws:kms:{region}:{account}:key/{key}"]
    elif service == "logs" and isinstance(
        name := parameters.get("logGroupName", parameters.get("logGroupIdentifier")), str
    ):
        arns = [
            name.removesuffix(":*") if name.startswith("arn:") else f"arn:aws:logs:{region}:{account}:log-group:{name}"
        ]
        if isinstance(parameters.get("logStreamName"), str):
            arns = [f"{arns[0]}:log-stream:{parameters['logStreamName']}"]
    elif service == "sns" and "TopicArn" in parameters:
        arns = [str(parameters["TopicArn"])]
    if service != "ec2":
        call.resources += arns
    return arns or ["*"]
