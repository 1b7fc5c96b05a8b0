"""Our session documents in AWS accounts: what each says, that it is there, and which one a session is started with.

A document is named by a digest of its content, and never changed: a new version of FleetOps, or other preferences of
the account, make another one. Where a session names a document, AWS applies that one's `inputs` in the place of the
account's preferences (SSM-SessionManagerRunShell), so these are read and carried over: KMS, S3, CloudWatch Logs, idle
time-out, run-as. They are read again every REFRESH; a change there reaches sessions within that time.

Purposes: "shell", "shell as" (under the OS user that the session names), "command as", "interactive as" (AWS's two
documents for a command, under such a user), "transfer" and "transfer as" (a file), "restricted:<id>" and
"restricted:<id> as".
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from fleetops.aws import documents as aws_documents
from fleetops.aws.clients import AccountAccess
from fleetops.aws.errors import AccessDenied, AwsError, Unavailable
from fleetops.aws.permissions import SESSION_DOCUMENT
from fleetops.clock import now
from fleetops.documents import InvalidDocument
from fleetops.documents import session as session_schema
from fleetops.errors import UserError
from fleetops.inventory.models import Instance, Region

from .commandlog import integration
from .models import RestrictedShell, SessionDocument, TerminalSession
from .states import SessionKind
from .transfers import node as transfer_node

logger = logging.getLogger(__name__)

SHELL: Final = "shell"
SHELL_AS: Final = "shell as"
COMMAND_AS: Final = "command as"
INTERACTIVE_AS: Final = "interactive as"
TRANSFER: Final = "transfer"
TRANSFER_AS: Final = "transfer as"
# AWS's documents that run one command, and what stands for them where the policy names the OS user.
UNDER_A_USER: Final = {"AWS-StartNonInteractiveCommand": COMMAND_AS, "AWS-StartInteractiveCommand": INTERACTIVE_AS}

_RESTRICTED: Final = "restricted:"

REFRESH: Final = timedelta(minutes=10)  # how old the account's preferences may be
CONTENT_REFRESH: Final = timedelta(hours=1)  # how long a document is believed to be what we wrote
# A click waits for AWS only where a row is older than this; the worker should have been there long before.
STALE: Final = timedelta(hours=1)
RETRY: Final = timedelta(minutes=1)  # for a restricted shell that could not be had: there is nothing else to open
ACTOR: Final = "fleetops"  # RoleSessionName of these calls
RUN_AS_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,63}$"
DIGEST_LENGTH: Final = 12
OURS: Final = re.compile(r"(?:.*/)?FleetOps-.*", re.DOTALL)  # by its ARN too

# inputs that are carried over. shellProfile is not: AWS types it into the plain shell alone; ours has it inside.
_CARRIED: Final = (
    *("s3BucketName", "s3KeyPrefix", "s3EncryptionEnabled", "cloudWatchLogGroupName", "cloudWatchEncryptionEnabled"),
    *("kmsKeyId", "runAsEnabled", "runAsDefaultUser", "idleSessionTimeout", "maxSessionDuration"),
)


class NoDocument(UserError):
    """The session document cannot be had in this region."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A document as it should be: what it is for, and its content."""

    purpose: str
    label: str
    content: Mapping[str, Any]

    @property
    def text(self) -> str:
        return json.dumps(self.content, sort_keys=True, separators=(",", ":"))

    @property
    def name(self) -> str:
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:DIGEST_LENGTH]
        return f"FleetOps-{self.label}-{digest}"


# What they say


def shell(preferences: Mapping[str, Any], *, run_as: bool) -> Wanted:
    """The shell that tells what it runs. `preferences` are the account's own inputs."""
    profiles = preferences.get("shellProfile")
    profiles = profiles if isinstance(profiles, Mapping) else {}
    unix = integration.unix_commands(str(profiles.get("linux", "")))
    windows = integration.windows_commands(str(profiles.get("windows", "")))
    return Wanted(
        SHELL_AS if run_as else SHELL,
        "Shell",
        {
            "schemaVersion": "1.0",
            "description": "A login shell that tells FleetOps what it runs. Made by FleetOps; not to be changed.",
            "sessionType": "InteractiveCommands",
            "inputs": _inputs(preferences, run_as=run_as),
            "parameters": {
                integration.NONCE_PARAMETER: {
                    "type": "String",
                    "description": "By which FleetOps knows this shell's own words.",
                    "allowedPattern": integration.NONCE_PATTERN,
                },
                **_run_as_parameter(run_as),
            },
            "properties": {
                "linux": {"commands": unix, "runAsElevated": False},
                "macos": {"commands": unix, "runAsElevated": False},
                "windows": {"commands": windows, "runAsElevated": False},
            },
        },
    )


def command(preferences: Mapping[str, Any], *, interactive: bool) -> Wanted:
    """AWS's document for one command, under the OS user that the session names."""
    rule = {"commands": "{{ command }}", "runAsElevated": False}
    return Wanted(
        INTERACTIVE_AS if interactive else COMMAND_AS,
        "Command",
        {
            "schemaVersion": "1.0",
            "description": "One command under an OS user. Made by FleetOps; not to be changed.",
            "sessionType": "InteractiveCommands" if interactive else "NonInteractiveCommands",
            "inputs": _inputs(preferences, run_as=True),
            "parameters": {"command": {"type": "String", "description": "What to run."}, **_run_as_parameter(True)},
            "properties": {"linux": rule, "macos": rule},
        },
    )


def transfer(preferences: Mapping[str, Any], *, run_as: bool) -> Wanted:
    """One file to or from the instance."""
    rule = {"commands": transfer_node.commands(), "runAsElevated": False}
    return Wanted(
        TRANSFER_AS if run_as else TRANSFER,
        "Transfer",
        {
            "schemaVersion": "1.0",
            "description": "Carries one file. Made by FleetOps; not to be changed.",
            "sessionType": "InteractiveCommands",
            "inputs": _inputs(preferences, run_as=run_as),
            "parameters": {**transfer_node.parameters(), **_run_as_parameter(run_as)},
            "properties": {"linux": rule, "macos": rule},
        },
    )


def restricted(row: RestrictedShell, preferences: Mapping[str, Any], *, run_as: bool) -> Wanted:
    """The document of a restricted shell."""
    declared = {}
    for each in row.parameters:
        rule: dict[str, Any] = {"type": "String", "description": each.get("description", "")}
        if each.get("values"):
            rule["allowedValues"] = list(each["values"])
        if each.get("pattern"):
            rule["allowedPattern"] = each["pattern"]
        if each.get("default"):
            rule["default"] = each["default"]
        declared[each["name"]] = rule
    systems = {"linux": row.linux, "macos": row.macos, "windows": row.windows}
    return Wanted(
        restricted_purpose(row, run_as=run_as),
        row.name,
        {
            "schemaVersion": "1.0",
            "description": "A restricted shell of FleetOps; not to be changed.",
            "sessionType": "InteractiveCommands",
            "inputs": _inputs(preferences, run_as=run_as),
            "parameters": {**declared, **_run_as_parameter(run_as)},
            "properties": {
                system: {"commands": commands, "runAsElevated": False}
                for system, commands in systems.items()
                if commands
            },
        },
    )


def restricted_purpose(row: RestrictedShell, *, run_as: bool) -> str:
    return f"{_RESTRICTED}{row.pk}" + (" as" if run_as else "")


def _inputs(preferences: Mapping[str, Any], *, run_as: bool) -> dict[str, Any]:
    inputs = {name: preferences[name] for name in _CARRIED if preferences.get(name) not in (None, "")}
    if preferences.get("cloudWatchLogGroupName"):
        inputs["cloudWatchStreamingEnabled"] = False  # AWS writes the log of such a session at its end
    if run_as:
        inputs |= {"runAsEnabled": True, "runAsDefaultUser": "{{ runAs }}"}
    return inputs


def _run_as_parameter(run_as: bool) -> dict[str, Any]:
    if not run_as:
        return {}
    return {"runAs": {"type": "String", "description": "OS user.", "allowedPattern": RUN_AS_PATTERN}}


# Which one a session is started with


def for_session(
    session: TerminalSession, access: AccountAccess, *, under: AccountAccess | None = None
) -> tuple[str, dict[str, list[str]]]:
    """The document and the parameters for StartSession; ("", {}) is the account's own preferences.

    `access` makes documents; `under` starts the session, where that is another role. A shell under the account's own
    preferences tells no commands; `session.no_marks` then says why. Raises NoDocument where the session must not be
    started in another way: a restricted shell, or an OS user by policy.
    """
    run_as = session.run_as
    given = {name: list(values) for name, values in session.parameters.items()}
    if session.kind == SessionKind.FORWARD:
        return session.document, given
    if session.kind == SessionKind.TRANSFER:
        name = _name(session, access, TRANSFER_AS if run_as else TRANSFER)
        return name, given | ({"runAs": [run_as]} if run_as else {})
    if session.document:
        purpose = _purpose_of(session)
        if purpose is None:
            return session.document, given
        name = _name(session, access, purpose)
        return name, given | ({"runAs": [run_as]} if run_as else {})
    refusal = _row((session.account_id, session.region), _refusal(under or access))
    if refusal is not None and refusal.checked_at > now() - REFRESH and not run_as:
        _tell_no_marks(session, refusal.problem)
        return "", {}
    try:
        name = _name(session, access, SHELL_AS if run_as else SHELL)
    except NoDocument as error:
        if run_as:
            raise NoDocument(
                f"This access opens shells as {run_as}, and that needs a session document. {error}"
            ) from None
        _tell_no_marks(session, str(error))
        return "", {}
    _tell_no_marks(session, "")
    given = {integration.NONCE_PARAMETER: [session.mark_nonce]}
    return name, given | ({"runAs": [run_as]} if run_as else {})


def refused(session: TerminalSession, access: AccountAccess, problem: str) -> bool:
    """The role that the session goes under may not start sessions with our documents.

    True if it can be started under the account's preferences instead; this role is not asked again for REFRESH.
    """
    if session.document or session.run_as or session.kind != SessionKind.SHELL:
        return False
    SessionDocument.objects.update_or_create(
        account_id=session.account_id,
        region=session.region,
        purpose=_refusal(access),
        defaults={"name": "", "problem": problem[:256], "checked_at": now()},
    )
    _tell_no_marks(session, problem)
    return True


def _refusal(access: AccountAccess) -> str:
    return f"refused:{hashlib.sha256(access.role_arn.encode()).hexdigest()[:DIGEST_LENGTH]}"


def forget(session: TerminalSession) -> None:
    """AWS does not know a document that was believed to be there."""
    SessionDocument.objects.filter(account_id=session.account_id, region=session.region).delete()


def _purpose_of(session: TerminalSession) -> str | None:
    """Which of ours stands for the document that was asked for; None: that one itself."""
    row = restricted_shell(session.document)
    if row is not None:
        return restricted_purpose(row, run_as=bool(session.run_as))
    if not session.run_as:
        return None
    purpose = UNDER_A_USER.get(session.document)
    if purpose is None:
        raise NoDocument(
            f"This access opens sessions as {session.run_as}, which {session.document} cannot do. Open a shell, or ask "
            "whoever administers the policy."
        )
    return purpose


def restricted_shell(document: str) -> RestrictedShell | None:
    """The restricted shell that is asked for by this name; None for a document of somebody else's.

    Raises NoDocument for one of FleetOps's that may not be asked for: a full shell under another name, a restricted
    shell that is disabled or an older version of it.
    """
    if not OURS.fullmatch(document):
        return None
    row = RestrictedShell.objects.enabled().filter(name=document.removeprefix("FleetOps-")).first()
    if row is None:
        raise NoDocument(f"{document} is no restricted shell that can be opened now.")
    return row


def _tell_no_marks(session: TerminalSession, problem: str) -> None:
    if session.no_marks != problem[:256]:
        session.no_marks = problem[:256]
        TerminalSession.objects.filter(pk=session.pk).update(no_marks=session.no_marks)


def _name(session: TerminalSession, access: AccountAccess, purpose: str) -> str:
    """The name of the document in the session's region, made there if need be. Raises NoDocument."""
    place = (session.account_id, session.region)
    row = _row(place, purpose)
    if row is None or row.checked_at < now() - STALE or not _is_current(row):
        try:
            refresh(access, session.region, purposes={purpose})
        except Unavailable as error:
            # The shell of an older FleetOps is a shell; an older restricted shell may let its user do more.
            if row is None or not row.name or (purpose.startswith(_RESTRICTED) and not _is_current(row)):
                raise NoDocument(str(error)) from None
        except UserError as error:
            raise NoDocument(str(error)) from None
        else:
            row = _row(place, purpose)
    if row is None or not row.name:
        raise NoDocument(row.problem if row is not None else "FleetOps has no such session document here.")
    return row.name


def _is_current(row: SessionDocument) -> bool:
    """Whether it is the document that would be made now, under the account's preferences as they were read last."""
    if row.problem:
        return not row.purpose.startswith(_RESTRICTED) or row.checked_at > now() - RETRY
    known = _row((row.account_id, row.region), SHELL)
    if known is None:
        return False
    return any(each.purpose == row.purpose and each.name == row.name for each in _all_wanted(known.preferences))


def _row(place: tuple[str, str], purpose: str) -> SessionDocument | None:
    return SessionDocument.objects.filter(account_id=place[0], region=place[1], purpose=purpose).first()


# That they are there


def regions_due(moment: datetime) -> list[Region]:
    """Regions with instances whose documents nobody has looked after for REFRESH; at most 50."""
    fresh = {
        (row.account_id, row.region)
        for row in SessionDocument.objects.filter(purpose=SHELL, checked_at__gte=moment - REFRESH)
    }
    due = Region.objects.filter(enabled=True, account__enabled=True).select_related("account")
    with_instances = set(Instance.objects.values_list("region_id", flat=True).distinct())
    found = [each for each in due if each.pk in with_instances and (each.account.account_id, each.name) not in fresh]
    return found[:50]


def prepare(region_id: int) -> None:
    """Refresh one region; where AWS cannot be reached now, the next round tries again."""
    region = Region.objects.filter(pk=region_id, enabled=True, account__enabled=True).select_related("account").first()
    if region is None:
        return
    try:
        refresh(region.account.access(), region.name)
    except UserError as error:
        logger.info(
            "session documents not looked after account=%s region=%s: %s",
            region.account.account_id,
            region.name,
            error,
        )


def refresh(access: AccountAccess, region: str, *, purposes: Iterable[str] = ()) -> None:
    """Read the account's preferences, and make what follows from them: the shell's document, and those of `purposes`.

    Without any: those that have been asked for here before. An account holds 500 documents, so none is made for nobody.

    What cannot be had is written down with its reason. Raises Unavailable, having written nothing of what it did not
    get to know.
    """
    place = (access.account_id, region)
    only = {SHELL, *purposes}  # the shell's row has the preferences
    if not purposes:
        only |= set(
            SessionDocument.objects.filter(account_id=place[0], region=region).values_list("purpose", flat=True)
        )
    preferences, problem = _read_preferences(access, region)
    for wanted in _all_wanted(preferences):
        if wanted.purpose not in only:
            continue
        row = _row(place, wanted.purpose)
        moment = now()
        compared_at = row.content_checked_at if row is not None and row.name == wanted.name else None
        why = problem
        if not why and (compared_at is None or compared_at < moment - CONTENT_REFRESH):
            why = _ensure(access, region, wanted, is_known=compared_at is not None)
            compared_at = None if why else moment
        SessionDocument.objects.update_or_create(
            account_id=place[0],
            region=place[1],
            purpose=wanted.purpose,
            defaults={
                "name": "" if why else wanted.name,
                "problem": why[:256],
                "preferences": preferences if wanted.purpose == SHELL else {},
                "checked_at": moment,
                "content_checked_at": compared_at,
            },
        )
        if why and (row is None or row.problem != why[:256]):
            logger.warning("no session document account=%s region=%s purpose=%s: %s", *place, wanted.purpose, why)


def _all_wanted(preferences: Mapping[str, Any]) -> Iterator[Wanted]:
    for run_as in (False, True):
        yield shell(preferences, run_as=run_as)
    for run_as in (False, True):
        yield transfer(preferences, run_as=run_as)
    for interactive in (False, True):
        yield command(preferences, interactive=interactive)
    for row in RestrictedShell.objects.enabled():
        for run_as in (False, True):
            yield restricted(row, preferences, run_as=run_as)


def _read_preferences(access: AccountAccess, region: str) -> tuple[dict[str, Any], str]:
    """The account's own inputs, and why a session must stay under them as they are. Raises Unavailable."""
    try:
        text, _ = aws_documents.get_document(
            access, region, name=SESSION_DOCUMENT, version="$DEFAULT", session_name=ACTOR
        )
    except Unavailable:
        raise
    except AwsError as error:
        if error.code == "InvalidDocument":
            return {}, ""  # nobody has set any: AWS's defaults hold
        return {}, f"The account's Session Manager preferences could not be read: {error}"
    except UserError as error:  # AccessDenied says which permission is missing
        return {}, f"The account's Session Manager preferences could not be read: {error}"
    try:
        inputs = dict(session_schema.parse(json.loads(text)).inputs)
    except (ValueError, InvalidDocument) as error:
        return {}, f"The account's Session Manager preferences are not understood: {error}"
    if inputs.get("cloudWatchLogGroupName") and str(inputs.get("cloudWatchStreamingEnabled")).lower() == "true":
        return inputs, (
            "The account's preferences stream shells to CloudWatch Logs as they go, which AWS does for a plain shell "
            "alone."
        )
    return inputs, ""


def _ensure(access: AccountAccess, region: str, wanted: Wanted, *, is_known: bool) -> str:
    """Make the document unless it is there, with just this content; in words why it cannot be. Raises Unavailable."""
    try:
        if is_known and _is_there(access, region, wanted):
            return ""
        aws_documents.create_document(
            access,
            region,
            name=wanted.name,
            content=wanted.text,
            document_type="Session",
            document_format="JSON",
            session_name=ACTOR,
        )
        logger.info("session document made account=%s region=%s document=%s", access.account_id, region, wanted.name)
    except Unavailable:
        raise
    except AccessDenied as error:
        return str(error)
    except AwsError as error:
        if error.code != "DocumentAlreadyExists":
            return f"AWS did not take the session document: {error}"
        try:
            is_ours = _is_there(access, region, wanted)
        except Unavailable:
            raise
        except UserError as unreadable:
            return f"The session document could not be compared: {unreadable}"
        if not is_ours:
            return f"Document {wanted.name} in the account is not what FleetOps wrote; delete it, and it is made again."
    return ""


def _is_there(access: AccountAccess, region: str, wanted: Wanted) -> bool:
    """Whether the document is there, with just this content."""
    try:
        text, _ = aws_documents.get_document(access, region, name=wanted.name, version="$DEFAULT", session_name=ACTOR)
    except AwsError as error:
        if error.code == "InvalidDocument":
            return False
        raise
    try:
        return bool(json.loads(text) == wanted.content)
    except ValueError:
        return False
