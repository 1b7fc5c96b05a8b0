"""The auditor's pages: they work, they turn away, they tell, and they stay quick on a long log."""

import re
import uuid
from datetime import timedelta

import pytest
from django.urls import reverse

from fleetops.audit import chain
from fleetops.audit.chain import Sealer
from fleetops.audit.models import AuditEvent
from fleetops.audit.record import ACTIONS, digest, record
from fleetops.clock import now
from fleetops.review import listing, words
from tests.audit.support import make_events, tampering
from tests.factories import make_instance, make_session, make_user

HTMX = {"HX-Request": "true"}


@pytest.fixture(autouse=True)
def own_home(settings, tmp_path):
    settings.HOME = tmp_path


@pytest.fixture
def auditor(client, roles):
    user = make_user("amara.okafor", role="auditor")
    client.force_login(user)
    return user


def page_of(client, query="", **headers):
    answer = client.get(f"/audit/{query}", headers=headers)
    assert answer.status_code == 200
    return answer.content.decode()


def shown(page: str) -> list[str]:
    return re.findall(r'<tr id="e-([0-9a-f]{32})"', page)


# --- The list --------------------------------------------------------------------------------------------------------


def test_the_page_answers_whether_the_log_is_whole_and_what_was_denied(client, auditor):
    record("web.permission.refuse", actor=auditor, outcome="denied", reason="no")
    Sealer().seal()
    page = page_of(client)
    assert "Chain <b>verified</b>" in page and "no row changed or missing in <b>9</b>" in page
    assert "1 denial</a>" in page and 'href="?q=outcome:denied+since:today"' in page


def test_each_row_shows_who_did_what_where_and_the_name_of_the_action(client, auditor):
    user, instance = make_user("mei.tanaka"), make_instance(name="pg-ledger-eu1a-1")
    session = make_session(user=user, instance=instance)
    record("sessions.open", actor=user, target=instance, session=session, reason="INC-4821")
    page = page_of(client)
    row = page[page.index('<tr id="e-') : page.index("</tr>", page.index('<tr id="e-'))]
    for text in ("mei.tanaka", "opened a session", "pg-ledger-eu1a-1", "INC-4821", "sessions.open", "Done"):
        assert text in row
    assert reverse("sessions:replay", args=[session.pk]) in row


@pytest.mark.parametrize("role", ["viewer", "operator", "patch_owner", ""])
def test_who_may_not_see_the_log_is_refused_and_that_is_in_the_log(client, roles, role):
    client.force_login(make_user("jonas", role=role))
    event = record("sessions.open", actor="worker")
    for path in ("/audit/", f"/audit/{event.pk}/"):
        assert client.get(path).status_code == 403
    for path in ("/audit/verify/", f"/audit/{event.pk}/prove/"):
        assert client.post(path).status_code == 403
    refused = AuditEvent.objects.filter(action="web.permission.refuse", actor_name="jonas", outcome="denied")
    assert refused.count() == 4
    assert not AuditEvent.objects.filter(action="audit.verify").exists()


def test_the_bare_page_shows_the_last_day_and_what_was_searched_shows_all(client, auditor):
    old = record("sessions.open", actor="worker")
    with tampering():
        AuditEvent.objects.filter(pk=old.pk).update(at=now() - timedelta(days=3))
    assert old.pk.hex not in shown(page_of(client))
    assert old.pk.hex in shown(page_of(client, "?q="))
    assert old.pk.hex in shown(page_of(client, "?q=action:sessions.open"))


def test_what_is_typed_joins_the_chips(client, auditor):
    answer = client.get("/audit/?q=who:mei&add=outcome:denied+ledger")
    assert (answer.status_code, answer["Location"]) == (302, "/audit/?q=who%3Amei+outcome%3Adenied+ledger")


def test_a_filter_that_cannot_be_read_is_told(client, auditor):
    page = page_of(client, "?q=&add=since:soon")
    assert "since:soon is no time" in page and 'value="since:soon"' in page


def test_what_is_typed_is_escaped(client, auditor):
    page = page_of(client, '?q="<script>alert(1)</script>')
    assert "<script>alert" not in page and "&lt;script&gt;" in page


def test_an_empty_result_offers_the_way_out(client, auditor):
    page = page_of(client, "?q=outcome:denied nothinglikethis")
    assert "No event matches" in page and "Remove nothinglikethis" in page and "Show everything" in page


def test_facets_count_and_choose(client, auditor):
    make_events(3)
    record("web.permission.refuse", actor="worker", outcome="denied")
    page = page_of(client, "?q=outcome:denied")
    done = re.search(r'aria-checked="(\w+)" href="([^"]*)">[^/]*/span><span class="truncate" title="Done">Done</span>'
                     r'<span class="num">(\d+)', page)  # fmt: skip
    assert done.groups() == (
        "false",
        "?q=outcome%3Adenied%2Cdone",
        "11",
    )  # three, and that the roles and their seven rules were made
    assert re.search(r'aria-checked="true"[^>]*>[^/]*/span><span class="truncate" title="Denied">', page)


def test_pages_go_by_key_both_ways_without_a_gap_or_a_repetition(client, auditor, monkeypatch):
    monkeypatch.setattr(listing, "ROWS", 10)
    make_events(32)
    everything = [pk.hex for pk in AuditEvent.objects.order_by("-pk").values_list("pk", flat=True)]
    seen, query, last = [], "?q=", ""
    while query:
        page = page_of(client, query)
        seen += shown(page)
        older = re.search(r'href="(\?q=&amp;before=[0-9a-f-]+)"', page)
        last, query = query, older and older[1].replace("&amp;", "&")
    assert seen == everything
    newer = re.search(r'href="(\?q=&amp;after=[0-9a-f-]+)"', page_of(client, last))[1].replace("&amp;", "&")
    assert shown(page_of(client, newer)) == everything[20:30]


@pytest.mark.parametrize(
    "query", ["?before=x", "?after=", "?open=nothing", "?open=6f0e4e0a-5c2b-4a51-9d0c-2b7f9a1c3d5e", "?q=%00", "?q=:"]
)
def test_addresses_that_make_no_sense_still_give_a_page(client, auditor, query):
    page_of(client, query)


def test_an_event_opens_beside_the_list_with_and_without_javascript(client, auditor):
    make_events(3)
    event = AuditEvent.objects.order_by("-pk")[1]
    whole = page_of(client, f"?q=&open={event.pk}")
    assert 'aria-labelledby="event-title"' in whole and len(shown(whole)) == 11
    part = page_of(client, f"?q=&open={event.pk}", **HTMX, **{"HX-Target": "drawer"})
    assert part.lstrip().startswith("{#") is False and "<html" not in part and shown(part) == []
    assert 'id="drawer"' in part and str(event.pk) in part


def test_ten_thousand_rows_are_quick_and_cost_the_same_queries(client, auditor, django_assert_max_num_queries):
    model = record("sessions.open", actor="worker", reason="x")
    rows = []
    for number in range(10_000):
        row = AuditEvent(action=model.action, actor_kind="system", actor_name=f"worker{number % 9}", source="worker")
        row.digest = digest(row)
        rows.append(row)
    AuditEvent.objects.bulk_create(rows, batch_size=1000)
    Sealer().seal(seconds=60)
    page_of(client)  # templates are compiled
    # Browser session, user and permissions 4; drawer none; rows 1; facets 4; histogram 1; chain 8; denials 1;
    # beside the link of the runs 1.
    with django_assert_max_num_queries(22):
        page = page_of(client)
    assert len(shown(page)) == 100
    assert "10,00" in page  # the facets' counts


# --- One event -------------------------------------------------------------------------------------------------------


def test_an_event_has_a_page_with_facts_proof_and_record(client, auditor):
    user, instance = make_user("mei.tanaka"), make_instance(name="pg-ledger-eu1a-1")
    session = make_session(user=user, instance=instance)
    make_events(1)
    event = record("sessions.open", actor=user, target=instance, session=session, reason="INC-4821", columns=80)
    make_events(1)
    Sealer().seal()
    page = client.get(f"/audit/{event.pk}/").content.decode()
    for text in ("sessions.open", "mei.tanaka", "INC-4821", "Columns", "111122223333", "hash matches", event.digest):
        assert text in page
    for link in (
        reverse("sessions:replay", args=[session.pk]),
        reverse("inventory:instance", args=[instance.pk]),
        f"/audit/?q=session:{session.pk}",
    ):
        assert f'href="{link}"' in page


def test_an_event_that_is_not_sealed_yet_says_what_that_means(client, auditor):
    (event,) = make_events(1)
    page = client.get(f"/audit/{event.pk}/").content.decode()
    assert "Not sealed yet" in page and "digest matches" in page


def test_verify_now_tells_what_was_changed_since_the_page_was_opened(client, auditor):
    events = make_events(3)
    Sealer().seal()
    path = f"/audit/{events[1].pk}/prove/"
    assert "hash matches" in client.post(path, headers=HTMX).content.decode()
    with tampering():
        AuditEvent.objects.filter(pk=events[1].pk).update(reason="because")
    part = client.post(path, headers=HTMX).content.decode()
    assert "The row was changed after it was written" in part and "does not match" in part and "<html" not in part
    assert client.post(path)["Location"] == f"/audit/{events[1].pk}/"


def test_an_unknown_event_is_a_404_and_proving_it_too(client, auditor):
    pk = uuid.uuid4()
    assert client.get(f"/audit/{pk}/").status_code == 404
    assert client.post(f"/audit/{pk}/prove/").status_code == 404


# --- The chain -------------------------------------------------------------------------------------------------------


def test_verify_chain_recomputes_everything_and_is_recorded(client, auditor):
    make_events(3)
    Sealer().seal()
    answer = client.post("/audit/verify/", follow=True)
    assert "All 11 links recomputed" in answer.content.decode()
    event = AuditEvent.objects.get(action="audit.verify")
    assert (event.actor_name, event.outcome, event.details["number"]) == ("amara.okafor", "done", 11)


def test_a_broken_chain_is_the_first_thing_one_reads(client, auditor):
    events = make_events(3)
    Sealer().seal()
    with tampering():
        AuditEvent.objects.filter(pk=events[0].pk).update(reason="x")
    assert "The chain is broken" in page_of(client)
    answer = client.post("/audit/verify/", follow=True)
    assert f"event {events[0].pk} was changed" in answer.content.decode()
    # It stays so, and names the event that found it, though this view only goes on from there.
    event = AuditEvent.objects.get(action="audit.verify")
    assert f'<a class="bad" href="/audit/{event.pk}/">The chain is broken</a>' in page_of(client)


def test_the_page_goes_on_from_the_last_whole_look_and_believes_no_forged_one(client, auditor, monkeypatch):
    make_events(3)
    Sealer().seal()
    client.post("/audit/verify/")
    make_events(2)
    Sealer().seal()
    walked = []
    monkeypatch.setattr(chain, "link_hash", lambda *link, real=chain.link_hash: walked.append(link) or real(*link))
    assert "missing in <b>14</b>" in page_of(client)
    assert len(walked) == 3  # two, and the audit.verify itself
    with tampering():
        AuditEvent.objects.filter(action="audit.verify").update(details={"number": 14, "hash": "ab" * 32})
    assert "which tells of the last verification, was changed" in page_of(client)


def test_an_end_that_was_cut_off_is_told(client, auditor):
    make_events(3)
    Sealer().seal()
    with tampering():
        from fleetops.audit.models import AuditSeal

        AuditSeal.objects.filter(number=11)._raw_delete(using="default")
    assert "the end is cut off" in page_of(client)


def test_a_long_chain_is_left_to_a_worker(client, auditor, monkeypatch):
    from fleetops.audit import tasks
    from fleetops.review import views

    asked = []
    monkeypatch.setattr(views, "LINKS_AT_ONCE", 2)
    monkeypatch.setattr(tasks.verify, "delay", lambda: asked.append(1))  # no broker here
    make_events(3)
    Sealer().seal()
    answer = client.post("/audit/verify/", follow=True)
    assert asked and "A worker recomputes 11 links" in answer.content.decode()


def test_every_action_reads_as_words_and_has_a_kind():
    assert words.VERBS.keys() == set(ACTIONS)
    assert all(words.kind_of(action) for action in ACTIONS)


def test_nothing_inline_is_in_the_pages(client, auditor):
    (event,) = make_events(1)
    for page in (page_of(client, f"?open={event.pk}"), client.get(f"/audit/{event.pk}/").content.decode()):
        assert not re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|\son[a-z]+=", page)


# --- the panel of an instance ---


def test_an_instances_page_shows_what_was_done_to_it_and_in_its_sessions(client, roles):
    instance, other = make_instance(name="pay-1"), make_instance(name="pay-2")
    session = make_session(user=make_user("maria", role="operator"), instance=instance)
    elsewhere = make_session(user=make_user("noor", role="operator"), instance=other)
    record("sessions.open", actor=session.user, target=instance, session=session, reason="Ticket 7")
    record("sessions.end", actor="worker", session=session)
    record("sessions.open", actor=elsewhere.user, target=other, session=elsewhere)
    client.force_login(make_user(role="auditor"), backend="django.contrib.auth.backends.ModelBackend")
    page = client.get(instance.get_absolute_url()).content.decode()
    assert f'hx-get="/audit/instance/{instance.pk}/"' in page
    panel = client.get(f"/audit/instance/{instance.pk}/").content.decode()
    assert "maria" in panel and "Ticket 7" in panel and "sessions.end" in panel
    assert "noor" not in panel
    assert panel.index("sessions.end") < panel.index("sessions.open")
    client.force_login(make_user(role="operator"), backend="django.contrib.auth.backends.ModelBackend")
    assert "/audit/instance/" not in client.get(instance.get_absolute_url()).content.decode()


def test_an_instances_panel_takes_the_same_few_queries_however_much_was_done(client, roles, django_assert_num_queries):
    instance = make_instance()
    client.force_login(make_user(role="auditor"), backend="django.contrib.auth.backends.ModelBackend")
    for _ in range(30):
        record("sessions.open", actor="worker", target=instance)
    client.get(f"/audit/instance/{instance.pk}/")
    with django_assert_num_queries(7):
        panel = client.get(f"/audit/instance/{instance.pk}/")
    assert panel.content.decode().count("<tr>") == 13  # a head, and the latest twelve
