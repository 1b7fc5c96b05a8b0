"""What may be asked of an activation, and where a machine stands on its way in. Decided from facts alone."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fleetops.aws.activations import LONGEST_DAYS, MOST_REGISTRATIONS, MOST_ROLE, ActivationRecord
from fleetops.aws.records import ManagedInstance

MOST_TAGS = 50  # of one resource [AWS General Reference, "Tag naming limits and requirements"]
LONGEST_NOTE = 120  # the description also says who made it, and has a marker of 45 characters
# A real agent is there 3 s after its start; who is not there by then has met an error that its log tells.
LATE_AFTER = timedelta(minutes=2)
# So long a page asks every 3 s; later every 15 s.
EAGER_FOR = timedelta(minutes=15)
_ROLE = re.compile(r"(?:[\w+=,.@-]+/)*[\w+=,.@-]+", re.ASCII)
_SIGNS = frozenset("_.:/=+-@")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody asks of an activation."""

    role: str
    name: str = ""
    limit: int = 1
    days: int = 1
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def problems(wanted: Wanted) -> dict[str, str]:
    """By field, in words, what is wrong; empty if all is well. Sources: botocore's model of CreateActivation."""
    found = {
        "role": _role(wanted.role),
        "name": "" if is_plain(wanted.name, 256) else _plain_words("A name", 256),
        "limit": ""
        if 1 <= wanted.limit <= MOST_REGISTRATIONS
        else f"One activation lets in 1 to {MOST_REGISTRATIONS} machines.",
        "days": "" if 1 <= wanted.days <= LONGEST_DAYS else f"It ends after 1 to {LONGEST_DAYS} days.",
        "tags": _tags(wanted.tags),
        "note": ""
        if len(wanted.note) <= LONGEST_NOTE and wanted.note.isprintable()
        else f"Use at most {LONGEST_NOTE} characters, on one line.",
    }
    return {name: text for name, text in found.items() if text}


def read_tags(text: str) -> dict[str, str]:
    """Tags as a form has them, key=value on a line of its own. Raises ValueError, in words."""
    tags: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not key or not equals:
            raise ValueError(f"“{line.strip()[:40]}” is no tag: write key=value, one a line.")
        if key in tags:
            raise ValueError(f"The tag {key} stands there twice.")
        tags[key] = value
    return tags


def is_plain(text: str, longest: int) -> bool:
    r"""Whether AWS takes it for a name or a tag: letters, spaces, digits and _.:/=+-@ of any language."""
    return len(text) <= longest and all(sign in _SIGNS or unicodedata.category(sign)[0] in "LZN" for sign in text)


def is_late(record: ActivationRecord, nodes: Sequence[ManagedInstance], *, now: datetime) -> bool:
    """Whether somebody who waits should be told where to look: nobody is online two minutes after it was made."""
    waited = now - record.created_at if record.created_at else LATE_AFTER
    return waited >= LATE_AFTER and not any(node.ping_status == "Online" for node in nodes)


def asks_again_in(record: ActivationRecord, nodes: Sequence[ManagedInstance], *, now: datetime) -> int:
    """After how many seconds an open page looks again; 0 once there is no more to see."""
    online = sum(node.ping_status == "Online" for node in nodes)
    if not record.is_open and online >= record.count:
        return 0
    return 3 if record.created_at is None or now - record.created_at < EAGER_FOR else 15


def _role(role: str) -> str:
    if not role:
        return "Name the IAM role that the machines get: one that SSM may assume, with AmazonSSMManagedInstanceCore."
    if role.startswith("arn:"):
        return "Give the role's name, with its path if it has one, and not its ARN."
    if len(role) > MOST_ROLE or not _ROLE.fullmatch(role):
        return f"A role's name has at most {MOST_ROLE} letters, digits and +=,.@-_ here, its path counted."
    return ""


def _tags(tags: Mapping[str, str]) -> str:
    if len(tags) > MOST_TAGS:
        return f"A machine has at most {MOST_TAGS} tags."
    for key, value in tags.items():
        if not key or not is_plain(key, 128) or not is_plain(value, 256):
            return f"The tag “{key[:40]}”: {_plain_words('a key', 128)[0].lower()}{_plain_words('a key', 128)[1:]}"
        if key.lower().startswith("aws:"):
            return "Keys that begin with aws: are AWS's own."
    return ""


def _plain_words(what: str, longest: int) -> str:
    return f"{what} has at most {longest} letters, digits, spaces and _.:/=+-@."
