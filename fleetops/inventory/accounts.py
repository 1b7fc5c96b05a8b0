"""Adding, changing, disabling and removing accounts; each deed with its audit event, before and after."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db import transaction

from fleetops.audit.record import record
from fleetops.clock import now as clock_now
from fleetops.errors import FieldError, UserError
from fleetops.web.shortcuts import require_permission

from . import ceilings
from .account_rules import COLUMNS, SENSITIVE, AccountFacts, ca_fingerprint, plain_pem, problems, with_own_stream_host
from .models import Account, Instance, Region
from .removal import reason_against

logger = logging.getLogger(__name__)

# Who says to whom FleetOps proves itself, and as whom it acts, may do anything in its name.
ADMINISTER = "identity.administer"


def facts_of(account: Account) -> AccountFacts:
    """What the row and its regions say."""
    return AccountFacts(
        account_id=account.account_id,
        name=account.name,
        regions=tuple(account.regions.filter(enabled=True).order_by("name").values_list("name", flat=True)),
        role_arn=account.role_arn,
        external_id=account.external_id,
        profile=account.profile,
        endpoint_url=account.endpoint_url,
        ca_pem=plain_pem(account.ca_pem),
        stream_hosts=tuple(account.stream_hosts),
    )


def add_account(facts: AccountFacts, *, actor: Any) -> Account:
    """Make the row of an account and those of its regions; it is read within seconds.

    Raises UserError for facts that cannot be, or an account that is there; Denied for an actor who may not say as whom
    FleetOps acts.
    """
    facts = _checked(facts)
    if any(getattr(facts, name) for name in SENSITIVE):
        _require_administer(actor)
    with transaction.atomic():
        if Account.objects.filter(account_id=facts.account_id).exists():
            raise FieldError(
                "account_id", f"Account {facts.account_id} is linked already; change it where it stands in the list."
            )
        _refuse_name(facts.name)
        account = Account.objects.create(account_id=facts.account_id, **facts.row())
        Region.objects.bulk_create([Region(account=account, name=name) for name in facts.regions])
        after = _shown(facts)
        record("inventory.account.add", actor=actor, target=account, account_id=account.account_id, after=after)
    logger.info("account added account=%s regions=%s", account.account_id, ",".join(facts.regions))
    return account


def change_account(account: Account, facts: AccountFacts, *, actor: Any) -> bool:
    """Make an account what `facts` say, and turn its regions on and off; True if that changed anything.

    What is no longer read is no longer in the fleet: its instances count as gone until it is read again.

    Raises UserError for facts that cannot be, or of an account whose connection the endpoint hands over; Denied for an
    actor who may not say as whom FleetOps acts.
    """
    facts = _checked(replace(facts, account_id=account.account_id))
    with transaction.atomic():
        account = Account.objects.select_for_update().get(pk=account.pk)
        before = facts_of(account)
        changed = [name for name in COLUMNS if getattr(facts, name) != getattr(before, name)]
        sensitive = [name for name in changed if name in SENSITIVE]
        if sensitive:
            _require_administer(actor)
            if account.is_embedded:
                raise UserError(
                    f"Where {account} is and as whom FleetOps acts there comes from the embedded endpoint, at each "
                    "start; only its name and its regions can be changed here."
                )
        if "name" in changed:
            _refuse_name(facts.name, besides=account)
        turned = _turn_regions(account, set(before.regions), set(facts.regions), actor=actor)
        if not changed and not turned:
            return False
        if changed:
            row = facts.row()
            for name in changed:
                setattr(account, name, row[name])
            account.save(update_fields=changed)
            was, will = _shown(before), _shown(facts)
            record(
                "inventory.account.update",
                actor=actor,
                target=account,
                account_id=account.account_id,
                before={name: was[name] for name in changed},
                after={name: will[name] for name in changed},
            )
        if sensitive:  # whatever was wrong may be right now: read at once
            account.regions.update(started_at=None)
    logger.info("account changed account=%s fields=%s regions=%s", account.account_id, ",".join(changed), turned)
    return True


def set_enabled(account: Account, enabled: bool, *, actor: Any) -> None:
    """Read an account and open shells there, or neither. Sessions that are open go on."""
    with transaction.atomic():
        if not Account.objects.filter(pk=account.pk, enabled=not enabled).update(enabled=enabled):
            return
        account.enabled = enabled
        if enabled:
            account.regions.update(started_at=None, reading={})
        else:
            _hide(account.regions.all(), clock_now())
        action = "inventory.account.enable" if enabled else "inventory.account.disable"
        record(action, actor=actor, target=account, account_id=account.account_id)
    logger.info("account %s account=%s", "enabled" if enabled else "disabled", account.account_id)


def require_confirmed(account: Account, number: str) -> None:
    """Raises FieldError unless `number`, which a person gives to confirm the removal, is the account's."""
    if number.strip() != account.account_id:
        raise FieldError("confirm", f"To remove {account}, confirm it by its number, {account.account_id}.")


def remove_account(account: Account, *, actor: Any) -> None:
    """Take an account out of FleetOps, with its regions, instances and checks.

    Sessions, recordings and audit rows stay: they carry the names and numbers of what they are about.

    Raises UserError while it is enabled (so that no shell is opened meanwhile), while somebody holds it (a live
    session), and for an account that the embedded endpoint hands over at each start.
    """
    if account.is_embedded:
        raise UserError(
            f"The embedded endpoint hands {account} over at each start, so it would come back. Disable it instead."
        )
    with transaction.atomic():
        account = Account.objects.select_for_update().get(pk=account.pk)
        if account.enabled:
            raise UserError(f"Disable {account} first: then nobody opens a shell in it while it is removed.")
        if reason := reason_against(account):
            raise UserError(reason)
        regions = list(account.regions.values_list("name", flat=True))
        record(
            "inventory.account.remove",
            actor=actor,
            target=account,
            account_id=account.account_id,
            before=_shown(facts_of(account)),
            regions=regions,
            instances=account.instances.count(),
        )
        account_id = account.account_id
        ceilings.let_go(account)
        account.delete()
    logger.info("account removed account=%s", account_id)


def hide_unread(region_id: int) -> None:
    """After a reading: what was turned off meanwhile is not in the fleet, though the reading has put it there."""
    off = Region.objects.filter(pk=region_id).exclude(enabled=True, account__enabled=True)
    if off.exists():
        _hide(off, clock_now())


def _turn_regions(account: Account, before: set[str], wanted: set[str], *, actor: Any) -> str:
    """Turn regions on and off, each with an audit event of its own; what changed, in short."""
    on, off = sorted(wanted - before), sorted(before - wanted)
    for name in on:
        Region.objects.update_or_create(
            account=account, name=name, defaults={"enabled": True, "started_at": None, "error": "", "reading": {}}
        )
        record("inventory.region.enable", actor=actor, target=account, account_id=account.account_id, region=name)
    account.regions.filter(name__in=off).update(enabled=False, error="")
    _hide(account.regions.filter(name__in=off), clock_now())
    for name in off:
        record("inventory.region.disable", actor=actor, target=account, account_id=account.account_id, region=name)
    return " ".join([*(f"+{name}" for name in on), *(f"-{name}" for name in off)])


def _hide(regions: Iterable[Region], moment: datetime) -> None:
    Instance.objects.filter(region__in=regions, gone_at=None).update(gone_at=moment, changed_at=moment, ping_status="")


def _checked(facts: AccountFacts) -> AccountFacts:
    """`facts` trimmed and completed. Raises UserError."""
    facts = replace(
        facts,
        name=facts.name.strip(),
        regions=tuple(sorted(set(facts.regions))),
        endpoint_url=facts.endpoint_url.rstrip("/"),
        ca_pem=plain_pem(facts.ca_pem),
        stream_hosts=with_own_stream_host({"endpoint_url": facts.endpoint_url, "stream_hosts": facts.stream_hosts}),
    )
    if found := problems(facts, now=clock_now()):
        raise UserError(" ".join(found.values()))
    return facts


def _refuse_name(name: str, *, besides: Account | None = None) -> None:
    others = Account.objects.filter(name__iexact=name)
    if (others.exclude(pk=besides.pk) if besides else others).exists():
        raise FieldError("name", f"There is an account called {name} already; two of one name would be mixed up.")


def _require_administer(actor: Any) -> None:
    if not isinstance(actor, str):  # the system itself, at the machine's own command line
        require_permission(actor, ADMINISTER)


def _shown(facts: AccountFacts) -> dict[str, Any]:
    """What the audit log keeps of an account: a CA by its name, the rest as it stands. There is no secret in it."""
    return facts.row() | {"ca_pem": ca_fingerprint(facts.ca_pem), "regions": list(facts.regions)}
