"""Pages and API of port 22: what they show, and that they do what was shown."""

import pytest
from django.urls import reverse

from fleetops.exposure.models import Closing
from tests.api.conftest import Bearer, make_token
from tests.factories import make_account, make_closing, make_exposing_group, make_instance, make_region, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def opened(roles):
    """The same group id in two accounts, each on a machine of its own; the first cannot be reached otherwise."""
    there = make_instance(name="pay-1", ping_status="")
    other = make_region(account=make_account(account_id="999988887777", name="other"))
    elsewhere = make_instance(name="web-1", region=other, ping_status="Online")
    return [make_exposing_group(there), make_exposing_group(elsewhere)]


def test_the_list_names_each_group_with_its_own_machines(client, opened, django_assert_max_num_queries):
    client.force_login(make_user(role="viewer"), backend="django.contrib.auth.backends.ModelBackend")
    with django_assert_max_num_queries(20):
        text = client.get(reverse("exposure:groups")).content.decode()
    assert text.count("legacy-ssh") == 2 and "pay-1" in text and "web-1" in text and "The world" in text
    assert "Close…" not in text and text.count("Not all reachable without it") == 1
    text = client.get(reverse("exposure:groups") + "?account=999988887777").content.decode()
    assert "web-1" in text and "pay-1" not in text
    assert "Nothing lets SSH" not in client.get(reverse("exposure:groups") + "?grade=private").content.decode()


def test_what_would_be_lost_is_shown_first_and_only_that_is_closed(client, opened):
    client.force_login(make_user("mei", role="administrator"), backend="django.contrib.auth.backends.ModelBackend")
    address = reverse("exposure:close")
    query = "&".join(f"group={each.pk}" for each in opened)
    text = client.get(f"{address}?{query}").content.decode()
    assert "Session Manager does not reach pay-1" in text and text.count('value="sgr-0a1b2c3d"') == 2
    form = {"group": [str(each.pk) for each in opened], "reason": "NET-118"}
    assert client.post(address, form).status_code == 409  # no rule was shown
    form |= {f"rule-{each.pk}": "sgr-0a1b2c3d" for each in opened}
    assert client.post(address, form).status_code == 302
    assert Closing.objects.filter(state="closing", reason="NET-118").count() == 2
    assert "every 2s" in client.get(reverse("exposure:closings")).content.decode()
    assert client.post(address, form).status_code == 409  # both are being changed
    assert Closing.objects.count() == 2


def test_the_api_closes_and_opens_again(opened):
    user = make_user("mei", role="administrator")
    api = Bearer(make_token(user, "exposure:read", "exposure:write"))
    found = api.get(reverse("api:exposure_groups")).json()
    assert [each["account"] for each in found] and found[0]["rules"][0]["opens"] == "SSH"
    assert sum("Session Manager does not reach" in words for each in found for words in each["warnings"]) == 1
    answer = api.post(reverse("api:exposure_closings"), {"groups": [found[0]["id"]], "reason": "NET-118"})
    assert answer.status_code == 201 and answer.json()[0]["state"] == "closing"
    pk = answer.json()[0]["id"]
    assert api.post(reverse("api:exposure_reopen", args=[pk]), {}).status_code == 409
    Closing.objects.filter(pk=pk).update(state="closed")
    assert api.post(reverse("api:exposure_reopen", args=[pk]), {}).json()["state"] == "reopening"
    assert api.get(reverse("api:exposure_closing", args=[pk])).json()["rules"][0]["to"] == "0.0.0.0/0"


def test_what_was_closed_can_be_opened_again_from_its_list(client, opened):
    client.force_login(make_user("mei", role="administrator"), backend="django.contrib.auth.backends.ModelBackend")
    closing = make_closing(opened[0], state="closed")
    assert "Open again" in client.get(reverse("exposure:closings")).content.decode()
    assert client.post(reverse("exposure:reopen", args=[closing.pk])).status_code == 302
    closing.refresh_from_db()
    assert (closing.state, closing.reopened_by_name) == ("reopening", "mei")
