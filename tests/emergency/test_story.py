"""An emergency on demo nodes: four clicks, a canary, then the other; fixed by their reports, with the list alone."""

import re

import pytest
from django.test import Client

from fleetops.clock import now
from fleetops.inventory.models import Instance
from fleetops.library import services as library
from fleetops.policy import services as policy
from fleetops.rollouts import advancing
from fleetops.rollouts.models import Run
from fleetops.runcommand import dispatching
from fleetops.runcommand.models import Command, Dispatch
from patching.compliance.models import PatchSpan, SpanCve
from patching.emergency import progress
from patching.emergency.models import Emergency
from tests.compliance.conftest import patch, read_all, region  # noqa: F401
from tests.factories import make_user
from tests.support.endpoint import until

pytestmark = pytest.mark.django_db(transaction=True)
NODES = ("pay-api-eu1a-01", "pay-api-eu1b-02")


def step(run: Run) -> Run:
    moment = now()
    Run.objects.filter(pk=run.pk).update(sends_at=None)
    run.targets.filter(state__in=["ran", "rebooted"]).update(due_at=None)
    run.waves.filter(state="soaking").update(soak_until=moment)
    advancing.advance(run.pk)
    Dispatch.objects.exclude(state="sending").update(due_at=moment)
    for command in Command.objects.open():
        dispatching.advance(command.pk)
    run.refresh_from_db()
    return run


def text(response) -> str:
    return " ".join(response.content.decode().split())


def test_four_clicks_mend_a_cve_and_the_page_says_how_long_it_took(valkey, region, patch):  # noqa: F811
    policy.make_defaults()
    for shelf in library.claim_due_shelves(now=now()):
        library.read_shelf(shelf, now=now())
    nodes = list(Instance.objects.filter(region=region, name__in=NODES).order_by("name"))
    patch(*(each.instance_id for each in nodes))
    read_all()
    cve = SpanCve.objects.filter(span__state="MISSING", span__instance=nodes[0]).order_by("cve").first().cve
    browser = Client()
    browser.force_login(make_user("mei", role="administrator"))

    # Click 1: Emergency, in the navigation.
    clicks = 1
    first = browser.get("/emergency/")
    assert re.search(r'class="nav-link active" href="/emergency/"', text(first))

    # Click 2: the CVE, which is offered with how many nodes lack its patch.
    clicks += 1
    link = re.search(rf'href="([^"]*name={cve})"', text(first))[1].replace("&amp;", "&")
    page = text(browser.get(link))
    assert all(f">{name}</a>" in page for name in NODES)
    assert "Replaceable" in page and "Could be replaced instead" in page
    assert "--auto-scaling-group-name pay-api-prod --region eu-west-1" in page

    # Click 3: Continue, with all as it stands on the page (but the soak, which this test does not sit out).
    clicks += 1
    form = {"what": "cve", "name": cve, "soak_minutes": "0", "reason": "exploited in the wild"}
    shown = re.findall(r'name="shown" value="([^"]+)"', page)
    affected = PatchSpan.objects.open().filter(cves__cve=cve, state="MISSING").values("instance").distinct().count()
    assert len(shown) == affected == 2
    answer = browser.post("/emergency/nodes/", form | {"shown": shown, "node": shown})
    emergency = Emergency.objects.get()
    assert answer.status_code == 302 and answer["Location"] == emergency.get_absolute_url()
    plan = text(browser.get(answer["Location"]))
    assert "Nothing has been sent" in plan and Run.objects.get().state == "draft" and not Command.objects.exists()

    # Click 4: Start.
    clicks += 1
    hidden = {name: re.findall(rf'name="{name}" value="([^"]+)"', plan) for name in ("run", "plan_hash")}
    assert browser.post(f"{emergency.get_absolute_url()}start/", hidden).status_code == 302
    run = Run.objects.get()
    assert run.state == "running" and clicks == 4

    # The canary goes alone, and is proven by its own report before the other goes.
    until(lambda: step(run).state != "running", seconds=100)
    assert run.state == "succeeded", (run.end_reason, list(run.targets.values("instance_name", "state", "reason")))
    canary, last = run.targets.order_by("position")
    assert (canary.wave.name, canary.instance_id) == ("Canary", emergency.fixes[0]["canary"])
    assert canary.ended_at <= last.went_at
    until(lambda: read_all() or _progress(emergency, run).left == 0, seconds=60)
    wanted = {each["id"] for each in emergency.fixes[0]["entries"]}
    whole_seconds = run.started_at.replace(microsecond=0)  # as package managers tell them
    for each in nodes:
        done = PatchSpan.objects.open().filter(instance=each, state="INSTALLED", installed_at__gte=whole_seconds)
        assert set(done.values_list("kb_id", flat=True)) == wanted  # exactly the list, and nothing else
        assert PatchSpan.objects.open().filter(instance=each, state="MISSING").exists()

    found = _progress(emergency, run)
    assert (found.fixed, found.total) == (2, 2) and found.half_after <= found.full_after
    told = text(browser.get(emergency.get_absolute_url()))
    assert "2 of 2" in told and "Every node that it affected is fixed" in told and "not yet" not in told
    assert emergency.get_absolute_url() in text(browser.get(run.get_absolute_url()))


def _progress(emergency: Emergency, run: Run):
    return progress.progress(Emergency.objects.get(pk=emergency.pk), run.actor).coverage
