"""AWS's services as botocore models them: which one a request is for, and what its operations are."""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel

from fleetops.awsapi import rest
from fleetops.awsapi.errors import ApiError, not_implemented

# Signing name of a credential scope → the name of botocore's model, where they differ.
_MODELS = {"tagging": "resourcegroupstaggingapi", "monitoring": "cloudwatch"}
# The services that are offered, by signing name. A scope can name any of four hundred, and anybody can send one: the
# models of all of them would take a gigabyte, and seconds to read.
OFFERED = frozenset(
    {"ssm", "ec2", "sts", "iam", "logs", "kms", "s3", "cloudtrail", "securityhub", "sns", "tagging", "sqs", "events"}
    | {"monitoring"}
)
_PROTOCOLS = ("json", "rest-json", "rest-xml", "query", "ec2")
# Operations that change nothing, by the start of their name; the rest counts as changing.
_READS = ("Describe", "List", "Get", "Head", "Lookup", "Filter", "Search", "BatchGet", "Simulate", "Test", "Validate")
# Reads by name alone, and the ones that only sound like reads.
_MORE_READS = {
    "kms": {"Encrypt", "Decrypt", "ReEncrypt", "Sign", "Verify", "GenerateMac", "VerifyMac", "GenerateRandom"}
    | {
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
    },
    "s3": {"SelectObjectContent"},
    "cloudtrail": set(),
    "iam": {"GetCredentialReport"},
}
_NOT_READS = {"kms": {"GetParametersForImport"}, "iam": {"GenerateCredentialReport"}, "sqs": {"ReceiveMessage"}}


# What the literal query of an S3 route holds besides the part of a bucket or object that it names (its sub-resource).
_S3_NO_PARTS = {"list-type", "select-type", "x-id"}


@dataclass(frozen=True, slots=True)
class _Route:
    method: str
    path: re.Pattern[str]
    query: Mapping[str, str]  # keys that must be there; "" for any value
    headers: frozenset[str]  # lower-case names that must be there
    operation: str
    rank: tuple[int, int]


class Service:
    """One AWS service: its protocol and its operations, by botocore's model."""

    def __init__(self, signing_name: str, model: ServiceModel) -> None:
        self.signing_name = signing_name
        self.model = model
        declared = model.metadata.get("protocols") or [model.metadata["protocol"]]
        self.protocol: str = next((name for name in _PROTOCOLS if name in declared), declared[0])
        self.target_prefix: str = model.metadata.get("targetPrefix", "")
        self.json_version: str = model.metadata.get("jsonVersion", "1.1")
        self.operations = frozenset(model.operation_names)
        self._routes: list[_Route] | None = None
        self._parts: Set[str] = frozenset()  # S3's sub-resources

    def operation(self, name: str) -> OperationModel:
        return self.model.operation_model(name)

    def is_read(self, operation: str) -> bool:
        """Whether an operation changes nothing."""
        if operation in _NOT_READS.get(self.signing_name, ()):
            return False
        return operation.startswith(_READS) or operation in _MORE_READS.get(self.signing_name, ())

    def match_rest(self, method: str, path: str, query: Mapping[str, str], headers: Set[str]) -> str:
        """Find the operation of a REST service by method, path (as sent), query and the lower-case header names.

        Raises ApiError if there is none.
        """
        if self._routes is None:
            self._routes = sorted(_routes(self.model), key=lambda route: route.rank, reverse=True)
            if self.signing_name == "s3":
                self._parts = _query_keys(self.model) - _S3_NO_PARTS | {"uploadId"}
        if len(parts := sorted(self._parts & query.keys())) > 1:
            # Two of them would leave it to each reader which one is meant.
            raise ApiError("InvalidArgument", f"Conflicting query string parameters: {', '.join(parts)}", 400)
        text = rest.segments(path, is_s3=self.signing_name == "s3")
        for route in self._routes:
            if (
                route.method == method
                and route.path.fullmatch(text)
                and all(key in query and value in {"", query[key]} for key, value in route.query.items())
                and route.headers <= headers
            ):
                return route.operation
        if self.signing_name == "s3":
            raise ApiError("MethodNotAllowed", "The specified method is not allowed against this resource.", 405)
        raise ApiError("UnknownOperationException", "There is no such operation.", 404)


def query_keys(operation: OperationModel) -> Set[str]:
    """The keys of the query that stands in an operation's route: S3's sub-resources."""
    query = operation.http["requestUri"].partition("?")[2]
    return {pair.partition("=")[0] for pair in query.split("&") if pair}


def _query_keys(model: ServiceModel) -> Set[str]:
    """The keys of the queries that stand in the routes of a model."""
    return {key for name in model.operation_names for key in query_keys(model.operation_model(name))}


def _routes(model: ServiceModel) -> list[_Route]:
    routes = []
    for name in model.operation_names:
        http: Mapping[str, Any] = model.operation_model(name).http
        template, _, query = http["requestUri"].partition("?")
        pattern = rest.path_pattern(template, is_s3=model.service_name == "s3")
        literals = len(re.sub(r"\{[^}]+\}", "", template))
        pairs = [pair.partition("=") for pair in query.split("&") if pair]
        wanted = {key: value for key, _, value in pairs}
        # Members that a REST request carries in its query or headers tell UploadPart and CopyObject from PutObject.
        shape = model.operation_model(name).input_shape
        headers = set()
        for member in shape.required_members if shape is not None else []:
            serialization = shape.members[member].serialization
            if serialization.get("location") == "querystring":
                wanted.setdefault(serialization["name"], "")
            elif serialization.get("location") == "header":
                headers.add(serialization["name"].lower())
        rank = (len(wanted) + len(headers), literals)
        routes.append(_Route(http["method"], pattern, wanted, frozenset(headers), name, rank))
    return routes


@cache
def _loader() -> Loader:
    return Loader(include_default_search_paths=True)


@cache
def service(signing_name: str) -> Service:
    """The service that a credential scope names. Raises ApiError if it is not offered."""
    if signing_name not in OFFERED:
        raise not_implemented(f"the service {signing_name[:64]}")
    name = _MODELS.get(signing_name, signing_name)
    return Service(signing_name, ServiceModel(_loader().load_service_model(name, "service-2"), name))


def signing_name(name: str) -> str:
    """The signing name of the service that boto3 calls `name`."""
    return next((signing for signing, model in _MODELS.items() if model == name), name)


def preload() -> None:
    """Read the models of all services that are offered."""
    for name in OFFERED:
        service(name)
