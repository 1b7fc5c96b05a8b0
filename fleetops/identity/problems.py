"""What errors of the API read like, without DRF: for what stands outside of its views."""

from typing import Any

from django.http import JsonResponse

from fleetops.web.context import current

PROBLEM = "application/problem+json"  # RFC 9457
TITLES = {
    400: "Not understood",
    401: "Not logged in",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible here",
    406: "Not available in this form",
    409: "Not done",
    413: "Too large",
    415: "Not JSON",
    429: "Too many calls",
    500: "FleetOps's mistake",
}


def plain_problem(status: int, detail: str) -> JsonResponse:
    """An error as the API says it, from outside of DRF's views."""
    return JsonResponse(problem_body(status, detail), status=status, content_type=PROBLEM)


def problem_body(status: int, detail: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "about:blank",
        "title": TITLES.get(status, "Not done"),
        "status": status,
        "detail": detail,
        "request_id": current.get().request_id,
        **more,
    }
