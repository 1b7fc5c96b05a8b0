"""Link the accounts of the embedded endpoint."""

import os
import time
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from fleetops.clock import monotonic
from fleetops.errors import UserError
from fleetops.inventory import services
from fleetops.web.context import within


class Command(BaseCommand):
    help = "Read the embedded endpoint's hand-over: accounts and regions as rows, credentials as AWS profiles."
    requires_system_checks = ()  # they load every page; `make up` waits for this command

    def add_arguments(self, parser):
        parser.add_argument("--wait", type=float, default=0.0, help="seconds to wait for the hand-over to be written")
        parser.add_argument("--handover", type=Path, default=settings.HOME / "endpoint" / "handover.json")

    @within("command")
    def handle(self, *args, wait: float, handover: Path, **options):
        deadline = monotonic() + wait
        while not handover.exists():
            if monotonic() >= deadline:
                raise CommandError(f"{handover} is not there: the endpoint has not started. See its log.")
            time.sleep(0.1)
        credentials = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or settings.HOME / "aws" / "credentials")
        try:
            accounts = services.link_endpoint(handover, credentials, actor="link_endpoint")
        except UserError as error:
            raise CommandError(str(error)) from None
        for account in accounts:
            regions = ", ".join(account.regions.values_list("name", flat=True))
            self.stdout.write(f"{account.name} ({account.account_id}): {regions}")
