"""What views share."""

import functools
from collections.abc import Callable

from django.utils.http import url_has_allowed_host_and_scheme

from fleetops.errors import Denied


class PermissionMissing(Denied):
    """The user lacks `permission`, "app.codename"."""

    def __init__(self, permission: str, text: str = ""):
        self.permission = permission
        super().__init__(
            text or f"Your roles do not hold the permission {permission}. Ask an administrator for a role that does."
        )


def require_permission(user, *permissions: str) -> None:
    """Raises PermissionMissing, naming the first, unless `user` has one of `permissions`."""
    if not any(user.has_perm(permission) for permission in permissions):
        raise PermissionMissing(permissions[0])


def permission_required(*permissions: str) -> Callable:
    """Let a view through only for whoever has one of `permissions`; else 403, and identity.middleware audits it."""

    def decorate(view):
        @functools.wraps(view)
        def checked(request, *args, **kwargs):
            require_permission(request.user, *permissions)
            return view(request, *args, **kwargs)

        return checked

    return decorate


def back_or(request, default: str) -> str:
    """The page of ours that a form names as `next`; `default` where it names none, or somebody else's."""
    back = request.POST.get("next", "")
    is_ours = back.startswith("/") and url_has_allowed_host_and_scheme(back, allowed_hosts=None)
    return back if is_ours else default
