"""The sidebar: what there is to open, for whom, and how much of it. By name, since `web` knows no other room."""

from collections.abc import Callable, Iterator

from django.urls import reverse

_SESSIONS = ("sessions_app.open_terminalsession", "sessions_app.review_terminalsession")
_APPROVALS = ("approvals.vote_approvalrequest", "approvals.view_approvalrequest", *_SESSIONS)
_COMMANDS = ("runcommand.run_command", "runcommand.review_command")
# Group; then label, URL name, icon, permissions of which one suffices.
NAVIGATION = (
    (
        "Operate",
        (
            ("Fleet", "inventory:fleet", "server", ("inventory.view_instance",)),
            # A rule of the policy may give a shell to whoever sees an instance.
            ("Sessions", "sessions:list", "prompt", (*_SESSIONS, "inventory.view_instance")),
            ("Commands", "runcommand:list", "bolt", _COMMANDS),
            ("Documents", "library:list", "file", ("library.view_document",)),
            ("Approvals", "approvals:list", "hand", _APPROVALS),
        ),
    ),
    (
        "Change",
        (
            ("Runs", "rollouts:runs", "rows", ("rollouts.view_run", "rollouts.start_run", "rollouts.steer_run")),
            ("Runbooks", "automation:list", "file", _COMMANDS),
            ("Patching", "patching:baselines", "layers", ("patching.view_patchbaseline",)),
            ("Emergency", "emergency:choose", "alert-triangle", ("rollouts.start_run",)),
            ("Compliance", "compliance:overview", "shield-check", ("inventory.view_instance",)),
            ("IAM roles", "roles:overview", "users", ("roles.view_roleattachment",)),
            ("Port 22", "exposure:groups", "lock", ("inventory.view_instance",)),
            ("Calendars", "calendars:list", "calendar", ("calendars.view_calendar",)),
        ),
    ),
    ("Prove", (("Audit", "review:audit", "history", ("audit.view_auditevent",)),)),
    (
        "Administer",
        (
            ("Accounts", "accounts:list", "layers", ("inventory.view_account",)),
            ("API budget", "budget:page", "gauge", ("inventory.view_account",)),
            ("Notices", "notify:list", "bell", ("notify.view_channel",)),
            ("Policy", "policy:rules", "shield", ("policy.view_rule",)),
            ("Restricted shells", "sessions:restricted_shells", "lock", ("sessions_app.change_restrictedshell",)),
            ("Users", "identity:users", "users", ("identity.administer",)),
            ("API tokens", "identity:all_tokens", "key", ("identity.administer",)),
        ),
    ),
)
_counters: dict[str, Callable] = {}


def show_count(url_name: str, counter: Callable) -> None:
    """Have `counter(user)` say what stands beside an item: "14", "2 live", or "" for nothing. For apps.py's ready()."""
    _counters[url_name] = counter


def count(url_name: str, user) -> str:
    return _counters[url_name](user) if url_name in _counters else ""


def items(user) -> Iterator[tuple[str, str, str, str]]:
    """Group, label, URL name and icon of each item that `user` may open."""
    for group, entries in NAVIGATION:
        for label, url_name, icon, permissions in entries:
            if any(user.has_perm(permission) for permission in permissions):
                yield group, label, url_name, icon


def counts(user) -> dict[str, str]:
    """What stands beside each item that `user` may open and that is counted, by its URL."""
    return {reverse(name): count(name, user) for _, _, name, _ in items(user) if name in _counters}
