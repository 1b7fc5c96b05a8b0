"""Pages of baselines: what they show, who may change what, what bad input is told, and what they cost."""

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleetops.clock import now
from patching import known, services
from patching.content import Content
from patching.models import BaselineVersion, KnownPatches, LegalValues, Mirror, PatchBaseline, PatchGroup, Write
from patching.preview import Patch
from tests.factories import make_account, make_baseline, make_instance, make_region, make_user

from .conftest import STANDARD, UBUNTU

pytestmark = pytest.mark.django_db(transaction=True)
BACKEND = "django.contrib.auth.backends.ModelBackend"


def text_of(answer) -> str:
    return re.sub(r"\s+", " ", answer.content.decode())


def ubuntu_node(region, **fields):
    facts = {"platform_type": "Linux", "platform_name": "Ubuntu", "platform_version": "24.04"}
    return make_instance(region=region, **(facts | fields))


@pytest.fixture
def as_owner(client, roles):
    client.force_login(make_user("paula", role="patch_owner"), backend=BACKEND)
    return client


@pytest.fixture
def away(monkeypatch):
    """No AWS: what pages ask of it has just been read."""
    monkeypatch.setattr("patching.mirror.FRESH", now() - now().replace(year=2000))
    monkeypatch.setattr(
        "patching.known.aws.property_values", lambda *args, key, **facts: VALUES.get(key, ["Security", "Bugfix"])
    )


VALUES = {
    "PRODUCT": ["AmazonLinux2023", "Ubuntu24.04"],
    "SEVERITY": ["Critical", "Low"],
    "PRIORITY": ["Required", "Optional"],
}


def test_the_list_is_filtered_paged_and_costs_the_same(client, roles):
    client.force_login(make_user(role="viewer"), backend=BACKEND)
    home, abroad = make_region(), make_region(account=make_account("444455556666", name="lab"))
    Mirror.objects.create(region=home, error="AWS refused ssm:DescribePatchBaselines")
    ours = make_baseline("web-hosts", region=home, description="For the web", is_default=True)
    PatchGroup.objects.create(
        account=home.account, region=home, name="shop", operating_system="UBUNTU", baseline=ours, read_at=now()
    )
    make_baseline("AWS-Debian", region=abroad, owner="AWS", operating_system="DEBIAN")
    make_baseline("al-drifted", region=home, operating_system="AMAZON_LINUX_2023", drifted_at=now())
    make_baseline("gone", region=home, gone_at=now())
    ubuntu_node(home, tags={"Patch Group": "shop"})
    with CaptureQueriesContext(connection) as few:
        page = text_of(client.get(reverse("patching:baselines")))
    assert all(name in page for name in ("web-hosts", "AWS-Debian", "al-drifted")) and ">gone<" not in page
    assert (
        "could not be read" in page and "Changed elsewhere" in page and "AWS refused ssm:DescribePatchBaselines" in page
    )
    PatchBaseline.objects.bulk_create(
        PatchBaseline(
            account=home.account, region=home, name=f"b-{n:03}", baseline_id=f"pb-{n}", operating_system="SUSE"
        )
        for n in range(250)
    )
    with CaptureQueriesContext(connection) as many:
        page = text_of(client.get(reverse("patching:baselines")))
    assert len(few) == len(many) <= 20 and "1–100 of 253" in page
    for query, names in (
        ({"owner": "own"}, {"web-hosts", "al-drifted"}),
        ({"owner": "aws"}, {"AWS-Debian"}),
        ({"q": "THE web"}, {"web-hosts"}),
        ({"q": "shop"}, {"web-hosts"}),
        ({"only": "drifted"}, {"al-drifted"}),
        ({"only": "default"}, {"web-hosts"}),
        ({"account": "444455556666"}, {"AWS-Debian"}),
        ({"system": "DEBIAN"}, {"AWS-Debian"}),
    ):
        page = text_of(client.get(reverse("patching:baselines"), query))
        shown = {name for name in ("web-hosts", "AWS-Debian", "al-drifted") if f">{name}</a>" in page}
        assert shown == names, query
    assert "No baseline matches" in text_of(client.get(reverse("patching:baselines"), {"q": "nothing"}))


def test_without_an_account_the_pages_say_what_is_to_come(as_owner):
    assert "for the first time" in text_of(as_owner.get(reverse("patching:baselines")))
    assert "There is no patch group" in text_of(as_owner.get(reverse("patching:groups")))
    assert "Nothing is frozen yet" in text_of(as_owner.get(reverse("patching:sets")))
    assert "No account is linked yet" in text_of(as_owner.get(reverse("patching:create")))


def test_a_baseline_shows_what_it_says_on_whom_and_what_was_changed_elsewhere(client, roles, away):
    region = make_region()
    row = make_baseline("al-standard", region=region, operating_system="AMAZON_LINUX_2023", content=STANDARD.to_aws())
    other = Content.of_aws("AMAZON_LINUX_2023", STANDARD.to_aws() | {"RejectedPatches": ["docker*"]})
    BaselineVersion.objects.create(baseline=row, number=2, content=other.to_aws(), origin="aws")
    PatchBaseline.objects.filter(pk=row.pk).update(
        version=2, content=other.to_aws(), drifted_at=now(), is_default=True, description="For all"
    )
    node = make_instance(
        region=region,
        platform_type="Linux",
        platform_name="Amazon Linux",
        platform_version="2023",
    )
    client.force_login(make_user(role="viewer"), backend=BACKEND)
    page = text_of(client.get(row.get_absolute_url()))
    assert "on <b>1 Amazon Linux 2023 node</b>" in page and "after 7 days" in page and "docker*" in page
    assert "Somebody changed it outside FleetOps" in page and '<div class="del"> kernel*</div>' in page
    assert "Accept version 2" not in page and "/edit/" not in page
    assert client.get(reverse("patching:edit", args=[row.pk])).status_code == 403
    older = text_of(client.get(row.get_absolute_url(), {"version": "1"}))
    assert "of version 1" in older and '<span class="fo-tag mono">kernel*</span>' in older
    page = text_of(client.get(reverse("patching:compare", args=[row.pk]), {"left": "1", "right": "2"}))
    assert '<div class="add"> docker*</div>' in page
    assert client.get(reverse("patching:compare", args=[row.pk]), {"left": "1", "right": "9"}).status_code == 409
    assert node.pk

    client.force_login(make_user(role="patch_owner"), backend=BACKEND)
    assert "Accept version 2" in text_of(client.get(row.get_absolute_url()))
    assert client.post(reverse("patching:accept", args=[row.pk]), {"version": "1"}).status_code == 409
    assert client.post(reverse("patching:accept", args=[row.pk]), {"version": "2"}).status_code == 302
    row.refresh_from_db()
    assert (row.kept_version, row.is_drifted) == (2, False)


FORM = {
    "do": "save",
    "name": "al-new",
    "rules": "1",
    "sources": "0",
    "rule-0-CLASSIFICATION": ["Security"],
    "rule-0-days": "7",
    "rule-0-level": "HIGH",
    "approved": "openssl\nkernel-6.1*",
    "approved_level": "CRITICAL",
    "rejected": "docker*",
    "rejected_action": "BLOCK",
}


def test_the_editor_reads_a_form_without_a_script_adds_rules_and_tells_what_is_wrong(as_owner, away):
    region = make_region()
    page = text_of(as_owner.get(reverse("patching:create")))
    assert "Which?" in page and "?system=WINDOWS" in page
    address = f"{reverse('patching:create')}?system=AMAZON_LINUX_2023"
    page = text_of(as_owner.get(address))
    assert "Rule 1" in page and 'value="AmazonLinux2023"' in page and "asked which patches there are" in page

    page = text_of(as_owner.post(address, FORM | {"do": "add_rule"}))
    assert "Rule 2" in page and 'name="rules" value="2"' in page and "openssl" in page
    page = text_of(as_owner.post(address, FORM | {"do": "remove_rule-0"}))
    assert "Rule 1" not in page and 'name="rules" value="0"' in page
    page = text_of(as_owner.post(address, FORM | {"do": "add_source"}))
    assert "Repository 1" in page and "use these alone" in page and "is not counted here" in page

    wrong = {
        "name": "a",
        "rules": "2",
        "rule-0-days": "soon",
        "rule-1-CLASSIFICATION": ["Security"],
        "rule-1-days": "3",
        "rule-1-until": "2026-12-31",
        "approved": "ker nel",
        "rejected": "*a*\nCVE-2026-1234",
    }
    answer = as_owner.post(address, FORM | wrong)
    page = text_of(answer)
    assert answer.status_code == 400
    for words in (
        "3 to 128 letters",
        "not “soon”",
        "days and a date. Keep one of them",
        "Line 1: A name has no spaces. Did you mean ker-nel?",
        "Line 1: “*a*” has 2 wildcards",
        "Line 2: A list of rejected patches names packages",
        "It cannot be saved so",
    ):
        assert words in page, words
    assert not Write.objects.exists() and region.pk


@pytest.mark.parametrize(
    "junk",
    [
        {"rules": "99999999", "sources": "-1"},
        {"rules": "x", "rule-0-days": "\x00"},
        {"rules": "11", "rule-10-level": "HUGE"},
        {"approved": "\x00" * 50 + "a" * 30000},
        {"rule-0-PRODUCT": ["x" * 3000] * 300},
        {"do": "remove_rule-77"},
        {"do": "remove_source-"},
        {"rule-0-WHAT_IS_IT-typed": "1"},
    ],
)
def test_no_form_breaks_the_editor(as_owner, away, junk):
    make_region()
    address = f"{reverse('patching:create')}?system=AMAZON_LINUX_2023"
    for post in (lambda: as_owner.post(address, FORM | {"do": "preview"} | junk), lambda: as_owner.post(address, junk)):
        assert post().status_code in {200, 400}


def test_the_preview_counts_real_patches_on_real_nodes(as_owner, away):
    region = make_region()
    row = make_baseline(
        "al-standard", region=region, operating_system="AMAZON_LINUX_2023", content=STANDARD.to_aws(), is_default=True
    )
    facts = {"platform_type": "Linux", "platform_name": "Amazon Linux", "platform_version": "2023"}
    nodes = [make_instance(region=region, name=f"al-{n}", **facts) for n in range(3)]
    patches = [
        Patch("openssl", "3.0", "2", product="AmazonLinux2023", classification="Bugfix", severity="Low"),
        Patch("bash", "5", "1", product="AmazonLinux2023", classification="Security", severity="Critical"),
    ]
    held = {"openssl": "INSTALLED_OTHER", "openssl|3.0-1": "INSTALLED_OTHER"}
    KnownPatches.objects.create(
        region=region,
        operating_system="AMAZON_LINUX_2023",
        patches=[each.to_json() for each in patches],
        nodes={str(nodes[0].pk): held, str(nodes[1].pk): held | {"bash": "MISSING", "bash|5-1": "MISSING"}},
        read_at=now(),
    )
    changed = FORM | {"name": row.name, "approved": "", "rejected": "bash", "rule-0-CLASSIFICATION": ["Bugfix"]}
    page = text_of(as_owner.post(reverse("patching:preview", args=[row.pk]), changed | {"based_on": "1"}))
    assert "+1" in page and "−1" in page and "of 2 known (now: 1)" in page
    assert "3 use this baseline; 2 of them were asked" in page
    assert "al-0</a>" in page and "al-1</a>" not in page  # which misses something already
    assert "openssl 3.0-2" in page and "the rejected list" in page and "version 1 → draft" in page
    assert "nobody knows the release date" in page
    with CaptureQueriesContext(connection) as cost:
        page = text_of(as_owner.get(reverse("patching:edit", args=[row.pk])))
    assert len(cost) <= 40 and "Nothing is changed yet" in page
    assert as_owner.post(reverse("patching:preview_new"), {"system": "BEOS"}).status_code == 409
    page = text_of(as_owner.post(reverse("patching:preview_new"), changed | {"system": "AMAZON_LINUX_2023"}))
    assert "What it would approve" in page and "2 that run it were asked" in page


@pytest.mark.parametrize(("until", "words"), [("31.12.2026", "“31.12.2026” is no date"), ("9999-12-31", "of 1 known")])
@pytest.mark.parametrize("button", ["preview", "add_rule"])
def test_a_date_that_is_none_is_told_in_words_and_nothing_is_counted_with_it(as_owner, away, until, words, button):
    region = make_region()
    known_one = Patch("openssl", "3.0", "2", classification="Security", released_at=now())
    KnownPatches.objects.create(
        region=region, operating_system="AMAZON_LINUX_2023", patches=[known_one.to_json()], read_at=now()
    )
    form = FORM | {"rule-0-days": "", "rule-0-until": until, "do": button}
    answer = as_owner.post(f"{reverse('patching:create')}?system=AMAZON_LINUX_2023", form)
    assert answer.status_code in {200, 400} and words in text_of(answer)
    answer = as_owner.post(reverse("patching:preview_new"), form | {"system": "AMAZON_LINUX_2023"})
    page = text_of(answer)
    assert answer.status_code == 200 and words in page and ("of 1 known" in page) == (until == "9999-12-31")


@pytest.mark.parametrize("junk", ["-" * 36, "0" * 36, "pb-1", ""])
def test_an_id_that_is_none_names_nothing(as_owner, away, junk):
    ubuntu_node(make_region())
    answer = as_owner.post(reverse("patching:register"), {"baseline": junk, "name": "web"})
    assert answer.status_code == 404
    page = as_owner.get(reverse("patching:create"), {"copy": junk})
    assert page.status_code == 200 and "Which?" in text_of(page)
    answer = as_owner.post(reverse("patching:freeze"), {"name": "n", "nodes": [junk]})
    assert answer.status_code == 400 and "at least one node" in text_of(answer)


def test_values_that_aws_lists_are_kept_with_their_age_and_stay_when_aws_is_away(roles, away, monkeypatch):
    from datetime import timedelta

    from fleetops.aws.errors import Unavailable

    region = make_region()
    asked = []
    monkeypatch.setattr(
        "patching.known.aws.property_values", lambda *args, key, **facts: asked.append(key) or ["Ubuntu24.04"]
    )
    first = known.legal_values(region, "UBUNTU", session_name="x", now=now())
    assert sorted(asked) == ["PRIORITY", "PRODUCT"] and first.values["PRODUCT"] == ["Ubuntu24.04"]
    known.legal_values(region, "UBUNTU", session_name="x", now=now())
    assert len(asked) == 2 and LegalValues.objects.count() == 2

    def refuses(*args, **facts):
        raise Unavailable("Throttling", "", text="AWS is away")

    monkeypatch.setattr("patching.known.aws.property_values", refuses)
    later = known.legal_values(region, "UBUNTU", session_name="x", now=now() + timedelta(days=2))
    assert later.values == first.values and later.problem == "AWS is away" and later.read_at == first.read_at


# --- with the real endpoint ------------------------------------------------------------------------------------------


def test_a_baseline_is_made_changed_copied_and_deleted_on_its_pages(as_owner, accounts, region, ssm):
    address = f"{reverse('patching:create')}?system=AMAZON_LINUX_2023"
    form = FORM | {"places": [region.pk], "rule-0-PRODUCT": ["AmazonLinux2023"], "tags": "team=core"}
    answer = as_owner.post(address, form, follow=True)
    row = PatchBaseline.objects.get(name="al-new")
    assert "Made the baseline al-new" in text_of(answer) and row.said.rejected_action == "BLOCK"
    assert row.said.rules[0].values("PRODUCT") == ("AmazonLinux2023",) and row.baseline_id.startswith("pb-")
    again = as_owner.post(address, form)
    assert again.status_code == 400 and "There is a baseline al-new already" in text_of(again)

    edit = reverse("patching:edit", args=[row.pk])
    page = text_of(as_owner.get(edit))
    assert "Save version 2" in page and "kernel-6.1*" in page
    ssm.update_patch_baseline(BaselineId=row.baseline_id, RejectedPatches=["snapd"])
    answer = as_owner.post(edit, form | {"based_on": "1", "rejected": ""})
    page = text_of(answer)
    assert answer.status_code == 400 and "was changed outside FleetOps" in page and "snapd" in page
    assert 'name="based_on" value="2"' in page  # what differs is shown; saved again it is meant
    answer = as_owner.post(edit, form | {"based_on": "2", "rejected": ""}, follow=True)
    assert "al-new has version 3 now" in text_of(answer)

    copy = reverse("patching:copy", args=[row.pk])
    assert "it is made" in text_of(as_owner.get(copy))
    assert as_owner.post(copy, {}).status_code == 400
    places = [each.pk for account in accounts for each in account.regions.all() if each.pk != region.pk]
    answer = as_owner.post(copy, {"places": places}, follow=True)
    assert "0 of 2 places written" in text_of(answer) and "Being written" in text_of(answer)
    assert as_owner.get(reverse("patching:writes", args=[row.pk])).status_code == 404

    assert as_owner.post(reverse("patching:make_default", args=[row.pk])).status_code == 302
    refused = as_owner.post(reverse("patching:delete", args=[row.pk]), {"name": "al-new"})
    assert refused.status_code == 409 and "is the default" in text_of(refused)
    aws = PatchBaseline.objects.create(
        account=region.account,
        region=region,
        name="AWS-x",
        owner="AWS",
        operating_system="AMAZON_LINUX_2023",
        baseline_id=next(
            each["BaselineId"]
            for each in ssm.describe_patch_baselines(MaxResults=100)["BaselineIdentities"]
            if each["OperatingSystem"] == "AMAZON_LINUX_2023" and each["BaselineId"].startswith("arn")
        ),
    )
    as_owner.post(reverse("patching:make_default", args=[aws.pk]))
    assert as_owner.get(reverse("patching:edit", args=[aws.pk])).status_code == 409
    assert as_owner.post(reverse("patching:delete", args=[row.pk]), {"name": "other"}).status_code == 400
    assert as_owner.post(reverse("patching:delete", args=[row.pk]), {"name": "al-new"}).status_code == 302
    assert "AWS lists it no more" in text_of(as_owner.get(row.get_absolute_url()))
    begun = text_of(as_owner.get(reverse("patching:create"), {"copy": aws.pk}))
    assert "A baseline for Amazon Linux 2023" in begun


def test_what_a_rule_can_name_and_which_patches_there_are_come_from_aws(as_owner, accounts, region):
    address = f"{reverse('patching:create')}?system=WINDOWS&place={region.pk}"
    page = text_of(as_owner.get(address))
    assert 'value="SecurityUpdates"' in page and 'value="WindowsServer2022"' in page and 'value="APPLICATION"' in page
    make_instance(
        region=region,
        platform_type="Windows",
        platform_name="Microsoft Windows Server 2022 Datacenter",
        platform_version="10.0",
    )
    row, _ = known.ask(region, "WINDOWS", now=now())
    known.read(row.pk, now=now())
    row.refresh_from_db()
    assert row.error == "" and any(each["name"].startswith("KB") for each in row.patches)
    assert {each.patch_set for each in known.patches_of(row)} == {"OS", "APPLICATION"}
    page = text_of(as_owner.get(address))
    assert "of" in page and "KB50" in page and services.MOST_PLACES and UBUNTU
