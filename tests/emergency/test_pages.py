"""Whom a CVE or package affects, what is said where it affects nobody, who may, and what is kept of a plan."""

from datetime import UTC, datetime, timedelta

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.aws import clients
from fleetops.calendars import services as calendars
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.policy import services as policy
from fleetops.policy.models import Rule
from fleetops.rollouts import plan as rollouts_plan
from fleetops.rollouts.models import Run
from fleetops.runcommand.models import Command
from patching.compliance import reading
from patching.compliance.models import Standing
from patching.compliance.verdict import Patch
from patching.emergency import found, progress, services
from patching.emergency.marks import GROUP_TAG
from patching.emergency.models import Emergency
from patching.emergency.services import Asked
from patching.models import KnownPatches
from tests.api.conftest import Bearer, make_token
from tests.compliance.conftest import summary
from tests.factories import make_cluster_rule, make_document, make_instance, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("roles")]

CVE = "CVE-2026-1111"
RPM = {"platform_name": "Amazon Linux", "platform_version": "2023"}
DEB = {"platform_name": "Debian GNU/Linux", "platform_version": "12"}


def missing(kb_id, title, cves=(), state="MISSING"):
    return Patch(kb_id, title, "Security", "Important", state, None, tuple(cves))


OPENSSL = missing("openssl.x86_64", "openssl.x86_64:1:3.2.2-9.amzn2023", [CVE])
LIBSSL = missing("libssl3", "libssl3:3.0.13-1~deb12u2")


def tell(instance, *patches, minutes=0):
    counts = {"missing": sum(each.state == "MISSING" for each in patches)}
    reading.keep_summaries([(instance, summary(instance, minutes, **counts))])
    row = Standing.objects.select_related("report", "instance").get(instance=instance)
    reading.keep_patches(row, patches)


@pytest.fixture
def mei():
    policy.make_defaults()
    return make_user("mei", role="administrator")


@pytest.fixture
def fleet(accounts):
    """Two accounts. web is in a group, db in a protected cluster, alone alone; deb names no CVEs, new tells nothing."""
    prod, stage = (each.regions.get(name="eu-west-1") for each in accounts)
    make_cluster_rule()
    for region in (prod, stage):
        make_document("AWS-RunPatchBaseline", region=region, owner="Amazon")
    made = {
        "web": make_instance(region=prod, name="web", tags={GROUP_TAG: "web-prod", "env": "prod"}, **RPM),
        "db": make_instance(region=prod, name="db", tags={"cluster": "ledger", "env": "prod"}, **RPM),
        "alone": make_instance(region=stage, name="alone", tags={"env": "dev"}, **RPM),
        "deb": make_instance(region=stage, name="deb", **DEB),
        "good": make_instance(region=prod, name="good", **RPM),
        "new": make_instance(region=prod, name="new", **RPM),
    }
    for name in ("web", "db", "alone"):
        tell(made[name], OPENSSL)
    tell(made["deb"], LIBSSL)
    tell(made["good"], missing(OPENSSL.kb_id, OPENSSL.title, OPENSSL.cves, "INSTALLED"))
    return made


@pytest.fixture
def browser(client, mei):
    client.force_login(mei, backend="django.contrib.auth.backends.ModelBackend")
    return client


def text(response):
    return " ".join(response.content.decode().split())


# --- what is known ---------------------------------------------------------------------------------------------------


def test_offers_are_counted_and_come_while_one_types(browser, fleet, django_assert_max_num_queries):
    page = text(browser.get("/emergency/"))
    assert f'<b class="medium">{CVE}</b>' in page and "1 node was never scanned" in page
    with django_assert_max_num_queries(20):
        part = text(browser.get("/emergency/?find=SSL", headers={"HX-Request": "true"}))
    assert "<html" not in part and ">openssl</b>" in part and "3 nodes" in part and ">libssl3</b>" in part
    assert "Nothing that is known is called so" in text(browser.get("/emergency/?find=CVE-2031-9"))


def test_nodes_are_marked_and_counted_and_can_be_narrowed(browser, fleet):
    page = text(browser.get(f"/emergency/nodes/?what=cve&name={CVE.lower()}"))
    assert 'Affects <b class="bad">3</b> of 5 scanned nodes.' in page and "1 has its patch" in page
    assert [page.count(each) > 0 for each in ("Holds data", "Replaceable", "Stands alone")] == [True] * 3
    assert "in a protected cluster, cluster=ledger" in page and "start-instance-refresh" in page
    assert "1 node was never scanned" in page and "1 node runs Debian or Ubuntu" in page
    assert "openssl.x86_64:1:3.2.2-9.amzn2023" in page and "One run" in page
    narrow = text(browser.get(f"/emergency/nodes/?what=cve&name={CVE}&q=env%3Dprod"))
    assert 'Affects <b class="bad">2</b>' in narrow and ">alone</a>" not in narrow
    data = text(browser.get(f"/emergency/nodes/?what=cve&name={CVE}&data=env%3Ddev"))
    assert "its tags say so" in data


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("what=cve&name=CVE-12", 400, "A CVE is written as CVE-2026-12345"),
        ("what=cve&name=CVE-2026-11%00", 400, "A CVE is written"),
        ("what=thing&name=x", 400, "Say cve or package"),
        ("what=package&name=two words", 400, "A package is one word"),
        ("what=package&name=", 400, "A package is one word"),
        ("", 400, "Say cve or package"),
        (f"what=cve&name={CVE}&q=env=(", 400, "What is it?"),
        (f"what=cve&name={CVE}&data=env=(", 400, "What is it?"),
        ("what=cve&name=CVE-2031-99999", 200, "Nothing here knows CVE-2031-99999"),
        ("what=package&name=libssl3", 200, 'Affects <b class="bad">1</b>'),
        ("what=package&name=openss", 200, "Nothing here knows openss"),
    ],
)
def test_what_can_be_nothing_is_told_in_words(browser, fleet, query, status, words):
    answer = browser.get(f"/emergency/nodes/?{query}")
    assert answer.status_code == status and words in text(answer)


def test_what_is_known_and_affects_nobody_says_so(browser, fleet):
    for name in ("web", "db", "alone"):
        tell(fleet[name], missing(OPENSSL.kb_id, OPENSSL.title, OPENSSL.cves, "INSTALLED"), minutes=60)
    page = text(browser.get(f"/emergency/nodes/?what=cve&name={CVE}"))
    assert f"{CVE} is known, and affects no node that you see. 4 nodes have its patch." in page
    assert "1 was never scanned: scan them first" in page and "Debian or Ubuntu, whose reports name no CVEs" in page
    answer = browser.post("/emergency/nodes/", {"what": "cve", "name": CVE})
    assert answer.status_code == 400 and not Emergency.objects.exists()


def test_aws_lists_name_what_no_baseline_has_approved(mei, fleet):
    released = datetime(2026, 11, 29, tzinfo=UTC)
    patch = {
        "name": "curl",
        "version": "8.5.0",
        "release": "7",
        "epoch": "0",
        "arch": "x86_64",
        "cves": ["CVE-2026-7777"],
    }
    KnownPatches.objects.create(
        region=fleet["web"].region,
        operating_system="AMAZON_LINUX_2023",
        patches=[patch | {"released_at": released.isoformat()}],
        nodes={
            str(fleet["web"].pk): {"curl": f"INSTALLED_OTHER@{(released - timedelta(days=9)).isoformat()}"},
            str(fleet["good"].pk): {"curl": f"INSTALLED_OTHER@{(released + timedelta(hours=1)).isoformat()}"},
            str(fleet["db"].pk): {},
        },
        read_at=now(),
    )
    assert [(each.name, each.nodes) for each in found.offers(mei, "2026-77")] == [("CVE-2026-7777", 0)]
    affected = found.affected(mei, "cve", "CVE-2026-7777")
    assert [(each.instance.name, each.is_listed) for each in affected.nodes] == [("web", True)]
    emergency = services.make(mei, Asked("cve", "CVE-2026-7777"))
    assert emergency.fixes[0]["entries"] == [{"id": "curl.x86_64", "title": "curl.x86_64:0:8.5.0-7"}]

    # No report will ever name it: what proves it is the report that the run itself asked for.
    run = emergency.runs().get()
    services.release(emergency, actor=mei, plan_hashes={str(run.pk): run.plan_hash}, gone=[])
    for minutes, snapshot, fixed in ((60, "another", 0), (120, run.subject["snapshot_id"], 1)):
        told = summary(fleet["web"], minutes, operation="Install", snapshot_id=snapshot)
        reading.keep_summaries([(fleet["web"], told)])
        assert progress.progress(emergency, mei).coverage.fixed == fixed


# --- the plan --------------------------------------------------------------------------------------------------------


def test_a_plan_is_of_the_affected_alone_with_a_canary_that_holds_no_data_and_a_list_in_each_place(
    mei, fleet, accounts
):
    emergency = services.make(mei, Asked("cve", CVE, spread="waves", reason="exploited"))
    run = emergency.runs().get()
    assert run.state == "draft" and not Command.objects.exists()
    assert sorted(run.targets.values_list("instance_name", flat=True)) == ["alone", "db", "web"]
    canary = run.waves.get(position=1)
    assert run.targets_text.startswith("id in (i-") and run.targets_text.count("i-") == 3
    assert canary.name == "Canary" and canary.budget == "0" and canary.targets.get().instance_name in {"alone", "web"}
    wanted = "patches:\n- id: openssl.x86_64\n  title: openssl.x86_64:1:3.2.2-9.amzn2023\n"
    assert set(run.subject["lists"]) == {"111122223333/eu-west-1", "444455556666/eu-west-1"}
    digest = emergency.fixes[0]["digest"]
    for each in accounts:
        address = run.subject["lists"][f"{each.account_id}/eu-west-1"]
        assert address == f"s3://fleetops-patch-lists-{each.account_id}/patch-lists/eu-west-1/{digest}.yaml"
        _, _, bucket, key = address.split("/", 3)
        s3 = clients.client("s3", each.access(), "eu-west-1", session_name="tests")
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode() == wanted
    assert emergency.asked["spread"] == "waves" and emergency.began_at is None
    event = AuditEvent.objects.get(action="patching.emergency.plan")
    assert (event.reason, event.details["nodes"], event.details["runs"]) == ("exploited", 3, 1)


def test_each_target_is_sent_the_list_of_its_own_place(mei, fleet):
    from patching.kind import PatchKind

    run = services.make(mei, Asked("cve", CVE)).runs().get()
    for target in run.targets.select_related("account", "region"):
        (address,) = PatchKind().call_for(run, target).parameters["InstallOverrideList"]
        assert address.startswith(f"s3://fleetops-patch-lists-{target.account.account_id}/")
    del run.subject["lists"][f"{target.account.account_id}/{target.region.name}"]
    with pytest.raises(UserError, match="would install everything"):
        PatchKind().call_for(run, target)


def test_a_package_over_systems_makes_a_run_for_each_list(mei, fleet):
    tell(fleet["deb"], LIBSSL, missing("openssl", "openssl:3.0.13-1~deb12u2"), minutes=5)
    emergency = services.make(mei, Asked("package", "openssl"))
    assert [each["label"] for each in emergency.fixes] == ["Amazon Linux 2023", "Debian"]
    assert emergency.fixes[1]["entries"] == [{"id": "openssl", "title": "openssl.*:3.0.13-1~deb12u2"}]
    assert [run.targets.count() for run in emergency.runs()] == [3, 1]
    assert emergency.runs()[1].waves.count() == 1  # one node: the canary is all


def test_what_is_left_out_is_no_target_and_is_still_affected(browser, mei, fleet):
    shown = [str(fleet[name].pk) for name in ("web", "db", "alone")]
    form = {"what": "cve", "name": CVE, "shown": shown, "node": shown[1:2], "budget": "1", "soak_minutes": "0"}
    assert browser.post("/emergency/nodes/", form).status_code == 302
    emergency = Emergency.objects.get()
    run = emergency.runs().get()
    assert list(run.targets.values_list("instance_name", flat=True)) == ["db"] and emergency.targets.count() == 3
    page = text(browser.get(emergency.get_absolute_url()))
    assert "Patches <b>1 of 3</b> affected nodes" in page and "Left out by mei." in page
    assert "all of them hold data" in page
    none = browser.post("/emergency/nodes/", form | {"node": []})
    assert none.status_code == 400 and "Choose at least one" in text(none)
    bad = browser.post("/emergency/nodes/", form | {"budget": "many", "node": shown})
    assert bad.status_code == 400 and "neither" in text(bad)
    other = services.make(mei, Asked("cve", CVE, without_replaceable=True))
    assert "To be replaced by its Auto Scaling group web-prod." in other.targets.values_list("reason", flat=True)


def test_who_may_patch_none_of_them_is_refused_and_that_is_audited(mei, fleet):
    Rule.objects.all().delete()
    picture = services.look(mei, Asked("cve", CVE))
    assert not picture.fit and all(each.is_denied for each in picture.choices)
    with pytest.raises(Denied, match="You may patch none of the 3 nodes"):
        services.make(mei, Asked("cve", CVE))
    event = AuditEvent.objects.get(action="patching.emergency.refuse")
    assert event.outcome == "denied" and event.details["count"] == 3
    assert not Emergency.objects.exists()


def test_a_start_wants_the_plan_that_was_seen_and_nobody_elses(browser, mei, fleet):
    emergency = services.make(mei, Asked("cve", CVE))
    run = emergency.runs().get()
    start = f"{emergency.get_absolute_url()}start/"
    assert browser.post(start, {"run": str(run.pk), "plan_hash": "0" * 64}).status_code == 409
    other = make_user("priya", role="administrator")
    with pytest.raises(Denied, match="Somebody else"):
        services.release(emergency, actor=other, plan_hashes={str(run.pk): run.plan_hash}, gone=[])
    assert AuditEvent.objects.filter(action="patching.emergency.refuse").count() == 1
    assert Run.objects.get().state == "draft"
    assert browser.post(start, {"run": str(run.pk), "plan_hash": run.plan_hash}).status_code == 302
    assert Run.objects.get().state == "running" and Emergency.objects.get().began_at is not None
    assert AuditEvent.objects.filter(action="patching.emergency.release").count() == 1
    again = browser.post(start, {"run": str(run.pk), "plan_hash": run.plan_hash})
    assert again.status_code == 409 and "started already" in text(again)


def test_a_freeze_is_shown_and_an_override_is_asked_for_with_the_start(browser, mei, fleet):
    make_user("priya", role="administrator")
    freeze = calendars.create_calendar(
        actor=mei, name="Year's end", kind="freeze", source="own", deeds=["patch"], targets="env=prod"
    )
    start = now().replace(tzinfo=None, second=0, microsecond=0) - timedelta(hours=1)
    calendars.add_entry(freeze, actor=mei, title="closed", start=start, end=start + timedelta(hours=5), repeat="")
    page = text(browser.get(f"/emergency/nodes/?what=cve&name={CVE}"))
    assert page.count("Frozen by “Year&#x27;s end”") == 2
    emergency = services.make(mei, Asked("cve", CVE))
    assert emergency.fixes[0]["canary_name"] == "alone"  # the others hold data, or are frozen
    plan = text(browser.get(emergency.get_absolute_url()))
    assert "<b>2 nodes</b> are held" in plan and "Ask for an override of the freeze at once" in plan
    run = emergency.runs().get()
    form = {"run": str(run.pk), "plan_hash": run.plan_hash, "override": "on", "override_reason": "INC-7"}
    assert browser.post(f"{emergency.get_absolute_url()}start/", form).status_code == 302
    run.refresh_from_db()
    assert run.state == "running" and run.override.state == "pending" and run.override.reason == "INC-7"


def test_more_nodes_than_an_expression_names_are_exactly_the_affected_and_their_number_is_typed(browser, mei, fleet):
    for number in range(160):
        tell(make_instance(region=fleet["web"].region, name=f"web-{number}", **RPM), OPENSSL)
    emergency = services.make(mei, Asked("cve", CVE, spread="waves"))
    run = emergency.runs().get()
    assert run.targets_text == "all" and run.targets.count() == 163 and run.plan["matched"] == 163
    assert [wave.targets.count() for wave in run.waves.order_by("position")] == [1, 16, 49, 97]
    assert rollouts_plan.differences(run).count == 0
    form = {"run": str(run.pk), "plan_hash": run.plan_hash}
    browser.post(f"{emergency.get_absolute_url()}start/", form)
    assert Run.objects.get().state == "draft"
    browser.post(f"{emergency.get_absolute_url()}start/", form | {"count": "163"})
    assert Run.objects.get().state == "running"


def test_a_plan_is_discarded_with_its_runs(browser, mei, fleet):
    emergency = services.make(mei, Asked("cve", CVE))
    assert browser.post(f"{emergency.get_absolute_url()}discard/").status_code == 302
    assert not Emergency.objects.exists() and not Run.objects.exists()


# --- how far it has come ---------------------------------------------------------------------------------------------


def test_what_is_left_has_its_reason_and_a_node_that_is_gone_is_affected_no_more(browser, mei, fleet):
    emergency = services.make(mei, Asked("cve", CVE, left_out=[str(fleet["db"].pk)]))
    run = emergency.runs().get()
    services.release(emergency, actor=mei, plan_hashes={str(run.pk): run.plan_hash}, gone=[])
    later = int((now() - datetime(2026, 11, 2, 4, 0, tzinfo=UTC)).total_seconds() // 60)
    tell(fleet["alone"], missing(OPENSSL.kb_id, OPENSSL.title, OPENSSL.cves, "INSTALLED"), minutes=later + 1)
    type(fleet["web"]).objects.filter(pk=fleet["web"].pk).update(gone_at=now())
    made = progress.progress(Emergency.objects.get(), mei)
    assert (made.coverage.fixed, made.coverage.total) == (2, 3) and made.coverage.half_after is not None
    (left,) = made.left
    assert left.target.instance == fleet["db"] and left.words.startswith("Left out by mei.")
    assert "lacks the patch" in left.words and made.coverage.full_after is None
    page = text(browser.get(emergency.get_absolute_url()))
    assert "2 of 3" in page and "gone since" in page and "Left out by mei." in page
    assert "Under way" in text(browser.get("/emergency/"))


def test_a_program_does_it_all(mei, fleet):
    program = Bearer(make_token(mei, "runs:read", "runs:write"))
    seen = program.get("/api/v1/emergencies/affected/", {"what": "cve", "name": CVE}).json()
    assert {each["name"]: each["mark"] for each in seen["nodes"]} == {
        "web": "replaceable",
        "db": "data",
        "alone": "alone",
    }
    assert program.get("/api/v1/emergencies/find/", {"find": "libssl"}).json()[0]["name"] == "libssl3"
    assert program.post("/api/v1/emergencies/", {"what": "cve", "name": "CVE-1"}).status_code == 400
    made = program.post("/api/v1/emergencies/", {"what": "cve", "name": CVE, "reason": "exploited"})
    assert made.status_code == 201, made.content
    told = made.json()
    assert (told["affected"], told["fixed"], told["began_at"], len(told["runs"])) == (3, 0, None, 1)
    one = f"/api/v1/emergencies/{told['id']}/"
    hashes = {run["id"]: run["plan_hash"] for run in told["runs"]}
    assert program.post(f"{one}release/", {"plan_hashes": {}}).status_code == 409
    going = program.post(f"{one}release/", {"plan_hashes": hashes}).json()
    assert going["runs"][0]["state"] == "running" and len(going["left"]) == 3
    assert program.get("/api/v1/emergencies/").json()["results"][0]["id"] == told["id"]
    assert program.delete(one).status_code == 409
