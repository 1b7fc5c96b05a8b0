"""Parameters against botocore's models, refused in the words and with the code of each service.

Codes: the services' own lists of errors in their API references ("Common errors", "Error codes"), and the error shapes
of their models. Where AWS takes a value that the model does not have, it is taken here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from botocore.model import ListShape, OperationModel, Shape, StructureShape

from fleetops.awsapi import json11, query
from fleetops.awsapi.errors import ApiError
from fleetops.awsapi.json11 import Failure
from fleetops.awsapi.rest import malformed_xml

# What a service calls a value that breaks its model, where it is not its protocol's word.
_INVALID = {
    "logs": "InvalidParameterException",
    "securityhub": "InvalidInputException",
    "sns": "InvalidParameter",
}
_INVALID_BY_PROTOCOL = {
    "json": "ValidationException",
    "rest-json": "ValidationException",
    "query": "ValidationError",
    "ec2": "InvalidParameterValue",
    "rest-xml": "InvalidArgument",
}
# S3's own codes for a value that its enumeration does not have; None where its model lags behind or another check knows
# more.
_S3_ENUMS: Mapping[str, tuple[str, str] | None] = {
    "StorageClass": ("InvalidStorageClass", "The storage class you specified is not valid"),
    "TransitionStorageClass": ("InvalidStorageClass", "The storage class you specified is not valid"),
    "ServerSideEncryption": (
        "InvalidEncryptionAlgorithmError",
        "The encryption request you specified is not valid. Supported value: AES256.",
    ),
    "BucketLocationConstraint": None,
    "ChecksumAlgorithm": None,
}

_codec = json11.Codec()


def check(signing_name: str, protocol: str, operation: OperationModel, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters without the ones that nobody knows. Raises ApiError in the service's code."""
    shape = operation.input_shape
    checked, failures = _codec.examine(shape, parameters)
    if not failures:
        return checked
    code = _INVALID.get(signing_name, _INVALID_BY_PROTOCOL[protocol])
    if protocol == "ec2":
        raise _ec2(code, failures[0], shape)
    if signing_name == "s3":
        failures = [failure for failure in failures if not _s3_allows(failure)]
        if not failures:
            return checked
        raise _s3(code, failures[0], shape)
    if signing_name == "sns":
        raise _sns(code, failures[0])
    raise ApiError(code, json11.sentence(failures), 400)


def _last(path: str) -> str:
    """The name of the member that a path leads to, as it stands in the model."""
    name = next((part for part in reversed(path.split(".")) if not (part.isdigit() or part == "member")), path)
    return name[:1].upper() + name[1:]


def _ec2(code: str, failure: Failure, shape: Shape | None) -> ApiError:
    name, limits = _in_a_form(failure.path, shape)
    shown = str(failure.value)[:100]
    if failure.kind == "missing":
        return ApiError("MissingParameter", f"The request must contain the parameter {name}", 400)
    if failure.kind == "range":
        low, high = limits.get("min"), limits.get("max")
        bounds = [f"greater than {low}"] if low is not None else []
        bounds += [f"less than {high}"] if high is not None else []
        name = name[:1].lower() + name[1:]
        told = f"Value ( {shown} ) for parameter {name} is invalid. Expecting a value {' and '.join(bounds)}."
        return ApiError(code, told, 400)
    return ApiError(code, f"Invalid value '{shown}' for {name}.", 400)


def _in_a_form(path: str, shape: Shape | None) -> tuple[str, Mapping[str, Any]]:
    """The last member of a path as EC2's forms name it, and the limits of its shape."""
    name = path
    for part in path.split("."):
        if isinstance(shape, StructureShape):
            found = next(
                ((key, item) for key, item in shape.members.items() if key[:1].lower() + key[1:] == part), None
            )
            if found is None:
                break
            name, shape = query.input_name(found[0], found[1], ec2=True), found[1]
        elif isinstance(shape, ListShape) and part == "member":
            shape = shape.member
    return name, shape.metadata if shape is not None else {}


def _sns(code: str, failure: Failure) -> ApiError:
    reason = "no value for required parameter" if failure.kind == "missing" else failure.told
    return ApiError(code, f"Invalid parameter: {_last(failure.path)} Reason: {reason}", 400)


def _s3_allows(failure: Failure) -> bool:
    return failure.kind == "enum" and _S3_ENUMS.get(failure.shape, ("", "")) is None


def _s3(code: str, failure: Failure, shape: Shape | None) -> ApiError:
    if failure.kind == "enum" and (told := _S3_ENUMS.get(failure.shape)) is not None:
        return ApiError(*told, 400)
    if "location" not in _top_serialization(failure.path.split(".")[0], shape):
        return malformed_xml()
    return ApiError(code, str(failure), 400)


def _top_serialization(name: str, shape: Any) -> Mapping[str, Any]:
    members: Sequence[tuple[str, Shape]] = list(shape.members.items())
    return next((member.serialization for key, member in members if key[:1].lower() + key[1:] == name), {})
