"""What base.html needs on every page."""

from functools import partial
from itertools import groupby

from django.conf import settings
from django.urls import reverse

from . import navigation


def shell(request) -> dict:
    """The sidebar's groups with what this user may see, initials, and where terminals are reached."""
    user = getattr(request, "user", None)
    context = {"terminal_port": settings.TERMINAL_PORT, "terminal_url": settings.TERMINAL_URL, "nav": []}
    if user is None or not user.is_authenticated:
        return context
    match = request.resolver_match
    room, name = (match.namespace, match.view_name) if match else ("", "")
    own = {url_name for _, _, url_name, _ in navigation.items(user)}
    for group, entries in groupby(navigation.items(user), key=lambda entry: entry[0]):
        items = [
            {
                "label": label,
                "url": reverse(url_name),
                "icon": icon,
                # The item of this very page, else the first of its room.
                "active": name == url_name if name in own else room == url_name.partition(":")[0],
                "count": partial(navigation.count, url_name, user),  # asked only by a page that has a sidebar
            }
            for _, label, url_name, icon in entries
        ]
        context["nav"].append({"label": group, "items": items})
    return context | {"initials": user.initials}
