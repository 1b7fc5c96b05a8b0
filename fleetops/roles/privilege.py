"""A policy that is put on a role for a while: it holds for one instance, and ends by itself. No database, no AWS."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from fleetops.aws.role_policies import MOST_INLINE, MOST_MANAGED
from fleetops.errors import FieldError

# AWS's condition keys: the time of the request, and the instance that the credentials were delivered to [IAM user
# guide, "AWS global condition context keys"; EC2 user guide, "ec2:SourceInstanceARN"].
TIME_KEY: Final = "aws:CurrentTime"
INSTANCE_KEY: Final = "ec2:SourceInstanceARN"
MOST_STATEMENTS: Final = 40
_FIELDS: Final = frozenset({"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"})


def check(text: str) -> str:
    """The policy as it is kept: JSON in one line. Raises FieldError for one that cannot be leased."""
    try:
        policy = json.loads(text)
    except ValueError as error:
        raise FieldError("policy", f"This is not JSON: {error}.") from None
    statements = _statements(policy)
    for number, statement in enumerate(statements, 1):
        _check_statement(number, statement)
    kept = _written({"Version": "2012-10-17", "Statement": statements})
    if len(kept) > MOST_MANAGED - 400 * len(statements):  # room for the conditions that come to each
        raise FieldError("policy", f"It is too long: IAM takes {MOST_MANAGED:,} characters, our conditions included.")
    return kept


def _statements(policy: Any) -> list[dict[str, Any]]:
    if not isinstance(policy, dict) or "Statement" not in policy:
        raise FieldError("policy", 'A policy is an object with "Version" and "Statement".')
    if policy.get("Version", "2012-10-17") != "2012-10-17":
        raise FieldError("policy", 'Its "Version" has to be "2012-10-17".')
    statements = policy["Statement"] if isinstance(policy["Statement"], list) else [policy["Statement"]]
    if not statements or not all(isinstance(each, dict) for each in statements):
        raise FieldError("policy", 'Its "Statement" is a list of at least one object.')
    if len(statements) > MOST_STATEMENTS:
        raise FieldError("policy", f"It has more than {MOST_STATEMENTS} statements.")
    return statements


def _check_statement(number: int, statement: dict[str, Any]) -> None:
    if strange := sorted(set(statement) - _FIELDS):
        raise FieldError("policy", f"Statement {number}: a policy of a role has no “{strange[0]}”.")
    if statement.get("Effect") != "Allow":
        # A denial would hit all instances that have the role once its condition is mistaken, and gives nobody anything.
        raise FieldError("policy", f"Statement {number}: its Effect has to be Allow; a lease gives, it takes nothing.")
    if not (statement.get("Action") or statement.get("NotAction")):
        raise FieldError("policy", f"Statement {number} names no Action.")
    if not (statement.get("Resource") or statement.get("NotResource")):
        raise FieldError("policy", f"Statement {number} names no Resource.")
    condition = statement.get("Condition", {})
    if not isinstance(condition, dict) or not all(isinstance(each, dict) for each in condition.values()):
        raise FieldError("policy", f"Statement {number}: its Condition is an object of objects.")
    for kind, key in (("DateLessThan", TIME_KEY), ("ArnEquals", INSTANCE_KEY)):
        if any(name.lower() == key.lower() for name in condition.get(kind, {})):
            raise FieldError("policy", f"Statement {number}: leave {kind} of {key} to the lease, which sets it.")


def bounded(text: str, *, instance_arn: str, until: datetime) -> str:
    """The policy as it goes to IAM: each statement only for that instance and only before `until`."""
    statements = json.loads(text)["Statement"]
    end = until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for statement in statements:
        condition = {kind: dict(keys) for kind, keys in statement.get("Condition", {}).items()}
        condition.setdefault("DateLessThan", {})[TIME_KEY] = end
        condition.setdefault("ArnEquals", {})[INSTANCE_KEY] = instance_arn
        statement["Condition"] = condition
    return _written({"Version": "2012-10-17", "Statement": statements})


def fits_inline(text: str, others: int) -> bool:
    """Whether it fits beside inline policies of so many characters."""
    return len(text) + others <= MOST_INLINE


def _written(policy: dict[str, Any]) -> str:
    return json.dumps(policy, separators=(",", ":"), ensure_ascii=True)
