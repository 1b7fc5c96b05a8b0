"""STS: who we are there. Roles are assumed by `clients`, below every call."""

from .clients import AccountAccess, Tags, client
from .errors import aws_call
from .records import CallerIdentity


def get_caller_identity(
    access: AccountAccess, region: str, *, session_name: str, source_identity: str = "", tags: Tags = ()
) -> CallerIdentity:
    """Who the account's credentials are, under its role if it has one; a first call that needs no permission."""
    sts = client("sts", access, region, session_name=session_name, source_identity=source_identity, tags=tags)
    with aws_call("sts:GetCallerIdentity", where=access.account_id):
        answer = sts.get_caller_identity()
    return CallerIdentity(account_id=answer["Account"], arn=answer["Arn"])
