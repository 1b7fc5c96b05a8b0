"""What an API token may be made for. A scope never gives: it lets through what the token's owner may do anyway."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scope:
    """One thing that a token may be used for."""

    title: str
    grants: tuple[str, ...] = ()  # permissions that come through it, as far as the owner has them
    needs: tuple[str, ...] = ()  # the owner must have one of them to give it; none: everybody may


_SEE = "inventory.view_instance"
_OPEN = "sessions_app.open_terminalsession"
_REVIEW = "sessions_app.review_terminalsession"
_END = "sessions_app.end_terminalsession"
_RESTRICT = "sessions_app.change_restrictedshell"
_SEE_RULES, _CHANGE_RULES = "policy.view_rule", "policy.change_rule"
_SEE_REQUESTS, _VOTE = "approvals.view_approvalrequest", "approvals.vote_approvalrequest"
_SEE_CALENDARS, _CHANGE_CALENDARS = "calendars.view_calendar", "calendars.change_calendar"
_SEE_NOTICES, _CHANGE_NOTICES = "notify.view_channel", "notify.change_channel"
_SEE_ACCOUNTS = "inventory.view_account"
_CHANGE_ACCOUNTS = ("inventory.add_account", "inventory.change_account", "inventory.delete_account")
# Who says as whom FleetOps acts in an account administers; the services ask for it.
_ADMINISTER = "identity.administer"
_ACCOUNTS = "inventory.view_account"
_CHANGE = "inventory.change_account"
_SEE_DOCUMENTS = "library.view_document"
_SEE_BASELINES, _CHANGE_BASELINES = "patching.view_patchbaseline", "patching.change_patchbaseline"
_RUN, _REVIEW_COMMANDS = "runcommand.run_command", "runcommand.review_command"
_RUNS = ("rollouts.view_run", "rollouts.start_run", "rollouts.steer_run")
_SEE_ROLES, _CHANGE_ROLE_RULES = "roles.view_roleattachment", "roles.change_rolerule"
_ROLES = ("roles.attach_role", "roles.end_roleattachment")
_CLUSTERS = "rollouts.change_clusterrule"
_ACTIVATIONS, _ADD_MACHINES = "inventory.view_account", "inventory.change_account"

SCOPES: dict[str, Scope] = {
    "fleet:read": Scope("Read instances, accounts and regions", (_SEE,), (_SEE,)),
    "machines:read": Scope("Read activations of machines outside EC2", (_ACTIVATIONS,), (_ACTIVATIONS,)),
    "machines:write": Scope(
        "Add machines by activations, delete activations, deregister nodes",
        (_ADD_MACHINES, _ACTIVATIONS, _SEE),
        (_ADD_MACHINES,),
    ),
    "sessions:read": Scope("Read sessions: one's own, or everybody's with the permission to review", (_REVIEW,)),
    "sessions:open": Scope("Open shells", (_OPEN, _SEE), (_OPEN,)),
    "restricted_shells:read": Scope("Read restricted shells", (_OPEN, _RESTRICT), (_OPEN, _RESTRICT)),
    "restricted_shells:write": Scope("Define restricted shells", (_RESTRICT,), (_RESTRICT,)),
    "access:ask": Scope("Ask for access for a while, and take one's own requests back", (_SEE, _REVIEW)),
    "sessions:message": Scope("Say something to who is at live sessions that one may watch", (_REVIEW,)),
    "sessions:end": Scope("End sessions: one's own, or anybody's with the permission", (_END, _REVIEW)),
    "recordings:read": Scope("Download recordings of the sessions that one may see", (_REVIEW,)),
    "policy:read": Scope("Read the access policy and ask what it would say", (_SEE_RULES, _SEE), (_SEE_RULES,)),
    "policy:write": Scope("Change the access policy", (_CHANGE_RULES, _SEE_RULES), (_CHANGE_RULES,)),
    "approvals:read": Scope("Read requests for approval that one may see", (_SEE_REQUESTS, _VOTE)),
    "approvals:write": Scope("Approve, deny, and take back one's own requests", (_SEE_REQUESTS, _VOTE)),
    "calendars:read": Scope("Read calendars and ask what is held", (_SEE_CALENDARS,), (_SEE_CALENDARS,)),
    "calendars:write": Scope("Change calendars", (_CHANGE_CALENDARS, _SEE_CALENDARS), (_CHANGE_CALENDARS,)),
    "notices:read": Scope("Read notices, channels and silences", (_SEE_NOTICES,), (_SEE_NOTICES,)),
    "notices:write": Scope("Change channels, add silences", (_CHANGE_NOTICES, _SEE_NOTICES), (_CHANGE_NOTICES,)),
    "accounts:read": Scope("Read the accounts' settings and checks", (_SEE_ACCOUNTS,), (_SEE_ACCOUNTS,)),
    "accounts:write": Scope(
        "Add, change, check and remove accounts; as whom FleetOps acts there, if one administers",
        (*_CHANGE_ACCOUNTS, _SEE_ACCOUNTS, _ADMINISTER),
        _CHANGE_ACCOUNTS,
    ),
    "documents:read": Scope("Read documents and their versions", (_SEE_DOCUMENTS,), (_SEE_DOCUMENTS,)),
    "documents:write": Scope(
        "Make, change and delete documents of the accounts",
        ("library.change_document", _SEE_DOCUMENTS),
        ("library.change_document",),
    ),
    "baselines:read": Scope("Read patch baselines, groups and pinned sets", (_SEE_BASELINES, _SEE), (_SEE_BASELINES,)),
    "baselines:write": Scope(
        "Change patch baselines and groups, freeze pinned sets",
        (_CHANGE_BASELINES, _SEE_BASELINES, _SEE),
        (_CHANGE_BASELINES,),
    ),
    "exposure:read": Scope("Read which security groups open SSH or RDP", (_SEE,), (_SEE,)),
    "exposure:write": Scope(
        "Close SSH and RDP in security groups, and open them again",
        ("exposure.close_port", _SEE),
        ("exposure.close_port",),
    ),
    "compliance:read": Scope("Read patch compliance, its deadlines, findings and files", (_SEE,), (_SEE,)),
    "compliance:write": Scope(
        "Change patch deadlines, and whether findings go to Security Hub",
        ("compliance.change_sla", "compliance.change_hub", _SEE),
        ("compliance.change_sla", "compliance.change_hub"),
    ),
    "commands:read": Scope(
        "Read commands and their output: one's own, or everybody's with the permission to review",
        (_RUN, _REVIEW_COMMANDS),
        (_RUN, _REVIEW_COMMANDS),
    ),
    "commands:run": Scope(
        "Run documents on instances, and cancel",
        (_RUN, _REVIEW_COMMANDS, "runcommand.cancel_command", _SEE_DOCUMENTS, _SEE),
        (_RUN, "runcommand.cancel_command"),
    ),
    "runs:read": Scope("Read runs, their plans and targets", _RUNS, _RUNS),
    "runs:write": Scope(
        "Plan, start and steer runs: one's own, or anybody's with the permission",
        (*_RUNS, _SEE_DOCUMENTS, _SEE),
        ("rollouts.start_run", "rollouts.steer_run"),
    ),
    "cluster_rules:write": Scope(
        "Say how many members of a cluster may be out of service", (_CLUSTERS, *_RUNS), (_CLUSTERS,)
    ),
    "roles:read": Scope("Read IAM roles, leases, rules and history", (_SEE_ROLES, _SEE), (_SEE_ROLES,)),
    "roles:write": Scope(
        "Ask for roles on instances, extend and end leases, decide on changes from outside",
        (*_ROLES, _SEE_ROLES, _SEE),
        _ROLES,
    ),
    "role_rules:write": Scope(
        "Change which instances may have which role, make the standard role",
        (_CHANGE_ROLE_RULES, _SEE_ROLES, _SEE),
        (_CHANGE_ROLE_RULES,),
    ),
    "audit:read": Scope("Read the audit log", ("audit.view_auditevent",), ("audit.view_auditevent",)),
    "budget:read": Scope("Read the API budget", (_ACCOUNTS,), (_ACCOUNTS,)),
    "budget:write": Scope("Set and take away ceilings of the API budget", (_ACCOUNTS, _CHANGE), (_CHANGE,)),
    "tokens:manage": Scope("List and revoke one's own tokens"),
}


def permissions_of(scopes: Iterable[str]) -> frozenset[str]:
    """All that comes through `scopes`; a scope that this version no longer knows lets nothing through."""
    return frozenset(name for scope in scopes if scope in SCOPES for name in SCOPES[scope].grants)


def may_have(scope: str, has_permission: Callable[[str], bool]) -> bool:
    """Whether somebody with these permissions may give `scope` to a token of theirs."""
    needs = SCOPES[scope].needs
    return not needs or any(has_permission(name) for name in needs)
