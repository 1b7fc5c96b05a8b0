"""Whether an account's sessions are delivered anywhere: what that needs is asked for where it is used."""

from django.conf import settings

from fleetops.inventory.models import Account

from .services import wanted


def has_logs(account: Account) -> bool:
    return wanted(account).has_logs


def has_copies(account: Account) -> bool:
    """Recordings go to a bucket with this account's role: copies of them, or all of them in their own pieces."""
    store = settings.RECORDING_BUCKET
    return bool(wanted(account).bucket) or (store is not None and store.account == account.account_id)
