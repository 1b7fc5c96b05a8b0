"""What the log's names read like on a page."""

from fleetops.audit.models import AuditEvent, Outcome
from fleetops.audit.record import ACTIONS

# The deed, between who and what: "mei.tanaka [logged in]".
VERBS = {
    "identity.login": "logged in",
    "identity.login.refuse": "could not log in",
    "identity.logout": "logged out",
    "identity.user.create": "made the user",
    "identity.user.update": "changed the user",
    "identity.user.activate": "let in again",
    "identity.user.deactivate": "shut out",
    "identity.user.password": "set a new password for",
    "identity.roles.sync": "brought the roles up to date",
    "identity.roles.set": "changed what is asked of the role",
    "identity.token.create": "made the API token",
    "identity.token.create.refuse": "was denied the API token",
    "identity.token.refuse": "was turned away with the API token",
    "identity.token.revoke": "revoked the API token",
    "identity.access_key.create": "made the access key",
    "identity.access_key.refuse": "was turned away with the access key",
    "identity.access_key.revoke": "revoked the access key",
    "identity.confirm": "confirmed who they are",
    "identity.confirm.refuse": "could not confirm who they are",
    "identity.second_factor.set_up": "set up a second factor",
    "identity.second_factor.remove": "removed the second factor of",
    "identity.second_factor.reset": "reset the second factor of",
    "identity.second_factor.refuse": "gave a wrong code",
    "identity.recovery_codes.renew": "made new recovery codes",
    "identity.vault.rotate": "wrapped all secrets anew under a master key",
    "notify.channel.create": "made the channel",
    "notify.channel.change": "changed the channel",
    "notify.channel.delete": "deleted the channel",
    "notify.channel.test": "sent a test by",
    "notify.silence.add": "silenced",
    "notify.silence.end": "ended the silence of",
    "notify.delivery.fail": "could not tell anybody by",
    "notify.delivery.again": "sent a notice again by",
    "calendars.create": "made the calendar",
    "calendars.change": "changed the calendar",
    "calendars.delete": "deleted the calendar",
    "calendars.entry.add": "added an entry to",
    "calendars.entry.remove": "removed an entry from",
    "calendars.fetch.fail": "could not fetch the calendar",
    "approvals.request": "asked leave for",
    "approvals.approve": "approved",
    "approvals.deny": "denied",
    "approvals.vote.refuse": "was not let answer",
    "approvals.withdraw": "took back",
    "approvals.withdraw.refuse": "was not let take back",
    "approvals.use": "used the approval of",
    "approvals.expire": "let the time run out for",
    "web.permission.refuse": "was denied",
    "inventory.account.link": "linked the account",
    "inventory.account.add": "added the account",
    "inventory.account.update": "changed the account",
    "inventory.account.enable": "enabled the account",
    "inventory.account.disable": "disabled the account",
    "inventory.account.remove": "removed the account",
    "inventory.account.check": "checked the connection of",
    "inventory.account.identity": "checked the roles of",
    "inventory.region.enable": "turned a region on in",
    "inventory.region.disable": "turned a region off in",
    "inventory.region.refresh.fail": "could not read",
    "inventory.region.queue": "changed the queue of events of",
    "inventory.ceiling.set": "set a ceiling on the calls of",
    "inventory.ceiling.remove": "took away the ceiling on the calls of",
    "inventory.activation.create": "made an activation for",
    "inventory.activation.delete": "deleted the activation",
    "inventory.instance.deregister": "deregistered",
    "inventory.filter.save": "saved the filter",
    "inventory.filter.change": "changed the saved filter",
    "inventory.filter.delete": "deleted the saved filter",
    "library.document.create": "made the document",
    "library.document.delete": "deleted the document",
    "library.version.create": "added a version to",
    "library.version.default": "changed the default version of",
    "runcommand.start": "started",
    "runcommand.start.refuse": "was not let start",
    "runcommand.dispatch.refuse": "was not let run, in part,",
    "runcommand.cancel": "cancelled",
    "runcommand.output.view": "read the output of",
    "sessions.open": "opened a session",
    "sessions.open.refuse": "was denied a session",
    "sessions.grant.ask": "asked for access",
    "sessions.grant.ask.refuse": "was denied asking for access",
    "sessions.grant.start": "gave access",
    "sessions.grant.end": "had access end",
    "sessions.grant.revoke": "revoked access",
    "sessions.grant.revoke.refuse": "was denied revoking access",
    "sessions.tokens.deny": "denied older tokens of",
    "sessions.tokens.deny.refuse": "could not deny older tokens of",
    "sessions.tokens.allow": "let older tokens again of",
    "sessions.start": "started the shell",
    "sessions.start.fail": "could not start the shell",
    "sessions.attach": "attached a browser",
    "sessions.attach.refuse": "was denied the terminal",
    "sessions.attach.revoke": "took the terminal away",
    "sessions.watch": "watched",
    "sessions.join": "joined",
    "sessions.message": "sent a message to",
    "sessions.transfer.start": "began to transfer a file in",
    "sessions.transfer.end": "transferred a file in",
    "sessions.resume": "took the shell up again",
    "sessions.resume.fail": "could not take the shell up again",
    "sessions.end.request": "asked for the end",
    "sessions.end": "ended the session",
    "sessions.end.confirm": "had AWS confirm the end of",
    "sessions.recording.seal": "sealed the recording",
    "sessions.recording.copy": "copied the recording to a bucket",
    "sessions.restricted.define": "defined the restricted shell",
    "sessions.restricted.change": "changed the restricted shell",
    "sessions.restricted.enable": "let the restricted shell be opened again",
    "sessions.restricted.disable": "disabled the restricted shell",
    "sessions.delivery.change": "changed where sessions are delivered",
    "sessions.delivery.check": "had the delivery of sessions checked",
    "sessions.recording.view": "viewed the recording",
    "sessions.commands.view": "looked through commands",
    "sessions.commands.export": "took commands away as a file",
    "sessions.recording.download": "downloaded the recording",
    "policy.rule.create": "made the rule",
    "policy.rule.update": "changed the rule",
    "policy.rule.enable": "switched on the rule",
    "policy.rule.disable": "switched off the rule",
    "policy.rule.delete": "deleted the rule",
    "sessions.recording.refuse": "was denied the recording",
    "sessions.recording.revoke": "was cut off from the recording",
    "audit.verify": "verified the chain",
    "audit.head.renew": "renewed the head of the chain",
    "backup.make": "made the backup",
    "backup.restore": "restored the backup",
}

# A kind of deed, for the facets: what its actions start with. The first that fits.
KINDS = {
    "recording": ("Recording", ("sessions.recording.", "sessions.commands.")),
    "session": ("Session", ("sessions.",)),
    "login": ("Login", ("identity.login", "identity.logout", "identity.confirm")),
    "token": ("API tokens and access keys", ("identity.token.", "identity.access_key.")),
    "user": ("Users and roles", ("identity.",)),
    "command": ("Commands", ("runcommand.",)),
    "document": ("Documents", ("library.",)),
    "policy": ("Policy", ("policy.",)),
    "notice": ("Notices", ("notify.",)),
    "calendar": ("Calendar", ("calendars.",)),
    "approval": ("Approval", ("approvals.",)),
    "permission": ("Permission", ("web.permission.",)),
    "fleet": ("Fleet", ("inventory.",)),
    "audit": ("Audit", ("audit.",)),
    "backup": ("Backups", ("backup.",)),
}

SOURCES = {"browser": "Browser", "api": "API", "terminal": "Terminal", "worker": "Worker", "command": "Command line"}

_KIND_OF = {
    action: next(kind for kind, (_, starts) in KINDS.items() if action.startswith(starts)) for action in ACTIONS
}


def kind_of(action: str) -> str:
    """The key in KINDS; empty for an action that this version no longer knows."""
    return _KIND_OF.get(action, "")


def actions_of(kind: str) -> list[str]:
    return [action for action, its_kind in _KIND_OF.items() if its_kind == kind]


def verb(event: AuditEvent) -> str:
    return VERBS.get(event.action, event.action)


def glyph(event: AuditEvent) -> tuple[str, str]:
    """Kind of state and icon for a row."""
    if event.outcome == Outcome.DONE:
        return "ok", "circle-check"
    return ("bad", "lock") if event.outcome == Outcome.DENIED else ("bad", "circle-x")
