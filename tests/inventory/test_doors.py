"""What the fleet's pages show of the access policy: where Connect is offered, and why it is not."""

import json
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleetops.clock import now
from fleetops.inventory.doors import PolicyFleet, shells
from fleetops.inventory.models import Instance
from fleetops.policy import services as policy
from fleetops.targets import parse
from tests.factories import make_instance, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def prod(roles):
    return make_instance(name="api-prod", tags={"env": "prod"})


@pytest.fixture
def dev(roles):
    return make_instance(name="api-dev", tags={"env": "dev"})


def client_of(role: str) -> Client:
    client = Client()
    client.force_login(make_user(role=role), backend="django.contrib.auth.backends.ModelBackend")
    return client


def no_prod(**fields):
    given = {"effect": "deny", "everybody": True, "deeds": ["shell"], "targets": "env=prod", "note": "Freeze"}
    return policy.create_rule(actor="test", name="No prod", **(given | fields))


def test_the_list_offers_connect_where_the_policy_allows_it_and_else_says_why_not(prod, dev):
    no_prod()
    text = client_of("operator").get(reverse("inventory:fleet")).content.decode()
    assert f'value="{dev.pk}" title="Open a shell on api-dev"' in text
    assert "Open a shell on api-prod" not in text
    assert 'aria-label="See why you may not open a shell on api-prod"' in text
    assert "Rule “No prod” denies it: Freeze." in text


def test_a_list_of_a_hundred_takes_no_more_queries_for_it_than_one_of_one(roles):
    user = make_user(role="operator")
    instances = [make_instance(tags={"env": "prod"}) for _ in range(100)]
    no_prod()
    rows = list(Instance.objects.select_related("account", "region"))
    policy.rules()
    with CaptureQueriesContext(connection) as queries:
        decisions = shells(user, rows)
    assert len(queries) == 2
    assert len(decisions) == len(instances) and not any(each.may_try for each in decisions)


def test_who_has_no_role_for_shells_gets_connect_by_a_rule(prod, dev):
    rule = {"everybody": True, "deeds": ["shell"], "targets": "env=dev", "needs_reason": True}
    policy.create_rule(actor="test", name="Dev", **rule)
    client = client_of("viewer")
    text = client.get(reverse("inventory:fleet")).content.decode()
    assert "Open a shell on api-dev" in text and "Open a shell on api-prod" not in text
    page = client.get(dev.get_absolute_url()).content.decode()
    assert "Rule “Dev” would allow it, but needs a reason. Connect asks for it." in page
    assert 'id="instance-connect-button"' in page


def test_an_instances_page_says_why_not_and_goes_on_saying_it(prod):
    client = client_of("operator")
    assert "You may not open a shell here" not in client.get(prod.get_absolute_url()).content.decode()
    no_prod()
    for headers in ({}, {"HX-Request": "true"}):
        page = client.get(prod.get_absolute_url(), headers=headers).content.decode()
        assert "You may not open a shell here" in page and "Rule “No prod” denies it: Freeze." in page
        assert 'disabled title="Not allowed: Rule “No prod”' in page
    assert "What each rule says" not in page
    assert reverse("policy:simulate") in client_of("administrator").get(prod.get_absolute_url()).content.decode()


def test_the_palette_offers_connect_where_the_policy_allows_it(prod, dev):
    no_prod()
    found = client_of("operator").get(reverse("inventory:palette"), {"q": "api"}).json()["instances"]
    assert {each["name"]: bool(each["connect_url"]) for each in found} == {"api-prod": False, "api-dev": True}


def test_the_policys_pages_find_and_count_what_their_reader_may_see(prod, dev):
    user, stranger = make_user(role="viewer"), make_user()
    fleet = PolicyFleet()
    assert [each.facts.name for each in fleet.find("api-prod", user)] == ["api-prod"]
    assert len(fleet.find("API", user)) == 2 and not fleet.find("api", stranger) and not fleet.find("\x00nil", user)
    assert fleet.find(dev.instance_id, user)[0].url == dev.get_absolute_url()
    assert (fleet.count(parse("env=prod"), user), fleet.count(parse("all"), user)) == (1, 2)
    assert fleet.count(parse("all"), stranger) == 0


def test_a_list_that_is_open_follows_a_rule_that_changes(prod, dev):
    client = client_of("operator")
    page = client.get(reverse("inventory:fleet"))
    Instance.objects.update(changed_at=now() - timedelta(days=1))
    asked = json.loads(page.context["live_values"])
    assert client.get(reverse("inventory:live"), asked).context["rows"] == []
    no_prod()
    answer = client.get(reverse("inventory:live"), asked)
    assert {row.instance.pk for row in answer.context["rows"]} == {prod.pk, dev.pk}
    again = json.loads(answer.context["live_values"])
    assert client.get(reverse("inventory:live"), again).context["rows"] == []
