"""What a rule consists of, and what keeps fields from being one: for the form, the API and whoever makes one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from fleetops.targets import ExpressionError, parse

from .facts import DEED_WORDS, OF_SESSIONS, WITH_DOCUMENT, WITH_USER, Deed
from .models import Effect, Whose, zone_of

MOST_APPROVALS = 9
MOST_NAME_CHARACTERS = 100
ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\x21-\x7e]+")
MOST_NAMES = 50  # of documents, OS users, destinations or networks in one rule
MOST_MFA_MINUTES = 1440
MOST_GRANT_MINUTES = 7 * 1440
# host:port, with * in either; a host is a name, an IPv4 address or an IPv6 address in brackets.
DESTINATION = re.compile(r"(?:[A-Za-z0-9._*-]{1,253}|\[[0-9A-Fa-f:.*]{1,45}\]):(?:[0-9]{1,5}|\*)")
OS_USER = re.compile(r"[A-Za-z0-9._@$\\-]{1,64}")

# What an allow alone may ask for, or give.
_OF_ALLOWS = (
    "needs_mfa",
    "needs_reason",
    "needs_moderator",
    "approvals",
    "approvers",
    "grant_minutes",
    "role_arn",
    "shell_user",
)
# What a rule consists of, and what each is where nothing is said.
FIELDS: Mapping[str, Any] = {
    "name": "",
    "note": "",
    "effect": Effect.ALLOW.value,
    "everybody": False,
    "users": (),
    "groups": (),
    "deeds": (),
    "whose": Whose.ANY.value,
    "targets": "",
    "documents": (),
    "run_as": (),
    "shell_user": "",
    "session_documents": (),
    "destinations": (),
    "days": (),
    "starts_at": None,
    "ends_at": None,
    "zone": "",
    "networks": (),
    "needs_mfa": False,
    "mfa_minutes": 0,
    "needs_reason": False,
    "needs_moderator": False,
    "approvals": 0,
    "approvers": (),
    "grant_minutes": 0,
    "role_arn": "",
    "valid_from": None,
    "valid_until": None,
}


def problems(fields: Mapping[str, Any], *, confirmed: bool) -> dict[str, str]:
    """What keeps these fields from being a rule, by field, in words."""
    given = {**FIELDS, **fields}
    found: dict[str, str] = {}
    if not given["name"].strip():
        found["name"] = "Give the rule a name: denials show it."
    elif len(given["name"]) > MOST_NAME_CHARACTERS:
        found["name"] = f"At most {MOST_NAME_CHARACTERS} characters."
    deeds = list(given["deeds"])
    if not deeds or set(deeds) - set(DEED_WORDS):
        found["deeds"] = "Choose at least one deed."
    if not given["everybody"] and not given["users"] and not given["groups"]:
        found["everybody"] = "Choose a group or a person, or everybody."
    if given["everybody"] and (given["users"] or given["groups"]):
        found["everybody"] = "It is for everybody, or for the people and groups chosen: not both."
    found |= _expression_problem(given["targets"], confirmed)
    if given["whose"] != Whose.ANY and set(deeds) - OF_SESSIONS:
        found["whose"] = "Whose session it is can be asked of recordings, watching and ending alone. Make two rules."
    if given["effect"] == Effect.ALLOW:
        if WITH_USER & set(deeds) and not given["run_as"]:
            found["run_as"] = "Name the OS users that may be used, or write * for any, root too."
        if WITH_DOCUMENT & set(deeds) and not given["documents"]:
            found["documents"] = "Name the documents that may be run, or write * for any."
        if Deed.FORWARD in deeds and not given["destinations"]:
            found["destinations"] = "Name where ports may be forwarded to, as localhost:* or *:443; *:* is anywhere."
    elif any(given[name] for name in _OF_ALLOWS):
        found["effect"] = (
            "A deny denies: it asks for no second factor, reason, moderator, approval or role. Take them out."
        )
    return found | _time_problems(given) | _session_problems(given) | _other_problems(given)


def _expression_problem(text: str, confirmed: bool) -> dict[str, str]:
    if not text.strip():
        return {"targets": "Write which instances it is for, such as env=prod, or all."}
    try:
        expression = parse(text)
    except ExpressionError as error:
        return {"targets": str(error)}
    if expression.matches_everything:
        if str(expression) != "all":
            return {"targets": f"“{text.strip()}” holds for every instance there is. Write all if that is meant."}
        if not confirmed:
            return {"confirm_all": "This rule is for every instance, also of accounts to come. Confirm that below."}
    elif expression.matches_nothing:
        return {"targets": f"“{text.strip()}” can hold for no instance at all. Change it."}
    return {}


def _session_problems(given: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    deeds = set(given["deeds"])
    for each in given["destinations"]:
        if not DESTINATION.fullmatch(each):
            found["destinations"] = f"{each} is no host and port. Write db.internal:5432, localhost:* or *:443."
    as_user = deeds & {Deed.SHELL, Deed.TRANSFER}
    if given["shell_user"] and (not as_user or not OS_USER.fullmatch(given["shell_user"])):
        found["shell_user"] = "Name one OS user, for a rule of shells or files: app, or deploy."
    if given["session_documents"] and Deed.SHELL not in deeds:
        found["session_documents"] = "Session documents can be named where shells are opened alone."
    if given["needs_moderator"] and Deed.SHELL not in deeds:
        found["needs_moderator"] = "Somebody can watch a shell alone."
    if given["mfa_minutes"] and not given["needs_mfa"]:
        found["mfa_minutes"] = "Ask for a second factor too, or leave its age open."
    if not 0 <= given["mfa_minutes"] <= MOST_MFA_MINUTES:
        found["mfa_minutes"] = f"From 1 to {MOST_MFA_MINUTES} minutes; 0 for any age."
    if not 0 <= given["grant_minutes"] <= MOST_GRANT_MINUTES:
        found["grant_minutes"] = f"From 1 to {MOST_GRANT_MINUTES} minutes; 0 for as long as the installation lets."
    if (given["approvers"] or given["grant_minutes"]) and not given["approvals"]:
        found["approvals"] = "Say how many have to approve, or name nobody who may."
    return found


def _time_problems(given: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    if set(given["days"]) - set(range(7)):
        found["days"] = "A day is a number from 0, Monday, to 6."
    has_times = given["starts_at"] is not None or given["ends_at"] is not None
    if given["days"] and (given["starts_at"] is None or given["ends_at"] is None):
        found["starts_at"] = "Give both times; 00:00 to 00:00 is the whole day."
    elif has_times and not given["days"]:
        found["days"] = "Choose the days on which these hours begin."
    if given["days"] and zone_of(given["zone"]) is None:
        found["zone"] = "Write an IANA time zone, such as Europe/Berlin or UTC."
    if given["valid_from"] and given["valid_until"] and given["valid_from"] >= given["valid_until"]:
        found["valid_until"] = "It would end before it begins."
    return found


def _other_problems(given: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in given["networks"]:
        try:
            ip_network(each)
        except ValueError:
            found["networks"] = f"{each} is no network. Write one like 10.20.0.0/16 or 2001:db8::/32."
    for name in ("documents", "run_as", "networks", "session_documents", "destinations"):
        if len(given[name]) > MOST_NAMES:
            found[name] = f"At most {MOST_NAMES} in one rule. Use a * or make a second rule."
    if not 0 <= given["approvals"] <= MOST_APPROVALS:
        found["approvals"] = f"From 0 to {MOST_APPROVALS} people."
    arn = given["role_arn"]
    if arn and not ROLE_ARN.fullmatch(arn):
        found["role_arn"] = "Write the role's ARN: arn:aws:iam::111122223333:role/name."
    if arn and not {Deed.SHELL, Deed.TRANSFER} & set(given["deeds"]):
        found["role_arn"] = "An IAM role can be given for shells and files alone."
    return found
