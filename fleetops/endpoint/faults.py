"""Faults on demand: throttles, errors, delays and lost connections, for whoever tests against this endpoint.

Only in the embedded profile, only with a credential of their own (`faults_token` in handover.json), under a path that
no bucket's name can begin with. Rules live in memory: a restart of the endpoint ends them.

    GET    /_fleetops/faults          every rule, with how often it matched and struck
    PUT    /_fleetops/faults/ID       one rule, new or in the place of the one of that id
    DELETE /_fleetops/faults[/ID]     that rule, or all

A rule is {"kind": …, "match": {…}} and, by its kind:

    throttle  rate, burst          more calls than `rate` a second are refused with the protocol's own code for it
    error     code, status, message
    latency   seconds              before the call is carried out
    drop      when                 "before": the call is not carried out; "after": it is, and nobody is told
    lie       how, …               what nodes say is made false; see lies.py

`match` holds patterns (* and ?) of service, operation, account, region and caller (an ARN); of a lie those of account,
region and node (an id). Calls that the nodes make
are struck only where `caller` is given: an account whose nodes have gone says nothing about throttles. Any rule may
have `probability`, drawn from its `seed`, and `times`, after which it strikes no more. The first rule that strikes a
call decides; only delays add up.
"""

import asyncio
import hmac
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from random import Random
from typing import Any, Final

import orjson

from fleetops import clock
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import Call, NodeKey

PATH: Final = "/_fleetops/faults"
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MOST_RULES: Final = 200
_LONGEST_BODY: Final = 16 * 1024
_MATCHED: Final = ("service", "operation", "account", "region", "caller")
_MATCHED_BY_LIES: Final = ("account", "region", "node")
# How a node may lie; see lies.py.
LIES: Final = ("nothing", "other", "twice", "late", "backwards", "compliant", "report", "claim")
# What each kind takes beside kind, match, probability, seed and times; True: it must be given.
_KINDS: Final[Mapping[str, Mapping[str, bool]]] = {
    "throttle": {"rate": True, "burst": False},
    "error": {"code": True, "status": True, "message": False},
    "latency": {"seconds": True},
    "drop": {"when": True},
    "lie": {"how": True, "seconds": False, "claims": False, "information": False},
}
_EVERY_KIND: Final = {"kind", "match", "probability", "seed", "times"}
# How AWS says "slower", by protocol [botocore 1.44, retries/standard.py, for the codes; S3 and EC2 by their manuals].
_THROTTLES: Final = {
    "json": ("ThrottlingException", "Rate exceeded", 400),
    "rest-json": ("TooManyRequestsException", "Rate exceeded", 429),
    "query": ("Throttling", "Rate exceeded", 400),
    "ec2": ("RequestLimitExceeded", "Request limit exceeded.", 503),
    "rest-xml": ("SlowDown", "Please reduce your request rate.", 503),
    "channel": ("ThrottlingException", "Rate exceeded", 400),
}


class Dropped(Exception):
    """The connection is to be lost now, without an answer."""


@dataclass(slots=True)
class Rule:
    """One fault."""

    kind: str
    match: dict[str, str] = field(default_factory=dict)
    probability: float = 1.0
    seed: int = 0
    times: int | None = None
    rate: float = 0.0
    burst: float = 0.0
    code: str = ""
    status: int = 0
    message: str = ""
    seconds: float = 0.0
    when: str = ""
    how: str = ""
    claims: str = ""
    information: dict[str, str] = field(default_factory=dict)
    matched: int = 0
    struck: int = 0
    _tokens: float = 0.0
    _filled_at: float = 0.0
    _random: Random = field(default_factory=Random)

    def fits(self, call: Call) -> bool:
        principal = call.principal
        assert principal is not None and call.claim is not None
        if self.kind == "lie" or (principal.kind == "node" and "caller" not in self.match):
            return False
        facts = {
            "service": call.claim.service,
            "operation": call.operation,
            "account": principal.account_id,
            "region": call.claim.region,
            "caller": principal.arn,
        }
        return all(fnmatchcase(facts[name], pattern) for name, pattern in self.match.items())

    def fits_node(self, key: NodeKey, how: str) -> bool:
        """Whether this is a lie of that sort, and the node's."""
        facts = dict(zip(_MATCHED_BY_LIES, key, strict=True))
        return self.how == how and all(fnmatchcase(facts[name], pattern) for name, pattern in self.match.items())

    def strikes(self, now: float) -> bool:
        """Whether this call, which fits, is hit; takes its token or its draw."""
        self.matched += 1
        if self.times is not None and self.struck >= self.times:
            return False
        if self.probability < 1 and self._random.random() >= self.probability:
            return False
        if self.kind == "throttle":
            self._tokens = min(self.burst, self._tokens + (now - self._filled_at) * self.rate)
            self._filled_at = now
            if self._tokens >= 1:
                self._tokens -= 1
                return False
        self.struck += 1
        return True

    def shown(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}


def read_rule(given: Any) -> Rule:
    """A rule from its JSON. Raises ValueError, in words."""
    if not isinstance(given, dict) or given.get("kind") not in _KINDS:
        raise ValueError(f"a rule is an object whose kind is one of {', '.join(_KINDS)}")
    wanted = _KINDS[given["kind"]]
    if unknown := sorted(given.keys() - _EVERY_KIND - wanted.keys()):
        raise ValueError(f"{given['kind']} takes no {', '.join(unknown)}")
    if missing := sorted(name for name, needed in wanted.items() if needed and name not in given):
        raise ValueError(f"{given['kind']} needs {', '.join(missing)}")
    match, matched = given.get("match", {}), _MATCHED_BY_LIES if given["kind"] == "lie" else _MATCHED
    if not isinstance(match, dict) or match.keys() - set(matched):
        raise ValueError(f"match holds patterns of {', '.join(matched)}")
    if not all(isinstance(pattern, str) and 0 < len(pattern) <= 256 for pattern in match.values()):
        raise ValueError("a pattern is a text of 1 to 256 characters")
    _hold_number(given, "rate", 0.01, 100_000)
    _hold_number(given, "burst", 1, 100_000)
    _hold_number(given, "seconds", 0, 300)
    _hold_number(given, "probability", 0, 1)
    _hold_number(given, "status", 400, 599)
    _hold_number(given, "times", 1, 10**9)
    _hold_number(given, "seed", 0, 2**63)
    for name in ("code", "message"):
        if not isinstance(given.get(name, ""), str) or len(given.get(name, "")) > 400:
            raise ValueError(f"{name} is a text of at most 400 characters")
    if given.get("when", "before") not in {"before", "after"}:
        raise ValueError('when is "before" or "after"')
    if given["kind"] == "lie":
        _hold_lie(given)
    rule = Rule(**given)
    rule.burst = rule.burst or max(1.0, rule.rate)
    rule.status = int(rule.status)
    rule._tokens, rule._filled_at = rule.burst, clock.monotonic()
    rule._random = Random(rule.seed)
    return rule


def _hold_lie(given: dict[str, Any]) -> None:
    if given["how"] not in LIES:
        raise ValueError(f"how is one of {', '.join(LIES)}")
    claims, information = given.get("claims", ""), given.get("information", {})
    if not isinstance(claims, str) or not _ID.fullmatch(claims or "none"):
        raise ValueError("claims is the id of another node")
    if given["how"] == "claim" and not claims:
        raise ValueError("claim needs claims, the id of another node")
    if not isinstance(information, dict) or not all(isinstance(value, str) for value in information.values()):
        raise ValueError("information holds texts by the names of UpdateInstanceInformation")


def _hold_number(given: dict[str, Any], name: str, low: float, high: float) -> None:
    value = given.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} is a number from {low:g} to {high:g}")


class Faults:
    """The rules in force."""

    def __init__(self, token: str) -> None:
        self.token = token
        self._rules: dict[str, Rule] = {}

    async def meet(self, call: Call) -> None:
        """Have an authenticated call meet the rules, before it is carried out. Raises ApiError or Dropped."""
        for rule in list(self._rules.values()):
            if not rule.fits(call) or not rule.strikes(clock.monotonic()):
                continue
            if rule.kind == "latency":
                await asyncio.sleep(rule.seconds)
                continue
            if rule.kind == "throttle":
                code, message, status = _THROTTLES.get(call.protocol, _THROTTLES["json"])
                raise ApiError(code, message, status)
            if rule.kind == "error":
                raise ApiError(rule.code, rule.message or "A fault that was asked for.", rule.status)
            if rule.when == "before":
                raise Dropped
            call.is_dropped = True
            return

    def lie(self, key: NodeKey, how: str) -> Rule | None:
        """The rule by which a node lies in this way now; None if there is none."""
        for rule in self._rules.values():
            if rule.fits_node(key, how) and rule.strikes(clock.monotonic()):
                return rule
        return None

    def answer(self, method: str, path: str, authorization: str, body: bytes) -> tuple[int, bytes]:
        """Answer one request for rules: status and JSON."""
        if not hmac.compare_digest(authorization.encode(), f"Bearer {self.token}".encode()):
            return _told(403, "send the faults_token of handover.json as Authorization: Bearer …")
        rest = path.removeprefix(PATH).strip("/")
        if rest and not _ID.fullmatch(rest):
            return _told(404, "an id is 1 to 64 letters, digits and ._-")
        if method == "GET" and not rest:
            return 200, orjson.dumps({"rules": {name: rule.shown() for name, rule in self._rules.items()}})
        if method == "PUT" and rest:
            return self._put(rest, body)
        if method == "DELETE":
            if not rest:
                self._rules.clear()
            elif self._rules.pop(rest, None) is None:
                return _told(404, f"there is no rule {rest}")
            return 200, b"{}"
        return _told(405, "GET, PUT and DELETE are what this answers")

    def _put(self, name: str, body: bytes) -> tuple[int, bytes]:
        if len(body) > _LONGEST_BODY:
            return _told(413, "a rule is smaller than this")
        if name not in self._rules and len(self._rules) >= _MOST_RULES:
            return _told(400, f"{_MOST_RULES} rules are enough; delete some")
        try:
            rule = read_rule(orjson.loads(body))
        except ValueError as error:
            return _told(400, str(error))
        self._rules[name] = rule
        return 200, orjson.dumps(rule.shown())


def _told(status: int, message: str) -> tuple[int, bytes]:
    return status, orjson.dumps({"message": message})
