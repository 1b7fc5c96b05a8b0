"""Print what FleetOps needs to be allowed in an AWS account."""

from django.core.management.base import BaseCommand, CommandError

from fleetops.aws import permissions
from fleetops.clock import now
from fleetops.inventory.account_rules import AccountFacts, problems


class Command(BaseCommand):
    help = "Print the IAM policy that FleetOps needs in an account, its role's trust policy, or a template of the role."

    def add_arguments(self, parser):
        parser.add_argument(
            "--format",
            choices=("policy", "trust", "caller", "sessions", "cloudformation"),
            default="policy",
            help="policy: of the account's role. trust: who may assume it. caller: of the identity as which FleetOps "
            "runs. sessions: of a role under which a rule of the access policy opens sessions. cloudformation: a "
            "template (YAML) of the role with both.",
        )
        parser.add_argument("--account", default="", help="AWS's twelve digits; without it policies are of any account")
        parser.add_argument(
            "--role-arn", default="", help="the account's role, if it is not called FleetOpsControlPlane"
        )
        parser.add_argument("--principal", default="", help="ARN of the user or role as which FleetOps runs")
        parser.add_argument("--external-id", default="", help="what the role's trust policy is to ask for")

    def handle(self, *args, format, account, role_arn, principal, external_id, **options):
        if account or role_arn or external_id:
            named = account or (role_arn.split(":")[4] if role_arn.count(":") >= 5 else "222233334444")
            facts = AccountFacts(
                named, "named", role_arn=role_arn or f"arn:aws:iam::{named}:role/x", external_id=external_id
            )
            found = problems(facts, now=now())
            found.pop("regions", None)
            if found:
                raise CommandError(" ".join(found.values()))
        if format == "cloudformation":
            self.stdout.write(permissions.cloudformation(principal, external_id), ending="")
            return
        if format == "policy":
            document = permissions.policy(account or "*", role=role_arn)
        elif format == "trust":
            document = permissions.trust_policy(principal or permissions.UNKNOWN_PRINCIPAL, external_id)
        elif format == "sessions":
            document = permissions.session_policy(account or "*")
        else:
            role = role_arn or f"arn:aws:iam::{account or '*'}:role/{permissions.ROLE_NAME}"
            document = permissions.caller_policy([role])
        self.stdout.write(permissions.as_json(document))
