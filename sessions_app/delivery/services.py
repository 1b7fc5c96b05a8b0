"""What accounts want delivered, and what a session begins and ends with; each change with its audit event."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from django.db import transaction
from django.db.models import OuterRef, QuerySet, Subquery
from django.urls import reverse

from fleetops.audit.record import record
from fleetops.aws.logs import RETENTION_DAYS
from fleetops.aws.regions import partition_of
from fleetops.clock import now
from fleetops.errors import FieldError
from fleetops.inventory.models import Account
from fleetops.notify.models import Notice
from fleetops.notify.services import notify, resolve

from .models import DeliverySettings, LogDelivery, RecordingCopy, Strict

if TYPE_CHECKING:
    from ..models import TerminalSession

logger = logging.getLogger(__name__)

FIELDS: Final = (
    *("has_transcript", "has_commands", "log_group", "retention_days", "log_kms_key", "strict"),
    *("bucket", "prefix", "bucket_kms_key"),
)
# Put into a log group's name: AWS's own pattern [botocore's model of logs].
_GROUP = re.compile(r"[.\-_/#A-Za-z0-9]{1,512}")
_KEY = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:(key|alias)/[A-Za-z0-9/_-]+")
# S3 user guide, "Bucket naming rules".
_BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+\Z)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()/-]{0,256}")
LATE_AFTER: Final = timedelta(minutes=10)  # a delivery that waits for so long is told of


# What an account wants


def wanted(account: Account) -> DeliverySettings:
    """The settings of an account; of one without a row the defaults, not saved.

    Nothing goes into an AWS account unless somebody has said so. Those of the embedded endpoint have transcript and
    commands on: there is nothing to pay, and nowhere else to see them.
    """
    found = DeliverySettings.objects.filter(account=account).first()
    return found or DeliverySettings(
        account=account, has_transcript=account.is_embedded, has_commands=account.is_embedded
    )


def change(account: Account, facts: Mapping[str, Any], *, actor: Any) -> bool:
    """Make an account's settings what `facts`, by names of FIELDS, say; True if that changed anything.

    Sessions that are open stay as they began. Raises FieldError.
    """
    facts = {name: value.strip() if isinstance(value, str) else value for name, value in facts.items()}
    if "prefix" in facts:
        facts["prefix"] = facts["prefix"].strip("/")
    with transaction.atomic():
        DeliverySettings.objects.get_or_create(
            account=account, defaults={name: getattr(wanted(account), name) for name in FIELDS}
        )
        row = DeliverySettings.objects.select_for_update().get(account=account)
        before = {name: getattr(row, name) for name in FIELDS}
        changed = {name: value for name, value in facts.items() if before[name] != value}
        for name, value in changed.items():
            setattr(row, name, value)
        _check(row)
        if not changed:
            return False
        row.changed_at = now()
        row.save(update_fields=[*changed, "changed_at"])
        record(
            "sessions.delivery.change",
            actor=actor,
            target=account,
            account_id=account.account_id,
            before={name: before[name] for name in changed},
            after=changed,
        )
    logger.info("delivery changed account=%s fields=%s", account.account_id, ",".join(changed))
    return True


def _check(row: DeliverySettings) -> None:
    if not _GROUP.fullmatch(row.log_group):
        raise FieldError("log_group", "A log group's name has 1 to 512 letters, digits, and . - _ / #.")
    if row.log_group.startswith("aws/"):
        raise FieldError("log_group", "Names that begin with aws/ are AWS's own.")
    if row.retention_days is not None and row.retention_days not in RETENTION_DAYS:
        raise FieldError("retention_days", "CloudWatch Logs does not know this number of days.")
    for name in ("log_kms_key", "bucket_kms_key"):
        if (key := getattr(row, name)) and not _KEY.fullmatch(key):
            raise FieldError(name, "Give the key's ARN: arn:aws:kms:REGION:ACCOUNT:key/ID.")
    if row.bucket and not _BUCKET.fullmatch(row.bucket):
        raise FieldError("bucket", "A bucket's name has 3 to 63 small letters, digits, dots and hyphens.")
    if not _PREFIX.fullmatch(row.prefix):
        raise FieldError("prefix", "Use letters, digits, and ! _ . * ' ( ) / - in a prefix.")
    if row.bucket_kms_key and not row.bucket:
        raise FieldError("bucket", "Name the bucket that the key is for.")
    if row.strict not in Strict.values:
        raise FieldError("strict", "Write pass, end or nothing.")


def ask_check(account: Account, *, actor: Any) -> DeliverySettings:
    """Write down that somebody wants to know whether delivery works; a worker finds out."""
    with transaction.atomic():
        DeliverySettings.objects.get_or_create(
            account=account, defaults={name: getattr(wanted(account), name) for name in FIELDS}
        )
        row = DeliverySettings.objects.select_for_update().get(account=account)
        row.check_asked_at, row.check_asked_by = now(), getattr(actor, "username", str(actor))
        row.checked_at, row.check_rows = None, []
        row.save(update_fields=["check_asked_at", "check_asked_by", "checked_at", "check_rows"])
        record("sessions.delivery.check", actor=actor, target=account, account_id=account.account_id)
    return row


# A session


def begin(session: TerminalSession, account: Account, *, has_terminal: bool = True) -> None:
    """Have a new session delivered as its account wants it now; in the transaction that makes the session.

    `has_terminal`: it shows something, so that there is a transcript.
    """
    chosen = wanted(account)
    strict = chosen.strict if session.kind == "shell" else Strict.OFF
    if chosen.has_transcript or chosen.has_commands or strict:
        LogDelivery.objects.create(
            session=session,
            has_transcript=chosen.has_transcript and has_terminal,
            has_commands=chosen.has_commands and session.kind == "shell",
            strict=strict,
            log_group=chosen.log_group,
            log_stream=stream_of(session),
            retention_days=chosen.retention_days,
            kms_key=chosen.log_kms_key,
        )
    if chosen.bucket and has_terminal:
        day = session.created_at.strftime("%Y/%m/%d")
        key = "/".join(filter(None, (chosen.prefix, account.account_id, session.region, day, f"{session.pk}.cast.gz")))
        RecordingCopy.objects.create(
            session=session, bucket=chosen.bucket, key=key, kms_key=chosen.bucket_kms_key, next_at=session.created_at
        )


def stream_of(session: TerminalSession) -> str:
    """The name of a session's log stream: where, who, and its id. Neither : nor * may be in it [model of logs]."""
    who = re.sub(r"[^A-Za-z0-9._@+=,-]", "-", session.user_name)[:128]
    return f"{session.instance_id}/{who}/{session.pk}"


# How far it is


@dataclass(frozen=True, slots=True)
class Lag:
    """How a session stands in CloudWatch Logs: kind of glyph, and in words."""

    kind: str
    text: str
    error: str = ""

    def __str__(self) -> str:
        return self.text

    @property
    def short(self) -> str:
        """For a list: "Complete", "3 s behind", "Waiting since 14:02:11 UTC"."""
        return self.text.partition(",")[0]


def console_of(session: TerminalSession) -> str:
    """Where AWS's own console shows the stream; empty for an endpoint of ours, which has none."""
    delivery: LogDelivery | None = getattr(session, "log_delivery", None)
    account = Account.objects.filter(account_id=session.account_id, endpoint_url="").first()
    if delivery is None or account is None or partition_of(session.region) != "aws":
        return ""
    # The console wants its addresses encoded twice, and $ in place of the second %.
    group, stream = (
        quote(quote(name, safe=""), safe="").replace("%", "$") for name in (delivery.log_group, delivery.log_stream)
    )
    host = f"https://{session.region}.console.aws.amazon.com"
    where = f"log-groups/log-group/{group}/log-events/{stream}"
    return f"{host}/cloudwatch/home?region={session.region}#logsV2:{where}"


def with_lag(sessions: QuerySet[TerminalSession]) -> QuerySet[TerminalSession]:
    """Sessions with what `lag_of` reads, in the same query."""
    unsent = sessions.model._meta.get_field("chunks").related_model.objects.filter(
        session=OuterRef("pk"), number__gt=OuterRef("log_delivery__read_through")
    )
    return sessions.select_related("log_delivery", "recording_copy").annotate(
        unsent_since=Subquery(unsent.order_by("number").values("sealed_at")[:1])
    )


def lag_of(session: TerminalSession, moment: datetime) -> Lag | None:
    """How a session, of `with_lag`, stands in CloudWatch Logs; None if it is not delivered there."""
    delivery: LogDelivery | None = getattr(session, "log_delivery", None)
    if delivery is None:
        return None
    late = f", {delivery.late_events:,} under a later moment" if delivery.late_events else ""
    if delivery.done_at is not None:
        return Lag("ok", f"Complete, {delivery.events:,} events{late}")
    unsent_since: datetime | None = getattr(session, "unsent_since", None)
    if delivery.waiting_since is not None:
        kind = "bad" if moment - delivery.waiting_since > LATE_AFTER else "warn"
        return Lag(kind, f"Waiting since {delivery.waiting_since:%H:%M:%S} UTC", delivery.error)
    if unsent_since is not None:
        seconds = max(0, round((moment - unsent_since).total_seconds()))
        return Lag("run" if seconds < 60 else "warn", f"{in_words(seconds)} behind")
    if session.is_live:
        return Lag("run", "Up to date" if delivery.events else "Nothing to deliver yet")
    if session.sealed_at is None:
        return Lag("wait", "Waits for the end of the recording")
    if delivery.has_commands and session.commands_done_at is None:
        return Lag("wait", "Waits for the command log")
    return Lag("run", "The end is under way")


def show_lag(sessions: Iterable[TerminalSession]) -> None:
    """Give each of these, of `with_lag`, its `lag` for a template."""
    moment = now()
    for session in sessions:
        session.lag = lag_of(session, moment)  # type: ignore[attr-defined]


def in_words(seconds: int) -> str:
    """ "3 s", "4 min", "5 h"."""
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


PLACES: Final = {"CloudWatch Logs": LogDelivery, "S3": RecordingCopy}


@dataclass(frozen=True, slots=True)
class Waiting:
    """Sessions of an account that cannot be delivered now: where to, how many, since when, and why the first cannot."""

    where: str
    sessions: int
    since: datetime
    error: str


def waiting_in(account: Account) -> list[Waiting]:
    """What of an account waits; nothing, where all is well."""
    found = []
    for where, model in PLACES.items():
        rows = model.objects.filter(
            session__account_id=account.account_id, done_at=None, waiting_since__isnull=False
        ).order_by("waiting_since")
        if first := rows.first():
            found.append(Waiting(where, rows.count(), first.waiting_since, first.error))
    return found


def tell_late(moment: datetime) -> None:
    """Tell people of accounts whose sessions have waited for ten minutes, and that they wait no longer."""
    standing_notices = Notice.objects.filter(topic="sessions.delivery", closed_at=None)
    for account in Account.objects.all():
        waiting = {each.where: each for each in waiting_in(account)}
        for where in PLACES:
            key = f"{account.account_id}:{where}"
            found = waiting.get(where)
            if found is None:
                resolve("sessions.delivery", dedup_key=key)
            elif moment - found.since > LATE_AFTER and not standing_notices.filter(dedup_key=key).exists():
                notify(
                    "sessions.delivery",
                    dedup_key=key,
                    title=f"Sessions in {account} wait for {where}",
                    text=f"{found.sessions} of them, the first since {found.since:%H:%M} UTC. {found.error}",
                    url=reverse("deliveries:account", args=[account.pk]),
                    severity="warning",
                    account_id=account.account_id,
                )
