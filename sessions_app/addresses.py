"""Where terminals are reached."""

from django.conf import settings


def terminal_address(request) -> str:
    """Where this caller's terminals are, "wss://host:port"; a source of the content security policy, too."""
    if settings.TERMINAL_URL:
        return settings.TERMINAL_URL
    host = request.get_host()
    name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
    return f"{'wss' if request.is_secure() else 'ws'}://{name}:{settings.TERMINAL_PORT}"
