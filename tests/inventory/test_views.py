"""The fleet's pages: they work, turn away who may not, hide what is not there, and tell of bad input."""

import json
import re
import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.inventory import listing, services, tasks
from fleetops.inventory.models import Instance, Region
from tests.factories import make_account, make_instance, make_region

pytestmark = pytest.mark.django_db
FLEET = "/fleet/"


def text_of(response) -> str:
    """What a person reads of a page: no tags, single spaces."""
    html = re.sub(r"(?s)<(script|style|svg)\b.*?</\1>", "", response.content.decode())
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


@pytest.fixture
def fleet(db):
    """Three instances that are well, one lost, one stopped."""
    region = make_region()
    Region.objects.update(refreshed_at=now(), started_at=now())
    return [
        make_instance(region=region, name="api-1", tags={"env": "prod", "cluster": "api"}),
        make_instance(region=region, name="api-2", tags={"env": "dev"}),
        make_instance(region=region, name="api-3"),
        make_instance(region=region, name="db-1", ping_status="ConnectionLost"),
        make_instance(region=region, name="db-2", ping_status="", ec2_state="stopped"),
    ]


# --- the list ---


def test_the_fleet_shows_what_can_be_reached_and_what_cannot(client_as, fleet):
    response = client_as("operator").get(FLEET)
    page = text_of(response)
    assert response.status_code == 200
    assert "3 of 5 instances can be reached. 1 needs a fix , 1 is stopped ." in page
    assert page.count("Connect ") >= 3
    assert page.count("See why") == 2
    html = response.content.decode()
    assert html.count('form="connect" name="instance"') == 3
    assert f'value="{fleet[0].pk}"' in html
    assert f'<form id="connect" method="post" action="{reverse("sessions:open")}"' in html


def test_a_viewer_sees_the_fleet_and_no_connect(client_as, fleet):
    html = client_as("viewer").get(FLEET).content.decode()
    assert "api-1" in html
    assert "fo-connect" not in html
    assert "Read again" not in html


def test_who_may_not_see_instances_is_turned_away_and_it_is_recorded(client_as, roles, client, fleet):
    from tests.factories import make_user

    client.force_login(make_user(), backend="django.contrib.auth.backends.ModelBackend")
    urls = (
        FLEET,
        f"{FLEET}live/?rows=&total=0&since=2026-11-25T00:00:00Z",
        f"{FLEET}palette/",
        fleet[0].get_absolute_url(),
    )
    for url in urls:
        assert client.get(url).status_code == 403
    assert AuditEvent.objects.filter(action="web.permission.refuse").count() == len(urls)


def test_who_is_not_logged_in_is_sent_to_the_log_in(client, db):
    assert client.get(FLEET).headers["Location"].startswith(reverse("identity:login"))


@pytest.mark.parametrize("number", [1, 100])
def test_the_list_takes_the_same_few_queries_however_many_rows(client_as, number):
    region = make_region()
    for each in range(number):
        make_instance(region=region, tags={"env": "prod", "n": str(each)})
    client = client_as("operator")
    client.get(FLEET)
    with CaptureQueriesContext(connection) as queries:
        client.get(FLEET)
    # session, user, permissions of user and groups; saved filters; counts, rows, regions; six of the sidebar
    assert len(queries) == 17, [query["sql"][:90] for query in queries]
    with CaptureQueriesContext(connection) as queries:
        client.get(f"{FLEET}?q=tag:env=prod")
    assert len(queries) == 18  # and how many match


def test_a_filter_a_sort_and_a_page_live_in_the_url(client_as, fleet):
    client = client_as("operator")
    page = client.get(f"{FLEET}?q=api&sort=-name")
    assert [row.instance.name for row in page.context["rows"]] == ["api-3", "api-2", "api-1"]
    assert 'aria-sort="descending"' in page.content.decode()
    typed = client.get(f"{FLEET}?q=api&sort=-name&add=tag:env=prod")
    assert typed.headers["Location"] == "/fleet/?q=api+and+env%3Dprod&sort=-name"
    chips = client.get(typed.headers["Location"])
    assert 'aria-label="Remove filter env is prod"' in chips.content.decode()
    assert 'href="/fleet/?q=api&amp;sort=-name"' in chips.content.decode()


def test_a_tab_counts_the_rows_that_it_leads_to(client_as, fleet):
    client = client_as("viewer")
    page = client.get(f"{FLEET}?q=api")
    assert [(tab.key, tab.count) for tab in page.context["tabs"]] == [
        ("all", 3),
        ("needs-a-fix", 0),
        ("online", 3),
        ("stopped", 0),
    ]
    page = client.get(f"{FLEET}?q=db+status:stopped")
    assert "1–1 of 1" in text_of(page)
    assert [tab.key for tab in page.context["tabs"] if tab.is_active] == ["stopped"]
    for tab in page.context["tabs"]:
        assert client.get(tab.url).context["page"].paginator.count == tab.count
    both = client.get(f"{FLEET}?q=status:stopped+status:online")
    assert both.context["page"].paginator.count == len(both.context["rows"]) == 4


@pytest.mark.parametrize(
    "sort", ["name", "status", "platform", "account", "profile", "-status", "", "nonsense", "--name"]
)
def test_every_sort_shows_every_row_once(client_as, fleet, sort):
    rows = client_as("viewer").get(f"{FLEET}?sort={sort}").context["rows"]
    assert sorted(row.instance.name for row in rows) == ["api-1", "api-2", "api-3", "db-1", "db-2"]


def test_what_needs_a_person_sorts_first_by_status(client_as, fleet):
    rows = client_as("viewer").get(f"{FLEET}?sort=status").context["rows"]
    assert [row.word for row in rows] == ["Connection lost", "Stopped", "Online", "Online", "Online"]


def test_pages_hold_a_hundred_rows_and_lead_to_each_other(client_as):
    region = make_region()
    for _ in range(101):
        make_instance(region=region)
    client = client_as("viewer")
    first = client.get(FLEET)
    assert "1–100 of 101" in text_of(first)
    second = client.get(first.context["next_url"])
    assert "101–101 of 101" in text_of(second)
    assert "101–101 of 101" in text_of(client.get(f"{FLEET}?page=77"))
    assert "1–100 of 101" in text_of(client.get(f"{FLEET}?page=x"))


@pytest.mark.parametrize("sort", ["name", "-name", "status", "-status", "platform", "-account", "profile"])
def test_pages_from_either_end_are_one_list(client_as, monkeypatch, sort):
    """Each instance stands on one page, in the list's order, though pages beyond the middle are read from the end."""
    monkeypatch.setattr(listing, "ROWS", 4)
    region = make_region()
    for number in range(23):
        make_instance(
            region=region,
            name=f"same-{number % 3}",
            ping_status="" if number % 4 == 0 else "Online",
            platform_name="Debian" if number % 5 else "",
            profile_arn="" if number % 2 else "arn:aws:iam::111122223333:instance-profile/one",
        )
    client, shown = client_as("viewer"), []
    for page in range(1, 7):
        with CaptureQueriesContext(connection) as queries:
            answer = client.get(FLEET, {"sort": sort, "page": page, "q": ""})
        shown += [row.instance.pk for row in answer.context["rows"]]
        (read,) = [each["sql"] for each in queries if re.search(r"private_ip.* LIMIT [34]\b", each["sql"])]
        skipped = re.search(r"OFFSET (\d+)", read)
        assert (int(skipped[1]) if skipped else 0) == [0, 4, 8, 7, 3, 0][page - 1]
    whole = Instance.objects.with_status().order_by(*listing.order(sort))
    assert shown == [each.pk for each in whole]


def test_a_filter_that_cannot_be_read_is_told_and_stays_to_be_mended(client_as, fleet):
    page = client_as("viewer").get(f"{FLEET}?q=api&add=role:admin")
    assert page.status_code == 200
    assert "“role:” is nothing to filter by." in text_of(page)
    assert 'value="role:admin"' in page.content.decode()
    assert page.context["page"].paginator.count == 3
    bad = client_as("viewer").get(f"{FLEET}?q=env%3Dprod+and+or")
    assert "A condition is missing before or." in text_of(bad)
    assert '<code aria-hidden="true">env=prod and <mark></mark>or</code>' in bad.content.decode()
    assert 'value="env=prod and or"' in bad.content.decode()


# --- a filter while it is typed ---


def typed(client, text, q=""):
    return client.get(FLEET, {"q": q, "add": text}, headers={"HX-Request": "true"})


def test_the_list_follows_what_is_typed(client_as, fleet):
    client = client_as("operator")
    answer = typed(client, "env=prod", q="api")
    html = answer.content.decode()
    assert answer.status_code == 200
    assert [row.name for row in answer.context["rows"]] == ["api-1"]
    assert answer.headers["HX-Replace-Url"] == "/fleet/?q=api+and+env%3Dprod"
    assert 'id="fleet-list"' in html
    assert f'<td data-m="a" id="n-{fleet[0].pk.hex}">' in html  # in its place, and not to be put into another's
    assert "<html" not in html
    assert '<nav class="nav-tabs" id="fleet-tabs" aria-label="Views" hx-swap-oob="true">' in html
    assert re.search(r'id="fleet-count" role="status" hx-swap-oob="true">\s*1 matches', html)
    assert live_values(answer)["q"] == "api and env=prod"
    cleared = typed(client, "", q="")
    assert len(cleared.context["rows"]) == 5
    assert "matches" not in text_of(cleared)


@pytest.mark.parametrize("text", ["env=prod and", "a=1 and b=2 or c=3", "regoin=eu", "((((", '"', "\x01"])
def test_rows_stay_while_what_is_typed_cannot_be_read(client_as, fleet, text):
    answer = typed(client_as("viewer"), text)
    assert answer.status_code == 200
    assert answer.headers["HX-Reswap"] == "none"
    assert "The list stays as it is." in text_of(answer)
    assert "fleet-list" not in answer.content.decode()


def test_what_is_typed_takes_as_few_queries_as_a_page(client_as, fleet):
    client = client_as("viewer")
    typed(client, "api")
    with CaptureQueriesContext(connection) as queries:
        typed(client, "env=prod and not cluster=db")
    assert len(queries) == 11  # a page's with a filter, but for saved filters and the sidebar's three


def test_completion_and_preview_answer_as_json(client_as, fleet):
    client = client_as("viewer")
    found = client.get(f"{FLEET}complete/", {"text": "env=", "at": "4"}).json()
    assert found == {
        "start": 4,
        "end": 4,
        "options": [{"text": "dev", "note": ""}, {"text": "prod", "note": ""}],
    }
    assert client.get(f"{FLEET}complete/", {"text": "e", "at": "no number", "words": "1"}).json()["end"] == 1
    told = client.get(f"{FLEET}preview/", {"text": "env=prod"}).json()
    assert (told["count"], told["total"], told["warning"], told["text"]) == (1, 5, "", "env=prod")
    assert told["first"] == [{"name": "api-1", "url": fleet[0].get_absolute_url()}]
    everything = client.get(f"{FLEET}preview/", {"text": "all"}).json()
    assert everything["warning"] == "This matches every instance, also each that will be launched."
    wrong = client.get(f"{FLEET}preview/", {"text": "env=prod or a=1 and b=2"}).json()
    assert wrong["position"] == 16
    assert "Say with parentheses" in wrong["error"]


def test_a_filter_that_matches_nothing_names_the_part_that_costs_most(client_as, fleet):
    page = client_as("viewer").get(f"{FLEET}?q=api+tag:env=prod+status:stopped")
    assert "Nothing matches this filter" in text_of(page)
    assert b'id="fleet-age"' in page.content  # the page that asks what changed puts the age there
    assert "Without status is stopped , 1 instance matches." in text_of(page)
    assert "/fleet/?q=api+and+env%3Dprod" in page.content.decode()


def test_no_account_says_what_to_do(client_as):
    assert "No account is linked yet" in text_of(client_as("administrator").get(FLEET))


def test_an_account_that_was_never_read_waits_for_its_first_reading(client_as):
    make_region()
    client = client_as("viewer")
    assert "Reading the fleet for the first time" in text_of(client.get(FLEET))
    asked = live_values(client.get(FLEET))
    make_instance()
    assert client.get(f"{FLEET}live/", asked).headers["HX-Refresh"] == "true"


def test_a_region_that_fails_says_why_and_how_old_the_rest_is(client_as, fleet):
    Region.objects.update(error="AWS refused ssm:DescribeInstanceInformation.")
    page = text_of(client_as("viewer").get(FLEET))
    assert "account-1111 eu-west-1 could not be read in full. It last was at" in page
    assert "AWS refused ssm:DescribeInstanceInformation." in page
    assert "1 region cannot be read in full." in page


def test_what_aws_lists_no_more_is_not_in_the_list(client_as, fleet):
    Instance.objects.filter(name="api-1").update(gone_at=now())
    assert "api-1" not in text_of(client_as("viewer").get(FLEET))


def test_names_from_aws_are_text_and_never_markup(client_as):
    make_instance(name="<script>alert(1)</script>", tags={"<b>": '"><img src=x onerror=alert(2)>'})
    html = client_as("operator").get(FLEET).content.decode()
    assert "<script>alert" not in html
    assert "<img src=x" not in html


# --- what an open page asks ---


def live_values(response) -> dict:
    """What the page asks with, as htmx reads it."""
    from html import unescape

    return json.loads(unescape(re.search(r'hx-vals="([^"]*)"', response.content.decode()).group(1)))


def test_an_open_page_gets_the_cells_that_changed_and_no_others(client_as, fleet):
    client = client_as("operator")
    page = client.get(FLEET)
    Instance.objects.update(changed_at=now() - timedelta(minutes=1))
    quiet = client.get(f"{FLEET}live/", live_values(page)).content.decode()
    assert "<td" not in quiet
    assert 'id="fleet-answer"' not in quiet

    Instance.objects.filter(pk=fleet[0].pk).update(ping_status="ConnectionLost", changed_at=now())
    changed = client.get(f"{FLEET}live/", live_values(page)).content.decode()
    assert f'<td data-m="b" id="s-{fleet[0].pk.hex}" hx-swap-oob="true">' in changed
    assert fleet[1].pk.hex not in re.sub(r'hx-vals="[^"]*"', "", changed)
    assert "Connection lost" in changed
    assert "2 of 5" in changed


def test_an_open_page_is_told_of_more_and_fewer_rows(client_as, fleet):
    client = client_as("viewer")
    asked = live_values(client.get(f"{FLEET}?q=api"))
    make_instance(name="api-4")
    assert "1 more , show" in text_of(client.get(f"{FLEET}live/", asked)).replace("more, show", "more , show")
    Instance.objects.filter(name__in=["api-1", "api-2", "api-4"]).update(gone_at=now())
    assert "2 fewer, show" in text_of(client.get(f"{FLEET}live/", asked))


def test_a_row_that_is_gone_says_so_on_an_open_page(client_as, fleet):
    client = client_as("operator")
    asked = live_values(client.get(FLEET))
    Instance.objects.filter(pk=fleet[0].pk).update(gone_at=now(), changed_at=now())
    html = client.get(f"{FLEET}live/", asked).content.decode()
    assert "Gone" in html
    assert "fo-connect" not in html


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"rows": "", "since": "yesterday", "total": "1"},
        {"rows": "", "since": "2026-11-25T00:00:00", "total": "1"},
        {"rows": "x", "since": "2026-11-25T00:00:00Z", "total": "1"},
        {"rows": ",".join([uuid.uuid4().hex] * 101), "since": "2026-11-25T00:00:00Z", "total": "1"},
        {"rows": "", "since": "2026-11-25T00:00:00Z", "total": "many"},
        {"rows": "", "since": "2026-11-25T00:00:00Z", "total": "-1"},
        {"rows": "", "since": "2026-11-25T00:00:00Z", "total": "9" * 4000},
        {"rows": "", "since": "0001-01-01T00:00:00Z", "total": "1"},  # nothing is earlier
        {"rows": "", "since": "9999-12-31T23:59:59-23:59", "total": "1"},
    ],
)
def test_a_page_that_asks_wrongly_is_told_to_load_again(client_as, asked):
    response = client_as("viewer").get(f"{FLEET}live/", asked)
    assert response.status_code == 400
    assert "load it again" in response.content.decode()


# --- one instance ---


def test_an_instance_says_why_it_cannot_be_reached(client_as):
    lost = make_instance(
        name="db-1", profile_arn="", ping_status="", last_ping_at=None, agent_version="", tags={"a": "b"}
    )
    page = client_as("operator").get(lost.get_absolute_url())
    words = text_of(page)
    assert "No instance profile" in words
    assert "Fix: Attach an instance profile whose role has AmazonSSMManagedInstanceCore." in words
    assert "disabled title=" in page.content.decode()
    assert reverse("sessions:panel", args=[lost.pk]) in page.content.decode()
    part = client_as("operator").get(lost.get_absolute_url(), headers={"HX-Request": "true"}).content.decode()
    assert part.lstrip().startswith("<section")
    assert 'id="instance-badge" hx-swap-oob="true"' in part


def test_an_instance_that_is_well_can_be_connected_to(client_as, fleet):
    html = client_as("operator").get(fleet[0].get_absolute_url()).content.decode()
    assert f'form="connect" name="instance" value="{fleet[0].pk}">' in html
    assert "4 of 4 checks pass" in html


def test_a_viewer_sees_an_instance_and_no_connect(client_as, fleet):
    html = client_as("viewer").get(fleet[0].get_absolute_url()).content.decode()
    assert "Can be reached" in html
    assert 'form="connect"' not in html


def test_an_instance_that_is_not_there_is_a_404(client_as):
    client = client_as("administrator")
    assert client.get(f"{FLEET}{uuid.uuid4()}/").status_code == 404


def test_an_instance_page_takes_few_queries(client_as, fleet):
    client = client_as("operator")
    client.get(fleet[0].get_absolute_url())
    with CaptureQueriesContext(connection) as queries:
        client.get(fleet[0].get_absolute_url())
    assert len(queries) == 13  # six of them the sidebar's, two the policy's


# --- reading again ---


@pytest.fixture
def queued(monkeypatch):
    """The regions that were given to workers."""
    found = []
    monkeypatch.setattr(tasks.refresh_region, "delay", found.append)
    return found


def test_an_operator_has_the_regions_read_now(client_as, queued):
    region = make_region()
    response = client_as("operator").post(f"{FLEET}refresh/", {"next": "/fleet/?q=api"})
    assert response.headers["Location"] == "/fleet/?q=api"
    assert queued == [region.pk]
    client_as("operator").post(f"{FLEET}refresh/")
    assert queued == [region.pk]  # once in five seconds


def test_a_viewer_may_not_have_them_read(client_as, queued):
    make_region()
    assert client_as("viewer").post(f"{FLEET}refresh/").status_code == 403
    assert queued == []


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example/", "javascript:alert(1)", "fleet"])
def test_reading_again_leads_nowhere_else(client_as, queued, elsewhere):
    response = client_as("operator").post(f"{FLEET}refresh/", {"next": elsewhere})
    assert response.headers["Location"] == FLEET


def test_a_get_reads_nothing(client_as, queued):
    make_region()
    assert client_as("operator").get(f"{FLEET}refresh/").status_code == 405
    assert queued == []


# --- the palette ---


def test_the_palette_finds_instances_those_that_can_be_reached_first(client_as, fleet):
    found = client_as("operator").get(f"{FLEET}palette/?q=").json()["instances"]
    assert [each["name"] for each in found] == ["api-1", "api-2", "api-3", "db-2", "db-1"]
    assert found[0] == {
        "id": str(fleet[0].pk),
        "pk": str(fleet[0].pk),
        "instance_id": fleet[0].instance_id,
        "name": "api-1",
        "status": "Online",
        "url": fleet[0].get_absolute_url(),
        "connect_url": reverse("sessions:open"),
        "as_url": f"{reverse('sessions:open_as')}?instance={fleet[0].pk}",
    }
    assert found[4]["connect_url"] is None


def test_the_palette_offers_a_viewer_no_connect(client_as, fleet):
    found = client_as("viewer").get(f"{FLEET}palette/?q=api-1").json()["instances"]
    assert [(each["name"], each["connect_url"]) for each in found] == [("api-1", None)]


# --- tasks ---


def test_beats_tick_gives_each_due_region_to_a_worker_once(queued):
    region = make_region()
    tasks.refresh_due_regions()
    tasks.refresh_due_regions()
    assert queued == [region.pk]


def test_a_task_that_runs_out_of_time_says_so(monkeypatch):
    region = make_region()
    services.claim_due_regions(now=now())

    def too_long(*args, **kwargs):
        raise tasks.SoftTimeLimitExceeded

    monkeypatch.setattr(services, "refresh_region", too_long)
    tasks.refresh_region(region.pk)
    region.refresh_from_db()
    assert "longer than 90 s" in region.error
    assert AuditEvent.objects.get().source == "worker"


def test_two_accounts_keep_their_names_apart(client_as):
    make_instance(name="api-1", region=make_region(account=make_account("222233334444", name="corp-it")))
    make_instance(name="api-1")
    page = text_of(client_as("viewer").get(f"{FLEET}?q=account:corp-it"))
    assert "1–1 of 1" in page
