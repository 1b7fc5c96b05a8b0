"""Link an AWS account: where it is reached, and as whom."""

from django.core.management.base import BaseCommand, CommandError

from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.inventory import services
from fleetops.inventory.account_rules import AccountFacts, problems
from fleetops.web.context import within


class Command(BaseCommand):
    help = "Link an AWS account, or change how it is linked: FleetOps then reads its regions and opens shells there."

    def add_arguments(self, parser):
        parser.add_argument("account_id", help="AWS's twelve digits")
        parser.add_argument("--name", required=True, help="how people call it")
        parser.add_argument("--region", action="append", required=True, dest="regions", help="may be given again")
        parser.add_argument("--role-arn", default="", help="role to assume; without it the base credentials are used")
        parser.add_argument("--external-id", default="", help="what the role's trust policy asks for, if it does")
        parser.add_argument("--profile", default="", help="base credentials: a profile of the AWS configuration files")

    @within("command")
    def handle(self, *args, account_id, name, regions, role_arn, external_id, profile, **options):
        said = AccountFacts(account_id, name, tuple(regions), role_arn, external_id, profile)
        if found := problems(said, now=now()):
            raise CommandError(" ".join(found.values()))
        facts = {"name": name, "role_arn": role_arn, "external_id": external_id, "profile": profile}
        try:
            account = services.link_account(account_id, facts, regions=regions, actor="link_account")
        except UserError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{account.name} ({account.account_id}) is linked; its instances appear on the fleet page.")
