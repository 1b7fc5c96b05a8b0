"""manage.py region_queue: where a region's events come from."""

from django.core.management.base import BaseCommand, CommandError, CommandParser

from fleetops.errors import UserError
from fleetops.inventory import events
from fleetops.inventory.models import Region
from fleetops.web.context import within


class Command(BaseCommand):
    help = "Read EventBridge's events of a region from an SQS queue; without a URL from none. docs/using.md says how."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("account_id", help="AWS's twelve digits")
        parser.add_argument("region")
        parser.add_argument("queue_url", nargs="?", default="")

    @within("command")
    def handle(self, *args, account_id: str, region: str, queue_url: str, **options) -> None:
        found = Region.objects.select_related("account").filter(account__account_id=account_id, name=region).first()
        if found is None:
            raise CommandError(f"No region {region} of an account {account_id} is linked.")
        try:
            events.set_queue(found, queue_url, actor="region_queue")
        except UserError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{found}: " + (f"events come from {queue_url}." if queue_url else "it is only polled."))
