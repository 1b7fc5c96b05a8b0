"""Saved filters: whose they are, who sees them, what the fleet opens with."""

import re

import pytest
from django.test import Client

from fleetops.audit.models import AuditEvent
from fleetops.errors import UserError
from fleetops.inventory import saved
from fleetops.inventory.models import FilterStar, SavedFilter
from tests.factories import make_instance, make_user

pytestmark = pytest.mark.django_db
FLEET, FILTERS = "/fleet/", "/fleet/filters/"


@pytest.fixture
def people(roles):
    make_instance(name="api-1", tags={"env": "prod"})
    return {name: make_user(name, role=role) for name, role in (("ada", "operator"), ("bob", "viewer"), ("eve", ""))}


def client_of(user) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def words_of(response) -> str:
    html = re.sub(r"(?s)<(script|style|svg)\b.*?</\1>", "", response.content.decode())
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def save(user, name="Production", text="env=prod", is_shared=False):
    return saved.save_filter(name=name, text=text, is_shared=is_shared, actor=user)


def test_a_filter_is_saved_from_the_page_in_its_canonical_form_and_used(people):
    client = client_of(people["ada"])
    answer = client.post(FILTERS, {"name": " Paying ", "text": "tag:env=prod  pay", "is_shared": "1"})
    made = SavedFilter.objects.get()
    assert (made.name, made.text, made.is_shared, made.owner) == ("Paying", "env=prod and pay", True, people["ada"])
    assert answer.headers["Location"] == "/fleet/?q=env%3Dprod+and+pay"
    assert "Saved the filter Paying." in words_of(client.get(answer.headers["Location"]))
    event = AuditEvent.objects.get(action="inventory.filter.save")
    assert (event.actor_name, event.target_name, event.details["text"]) == ("ada", "Paying", "env=prod and pay")
    assert (
        'href="/fleet/?q=env%3Dprod+and+pay" aria-current="true"'
        in client.get(made.get_absolute_url()).content.decode()
    )


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"name": "x", "text": "a=1 and b=2 or c=3"}, "Say with parentheses"),
        ({"name": "x", "text": ""}, "This field is required"),
        ({"name": "", "text": "env=prod"}, "This field is required"),
        ({"name": "x" * 65, "text": "env=prod"}, "at most 64"),
        ({"name": "x", "text": "y" * 4001}, "at most 4000"),
    ],
)
def test_what_cannot_be_saved_is_told_and_nothing_changes(people, form, words):
    answer = client_of(people["ada"]).post(FILTERS, form)
    assert answer.status_code == 400
    assert words in words_of(answer)
    assert not SavedFilter.objects.exists()


def test_a_name_is_taken_once_by_an_owner(people):
    save(people["ada"])
    save(people["bob"])
    with pytest.raises(UserError, match="There is a saved filter named Production already"):
        save(people["ada"])
    other = save(people["ada"], "Other")
    with pytest.raises(UserError, match="named Production already"):
        saved.change_filter(other, name="Production", text="env=dev", is_shared=False, actor=people["ada"])
    assert client_of(people["ada"]).post(FILTERS, {"name": "Other", "text": "x"}).status_code == 409
    assert AuditEvent.objects.filter(action="inventory.filter.change").count() == 0


def test_nobody_saves_without_end(people, monkeypatch):
    monkeypatch.setattr(saved, "MOST_FILTERS", 2)
    save(people["ada"], "1")
    save(people["ada"], "2")
    with pytest.raises(UserError, match="which is the most"):
        save(people["ada"], "3")


def test_others_see_what_is_shared_and_nothing_else(people):
    save(people["ada"], "Mine")
    shared = save(people["ada"], "Ours", is_shared=True)
    page = client_of(people["bob"]).get(FILTERS)
    assert "Ours" in words_of(page) and "Mine" not in words_of(page)
    assert "Ours" in words_of(client_of(people["bob"]).get(FLEET))
    assert list(SavedFilter.objects.visible_to(people["eve"])) == []
    assert client_of(people["eve"]).get(FILTERS).status_code == 403
    assert f"/fleet/filters/{shared.pk}/delete/" not in page.content.decode()


@pytest.mark.parametrize("deed", ["", "delete/", "star/"])
def test_what_is_not_shared_is_a_404_to_others_even_to_an_administrator(people, deed):
    private = save(people["ada"])
    for other in (people["bob"], make_user("root", role="administrator")):
        answer = client_of(other).post(f"{FILTERS}{private.pk}/{deed}", {"name": "x", "text": "x"})
        assert answer.status_code == 404
    assert SavedFilter.objects.get().name == "Production"


@pytest.mark.parametrize("deed", ["", "delete/"])
def test_what_is_shared_is_changed_by_its_owner_and_by_administrators(people, deed):
    shared = save(people["ada"], is_shared=True)
    form = {"name": "Prod", "text": "env=prod", "is_shared": "1"}
    assert client_of(people["bob"]).post(f"{FILTERS}{shared.pk}/{deed}", form).status_code == 403
    assert SavedFilter.objects.get().name == "Production"
    client_of(make_user("root", role="administrator")).post(f"{FILTERS}{shared.pk}/{deed}", form)
    assert [each.name for each in SavedFilter.objects.all()] == ([] if deed else ["Prod"])


def test_a_filter_is_renamed_and_deleted_with_its_trace(people):
    made, client = save(people["ada"]), client_of(people["ada"])
    client.post(f"{FILTERS}{made.pk}/", {"name": "Prod", "text": "env=prod not pay"})
    client.post(f"{FILTERS}{made.pk}/", {"name": "Prod", "text": "env=prod and not pay"})  # as it is: no event
    event = AuditEvent.objects.get(action="inventory.filter.change")
    assert event.details["before"] == {"name": "Production", "text": "env=prod", "is_shared": False}
    assert event.details["after"]["text"] == "env=prod and not pay"
    assert client.post(f"{FILTERS}{made.pk}/", {"name": "Prod", "text": "("}).status_code == 409
    client.post(f"{FILTERS}{made.pk}/delete/")
    assert not SavedFilter.objects.exists()
    assert AuditEvent.objects.get(action="inventory.filter.delete").target_name == "Prod"


def test_the_fleet_opens_with_the_filter_that_has_the_star(people):
    ours, client = save(people["ada"], is_shared=True), client_of(people["bob"])
    client.post(f"{FILTERS}{ours.pk}/star/")
    assert client.get(FLEET).headers["Location"] == "/fleet/?q=env%3Dprod"
    assert client.get(f"{FLEET}?q=").status_code == 200  # all of it is one click away
    assert 'href="/fleet/?q="' in client.get(f"{FLEET}?q=env=prod").content.decode()
    assert client_of(people["ada"]).get(FLEET).status_code == 200
    assert "opens the fleet" in words_of(client.get(FILTERS))
    other = save(people["bob"], "Other", "pay")
    client.post(f"{FILTERS}{other.pk}/star/")
    assert client.get(FLEET).headers["Location"] == "/fleet/?q=pay"
    client.post(f"{FILTERS}{other.pk}/star/")
    assert client.get(FLEET).status_code == 200


def test_a_filter_that_is_shared_no_more_opens_nobody_elses_fleet(people):
    ours = save(people["ada"], is_shared=True)
    for name in ("ada", "bob"):
        saved.star_filter(ours, user=people[name])
    saved.change_filter(ours, name="Production", text="env=prod", is_shared=False, actor=people["ada"])
    assert [star.user for star in FilterStar.objects.all()] == [people["ada"]]
    assert client_of(people["bob"]).get(FLEET).status_code == 200
