"""The five roles: groups of permissions, the same in every installation."""

_VIEWER = (
    "inventory.view_instance",
    "calendars.view_calendar",
    "library.view_document",
    "rollouts.view_run",
    "patching.view_patchbaseline",
    "roles.view_roleattachment",
)
_PATCH_OWNER = (
    "rollouts.start_run",
    "rollouts.steer_run",
    "rollouts.change_clusterrule",
    "patching.change_patchbaseline",
    "compliance.change_sla",
    "compliance.change_hub",
)

ROLES: dict[str, tuple[str, ...]] = {
    "viewer": _VIEWER,
    "operator": (
        *_VIEWER,
        "sessions_app.open_terminalsession",
        "approvals.vote_approvalrequest",
        "runcommand.run_command",
        "roles.attach_role",
    ),
    "patch_owner": (
        *_VIEWER,
        *_PATCH_OWNER,
        "calendars.change_calendar",
        "approvals.vote_approvalrequest",
    ),
    "auditor": (
        *_VIEWER,
        "approvals.view_approvalrequest",
        "audit.view_auditevent",
        "notify.view_channel",
        "policy.view_rule",
        "runcommand.review_command",
        "sessions_app.review_terminalsession",
    ),
    "administrator": (
        *_VIEWER,
        "inventory.add_account",
        "inventory.change_account",
        "inventory.delete_account",
        "inventory.view_account",
        "sessions_app.open_terminalsession",
        "sessions_app.review_terminalsession",
        "sessions_app.end_terminalsession",
        "sessions_app.change_restrictedshell",
        "audit.view_auditevent",
        "identity.administer",
        "notify.view_channel",
        "notify.change_channel",
        "calendars.change_calendar",
        "approvals.view_approvalrequest",
        "approvals.vote_approvalrequest",
        "policy.view_rule",
        "policy.change_rule",
        "library.change_document",
        "roles.attach_role",
        "roles.end_roleattachment",
        "roles.change_rolerule",
        "exposure.close_port",
        "runcommand.run_command",
        "runcommand.review_command",
        "runcommand.cancel_command",
        *_PATCH_OWNER,
    ),
}

# What a person reads beside a role's box.
ROLE_TEXTS = {
    "viewer": ("Viewer", "sees the fleet"),
    "operator": ("Operator", "sees the fleet, opens shells and runs documents"),
    "patch_owner": ("Patch owner", "sees the fleet, manages patch baselines and patches"),
    "auditor": ("Auditor", "reads the audit log, and everybody's recordings and outputs; opens no shell"),
    "administrator": ("Administrator", "everything, and who may do what"),
}

# Dotted names of functions of rooms above, called when the roles have been made: they add theirs in apps.py's ready().
AFTER_SYNC: list[str] = []
