"""Who is in which patch group, and which baseline a node has; nodes of two accounts are held apart."""

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleetops.clock import now
from patching import groups
from patching.models import PatchGroup
from tests.factories import make_account, make_baseline, make_instance, make_region, make_user

pytestmark = pytest.mark.django_db
BACKEND = "django.contrib.auth.backends.ModelBackend"
AL = {"platform_name": "Amazon Linux", "platform_version": "2023"}


def text_of(answer) -> str:
    return re.sub(r"\s+", " ", answer.content.decode())


def registered(baseline, name):
    PatchGroup.objects.create(
        account=baseline.account,
        region=baseline.region,
        name=name,
        operating_system=baseline.operating_system,
        baseline=baseline,
        read_at=now(),
    )


@pytest.fixture
def fleet(roles):
    """Two places that have groups of one name, with other baselines."""
    here, there = make_region(), make_region(account=make_account("444455556666", name="lab"))
    made = {}
    for place, region in (("here", here), ("there", there)):
        made[place, "default"] = make_baseline(f"{place}-default", region=region, is_default=True)
        made[place, "web"] = make_baseline(f"{place}-web", region=region)
        registered(made[place, "web"], "web")
        make_baseline(f"{place}-al", region=region, operating_system="AMAZON_LINUX_2023", is_default=True)
        for name, tags, facts in (
            ("tagged", {"Patch Group": "web"}, {}),
            ("other-key", {"PatchGroup": "web"}, {}),
            ("both", {"Patch Group": "db", "PatchGroup": "web"}, {}),
            ("misspelt", {"patch group": "web"}, {}),
            ("none", {}, {}),
            ("amazon", {"Patch Group": "web"}, AL),
            ("unknown", {"Patch Group": "web"}, {"platform_name": "Arch Linux"}),
        ):
            node = make_instance(region=region, name=f"{place}-{name}", tags=tags, **facts)
            made[place, name] = node
        make_instance(region=region, name=f"{place}-gone", tags={"Patch Group": "web"}, gone_at=now())
    return here, there, made


def test_a_nodes_baseline_is_its_groups_or_else_the_default_of_its_system(fleet):
    _, _, made = fleet
    nodes = [node for (_, name), node in made.items() if name not in {"default", "web"}]
    with CaptureQueriesContext(connection) as cost:
        found = groups.baselines_of(nodes)
    assert len(cost) == 2
    for place in ("here", "there"):
        told = {name: str(found[made[place, name]]) for name in ("tagged", "other-key", "both", "misspelt", "none")}
        web, default = f"{place}-web", f"{place}-default"
        assert told == {"tagged": web, "other-key": web, "both": default, "misspelt": default, "none": default}
        assert str(found[made[place, "amazon"]]) == f"{place}-al" and found[made[place, "unknown"]] is None


def test_the_nodes_of_a_baseline_are_the_same_asked_the_other_way_round(fleet):
    here, _, made = fleet
    nodes = [node for node in made.values() if hasattr(node, "instance_id")]
    found = groups.baselines_of(nodes)
    for baseline in {each for each in found.values() if each}:
        expected = {node.pk for node, its in found.items() if its == baseline}
        assert set(groups.nodes_of(baseline).values_list("pk", flat=True)) == expected, baseline
    counts = groups.counts_of([made["here", "web"], made["there", "default"]], make_user(role="viewer"))
    assert (counts[made["here", "web"].pk], counts[made["there", "default"].pk]) == (2, 3)
    assert here.pk


def test_the_page_of_groups_tells_each_place_by_itself_and_costs_the_same(client, fleet):
    here, there, _ = fleet
    client.force_login(make_user(role="viewer"), backend=BACKEND)
    with CaptureQueriesContext(connection) as few:
        page = text_of(client.get(reverse("patching:groups")))
    assert '10 nodes are in 4 groups, of which <b class="warn">2</b> have no baseline of their own' in page
    assert page.count(">web</a>") == 2 and "here-web" in page and "there-web" in page
    assert 'href="#without">4 nodes</a>' in page
    for number in range(30):
        make_instance(region=here, tags={"Patch Group": f"group-{number}"})
    with CaptureQueriesContext(connection) as many:
        client.get(reverse("patching:groups"))
    assert len(few) == len(many) <= 16
    assert "No group matches" in text_of(client.get(reverse("patching:groups"), {"q": "nothing"}))

    one = reverse("patching:group")
    page = text_of(client.get(one, {"region": here.pk, "name": "web"}))
    assert {name for name in re.findall(r">((?:here|there)-[a-z-]+)</a>", page) if "web" not in name} == {
        "here-tagged",
        "here-other-key",
        "here-amazon",
        "here-unknown",
        "here-al",
    }
    assert "Patch Manager does not know this system" in page and "Register" not in page
    assert "there-none" in text_of(client.get(one, {"region": there.pk}))
    assert client.get(one, {"region": "99999"}).status_code == 404
    empty = text_of(client.get(one, {"region": here.pk, "name": "nobody"}))
    assert "No node is in this group" in empty
    client.force_login(make_user(role=""), backend=BACKEND)
    assert client.get(reverse("patching:groups")).status_code == 403
    client.force_login(make_user(role="patch_owner"), backend=BACKEND)
    assert "Register" in text_of(client.get(one, {"region": here.pk, "name": "web"}))
