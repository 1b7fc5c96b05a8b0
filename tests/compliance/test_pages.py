"""Pages of compliance: they work, turn away who may not, show only what one may see, and tell bad input."""

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from urllib.parse import unquote

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from patching.compliance import charts, reading
from patching.compliance.models import Hub, Report, Sla, Standing, Trend
from patching.compliance.verdict import Patch
from tests.compliance.conftest import summary
from tests.factories import make_document, make_instance, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("roles")]

FIRST = datetime(2026, 11, 2, 4, 0, tzinfo=UTC)


def missing(kb_id="openssl", cve="CVE-2026-1111", severity="Important"):
    return Patch(kb_id, f"{kb_id}:3.0", "Security", severity, "MISSING", None, (cve,))


def tell(instance, minutes=0, patches=(), **counts):
    reading.keep_summaries([(instance, summary(instance, minutes, **counts))])
    row = Standing.objects.select_related("report", "instance").get(instance=instance)
    reading.keep_patches(row, patches)


@pytest.fixture
def fleet():
    """One that complies, one that does not, one that was mended, one that was never scanned."""
    good, bad, mended, silent = (
        make_instance(name=name, ssm_read_at=now(), tags={"env": "prod" if name != "bad" else "dev"})
        for name in ("good", "bad", "mended", "silent")
    )
    tell(good)
    tell(bad, patches=[missing(), missing("bash", "CVE-2026-2222", "Low")], missing=2, security=2)
    tell(mended, patches=[missing()], missing=1, security=1)
    installed = Patch("openssl", "openssl:3.0", "Security", "Important", "INSTALLED", FIRST, ("CVE-2026-1111",))
    tell(mended, 60, patches=[installed])
    return {"good": good, "bad": bad, "mended": mended, "silent": silent}


@pytest.fixture
def as_role(client):
    def log_in(role):
        client.force_login(make_user(role=role), backend="django.contrib.auth.backends.ModelBackend")
        return client

    return log_in


def text(response):
    return " ".join(response.content.decode().split())


def test_the_overview_says_how_many_comply_and_what_is_open(as_role, fleet, django_assert_max_num_queries):
    Sla.objects.create(severity="Important", days=7)
    viewer = as_role("viewer")
    viewer.get("/compliance/")
    with django_assert_max_num_queries(40):
        page = text(viewer.get("/compliance/?by=tag:env"))
    assert ">66.7%</a> of 3 scanned instances comply" in page and "1 does not" in page
    assert "CVE-2026-1111" in page and "CVE-2026-2222" in page and "1 past" in page
    assert 'state=never">Never scanned</a><b class="ms-auto tnum">1</b>' in page
    assert 'title="dev, ' in page and "1 of 1 do not comply, 100.0%" in page


def test_the_past_is_as_it_was_reported_then(as_role, fleet):
    viewer = as_role("viewer")
    at = (FIRST + timedelta(minutes=30)).isoformat()[:16]
    page = text(viewer.get("/compliance/instances/", {"state": "bad", "at": at}))
    assert ">mended</a>" in page and ">bad</a>" in page
    assert ">mended</a>" not in text(viewer.get("/compliance/instances/?state=bad"))
    then = text(viewer.get(f"/compliance/instances/{fleet['mended'].pk}/", {"at": at}))
    assert "Missing" in then and "Not compliant" in then
    today = text(viewer.get(f"/compliance/instances/{fleet['mended'].pk}/"))
    assert "Installed" in today and "2 Nov 2026, 05:00" in today and "2 Nov 2026, 04:00" in today


def test_a_cve_tells_who_lacks_its_patch_and_when_the_others_got_it(as_role, fleet):
    page = text(as_role("viewer").get("/compliance/cves/cve-2026-1111/"))
    assert "<b>1</b> instance lacks a patch of it, <b>1</b> has it" in page
    assert "2 Nov 2026, 05:00" in page
    assert "No instance has ever told of it" in text(as_role("viewer").get("/compliance/cves/CVE-1999-0001/"))


@pytest.mark.parametrize("state", ["", "bad", "good", "never", "old", "reboot", "overdue"])
def test_the_list_is_cut_down_by_state(as_role, fleet, state):
    Sla.objects.create(severity="Important", days=0)
    page = text(as_role("viewer").get("/compliance/instances/", {"state": state}))
    shown = {name for name in fleet if f'">{name}</a>' in page}
    assert (
        shown
        == {
            "": {"good", "bad", "mended"},
            "bad": {"bad"},
            "good": {"good", "mended"},
            "never": {"silent"},
            "old": {"good", "bad", "mended"},
            "reboot": set(),
            "overdue": {"bad"},
        }[state]
    )


def test_a_list_of_many_asks_as_often_as_one_of_one(as_role):
    viewer = as_role("viewer")
    tell(make_instance(name="one", ssm_read_at=now()))
    viewer.get("/compliance/instances/")
    with CaptureQueriesContext(
        connection,
    ) as of_one:
        viewer.get("/compliance/instances/")
    for number in range(60):
        tell(make_instance(name=f"more-{number}", ssm_read_at=now()))
    with CaptureQueriesContext(connection) as of_many:
        viewer.get("/compliance/instances/")
    assert len(of_many) == len(of_one) and len(of_many) <= 14


@pytest.mark.parametrize(
    "address",
    ["", "instances/", "cves/", "patches/", "report/", "security-hub/", "deadlines/", "export/instances.csv"],
)
def test_who_may_see_no_instance_sees_no_compliance(client, address):
    client.force_login(make_user(), backend="django.contrib.auth.backends.ModelBackend")
    assert client.get(f"/compliance/{address}").status_code == 403


def test_an_instance_that_there_is_not_is_not_found(as_role):
    assert as_role("viewer").get("/compliance/instances/01990000-0000-7000-8000-000000000000/").status_code == 404


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"at": "yesterday"}, "Write a moment as 2026-11-01T00:00"),
        ({"at": "2999-01-01T00:00"}, "has not come yet"),
        ({"at": "0001-01-02"}, "Write a moment as 2026-11-01T00:00"),
        ({"state": "odd"}, "There is no state odd"),
        ({"q": "env=="}, ""),
    ],
)
def test_bad_input_is_told(as_role, query, words):
    answer = as_role("viewer").get("/compliance/instances/", query)
    assert answer.status_code == 409 and words in answer.content.decode()


def whole(answer) -> bytes:
    async def read() -> bytes:
        return b"".join([each async for each in answer.streaming_content])

    return async_to_sync(read)()


def test_files_hold_all_rows_and_no_formula(as_role, fleet):
    fleet["bad"].name = "=HYPERLINK(1)"
    fleet["bad"].save()
    viewer = as_role("viewer")
    answer = viewer.get("/compliance/export/instances.csv")
    rows = list(csv.DictReader(io.StringIO(whole(answer).decode())))
    assert {row["name"]: row["missing"] for row in rows}["'=HYPERLINK(1)"] == "2"
    assert [row["name"] for row in rows if row["compliant"] == ""] == ["silent"]
    told = json.loads(whole(viewer.get("/compliance/export/patches.json")))
    assert [(each["patch"], each["state"], each["cves"]) for each in told] == [
        ("bash", "MISSING", ["CVE-2026-2222"]),
        ("openssl", "MISSING", ["CVE-2026-1111"]),
    ]
    assert AuditEvent.objects.filter(action="compliance.export").count() == 2
    assert viewer.get("/compliance/export/secrets.csv").status_code == 404


def test_deadlines_are_set_by_who_may_and_wrong_ones_change_nothing(as_role, fleet):
    owner = as_role("patch_owner")
    assert owner.post("/compliance/deadlines/", {"days_Important": "7", "days_Low": "x"}).status_code == 400
    assert not Sla.objects.exists()
    assert owner.post("/compliance/deadlines/", {"days_Important": "7", "days_Low": "90"}).status_code == 302
    assert dict(Sla.objects.values_list("severity", "days")) == {"Important": 7, "Low": 90}
    event = AuditEvent.objects.get(action="compliance.sla.change")
    assert event.details["after"] == {"Important": 7, "Low": 90}
    assert as_role("viewer").post("/compliance/deadlines/", {"days_Important": "1"}).status_code == 403
    assert "past since 9 Nov" in text(as_role("viewer").get("/compliance/patches/"))


def test_who_may_turns_findings_of_a_region_off(as_role, fleet):
    hub = Hub.objects.create(region=fleet["bad"].region, enabled=True)
    assert as_role("viewer").post(f"/compliance/security-hub/{hub.pk}/", {"enabled": "0"}).status_code == 403
    assert as_role("patch_owner").post(f"/compliance/security-hub/{hub.pk}/", {"enabled": "0"}).status_code == 302
    hub.refresh_from_db()
    assert not hub.enabled and AuditEvent.objects.filter(action="compliance.hub.change").exists()
    assert "Turned off" in text(as_role("viewer").get("/compliance/security-hub/"))


def test_empty_pages_say_what_to_do(as_role):
    viewer = as_role("viewer")
    assert "No managed instance is known yet." in text(viewer.get("/compliance/"))
    for address in ("instances/", "cves/", "patches/", "report/", "security-hub/", "deadlines/"):
        assert viewer.get(f"/compliance/{address}").status_code == 200
    assert not Report.objects.exists()


def test_a_trend_is_drawn_from_two_points_on():
    points = charts.summed([(FIRST, 10, 5), (FIRST, 10, 0), (FIRST + timedelta(days=3), 20, 1)])
    assert [(each.scanned, each.bad) for each in points] == [(20, 5), (20, 1)]
    chart = charts.draw(points, until=FIRST + timedelta(days=4), days=90)
    assert chart.first_percent == 25.0 and chart.now_percent == 5.0 and chart.days == 4
    assert len(chart.line.split()) == 2 and chart.levels[-1][1] == "40%"
    assert charts.draw(points[:1], until=FIRST, days=90) is None


def test_an_instance_that_came_later_was_not_there_and_one_that_ran_unmet_was_never_scanned(as_role, fleet):
    at = FIRST + timedelta(minutes=30)
    make_instance(name="newborn", ssm_read_at=now(), launched_at=now())
    make_instance(name="unmet", ssm_read_at=now(), launched_at=FIRST - timedelta(days=3))
    gone = make_instance(name="gone", ssm_read_at=now(), launched_at=FIRST, gone_at=FIRST + timedelta(minutes=31))
    tell(gone)
    viewer = as_role("viewer")
    never = text(viewer.get("/compliance/instances/", {"state": "never", "at": at.isoformat()[:16]}))
    assert ">unmet</a>" in never and ">newborn</a>" not in never and ">silent</a>" not in never
    assert ">gone</a>" not in never and ">good</a>" not in never
    told = text(viewer.get("/compliance/instances/", {"at": at.isoformat()[:16]}))
    assert ">gone</a>" in told and ">good</a>" in told
    assert ">newborn</a>" in text(viewer.get("/compliance/instances/?state=never"))


def test_the_link_to_a_report_leads_to_that_report(as_role):
    node = make_instance(name="twice", ssm_read_at=now())
    ended = FIRST.replace(microsecond=700000)
    reading.keep_summaries([(node, summary(node, ended_at=ended, missing=1))])
    reading.keep_summaries([(node, summary(node, 60))])
    viewer = as_role("viewer")
    page = text(viewer.get(f"/compliance/instances/{node.pk}/"))
    links = re.findall(r'href="(\?at=[^"]+)"', page)
    pages = [text(viewer.get(f"/compliance/instances/{node.pk}/{link}")) for link in links]
    assert ["Not compliant" in page.split("</h1>")[0] for page in pages] == [False, True]


def links(page, words):
    found = re.findall(r'<a [^>]*href="([^"]*)"[^>]*>(.*?)</a>', page)
    return [unquote(unescape(href)) for href, inside in found if re.sub("<svg.*?</svg>|<[^>]+>", "", inside) == words]


def test_what_a_list_shows_is_patched_by_a_link_to_a_run(as_role, fleet):
    ids = {name: each.instance_id for name, each in fleet.items()}
    owner = as_role("patch_owner")
    found = links(text(owner.get("/compliance/instances/?state=bad")), "Patch these")
    assert found == [f"/patching/runs/new/?q=id={ids['bad']}"]
    found = links(text(owner.get("/compliance/instances/?state=never")), "Scan these")
    assert found == [f"/patching/runs/new/?operation=Scan&q=id={ids['silent']}"]
    found = links(text(owner.get("/compliance/instances/?q=env%3Dprod")), "Patch these")
    assert found == ["/patching/runs/new/?q=env=prod"]
    found = links(text(owner.get("/compliance/cves/CVE-2026-1111/")), "Patch these")
    assert found == [f"/patching/runs/new/?q=id={ids['bad']}"]
    shown = text(owner.get(found[0]))
    assert f">id={ids['bad']}</textarea>" in shown or f'value="id={ids["bad"]}"' in shown
    past = text(owner.get("/compliance/instances/", {"state": "bad", "at": "2026-11-02T05:00"}))
    assert "Patch these" not in past and "Patch these" not in text(as_role("viewer").get("/compliance/instances/"))


def test_the_fleet_a_node_and_a_document_lead_to_a_run(as_role, fleet):
    document = make_document(region=fleet["bad"].region)
    chief = as_role("administrator")
    assert links(text(chief.get("/fleet/?q=env%3Ddev")), "Run in waves") == ["/runs/new/?q=env=dev"]
    assert links(text(chief.get("/fleet/")), "Run in waves") == ["/runs/new/?q=all"]
    (link,) = links(text(chief.get(document.get_absolute_url())), "Run in waves")
    assert link == f"/runs/new/?document={document.pk}"
    (link,) = links(text(chief.get(fleet["bad"].get_absolute_url())), "Patch")
    assert link == f"/patching/runs/new/?q=id={fleet['bad'].instance_id}"
    viewer = as_role("viewer")
    for address in ("/fleet/", document.get_absolute_url(), fleet["bad"].get_absolute_url()):
        assert not {"Run in waves", "Patch"} & set(re.findall(r"</svg>([^<]+)</a>", text(viewer.get(address))))


def test_the_trend_says_from_when_it_is_drawn(as_role, fleet):
    viewer = as_role("viewer")
    assert "The first hour is kept within two minutes" in text(viewer.get("/compliance/"))
    hour = now().replace(minute=0, second=0, microsecond=0)
    region = fleet["bad"].region
    Trend.objects.create(region=region, hour=hour, instances=5, compliant=3, never_scanned=1, missing=2)
    page = text(viewer.get("/compliance/"))
    assert f"Drawn from {hour + timedelta(hours=1):%-d %b, %H:%M} UTC on" in page and "25.0%" in page
