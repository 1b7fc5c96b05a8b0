"""What a browser's log-in session keeps of who proved what, and when; the way from a right password to being in."""

import functools
from collections.abc import Callable
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import auth
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from fleetops.audit.record import record
from fleetops.clock import now

from .models import User

# In the session: Unix seconds of the last second factor (policies read it), and of the last proof of any kind.
MFA_AT = "mfa_at"
CONFIRMED_AT = "confirmed_at"
_PENDING = "pending_log_in"
PENDING_SECONDS = 300  # between the password and the code
BACKEND = "django.contrib.auth.backends.ModelBackend"


def let_in(request: HttpRequest, user: User, *, how: str = "") -> None:
    """Log `user` in; `how` is the second factor that they gave, if any."""
    with transaction.atomic():
        request.session.pop(_PENDING, None)
        auth.login(request, user, backend=getattr(user, "backend", BACKEND))  # gives the browser session a new key
        prove(request, with_second_factor=bool(how))
        record("identity.login", actor=user, target=user, **({"second_factor": how} if how else {}))


def prove(request: HttpRequest, *, with_second_factor: bool) -> None:
    """Note that the user has just proved who they are."""
    moment = now().timestamp()
    request.session[CONFIRMED_AT] = moment
    if with_second_factor:
        request.session[MFA_AT] = moment


def ask_for_code(request: HttpRequest, user: User) -> None:
    """The password was right: note whose it was until the code comes. Nobody is logged in by that."""
    request.session.cycle_key()
    request.session[_PENDING] = {
        "user": str(user.pk),
        "hash": user.get_session_auth_hash(),  # another password meanwhile ends it
        "at": now().timestamp(),
    }


def who_is_pending(request: HttpRequest) -> User | None:
    """Whose password was right a short while ago in this browser."""
    pending = request.session.get(_PENDING)
    if not pending or pending["at"] + PENDING_SECONDS < now().timestamp():
        return None
    user = User.objects.filter(pk=pending["user"], is_active=True).first()
    return user if user is not None and user.get_session_auth_hash() == pending["hash"] else None


def is_fresh(request: HttpRequest) -> bool:
    """Whether the user proved who they are within CONFIRM_SECONDS."""
    return request.session.get(CONFIRMED_AT, 0) > now().timestamp() - settings.CONFIRM_SECONDS


def confirmation(request: HttpRequest, url: str) -> HttpResponse:
    """To the page that asks for it, and from there on to `url`."""
    return redirect(f"{reverse('identity:confirm')}?{urlencode({'next': url})}")


def confirmed(back: str = "") -> Callable:
    """Let a view through only shortly after a proof; else ask for one, then go on to the page named `back`, or here."""

    def decorate(view):
        @functools.wraps(view)
        def checked(request, *args, **kwargs):
            if not is_fresh(request):
                return confirmation(request, reverse(back) if back else request.get_full_path())
            return view(request, *args, **kwargs)

        return checked

    return decorate
