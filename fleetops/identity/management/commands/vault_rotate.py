from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from fleetops import vault
from fleetops.audit.record import record
from fleetops.errors import UserError
from fleetops.web.context import within


class Command(BaseCommand):
    help = (
        "Put a new master key in front of the key ring and wrap every secret of the database under it. Safe to kill: "
        "run it again, and it goes on with the key that it has made. Nothing needs a restart."
    )

    def add_arguments(self, parser):
        parser.add_argument(
            "--keep-key",
            action="store_true",
            help="make no key: wrap everything under the ring's first one, which somebody has put there",
        )
        parser.add_argument(
            "--drop-unused",
            action="store_true",
            help="afterwards take the keys off the ring that seal nothing any more; a backup of the database from "
            "before needs them, so keep the old file as long as such a backup",
        )

    def handle(self, *args, **options):
        path = Path(settings.MASTER_KEY_FILE)
        try:
            with within("command"):
                self._rotate(path, keep_key=options["keep_key"], drop_unused=options["drop_unused"])
        except UserError as error:
            raise CommandError(str(error)) from None

    def _rotate(self, path: Path, *, keep_key: bool, drop_unused: bool) -> None:
        columns = vault.columns()
        active = vault.key_ring().active.id
        before = _count(columns)
        left = sum(number for key, number in before.items() if key not in {"", active})
        if keep_key:
            self.stdout.write(f"key {active} stays the first of {path}")
        elif left:
            # Rows under another key are those of a rotation that was cut short: it needs no second key.
            self.stdout.write(f"going on with key {active}: {left} values are not under it yet")
        else:
            active = vault.add_key(path).active.id
            self.stdout.write(f"made key {active} in {path}")
        done, failures = 0, []
        for column in columns:
            after = None
            while True:
                after, written, failed = vault.reseal_batch(column, after)
                if after is None:
                    break
                done += written
                failures += failed
                self.stdout.write(f"{column.model}.{column.field}: {done} wrapped anew")
        dropped = sorted(self._unused(columns, active)) if drop_unused and not failures else []
        if dropped:
            vault.drop_keys(path, set(dropped))
        record(
            "identity.vault.rotate",
            actor="vault_rotate",
            master=active,
            wrapped=done,
            failed=len(failures),
            dropped=dropped,
        )
        for failure in failures:
            self.stderr.write(failure)
        if failures:
            raise CommandError(f"{len(failures)} of {done + len(failures)} secrets do not open; they stay as they are.")
        self.stdout.write(
            f"all secrets are under key {active} ({done} wrapped anew)"
            + (f"; taken off the ring: {', '.join(dropped)}" if dropped else "")
        )

    def _unused(self, columns: list[vault.SealedColumn], active: str) -> set[str]:
        used = _count(columns)
        return {key.id for key in vault.key_ring().keys if key.id != active and key.id not in used}


def _count(columns: list[vault.SealedColumn]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for column in columns:
        for key, number in vault.count_by_key(column).items():
            counts[key] = counts.get(key, 0) + number
    return counts
