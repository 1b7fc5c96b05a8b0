"""AWS's services as botocore models them: which one a request is for, and what its operations are."""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel

from fleetops.awsapi.errors import ApiError

# Signing name of a credential scope → the name of botocore's model, where they differ.
_MODELS = {"tagging": "resourcegroupstaggingapi", "monitoring": "cloudwatch", "elasticloadbalancing": "elbv2"}
# The action prefix in IAM policies, where it is not the signing name.
_ACTION_PREFIXES = {"monitoring": "cloudwatch"}
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
        self.action_prefix = _ACTION_PREFIXES.get(signing_name, signing_name)
        self.target_prefix: str = model.metadata.get("targetPrefix", "")
        self.operations = frozenset(model.operation_names)
        self._routes: list[_Route] | None = None

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
        text = unquote(path)
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


def _routes(model: ServiceModel) -> list[_Route]:
    routes = []
    for name in model.operation_names:
        http: Mapping[str, Any] = model.operation_model(name).http
        template, _, query = http["requestUri"].partition("?")
        pattern, literals = "", 0
        for part in re.split(r"(\{[^}]+\})", template):
            if part.startswith("{"):
                pattern += ".+" if part.endswith("+}") else "[^/]+"
            else:
                pattern += re.escape(part)
                literals += len(part)
        if pattern.endswith("/"):
            pattern += "?"
        else:
            pattern += "/?" if not pattern.endswith(".+") else ""
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
        routes.append(_Route(http["method"], re.compile(pattern, re.DOTALL), wanted, frozenset(headers), name, rank))
    return routes


@cache
def _loader() -> Loader:
    return Loader(include_default_search_paths=True)


@cache
def service(signing_name: str) -> Service:
    """The service that a credential scope names.

    Raises ApiError if there is none in botocore.
    """
    name = _MODELS.get(signing_name, signing_name)
    if not re.fullmatch(r"[a-z0-9.-]{1,64}", name) or name not in _service_names():
        raise ApiError("UnrecognizedClientException", f"There is no service '{signing_name[:64]}'.", 400)
    return Service(signing_name, ServiceModel(_loader().load_service_model(name, "service-2"), name))


@cache
def _service_names() -> frozenset[str]:
    return frozenset(_loader().list_available_services("service-2"))
