"""Link an AWS account: where it is reached, and as whom."""

import re

from django.core.management.base import BaseCommand, CommandError

from fleetops.errors import UserError
from fleetops.inventory import services
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
        if not re.fullmatch(r"\d{12}", account_id):
            raise CommandError(f"{account_id} is no account id: AWS's have twelve digits.")
        if role_arn and not re.fullmatch(rf"arn:aws[a-z-]*:iam::{account_id}:role/[\w+=,.@/-]+", role_arn):
            raise CommandError(f"{role_arn} is no role of {account_id}; give arn:aws:iam::{account_id}:role/NAME.")
        for region in regions:
            if not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", region):
                raise CommandError(f"{region} is no region; give one such as eu-west-1.")
        facts = {"name": name, "role_arn": role_arn, "external_id": external_id, "profile": profile}
        try:
            account = services.link_account(account_id, facts, regions=regions, actor="link_account")
        except UserError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{account.name} ({account.account_id}) is linked; its instances appear on the fleet page.")
