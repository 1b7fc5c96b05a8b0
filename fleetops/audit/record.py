"""Writing to the audit log. Called by hand, where the deed is done; nothing else inserts an AuditEvent."""

import hashlib
import hmac
import json
import math
import re
import uuid
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from django.conf import settings
from django.db import models, transaction

from fleetops.clock import now, uuid7
from fleetops.web.context import current

from .models import AuditEvent, Outcome

# Everything that is ever recorded, as room.thing.verb. A deed that is not here cannot be recorded: add it.
ACTIONS = (
    "identity.login",
    "identity.login.refuse",
    "identity.logout",
    "identity.user.create",
    "identity.user.update",
    "identity.user.activate",
    "identity.user.deactivate",
    "identity.user.password",
    "identity.roles.sync",
    "identity.roles.set",
    "identity.token.create",
    "identity.token.create.refuse",
    "identity.token.refuse",
    "identity.token.revoke",
    "identity.access_key.create",
    "identity.access_key.refuse",
    "identity.access_key.revoke",
    "identity.confirm",
    "identity.confirm.refuse",
    "identity.second_factor.set_up",
    "identity.second_factor.remove",
    "identity.second_factor.reset",
    "identity.second_factor.refuse",
    "identity.recovery_codes.renew",
    "identity.vault.rotate",
    "notify.channel.create",
    "notify.channel.change",
    "notify.channel.delete",
    "notify.channel.test",
    "notify.silence.add",
    "notify.silence.end",
    "notify.delivery.fail",
    "notify.delivery.again",
    "calendars.create",
    "calendars.change",
    "calendars.delete",
    "calendars.entry.add",
    "calendars.entry.remove",
    "calendars.fetch.fail",
    "approvals.request",
    "approvals.approve",
    "approvals.deny",
    "approvals.vote.refuse",
    "approvals.withdraw",
    "approvals.withdraw.refuse",
    "approvals.use",
    "approvals.expire",
    "web.permission.refuse",
    "inventory.account.link",
    "inventory.account.add",
    "inventory.account.update",
    "inventory.account.enable",
    "inventory.account.disable",
    "inventory.account.remove",
    "inventory.account.check",
    "inventory.account.identity",
    "inventory.region.enable",
    "inventory.region.disable",
    "inventory.region.refresh.fail",
    "inventory.region.queue",
    "inventory.ceiling.set",
    "inventory.ceiling.remove",
    "inventory.activation.create",
    "inventory.activation.delete",
    "inventory.instance.deregister",
    "inventory.filter.save",
    "inventory.filter.change",
    "inventory.filter.delete",
    "library.document.create",
    "library.document.delete",
    "library.version.create",
    "library.version.default",
    "runcommand.start",
    "runcommand.start.refuse",
    "runcommand.dispatch.refuse",
    "runcommand.cancel",
    "runcommand.output.view",
    "rollouts.release",
    "rollouts.release.refuse",
    "rollouts.steer.refuse",
    "rollouts.pause",
    "rollouts.resume",
    "rollouts.abort",
    "rollouts.retry",
    "rollouts.waive",
    "rollouts.roll_forward",
    "rollouts.target.skip",
    "rollouts.wave.skip",
    "rollouts.gate.overrule",
    "rollouts.override.ask",
    "rollouts.cluster.create",
    "rollouts.cluster.change",
    "rollouts.cluster.delete",
    "rollouts.wave.start",
    "rollouts.run.stop",
    "rollouts.run.end",
    "rollouts.schedule.create",
    "rollouts.schedule.change",
    "rollouts.schedule.pause",
    "rollouts.schedule.resume",
    "rollouts.schedule.take",
    "rollouts.schedule.run",
    "rollouts.schedule.delete",
    "rollouts.schedule.deny",
    "rollouts.schedule.plan",
    "rollouts.schedule.skip",
    "rollouts.schedule.refuse",
    "rollouts.schedule.miss",
    "rollouts.schedule.off",
    "sessions.open",
    "sessions.open.refuse",
    "exposure.close",
    "exposure.closed",
    "exposure.close.fail",
    "exposure.reopen",
    "exposure.reopened",
    "exposure.reopen.fail",
    "exposure.refuse",
    "automation.start",
    "automation.start.refuse",
    "automation.signal",
    "automation.signal.refuse",
    "automation.stop",
    "automation.end",
    "automation.blueprint",
    "roles.ask",
    "roles.ask.refuse",
    "roles.begin",
    "roles.applied",
    "roles.extend",
    "roles.end",
    "roles.end.refuse",
    "roles.ended",
    "roles.finding.open",
    "roles.finding.put_back",
    "roles.finding.accepted",
    "roles.finding.refuse",
    "roles.rule.create",
    "roles.rule.change",
    "roles.rule.delete",
    "roles.rule.refuse",
    "roles.standard.make",
    "roles.standard.right",
    "roles.standard.done",
    "roles.standard.fail",
    "roles.standard.refuse",
    "sessions.attached.ask",
    "sessions.attached.cancel",
    "sessions.attached.refuse",
    "sessions.grant.ask",
    "sessions.grant.ask.refuse",
    "sessions.grant.start",
    "sessions.grant.end",
    "sessions.grant.revoke",
    "sessions.grant.revoke.refuse",
    "sessions.tokens.deny",
    "sessions.tokens.deny.refuse",
    "sessions.tokens.allow",
    "sessions.start",
    "sessions.start.fail",
    "sessions.attach",
    "sessions.attach.refuse",
    "sessions.attach.revoke",
    "sessions.watch",
    "sessions.join",
    "sessions.message",
    "sessions.transfer.start",
    "sessions.transfer.end",
    "sessions.resume",
    "sessions.resume.fail",
    "sessions.end.request",
    "sessions.end",
    "sessions.end.confirm",
    "sessions.recording.seal",
    "sessions.recording.copy",
    "sessions.restricted.define",
    "sessions.restricted.change",
    "sessions.restricted.enable",
    "sessions.restricted.disable",
    "sessions.delivery.change",
    "sessions.delivery.check",
    "sessions.recording.view",
    "sessions.commands.view",
    "sessions.commands.export",
    "sessions.recording.download",
    "compliance.export",
    "compliance.hub.change",
    "compliance.sla.change",
    "patching.baseline.create",
    "patching.baseline.update",
    "patching.baseline.delete",
    "patching.baseline.default",
    "patching.baseline.accept",
    "patching.group.register",
    "patching.group.deregister",
    "patching.set.freeze",
    "patching.lists.change",
    "patching.emergency.plan",
    "patching.emergency.release",
    "patching.emergency.discard",
    "patching.emergency.refuse",
    "policy.rule.create",
    "policy.rule.update",
    "policy.rule.enable",
    "policy.rule.disable",
    "policy.rule.delete",
    "sessions.recording.refuse",
    "sessions.recording.revoke",
    "audit.verify",
    "audit.head.renew",
    "backup.make",
    "backup.restore",
)

# Words that make a key of `details` look like a secret's. Whole words: "token_id" is refused, "broken" is not.
SECRET_WORDS = frozenset(
    [
        "token",
        "tokens",
        "secret",
        "secrets",
        "password",
        "passwd",
        "passphrase",
        "authorization",
        "cookie",
        "cookies",
        "credential",
        "credentials",
        "signature",
        "apikey",
        "accesskey",
        "secretkey",
        "privatekey",
        "streamurl",
        "sessionkey",
        "otp",
        "pin",
    ]
)
_SECRET_PAIRS = re.compile(r"(api|access|secret|private|session|signing|encryption)_key|stream_url")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


_DIGESTED = tuple(field.attname for field in AuditEvent._meta.concrete_fields if field.attname != "digest")


class LocalError(Exception):
    """Our own mistake: an action that is not listed, or a detail that must never be written down."""


class Target(NamedTuple):
    """What a deed was done to, when it is not simply a row."""

    kind: str
    id: str
    name: str


def record(
    action: str,
    *,
    actor: Any,
    target: Any = None,
    outcome: str = Outcome.DONE,
    reason: str = "",
    session: Any = None,
    account_id: str = "",
    region: str = "",
    **details: Any,
) -> AuditEvent:
    """Insert one event in the caller's transaction: it stands exactly if the deed does.

    `actor` is a user, or a str that names a part of the system ("worker"), or None for who is not logged in. `target`
    is a row or a Target; without one it is `session`. `session` is a TerminalSession or its id; account and region are
    taken from it where they are not given, else from the `place` of a target that has one. `details` are further facts,
    in JSON's types.

    Raises LocalError if `action` is not in ACTIONS, or a key of `details` looks like a secret's.
    """
    if action not in ACTIONS:
        raise LocalError(f"{action!r} is not in ACTIONS of audit/record.py; add it there")
    _refuse_secrets(details)
    context = current.get()
    if context.via:
        details["via"] = context.via
    actor_kind, actor_id, actor_name = _actor(actor)
    about = _target(session if target is None and isinstance(session, models.Model) else target)
    its_account, its_region = getattr(target, "place", ("", ""))
    event = AuditEvent(
        id=uuid7(),
        at=now(),
        action=action,
        outcome=Outcome(outcome),
        actor_kind=actor_kind,
        actor_id=actor_id,
        actor_name=actor_name,
        source_address=context.source_address,
        source=context.source,
        request_id=context.request_id,
        target_kind=about.kind,
        target_id=about.id,
        target_name=about.name,
        account_id=account_id or str(getattr(session, "account_id", its_account)),
        region=region or str(getattr(session, "region", its_region)),
        session_id=str(getattr(session, "pk", session) or ""),
        reason=reason,
        details=_plain(details),
    )
    for field in AuditEvent._meta.concrete_fields:
        if isinstance(field, models.CharField):
            setattr(event, field.attname, _fit(str(getattr(event, field.attname)), field.max_length))
    event.digest = digest(event)
    event.save(force_insert=True)
    return event


def deny(action: str, *, actor: Any, target: Any = None, reason: str, **details: Any) -> AuditEvent:
    """Insert the event of a refusal, in a transaction of its own, so that no rollback takes it away.

    Call it outside of any transaction: inside one it could only vanish with it (and a second connection would wait for
    ever for SQLite's write lock, which the first one holds). Takes what `record` takes. For pages nothing need be
    called: raise Denied, out of the transaction too, and identity.middleware records it.

    Raises RuntimeError inside a transaction.
    """
    with transaction.atomic(durable=True):
        event = record(action, actor=actor, target=target, outcome=Outcome.DENIED, reason=reason, **details)
    if (context := current.get()).request_id:  # the one outside of all requests is everybody's
        context.denial_recorded = True
    return event


def digest(event: AuditEvent) -> str:
    """HMAC-SHA256 under AUDIT_KEY over all fields of the row but the digest, as JSON with sorted keys; in hex."""
    fields = {name: getattr(event, name) for name in _DIGESTED}
    fields["id"] = str(event.id)
    fields["at"] = event.at.astimezone(UTC).isoformat(timespec="microseconds")
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hmac.new(settings.AUDIT_KEY.encode(), text.encode(), hashlib.sha256).hexdigest()


def _actor(actor: Any) -> tuple[str, str, str]:
    if isinstance(actor, str):
        return "system", "", actor
    if actor is None or not actor.is_authenticated:
        return "anonymous", "", "anonymous"
    return "user", str(actor.pk), actor.get_username()


def _target(target: Any) -> Target:
    if target is None:
        return Target("", "", "")
    if isinstance(target, Target):
        return target
    return Target(target._meta.label_lower, str(target.pk), str(target))


def _refuse_secrets(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            words = [word.lower() for word in _WORDS.findall(str(key))]
            if SECRET_WORDS.intersection(words) or _SECRET_PAIRS.search("_".join(words)):
                raise LocalError(f"the detail {key!r} looks like a secret; the audit log is for reading")
            _refuse_secrets(inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            _refuse_secrets(inner)


def _plain(value: Any) -> Any:
    """`value` in such JSON that every database gives back what it was given: else a digest would not match later."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        # PostgreSQL's jsonb gives 1e20 back as an integer, and knows neither NaN nor infinity.
        return str(value) if not math.isfinite(value) else int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {_clean(str(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, set | frozenset):
        return sorted(_clean(str(inner)) for inner in value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, str | uuid.UUID | models.Model):
        return _clean(str(value))
    raise LocalError(f"a detail of type {type(value).__name__} cannot be recorded; give JSON's types")


def _clean(text: str) -> str:
    """Without NUL, which PostgreSQL refuses, and lone surrogates, which are not UTF-8."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _fit(text: str, length: int | None) -> str:
    text = _clean(text)
    return text if length is None or len(text) <= length else text[: length - 1] + "…"
