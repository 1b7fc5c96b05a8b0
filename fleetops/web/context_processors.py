"""What base.html needs on every page."""

from django.conf import settings
from django.urls import reverse

_SESSIONS = ("sessions_app.open_terminalsession", "sessions_app.review_terminalsession")
# Group; then label, URL name, icon, permissions of which one suffices. By name, since `web` knows no other room.
NAVIGATION = (
    (
        "Operate",
        (
            ("Fleet", "inventory:fleet", "server", ("inventory.view_instance",)),
            ("Sessions", "sessions:list", "prompt", _SESSIONS),
        ),
    ),
    ("Prove", (("Audit", "review:audit", "history", ("audit.view_auditevent",)),)),
    ("Administer", (("Users", "identity:users", "users", ("identity.administer",)),)),
)


def shell(request) -> dict:
    """The sidebar's groups with what this user may see, initials, and where terminals are reached."""
    user = getattr(request, "user", None)
    context = {"terminal_port": settings.TERMINAL_PORT, "terminal_url": settings.TERMINAL_URL, "nav": []}
    if user is None or not user.is_authenticated:
        return context
    room = request.resolver_match.namespace if request.resolver_match else ""
    for label, entries in NAVIGATION:
        items = []
        for name, url_name, icon, permissions in entries:
            if not any(user.has_perm(permission) for permission in permissions):
                continue
            active = room == url_name.partition(":")[0]
            items.append({"label": name, "url": reverse(url_name), "icon": icon, "active": active, "count": ""})
        if items:
            context["nav"].append({"label": label, "items": items})
    return context | {"initials": user.initials}
