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
    room = match.namespace if match else ""
    # The item of this page or of one above it, the nearest; else the items of its room.
    above = [url_name for _, _, url_name, _ in navigation.items(user) if request.path.startswith(reverse(url_name))]
    nearest = max(above, key=lambda url_name: len(reverse(url_name)), default="")
    for group, entries in groupby(navigation.items(user), key=lambda entry: entry[0]):
        items = [
            {
                "label": label,
                "url": reverse(url_name),
                "icon": icon,
                "active": url_name == nearest if nearest else room == url_name.partition(":")[0],
                "count": partial(navigation.count, url_name, user),  # asked only by a page that has a sidebar
            }
            for _, label, url_name, icon in entries
        ]
        context["nav"].append({"label": group, "items": items})
    return context | {"initials": user.initials}
