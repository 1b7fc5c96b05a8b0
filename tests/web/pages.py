"""Pages that only tests have: a refusal, a mistake of the user's, a bug."""

from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import Http404, HttpResponse
from django.urls import path

from fleetops.audit.record import deny
from fleetops.errors import Denied, UserError
from fleetops.urls import (  # noqa: F401  (Django looks for the handlers here)
    handler400,
    handler403,
    handler404,
    handler500,
    urlpatterns,
)
from fleetops.web.shortcuts import permission_required


def mendable(request):
    raise UserError("i-0ab1 is not online; check its <instance profile>")


def refused(request):
    raise Denied("You may not read <this>.")


def refused_by_django(request):
    raise PermissionDenied


def refused_and_recorded(request):
    deny("sessions.attach.refuse", actor=request.user, reason="another user's session")
    raise Denied("That is another user's session.")


def bug(request):
    raise ZeroDivisionError("the secret of the bug")


def gone(request):
    raise Http404


def suspicious(request):
    raise SuspiciousOperation


@permission_required("identity.administer", "audit.view_auditevent")
def guarded(request):
    return HttpResponse(request.request_id)


urlpatterns = [
    *urlpatterns,
    path("t/mendable/", mendable),
    path("t/refused/", refused),
    path("t/refused-by-django/", refused_by_django),
    path("t/refused-and-recorded/", refused_and_recorded),
    path("t/bug/", bug),
    path("t/gone/", gone),
    path("t/suspicious/", suspicious),
    path("t/guarded/", guarded),
]
