"""What the pages of tokens and of access keys show alike."""

from typing import Any

from django.core.paginator import Paginator

from .models import Bearer

ROWS = 100


def own(request, model: type[Bearer]) -> dict[str, Any]:
    """One's own, the newest first: `usable` and `ended`."""
    rows = list(model.objects.filter(user=request.user)[: 2 * ROWS])
    usable = [each for each in rows if each.state == "usable"]
    return {"usable": usable, "ended": [each for each in rows if each.state != "usable"][:ROWS]}


def everybodys(request, model: type[Bearer]) -> dict[str, Any]:
    """A `page` of 100, the newest first; how many are `usable`; the `person` whose alone are shown, or ""."""
    visible = model.objects.visible_to(request.user).select_related("user")
    if person := request.GET.get("user", "").replace("\x00", ""):
        visible = visible.filter(user__username=person)
    page = Paginator(visible, ROWS).get_page(request.GET.get("page"))
    return {"page": page, "usable": model.objects.usable().count(), "person": person}
