"""Telling people: a notice enters the outbox in the transaction of the deed; workers send it until it has arrived."""

import logging
import secrets
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urljoin, urlsplit
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from fleetops import vault
from fleetops.audit.record import record
from fleetops.clock import during, now
from fleetops.errors import FieldError, UserError, in_field
from fleetops.identity.models import User
from fleetops.transitions import LostRace, move

from .models import DELIVERY_MOVES, Channel, ChannelKind, Delivery, DeliveryState, Notice, Silence
from .senders import Letter, SendFailed
from .topics import EVERYTHING, SEVERITIES, TEST, TOPICS
from .ways import sender

logger = logging.getLogger(__name__)

GIVE_UP_AFTER = timedelta(hours=24)
_FIRST_WAIT = timedelta(seconds=15)
_LONGEST_WAIT = timedelta(hours=1)
_CLAIM = timedelta(seconds=60)  # longer than one attempt may take
# Those of a day are some thirty. More are of workers that could not even say why not: they died each time, or met with
# a mistake of ours.
_MOST_ATTEMPTS = 100
_BATCH = 50
_MOST_DROPPED = 100  # at one look, so that none takes long
KEPT_FOR = timedelta(days=90)
LEAST_KEY = 32  # characters of a webhook's key that somebody brings
_WEBHOOKS = (ChannelKind.WEBHOOK, ChannelKind.SLACK)


# Telling


def notify(
    topic: str,
    *,
    dedup_key: str,
    title: str,
    text: str = "",
    url: str = "",
    severity: str = "info",
    account_id: str = "",
    region: str = "",
) -> Notice:
    """Tell that something holds, in the caller's transaction: it is sent exactly if the deed stands.

    While a notice of the same `topic` and `dedup_key` stands open this only counts one more, unless `severity` is
    graver than before: then it is told anew. `resolve` closes it. `url` is the path of a page of ours.
    """
    if topic not in TOPICS or severity not in SEVERITIES:
        raise LookupError(f"{topic!r} or {severity!r} is not in notify/topics.py; add it there")
    moment = now()
    title, dedup_key = _line(title)[:200], dedup_key[:200]
    with transaction.atomic():
        standing = Notice.objects.filter(topic=topic, dedup_key=dedup_key, closed_at=None)
        graver = SEVERITIES[: SEVERITIES.index(severity)]
        standing.filter(severity__in=graver).update(closed_at=moment)
        if notice := _count_again(standing, moment):
            return notice
        silence = next(
            (each for each in Silence.objects.filter(until__gt=moment) if each.fits(topic, title, moment)), None
        )
        try:
            with transaction.atomic():
                notice = Notice.objects.create(
                    topic=topic,
                    dedup_key=dedup_key,
                    severity=severity,
                    title=title,
                    text=text,
                    url=url,
                    account_id=account_id,
                    region=region,
                    created_at=moment,
                    last_at=moment,
                    silenced_by=f"{silence}: {silence.reason}"[:256] if silence else "",
                )
        except IntegrityError:  # another worker told the same thing in this moment
            if again := _count_again(standing, moment):
                return again
            raise
        if not silence:
            _post(notice, moment)
    return notice


def _count_again(standing, moment: datetime) -> Notice | None:
    if not standing.update(repeats=F("repeats") + 1, last_at=moment):
        return None
    return standing.first()


def resolve(topic: str, *, dedup_key: str) -> bool:
    """Close what stands open, and tell it to those who were told of its beginning. Joins the caller's transaction."""
    moment = now()
    with transaction.atomic():
        notice = Notice.objects.filter(topic=topic, dedup_key=dedup_key[:200], closed_at=None).first()
        if notice is None or not Notice.objects.filter(pk=notice.pk, closed_at=None).update(closed_at=moment):
            return False
        told = Channel.objects.filter(deliveries__notice=notice).distinct()  # one that is disabled keeps it meanwhile
        Delivery.objects.bulk_create(
            Delivery(notice=notice, channel=each, is_end=True, next_at=moment, give_up_at=moment + GIVE_UP_AFTER)
            for each in told
        )
    return True


def _post(notice: Notice, moment: datetime, channel: Channel | None = None) -> None:
    ways = [channel] if channel else list(Channel.objects.filter(enabled=True))
    Delivery.objects.bulk_create(
        Delivery(notice=notice, channel=each, next_at=moment, give_up_at=moment + GIVE_UP_AFTER)
        for each in ways
        if channel or each.carries(notice.topic, notice.severity)
    )


# Sending


def claim_due(*, at: datetime) -> list[tuple[UUID, datetime]]:
    """Claim the deliveries whose time has come; returns each with its claim, by which `deliver` knows that it holds.

    What a dead worker held comes again when its claim is over. Of what waits for one way about one thing only the last
    word goes out, and not while an earlier one is being sent: so no end arrives before its beginning, whatever is tried
    again. What is overtaken is dropped, and its row says so.
    """
    waiting = Delivery.objects.filter(_free(at), state=DeliveryState.PENDING, channel__enabled=True)
    for delivery in waiting.filter(_is_overtaken()).select_related("notice")[:_MOST_DROPPED]:
        if _claim(delivery.pk, at):
            _drop(delivery)
    due = waiting.filter(~_must_wait(), next_at__lte=at).order_by("next_at")
    found = list(due.values_list("pk", flat=True)[:_BATCH])
    return [(pk, until) for pk in found if (until := _claim(pk, at, attempts=F("attempts") + 1))]


def _free(at: datetime) -> Q:
    return Q(claimed_until=None) | Q(claimed_until__lte=at)


def _claim(pk: UUID, at: datetime, **changes: Any) -> datetime | None:
    """Claim a delivery; returns until when, or None if another has it."""
    mine = Delivery.objects.filter(_free(at), pk=pk, state=DeliveryState.PENDING)
    until = at + during(_CLAIM)
    return until if mine.update(claimed_until=until, **changes) else None


def _is_overtaken() -> Q:
    """Whether there is later word on the same way about the same thing.

    The end of a notice is later than its beginning. Of two notices the one that stands open is the later, whatever the
    clocks of the hosts say that wrote them; of two that are closed, the younger.
    """
    end = Delivery.objects.filter(notice=OuterRef("notice"), channel=OuterRef("channel"), is_end=True)
    younger = _about_the_same().filter(notice__created_at__gt=OuterRef("notice__created_at"))
    standing = _about_the_same().filter(notice__closed_at=None).exclude(notice=OuterRef("notice"))
    is_closed = Q(notice__closed_at__isnull=False)
    return Q(Exists(end), is_end=False) | Q(is_closed & (Q(Exists(younger)) | Q(Exists(standing))))


def _must_wait() -> Q:
    """Whether earlier word on the same way about the same thing is still to be sent; the order of `_is_overtaken`."""
    pending = {"state": DeliveryState.PENDING}
    beginning = Delivery.objects.filter(notice=OuterRef("notice"), channel=OuterRef("channel"), is_end=False, **pending)
    closed = _about_the_same().filter(notice__closed_at__isnull=False, **pending)
    older = closed.filter(notice__created_at__lt=OuterRef("notice__created_at"))
    return Q(Exists(beginning), is_end=True) | Q(Exists(older)) | Q(Exists(closed), notice__closed_at=None)


def _about_the_same() -> QuerySet[Delivery]:
    same = ("channel", "notice__topic", "notice__dedup_key")
    return Delivery.objects.filter(**{name: OuterRef(name) for name in same})


def _drop(delivery: Delivery) -> None:
    """Keep from being sent what is overtaken; it is claimed, so that nobody sends it meanwhile."""
    notice = delivery.notice
    if not delivery.is_end and notice.deliveries.filter(channel=delivery.channel_id, is_end=True).exists():
        text = "It was over before it could be told; its end is told alone."
    else:
        text = f"It came again before {'its end' if delivery.is_end else 'it'} could be told; that is told instead."
    try:
        with transaction.atomic():
            move(delivery, DeliveryState.DROPPED, DELIVERY_MOVES, claimed_until=None, error=text)
    except LostRace:
        return
    logger.info("notice overtaken notice=%s channel=%s", delivery.notice_id, delivery.channel_id)


def deliver(pk: UUID, claim: datetime) -> None:
    """Send one delivery for which `claim` still holds, once; note what came of it.

    A message that waited in the queue until its claim was over sends nothing: another has claimed it since, or will. A
    worker that dies between sending and noting makes it be sent again: at least once, and the same id both times.
    """
    moment = now()
    mine = moment + during(_CLAIM)
    held = Delivery.objects.filter(pk=pk, state=DeliveryState.PENDING, claimed_until=claim)
    # A whole minute from here on, and another value: the same message, should it come twice, finds its claim gone.
    if moment >= claim or not held.update(claimed_until=mine):
        return
    delivery = Delivery.objects.select_related("notice", "channel").filter(pk=pk, state=DeliveryState.PENDING).first()
    if delivery is None:
        return
    channel = delivery.channel
    if delivery.attempts > _MOST_ATTEMPTS:
        lost = SendFailed("No worker came to the end of sending it; their logs say why.", is_final=True)
        _missed(delivery, lost, mine)
        return
    try:
        sender(channel.kind).send(channel, _letter(delivery))
    except UserError as error:  # SendFailed, or a vault or an AWS that says in words why not
        _missed(delivery, error, mine)
        return
    try:
        with transaction.atomic():
            move(delivery, DeliveryState.SENT, DELIVERY_MOVES, sent_at=now(), claimed_until=None, error="")
    except LostRace:
        return
    logger.info("notice sent notice=%s channel=%s attempts=%s", delivery.notice_id, channel.pk, delivery.attempts)


def _missed(delivery: Delivery, error: UserError, claim: datetime) -> None:
    moment = now()
    wait = min(_FIRST_WAIT * 2 ** min(delivery.attempts - 1, 12), _LONGEST_WAIT)
    wait = max(wait, min(timedelta(seconds=getattr(error, "wait_seconds", 0)), _LONGEST_WAIT))
    text = str(error)[:512]
    logger.warning(
        "notice not sent notice=%s channel=%s attempts=%s", delivery.notice_id, delivery.channel_id, delivery.attempts
    )
    if not getattr(error, "is_final", False) and moment + wait < delivery.give_up_at:
        held = Delivery.objects.filter(pk=delivery.pk, state=DeliveryState.PENDING, claimed_until=claim)
        held.update(next_at=moment + wait, claimed_until=None, error=text)
        return
    try:
        with transaction.atomic():
            move(delivery, DeliveryState.FAILED, DELIVERY_MOVES, claimed_until=None, error=text)
            record(
                "notify.delivery.fail",
                actor="worker",
                target=delivery.channel,
                outcome="failed",
                reason=text,
                notice=delivery.notice.title,
                attempts=delivery.attempts,
            )
    except LostRace:
        return


def send_again(delivery: Delivery, *, actor: User) -> None:
    """Put a delivery that failed back into the outbox. Raises UserError if it is not failed, or overtaken."""
    moment = now()
    if delivery.state != DeliveryState.FAILED:
        raise UserError("It waits, was sent already or was overtaken; there is nothing to send again.")
    if Delivery.objects.filter(_is_overtaken(), pk=delivery.pk).exists():
        raise UserError("There is newer word of it on this way, and this would be the last that is heard; send that.")
    try:
        with transaction.atomic():
            fresh = {"attempts": 0, "next_at": moment, "give_up_at": moment + GIVE_UP_AFTER, "error": ""}
            move(delivery, DeliveryState.PENDING, DELIVERY_MOVES, **fresh)
            record("notify.delivery.again", actor=actor, target=delivery.channel, notice=delivery.notice.title)
    except LostRace:
        raise UserError("Somebody else has sent it again already.") from None


def _letter(delivery: Delivery) -> Letter:
    notice, text = delivery.notice, delivery.notice.text
    if delivery.is_end:
        told = notice.deliveries.filter(channel=delivery.channel_id, is_end=False, state=DeliveryState.SENT)
        if not told.exists():
            text = f"It began {notice.created_at:%Y-%m-%d %H:%M:%S} UTC and was over before this could be told.\n{text}"
    return Letter(
        id=str(delivery.pk),
        topic=notice.topic,
        severity=notice.severity,
        title=notice.title,
        text=text.strip(),
        url=urljoin(settings.PUBLIC_URL, notice.url) if notice.url else "",
        at=(notice.closed_at or now()) if delivery.is_end else notice.created_at,
        is_end=delivery.is_end,
        account_id=notice.account_id,
        region=notice.region,
    )


def tidy(*, at: datetime) -> int:
    """Forget what was closed, or last told, a quarter of a year ago."""
    old = Notice.objects.filter(Q(closed_at__lt=at - KEPT_FOR) | Q(last_at__lt=at - KEPT_FOR))
    gone = list(old.values_list("pk", flat=True)[:500])
    Notice.objects.filter(pk__in=gone).delete()
    return len(gone)


# Keeping channels and silences


def create_channel(
    *, actor: User, name: str, kind: str, address: str, key: str = "", **fields: Any
) -> tuple[Channel, str]:
    """Make a channel; returns it and, for a signed webhook, the key, which is shown this once.

    `key` is one that its receiver knows already; without it one is made up. Raises UserError for an address that this
    kind cannot have, FetchRefused for one inside; nothing is kept then.
    """
    address = address.strip()
    with in_field("address"):
        sender(kind).check(address)
    if key and kind != ChannelKind.WEBHOOK:
        raise FieldError("key", "Only a signed webhook has a key; leave it out.")
    if key and len(key) < LEAST_KEY:
        raise FieldError("key", f"The key has to be long enough not to be guessed: {LEAST_KEY} characters at least.")
    channel = Channel(name=name.strip(), kind=kind, address=address, created_by=actor, **fields)
    if kind in _WEBHOOKS:
        channel.sealed_url = vault.seal(address, context=vault.context_of(channel, "sealed_url"))
        channel.address = urlsplit(address).hostname or ""
    if kind == ChannelKind.WEBHOOK:
        key = key or secrets.token_urlsafe(32)
        channel.sealed_key = vault.seal(key, context=vault.context_of(channel, "sealed_key"))
    try:
        with transaction.atomic():
            channel.save(force_insert=True)
            record("notify.channel.create", actor=actor, target=channel, **_facts(channel))
    except IntegrityError:
        raise FieldError("name", f"There is a channel “{channel.name}” already; choose another name.") from None
    return channel, key


def change_channel(channel: Channel, *, actor: User, topic: str, severity: str, enabled: bool) -> None:
    before = _facts(channel)
    channel.topic, channel.severity, channel.enabled = topic, severity, enabled
    with transaction.atomic():
        channel.save(update_fields=["topic", "severity", "enabled"])
        record("notify.channel.change", actor=actor, target=channel, before=before, after=_facts(channel))


def delete_channel(channel: Channel, *, actor: User) -> None:
    with transaction.atomic():
        record("notify.channel.delete", actor=actor, target=channel, **_facts(channel))
        channel.delete()


def send_test(channel: Channel, *, actor: User) -> Notice:
    """Put a notice into the outbox that goes by this channel alone. Raises UserError for one that is disabled."""
    if not channel.enabled:
        raise UserError(f"“{channel}” is disabled; enable it first.")
    moment = now()
    with transaction.atomic():
        notice = Notice.objects.create(
            topic=TEST,
            dedup_key=str(channel.pk) + moment.isoformat(),
            severity="info",
            title=f"A test of “{channel}”",
            text=f"{actor.username} sent this to see whether it arrives.",
            created_at=moment,
            last_at=moment,
            closed_at=moment,
        )
        _post(notice, moment, channel)
        record("notify.channel.test", actor=actor, target=channel)
    return notice


def add_silence(*, actor: User, topic: str, match: str, reason: str, until: datetime) -> Silence:
    """Keep what fits from being sent until then. Raises UserError for an end that is past, or over 30 days away."""
    moment = now()
    if not moment < until <= moment + timedelta(days=30):
        raise FieldError("until", "A silence ends after now and within 30 days.")
    if topic not in {EVERYTHING, *TOPICS}:
        raise FieldError("topic", "Choose what is to be silent.")
    with transaction.atomic():
        silence = Silence.objects.create(
            topic=topic,
            match=_line(match)[:200],
            reason=_line(reason)[:256],
            until=until,
            created_at=moment,
            created_by_name=actor.username,
        )
        record("notify.silence.add", actor=actor, target=silence, reason=silence.reason, until=until)
    return silence


def end_silence(silence: Silence, *, actor: User) -> None:
    """End a silence now; what fell into it stays unsent. Ending one that is over does nothing."""
    moment = now()
    with transaction.atomic():
        if Silence.objects.filter(pk=silence.pk, until__gt=moment).update(until=moment):
            record("notify.silence.end", actor=actor, target=silence)


def _facts(channel: Channel) -> dict[str, Any]:
    names = ("name", "kind", "address", "topic", "severity", "enabled")
    return {name: str(getattr(channel, name)) for name in names}


def _line(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
