"""The only module that knows moto. It runs in the child process alone (see moto_process.py).

moto keeps everything in memory, with identifiers from a random source and times from the clock. Here both are given by
the caller, for each call, so that the same calls in the same order make the same state. What is not public in moto
(its backends, their objects, its random source) is touched here and nowhere else; any other moto is refused.
"""

import base64
import copyreg
import datetime as real_datetime
import hashlib
import io
import json
import logging
import os
import pickle
import sys
import threading
import time as real_time
import types
import zlib
from collections import deque
from datetime import UTC
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import ParseError
from xml.parsers.expat import ExpatError

# moto reads these at import: AWS's managed policies, unknown images refused, our own images instead of 1,300 old ones.
os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"
os.environ["MOTO_ENABLE_AMI_VALIDATION"] = "true"
os.environ["MOTO_AMIS_PATH"] = str(Path(__file__).with_name("amis.json"))
os.environ["MOTO_ALLOW_NONEXISTENT_REGION"] = "false"
os.environ.setdefault("AWS_ACCESS_KEY_ID", "moto")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "moto")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from moto import backends
from moto.core.base_backend import AccountSpecificBackend
from moto.core.common_models import BaseModel
from moto.core.request import PRESERVED_HEADER_NAMES_ENVIRON_KEY, environ_key_for_header
from moto.core.responses import ActionResult, BaseResponse, EmptyResult
from moto.iam.exceptions import NotFoundException
from moto.iam.models import Role, User
from moto.iam.responses import IamResponse
from moto.logs.models import LogStream
from moto.moto_api._internal import mock_random
from moto.moto_server.werkzeug_app import BackendRequest, create_backend_app
from moto.s3 import exceptions as s3_exceptions
from moto.s3 import models as s3_models
from moto.s3 import responses as s3_responses
from moto.s3 import utils as s3_utils
from moto.s3.models import FakeKey, FakeMultipart
from moto.s3.responses import S3Response
from moto.settings import S3_UPLOAD_PART_MIN_SIZE

from fleetops.awsapi.errors import ApiError, not_implemented, render
from fleetops.endpoint import ec2_events
from fleetops.endpoint.bodies import Bodies, Segment, cut
from fleetops.endpoint.framing import OWN_EVENT
from fleetops.endpoint.moto_files import read_quickly

logger = logging.getLogger(__name__)

MOTO_VERSION = "5.2.5"
SERVICES = (
    "ec2",
    "iam",
    "sts",
    "logs",
    "kms",
    "s3",
    "cloudtrail",
    "securityhub",
    "sns",
    "resourcegroupstaggingapi",
    "sqs",
    "events",
    "cloudwatch",
)
# moto's backend by the signing name, where they differ.
_BACKENDS = {"tagging": "resourcegroupstaggingapi", "monitoring": "cloudwatch"}
# No state of their own worth keeping, or ours: they are built anew and left out of snapshots.
_STATELESS = {"resourcegroupstaggingapi", "sts"}

_ENTITIES_REFUSED = "entities are disabled"  # xmltodict's words for XML that declares some

_BACKENDS_MADE_AT = 1767225600.0  # 2026-01-01: the time that a backend's own first objects bear


class OtherMoto(Exception):
    """The installed moto is not the one that this adapter was written for."""


def check_version() -> None:
    """Refuse any other moto: what we touch of it is not public. Raises OtherMoto."""
    found = version("moto")
    if found != MOTO_VERSION:
        raise OtherMoto(f"moto {found} is installed and {MOTO_VERSION} is needed: pip install moto=={MOTO_VERSION}")


class _Given:
    """The moment and the entropy that moto sees during one call."""

    now = 0.0
    seed = b""
    drawn = 0
    region = ""
    instance_ids: deque[str] = deque()
    body: "_Body | None" = None  # of the request, where it is kept as a file
    answered: "_Body | None" = None  # of the answer, likewise


def _given_bytes(count: int) -> bytes:
    """`count` bytes that follow from the call's seed: moto's os.urandom."""
    _Given.drawn += 1
    return hashlib.shake_256(_Given.seed + _Given.drawn.to_bytes(8, "big")).digest(count)


def _given_utcnow() -> real_datetime.datetime:
    return real_datetime.datetime.fromtimestamp(_Given.now, UTC).replace(tzinfo=None)


class _DatetimeMeta(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, real_datetime.datetime)


class _GivenDatetime(real_datetime.datetime, metaclass=_DatetimeMeta):
    """datetime for moto's modules: it makes plain datetimes, and its now is the call's."""

    def __new__(cls, *args: Any, **kwargs: Any) -> real_datetime.datetime:
        return real_datetime.datetime(*args, **kwargs)

    @classmethod
    def now(cls, tz: real_datetime.tzinfo | None = None) -> real_datetime.datetime:
        return real_datetime.datetime.fromtimestamp(_Given.now, tz)

    @classmethod
    def utcnow(cls) -> real_datetime.datetime:
        return _given_utcnow()


def _stand_in(module: types.ModuleType, **replaced: Any) -> types.ModuleType:
    stand_in = types.ModuleType(module.__name__)
    stand_in.__dict__.update(vars(module))
    stand_in.__dict__.update(replaced)
    return stand_in


class _ObjectRequest(BackendRequest):
    """A request of S3: its body is an object's, also where its type is a form's (curl -d says so, unasked)."""

    want_form_data_parsed = False

    @property
    def data(self) -> bytes:  # type: ignore[override]
        return _Given.body if _Given.body is not None else self.get_data()


class _Body(bytes):
    """An object's bytes, by reference: moto passes it on, measures it and cuts it as it does with bytes.

    What Python's own code would copy out of it is empty: whoever wants its content takes `pieces`.
    """

    bodies: Bodies  # of this process
    segments: tuple[Segment, ...]
    _md5: str | None

    def __new__(cls, segments: tuple[Segment, ...], md5: str | None = None) -> "_Body":
        made = super().__new__(cls)
        made.segments = segments
        made._md5 = md5
        return made

    @classmethod
    def of(cls, value: Any) -> "_Body":
        """`value` as it is, or, where it is of bytes, kept as a file."""
        if isinstance(value, _Body):
            return value
        content = value.encode() if isinstance(value, str) else bytes(value)
        return cls(cls.bodies.hold(content))

    def __len__(self) -> int:
        return sum(length for _, _, length in self.segments)

    def __bool__(self) -> bool:
        return bool(self.segments)

    def __getitem__(self, key: Any) -> Any:
        start, end, _ = key.indices(len(self))
        return _Body(cut(self.segments, start, end))

    def pieces(self) -> Any:
        return self.bodies.open(self.segments).pieces()

    @property
    def md5(self) -> str:
        if self._md5 is None:
            digest = hashlib.md5(usedforsecurity=False)
            for piece in self.pieces():
                digest.update(piece)
            self._md5 = digest.hexdigest()
        return self._md5


def _refuse_network(*_: Any, **__: Any) -> None:
    raise OSError("moto does not reach out")


def _malformed() -> ApiError:
    return ApiError("MalformedXML", "The XML you provided was not well-formed.", 400)


class Moto:
    """moto's services, called one at a time."""

    def __init__(self, bodies: Bodies) -> None:
        check_version()
        with read_quickly():
            for name in SERVICES:
                backends.get_backend(name)
        # One application a service. moto's own dispatcher would choose by the path too: /moto-api/reset, for one.
        self._applications: dict[str, Any] = {}
        _Body.bodies = bodies
        self._replace_sources()
        _replace_values()
        _name_streams()
        _keep_user_boundaries()
        _mend_security_groups()
        # moto would keep everything that was ever made, also what is long deleted, for a reset that we do not have.
        BaseModel.__new__ = lambda cls, *_, **__: object.__new__(cls)  # type: ignore[assignment, method-assign]

    def _replace_sources(self) -> None:
        """Put the call's time and entropy in the place of the real ones, in moto's modules only."""
        import moto.ec2.models.instances as instances
        import moto.ec2.utils

        given_datetime = _stand_in(real_datetime, datetime=_GivenDatetime)
        given_time = _stand_in(real_time, time=lambda: _Given.now, time_ns=lambda: int(_Given.now * 1e9))
        given_os = _stand_in(os, urandom=_given_bytes)
        original_utcnow = moto.core.utils.utcnow
        exchange = [
            (real_datetime, given_datetime),
            (real_datetime.datetime, _GivenDatetime),
            (real_time, given_time),
            (real_time.time, given_time.time),
            (os, given_os),
            (os.urandom, _given_bytes),
            (original_utcnow, _given_utcnow),
        ]
        for name, module in list(sys.modules.items()):
            if module is None or not name.startswith("moto."):
                continue
            for key, value in list(vars(module).items()):
                for old, new in exchange:
                    if value is old:
                        setattr(module, key, new)
        original_instance_id = moto.ec2.utils.random_instance_id

        def instance_id() -> str:
            return _Given.instance_ids.popleft() if _Given.instance_ids else original_instance_id()

        instances.random_instance_id = instance_id
        import moto.sns.models as sns

        # A replayed Publish must not be delivered a second time, and nothing here may be made to call out.
        sns.requests = types.SimpleNamespace(post=_refuse_network)

        import moto.sqs.models as sqs

        receive = sqs.SQSBackend.receive_message

        def receive_at_once(backend: Any, queue_name: str, count: int, wait_seconds_timeout: int, *rest: Any) -> Any:
            """Within one call no time passes, and no message comes: to wait for one would be to wait for ever."""
            return receive(backend, queue_name, count, 0, *rest)

        sqs.SQSBackend.receive_message = receive_at_once  # type: ignore[method-assign]

        # moto would take the region from the URL or the user agent, if there were one.
        BaseResponse.get_region_from_url = lambda *_: _Given.region  # type: ignore[method-assign]

        original_getitem = AccountSpecificBackend.__getitem__

        def backend_of(regions: Any, region: str) -> Any:
            """A backend is made at its first use: what it starts with must not depend on which call that is."""
            if dict.__contains__(regions, "aws" if region == "global" else region):
                return original_getitem(regions, region)
            before, state = (_Given.now, _Given.seed, _Given.drawn), mock_random.getstate()
            name = f"{regions.service_name}/{regions.account_id}/{region}"
            _Given.now, _Given.seed, _Given.drawn = _BACKENDS_MADE_AT, hashlib.sha256(name.encode()).digest(), 0
            mock_random.seed(_Given.seed)
            try:
                return original_getitem(regions, region)
            finally:
                (_Given.now, _Given.seed, _Given.drawn) = before
                mock_random.setstate(state)

        AccountSpecificBackend.__getitem__ = backend_of  # type: ignore[method-assign]

    def call(self, header: dict[str, Any], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Run one HTTP call; its status, headers and body. The body of an S3 object is in `answered` instead.

        `header`: now (seconds since 1970), seed (hex), account, service (signing name), region, access_key, method,
        path and query as sent, headers, protocol, operation, request_id, instance_ids (for the instances it makes),
        body (what `Bodies.receive` told of it, of a call that brings one; `body` is empty then).
        """
        _Given.now = header["now"]
        _Given.seed = bytes.fromhex(header["seed"])
        _Given.drawn = 0
        _Given.region = header["region"]
        _Given.instance_ids = deque(header.get("instance_ids", ()))
        _Given.answered = None
        _Given.body = None
        if (held := header.get("body")) is not None:
            segments = ((held["sha256"], 0, held["bytes"]),) if held["bytes"] else ()
            _Given.body = _Body(segments, held["md5"])
        mock_random.seed(_Given.seed)
        where = (header["account"], header["region"])
        try:
            if header["operation"] == OWN_EVENT:
                ec2_events.put(*where, json.loads(body))
                return 200, [], b""
            is_told = header["service"] == "ec2" and header.get("changes")
            before = ec2_events.instances(*where) if is_told else None
            answer = self._wsgi(header, body)
            if before is not None:
                ec2_events.tell(*where, before, now=header["now"])
            return answer
        except NotImplementedError:
            error = not_implemented(header["operation"])
        except ApiError as raised:
            error = raised
        except (ExpatError, ParseError):
            error = _malformed()
        except Exception as fault:  # the outermost loop of a call: moto's bug is AWS's InternalFailure to the caller
            if isinstance(fault, ValueError) and str(fault) == _ENTITIES_REFUSED:
                error = _malformed()
            else:
                logger.exception("moto failed operation=%s", header["operation"])
                error = ApiError("InternalFailure", "The request failed within the endpoint; its log says why.", 500)
        status, kind, content = render(error, header["protocol"], header["request_id"])
        return status, [("content-type", kind), ("x-amzn-errortype", error.code)], content

    def _wsgi(self, header: dict[str, Any], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        name = _BACKENDS.get(header["service"], header["service"])
        if name not in SERVICES:
            raise not_implemented(f"the service {header['service']}")
        backend = backends.get_backend(name)[header["account"]]
        if header["region"] not in backend.regions and "aws" not in backend.regions:
            raise ApiError("InvalidRegion", f"There is no region {header['region']} for {header['service']}.", 400)
        if name not in self._applications:
            self._applications[name] = application = create_backend_app(name)
            if name == "s3":
                application.request_class = _ObjectRequest
        environ = _environ(header, body)
        answer: dict[str, Any] = {}

        def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> None:
            answer["status"] = int(status.split(" ", 1)[0])
            answer["headers"] = [(key.lower(), value) for key, value in headers]

        chunks = self._applications[name](environ, start_response)
        try:
            content = b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        if content.lstrip()[:14].lower() == b"<!doctype html" and answer["status"] >= 400:
            # Flask's own pages: it knows no such path or method, or moto has failed.
            if answer["status"] in {404, 405}:
                raise NotImplementedError
            raise RuntimeError(f"moto answered {answer['status']} with a page")
        ours = {"connection", "transfer-encoding", "content-length", "server", "date", "x-amzn-requestid"}
        kept = [
            (key, value)
            for key, value in answer["headers"]
            if key not in ours and not key.startswith("access-control-")
        ]
        if environ["REQUEST_METHOD"] == "HEAD":
            kept += [(key, value) for key, value in answer["headers"] if key == "content-length"]
        return answer["status"], kept, content

    @property
    def answered(self) -> tuple[Segment, ...] | None:
        """The segments that are the body of the last call's answer; None if its body was given."""
        return _Given.answered.segments if _Given.answered is not None else None

    # --- What we read of moto's objects -----------------------------------------------------------------------------

    def named_bodies(self) -> set[str]:
        """The digests of all bodies that an object, a version of one or a part of an upload refers to."""
        found: set[str] = set()

        def add(key: Any) -> None:
            if isinstance(key, FakeKey):
                found.update(digest for digest, _, _ in key.value.segments)
                if key.multipart is not None:
                    for part in key.multipart.parts.values():
                        found.update(digest for digest, _, _ in part.value.segments)

        for regions in backends.get_backend("s3").values():
            for backend in regions.values():
                for bucket in (*backend.buckets.values(), *backend.table_buckets.values()):
                    for name in dict(bucket.keys):
                        for key in bucket.keys.getlist(name, []):
                            add(key)
                    for upload in bucket.multiparts.values():
                        for part in upload.parts.values():
                            add(part)
        return found

    def log_group(self, account: str, region: str, group: str, only: list[str] | None) -> dict[str, Any] | None:
        """A log group's retention and its streams, of all or of `only` these names; None if there is none."""
        held = backends.get_backend("logs")[account][region].groups.get(group)
        return _log_group(held, only) if held is not None else None

    def log_groups(self) -> list[dict[str, Any]]:
        """All log groups of all accounts and regions."""
        return [
            {"account": account, "region": region, "group": name, **_log_group(group)}
            for account, regions in list(backends.get_backend("logs").items())
            for region, backend in list(regions.items())
            for name, group in backend.groups.items()
        ]

    def kept_log_events(self, skip: int, most: int) -> list[dict[str, Any]]:
        """Events that moto itself still holds, from before they were ours: `most` of them, after the first `skip`."""
        found: list[dict[str, Any]] = []
        for account, region, stream in self._log_streams():
            for position, event in enumerate(stream.events):
                if skip:
                    skip -= 1
                    continue
                if len(found) == most:
                    return found
                found.append(
                    {
                        "account": account,
                        "region": region,
                        "group": stream.log_group.name,
                        "stream": stream.log_stream_name,
                        "key": _stream_key(stream),
                        "position": position,
                        "timestamp": event.timestamp,
                        "ingested_at": event.ingestion_time,
                        "message": event.message,
                    }
                )
        return found

    def drop_log_events(self) -> None:
        """Let go of these events."""
        for _, _, stream in self._log_streams():
            stream.events = []
            stream.stored_bytes = 0

    def _log_streams(self) -> Any:
        for account, regions in list(backends.get_backend("logs").items()):
            for region, backend in list(regions.items()):
                for group in backend.groups.values():
                    for stream in group.streams.values():
                        yield account, region, stream

    def instances(self, account: str, region: str) -> list[dict[str, Any]]:
        """All instances of a region, in the members that EC2's DescribeInstances has. Source: moto.ec2.models."""
        backend = backends.get_backend("ec2")[account][region]
        found = []
        for reservation in backend.reservations.values():
            found += [_instance(backend, reservation, instance) for instance in reservation.instances]
        return found

    def listens(self, account: str, region: str) -> bool:
        """Whether EventBridge has a rule in a region that an event could match."""
        return ec2_events.listens(account, region)

    def access_key(self, access_key_id: str) -> dict[str, Any] | None:
        """The IAM user behind a key: secret, account, user name, id, ARN, key's status; None if there is none."""
        for account, regions in list(backends.get_backend("iam").items()):
            for partition, backend in list(regions.items()):
                if partition != "aws":
                    continue
                for user in backend.users.values():
                    for access_key in user.access_keys:
                        if access_key.access_key_id == access_key_id:
                            return {
                                "account": account,
                                "secret": access_key.secret_access_key,
                                "user": user.name,
                                "id": user.id,
                                "arn": user.arn,
                                "active": access_key.status == "Active",
                                "tags": _tags(user.tags),
                            }
        return None

    def identity(self, account: str, kind: str, name: str) -> dict[str, Any] | None:
        """What IAM holds of a user or role: its policies and boundary, and a role's trust, id and longest session."""
        backend = _existing("iam", account, "aws")
        if backend is None:
            return None
        holder: Any
        if kind == "user":
            holder = backend.users.get(name)
        elif kind == "group":
            holder = backend.groups.get(name)
        else:
            holder = next((role for role in backend.roles.values() if role.name == name), None)
        if holder is None:
            return None
        held = _held_policies(kind, holder)
        if kind == "user":
            for group in backend.groups.values():
                if any(member.name == name for member in group.users):
                    held += _held_policies("group", group)
        boundary = getattr(holder, "permissions_boundary_arn", None)
        known = backend.managed_policies.get(boundary) if boundary else None
        return {
            "arn": holder.arn,
            "id": holder.id,
            "policies": [text for _, _, text in held],
            "sources": [(identifier, source) for identifier, source, _ in held],
            # A boundary whose policy is gone allows nothing.
            "boundary": (_document(known) if known is not None else "{}") if boundary else None,
            "boundary_arn": boundary or "",
            "trust": _text(getattr(holder, "assume_role_policy_document", None) or "{}"),
            "longest_seconds": int(getattr(holder, "max_session_duration", None) or 3600),
            "tags": _tags(getattr(holder, "tags", None)),
        }

    def managed_policy(self, account: str, arn: str) -> str | None:
        """The text of a managed policy, of the account or AWS's own; None if there is none."""
        backend = _existing("iam", account, "aws")
        policy = backend.managed_policies.get(arn) if backend is not None else None
        return _document(policy) if policy is not None else None

    def profile(self, account: str, profile: str) -> dict[str, Any] | None:
        """An instance profile, by ARN or name: its ARN, and its role's; None if there is none."""
        for held in backends.get_backend("iam")[account]["aws"].instance_profiles.values():
            if profile in {held.arn, held.name}:
                return {"arn": held.arn, "role": held.roles[0].arn if held.roles else ""}
        return None

    def profile_role(self, account: str, profile_arn: str) -> str | None:
        """The name of the role in an instance profile; None if there is none."""
        profile = self.profile(account, profile_arn)
        return profile["role"].rpartition("/")[2] or None if profile else None

    def profile_association(self, account: str, region: str, association: str) -> str | None:
        """The id of the instance that an association of an instance profile is about; None if there is none."""
        for held in backends.get_backend("ec2")[account][region].iam_instance_profile_associations.values():
            if held.association_id == association:
                return str(held.instance.id)
        return None

    def resource(self, service: str, account: str, region: str, name: str) -> dict[str, Any] | None:
        """What a bucket, key, topic or queue says of itself: its account, its ARN and its policy ("" for none).

        `name`: a bucket's name, a key's id, ARN or alias, a topic's ARN, a queue's name. `account`: where it would be;
        a bucket is found wherever it is. None if there is none.
        """
        if service == "s3":
            for owner, regions in list(backends.get_backend("s3").items()):
                backend = dict.get(regions, "aws")
                bucket = backend.buckets.get(name) if backend is not None else None
                if bucket is not None:
                    return {"account": owner, "arn": f"arn:aws:s3:::{name}", "policy": (bucket.policy or b"").decode()}
            return None
        backend = _existing(service, account, region)
        if backend is None:
            return None
        if service == "kms":
            key = backend.keys.get(name)
            if name.startswith("alias/"):
                key = next((held for held in backend.keys.values() if name in held.aliases), None)
            return {"account": account, "arn": key.arn, "policy": _text(key.policy)} if key is not None else None
        if service == "sns":
            topic = backend.topics.get(name)
            return {"account": account, "arn": topic.arn, "policy": _text(topic.policy)} if topic is not None else None
        queue = backend.queues.get(name)
        if queue is None:
            return None
        policy = queue.policy or ""
        return {"account": account, "arn": queue.queue_arn, "policy": _text(policy) if policy else ""}

    def resource_tags(self, account: str, region: str, arn: str) -> dict[str, str]:
        """The tags of a resource by its ARN; {} where it has none, or is none."""
        _, _, service, _, _, name = (*arn.split(":", 5), *[""] * 6)[:6]
        kind, _, identifier = name.partition("/")
        if service == "iam":
            identity = self.identity(account, kind, arn.rpartition("/")[2]) if kind in {"role", "user"} else None
            return identity["tags"] if identity is not None else {}
        backend = _existing(service, account, region) if service in {"ec2", "kms", "logs", "sns", "sqs"} else None
        held: Any = None
        if backend is None:
            return {}
        if service == "ec2":
            held = backend.tags.get(identifier)
        elif service == "kms":
            held = backend.tagger.get_tag_dict_for_resource(identifier)
        elif service == "logs":
            held = backend.tagger.get_tag_dict_for_resource(arn.split(":log-stream:", 1)[0])
        elif service == "sns" and arn in backend.topics:
            held = backend.topics[arn]._tags
        elif service == "sqs" and name in backend.queues:
            held = backend.queues[name].tags
        return {str(key): str(value) for key, value in (held or {}).items()}

    # --- Snapshots --------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """All state, pickled. Only what `Journal` has sealed may ever be given to `load`."""
        state = [
            (name, account, region, backend)
            for name in SERVICES
            if name not in _STATELESS
            for account, regions in backends.get_backend(name).items()
            for region, backend in regions.items()
            if region == "aws" or not region.startswith("aws-")
        ]
        buffer = io.BytesIO()
        _Pickler(buffer, protocol=5).dump(state)
        return buffer.getvalue()

    def load(self, content: bytes) -> None:
        """Take up the state that `dump` wrote."""
        for name, account, region, backend in pickle.loads(content):
            dict.__setitem__(backends.get_backend(name)[account], region, backend)


def _log_group(group: Any, only: list[str] | None = None) -> dict[str, Any]:
    names = group.streams if only is None else [name for name in only if name in group.streams]
    return {
        "retention_days": int(group.retention_in_days or 0),
        "streams": {
            name: {
                "key": _stream_key(stream),
                "arn": stream.arn,
                "created_at": int(stream.creation_time.replace(tzinfo=UTC).timestamp() * 1000),
            }
            for name, stream in ((name, group.streams[name]) for name in names)
        },
    }


def _stream_key(stream: Any) -> str:
    """What no other stream has, not even one that was made under the same name after this one was deleted."""
    made = getattr(stream, "fleetops_key", None)
    if made is None:  # made before streams had one
        made = hashlib.sha256(f"{stream.arn} {stream.creation_time.isoformat()}".encode()).hexdigest()[:32]
    return str(made)


def _name_streams() -> None:
    """Give each stream that is made a key of its own; see `_stream_key`."""
    original = LogStream.__init__

    def make(stream: Any, *args: Any, **kwargs: Any) -> None:
        original(stream, *args, **kwargs)
        stream.fleetops_key = _given_bytes(16).hex()

    LogStream.__init__ = make  # type: ignore[method-assign]


def _keep_user_boundaries() -> None:
    """Give users a permissions boundary: moto keeps one for roles alone. Source: moto.iam.models and responses."""
    User.permissions_boundary_arn = None
    User.permissions_boundary = Role.permissions_boundary
    original_create = IamResponse.create_user

    def checked(response: Any, backend: Any) -> str | None:
        arn: str | None = response._get_param("PermissionsBoundary")
        if arn and arn not in backend.managed_policies:
            raise NotFoundException(f"Scope ARN: {arn} does not exist or is not attachable.")
        return arn

    def create_user(response: Any) -> Any:
        arn = checked(response, response.backend)
        made = original_create(response)
        if arn:
            response.backend.get_user(response._get_param("UserName")).permissions_boundary_arn = arn
        return made

    def put_user(response: Any) -> Any:
        arn = checked(response, response.backend)
        response.backend.get_user(response._get_param("UserName")).permissions_boundary_arn = arn
        return EmptyResult()

    def delete_user(response: Any) -> Any:
        user = response.backend.get_user(response._get_param("UserName"))
        if not user.permissions_boundary_arn:
            raise NotFoundException(f"The user {user.name} has no permissions boundary.")
        user.permissions_boundary_arn = None
        return EmptyResult()

    IamResponse.create_user = create_user  # type: ignore[method-assign]
    IamResponse.put_user_permissions_boundary = put_user
    IamResponse.delete_user_permissions_boundary = delete_user


def _mend_security_groups() -> None:
    """Answer AuthorizeSecurityGroupIngress and Egress with all rules made, and keep the description of each source.

    moto tells of an interface's groups in no order, of rules those of the last permission alone, and keeps what was
    said of a CIDR only. It finds an interface by a group only if that is all it has. Source: moto.ec2.models and
    responses.
    """
    from moto.ec2.models.elastic_network_interfaces import NetworkInterface, NetworkInterfaceBackend
    from moto.ec2.models.security_groups import SecurityGroupRule
    from moto.ec2.responses.security_groups import SecurityGroups

    def groups(interface: Any) -> list[Any]:
        held = [*interface._group_set, *(interface.instance.security_groups if interface.instance else ())]
        return sorted(set(held), key=lambda group: group.id)

    NetworkInterface.group_set = property(groups)  # type: ignore[assignment]

    def answer(response: Any, authorize: Any) -> Any:
        response.error_on_dryrun()
        made = []
        for asked in response._process_rules_from_querystring():
            rules, _ = authorize(**asked)
            made += rules
        return ActionResult({"Return": True, "SecurityGroupRules": made})

    def ingress(response: Any) -> Any:
        return answer(response, response.ec2_backend.authorize_security_group_ingress)

    def egress(response: Any) -> Any:
        return answer(response, response.ec2_backend.authorize_security_group_egress)

    SecurityGroups.authorize_security_group_ingress = ingress  # type: ignore[method-assign]
    SecurityGroups.authorize_security_group_egress = egress  # type: ignore[method-assign]
    original = SecurityGroupRule.__init__

    def make(rule: Any, *args: Any, **kwargs: Any) -> None:
        original(rule, *args, **kwargs)
        lists = args[7] if len(args) > 7 else kwargs.get("prefix_list_id")
        rule.fleetops_description = (rule.ip_range or rule.source_group or lists or {}).get("Description")
        if "Description" in rule.source_group:  # it is no part of what makes two rules the same
            rule.source_group = {name: held for name, held in rule.source_group.items() if name != "Description"}

    def description(rule: Any) -> Any:
        return rule.ip_range.get("Description") or vars(rule).get("fleetops_description")

    all_interfaces = NetworkInterfaceBackend.get_all_network_interfaces

    def interfaces(backend: Any, eni_ids: Any = None, filters: Any = None) -> Any:
        """As AWS filters: whatever has any of the groups, and the groups of the instance count."""
        others = {name: values for name, values in (filters or {}).items() if name != "group-id"}
        found = all_interfaces(backend, eni_ids, others)
        patterns = (filters or {}).get("group-id")
        if patterns is None:
            return found
        return [
            eni
            for eni in found
            if any(fnmatchcase(group.id, pattern) for group in eni.group_set for pattern in patterns)
        ]

    NetworkInterfaceBackend.get_all_network_interfaces = interfaces  # type: ignore[method-assign]
    SecurityGroupRule.__init__ = make  # type: ignore[method-assign]
    SecurityGroupRule.description = property(description)  # type: ignore[assignment]


def _replace_values() -> None:
    """Let moto's objects and parts hold references to bodies in the place of buffers. Source: moto.s3.models."""
    original_checksum = s3_utils.compute_checksum

    def get_value(key: Any) -> _Body:
        return key._body  # type: ignore[no-any-return]

    def set_value(key: Any, value: Any) -> None:
        key._body = _Body.of(value)
        key.contentsize = len(key._body)
        key._value_buffer = None

    def etag(key: Any) -> str:
        if key._etag is None:
            key._etag = key._body.md5
        return f'"{key._etag}"'

    def get_state(key: Any) -> dict[str, Any]:
        state = {name: held for name, held in vars(key).items() if name not in {"_value_buffer", "lock", "_body"}}
        return state | {"fleetops_body": (key._body.segments, key._body._md5)}

    def set_state(key: Any, state: dict[str, Any]) -> None:
        held = state.pop("fleetops_body", None)
        # A snapshot from before has the bytes themselves.
        value = _Body(*held) if held is not None else state.pop("value")
        key.__dict__.update(state)
        key.lock = threading.Lock()
        set_value(key, value)

    def dispose(key: Any, garbage: bool = False) -> None:
        key.disposed = True

    def checksum(body: Any, algorithm: str, encode_base64: bool = True) -> bytes:
        if not isinstance(body, _Body):
            return original_checksum(body, algorithm, encode_base64)  # type: ignore[no-any-return]
        if algorithm in {"SHA1", "SHA256"}:
            digest = hashlib.new(algorithm.lower(), usedforsecurity=False)
            for piece in body.pieces():
                digest.update(piece)
            made = digest.digest()
        else:  # moto has no other sums either: it gives this one in their place
            crc = 0
            for piece in body.pieces():
                crc = zlib.crc32(piece, crc)
            made = crc.to_bytes(4, "big")
        return base64.b64encode(made) if encode_base64 else made

    def complete(upload: Any, body: Any) -> tuple[_Body, str, tuple[str, str, int] | None]:
        segments: list[Segment] = []
        sums, taken = [], {}
        last = None
        algorithm = upload.metadata.get("x-amz-checksum-algorithm")
        kind = upload.metadata.get("x-amz-checksum-type") or (
            "FULL_OBJECT" if (algorithm or "CRC64NVME") == "CRC64NVME" else "COMPOSITE"
        )
        digests = hashlib.md5(usedforsecurity=False)
        for number, told in body:
            part = upload.parts.get(number)
            if part is None or part.etag.strip('"') != told.replace('"', ""):
                raise s3_exceptions.InvalidPart()
            if last is not None and last.contentsize < S3_UPLOAD_PART_MIN_SIZE:
                raise s3_exceptions.EntityTooSmall()
            digests.update(bytes.fromhex(part.etag.strip('"')))
            segments += part.value.segments
            if kind == "COMPOSITE":
                sums.append(checksum(part.value, algorithm, False))
            taken[number] = last = part
        if last is None:
            raise s3_exceptions.MalformedXML
        whole = _Body(tuple(segments))
        made = (
            (kind, original_checksum(b"".join(sums), algorithm).decode(), len(taken))
            if kind == "COMPOSITE"
            else (kind, checksum(whole, algorithm or "CRC64NVME").decode(), 1)
        )
        # A part that was uploaded and not listed is no part of the object.
        upload.parts, upload.partlist = taken, sorted(taken)
        return whole, f"{digests.hexdigest()}-{len(taken)}", made

    original_response = S3Response.key_response

    def key_response(response: Any, *args: Any, **kwargs: Any) -> Any:
        status, headers, content = original_response(response, *args, **kwargs)
        if isinstance(content, _Body):
            _Given.answered, content = content, b""
        return status, headers, content

    FakeKey.value = property(get_value, set_value)  # type: ignore[assignment, method-assign]
    FakeKey.etag = property(etag)  # type: ignore[assignment, method-assign]
    FakeKey.__getstate__ = get_state  # type: ignore[method-assign]
    FakeKey.__setstate__ = set_state  # type: ignore[method-assign]
    FakeKey.dispose = dispose  # type: ignore[method-assign]
    del FakeKey.__del__
    FakeMultipart.complete = complete  # type: ignore[assignment, method-assign]
    S3Response.key_response = key_response  # type: ignore[method-assign]
    s3_models.compute_checksum = s3_responses.compute_checksum = checksum  # type: ignore[assignment, attr-defined]
    # No buffer is needed.
    s3_models.tempfile = types.SimpleNamespace(SpooledTemporaryFile=lambda *_, **__: None)  # type: ignore[attr-defined]


def _environ(header: dict[str, Any], body: bytes) -> dict[str, Any]:
    path = header["path"]
    environ: dict[str, Any] = {
        "REQUEST_METHOD": header["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(path, "latin-1"),
        "QUERY_STRING": header["query"],
        "RAW_URI": f"{path}?{header['query']}" if header["query"] else path,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    dashed = {environ_key_for_header(name) for name, _ in header["headers"] if "_" not in name}
    spelled: dict[str, str] = {}
    dropped = {"connection", "transfer-encoding", "content-length", "x-moto-account-id", "authorization", "expect"}
    for name, value in header["headers"]:
        key = environ_key_for_header(name)
        if name in dropped or ("_" in name and (not name.startswith("x-amz-meta-") or key in dashed)):
            continue
        if "_" in name:
            spelled[key] = name
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    environ[PRESERVED_HEADER_NAMES_ENVIRON_KEY] = spelled
    environ["CONTENT_LENGTH"] = str(len(body))
    environ["HTTP_X_MOTO_ACCOUNT_ID"] = header["account"]
    day = real_datetime.datetime.fromtimestamp(header["now"], UTC).strftime("%Y%m%d")
    # The signature was checked before; moto reads the key, the region and the service from this.
    environ["HTTP_AUTHORIZATION"] = (
        f"AWS4-HMAC-SHA256 Credential={header['access_key']}/{day}/{header['region']}/{header['service']}/"
        "aws4_request, SignedHeaders=host, Signature=0"
    )
    if header["service"] == "s3":
        environ["HTTP_HOST"] = "localhost"  # path style whatever name we are reached by
    return environ


def _instance(backend: Any, reservation: Any, instance: Any) -> dict[str, Any]:
    tags = backend.tags.get(instance.id, {})
    profile = instance.iam_instance_profile
    association = backend.iam_instance_profile_associations.get(instance.id)
    if association is not None:
        profile = {"Arn": association.iam_instance_profile.arn, "Id": association.iam_instance_profile.id}
    elif profile is not None and not isinstance(profile, dict):
        profile = {"Arn": profile.arn, "Id": profile.id}
    image = backend.amis.get(instance.image_id)
    ended = instance.state == "terminated"
    groups = {group.id: group.name for group in instance.security_groups}
    for nic in instance.nics.values():
        groups.update({group.id: group.name for group in nic.group_set})
    group_list = [{"GroupId": key, "GroupName": name} for key, name in groups.items()]
    options = instance.metadata_options
    reason = getattr(instance.state_reason, "code", "")
    return {
        "_reservation": reservation.id,
        "_owner": instance.owner_id,
        "_platform": (image.platform if image is not None else None) or "",
        "_image_name": (image.name if image is not None else "") or "",
        "InstanceId": instance.id,
        "ImageId": instance.image_id,
        "State": {"Code": instance.state_code, "Name": instance.state},
        "PrivateDnsName": "" if ended else instance.private_dns_name,
        "PublicDnsName": "" if ended else instance.public_dns_name or "",
        "StateTransitionReason": instance._reason or "",
        "KeyName": instance.key_name,
        "AmiLaunchIndex": int(instance.ami_launch_index or 0),
        "InstanceType": instance.instance_type,
        "LaunchTime": instance.launch_time.replace(tzinfo=UTC).timestamp(),
        "Placement": {
            "AvailabilityZone": instance.availability_zone,
            "GroupName": instance.placement.group_name or "",
            "Tenancy": instance.placement.tenancy,
        },
        "Monitoring": {"State": instance.monitoring_state},
        "SubnetId": None if ended else instance.subnet_id,
        "VpcId": None if ended else instance.vpc_id,
        "PrivateIpAddress": None if ended else instance.private_ip_address,
        "PublicIpAddress": None if ended else instance.public_ip_address,
        "Architecture": instance.architecture,
        "RootDeviceType": instance.root_device_type,
        "RootDeviceName": instance.root_device_name,
        "BlockDeviceMappings": [
            {
                "DeviceName": device,
                "Ebs": {
                    "VolumeId": block.volume_id,
                    "Status": "attached",
                    "DeleteOnTermination": bool(block.delete_on_termination),
                },
            }
            for device, block in instance.block_device_mapping.items()
        ],
        "VirtualizationType": instance.virtualization_type,
        "ClientToken": instance.client_token or "",
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        "SecurityGroups": group_list,
        "SourceDestCheck": bool(instance.source_dest_check),
        "Hypervisor": instance.hypervisor,
        "NetworkInterfaces": []
        if ended
        else [
            {
                "NetworkInterfaceId": nic.id,
                "SubnetId": nic.subnet.id,
                "VpcId": nic.subnet.vpc_id,
                "PrivateIpAddress": nic.private_ip_address,
                "MacAddress": nic.mac_address,
                "OwnerId": instance.owner_id,
                "Status": "in-use",
                "SourceDestCheck": bool(nic.source_dest_check),
                "Groups": [{"GroupId": group.id, "GroupName": group.name} for group in nic.group_set],
            }
            for nic in instance.nics.values()
        ],
        "EbsOptimized": bool(instance.ebs_optimized),
        "IamInstanceProfile": None if ended else profile,
        "MetadataOptions": {
            "State": "applied",
            "HttpTokens": options.http_tokens,
            "HttpPutResponseHopLimit": options.http_put_response_hop_limit,
            "HttpEndpoint": options.http_endpoint,
            "HttpProtocolIpv6": options.http_protocol_ipv6,
            "InstanceMetadataTags": options.instance_metadata_tags,
        },
        "StateReason": {"Code": reason, "Message": instance.state_reason.message} if reason else None,
    }


def _existing(service: str, account: str, region: str) -> Any:
    """A backend that is there; None for one that asking would make: anybody can name any account."""
    regions = dict.get(backends.get_backend(service), account)
    return dict.get(regions, region) if regions is not None else None


def _held_policies(kind: str, holder: Any) -> list[tuple[str, str, str]]:
    """The policies of a user, group or role: the identifier and kind that IAM's simulator gives each, and its text."""
    held = []
    for policy in holder.managed_policies.values():
        source = "aws-managed" if policy.arn.startswith("arn:aws:iam::aws:") else "user-managed"
        held.append((policy.name if source == "aws-managed" else policy.arn, source, _document(policy)))
    inline = holder.policies if isinstance(holder.policies, dict) else {}
    return held + [(f"{kind}_{holder.name}_{name}", kind, _text(text)) for name, text in inline.items()]


def _document(policy: Any) -> str:
    for held in policy.versions:
        if held.version_id == policy.default_version_id:
            return _text(held.document)
    return "{}"


def _text(document: Any) -> str:
    return document if isinstance(document, str) else json.dumps(document)


def _tags(tags: Any) -> dict[str, str]:
    if not tags:
        return {}
    items = tags.values() if isinstance(tags, dict) else tags
    return {item["Key"]: item["Value"] for item in items if isinstance(item, dict)}


def _private_key(pem: bytes) -> Any:
    return serialization.load_pem_private_key(pem, password=None)


def _reduce_private_key(key: Any) -> Any:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return _private_key, (pem,)


class _Pickler(pickle.Pickler):
    """moto's backends, and in KMS the private keys that pickle cannot write by itself; locks are made anew."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            return _reduce_private_key(value)
        if type(value).__name__ in {"RLock", "lock"} and type(value).__module__ == "_thread":
            return _lock, (type(value).__name__,)
        return NotImplemented


def _lock(name: str) -> Any:
    return threading.RLock() if name == "RLock" else threading.Lock()


copyreg.pickle(types.ModuleType, lambda module: (__import__, (module.__name__,)))
