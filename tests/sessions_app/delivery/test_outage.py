"""An outage of a day, and one of three weeks, by the shifted clock of endpoint and product."""

import pytest

from fleetops import clock
from fleetops.aws.clients import forget_clients
from fleetops.clock import now
from tests.support.clock import clock_file, following  # noqa: F401
from tests.support.endpoint import running_endpoint

from .reading import lines, numbers, once_each, read

pytestmark = pytest.mark.django_db

DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def clock_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("outage") / "clock.json"
    clock.set_shift(path)
    return path


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory, clock_path):
    home = tmp_path_factory.mktemp("outage") / "endpoint"
    with running_endpoint(home, FLEETOPS_CLOCK_FILE=str(clock_path)) as running:
        yield running


@pytest.fixture(autouse=True)
def shifted(clock_path, monkeypatch):
    import botocore.auth

    monkeypatch.setattr(botocore.auth, "get_current_datetime", botocore.auth.get_current_datetime)
    clock.follow(clock_path)
    yield
    clock.follow(None)
    forget_clients()


@pytest.fixture
def away(faults):
    """CloudWatch Logs does not answer, until it does."""
    faults.put("away", "error", match={"service": "logs"}, code="ServiceUnavailable", status=503)
    return lambda: faults.delete("away")


@pytest.mark.parametrize(("days", "late"), [(1, 0), (21, 3)])
def test_what_was_shown_before_an_outage_is_there_after_it_once_and_says_when_it_was(
    endpoint, recorded, away, clock_path, days, late
):
    made = recorded().show(b"before\r\n").seal()
    made.deliver()
    assert made.row.waiting_since is not None and made.row.events == 0
    shown_at = now()
    clock.set_shift(clock_path, jump=days * 86_400)
    made.deliver()
    assert made.row.tries == 2
    made.show(b"meanwhile\r\n").seal()
    away()
    made.deliver()
    made.end().deliver()
    found = read_as_of_now(endpoint, made.row)
    assert lines(found) == ["before", "meanwhile"]
    assert sorted(numbers(found)) == [1, 2, 3, 4] and made.row.done_at is not None
    if not late:
        once_each(found)
    before = next((at, event) for at, event in found if "before" in event.get("sessionData", ()))
    assert before[1]["eventTime"][:16] <= shown_at.strftime("%Y-%m-%dT%H:%M")
    assert before[1]["fleetops"].get("isLate", False) == bool(late)
    assert made.row.late_events == late
    own = round(shown_at.timestamp() * 1000)
    assert abs(before[0] - own) < DAY_MS / 2 if not late else before[0] > own + 6 * DAY_MS


def read_as_of_now(endpoint, row):
    """By a client that signs with the shifted time."""
    endpoint.clients.clear()
    return read(endpoint, row)
