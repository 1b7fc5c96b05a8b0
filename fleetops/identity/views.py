"""Logging in and out, and the administrators' page of users."""

from urllib.parse import urlencode

from axes.handlers.proxy import AxesProxyHandler
from django.conf import settings
from django.contrib import auth, messages
from django.contrib.auth.decorators import login_not_required
from django.db import transaction
from django.shortcuts import get_object_or_404, redirect, render, resolve_url
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.audit.record import Target, deny, record
from fleetops.errors import UserError
from fleetops.web.shortcuts import permission_required

from . import log_in, second_factor, services
from .forms import ChangeUserForm, CodeForm, ConfirmForm, CreateUserForm, LoginForm, PasswordForm
from .models import User
from .problems import plain_problem
from .roles import ROLE_TEXTS

WRONG_CODE = "That code is not right, or was used already. The app shows a new one every 30 seconds."
LOCK_MINUTES = round(settings.AXES_COOLOFF_TIME * 60)


@never_cache
@login_not_required
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def login(request):
    """Let a person in, and then on to where they wanted to go."""
    if request.user.is_authenticated:
        return redirect(_next(request))
    if request.method != "POST":
        return _login_page(request, LoginForm(request))
    form = LoginForm(request, request.POST)
    if not form.is_valid():
        if "username" in form.cleaned_data and "password" in form.cleaned_data:
            return _refuse(request, form)
        return _login_page(request, form, status=400)
    if second_factor.is_set_up(form.get_user()):
        log_in.ask_for_code(request, form.get_user())
        return redirect(f"{reverse('identity:code')}?{urlencode({'next': _next(request)})}")
    log_in.let_in(request, form.get_user())
    return redirect(_next(request))


@never_cache
@login_not_required
@require_http_methods(["GET", "HEAD", "POST"])
def code(request):
    """The second step of a log-in: a code of the app, or a recovery code."""
    if request.user.is_authenticated:
        return redirect(_next(request))
    user = log_in.who_is_pending(request)
    if user is None:
        messages.info(request, "Begin again: the code was asked for too long ago.")
        return redirect("identity:login")
    form = CodeForm(request.POST or None)
    status = 200 if request.method != "POST" else 400
    if request.method == "POST" and form.is_valid():
        try:
            how = second_factor.check(user, form.cleaned_data["code"])
        except UserError as error:
            form.add_error("code", str(error))
            status = 429
        else:
            if how:
                log_in.let_in(request, user, how=how)
                if how == "recovery code":
                    left = second_factor.codes_left(user)
                    messages.warning(request, f"That recovery code is used up; {left} are left.")
                return redirect(_next(request))
            form.add_error("code", WRONG_CODE)
    return render(request, "identity/code.html", {"form": form, "next": _next(request)}, status=status)


@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def confirm(request):
    """Ask who is logged in to prove it again: by a code where there is a second factor, else by the password."""
    has_factor = second_factor.is_set_up(request.user)
    form = (CodeForm if has_factor else ConfirmForm)(request.POST or None)
    status = 200
    if request.method == "POST":
        status = 400
        if form.is_valid() and _proves(request, form, has_factor):
            with transaction.atomic():
                log_in.prove(request, with_second_factor=has_factor)
                record("identity.confirm", actor=request.user, target=request.user)
            return redirect(_next(request))
    context = {"form": form, "next": _next(request), "has_factor": has_factor}
    return render(request, "identity/confirm.html", context, status=status)


def _proves(request, form, has_factor: bool) -> bool:
    """Whether what was typed is right; else the form says why not."""
    if has_factor:
        try:
            if second_factor.check(request.user, form.cleaned_data["code"]):
                return True
            form.add_error("code", WRONG_CODE)
        except UserError as error:
            form.add_error("code", str(error))
        return False
    # By way of axes, which counts wrong ones.
    user = auth.authenticate(request, username=request.user.username, password=form.cleaned_data["password"])
    if user == request.user:
        return True
    deny("identity.confirm.refuse", actor=request.user, target=request.user, reason="wrong password")
    form.add_error("password", "That is not your password.")
    return False


def _refuse(request, form):
    username = form.cleaned_data["username"]
    user = User.objects.filter(username=username).first()
    locked = getattr(request, "axes_locked_out", False)
    left = settings.AXES_FAILURE_LIMIT - AxesProxyHandler.get_failures(request, {"username": username})
    deny(
        "identity.login.refuse",
        actor=None,
        # An unknown name is not written down: it may well be a password in the wrong field.
        target=user or Target("identity.user", "", "an unknown name"),
        reason="too many wrong passwords" if locked else "wrong password" if user else "unknown name",
    )
    return _login_page(request, form, status=400, tries_left=left)


def _login_page(request, form, *, status=200, tries_left=None, locked=False):
    context = {
        "form": form,
        "next": request.POST.get("next", request.GET.get("next", "")),
        "tries_left": tries_left,
        "lock_minutes": LOCK_MINUTES,
        "locked": locked,
    }
    return render(request, "identity/login.html", context, status=status)


def locked_out(request, original_response=None, credentials=None):
    """What axes answers in place of the log-in page while a name is locked for an address."""
    if request.path.startswith("/api/"):
        return plain_problem(
            429, f"Too many wrong passwords: this name is locked for your address for {LOCK_MINUTES} minutes."
        )
    return _login_page(request, LoginForm(request), status=429, locked=True)


def _next(request) -> str:
    """Where to go after the log-in: `next`, if it is a page of ours."""
    url = request.POST.get("next", request.GET.get("next", ""))
    # A path, not "abc", which `redirect` would take for the name of a page.
    if url.startswith("/") and url_has_allowed_host_and_scheme(
        url, {request.get_host()}, require_https=request.is_secure()
    ):
        return url
    return resolve_url(settings.LOGIN_REDIRECT_URL)


@require_POST
def logout(request):
    with transaction.atomic():
        record("identity.logout", actor=request.user, target=request.user)
        auth.logout(request)
    return redirect(settings.LOGOUT_REDIRECT_URL)


@require_safe
@permission_required("identity.administer")
def users(request):
    asking = second_factor.roles_that_ask()
    rows = User.objects.prefetch_related("groups").select_related("second_factor").order_by("-is_active", "username")
    people = [(user, _titles(user)) for user in rows]
    context = {
        "people": people,
        "active": sum(user.is_active for user in rows),
        "administrators": sum(user.is_active and "Administrator" in titles for user, titles in people),
        "without_role": sum(user.is_active and not titles for user, titles in people),
        "roles": [(role, title, role in asking) for role, (title, _) in ROLE_TEXTS.items()],
    }
    return render(request, "identity/users.html", context)


def _titles(user: User) -> list[str]:
    names = {group.name for group in user.groups.all()}
    return [title for role, (title, _) in ROLE_TEXTS.items() if role in names]


@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
@permission_required("identity.administer")
def create_user(request):
    form = CreateUserForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        user = services.create_user(actor=request.user, **form.cleaned_data)
        messages.success(request, f"{user.username} can log in now.")
        return redirect("identity:users")
    return _form_page(request, form, status=400 if request.method == "POST" else 200)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required("identity.administer")
def user(request, pk):
    """One user: names, roles, password, whether they may log in."""
    person = get_object_or_404(User, pk=pk)
    roles = [group.name for group in person.groups.all()]
    form = ChangeUserForm(request.POST or None, instance=User(pk=person.pk, username=person.username), initial={
        "roles": roles, "first_name": person.first_name, "last_name": person.last_name, "email": person.email,
    })  # fmt: skip
    if request.method == "POST" and form.is_valid():
        services.change_user(person, actor=request.user, **form.cleaned_data)
        messages.success(request, f"{person.username} is changed.")
        return redirect("identity:users")
    return _form_page(request, form, person=person, status=400 if request.method == "POST" else 200)


def _form_page(request, form, *, person=None, password_form=None, status=200):
    chosen = set(form["roles"].value() or ())
    roles = [(role, title, text, role in chosen) for role, (title, text) in ROLE_TEXTS.items()]
    if person is not None and password_form is None:
        password_form = PasswordForm(user=person)
    context = {
        "form": form,
        "person": person,
        "roles": roles,
        "password_form": password_form,
        "has_factor": person is not None and second_factor.is_set_up(person),
    }
    return render(request, "identity/user.html", context, status=status)


@require_POST
@permission_required("identity.administer")
def set_active(request, pk):
    person = get_object_or_404(User, pk=pk)
    active = request.POST.get("active") == "1"
    services.set_active(person, active, actor=request.user)
    messages.success(request, f"{person.username} may {'log in again' if active else 'no longer log in'}.")
    return redirect("identity:users")


@require_POST
@permission_required("identity.administer")
def reset_second_factor(request, pk):
    """For who has lost both phone and recovery codes: they log in with the password alone, and set up another."""
    person = get_object_or_404(User, pk=pk)
    second_factor.remove(person, actor=request.user)
    messages.success(request, f"{person.username} has no second factor now.")
    return redirect("identity:user", pk)


@require_POST
@permission_required("identity.administer")
def set_roles(request):
    """Which roles ask for a second factor: those that are ticked."""
    asked = set(request.POST.getlist("second_factor"))
    for role in ROLE_TEXTS:
        second_factor.set_role(role, asks=role in asked, actor=request.user)
    messages.success(request, "Saved. It holds from everybody's next request on.")
    return redirect("identity:users")


@require_POST
@sensitive_post_parameters("password")
@permission_required("identity.administer")
def set_password(request, pk):
    person = get_object_or_404(User, pk=pk)
    password_form = PasswordForm(request.POST, user=person)
    if not password_form.is_valid():
        roles = [group.name for group in person.groups.all()]
        form = ChangeUserForm(instance=person, initial={"roles": roles})
        return _form_page(request, form, person=person, password_form=password_form, status=400)
    services.set_password(person, password_form.cleaned_data["password"], actor=request.user)
    if person == request.user:
        auth.update_session_auth_hash(request, person)
    messages.success(request, f"{person.username} has a new password.")
    return redirect("identity:users")
