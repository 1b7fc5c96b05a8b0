"""Notices by SNS: the topic's ARN says which account of ours it is in."""

import re

from fleetops.aws import sns
from fleetops.aws.errors import AccessDenied, AwsError, Unavailable
from fleetops.aws.governor import Priority, acting_for
from fleetops.errors import UserError
from fleetops.notify.models import Channel
from fleetops.notify.senders import Letter, SendFailed

from .models import Account

_ARN = re.compile(
    r"arn:(?P<partition>aws[\w-]*):sns:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<name>[\w.-]{1,256})"
)
_SESSION_NAME = "fleetops-notify"


class Sns:
    """Publishes under the role of the account that the topic is in."""

    def check(self, address: str) -> None:
        self._account(address)

    @acting_for(Priority.RUN)
    def send(self, channel: Channel, letter: Letter) -> None:
        try:
            account, region = self._account(channel.address)
        except UserError as error:
            raise SendFailed(str(error), is_final=True) from None
        lines = [letter.title, letter.text, letter.url, f"{letter.topic}, {letter.severity}, {letter.id}"]
        try:
            sns.publish(
                account.access(),
                region,
                topic_arn=channel.address,
                subject=f"FleetOps: {letter.subject}",
                message="\n\n".join(filter(None, lines)),
                session_name=_SESSION_NAME,
            )
        except (Unavailable, AccessDenied) as error:  # both may be mended while we wait
            raise SendFailed(str(error)) from None
        except AwsError as error:
            raise SendFailed(str(error), is_final=True) from None

    @staticmethod
    def _account(arn: str) -> tuple[Account, str]:
        found = _ARN.fullmatch(arn)
        if not found:
            raise UserError(f"“{arn[:80]}” is no topic; write arn:aws:sns:REGION:ACCOUNT:NAME.")
        account = Account.objects.filter(account_id=found["account"]).first()
        if account is None:
            raise UserError(f"The topic is in account {found['account']}, which FleetOps does not know; add it first.")
        return account, found["region"]
