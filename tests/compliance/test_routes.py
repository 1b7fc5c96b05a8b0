"""Compliance over the API: the same as the pages say, by scope, in pages, at any moment."""

import csv
import io
import json
from datetime import timedelta

import pytest

from fleetops.clock import now
from patching.compliance.models import Finding, Hub, Sla, SsmFinding, Trend
from tests.api.conftest import Bearer, make_token
from tests.compliance.test_pages import FIRST, fleet, missing, tell, whole  # noqa: F401 (fleet is a fixture)
from tests.factories import make_instance, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("roles", "valkey")]
AT = (FIRST + timedelta(minutes=30)).isoformat()


@pytest.fixture
def program():
    return Bearer(make_token(make_user(role="viewer"), "compliance:read"))


def get(program, path, **query):
    answer = program.get(f"/api/v1/compliance/{path}", query)
    assert answer.status_code == 200, answer.content
    return answer.json()


def all_of(program, path, **query):
    """Every row, page by page of one."""
    rows, url, asked = [], f"/api/v1/compliance/{path}", {**query, "page_size": "1"}
    while url:
        page = program.get(url, asked).json()
        rows, url, asked = rows + page["results"], page["next"], {}
    return rows


def test_the_summary_counts_as_the_page_does(program, fleet):  # noqa: F811
    Sla.objects.create(severity="Important", days=7)
    found = get(program, "")
    counts = ("instances", "scanned", "compliant", "not_compliant", "never_scanned", "old", "pending_reboot")
    assert [found[name] for name in counts] == [4, 3, 2, 1, 1, 3, 0]
    assert found["deadlines"] == [{"severity": "Important", "days": 7, "past": 1, "soon": 0, "later": 0}]
    assert get(program, "", at=AT)["not_compliant"] == 2 and get(program, "", q="env=dev")["compliant"] == 0


def test_instances_come_in_pages_each_with_its_standing(program, fleet):  # noqa: F811
    rows = {each["name"]: each for each in all_of(program, "instances/")}
    assert {name: each["standing"] for name, each in rows.items()} == {
        "good": "compliant",
        "bad": "not_compliant",
        "mended": "compliant",
        "silent": "never_scanned",
    }
    assert rows["bad"]["report"]["missing"] == 2 and rows["silent"]["report"] is None
    assert [each["name"] for each in all_of(program, "instances/", state="bad", at=AT)] == ["bad", "mended"]
    assert [each["name"] for each in all_of(program, "instances/", state="never")] == ["silent"]


def test_one_instance_tells_of_any_moment(program, fleet):  # noqa: F811
    Sla.objects.create(severity="Important", days=7)
    path = f"instances/{fleet['mended'].pk}/"
    assert get(program, path)["standing"] == "compliant"
    assert get(program, path, at=AT)["standing"] == "not_compliant"
    assert get(program, path, at="2026-11-02T03:00")["standing"] == "never_scanned"
    assert [each["is_compliant"] for each in all_of(program, f"{path}reports/")] == [True, False]
    (patch,) = all_of(program, f"{path}patches/", at=AT)
    assert (patch["state"], patch["cves"]) == ("MISSING", ["CVE-2026-1111"])
    assert patch["deadline"]["is_past"] is False and patch["deadline"]["due_at"].startswith("2026-11-09T04:00")
    (patch,) = all_of(program, f"{path}patches/", standing="INSTALLED")
    assert patch["deadline"] is None


def test_cves_and_patches_come_the_most_widespread_first_and_whole_over_pages(program, fleet):  # noqa: F811
    tell(make_instance(name="more", ssm_read_at=now()), patches=[missing(), missing('a "b" & c', "CVE-2026-0003")])
    names = [each["cve"] for each in all_of(program, "cves/")]
    assert names == ["CVE-2026-1111", "CVE-2026-0003", "CVE-2026-2222"]
    rows = [(each["kb_id"], each["instances"]) for each in all_of(program, "patches/")]
    assert rows == [("openssl", 2), ('a "b" & c', 1), ("bash", 1)]
    assert [each["cve"] for each in all_of(program, "cves/", find="bash")] == ["CVE-2026-2222"]
    assert get(program, "cves/cve-2026-1111/") == {
        "cve": "CVE-2026-1111",
        "is_known": True,
        "lacking": 2,
        "mended": 1,
        "patches": ["openssl"],
    }
    which = {each["instance"]["name"] for each in all_of(program, "cves/CVE-2026-1111/instances/", which="lacking")}
    assert which == {"bad", "more"}
    assert get(program, "cves/CVE-1999-1/")["is_known"] is False


def test_the_trend_sums_what_regions_were(program, fleet):  # noqa: F811
    hour = now().replace(minute=0, second=0, microsecond=0)
    for each in {fleet["good"].region, fleet["bad"].region}:
        Trend.objects.create(region=each, hour=hour, instances=10, compliant=5, never_scanned=1, missing=7)
    count = Trend.objects.count()
    found = get(program, "trend/", days="1")
    assert [(each["instances"], each["missing"]) for each in found] == [(10 * count, 7 * count)]
    assert get(program, "trend/", account="000000000000") == []


def test_files_are_whole_and_told_in_the_audit_log(program, fleet):  # noqa: F811
    answer = program.get("/api/v1/compliance/export/instances.csv", {"state": "bad"})
    assert [row["name"] for row in csv.DictReader(io.StringIO(whole(answer).decode()))] == ["bad"]
    assert len(json.loads(whole(program.get("/api/v1/compliance/export/patches.json")))) == 2


def test_findings_and_hubs_are_listed_and_switched_by_who_may(program, fleet):  # noqa: F811
    node = fleet["bad"]
    hub = Hub.objects.create(region=node.region, enabled=True)
    SsmFinding.objects.create(region=node.region, instance=node, finding_id="f", title="t", severity="HIGH")
    assert Finding.objects.count() == 2  # of bad, and of mended
    assert [each["instance_name"] for each in all_of(program, "findings/", state="failed")] == ["bad"]
    assert [each["finding_id"] for each in all_of(program, "findings/aws/")] == ["f"]
    assert [each["enabled"] for each in all_of(program, "hubs/")] == [True]
    path = f"/api/v1/compliance/hubs/{hub.pk}/"
    assert program.put(path, '{"enabled": false}', content_type="application/json").status_code == 403
    owner = Bearer(make_token(make_user(role="patch_owner"), "compliance:read", "compliance:write"))
    assert owner.put(path, '{"enabled": false}', content_type="application/json").json()["enabled"] is False
    told = owner.put(
        "/api/v1/compliance/deadlines/", '{"days": {"Important": 7, "Low": 900}}', content_type="application/json"
    )
    assert told.status_code == 400 and "0 to 365" in told.json()["detail"] and not Sla.objects.exists()
    assert (
        owner.put("/api/v1/compliance/deadlines/", '{"days": {"Odd": 7}}', content_type="application/json").status_code
        == 400
    )
    told = owner.put(
        "/api/v1/compliance/deadlines/", '{"days": {"Important": 7}}', content_type="application/json"
    ).json()
    assert [(each["severity"], each["past"]) for each in told] == [("Important", 1)]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("instances/", {"state": "odd"}),
        ("instances/", {"at": "yesterday"}),
        ("instances/", {"q": "env=="}),
        ("cves/", {"after": "CVE-2026-1"}),
        ("cves/", {"after": '[1, "x", "y"]'}),
        ("patches/", {"standing": "ODD"}),
        ("trend/", {"days": "1000"}),
        ("heat/", {"by": "colour"}),
    ],
)
def test_bad_input_is_told(program, path, query):
    answer = program.get(f"/api/v1/compliance/{path}", query)
    assert answer.status_code == 400 and answer.json()["errors"]


def test_a_list_of_many_asks_as_often_as_one_of_one(program, django_assert_max_num_queries):
    for number in range(12):
        tell(make_instance(name=f"node-{number}", ssm_read_at=now()), patches=[missing(f"p{number}")], missing=1)
    for path in ("instances/", "cves/", "patches/", "cves/CVE-2026-1111/instances/"):
        get(program, path)
        with django_assert_max_num_queries(12):
            assert get(program, path)["results"]
