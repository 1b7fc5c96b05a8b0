"""What AWS does to a command because of its own limits is told in words."""

import pytest

from tests.support.endpoint import running_endpoint

from .conftest import ends, started

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """An account of which one invocation may be pending."""
    home = tmp_path_factory.mktemp("limits") / "endpoint"
    with running_endpoint(home, FLEETOPS_ENDPOINT_PENDING_INVOCATIONS="1") as running:
        yield running


def test_a_command_over_the_accounts_limit_says_why_it_was_cancelled(document, fleet, operator, agents):
    command = ends(started(document, fleet, operator), "failed")
    told = list(command.invocations.values_list("state", "details"))
    assert [state for state, _ in told] == ["cancelled"] * 3
    assert all("RateExceeded: more of the account's commands" in details for _, details in told)
    assert all(agent.is_quiet(0.3) for agent in agents)
