"""What a call acts on: its action, resources and condition keys for the policies, and names for the trail.

The resources of each operation are data, in resource_table.py; the condition keys follow AWS's Service Authorization
Reference.
"""

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from fleetops.awsapi import iampolicy
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.auth import caller_of
from fleetops.endpoint.calls import Call
from fleetops.endpoint.core import Endpoint
from fleetops.endpoint.resource_table import KINDS, PASSING, TABLE

# The IAM action of an operation, where it is not its name.
_ACTIONS: Mapping[str, Mapping[str, str]] = {
    "s3": {
        "ListBuckets": "ListAllMyBuckets",
        **dict.fromkeys(("ListObjects", "ListObjectsV2", "HeadBucket"), "ListBucket"),
        "ListObjectVersions": "ListBucketVersions",
        "ListMultipartUploads": "ListBucketMultipartUploads",
        "ListParts": "ListMultipartUploadParts",
        "HeadObject": "GetObject",
        **dict.fromkeys(
            ("CopyObject", "CreateMultipartUpload", "UploadPart", "UploadPartCopy", "CompleteMultipartUpload"),
            "PutObject",
        ),
        "DeleteObjects": "DeleteObject",
        "GetBucketAccelerateConfiguration": "GetAccelerateConfiguration",
        "PutBucketAccelerateConfiguration": "PutAccelerateConfiguration",
        "GetBucketEncryption": "GetEncryptionConfiguration",
        **dict.fromkeys(("PutBucketEncryption", "DeleteBucketEncryption"), "PutEncryptionConfiguration"),
        **dict.fromkeys(("GetBucketLifecycle", "GetBucketLifecycleConfiguration"), "GetLifecycleConfiguration"),
        **dict.fromkeys(
            ("PutBucketLifecycle", "PutBucketLifecycleConfiguration", "DeleteBucketLifecycle"),
            "PutLifecycleConfiguration",
        ),
        "GetBucketReplication": "GetReplicationConfiguration",
        **dict.fromkeys(("PutBucketReplication", "DeleteBucketReplication"), "PutReplicationConfiguration"),
        "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
        **dict.fromkeys(("PutPublicAccessBlock", "DeletePublicAccessBlock"), "PutBucketPublicAccessBlock"),
        "GetBucketNotificationConfiguration": "GetBucketNotification",
        "PutBucketNotificationConfiguration": "PutBucketNotification",
        "GetObjectLockConfiguration": "GetBucketObjectLockConfiguration",
        "PutObjectLockConfiguration": "PutBucketObjectLockConfiguration",
        "DeleteBucketCors": "PutBucketCors",
        "DeleteBucketTagging": "PutBucketTagging",
    },
    "sqs": {
        "SendMessageBatch": "SendMessage",
        "DeleteMessageBatch": "DeleteMessage",
        "ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
    },
    "sns": {"PublishBatch": "Publish"},
}
_PREFIXES = {"tagging": "tag", "monitoring": "cloudwatch"}  # of actions, where it is not what requests are signed for
# With a version's id they are actions of their own.
_OF_VERSIONS = {"GetObject", "DeleteObject", "GetObjectTagging", "PutObjectTagging", "GetObjectAcl", "PutObjectAcl"}
_BLOB_KEY = re.compile(rb"[0-9a-z-]{36}")  # moto begins a ciphertext with its key's id

# By the beginning of an id, for EC2's tags.
_EC2_KINDS = {
    "i": "instance",
    "ami": "image",
    "vol": "volume",
    "subnet": "subnet",
    "sg": "security-group",
    "vpc": "vpc",
    "eni": "network-interface",
    "snap": "snapshot",
    "key": "key-pair",
    "lt": "launch-template",
}
_OWNED = {"s3", "kms", "sns", "sqs"}  # services whose resources have policies of their own
_TAGGED = {"ec2", "iam", "kms", "logs", "sns", "sqs"}  # services whose tags count in policies
_MAKING = {"CreateBucket", "CreateTopic", "CreateQueue", "CreateKey"}  # what is not there has none
_ACCOUNT = re.compile(r"[0-9]{12}")


def action(call: Call) -> str:
    """The IAM action of a call."""
    assert call.service is not None
    service = call.service.signing_name
    name = _ACTIONS.get(service, {}).get(call.operation, call.operation)
    if service == "s3" and name in _OF_VERSIONS and (call.members or {}).get("VersionId"):
        name = name.replace("Object", "ObjectVersion", 1)
    return f"{_PREFIXES.get(service, service)}:{name}"


async def allow(endpoint: Endpoint, call: Call) -> None:
    """Return if the caller may make a call that moto answers. Fills in the names for the trail. Raises ApiError."""
    assert call.service is not None
    members = call.members or {}
    service = call.service.signing_name
    context = _keys(call, members)
    if service == "ec2" and call.operation in {
        "ReplaceIamInstanceProfileAssociation",
        "DisassociateIamInstanceProfile",
    }:
        found = await endpoint.moto.result(
            ask="profile_association",
            account=call.account_id,
            region=call.region,
            association=members.get("AssociationId", ""),
        )
        if found:
            # As in AWS's own event: whose association it was stands in the answer alone.
            about = {"associationId": members.get("AssociationId", ""), "instanceId": found}
            call.response_elements = {"iamInstanceProfileAssociation": about}
            members = members | {"IamInstanceProfileInstance": found}
    if service == "kms" and call.operation in {"Decrypt", "ReEncrypt"}:
        await _allow_sealed(endpoint, call, members, context)
        return
    arns = find(call, members)
    owned: dict[str, iampolicy.Owned] = {}
    if service in _OWNED and call.operation not in _MAKING:
        arns, owned = await _owned(endpoint, call, arns)
    elif service == "iam":
        arns = [await _whole(endpoint, call, arn) for arn in arns]
        context |= await _boundary(endpoint, call, members)
    _name(call, arns)
    await endpoint.authorizer.allow(call, action(call), arns, context, owned)
    await _allow_passing(endpoint, call, members, arns)
    if copied := _copied(call):
        _, owned = await _owned(endpoint, call, copied, is_copied=True)
        await endpoint.authorizer.allow(call, "s3:GetObject", copied, context, owned)


async def _allow_sealed(
    endpoint: Endpoint, call: Call, members: Mapping[str, Any], context: dict[str, list[str]]
) -> None:
    """Decrypt and ReEncrypt: it is the key that has sealed the text, whatever key the request names or does not."""
    try:
        blob = base64.b64decode(str(members.get("CiphertextBlob", "")))
    except ValueError:
        blob = b""
    given = str(members.get("KeyId") or members.get("SourceKeyId") or "")
    sealed_by = match[0].decode() if (match := _BLOB_KEY.match(blob)) is not None else ""
    place = given.rpartition(":key/")[0] if ":key/" in given else f"arn:aws:kms:{call.region}:{call.account_id}"
    asked = [("kms:Decrypt", f"{place}:key/{sealed_by}" if sealed_by else "*")]
    if call.operation == "ReEncrypt":
        to = _arn(call, "kms:key", str(members.get("DestinationKeyId", "")))
        asked = [("kms:ReEncryptFrom", asked[0][1]), ("kms:ReEncryptTo", to)]
    for name, arn in asked:
        arns, owned = await _owned(endpoint, call, [arn])
        _name(call, arns)
        await endpoint.authorizer.allow(call, name, arns, context, owned)


def find(call: Call, members: Mapping[str, Any]) -> list[str]:
    """The ARNs that a call acts on; ["*"] where none is known, or AWS asks about none."""
    assert call.service is not None
    service, operation = call.service.signing_name, call.operation
    row = TABLE.get(f"{service}:{operation}")
    if service == "s3":
        bucket, _, key = unquote(call.resource_path).lstrip("/").partition("/")
        if operation == "DeleteObjects":
            return [f"arn:aws:s3:::{bucket}/{name}" for name in _values(members, "Delete.Objects.Key")] or ["*"]
        return [f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"] if bucket else ["*"]
    if service == "ec2" and operation in {"CreateTags", "DeleteTags"}:
        return [_ec2_arn(call, name) for name in _values(members, "Resources")] or ["*"]
    if service == "securityhub" and row == "securityhub:hub":
        return [_arn(call, row, "default")]
    if service == "securityhub" and row is not None:
        return list(dict.fromkeys(_values(members, "Findings.ProductArn"))) or ["*"]
    if row is None:
        # Not in use here: what its parameters name. EC2's reads have no resource.
        kinds = (
            [] if service == "ec2" and call.read_only else [kind for kind in KINDS if kind.startswith(f"{service}:")]
        )
    else:
        kinds = row.split()
    arns = [_arn(call, kind, name) for kind in kinds for member in KINDS[kind][1] for name in _values(members, member)]
    if row is None and service in {"iam", "sns", "events", "kms"}:
        arns = arns[:1]
    if service == "ec2" and operation == "RunInstances":
        made = ("instance", "volume", "network-interface")
        arns = [*(f"arn:aws:ec2:{call.region}:{call.account_id}:{kind}/*" for kind in made), *arns]
    if service == "logs" and arns and isinstance(members.get("logStreamName"), str):
        arns = [f"{arn}:log-stream:{members['logStreamName']}" for arn in arns]
    return list(dict.fromkeys(arns)) or ["*"]


def _values(members: Mapping[str, Any], path: str) -> list[str]:
    """The texts at a path of a request's parameters; a list on the way means each of it."""
    held: list[Any] = [members]
    for name in path.split("."):
        found = [item.get(name) for item in held if isinstance(item, Mapping)]
        held = [each for item in found for each in (item if isinstance(item, list) else [item])]
    return [item for item in held if isinstance(item, str) and item]


def _arn(call: Call, kind: str, name: str) -> str:
    template = KINDS[kind][0]
    if kind == "sqs:queue" and "/" in name:
        *_, account, name = name.rstrip("/").split("/")
        if _ACCOUNT.fullmatch(account):
            return f"arn:aws:sqs:{call.region}:{account}:{name}"
    if name.startswith("arn:"):
        return name.removesuffix(":*")
    if kind == "kms:key" and name.startswith("alias/"):
        template = KINDS["kms:alias"][0]
    return template.replace("{region}", call.region).replace("{account}", call.account_id).replace("{}", name)


def _ec2_arn(call: Call, name: str) -> str:
    kind = _EC2_KINDS.get(name.partition("-")[0], "*")
    account = "" if kind in {"image", "snapshot"} else call.account_id
    return f"arn:aws:ec2:{call.region}:{account}:{kind}/{name}"


def _name(call: Call, arns: list[str]) -> None:
    """The names for the trail: ids for EC2, names and policies for IAM, ARNs for the rest."""
    assert call.service is not None
    service, members = call.service.signing_name, call.members or {}
    if service == "s3":
        bucket, _, key = unquote(call.resource_path).lstrip("/").partition("/")
        if bucket:
            call.parameters = {"bucketName": bucket, **({"key": key} if key else {})}
    if service == "ec2":
        call.resources += [
            name for path in ("InstanceId", "InstanceIds", "Resources") for name in _values(members, path)
        ]
        return
    if service == "iam":
        paths = ("PolicyArn", "RoleName", "InstanceProfileName", "UserName", "GroupName")
        call.resources += [name for path in paths for name in _values(members, path)]
    call.resources += [arn for arn in arns if arn != "*" and arn not in call.resources]


async def _whole(endpoint: Endpoint, call: Call, arn: str) -> str:
    """The ARN of a role or user with its path, which a request does not name."""
    kind, _, name = arn.rpartition(":")[2].partition("/")
    if call.operation.startswith("Create"):
        path = str((call.members or {}).get("Path") or "/").strip("/")
        return f"{arn.rpartition('/')[0]}/{path}/{name}" if path and "/" not in name else arn
    if kind not in {"role", "user"}:
        return arn
    identity = await endpoint.identities.identity(call.account_id, kind, name)
    return str(identity["arn"]) if identity is not None else arn


async def _boundary(endpoint: Endpoint, call: Call, members: Mapping[str, Any]) -> dict[str, list[str]]:
    """iam:PermissionsBoundary: the one that a request gives, or else the one that its user or role has."""
    if given := members.get("PermissionsBoundary"):
        return {"iam:permissionsboundary": [given]}
    for member, kind in (("RoleName", "role"), ("UserName", "user")):
        if name := members.get(member):
            identity = await endpoint.identities.identity(call.account_id, kind, name)
            if identity is not None and identity["boundary_arn"]:
                return {"iam:permissionsboundary": [identity["boundary_arn"]]}
    return {}


async def _owned(
    endpoint: Endpoint, call: Call, arns: list[str], *, is_copied: bool = False
) -> tuple[list[str], dict[str, iampolicy.Owned]]:
    """The ARNs as the resources themselves have them, with the policies that they have.

    What is another account's is refused unless its policy allows it, and is looked for in that account.
    """
    assert call.service is not None and call.principal is not None
    service = call.service.signing_name
    named, owned = [], {}
    for arn in arns:
        parts = arn.split(":", 5)
        if len(parts) < 6:
            named.append(arn)
            continue
        account = parts[4] if _ACCOUNT.fullmatch(parts[4]) else call.account_id
        name = {"s3": parts[5].partition("/")[0], "sqs": parts[5], "sns": arn}.get(service, parts[5])
        name = name.removeprefix("key/") if service == "kms" else name
        found = await endpoint.moto.result(
            ask="resource", service=service, account=account, region=call.region, name=name
        )
        if found is None and account == call.account_id:
            named.append(arn)
            continue
        owner = found["account"] if found is not None else account
        whole = found["arn"] if found is not None and service != "s3" and parts[5].partition("/")[0] != "grant" else arn
        policy = iampolicy.parse(found["policy"]) if found is not None and found["policy"] else {}
        is_same = owner == call.account_id
        owned[whole] = iampolicy.Owned(policy, caller_of(call.principal), is_same, service == "kms")
        named.append(whole)
        if not is_same and not is_copied:
            call.owner_id = owner
    return named, owned


async def _allow_passing(endpoint: Endpoint, call: Call, members: Mapping[str, Any], arns: list[str]) -> None:
    """Who gives a role to a service must be allowed to pass it on. Raises ApiError."""
    assert call.service is not None
    path, service = PASSING.get(f"{call.service.signing_name}:{call.operation}", ("", ""))
    if not path:
        return
    roles = _values(members, path)
    if path == "profile":
        # By both, for whoever gives both gives what either names; moto says what is not there.
        named = _values(members, "IamInstanceProfile.Arn") + _values(members, "IamInstanceProfile.Name")
        profiles = [await endpoint.identities.profile(call.account_id, name) for name in named]
        roles = [profile["role"] for profile in profiles if profile is not None and profile["role"]]
    context = {"iam:passedtoservice": [service]}
    if call.service.signing_name == "ec2":
        context["iam:associatedresourcearn"] = [arn for arn in arns if ":instance/" in arn]
    for role in roles:
        arn = role if role.startswith("arn:") else await _whole(endpoint, call, _arn(call, "iam:role", role))
        await endpoint.authorizer.allow(call, "iam:PassRole", [arn], context)


async def tags_of(endpoint: Endpoint, call: Call, arn: str) -> Mapping[str, str]:
    """The tags of what an ARN names: a node or document of ours, or what moto keeps."""
    parts = arn.split(":", 5)
    if len(parts) < 6 or "*" in parts[5]:
        return {}
    service, account = parts[2], parts[4] or call.account_id
    kind, _, name = parts[5].partition("/")
    if service == "ssm" and kind == "document":
        if not parts[4]:
            return {}  # AWS's own have none
        try:
            return await endpoint.documents.tags(account, call.region, name)
        except ApiError:  # it is not there, or is another account's
            return {}
    if service == "ssm" and kind == "patchbaseline":
        try:
            return (await endpoint.baselines.find((account, call.region), name)).tags
        except ApiError:  # it is not there; AWS's own have none
            return {}
    if service == "ssm" or (service, kind) == ("ec2", "instance"):
        node = endpoint.nodes.find((account, call.region, name))
        if node is not None:
            return node.tags
        if service == "ssm":
            return {}
    if service not in _TAGGED:
        return {}
    return await endpoint.moto.result(ask="resource_tags", account=account, region=call.region, arn=arn) or {}


def _copied(call: Call) -> list[str]:
    """The ARN of the object that an S3 request copies from; [] for all other requests."""
    source = call.request.header("x-amz-copy-source")
    if source is None or call.service is None or call.service.signing_name != "s3":
        return []
    name = unquote(source.partition("?versionId=")[0]).lstrip("/")
    return [name if name.startswith("arn:") else f"arn:aws:s3:::{name}"]


# --- Condition keys of single services ---

_S3_QUERY = {"prefix": "s3:prefix", "delimiter": "s3:delimiter", "max-keys": "s3:max-keys", "versionId": "s3:versionid"}
_S3_HEADERS = ("x-amz-acl", "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id")


def _keys(call: Call, members: Mapping[str, Any]) -> dict[str, list[str]]:
    assert call.service is not None
    of_service = _KEYS.get(call.service.signing_name)
    return {key: values for key, values in of_service(call, members) if values} if of_service is not None else {}


def _ec2_keys(call: Call, members: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    yield "ec2:region", [call.region]
    yield "ec2:instancetype", _values(members, "InstanceType")
    yield "ec2:metadatahttptokens", _values(members, "MetadataOptions.HttpTokens")
    if call.operation == "CreateTags":
        return
    yield (
        "ec2:instanceprofile",
        [
            *_values(members, "IamInstanceProfile.Arn"),
            *(
                f"arn:aws:iam::{call.account_id}:instance-profile/{name}"
                for name in _values(members, "IamInstanceProfile.Name")
            ),
        ],
    )


def _iam_keys(call: Call, members: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    yield "iam:policyarn", _values(members, "PolicyArn")


def _s3_keys(call: Call, members: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    for name, value in parse_qsl(call.request.query, keep_blank_values=True):
        if name in _S3_QUERY:
            yield _S3_QUERY[name], [value]
    for name in _S3_HEADERS:
        if (value := call.request.header(name)) is not None:
            yield f"s3:{name}", [value]


def _kms_keys(call: Call, members: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    pairs = members.get("EncryptionContext")
    if isinstance(pairs, dict) and pairs:
        yield "kms:encryptioncontextkeys", [str(key) for key in pairs]
        for key, value in pairs.items():
            yield f"kms:encryptioncontext:{str(key).lower()}", [str(value)]
    yield "kms:requestalias", [name for name in _values(members, "KeyId") if name.startswith("alias/")]


def _sns_keys(call: Call, members: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    yield "sns:protocol", _values(members, "Protocol")
    yield "sns:endpoint", _values(members, "Endpoint")


_KEYS: Mapping[str, Callable[[Call, Mapping[str, Any]], Iterable[tuple[str, list[str]]]]] = {
    "ec2": _ec2_keys,
    "iam": _iam_keys,
    "s3": _s3_keys,
    "kms": _kms_keys,
    "sns": _sns_keys,
}
